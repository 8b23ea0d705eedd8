// The sampled filter: systematic sampling along the walk.
//
// Within a row, thresholds stand on the running sum of the weights exp(z - reference) at a step c; a column is kept iff a threshold falls inside its
// interval. It then counts as max(weight, c): one heavier than c is always kept, with its own weight, a lighter one with probability weight / c. For every
// c that depends on sums and not on draws, the expected weight is the true one. A row has four lanes with a phase each.
// c = f EPS B: B is what is known of the row's normaliser (hot columns, target, the walk so far with this tile), f a power of two for the 16 rows of the
// warp: the smallest for which the demand of the tile, the sum over its groups of 8 columns of min(a / c, 8), stays within the pace of the segment's
// quota. Groups are tested whole: into one that a threshold falls into somebody looks for the column (`found.cuh`).

#define PACE 6.0f                                             // how far ahead of an even distribution the demand may run

DEVICE float quad_sum(float x) { x += __shfl_xor_sync(ALL, x, 1); return x + __shfl_xor_sync(ALL, x, 2); }
DEVICE float quad_max(float x) { x = fmaxf(x, __shfl_xor_sync(ALL, x, 1)); return fmaxf(x, __shfl_xor_sync(ALL, x, 2)); }
// A sum over the warp in units of 2^-16, rounded up: one instruction from sm_80 on. No addend counts as more than 1024.
DEVICE float warp_sum_up(float x) {
    u32 sum = __float2uint_ru(fminf(x, 1024.0f) * 65536.0f);
#if __CUDA_ARCH__ >= 800
    sum = __reduce_add_sync(ALL, sum);
#else
    #pragma unroll
    for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(ALL, sum, mask);
#endif
    return (float)sum * (1.0f / 65536.0f);
}

// What a thread knows of its two rows during a segment.
struct Sampler {
    float stats[LANE_ROWS][STATS];                            // this lane's share of the walk's, relative to a reference that the row's lanes have in common
    float known[LANE_ROWS];                                   // the normaliser before the walk
    float phase[LANE_ROWS];                                   // distance to the next threshold, in steps
    float rest;                                               // of the quota of the warp's segment

    // The beginning of a part of a row, its place `at` among those that count; the row's lanes draw their phases from its token.
    DEVICE void begin(int r, int at, int rows, int token, const float* reference, const SeedArg& seed, int part) {
        stats_init(stats[r]);
        stats[r][0] = at < rows ? reference[at] : 0.0f;
        // Rows behind the last one have weights, too, of whatever stands there; a normaliser beyond all bounds keeps them from sampling.
        known[r] = at < rows ? 1.0f : POS_INF;
        Words words = philox(seed_of(seed), (u32)token, (u32)part + 2);
        u32 word = lane_id() & 2 ? (lane_id() & 1 ? words.of[3] : words.of[2]) : (lane_id() & 1 ? words.of[1] : words.of[0]);
        phase[r] = uniform_number(word);
    }
};

// Nothing is done with eight of the logits, or for their columns from `col` on, before the result so far is there: transforms of all of them at once need
// more registers than there are.
DEVICE void in_turn(float& so_far, float* x, int& col) {
    if (!MASK_LOGITS)
        asm volatile("" : "+f"(so_far), "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]), "+f"(x[4]), "+f"(x[5]), "+f"(x[6]), "+f"(x[7]), "+r"(col) :: "memory");
}

// A tile's raw logits, and what their transform needs.
struct Tile {
    float (&x)[LANE_ROWS][LANE_COLS];
    const LaneRows &tokens, &targets;
    const Values& values; const Uniform& uniform;
    int col0;

    // Statistics of row r's columns, and for each group the sum of the weights of all columns up to its end.
    template <bool RARE> DEVICE void add_up(float (&stats)[STATS], float (&sums)[GROUPS], int r, float reference) const {
        stats_init(stats);
        stats[0] = reference;
        float sum = 0.0f;
        const RowIn row = row_in(values, tokens(r));
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int first = col0;
            in_turn(sum, &x[r][g * 8], first);
            float group = 0.0f;
            #pragma unroll
            for (int i = g * 8; i < g * 8 + 8; i++) {
                const int col = first + lane_col(i);
                const float z = masked_logit<RARE>(x[r][i], col, targets(r), row, values, uniform), weight = weight_of(z, reference);
                group += weight;
                const bool live = !RARE || (col < VOCAB && col != targets(r));
                if (STATS > 2) stats_add(stats, x[r][i], z, weight, live, col, row, col_in(values, min(col, VOCAB - 1)), uniform);
            }
            sums[g] = sum += group;
        }
        stats[1] = sum;
    }
    template <bool RARE> DEVICE void add_up(float (&stats)[LANE_ROWS][STATS], float (&sums)[LANE_ROWS][GROUPS], const Sampler& s) const {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) add_up<RARE>(stats[r], sums[r], r, s.stats[r][0]);
    }
    DEVICE float largest(int r, float than) const {
        const RowIn row = row_in(values, tokens(r));
        #pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int col = col0;
            in_turn(than, &x[r][g * 8], col);
            #pragma unroll
            for (int i = g * 8; i < g * 8 + 8; i++) than = fmaxf(than, masked_logit<true>(x[r][i], col + lane_col(i), targets(r), row, values, uniform) * LOG2E);
        }
        return than;
    }
};

