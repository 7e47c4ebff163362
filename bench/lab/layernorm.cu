// Steps to layernorm_forward (kernels/layernorm.cu). SD2's largest case has 8192 rows of 320: in bf16, 5.2 MB in and
// 5.2 MB out, 6.7 us of an A100's memory. Any time beyond that comes from the access pattern.
#include "bench/lab/steps.h"
#include "kernels/cuda_common.cuh"

enum { WARPS = THREADS / 32 };

// Version 1: a thread per row, which reads the row three times. The 32 lanes of a warp read 2 bytes each from 32 rows:
// a wavefront of L1 per lane instead of one per warp. There are only 32 blocks for 108 SMs.
static __global__ void __launch_bounds__(THREADS)
    lab_layernorm_1(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight, const floatX *bias,
                    int N, int C, float eps) {
    const int row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= N) { return; }
    const floatX *x = inp + (size_t)row * C;
    float sum = 0, square = 0;
    for (int c = 0; c < C; c++) { sum += to_float(x[c]); }
    const float m = sum / C;
    for (int c = 0; c < C; c++) {
        const float d = to_float(x[c]) - m;
        square += d * d;
    }
    const float s = 1.0f / sqrtf(square / C + eps);
    for (int c = 0; c < C; c++) {
        const float y = (to_float(x[c]) - m) * s * to_float(weight[c]);
        out[(size_t)row * C + c] = to_floatX(y + (bias ? to_float(bias[c]) : 0.0f));
    }
    mean[row] = m;
    rstd[row] = s;
}

// Versions 2 and 3: a warp per row, so that its lanes read neighbouring elements: whole sectors, and as many warps as
// rows. Version 2 reads one element per lane. Version 3 reads 128 bits, an eighth of the loads; but 320 columns are 40
// vectors, so the second iteration of a warp uses 8 lanes. Both still read the row three times, the last two from L1,
// and fetch weight and bias for every row: five reads where one is needed.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    lab_layernorm_warp(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int N, int C, float eps) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= N) { return; }
    const floatX *x = inp + (size_t)row * C;
    float sum = 0, square = 0, v[V], w[V], b[V] = {};
    for (int c = lane * V; c < C; c += 32 * V) {
        load(v, x + c);
#pragma unroll
        for (int i = 0; i < V; i++) { sum += v[i]; }
    }
    const float m = warp_sum(sum) / C;
    for (int c = lane * V; c < C; c += 32 * V) {
        load(v, x + c);
#pragma unroll
        for (int i = 0; i < V; i++) { square += (v[i] - m) * (v[i] - m); }
    }
    const float s = 1.0f / sqrtf(warp_sum(square) / C + eps);
    for (int c = lane * V; c < C; c += 32 * V) {
        load(v, x + c);
        load(w, weight + c);
        if (bias) { load(b, bias + c); }
#pragma unroll
        for (int i = 0; i < V; i++) { v[i] = (v[i] - m) * s * w[i] + b[i]; }
        store(out + (size_t)row * C + c, v);
    }
    if (lane == 0) {
        mean[row] = m;
        rstd[row] = s;
    }
}

// Version 4, kernels/layernorm.cu: a row is read once and stays in the registers of 8, 16 or 32 lanes. Weight and bias
// pass through shared memory once per block.

void lab_layernorm_forward(int version, floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                           const floatX *bias, int N, int C, float eps, Device *dev) {
    if (dev->plan_only) { return; }
    if (version == 1) {
        launch<lab_layernorm_1>(dev, ceil_div(N, (int)THREADS), THREADS, 0, out, mean, rstd, inp, weight, bias, N, C,
                                eps);
    } else if (version == 2 || C % VEC) {
        launch<lab_layernorm_warp<1>>(dev, ceil_div(N, (int)WARPS), THREADS, 0, out, mean, rstd, inp, weight, bias, N,
                                      C, eps);
    } else {
        launch<lab_layernorm_warp<VEC>>(dev, ceil_div(N, (int)WARPS), THREADS, 0, out, mean, rstd, inp, weight, bias, N,
                                        C, eps);
    }
}
