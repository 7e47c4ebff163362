// Products of tiles in shared memory, for attention.cu. A warp owns M blocks of 16 rows of a result. In both precisions
// its lanes hold them in the layout of the tensor cores: of each 16 rows and 8 columns, lane l has
//     x[0], x[1]: row l/4,     columns 2 (l%4) and 2 (l%4) + 1
//     x[2], x[3]: row l/4 + 8, the same columns.
// bf16 uses mma.sync; fp32 uses multiply-adds with the same layout.
#pragma once
#include "kernels/cuda_common.cuh"
#include "kernels/ptx.cuh"

// A tile with rows of W elements (a multiple of 16) in shared memory. In rows of 128 bytes the 16-byte pieces are
// permuted; other rows are padded by one piece. So the eight rows of an ldmatrix, and 16-byte accesses, have no bank
// conflicts.
template <int W> struct Layout {
    static constexpr bool swizzled = sizeof(floatX) == 2 && W % 64 == 0;
    static constexpr int pitch = swizzled ? W : W + VEC; // elements from row to row
    __device__ static inline unsigned at(unsigned row, unsigned column) {
        return row * pitch + (swizzled ? (column / VEC ^ row % 8) * VEC + column % VEC : column);
    }
    // The address of (row + rows, column + columns), given that of (row, column). rows is a multiple of 8, columns of
    // 16, and column < 16; a swizzled tile begins at a multiple of 128 bytes.
    __device__ static inline SharedAddress step(SharedAddress at, unsigned rows, unsigned columns) {
        const unsigned across = columns * sizeof(floatX);
        return (swizzled ? (at ^ across % 128) + across / 128 * 128 : at + across) + rows * pitch * sizeof(floatX);
    }
};

// Sizes for heads of at most D elements (a multiple of 16). Everything fits into 99 KB. For heads of 64 in bf16, two
// blocks run on an SM of 164 KB, with 255 registers per thread and 32 rows per warp: each piece of the right operand
// that ldmatrix reads is then multiplied by two blocks of the left one, and shared memory keeps up with the tensor
// cores.
template <int D> struct Tiles {
    static constexpr bool half = sizeof(floatX) == 2;
    static constexpr bool small = half && D <= 64;
    static constexpr int warps = half || D <= 96 ? 4 : 2;
    static constexpr int M = small ? 2 : 1;       // blocks of 16 rows of a warp
    static constexpr int rows = 16 * M * warps;   // of the tile that a block owns
    static constexpr int inner = small ? 64 : 32; // rows of the tiles that it loops over
    // Columns of scores that backward holds in registers.
    static constexpr int slice = small || (half && D > 128) ? 16 : D > 128 ? 8 : 32;
    static constexpr int stages = half || D <= 64 ? 2 : 1; // tiles in flight
    // Columns of left operands (the queries; keys and values in backward) that stay in registers: as many as fit.
    static constexpr int keep = small ? D : 0, keep_values = keep > 32 ? keep - 16 : keep;
    static constexpr int threads = 32 * warps;
    // dq of a tile of queries is computed in units of 16 M rows and `unit_columns` columns, one warp per unit.
    static constexpr int unit_columns = D == 64 ? 32 : 16;
    static constexpr int units = inner / (16 * M) * (D / unit_columns);
};

// Starts the copy tile (ROWS, D) = rows from `first` on of a matrix with `total` rows of HS elements; zeros outside. It
// is complete after cp_async_wait.
template <int D, int ROWS>
__device__ static inline void load_tile(floatX *tile, const floatX *from, int stride, int first, int total, int HS) {
    constexpr int vectors = D / VEC, pass = Tiles<D>::threads / vectors; // rows per pass; a few threads may have none
    unsigned thread = threadIdx.x;
    asm volatile("" : "+r"(thread)); // recompute it for each tile: backward has no registers to keep it
    const int row0 = thread / vectors, d = thread % vectors * VEC;
    const floatX *at = from + (size_t)(first + row0) * stride + d;
    SharedAddress to = shared_address(tile + Layout<D>::at(row0, d));
    static_assert(!Layout<D>::swizzled || pass % 8 == 0, "pieces of a row keep their places from pass to pass");
    const int rows = row0 < pass ? ROWS : 0, inside = d < HS ? total - first : 0;
#pragma unroll 1 // backward has no registers for the addresses of several passes
    for (int row = row0; row < rows; row += pass) {
        cp_async_16(to, at, row < inside);
        at += (size_t)pass * stride, to += pass * Layout<D>::pitch * sizeof(floatX);
    }
}

