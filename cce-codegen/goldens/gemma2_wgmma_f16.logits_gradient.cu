// Backward pass: the gradient of a chunk's logits.
// loss `gemma2`, any number of tokens, some ignored, hidden 136, vocabulary 507, f16

#define DTYPE_F16
#define HIDDEN 136
#define VOCAB 507
#define PACKED 1
#define TILE_M 128
#define TILE_N 128
#define TILE_K 64
#define STAGES 6
#define CLUSTER 2
#define WARPGROUP_ROWS 64
#define BARRIER_BYTES 128
#define STAGING_BYTES 16384
#define GRANULE_M 0
#define GRANULE_N 0
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
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;\n}"
        : "+f"(acc[0][0]), "+f"(acc[0][1]), "+f"(acc[1][0]), "+f"(acc[1][1]), "+f"(acc[0][2]), "+f"(acc[0][3]), "+f"(acc[1][2]), "+f"(acc[1][3]), "+f"(acc[0][4]), "+f"(acc[0][5]), "+f"(acc[1][4]), "+f"(acc[1][5]), "+f"(acc[0][6]), "+f"(acc[0][7]), "+f"(acc[1][6]), "+f"(acc[1][7]),
            "+f"(acc[0][8]), "+f"(acc[0][9]), "+f"(acc[1][8]), "+f"(acc[1][9]), "+f"(acc[0][10]), "+f"(acc[0][11]), "+f"(acc[1][10]), "+f"(acc[1][11]), "+f"(acc[0][12]), "+f"(acc[0][13]), "+f"(acc[1][12]), "+f"(acc[1][13]), "+f"(acc[0][14]), "+f"(acc[0][15]), "+f"(acc[1][14]), "+f"(acc[1][15]),
            "+f"(acc[0][16]), "+f"(acc[0][17]), "+f"(acc[1][16]), "+f"(acc[1][17]), "+f"(acc[0][18]), "+f"(acc[0][19]), "+f"(acc[1][18]), "+f"(acc[1][19]), "+f"(acc[0][20]), "+f"(acc[0][21]), "+f"(acc[1][20]), "+f"(acc[1][21]), "+f"(acc[0][22]), "+f"(acc[0][23]), "+f"(acc[1][22]), "+f"(acc[1][23]),
            "+f"(acc[0][24]), "+f"(acc[0][25]), "+f"(acc[1][24]), "+f"(acc[1][25]), "+f"(acc[0][26]), "+f"(acc[0][27]), "+f"(acc[1][26]), "+f"(acc[1][27]), "+f"(acc[0][28]), "+f"(acc[0][29]), "+f"(acc[1][28]), "+f"(acc[1][29]), "+f"(acc[0][30]), "+f"(acc[0][31]), "+f"(acc[1][30]), "+f"(acc[1][31])
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

// A finished tile passes through shared memory 64 columns at a time, so that global memory is read and written row by row. Beside the ring, for the next
// tile's copies are under way; a consumer warpgroup has its own part and waits for itself alone.

DEVICE unsigned char* staging(unsigned char* shared) {
    return ring_of(shared) + RING_BYTES + BARRIER_BYTES + consumer() * STAGING_BYTES;
}

// visit(row of the tile, column, two sums, what was there) gets each pair of the tile once; held(row, column) is what memory has there, which is read for
// BATCH pairs before the first of them is written, or each would wait for memory by itself. A warp's rows go through its own part of shared memory, permuted
// in units of 8 floats against bank conflicts.
template <int BATCH, class Held, class Visit> DEVICE void each_pair(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared, Held held, Visit visit) {
    float* sums = (float*)staging(shared) + (warp_id() & 3) * 16 * 64;
    const int row0 = acc_row(0) - (lane_id() >> 2), pair_col = lane_id() * 2;
    #pragma unroll
    for (int block = 0; block < TILE_N / 64; block++) {
        __syncwarp();                                         // the block before has been read
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++)
            #pragma unroll
            for (int c = 0; c < 16; c += 2) {
                int row = acc_row(r) & 15;
                *(float2*)&sums[row * 64 + (acc_col(c) ^ (row & 7) << 3)] = make_float2(acc[r][block * 16 + c], acc[r][block * 16 + c + 1]);
            }
        __syncwarp();
        #pragma unroll 1
        for (int first = 0; first < 16; first += BATCH) {
            float2 before[BATCH];
            #pragma unroll
            for (int i = 0; i < BATCH; i++) before[i] = held(row0 + first + i, block * 64 + pair_col);
            #pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int row = first + i;
                float2 pair = *(const float2*)&sums[row * 64 + (pair_col ^ (row & 7) << 3)];
                visit(row0 + row, block * 64 + pair_col, pair.x, pair.y, before[i]);
            }
        }
    }
}

