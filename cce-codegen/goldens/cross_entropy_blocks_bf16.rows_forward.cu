// Kernels over tokens around the forward pass.
// loss `cross_entropy`, any number of tokens, hidden 2304, vocabulary 256000, bf16

#define DTYPE_BF16
#define HIDDEN 2304
#define VOCAB 256000
#define PACKED 0

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

#define WALK_BLOCK 256
#define WALK_TILES 1000
#define PARTS_BEFORE 0

// How the clusters of a persistent kernel divide row_blocks x tiles among themselves: plain arithmetic, so that it follows a number of rows that only
// the device knows. Row blocks form groups of about equal size that are done one after the other: the rows of a group stay in L2 while its clusters
// walk the vocabulary. Within a group, `walkers` sets of clusters, one cluster a row block, walk a part of the vocabulary each, side by side, so that a
// set reads each tile from memory once. Clusters that are left over share the last tiles of all rows of the group.

struct Segment { int row_block, first, last, part; bool last_part; };

// Where piece `at` begins, of `n` things cut into pieces of about equal size: the first ones are one larger.
DEVICE int begin_of_piece(int n, int pieces, int at) { return n / pieces * at + min(at, n % pieces); }
DEVICE int piece_of(int n, int pieces, int thing) {
    int each = n / pieces, larger = n % pieces, cut = larger * (each + 1);
    return thing < cut ? thing / (each + 1) : larger + (thing - cut) / each;
}

struct Walk {
    int row_blocks, tiles, clusters, groups;

    DEVICE Walk(int rows, int block, int most_of_a_group, int tile_count, int cluster_count) {
        row_blocks = ceil_div(rows, block); tiles = tile_count; clusters = cluster_count;
        groups = ceil_div(row_blocks, most_of_a_group);
    }
    DEVICE int begin_of(int group) const { return begin_of_piece(row_blocks, groups, group); }
    // Tiles that the walkers of a group of `size` row blocks take; the rest is left over.
    DEVICE int walked(int size) const { return ceil_div(tiles * (clusters / size * size), clusters); }
    // Parts that every row block of a group of this size has.
    DEVICE int parts(int size) const { return clusters / size + (walked(size) < tiles ? 2 : 0); }
    DEVICE int most_parts() const { return max(parts(row_blocks / groups), parts(ceil_div(row_blocks, groups))); }
    DEVICE int parts_of(int row_block) const { int group = piece_of(row_blocks, groups, row_block); return parts(begin_of(group + 1) - begin_of(group)); }
};

// A cluster's segments, one after the other.
struct Segments {
    const Walk& walk;
    int cluster, group = 0, done = 0;

    DEVICE bool next(Segment& s) {
        for (; group < walk.groups; group++, done = 0) {
            int begin = walk.begin_of(group), size = walk.begin_of(group + 1) - begin;
            int walkers = walk.clusters / size, walked = walk.walked(size), walker = cluster / size;
            if (walker < walkers) {
                if (done) continue;
                done = 1;
                s = Segment{begin + cluster % size, begin_of_piece(walked, walkers, walker), begin_of_piece(walked, walkers, walker + 1), walker, false};
                return true;
            }
            // Left over: the tails of all rows in one line, cut into pieces, each at least one tail long: a tail lies in one or two of them.
            int tail = walk.tiles - walked, spare = walk.clusters - walkers * size, place = cluster - walkers * size;
            int from = begin_of_piece(size * tail, spare, place) + done, to = begin_of_piece(size * tail, spare, place + 1);
            if (from >= to) continue;
            int row = from / tail, first = from % tail, last = min(tail, first + to - from);
            done += last - first;
            s = Segment{begin + row, walked + first, walked + last, walkers + (first > 0), first == 0 && last == tail};
            return true;
        }
        return false;
    }
};

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    int none;
};
#define STATS 2
#define HAS_SOFTMAX
#define HAS_TARGET
#define SAVED 3
#define OUTPUTS 1
struct Rows { float* row[OUTPUTS]; };
DEVICE void stats_init(float (&s)[STATS]) {
    s[0] = NEG_INF; s[1] = 0.0f;
}
DEVICE void stats_rescale(float (&s)[STATS], float factor) {
    s[1] *= factor;
}
DEVICE void stats_merge(float (&s)[STATS], const float (&o)[STATS]) {
    float reference = fmaxf(s[0], o[0]), mine = rescale(s[0], reference), its = rescale(o[0], reference);
    s[0] = reference; s[1] = s[1] * mine + o[1] * its;
}
DEVICE void write_outputs(const Rows& outputs, int token, float value) {
    for (int k = 0; k < OUTPUTS; k++) if (outputs.row[k]) outputs.row[k][token] = value;
}
DEVICE void finish(const float (&s)[STATS], float* saved, const Values& values, const Rows& outputs, int token, int target, int tokens) {
    [[maybe_unused]] const float target_logit = saved[token];
    const float reference = s[0], sum = s[1];
    const float own_exponent = target_logit * LOG2E, top = fmaxf(reference, own_exponent);
    const float shift = rescale(reference, top), own = exp2f(own_exponent - top), total = sum * shift + own;
    // The others' sum relative to the target, as a power of two: the loss without a difference.
    const float excess = log2f(sum) + (reference - own_exponent);
    const float nll = total != total ? total : excess > 30.0f ? excess * LN2 + log1pf(exp2f(-excess)) : log1pf(exp2f(excess));
    const float lse = LN2 * (top + log2f(total));
    {
    saved[(u64)1 * tokens + token] = nll;
    saved[(u64)2 * tokens + token] = lse;
    if (outputs.row[0]) outputs.row[0][token] = nll;
    }
}

