// Weighted sums of rows of E or C, in fp32, and how they become rows of a gradient.

#define THREADS GATHER_THREADS

DEVICE float as_float(float x) { return x; }
DEVICE float as_float(u16 x) { return widen(x); }

// Eight neighbouring elements of a gradient, in one piece where they are aligned to it.
template <class T> DEVICE void add8(const T* from, float (&x)[8]) {
    #pragma unroll
    for (int i = 0; i < 8; i++) x[i] += as_float(from[i]);
}
DEVICE void store8(float* to, const float (&x)[8]) {
    if (((u64)to & 15) == 0) {
        *(float4*)to = make_float4(x[0], x[1], x[2], x[3]);
        *(float4*)(to + 4) = make_float4(x[4], x[5], x[6], x[7]);
        return;
    }
    #pragma unroll
    for (int i = 0; i < 8; i++) to[i] = x[i];
}
DEVICE void store8(u16* to, const float (&x)[8]) {
    if (((u64)to & 15) == 0) {
        *(uint4*)to = make_uint4(narrow2(x[0], x[1]), narrow2(x[2], x[3]), narrow2(x[4], x[5]), narrow2(x[6], x[7]));
        return;
    }
    #pragma unroll
    for (int i = 0; i < 8; i++) narrow(to[i], x[i]);
}

// Sums of rows of 16-bit elements: a thread has 8 columns, in steps of THREADS * 8.
struct Sums {
    float of[8];
    DEVICE void clear() {
        #pragma unroll
        for (int i = 0; i < 8; i++) of[i] = 0.0f;
    }
    DEVICE void add(float g, uint4 x) {
        u32 words[4] = {x.x, x.y, x.z, x.w};
        #pragma unroll
        for (int i = 0; i < 4; i++) { of[2 * i] += g * widen((u16)words[i]); of[2 * i + 1] += g * widen((u16)(words[i] >> 16)); }
    }
    DEVICE void add(float g, const float* x) {
        #pragma unroll
        for (int i = 0; i < 8; i++) of[i] += g * x[i];
    }
};
