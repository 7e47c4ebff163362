// Products of tiles in shared memory, for conv2d.cu. A block computes BM x BN elements of C = A B and loops over the
// inner dimension K in steps of BK (64 bytes). A tile of A or B has one of two forms, depending on the layout in
// memory:
//     by rows:    BM (or BN) rows of BK consecutive elements of K
//     transposed: BK rows of BM (or BN) consecutive elements
// bf16 uses mma.sync, fp32 multiply-adds.
#pragma once
#include "kernels/cuda_common.cuh"
#include "kernels/ptx.cuh"

template <int BM_, int BN_, int WARPS_M, int WARPS_N> struct ConvTile {
    static constexpr bool half = sizeof(floatX) == 2;
    static constexpr int BM = BM_, BN = BN_, BK = 4 * VEC;
    static constexpr int warps_n = WARPS_N, warps = WARPS_M * WARPS_N, threads = 32 * warps;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N; // of a warp
    static constexpr int blocks = threads == 128 ? 2 : 1;      // on an SM at a time
    // Accumulators of a lane. bf16: 16 x 8 blocks in mma.sync's layout; fp32: rows x columns, see lane_row.
    static constexpr int rows = half ? WM / 16 : WM / 8, columns = half ? WN / 8 * 4 : WN / 4;
    static constexpr int stages = 4;                                            // tiles of K in flight
    static constexpr int a_elements = BM * BK, stage_elements = (BM + BN) * BK; // of a stage: A, then B
    // Quads of a lane, of the 16 rows that a warp stages, and how many of them load ahead (emit_result).
    static constexpr int quads = 16 * WN / 4 / 32, ahead = quads % 5 == 0 ? 5 : 4;
    static_assert(!half || quads % ahead == 0, "whole groups");
    static constexpr int pitch = WN % 16 ? WN : WN + 8; // floats of a row of the staging
    static constexpr size_t staging = half ? sizeof(float) * warps * 16 * pitch : 0;
    static constexpr size_t pipeline = sizeof(floatX) * stages * stage_elements;
    static constexpr size_t shared_bytes = pipeline > staging ? pipeline : staging;
    static_assert(shared_bytes <= 99 << 10, "the smallest card has 99 KB");
};

// The offset, in elements, of vector v of a row of P vectors (16 bytes each) in a tile. The vectors of neighbouring
// rows are permuted so that no access has bank conflicts: ldmatrix reads eight rows at the same v, cp.async writes
// eight neighbouring vectors of a row, and fp32 reads rows 0, 4, 8, 12.
template <int P> __device__ static inline int swizzle(int row, int v) {
    static_assert(P % 4 == 0, "whole groups of four vectors");
    const int mix = P % 8 == 0 ? row & 7 : row >> (sizeof(floatX) == 2 ? 1 : 2) & 3;
    return (row * P + (v ^ mix)) * VEC;
}

#ifdef PRECISION_bf16

// Fragments of A (16 x 16) at row m and inner index k of a tile, in mma.sync's layout.
template <bool TRANSPOSED, int BM>
__device__ static inline void load_a(unsigned f[4], const floatX *tile, int m, int k) {
    const int lane = threadIdx.x % 32;
    if (TRANSPOSED) {
        ldmatrix_x4_trans(f, tile + swizzle<BM / VEC>(k + lane / 16 * 8 + lane % 8, m / 8 + lane / 8 % 2));
    } else {
        ldmatrix_x4(f, tile + swizzle<4>(m + lane % 16, k / 8 + lane / 16));
    }
}

// Fragments of two neighbouring blocks of B (16 x 8 each) at column n; if not `two`, the first one twice.
template <bool TRANSPOSED, int BN>
__device__ static inline void load_b(unsigned f[4], const floatX *tile, int n, int k, bool two) {
    const int lane = threadIdx.x % 32, block = two ? lane / 16 : 0;
    if (TRANSPOSED) {
        ldmatrix_x4_trans(f, tile + swizzle<BN / VEC>(k + lane % 16, n / 8 + block));
    } else {
        ldmatrix_x4(f, tile + swizzle<4>(n + block * 8 + lane % 8, k / 8 + lane / 8 % 2));
    }
}

