// What a warp samples of a finished tile: its sums lie as the sampler wants them, a fragment of 16 rows after the other. The warps beside each other have
// different columns of the same rows, a band each.

#define PIECES FRAGMENTS_M
static_assert(BANDS == WARPS_N && SAMPLED_N == WARP_N, "a warp's columns");

DEVICE bool has_pieces() { return true; }
DEVICE int piece_row(int piece) { return col_warp() * WARP_M + piece * 16; }
DEVICE int band() { return row_warp(); }

// visit(sums, piece) for each; the rows move up, so that the code for all of them stands once. Nothing is left of `acc`.
template <class Visit> DEVICE void each_piece(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char*, Visit visit) {
    #pragma unroll 1
    for (int piece = 0; piece < PIECES; piece++) {
        float x[LANE_ROWS][LANE_COLS];
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            x[0][c] = acc[0][c]; x[1][c] = acc[1][c];
            #pragma unroll
            for (int r = 2; r < ACC_ROWS; r++) acc[r - 2][c] = acc[r][c];
        }
        visit(x, piece);
    }
}
