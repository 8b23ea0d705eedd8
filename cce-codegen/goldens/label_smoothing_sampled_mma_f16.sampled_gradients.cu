// Backward pass: the sampled softmax part, as lists by row and by column.
// loss `label_smoothing`, any number of tokens, some ignored, hidden 123, vocabulary 4099, f16

#define DTYPE_F16
#define HIDDEN 123
#define VOCAB 4099
#define PACKED 1
#define ROW_STRIDE 123
#define ROW_ALIGN 2
#define ROWS_PACKED 0
#define CLASSIFIER_STRIDE 123
#define CLASSIFIER_ALIGN 2
#define STREAM_ROWS 16
#define SEGMENT_ENTRIES 66
#define FLOOR 1.5e0f
#define EPS 9.765625e-4f
#define MAX_ENTRIES 384
#define QUOTA 6.885517241379311e1f
#define TILE_ENTRIES 80
#define HOT_TILES 4
#define COLD_TILES 29
#define HOT 512
#define COLD (VOCAB - HOT)
#define BANDS 4
#define SAMPLED_N 32
#define WALK_BLOCK 128
#define KEEPS_LOGITS 0
#define SCALED 1
#define GATHER_THREADS 32
#define GATHER_BLOCKS 16
#define SORTED 1024
#define COLUMNS 8

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

typedef Elem HiddenOut;
#define HIDDEN_ACCUMULATE 0
typedef Elem ClassifierOut;
#define CLASSIFIER_ACCUMULATE 0

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    ScalarArg v2_smoothing;
};
#define COL_GRADIENTS 0
#define HAS_TARGET
struct Uniform { };
DEVICE Uniform uniform_of(const Values& values) {
    return Uniform{};
}
struct ColIn { };
DEVICE ColIn col_in(const Values& values, int col) {
    return ColIn{};
}
// What an element reads of its token: log2 of the normaliser, target parts, Row values.
struct Coefs { float lse2; float target0; float c0; float c1; };
DEVICE Coefs coefs_of(const float* coefs, int token, int tokens) {
    return Coefs{coefs[(u64)0 * tokens + token], coefs[(u64)1 * tokens + token], coefs[(u64)2 * tokens + token], coefs[(u64)3 * tokens + token]};
}
DEVICE float probability(float x, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    return exp2_approx(x * LOG2E - row.lse2);
}
// p A + [target] T + B / V, the target's share formed without a difference.
DEVICE float logit_gradient(float x, float p, bool at_target, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    return (at_target ? row.target0 : p * row.c0) + row.c1 * (1.0f / VOCAB);
}
// p A of a kept column.
DEVICE float entry_gradient(float p, float x, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    return p * row.c0;
}
#define UNIFORM_PART 1
#define UNIFORM_COLS 0
DEVICE float uniform_row(const Coefs& row, const Uniform& uniform) {
    return row.c1;
}
DEVICE float uniform_col(const ColIn& column, const Uniform& uniform) {
    return 1.0f;
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

// What was kept, by column: for each cold column a list of rows and dL/dx, targets among them, and one for each Col input's gradient. Counted, placed, filled:
// in an order that the gather mends.
// `entry_gradient` comes from the program: dL/dx of a kept entry, from its probability.

// Where the entries of a row begin.
DEVICE u64 first_entry(int at, const u32* starts) { return (u64)(at / STREAM_ROWS) * (STREAM_ROWS * MAX_ENTRIES) + starts[at]; }

// A row of E or C, and what it is multiplied with. In a column's list: a row of E, and dL/dx.
struct Weighted { int row; float weight; };

extern "C" __global__ void __launch_bounds__(1024) clear_columns(u32* __restrict__ column_counts) {
    int j = blockIdx.x * 1024 + threadIdx.x;
    if (j < COLD) column_counts[j] = 0;
}

// column_counts [COLD]: how many kept entries and targets a cold column has. A warp a row.
extern "C" __global__ void __launch_bounds__(256) count_columns(const Kept* __restrict__ kept, const u32* __restrict__ starts,
        const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        u32* __restrict__ column_counts, int tokens) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const Kept* entries = kept + first_entry(at, starts);
    for (u32 i = lane_id(); i < kept_counts[at]; i += 32) atomicAdd(&column_counts[entries[i].column - HOT], 1u);
    int y = target_in_range(targets, token_at(order, at, rows));
    if (lane_id() == 0 && y >= HOT) atomicAdd(&column_counts[y - HOT], 1u);
}

