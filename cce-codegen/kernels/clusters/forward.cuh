// Forward: every reduction over the vocabulary in one pass over the logits, which never leave registers.
// A persistent cluster takes segments of the walk: 2 x TILE_M tokens and a run of tiles each. A thread keeps running statistics of its two rows over its
// columns, relative to a running reference (the largest exponent so far), and each segment writes one partial a row. No atomics: the merge adds them in
// a fixed order.

// The first WALK_TILES tiles of columns. E [tokens that count, HIDDEN], C [VOCAB, HIDDEN]; partials [parts][STATS][row blocks * CLUSTER_M], in the order of E's rows.
// maxima: of write_maxima, where tiles of the gradient are skipped.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) logits_forward(const __grid_constant__ TensorMap hidden,
        const __grid_constant__ TensorMap classifier, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        const Values values, float* __restrict__ target_logit, float* __restrict__ partials, int tokens, int group, float* __restrict__ maxima) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int STEPS = (HIDDEN + TILE_K - 1) / TILE_K;
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const Walk walk(rows, CLUSTER_M, group, WALK_TILES, gridDim.x / CLUSTER);
    Segments segments{walk, (int)blockIdx.x / CLUSTER};
    Segment s;

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            while (segments.next(s))
                for (int tile = s.first; tile < s.last; tile++)
                    ring.produce<true, true>(hidden, s.row_block * CLUSTER_M + cluster_rank() * TILE_M, classifier, tile * TILE_N, 0, STEPS);
    } else {
        take_registers();
        const Uniform uniform = uniform_of(values);
        float acc[ACC_ROWS][ACC_COLS];
        while (segments.next(s)) {
            int row0 = s.row_block * CLUSTER_M + cluster_rank() * TILE_M;
            HeldRows tokens_of, targets_of;
            float stats[ACC_ROWS][STATS];
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                int at = row0 + acc_row(r), token = token_at(order, at, rows);
                tokens_of.of[r] = max(token, 0);
                targets_of.of[r] = target_in_range(targets, token);
                stats_init(stats[r]);
            }
            for (int tile = s.first; tile < s.last; tile++) {
                multiply<true, true>(acc, ring, STEPS);
                float most[ACC_ROWS];
                join_tile(acc, stats, most, tile, tokens_of, targets_of, values, uniform, target_logit);
#if GRANULE_M > 0
                write_maxima(most, maxima, tile, row0, rows, tokens, 0);
#endif
            }
            int pitch = walk.row_blocks * CLUSTER_M;
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                write_partial(partials, stats[r], s.part, s.last_part, pitch, row0 + acc_row(r));
            }
        }
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
