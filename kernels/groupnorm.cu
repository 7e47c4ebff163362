// Group normalisation (Wu & He 2018, arXiv 1803.08494), optionally followed by SiLU, over channels-last maps.
//
// The channels of a group (C / G = 10, 20, 30, ...) are not a multiple of a vector. So everything is first summed per
// channel, with 128-bit accesses, and then added to groups by a small kernel. The input is read twice, the second time
// mostly from L2.
#include "kernels/cuda_common.cuh"

enum { BATCH = 4 }; // pixels that a thread loads before it computes

// What is normalised, and with what: inp (B, HW, C), weight and bias (C), mean and rstd (B, G).
struct NormInput {
    const floatX *inp, *weight, *bias; // bias may be NULL
    const float *mean, *rstd;
    int HW, C, G;
    int rows; // pixels of a chunk
};

// The sample, the columns of this thread, and the pixels of the block, of which a thread handles every blockDim.y-th. A
// thread beyond the last channel has no pixels.
template <int V> struct PixelPlace {
    int b, tile, c, first, last;
    __device__ PixelPlace(int HW, int C, int rows)
        : b(blockIdx.z), tile(blockIdx.y * blockDim.x * V), c(tile + threadIdx.x * V),
          first(blockIdx.x * rows + threadIdx.y), last(c < C ? min((int)(blockIdx.x + 1) * rows, HW) : 0) {}
};

// Loads pixels p, p + blockDim.y, ... of x, which points to the thread's first channel; zeros beyond the last pixel.
template <int N, int V>
__device__ static inline void load_batch(floatX (&to)[N][V], const floatX *x, int p, int last, int C) {
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int pixel = p + j * blockDim.y;
        if (pixel < last) {
            load_words(to[j], x + (size_t)pixel * C);
        } else {
            memset(to[j], 0, sizeof to[j]);
        }
    }
}

// The block's groups: channels per group, index of the first group, number of groups.
struct Groups {
    int size, first, count;
    template <int V>
    __device__ Groups(const PixelPlace<V> &at, int C, int G)
        : size(C / G), first(at.tile / size), count((min(at.tile + (int)blockDim.x * V, C) - 1) / size - first + 1) {}
};

// A block's shared memory: weight and bias of its columns, up to four numbers per group, two sums of each warp.
template <int V> struct Shared {
    static constexpr int W = V < 4 ? 1 : 4; // floats of one access
    int width;
    floatX *weight, *bias;
    float *group, *sums;
    __device__ Shared()
        : width(blockDim.x * V), weight((floatX *)dynamic_shared), bias(weight + width), group((float *)(bias + width)),
          sums(group + 4 * width) {}
    __device__ float *of_groups(int k) const { return group + k * width; }
    __device__ float *of_warps(int k) const { return sums + k * (THREADS / 32) * width; }
    static size_t bytes(const Cut &cut) {
        return cut.x * V * (2 * sizeof(floatX) + (4 + 2 * THREADS / 32) * sizeof(float));
    }
};

// Loads V floats from shared memory.
template <int V> __device__ static inline void load_floats(float (&to)[V], const float *from) {
#pragma unroll
    for (int i = 0; i < V; i += Shared<V>::W) {
        float x[Shared<V>::W];
        load_words(x, from + i);
#pragma unroll
        for (int j = 0; j < Shared<V>::W; j++) { to[i + j] = x[j]; }
    }
}

template <int V> __device__ static inline void store_floats(float *to, const float (&from)[V]) {
#pragma unroll
    for (int i = 0; i < V; i += Shared<V>::W) {
        float x[Shared<V>::W];
#pragma unroll
        for (int j = 0; j < Shared<V>::W; j++) { x[j] = from[i + j]; }
        store_words(to + i, x);
    }
}

// Each array is loaded by a different row of the block.
template <int V>
__device__ static inline void stage_columns(floatX *to, const floatX *from, int row, const PixelPlace<V> &at, int C) {
    if ((int)threadIdx.y == row && from && at.c < C) { copy_words<V>(to + threadIdx.x * V, from + at.c); }
}

__device__ static inline void stage_groups(float *to, const float *from, int row, const Groups &groups, int b, int G) {
    for (int i = threadIdx.x; (int)threadIdx.y == row && i < groups.count; i += blockDim.x) {
        to[i] = from[b * G + groups.first + i];
    }
}

