// Group normalisation (Wu & He 2018, arXiv 1803.08494), optionally followed by SiLU, over channels-last maps.
//
// A group's channels (C / G = 10, 20, 30, ...) are no multiple of a vector, so everything is summed per channel first,
// 128 bits at a time, and folded to groups by a small kernel. The input is read twice, the second time mostly from L2.
#include "kernels/cuda_common.cuh"

// A block's place: the sample, the columns of this thread and the pixels of the block.
template <int V> struct Place {
    int b, tile, c, first, last;
    __device__ Place(int HW, int rows)
        : b(blockIdx.z), tile(blockIdx.y * blockDim.x * V), c(tile + threadIdx.x * V),
          first(blockIdx.x * rows + threadIdx.y), last(min((int)(blockIdx.x + 1) * rows, HW)) {}
};

// Per channel of a thread: x^ = (x - mean) rstd and y = x^ weight + bias.
template <int V> struct Channels {
    float mean[V], rstd[V], weight[V], bias[V];
    __device__ Channels(const floatX *weights, const floatX *biases, const float *means, const float *rstds, int b,
                        int c, int C, int G) {
        load(weight, weights + c);
        if (biases) {
            load(bias, biases + c);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) { bias[i] = 0; }
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            const int group = b * G + (c + i) / (C / G);
            mean[i] = means[group];
            rstd[i] = rstds[group];
        }
    }
    __device__ float xhat(float x, int i) const { return (x - mean[i]) * rstd[i]; }
    __device__ float y(float xhat, int i) const { return xhat * weight[i] + bias[i]; }
};

// sums (B, chunks, 2, C) of d = x - (the group's first element) and of d^2: the shift keeps the digits of a variance
// that is small against the mean.
template <int V>
static __global__ void __launch_bounds__(256)
    moments_of_chunk(float *sums, const floatX *inp, int HW, int C, int G, int rows) {
    const Place<V> at(HW, rows);
    const floatX *x = inp + (size_t)at.b * HW * C;
    float sum[V] = {}, square[V] = {}, shift[V] = {};
    if (at.c < C) {
#pragma unroll
        for (int i = 0; i < V; i++) { shift[i] = to_float(x[(at.c + i) / (C / G) * (C / G)]); }
        for (int p = at.first; p < at.last; p += blockDim.y) {
            float v[V];
            load(v, x + (size_t)p * C + at.c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float d = v[i] - shift[i];
                sum[i] += d;
                square[i] += d * d;
            }
        }
    }
    float *out = sums + ((size_t)at.b * gridDim.x + blockIdx.x) * 2 * C;
    sum_rows_of_block(out, sum, (float *)dynamic_shared, at.tile, C);
    sum_rows_of_block(out + C, square, (float *)dynamic_shared, at.tile, C);
}

// The two sums over chunks and the group's channels of sums (B, chunks, 2, C), each channel times weight (NULL: 1).
__device__ static float2 group_sums(const float *sums, const floatX *weight, int chunks, int C, int width,
                                    float *scratch) {
    const int b = blockIdx.y, c0 = blockIdx.x * width;
    float first = 0, second = 0;
    for (int i = threadIdx.x; i < chunks * width; i += blockDim.x) {
        const int c = c0 + i % width;
        const float *at = sums + ((size_t)b * chunks + i / width) * 2 * C + c;
        const float w = weight ? to_float(weight[c]) : 1.0f;
        first += w * at[0];
        second += w * at[C];
    }
    first = block_sum(first, scratch);
    second = block_sum(second, scratch + 32);
    return make_float2(first, second);
}

enum { FOLD_THREADS = 256 };

// One block per group and sample.
static __global__ void __launch_bounds__(FOLD_THREADS)
    fold_group(float *mean, float *rstd, const float *sums, const floatX *inp, int chunks, int HW, int C, float eps) {
    __shared__ float scratch[64];
    const int G = gridDim.x, width = C / G, group = blockIdx.y * G + blockIdx.x;
    const float2 s = group_sums(sums, NULL, chunks, C, width, scratch);
    if (threadIdx.x == 0) {
        const float count = (float)HW * width, offset = s.x / count;
        mean[group] = to_float(inp[(size_t)blockIdx.y * HW * C + blockIdx.x * width]) + offset;
        rstd[group] = 1.0f / sqrtf(fmaxf(s.y / count - offset * offset, 0.0f) + eps);
    }
}

