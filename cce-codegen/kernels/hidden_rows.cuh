// What two sums of a chunk's G C become: columns col, col + 1 of one row of dE, out [tokens, HIDDEN]. Sums between chunks are fp32, and the last chunk rounds
// once. They are in the output where that is fp32; else, still scaled, in `sums` [tokens that count, HIDDEN]: all 32 bits where the output is accumulated
// into, and with SPLIT_SUMS the lower 16, while the output, of which nothing is kept, holds the upper 16.
#if SPLIT_SUMS
typedef u16 Sum;

// Two fp32 sums whose upper and lower 16 bits are in different rows: read and added to, or written, nothing rounded.
DEVICE void add_halves2(const u16* upper, const u16* lower, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (paired(upper) && paired(lower)) {
        u32 x = *(const u32*)(upper + col), y = *(const u32*)(lower + col);
        a += __uint_as_float(x << 16 | (y & 0xffff)); b += __uint_as_float((x & 0xffff0000) | y >> 16);
        return;
    }
    a += __uint_as_float((u32)upper[col] << 16 | lower[col]);
    if (col + 1 < HIDDEN) b += __uint_as_float((u32)upper[col + 1] << 16 | lower[col + 1]);
}
DEVICE void store_halves2(u16* upper, u16* lower, int col, float a, float b) {
    if (col >= HIDDEN) return;
    u32 x = __float_as_uint(a), y = __float_as_uint(b);
    if (paired(upper) && paired(lower)) {
        *(u32*)(upper + col) = x >> 16 | (y & 0xffff0000); *(u32*)(lower + col) = (x & 0xffff) | y << 16;
        return;
    }
    upper[col] = (u16)(x >> 16); lower[col] = (u16)x;
    if (col + 1 < HIDDEN) { upper[col + 1] = (u16)(y >> 16); lower[col + 1] = (u16)y; }
}

#else
typedef float Sum;
#endif

DEVICE void put_hidden(Out* out, Sum* sums, const int* order, int row, int col, float x, float y, float factor, bool is_first, bool is_last) {
    Out* to = out + (u64)(PACKED ? order[row] : row) * HIDDEN;
    Sum* sum = sums + (u64)row * HIDDEN;
#if SPLIT_SUMS
    if (!is_first) add_halves2(to, sum, col, x, y);
    if (!is_last) { store_halves2(to, sum, col, x, y); return; }
#else
    if (!OUT_IS_SUM && !is_first) add2(sum, col, x, y);
    if (!OUT_IS_SUM && !is_last) { store2(sum, col, x, y); return; }
#endif
    x *= factor; y *= factor;
    // What the output holds joins: that of earlier chunks where it is the sum, that of the caller where it is accumulated into.
    if (ACCUMULATE || (OUT_IS_SUM && !is_first)) add2(to, col, x, y);
    store2(to, col, x, y);
}