// value[i] = the number that belongs to the group of channel c + i.
template <int V>
__device__ static inline void spread(float (&value)[V], const float *staged, const PixelPlace<V> &at,
                                     const Groups &groups) {
    int group = at.c / groups.size - groups.first, left = groups.size - at.c % groups.size;
#pragma unroll
    for (int i = 0; i < V; i++) {
        value[i] = staged[group];
        if (--left == 0) {
            group++;
            left = groups.size;
        }
    }
}

// Per channel of a thread: x^ = (x - mean) rstd and y = x^ weight + bias.
template <int V> struct Channels {
    float mean[V], rstd[V], weight[V], bias[V];

    __device__ static void stage(const Shared<V> &shared, const PixelPlace<V> &at, const Groups &groups,
                                 const NormInput &in) {
        stage_columns(shared.weight, in.weight, 0, at, in.C);
        stage_columns(shared.bias, in.bias, 1, at, in.C);
        stage_groups(shared.of_groups(0), in.mean, 2, groups, at.b, in.G);
        stage_groups(shared.of_groups(1), in.rstd, 3, groups, at.b, in.G);
    }

    __device__ Channels(const Shared<V> &shared, const PixelPlace<V> &at, const Groups &groups, bool with_bias) {
        load(weight, shared.weight + threadIdx.x * V);
#pragma unroll
        for (int i = 0; i < V; i++) { bias[i] = 0; }
        if (with_bias) { load(bias, shared.bias + threadIdx.x * V); }
        spread(mean, shared.of_groups(0), at, groups);
        spread(rstd, shared.of_groups(1), at, groups);
    }
    __device__ float xhat(float x, int i) const { return (x - mean[i]) * rstd[i]; }
    __device__ float y(float xhat, int i) const { return xhat * weight[i] + bias[i]; }
};

// sums (B, chunks, 2, C): mean of each channel over a chunk, and the sum of squared deviations from it. A thread sums
// its values relative to its first one, and the block relative to its first pixel, so that a variance that is small
// compared with the mean does not lose digits.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    moments_of_chunk(float *sums, const floatX *inp, int HW, int C, int rows) {
    const PixelPlace<V> at(HW, C, rows);
    const Shared<V> shared;
    const floatX *x = inp + (size_t)at.b * HW * C + at.c;
    float sum[V] = {}, square[V] = {}, shift[V] = {}, count = 0;
    for (int p = at.first; p < at.last; p += BATCH * blockDim.y) {
        floatX v[BATCH][V];
        load_batch(v, x, p, at.last, C);
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            if (p + j * (int)blockDim.y < at.last) {
#pragma unroll
                for (int i = 0; i < V; i++) {
                    if (count == 0) { shift[i] = to_float(v[j][i]); }
                    const float d = to_float(v[j][i]) - shift[i];
                    sum[i] += d;
                    square[i] += d * d;
                }
                count++;
            }
        }
    }
    if (threadIdx.y == 0) { store_floats(shared.group + threadIdx.x * V, shift); }
    __syncthreads();
    float origin[V];
    load_floats(origin, shared.group + threadIdx.x * V);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float d = count == 0 ? 0 : shift[i] - origin[i];
        square[i] += d * (2 * sum[i] + count * d);
        sum[i] += count * d;
    }
    rows_to_scratch(shared.of_warps(0), sum);
    rows_to_scratch(shared.of_warps(1), square);
    __syncthreads();
    constexpr int W = Shared<V>::W;
    const int c = (threadIdx.y * blockDim.x + threadIdx.x) * W, pixels = min(rows, HW - (int)blockIdx.x * rows);
    if (c < shared.width && at.tile + c < C) {
        float mean[W], deviation[W];
        column_sums_of(mean, shared.of_warps(0), c, shared.width);
        column_sums_of(deviation, shared.of_warps(1), c, shared.width);
#pragma unroll
        for (int i = 0; i < W; i++) {
            deviation[i] = fmaxf(deviation[i] - mean[i] * (mean[i] / pixels), 0.0f);
            mean[i] = shared.group[c + i] + mean[i] / pixels;
        }
        const size_t row = ((size_t)at.b * gridDim.x + blockIdx.x) * 2;
        store_words(sums + row * C + (at.tile + c), mean);
        store_words(sums + (row + 1) * C + (at.tile + c), deviation);
    }
}

