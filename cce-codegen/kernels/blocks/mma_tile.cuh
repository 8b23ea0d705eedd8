// One thread block's tile of a matrix product, through mma.sync on tensor cores (sm_80 and up; bf16, f16).
// cp.async fills a ring of STAGES shared-memory stages; each warp multiplies fragments of its (TILE_M / WARPS_M) x (TILE_N / WARPS_N) part.
// Shared memory holds 16-byte chunks, swizzled by row so that ldmatrix meets no bank conflict:
//   KMajor  [tile row][k]: chunk ^ row   (the source's rows are the tile's rows)
//   MnMajor [k][tile row]: chunk ^ k     (the source's rows are the k, ldmatrix transposes)

#define THREADS (WARPS_M * WARPS_N * 32)
#define WARP_M (TILE_M / WARPS_M)
#define WARP_N (TILE_N / WARPS_N)
#define FRAGMENTS_M (WARP_M / 16)
#define FRAGMENTS_N (WARP_N / 8)
#define ACC_ROWS (2 * FRAGMENTS_M)   // rows of the tile that one thread holds sums of
#define ACC_COLS (2 * FRAGMENTS_N)   // and columns
#define A_BYTES (TILE_M * TILE_K * 2)
#define B_BYTES (TILE_N * TILE_K * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define RING_BYTES (STAGES * STAGE_BYTES)
#define ROW_LANES 4                  // neighbouring lanes that share a row
#define ROW_WARPS WARPS_N            // warps that share a row
#define COL_WARPS WARPS_M

DEVICE int row_warp() { return warp_id() % WARPS_N; }   // this warp's place among those that share its rows
DEVICE int col_warp() { return warp_id() / WARPS_N; }
DEVICE int acc_row(int r) { return col_warp() * WARP_M + (r >> 1) * 16 + (r & 1) * 8 + (lane_id() >> 2); }
DEVICE int acc_col(int c) { return row_warp() * WARP_N + (c >> 1) * 8 + (lane_id() & 3) * 2 + (c & 1); }

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

DEVICE void copy_whole(u32 to, const Elem* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Copies 16 bytes, the first `valid` of them from memory, the rest zeros. ALIGN is what source addresses are known to be multiples of.
template <int ALIGN> DEVICE void copy_chunk(u32 to, const Elem* from, int valid) {
    if constexpr (ALIGN == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
    } else if constexpr (ALIGN >= 4) {
        #pragma unroll
        for (int i = 0; i < 16; i += ALIGN) {
            int left = min(max(valid - i, 0), ALIGN);
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to + i), "l"((const char*)from + i), "n"(ALIGN), "r"(left) : "memory");
        }
    } else {
        u32 w[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int i = 0; i < 8; i++) if (2 * i < valid) w[i >> 1] |= (u32)from[i] << (16 * (i & 1));
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
    }
}

template <bool TRANSPOSE> DEVICE void ldmatrix(u32 (&f)[4], u32 from) {
    if constexpr (TRANSPOSE)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(from) : "memory");
}

// An operand whose source rows, STRIDE elements apart, are tile rows, consecutive in k. MAPPED: tile row r is source row map[r].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct KMajor {
    static constexpr int CHUNKS = TILE_K / 8;
    static constexpr int STEP = THREADS / CHUNKS;            // rows between a thread's copies: a multiple of the swizzle's period
    static constexpr int COPIES = TILE / STEP;
    static_assert(TILE % STEP == 0 && STEP % 8 == 0, "a tile's rows divide among the threads");
    const Elem* source; int row, rows, k_end; bool inside; const int* map;
    int mapped[MAPPED ? COPIES : 1];

    // `row_count` source rows, valid for k < k_limit; the tile begins at `row0`.
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) {
        row = row0 + (int)threadIdx.x / CHUNKS;
        inside = row0 + TILE <= rows;
        if constexpr (MAPPED) {
            #pragma unroll
            for (int i = 0; i < COPIES; i++) { int r = row + i * STEP; mapped[i] = r < rows ? map[r] : 0; }
        }
    }
    DEVICE void prefetch(int) {}
    DEVICE void load(u32 to, int k0) const {
        int chunk = threadIdx.x % CHUNKS, local = threadIdx.x / CHUNKS, k = k0 + chunk * 8;
        to += local * (TILE_K * 2) + ((chunk ^ swizzle(local)) << 4);
        if (ALIGN == 16 && k0 + TILE_K <= k_end && (MAPPED || inside)) {
            const Elem* from = source + (i64)row * STRIDE + k;
            #pragma unroll
            for (int i = 0; i < COPIES; i++)
                copy_whole(to + i * STEP * (TILE_K * 2), MAPPED ? source + (i64)mapped[MAPPED ? i : 0] * STRIDE + k : from + (i64)i * STEP * STRIDE);
        } else {
            int in_row = min(max(k_end - k, 0), 8) * 2;
            #pragma unroll 1                                  // a loop, so that this rare path stays a branch
            for (int i = 0; i < COPIES; i++) {
                int valid = row + i * STEP < rows ? in_row : 0;
                i64 at = MAPPED && valid ? map[row + i * STEP] : row + i * STEP;
                copy_chunk<ALIGN>(to + i * STEP * (TILE_K * 2), source + (valid ? at * STRIDE + k : 0), valid);
            }
        }
    }
    DEVICE static int swizzle(int r) { return CHUNKS >= 8 ? r & 7 : (r >> 1) & 3; }
    // Four 8 x 8 blocks of rows r0 .. r0 + 16 and k kk * 16 .. + 16: rows fastest for the left operand, k fastest for the right one.
    template <bool LEFT> DEVICE static void fragments(u32 (&f)[4], u32 from, int r0, int kk) {
        int low = (lane_id() >> 3) & 1, high = lane_id() >> 4;
        int r = (lane_id() & 7) + (LEFT ? low : high) * 8, chunk = kk * 2 + (LEFT ? high : low);
        ldmatrix<false>(f, from + (r0 + r) * (TILE_K * 2) + ((chunk ^ swizzle(r)) << 4));
    }
};

