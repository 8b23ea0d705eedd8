// Thinning: once the normaliser Z of a row is known, its entries are sampled again, to the step EPS Z, times a factor for the 16 rows of a stream if that
// is needed to keep them within their mean of MAX_ENTRIES. An entry at least as heavy as the step stays as it is; the lighter ones are sampled
// systematically along the stream, and then count as the step. Given the entries, the expected weights are theirs for any step, so the whole is unbiased.
// The bound: the factor is such that the sum over entries of min(1, weight / step), and one for the phase, is within 16 MAX_ENTRIES.

#define MOST (STREAM_ROWS * MAX_ENTRIES)

// A stream, as its block of 256 threads reads it: 256 entries at a time and in step.
struct Stream {
    const Entry* entries; const Part* segments; int parts;
    const float* log_step;                                    // by row: log2 of EPS Z

    // visit(valid, entry) for every entry, in the stream's order.
    template <class Visit> DEVICE void each(Visit visit) const {
        for (int part = 0; part < parts; part++) {
            const u32 n = segments[part].count;
            const u64 begin = segment_begin(segments[part].first, part);
            for (u32 i = 0; i < n; i += 256) {
                bool valid = i + threadIdx.x < n;
                visit(valid, valid ? entries[begin + i + threadIdx.x] : Entry(0, 0.0f, 0.0f));
            }
        }
    }
    DEVICE u32 total() const {
        u32 n = 0;
        for (int part = 0; part < parts; part++) n += segments[part].count;
        return n;
    }
    // A weight in steps.
    DEVICE float steps(const Entry& entry, float log_factor) const { return exp2f(entry.weight - log_step[entry_row(entry.key)] - log_factor); }

    // Whether steps raised by 2^log_factor keep the entries within their bound.
    DEVICE bool fits(float log_factor) const {
        __shared__ float warps[8];
        float sum = 0.0f;
        each([&](bool valid, const Entry& entry) {
            float in_steps = valid ? steps(entry, log_factor) : 0.0f;
            if (in_steps > 0.0f) sum += fminf(in_steps, 1.0f);    // of a row whose normaliser is NaN nothing is kept
        });
        #pragma unroll
        for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
        __syncthreads();
        if (lane_id() == 0) warps[warp_id()] = sum;
        __syncthreads();
        sum = 0.0f;
        #pragma unroll
        for (int w = 0; w < 8; w++) sum += warps[w];
        return sum * 1.0001f + 2.0f <= (float)MOST;           // room for the sum's own rounding
    }
    // The factor of the steps, as a logarithm: 1, or just enough.
    DEVICE float log_factor() const {
        if (total() <= MOST || fits(0.0f)) return 0.0f;
        float high = 1.0f;
        while (!fits(high)) high += 1.0f;
        float low = high - 1.0f;
        for (int i = 0; i < 6; i++) { float middle = 0.5f * (low + high); if (fits(middle)) high = middle; else low = middle; }
        return high;
    }
    // Systematic sampling of the light entries, in 32-bit fractions of a step: keep(chosen, entry, its probability) for every entry, in step.
    template <class Keep> DEVICE void choose(float log_factor, u64 phase, Keep keep) const {
        __shared__ u64 warps[8];
        u64 before = phase;
        each([&](bool valid, const Entry& entry) {
            float in_steps = valid ? steps(entry, log_factor) : 0.0f;
            bool heavy = in_steps >= 1.0f;
            u64 mine = heavy || !(in_steps > 0.0f) ? 0 : (u64)(in_steps * 4294967296.0f), sum = mine;
            #pragma unroll
            for (int d = 1; d < 32; d *= 2) { u64 other = __shfl_up_sync(0xffffffff, sum, d); if (lane_id() >= d) sum += other; }
            __syncthreads();
            if (lane_id() == 31) warps[warp_id()] = sum;
            __syncthreads();
            u64 ahead = 0, all = 0;
            #pragma unroll
            for (int w = 0; w < 8; w++) { if (w < warp_id()) ahead += warps[w]; all += warps[w]; }
            u64 to = before + ahead + sum, from = to - mine;
            keep(heavy || from >> 32 != to >> 32, entry, EPS * exp2f(log_factor) * fmaxf(in_steps, 1.0f));
            before += all;
        });
    }
};

