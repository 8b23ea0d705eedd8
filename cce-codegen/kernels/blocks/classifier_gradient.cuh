// Backward, second product: dC of one chunk, G^T E, over all tokens that count. Written once, in its own type.

// gradient: G [tokens, PITCH]; out: dC [VOCAB, HIDDEN], of which rows first .. first + width are written; live: see steps.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 1) classifier_gradient(const Elem* __restrict__ gradient, const Elem* __restrict__ hidden,
        const int* __restrict__ order, const int* __restrict__ count, const float* __restrict__ scale, Out* __restrict__ out,
        int tokens, int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(128) unsigned char shared[];
    int rows = PACKED ? *count : tokens;
    Place place = place_of(blockIdx.x, ceil_div(width, TILE_M), ceil_div(HIDDEN, TILE_N), group);
    int row0 = place.row_block * TILE_M, tile = place.column;

    MnMajor<TILE_M, PITCH, 16, false> a; a.init(gradient, row0, width, rows, 0);
    MnMajor<TILE_N, HIDDEN_STRIDE, HIDDEN_ALIGN, PACKED> b; b.init(hidden, tile * TILE_N, HIDDEN, rows, order);
    float factor = SCALED ? scale[1] : 1.0f;
    walk<true>(shared, a, b, tile, tile + 1, steps_over_rows(live, tokens, rows, first + row0), [&](float (&acc)[ACC_ROWS][ACC_COLS], int) {
        each_pair(acc, shared, [&](int r, int c, float x, float y) {
            float2 held = held_classifier(out, first, width, row0 + r, tile * TILE_N + c);
            put_classifier(out, first, width, row0 + r, tile * TILE_N + c, x, y, held, factor);
        });
    });
}
