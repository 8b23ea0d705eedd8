// Weighted sums of rows of E or C, in fp32, and how they become rows of a gradient.

#define THREADS GATHER_THREADS

// What a gradient holds, in its own type or fp32.
DEVICE float as_float(float x) { return x; }
DEVICE void store(float& to, float x) { to = x; }
#ifndef DTYPE_F32
DEVICE float as_float(u16 x) { return widen(x); }
DEVICE void store(u16& to, float x) { narrow(to, x); }
#endif

// `n` of eight neighbouring elements of a gradient, all in one piece where they are aligned to it.
template <class T> DEVICE void add8(const T* from, float (&x)[8], int n) {
    #pragma unroll
    for (int i = 0; i < 8; i++) if (i < n) x[i] += as_float(from[i]);
}
DEVICE void store_whole8(float* to, const float (&x)[8]) {
    *(float4*)to = make_float4(x[0], x[1], x[2], x[3]);
    *(float4*)(to + 4) = make_float4(x[4], x[5], x[6], x[7]);
}
#ifndef DTYPE_F32
DEVICE void store_whole8(u16* to, const float (&x)[8]) {
    *(uint4*)to = make_uint4(narrow2(x[0], x[1]), narrow2(x[2], x[3]), narrow2(x[4], x[5]), narrow2(x[6], x[7]));
}
#endif
template <class T> DEVICE void store8(T* to, const float (&x)[8], int n) {
    if (n == 8 && ((u64)to & 15) == 0) { store_whole8(to, x); return; }
    #pragma unroll
    for (int i = 0; i < 8; i++) if (i < n) store(to[i], x[i]);
}

// Sums of rows: a thread has 8 columns, in steps of THREADS * 8.
struct Sums {
    float of[8];
    DEVICE void clear() {
        #pragma unroll
        for (int i = 0; i < 8; i++) of[i] = 0.0f;
    }
    DEVICE void add(float g, const Eight& row) {
        float x[8];
        row.widened(x);
        #pragma unroll
        for (int i = 0; i < 8; i++) of[i] += g * x[i];
    }
    // The first `n` alone.
    DEVICE void add(float g, const float* x, int n) {
        #pragma unroll
        for (int i = 0; i < 8; i++) if (i < n) of[i] += g * x[i];
    }
};
