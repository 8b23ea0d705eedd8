// Backward pass: dE, a chunk at a time.
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
#define PITCH 512
#define SCALED 0
#define ACCUMULATE 0
#define OUT_F32
#define OUT_IS_SUM 0
#define SPLIT_SUMS 0

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

// A finished tile passes through shared memory, so that global memory is read and written row by row, and the code for it stands once instead of
// once a sum. visit(row, column, two sums) gets each pair of the tile once.
#define SUM_PITCH (TILE_N + 8)                                // floats a row: the pairs of a warp fall into different banks
template <class Visit> DEVICE void each_pair(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Visit visit) {
    float* sums = (float*)shared;
    __syncthreads();                                          // the ring has been read to its end
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++)
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c += 2)
            *(float2*)&sums[acc_row(r) * SUM_PITCH + acc_col(c)] = make_float2(acc[r][c], acc[r][c + 1]);
    __syncthreads();
    #pragma unroll 2
    for (int i = threadIdx.x; i < TILE_M * TILE_N / 2; i += THREADS) {
        int row = i / (TILE_N / 2), col = i % (TILE_N / 2) * 2;
        float2 pair = *(const float2*)&sums[row * SUM_PITCH + col];
        visit(row, col, pair.x, pair.y);
    }
}

// Two neighbouring columns of a row of HIDDEN elements of a gradient: read and added to, or written, each rounded once. The column is even; a pair
// moves at once where HIDDEN is even and the caller's buffer is aligned to pairs. WIDE: that is known of all rows, so that no branch keeps many loads from
// being under way together.

template <class T> DEVICE bool paired(const T* row) { return HIDDEN % 2 == 0 && ((u64)row & (2 * sizeof(T) - 1)) == 0; }
#ifdef OUT_F32
typedef float Out;
#else
typedef Elem Out;
#endif

template <bool WIDE = false> DEVICE void add2(const float* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { float2 x = *(const float2*)(row + col); a += x.x; b += x.y; return; }
    a += row[col];
    if (col + 1 < HIDDEN) b += row[col + 1];
}
template <bool WIDE = false> DEVICE void store2(float* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { *(float2*)(row + col) = make_float2(a, b); return; }
    row[col] = a;
    if (col + 1 < HIDDEN) row[col + 1] = b;
}
#ifndef DTYPE_F32
template <bool WIDE = false> DEVICE void add2(const u16* row, int col, float& a, float& b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { u32 x = *(const u32*)(row + col); a += widen((u16)x); b += widen((u16)(x >> 16)); return; }
    a += widen(row[col]);
    if (col + 1 < HIDDEN) b += widen(row[col + 1]);
}
template <bool WIDE = false> DEVICE void store2(u16* row, int col, float a, float b) {
    if (col >= HIDDEN) return;
    if (WIDE || paired(row)) { *(u32*)(row + col) = narrow2(a, b); return; }
    narrow(row[col], a);
    if (col + 1 < HIDDEN) narrow(row[col + 1], b);
}
#endif
template <bool WIDE = false, class T> DEVICE float2 load2(const T* row, int col) {
    float2 pair = make_float2(0.0f, 0.0f);
    add2<WIDE>(row, col, pair.x, pair.y);
    return pair;
}

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

// Backward, third product: dE += G C of one chunk. Sums between chunks are fp32; the last chunk rounds once.

// gradient: G [tokens, PITCH]; sums [tokens, HIDDEN] in packed order; out: dE [tokens, HIDDEN]; live: see steps.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 1) hidden_gradient(const Elem* __restrict__ gradient, const Elem* __restrict__ classifier,
        const int* __restrict__ order, const int* __restrict__ count, const float* __restrict__ scale, Sum* __restrict__ sums, Out* __restrict__ out,
        int tokens, int first, int width, int group, int is_first, int is_last, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(128) unsigned char shared[];
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), ceil_div(HIDDEN, TILE_N), group);
    int row0 = place.row_block * TILE_M, tile = place.column;
    if (row0 >= rows) return;

    KMajor<TILE_M, PITCH, 16, false> a; a.init(gradient, row0, rows, width, 0);
    MnMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b;
    b.init(classifier + (u64)first * CLASSIFIER_STRIDE, tile * TILE_N, HIDDEN, width, 0);
    float factor = SCALED ? scale[1] : 1.0f;
    walk<true>(shared, a, b, tile, tile + 1, steps_over_columns(live, tokens, row0, first, width), [&](float (&acc)[ACC_ROWS][ACC_COLS], int) {
        each_pair(acc, shared, [&](int r, int c, float x, float y) {
            if (row0 + r >= rows) return;
            float2 held = held_hidden(out, sums, order, row0 + r, tile * TILE_N + c, is_first);
            put_hidden(out, sums, order, row0 + r, tile * TILE_N + c, x, y, held, factor, is_last);
        });
    });
}