// Kernels over tokens that surround the forward pass: which tokens count, partials to statistics and outputs, reduction over tokens.

// order: the tokens that count, then the ignored ones, both in their own order; count: how many count. One block: a prefix sum over segments.
extern "C" __global__ void __launch_bounds__(1024) pack(const Index* __restrict__ targets, i64 ignore, int* __restrict__ order, int* __restrict__ count, int tokens) {
    __shared__ int sums[32];
    int each = ceil_div(tokens, 1024), from = min((int)threadIdx.x * each, tokens), to = min(from + each, tokens), mine = 0;
    for (int i = from; i < to; i++) mine += targets[i] != (Index)ignore;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, before = mine;
    for (int d = 1; d < 32; d *= 2) { int x = __shfl_up_sync(0xffffffff, before, d); if (lane >= d) before += x; }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    if (warp == 0) {
        int s = sums[lane];
        for (int d = 1; d < 32; d *= 2) { int x = __shfl_up_sync(0xffffffff, s, d); if (lane >= d) s += x; }
        sums[lane] = s;
    }
    __syncthreads();
    before += (warp ? sums[warp - 1] : 0) - mine;
    int total = sums[31], counted = before, ignored = total + from - before;
    for (int i = from; i < to; i++) { if (targets[i] != (Index)ignore) order[counted++] = i; else order[ignored++] = i; }
    if (threadIdx.x == 0) *count = total;
}

// partials, as the forward pass wrote them, -> saved [SAVED][tokens] and the outputs' rows. A thread a token, in the order of the partials' rows.
// clusters_or_parts: what the walk was divided by.
extern "C" __global__ void __launch_bounds__(128) merge(const float* __restrict__ partials, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const Rows outputs, float* __restrict__ saved, int tokens, int clusters_or_parts, int group) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= tokens) return;
    int rows = PACKED ? *count : tokens, token = PACKED ? order[at] : at;
    if (at >= rows) { write_outputs(outputs, token, 0.0f); return; }
#ifdef HAS_TARGET
    Index y = targets[token];
    if (y < 0 || y >= VOCAB) {                                 // out of range: NaN, and nothing read outside
        for (int k = 0; k < SAVED; k++) saved[(u64)k * tokens + token] = NOT_A_NUMBER;
        write_outputs(outputs, token, NOT_A_NUMBER);
        return;
    }
    int target = (int)y;
#else
    int target = 0;
#endif
    const Walk walk(rows, WALK_BLOCK, group, WALK_TILES, clusters_or_parts);
    int parts = PARTS_BEFORE + walk.parts_of(at / WALK_BLOCK), pitch = walk.row_blocks * WALK_BLOCK;
    float stats[STATS], other[STATS];
    for (int k = 0; k < STATS; k++) stats[k] = partials[(u64)k * pitch + at];
    for (int s = 1; s < parts; s++) {
        for (int k = 0; k < STATS; k++) other[k] = partials[(u64)(s * STATS + k) * pitch + at];
        stats_merge(stats, other);
    }
    finish(stats, saved, values, outputs, token, target, tokens);
}

