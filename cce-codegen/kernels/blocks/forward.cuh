// Forward: every reduction over the vocabulary in one pass over the logits, which never leave registers.
// A block takes TILE_M tokens and one part of the vocabulary; each thread keeps running statistics of its rows over its columns, relative to
// a running reference (the largest exponent so far), and the block writes one partial a row. No atomics: the merge adds them in a fixed order.

// E [tokens, HIDDEN], C [VOCAB, HIDDEN]; partials [splits][STATS][row blocks * TILE_M], in the order of the rows. order, count: the tokens that count, if PACKED.
// maxima: of write_maxima, where tiles of the gradient are skipped.
extern "C" __global__ void __launch_bounds__(THREADS, 1) logits_forward(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        float* __restrict__ target_logit, float* __restrict__ partials, int tokens, int splits, int group, float* __restrict__ maxima) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), splits, group);
    int row0 = place.row_block * TILE_M, split = place.column;
    if (row0 >= rows) return;

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = max(token, 0);
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    const Walk tiles(rows, TILE_M, group, WALK_TILES, splits);
    const int first = tiles.begin_of(split), last = tiles.begin_of(split + 1), pitch = tiles.row_blocks * TILE_M;
    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b; b.init(classifier, first * TILE_N, VOCAB, HIDDEN, 0);
    const Uniform uniform = uniform_of(values);
    float stats[ACC_ROWS][STATS];
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) stats_init(stats[r]);

    walk<false>(shared, a, b, first, last, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int tile) {
        float most[ACC_ROWS];
        join_tile(acc, stats, most, tile, SharedRows{token_of}, SharedRows{target_of}, values, uniform, target_logit);
#if GRANULE_M > 0
        write_maxima(most, maxima, tile, row0, rows, tokens, (float*)(target_of + TILE_M));
#endif
    });

    // The threads that share a row merge theirs: neighbouring lanes first, then warps through shared memory.
    float* exchange = (float*)shared;                         // [ROW_WARPS][STATS][TILE_M]
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        merge_lanes<ROW_LANES>(stats[r]);
        if ((lane_id() & (ROW_LANES - 1)) == 0)
            #pragma unroll
            for (int k = 0; k < STATS; k++) exchange[(row_warp() * STATS + k) * TILE_M + acc_row(r)] = stats[r][k];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_M && row0 + i < rows; i += THREADS) {
        float sum[STATS], other[STATS];
        #pragma unroll
        for (int k = 0; k < STATS; k++) sum[k] = exchange[k * TILE_M + i];
        for (int w = 1; w < ROW_WARPS; w++) {
            #pragma unroll
            for (int k = 0; k < STATS; k++) other[k] = exchange[(w * STATS + k) * TILE_M + i];
            stats_merge(sum, other);
        }
        #pragma unroll
        for (int k = 0; k < STATS; k++) partials[(u64)(split * STATS + k) * pitch + row0 + i] = sum[k];
    }
}
