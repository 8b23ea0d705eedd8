// The warps that serve the queues: they look through the groups that a threshold falls into, and what is kept becomes an entry of its segment's stream.

#define SERVERS 3                                             // the producer's warpgroup, but for the warp that copies

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

// What the serving warps have in common: every SERVERS-th queue is this one's, until each has brought all its segments. Lane q keeps what is known of queue q.
DEVICE void serve_queues(unsigned char* shared, int server, int segments, const Served& served) {
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
            const u32 now = emit(stage, __shfl_sync(ALL, count, q), served);
            if (part && lane_id() == 0) *part = Part{stage.first, min(now, stage.capacity)};
            barrier_arrive_here(queue.empty(at));
            if (lane_id() == q) { turns++; count = part ? 0 : now; closed += part != nullptr; }
            if (part && __shfl_sync(ALL, closed, q) == segments) open--;
        }
        if (idle) __nanosleep(1000);
    }
}
