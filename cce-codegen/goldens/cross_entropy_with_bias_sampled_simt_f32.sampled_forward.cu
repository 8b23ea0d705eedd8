// Forward pass over the cold columns, sampled on the way.
// loss `cross_entropy_with_bias`, any number of tokens, some ignored, hidden 64, vocabulary 4099, f32

#define DTYPE_F32
#define HIDDEN 64
#define VOCAB 4099
#define PACKED 1
#define HIDDEN_STRIDE 64
#define HIDDEN_ALIGN 16
#define CLASSIFIER_STRIDE 64
#define CLASSIFIER_ALIGN 16
#define TILE_BYTES 69632
#define TILE_M 128
#define TILE_N 128
#define TILE_K 16
#define GRANULE_M 0
#define GRANULE_N 0
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

// The steps of a product along its depth, of which some may be skipped, where tiles of the logits' gradient G are. What is skipped is decided for granules of
// GRANULE_M rows and GRANULE_N columns of logits, into which the tiles of all kernels and the steps of both products divide: live [granules of columns]
// [granules of rows] of the whole vocabulary, 0: a granule that nobody computes, writes or reads. GRANULE_M 0: there are none, and nothing is skipped.

// Steps of TILE_K from 0 to depth, through granules GRANULE long whose bytes are `stride` apart. GRANULE 0: all of them.
template <int GRANULE> struct Steps {
    const unsigned char* live; int stride, depth, k = 0; bool alive;

    DEVICE Steps(const unsigned char* of_first, int between, int end) : live(of_first), stride(between), depth(end) { alive = is_live(0); }
    DEVICE bool is_live(int at) const { if constexpr (GRANULE > 0) return at < depth && live[(u64)(at / GRANULE) * stride]; else return true; }
    // Where the next step begins; from `depth` on: there is none.
    DEVICE int next() {
        if constexpr (GRANULE > 0) if (k % GRANULE == 0) {
            while (k < depth && !alive) { k += GRANULE; alive = is_live(k); }
            alive = is_live(k + GRANULE);                     // on its way while this granule is multiplied
        }
        int step = k;
        k += TILE_K;
        return step;
    }
    // How many there are. For all lanes of a warp.
    DEVICE int count() const {
        if constexpr (GRANULE > 0) {
            int mine = 0;
            for (int at = lane_id() * GRANULE; at < depth; at += 32 * GRANULE)
                if (is_live(at)) mine += ceil_div(min(GRANULE, depth - at), TILE_K);
            #pragma unroll
            for (int mask = 1; mask < 32; mask *= 2) mine += __shfl_xor_sync(0xffffffff, mine, mask);
            return mine;
        } else return ceil_div(depth, TILE_K);
    }
};
DEVICE Steps<0> all_steps(int depth) { return Steps<0>(0, 0, depth); }

#if GRANULE_M > 0
DEVICE const unsigned char* granule_of(const unsigned char* live, int tokens, int row, int col) {
    return live + (u64)(col / GRANULE_N) * ceil_div(tokens, GRANULE_M) + row / GRANULE_M;
}
DEVICE bool is_live(const unsigned char* live, int tokens, int row, int col) { return *granule_of(live, tokens, row, col); }
#else
DEVICE const unsigned char* granule_of(const unsigned char* live, int, int, int) { return live; }
DEVICE bool is_live(const unsigned char*, int, int, int) { return true; }
#endif
// Those of a product over the rows of logits, of columns around `col`; over columns first .. first + width, of rows around `row`.
DEVICE Steps<GRANULE_M> steps_over_rows(const unsigned char* live, int tokens, int rows, int col) {
    return Steps<GRANULE_M>(granule_of(live, tokens, 0, col), 1, rows);
}
DEVICE Steps<GRANULE_N> steps_over_columns(const unsigned char* live, int tokens, int row, int first, int width) {
    return Steps<GRANULE_N>(granule_of(live, tokens, row, first), GRANULE_M > 0 ? ceil_div(tokens, GRANULE_M > 0 ? GRANULE_M : 1) : 0, width);
}

// One thread block's tile of a matrix product in true fp32 (FFMA), for every element type and every GPU.
// 256 threads as 16 x 16, each with TILE_M / 16 x TILE_N / 16 sums; shared memory holds both operands as floats, [k][tile row].

#define THREADS 256
#define ACC_ROWS (TILE_M / 16)
#define ACC_COLS (TILE_N / 16)
#define A_PITCH (TILE_M + 4)
#define B_PITCH (TILE_N + 4)
#define ROW_LANES 16
#define ROW_WARPS 1
#define COL_WARPS 8

