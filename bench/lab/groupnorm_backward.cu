// Steps to groupnorm_backward (kernels/groupnorm.cu). With y = x^ weight + bias and dy the gradient of y (dout, times
// silu's slope), dinp = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), the means over a group; dbias and dweight are the
// sums of dy and of dy x^ over all samples and pixels. So the two sums of each channel of each sample give everything:
// they are the partial sums of the channel's gradients, and with the weights those of the group's means.
//
// SD2's largest case has 2 x 4096 pixels of 320 channels: in bf16, dout, inp and dinp have 5.2 MB each, together 10.1
// us of an A100's memory. No group fits into shared memory, so dout and inp are read again for dinp, from L2 at best:
// 10.5 MB more.
#include "bench/lab/steps.h"
#include "kernels/cuda_common.cuh"

enum { ROWS = 32 };

// x^ and dy of one element.
struct Element {
    float xhat, dy;
    __device__ Element(float x, float dout, float mean, float rstd, float weight, float bias, bool silu)
        : xhat((x - mean) * rstd), dy(silu ? dout * silu_slope(xhat * weight + bias) : dout) {}
};

__device__ static inline float gradient(Element at, float weight, float rstd, float mean_dy, float mean_dot) {
    return rstd * (weight * at.dy - mean_dy - at.xhat * mean_dot);
}

// What all versions read.
struct Inputs {
    const floatX *dout, *inp, *weight, *bias;
    const float *mean, *rstd;
    int HW, C, G;
    bool silu;
    __device__ float bias_of(int c) const { return bias ? to_float(bias[c]) : 0.0f; }
    // Element e of the tensors: it belongs to channel c and to a group of all samples' B G groups.
    __device__ Element element(size_t e, int c, int group) const {
        return Element(to_float(inp[e]), to_float(dout[e]), mean[group], rstd[group], to_float(weight[c]), bias_of(c),
                       silu);
    }
};

// Version 1: a thread per group and sample walks over the group's elements twice, first for the means, then for dinp. A
// second kernel, a thread per channel, reads everything a third time for dweight and dbias. The lanes of a warp are 20
// bytes apart: a load touches 20 sectors for 64 bytes. The first kernel has two warps, on one of 108 SMs, whose L1
// needs 2.8 ms (counted); and nothing hides the latency of the 2 x 40960 iterations.
static __global__ void __launch_bounds__(THREADS) lab_gradient_of_group(floatX *dinp, Inputs k, int groups) {
    const int group = blockIdx.x * THREADS + threadIdx.x, width = k.C / k.G, c0 = group % k.G * width;
    if (group >= groups) { return; }
    const size_t first = (size_t)(group / k.G) * k.HW * k.C + c0;
    float sum = 0, dot = 0;
    for (int i = 0; i < k.HW * width; i++) {
        const int c = i % width;
        const Element at = k.element(first + (size_t)(i / width) * k.C + c, c0 + c, group);
        sum += to_float(k.weight[c0 + c]) * at.dy;
        dot += to_float(k.weight[c0 + c]) * at.dy * at.xhat;
    }
    const float count = (float)k.HW * width;
    for (int i = 0; i < k.HW * width; i++) {
        const int c = i % width;
        const size_t e = first + (size_t)(i / width) * k.C + c;
        const float w = to_float(k.weight[c0 + c]);
        dinp[e] = to_floatX(gradient(k.element(e, c0 + c, group), w, k.rstd[group], sum / count, dot / count));
    }
}

static __global__ void __launch_bounds__(THREADS)
    lab_gradient_of_channel(float *dweight, float *dbias, Inputs k, int samples) {
    const int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= k.C) { return; }
    float sum = 0, dot = 0;
    for (int i = 0; i < samples * k.HW; i++) {
        const Element at = k.element((size_t)i * k.C + c, c, i / k.HW * k.G + c / (k.C / k.G));
        sum += at.dy;
        dot += at.dy * at.xhat;
    }
    dbias[c] = sum;
    dweight[c] = dot;
}

