// Forward: every reduction over the vocabulary in one pass over the logits, which never leave registers.
// A block takes TILE_M tokens and one part of the vocabulary; each thread keeps running statistics of its rows over its columns, relative to
// a running reference (the largest exponent so far), and the block writes one partial a row. No atomics: the merge adds them in a fixed order.
// The target's column is left out of all sums (so that 1 - p_y never becomes a difference); its raw logit is written instead.

// What must not join the sums, columns behind the vocabulary and targets, is left out in one of two ways: where the softmax is of the raw logits and
// nothing else is kept (MASK_LOGITS), the rare tile that has such columns gets logits of -inf; else every column is asked, after the transform.
DEVICE void take_targets(float (&acc)[ACC_ROWS][ACC_COLS], int tile, const int* tokens, const int* targets, float* target_logit) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        int y = targets[acc_row(r)];
        float found = 0.0f;
        bool here = false;
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            int col = tile * TILE_N + acc_col(c);
            here |= col == y;
            found = col == y ? acc[r][c] : found;
            if (MASK_LOGITS) acc[r][c] = col == y || col >= VOCAB ? NEG_INF : acc[r][c];
        }
        if (here) target_logit[tokens[acc_row(r)]] = found;
    }
}

// The statistics of one tile's columns join those of the thread's rows.
DEVICE void accumulate(float (&acc)[ACC_ROWS][ACC_COLS], float (&stats)[ACC_ROWS][STATS], int tile, const int* tokens, const int* targets,
        const Values& values, const Uniform& uniform) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        RowIn row = row_in(values, tokens[acc_row(r)]);
        int y = MASK_LOGITS ? -1 : targets[acc_row(r)];
        auto live = [&](int c) { int col = tile * TILE_N + acc_col(c); return MASK_LOGITS || (col < VOCAB && col != y); };
        auto col_at = [&](int c) { return col_in(values, min(tile * TILE_N + acc_col(c), VOCAB - 1)); };
#ifdef HAS_SOFTMAX
        float z[ACC_COLS], largest = NEG_INF;
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            z[c] = logit_of(acc[r][c], row, col_at(c), uniform);
            largest = fmaxf(largest, live(c) ? z[c] : NEG_INF);
        }
        float reference = fmaxf(stats[r][0], largest * LOG2E);
        if (reference > stats[r][0]) { stats_rescale(stats[r], rescale(stats[r][0], reference)); stats[r][0] = reference; }
        float base = reference == NEG_INF ? 0.0f : reference;
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            float e = exp2_approx(fmaf(z[c], LOG2E, -base));
            stats_add(stats[r], acc[r][c], z[c], live(c) ? e : 0.0f, live(c), tile * TILE_N + acc_col(c), row, col_at(c), uniform);
        }
#else
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++)
            stats_add(stats[r], acc[r][c], 0.0f, 0.0f, live(c), tile * TILE_N + acc_col(c), row, col_at(c), uniform);
#endif
    }
}

// E [tokens, HIDDEN], C [VOCAB, HIDDEN]; partials [SPLITS][STATS][tokens]. order, count: the tokens that count, if PACKED.
extern "C" __global__ void __launch_bounds__(THREADS, 1) logits_forward(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        float* __restrict__ target_logit, float* __restrict__ partials, int tokens, int splits, int group) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), splits, group);
    int row0 = place.row_block * TILE_M, split = place.column;
    if (row0 >= rows) return;

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = at < rows ? (PACKED ? order[at] : at) : -1;
        token_of[i] = max(token, 0);
#ifdef HAS_TARGET
        Index y = token >= 0 ? targets[token] : (Index)-1;
        target_of[i] = y >= 0 && y < VOCAB ? (int)y : -1;
#else
        target_of[i] = -1;
#endif
    }
    __syncthreads();

    int tiles = ceil_div(VOCAB, TILE_N), first = (int)((i64)tiles * split / splits), last = (int)((i64)tiles * (split + 1) / splits);
    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b; b.init(classifier, first * TILE_N, VOCAB, HIDDEN, 0);
    const Uniform uniform = uniform_of(values);
    float stats[ACC_ROWS][STATS];
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) stats_init(stats[r]);

    walk(shared, a, b, first, last, HIDDEN, [&](float (&acc)[ACC_ROWS][ACC_COLS], int tile) {
        bool rare = MASK_LOGITS && (tile + 1) * TILE_N > VOCAB;
#ifdef HAS_TARGET
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) rare |= (u32)(target_of[acc_row(r)] - tile * TILE_N) < (u32)TILE_N;
#endif
        if (rare) take_targets(acc, tile, token_of, target_of, target_logit);
        accumulate(acc, stats, tile, token_of, target_of, values, uniform);
    });

    // The threads that share a row merge theirs: neighbouring lanes first, then warps through shared memory.
    float* exchange = (float*)shared;                         // [ROW_WARPS][STATS][TILE_M]
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        #pragma unroll
        for (int mask = 1; mask < ROW_LANES; mask *= 2) {
            float other[STATS];
            #pragma unroll
            for (int k = 0; k < STATS; k++) other[k] = __shfl_xor_sync(0xffffffff, stats[r][k], mask);
            stats_merge(stats[r], other);
        }
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
        for (int k = 0; k < STATS; k++) partials[(u64)(split * STATS + k) * tokens + token_of[i]] = sum[k];
    }
}