DEVICE int row_warp() { return 0; }
DEVICE int col_warp() { return warp_id(); }
DEVICE int acc_row(int r) { return (r >> 2) * 64 + (threadIdx.x >> 4) * 4 + (r & 3); }
DEVICE int acc_col(int c) { return (c >> 2) * 64 + (threadIdx.x & 15) * 4 + (c & 3); }

// Elements of one stage wait in registers while the stage before them multiplies.
template <int TILE> struct Staged {
    static constexpr int COPIES = TILE * TILE_K / THREADS;
    float value[COPIES];
};

// An operand whose source rows are tile rows, consecutive in k; read element by element, at any ALIGN. MAPPED: tile row r is source row map[r].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct KMajor : Staged<TILE> {
    using Staged<TILE>::value;
    const Elem* source; int row, rows, k_end; const int* map;
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) { row = row0; }
    DEVICE void fetch(int k0) {
        int k = k0 + threadIdx.x % TILE_K;
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int r = row + (int)threadIdx.x / TILE_K + i * (THREADS / TILE_K);
            value[i] = r < rows && k < k_end ? widen(source[(i64)(MAPPED ? map[r] : r) * STRIDE + k]) : 0.0f;
        }
    }
    DEVICE void store(float* to, int pitch) const {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++)
            to[(threadIdx.x % TILE_K) * pitch + threadIdx.x / TILE_K + i * (THREADS / TILE_K)] = value[i];
    }
};

// An operand whose source rows are the k, consecutive along the tile's rows. MAPPED: k is source row map[k].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct MnMajor : Staged<TILE> {
    using Staged<TILE>::value;
    const Elem* source; int row, rows, k_end; const int* map;
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) { row = row0; }
    DEVICE void fetch(int k0) {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int at = threadIdx.x + i * THREADS, r = row + at % TILE, k = k0 + at / TILE;
            value[i] = r < rows && k < k_end ? widen(source[(i64)(MAPPED ? map[k] : k) * STRIDE + r]) : 0.0f;
        }
    }
    DEVICE void store(float* to, int pitch) const {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int at = threadIdx.x + i * THREADS;
            to[at / TILE * pitch + at % TILE] = value[i];
        }
    }
};

// DEEP products are summed in pieces of this many steps: beside a sum over a whole vocabulary its small terms would round to nothing.
#define PIECE (512 / TILE_K)

// Products of A's tile with B's tiles first .. last over some steps of the depth; done(acc, tile) takes each.
template <bool DEEP, int GRANULE, class A, class B, class Done>
DEVICE void walk(unsigned char* shared, A& a, B& b, int first, int last, const Steps<GRANULE>& depth, Done done) {
    float* ring = (float*)shared;
    int steps = depth.count();
    for (int tile = first; tile < last; tile++) {
        float acc[ACC_ROWS][ACC_COLS] = {}, pieces[ACC_ROWS][ACC_COLS] = {};
        b.seek(tile * TILE_N);
        Steps<GRANULE> ahead = depth;
        auto fetch = [&] { int k = ahead.next(); a.fetch(k); b.fetch(k); };
        if (steps) fetch();
        for (int step = 0; step < steps; step++) {
            float* sa = ring + (step & 1) * TILE_K * (A_PITCH + B_PITCH);
            float* sb = sa + TILE_K * A_PITCH;
            a.store(sa, A_PITCH); b.store(sb, B_PITCH);
            __syncthreads();                                  // two buffers: the other one is still being read by the slowest
            if (step + 1 < steps) fetch();
            #pragma unroll
            for (int k = 0; k < TILE_K; k++) {
                float x[ACC_ROWS], y[ACC_COLS];
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r += 4) *(float4*)&x[r] = *(const float4*)&sa[k * A_PITCH + acc_row(r)];
                #pragma unroll
                for (int c = 0; c < ACC_COLS; c += 4) *(float4*)&y[c] = *(const float4*)&sb[k * B_PITCH + acc_col(c)];
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < ACC_COLS; c++) acc[r][c] = fmaf(x[r], y[c], acc[r][c]);
            }
            if (DEEP && (step + 1 == steps || (step + 1) % PIECE == 0)) {
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < ACC_COLS; c++) { pieces[r][c] += acc[r][c]; acc[r][c] = step + 1 == steps ? pieces[r][c] : 0.0f; }
            }
        }
        __syncthreads();                                      // the ring may be refilled, or used for other things
        done(acc, tile);
    }
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

// The statistics of a tile's logits, which a thread keeps for its rows over its columns.
// The target's column is left out of all sums (so that 1 - p_y never becomes a difference); its raw logit is written instead.

// A thread's rows, by their place among them: as registers hold them, or as shared memory does for the whole tile.
struct HeldRows { int of[ACC_ROWS]; DEVICE int operator()(int r) const { return of[r]; } };
struct SharedRows { const int* of; DEVICE int operator()(int r) const { return of[acc_row(r)]; } };

