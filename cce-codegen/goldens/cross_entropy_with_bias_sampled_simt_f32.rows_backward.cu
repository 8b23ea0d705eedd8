// Kernels over tokens around the backward pass.
// loss `cross_entropy_with_bias`, any number of tokens, some ignored, hidden 64, vocabulary 4099, f32

#define DTYPE_F32
#define HIDDEN 64
#define VOCAB 4099
#define PACKED 1

// Types, conversions and arithmetic shared by every kernel. Header-free: NVRTC needs no include path.
// Constants expected: DTYPE_F32, DTYPE_F16 or DTYPE_BF16; INDEX_I64 for 64-bit targets.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__
#define NEG_INF __int_as_float(0xff800000)
#define POS_INF __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

#ifdef INDEX_I64
typedef i64 Index;
#else
typedef int Index;
#endif

// A scalar input: read from device memory where a pointer is given, so that no host has to wait for it.
struct ScalarArg {
    const float* pointer;
    float value;
};
DEVICE float scalar(const ScalarArg& s) { return s.pointer ? *s.pointer : s.value; }

DEVICE float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

// --- element types: 16-bit floats are kept as their bits -----------------------------------------------------------
#if defined(DTYPE_F32)
typedef float Elem;
DEVICE float widen(float x) { return x; }
DEVICE void narrow(float& to, float x) { to = x; }
#else
typedef u16 Elem;
#if defined(DTYPE_BF16)
DEVICE float widen(u16 x) { return __uint_as_float((u32)x << 16); }
DEVICE void narrow(u16& to, float x) {
    u32 bits = __float_as_uint(x);
    to = x != x ? (u16)0x7fff : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // round to nearest even
}
DEVICE u32 narrow2(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
#else
    u16 a, b; narrow(a, low); narrow(b, high); return a | (u32)b << 16;
#endif
}
#else
DEVICE float widen(u16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y; }
DEVICE void narrow(u16& to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to) : "f"(x)); }
DEVICE u32 narrow2(float low, float high) { u16 a, b; narrow(a, low); narrow(b, high); return a | (u32)b << 16; }
#endif
#endif

// --- what the language's functions mean in fp32 --------------------------------------------------------------------
// tanh within 5e-7 of the value: the exponential away from 0, the Taylor series near it, where the exponential would cancel.
DEVICE float tanh_of(float x) {
    float a = fabsf(x), t = exp2_approx(a * (-2.0f * LOG2E)), far = __fdividef(1.0f - t, 1.0f + t), s = x * x;
    float near = a * (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
    return copysignf(a < 0.25f ? near : far, x);
}
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float softplus(float x) { return x != x ? x : fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
DEVICE float log_sigmoid(float x) { return -softplus(-x); }
// The first argument at ties; a NaN in either propagates.
DEVICE float min_of(float a, float b) { return b < a || b != b ? b : a; }
DEVICE float max_of(float a, float b) { return b > a || b != b ? b : a; }
// a^b of a non-negative base, with the cases that occur most often cheap.
DEVICE float pow_of(float a, float b) { return b == 2.0f ? a * a : b == 1.0f ? a : b == 0.0f ? 1.0f : powf(a, b); }
// 2^x for a difference of two references that may both be -inf.
DEVICE float rescale(float from, float to) { return from == to ? 1.0f : exp2_approx(from - to); }

DEVICE u32 shared_address(const void* p) {
    u32 r; asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(r) : "l"(p)); return r;
}
DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }
DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }

// Which tile a block takes of `row_blocks` x `columns`: blocks of one group of rows and one column are neighbours, so that they read the same operand
// at the same time.
struct Place { int row_block, column; };
DEVICE Place place_of(int block, int row_blocks, int columns, int group) {
    int first = block / (group * columns) * group, width = min(group, row_blocks - first), place = block - first * columns;
    return Place{first + place % width, place / width};
}

// Sums over tokens.

// The sum of value(i) over all tokens, for every thread of a block of 1024; fixed order, f64.
template <class Value> DEVICE double total(int tokens, Value value) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < tokens; i += 1024) sum += value(i);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = sum;
    __syncthreads();
    sum = parts[threadIdx.x & 31];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    __syncthreads();
    return sum;
}

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    const float* v2_bias;  // [VOCAB]
};
#define OUTPUTS 1
#define COEFS 4
#define INPUT_ROWS 0
#define ROW_GRADIENTS 0
#define HAS_TARGET
// Gradients of Row inputs, then one value a token for each Scalar input.
struct InputRows { float* row[INPUT_ROWS > 0 ? INPUT_ROWS : 1]; };
// Of a token without a gradient: its Row inputs get `value`, sums over tokens get nothing.
DEVICE void write_input_rows(const InputRows& gradients, int token, float value) {
    for (int k = 0; k < INPUT_ROWS; k++) gradients.row[k][token] = k < ROW_GRADIENTS ? value : 0.0f;
}

// Kernels over tokens that surround the backward pass: coefficients of the gradient, sums of input gradients.

// The upstream gradient of an output: of its values token by token, plus that of its reduced value (times the reduction's factor).
struct Upstream {
    const float* rows;                                         // [tokens], or null
    ScalarArg reduced;
    int has_reduced;
};
struct Upstreams { Upstream of[OUTPUTS]; };

