// Kernels over tokens around the sampled forward pass.
// loss `cross_entropy_with_bias`, any number of tokens, some ignored, hidden 64, vocabulary 4099, f32

#define DTYPE_F32
#define HIDDEN 64
#define VOCAB 4099
#define PACKED 1
#define ROW_STRIDE 64
#define ROW_ALIGN 16
#define ROWS_PACKED 0
#define CLASSIFIER_STRIDE 64
#define CLASSIFIER_ALIGN 16
#define STREAM_ROWS 16
#define SEGMENT_ENTRIES 66
#define FLOOR 1.5e0f
#define EPS 9.765625e-4f
#define MAX_ENTRIES 384
#define QUOTA 2.7542068965517245e2f
#define TILE_ENTRIES 312
#define HOT_TILES 4
#define COLD_TILES 29
#define HOT 512
#define COLD (VOCAB - HOT)
#define BANDS 1
#define SAMPLED_N 128
#define WALK_BLOCK 128
#define KEEPS_LOGITS 0

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

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    const float* v2_bias;  // [VOCAB]
};
#define STATS 2
#define HAS_SOFTMAX
#define HAS_TARGET
#define MASK_LOGITS 0
struct Uniform { };
DEVICE Uniform uniform_of(const Values& values) {
    return Uniform{};
}
struct ColIn { float v2_bias; };
DEVICE ColIn col_in(const Values& values, int col) {
    return ColIn{values.v2_bias[col]};
}
struct RowIn { };
DEVICE RowIn row_in(const Values& values, int token) {
    return RowIn{};
}
// The logit of the softmax.
DEVICE float logit_of(float x, const RowIn& row, const ColIn& column, const Uniform& uniform) {
    const float t2 = x + column.v2_bias;
    return t2;
}
// One column joins: e = exp(z - reference), 0 where it is not live.
DEVICE void stats_add(float (&s)[STATS], float x, float z, float e, bool live, int col, const RowIn& row, const ColIn& column, const Uniform& uniform) {
    s[1] += e;
}
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

// The token of row `at` of the tokens that count; -1: behind the last.
DEVICE int token_at(const int* order, int at, int rows) { return at < rows ? (PACKED ? order[at] : at) : -1; }

// The target of a token; -1: none, or out of range.
DEVICE int target_in_range(const Index* targets, int token) {
#ifdef HAS_TARGET
    Index y = token >= 0 ? targets[token] : (Index)-1;
    return y >= 0 && y < VOCAB ? (int)y : -1;
#else
    return -1;
#endif
}

// How thread blocks divide row_blocks x tiles: the tiles of every row block are cut into as many parts, one for a thread block.
struct Walk {
    int row_blocks, tiles, cut;

    DEVICE Walk(int rows, int block, int, int tile_count, int parts) { row_blocks = ceil_div(rows, block); tiles = tile_count; cut = parts; }
    DEVICE int begin_of(int part) const { return (int)((i64)tiles * part / cut); }
    DEVICE int most_parts() const { return cut; }
    DEVICE int parts_of(int) const { return cut; }
};

// Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a draw depends on what it is for and on nothing before it.

// The seed of a call: read from device memory where a pointer is given, so that every replay of a graph may draw anew.
struct SeedArg { const u64* pointer; u64 value; };
DEVICE u64 seed_of(const SeedArg& s) { return s.pointer ? *s.pointer : s.value; }

struct Words { u32 of[4]; };
DEVICE Words philox(u64 key, u32 c0, u32 c1) {
    u32 low = (u32)key, high = (u32)(key >> 32), c2 = 0, c3 = 0;
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 a_high = __umulhi(c0, 0xd2511f53u), a_low = c0 * 0xd2511f53u, b_high = __umulhi(c2, 0xcd9e8d57u), b_low = c2 * 0xcd9e8d57u;
        c0 = b_high ^ c1 ^ low; c1 = b_low; c2 = a_high ^ c3 ^ high; c3 = a_low;
        low += 0x9e3779b9u; high += 0xbb67ae85u;
    }
    return Words{{c0, c1, c2, c3}};
}
// A number in (0, 1).
DEVICE float uniform_number(u32 word) { return ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f); }