// What must not join the sums, columns behind the vocabulary and targets, is left out in one of two ways: where the softmax is of the raw logits and
// nothing else is kept (MASK_LOGITS), the rare tile that has such columns gets logits of -inf; else every column is asked, after the transform.
template <class Rows> DEVICE void take_targets(float (&acc)[ACC_ROWS][ACC_COLS], int tile, const Rows& tokens, const Rows& targets, float* target_logit) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        int y = targets(r);
        float found = 0.0f;
        bool here = false;
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) {
            int col = tile * TILE_N + acc_col(c);
            here |= col == y;
            found = col == y ? acc[r][c] : found;
            if (MASK_LOGITS) acc[r][c] = col == y || col >= VOCAB ? NEG_INF : acc[r][c];
        }
        if (here) target_logit[tokens(r)] = found;
    }
}

// Where nothing but the sum of exponentials of raw logits is kept (MASK_LOGITS), the reference need not follow the largest: it is that of the first
// tile, until a tile's sum leaves it far behind. An element then costs a multiplication, an exponential and an addition.
#define FAR 1e30f
DEVICE float sum_of_exponentials(const float (&x)[ACC_COLS], float reference) {
    float sum[4] = {};
    #pragma unroll
    for (int c = 0; c < ACC_COLS; c++) sum[c & 3] += exp2_approx(fmaf(x[c], LOG2E, -reference));
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
DEVICE float largest_of(const float (&x)[ACC_COLS]) {
    float most[2] = {x[0], x[1]};
    #pragma unroll
    for (int c = 2; c < ACC_COLS; c++) most[c & 1] = fmaxf(most[c & 1], x[c]);
    return fmaxf(most[0], most[1]);
}
DEVICE void add_exponentials(const float (&x)[ACC_COLS], float (&stats)[STATS]) {
    float sum = sum_of_exponentials(x, stats[0]);
    if (!(sum < FAR)) {                                       // NaN, too
        float reference = stats[0];
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) reference = fmaxf(reference, x[c] * LOG2E);
        stats_rescale(stats, rescale(stats[0], reference));
        stats[0] = reference;
        sum = sum_of_exponentials(x, reference == NEG_INF ? 0.0f : reference);
    }
    stats[1] += sum;
}

// The statistics of one tile's columns join those of the thread's rows; most: its rows' largest logits of a softmax. Logits of their own, and what belongs
// to a column, need registers beside the sums: a few columns at a time, fewer where more is kept.
#define MOST_COLUMNS (STATS > 4 ? 8 : 16)
#define SLICE (ACC_COLS < MOST_COLUMNS ? ACC_COLS : MOST_COLUMNS)
template <class Rows> DEVICE void accumulate(float (&acc)[ACC_ROWS][ACC_COLS], float (&stats)[ACC_ROWS][STATS], float (&most)[ACC_ROWS], int tile,
        const Rows& tokens, const Rows& targets, const Values& values, const Uniform& uniform) {
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) most[r] = NEG_INF;
    #pragma unroll
    for (int first = 0; first < ACC_COLS; first += SLICE) {
        asm volatile("" ::: "memory");                        // what belongs to later columns would wait in registers
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) {
            RowIn row = row_in(values, tokens(r));
            int y = targets(r);
            auto live = [&](int at) { int col = tile * TILE_N + acc_col(at); return col < VOCAB && col != y; };
            auto col_at = [&](int at) { return col_in(values, min(tile * TILE_N + acc_col(at), VOCAB - 1)); };
#ifdef HAS_SOFTMAX
            float z[SLICE], largest = NEG_INF;
            #pragma unroll
            for (int c = 0; c < SLICE; c++) {
                z[c] = logit_of(acc[r][first + c], row, col_at(first + c), uniform);
                largest = fmaxf(largest, live(first + c) ? z[c] : NEG_INF);
            }
            most[r] = fmaxf(most[r], largest);
            float reference = fmaxf(stats[r][0], largest * LOG2E);
            if (reference > stats[r][0]) { stats_rescale(stats[r], rescale(stats[r][0], reference)); stats[r][0] = reference; }
            float base = reference == NEG_INF ? 0.0f : reference;
#endif
            #pragma unroll
            for (int c = 0; c < SLICE; c++) {
                int at = first + c;
#ifdef HAS_SOFTMAX
                float e = exp2_approx(fmaf(z[c], LOG2E, -base));
                stats_add(stats[r], acc[r][at], z[c], live(at) ? e : 0.0f, live(at), tile * TILE_N + acc_col(at), row, col_at(at), uniform);
#else
                stats_add(stats[r], acc[r][at], 0.0f, 0.0f, live(at), tile * TILE_N + acc_col(at), row, col_at(at), uniform);
#endif
            }
        }
    }
}

