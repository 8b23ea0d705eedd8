// Forward pass over the logits.
// loss `cross_entropy`, any number of tokens, hidden 2304, vocabulary 256000, bf16

#define DTYPE_BF16
#define HIDDEN 2304
#define VOCAB 256000
#define PACKED 0
#define TILE_M 128
#define TILE_N 256
#define TILE_K 64
#define STAGES 4
#define CLUSTER 2
#define WARPGROUP_ROWS 64
#define BARRIER_BYTES 128
#define STAGING_BYTES 16384
#define GRANULE_M 256
#define GRANULE_N 256

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

// One cluster's tile of a matrix product, through wgmma on Hopper's tensor cores (sm_90a; bf16, f16).
// A cluster of two blocks takes 2 x TILE_M rows and TILE_N columns: each block has its own left operand, and each loads a part of the right one and
// multicasts it to both. Roles: warpgroup 0 produces (one thread issues TMA copies into a ring of STAGES shared-memory stages; in the sampled walk its other
// warps serve the consumers' queues), warpgroups 1 and 2 consume, 64 rows each, sums in registers. Barriers of a stage: `full` counts its bytes, `empty`
// the four consumers of the cluster.
// Shared memory holds rows of 128 bytes, swizzled by TMA in units of 16 bytes over 8 rows:
//   K-major   [tile row][k]: a block of TILE rows      (the source's rows are the tile's rows)
//   Mn-major  [k][tile row]: a block every 64 tile rows (the source's rows are the k, wgmma transposes)

#define THREADS 384
#define CONSUMERS 256
#define WARPGROUPS 2                 // that consume
#define CLUSTER_M (CLUSTER * TILE_M)
#define ACC_ROWS 2                   // rows of the tile that one thread holds sums of
#define ACC_COLS (TILE_N / 4)        // and columns
#define ROW_LANES 4                  // neighbouring lanes that share a row
#define ROW_WARPS 1                  // warps that share a row
#define A_BYTES (TILE_M * 128)
#define B_BYTES (TILE_N * 128)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define RING_BYTES (STAGES * STAGE_BYTES)
static_assert(TILE_M == WARPGROUPS * WARPGROUP_ROWS && TILE_K == 64, "the consumers' rows, one swizzled row of k");
static_assert(16 * STAGES <= BARRIER_BYTES, "two barriers of 8 bytes a stage");

DEVICE int warpgroup() { return threadIdx.x >> 7; }
DEVICE int consumer() { return warpgroup() - 1; }
DEVICE int acc_row(int r) { return consumer() * WARPGROUP_ROWS + (warp_id() & 3) * 16 + r * 8 + (lane_id() >> 2); }
DEVICE int acc_col(int c) { return (c >> 1) * 8 + (lane_id() & 3) * 2 + (c & 1); }
DEVICE u32 cluster_rank() { u32 r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
// All threads of the cluster, of which one of the producer's warp may have gone through a loop alone.
DEVICE void cluster_sync() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// --- barriers ------------------------------------------------------------------------------------------------------
DEVICE void barrier_init(u32 barrier, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)); }
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 phase) {
    asm volatile("{\n.reg .pred p;\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}"
        ::"r"(barrier), "r"(phase) : "memory");
}
// Without .release.cluster, which would compile to a fence of all memory: what is released was only read, and by wgmma, which has been waited for.
DEVICE void barrier_arrive(u32 barrier, u32 rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}"
        ::"r"(barrier), "r"(rank) : "memory");
}

// --- copies --------------------------------------------------------------------------------------------------------
struct alignas(64) TensorMap { u64 opaque[16]; };

// A box of 64 elements along x and the map's number of rows along y; what lies outside the matrix arrives as zeros.
DEVICE void load_box(u32 to, const TensorMap& map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
        ::"r"(to), "l"(&map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
DEVICE void load_box_for_both(u32 to, const TensorMap& map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
        ::"r"(to), "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"((u16)3) : "memory");
}

// The same of a matrix in blocks of 64 columns.
DEVICE void load_box_of_block(u32 to, const TensorMap& map, int block, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(to), "l"(&map), "r"(0), "r"(y), "r"(block), "r"(barrier) : "memory");
}

// The ring begins at the first multiple of 1024 bytes: descriptors and swizzle count from there.
DEVICE unsigned char* ring_of(unsigned char* shared) { return shared + (-shared_address(shared) & 1023); }

// Where producers and consumers stand in the ring.
struct Ring {
    u32 stages, barriers, stage = 0, phase = 0;

