// One thread block's tile of a matrix product in true fp32 (FFMA), for every element type and every GPU.
// 256 threads as 16 x 16, each with TILE_M / 16 x TILE_N / 16 sums; shared memory holds both operands as floats, [k][tile row].

#define THREADS 256
#define ACC_ROWS (TILE_M / 16)
#define ACC_COLS (TILE_N / 16)
#define A_PITCH (TILE_M + 4)
#define B_PITCH (TILE_N + 4)
#define ROW_LANES 16
#define ROW_WARPS 1
#define COL_WARPS 8

DEVICE int row_warp() { return 0; }
DEVICE int col_warp() { return warp_id(); }
DEVICE int acc_row(int r) { return (r >> 2) * 64 + (threadIdx.x >> 4) * 4 + (r & 3); }
DEVICE int acc_col(int c) { return (c >> 2) * 64 + (threadIdx.x & 15) * 4 + (c & 3); }

// Elements of one stage wait in registers while the stage before them multiplies.
template <int TILE> struct Staged {
    static constexpr int COPIES = TILE * TILE_K / THREADS;
    float value[COPIES];
};

// An operand whose source rows are tile rows, consecutive in k; read element by element, at any ALIGN. MAPPED: tile row r is source row map[r].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct KMajor : Staged<TILE> {
    using Staged<TILE>::value;
    const Elem* source; int row, rows, k_end; const int* map;
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) { row = row0; }
    DEVICE void fetch(int k0) {
        int k = k0 + threadIdx.x % TILE_K;
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int r = row + (int)threadIdx.x / TILE_K + i * (THREADS / TILE_K);
            value[i] = r < rows && k < k_end ? widen(source[(i64)(MAPPED ? map[r] : r) * STRIDE + k]) : 0.0f;
        }
    }
    DEVICE void store(float* to, int pitch) const {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++)
            to[(threadIdx.x % TILE_K) * pitch + threadIdx.x / TILE_K + i * (THREADS / TILE_K)] = value[i];
    }
};

// An operand whose source rows are the k, consecutive along the tile's rows. MAPPED: k is source row map[k].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct MnMajor : Staged<TILE> {
    using Staged<TILE>::value;
    const Elem* source; int row, rows, k_end; const int* map;
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) { row = row0; }
    DEVICE void fetch(int k0) {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int at = threadIdx.x + i * THREADS, r = row + at % TILE, k = k0 + at / TILE;
            value[i] = r < rows && k < k_end ? widen(source[(i64)(MAPPED ? map[k] : k) * STRIDE + r]) : 0.0f;
        }
    }
    DEVICE void store(float* to, int pitch) const {
        #pragma unroll
        for (int i = 0; i < Staged<TILE>::COPIES; i++) {
            int at = threadIdx.x + i * THREADS;
            to[at / TILE * pitch + at % TILE] = value[i];
        }
    }
};

// DEEP products are summed in pieces of this many steps: beside a sum over a whole vocabulary its small terms would round to nothing.
#define PIECE (512 / TILE_K)

// Products of A's tile with B's tiles first .. last over some steps of the depth; done(acc, tile) takes each.
template <bool DEEP, int GRANULE, class A, class B, class Done>
DEVICE void walk(unsigned char* shared, A& a, B& b, int first, int last, const Steps<GRANULE>& depth, Done done) {
    float* ring = (float*)shared;
    int steps = depth.count();
    for (int tile = first; tile < last; tile++) {
        float acc[ACC_ROWS][ACC_COLS] = {}, pieces[ACC_ROWS][ACC_COLS] = {};
        b.seek(tile * TILE_N);
        Steps<GRANULE> ahead = depth;
        auto fetch = [&] { int k = ahead.next(); a.fetch(k); b.fetch(k); };
        if (steps) fetch();
        for (int step = 0; step < steps; step++) {
            float* sa = ring + (step & 1) * TILE_K * (A_PITCH + B_PITCH);
            float* sb = sa + TILE_K * A_PITCH;
            a.store(sa, A_PITCH); b.store(sb, B_PITCH);
            __syncthreads();                                  // two buffers: the other one is still being read by the slowest
            if (step + 1 < steps) fetch();
            #pragma unroll
            for (int k = 0; k < TILE_K; k++) {
                float x[ACC_ROWS], y[ACC_COLS];
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r += 4) *(float4*)&x[r] = *(const float4*)&sa[k * A_PITCH + acc_row(r)];
                #pragma unroll
                for (int c = 0; c < ACC_COLS; c += 4) *(float4*)&y[c] = *(const float4*)&sb[k * B_PITCH + acc_col(c)];
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < ACC_COLS; c++) acc[r][c] = fmaf(x[r], y[c], acc[r][c]);
            }
            if (DEEP && (step + 1 == steps || (step + 1) % PIECE == 0)) {
                #pragma unroll
                for (int r = 0; r < ACC_ROWS; r++)
                    #pragma unroll
                    for (int c = 0; c < ACC_COLS; c++) { pieces[r][c] += acc[r][c]; acc[r][c] = step + 1 == steps ? pieces[r][c] : 0.0f; }
            }
        }
        __syncthreads();                                      // the ring may be refilled, or used for other things
        done(acc, tile);
    }
}