// Whether a tile has columns that must not join the sums.
template <class Rows> DEVICE bool is_rare(int tile, const Rows& targets) {
    bool rare = MASK_LOGITS && (tile + 1) * TILE_N > VOCAB;
#ifdef HAS_TARGET
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) rare |= (u32)(targets(r) - tile * TILE_N) < (u32)TILE_N;
#endif
    return rare;
}

// A finished tile: targets written, everything else joined; most: the largest logit of each row among what joined, which costs nothing where nobody asks.
template <class Rows> DEVICE void join_tile(float (&acc)[ACC_ROWS][ACC_COLS], float (&stats)[ACC_ROWS][STATS], float (&most)[ACC_ROWS], int tile,
        const Rows& tokens, const Rows& targets, const Values& values, const Uniform& uniform, float* target_logit) {
    if (is_rare(tile, targets)) take_targets(acc, tile, tokens, targets, target_logit);
#if MASK_LOGITS
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        add_exponentials(acc[r], stats[r]);
        most[r] = largest_of(acc[r]);
    }
#else
    accumulate(acc, stats, most, tile, tokens, targets, values, uniform);
#endif
}

// The statistics of a row, from the neighbouring lanes that share it.
template <int LANES> DEVICE void merge_lanes(float (&stats)[STATS]) {
    #pragma unroll
    for (int mask = 1; mask < LANES; mask *= 2) {
        float other[STATS];
        #pragma unroll
        for (int k = 0; k < STATS; k++) other[k] = __shfl_xor_sync(0xffffffff, stats[k], mask);
        stats_merge(stats, other);
    }
}

// The statistics of a row's segment, [parts][STATS][pitch]: from the four neighbouring lanes that share the row. The segment that is alone in a tail leaves
// the other part empty.
DEVICE void write_partial(float* partials, float (&stats)[STATS], int part, bool last_part, int pitch, int row) {
    merge_lanes<4>(stats);
    if ((lane_id() & 3) != 0) return;
    float* to = partials + (u64)part * STATS * pitch + row;
    float nothing[STATS];
    stats_init(nothing);
    #pragma unroll
    for (int k = 0; k < STATS; k++) {
        to[(u64)k * pitch] = stats[k];
        if (last_part) to[(u64)(STATS + k) * pitch] = nothing[k];
    }
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

// The weights that are sampled: exp(z - reference), of the softmax's logits z.

#define ALL 0xffffffffu

DEVICE float log2_approx(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

// A column's weight.
DEVICE float weight_of(float z, float reference) { return exp2_approx(fmaf(z, LOG2E, -reference)); }

// The logit of column col, in a row whose target is y, and -inf of the target and behind the vocabulary: raw logits have been masked already, others are
// masked after the transform, in tiles that are RARE.
template <bool RARE> DEVICE float masked_logit(float x, int col, int y, const RowIn& row, const Values& values, const Uniform& uniform) {
#if MASK_LOGITS
    return x;
#else
    float z = logit_of(x, row, col_in(values, min(col, VOCAB - 1)), uniform);
    return !RARE || (col < VOCAB && col != y) ? z : NEG_INF;
#endif
}

// How many thresholds a sum has passed, of those at `next` and every step behind it.
DEVICE float thresholds(float next, float sum, float per_step) { return floorf((sum - next) * per_step) + 1.0f; }
// The first one beyond it. Beyond even where a step is less than the sum's last bit.
DEVICE float following(float next, float sum, float step, float per_step) {
    return fmaxf(fmaf(step, thresholds(next, sum, per_step), next), sum * 1.0000002f);
}

// What a lane has of a tile that its warp samples, and what becomes of a group of 8 of its columns into which a threshold falls: who looks through the group
// writes entries of the segment's part of its stream.

// A warp samples 16 rows and SAMPLED_N columns at a time, as tensor cores lay out their sums: a lane has two rows, and pairs of columns.
#define LANE_ROWS 2
#define LANE_COLS (SAMPLED_N / 4)
#define GROUPS (LANE_COLS / 8)                                // of 8 of a lane's columns
DEVICE int lane_row(int r) { return r * 8 + (lane_id() >> 2); }
DEVICE int lane_col(int c) { return (c >> 1) * 8 + (lane_id() & 3) * 2 + (c & 1); }
struct LaneRows { int of[LANE_ROWS]; DEVICE int operator()(int r) const { return of[r]; } };

// A group of 8 columns of a row: their logits, how far from its beginning the threshold is, step and reference of the row, and the key of an entry of the
// first column. The last three bits of the step, which is 10^-6 of it, are the number of thresholds in the group, less one, 7 standing for all from 8 on:
// what emits entries may add up weights to a little more than what counted.
struct alignas(16) Found {
    float4 low, high;
    float ahead;
    u32 step_and_count;
    float reference;
    u32 key;
};
DEVICE u32 step_and_count(float step, float count) { return (__float_as_uint(step) & ~7u) | ((u32)fminf(fmaxf(count, 1.0f), 8.0f) - 1); }
DEVICE Found found_group(const float (&x)[8], float ahead, u32 step_and_count, float reference, u32 key) {
    return Found{make_float4(x[0], x[1], x[2], x[3]), make_float4(x[4], x[5], x[6], x[7]), ahead, step_and_count, reference, key};
}

// Where the entries of a segment go, and the first of the 16 rows that they are of.
struct Room { Entry* entries; u32 capacity; int row0; };

// What is known of the tokens.
struct Tokens { const Index* targets; const int* order; const Values& values; const Uniform uniform; int rows; };

// The entries of a group for each lane that has a `valid` one, of the whole warp, behind `count` that the segment has already; returns how many there are
// then.
DEVICE u32 emit(const Found& found, bool valid, const Room& room, u32 count, const Tokens& tokens) {
    const float x[8] = {found.low.x, found.low.y, found.low.z, found.low.w, found.high.x, found.high.y, found.high.z, found.high.w};
    const float step = __uint_as_float(found.step_and_count & ~7u), per_step = reciprocal(step);
    const int most = (found.step_and_count & 7) + 1;
    float z[8];
#if MASK_LOGITS
    #pragma unroll
    for (int i = 0; i < 8; i++) z[i] = x[i];
#else
    const int token = valid ? token_at(tokens.order, room.row0 + entry_row(found.key), tokens.rows) : -1, y = target_in_range(tokens.targets, token);
    const RowIn row = row_in(tokens.values, max(token, 0));
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        int col = valid ? entry_column(found.key) + (lane_col(i) - lane_col(0)) : 0;
        z[i] = masked_logit<true>(x[i], col, y, row, tokens.values, tokens.uniform);
    }
#endif
    float passed = 0.0f, next = found.ahead;
    u32 kept = 0, some = 0;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        float weight = weight_of(z[i], found.reference);
        passed += weight;
        if (weight > 0.0f) {
            some |= 1u << i;
            if (passed >= next && __popc(kept) < most) { kept |= 1u << i; next = following(next, passed, step, per_step); }
        }
    }
    // Added one by one the weights may come to less than in the test of the group: the threshold is then the last one's.
    if (kept == 0 && some != 0) kept = 1u << (31 - __clz(some));
    if (!valid) kept = 0;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        const bool keep = kept >> i & 1;
        const u32 lanes = __ballot_sync(ALL, keep), at = count + __popc(lanes & ((1u << lane_id()) - 1));
        if (keep && at < room.capacity)
            room.entries[at] = Entry(found.key + (lane_col(i) - lane_col(0)), fmaxf(z[i] * LOG2E, found.reference + log2_approx(step)), x[i]);
        count += __popc(lanes);
    }
    return count;
}

