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