template <int V, bool SILU>
static __global__ void __launch_bounds__(256)
    normalise_chunk(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                    const float *rstd, int HW, int C, int G, int rows) {
    const Place<V> at(HW, rows);
    if (at.c >= C) { return; }
    const Channels<V> k(weight, bias, mean, rstd, at.b, at.c, C, G);
    for (int p = at.first; p < at.last; p += blockDim.y) {
        const size_t i0 = ((size_t)at.b * HW + p) * C + at.c;
        float x[V];
        load(x, inp + i0);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float y = k.y(k.xhat(x[i], i), i);
            x[i] = SILU ? y * sigmoid(y) : y;
        }
        store(out + i0, x);
    }
}

template <int V>
static void forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight, const floatX *bias,
                    float *sums, Cut cut, int B, int HW, int C, int G, float eps, bool silu, Device *dev) {
    const size_t shared = sizeof(float) * cut.x * cut.y * V;
    launch<moments_of_chunk<V>>(dev, cut.grid(B), cut.block(), shared, sums, inp, HW, C, G, cut.rows);
    launch<fold_group>(dev, dim3(G, B), FOLD_THREADS, 0, mean, rstd, sums, inp, cut.chunks, HW, C, eps);
    if (silu) {
        launch<normalise_chunk<V, true>>(dev, cut.grid(B), cut.block(), 0, out, inp, weight, bias, mean, rstd, HW, C, G,
                                         cut.rows);
    } else {
        launch<normalise_chunk<V, false>>(dev, cut.grid(B), cut.block(), 0, out, inp, weight, bias, mean, rstd, HW, C,
                                          G, cut.rows);
    }
}

void groupnorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev) {
    const double n = (double)B * HW * C;
    const Cut cut = cut_rows(HW, C, B);
    float *sums = (float *)device_workspace(dev, sizeof(float) * B * cut.chunks * 2 * C);
    if (!device_launch(dev, "groupnorm_forward", (2.0 * n + 2.0 * C) * sizeof(floatX) + 8.0 * B * G,
                       (silu ? 11.0 : 6.0) * n)) {
        return;
    }
    if (cut.V == 1) {
        forward<1>(out, mean, rstd, inp, weight, bias, sums, cut, B, HW, C, G, eps, silu, dev);
    } else {
        forward<VEC>(out, mean, rstd, inp, weight, bias, sums, cut, B, HW, C, G, eps, silu, dev);
    }
}

// sums (B, chunks, 2, C) of dy and of dy x^; dy is the gradient of y = x^ weight + bias.
template <int V, bool SILU>
static __global__ void __launch_bounds__(256)
    gradient_sums(float *sums, const floatX *dout, const floatX *inp, const floatX *weight, const floatX *bias,
                  const float *mean, const float *rstd, int HW, int C, int G, int rows) {
    const Place<V> at(HW, rows);
    float sum[V] = {}, dot[V] = {};
    if (at.c < C) {
        const Channels<V> k(weight, bias, mean, rstd, at.b, at.c, C, G);
        for (int p = at.first; p < at.last; p += blockDim.y) {
            const size_t i0 = ((size_t)at.b * HW + p) * C + at.c;
            float x[V], dy[V];
            load(x, inp + i0);
            load(dy, dout + i0);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float xhat = k.xhat(x[i], i), d = SILU ? dy[i] * silu_slope(k.y(xhat, i)) : dy[i];
                sum[i] += d;
                dot[i] += d * xhat;
            }
        }
    }
    float *out = sums + ((size_t)at.b * gridDim.x + blockIdx.x) * 2 * C;
    sum_rows_of_block(out, sum, (float *)dynamic_shared, at.tile, C);
    sum_rows_of_block(out + C, dot, (float *)dynamic_shared, at.tile, C);
}