// What a warp samples of a finished tile: 16 rows and all columns, through shared memory, for threads have sums of other rows. Warps behind the tile's last
// row have nothing to do.

#define PIECES 1
static_assert(BANDS == 1 && SAMPLED_N == TILE_N, "all columns");
static_assert(THREADS / 32 * 16 >= TILE_M, "a warp for each 16 rows");

DEVICE bool has_pieces() { return warp_id() * 16 < TILE_M; }
DEVICE int piece_row(int) { return warp_id() * 16; }
DEVICE int band() { return 0; }

// visit(sums, piece), of all threads of the block.
#define SUM_PITCH (TILE_N + 8)                                // floats a row: the pairs of a warp fall into different banks
template <class Visit> DEVICE void each_piece(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Visit visit) {
    float* sums = (float*)shared;                             // the ring has been read to its end
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++)
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c += 4) *(float4*)&sums[acc_row(r) * SUM_PITCH + acc_col(c)] = make_float4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]);
    __syncthreads();
    float x[LANE_ROWS][LANE_COLS];
    if (has_pieces()) {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            #pragma unroll
            for (int c = 0; c < LANE_COLS; c += 2) {
                float2 pair = *(const float2*)&sums[(piece_row(0) + lane_row(r)) * SUM_PITCH + lane_col(c)];
                x[r][c] = pair.x; x[r][c + 1] = pair.y;
            }
    }
    __syncthreads();                                          // the ring may be refilled
    if (has_pieces()) visit(x, 0);
}


