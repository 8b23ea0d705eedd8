// The statistics of a tile's logits, which a thread keeps for its rows over its columns.
// The target's column is left out of all sums (so that 1 - p_y never becomes a difference); its raw logit is written instead.

// A thread's rows, by their place among them: as registers hold them, or as shared memory does for the whole tile.
struct HeldRows { int of[ACC_ROWS]; DEVICE int operator()(int r) const { return of[r]; } };
struct SharedRows { const int* of; DEVICE int operator()(int r) const { return of[acc_row(r)]; } };

// What must not join the sums, columns behind the vocabulary and targets, is left out in one of two ways: where the softmax is of the raw logits and
// nothing else is kept (MASK_LOGITS), the rare tile that has such columns gets logits of -inf; else every column is asked, after the transform.
template <class Rows> DEVICE void take_targets(float (&acc)[ACC_ROWS][ACC_COLS], int tile, const Rows& tokens, const Rows& targets, float* target_logit) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        int y = targets(r);
        float found = 0.0f;
        bool here = false;
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            int col = tile * TILE_N + acc_col(c);
            here |= col == y;
            found = col == y ? acc[r][c] : found;
            if (MASK_LOGITS) acc[r][c] = col == y || col >= VOCAB ? NEG_INF : acc[r][c];
        }
        if (here) target_logit[tokens(r)] = found;
    }
}

// Where nothing but the sum of exponentials of raw logits is kept (MASK_LOGITS), the reference need not follow the largest: it is that of the first
// tile, until a tile's sum leaves it far behind. An element then costs a multiplication, an exponential and an addition.
#define FAR 1e30f
DEVICE float sum_of_exponentials(const float (&x)[ACC_COLS], float reference) {
    float sum[4] = {};
    #pragma unroll
    for (int c = 0; c < ACC_COLS; c++) sum[c & 3] += exp2_approx(fmaf(x[c], LOG2E, -reference));
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
DEVICE float largest_of(const float (&x)[ACC_COLS]) {
    float most[2] = {x[0], x[1]};
    #pragma unroll
    for (int c = 2; c < ACC_COLS; c++) most[c & 1] = fmaxf(most[c & 1], x[c]);
    return fmaxf(most[0], most[1]);
}
DEVICE void add_exponentials(const float (&x)[ACC_COLS], float (&stats)[STATS]) {
    float sum = sum_of_exponentials(x, stats[0]);
    if (!(sum < FAR)) {                                       // NaN, too
        float reference = stats[0];
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) reference = fmaxf(reference, x[c] * LOG2E);
        stats_rescale(stats, rescale(stats[0], reference));
        stats[0] = reference;
        sum = sum_of_exponentials(x, reference == NEG_INF ? 0.0f : reference);
    }
    stats[1] += sum;
}

// The statistics of one tile's columns join those of the thread's rows; most: its rows' largest logits of a softmax. Logits of their own, and what belongs
// to a column, need registers beside the sums: a few columns at a time, fewer where more is kept.
#define MOST_COLUMNS (STATS > 4 ? 8 : 16)
#define SLICE (ACC_COLS < MOST_COLUMNS ? ACC_COLS : MOST_COLUMNS)
template <class Rows> DEVICE void accumulate(float (&acc)[ACC_ROWS][ACC_COLS], float (&stats)[ACC_ROWS][STATS], float (&most)[ACC_ROWS], int tile,
        const Rows& tokens, const Rows& targets, const Values& values, const Uniform& uniform) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) most[r] = NEG_INF;
    #pragma unroll
    for (int first = 0; first < ACC_COLS; first += SLICE) {
        asm volatile("" ::: "memory");                        // what belongs to later columns would wait in registers
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) {
            RowIn row = row_in(values, tokens(r));
            int y = targets(r);
            auto live = [&](int at) { int col = tile * TILE_N + acc_col(at); return col < VOCAB && col != y; };
            auto col_at = [&](int at) { return col_in(values, min(tile * TILE_N + acc_col(at), VOCAB - 1)); };
#ifdef HAS_SOFTMAX
            float z[SLICE], largest = NEG_INF;
            #pragma unroll
            for (int c = 0; c < SLICE; c++) {
                z[c] = logit_of(acc[r][first + c], row, col_at(first + c), uniform);
                largest = fmaxf(largest, live(first + c) ? z[c] : NEG_INF);
            }
            most[r] = fmaxf(most[r], largest);
            float reference = fmaxf(stats[r][0], largest * LOG2E);
            if (reference > stats[r][0]) { stats_rescale(stats[r], rescale(stats[r][0], reference)); stats[r][0] = reference; }
            float base = reference == NEG_INF ? 0.0f : reference;
#endif
            #pragma unroll
            for (int c = 0; c < SLICE; c++) {
                int at = first + c;
#ifdef HAS_SOFTMAX
                float e = exp2_approx(fmaf(z[c], LOG2E, -base));
                stats_add(stats[r], acc[r][at], z[c], live(at) ? e : 0.0f, live(at), tile * TILE_N + acc_col(at), row, col_at(at), uniform);
#else
                stats_add(stats[r], acc[r][at], 0.0f, 0.0f, live(at), tile * TILE_N + acc_col(at), row, col_at(at), uniform);
#endif
            }
        }
    }
}

// Whether a tile has columns that must not join the sums.
template <class Rows> DEVICE bool is_rare(int tile, const Rows& targets) {
    bool rare = MASK_LOGITS && (tile + 1) * TILE_N > VOCAB;
#ifdef HAS_TARGET
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) rare |= (u32)(targets(r) - tile * TILE_N) < (u32)TILE_N;
#endif
    return rare;
}

// A finished tile: targets written, everything else joined; most: the largest logit of each row among what joined, which costs nothing where nobody asks.
template <class Rows> DEVICE void join_tile(float (&acc)[ACC_ROWS][ACC_COLS], float (&stats)[ACC_ROWS][STATS], float (&most)[ACC_ROWS], int tile,
        const Rows& tokens, const Rows& targets, const Values& values, const Uniform& uniform, float* target_logit) {
    if (is_rare(tile, targets)) take_targets(acc, tile, tokens, targets, target_logit);
#if MASK_LOGITS
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        add_exponentials(acc[r], stats[r]);
        most[r] = largest_of(acc[r]);
    }
#else
    accumulate(acc, stats, most, tile, tokens, targets, values, uniform);
#endif
}

// The statistics of a row, from the neighbouring lanes that share it.
template <int LANES> DEVICE void merge_lanes(float (&stats)[STATS]) {
    #pragma unroll
    for (int mask = 1; mask < LANES; mask *= 2) {
        float other[STATS];
        #pragma unroll
        for (int k = 0; k < STATS; k++) other[k] = __shfl_xor_sync(0xffffffff, stats[k], mask);
        stats_merge(stats, other);
    }
}