// One block per group and sample: mean and variance of the group from those of its channels and chunks, all relative to
// the first of them.
static __global__ void __launch_bounds__(THREADS)
    fold_group(float *mean, float *rstd, const float *sums, int chunks, int rows, int HW, int C, float eps) {
    __shared__ float scratch[64];
    const int G = gridDim.x, size = C / G, group = blockIdx.y * G + blockIdx.x;
    const float *first = sums + (size_t)blockIdx.y * chunks * 2 * C + blockIdx.x * size, origin = first[0];
    float sum = 0, square = 0;
    for (int i = threadIdx.x; i < chunks * size; i += THREADS) {
        const int chunk = i / size;
        const float *at = first + (size_t)chunk * 2 * C + i % size;
        const float pixels = (float)min(rows, HW - chunk * rows), d = at[0] - origin;
        sum += pixels * d;
        square += pixels * d * d + at[C];
    }
    sum = block_sum(sum, scratch);
    square = block_sum(square, scratch + 32);
    if (threadIdx.x == 0) {
        const float count = (float)HW * size, offset = sum / count;
        mean[group] = origin + offset;
        rstd[group] = 1.0f / sqrtf(fmaxf(square / count - offset * offset, 0.0f) + eps);
    }
}

template <int V, bool SILU>
static __global__ void __launch_bounds__(THREADS) normalise_chunk(floatX *out, NormInput in) {
    const PixelPlace<V> at(in.HW, in.C, in.rows);
    const Groups groups(at, in.C, in.G);
    const Shared<V> shared;
    const size_t start = (size_t)at.b * in.HW * in.C + at.c;
    floatX x[BATCH][V];
    load_batch(x, in.inp + start, at.first, at.last, in.C);
    Channels<V>::stage(shared, at, groups, in);
    __syncthreads();
    if (at.first >= at.last) { return; }
    const Channels<V> k(shared, at, groups, in.bias != NULL);
    for (int p = at.first; p < at.last; p += BATCH * blockDim.y) {
        if (p != at.first) { load_batch(x, in.inp + start, p, at.last, in.C); }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const int pixel = p + j * (int)blockDim.y;
            if (pixel < at.last) {
                float y[V];
#pragma unroll
                for (int i = 0; i < V; i++) {
                    y[i] = k.y(k.xhat(to_float(x[j][i]), i), i);
                    if (SILU) { y[i] *= sigmoid(y[i]); }
                }
                store(out + start + (size_t)pixel * in.C, y);
            }
        }
    }
}

template <int V> static void normalise(floatX *out, const NormInput &in, Cut cut, int B, bool silu, Device *dev) {
    launch_one_of<normalise_chunk<V, true>, normalise_chunk<V, false>>(silu, dev, cut.grid(B), cut.block(),
                                                                       Shared<V>::bytes(cut), out, in);
}

template <int V>
static void forward(floatX *out, float *mean, float *rstd, const NormInput &in, float *sums, Cut cut, int B, float eps,
                    bool silu, Device *dev) {
    launch<moments_of_chunk<V>>(dev, cut.grid(B), cut.block(), Shared<V>::bytes(cut), sums, in.inp, in.HW, in.C,
                                in.rows);
    launch<fold_group>(dev, dim3(in.G, B), THREADS, 0, mean, rstd, sums, cut.chunks, in.rows, in.HW, in.C, eps);
    normalise<V>(out, in, cut, B, silu, dev);
}

void groupnorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev) {
    const Cut cut = cut_rows(HW, C, B);
    const bool run = device_launch(dev, "groupnorm_forward", groupnorm_forward_cost(bias, B, HW, C, G, silu));
    float *sums = (float *)device_workspace(dev, sizeof(float) * B * cut.chunks * 2 * C);
    if (!run) { return; }
    auto *variant = cut.V == 1 ? forward<1> : forward<VEC>;
    variant(out, mean, rstd, {inp, weight, bias, mean, rstd, HW, C, G, cut.rows}, sums, cut, B, eps, silu, dev);
}