// Where the walk over the cold columns leaves what it keeps. The 16 rows of a warp share a stream, of which every segment of the walk has a fixed part:
// room for the most that its tiles can emit, so that timing changes nothing and nothing is dropped.
//
// The bound: a segment of T tiles admits demand M <= QUOTA * T + FLOOR * T (see `sample`). A lane's distance to its next threshold, counted in steps, is
// in [0, 1] before and after; a group of 8 columns of weight a = d steps that passes k thresholds emits at most min(k, 8), so that over a lane the
// distances telescope, but for groups with d > 8, each of which spoils at most 1 and has demand 8. So entries <= 9/8 M + lanes (64), and two against
// rounding of the sums. TILE_ENTRIES is 9/8 (QUOTA + FLOOR), rounded up, or all that a tile has.

// The raw logit of an entry, where the gradient depends on it.
#if KEEPS_LOGITS
struct KeptLogit { float x; DEVICE explicit KeptLogit(float of) : x(of) {} DEVICE float logit() const { return x; } };
#else
struct KeptLogit { DEVICE explicit KeptLogit(float) {} DEVICE float logit() const { return 0.0f; } };
#endif

// An entry: row and column, log2 of the weight exp(z) (absolute: no rescaling touches it).
struct Entry : KeptLogit {
    u32 key; float weight;
    DEVICE Entry(u32 of_key, float of_weight, float x) : KeptLogit(x), key(of_key), weight(of_weight) {}
};
DEVICE u32 entry_key(int row, int column) { return (u32)row << 28 | (u32)column; }
DEVICE int entry_row(u32 key) { return key >> 28; }
DEVICE int entry_column(u32 key) { return key & 0x0fffffff; }

// A segment's part of a stream: the first tile that it has room for, and how many entries it has.
struct Part { int first; u32 count; };

// What thinning keeps of an entry: its row is known from where it stands.
struct Kept : KeptLogit {
    int column; float probability;
    DEVICE Kept(int of_column, float of_probability, float x) : KeptLogit(x), column(of_column), probability(of_probability) {}
};

// Entries of one stream: all cold tiles (of SAMPLED_N columns), in as many parts as a walk may have.
DEVICE u64 stream_entries(int parts) { return (u64)TILE_ENTRIES * (COLD_TILES * BANDS) + (u64)SEGMENT_ENTRIES * parts; }
// Where a segment's part begins; `first` counts cold tiles.
DEVICE u64 segment_begin(int first, int part) { return (u64)TILE_ENTRIES * first + (u64)SEGMENT_ENTRIES * part; }

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

// After the hot columns: what is known of every row's normaliser. The target joins with a product of its own, so that a sure target in a cold column
// does not leave the walk's steps too small.
// hidden [rows, ROW_STRIDE]; hot: partials of the hot columns [parts][STATS][pitch]; partials: those of the whole, of which the
// first part is written. reference [rows]: log2 of the known normaliser. A warp a row.
extern "C" __global__ void __launch_bounds__(256, 4) bounds(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        const float* __restrict__ hot, float* __restrict__ partials, float* __restrict__ reference, int tokens, int clusters_or_parts, int group) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    int token = token_at(order, at, rows), y = target_in_range(targets, token);
    float dot = 0.0f;
    if (y >= 0) {
        #pragma unroll (IN_FLIGHT / 2)
        for (int col = lane_id() * 8; col < HIDDEN; col += 32 * 8) {
            float x[8], w[8];
            load8<ROW_STRIDE, ROW_ALIGN>(hidden, hidden_row(at, token), col).widened(x);
            load8<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(classifier, y, col).widened(w);
            #pragma unroll
            for (int i = 0; i < 8; i++) dot += x[i] * w[i];
        }
    }
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) dot += __shfl_xor_sync(0xffffffff, dot, mask);

    const Walk walk(rows, WALK_BLOCK, group, HOT_TILES, clusters_or_parts);
    int parts = walk.parts_of(at / WALK_BLOCK), pitch = walk.row_blocks * WALK_BLOCK;
    float stats[STATS], other[STATS];
    for (int k = 0; k < STATS; k++) stats[k] = hot[(u64)k * pitch + at];
    for (int s = 1; s < parts; s++) {
        for (int k = 0; k < STATS; k++) other[k] = hot[(u64)(s * STATS + k) * pitch + at];
        stats_merge(stats, other);
    }
    if (lane_id() != 0) return;
    for (int k = 0; k < STATS; k++) partials[(u64)k * pitch + at] = stats[k];
    const Uniform uniform = uniform_of(values);
    float own = y >= 0 ? logit_of(dot, row_in(values, token), col_in(values, y), uniform) * LOG2E : NEG_INF;
    float top = fmaxf(stats[0], own), sum = stats[1] * exp2f(stats[0] - top) + (y >= 0 ? exp2f(own - top) : 0.0f), log = top + log2f(sum);
    // Nothing known, or no number: the first tile of the walk leaves this far behind and moves the reference.
    reference[at] = log > -1e30f && log < POS_INF ? log : -1e30f;
}

