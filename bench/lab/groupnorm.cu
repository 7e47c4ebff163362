// Steps to groupnorm_forward (kernels/groupnorm.cu). SD2's largest case has 2 x 4096 pixels of 320 channels: in bf16,
// 5.2 MB in and 5.2 MB out, 6.7 us of an A100's memory. A second read of the input, from L2 at best, is 5.2 MB more.
// Groups have 10, 20, ... channels of 2 bytes: 20 bytes are not a whole sector.
#include "bench/lab/steps.h"
#include "kernels/cuda_common.cuh"

enum { ROWS = 32 };

struct Norm {
    int HW, C, G;
    float eps;
    bool silu;
};

__device__ static inline float normalised(float x, float mean, float rstd, float weight, float bias, bool silu) {
    const float y = (x - mean) * rstd * weight + bias;
    return silu ? y * sigmoid(y) : y;
}

__device__ static inline float at(const floatX *x, int i) { return x ? to_float(x[i]) : 0.0f; }

// Versions 1 and 2: a block per group and sample loops over the group's elements. It uses 20 of 64 bytes of each pixel
// (two sectors), and only B G = 64 of 108 SMs have work. Version 1 computes the mean, then the variance, then the
// output, and reads the input three times. Version 2 computes the sums of d and d^2, d = x - first element, together,
// and reads it two times.
template <bool TOGETHER>
static __global__ void __launch_bounds__(THREADS)
    lab_groupnorm_group(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                        const floatX *bias, Norm k) {
    __shared__ float scratch[64];
    const int width = k.C / k.G, c0 = blockIdx.x * width, count = k.HW * width;
    const size_t first = (size_t)blockIdx.y * k.HW * k.C + c0;
    const float shift = TOGETHER ? to_float(inp[first]) : 0.0f;
    float sum = 0, square = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const float d = to_float(inp[first + (size_t)(i / width) * k.C + i % width]) - shift;
        sum += d;
        square += d * d;
    }
    const float offset = block_sum(sum, scratch) / count, m = shift + offset;
    if (!TOGETHER) {
        square = 0;
        for (int i = threadIdx.x; i < count; i += THREADS) {
            const float d = to_float(inp[first + (size_t)(i / width) * k.C + i % width]) - m;
            square += d * d;
        }
    }
    square = block_sum(square, scratch + 32) / count - (TOGETHER ? offset * offset : 0.0f);
    const float s = 1.0f / sqrtf(fmaxf(square, 0.0f) + k.eps);
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const int c = i % width;
        const size_t e = first + (size_t)(i / width) * k.C + c;
        out[e] = to_floatX(normalised(to_float(inp[e]), m, s, to_float(weight[c0 + c]), at(bias, c0 + c), k.silu));
    }
    if (threadIdx.x == 0) {
        mean[blockIdx.y * k.G + blockIdx.x] = m;
        rstd[blockIdx.y * k.G + blockIdx.x] = s;
    }
}

// Version 3: whole rows of pixels, and a block per chunk of ROWS pixels. One kernel sums per channel, a second one
// combines the sums to groups, a third one applies them. All sectors are used whole, but accesses have 2 bytes per
// lane, and a third of the threads idle where C = 320 is not a multiple of 256. sums (B, chunks, 2, C).
static __global__ void __launch_bounds__(THREADS) lab_groupnorm_sums(float *sums, const floatX *inp, Norm k) {
    const int last = min((int)(blockIdx.x + 1) * ROWS, k.HW);
    const floatX *x = inp + (size_t)blockIdx.y * k.HW * k.C;
    float *to = sums + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * k.C;
    for (int c = threadIdx.x; c < k.C; c += THREADS) {
        const float shift = to_float(x[c / (k.C / k.G) * (k.C / k.G)]);
        float sum = 0, square = 0;
        for (int p = blockIdx.x * ROWS; p < last; p++) {
            const float d = to_float(x[(size_t)p * k.C + c]) - shift;
            sum += d;
            square += d * d;
        }
        to[c] = sum;
        to[k.C + c] = square;
    }
}

static __global__ void __launch_bounds__(THREADS)
    lab_groupnorm_fold(float *mean, float *rstd, const float *sums, const floatX *inp, int chunks, Norm k) {
    __shared__ float scratch[64];
    const int width = k.C / k.G, c0 = blockIdx.x * width;
    float sum = 0, square = 0;
    for (int i = threadIdx.x; i < chunks * width; i += THREADS) {
        const float *from = sums + ((size_t)blockIdx.y * chunks + i / width) * 2 * k.C + c0 + i % width;
        sum += from[0];
        square += from[k.C];
    }
    const float count = (float)k.HW * width, offset = block_sum(sum, scratch) / count;
    square = block_sum(square, scratch + 32) / count - offset * offset;
    if (threadIdx.x == 0) {
        mean[blockIdx.y * k.G + blockIdx.x] = to_float(inp[(size_t)blockIdx.y * k.HW * k.C + c0]) + offset;
        rstd[blockIdx.y * k.G + blockIdx.x] = 1.0f / sqrtf(fmaxf(square, 0.0f) + k.eps);
    }
}

static __global__ void __launch_bounds__(THREADS)
    lab_groupnorm_apply(floatX *out, const float *mean, const float *rstd, const floatX *inp, const floatX *weight,
                        const floatX *bias, Norm k) {
    const int last = min((int)(blockIdx.x + 1) * ROWS, k.HW);
    const size_t first = (size_t)blockIdx.y * k.HW * k.C;
    for (int c = threadIdx.x; c < k.C; c += THREADS) {
        const int group = blockIdx.y * k.G + c / (k.C / k.G);
        const float m = mean[group], s = rstd[group], w = to_float(weight[c]), b = at(bias, c);
        for (int p = blockIdx.x * ROWS; p < last; p++) {
            const size_t e = first + (size_t)p * k.C + c;
            out[e] = to_floatX(normalised(to_float(inp[e]), m, s, w, b, k.silu));
        }
    }
}

// Version 4, kernels/groupnorm.cu: 128 bits per lane, block shapes that fit the channels, several rows in flight.

void lab_groupnorm_forward(int version, floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                           const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev) {
    const int chunks = ceil_div(HW, (int)ROWS);
    float *sums = version == 3 ? (float *)device_workspace(dev, sizeof(float) * B * chunks * 2 * C) : NULL;
    if (dev->plan_only) { return; }
    const Norm k = {HW, C, G, eps, silu};
    if (version < 3) {
        auto *run = version == 1 ? launch<lab_groupnorm_group<false>, floatX *, float *, float *, const floatX *,
                                          const floatX *, const floatX *, Norm>
                                 : launch<lab_groupnorm_group<true>, floatX *, float *, float *, const floatX *,
                                          const floatX *, const floatX *, Norm>;
        run(dev, dim3(G, B), THREADS, 0, out, mean, rstd, inp, weight, bias, k);
        return;
    }
    launch<lab_groupnorm_sums>(dev, dim3(chunks, B), THREADS, 0, sums, inp, k);
    launch<lab_groupnorm_fold>(dev, dim3(G, B), THREADS, 0, mean, rstd, (const float *)sums, inp, chunks, k);
    launch<lab_groupnorm_apply>(dev, dim3(chunks, B), THREADS, 0, out, (const float *)mean, (const float *)rstd, inp,
                                weight, bias, k);
}