    // Opens the ring, for all threads of the cluster.
    DEVICE explicit Ring(unsigned char* shared) {
        stages = shared_address(ring_of(shared));
        barriers = stages + RING_BYTES;
        if (threadIdx.x == 0) {
            for (int s = 0; s < STAGES; s++) { barrier_init(full(s), 1); barrier_init(empty(s), CLUSTER * WARPGROUPS); }
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        cluster_sync();
    }
    DEVICE u32 full(u32 s) const { return barriers + 8 * s; }
    DEVICE u32 empty(u32 s) const { return barriers + 8 * (STAGES + s); }
    DEVICE u32 at() const { return stages + stage * STAGE_BYTES; }
    DEVICE void advance() { if (++stage == STAGES) { stage = 0; phase ^= 1; } }
    // A consumer warpgroup has read the stage before the current one: both producers hear of it, for both fill it.
    DEVICE void release_previous() const {
        u32 previous = stage == 0 ? STAGES - 1 : stage - 1, thread = threadIdx.x & 127;
        if (thread < CLUSTER) barrier_arrive(empty(previous), thread);
    }

    // The producer's part of one tile: rows from row0 and columns from col0, a stage for each step of k, which counts from 0 (left) and right_k (right).
    // The left matrix may be in blocks of 64 columns.
    template <bool A_K_MAJOR, bool B_K_MAJOR, bool A_IN_BLOCKS = false, int GRANULE>
    DEVICE void produce(const TensorMap& left, int row0, const TensorMap& right, int col0, int right_k, Steps<GRANULE> steps) {
        int half = cluster_rank();
        for (int k = steps.next(); k < steps.depth; k = steps.next()) {
            barrier_wait(empty(stage), phase ^ 1);
            u32 a = at(), b = a + A_BYTES, barrier = full(stage);
            barrier_expect(barrier, STAGE_BYTES);
            if constexpr (A_IN_BLOCKS && A_K_MAJOR) load_box_of_block(a, left, k / 64, row0, barrier);
            else if constexpr (A_IN_BLOCKS) for (int i = 0; i < TILE_M / 64; i++) load_box_of_block(a + i * 8192, left, row0 / 64 + i, k, barrier);
            else if constexpr (A_K_MAJOR) load_box(a, left, k, row0, barrier);
            else for (int i = 0; i < TILE_M / 64; i++) load_box(a + i * 8192, left, row0 + i * 64, k, barrier);
            if constexpr (B_K_MAJOR) load_box_for_both(b + half * (B_BYTES / 2), right, right_k + k, col0 + half * (TILE_N / 2), barrier);
            else for (int i = half; i < TILE_N / 64; i += CLUSTER) load_box_for_both(b + i * 8192, right, col0 + i * 64, right_k + k, barrier);
            advance();
        }
    }
    // All of `steps` stages.
    template <bool A_K_MAJOR, bool B_K_MAJOR> DEVICE void produce(const TensorMap& left, int row0, const TensorMap& right, int col0, int right_k, int steps) {
        produce<A_K_MAJOR, B_K_MAJOR>(left, row0, right, col0, right_k, all_steps(steps * TILE_K));
    }
};

// --- multiplication ------------------------------------------------------------------------------------------------
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

// A matrix in shared memory, 128-byte swizzle: 8 rows every 1024 bytes; Mn-major blocks of 64 every 8192.
DEVICE u64 descriptor(u32 address) { return (u64)((address & 0x3ffff) >> 4) | (u64)(8192 >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62; }

template <int TRANSPOSE_A, int TRANSPOSE_B> DEVICE void wgmma(float (&acc)[ACC_ROWS][ACC_COLS], u64 a, u64 b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, p, 1, 1, %131, %132;\n}"
        : "+f"(acc[0][0]), "+f"(acc[0][1]), "+f"(acc[1][0]), "+f"(acc[1][1]), "+f"(acc[0][2]), "+f"(acc[0][3]), "+f"(acc[1][2]), "+f"(acc[1][3]), "+f"(acc[0][4]), "+f"(acc[0][5]), "+f"(acc[1][4]), "+f"(acc[1][5]), "+f"(acc[0][6]), "+f"(acc[0][7]), "+f"(acc[1][6]), "+f"(acc[1][7]),
            "+f"(acc[0][8]), "+f"(acc[0][9]), "+f"(acc[1][8]), "+f"(acc[1][9]), "+f"(acc[0][10]), "+f"(acc[0][11]), "+f"(acc[1][10]), "+f"(acc[1][11]), "+f"(acc[0][12]), "+f"(acc[0][13]), "+f"(acc[1][12]), "+f"(acc[1][13]), "+f"(acc[0][14]), "+f"(acc[0][15]), "+f"(acc[1][14]), "+f"(acc[1][15]),
            "+f"(acc[0][16]), "+f"(acc[0][17]), "+f"(acc[1][16]), "+f"(acc[1][17]), "+f"(acc[0][18]), "+f"(acc[0][19]), "+f"(acc[1][18]), "+f"(acc[1][19]), "+f"(acc[0][20]), "+f"(acc[0][21]), "+f"(acc[1][20]), "+f"(acc[1][21]), "+f"(acc[0][22]), "+f"(acc[0][23]), "+f"(acc[1][22]), "+f"(acc[1][23]),
            "+f"(acc[0][24]), "+f"(acc[0][25]), "+f"(acc[1][24]), "+f"(acc[1][25]), "+f"(acc[0][26]), "+f"(acc[0][27]), "+f"(acc[1][26]), "+f"(acc[1][27]), "+f"(acc[0][28]), "+f"(acc[0][29]), "+f"(acc[1][28]), "+f"(acc[1][29]), "+f"(acc[0][30]), "+f"(acc[0][31]), "+f"(acc[1][30]), "+f"(acc[1][31]),
            "+f"(acc[0][32]), "+f"(acc[0][33]), "+f"(acc[1][32]), "+f"(acc[1][33]), "+f"(acc[0][34]), "+f"(acc[0][35]), "+f"(acc[1][34]), "+f"(acc[1][35]), "+f"(acc[0][36]), "+f"(acc[0][37]), "+f"(acc[1][36]), "+f"(acc[1][37]), "+f"(acc[0][38]), "+f"(acc[0][39]), "+f"(acc[1][38]), "+f"(acc[1][39]),
            "+f"(acc[0][40]), "+f"(acc[0][41]), "+f"(acc[1][40]), "+f"(acc[1][41]), "+f"(acc[0][42]), "+f"(acc[0][43]), "+f"(acc[1][42]), "+f"(acc[1][43]), "+f"(acc[0][44]), "+f"(acc[0][45]), "+f"(acc[1][44]), "+f"(acc[1][45]), "+f"(acc[0][46]), "+f"(acc[0][47]), "+f"(acc[1][46]), "+f"(acc[1][47]),
            "+f"(acc[0][48]), "+f"(acc[0][49]), "+f"(acc[1][48]), "+f"(acc[1][49]), "+f"(acc[0][50]), "+f"(acc[0][51]), "+f"(acc[1][50]), "+f"(acc[1][51]), "+f"(acc[0][52]), "+f"(acc[0][53]), "+f"(acc[1][52]), "+f"(acc[1][53]), "+f"(acc[0][54]), "+f"(acc[0][55]), "+f"(acc[1][54]), "+f"(acc[1][55]),
            "+f"(acc[0][56]), "+f"(acc[0][57]), "+f"(acc[1][56]), "+f"(acc[1][57]), "+f"(acc[0][58]), "+f"(acc[0][59]), "+f"(acc[1][58]), "+f"(acc[1][59]), "+f"(acc[0][60]), "+f"(acc[0][61]), "+f"(acc[1][60]), "+f"(acc[1][61]), "+f"(acc[0][62]), "+f"(acc[0][63]), "+f"(acc[1][62]), "+f"(acc[1][63])
        : "l"(a), "l"(b), "r"(add), "n"(TRANSPOSE_A), "n"(TRANSPOSE_B));
}

