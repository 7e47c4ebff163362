// Products of tiles in shared memory, for attention.cu. A warp owns 16 rows of a result; its lanes hold them as tensor
// cores do, in both precisions: of each block of 8 columns, lane l has
//     x[0], x[1]: row l/4,     columns 2 (l%4) and 2 (l%4) + 1
//     x[2], x[3]: row l/4 + 8, the same columns.
// bf16 multiplies by mma.sync; fp32 by multiply-adds, with the same placement.
#pragma once
#include "kernels/cuda_common.cuh"
#include "kernels/ptx.cuh"

// Sizes for heads of at most D elements (a multiple of 16). A row of a tile is D elements and 16 bytes, which leaves
// ldmatrix and 16-byte reads of 8 rows without bank conflicts. Everything fits into 99 KB.
template <int D> struct Tiles {
    static constexpr bool half = sizeof(floatX) == 2;
    static constexpr int warps = half || D <= 96 ? 4 : 2;
    static constexpr int rows = 16 * warps;                 // of the tile that a block owns
    static constexpr int inner = half && D <= 64 ? 64 : 32; // rows of the tiles that it walks over
    static constexpr int stages = half || D <= 64 ? 2 : 1;  // tiles in flight
    static constexpr int pitch = D + VEC;                   // elements of a row in shared memory
    static constexpr int threads = 32 * warps;
};

// tile (ROWS, pitch) = rows first .. of a matrix with `total` rows of HS elements; zeros outside. Lands at the wait.
template <int D, int ROWS>
__device__ static inline void load_tile(floatX *tile, const floatX *from, int stride, int first, int total, int HS) {
    constexpr int vectors = D / VEC;
    for (int i = threadIdx.x; i < ROWS * vectors; i += Tiles<D>::threads) {
        const int row = i / vectors, d = i % vectors * VEC;
        const bool inside = first + row < total && d < HS;
        cp_async_16(tile + row * Tiles<D>::pitch + d, inside ? from + (size_t)(first + row) * stride + d : from,
                    inside);
    }
}

#ifdef PRECISION_bf16

// x (16, 8 N) = a (16, D) b (8 N, D)^T.
template <int D, int N>
__device__ static inline void multiply_rows(float (&x)[N][4], const floatX *a, const floatX *b) {
    constexpr int pitch = Tiles<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_a = a + lane % 16 * pitch + lane / 16 * 8;
    const floatX *at_b = b + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < N; n++) { x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0; }
#pragma unroll(D > 96 ? 2 : D / 16) // all of a large head at once would spill
    for (int d = 0; d < D; d += 16) {
        unsigned fa[4];
        ldmatrix_x4(fa, at_a + d);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            unsigned fb[4];
            ldmatrix_x4(fb, at_b + n * 8 * pitch + d);
            mma_m16n8k16(x[n], fa, fb);
            mma_m16n8k16(x[n + 1], fa, fb + 2);
        }
    }
}

__device__ static inline unsigned pair(float low, float high) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &two, sizeof bits);
    return bits;
}

// out (16, D) += p (16, 8 N) b (8 N, D).
template <int D, int N>
__device__ static inline void add_product(float (&out)[D / 8][4], const float (&p)[N][4], const floatX *b) {
    constexpr int pitch = Tiles<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_b = b + lane % 16 * pitch + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        const unsigned fa[4] = {pair(p[n][0], p[n][1]), pair(p[n][2], p[n][3]), pair(p[n + 1][0], p[n + 1][1]),
                                pair(p[n + 1][2], p[n + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            unsigned fb[4];
            ldmatrix_x4_trans(fb, at_b + n * 8 * pitch + d * 8);
            mma_m16n8k16(out[d], fa, fb);
            mma_m16n8k16(out[d + 1], fa, fb + 2);
        }
    }
}

#else

// x (16, 8 N) = a (16, D) b (8 N, D)^T.
template <int D, int N>
__device__ static inline void multiply_rows(float (&x)[N][4], const floatX *a, const floatX *b) {
    constexpr int pitch = Tiles<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_a = a + lane / 4 * pitch, *at_b = b + lane % 4 * 2 * pitch;
#pragma unroll
    for (int n = 0; n < N; n++) { x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0; }
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
                x[n][0] += a0[i] * b0[i], x[n][1] += a0[i] * b1[i];
                x[n][2] += a1[i] * b0[i], x[n][3] += a1[i] * b1[i];
            }
        }
    }
}

// out (16, D) += p (16, 8 N) b (8 N, D). The four lanes of a row pass each other their columns of p.
template <int D, int N>
__device__ static inline void add_product(float (&out)[D / 8][4], const float (&p)[N][4], const floatX *b) {
    constexpr int pitch = Tiles<D>::pitch;
    const int lane = threadIdx.x % 32;
    const floatX *at_b = b + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll 1
        for (int owner = 0; owner < 4; owner++) {
            float from[4];
#pragma unroll
            for (int i = 0; i < 4; i++) { from[i] = __shfl_sync(0xffffffffu, p[n][i], owner, 4); }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const floatX *row = at_b + (n * 8 + owner * 2 + i) * pitch;
#pragma unroll
                for (int d = 0; d < D / 8; d++) {
                    float v[2];
                    load(v, row + d * 8);
                    out[d][0] += from[i] * v[0], out[d][1] += from[i] * v[1];
                    out[d][2] += from[i + 2] * v[0], out[d][3] += from[i + 2] * v[1];
                }
            }
        }
    }
}

#endif

// Writes scale x (16, D) of a warp to rows first .. of a matrix with `total` rows of HS elements, through the warp's
// own 16 rows of shared memory, so that a row leaves in 16-byte pieces.
template <int D>
__device__ static inline void store_rows(floatX *to, int stride, int first, int total, int HS, floatX *staging,
                                         const float (&x)[D / 8][4], float scale_low, float scale_high) {
    constexpr int pitch = Tiles<D>::pitch;
    const int lane = threadIdx.x % 32;
    floatX *mine = staging + lane / 4 * pitch + lane % 4 * 2;
    __syncwarp();
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
        const float low[2] = {scale_low * x[d][0], scale_low * x[d][1]};
        const float high[2] = {scale_high * x[d][2], scale_high * x[d][3]};
        store(mine + d * 8, low);
        store(mine + 8 * pitch + d * 8, high);
    }
    __syncwarp();
    const int vectors = HS / VEC;
    for (int i = lane; i < 16 * vectors; i += 32) {
        const int row = i / vectors, d = i % vectors * VEC;
        floatX v[VEC];
        if (first + row < total) {
            load_words(v, staging + row * pitch + d);
            store_words(to + (size_t)(first + row) * stride + d, v);
        }
    }
}
