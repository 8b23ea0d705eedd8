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