// An operand whose source rows, STRIDE elements apart, are the k, consecutive along the tile's rows. MAPPED: k is source row map[k].
template <int TILE, int STRIDE, int ALIGN, bool MAPPED> struct MnMajor {
    static constexpr int CHUNKS = TILE / 8;
    static constexpr int STEP = THREADS / CHUNKS;            // k between a thread's copies
    static constexpr int COPIES = TILE_K / STEP;
    static_assert(TILE_K % STEP == 0, "a tile's k divide among the threads");
    const Elem* source; int first, rows, k_end; bool inside; const int* map;
    int mapped[MAPPED ? COPIES : 1];

    // k_limit source rows; the tile begins at element `row0` of a row, and `row_count` bounds it.
    DEVICE void init(const Elem* from, int row0, int row_count, int k_limit, const int* order) {
        source = from; rows = row_count; k_end = k_limit; map = order; seek(row0);
    }
    DEVICE void seek(int row0) {
        first = row0 + ((int)threadIdx.x % CHUNKS) * 8;
        inside = row0 + TILE <= rows;
    }
    // The rows of the stage at k0, looked up one stage ahead of their copies.
    DEVICE void prefetch(int k0) {
        if constexpr (MAPPED) {
            #pragma unroll
            for (int i = 0; i < COPIES; i++) { int k = k0 + (int)threadIdx.x / CHUNKS + i * STEP; mapped[i] = k < k_end ? map[k] : 0; }
        }
    }
    DEVICE void load(u32 to, int k0) const {
        int chunk = threadIdx.x % CHUNKS, local = threadIdx.x / CHUNKS;
        auto place = [&](int i) { int k = local + i * STEP; return to + k * (TILE * 2) + ((chunk ^ ((STEP % 8 ? k : local) & 7)) << 4); };
        if (ALIGN == 16 && inside && k0 + TILE_K <= k_end) {
            const Elem* from = source + (i64)(k0 + local) * STRIDE + first;
            #pragma unroll
            for (int i = 0; i < COPIES; i++)
                copy_whole(place(i), MAPPED ? source + (i64)mapped[MAPPED ? i : 0] * STRIDE + first : from + (i64)i * STEP * STRIDE);
        } else {
            int in_row = min(max(rows - first, 0), 8) * 2;
            #pragma unroll 1                                  // a loop, so that this rare path stays a branch
            for (int i = 0; i < COPIES; i++) {
                int k = k0 + local + i * STEP, valid = k < k_end ? in_row : 0;
                i64 at = MAPPED && valid ? map[k] : k;
                copy_chunk<ALIGN>(place(i), source + (valid ? at * STRIDE + first : 0), valid);
            }
        }
    }
    template <bool LEFT> DEVICE static void fragments(u32 (&f)[4], u32 from, int r0, int kk) {
        int low = (lane_id() >> 3) & 1, high = lane_id() >> 4;
        int k = kk * 16 + (lane_id() & 7) + (LEFT ? high : low) * 8, chunk = (r0 >> 3) + (LEFT ? low : high);
        ldmatrix<true>(f, from + k * (TILE * 2) + ((chunk ^ (k & 7)) << 4));
    }
};