// The inverse: stores the tile's rows in 16-byte pieces. All threads of the block must call it.
template <int D, int ROWS>
__device__ static inline void store_tile(floatX *to, int stride, int first, int total, int HS, const floatX *tile) {
    const int vectors = HS / VEC;
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * vectors; i += Tiles<D>::threads) {
        const int row = i / vectors, d = i % vectors * VEC;
        if (first + row < total) {
            floatX v[VEC];
            load_words(v, tile + Layout<D>::at(row, d));
            store_words(to + (size_t)(first + row) * stride + d, v);
        }
    }
}

#ifdef PRECISION_bf16

// The left operand of multiply_rows: rows first .. first + 16 M of a tile (., D), of which the first KEEP columns
// stay in registers.
template <int D, int M, int KEEP> struct Left {
    const floatX *tile;
    int first;
    unsigned kept[KEEP ? KEEP / 16 : 1][M][4];
    __device__ inline Left(const floatX *tile, int first) : tile(tile), first(first) {}
    __device__ inline void read(unsigned (&f)[M][4], int d) const {
        const int lane = threadIdx.x % 32;
        const SharedAddress at = shared_address(tile + Layout<D>::at(first + lane % 16, lane / 16 * 8));
#pragma unroll
        for (int m = 0; m < M; m++) { ldmatrix_x4(f[m], Layout<D>::step(at, m * 16, d)); }
    }
    __device__ inline void keep() { // call it after the tile has been loaded
#pragma unroll
        for (int d = 0; d < KEEP; d += 16) { read(kept[d / 16], d); }
    }
    __device__ inline void get(unsigned (&f)[M][4], int d) const {
        if (d >= KEEP) { return read(f, d); }
#pragma unroll
        for (int i = 0; i < M * 4; i++) { f[i / 4][i % 4] = kept[d / 16][i / 4][i % 4]; }
    }
};

// x (16 M, 8 N) = a (16 M, D) b (8 N, D)^T.
template <int D, int M, int N, int KEEP>
__device__ static inline void multiply_rows(float (&x)[M][N][4], const Left<D, M, KEEP> &a, const floatX *b) {
    const int lane = threadIdx.x % 32;
    const SharedAddress at = shared_address(b + Layout<D>::at(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) { x[m][n][0] = x[m][n][1] = x[m][n][2] = x[m][n][3] = 0; }
    }
#pragma unroll(D > 96 ? 2 : D / 16) // unrolling all of a large head would spill
    for (int d = 0; d < D; d += 16) {
        unsigned fa[M][4];
        a.get(fa, d);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned fb[4];
            ldmatrix_x4(fb, Layout<D>::step(at, n * 8, d));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(x[m][n], fa[m], fb);
                mma_m16n8k16(x[m][n + 1], fa[m], fb + 2);
            }
        }
    }
}

__device__ static inline unsigned pair(float low, float high) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &two, sizeof bits);
    return bits;
}
__device__ static inline void store_two(floatX *to, float low, float high) {
    *reinterpret_cast<unsigned *>(to) = pair(low, high);
}

// out (16 M, D) += p (16 M, 8 N) b (8 N, D).
template <int D, int M, int N>
__device__ static inline void add_product(float (&out)[M][D / 8][4], const float (&p)[M][N][4], const floatX *b) {
    const int lane = threadIdx.x % 32;
    const SharedAddress at = shared_address(b + Layout<D>::at(lane % 16, lane / 16 * 8));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        unsigned fa[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) { fa[m][i] = pair(p[m][n + i / 2][i % 2 * 2], p[m][n + i / 2][i % 2 * 2 + 1]); }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            unsigned fb[4];
            ldmatrix_x4_trans(fb, Layout<D>::step(at, n * 8, d * 8));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(out[m][d], fa[m], fb);
                mma_m16n8k16(out[m][d + 1], fa[m], fb + 2);
            }
        }
    }
}

// out (16 M, 8 N) += (a^T b), a (depth, W) from column row0, b (depth, D) from column column0. depth <= ROWS; rows of a
// or b between depth and the next multiple of 16 must be zero.
template <int W, int D, int ROWS, int M, int N>
__device__ static inline void add_transposed(float (&out)[M][N][4], const floatX *a, int row0, const floatX *b,
                                             int column0, int depth) {
    const int lane = threadIdx.x % 32;
    const SharedAddress at_a =
        Layout<W>::step(shared_address(a + Layout<W>::at(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8)), 0, row0);
    const SharedAddress at_b = Layout<D>::step(shared_address(b + Layout<D>::at(lane % 16, lane / 16 * 8)), 0, column0);
#pragma unroll
    for (int k = 0; k < ROWS; k += 16) {
        if (k >= depth) { break; }
        unsigned fa[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) { ldmatrix_x4_trans(fa[m], Layout<W>::step(at_a, k, m * 16)); }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned fb[4];
            ldmatrix_x4_trans(fb, Layout<D>::step(at_b, k, n * 8));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(out[m][n], fa[m], fb);
                mma_m16n8k16(out[m][n + 1], fa[m], fb + 2);
            }
        }
    }
}

