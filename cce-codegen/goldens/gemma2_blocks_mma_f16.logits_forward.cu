// Forward pass over the logits.
// loss `gemma2`, any number of tokens, some ignored, hidden 136, vocabulary 507, f16

#define DTYPE_F16
#define HIDDEN 136
#define VOCAB 507
#define PACKED 1
#define HIDDEN_STRIDE 136
#define HIDDEN_ALIGN 16
#define CLASSIFIER_STRIDE 136
#define CLASSIFIER_ALIGN 16
#define TILE_BYTES 65536
#define TILE_M 64
#define TILE_N 64
#define TILE_K 64
#define STAGES 4
#define WARPS_M 2
#define WARPS_N 2
#define GRANULE_M 128
#define GRANULE_N 128

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

// One thread block's tile of a matrix product, through mma.sync on tensor cores (sm_80 and up; bf16, f16).
// cp.async fills a ring of STAGES shared-memory stages; each warp multiplies fragments of its (TILE_M / WARPS_M) x (TILE_N / WARPS_N) part.
// Shared memory holds 16-byte chunks, swizzled by row so that ldmatrix meets no bank conflict:
//   KMajor  [tile row][k]: chunk ^ row   (the source's rows are the tile's rows)
//   MnMajor [k][tile row]: chunk ^ k     (the source's rows are the k, ldmatrix transposes)

#define THREADS (WARPS_M * WARPS_N * 32)
#define WARP_M (TILE_M / WARPS_M)
#define WARP_N (TILE_N / WARPS_N)
#define FRAGMENTS_M (WARP_M / 16)
#define FRAGMENTS_N (WARP_N / 8)
#define ACC_ROWS (2 * FRAGMENTS_M)   // rows of the tile that one thread holds sums of
#define ACC_COLS (2 * FRAGMENTS_N)   // and columns
#define A_BYTES (TILE_M * TILE_K * 2)
#define B_BYTES (TILE_N * TILE_K * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define RING_BYTES (STAGES * STAGE_BYTES)
#define ROW_LANES 4                  // neighbouring lanes that share a row
#define ROW_WARPS WARPS_N            // warps that share a row
#define COL_WARPS WARPS_M

DEVICE int row_warp() { return warp_id() % WARPS_N; }   // this warp's place among those that share its rows
DEVICE int col_warp() { return warp_id() / WARPS_N; }
DEVICE int acc_row(int r) { return col_warp() * WARP_M + (r >> 1) * 16 + (r & 1) * 8 + (lane_id() >> 2); }
DEVICE int acc_col(int c) { return row_warp() * WARP_N + (c >> 1) * 8 + (lane_id() & 3) * 2 + (c & 1); }

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

DEVICE void copy_whole(u32 to, const Elem* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Copies 16 bytes, the first `valid` of them from memory, the rest zeros. ALIGN is what source addresses are known to be multiples of.
template <int ALIGN> DEVICE void copy_chunk(u32 to, const Elem* from, int valid) {
    if constexpr (ALIGN == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
    } else if constexpr (ALIGN >= 4) {
        #pragma unroll
        for (int i = 0; i < 16; i += ALIGN) {
            int left = min(max(valid - i, 0), ALIGN);
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to + i), "l"((const char*)from + i), "n"(ALIGN), "r"(left) : "memory");
        }
    } else {
        u32 w[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int i = 0; i < 8; i++) if (2 * i < valid) w[i >> 1] |= (u32)from[i] << (16 * (i & 1));
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
    }
}

template <bool TRANSPOSE> DEVICE void ldmatrix(u32 (&f)[4], u32 from) {
    if constexpr (TRANSPOSE)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(from) : "memory");
}

