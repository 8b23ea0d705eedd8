// Forward pass over the cold columns, sampled on the way.
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
#define GRANULE_M 0
#define GRANULE_N 0
#define STREAM_ROWS 16
#define SEGMENT_ENTRIES 66
#define FLOOR 1.5e0f
#define EPS 9.765625e-4f
#define MAX_ENTRIES 384
#define QUOTA 8.043504531722055e0f
#define TILE_ENTRIES 11
#define HOT_TILES 7
#define COLD_TILES 993
#define HOT 1792
#define COLD (VOCAB - HOT)
#define BANDS 1
#define SAMPLED_N 256
#define WALK_BLOCK 256
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

// Where a threshold falls into a lane's part of a row, the column is looked for by warps that do not multiply, so that the tensor cores need not wait: a
// consumer warp hands over the group of 8 columns in shared memory. Its queue has QUEUE_STAGES stages of 32 groups; two barriers a stage, as in the ring of
// tiles. (No more than that goes through shared memory: the multiplication takes nearly all of its bandwidth.)

#define QUEUES 8                                              // one for each consumer warp
#define QUEUE_STAGES 2

// Groups of one segment, where its entries go, and whether it ends here: then its part is written.
struct alignas(16) Stage {
    Found found[32];
    Room room;
    Part* part;
    int count, first;                                         // the segment's first tile
};
static_assert(QUEUE_STAGES * (sizeof(Stage) + 16) <= STAGING_BYTES * WARPGROUPS / QUEUES, "a warp's part of the staging");

DEVICE void barrier_arrive_here(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
DEVICE bool barrier_test(u32 barrier, u32 phase) {
    u32 done;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done) : "r"(barrier), "r"(phase) : "memory");
    return done;
}

// Where a consumer warp's queue is.
struct QueueMemory {
    Stage* stages;

    DEVICE QueueMemory(unsigned char* shared, int warp)
        : stages((Stage*)(ring_of(shared) + RING_BYTES + BARRIER_BYTES + warp * (STAGING_BYTES * WARPGROUPS / QUEUES))) {}
    DEVICE u32 full(u32 s) const { return shared_address(stages + QUEUE_STAGES) + 8 * s; }
    DEVICE u32 empty(u32 s) const { return full(QUEUE_STAGES + s); }
    // Every lane arrives for what it has written or read itself.
    DEVICE void init() const { for (int s = 0; s < 2 * QUEUE_STAGES; s++) barrier_init(full(s), 32); }
};

// The consumer warp's end of its queue.
struct Queue : QueueMemory {
    u32 stage = 0, phase = 0;
    int filled = 0;                                           // groups of the stage so far
    Room room;                                                // of the segment

    DEVICE Queue(unsigned char* shared, int warp) : QueueMemory(shared, warp) {}
    DEVICE void advance() { if (++stage == QUEUE_STAGES) { stage = 0; phase ^= 1; } }

    // The stage is complete. Of the whole warp.
    DEVICE void publish(Part* part, int first) {
        if (lane_id() == 0) {
            Stage& to = stages[stage];
            to.room = room; to.part = part; to.count = filled; to.first = first;
        }
        barrier_arrive_here(full(stage));
        advance();
        filled = 0;
    }
    DEVICE void make_room() const { if (filled == 0) barrier_wait(empty(stage), phase ^ 1); }

    // The group of each lane that has `found` one, of the whole warp. Returns whether it got a place: if not, there is one next time.
    DEVICE bool hand_over(bool found, const float (&x)[8], float ahead, u32 step_and_count, float reference, u32 key) {
        make_room();
        const u32 lanes = __ballot_sync(ALL, found);
        const int place = filled + __popc(lanes & ((1u << lane_id()) - 1));
        const bool placed = found && place < 32;
        if (placed) stages[stage].found[place] = found_group(x, ahead, step_and_count, reference, key);
        filled = min(filled + __popc(lanes), 32);
        if (filled == 32) publish(nullptr, 0);
        return placed;
    }
    // The end of a segment, whose first tile is `first`.
    DEVICE void close(Part* part, int first) { make_room(); publish(part, first); }
};

// The warps that serve the queues: they look through the groups that a threshold falls into.

#define SERVERS 3                                             // the producer's warpgroup, but for the warp that copies