#if defined(DTYPE_BF16)
#define MMA_TYPES "bf16.bf16"
#else
#define MMA_TYPES "f16.f16"
#endif
DEVICE void mma(float& d0, float& d1, float& d2, float& d3, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPES ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The operands of one multiplication 16 deep: the fragments of a warp's rows and columns.
struct Fragments { u32 a[FRAGMENTS_M][4], b[FRAGMENTS_N / 2][4]; };

template <class A, class B> DEVICE void fetch(Fragments& f, u32 stage, int kk) {
    #pragma unroll
    for (int i = 0; i < FRAGMENTS_M; i++) A::template fragments<true>(f.a[i], stage, col_warp() * WARP_M + i * 16, kk);
    #pragma unroll
    for (int j = 0; j < FRAGMENTS_N / 2; j++) B::template fragments<false>(f.b[j], stage + A_BYTES, row_warp() * WARP_N + j * 16, kk);
}

DEVICE void multiply(float (&acc)[ACC_ROWS][ACC_COLS], const Fragments& f) {
    #pragma unroll
    for (int i = 0; i < FRAGMENTS_M; i++)
        #pragma unroll
        for (int j = 0; j < FRAGMENTS_N; j++)
            mma(acc[2 * i][2 * j], acc[2 * i][2 * j + 1], acc[2 * i + 1][2 * j], acc[2 * i + 1][2 * j + 1], f.a[i], f.b[j / 2][j % 2 * 2], f.b[j / 2][j % 2 * 2 + 1]);
}

// Products of A's tile with B's tiles first .. last over some steps of the depth; done(acc, tile) takes each while the next one's copies are under way. DEEP
// or not is one: the operands are rounded more than sums of any depth.
template <bool DEEP, int GRANULE, class A, class B, class Done>
DEVICE void walk(unsigned char* shared, A& a, B& b, int first, int last, const Steps<GRANULE>& depth, Done done) {
    static_assert(TILE_K % 32 == 0, "an even number of multiplications a stage, so that fragments alternate between two sets");
    u32 ring = shared_address(shared);
    int steps = depth.count(), total = (last - first) * steps;
    float acc[ACC_ROWS][ACC_COLS] = {};
    if (steps == 0) { for (int tile = first; tile < last; tile++) done(acc, tile); return; }
    int ahead_tile = first, ahead_step = 0, issued = 0;
    Steps<GRANULE> ahead = depth;
    int ahead_k = ahead.next();
    a.prefetch(ahead_k); b.prefetch(ahead_k);
    auto issue = [&](u32 to) {                                // one stage's copies, or an empty group behind the end
        if (issued < total) {
            a.load(to, ahead_k); b.load(to + A_BYTES, ahead_k);
            if (++ahead_step == steps) { ahead_step = 0; ahead = depth; b.seek(++ahead_tile * TILE_N); }
            ahead_k = ahead.next();
            a.prefetch(ahead_k); b.prefetch(ahead_k);
        }
        issued++;
        cp_async_commit();
    };
    #pragma unroll 1
    for (int i = 0; i < STAGES; i++) issue(ring + i * STAGE_BYTES);
    cp_async_wait<STAGES - 1>();
    __syncthreads();
    Fragments f[2];
    fetch<A, B>(f[0], ring, 0);
    u32 stage = ring;
    int step = 0, tile = first;
    #pragma unroll 1
    for (int at = 0; at < total; at++) {
        u32 next = stage + STAGE_BYTES == ring + RING_BYTES ? ring : stage + STAGE_BYTES;
        #pragma unroll
        for (int kk = 0; kk < TILE_K / 16; kk++) {
            if (kk + 1 < TILE_K / 16) fetch<A, B>(f[(kk + 1) & 1], stage, kk + 1);
            else {
                cp_async_wait<STAGES - 2>();
                __syncthreads();                              // the next stage has arrived for all, and all have fetched the last of this one
                issue(stage);                                 // so that it can be refilled
                fetch<A, B>(f[0], next, 0);
            }
            multiply(acc, f[kk & 1]);
        }
        stage = next;
        if (++step == steps) {
            step = 0;
            done(acc, tile++);
            #pragma unroll
            for (int r = 0; r < ACC_ROWS; r++)
                #pragma unroll
                for (int c = 0; c < ACC_COLS; c++) acc[r][c] = 0.0f;
            if (at + 1 < total) fetch<A, B>(f[0], stage, 0);  // again: meanwhile `done` had its registers
        }
    }
    cp_async_wait<0>();
    __syncthreads();                                          // the ring may be used for other things
}