// found: the first token whose target is out of range and that target; -1 if there is none. One block.
extern "C" __global__ void __launch_bounds__(1024) check_targets(const Index* __restrict__ targets, i64* __restrict__ found, int tokens, i64 ignore) {
    __shared__ int first;
    if (threadIdx.x == 0) first = tokens;
    __syncthreads();
    for (int i = threadIdx.x; i < tokens; i += 1024) {
        Index y = targets[i];
        if ((y < 0 || y >= VOCAB) && !(PACKED && y == (Index)ignore)) { atomicMin(&first, i); break; }
    }
    __syncthreads();
    if (threadIdx.x == 0) { found[0] = first < tokens ? first : -1; found[1] = first < tokens ? (i64)targets[first] : 0; }
}

// How per-token values become one: what the sum is divided by.
struct Reduction {
    int mode;                                                  // 0: nothing; 1: the tokens that count; 2: `divisor`; 3: the sum of `weights` at the targets
    ScalarArg divisor;
    const float* weights;                                      // [VOCAB]
};

// reduced[k] = factor * sum over tokens of outputs[k]; factor = 1 / divisor. One block.
extern "C" __global__ void __launch_bounds__(1024) reduce_tokens(const Rows outputs, const Rows reduced, const Index* __restrict__ targets,
        const Reduction reduction, float* __restrict__ factor, int tokens, i64 ignore) {
    auto counts = [&](int i) { return !PACKED || targets[i] != (Index)ignore; };
    double divisor = 1.0;
    if (reduction.mode == 1) { double n = total(tokens, [&](int i) { return counts(i) ? 1.0 : 0.0; }); divisor = n > 1.0 ? n : 1.0; }
    if (reduction.mode == 2) divisor = scalar(reduction.divisor);
    if (reduction.mode == 3)
        divisor = total(tokens, [&](int i) {
            Index y = counts(i) ? targets[i] : (Index)-1;
            return y >= 0 && y < VOCAB ? (double)reduction.weights[y] : 0.0;
        });
    // Weights that sum to nothing (all tokens ignored) leave nothing, not NaN; a divisor that the caller gives is taken as it is.
    double inverse = reduction.mode == 3 && divisor == 0.0 ? 0.0 : 1.0 / divisor;
    if (threadIdx.x == 0) *factor = (float)inverse;
    for (int k = 0; k < OUTPUTS; k++) {
        if (!reduced.row[k]) continue;
        const float* row = outputs.row[k];
        double sum = total(tokens, [&](int i) { return (double)row[i]; });
        if (threadIdx.x == 0) *reduced.row[k] = (float)(sum * inverse);
    }
}

#define MAXIMA_N 256
#define GRANULE_M 256
#define GRANULE_N 256
#define LOG_EPS -8.317766f


// Which granules of the logits' gradient are computed: those into which a target falls, and those where a probability is not below eps (NaN is not).
// A block a granule. maxima: as the forward pass wrote them, of tiles MAXIMA_N wide; lse [tokens]: the log of a token's normaliser; live [granules of
// columns][granules of rows].
extern "C" __global__ void __launch_bounds__(256) decide(const float* __restrict__ maxima, const float* __restrict__ lse, const Index* __restrict__ targets,
        const int* __restrict__ order, const int* __restrict__ count, unsigned char* __restrict__ live, int tokens) {
    constexpr int TILES = GRANULE_N / MAXIMA_N;
    int rows = PACKED ? *count : tokens, row_granules = ceil_div(tokens, GRANULE_M);
    int column = blockIdx.x / row_granules, row0 = blockIdx.x % row_granules * GRANULE_M;
    int first = column * TILES, last = min(first + TILES, ceil_div(VOCAB, MAXIMA_N));
    bool any = false;
    for (int at = row0 + threadIdx.x; at < min(row0 + GRANULE_M, rows); at += 256) {
        int token = PACKED ? order[at] : at;
#ifdef HAS_TARGET
        Index y = targets[token];
        if (y < 0 || y >= VOCAB) continue;                    // out of range: without a gradient
        any |= (int)y / GRANULE_N == column;
#endif
        float most = NEG_INF;
        for (int tile = first; tile < last; tile++) most = fmaxf(most, maxima[(u64)tile * tokens + at]);
        any |= !(most - lse[token] < LOG_EPS);
    }
    any = __syncthreads_or(any);
    if (threadIdx.x == 0) live[blockIdx.x] = any;
}
