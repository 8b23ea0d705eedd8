// The gradient of the cold columns: dE from the entries of a row, dC from the list of a column, and the uniform part of both. Accumulated in fp32 in a fixed order, rounded once.

#define BATCH 128
// sums += weights * elements from `col` on of rows of `matrix`, in the order of the batch.
template <int STRIDE, int ALIGN> DEVICE void gather(Sums& sums, const Elem* matrix, int col, const Weighted* batch, int n) {
    int i = 0;
    for (; i + IN_FLIGHT <= n; i += IN_FLIGHT) {
        Eight x[IN_FLIGHT];
        #pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) x[k] = load8<STRIDE, ALIGN>(matrix, batch[i + k].row, col);
        #pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) sums.add(batch[i + k].weight, x[k]);
    }
    for (; i < n; i++) sums.add(batch[i].weight, load8<STRIDE, ALIGN>(matrix, batch[i].row, col));
}

// dE of a token: hot columns (`hot`, fp32, scaled), entries, a cold target, the uniform part (`uniform_sum` [HIDDEN]). A block a row.
extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) gather_hidden(const Kept* __restrict__ kept,
        const u32* __restrict__ starts, const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, const float* __restrict__ scale,
        const Elem* __restrict__ classifier, const float* __restrict__ hot, const float* __restrict__ uniform_sum, HiddenOut* __restrict__ out, int tokens) {
    __shared__ Weighted batch[BATCH];
    const int at = blockIdx.x, rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const int token = token_at(order, at, rows), y = target_in_range(targets, token);
    const u64 first = first_entry(at, starts);
    const int n = kept_counts[at] + (y >= HOT);
    const Coefs row = coefs_of(coefs, token, tokens);
    const Uniform uniform = uniform_of(values);
    const float factor = SCALED ? scale[1] : 1.0f;
    for (int c0 = 0; c0 < HIDDEN; c0 += THREADS * 8) {
        const int col = c0 + threadIdx.x * 8;
        Sums sums;
        sums.clear();
        for (int done = 0; done < n; done += BATCH) {
            __syncthreads();
            for (int i = threadIdx.x; i < BATCH && done + i < n; i += THREADS) {
                if (y >= HOT && done + i == n - 1) { batch[i] = Weighted{y, row.target0}; continue; }
                Kept entry = kept[first + done + i];
                batch[i] = Weighted{entry.column, entry_gradient(entry.probability, entry.logit(), row, col_in(values, entry.column), uniform)};
            }
            __syncthreads();
            if (col < HIDDEN) gather<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(sums, classifier, col, batch, min(BATCH, n - done));
        }
        if (col >= HIDDEN) continue;
        sums.add(factor, hot + (u64)at * HIDDEN + col, eight_of(col));
#if UNIFORM_PART
        sums.add(uniform_row(row, uniform), uniform_sum + col, eight_of(col));
#endif
        HiddenOut* to = out + (u64)token * HIDDEN + col;
        if (HIDDEN_ACCUMULATE) add8(to, sums.of, eight_of(col));
        store8(to, sums.of, eight_of(col));
    }
}

// dC of COLUMNS cold columns, zero where one has no entries. A block for all of them.
extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) gather_classifier(Weighted* __restrict__ lists, const u32* __restrict__ starts_of,
        const Elem* __restrict__ hidden, const Values values, const float* __restrict__ uniform_sum, ClassifierOut* __restrict__ out) {
    const int first = blockIdx.x * COLUMNS;
    each_ordered(lists, starts_of, first, [&](const Weighted* list, const int* ends, int from, int c0, int c1) {
        const int n = ends[c1 - 1] - from;
        for (int col = threadIdx.x * 8; col < HIDDEN; col += THREADS * 8) {
            Sums sums;
            sums.clear();
            int c = c0;
            auto finish = [&] {
                ClassifierOut* to = out + (u64)(HOT + first + c) * HIDDEN + col;
#if UNIFORM_PART
                sums.add(uniform_col(col_in(values, HOT + first + c), uniform_of(values)), uniform_sum + col, eight_of(col));
#endif
                if (CLASSIFIER_ACCUMULATE) add8(to, sums.of, eight_of(col));
                store8(to, sums.of, eight_of(col));
                sums.clear();
                c++;
            };
            // Most columns have few entries: loads are under way together whatever column they are for.
            for (int i = 0; i < n; i += IN_FLIGHT) {
                Eight x[IN_FLIGHT];
                #pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) if (i + k < n) x[k] = load8<ROW_STRIDE, ROW_ALIGN>(hidden, list[i + k].row, col);
                #pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) {
                    if (i + k >= n) break;
                    while (i + k == ends[c] - from) finish();
                    sums.add(list[i + k].weight, x[k]);
                }
            }
            while (c < c1) finish();
        }
    });
}
