// A finished tile passes through shared memory 64 columns at a time, so that global memory is read and written row by row. Beside the ring, for the next
// tile's copies are under way; a consumer warpgroup has its own part and waits for itself alone.

DEVICE unsigned char* staging(unsigned char* shared) {
    return ring_of(shared) + RING_BYTES + BARRIER_BYTES + consumer() * STAGING_BYTES;
}

// visit(row of the tile, column, two sums) gets each pair of the tile once. Rows are permuted in units of 8 floats against bank conflicts.
template <class Visit> DEVICE void each_pair(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Visit visit) {
    float* sums = (float*)staging(shared);
    #pragma unroll
    for (int block = 0; block < TILE_N / 64; block++) {
        consumer_sync();                                      // the block before has been read
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++)
            #pragma unroll
            for (int c = 0; c < 16; c += 2) {
                int row = acc_row(r) & 63;
                *(float2*)&sums[row * 64 + (acc_col(c) ^ (row & 7) << 3)] = make_float2(acc[r][block * 16 + c], acc[r][block * 16 + c + 1]);
            }
        consumer_sync();
        #pragma unroll 2
        for (int i = threadIdx.x & 127; i < 64 * 32; i += 128) {
            int row = i / 32, col = i % 32 * 2;
            float2 pair = *(const float2*)&sums[row * 64 + (col ^ (row & 7) << 3)];
            visit(consumer() * 64 + row, block * 64 + col, pair.x, pair.y);
        }
    }
}