// Version 2: a block per group and sample: 256 times the threads. Each has a fixed channel of the group, so one walk
// gives the sums of the channels, which are added in shared memory, and from them the means: two reads of the input
// instead of three. A small kernel adds the channels' sums over samples. But a block uses 20 of the 64 bytes of each
// pixel's sectors, and only B G = 64 of 108 SMs have work. sums (B, 1, 2, C); C / G is at most THREADS.
static __global__ void __launch_bounds__(THREADS) lab_gradient_of_group_by_block(floatX *dinp, float *sums, Inputs k) {
    __shared__ float scratch[2][THREADS], warps[64];
    const int width = k.C / k.G, rows = THREADS / width, row = threadIdx.x / width,
              group = blockIdx.y * k.G + blockIdx.x;
    const int c = blockIdx.x * width + threadIdx.x % width;
    const size_t first = (size_t)blockIdx.y * k.HW * k.C + c;
    float sum = 0, dot = 0;
    for (int p = row; p < k.HW && row < rows; p += rows) {
        const Element at = k.element(first + (size_t)p * k.C, c, group);
        sum += at.dy;
        dot += at.dy * at.xhat;
    }
    scratch[0][threadIdx.x] = sum;
    scratch[1][threadIdx.x] = dot;
    __syncthreads();
    const float w = to_float(k.weight[c]), count = (float)k.HW * width;
    sum = dot = 0;
    if ((int)threadIdx.x < width) {
        for (int i = threadIdx.x; i < rows * width; i += width) {
            sum += scratch[0][i];
            dot += scratch[1][i];
        }
        sums[blockIdx.y * 2 * k.C + c] = sum;
        sums[(blockIdx.y * 2 + 1) * k.C + c] = dot;
    }
    const float mean_dy = block_sum(w * sum, warps) / count, mean_dot = block_sum(w * dot, warps + 32) / count;
    for (int p = row; p < k.HW && row < rows; p += rows) {
        const size_t e = first + (size_t)p * k.C;
        dinp[e] = to_floatX(gradient(k.element(e, c, group), w, k.rstd[group], mean_dy, mean_dot));
    }
}

// Versions 3 and 4: whole rows of pixels, and a block per chunk of ROWS pixels, so that every SM has work. One kernel
// sums per channel, a second one combines the sums to the means of groups, a third one computes dinp. All sectors are
// used whole: version 3, one element per lane, has 2 sectors per load of a warp, where version 2 has more than 5. Its
// sums are 0.7 MB. Version 4 has 128 bits per lane: an eighth of the loads of dout and inp. A thread keeps what its
// channels need in registers, but these are 4 loads per channel for about 5 pixels, so that an access still has 6 bytes
// per lane on average; and it waits for the loads of each pixel before it begins those of the next one.
template <int V> struct LabPlace {
    int columns, rows, c, first, last; // of the block; the thread's first channel and its pixels
    __device__ LabPlace(const Inputs &k)
        : columns(min(k.C / V, (int)THREADS)), rows(THREADS / columns),
          c((blockIdx.y * columns + threadIdx.x % columns) * V), first(blockIdx.x * ROWS + threadIdx.x / columns),
          last(c < k.C && (int)threadIdx.x < rows * columns ? min((int)(blockIdx.x + 1) * ROWS, k.HW) : 0) {}
};

template <int V> struct LabChannels {
    float mean[V], rstd[V], weight[V], bias[V];
    __device__ LabChannels(const Inputs &k, int c, int b) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            const int group = b * k.G + (c + i) / (k.C / k.G);
            mean[i] = k.mean[group];
            rstd[i] = k.rstd[group];
            weight[i] = to_float(k.weight[c + i]);
            bias[i] = k.bias_of(c + i);
        }
    }
    __device__ Element element(float x, float dout, int i, bool silu) const {
        return Element(x, dout, mean[i], rstd[i], weight[i], bias[i], silu);
    }
};

// sums (B, chunks, 2, C)
template <int V> static __global__ void __launch_bounds__(THREADS) lab_gradient_sums(float *sums, Inputs k) {
    __shared__ float scratch[2][THREADS * V];
    const LabPlace<V> at(k);
    float sum[V] = {}, dot[V] = {};
    if (at.first < at.last) {
        const LabChannels<V> of(k, at.c, blockIdx.z);
        for (int p = at.first; p < at.last; p += at.rows) {
            const size_t e = ((size_t)blockIdx.z * k.HW + p) * k.C + at.c;
            float x[V], dout[V];
            load(x, k.inp + e);
            load(dout, k.dout + e);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const Element element = of.element(x[i], dout[i], i, k.silu);
                sum[i] += element.dy;
                dot[i] += element.dy * element.xhat;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        scratch[0][threadIdx.x * V + i] = sum[i];
        scratch[1][threadIdx.x * V + i] = dot[i];
    }
    __syncthreads();
    const int width = at.columns * V, c0 = blockIdx.y * width;
    float *to = sums + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * 2 * k.C + c0;
    for (int c = threadIdx.x; c < min(width, k.C - c0); c += THREADS) {
        float total = 0, total_dot = 0;
        for (int row = 0; row < at.rows; row++) {
            total += scratch[0][row * width + c];
            total_dot += scratch[1][row * width + c];
        }
        to[c] = total;
        to[k.C + c] = total_dot;
    }
}

// means (2, B G): of w dy and of w dy x^ over each group.
static __global__ void __launch_bounds__(THREADS)
    lab_gradient_means(float *means, const float *sums, int chunks, Inputs k) {
    __shared__ float scratch[64];
    const int width = k.C / k.G, c0 = blockIdx.x * width;
    float sum = 0, dot = 0;
    for (int i = threadIdx.x; i < chunks * width; i += THREADS) {
        const int c = c0 + i % width;
        const float *from = sums + ((size_t)blockIdx.y * chunks + i / width) * 2 * k.C + c;
        sum += to_float(k.weight[c]) * from[0];
        dot += to_float(k.weight[c]) * from[k.C];
    }
    const float count = (float)k.HW * width;
    sum = block_sum(sum, scratch) / count;
    dot = block_sum(dot, scratch + 32) / count;
    if (threadIdx.x == 0) {
        means[blockIdx.y * k.G + blockIdx.x] = sum;
        means[(gridDim.y + blockIdx.y) * k.G + blockIdx.x] = dot;
    }
}

template <int V>
static __global__ void __launch_bounds__(THREADS) lab_gradient_apply(floatX *dinp, const float *means, Inputs k) {
    const LabPlace<V> at(k);
    if (at.first >= at.last) { return; }
    const LabChannels<V> of(k, at.c, blockIdx.z);
    float mean_dy[V], mean_dot[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const int group = blockIdx.z * k.G + (at.c + i) / (k.C / k.G);
        mean_dy[i] = means[group];
        mean_dot[i] = means[gridDim.z * k.G + group];
    }
    for (int p = at.first; p < at.last; p += at.rows) {
        const size_t e = ((size_t)blockIdx.z * k.HW + p) * k.C + at.c;
        float x[V], dout[V], dx[V];
        load(x, k.inp + e);
        load(dout, k.dout + e);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const Element element = of.element(x[i], dout[i], i, k.silu);
            dx[i] = gradient(element, of.weight[i], of.rstd[i], mean_dy[i], mean_dot[i]);
        }
        store(dinp + e, dx);
    }
}

