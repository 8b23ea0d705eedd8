// What was kept, by column: for each cold column a list of rows and dL/dx, targets among them, and one for each Col input's gradient. Counted, placed, filled:
// in an order that the gather mends.
// `entry_gradient` comes from the program: dL/dx of a kept entry, from its probability.

// Where the entries of a row begin.
DEVICE u64 first_entry(int at, const u32* starts) { return (u64)(at / STREAM_ROWS) * (STREAM_ROWS * MAX_ENTRIES) + starts[at]; }

// A row of E or C, and what it is multiplied with. In a column's list: a row of E, and dL/dx.
struct Weighted { int row; float weight; };

extern "C" __global__ void __launch_bounds__(1024) clear_columns(u32* __restrict__ column_counts) {
    int j = blockIdx.x * 1024 + threadIdx.x;
    if (j < COLD) column_counts[j] = 0;
}

// column_counts [COLD]: how many kept entries and targets a cold column has. A warp a row.
extern "C" __global__ void __launch_bounds__(256) count_columns(const Kept* __restrict__ kept, const u32* __restrict__ starts,
        const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        u32* __restrict__ column_counts, int tokens) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const Kept* entries = kept + first_entry(at, starts);
    for (u32 i = lane_id(); i < kept_counts[at]; i += 32) atomicAdd(&column_counts[entries[i].column - HOT], 1u);
    int y = target_in_range(targets, token_at(order, at, rows));
    if (lane_id() == 0 && y >= HOT) atomicAdd(&column_counts[y - HOT], 1u);
}

DEVICE u32 block_scan(u32 x, u32& total) {                    // inclusive, 1024 threads
    __shared__ u32 warps[32];
    u32 sum = x;
    #pragma unroll
    for (int d = 1; d < 32; d *= 2) { u32 other = __shfl_up_sync(0xffffffff, sum, d); if (lane_id() >= d) sum += other; }
    __syncthreads();
    if (lane_id() == 31) warps[warp_id()] = sum;
    __syncthreads();
    u32 w = warps[lane_id()];
    #pragma unroll
    for (int d = 1; d < 32; d *= 2) { u32 other = __shfl_up_sync(0xffffffff, w, d); if (lane_id() >= d) w += other; }
    total = __shfl_sync(0xffffffff, w, 31);
    u32 before = __shfl_sync(0xffffffff, w, max(warp_id() - 1, 0));
    return sum + (warp_id() ? before : 0);
}

// Counts -> where each column's list begins, in two steps: sums of blocks of 1024 columns, then positions. starts_of [COLD + 1]; cursors: a copy.
extern "C" __global__ void __launch_bounds__(1024) column_blocks(const u32* __restrict__ column_counts, u32* __restrict__ block_sums) {
    int j = blockIdx.x * 1024 + threadIdx.x;
    u32 total;
    block_scan(j < COLD ? column_counts[j] : 0, total);
    if (threadIdx.x == 0) block_sums[blockIdx.x] = total;
}
extern "C" __global__ void __launch_bounds__(1024) column_starts(const u32* __restrict__ column_counts, const u32* __restrict__ block_sums,
        u32* __restrict__ starts_of, u32* __restrict__ cursors) {
    u32 before = 0, total;
    for (int b = threadIdx.x; b < blockIdx.x; b += 1024) before += block_sums[b];
    block_scan(before, total);
    u32 base = total;
    int j = blockIdx.x * 1024 + threadIdx.x;
    u32 mine = j < COLD ? column_counts[j] : 0, end = base + block_scan(mine, total);
    if (j < COLD) { cursors[j] = end - mine; starts_of[j + 1] = end; }
    if (j == 0) starts_of[0] = 0;
}

// Room of the lists of one gradient: everything that was kept, and a target a token.
DEVICE u64 list_entries(int tokens) { return (u64)ceil_div(tokens, STREAM_ROWS) * STREAM_ROWS * (MAX_ENTRIES + 1); }

// lists: every column's entries, in no order yet; those of Col inputs behind those of dL/dx. A warp a row.
extern "C" __global__ void __launch_bounds__(256) list_columns(const Kept* __restrict__ kept,
        const u32* __restrict__ starts, const u32* __restrict__ kept_counts, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const float* __restrict__ coefs, u32* __restrict__ cursors, Weighted* __restrict__ lists, int tokens) {
    int at = blockIdx.x * 8 + warp_id(), rows = PACKED ? *count : tokens;
    if (at >= rows) return;
    const int token = token_at(order, at, rows), y = target_in_range(targets, token);
    const u64 first = first_entry(at, starts);
    const Coefs row = coefs_of(coefs, token, tokens);
    const Uniform uniform = uniform_of(values);
    for (u32 i = lane_id(); i < kept_counts[at]; i += 32) {
        Kept entry = kept[first + i];
        float g = entry_gradient(entry.probability, entry.logit(), row, col_in(values, entry.column), uniform);
        Weighted* place = lists + atomicAdd(&cursors[entry.column - HOT], 1u);
        *place = Weighted{hidden_row(at, token), g};
#if COL_GRADIENTS > 0
        float parts[COL_GRADIENTS];
        entry_col_gradients(parts, entry.probability, entry.logit(), row, col_in(values, entry.column), uniform);
        for (int k = 0; k < COL_GRADIENTS; k++) place[list_entries(tokens) * (k + 1)] = Weighted{hidden_row(at, token), parts[k]};
#endif
    }
    if (lane_id() == 0 && y >= HOT) {
        Weighted* place = lists + atomicAdd(&cursors[y - HOT], 1u);
        *place = Weighted{hidden_row(at, token), row.target0};
#if COL_GRADIENTS > 0
        float parts[COL_GRADIENTS];
        target_col_gradients(parts, row);
        for (int k = 0; k < COL_GRADIENTS; k++) place[list_entries(tokens) * (k + 1)] = Weighted{hidden_row(at, token), parts[k]};
#endif
    }
}