// An operand whose source rows, STRIDE elements apart, are tile rows, consecutive in k. MAPPED: tile row r is source row map[r].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct KMajor {
    static constexpr int CHUNKS = TILE_K / 8;
    static constexpr int STEP = THREADS / CHUNKS;            // rows between a thread's copies: a multiple of the swizzle's period
    static constexpr int COPIES = TILE / STEP;
    static_assert(TILE % STEP == 0 && STEP % 8 == 0, "a tile's rows divide among the threads");
    const Elem* source; int row, rows, k_end; bool inside; const int* map;
    int mapped[MAPPED ? COPIES : 1];

    // `row_count` source rows, valid for k < k_limit; the tile begins at `row0`.
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) {
        row = row0 + (int)threadIdx.x / CHUNKS;
        inside = row0 + TILE <= rows;
        if constexpr (MAPPED) {
            #pragma unroll
            for (int i = 0; i < COPIES; i++) { int r = row + i * STEP; mapped[i] = r < rows ? map[r] : 0; }
        }
    }
    DEVICE void prefetch(int) {}
    DEVICE void load(u32 to, int k0) const {
        int chunk = threadIdx.x % CHUNKS, local = threadIdx.x / CHUNKS, k = k0 + chunk * 8;
        to += local * (TILE_K * 2) + ((chunk ^ swizzle(local)) << 4);
        if (ALIGN == 16 && k0 + TILE_K <= k_end && (MAPPED || inside)) {
            const Elem* from = source + (i64)row * STRIDE + k;
            #pragma unroll
            for (int i = 0; i < COPIES; i++)
                copy_whole(to + i * STEP * (TILE_K * 2), MAPPED ? source + (i64)mapped[MAPPED ? i : 0] * STRIDE + k : from + (i64)i * STEP * STRIDE);
        } else {
            int in_row = min(max(k_end - k, 0), 8) * 2;
            #pragma unroll 1                                  // a loop, so that this rare path stays a branch
            for (int i = 0; i < COPIES; i++) {
                int valid = row + i * STEP < rows ? in_row : 0;
                i64 at = MAPPED && valid ? map[row + i * STEP] : row + i * STEP;
                copy_chunk<ALIGN>(to + i * STEP * (TILE_K * 2), source + (valid ? at * STRIDE + k : 0), valid);
            }
        }
    }
    DEVICE static int swizzle(int r) { return CHUNKS >= 8 ? r & 7 : (r >> 1) & 3; }
    // Four 8 x 8 blocks of rows r0 .. r0 + 16 and k kk * 16 .. + 16: rows fastest for the left operand, k fastest for the right one.
    template <bool LEFT> DEVICE static void fragments(u32 (&f)[4], u32 from, int r0, int kk) {
        int low = (lane_id() >> 3) & 1, high = lane_id() >> 4;
        int r = (lane_id() & 7) + (LEFT ? low : high) * 8, chunk = kk * 2 + (LEFT ? high : low);
        ldmatrix<false>(f, from + (r0 + r) * (TILE_K * 2) + ((chunk ^ swizzle(r)) << 4));
    }
};

// An operand whose source rows, STRIDE elements apart, are the k, consecutive along the tile's rows. MAPPED: k is source row map[k].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct MnMajor {
    static constexpr int CHUNKS = TILE / 8;
    static constexpr int STEP = THREADS / CHUNKS;            // k between a thread's copies
    static constexpr int COPIES = TILE_K / STEP;
    static_assert(TILE_K % STEP == 0, "a tile's k divide among the threads");
    const Elem* source; int first, rows, k_end; bool inside; const int* map;
    int mapped[MAPPED ? COPIES : 1];

    // k_limit source rows; the tile begins at element `row0` of a row, and `row_count` bounds it.
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) {
        first = row0 + ((int)threadIdx.x % CHUNKS) * 8;
        inside = row0 + TILE <= rows;
    }
    // The rows of the stage at k0, looked up one stage ahead of their copies.
    DEVICE void prefetch(int k0) {
        if constexpr (MAPPED) {
            #pragma unroll
            for (int i = 0; i < COPIES; i++) { int k = k0 + (int)threadIdx.x / CHUNKS + i * STEP; mapped[i] = k < k_end ? map[k] : 0; }
        }
    }
    DEVICE void load(u32 to, int k0) const {
        int chunk = threadIdx.x % CHUNKS, local = threadIdx.x / CHUNKS;
        auto place = [&](int i) { int k = local + i * STEP; return to + k * (TILE * 2) + ((chunk ^ ((STEP % 8 ? k : local) & 7)) << 4); };
        if (ALIGN == 16 && inside && k0 + TILE_K <= k_end) {
            const Elem* from = source + (i64)(k0 + local) * STRIDE + first;
            #pragma unroll
            for (int i = 0; i < COPIES; i++)
                copy_whole(place(i), MAPPED ? source + (i64)mapped[MAPPED ? i : 0] * STRIDE + first : from + (i64)i * STEP * STRIDE);
        } else {
            int in_row = min(max(rows - first, 0), 8) * 2;
            #pragma unroll 1                                  // a loop, so that this rare path stays a branch
            for (int i = 0; i < COPIES; i++) {
                int k = k0 + local + i * STEP, valid = k < k_end ? in_row : 0;
                i64 at = MAPPED && valid ? map[k] : k;
                copy_chunk<ALIGN>(place(i), source + (valid ? at * STRIDE + first : 0), valid);
            }
        }
    }
    template <bool LEFT> DEVICE static void fragments(u32 (&f)[4], u32 from, int r0, int kk) {
        int low = (lane_id() >> 3) & 1, high = lane_id() >> 4;
        int k = kk * 16 + (lane_id() & 7) + (LEFT ? high : low) * 8, chunk = (r0 >> 3) + (LEFT ? low : high);
        ldmatrix<true>(f, from + k * (TILE * 2) + ((chunk ^ (k & 7)) << 4));
    }
};