// dbias and dweight from the sums (rows, 2, C) of versions 2 to 4: a block per 32 channels, whose warps take every
// eighth row.
static __global__ void __launch_bounds__(THREADS)
    lab_gradient_fold(float *dweight, float *dbias, const float *sums, int rows, int C) {
    __shared__ float scratch[2][THREADS];
    const int c = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0, dot = 0;
    for (int row = threadIdx.x / 32; row < rows && c < C; row += THREADS / 32) {
        sum += sums[(size_t)row * 2 * C + c];
        dot += sums[(size_t)row * 2 * C + C + c];
    }
    scratch[0][threadIdx.x] = sum;
    scratch[1][threadIdx.x] = dot;
    __syncthreads();
    if (threadIdx.x >= 32 || c >= C) { return; }
    for (int i = threadIdx.x + 32; i < THREADS; i += 32) {
        sum += scratch[0][i];
        dot += scratch[1][i];
    }
    dbias[c] = sum;
    dweight[c] = dot;
}

// Version 5, kernels/groupnorm.cu: a block loads what its channels need once, into shared memory, so that an access has
// 16 bytes per lane. It is 8 or 16 vectors wide and 32 or 16 rows high, and its threads have the loads of two pixels
// under way. Shuffles add the rows of a warp before shared memory adds those of the warps.

template <int V>
static void by_chunks(floatX *dinp, float *sums, float *means, const Inputs &k, int B, int chunks, Device *dev) {
    const dim3 grid(chunks, ceil_div(k.C / V, (int)THREADS), B);
    launch<lab_gradient_sums<V>>(dev, grid, THREADS, 0, sums, k);
    launch<lab_gradient_means>(dev, dim3(k.G, B), THREADS, 0, means, (const float *)sums, chunks, k);
    launch<lab_gradient_apply<V>>(dev, grid, THREADS, 0, dinp, (const float *)means, k);
}

void lab_groupnorm_backward(int version, floatX *dinp, float *dweight, float *dbias, const floatX *dout,
                            const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                            const float *rstd, int B, int HW, int C, int G, bool silu, Device *dev) {
    const int chunks = version < 3 ? 1 : ceil_div(HW, (int)ROWS), rows = B * chunks;
    float *sums = (float *)device_workspace(dev, sizeof(float) * ((size_t)rows * 2 * C + 2 * B * G));
    float *means = sums + (size_t)rows * 2 * C;
    if (dev->plan_only) { return; }
    const Inputs k = {dout, inp, weight, bias, mean, rstd, HW, C, G, silu};
    if (version == 1) {
        launch<lab_gradient_of_group>(dev, ceil_div(B * G, (int)THREADS), THREADS, 0, dinp, k, B * G);
        launch<lab_gradient_of_channel>(dev, ceil_div(C, (int)THREADS), THREADS, 0, dweight, dbias, k, B);
        return;
    }
    if (version == 2) {
        launch<lab_gradient_of_group_by_block>(dev, dim3(G, B), THREADS, 0, dinp, sums, k);
    } else {
        auto *run = version == 3 || C % VEC ? by_chunks<1> : by_chunks<VEC>;
        run(dinp, sums, means, k, B, chunks, dev);
    }
    launch<lab_gradient_fold>(dev, ceil_div(C, 32), THREADS, 0, dweight, dbias, (const float *)sums, rows, C);
}