// Thinning: once the normaliser Z of a row is known, its entries are sampled again, to the step EPS Z, times a factor for the 16 rows of a stream if that
// is needed to keep them within their mean of MAX_ENTRIES. An entry at least as heavy as the step stays as it is; the lighter ones are sampled
// systematically along the stream, and then count as the step. Given the entries, the expected weights are theirs for any step, so the whole is unbiased.
// The bound: the factor is such that the sum over entries of min(1, weight / step), and one for the phase, is within 16 MAX_ENTRIES.

#define MOST (STREAM_ROWS * MAX_ENTRIES)

// A stream, as its block of 256 threads reads it: 256 entries at a time and in step.
struct Stream {
    const Entry* entries; const Part* segments; int parts;
    const float* log_step;                                    // by row: log2 of EPS Z

    // visit(valid, entry) for every entry, in the stream's order.
    template <class Visit> DEVICE void each(Visit visit) const {
        for (int part = 0; part < parts; part++) {
            const u32 n = segments[part].count;
            const u64 begin = segment_begin(segments[part].first, part);
            for (u32 i = 0; i < n; i += 256) {
                bool valid = i + threadIdx.x < n;
                visit(valid, valid ? entries[begin + i + threadIdx.x] : Entry(0, 0.0f, 0.0f));
            }
        }
    }
    DEVICE u32 total() const {
        u32 n = 0;
        for (int part = 0; part < parts; part++) n += segments[part].count;
        return n;
    }
    // A weight in steps.
    DEVICE float steps(const Entry& entry, float log_factor) const { return exp2f(entry.weight - log_step[entry_row(entry.key)] - log_factor); }

    // Whether steps raised by 2^log_factor keep the entries within their bound.
    DEVICE bool fits(float log_factor) const {
        __shared__ float warps[8];
        float sum = 0.0f;
        each([&](bool valid, const Entry& entry) {
            float in_steps = valid ? steps(entry, log_factor) : 0.0f;
            if (in_steps > 0.0f) sum += fminf(in_steps, 1.0f);    // of a row whose normaliser is NaN nothing is kept
        });
        #pragma unroll
        for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
        __syncthreads();
        if (lane_id() == 0) warps[warp_id()] = sum;
        __syncthreads();
        sum = 0.0f;
        #pragma unroll
        for (int w = 0; w < 8; w++) sum += warps[w];
        return sum * 1.0001f + 2.0f <= (float)MOST;           // room for the sum's own rounding
    }
    // The factor of the steps, as a logarithm: 1, or just enough.
    DEVICE float log_factor() const {
        if (total() <= MOST || fits(0.0f)) return 0.0f;
        float high = 1.0f;
        while (!fits(high)) high += 1.0f;
        float low = high - 1.0f;
        for (int i = 0; i < 6; i++) { float middle = 0.5f * (low + high); if (fits(middle)) high = middle; else low = middle; }
        return high;
    }
    // Systematic sampling of the light entries, in 32-bit fractions of a step: keep(chosen, entry, its probability) for every entry, in step.
    template <class Keep> DEVICE void choose(float log_factor, u64 phase, Keep keep) const {
        __shared__ u64 warps[8];
        u64 before = phase;
        each([&](bool valid, const Entry& entry) {
            float in_steps = valid ? steps(entry, log_factor) : 0.0f;
            bool heavy = in_steps >= 1.0f;
            u64 mine = heavy || !(in_steps > 0.0f) ? 0 : (u64)(in_steps * 4294967296.0f), sum = mine;
            #pragma unroll
            for (int d = 1; d < 32; d *= 2) { u64 other = __shfl_up_sync(0xffffffff, sum, d); if (lane_id() >= d) sum += other; }
            __syncthreads();
            if (lane_id() == 31) warps[warp_id()] = sum;
            __syncthreads();
            u64 ahead = 0, all = 0;
            #pragma unroll
            for (int w = 0; w < 8; w++) { if (w < warp_id()) ahead += warps[w]; all += warps[w]; }
            u64 to = before + ahead + sum, from = to - mine;
            keep(heavy || from >> 32 != to >> 32, entry, EPS * exp2f(log_factor) * fmaxf(in_steps, 1.0f));
            before += all;
        });
    }
};