// means (B, G) of w dy and of w dy x^ over a group. One block per group and sample.
static __global__ void __launch_bounds__(FOLD_THREADS)
    fold_gradient(float2 *means, const float *sums, const floatX *weight, int chunks, int HW, int C) {
    __shared__ float scratch[64];
    const int G = gridDim.x, width = C / G;
    const float2 s = group_sums(sums, weight, chunks, C, width, scratch);
    const float count = (float)HW * width;
    if (threadIdx.x == 0) { means[blockIdx.y * G + blockIdx.x] = make_float2(s.x / count, s.y / count); }
}

// dx = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), the means over a group.
template <int V, bool SILU>
static __global__ void __launch_bounds__(256)
    input_gradient(floatX *dinp, const floatX *dout, const floatX *inp, const floatX *weight, const floatX *bias,
                   const float *mean, const float *rstd, const float2 *means, const floatX *dresidual, int HW, int C,
                   int G, int rows) {
    const Place<V> at(HW, rows);
    if (at.c >= C) { return; }
    const Channels<V> k(weight, bias, mean, rstd, at.b, at.c, C, G);
    float2 m[V];
#pragma unroll
    for (int i = 0; i < V; i++) { m[i] = means[at.b * G + (at.c + i) / (C / G)]; }
    for (int p = at.first; p < at.last; p += blockDim.y) {
        const size_t i0 = ((size_t)at.b * HW + p) * C + at.c;
        float x[V], dy[V], residual[V] = {};
        load(x, inp + i0);
        load(dy, dout + i0);
        if (dresidual) { load(residual, dresidual + i0); }
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float xhat = k.xhat(x[i], i), d = SILU ? dy[i] * silu_slope(k.y(xhat, i)) : dy[i];
            x[i] = k.rstd[i] * (k.weight[i] * d - m[i].x - xhat * m[i].y) + residual[i];
        }
        store(dinp + i0, x);
    }
}

template <int V, bool SILU>
static void backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                     const floatX *weight, const floatX *bias, const float *mean, const float *rstd,
                     const floatX *dresidual, float beta, float *sums, Cut cut, int B, int HW, int C, int G,
                     Device *dev) {
    const size_t shared = sizeof(float) * cut.x * cut.y * V;
    const int rows = B * cut.chunks;
    float2 *means = (float2 *)(sums + (size_t)rows * 2 * C);
    launch<gradient_sums<V, SILU>>(dev, cut.grid(B), cut.block(), shared, sums, dout, inp, weight, bias, mean, rstd, HW,
                                   C, G, cut.rows);
    if (dinp) {
        launch<fold_gradient>(dev, dim3(G, B), FOLD_THREADS, 0, means, sums, weight, cut.chunks, HW, C);
        launch<input_gradient<V, SILU>>(dev, cut.grid(B), cut.block(), 0, dinp, dout, inp, weight, bias, mean, rstd,
                                        means, dresidual, HW, C, G, cut.rows);
    }
    if (dbias) { fold_rows(dbias, sums, rows, 2 * C, C, beta, dev); }
    if (dweight) { fold_rows(dweight, sums + C, rows, 2 * C, C, beta, dev); }
}

void groupnorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const floatX *bias, const float *mean, const float *rstd,
                        const floatX *dresidual, float beta, int B, int HW, int C, int G, bool silu, Device *dev) {
    const double n = (double)B * HW * C, arrays = 2.0 + (dinp != NULL) + (dinp && dresidual);
    const Cut cut = cut_rows(HW, C, B);
    float *sums = (float *)device_workspace(dev, sizeof(float) * ((size_t)B * cut.chunks * 2 * C + 2 * (size_t)B * G));
    if (!device_launch(dev, "groupnorm_backward",
                       (arrays * n + 2.0 * C) * sizeof(floatX) + 8.0 * B * G + 8.0 * C * (beta == 0 ? 1 : 2),
                       (silu ? 20.0 : 11.0) * n)) {
        return;
    }
    auto *run = cut.V == 1 ? (silu ? backward<1, true> : backward<1, false>)
                           : (silu ? backward<VEC, true> : backward<VEC, false>);
    run(dinp, dweight, dbias, dout, inp, weight, bias, mean, rstd, dresidual, beta, sums, cut, B, HW, C, G, dev);
}