DEVICE u32 block_scan(u32 x, u32& total) {                    // inclusive, 1024 threads
    __shared__ u32 warps[32];
    u32 sum = x;
    #pragma unroll
    for (int d = 1; d < 32; d *= 2) { u32 other = __shfl_up_sync(0xffffffff, sum, d); if (lane_id() >= d) sum += other; }
    __syncthreads();
    if (lane_id() == 31) warps[warp_id()] = sum;
    __syncthreads();
    u32 w = warps[lane_id()];
    #pragma unroll
    for (int d = 1; d < 32; d *= 2) { u32 other = __shfl_up_sync(0xffffffff, w, d); if (lane_id() >= d) w += other; }
    total = __shfl_sync(0xffffffff, w, 31);
    u32 before = __shfl_sync(0xffffffff, w, max(warp_id() - 1, 0));
    return sum + (warp_id() ? before : 0);
}

// Counts -> where each column's list begins, in two steps: sums of blocks of 1024 columns, then positions. starts_of [COLD + 1]; cursors: a copy.
extern "C" __global__ void __launch_bounds__(1024) column_blocks(const u32* __restrict__ column_counts, u32* __restrict__ block_sums) {
    int j = blockIdx.x * 1024 + threadIdx.x;
    u32 total;
    block_scan(j < COLD ? column_counts[j] : 0, total);
    if (threadIdx.x == 0) block_sums[blockIdx.x] = total;
}
extern "C" __global__ void __launch_bounds__(1024) column_starts(const u32* __restrict__ column_counts, const u32* __restrict__ block_sums,
        u32* __restrict__ starts_of, u32* __restrict__ cursors) {
    u32 before = 0, total;
    for (int b = threadIdx.x; b < blockIdx.x; b += 1024) before += block_sums[b];
    block_scan(before, total);
    u32 base = total;
    int j = blockIdx.x * 1024 + threadIdx.x;
    u32 mine = j < COLD ? column_counts[j] : 0, end = base + block_scan(mine, total);
    if (j < COLD) { cursors[j] = end - mine; starts_of[j + 1] = end; }
    if (j == 0) starts_of[0] = 0;
}

// Room of the lists of one gradient: everything that was kept, and a target a token.
DEVICE u64 list_entries(int tokens) { return (u64)ceil_div(tokens, STREAM_ROWS) * STREAM_ROWS * (MAX_ENTRIES + 1); }

// lists: every column's entries, in no order yet; those of Col inputs behind those of dL/dx. A warp a row.
extern "C" __global__ void __launch_bounds__(256) list_columns(const Kept* __restrict__ kept,
        const u32* __restrict__ starts, const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, u32* __restrict__ cursors, Weighted* __restrict__ lists, int tokens) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const int token = token_at(order, at, rows), y = target_in_range(targets, token);
    const u64 first = first_entry(at, starts);
    const Coefs row = coefs_of(coefs, token, tokens);
    const Uniform uniform = uniform_of(values);
    for (u32 i = lane_id(); i < kept_counts[at]; i += 32) {
        Kept entry = kept[first + i];
        float g = entry_gradient(entry.probability, entry.logit(), row, col_in(values, entry.column), uniform);
        Weighted* place = lists + atomicAdd(&cursors[entry.column - HOT], 1u);
        *place = Weighted{hidden_row(at, token), g};
#if COL_GRADIENTS > 0
        float parts[COL_GRADIENTS];
        entry_col_gradients(parts, entry.probability, entry.logit(), row, col_in(values, entry.column), uniform);
        for (int k = 0; k < COL_GRADIENTS; k++) place[list_entries(tokens) * (k + 1)] = Weighted{hidden_row(at, token), parts[k]};
#endif
    }
    if (lane_id() == 0 && y >= HOT) {
        Weighted* place = lists + atomicAdd(&cursors[y - HOT], 1u);
        *place = Weighted{hidden_row(at, token), row.target0};
#if COL_GRADIENTS > 0
        float parts[COL_GRADIENTS];
        target_col_gradients(parts, row);
        for (int k = 0; k < COL_GRADIENTS; k++) place[list_entries(tokens) * (k + 1)] = Weighted{hidden_row(at, token), parts[k]};
#endif
    }
}

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

// The uniform part of a cold logit's gradient, a value of its token times one of its column over VOCAB: dE takes one weighted sum of all cold rows of C, dC
// one of all rows of E. Blocks sum rows of their own; what they get is added in the order of the blocks.

