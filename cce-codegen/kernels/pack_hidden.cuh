// packed [tokens, HIDDEN]: the rows of E that count, one after the other, then zeros up to the end of a stage of k: TMA cannot gather rows, and what a
// product multiplies with zeros must not be NaN. A warp a row.
extern "C" __global__ void __launch_bounds__(256) pack_hidden(const uint4* __restrict__ hidden, const int* __restrict__ order,
        const int* __restrict__ count, uint4* __restrict__ packed, int tokens) {
    constexpr int CHUNKS = HIDDEN / 8, STRIDE = HIDDEN_STRIDE / 8;
    int rows = *count, end = min(ceil_div(rows, 64) * 64, tokens);
    for (int at = blockIdx.x * 8 + warp_id(); at < end; at += gridDim.x * 8) {
        const uint4* from = hidden + (u64)(at < rows ? order[at] : 0) * STRIDE;
        #pragma unroll 4
        for (int i = lane_id(); i < CHUNKS; i += 32) packed[(u64)at * CHUNKS + i] = at < rows ? from[i] : make_uint4(0, 0, 0, 0);
    }
}
