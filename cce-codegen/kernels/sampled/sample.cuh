// The sampled filter: systematic sampling along the walk.
//
// Within a row, thresholds stand on the running sum of the weights exp(z - reference) at a step c; a column is kept iff a threshold falls inside its
// interval. It then counts as max(weight, c): one heavier than c is always kept, with its own weight, a lighter one with probability weight / c. For every
// c that depends on sums and not on draws, the expected weight is the true one. A row has four lanes with a phase each.
// c = f EPS B: B is what is known of the row's normaliser (hot columns, target, the walk so far with this tile), f a power of two for the 16 rows of the
// warp: the smallest for which the demand of the tile, the sum over its groups of 8 columns of min(a / c, 8), stays within the pace of the segment's
// quota. Groups are tested whole and only set a bit; a compact loop serves the bits after the tile.

#define GROUPS (ACC_COLS / 8)                                 // of 8 of a lane's columns in a tile
#define PACE 6.0f                                             // how far ahead of an even distribution the demand may run
#define ALL 0xffffffffu

DEVICE float log2_approx(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float quad_sum(float x) { x += __shfl_xor_sync(ALL, x, 1); return x + __shfl_xor_sync(ALL, x, 2); }
DEVICE float quad_max(float x) { x = fmaxf(x, __shfl_xor_sync(ALL, x, 1)); return fmaxf(x, __shfl_xor_sync(ALL, x, 2)); }
DEVICE float warp_sum(float x) {
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(ALL, x, mask);
    return x;
}

// What a thread knows of its two rows during a segment.
struct Sampler {
    float reference[ACC_ROWS];                                // log2: what weights are relative to
    float known[ACC_ROWS];                                    // the normaliser before the walk
    float seen[ACC_ROWS];                                     // this lane's share of the walk's sum
    float phase[ACC_ROWS];                                    // distance to the next threshold, in steps
    float admitted, quota;                                    // demand of the warp's segment
    u32 count, capacity;                                      // entries of the segment
    Entry* entries;
};

// A column's weight. Columns behind the vocabulary and targets have logits of -inf by now.
DEVICE float weight_of(float x, float reference) { return exp2_approx(fmaf(x, LOG2E, -reference)); }

// Sums of the groups of 8 columns, and of the row.
DEVICE float group_sums(float (&groups)[GROUPS], const float (&x)[ACC_COLS], float reference) {
    float sum = 0.0f;
    #pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        float group = 0.0f;
        #pragma unroll
        for (int i = 0; i < 8; i++) group += weight_of(x[g * 8 + i], reference);
        groups[g] = group;
        sum += group;
    }
    return sum;
}

