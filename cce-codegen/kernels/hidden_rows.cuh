// What two sums of a chunk's G C become: columns col, col + 1 of one row of dE, out [tokens, HIDDEN]. Sums between chunks are fp32, and the last chunk rounds
// once. They are in the output where that is fp32; else, still scaled, in `sums` [tokens that count, HIDDEN]: all 32 bits where the output is accumulated
// into, and with SPLIT_SUMS the lower 16, while the output, of which nothing is kept, holds the upper 16.
#if SPLIT_SUMS
typedef u16 Sum;

// Two fp32 sums whose upper and lower 16 bits are in different rows: read and added to, or written, nothing rounded.
template <bool WIDE> DEVICE void add_halves2(const u16* upper, const u16* lower, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (WIDE || (paired(upper) && paired(lower))) {
        u32 x = *(const u32*)(upper + col), y = *(const u32*)(lower + col);
        a += __uint_as_float(x << 16 | (y & 0xffff)); b += __uint_as_float((x & 0xffff0000) | y >> 16);
        return;
    }
    a += __uint_as_float((u32)upper[col] << 16 | lower[col]);
    if (col + 1 < HIDDEN) b += __uint_as_float((u32)upper[col + 1] << 16 | lower[col + 1]);
}
template <bool WIDE> DEVICE void store_halves2(u16* upper, u16* lower, int col, float a, float b) {
    if (col >= HIDDEN) return;
    u32 x = __float_as_uint(a), y = __float_as_uint(b);
    if (WIDE || (paired(upper) && paired(lower))) {
        *(u32*)(upper + col) = x >> 16 | (y & 0xffff0000); *(u32*)(lower + col) = (x & 0xffff) | y << 16;
        return;
    }
    upper[col] = (u16)(x >> 16); lower[col] = (u16)x;
    if (col + 1 < HIDDEN) { upper[col + 1] = (u16)(y >> 16); lower[col + 1] = (u16)y; }
}

#else
typedef float Sum;
#endif

// The output's row of a row of the tokens that count.
template <class T> DEVICE T* output_row(T* out, const int* order, int row) { return out + (u64)(PACKED ? order[row] : row) * HIDDEN; }

// What memory holds of two sums: of the chunks before this one, or of the caller's where that is what the output sums up to.
template <bool WIDE = false> DEVICE float2 held_hidden(const Out* out, const Sum* sums, const int* order, int row, int col, bool is_first) {
    float2 held = make_float2(0.0f, 0.0f);
#if SPLIT_SUMS
    if (!is_first) add_halves2<WIDE>(output_row(out, order, row), sums + (u64)row * HIDDEN, col, held.x, held.y);
#elif OUT_IS_SUM
    if (ACCUMULATE || !is_first) held = load2<WIDE>(output_row(out, order, row), col);
#else
    if (!is_first) held = load2<WIDE>(sums + (u64)row * HIDDEN, col);
#endif
    return held;
}

template <bool WIDE = false> DEVICE void put_hidden(Out* out, Sum* sums, const int* order, int row, int col, float x, float y, float2 held, float factor, bool is_last) {
    Out* to = output_row(out, order, row);
#if OUT_IS_SUM
    store2<WIDE>(to, col, x * factor + held.x, y * factor + held.y);
#else
    Sum* sum = sums + (u64)row * HIDDEN;
    x += held.x; y += held.y;
    if (!is_last) {
#if SPLIT_SUMS
        store_halves2<WIDE>(to, sum, col, x, y);
#else
        store2<WIDE>(sum, col, x, y);
#endif
        return;
    }
    x *= factor; y *= factor;
    if (ACCUMULATE) add2<WIDE>(to, col, x, y);
    store2<WIDE>(to, col, x, y);
#endif
}
