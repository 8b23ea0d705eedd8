// The largest logit of each row in a tile, of columns that are not its target: maxima [tiles of the vocabulary][tokens], in the order of the rows. From
// the lanes that share a row, then, where warps do, through `exchange` [ROW_WARPS][TILE_M].
DEVICE void write_maxima(float (&largest)[ACC_ROWS], float* maxima, int tile, int row0, int rows, int tokens, [[maybe_unused]] float* exchange) {
    float* to = maxima + (u64)tile * tokens + row0;
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        #pragma unroll
        for (int mask = 1; mask < ROW_LANES; mask *= 2) largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffff, largest[r], mask));
        if ((lane_id() & (ROW_LANES - 1)) != 0) continue;
#if ROW_WARPS > 1
        exchange[row_warp() * TILE_M + acc_row(r)] = largest[r];
#else
        if (row0 + acc_row(r) < rows) to[acc_row(r)] = largest[r];
#endif
    }
#if ROW_WARPS > 1
    __syncthreads();                                          // before the next tile's, all threads meet again while it is multiplied
    for (int i = threadIdx.x; i < TILE_M && row0 + i < rows; i += THREADS) {
        float most = exchange[i];
        #pragma unroll
        for (int w = 1; w < ROW_WARPS; w++) most = fmaxf(most, exchange[w * TILE_M + i]);
        to[i] = most;
    }
#endif
}
