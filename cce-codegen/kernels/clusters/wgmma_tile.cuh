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

// The tile's instruction stands here.

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