void groupnorm_recompute(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                         const float *rstd, int B, int HW, int C, int G, bool silu, Device *dev) {
    if (!device_launch(dev, "groupnorm_recompute", groupnorm_recompute_cost(bias, B, HW, C, G, silu))) { return; }
    const Cut cut = cut_rows(HW, C, B);
    auto *variant = cut.V == 1 ? normalise<1> : normalise<VEC>;
    variant(out, {inp, weight, bias, mean, rstd, HW, C, G, cut.rows}, cut, B, silu, dev);
}

// The gradient of y = x^ weight + bias, given that of the output.
template <bool SILU, int V>
__device__ static inline float gradient_of_y(const Channels<V> &k, float dout, float xhat, int i) {
    return SILU ? dout * silu_slope(k.y(xhat, i)) : dout;
}

// sums (B, chunks, 2, C) of dy and of dy x^; dy is the gradient of y = x^ weight + bias.
template <int V, bool SILU>
static __global__ void __launch_bounds__(THREADS, 2) gradient_sums(float *sums, const floatX *dout, NormInput in) {
    const PixelPlace<V> at(in.HW, in.C, in.rows);
    const Groups groups(at, in.C, in.G);
    const Shared<V> shared;
    const size_t start = (size_t)at.b * in.HW * in.C + at.c;
    float sum[V] = {}, dot[V] = {};
    floatX x[BATCH / 2][V], dy[BATCH / 2][V];
    load_batch(x, in.inp + start, at.first, at.last, in.C);
    load_batch(dy, dout + start, at.first, at.last, in.C);
    Channels<V>::stage(shared, at, groups, in);
    __syncthreads();
    if (at.first < at.last) {
        const Channels<V> k(shared, at, groups, in.bias != NULL);
        for (int p = at.first; p < at.last; p += BATCH / 2 * blockDim.y) {
            if (p != at.first) {
                load_batch(x, in.inp + start, p, at.last, in.C);
                load_batch(dy, dout + start, p, at.last, in.C);
            }
#pragma unroll
            for (int j = 0; j < BATCH / 2; j++) {
                if (p + j * (int)blockDim.y < at.last) {
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        const float xhat = k.xhat(to_float(x[j][i]), i);
                        const float d = gradient_of_y<SILU>(k, to_float(dy[j][i]), xhat, i);
                        sum[i] += d;
                        dot[i] += d * xhat;
                    }
                }
            }
        }
    }
    rows_to_scratch(shared.of_warps(0), sum);
    rows_to_scratch(shared.of_warps(1), dot);
    __syncthreads();
    constexpr int W = Shared<V>::W;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, which = thread >= THREADS / 2; // width is 128 at most
    const int c = thread % (THREADS / 2) * W;
    if (c < shared.width && at.tile + c < in.C) {
        float total[W];
        column_sums_of(total, shared.of_warps(which), c, shared.width);
        store_words(sums + (((size_t)at.b * gridDim.x + blockIdx.x) * 2 + which) * in.C + at.tile + c, total);
    }
}

// mean_dy and mean_dot (B, G): means of w dy and of w dy x^ over a group. One block per group and sample.
static __global__ void __launch_bounds__(THREADS)
    fold_gradient(float *mean_dy, float *mean_dot, const float *sums, const floatX *weight, int chunks, int HW, int C) {
    __shared__ float scratch[64];
    const int G = gridDim.x, size = C / G, group = blockIdx.y * G + blockIdx.x;
    const float *first = sums + (size_t)blockIdx.y * chunks * 2 * C + blockIdx.x * size;
    float sum = 0, dot = 0;
    for (int i = threadIdx.x; i < chunks * size; i += THREADS) {
        const float *at = first + (size_t)(i / size) * 2 * C + i % size,
                    w = to_float(weight[blockIdx.x * size + i % size]);
        sum += w * at[0];
        dot += w * at[C];
    }
    sum = block_sum(sum, scratch);
    dot = block_sum(dot, scratch + 32);
    if (threadIdx.x == 0) {
        const float count = (float)HW * size;
        mean_dy[group] = sum / count;
        mean_dot[group] = dot / count;
    }
}