// The sampled filter: systematic sampling along the walk.
//
// Within a row, thresholds stand on the running sum of the weights exp(z - reference) at a step c; a column is kept iff a threshold falls inside its
// interval. It then counts as max(weight, c): one heavier than c is always kept, with its own weight, a lighter one with probability weight / c. For every
// c that depends on sums and not on draws, the expected weight is the true one. A row has four lanes with a phase each.
// c = f EPS B: B is what is known of the row's normaliser (hot columns, target, the walk so far with this tile), f a power of two for the 16 rows of the
// warp: the smallest for which the demand of the tile, the sum over its groups of 8 columns of min(a / c, 8), stays within the pace of the segment's
// quota. Groups are tested whole: into one that a threshold falls into somebody looks for the column (`found.cuh`).

#define PACE 6.0f                                             // how far ahead of an even distribution the demand may run

DEVICE float quad_sum(float x) { x += __shfl_xor_sync(ALL, x, 1); return x + __shfl_xor_sync(ALL, x, 2); }
DEVICE float quad_max(float x) { x = fmaxf(x, __shfl_xor_sync(ALL, x, 1)); return fmaxf(x, __shfl_xor_sync(ALL, x, 2)); }
// A sum over the warp in units of 2^-16, rounded up: one instruction from sm_80 on. No addend counts as more than 1024.
DEVICE float warp_sum_up(float x) {
    u32 sum = __float2uint_ru(fminf(x, 1024.0f) * 65536.0f);
#if __CUDA_ARCH__ >= 800
    sum = __reduce_add_sync(ALL, sum);
#else
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(ALL, sum, mask);
#endif
    return (float)sum * (1.0f / 65536.0f);
}

// What a thread knows of its two rows during a segment.
struct Sampler {
    float stats[LANE_ROWS][STATS];                            // this lane's share of the walk's, relative to a reference that the row's lanes have in common
    float known[LANE_ROWS];                                   // the normaliser before the walk
    float phase[LANE_ROWS];                                   // distance to the next threshold, in steps
    float rest;                                               // of the quota of the warp's segment

    // The beginning of a part of a row, its place `at` among those that count; the row's lanes draw their phases from its token.
    DEVICE void begin(int r, int at, int rows, int token, const float* reference, const SeedArg& seed, int part) {
        stats_init(stats[r]);
        stats[r][0] = at < rows ? reference[at] : 0.0f;
        // Rows behind the last one have weights, too, of whatever stands there; a normaliser beyond all bounds keeps them from sampling.
        known[r] = at < rows ? 1.0f : POS_INF;
        Words words = philox(seed_of(seed), (u32)token, (u32)part + 2);
        u32 word = lane_id() & 2 ? (lane_id() & 1 ? words.of[3] : words.of[2]) : (lane_id() & 1 ? words.of[1] : words.of[0]);
        phase[r] = uniform_number(word);
    }
};

// Nothing is done with eight of the logits, or for their columns from `col` on, before the result so far is there: transforms of all of them at once need
// more registers than there are.
DEVICE void in_turn(float& so_far, float* x, int& col) {
    if (!MASK_LOGITS)
        asm volatile("" : "+f"(so_far), "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]), "+f"(x[4]), "+f"(x[5]), "+f"(x[6]), "+f"(x[7]), "+r"(col) :: "memory");
}

// A tile's raw logits, and what their transform needs.
struct Tile {
    float (&x)[LANE_ROWS][LANE_COLS];
    const LaneRows &tokens, &targets;
    const Values& values; const Uniform& uniform;
    int col0;

    // Statistics of row r's columns, and for each group the sum of the weights of all columns up to its end.
    template <bool RARE> DEVICE void add_up(float (&stats)[STATS], float (&sums)[GROUPS], int r, float reference) const {
        stats_init(stats);
        stats[0] = reference;
        float sum = 0.0f;
        const RowIn row = row_in(values, tokens(r));
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int first = col0;
            in_turn(sum, &x[r][g * 8], first);
            float group = 0.0f;
            #pragma unroll
            for (int i = g * 8; i < g * 8 + 8; i++) {
                const int col = first + lane_col(i);
                const float z = masked_logit<RARE>(x[r][i], col, targets(r), row, values, uniform), weight = weight_of(z, reference);
                group += weight;
                const bool live = !RARE || (col < VOCAB && col != targets(r));
                if (STATS > 2) stats_add(stats, x[r][i], z, weight, live, col, row, col_in(values, min(col, VOCAB - 1)), uniform);
            }
            sums[g] = sum += group;
        }
        stats[1] = sum;
    }
    template <bool RARE> DEVICE void add_up(float (&stats)[LANE_ROWS][STATS], float (&sums)[LANE_ROWS][GROUPS], const Sampler& s) const {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) add_up<RARE>(stats[r], sums[r], r, s.stats[r][0]);
    }
    DEVICE float largest(int r, float than) const {
        const RowIn row = row_in(values, tokens(r));
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int col = col0;
            in_turn(than, &x[r][g * 8], col);
            #pragma unroll
            for (int i = g * 8; i < g * 8 + 8; i++) than = fmaxf(than, masked_logit<true>(x[r][i], col + lane_col(i), targets(r), row, values, uniform) * LOG2E);
        }
        return than;
    }
};

