// The uniform part of a cold logit's gradient, a value of its token times one of its column over VOCAB: dE takes one weighted sum of all cold rows of C, dC
// one of all rows of E. Blocks sum rows of their own; what they get is added in the order of the blocks.

// This block's part of the sum of weight(i) * row of(i) of `matrix`, of `rows`: partials [blocks][HIDDEN].
template <int STRIDE, int ALIGN, class Of, class Weight> DEVICE void sum_part(const Elem* matrix, int rows, float* partials, Of of, Weight weight) {
    const int each = ceil_div(rows, gridDim.x), first = blockIdx.x * each, last = min(rows, first + each);
    for (int col = threadIdx.x * 8; col < HIDDEN; col += THREADS * 8) {
        Sums sums;
        sums.clear();
        #pragma unroll (IN_FLIGHT / 2)
        for (int i = first; i < last; i++) sums.add(weight(i), load8<STRIDE, ALIGN>(matrix, of(i), col));
        store8(partials + (u64)blockIdx.x * HIDDEN + col, sums.of, eight_of(col));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) sum_classifier(const Elem* __restrict__ classifier, const Values values, float* __restrict__ partials) {
    const Uniform uniform = uniform_of(values);
    sum_part<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(classifier, COLD, partials, [&](int i) { return HOT + i; },
        [&](int i) { return uniform_col(col_in(values, HOT + i), uniform); });
}

extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) sum_hidden(const Elem* __restrict__ hidden, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, float* __restrict__ partials, int tokens) {
    const int rows = PACKED ? *count : tokens;
    const Uniform uniform = uniform_of(values);
    sum_part<ROW_STRIDE, ROW_ALIGN>(hidden, rows, partials, [&](int at) { return hidden_row(at, token_at(order, at, rows)); },
        [&](int at) { return uniform_row(coefs_of(coefs, token_at(order, at, rows), tokens), uniform); });
}

// sum [HIDDEN], over VOCAB.
extern "C" __global__ void __launch_bounds__(256) add_parts(const float* __restrict__ partials, float* __restrict__ sum, int blocks) {
    const int col = blockIdx.x * 256 + threadIdx.x;
    if (col >= HIDDEN) return;
    float all = 0.0f;
    for (int b = 0; b < blocks; b++) all += partials[(u64)b * HIDDEN + col];
    sum[col] = all / VOCAB;
}
