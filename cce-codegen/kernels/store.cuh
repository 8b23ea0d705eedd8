// Two neighbouring columns of a row of HIDDEN elements of a gradient: read and added to, or written, each rounded once. The column is even; a pair
// moves at once where HIDDEN is even and the caller's buffer is aligned to pairs. WIDE: that is known of all rows, so that no branch keeps many loads from
// being under way together.

template <class T> DEVICE bool paired(const T* row) { return HIDDEN % 2 == 0 && ((u64)row & (2 * sizeof(T) - 1)) == 0; }
#ifdef OUT_F32
typedef float Out;
#else
typedef Elem Out;
#endif

template <bool WIDE = false> DEVICE void add2(const float* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { float2 x = *(const float2*)(row + col); a += x.x; b += x.y; return; }
    a += row[col];
    if (col + 1 < HIDDEN) b += row[col + 1];
}
template <bool WIDE = false> DEVICE void store2(float* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { *(float2*)(row + col) = make_float2(a, b); return; }
    row[col] = a;
    if (col + 1 < HIDDEN) row[col + 1] = b;
}
#ifndef DTYPE_F32
template <bool WIDE = false> DEVICE void add2(const u16* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { u32 x = *(const u32*)(row + col); a += widen((u16)x); b += widen((u16)(x >> 16)); return; }
    a += widen(row[col]);
    if (col + 1 < HIDDEN) b += widen(row[col + 1]);
}
template <bool WIDE = false> DEVICE void store2(u16* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { *(u32*)(row + col) = narrow2(a, b); return; }
    narrow(row[col], a);
    if (col + 1 < HIDDEN) narrow(row[col + 1], b);
}
#endif
template <bool WIDE = false, class T> DEVICE float2 load2(const T* row, int col) {
    float2 pair = make_float2(0.0f, 0.0f);
    add2<WIDE>(row, col, pair.x, pair.y);
    return pair;
}