// Samples one tile; `left` tiles of the segment are left, this one included. `rare`: it has columns to mask after the transform. A group into which a threshold
// falls is handed over to `looks`, for each lane that has found one: it says which lanes' groups it took, and is given the others again.
template <class Looks> DEVICE void sample(const Tile& tile, Sampler& s, Looks& looks, int left, bool rare) {
    float stats[LANE_ROWS][STATS], sums[LANE_ROWS][GROUPS], step[LANE_ROWS], per_step[LANE_ROWS], sum[LANE_ROWS];
    #pragma unroll 1
    for (bool again = false;; again = true) {
        if (!MASK_LOGITS && rare) tile.add_up<true>(stats, sums, s); else tile.add_up<false>(stats, sums, s);
        if (again || !__any_sync(ALL, !(stats[0][1] < FAR) || !(stats[1][1] < FAR))) break;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) {                 // a reference is far behind: it moves to the largest logit, for the four lanes of a row
            float largest = quad_max(tile.largest(r, s.stats[r][0]));
            if (quad_max(stats[r][1] < FAR ? 0.0f : 1.0f) == 0.0f) continue;
            float by = rescale(s.stats[r][0], largest);
            stats_rescale(s.stats[r], by);
            s.known[r] *= by; s.stats[r][0] = largest;
        }
    }
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        sum[r] = stats[r][1];
        float total = s.known[r] + quad_sum(s.stats[r][1] + sum[r]);
        step[r] = EPS * total;
        // A row whose sum is not finite keeps nothing: its NaN reaches the gradients through hot columns and target.
        bool alive = total > 0.0f && total < POS_INF;
        per_step[r] = alive ? reciprocal(step[r]) : 0.0f;
        if (STATS > 2) stats_merge(s.stats[r], stats[r]); else s.stats[r][1] += sum[r];
    }
    const float rest = s.rest;
    float allowed = fmaxf(left == 1 ? rest : fminf(rest * 0.5f, fmaxf(rest * PACE * reciprocal((float)left), rest * 0.05f)), FLOOR);
    // In most tiles no group comes near the limit of 8: the demand is then a product of sums.
    float demand = warp_sum_up((per_step[0] > 0.0f ? sum[0] * per_step[0] : 0.0f) + (per_step[1] > 0.0f ? sum[1] * per_step[1] : 0.0f));
    while (!(demand <= fminf(allowed, 8.0f))) {
        float limited = 0.0f;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            #pragma unroll
            for (int g = 0; g < GROUPS; g++) limited += per_step[r] > 0.0f ? fminf((sums[r][g] - (g ? sums[r][g - 1] : 0.0f)) * per_step[r], 8.0f) : 0.0f;
        demand = warp_sum_up(limited);
        if (demand <= allowed) break;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) { step[r] *= 2.0f; per_step[r] *= 0.5f; }
    }
    s.rest = fmaxf(rest - demand, 0.0f);

    // The next thresholds, and whether one of them falls into the tile: into few tiles of a trained head.
    float next[LANE_ROWS];
    bool found[LANE_ROWS];
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        next[r] = per_step[r] > 0.0f ? s.phase[r] * step[r] : POS_INF;
        found[r] = per_step[r] > 0.0f && sum[r] >= next[r];
    }
    #pragma unroll 1
    while (__any_sync(ALL, found[0] || found[1])) {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) {
            if (!__any_sync(ALL, found[r])) continue;
            int group = 0;
            #pragma unroll
            for (int g = 0; g < GROUPS - 1; g++) group += sums[r][g] < next[r];
            float x[8], before = 0.0f, to = sums[r][0];
            #pragma unroll
            for (int i = 0; i < 8; i++) x[i] = tile.x[r][i];
            #pragma unroll
            for (int g = 1; g < GROUPS; g++) {
                const bool here = group == g;
                before = here ? sums[r][g - 1] : before;
                to = here ? sums[r][g] : to;
                #pragma unroll
                for (int i = 0; i < 8; i++) x[i] = here ? tile.x[r][g * 8 + i] : x[i];
            }
            const u32 key = entry_key(lane_row(r), tile.col0 + lane_col(0) + group * (lane_col(8) - lane_col(0)));
            const u32 with_count = step_and_count(step[r], thresholds(next[r], to, per_step[r]));
            if (looks.hand_over(found[r], x, next[r] - before, with_count, s.stats[r][0], key)) {
                next[r] = following(next[r], to, step[r], per_step[r]);
                found[r] = sum[r] >= next[r];
            }
        }
    }
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++)
        if (per_step[r] > 0.0f) s.phase[r] = fminf(fmaxf((next[r] - sum[r]) * per_step[r], 0.0f), 1.0f);
}

