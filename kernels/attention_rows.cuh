// What both ways of attention.cu, tiles and cuBLASLt, do with rows of queries.
#pragma once
#include "kernels/cuda_common.cuh"

static constexpr float LOG2E = 1.4426950408889634f;

__device__ static inline float row_max(float x) { // over the four lanes of a row
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ static inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// rows (B NH, padded) of (lse in units of log 2, delta): delta = sum over the head of dout out, as in
// dS = P (dP - delta). Rows beyond Tq get inf and 0, which make P zero. Four lanes per row; a block has 64 rows of one
// head. Also clears `count` counters.
static __global__ void __launch_bounds__(256)
    output_dots(float2 *rows, unsigned *counters, unsigned count, const floatX *dout, const floatX *out,
                const float *lse, Attention a, int padded) {
    const int t = blockIdx.x * 64 + threadIdx.x / 4, part = threadIdx.x % 4, bh = blockIdx.y;
    const unsigned number = (blockIdx.y * gridDim.x + blockIdx.x) * 256 + threadIdx.x;
    if (number < count) { counters[number] = 0; }
    float sum = 0;
    if (t < a.Tq) {
        const size_t at = ((size_t)(bh / a.NH) * a.Tq + t) * a.out_stride + (size_t)(bh % a.NH) * a.HS;
        for (int d = part * VEC; d < a.HS; d += 4 * VEC) {
            float x[VEC], y[VEC];
            load(x, dout + at + d);
            load(y, out + at + d);
#pragma unroll
            for (int i = 0; i < VEC; i++) { sum += x[i] * y[i]; }
        }
    }
    sum = row_sum(sum);
    if (part == 0 && t < padded) {
        rows[(size_t)bh * padded + t] =
            t < a.Tq ? make_float2(lse[(size_t)bh * a.Tq + t] * LOG2E, sum) : make_float2(INFINITY, 0);
    }
}
