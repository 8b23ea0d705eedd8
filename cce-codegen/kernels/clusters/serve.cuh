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
