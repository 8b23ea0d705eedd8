// Kernels over tokens that surround the forward pass: which tokens count, partials to statistics and outputs, reduction over tokens.

// order: the tokens that count, then the ignored ones, both in their own order; count: how many count. One block: a prefix sum over segments.
extern "C" __global__ void __launch_bounds__(1024) pack(const Index* __restrict__ targets, i64 ignore, int* __restrict__ order, int* __restrict__ count, int tokens) {
    __shared__ int sums[32];
    int each = ceil_div(tokens, 1024), from = min((int)threadIdx.x * each, tokens), to = min(from + each, tokens), mine = 0;
    for (int i = from; i < to; i++) mine += targets[i] != (Index)ignore;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, before = mine;
    for (int d = 1; d < 32; d *= 2) { int x = __shfl_up_sync(0xffffffff, before, d); if (lane >= d) before += x; }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    if (warp == 0) {
        int s = sums[lane];
        for (int d = 1; d < 32; d *= 2) { int x = __shfl_up_sync(0xffffffff, s, d); if (lane >= d) s += x; }
        sums[lane] = s;
    }
    __syncthreads();
    before += (warp ? sums[warp - 1] : 0) - mine;
    int total = sums[31], counted = before, ignored = total + from - before;
    for (int i = from; i < to; i++) { if (targets[i] != (Index)ignore) order[counted++] = i; else order[ignored++] = i; }
    if (threadIdx.x == 0) *count = total;
}

// partials, as the forward pass wrote them, -> saved [SAVED][tokens] and the outputs' rows. A thread a token, in the order of the partials' rows.
// clusters_or_parts: what the walk was divided by.
extern "C" __global__ void __launch_bounds__(128) merge(const float* __restrict__ partials, const Index* __restrict__ targets, const int* __restrict__ order,
        const int* __restrict__ count, const Values values, const Rows outputs, float* __restrict__ saved, int tokens, int clusters_or_parts, int group) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= tokens) return;
    int rows = PACKED ? *count : tokens, token = PACKED ? order[at] : at;
    if (at >= rows) { write_outputs(outputs, token, 0.0f); return; }
#ifdef HAS_TARGET
    Index y = targets[token];
    if (y < 0 || y >= VOCAB) {                                 // out of range: NaN, and nothing read outside
        for (int k = 0; k < SAVED; k++) saved[(u64)k * tokens + token] = NOT_A_NUMBER;
        write_outputs(outputs, token, NOT_A_NUMBER);
        return;
    }
    int target = (int)y;
#else
    int target = 0;
#endif
    const Walk walk(rows, WALK_BLOCK, group, WALK_TILES, clusters_or_parts);
    int parts = PARTS_BEFORE + walk.parts_of(at / WALK_BLOCK), pitch = walk.row_blocks * WALK_BLOCK;
    float stats[STATS], other[STATS];
    for (int k = 0; k < STATS; k++) stats[k] = partials[(u64)k * pitch + at];
    for (int s = 1; s < parts; s++) {
        for (int k = 0; k < STATS; k++) other[k] = partials[(u64)(s * STATS + k) * pitch + at];
        stats_merge(stats, other);
    }
    finish(stats, saved, values, outputs, token, target, tokens);
}

// found: the first token whose target is out of range and that target; -1 if there is none. One block.
extern "C" __global__ void __launch_bounds__(1024) check_targets(const Index* __restrict__ targets, i64* __restrict__ found, int tokens, i64 ignore) {
    __shared__ int first;
    if (threadIdx.x == 0) first = tokens;
    __syncthreads();
    for (int i = threadIdx.x; i < tokens; i += 1024) {
        Index y = targets[i];
        if ((y < 0 || y >= VOCAB) && !(PACKED && y == (Index)ignore)) { atomicMin(&first, i); break; }
    }
    __syncthreads();
    if (threadIdx.x == 0) { found[0] = first < tokens ? first : -1; found[1] = first < tokens ? (i64)targets[first] : 0; }
}

// How per-token values become one: what the sum is divided by.
struct Reduction {
    int mode;                                                  // 0: nothing; 1: the tokens that count; 2: `divisor`; 3: the sum of `weights` at the targets
    ScalarArg divisor;
    const float* weights;                                      // [VOCAB]
};

// reduced[k] = factor * sum over tokens of outputs[k]; factor = 1 / divisor. One block.
extern "C" __global__ void __launch_bounds__(1024) reduce_tokens(const Rows outputs, const Rows reduced, const Index* __restrict__ targets,
        const Reduction reduction, float* __restrict__ factor, int tokens, i64 ignore) {
    auto counts = [&](int i) { return !PACKED || targets[i] != (Index)ignore; };
    double divisor = 1.0;
    if (reduction.mode == 1) { double n = total(tokens, [&](int i) { return counts(i) ? 1.0 : 0.0; }); divisor = n > 1.0 ? n : 1.0; }
    if (reduction.mode == 2) divisor = scalar(reduction.divisor);
    if (reduction.mode == 3)
        divisor = total(tokens, [&](int i) {
            Index y = counts(i) ? targets[i] : (Index)-1;
            return y >= 0 && y < VOCAB ? (double)reduction.weights[y] : 0.0;
        });
    // Weights that sum to nothing (all tokens ignored) leave nothing, not NaN; a divisor that the caller gives is taken as it is.
    double inverse = reduction.mode == 3 && divisor == 0.0 ? 0.0 : 1.0 / divisor;
    if (threadIdx.x == 0) *factor = (float)inverse;
    for (int k = 0; k < OUTPUTS; k++) {
        if (!reduced.row[k]) continue;
        const float* row = outputs.row[k];
        double sum = total(tokens, [&](int i) { return (double)row[i]; });
        if (threadIdx.x == 0) *reduced.row[k] = (float)(sum * inverse);
    }
}
