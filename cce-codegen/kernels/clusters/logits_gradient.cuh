// Backward, first product: recomputes one chunk's logits and writes their gradient G, tile by tile, in the type of the next products' operands.
// Persistent clusters take tile after tile. Column sums for Col inputs are taken on the way, one partial for a warpgroup's rows: no atomics.

// 8 columns of G, of which those from `width` on become zeros: products read whole blocks of 64.
DEVICE uint4 up_to(uint4 g, int width) {
    u32 pairs[4] = {g.x, g.y, g.z, g.w};
    #pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] &= (2 * i < width ? 0xffffu : 0) | (2 * i + 1 < width ? 0xffff0000u : 0);
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// G [blocks of 64 columns][tokens][64] of columns first .. first + width, zero in rows that do not count and in columns behind those; partials
// [COL_GRADIENTS][blocks of WARPGROUP_ROWS rows][width]; live: see steps.cuh.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) logits_gradient(const __grid_constant__ TensorMap hidden,
        const __grid_constant__ TensorMap classifier, const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count,
        const Values values, const float* __restrict__ coefs, const float* __restrict__ scale, Elem* __restrict__ gradient, float* __restrict__ partials,
        int tokens, int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int STEPS = (HIDDEN + TILE_K - 1) / TILE_K;
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const int row_blocks = ceil_div(rows, CLUSTER_M), columns = ceil_div(width, TILE_N);

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            each_tile(row_blocks, columns, group, [&](int row0, int col0) {
                if (is_live(live, tokens, row0, first + col0)) ring.produce<true, true>(hidden, row0, classifier, first + col0, 0, STEPS);
            });
    } else {
        take_registers();
        const Uniform uniform = uniform_of(values);
        const float factor = SCALED ? *scale : 1.0f;
        float acc[ACC_ROWS][ACC_COLS];
        each_tile(row_blocks, columns, group, [&](int row0, int col0) {
            if (!is_live(live, tokens, row0, first + col0)) {
#if COL_GRADIENTS > 0
                int row_block = row0 / WARPGROUP_ROWS + consumer();
                for (int c = threadIdx.x & 127; c < TILE_N && col0 + c < width && row_block * WARPGROUP_ROWS < tokens; c += 128)
                    for (int k = 0; k < COL_GRADIENTS; k++)
                        partials[((u64)k * ceil_div(tokens, WARPGROUP_ROWS) + row_block) * width + col0 + c] = 0.0f;
#endif
                return;
            }
            multiply<true, true>(acc, ring, STEPS);
            Coefs row[ACC_ROWS];
            int counts[ACC_ROWS], target[ACC_ROWS];
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++) {
                int at = row0 + acc_row(r), token = token_at(order, at, rows);
                counts[r] = token >= 0;
                target[r] = target_in_range(targets, token);
                row[r] = coefs_of(coefs, max(token, 0), tokens);
            }
            Elem* staged = (Elem*)staging(shared);            // rows of 64, permuted in units of 8 against bank conflicts
            #pragma unroll
            for (int block = 0; block < TILE_N / 64; block++) {
#if COL_GRADIENTS > 0
                float sums[COL_GRADIENTS][16] = {};
#endif
                __syncwarp();                                 // a warp's rows of the block before have been read
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < 16; c += 2) {
                        float g[2];
                        #pragma unroll
                        for (int i = 0; i < 2; i++) {
                            // Columns behind the chunk's last get values too; they go no further.
                            int col = min(first + col0 + block * 64 + acc_col(c + i), VOCAB - 1);
                            float parts[COL_PARTS], value = gradient_at(acc[r][block * 16 + c + i], col, target[r], row[r], values, uniform, parts);
                            g[i] = counts[r] ? value * factor : 0.0f;
#if COL_GRADIENTS > 0
                            #pragma unroll
                            for (int k = 0; k < COL_GRADIENTS; k++) sums[k][c + i] += counts[r] ? parts[k] : 0.0f;
#endif
                        }
                        int local = acc_row(r) & 63;
                        if (STORE_GRADIENT) stage2(staged + local * 64 + (acc_col(c) ^ (local & 7) << 3), g[0], g[1]);
                    }
                __syncwarp();
                if (STORE_GRADIENT && col0 + block * 64 < width) {  // row by row, 16 bytes a thread
                    int left = width - col0 - block * 64;
                    Elem* to = gradient + (u64)(col0 / 64 + block) * tokens * 64;
                    #pragma unroll 4
                    for (int i = lane_id(); i < 16 * 8; i += 32) {
                        int local = (warp_id() & 3) * 16 + i / 8, c = i % 8 * 8, at = row0 + consumer() * 64 + local;
                        uint4 g = *(const uint4*)(staged + local * 64 + (c ^ (local & 7) << 3));
                        if (at < tokens) *(uint4*)(to + (u64)at * 64 + c) = left < 64 ? up_to(g, left - c) : g;
                    }
                }
#if COL_GRADIENTS > 0
                float* exchange = (float*)(staging(shared) + 64 * 64 * sizeof(Elem));  // [warps][64]
                int row_block = row0 / WARPGROUP_ROWS + consumer(), thread = threadIdx.x & 127;
                #pragma unroll
                for (int k = 0; k < COL_GRADIENTS; k++) {
                    #pragma unroll
                    for (int c = 0; c < 16; c++) {
                        float sum = sums[k][c];
                        #pragma unroll
                        for (int mask = ROW_LANES; mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
                        if (lane_id() < ROW_LANES) exchange[(warp_id() & 3) * 64 + acc_col(c)] = sum;
                    }
                    consumer_sync();
                    int col = col0 + block * 64 + thread;
                    if (thread < 64 && col < width && row_block * WARPGROUP_ROWS < tokens) {
                        float sum = exchange[thread] + exchange[64 + thread] + exchange[128 + thread] + exchange[192 + thread];
                        partials[((u64)k * ceil_div(tokens, WARPGROUP_ROWS) + row_block) * width + col] = sum;
                    }
                    consumer_sync();
                }
#endif
            }
        });
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