// acc += A B for 16 elements of K, from k on within a step.
template <class T, bool TA, bool TB>
__device__ static inline void multiply(float (&acc)[T::rows][T::columns], const floatX *a, const floatX *b, int k) {
    const int warp = threadIdx.x / 32, m0 = warp / T::warps_n * T::WM, n0 = warp % T::warps_n * T::WN;
    unsigned fa[T::rows][4], fb[4];
#pragma unroll
    for (int m = 0; m < T::rows; m++) { load_a<TA, T::BM>(fa[m], a, m0 + 16 * m, k); }
#pragma unroll
    for (int n = 0; n < T::WN / 8; n += 2) {
        const bool two = n + 1 < T::WN / 8;
        load_b<TB, T::BN>(fb, b, n0 + 8 * n, k, two);
#pragma unroll
        for (int m = 0; m < T::rows; m++) {
            mma_m16n8k16(acc[m] + 4 * n, fa[m], fb);
            if (two) { mma_m16n8k16(acc[m] + 4 * n + 4, fa[m], fb + 2); }
        }
    }
}

// Gives all elements of the block's result to the epilogue, four neighbours of a row at a time. For each quad,
// epilogue.load starts the loads of what it needs, and epilogue.store, which gets the sums, uses it. Each warp stages
// 16 rows in shared memory, so that a row is written in one piece; the loads of a lane's quads of these rows run
// meanwhile. If the result's rows are no whole quads, epilogue.store_one gets single elements. All warps must have
// finished reading the tiles.
template <class T, bool TA, class Epilogue>
__device__ static inline void emit_result(const float (&acc)[T::rows][T::columns], const Epilogue &epilogue) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m0 = warp / T::warps_n * T::WM, n0 = warp % T::warps_n * T::WN;
    constexpr int width = T::WN / 4; // quads of a row
    float *staging = (float *)dynamic_shared + warp * 16 * T::pitch;
    bool fours = true;
    if constexpr (!Epilogue::always_fours) { fours = epilogue.fours(); }
    constexpr int groups = T::quads / T::ahead; // of 16 rows
#pragma unroll 1                                // the epilogue's code is long; acc needs constant indices
    for (int group = 0; group < T::rows * groups; group++) {
        const int m = group / groups, part = group % groups, first = part * 32 * T::ahead + lane, row0 = m0 + 16 * m;
        typename Epilogue::Ahead ahead[T::ahead];
        if (fours) {
#pragma unroll
            for (int q = 0; q < T::ahead; q++) {
                const int at = first + 32 * q;
                ahead[q] = epilogue.load(row0 + at / width, n0 + at % width * 4);
            }
        }
        if (part == 0) {
            __syncwarp();
#pragma unroll
            for (int i = 0; i < T::columns * T::rows; i += 2) {
                const int row = lane / 4 + i / 2 % 2 * 8, column = i % T::columns / 4 * 8 + lane % 4 * 2;
                const float *pair = acc[i / T::columns] + i % T::columns;
                if (i / T::columns == m) {
                    *(float2 *)(staging + row * T::pitch + column) = make_float2(pair[0], pair[1]);
                }
            }
            __syncwarp();
        }
        if (fours) {
#pragma unroll
            for (int q = 0; q < T::ahead; q++) {
                const int at = first + 32 * q, row = at / width, column = at % width * 4;
                float x[4];
                load_words(x, staging + row * T::pitch + column);
                epilogue.store(ahead[q], row0 + row, n0 + column, x);
            }
        } else if constexpr (!Epilogue::always_fours) {
#pragma unroll 1
            for (int i = part * 128 * T::ahead + lane; i < (part + 1) * 128 * T::ahead; i += 32) {
                const int row = i / T::WN, column = i % T::WN;
                epilogue.store_one(row0 + row, n0 + column, staging[row * T::pitch + column]);
            }
        }
    }
}

#else

// The 8 x 4 lanes of a warp share its rows and columns. A lane's columns are groups of four neighbours; so are its rows
// if A is transposed, else it has every eighth row.
template <bool TRANSPOSED> __device__ static inline int lane_row(int i) {
    const int at = threadIdx.x % 32 / 4;
    return TRANSPOSED ? 4 * at + i % 4 + i / 4 * 32 : at + 8 * i;
}
__device__ static inline int lane_column(int j) { return threadIdx.x % 4 * 4 + j % 4 + j / 4 * 16; }