// --- from the program ---
// The program's inputs besides hidden states, classifier and targets.
struct Values {
    const float* v2_bias;  // [VOCAB]
    const float* v3_weight;  // [tokens]
    ScalarArg v4_cap;
    ScalarArg v5_zw;
};
#define COL_GRADIENTS 1
#define HAS_TARGET
struct Uniform { float u0; float u1; };
DEVICE Uniform uniform_of(const Values& values) {
    const float t7 = 1.0f / scalar(values.v4_cap);
    return Uniform{t7, scalar(values.v4_cap)};
}
struct ColIn { float v2_bias; };
DEVICE ColIn col_in(const Values& values, int col) {
    return ColIn{values.v2_bias[col]};
}
// What an element reads of its token: log2 of the normaliser, target parts, Row values.
struct Coefs { float lse2; float target0; float target1; float c0; float c1; };
DEVICE Coefs coefs_of(const float* coefs, int token, int tokens) {
    return Coefs{coefs[(u64)0 * tokens + token], coefs[(u64)1 * tokens + token], coefs[(u64)2 * tokens + token], coefs[(u64)3 * tokens + token], coefs[(u64)4 * tokens + token]};
}
DEVICE float probability(float x, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    const float t4 = x + column.v2_bias;
    const float t8 = t4 * uniform.u0;
    const float t9 = tanh_of(t8);
    const float t10 = uniform.u1 * t9;
    return exp2_approx(t10 * LOG2E - row.lse2);
}
// p A + [target] T + B / V, the target's share formed without a difference.
DEVICE float logit_gradient(float x, float p, bool at_target, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    const float t4 = x + column.v2_bias;
    const float t8 = t4 * uniform.u0;
    const float t9 = tanh_of(t8);
    const float t33 = t9 * t9;
    const float t34 = 1.0f - t33;
    const float t81 = t9 * row.c0;
    const float t82 = row.c1 + t81;
    const float t83 = t34 * t82;
    return (at_target ? row.target0 : p * t83);
}
DEVICE void col_gradients(float (&parts)[COL_GRADIENTS], float x, float p, bool at_target, const Coefs& row, const ColIn& column, const Uniform& uniform) {
    const float t4 = x + column.v2_bias;
    const float t8 = t4 * uniform.u0;
    const float t9 = tanh_of(t8);
    const float t33 = t9 * t9;
    const float t34 = 1.0f - t33;
    const float t81 = t9 * row.c0;
    const float t82 = row.c1 + t81;
    const float t83 = t34 * t82;
    parts[0] = (at_target ? row.target1 : p * t83);
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
// Persistent clusters take tile after tile. Column sums for Col inputs are taken on the way, one partial for a warpgroup's rows: no atomics.

// 8 columns of G, of which those from `width` on become zeros: products read whole blocks of 64.
DEVICE uint4 up_to(uint4 g, int width) {
    u32 pairs[4] = {g.x, g.y, g.z, g.w};
    #pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] &= (2 * i < width ? 0xffffu : 0) | (2 * i + 1 < width ? 0xffff0000u : 0);
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// G [blocks of 64 columns][tokens][64] of columns first .. first + width, zero in rows that do not count and in columns behind those; partials
// [COL_GRADIENTS][blocks of WARPGROUP_ROWS rows][width]; live: see steps.cuh.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) logits_gradient(const __grid_constant__ TensorMap hidden,
        const __grid_constant__ TensorMap classifier, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        const Values values, const float* __restrict__ coefs, const float* __restrict__ scale, Elem* __restrict__ gradient, float* __restrict__ partials,
        int tokens, int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int STEPS = (HIDDEN + TILE_K - 1) / TILE_K;
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const int row_blocks = ceil_div(rows, CLUSTER_M), columns = ceil_div(width, TILE_N);

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            each_tile(row_blocks, columns, group, [&](int row0, int col0) {
                if (is_live(live, tokens, row0, first + col0)) ring.produce<true, true>(hidden, row0, classifier, first + col0, 0, STEPS);
            });
    } else {
        take_registers();
        const Uniform uniform = uniform_of(values);
        const float factor = SCALED ? *scale : 1.0f;
        float acc[ACC_ROWS][ACC_COLS];
        each_tile(row_blocks, columns, group, [&](int row0, int col0) {
            if (!is_live(live, tokens, row0, first + col0)) {
#if COL_GRADIENTS > 0
                int row_block = row0 / WARPGROUP_ROWS + consumer();
                for (int c = threadIdx.x & 127; c < TILE_N && col0 + c < width && row_block * WARPGROUP_ROWS < tokens; c += 128)
                    for (int k = 0; k < COL_GRADIENTS; k++)
                        partials[((u64)k * ceil_div(tokens, WARPGROUP_ROWS) + row_block) * width + col0 + c] = 0.0f;
#endif
                return;
            }
            multiply<true, true>(acc, ring, STEPS);
            Coefs row[ACC_ROWS];
            int counts[ACC_ROWS], target[ACC_ROWS];
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                int at = row0 + acc_row(r), token = token_at(order, at, rows);
                counts[r] = token >= 0;
                target[r] = target_in_range(targets, token);
                row[r] = coefs_of(coefs, max(token, 0), tokens);
            }
            Elem* staged = (Elem*)staging(shared);            // rows of 64, permuted in units of 8 against bank conflicts
            #pragma unroll
            for (int block = 0; block < TILE_N / 64; block++) {
#if COL_GRADIENTS > 0
                float sums[COL_GRADIENTS][16] = {};
#endif
                __syncwarp();                                 // a warp's rows of the block before have been read
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < 16; c += 2) {
                        float g[2];
                        #pragma unroll
                        for (int i = 0; i < 2; i++) {
                            // Columns behind the chunk's last get values too; they go no further.
                            int col = min(first + col0 + block * 64 + acc_col(c + i), VOCAB - 1);
                            float parts[COL_PARTS], value = gradient_at(acc[r][block * 16 + c + i], col, target[r], row[r], values, uniform, parts);
                            g[i] = counts[r] ? value * factor : 0.0f;
#if COL_GRADIENTS > 0
                            #pragma unroll
                            for (int k = 0; k < COL_GRADIENTS; k++) sums[k][c + i] += counts[r] ? parts[k] : 0.0f;
#endif
                        }
                        int local = acc_row(r) & 63;
                        if (STORE_GRADIENT) stage2(staged + local * 64 + (acc_col(c) ^ (local & 7) << 3), g[0], g[1]);
                    }
                __syncwarp();
                if (STORE_GRADIENT && col0 + block * 64 < width) {  // row by row, 16 bytes a thread
                    int left = width - col0 - block * 64;
                    Elem* to = gradient + (u64)(col0 / 64 + block) * tokens * 64;
                    #pragma unroll 4
                    for (int i = lane_id(); i < 16 * 8; i += 32) {
                        int local = (warp_id() & 3) * 16 + i / 8, c = i % 8 * 8, at = row0 + consumer() * 64 + local;
                        uint4 g = *(const uint4*)(staged + local * 64 + (c ^ (local & 7) << 3));
                        if (at < tokens) *(uint4*)(to + (u64)at * 64 + c) = left < 64 ? up_to(g, left - c) : g;
                    }
                }
#if COL_GRADIENTS > 0
                float* exchange = (float*)(staging(shared) + 64 * 64 * sizeof(Elem));  // [warps][64]
                int row_block = row0 / WARPGROUP_ROWS + consumer(), thread = threadIdx.x & 127;
                #pragma unroll
                for (int k = 0; k < COL_GRADIENTS; k++) {
                    #pragma unroll
                    for (int c = 0; c < 16; c++) {
                        float sum = sums[k][c];
                        #pragma unroll
                        for (int mask = ROW_LANES; mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
                        if (lane_id() < ROW_LANES) exchange[(warp_id() & 3) * 64 + acc_col(c)] = sum;
                    }
                    consumer_sync();
                    int col = col0 + block * 64 + thread;
                    if (thread < 64 && col < width && row_block * WARPGROUP_ROWS < tokens) {
                        float sum = exchange[thread] + exchange[64 + thread] + exchange[128 + thread] + exchange[192 + thread];
                        partials[((u64)k * ceil_div(tokens, WARPGROUP_ROWS) + row_block) * width + col] = sum;
                    }
                    consumer_sync();
                }
#endif
            }
        });
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
