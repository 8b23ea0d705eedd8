// Backward, first product: recomputes one chunk's logits and writes their gradient G, tile by tile, in the type of the next products' operands.
// Column sums for Col inputs are taken on the way, one partial a row block: no atomics.

// G of a tile waits in shared memory, so that whole rows of it are written.
#define STAGED_PITCH (TILE_N + 8)                             // elements a row: the pairs of a warp fall into different banks

// G [tokens, PITCH] of columns first .. first + width; partials [COL_GRADIENTS][row blocks][width]; live: see steps.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 1) logits_gradient(const Elem* __restrict__ hidden, const Elem* __restrict__ classifier,
        const Index* __restrict__ targets, const int* __restrict__ order, const int* __restrict__ count, const Values values,
        const float* __restrict__ coefs, const float* __restrict__ scale, Elem* __restrict__ gradient, float* __restrict__ partials,
        int tokens, int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(128) unsigned char shared[];
    int* token_of = (int*)(shared + TILE_BYTES);
    int* target_of = token_of + TILE_M;
    int rows = PACKED ? *count : tokens;
    int blocks = ceil_div(tokens, TILE_M);
    Place place = place_of(blockIdx.x, blocks, ceil_div(width, TILE_N), group);
    int block = place.row_block, tile = place.column, row0 = block * TILE_M;
    if (row0 >= rows) return;
    if (!is_live(live, tokens, row0, first + tile * TILE_N)) {
#if COL_GRADIENTS > 0
        for (int i = threadIdx.x; i < COL_GRADIENTS * TILE_N; i += THREADS) {
            int local = tile * TILE_N + i % TILE_N;
            if (local < width) partials[((u64)(i / TILE_N) * blocks + block) * width + local] = 0.0f;
        }
#endif
        return;
    }

    for (int i = threadIdx.x; i < TILE_M; i += THREADS) {
        int at = row0 + i, token = token_at(order, at, rows);
        token_of[i] = token;
        target_of[i] = target_in_range(targets, token);
    }
    __syncthreads();

    KMajor<TILE_M, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> a; a.init(hidden, row0, rows, HIDDEN, order);
    KMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b;
    b.init(classifier + (u64)first * CLASSIFIER_STRIDE, tile * TILE_N, width, HIDDEN, 0);
    const Uniform uniform = uniform_of(values);
    float factor = SCALED ? *scale : 1.0f;
    Elem* staged = (Elem*)shared;
    walk<false>(shared, a, b, tile, tile + 1, all_steps(HIDDEN), [&](float (&acc)[ACC_ROWS][ACC_COLS], int) {
        __syncthreads();                                      // the ring has been read to its end
#if COL_GRADIENTS > 0
        float sums[COL_GRADIENTS][ACC_COLS] = {};
#endif
        #pragma unroll
        for (int r = 0; r < ACC_ROWS; r++) {
            int token = token_of[acc_row(r)], y = target_of[acc_row(r)];
            if (token < 0) continue;
            Coefs row = coefs_of(coefs, token, tokens);
            #pragma unroll
            for (int c = 0; c < ACC_COLS; c += 2) {
                float g[2] = {};
                #pragma unroll
                for (int i = 0; i < 2; i++) {
                    // Columns behind the chunk's last get values too; nothing reads them.
                    int col = min(first + tile * TILE_N + acc_col(c + i), VOCAB - 1);
                    float parts[COL_PARTS];
                    g[i] = gradient_at(acc[r][c + i], col, y, row, values, uniform, parts);
#if COL_GRADIENTS > 0
                    #pragma unroll
                    for (int k = 0; k < COL_GRADIENTS; k++) sums[k][c + i] += parts[k];
#endif
                }
                if (STORE_GRADIENT) stage2(staged + acc_row(r) * STAGED_PITCH + acc_col(c), g[0] * factor, g[1] * factor);
            }
        }
        __syncthreads();
        if (STORE_GRADIENT) {                                 // row by row, 16 bytes a thread; PITCH leaves room for whole ones
            constexpr int EACH = 16 / sizeof(Elem);
            #pragma unroll 4
            for (int i = threadIdx.x; i < TILE_M * TILE_N / EACH; i += THREADS) {
                int r = i / (TILE_N / EACH), c = i % (TILE_N / EACH) * EACH, local = tile * TILE_N + c;
                if (row0 + r < rows && local < width)
                    *(uint4*)(gradient + (u64)(row0 + r) * PITCH + local) = *(const uint4*)(staged + r * STAGED_PITCH + c);
            }
        }
#if COL_GRADIENTS > 0
        __syncthreads();
        float* exchange = (float*)shared;                     // [COL_WARPS][COL_GRADIENTS][TILE_N]
        #pragma unroll
        for (int k = 0; k < COL_GRADIENTS; k++)
            #pragma unroll
            for (int c = 0; c < ACC_COLS; c++) {
                float sum = sums[k][c];
                #pragma unroll
                for (int mask = ROW_LANES; mask < 32; mask *= 2) sum += __shfl_xor_sync(0xffffffff, sum, mask);
                if (lane_id() < ROW_LANES) exchange[(col_warp() * COL_GRADIENTS + k) * TILE_N + acc_col(c)] = sum;
            }
        __syncthreads();
        for (int i = threadIdx.x; i < COL_GRADIENTS * TILE_N; i += THREADS) {
            int local = tile * TILE_N + i % TILE_N;
            float sum = 0.0f;
            for (int w = 0; w < COL_WARPS; w++) sum += exchange[w * COL_GRADIENTS * TILE_N + i];
            if (local < width) partials[((u64)(i / TILE_N) * blocks + block) * width + local] = sum;
        }
#endif
    });
}
