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
