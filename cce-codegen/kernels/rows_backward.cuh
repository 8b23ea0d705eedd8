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

// The program's `coefficients` stands here.

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
