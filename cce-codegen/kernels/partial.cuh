// The statistics of a row's segment, [parts][STATS][pitch]: from the four neighbouring lanes that share the row. The segment that is alone in a tail leaves
// the other part empty.
DEVICE void write_partial(float* partials, float (&stats)[STATS], int part, bool last_part, int pitch, int row) {
    merge_lanes<4>(stats);
    if ((lane_id() & 3) != 0) return;
    float* to = partials + (u64)part * STATS * pitch + row;
    float nothing[STATS];
    stats_init(nothing);
    #pragma unroll
    for (int k = 0; k < STATS; k++) {
        to[(u64)k * pitch] = stats[k];
        if (last_part) to[(u64)(STATS + k) * pitch] = nothing[k];
    }
}
