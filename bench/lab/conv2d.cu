// Steps to conv2d_forward (kernels/conv2d.cu): out (pixels, OC) = patches (pixels, K K IC) weight^T, without storing
// the patches. SD2's largest case has 2 x 64 x 64 pixels, 320 to 320 channels, 3 x 3: 15.1 GFLOP, 48 us of an A100's
// tensor cores or 774 us of its multiply-adds, and 12 MB.
#include "bench/lab/steps.h"
#include "kernels/cuda_common.cuh"
#include "kernels/ptx.cuh"

// The output pixels of a convolution as rows of a matrix, and its patches as its inner dimension.
struct Rows {
    Conv2d c;
    int OH, OW, rows, inner; // B OH OW, K K IC
};

static Rows rows_of(Conv2d c) {
    const int OH = conv2d_out(&c, c.H), OW = conv2d_out(&c, c.W);
    return {c, OH, OW, c.B * OH * OW, c.K * c.K * c.IC};
}

// Where element k of a row's patch begins in the input, or NULL in the padding and outside the matrix.
__device__ static inline const floatX *patch(const floatX *inp, const Rows &r, int row, int k) {
    if (row >= r.rows || k >= r.inner) { return NULL; }
    const int tap = k / r.c.IC, ox = row % r.OW, oy = row / r.OW % r.OH, b = row / r.OW / r.OH;
    const int y = oy * r.c.stride + tap / r.c.K - r.c.pad_before, x = ox * r.c.stride + tap % r.c.K - r.c.pad_before;
    if (y < 0 || y >= r.c.H || x < 0 || x >= r.c.W) { return NULL; }
    return inp + (((size_t)b * r.c.H + y) * r.c.W + x) * r.c.IC + (k - tap * r.c.IC);
}

// Version 1: a thread per output number. Its 5760 multiply-adds read 11520 numbers. The lanes of a warp share the
// input, but their weights are K K IC apart: a whole sector for 2 bytes.
static __global__ void __launch_bounds__(THREADS)
    lab_conv2d_naive(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, Rows r) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const int row = (int)(i / r.c.OC), oc = (int)(i % r.c.OC);
    if (row >= r.rows) { return; }
    const floatX *w = weight + (size_t)oc * r.inner;
    float sum = bias ? to_float(bias[oc]) : 0.0f;
    for (int tap = 0; tap < r.c.K * r.c.K; tap++) {
        const floatX *x = patch(inp, r, row, tap * r.c.IC);
        for (int ic = 0; x && ic < r.c.IC; ic++) { sum += to_float(x[ic]) * to_float(w[tap * r.c.IC + ic]); }
    }
    out[i] = to_floatX(sum);
}

// Version 2: 64 x 64 tiles of the result. Shared memory holds 16 of the inner dimension at a time, so that each number
// from global memory is used 64 times. A thread computes 4 x 4 results in registers, 16 multiply-adds for two 128-bit
// reads of shared memory. This is close to the limit of the multiply-adds, a sixteenth of the tensor cores'.
enum { TILE = 64, STEP = 16, PITCH = TILE + 4 };

static __global__ void __launch_bounds__(THREADS)
    lab_conv2d_tiles(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, Rows r) {
    __align__(16) __shared__ float a[STEP * PITCH], b[STEP * PITCH];
    const int row0 = blockIdx.x * TILE, oc0 = blockIdx.y * TILE;
    const int k_of = threadIdx.x % STEP, line = threadIdx.x / STEP; // what a thread copies, and where it multiplies
    float sum[4][4] = {};
    for (int k0 = 0; k0 < r.inner; k0 += STEP) {
        const int k = k0 + k_of;
        __syncthreads();
#pragma unroll
        for (int i = line; i < TILE; i += THREADS / STEP) {
            const floatX *x = patch(inp, r, row0 + i, k);
            a[k_of * PITCH + i] = x ? to_float(*x) : 0.0f;
            const bool inside = oc0 + i < r.c.OC && k < r.inner;
            b[k_of * PITCH + i] = inside ? to_float(weight[(size_t)(oc0 + i) * r.inner + k]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < STEP; j++) {
            float x[4], w[4];
            load_words(x, a + j * PITCH + 4 * line);
            load_words(w, b + j * PITCH + 4 * k_of);
#pragma unroll
            for (int m = 0; m < 4; m++) {
#pragma unroll
                for (int n = 0; n < 4; n++) { sum[m][n] += x[m] * w[n]; }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int row = row0 + 4 * line + m, oc = oc0 + 4 * k_of + n;
            if (row < r.rows && oc < r.c.OC) {
                out[(size_t)row * r.c.OC + oc] = to_floatX(sum[m][n] + (bias ? to_float(bias[oc]) : 0.0f));
            }
        }
    }
}

// Version 3: the same tiles, 32 deep, by ldmatrix and mma.sync: four warps of 32 x 32. A row of shared memory has 80
// bytes, so that the eight rows of an ldmatrix are in different banks (the stores of a copy still have two-way
// conflicts). Copies go through registers while nothing multiplies, so the tensor cores wait for memory at every step.
// The result is written 2 bytes at a time. (fp32 has multiply-adds in the same places: 32 for 12 numbers.)
enum { MMA_THREADS = 128, DEPTH = 32, MMA_PITCH = DEPTH + 8 };

// Copies VEC elements of the inner dimension, from k on, to shared memory.
__device__ static inline void copy_patch(floatX *to, const floatX *inp, const Rows &r, int row, int k) {
    const bool whole = r.c.IC % VEC == 0;
    const floatX *from = patch(inp, r, row, k);
    floatX x[VEC];
    if (whole && from) {
        load_words(x, from);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            const floatX *one = whole ? NULL : patch(inp, r, row, k + i);
            x[i] = one ? *one : to_floatX(0.0f);
        }
    }
    store_words(to, x);
}

__device__ static inline void copy_weights(floatX *to, const floatX *weight, const Rows &r, int oc, int k) {
    const floatX *from = weight + (size_t)oc * r.inner + k;
    floatX x[VEC];
    if (r.inner % VEC == 0 && oc < r.c.OC && k < r.inner) {
        load_words(x, from);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) { x[i] = oc < r.c.OC && k + i < r.inner ? from[i] : to_floatX(0.0f); }
    }
    store_words(to, x);
}