#else

__device__ static inline void store_two(floatX *to, float low, float high) {
    *reinterpret_cast<float2 *>(to) = make_float2(low, high);
}

// The left operand of multiply_rows: rows first .. first + 16 M of a tile (., D).
template <int D, int M, int KEEP> struct Left {
    const floatX *tile;
    int first;
    __device__ inline Left(const floatX *tile, int first) : tile(tile), first(first) {}
    __device__ inline void keep() {}
};

// x (16 M, 8 N) = a (16 M, D) b (8 N, D)^T.
template <int D, int M, int N, int KEEP>
__device__ static inline void multiply_rows(float (&x)[M][N][4], const Left<D, M, KEEP> &a, const floatX *b) {
    static_assert(M == 1, "fp32 has 16 rows a warp");
    constexpr int pitch = Layout<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_a = a.tile + (a.first + lane / 4) * pitch, *at_b = b + lane % 4 * 2 * pitch;
#pragma unroll
    for (int n = 0; n < N; n++) { x[0][n][0] = x[0][n][1] = x[0][n][2] = x[0][n][3] = 0; }
#pragma unroll 1
    for (int d = 0; d < D; d += 4) {
        float a0[4], a1[4], b0[4], b1[4];
        load(a0, at_a + d);
        load(a1, at_a + 8 * pitch + d);
#pragma unroll
        for (int n = 0; n < N; n++) {
            load(b0, at_b + n * 8 * pitch + d);
            load(b1, at_b + (n * 8 + 1) * pitch + d);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[0][n][0] += a0[i] * b0[i], x[0][n][1] += a0[i] * b1[i];
                x[0][n][2] += a1[i] * b0[i], x[0][n][3] += a1[i] * b1[i];
            }
        }
    }
}

// out (16 M, D) += p (16 M, 8 N) b (8 N, D). The four lanes of a row exchange their columns of p.
template <int D, int M, int N>
__device__ static inline void add_product(float (&out)[M][D / 8][4], const float (&p)[M][N][4], const floatX *b) {
    constexpr int pitch = Layout<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_b = b + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll 1
        for (int owner = 0; owner < 4; owner++) {
            float from[4];
#pragma unroll
            for (int i = 0; i < 4; i++) { from[i] = __shfl_sync(0xffffffffu, p[0][n][i], owner, 4); }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const floatX *row = at_b + (n * 8 + owner * 2 + i) * pitch;
#pragma unroll
                for (int d = 0; d < D / 8; d++) {
                    float v[2];
                    load(v, row + d * 8);
                    out[0][d][0] += from[i] * v[0], out[0][d][1] += from[i] * v[1];
                    out[0][d][2] += from[i + 2] * v[0], out[0][d][3] += from[i + 2] * v[1];
                }
            }
        }
    }
}

// out (16 M, 8 N) += (a^T b), a (depth, W) from column row0, b (depth, D) from column column0; depth <= ROWS.
template <int W, int D, int ROWS, int M, int N>
__device__ static inline void add_transposed(float (&out)[M][N][4], const floatX *a, int row0, const floatX *b,
                                             int column0, int depth) {
    const int lane = threadIdx.x % 32;
    const floatX *at_a = a + row0 + lane / 4, *at_b = b + column0 + lane % 4 * 2;
#pragma unroll 2
    for (int k = 0; k < depth; k++) {
        const float low = at_a[k * Layout<W>::pitch], high = at_a[k * Layout<W>::pitch + 8];
#pragma unroll
        for (int n = 0; n < N; n++) {
            float v[2];
            load(v, at_b + k * Layout<D>::pitch + n * 8);
            out[0][n][0] += low * v[0], out[0][n][1] += low * v[1];
            out[0][n][2] += high * v[0], out[0][n][3] += high * v[1];
        }
    }
}

#endif

// tile (16 M rows from row0, 8 N columns from column0) = x, each row multiplied by its scale.
template <int W, int M, int N>
__device__ static inline void put(floatX *tile, int row0, int column0, const float (&x)[M][N][4],
                                  const float (&scale)[M][2]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                store_two(tile + Layout<W>::at(row0 + m * 16 + r * 8 + lane / 4, column0 + n * 8 + lane % 4 * 2),
                          scale[m][r] * x[m][n][2 * r], scale[m][r] * x[m][n][2 * r + 1]);
            }
        }
    }
}