// The consumer's part of one tile: acc = left * right over `steps` stages; undefined if there is none.
template <bool A_K_MAJOR, bool B_K_MAJOR> DEVICE void multiply(float (&acc)[ACC_ROWS][ACC_COLS], Ring& ring, int steps) {
    // 16 k are 32 bytes of a K-major row, 2048 bytes of an Mn-major block.
    if (GRANULE_M > 0 && steps == 0) return;                  // the stage before is another tile's, and released
    constexpr int A_STEP = (A_K_MAJOR ? 32 : 2048) >> 4, B_STEP = (B_K_MAJOR ? 32 : 2048) >> 4;
    for (int k = 0; k < steps; k++) {
        barrier_wait(ring.full(ring.stage), ring.phase);
        u64 a = descriptor(ring.at() + consumer() * 8192), b = descriptor(ring.at() + A_BYTES);
        wgmma_fence();
        #pragma unroll
        for (int i = 0; i < TILE_K / 16; i++) wgmma<!A_K_MAJOR, !B_K_MAJOR>(acc, a + i * A_STEP, b + i * B_STEP, k > 0 || i > 0);
        wgmma_commit();
        if (k > 0) { wgmma_wait<1>(); ring.release_previous(); }
        ring.advance();
    }
    wgmma_wait<0>();
    // The sums are no operands of the wait: nothing else keeps their uses behind it.
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++)
        #pragma unroll
        for (int c = 0; c < ACC_COLS; c++) asm volatile("" : "+f"(acc[r][c]) :: "memory");
    ring.release_previous();
}