// A lane's 32 of its warp's 32 x 32 results: blocks of 16 x 8 with four numbers each, as mma.sync arranges them.
__device__ static inline int row_in_warp(int m, int i) { return 16 * m + threadIdx.x % 32 / 4 + i / 2 * 8; }
__device__ static inline int column_in_warp(int n, int i) { return 8 * n + threadIdx.x % 4 * 2 + i % 2; }

// Where element k of a row is in a tile. Padded: rows are one piece of 16 bytes longer than their elements. Swizzled
// (version 5): the pieces of a row are permuted by an exclusive or, a different one in each row of 128 bytes.
template <bool SWIZZLED> __device__ static inline int place(int row, int k) {
    constexpr int pieces = DEPTH / VEC; // of a row: 4 in bf16, 8 in fp32
    if (!SWIZZLED) { return row * MMA_PITCH + k; }
    return row * DEPTH + (k / VEC ^ row * pieces / 8 % pieces) * VEC + k % VEC;
}

// sum += a b^T over DEPTH, for the warp's rows from m0 of a and n0 of b.
template <bool SWIZZLED>
__device__ static inline void multiply(float (&sum)[2][4][4], const floatX *a, int m0, const floatX *b, int n0) {
#ifdef PRECISION_bf16
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        unsigned fa[2][4], fb[4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            ldmatrix_x4(fa[m], a + place<SWIZZLED>(m0 + 16 * m + lane % 16, k + lane / 16 * 8));
        }
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            ldmatrix_x4(fb, b + place<SWIZZLED>(n0 + 8 * n + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma_m16n8k16(sum[m][n], fa[m], fb);
                mma_m16n8k16(sum[m][n + 1], fa[m], fb + 2);
            }
        }
    }
#else
    for (int k = 0; k < DEPTH; k++) {
        float x[2][2], w[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++) { x[i / 2][i % 2] = a[place<SWIZZLED>(m0 + row_in_warp(i / 2, 2 * (i % 2)), k)]; }
#pragma unroll
        for (int i = 0; i < 8; i++) { w[i / 2][i % 2] = b[place<SWIZZLED>(n0 + column_in_warp(i / 2, i % 2), k)]; }
#pragma unroll
        for (int i = 0; i < 32; i++) { sum[i / 16][i / 4 % 4][i % 4] += x[i / 16][i / 2 % 2] * w[i / 4 % 4][i % 2]; }
    }
#endif
}

// Writes a warp's results, whose first is (row0, oc0).
__device__ static inline void store_results(floatX *out, const float (&sum)[2][4][4], const floatX *bias, const Rows &r,
                                            int row0, int oc0) {
#pragma unroll
    for (int i = 0; i < 32; i++) {
        const int row = row0 + row_in_warp(i / 16, i % 4), oc = oc0 + column_in_warp(i / 4 % 4, i % 4);
        if (row < r.rows && oc < r.c.OC) {
            out[(size_t)row * r.c.OC + oc] =
                to_floatX(sum[i / 16][i / 4 % 4][i % 4] + (bias ? to_float(bias[oc]) : 0.0f));
        }
    }
}

static __global__ void __launch_bounds__(MMA_THREADS)
    lab_conv2d_mma(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, Rows r) {
    floatX *a = (floatX *)dynamic_shared, *b = a + TILE * MMA_PITCH;
    const int row0 = blockIdx.x * TILE, oc0 = blockIdx.y * TILE, warp = threadIdx.x / 32;
    const int m0 = warp / 2 * 32, n0 = warp % 2 * 32;
    float sum[2][4][4] = {};
    for (int k0 = 0; k0 < r.inner; k0 += DEPTH) {
        __syncthreads();
#pragma unroll
        for (int i = threadIdx.x; i < TILE * DEPTH / VEC; i += MMA_THREADS) {
            const int line = i / (DEPTH / VEC), k = i % (DEPTH / VEC) * VEC;
            copy_patch(a + place<false>(line, k), inp, r, row0 + line, k0 + k);
            copy_weights(b + place<false>(line, k), weight, r, oc0 + line, k0 + k);
        }
        __syncthreads();
        multiply<false>(sum, a, m0, b, n0);
    }
    store_results(out, sum, bias, r, row0 + m0, oc0 + n0);
}

