// A finished tile passes through shared memory, so that global memory is read and written row by row, and the code for it stands once instead of
// once a sum. visit(row, column, two sums) gets each pair of the tile once.
#define SUM_PITCH (TILE_N + 8)                                // floats a row: the pairs of a warp fall into different banks
template <class Visit> DEVICE void each_pair(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Visit visit) {
    float* sums = (float*)shared;
    __syncthreads();                                          // the ring has been read to its end
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++)
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c += 2)
            *(float2*)&sums[acc_row(r) * SUM_PITCH + acc_col(c)] = make_float2(acc[r][c], acc[r][c + 1]);
    __syncthreads();
    #pragma unroll 2
    for (int i = threadIdx.x; i < TILE_M * TILE_N / 2; i += THREADS) {
        int row = i / (TILE_N / 2), col = i % (TILE_N / 2) * 2;
        float2 pair = *(const float2*)&sums[row * SUM_PITCH + col];
        visit(row, col, pair.x, pair.y);
    }
}
