// After the hot columns: what is known of every row's normaliser. The target joins with a product of its own, so that a sure target in a cold column
// does not leave the walk's steps too small.
// hidden [rows, ROW_STRIDE]; hot: partials of the hot columns [parts][STATS][pitch]; partials: those of the whole, of which the
// first part is written. reference [rows]: log2 of the known normaliser. A warp a row.
extern "C" __global__ void __launch_bounds__(256, 4) bounds(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        const float* __restrict__ hot, float* __restrict__ partials, float* __restrict__ reference, int tokens, int clusters_or_parts, int group) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    int token = token_at(order, at, rows), y = target_in_range(targets, token);
    float dot = 0.0f;
    if (y >= 0) {
        #pragma unroll (IN_FLIGHT / 2)
        for (int col = lane_id() * 8; col < HIDDEN; col += 32 * 8) {
            float x[8], w[8];
            load8<ROW_STRIDE, ROW_ALIGN>(hidden, hidden_row(at, token), col).widened(x);
            load8<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(classifier, y, col).widened(w);
            #pragma unroll
            for (int i = 0; i < 8; i++) dot += x[i] * w[i];
        }
    }
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) dot += __shfl_xor_sync(0xffffffff, dot, mask);

    const Walk walk(rows, WALK_BLOCK, group, HOT_TILES, clusters_or_parts);
    int parts = walk.parts_of(at / WALK_BLOCK), pitch = walk.row_blocks * WALK_BLOCK;
    float stats[STATS], other[STATS];
    for (int k = 0; k < STATS; k++) stats[k] = hot[(u64)k * pitch + at];
    for (int s = 1; s < parts; s++) {
        for (int k = 0; k < STATS; k++) other[k] = hot[(u64)(s * STATS + k) * pitch + at];
        stats_merge(stats, other);
    }
    if (lane_id() != 0) return;
    for (int k = 0; k < STATS; k++) partials[(u64)k * pitch + at] = stats[k];
    const Uniform uniform = uniform_of(values);
    float own = y >= 0 ? logit_of(dot, row_in(values, token), col_in(values, y), uniform) * LOG2E : NEG_INF;
    float top = fmaxf(stats[0], own), sum = stats[1] * exp2f(stats[0] - top) + (y >= 0 ? exp2f(own - top) : 0.0f), log = top + log2f(sum);
    // Nothing known, or no number: the first tile of the walk leaves this far behind and moves the reference.
    reference[at] = log > -1e30f && log < POS_INF ? log : -1e30f;
}