// dx = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), the means over a group.
template <int V, bool SILU>
static __global__ void __launch_bounds__(THREADS, 2)
    input_gradient(floatX *dinp, const floatX *dout, NormInput in, const float *mean_dy, const float *mean_dot,
                   const floatX *dresidual) {
    const PixelPlace<V> at(in.HW, in.C, in.rows);
    const Groups groups(at, in.C, in.G);
    const Shared<V> shared;
    const size_t start = (size_t)at.b * in.HW * in.C + at.c;
    floatX x[BATCH / 2][V], dy[BATCH / 2][V], residual[BATCH / 2][V];
    load_batch(x, in.inp + start, at.first, at.last, in.C);
    load_batch(dy, dout + start, at.first, at.last, in.C);
    if (dresidual) { load_batch(residual, dresidual + start, at.first, at.last, in.C); }
    Channels<V>::stage(shared, at, groups, in);
    stage_groups(shared.of_groups(2), mean_dy, 4, groups, at.b, in.G);
    stage_groups(shared.of_groups(3), mean_dot, 5, groups, at.b, in.G);
    __syncthreads();
    if (at.first >= at.last) { return; }
    const Channels<V> k(shared, at, groups, in.bias != NULL);
    float a[V], b[V];
    spread(a, shared.of_groups(2), at, groups);
    spread(b, shared.of_groups(3), at, groups);
    for (int p = at.first; p < at.last; p += BATCH / 2 * blockDim.y) {
        if (p != at.first) {
            load_batch(x, in.inp + start, p, at.last, in.C);
            load_batch(dy, dout + start, p, at.last, in.C);
            if (dresidual) { load_batch(residual, dresidual + start, p, at.last, in.C); }
        }
#pragma unroll
        for (int j = 0; j < BATCH / 2; j++) {
            const int pixel = p + j * (int)blockDim.y;
            if (pixel < at.last) {
                float dx[V];
#pragma unroll
                for (int i = 0; i < V; i++) {
                    const float xhat = k.xhat(to_float(x[j][i]), i);
                    const float d = gradient_of_y<SILU>(k, to_float(dy[j][i]), xhat, i);
                    dx[i] = k.rstd[i] * (k.weight[i] * d - a[i] - xhat * b[i]);
                    if (dresidual) { dx[i] += to_float(residual[j][i]); }
                }
                store(dinp + start + (size_t)pixel * in.C, dx);
            }
        }
    }
}

template <int V, bool SILU>
static void backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const NormInput &in,
                     const floatX *dresidual, float beta, float *sums, Cut cut, int B, Device *dev) {
    const size_t shared = Shared<V>::bytes(cut);
    const int rows = B * cut.chunks, C = in.C;
    float *mean_dy = sums + (size_t)rows * 2 * C, *mean_dot = mean_dy + B * in.G;
    launch<gradient_sums<V, SILU>>(dev, cut.grid(B), cut.block(), shared, sums, dout, in);
    if (dinp) {
        launch<fold_gradient>(dev, dim3(in.G, B), THREADS, 0, mean_dy, mean_dot, sums, in.weight, cut.chunks, in.HW, C);
        launch<input_gradient<V, SILU>>(dev, cut.grid(B), cut.block(), shared, dinp, dout, in, mean_dy, mean_dot,
                                        dresidual);
    }
    fold_rows(dbias, dweight, sums, rows, 2 * C, C, beta, dev);
}

void groupnorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const floatX *bias, const float *mean, const float *rstd,
                        const floatX *dresidual, float beta, int B, int HW, int C, int G, bool silu, Device *dev) {
    const Cut cut = cut_rows(HW, C, B);
    const size_t bytes = sizeof(float) * ((size_t)B * cut.chunks * 2 * C + 2 * (size_t)B * G);
    const bool run =
        device_launch(dev, "groupnorm_backward",
                      groupnorm_backward_cost(dinp, dweight, dbias, bias, dresidual, beta, B, HW, C, G, silu));
    float *sums = (float *)device_workspace(dev, bytes);
    if (!run) { return; }
    if (dweight || dbias) { sums = partial_sums(sums, bytes, dev); }
    auto *variant = cut.V == 1 ? (silu ? backward<1, true> : backward<1, false>)
                               : (silu ? backward<VEC, true> : backward<VEC, false>);
    variant(dinp, dweight, dbias, dout, {inp, weight, bias, mean, rstd, HW, C, G, cut.rows}, dresidual, beta, sums, cut,
            B, dev);
}