DEVICE float upstream_at(const Upstream& u, int token, float factor) {
    return (u.rows ? u.rows[token] : 0.0f) + (u.has_reduced ? scalar(u.reduced) * factor : 0.0f);
}

// --- from the program ---
DEVICE void coefficients(const float* saved, const Values& values, const Upstreams& upstreams, float factor, float* coefs,
        const InputRows& gradients, float* magnitude, int token, int target, int tokens) {
    [[maybe_unused]] const float target_logit = saved[token];
    [[maybe_unused]] const float upstream0 = upstream_at(upstreams.of[0], token, factor);
    coefs[token] = saved[(u64)2 * tokens + token] * LOG2E;
    coefs[(u64)1 * tokens + token] = expm1f(-saved[(u64)1 * tokens + token]) * upstream0;
    coefs[(u64)2 * tokens + token] = expm1f(-saved[(u64)1 * tokens + token]) * upstream0;
    coefs[(u64)3 * tokens + token] = upstream0;
    if (magnitude) magnitude[token] = fmaxf(fabsf(expm1f(-saved[(u64)1 * tokens + token]) * upstream0), fabsf(expm1f(-saved[(u64)1 * tokens + token]) * upstream0));
}

// coefs [COEFS][tokens]; gradients of Row inputs, one value a token for Scalar inputs; magnitude [tokens]: of the token's largest part.
extern "C" __global__ void __launch_bounds__(128) row_coefficients(const float* __restrict__ saved, const Index* __restrict__ targets,
        const Values values, const Upstreams upstreams, const float* __restrict__ factor, float* __restrict__ coefs, const InputRows gradients,
        float* __restrict__ magnitude, int tokens, i64 ignore) {
    int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= tokens) return;
    int target = 0;
    bool counts = true, ignored = false;
#ifdef HAS_TARGET
    Index y = targets[token];
    ignored = PACKED && y == (Index)ignore;
    counts = !ignored && y >= 0 && y < VOCAB;
    target = counts ? (int)y : 0;
#endif
    if (!counts) {                                             // p = exp(z - inf) = 0 and no coefficient: nothing reaches dC
        for (int k = 0; k < COEFS; k++) coefs[(u64)k * tokens + token] = k == 0 ? POS_INF : 0.0f;
        write_input_rows(gradients, token, ignored ? 0.0f : NOT_A_NUMBER);
        if (magnitude) magnitude[token] = 0.0f;
        return;
    }
    float f = *factor;
    coefficients(saved, values, upstreams, f, coefs, gradients, magnitude, token, target, tokens);
}

// scale[0] = a power of two that brings the largest magnitude near 2^8, scale[1] its inverse: f16 gradients neither underflow nor overflow.
extern "C" __global__ void __launch_bounds__(1024) gradient_scale(const float* __restrict__ magnitude, float* __restrict__ scale, int tokens) {
    __shared__ float parts[32];
    float most = 0.0f;
    for (int i = threadIdx.x; i < tokens; i += 1024) most = fmaxf(most, magnitude[i]);
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, d));
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = most;
    __syncthreads();
    most = parts[threadIdx.x & 31];
    for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, d));
    if (threadIdx.x == 0) {
        int exponent = most > 0.0f && most < POS_INF ? (int)(__float_as_uint(most) >> 23) - 127 : 0;
        int shift = min(max(8 - exponent, -100), 100);
        scale[0] = __uint_as_float((u32)(127 + shift) << 23);
        scale[1] = __uint_as_float((u32)(127 - shift) << 23);
    }
}

// out[0] = sum of values over the tokens. One block, fixed order, f64.
extern "C" __global__ void __launch_bounds__(1024) sum_rows(const float* __restrict__ values, float* __restrict__ out, int tokens) {
    double sum = total(tokens, [&](int i) { return (double)values[i]; });
    if (threadIdx.x == 0) *out = (float)sum;
}

// out[first + v] = sum over partials [blocks of `each` rows][width], in their order. A thread a column.
extern "C" __global__ void __launch_bounds__(256) column_sums(const float* __restrict__ partials, const int* __restrict__ count, float* __restrict__ out,
        int tokens, int each, int width, int first) {
    int v = blockIdx.x * blockDim.x + threadIdx.x;
    if (v >= width) return;
    int blocks = ceil_div(PACKED ? *count : tokens, each);
    double sum = 0.0;
    for (int b = 0; b < blocks; b++) sum += partials[(u64)b * width + v];
    out[first + v] = (float)sum;
}

// Rows of dE whose tokens have no gradient: zero where the token is ignored (unless `keep`, where dE is accumulated into), NaN where its target is out of
// range. A row has `halves` units of 16 bits; `nan` is that value in dE's type, twice if the type has 16 bits.
extern "C" __global__ void __launch_bounds__(256) fill_rows(u16* __restrict__ gradient, const Index* __restrict__ targets, int tokens, i64 ignore, int halves,
        int keep, int nan) {
    for (int token = blockIdx.x; token < tokens; token += gridDim.x) {
        Index y = targets[token];
        bool ignored = PACKED && y == (Index)ignore;
        if (ignored ? keep != 0 : y >= 0 && y < VOCAB) continue;
        u32 value = ignored ? 0 : (u32)nan;
        for (int i = threadIdx.x; i < halves; i += 256) gradient[(u64)token * halves + i] = (u16)(i % 2 ? value >> 16 : value);
    }
}