// This block's part of the sum of weight(i) * row of(i) of `matrix`, of `rows`: partials [blocks][HIDDEN].
template <int STRIDE, int ALIGN, class Of, class Weight> DEVICE void sum_part(const Elem* matrix, int rows, float* partials, Of of, Weight weight) {
    const int each = ceil_div(rows, gridDim.x), first = blockIdx.x * each, last = min(rows, first + each);
    for (int col = threadIdx.x * 8; col < HIDDEN; col += THREADS * 8) {
        Sums sums;
        sums.clear();
        #pragma unroll (IN_FLIGHT / 2)
        for (int i = first; i < last; i++) sums.add(weight(i), load8<STRIDE, ALIGN>(matrix, of(i), col));
        store8(partials + (u64)blockIdx.x * HIDDEN + col, sums.of, eight_of(col));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) sum_classifier(const Elem* __restrict__ classifier, const Values values, float* __restrict__ partials) {
    const Uniform uniform = uniform_of(values);
    sum_part<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(classifier, COLD, partials, [&](int i) { return HOT + i; },
        [&](int i) { return uniform_col(col_in(values, HOT + i), uniform); });
}

extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) sum_hidden(const Elem* __restrict__ hidden, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, float* __restrict__ partials, int tokens) {
    const int rows = PACKED ? *count : tokens;
    const Uniform uniform = uniform_of(values);
    sum_part<ROW_STRIDE, ROW_ALIGN>(hidden, rows, partials, [&](int at) { return hidden_row(at, token_at(order, at, rows)); },
        [&](int at) { return uniform_row(coefs_of(coefs, token_at(order, at, rows), tokens), uniform); });
}

// sum [HIDDEN], over VOCAB.
extern "C" __global__ void __launch_bounds__(256) add_parts(const float* __restrict__ partials, float* __restrict__ sum, int blocks) {
    const int col = blockIdx.x * 256 + threadIdx.x;
    if (col >= HIDDEN) return;
    float all = 0.0f;
    for (int b = 0; b < blocks; b++) all += partials[(u64)b * HIDDEN + col];
    sum[col] = all / VOCAB;
}

// A column's list in the order of its rows, whatever order it was filled in: so that the same sums get the same bits.

// Orders a list by its rows, each of which it has at most once: a network of comparisons that always moves the smaller one forward, so that what lies
// behind the end counts as the largest without being there. All threads of the block.
DEVICE void sort_list(Weighted* list, int n) {
    int padded = 2;
    while (padded < n) padded *= 2;
    auto compare = [&](int a, int b) {
        if (b < n) { Weighted x = list[a], y = list[b]; if (y.row < x.row) { list[a] = y; list[b] = x; } }
    };
    for (int size = 2; size <= padded; size *= 2) {
        __syncthreads();
        for (int i = threadIdx.x; i < padded / 2; i += THREADS) { int block = i / (size / 2) * size, at = i % (size / 2); compare(block + at, block + size - 1 - at); }
        for (int half = size / 4; half > 0; half /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < padded / 2; i += THREADS) { int a = i / half * (2 * half) + i % half; compare(a, a + half); }
        }
    }
    __syncthreads();
}

// The same of several lists, one after the other, from `list` to `to`: every entry finds its place, the number of its list's entries with a smaller row.
// ends: of the lists, the first of which begins at `from`; both count from the same place. All threads of the block.
DEVICE void sort_lists(const Weighted* list, Weighted* unsorted, Weighted* to, int from, const int* ends, int n) {
    for (int i = threadIdx.x; i < n; i += THREADS) unsorted[i] = list[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int at = 0;
        while (from + i >= ends[at]) at++;
        const Weighted mine = unsorted[i];
        const int begin = at ? ends[at - 1] - from : 0, end = ends[at] - from;
        int place = begin;
        #pragma unroll 4
        for (int k = begin; k < end; k++) place += unsorted[k].row < mine.row;
        to[place] = mine;
    }
    __syncthreads();
}

// The lists of COLUMNS columns from `first` on, which lie one after the other, as many at a time as shared memory can order: visit(list, ends, from, c0, c1)
// of those of first + c0 .. first + c1, of which c ends at list[ends[c] - from]. All threads of the block.
template <class Visit> DEVICE void each_ordered(Weighted* lists, const u32* starts_of, int first, Visit visit) {
    __shared__ Weighted unsorted[SORTED], sorted[SORTED];
    __shared__ int ends[COLUMNS];                             // from the beginning of the first
    const int columns = min(COLUMNS, COLD - first);
    const u32 begin = starts_of[first];
    if (threadIdx.x < columns) ends[threadIdx.x] = starts_of[first + threadIdx.x + 1] - begin;
    __syncthreads();
    for (int c0 = 0, from = 0; c0 < columns;) {
        int c1 = c0 + 1;
        while (c1 < columns && ends[c1] - from <= SORTED) c1++;
        const int n = ends[c1 - 1] - from;
        Weighted* list = lists + begin + from;
        if (n > SORTED) sort_list(list, n);
        else if (n > 0) { sort_lists(list, unsorted, sorted, from, ends + c0, n); list = sorted; }
        visit(list, ends, from, c0, c1);
        from += n;
        c0 = c1;
        __syncthreads();                                      // before shared memory changes
    }
}

// The gradient of the cold columns: dE from the entries of a row, dC from the list of a column, and the uniform part of both. Accumulated in fp32 in a fixed order, rounded once.

