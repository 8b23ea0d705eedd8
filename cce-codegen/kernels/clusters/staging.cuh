// A finished tile passes through shared memory 64 columns at a time, so that global memory is read and written row by row. Beside the ring, for the next
// tile's copies are under way; a consumer warpgroup has its own part and waits for itself alone.

DEVICE unsigned char* staging(unsigned char* shared) {
    return ring_of(shared) + RING_BYTES + BARRIER_BYTES + consumer() * STAGING_BYTES;
}

// visit(row of the tile, column, two sums, what was there) gets each pair of the tile once; held(row, column) is what memory has there, which is read for
// BATCH pairs before the first of them is written, or each would wait for memory by itself. A warp's rows go through its own part of shared memory, permuted
// in units of 8 floats against bank conflicts.
template <int BATCH, class Held, class Visit> DEVICE void each_pair(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Held held, Visit visit) {
    float* sums = (float*)staging(shared) + (warp_id() & 3) * 16 * 64;
    const int row0 = acc_row(0) - (lane_id() >> 2), pair_col = lane_id() * 2;
    #pragma unroll
    for (int block = 0; block < TILE_N / 64; block++) {
        __syncwarp();                                         // the block before has been read
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++)
            #pragma unroll
            for (int c = 0; c < 16; c += 2) {
                int row = acc_row(r) & 15;
                *(float2*)&sums[row * 64 + (acc_col(c) ^ (row & 7) << 3)] = make_float2(acc[r][block * 16 + c], acc[r][block * 16 + c + 1]);
            }
        __syncwarp();
        #pragma unroll 1
        for (int first = 0; first < 16; first += BATCH) {
            float2 before[BATCH];
            #pragma unroll
            for (int i = 0; i < BATCH; i++) before[i] = held(row0 + first + i, block * 64 + pair_col);
            #pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int row = first + i;
                float2 pair = *(const float2*)&sums[row * 64 + (pair_col ^ (row & 7) << 3)];
                visit(row0 + row, block * 64 + pair_col, pair.x, pair.y, before[i]);
            }
        }
    }
}