#if defined(DTYPE_BF16)
#define MMA_TYPES "bf16.bf16"
#else
#define MMA_TYPES "f16.f16"
#endif
DEVICE void mma(float& d0, float& d1, float& d2, float& d3, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The operands of one multiplication 16 deep: the fragments of a warp's rows and columns.
struct Fragments { u32 a[FRAGMENTS_M][4], b[FRAGMENTS_N / 2][4]; };

template <class A, class B> DEVICE void fetch(Fragments& f, u32 stage, int kk) {
    #pragma unroll
    for (int i = 0; i < FRAGMENTS_M; i++) A::template fragments<true>(f.a[i], stage, col_warp() * WARP_M + i * 16, kk);
    #pragma unroll
    for (int j = 0; j < FRAGMENTS_N / 2; j++) B::template fragments<false>(f.b[j], stage + A_BYTES, row_warp() * WARP_N + j * 16, kk);
}

DEVICE void multiply(float (&acc)[ACC_ROWS][ACC_COLS], const Fragments& f) {
    #pragma unroll
    for (int i = 0; i < FRAGMENTS_M; i++)
        #pragma unroll
        for (int j = 0; j < FRAGMENTS_N; j++)
            mma(acc[2 * i][2 * j], acc[2 * i][2 * j + 1], acc[2 * i + 1][2 * j], acc[2 * i + 1][2 * j + 1], f.a[i], f.b[j / 2][j % 2 * 2], f.b[j / 2][j % 2 * 2 + 1]);
}

// Products of A's tile with B's tiles first .. last over some steps of the depth; done(acc, tile) takes each while the next one's copies are under way. DEEP
// or not is one: the operands are rounded more than sums of any depth.
template <bool DEEP, int GRANULE, class A, class B, class Done>
DEVICE void walk(unsigned char* shared, A& a, B& b, int first, int last, const Steps<GRANULE>& depth, Done done) {
    static_assert(TILE_K % 32 == 0, "an even number of multiplications a stage, so that fragments alternate between two sets");
    u32 ring = shared_address(shared);
    int steps = depth.count(), total = (last - first) * steps;
    float acc[ACC_ROWS][ACC_COLS] = {};
    if (steps == 0) { for (int tile = first; tile < last; tile++) done(acc, tile); return; }
    int ahead_tile = first, ahead_step = 0, issued = 0;
    Steps<GRANULE> ahead = depth;
    int ahead_k = ahead.next();
    a.prefetch(ahead_k); b.prefetch(ahead_k);
    auto issue = [&](u32 to) {                                // one stage's copies, or an empty group behind the end
        if (issued < total) {
            a.load(to, ahead_k); b.load(to + A_BYTES, ahead_k);
            if (++ahead_step == steps) { ahead_step = 0; ahead = depth; b.seek(++ahead_tile * TILE_N); }
            ahead_k = ahead.next();
            a.prefetch(ahead_k); b.prefetch(ahead_k);
        }
        issued++;
        cp_async_commit();
    };
    #pragma unroll 1
    for (int i = 0; i < STAGES; i++) issue(ring + i * STAGE_BYTES);
    cp_async_wait<STAGES - 1>();
    __syncthreads();
    Fragments f[2];
    fetch<A, B>(f[0], ring, 0);
    u32 stage = ring;
    int step = 0, tile = first;
    #pragma unroll 1
    for (int at = 0; at < total; at++) {
        u32 next = stage + STAGE_BYTES == ring + RING_BYTES ? ring : stage + STAGE_BYTES;
        #pragma unroll
        for (int kk = 0; kk < TILE_K / 16; kk++) {
            if (kk + 1 < TILE_K / 16) fetch<A, B>(f[(kk + 1) & 1], stage, kk + 1);
            else {
                cp_async_wait<STAGES - 2>();
                __syncthreads();                              // the next stage has arrived for all, and all have fetched the last of this one
                issue(stage);                                 // so that it can be refilled
                fetch<A, B>(f[0], next, 0);
            }
            multiply(acc, f[kk & 1]);
        }
        stage = next;
        if (++step == steps) {
            step = 0;
            done(acc, tile++);
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++)
                #pragma unroll
                for (int c = 0; c < ACC_COLS; c++) acc[r][c] = 0.0f;
            if (at + 1 < total) fetch<A, B>(f[0], stage, 0);  // again: meanwhile `done` had its registers
        }
    }
    cp_async_wait<0>();
    __syncthreads();                                          // the ring may be used for other things
}

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    const float* v2_bias;  // [VOCAB]
    const float* v3_weight;  // [tokens]
    ScalarArg v4_cap;
    ScalarArg v5_zw;
};
#define STATS 5
#define HAS_SOFTMAX
#define HAS_TARGET
#define MASK_LOGITS 0
struct Uniform { float u0; float u1; float u2; };
DEVICE Uniform uniform_of(const Values& values) {
    const float t7 = 1.0f / scalar(values.v4_cap);
    const float t57 = -t7;
    return Uniform{t7, scalar(values.v4_cap), t57};
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
    const float t4 = x + column.v2_bias;
    const float t8 = t4 * uniform.u0;
    const float t9 = tanh_of(t8);
    const float t10 = uniform.u1 * t9;
    return t10;
}
// One column joins: e = exp(z - reference), 0 where it is not live.
DEVICE void stats_add(float (&s)[STATS], float x, float z, float e, bool live, int col, const RowIn& row, const ColIn& column, const Uniform& uniform) {
    s[1] += e;
    s[2] += live ? e * z : 0.0f;
    const float t4 = x + column.v2_bias;
    const float t8 = t4 * uniform.u0;
    const float t9 = tanh_of(t8);
    const float t33 = t9 * t9;
    const float t34 = 1.0f - t33;
    const float t56 = t4 * t34;
    const float t58 = t56 * uniform.u2;
    const float t59 = t9 + t58;
    s[3] += live ? e * t59 : 0.0f;
    const float t68 = t9 * t59;
    s[4] += live ? e * t68 : 0.0f;
}
DEVICE void stats_init(float (&s)[STATS]) {
    s[0] = NEG_INF; s[1] = 0.0f;
    s[2] = 0.0f;
    s[3] = 0.0f;
    s[4] = 0.0f;
}
DEVICE void stats_rescale(float (&s)[STATS], float factor) {
    s[1] *= factor;
    s[2] *= factor;
    s[3] *= factor;
    s[4] *= factor;
}
DEVICE void stats_merge(float (&s)[STATS], const float (&o)[STATS]) {
    float reference = fmaxf(s[0], o[0]), mine = rescale(s[0], reference), its = rescale(o[0], reference);
    s[0] = reference; s[1] = s[1] * mine + o[1] * its;
    s[2] = s[2] * mine + o[2] * its;
    s[3] = s[3] * mine + o[3] * its;
    s[4] = s[4] * mine + o[4] * its;
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

// The largest logit of each row in a tile, of columns that are not its target: maxima [tiles of the vocabulary][tokens], in the order of the rows. From
// the lanes that share a row, then, where warps do, through `exchange` [ROW_WARPS][TILE_M].
DEVICE void write_maxima(float (&largest)[ACC_ROWS], float* maxima, int tile, int row0, int rows, int tokens, [[maybe_unused]] float* exchange) {
    float* to = maxima + (u64)tile * tokens + row0;
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        #pragma unroll
        for (int mask = 1; mask < ROW_LANES; mask *= 2) largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffff, largest[r], mask));
        if ((lane_id() & (ROW_LANES - 1)) != 0) continue;