// Forward over the cold columns: every reduction, and the sampled filter on the way. Blocks as in the walk over all columns; a warp samples its pieces of a
// finished tile, and every band of columns has a part of its own in statistics and streams.

// A lane that finds a threshold in one of its groups looks through it at once.
struct Finder {
    Room room; u32 count; const Tokens& tokens;
    DEVICE bool hand_over(bool found, const float (&x)[8], float ahead, u32 step_and_count, float reference, u32 key) {
        count = emit(found_group(x, ahead, step_and_count, reference, key), found, room, count, tokens);
        return found;
    }
};

// What a warp keeps of a piece from tile to tile, once a tile: in local memory, for the sums have the registers.
struct Piece { Sampler sampler; Room room; u32 emitted; };

// E, C: as of `logits_forward`. reference [rows]: log2 of the normaliser as far as known. partials: [1 + parts][STATS][row blocks * TILE_M], of which the
// first holds the hot columns. streams [rows / 16][stream_entries]; segments_of [rows / 16][parts], `splits * BANDS` of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sampled_forward(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values, const SeedArg seed,
        float* __restrict__ target_logit, const float* __restrict__ reference, float* __restrict__ partials, Entry* __restrict__ streams,
        Part* __restrict__ segments_of, int tokens, int splits, int group) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    const int rows = PACKED ? *count : tokens;
    const Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), splits, group);
    const int row0 = place.row_block * TILE_M, split = place.column;
    if (row0 >= rows) return;

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = max(token, 0);
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    const Walk tiles(rows, TILE_M, group, COLD_TILES, splits);
    const int first = tiles.begin_of(split), last = tiles.begin_of(split + 1), length = last - first;
    const int parts = splits * BANDS, part = split * BANDS + band(), begin = first * BANDS + band() * length;
    const Uniform uniform = uniform_of(values);
    const Tokens known{targets, order, values, uniform, rows};
    auto stream_of = [&](int piece) { return (row0 + piece_row(piece)) / STREAM_ROWS; };
    Piece pieces[PIECES];
    if (has_pieces()) {
        #pragma unroll 1
        for (int piece = 0; piece < PIECES; piece++) {
            Piece& of = pieces[piece];
            #pragma unroll
            for (int r = 0; r < LANE_ROWS; r++) {
                const int row = piece_row(piece) + lane_row(r);
                of.sampler.begin(r, row0 + row, rows, token_of[row], reference, seed, part);
            }
            of.sampler.rest = QUOTA * length;
            of.room = Room{streams + stream_of(piece) * stream_entries(parts) + segment_begin(begin, part), (u32)(TILE_ENTRIES * length + SEGMENT_ENTRIES),
                row0 + piece_row(piece)};
            of.emitted = 0;
        }
    }

    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b; b.init(classifier, (HOT_TILES + first) * TILE_N, VOCAB, HIDDEN, 0);
    walk<false>(shared, a, b, HOT_TILES + first, HOT_TILES + last, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int tile) {
        const SharedRows every_token{token_of}, every_target{target_of};
        if (is_rare(tile, every_target)) take_targets(acc, tile, every_token, every_target, target_logit);
        each_piece(acc, shared, [&](float (&x)[LANE_ROWS][LANE_COLS], int piece) {
            const int col0 = tile * TILE_N + band() * SAMPLED_N;
            LaneRows tokens_of, targets_of;
            bool rare = col0 + SAMPLED_N > VOCAB;
            #pragma unroll
            for (int r = 0; r < LANE_ROWS; r++) {
                const int row = piece_row(piece) + lane_row(r);
                tokens_of.of[r] = token_of[row];
                targets_of.of[r] = target_of[row];
                rare |= (u32)(targets_of(r) - col0) < (u32)SAMPLED_N;
            }
            Sampler sampler = pieces[piece].sampler;
            Finder finder{pieces[piece].room, pieces[piece].emitted, known};
            sample(Tile{x, tokens_of, targets_of, values, uniform, col0}, sampler, finder, HOT_TILES + last - tile, rare);
            pieces[piece].sampler = sampler;
            pieces[piece].emitted = finder.count;
        });
    });
    if (!has_pieces()) return;
    #pragma unroll 1
    for (int piece = 0; piece < PIECES; piece++) {
        Piece& of = pieces[piece];
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            write_partial(partials, of.sampler.stats[r], part + 1, false, tiles.row_blocks * TILE_M, row0 + piece_row(piece) + lane_row(r));
        if (lane_id() == 0) segments_of[stream_of(piece) * parts + part] = Part{begin, min(of.emitted, of.room.capacity)};
    }
}