// x[i][k]: elements K = 4 v .. 4 v + 3 of the rows (columns) first + index(i) of a tile.
template <bool TRANSPOSED, int WIDTH, int COUNT, class Index>
__device__ static inline void load_four(float (&x)[COUNT][4], const floatX *tile, int first, int v, Index index) {
    if (TRANSPOSED) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
            for (int i = 0; i < COUNT; i += 4) {
                float four[4];
                load(four, tile + swizzle<WIDTH / VEC>(4 * v + k, (first + index(i)) / 4));
#pragma unroll
                for (int j = 0; j < 4; j++) { x[i + j][k] = four[j]; }
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) { load(x[i], tile + swizzle<4>(first + index(i), v)); }
    }
}

// acc += A B for four elements of K, from k on within a step.
template <class T, bool TA, bool TB>
__device__ static inline void multiply(float (&acc)[T::rows][T::columns], const floatX *a, const floatX *b, int k) {
    const int warp = threadIdx.x / 32, m0 = warp / T::warps_n * T::WM, n0 = warp % T::warps_n * T::WN;
    float x[T::rows][4], y[T::columns][4];
    load_four<TA, T::BM>(x, a, m0, k / 4, [](int i) { return lane_row<TA>(i); });
    load_four<TB, T::BN>(y, b, n0, k / 4, [](int j) { return lane_column(j); });
#pragma unroll
    for (int i = 0; i < T::rows; i++) {
#pragma unroll
        for (int j = 0; j < T::columns; j++) {
#pragma unroll
            for (int h = 0; h < 4; h++) { acc[i][j] += x[i][h] * y[j][h]; }
        }
    }
}

// Gives all elements of the block's result to the epilogue, as above.
template <class T, bool TA, class Epilogue>
__device__ static inline void emit_result(const float (&acc)[T::rows][T::columns], const Epilogue &epilogue) {
    const int warp = threadIdx.x / 32, m0 = warp / T::warps_n * T::WM, n0 = warp % T::warps_n * T::WN;
    constexpr int quads = T::columns / 4;
#pragma unroll 1 // the epilogue's code is long; acc needs constant indices
    for (int q = 0; q < T::rows * quads; q++) {
        const int row = m0 + lane_row<TA>(q / quads), column = n0 + lane_column(q % quads * 4);
        bool fours = true;
        if constexpr (!Epilogue::always_fours) { fours = epilogue.fours(); }
        typename Epilogue::Ahead ahead = {};
        if (fours) { ahead = epilogue.load(row, column); }
        float x[4] = {};
#pragma unroll
        for (int i = 0; i < T::rows * quads; i++) {
            if (i == q) { memcpy(x, acc[i / quads] + i % quads * 4, sizeof x); }
        }
        if (fours) {
            epilogue.store(ahead, row, column, x);
        } else if constexpr (!Epilogue::always_fours) {
#pragma unroll
            for (int i = 0; i < 4; i++) { epilogue.store_one(row, column + i, x[i]); }
        }
    }
}

#endif

// acc = A B over `steps` steps of K. load(tile, more) of an operand starts the copies of its next tile (zeros if there
// are no more) and advances. Returns after all warps have read the last tiles.
template <class T, bool TA, bool TB, class A, class B>
__device__ static inline void multiply_tiles(float (&acc)[T::rows][T::columns], A &a, B &b, int steps) {
    constexpr int part = T::half ? 16 : 4; // elements of K per call of multiply
    floatX *tiles = (floatX *)dynamic_shared;
    auto fetch = [&](int step) {
        floatX *tile = tiles + step % T::stages * T::stage_elements;
        b.load(tile + T::a_elements, step < steps);
        a.load(tile, step < steps); // after b, which may use a's position
        cp_async_commit();
    };
#pragma unroll
    for (int i = 0; i < T::rows; i++) {
#pragma unroll
        for (int j = 0; j < T::columns; j++) { acc[i][j] = 0; }
    }
#pragma unroll 1
    for (int step = 0; step < T::stages - 1; step++) { fetch(step); }
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        cp_async_wait<T::stages - 2>();
        __syncthreads(); // the tile is complete, and all warps have read the one that is overwritten below
        const floatX *tile = tiles + step % T::stages * T::stage_elements;
        multiply<T, TA, TB>(acc, tile, tile + T::a_elements, 0);
        fetch(step + T::stages - 1); // here, so that addresses are computed while the tensor cores are busy
#pragma unroll(T::half ? 2 : 1)
        for (int k = part; k < T::BK; k += part) { multiply<T, TA, TB>(acc, tile, tile + T::a_elements, k); }
    }
    cp_async_wait<0>();
    __syncthreads();
}