// The lanes that have the same row, STREAM_ROWS for none.
DEVICE u32 lanes_with(int row) {
#if __CUDA_ARCH__ >= 700
    return __match_any_sync(0xffffffff, row);
#else
    u32 same = 0;
    for (int r = 0; r <= STREAM_ROWS; r++) { u32 lanes = __ballot_sync(0xffffffff, row == r); same = row == r ? lanes : same; }
    return same;
#endif
}

// kept [rows / 16][16 MAX_ENTRIES], row by row; starts, kept_counts [rows]: of a row's entries within the stream's. A block a stream.
extern "C" __global__ void __launch_bounds__(256, 1) thin(const Entry* __restrict__ streams,
        const Part* __restrict__ segments, const float* __restrict__ lse, const int* __restrict__ order, const int* __restrict__ count, const SeedArg seed,
        Kept* __restrict__ kept, u32* __restrict__ starts, u32* __restrict__ kept_counts, int tokens, int clusters_or_parts, int group) {
    const int rows = PACKED ? *count : tokens, row0 = blockIdx.x * STREAM_ROWS, thread = threadIdx.x;
    if (row0 >= rows) return;
    const Walk walk(rows, WALK_BLOCK, group, COLD_TILES, clusters_or_parts);
    const int most_parts = walk.most_parts();
    __shared__ float log_step[STREAM_ROWS];
    __shared__ u32 row_counts[STREAM_ROWS], row_next[STREAM_ROWS], warp_rows[8][STREAM_ROWS];
    if (thread < STREAM_ROWS) {
        int at = row0 + thread;
        log_step[thread] = at < rows ? lse[token_at(order, at, rows)] * LOG2E + log2f(EPS) : POS_INF;
        row_counts[thread] = 0;
    }
    __syncthreads();
    const Stream stream{streams + blockIdx.x * stream_entries(most_parts), segments + blockIdx.x * most_parts, walk.parts_of(row0 / WALK_BLOCK), log_step};
    const float log_factor = stream.log_factor();
    const u64 phase = philox(seed_of(seed), (u32)token_at(order, row0, rows), 1).of[0];

    stream.choose(log_factor, phase, [&](bool chosen, const Entry& entry, float) { if (chosen) atomicAdd(&row_counts[entry_row(entry.key)], 1u); });
    __syncthreads();
    if (thread == 0) {
        u32 start = 0;
        for (int r = 0; r < STREAM_ROWS; r++) { row_next[r] = start; start += row_counts[r]; }
    }
    __syncthreads();
    if (thread < STREAM_ROWS && row0 + thread < rows) { starts[row0 + thread] = row_next[thread]; kept_counts[row0 + thread] = row_counts[thread]; }
    stream.choose(log_factor, phase, [&](bool chosen, const Entry& entry, float probability) {
        int row = entry_row(entry.key);
        for (int i = thread; i < 8 * STREAM_ROWS; i += 256) warp_rows[i / STREAM_ROWS][i % STREAM_ROWS] = 0;
        __syncthreads();
        u32 same = lanes_with(chosen ? row : STREAM_ROWS), rank = __popc(same & ((1u << lane_id()) - 1));
        if (chosen && rank == 0) warp_rows[warp_id()][row] = __popc(same);
        __syncthreads();
        if (chosen) {
            u32 at = row_next[row] + rank;
            for (int w = 0; w < warp_id(); w++) at += warp_rows[w][row];
            kept[(u64)blockIdx.x * MOST + at] = Kept(entry_column(entry.key), probability, entry.logit());
        }
        __syncthreads();                                      // before the counts change
        if (thread < STREAM_ROWS) for (int w = 0; w < 8; w++) row_next[thread] += warp_rows[w][thread];
    });
}
