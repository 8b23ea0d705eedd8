// Backward pass: the gradient of a chunk's logits.
// loss `label_smoothing`, any number of tokens, some ignored, hidden 123, vocabulary 4099, f16

#define DTYPE_F16
#define HIDDEN 123
#define VOCAB 4099
#define PACKED 1
#define HIDDEN_STRIDE 123
#define HIDDEN_ALIGN 2
#define CLASSIFIER_STRIDE 123
#define CLASSIFIER_ALIGN 2
#define TILE_BYTES 98304
#define TILE_M 128
#define TILE_N 128
#define TILE_K 64
#define STAGES 3
#define WARPS_M 2
#define WARPS_N 2
#define GRANULE_M 0
#define GRANULE_N 0
#define PITCH 512
#define STORE_GRADIENT 1
#define SCALED 1

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

// The gradient of the loss with respect to one logit.

#define COL_PARTS (COL_GRADIENTS > 0 ? COL_GRADIENTS : 1)

// x: the raw logit of column col, in a row whose target is y; parts: what it adds to the gradients of Col inputs.
DEVICE float gradient_at(float x, int col, int y, const Coefs& row, const Values& values, const Uniform& uniform, float (&parts)[COL_PARTS]) {
    ColIn column = col_in(values, col);
    float p = probability(x, row, column, uniform);
#if COL_GRADIENTS > 0
    col_gradients(parts, x, p, col == y, row, column, uniform);
#endif
    return logit_gradient(x, p, col == y, row, column, uniform);
}

// Two neighbouring ones, in the type of the next products' operands.
#ifdef DTYPE_F32
DEVICE void stage2(float* to, float a, float b) { *(float2*)to = make_float2(a, b); }
#else
DEVICE void stage2(u16* to, float a, float b) { *(u32*)to = narrow2(a, b); }
#endif

// Backward, first product: recomputes one chunk's logits and writes their gradient G, tile by tile, in the type of the next products' operands.
// Column sums for Col inputs are taken on the way, one partial a row block: no atomics.

// G of a tile waits in shared memory, so that whole rows of it are written.
#define STAGED_PITCH (TILE_N + 8)                             // elements a row: the pairs of a warp fall into different banks

// G [tokens, PITCH] of columns first .. first + width; partials [COL_GRADIENTS][row blocks][width]; live: see steps.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 1) logits_gradient(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        const float* __restrict__ coefs, const float* __restrict__ scale, Elem* __restrict__ gradient, float* __restrict__ partials,
        int tokens, int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    int rows = PACKED ? *count : tokens;
    int blocks = ceil_div(tokens, TILE_M);
    Place place = place_of(blockIdx.x, blocks, ceil_div(width, TILE_N), group);
    int block = place.row_block, tile = place.column, row0 = block * TILE_M;
    if (row0 >= rows) return;
    if (!is_live(live, tokens, row0, first + tile * TILE_N)) {
#if COL_GRADIENTS > 0
        for (int i = threadIdx.x; i < COL_GRADIENTS * TILE_N; i += THREADS) {
            int local = tile * TILE_N + i % TILE_N;
            if (local < width) partials[((u64)(i / TILE_N) * blocks + block) * width + local] = 0.0f;
        }
#endif
        return;
    }

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = token;
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b;
    b.init(classifier + (u64)first * CLASSIFIER_STRIDE, tile * TILE_N, width, HIDDEN, 0);
    const Uniform uniform = uniform_of(values);
    float factor = SCALED ? *scale : 1.0f;
    Elem* staged = (Elem*)shared;
    walk<false>(shared, a, b, tile, tile + 1, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int) {
        __syncthreads();                                      // the ring has been read to its end
#if COL_GRADIENTS > 0
        float sums[COL_GRADIENTS][ACC_COLS] = {};
#endif
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) {
            int token = token_of[acc_row(r)], y = target_of[acc_row(r)];
            if (token < 0) continue;
            Coefs row = coefs_of(coefs, token, tokens);
            #pragma unroll
            for (int c = 0; c < ACC_COLS; c += 2) {
                float g[2] = {};
                #pragma unroll
                for (int i = 0; i < 2; i++) {
                    // Columns behind the chunk's last get values too; nothing reads them.
                    int col = min(first + tile * TILE_N + acc_col(c + i), VOCAB - 1);
                    float parts[COL_PARTS];
                    g[i] = gradient_at(acc[r][c + i], col, y, row, values, uniform, parts);
#if COL_GRADIENTS > 0
                    #pragma unroll
                    for (int k = 0; k < COL_GRADIENTS; k++) sums[k][c + i] += parts[k];
#endif
                }
                if (STORE_GRADIENT) stage2(staged + acc_row(r) * STAGED_PITCH + acc_col(c), g[0] * factor, g[1] * factor);
            }
        }
        __syncthreads();
        if (STORE_GRADIENT) {                                 // row by row, 16 bytes a thread; PITCH leaves room for whole ones
            constexpr int EACH = 16 / sizeof(Elem);
            #pragma unroll 4
            for (int i = threadIdx.x; i < TILE_M * TILE_N / EACH; i += THREADS) {
                int r = i / (TILE_N / EACH), c = i % (TILE_N / EACH) * EACH, local = tile * TILE_N + c;
                if (row0 + r < rows && local < width)
                    *(uint4*)(gradient + (u64)(row0 + r) * PITCH + local) = *(const uint4*)(staged + r * STAGED_PITCH + c);
            }
        }
#if COL_GRADIENTS > 0
        __syncthreads();
        float* exchange = (float*)shared;                     // [COL_WARPS][COL_GRADIENTS][TILE_N]
        #pragma unroll
        for (int k = 0; k < COL_GRADIENTS; k++)
            #pragma unroll
            for (int c = 0; c < ACC_COLS; c++) {
                float sum = sums[k][c];
                #pragma unroll
                for (int mask = ROW_LANES; mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
                if (lane_id() < ROW_LANES) exchange[(col_warp() * COL_GRADIENTS + k) * TILE_N + acc_col(c)] = sum;
            }
        __syncthreads();
        for (int i = threadIdx.x; i < COL_GRADIENTS * TILE_N; i += THREADS) {
            int local = tile * TILE_N + i % TILE_N;
            float sum = 0.0f;
            for (int w = 0; w < COL_WARPS; w++) sum += exchange[w * COL_GRADIENTS * TILE_N + i];
            if (local < width) partials[((u64)(i / TILE_N) * blocks + block) * width + local] = sum;
        }
#endif
    });
}
