// Forward over the cold columns: every reduction, and the sampled filter on the way. Blocks as in the walk over all columns; a warp samples its pieces of a
// finished tile, and every band of columns has a part of its own in statistics and streams.

// A lane that finds a threshold in one of its groups looks through it at once.
struct Finder {
    Room room; u32 count; const Tokens& tokens;
    DEVICE bool hand_over(bool found, const float (&x)[8], float ahead, u32 step_and_count, float reference, u32 key) {
        count = emit(found_group(x, ahead, step_and_count, reference, key), found, room, count, tokens);
        return found;
    }
};

// What a warp keeps of a piece from tile to tile, once a tile: in local memory, for the sums have the registers.
struct Piece { Sampler sampler; Room room; u32 emitted; };

// E, C: as of `logits_forward`. reference [rows]: log2 of the normaliser as far as known. partials: [1 + parts][STATS][row blocks * TILE_M], of which the
// first holds the hot columns. streams [rows / 16][stream_entries]; segments_of [rows / 16][parts], `splits * BANDS` of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sampled_forward(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values, const SeedArg seed,
        float* __restrict__ target_logit, const float* __restrict__ reference, float* __restrict__ partials, Entry* __restrict__ streams,
        Part* __restrict__ segments_of, int tokens, int splits, int group) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    const int rows = PACKED ? *count : tokens;
    const Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), splits, group);
    const int row0 = place.row_block * TILE_M, split = place.column;
    if (row0 >= rows) return;

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = max(token, 0);
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    const Walk tiles(rows, TILE_M, group, COLD_TILES, splits);
    const int first = tiles.begin_of(split), last = tiles.begin_of(split + 1), length = last - first;
    const int parts = splits * BANDS, part = split * BANDS + band(), begin = first * BANDS + band() * length;
    const Uniform uniform = uniform_of(values);
    const Tokens known{targets, order, values, uniform, rows};
    auto stream_of = [&](int piece) { return (row0 + piece_row(piece)) / STREAM_ROWS; };
    Piece pieces[PIECES];
    if (has_pieces()) {
        #pragma unroll 1
        for (int piece = 0; piece < PIECES; piece++) {
            Piece& of = pieces[piece];
            #pragma unroll
            for (int r = 0; r < LANE_ROWS; r++) {
                const int row = piece_row(piece) + lane_row(r);
                of.sampler.begin(r, row0 + row, rows, token_of[row], reference, seed, part);
            }
            of.sampler.rest = QUOTA * length;
            of.room = Room{streams + stream_of(piece) * stream_entries(parts) + segment_begin(begin, part), (u32)(TILE_ENTRIES * length + SEGMENT_ENTRIES),
                row0 + piece_row(piece)};
            of.emitted = 0;
        }
    }

    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b; b.init(classifier, (HOT_TILES + first) * TILE_N, VOCAB, HIDDEN, 0);
    walk<false>(shared, a, b, HOT_TILES + first, HOT_TILES + last, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int tile) {
        const SharedRows every_token{token_of}, every_target{target_of};
        if (is_rare(tile, every_target)) take_targets(acc, tile, every_token, every_target, target_logit);
        each_piece(acc, shared, [&](float (&x)[LANE_ROWS][LANE_COLS], int piece) {
            const int col0 = tile * TILE_N + band() * SAMPLED_N;
            LaneRows tokens_of, targets_of;
            bool rare = col0 + SAMPLED_N > VOCAB;
            #pragma unroll
            for (int r = 0; r < LANE_ROWS; r++) {
                const int row = piece_row(piece) + lane_row(r);
                tokens_of.of[r] = token_of[row];
                targets_of.of[r] = target_of[row];
                rare |= (u32)(targets_of(r) - col0) < (u32)SAMPLED_N;
            }
            Sampler sampler = pieces[piece].sampler;
            Finder finder{pieces[piece].room, pieces[piece].emitted, known};
            sample(Tile{x, tokens_of, targets_of, values, uniform, col0}, sampler, finder, HOT_TILES + last - tile, rare);
            pieces[piece].sampler = sampler;
            pieces[piece].emitted = finder.count;
        });
    });
    if (!has_pieces()) return;
    #pragma unroll 1
    for (int piece = 0; piece < PIECES; piece++) {
        Piece& of = pieces[piece];
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            write_partial(partials, of.sampler.stats[r], part + 1, false, tiles.row_blocks * TILE_M, row0 + piece_row(piece) + lane_row(r));
        if (lane_id() == 0) segments_of[stream_of(piece) * parts + part] = Part{begin, min(of.emitted, of.room.capacity)};
    }
}
