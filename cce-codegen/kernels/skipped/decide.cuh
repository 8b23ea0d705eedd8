
// Which granules of the logits' gradient are computed: those into which a target falls, and those where a probability is not below eps (NaN is not).
// A block a granule. maxima: as the forward pass wrote them, of tiles MAXIMA_N wide; lse [tokens]: the log of a token's normaliser; live [granules of
// columns][granules of rows].
extern "C" __global__ void __launch_bounds__(256) decide(const float* __restrict__ maxima, const float* __restrict__ lse, const Index* __restrict__ targets,
        const int* __restrict__ order, const int* __restrict__ count, unsigned char* __restrict__ live, int tokens) {
    constexpr int TILES = GRANULE_N / MAXIMA_N;
    int rows = PACKED ? *count : tokens, row_granules = ceil_div(tokens, GRANULE_M);
    int column = blockIdx.x / row_granules, row0 = blockIdx.x % row_granules * GRANULE_M;
    int first = column * TILES, last = min(first + TILES, ceil_div(VOCAB, MAXIMA_N));
    bool any = false;
    for (int at = row0 + threadIdx.x; at < min(row0 + GRANULE_M, rows); at += 256) {
        int token = PACKED ? order[at] : at;
#ifdef HAS_TARGET
        Index y = targets[token];
        if (y < 0 || y >= VOCAB) continue;                    // out of range: without a gradient
        any |= (int)y / GRANULE_N == column;
#endif
        float most = NEG_INF;
        for (int tile = first; tile < last; tile++) most = fmaxf(most, maxima[(u64)tile * tokens + at]);
        any |= !(most - lse[token] < LOG_EPS);
    }
    any = __syncthreads_or(any);
    if (threadIdx.x == 0) live[blockIdx.x] = any;
}