// Samples one tile, whose first column is col0; `left` tiles of the segment are left, this one included.
DEVICE void sample(const float (&acc)[ACC_ROWS][ACC_COLS], Sampler& s, int col0, int left) {
    float groups[ACC_ROWS][GROUPS], step[ACC_ROWS], per_step[ACC_ROWS], sum[ACC_ROWS];
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) sum[r] = group_sums(groups[r], acc[r], s.reference[r]);
    if (__any_sync(ALL, !(sum[0] < FAR) || !(sum[1] < FAR))) {  // the reference is far behind: it moves to the largest logit, for the four lanes of a row
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) {
            float largest = s.reference[r];
            #pragma unroll
            for (int c = 0; c < ACC_COLS; c++) largest = fmaxf(largest, acc[r][c] * LOG2E);
            largest = quad_max(largest);
            if (quad_max(sum[r] < FAR ? 0.0f : 1.0f) == 0.0f) continue;
            float by = rescale(s.reference[r], largest);
            s.known[r] *= by; s.seen[r] *= by; s.reference[r] = largest;
            sum[r] = group_sums(groups[r], acc[r], largest);
        }
    }
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        float total = s.known[r] + quad_sum(s.seen[r] + sum[r]);
        step[r] = EPS * total;
        // A row whose sum is not finite keeps nothing: its NaN reaches the gradients through hot columns and target.
        bool alive = total > 0.0f && total < POS_INF;
        per_step[r] = alive ? reciprocal(step[r]) : 0.0f;
        s.seen[r] += sum[r];
    }
    float rest = fmaxf(s.quota - s.admitted, 0.0f);
    float allowed = fmaxf(left == 1 ? rest : fminf(rest * 0.5f, fmaxf(rest * PACE * reciprocal((float)left), rest * 0.05f)), FLOOR);
    // In most tiles no group comes near the limit of 8: the demand is then a product of sums.
    float demand = warp_sum((per_step[0] > 0.0f ? sum[0] * per_step[0] : 0.0f) + (per_step[1] > 0.0f ? sum[1] * per_step[1] : 0.0f));
    while (!(demand <= fminf(allowed, 8.0f))) {
        float limited = 0.0f;
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++)
            #pragma unroll
            for (int g = 0; g < GROUPS; g++) limited += per_step[r] > 0.0f ? fminf(groups[r][g] * per_step[r], 8.0f) : 0.0f;
        demand = warp_sum(limited);
        if (demand <= allowed) break;
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) { step[r] *= 2.0f; per_step[r] *= 0.5f; }
    }
    s.admitted += demand;

    // The next thresholds, and whether one of them falls into the tile: into few tiles of a trained head.
    float threshold[ACC_ROWS], before[ACC_ROWS];
    bool any = false;
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        before[r] = s.phase[r];
        threshold[r] = per_step[r] > 0.0f ? s.phase[r] * step[r] : POS_INF;
        any |= sum[r] >= threshold[r];
        if (per_step[r] > 0.0f) s.phase[r] = fminf(fmaxf((threshold[r] - sum[r]) * per_step[r], 0.0f), 1.0f);
    }
    if (!__any_sync(ALL, any)) return;
    u32 hit[ACC_ROWS];
    #pragma unroll
    for (int r = 0; r < ACC_ROWS; r++) {
        hit[r] = 0;
        float passed = 0.0f, next = threshold[r];
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            passed += groups[r][g];
            if (passed >= next) { hit[r] |= 1u << g; next = fmaf(step[r], floorf((passed - next) * per_step[r]) + 1.0f, next); }
        }
        if (per_step[r] > 0.0f) s.phase[r] = fminf(fmaxf((next - passed) * per_step[r], 0.0f), 1.0f);
    }
    #pragma unroll 1
    while (__any_sync(ALL, hit[0] | hit[1])) {
        const bool mine = hit[0] | hit[1], second = hit[0] == 0;
        const int group = mine ? __ffs(second ? hit[1] : hit[0]) - 1 : 0;
        if (second) hit[1] &= hit[1] - 1; else hit[0] &= hit[0] - 1;
        const float reference = second ? s.reference[1] : s.reference[0], c = second ? step[1] : step[0], per_c = second ? per_step[1] : per_step[0];
        // The threshold at the group's beginning, as the test above found it.
        float passed = 0.0f, next = (second ? before[1] : before[0]) * c, x[8];
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (g < group) {
                passed += second ? groups[1][g] : groups[0][g];
                if (passed >= next) next = fmaf(c, floorf((passed - next) * per_c) + 1.0f, next);
            }
            if (g == group)
                #pragma unroll
                for (int i = 0; i < 8; i++) x[i] = second ? acc[1][g * 8 + i] : acc[0][g * 8 + i];
        }
        float weight[8];
        u32 kept = 0, some = 0;
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            weight[i] = weight_of(x[i], reference);
            passed += weight[i];
            if (weight[i] > 0.0f) {
                some |= 1u << i;
                if (passed >= next) { kept |= 1u << i; next = fmaf(c, floorf((passed - next) * per_c) + 1.0f, next); }
            }
        }
        // Added one by one the weights may come to less than the group's sum: the threshold is then the last one's.
        if (kept == 0 && some != 0) kept = 1u << (31 - __clz(some));
        if (!mine) kept = 0;
        int mine_count = __popc(kept), place = mine_count;
        #pragma unroll
        for (int d = 1; d < 32; d *= 2) { int other = __shfl_up_sync(ALL, place, d); if (lane_id() >= d) place += other; }
        int added = __shfl_sync(ALL, place, 31);
        u32 at = s.count + place - mine_count;
        s.count += added;
        const int in_stream = (lane_id() >> 2) + (second ? 8 : 0);
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            if ((kept >> i & 1) && at < s.capacity)
                s.entries[at++] = Entry{entry_key(in_stream, col0 + acc_col(i) + group * 32), reference + log2_approx(fmaxf(weight[i], c))};
        }
    }
}