// --- tiles ---------------------------------------------------------------------------------------------------------
// The tiles of row_blocks x columns that this cluster takes, one after the other: visit(first row of this block's half, first column).
template <class Visit> DEVICE void each_tile(int row_blocks, int columns, int group, Visit visit) {
    for (int i = blockIdx.x / CLUSTER; i < row_blocks * columns; i += gridDim.x / CLUSTER) {
        Place place = place_of(i, row_blocks, columns, group);
        visit(place.row_block * CLUSTER_M + cluster_rank() * TILE_M, place.column * TILE_N);
    }
}

// --- roles ---------------------------------------------------------------------------------------------------------
// A block has 3 x 168 registers for a thread of each warpgroup: PRODUCER for one that produces, the rest for those that consume, in steps of 8.
template <int PRODUCER = 40> DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER)); }
template <int PRODUCER = 40> DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"((3 * 168 - PRODUCER) / 16 * 8)); }
// The threads of one consumer warpgroup wait for each other.
DEVICE void consumer_sync() { asm volatile("bar.sync %0, 128;" ::"r"(consumer() + 1) : "memory"); }

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    int none;
};
#define STATS 2
#define HAS_SOFTMAX
#define HAS_TARGET
#define MASK_LOGITS 1
struct Uniform { };
DEVICE Uniform uniform_of(const Values& values) {
    return Uniform{};
}
struct ColIn { };
DEVICE ColIn col_in(const Values& values, int col) {
    return ColIn{};
}
struct RowIn { };
DEVICE RowIn row_in(const Values& values, int token) {
    return RowIn{};
}
// The logit of the softmax.
DEVICE float logit_of(float x, const RowIn& row, const ColIn& column, const Uniform& uniform) {
    return x;
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

#define WALK_TILES 1000

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

// Forward: every reduction over the vocabulary in one pass over the logits, which never leave registers.
// A persistent cluster takes segments of the walk: 2 x TILE_M tokens and a run of tiles each. A thread keeps running statistics of its two rows over its
// columns, relative to a running reference (the largest exponent so far), and each segment writes one partial a row. No atomics: the merge adds them in
// a fixed order.

// The first WALK_TILES tiles of columns. E [tokens that count, HIDDEN], C [VOCAB, HIDDEN]; partials [parts][STATS][row blocks * CLUSTER_M], in the order of E's rows.
// maxima: of write_maxima, where tiles of the gradient are skipped.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) logits_forward(const __grid_constant__ TensorMap hidden,
        const __grid_constant__ TensorMap classifier, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        const Values values, float* __restrict__ target_logit, float* __restrict__ partials, int tokens, int group, float* __restrict__ maxima) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int STEPS = (HIDDEN + TILE_K - 1) / TILE_K;
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const Walk walk(rows, CLUSTER_M, group, WALK_TILES, gridDim.x / CLUSTER);
    Segments segments{walk, (int)blockIdx.x / CLUSTER};
    Segment s;

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            while (segments.next(s))
                for (int tile = s.first; tile < s.last; tile++)
                    ring.produce<true, true>(hidden, s.row_block * CLUSTER_M + cluster_rank() * TILE_M, classifier, tile * TILE_N, 0, STEPS);
    } else {
        take_registers();
        const Uniform uniform = uniform_of(values);
        float acc[ACC_ROWS][ACC_COLS];
        while (segments.next(s)) {
            int row0 = s.row_block * CLUSTER_M + cluster_rank() * TILE_M;
            HeldRows tokens_of, targets_of;
            float stats[ACC_ROWS][STATS];
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                int at = row0 + acc_row(r), token = token_at(order, at, rows);
                tokens_of.of[r] = max(token, 0);
                targets_of.of[r] = target_in_range(targets, token);
                stats_init(stats[r]);
            }
            for (int tile = s.first; tile < s.last; tile++) {
                multiply<true, true>(acc, ring, STEPS);
                float most[ACC_ROWS];
                join_tile(acc, stats, most, tile, tokens_of, targets_of, values, uniform, target_logit);
#if GRANULE_M > 0
                write_maxima(most, maxima, tile, row0, rows, tokens, 0);
#endif
            }
            int pitch = walk.row_blocks * CLUSTER_M;
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                write_partial(partials, stats[r], s.part, s.last_part, pitch, row0 + acc_row(r));
            }
        }
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
