// Backward, third product: dE += G C of one chunk. Sums between chunks are fp32; the last chunk rounds once.

// gradient: G [tokens, PITCH]; sums [tokens, HIDDEN] in packed order; out: dE [tokens, HIDDEN]; live: see steps.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 1) hidden_gradient(const Elem* __restrict__ gradient, const Elem* __restrict__ classifier,
        const int* __restrict__ order, const int* __restrict__ count, const float* __restrict__ scale, Sum* __restrict__ sums, Out* __restrict__ out,
        int tokens, int first, int width, int group, int is_first, int is_last, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(128) unsigned char shared[];
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(tokens, TILE_M), ceil_div(HIDDEN, TILE_N), group);
    int row0 = place.row_block * TILE_M, tile = place.column;
    if (row0 >= rows) return;

    KMajor<TILE_M, PITCH, 16, false> a; a.init(gradient, row0, rows, width, 0);
    MnMajor<TILE_N, CLASSIFIER_STRIDE, CLASSIFIER_ALIGN, false> b;
    b.init(classifier + (u64)first * CLASSIFIER_STRIDE, tile * TILE_N, HIDDEN, width, 0);
    float factor = SCALED ? scale[1] : 1.0f;
    walk<true>(shared, a, b, tile, tile + 1, steps_over_columns(live, tokens, row0, first, width), [&](float (&acc)[ACC_ROWS][ACC_COLS], int) {
        each_pair(acc, shared, [&](int r, int c, float x, float y) {
            if (row0 + r >= rows) return;
            float2 held = held_hidden(out, sums, order, row0 + r, tile * TILE_N + c, is_first);
            put_hidden(out, sums, order, row0 + r, tile * TILE_N + c, x, y, held, factor, is_last);
        });
    });
}