// The lanes that have the same row, STREAM_ROWS for none.
DEVICE u32 lanes_with(int row) {
#if __CUDA_ARCH__ >= 700
    return __match_any_sync(0xffffffff, row);
#else
    u32 same = 0;
    for (int r = 0; r <= STREAM_ROWS; r++) { u32 lanes = __ballot_sync(0xffffffff, row == r); same = row == r ? lanes : same; }
    return same;
#endif
}

// kept [rows / 16][16 MAX_ENTRIES], row by row; starts, kept_counts [rows]: of a row's entries within the stream's. A block a stream.
extern "C" __global__ void __launch_bounds__(256, 1) thin(const Entry* __restrict__ streams,
        const Part* __restrict__ segments, const float* __restrict__ lse, const int* __restrict__ order, const int* __restrict__ count, const SeedArg seed,
        Kept* __restrict__ kept, u32* __restrict__ starts, u32* __restrict__ kept_counts, int tokens, int clusters_or_parts, int group) {
    const int rows = PACKED ? *count : tokens, row0 = blockIdx.x * STREAM_ROWS, thread = threadIdx.x;
    if (row0 >= rows) return;
    const Walk walk(rows, WALK_BLOCK, group, COLD_TILES, clusters_or_parts);
    const int most_parts = walk.most_parts();
    __shared__ float log_step[STREAM_ROWS];
    __shared__ u32 row_counts[STREAM_ROWS], row_next[STREAM_ROWS], warp_rows[8][STREAM_ROWS];
    if (thread < STREAM_ROWS) {
        int at = row0 + thread;
        log_step[thread] = at < rows ? lse[token_at(order, at, rows)] * LOG2E + log2f(EPS) : POS_INF;
        row_counts[thread] = 0;
    }
    __syncthreads();
    const Stream stream{streams + blockIdx.x * stream_entries(most_parts), segments + blockIdx.x * most_parts, walk.parts_of(row0 / WALK_BLOCK), log_step};
    const float log_factor = stream.log_factor();
    const u64 phase = philox(seed_of(seed), (u32)token_at(order, row0, rows), 1).of[0];

    stream.choose(log_factor, phase, [&](bool chosen, const Entry& entry, float) { if (chosen) atomicAdd(&row_counts[entry_row(entry.key)], 1u); });
    __syncthreads();
    if (thread == 0) {
        u32 start = 0;
        for (int r = 0; r < STREAM_ROWS; r++) { row_next[r] = start; start += row_counts[r]; }
    }
    __syncthreads();
    if (thread < STREAM_ROWS && row0 + thread < rows) { starts[row0 + thread] = row_next[thread]; kept_counts[row0 + thread] = row_counts[thread]; }
    stream.choose(log_factor, phase, [&](bool chosen, const Entry& entry, float probability) {
        int row = entry_row(entry.key);
        for (int i = thread; i < 8 * STREAM_ROWS; i += 256) warp_rows[i / STREAM_ROWS][i % STREAM_ROWS] = 0;
        __syncthreads();
        u32 same = lanes_with(chosen ? row : STREAM_ROWS), rank = __popc(same & ((1u << lane_id()) - 1));
        if (chosen && rank == 0) warp_rows[warp_id()][row] = __popc(same);
        __syncthreads();
        if (chosen) {
            u32 at = row_next[row] + rank;
            for (int w = 0; w < warp_id(); w++) at += warp_rows[w][row];
            kept[(u64)blockIdx.x * MOST + at] = Kept(entry_column(entry.key), probability, entry.logit());
        }
        __syncthreads();                                      // before the counts change
        if (thread < STREAM_ROWS) for (int w = 0; w < 8; w++) row_next[thread] += warp_rows[w][thread];
    });
}
