// The gradient of a Col input at the cold columns: the sum of each column's list and the uniform part, in fp32 in a fixed order.

#if UNIFORM_COLS
// sums [COL_GRADIENTS]: of the tokens' factors, over VOCAB. One block.
extern "C" __global__ void __launch_bounds__(1024) sum_uniform_rows(const int* __restrict__ order, const int* __restrict__ count, const Values values,
        const float* __restrict__ coefs, float* __restrict__ sums, int tokens) {
    const int rows = PACKED ? *count : tokens;
    const Uniform uniform = uniform_of(values);
    for (int k = 0; k < COL_GRADIENTS; k++) {
        double sum = total(rows, [&](int at) {
            float parts[COL_GRADIENTS];
            uniform_row_of_cols(parts, coefs_of(coefs, token_at(order, at, rows), tokens), uniform);
            return (double)parts[k];
        });
        if (threadIdx.x == 0) sums[k] = (float)(sum / VOCAB);
    }
}
#endif

// out [VOCAB], of which the cold columns are written: of Col input `which`, whose lists these are. A block for COLUMNS columns, a warp a column.
extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) gather_columns(Weighted* __restrict__ lists, const u32* __restrict__ starts_of,
        const Values values, const float* __restrict__ uniform_sums, float* __restrict__ out, int which) {
    const int first = blockIdx.x * COLUMNS;
    each_ordered(lists, starts_of, first, [&](const Weighted* list, const int* ends, int from, int c0, int c1) {
        for (int c = c0 + warp_id(); c < c1; c += THREADS / 32) {
            float sum = 0.0f;
            for (int i = (c ? ends[c - 1] : 0) - from + lane_id(); i < ends[c] - from; i += 32) sum += list[i].weight;
            #pragma unroll
            for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
#if UNIFORM_COLS
            float parts[COL_GRADIENTS];
            uniform_col_of_cols(parts, col_in(values, HOT + first + c), uniform_of(values));
            #pragma unroll
            for (int k = 0; k < COL_GRADIENTS; k++) if (k == which) sum += uniform_sums[k] * parts[k];
#endif
            if (lane_id() == 0) out[HOT + first + c] = sum;
        }
    });
}