// Samples one tile; `left` tiles of the segment are left, this one included. `rare`: it has columns to mask after the transform. A group into which a threshold
// falls is handed over to `looks`, for each lane that has found one: it says which lanes' groups it took, and is given the others again.
template <class Looks> DEVICE void sample(const Tile& tile, Sampler& s, Looks& looks, int left, bool rare) {
    float stats[LANE_ROWS][STATS], sums[LANE_ROWS][GROUPS], step[LANE_ROWS], per_step[LANE_ROWS], sum[LANE_ROWS];
    #pragma unroll 1
    for (bool again = false;; again = true) {
        if (!MASK_LOGITS && rare) tile.add_up<true>(stats, sums, s); else tile.add_up<false>(stats, sums, s);
        if (again || !__any_sync(ALL, !(stats[0][1] < FAR) || !(stats[1][1] < FAR))) break;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) {                 // a reference is far behind: it moves to the largest logit, for the four lanes of a row
            float largest = quad_max(tile.largest(r, s.stats[r][0]));
            if (quad_max(stats[r][1] < FAR ? 0.0f : 1.0f) == 0.0f) continue;
            float by = rescale(s.stats[r][0], largest);
            stats_rescale(s.stats[r], by);
            s.known[r] *= by; s.stats[r][0] = largest;
        }
    }
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        sum[r] = stats[r][1];
        float total = s.known[r] + quad_sum(s.stats[r][1] + sum[r]);
        step[r] = EPS * total;
        // A row whose sum is not finite keeps nothing: its NaN reaches the gradients through hot columns and target.
        bool alive = total > 0.0f && total < POS_INF;
        per_step[r] = alive ? reciprocal(step[r]) : 0.0f;
        if (STATS > 2) stats_merge(s.stats[r], stats[r]); else s.stats[r][1] += sum[r];
    }
    const float rest = s.rest;
    float allowed = fmaxf(left == 1 ? rest : fminf(rest * 0.5f, fmaxf(rest * PACE * reciprocal((float)left), rest * 0.05f)), FLOOR);
    // In most tiles no group comes near the limit of 8: the demand is then a product of sums.
    float demand = warp_sum_up((per_step[0] > 0.0f ? sum[0] * per_step[0] : 0.0f) + (per_step[1] > 0.0f ? sum[1] * per_step[1] : 0.0f));
    while (!(demand <= fminf(allowed, 8.0f))) {
        float limited = 0.0f;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++)
            #pragma unroll
            for (int g = 0; g < GROUPS; g++) limited += per_step[r] > 0.0f ? fminf((sums[r][g] - (g ? sums[r][g - 1] : 0.0f)) * per_step[r], 8.0f) : 0.0f;
        demand = warp_sum_up(limited);
        if (demand <= allowed) break;
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) { step[r] *= 2.0f; per_step[r] *= 0.5f; }
    }
    s.rest = fmaxf(rest - demand, 0.0f);

    // The next thresholds, and whether one of them falls into the tile: into few tiles of a trained head.
    float next[LANE_ROWS];
    bool found[LANE_ROWS];
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        next[r] = per_step[r] > 0.0f ? s.phase[r] * step[r] : POS_INF;
        found[r] = per_step[r] > 0.0f && sum[r] >= next[r];
    }
    #pragma unroll 1
    while (__any_sync(ALL, found[0] || found[1])) {
        #pragma unroll
        for (int r = 0; r < LANE_ROWS; r++) {
            if (!__any_sync(ALL, found[r])) continue;
            int group = 0;
            #pragma unroll
            for (int g = 0; g < GROUPS - 1; g++) group += sums[r][g] < next[r];
            float x[8], before = 0.0f, to = sums[r][0];
            #pragma unroll
            for (int i = 0; i < 8; i++) x[i] = tile.x[r][i];
            #pragma unroll
            for (int g = 1; g < GROUPS; g++) {
                const bool here = group == g;
                before = here ? sums[r][g - 1] : before;
                to = here ? sums[r][g] : to;
                #pragma unroll
                for (int i = 0; i < 8; i++) x[i] = here ? tile.x[r][g * 8 + i] : x[i];
            }
            const u32 key = entry_key(lane_row(r), tile.col0 + lane_col(0) + group * (lane_col(8) - lane_col(0)));
            const u32 with_count = step_and_count(step[r], thresholds(next[r], to, per_step[r]));
            if (looks.hand_over(found[r], x, next[r] - before, with_count, s.stats[r][0], key)) {
                next[r] = following(next[r], to, step[r], per_step[r]);
                found[r] = sum[r] >= next[r];
            }
        }
    }
    #pragma unroll
    for (int r = 0; r < LANE_ROWS; r++)
        if (per_step[r] > 0.0f) s.phase[r] = fminf(fmaxf((next[r] - sum[r]) * per_step[r], 0.0f), 1.0f);
}