#if ROW_WARPS > 1
        exchange[row_warp() * TILE_M + acc_row(r)] = largest[r];
#else
        if (row0 + acc_row(r) < rows) to[acc_row(r)] = largest[r];
#endif
    }
#if ROW_WARPS > 1
    __syncthreads();                                          // before the next tile's, all threads meet again while it is multiplied
    for (int i = threadIdx.x; i < TILE_M && row0 + i < rows; i += THREADS) {
        float most = exchange[i];
        #pragma unroll
        for (int w = 1; w < ROW_WARPS; w++) most = fmaxf(most, exchange[w * TILE_M + i]);
        to[i] = most;
    }
#endif
}


#define WALK_TILES 8

// How thread blocks divide row_blocks x tiles: the tiles of every row block are cut into as many parts, one for a thread block.
struct Walk {
    int row_blocks, tiles, cut;

    DEVICE Walk(int rows, int block, int, int tile_count, int parts) { row_blocks = ceil_div(rows, block); tiles = tile_count; cut = parts; }
    DEVICE int begin_of(int part) const { return (int)((i64)tiles * part / cut); }
    DEVICE int most_parts() const { return cut; }
    DEVICE int parts_of(int) const { return cut; }
};

// Forward: every reduction over the vocabulary in one pass over the logits, which never leave registers.
// A block takes TILE_M tokens and one part of the vocabulary; each thread keeps running statistics of its rows over its columns, relative to
// a running reference (the largest exponent so far), and the block writes one partial a row. No atomics: the merge adds them in a fixed order.

