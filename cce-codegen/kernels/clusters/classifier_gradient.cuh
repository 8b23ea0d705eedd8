// Backward, second product: dC of one chunk, G^T E, over all tokens that count. Written once, in its own type. Persistent clusters take tile after tile.

// Where a tile's sums go. WIDE: every pair of dC lies at a multiple of its size.
struct Sink {
    Out* out; int first, width, row0, col0, steps; float factor;

    template <bool WIDE> DEVICE void take(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared) const {
        auto held = [&](int r, int c) { return held_classifier<WIDE>(out, first, width, row0 + r, col0 + c); };
        each_pair<WIDE ? 8 : 1>(acc, shared, held, [&](int r, int c, float x, float y, float2 held) {
            if (steps == 0) x = y = 0.0f;                     // no stage was multiplied
            put_classifier<WIDE>(out, first, width, row0 + r, col0 + c, x, y, held, factor);
        });
    }
};

// gradient: G [blocks of 64 columns][tokens][64]; hidden: E [tokens that count, HIDDEN]; out: dC [VOCAB, HIDDEN], of which rows first .. first + width are written.
// live: see steps.cuh.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) classifier_gradient(const __grid_constant__ TensorMap gradient,
        const __grid_constant__ TensorMap hidden, const int* __restrict__ count, const float* __restrict__ scale, Out* __restrict__ out, int tokens,
        int first, int width, int group, const unsigned char* __restrict__ live) {
    extern __shared__ __align__(1024) unsigned char shared[];
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const int row_blocks = ceil_div(width, CLUSTER_M), columns = ceil_div(HIDDEN, TILE_N);
    auto steps_of = [&](int row0) { return steps_over_rows(live, tokens, rows, first + row0); };

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            each_tile(row_blocks, columns, group, [&](int row0, int col0) { ring.produce<false, false, true>(gradient, row0, hidden, col0, 0, steps_of(row0)); });
    } else {
        take_registers();
        const float factor = SCALED ? scale[1] : 1.0f;
        float acc[ACC_ROWS][ACC_COLS];
        each_tile(row_blocks, columns, group, [&](int row0, int col0) {
            const int steps = steps_of(row0).count();
            multiply<false, false>(acc, ring, steps);
            const Sink sink{out, first, width, row0, col0, steps, factor};
            if (paired(out)) sink.take<true>(acc, shared); else sink.take<false>(acc, shared);
        });
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