// Versions 4 and 5: two buffers, and cp.async fills one while the warps multiply the other. The copies need no
// registers and one barrier per step instead of two; the tensor cores wait only where a step takes less time than its
// copies. (A vector that is not whole in memory still goes through registers.) Version 4 pads the rows as version 3:
// each group of eight lanes writes two rows, 160 bytes with a gap, which takes two wavefronts instead of one. Version 5
// permutes the pieces instead: no conflicts in copies and ldmatrix and a fifth less shared memory, for more
// instructions per address.
__device__ static inline void start_patch(floatX *to, const floatX *inp, const Rows &r, int row, int k) {
    if (r.c.IC % VEC == 0) {
        const floatX *from = patch(inp, r, row, k);
        cp_async_16(to, from ? from : inp, from != NULL);
    } else {
        copy_patch(to, inp, r, row, k);
    }
}

__device__ static inline void start_weights(floatX *to, const floatX *weight, const Rows &r, int oc, int k) {
    if (r.inner % VEC == 0) {
        const bool inside = oc < r.c.OC && k < r.inner;
        cp_async_16(to, inside ? weight + (size_t)oc * r.inner + k : weight, inside);
    } else {
        copy_weights(to, weight, r, oc, k);
    }
}

template <bool SWIZZLED> static constexpr int tile_elements = TILE *(SWIZZLED ? DEPTH : MMA_PITCH);

template <bool SWIZZLED>
static __global__ void __launch_bounds__(MMA_THREADS)
    lab_conv2d_async(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, Rows r) {
    floatX *buffers = (floatX *)dynamic_shared; // two of a and b
    const int row0 = blockIdx.x * TILE, oc0 = blockIdx.y * TILE, warp = threadIdx.x / 32;
    const int m0 = warp / 2 * 32, n0 = warp % 2 * 32, steps = ceil_div(r.inner, (int)DEPTH);
    auto a_of = [&](int step) { return buffers + step % 2 * 2 * tile_elements<SWIZZLED>; };
    auto start = [&](int step) {
        floatX *a = a_of(step), *b = a + tile_elements<SWIZZLED>;
#pragma unroll
        for (int i = threadIdx.x; i < TILE * DEPTH / VEC; i += MMA_THREADS) {
            const int line = i / (DEPTH / VEC), k = i % (DEPTH / VEC) * VEC, at = place<SWIZZLED>(line, k);
            start_patch(a + at, inp, r, row0 + line, step * DEPTH + k);
            start_weights(b + at, weight, r, oc0 + line, step * DEPTH + k);
        }
        cp_async_commit();
    };
    float sum[2][4][4] = {};
    start(0);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<0>();
        __syncthreads(); // this step's buffer is filled, and all warps have used the other one
        if (step + 1 < steps) { start(step + 1); }
        multiply<SWIZZLED>(sum, a_of(step), m0, a_of(step) + tile_elements<SWIZZLED>, n0);
    }
    store_results(out, sum, bias, r, row0 + m0, oc0 + n0);
}

// Version 6, kernels/conv2d.cu: larger tiles, so that each number in shared memory is used more often, and four of them
// in flight. The result is written in whole words, and the inner dimension is split where there are few tiles.

void lab_conv2d_forward(int version, floatX *out, const floatX *inp, const floatX *weight, const floatX *bias,
                        Conv2d conv, Device *dev) {
    if (dev->plan_only) { return; }
    const Rows r = rows_of(conv);
    const dim3 tiles(ceil_div(r.rows, (int)TILE), ceil_div(conv.OC, (int)TILE));
    if (version == 1) {
        const size_t n = (size_t)r.rows * conv.OC;
        launch<lab_conv2d_naive>(dev, (unsigned)ceil_div(n, (size_t)THREADS), THREADS, 0, out, inp, weight, bias, r);
    } else if (version == 2) {
        launch<lab_conv2d_tiles>(dev, tiles, THREADS, 0, out, inp, weight, bias, r);
    } else if (version == 3) {
        launch<lab_conv2d_mma>(dev, tiles, MMA_THREADS, 2 * TILE * MMA_PITCH * sizeof(floatX), out, inp, weight, bias,
                               r);
    } else if (version == 4) {
        launch<lab_conv2d_async<false>>(dev, tiles, MMA_THREADS, 4 * tile_elements<false> * sizeof(floatX), out, inp,
                                        weight, bias, r);
    } else {
        launch<lab_conv2d_async<true>>(dev, tiles, MMA_THREADS, 4 * tile_elements<true> * sizeof(floatX), out, inp,
                                       weight, bias, r);
    }
}