// E [tokens, HIDDEN], C [VOCAB, HIDDEN]; partials [splits][STATS][row blocks * TILE_M], in the order of the rows. order, count: the tokens that count, if PACKED.
// maxima: of write_maxima, where tiles of the gradient are skipped.
extern "C" __global__ void __launch_bounds__(THREADS, 1) logits_forward(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        float* __restrict__ target_logit, float* __restrict__ partials, int tokens, int splits, int group, float* __restrict__ maxima) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), splits, group);
    int row0 = place.row_block * TILE_M, split = place.column;
    if (row0 >= rows) return;

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = max(token, 0);
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    const Walk tiles(rows, TILE_M, group, WALK_TILES, splits);
    const int first = tiles.begin_of(split), last = tiles.begin_of(split + 1), pitch = tiles.row_blocks * TILE_M;
    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b; b.init(classifier, first * TILE_N, VOCAB, HIDDEN, 0);
    const Uniform uniform = uniform_of(values);
    float stats[ACC_ROWS][STATS];
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) stats_init(stats[r]);

    walk<false>(shared, a, b, first, last, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int tile) {
        float most[ACC_ROWS];
        join_tile(acc, stats, most, tile, SharedRows{token_of}, SharedRows{target_of}, values, uniform, target_logit);
#if GRANULE_M > 0
        write_maxima(most, maxima, tile, row0, rows, tokens, (float*)(target_of + TILE_M));
#endif
    });

    // The threads that share a row merge theirs: neighbouring lanes first, then warps through shared memory.
    float* exchange = (float*)shared;                         // [ROW_WARPS][STATS][TILE_M]
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        merge_lanes<ROW_LANES>(stats[r]);
        if ((lane_id() & (ROW_LANES - 1)) == 0)
            #pragma unroll
            for (int k = 0; k < STATS; k++) exchange[(row_warp() * STATS + k) * TILE_M + acc_row(r)] = stats[r][k];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_M && row0 + i < rows; i += THREADS) {
        float sum[STATS], other[STATS];
        #pragma unroll
        for (int k = 0; k < STATS; k++) sum[k] = exchange[k * TILE_M + i];
        for (int w = 1; w < ROW_WARPS; w++) {
            #pragma unroll
            for (int k = 0; k < STATS; k++) other[k] = exchange[(w * STATS + k) * TILE_M + i];
            stats_merge(sum, other);
        }
        #pragma unroll
        for (int k = 0; k < STATS; k++) partials[(u64)(split * STATS + k) * pitch + row0 + i] = sum[k];
    }
}
