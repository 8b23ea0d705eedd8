// What a warp samples of a finished tile: 16 rows and all columns, through shared memory, for threads have sums of other rows. Warps behind the tile's last
// row have nothing to do.

#define PIECES 1
static_assert(BANDS == 1 && SAMPLED_N == TILE_N, "all columns");
static_assert(THREADS / 32 * 16 >= TILE_M, "a warp for each 16 rows");

DEVICE bool has_pieces() { return warp_id() * 16 < TILE_M; }
DEVICE int piece_row(int) { return warp_id() * 16; }
DEVICE int band() { return 0; }

// visit(sums, piece), of all threads of the block.
#define SUM_PITCH (TILE_N + 8)                                // floats a row: the pairs of a warp fall into different banks
template <class Visit> DEVICE void each_piece(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Visit visit) {
    float* sums = (float*)shared;                             // the ring has been read to its end
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++)
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c += 4) *(float4*)&sums[acc_row(r) * SUM_PITCH + acc_col(c)] = make_float4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]);
    __syncthreads();
    float x[LANE_ROWS][LANE_COLS];
    if (has_pieces()) {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            #pragma unroll
            for (int c = 0; c < LANE_COLS; c += 2) {
                float2 pair = *(const float2*)&sums[(piece_row(0) + lane_row(r)) * SUM_PITCH + lane_col(c)];
                x[r][c] = pair.x; x[r][c + 1] = pair.y;
            }
    }
    __syncthreads();                                          // the ring may be refilled
    if (has_pieces()) visit(x, 0);
}
