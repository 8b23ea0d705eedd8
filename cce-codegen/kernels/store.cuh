// Two neighbouring columns of a row of HIDDEN elements of a gradient: read and added to, or written, each rounded once. The column is even; a pair
// moves at once where HIDDEN is even and the caller's buffer is aligned to pairs.

template <class T> DEVICE bool paired(const T* row) { return HIDDEN % 2 == 0 && ((u64)row & (2 * sizeof(T) - 1)) == 0; }
#ifdef OUT_F32
typedef float Out;
#else
typedef Elem Out;
#endif

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

DEVICE void add2(const float* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (paired(row)) { float2 x = *(const float2*)(row + col); a += x.x; b += x.y; return; }
    a += row[col];
    if (col + 1 < HIDDEN) b += row[col + 1];
}
DEVICE void store2(float* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (paired(row)) { *(float2*)(row + col) = make_float2(a, b); return; }
    row[col] = a;
    if (col + 1 < HIDDEN) row[col + 1] = b;
}
#ifndef DTYPE_F32
DEVICE void add2(const u16* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (paired(row)) { u32 x = *(const u32*)(row + col); a += widen((u16)x); b += widen((u16)(x >> 16)); return; }
    a += widen(row[col]);
    if (col + 1 < HIDDEN) b += widen(row[col + 1]);
}
DEVICE void store2(u16* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (paired(row)) { *(u32*)(row + col) = narrow2(a, b); return; }
    narrow(row[col], a);
    if (col + 1 < HIDDEN) narrow(row[col + 1], b);
}
#endif