// What the serving warps have in common: every SERVERS-th queue is this one's, until each has brought all its segments. Lane q keeps what is known of queue q.
DEVICE void serve_queues(unsigned char* shared, int server, int segments, const Tokens& tokens) {
    u32 turns = 0, count = 0, closed = 0;
    int open = segments > 0 ? ceil_div(QUEUES - server, SERVERS) : 0;
    while (open > 0) {
        bool idle = true;
        #pragma unroll 1
        for (int q = server; q < QUEUES; q += SERVERS) {
            const QueueMemory queue(shared, q);
            const u32 turn = __shfl_sync(ALL, turns, q), at = turn % QUEUE_STAGES;
            if (!__all_sync(ALL, barrier_test(queue.full(at), turn / QUEUE_STAGES & 1))) continue;
            idle = false;
            const Stage& stage = queue.stages[at];
            Part* part = stage.part;
            const u32 now = emit(stage.found[lane_id()], lane_id() < stage.count, stage.room, __shfl_sync(ALL, count, q), tokens);
            if (part && lane_id() == 0) *part = Part{stage.first, min(now, stage.room.capacity)};
            barrier_arrive_here(queue.empty(at));
            if (lane_id() == q) { turns++; count = part ? 0 : now; closed += part != nullptr; }
            if (part && __shfl_sync(ALL, closed, q) == segments) open--;
        }
        if (idle) __nanosleep(1000);
    }
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

// Forward over the cold columns: every reduction, and the sampled filter on the way. Persistent clusters as in the walk over all columns.

// What serving the queues needs; a transform of the logits more.
#define SERVER_REGISTERS (MASK_LOGITS ? 56 : 104)

// E, C: as of `logits_forward`. reference [rows]: log2 of the normaliser as far as known. partials: [1 + parts][STATS][row blocks * CLUSTER_M], of which
// the first holds the hot columns. streams [rows / 16][stream_entries]; segments_of [rows / 16][parts of a row block, at most].
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) sampled_forward(const __grid_constant__ TensorMap hidden,
        const __grid_constant__ TensorMap classifier, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        const Values values, const SeedArg seed, float* __restrict__ target_logit, const float* __restrict__ reference, float* __restrict__ partials,
        Entry* __restrict__ streams, Part* __restrict__ segments_of, int tokens, int group) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int STEPS = (HIDDEN + TILE_K - 1) / TILE_K;
    if (threadIdx.x < QUEUES) QueueMemory(shared, threadIdx.x).init();
    Ring ring(shared);                                        // opens the queues, too
    const int rows = PACKED ? *count : tokens;
    const Walk walk(rows, CLUSTER_M, group, COLD_TILES, gridDim.x / CLUSTER);
    const int most_parts = rows > 0 ? walk.most_parts() : 0;
    Segments segments{walk, (int)blockIdx.x / CLUSTER};
    Segment s;

    if (warpgroup() == 0) {
        give_registers<SERVER_REGISTERS>();
        if (threadIdx.x == 0)
            while (segments.next(s))
                for (int tile = s.first; tile < s.last; tile++)
                    ring.produce<true, true>(hidden, s.row_block * CLUSTER_M + cluster_rank() * TILE_M, classifier, (HOT_TILES + tile) * TILE_N, 0, STEPS);
        if (warp_id() > 0) {
            int mine = 0;
            while (segments.next(s)) mine++;
            serve_queues(shared, warp_id() - 1, mine, Tokens{targets, order, values, uniform_of(values), rows});
        }
    } else {
        take_registers<SERVER_REGISTERS>();
        const Uniform uniform = uniform_of(values);
        Queue queue(shared, warp_id() - 4);
        float acc[ACC_ROWS][ACC_COLS];
        while (segments.next(s)) {
            const int row0 = s.row_block * CLUSTER_M + cluster_rank() * TILE_M;
            const int stream = (row0 + acc_row(0)) / STREAM_ROWS;
            const int length = s.last - s.first;
            LaneRows tokens_of, targets_of;
            Sampler sampler;
            #pragma unroll
            for (int r = 0; r < LANE_ROWS; r++) {
                int at = row0 + acc_row(r), token = token_at(order, at, rows);
                tokens_of.of[r] = max(token, 0);
                targets_of.of[r] = target_in_range(targets, token);
                sampler.begin(r, at, rows, tokens_of(r), reference, seed, s.part);
            }
            sampler.rest = QUOTA * length;
            queue.room = Room{streams + stream * stream_entries(most_parts) + segment_begin(s.first, s.part),
                (u32)(TILE_ENTRIES * length + SEGMENT_ENTRIES), row0 + acc_row(0) - lane_row(0)};
            for (int tile = s.first; tile < s.last; tile++) {
                multiply<true, true>(acc, ring, STEPS);
                const int at = HOT_TILES + tile;
                const bool rare = is_rare(at, targets_of) || (at + 1) * TILE_N > VOCAB;
                if (rare) take_targets(acc, at, tokens_of, targets_of, target_logit);
                sample(Tile{acc, tokens_of, targets_of, values, uniform, at * TILE_N}, sampler, queue, s.last - tile, rare);
            }
            const int pitch = walk.row_blocks * CLUSTER_M;
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) write_partial(partials, sampler.stats[r], s.part + 1, s.last_part, pitch, row0 + acc_row(r));
            Part* part = segments_of + stream * most_parts + s.part;
            queue.close(part, s.first);
            if (s.last_part && lane_id() == 0) part[1] = Part{s.last, 0};
        }
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
