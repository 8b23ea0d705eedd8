// Backward, third product: dE += G C of one chunk. Persistent clusters take tile after tile.

// Where a tile's sums go. WIDE: every pair of dE lies at a multiple of its size.
struct Sink {
    Out* out; Sum* sums; const int* order; int row0, col0, rows, steps; float factor; bool is_first, is_last;

    template <bool WIDE> DEVICE void take(float (&acc)[ACC_ROWS][ACC_COLS], unsigned char* shared) const {
        auto held = [&](int r, int c) {
            return row0 + r < rows ? held_hidden<WIDE>(out, sums, order, row0 + r, col0 + c, is_first) : make_float2(0.0f, 0.0f);
        };
        each_pair<WIDE ? 8 : 1>(acc, shared, held, [&](int r, int c, float x, float y, float2 held) {
            if (GRANULE_N > 0 && steps == 0) x = y = 0.0f;    // no stage was multiplied
            if (row0 + r < rows) put_hidden<WIDE>(out, sums, order, row0 + r, col0 + c, x, y, held, factor, is_last);
        });
    }
};

// gradient: G [blocks of 64 columns][tokens][64]; classifier: C [VOCAB, HIDDEN]; sums [tokens, HIDDEN] in packed order; out: dE [tokens, HIDDEN].
// live: see steps.cuh.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) hidden_gradient(const __grid_constant__ TensorMap gradient,
        const __grid_constant__ TensorMap classifier, const int* __restrict__ order, const int* __restrict__ count, const float* __restrict__ scale,
        Sum* __restrict__ sums, Out* __restrict__ out, int tokens, int first, int width, int group, int is_first, int is_last,
        const unsigned char* __restrict__ live) {
    extern __shared__ __align__(1024) unsigned char shared[];
    Ring ring(shared);
    const int rows = PACKED ? *count : tokens;
    const int row_blocks = ceil_div(rows, CLUSTER_M), columns = ceil_div(HIDDEN, TILE_N);
    auto steps_of = [&](int row0) { return steps_over_columns(live, tokens, row0, first, width); };

    if (warpgroup() == 0) {
        give_registers();
        if (threadIdx.x == 0)
            each_tile(row_blocks, columns, group, [&](int row0, int col0) {
                ring.produce<true, false, true>(gradient, row0, classifier, col0, first, steps_of(row0));
            });
    } else {
        take_registers();
        const float factor = SCALED ? scale[1] : 1.0f;
        float acc[ACC_ROWS][ACC_COLS];
        each_tile(row_blocks, columns, group, [&](int row0, int col0) {
            const int steps = steps_of(row0).count();
            multiply<true, false>(acc, ring, steps);
            const Sink sink{out, sums, order, row0, col0, rows, steps, factor, is_first != 0, is_last != 0};
            if (paired(out)) sink.take<true>(acc, shared); else sink.take<false>(acc, shared);
        });
    }
    cluster_sync();                                           // no block leaves while the other one still copies into it or tells it of a stage
}