#define BATCH 128
// sums += weights * elements from `col` on of rows of `matrix`, in the order of the batch.
template <int STRIDE, int ALIGN> DEVICE void gather(Sums& sums, const Elem* matrix, int col, const Weighted* batch, int n) {
    int i = 0;
    for (; i + IN_FLIGHT <= n; i += IN_FLIGHT) {
        Eight x[IN_FLIGHT];
        #pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) x[k] = load8<STRIDE, ALIGN>(matrix, batch[i + k].row, col);
        #pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) sums.add(batch[i + k].weight, x[k]);
    }
    for (; i < n; i++) sums.add(batch[i].weight, load8<STRIDE, ALIGN>(matrix, batch[i].row, col));
}

// dE of a token: hot columns (`hot`, fp32, scaled), entries, a cold target, the uniform part (`uniform_sum` [HIDDEN]). A block a row.
extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) gather_hidden(const Kept* __restrict__ kept,
        const u32* __restrict__ starts, const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, const float* __restrict__ scale,
        const Elem* __restrict__ classifier, const float* __restrict__ hot, const float* __restrict__ uniform_sum, HiddenOut* __restrict__ out, int tokens) {
    __shared__ Weighted batch[BATCH];
    const int at = blockIdx.x, rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const int token = token_at(order, at, rows), y = target_in_range(targets, token);
    const u64 first = first_entry(at, starts);
    const int n = kept_counts[at] + (y >= HOT);
    const Coefs row = coefs_of(coefs, token, tokens);
    const Uniform uniform = uniform_of(values);
    const float factor = SCALED ? scale[1] : 1.0f;
    for (int c0 = 0; c0 < HIDDEN; c0 += THREADS * 8) {
        const int col = c0 + threadIdx.x * 8;
        Sums sums;
        sums.clear();
        for (int done = 0; done < n; done += BATCH) {
            __syncthreads();
            for (int i = threadIdx.x; i < BATCH && done + i < n; i += THREADS) {
                if (y >= HOT && done + i == n - 1) { batch[i] = Weighted{y, row.target0}; continue; }
                Kept entry = kept[first + done + i];
                batch[i] = Weighted{entry.column, entry_gradient(entry.probability, entry.logit(), row, col_in(values, entry.column), uniform)};
            }
            __syncthreads();
            if (col < HIDDEN) gather<CLASSIFIER_STRIDE, CLASSIFIER_ALIGN>(sums, classifier, col, batch, min(BATCH, n - done));
        }
        if (col >= HIDDEN) continue;
        sums.add(factor, hot + (u64)at * HIDDEN + col, eight_of(col));
#if UNIFORM_PART
        sums.add(uniform_row(row, uniform), uniform_sum + col, eight_of(col));
#endif
        HiddenOut* to = out + (u64)token * HIDDEN + col;
        if (HIDDEN_ACCUMULATE) add8(to, sums.of, eight_of(col));
        store8(to, sums.of, eight_of(col));
    }
}

// dC of COLUMNS cold columns, zero where one has no entries. A block for all of them.
extern "C" __global__ void __launch_bounds__(THREADS, GATHER_BLOCKS) gather_classifier(Weighted* __restrict__ lists, const u32* __restrict__ starts_of,
        const Elem* __restrict__ hidden, const Values values, const float* __restrict__ uniform_sum, ClassifierOut* __restrict__ out) {
    const int first = blockIdx.x * COLUMNS;
    each_ordered(lists, starts_of, first, [&](const Weighted* list, const int* ends, int from, int c0, int c1) {
        const int n = ends[c1 - 1] - from;
        for (int col = threadIdx.x * 8; col < HIDDEN; col += THREADS * 8) {
            Sums sums;
            sums.clear();
            int c = c0;
            auto finish = [&] {
                ClassifierOut* to = out + (u64)(HOT + first + c) * HIDDEN + col;
#if UNIFORM_PART
                sums.add(uniform_col(col_in(values, HOT + first + c), uniform_of(values)), uniform_sum + col, eight_of(col));
#endif
                if (CLASSIFIER_ACCUMULATE) add8(to, sums.of, eight_of(col));
                store8(to, sums.of, eight_of(col));
                sums.clear();
                c++;
            };
            // Most columns have few entries: loads are under way together whatever column they are for.
            for (int i = 0; i < n; i += IN_FLIGHT) {
                Eight x[IN_FLIGHT];
                #pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) if (i + k < n) x[k] = load8<ROW_STRIDE, ROW_ALIGN>(hidden, list[i + k].row, col);
                #pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) {
                    if (i + k >= n) break;
                    while (i + k == ends[c] - from) finish();
                    sums.add(list[i + k].weight, x[k]);
                }
            }
            while (c < c1) finish();
        }
    });
}


