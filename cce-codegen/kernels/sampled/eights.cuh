// Rows of E and C, eight neighbouring elements at a time: in one piece where a row is aligned to it, else one by one. Behind the last element are zeros.

#ifdef DTYPE_F32
struct Eight {
    float of[8];
    DEVICE void widened(float (&x)[8]) const {
        #pragma unroll
        for (int i = 0; i < 8; i++) x[i] = of[i];
    }
};
#else
struct Eight {
    uint4 bits;
    DEVICE void widened(float (&x)[8]) const {
        u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
        #pragma unroll
        for (int i = 0; i < 4; i++) { x[2 * i] = widen((u16)words[i]); x[2 * i + 1] = widen((u16)(words[i] >> 16)); }
    }
};
#endif

// Loads that are under way at once: what registers there are for, half as many where elements are read one by one.
#define IN_FLIGHT (16 / (int)sizeof(Elem) / (ROW_ALIGN < 16 || CLASSIFIER_ALIGN < 16 || HIDDEN % 8 ? 2 : 1))

// How many of eight elements from `col` on a row has.
DEVICE int eight_of(int col) { return HIDDEN % 8 == 0 ? 8 : min(8, HIDDEN - col); }

// Elements col .. col + 8 of a row of a matrix, `col` a multiple of 8. ALIGN is what the address of every row is known to be a multiple of, up to 16.
template <int STRIDE, int ALIGN> DEVICE Eight load8(const Elem* matrix, int row, int col) {
    const Elem* from = matrix + (u64)row * STRIDE + col;
    const int n = eight_of(col);
#ifdef DTYPE_F32
    if (ALIGN == 16 && n == 8) {
        float4 low = __ldg((const float4*)from), high = __ldg((const float4*)from + 1);
        return Eight{{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
    }
    Eight x;
    #pragma unroll
    for (int i = 0; i < 8; i++) x.of[i] = i < n ? from[i] : 0.0f;
    return x;
#else
    // In units of 16 bytes: one sum for all rows of a column.
    if (ALIGN == 16 && n == 8) return Eight{__ldg(&((const uint4*)matrix)[col / 8 + (u64)row * (STRIDE / 8)])};
    u32 words[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 low = 2 * i < n ? from[2 * i] : 0, high = 2 * i + 1 < n ? from[2 * i + 1] : 0;
        words[i] = low | high << 16;
    }
    return Eight{make_uint4(words[0], words[1], words[2], words[3])};
#endif
}

// Which row of E is that of a token, which counts as number `at`: where rows were copied, those that count lie one after the other.
DEVICE int hidden_row(int at, int token) { return ROWS_PACKED ? at : token; }
