// Where a threshold falls into a lane's part of a row, the column is looked for by warps that do not multiply, so that the tensor cores need not wait: a
// consumer warp hands over the group of 8 columns in shared memory. Its queue has QUEUE_STAGES stages of 32 groups; two barriers a stage, as in the ring of
// tiles. (No more than that goes through shared memory: the multiplication takes nearly all of its bandwidth.)

#define GROUPS (ACC_COLS / 8)                                 // of 8 of a lane's columns in a tile
#define QUEUES 8                                              // one for each consumer warp
#define QUEUE_STAGES 2

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
// Groups of one segment, where its entries go, and whether it ends here: then its part is written.
struct alignas(16) Stage {
    Found found[32];
    Entry* entries;
    Part* part;
    u32 capacity;
    int count, first, row0;                                   // the segment's first tile; the first of the warp's rows
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
    DEVICE void init() const { for (int s = 0; s < 2 * QUEUE_STAGES; s++) barrier_init(full(s), 1); }
};

// The consumer warp's end of its queue.
struct Queue : QueueMemory {
    u32 stage = 0, phase = 0;
    int filled = 0;                                           // groups of the stage so far
    Entry* entries; u32 capacity; int row0;                   // of the segment

    DEVICE Queue(unsigned char* shared, int warp) : QueueMemory(shared, warp) {}
    DEVICE void advance() { if (++stage == QUEUE_STAGES) { stage = 0; phase ^= 1; } }

    // The stage is complete. Of the whole warp.
    DEVICE void publish(Part* part, int first) {
        __syncwarp();
        if (lane_id() == 0) {
            Stage& to = stages[stage];
            to.entries = entries; to.capacity = capacity; to.part = part; to.count = filled; to.first = first; to.row0 = row0;
            barrier_arrive_here(full(stage));
        }
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
        if (placed) {
            Found& to = stages[stage].found[place];
            to.low = make_float4(x[0], x[1], x[2], x[3]);
            to.high = make_float4(x[4], x[5], x[6], x[7]);
            *(float4*)&to.ahead = make_float4(ahead, __uint_as_float(step_and_count), reference, __uint_as_float(key));
        }
        filled = min(filled + __popc(lanes), 32);
        if (filled == 32) publish(nullptr, 0);
        return placed;
    }
    // The end of a segment, whose first tile is `first`.
    DEVICE void close(Part* part, int first) { make_room(); publish(part, first); }
};

// What the warps that do not multiply know of the rows.
struct Served {
    const Index* targets; const int* order; const Values& values; const Uniform uniform; int rows;
};

// A stage's entries, behind `count` that its segment has already; returns how many there are then. A lane looks at a group.
DEVICE u32 emit(const Stage& stage, u32 count, const Served& served) {
    const Found found = stage.found[lane_id()];
    const bool valid = lane_id() < stage.count;
    const float x[8] = {found.low.x, found.low.y, found.low.z, found.low.w, found.high.x, found.high.y, found.high.z, found.high.w};
    const float step = __uint_as_float(found.step_and_count & ~7u), per_step = reciprocal(step);
    const int most = (found.step_and_count & 7) + 1;
    float z[8];
#if MASK_LOGITS
    #pragma unroll
    for (int i = 0; i < 8; i++) z[i] = x[i];
#else
    const int token = valid ? token_at(served.order, stage.row0 + entry_row(found.key), served.rows) : -1, y = target_in_range(served.targets, token);
    const RowIn row = row_in(served.values, max(token, 0));
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        int col = valid ? entry_column(found.key) + (acc_col(i) - acc_col(0)) : 0;
        z[i] = masked_logit<true>(x[i], col, y, row, served.values, served.uniform);
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
        if (keep && at < stage.capacity)
            stage.entries[at] = Entry(found.key + (acc_col(i) - acc_col(0)), fmaxf(z[i] * LOG2E, found.reference + log2_approx(step)), x[i]);
        count += __popc(lanes);
    }
    return count;
}

// What a warp that does not multiply does: it serves every `servers`-th queue, until each has brought all its segments. Lane q keeps what is known of queue q.
DEVICE void serve_queues(unsigned char* shared, int server, int servers, int segments, const Served& served) {
    u32 turns = 0, count = 0, closed = 0;
    int open = segments > 0 ? ceil_div(QUEUES - server, servers) : 0;
    while (open > 0) {
        bool idle = true;
        #pragma unroll 1
        for (int q = server; q < QUEUES; q += servers) {
            const QueueMemory queue(shared, q);
            const u32 turn = __shfl_sync(ALL, turns, q), at = turn % QUEUE_STAGES;
            const bool ready = lane_id() == 0 && barrier_test(queue.full(at), turn / QUEUE_STAGES & 1);
            if (!__any_sync(ALL, ready)) continue;
            __syncwarp();                                     // what the first lane has waited for is there for all
            idle = false;
            const Stage& stage = queue.stages[at];
            Part* part = stage.part;
            const u32 now = emit(stage, __shfl_sync(ALL, count, q), served);
            if (part && lane_id() == 0) *part = Part{stage.first, min(now, stage.capacity)};
            __syncwarp();
            if (lane_id() == 0) barrier_arrive_here(queue.empty(at));
            if (lane_id() == q) { turns++; count = part ? 0 : now; closed += part != nullptr; }
            if (part && __shfl_sync(ALL, closed, q) == segments) open--;
        }
        if (idle) __nanosleep(1000);
    }
}
