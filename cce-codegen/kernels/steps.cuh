// The steps of a product along its depth, of which some may be skipped, where tiles of the logits' gradient G are. What is skipped is decided for granules of
// GRANULE_M rows and GRANULE_N columns of logits, into which the tiles of all kernels and the steps of both products divide: live [granules of columns]
// [granules of rows] of the whole vocabulary, 0: a granule that nobody computes, writes or reads. GRANULE_M 0: there are none, and nothing is skipped.

// Steps of TILE_K from 0 to depth, through granules GRANULE long whose bytes are `stride` apart. GRANULE 0: all of them.
template <int GRANULE> struct Steps {
    const unsigned char* live; int stride, depth, k = 0; bool alive;

    DEVICE Steps(const unsigned char* of_first, int between, int end) : live(of_first), stride(between), depth(end) { alive = is_live(0); }
    DEVICE bool is_live(int at) const { if constexpr (GRANULE > 0) return at < depth && live[(u64)(at / GRANULE) * stride]; else return true; }
    // Where the next step begins; from `depth` on: there is none.
    DEVICE int next() {
        if constexpr (GRANULE > 0) if (k % GRANULE == 0) {
            while (k < depth && !alive) { k += GRANULE; alive = is_live(k); }
            alive = is_live(k + GRANULE);                     // on its way while this granule is multiplied
        }
        int step = k;
        k += TILE_K;
        return step;
    }
    // How many there are. For all lanes of a warp.
    DEVICE int count() const {
        if constexpr (GRANULE > 0) {
            int mine = 0;
            for (int at = lane_id() * GRANULE; at < depth; at += 32 * GRANULE)
                if (is_live(at)) mine += ceil_div(min(GRANULE, depth - at), TILE_K);
            #pragma unroll
            for (int mask = 1; mask < 32; mask *= 2) mine += __shfl_xor_sync(0xffffffff, mine, mask);
            return mine;
        } else return ceil_div(depth, TILE_K);
    }
};
DEVICE Steps<0> all_steps(int depth) { return Steps<0>(0, 0, depth); }

#if GRANULE_M > 0
DEVICE const unsigned char* granule_of(const unsigned char* live, int tokens, int row, int col) {
    return live + (u64)(col / GRANULE_N) * ceil_div(tokens, GRANULE_M) + row / GRANULE_M;
}
DEVICE bool is_live(const unsigned char* live, int tokens, int row, int col) { return *granule_of(live, tokens, row, col); }
#else
DEVICE const unsigned char* granule_of(const unsigned char* live, int, int, int) { return live; }
DEVICE bool is_live(const unsigned char*, int, int, int) { return true; }
#endif
// Those of a product over the rows of logits, of columns around `col`; over columns first .. first + width, of rows around `row`.
DEVICE Steps<GRANULE_M> steps_over_rows(const unsigned char* live, int tokens, int rows, int col) {
    return Steps<GRANULE_M>(granule_of(live, tokens, 0, col), 1, rows);
}
DEVICE Steps<GRANULE_N> steps_over_columns(const unsigned char* live, int tokens, int row, int first, int width) {
    return Steps<GRANULE_N>(granule_of(live, tokens, row, first), GRANULE_M > 0 ? ceil_div(tokens, GRANULE_M > 0 ? GRANULE_M : 1) : 0, width);
}
