// Losses of one value per sample, with the gradient of their scaled sum.
//
// A sample is cut into chunks, a block each: sums of a block's threads in fp64, folded in order by a second kernel. The
// losses with weights need their sum before the gradient, which is a second pass over the (small) prediction.
#include "kernels/elementwise.cuh"
#include "kernels/vecmath.h"

// Blocks for `vectors` of a sample: enough for any card, few enough to be folded at once.
static int chunks_for(int vectors, int threads) { return min(ceil_div(vectors, threads), 128); }

static double traffic(const floatX *dpred, int B, int n) {
    return (double)B * n * ((dpred ? 2 : 1) * sizeof(floatX) + sizeof(float)) + 4.0 * B;
}

// One block per sample.
static __global__ void __launch_bounds__(THREADS)
    fold_sample(float *out, const double *partial, int chunks, double factor) {
    __shared__ double scratch[32];
    double sum = 0;
    for (int k = threadIdx.x; k < chunks; k += THREADS) { sum += partial[(size_t)blockIdx.x * chunks + k]; }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) { out[blockIdx.x] = (float)(factor * sum); }
}

void fold_samples(float *out, const double *partial, int B, int chunks, double factor, Device *dev) {
    launch<fold_sample>(dev, B, THREADS, 0, out, partial, chunks, factor);
}

// Adds square d^2, with ABSOLUTE |d| + square d^2, of d = pred - target to sum; returns the gradient.
template <bool ABSOLUTE>
__device__ static float difference_element(float &sum, float pred, float target, float square, float sign,
                                           float factor) {
    const float d = pred - target;
    if (!ABSOLUTE) {
        sum += d * d;
        return factor * d;
    }
    sum += fabsf(d) + square * d * d;
    return factor * d + (d > 0 ? sign : d < 0 ? -sign : 0 * d); // 0 * d: NaN stays
}

// partial (B, chunks) = the sums of a sample's chunks, with the gradient in the same pass. Blocks (chunk, sample).
template <bool ABSOLUTE>
static __global__ void __launch_bounds__(FEW_THREADS)
    difference_loss(double *partial, floatX *dpred, const floatX *pred, const float *target, float square, float sign,
                    float factor, int n) {
    __shared__ double scratch[32];
    const size_t row = (size_t)blockIdx.y * n;
    double sum = 0;
    for (size_t span = first_of_span(); span < (size_t)n; span += (size_t)gridDim.x * FEW_THREADS * VEC) {
        float of_span = 0;
        if (whole_span(span, n)) {
            const size_t i = row + span + lane_of() * VEC;
            float p[VEC], t[VEC];
            load_part(p, pred + i, VEC);
            load_span(t, target + row + span);
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                p[j] = difference_element<ABSOLUTE>(of_span, p[j], t[j], square, sign, factor);
            }
            if (dpred) { store_part(dpred + i, p, VEC); }
        } else {
            for (size_t i = row + span + lane_of(); i < row + end_of_span(span, n); i += 32) {
                const float g =
                    difference_element<ABSOLUTE>(of_span, to_float(pred[i]), target[i], square, sign, factor);
                if (dpred) { dpred[i] = to_floatX(g); }
            }
        }
        sum += of_span;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) { partial[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = sum; }
}

template <bool ABSOLUTE>
static void difference(const char *name, double flops, float *loss, floatX *dpred, const floatX *pred,
                       const float *target, float square, float scale, int B, int n, Device *dev) {
    const int chunks = chunks_for(ceil_div(n, VEC), FEW_THREADS);
    double *partial = (double *)device_workspace(dev, (size_t)B * chunks * sizeof(double));
    if (!device_launch(dev, name, traffic(dpred, B, n), flops * B * n)) { return; }
    launch<difference_loss<ABSOLUTE>>(dev, dim3(chunks, B), FEW_THREADS, 0, partial, dpred, pred, target, square,
                                      scale / n, 2 * square * scale / n, n);
    fold_samples(loss, partial, B, chunks, 1.0 / n, dev);
}

void mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float scale, int B, int n,
              Device *dev) {
    difference<false>("mse_loss", dpred ? 4 : 3, loss, dpred, pred, target, 1, scale, B, n, dev);
}

void l1_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float mse_weight, float scale,
                 int B, int n, Device *dev) {
    difference<true>("l1_mse_loss", dpred ? 8 : 5, loss, dpred, pred, target, mse_weight, scale, B, n, dev);
}

// f = (1 - exp(-e))^gamma for e >= 0, without the cancellation of 1 - exp(-e) for small e.
__device__ static float focal_factor(float e, float gamma) {
    const float series = e * (1 - e / 2 * (1 - e / 3 * (1 - e / 4 * (1 - e / 5 * (1 - e / 6)))));
    const float base = e < 0.125f ? series : 1 - fast_expf(-e);
    const float power = fast_expf(gamma * fast_logf(base < 1e-37f ? 1e-37f : base));
    const float at_zero = gamma == 0 ? 1 : 0;
    return e != e ? e : base < 1e-37f ? at_zero : power; // NaN stays
}

// Sum over a cell's C channels of (p - t)^2; i is its first element.
template <int V> __device__ static float cell_square(const floatX *pred, const float *target, size_t i, int C) {
    float sum = 0;
    for (int c = 0; c < C; c += V) {
        float p[V], t[V];
        load_part(p, pred + i + c, V);
        load_part(t, target + i + c, V);
#pragma unroll
        for (int j = 0; j < V; j++) { sum += (p[j] - t[j]) * (p[j] - t[j]); }
    }
    return sum;
}

// partial (B, chunks, 2) = sums over a chunk's cells of w (p - t)^2 and of w; w is weight or, with FOCAL, the factor
// that is computed from (p - t)^2 and kept in factors. A thread per cell, blocks (chunk, sample).
template <int V, bool FOCAL>
static __global__ void __launch_bounds__(THREADS)
    cell_sums(double *partial, float *factors, const floatX *pred, const float *target, const float *weight,
              float gamma, int cells, int C) {
    __shared__ double scratch[64];
    double sum = 0, weights = 0;
    for (int cell = blockIdx.x * THREADS + threadIdx.x; cell < cells; cell += gridDim.x * THREADS) {
        const size_t at = (size_t)blockIdx.y * cells + cell;
        const float e = cell_square<V>(pred, target, at * C, C), w = FOCAL ? focal_factor(e / C, gamma) : weight[at];
        if (FOCAL) { factors[at] = w; }
        sum += (double)w * e;
        weights += w;
    }
    sum = block_sum(sum, scratch);
    weights = block_sum(weights, scratch + 32);
    if (threadIdx.x == 0) {
        double *out = partial + 2 * ((size_t)blockIdx.y * gridDim.x + blockIdx.x);
        out[0] = sum;
        out[1] = weights;
    }
}

// loss (B) = sum w (p - t)^2 / (C sum w), 0 without weight, and its gradient. Every block folds its sample's sums.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    cell_gradient(float *loss, floatX *dpred, const double *partial, int chunks, const floatX *pred,
                  const float *target, const float *weight, float scale, int cells, int C) {
    __shared__ double scratch[64];
    double sum = 0, weights = 0;
    for (int k = threadIdx.x; k < chunks; k += THREADS) {
        sum += partial[2 * ((size_t)blockIdx.y * chunks + k)];
        weights += partial[2 * ((size_t)blockIdx.y * chunks + k) + 1];
    }
    sum = block_sum(sum, scratch);
    weights = block_sum(weights, scratch + 32);
    const double over = weights != 0 ? 1 / (weights * C) : 0;
    if (threadIdx.x == 0 && blockIdx.x == 0) { loss[blockIdx.y] = (float)(sum * over); }
    const float factor = (float)(2 * scale * over);
    for (int v = blockIdx.x * THREADS + threadIdx.x; dpred && v < cells * (C / V); v += gridDim.x * THREADS) {
        const size_t i = (size_t)blockIdx.y * cells * C + (size_t)v * V;
        const float w = factor * weight[blockIdx.y * (size_t)cells + v / (C / V)];
        float p[V], t[V];
        load_part(p, pred + i, V);
        load_part(t, target + i, V);
#pragma unroll
        for (int j = 0; j < V; j++) { p[j] = w * (p[j] - t[j]); }
        store_part(dpred + i, p, V);
    }
}

template <int V, bool FOCAL>
static void weigh_cells(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *weight,
                        double *partial, float *factors, float gamma, float scale, int B, int cells, int C,
                        Device *dev) {
    const int chunks = chunks_for(cells, THREADS);
    launch<cell_sums<V, FOCAL>>(dev, dim3(chunks, B), THREADS, 0, partial, factors, pred, target, weight, gamma, cells,
                                C);
    launch<cell_gradient<V>>(dev, dim3(dpred ? chunks : 1, B), THREADS, 0, loss, dpred, (const double *)partial, chunks,
                             pred, target, FOCAL ? (const float *)factors : weight, scale, cells, C);
}

void weighted_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *weight,
                       float scale, int B, int n, int C, Device *dev) {
    const int cells = n / C, chunks = chunks_for(cells, THREADS);
    double *partial = (double *)device_workspace(dev, 2 * (size_t)B * chunks * sizeof(double));
    if (!device_launch(dev, "weighted_mse_loss", traffic(dpred, B, n) + 4.0 * B * cells, (dpred ? 5.0 : 3.5) * B * n)) {
        return;
    }
    auto *run = C % 4 ? weigh_cells<1, false> : weigh_cells<4, false>;
    run(loss, dpred, pred, target, weight, partial, NULL, 0, scale, B, cells, C, dev);
}

void focal_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float gamma, float scale,
                    int B, int n, int C, Device *dev) {
    const int cells = n / C, chunks = chunks_for(cells, THREADS);
    const size_t sums = 2 * (size_t)B * chunks * sizeof(double);
    char *scratch = (char *)device_workspace(dev, sums + (size_t)B * cells * sizeof(float));
    if (!device_launch(dev, "focal_mse_loss", traffic(dpred, B, n), (dpred ? 5.0 : 3.5) * B * n + 5.0 * B * cells)) {
        return;
    }
    auto *run = C % 4 ? weigh_cells<1, true> : weigh_cells<4, true>;
    run(loss, dpred, pred, target, NULL, (double *)scratch, (float *)(scratch + sums), gamma, scale, B, cells, C, dev);
}

// ---- Dice ----------------------------------------------------------------------------------------------------------

// A thread takes 8 pixels where it can: their 24 values are whole vectors in both precisions.
enum { PIXELS = 8 };

struct Color {
    float channel[3];
};

// 1 - mean |p - color| / 2 over a pixel's channels.
__device__ static float soft_mask(const float *p, Color color) {
    float distance = 0;
#pragma unroll
    for (int c = 0; c < 3; c++) { distance += fabsf(p[c] - color.channel[c]); }
    return 1 - distance / 6;
}

// P pixels by vectors, or one by single values.
template <int P, class T> __device__ static void load_pixels(float (&to)[3 * P], const T *from) {
    constexpr int V = P == 1 ? 1 : 16 / sizeof(T);
#pragma unroll
    for (int k = 0; k < 3 * P; k += V) {
        float part[V];
        load_part(part, from + k, V);
#pragma unroll
        for (int j = 0; j < V; j++) { to[k + j] = part[j]; }
    }
}

// For the sums of s m and of s^2 + m^2.
struct DiceSums {
    const floatX *pred;
    const float *target;
    Color color;
    double products, squares;

    template <int P> __device__ void pixels(size_t i) {
        float p[3 * P], t[3 * P], product = 0, square = 0;
        load_pixels<P>(p, pred + 3 * i);
        load_pixels<P>(t, target + 3 * i);
#pragma unroll
        for (int j = 0; j < P; j++) {
            const float s = soft_mask(p + 3 * j, color), m = soft_mask(t + 3 * j, color);
            product += s * m;
            square += s * s + m * m;
        }
        products += product;
        squares += square;
    }
};

// dpred = (of_mask m + of_soft s) ds / dpred.
struct DiceSlope {
    floatX *dpred;
    const floatX *pred;
    const float *target;
    Color color;
    float of_mask, of_soft;

    template <int P> __device__ void pixels(size_t i) {
        constexpr int V = P == 1 ? 1 : VEC;
        float p[3 * P], t[3 * P], part[V];
        load_pixels<P>(p, pred + 3 * i);
        load_pixels<P>(t, target + 3 * i);
#pragma unroll
        for (int j = 0; j < P; j++) {
            const float d = (of_mask * soft_mask(t + 3 * j, color) + of_soft * soft_mask(p + 3 * j, color)) / 6;
#pragma unroll
            for (int c = 0; c < 3; c++) {
                const float away = p[3 * j + c] - color.channel[c];
                p[3 * j + c] = away > 0 ? -d : away < 0 ? d : 0 * d;
            }
        }
#pragma unroll
        for (int k = 0; k < 3 * P; k += V) {
#pragma unroll
            for (int j = 0; j < V; j++) { part[j] = p[k + j]; }
            store_part(dpred + 3 * i + k, part, V);
        }
    }
};

// A row's pixels, in spans of a warp: 8 at a time where the span is whole and aligned.
template <class Work> __device__ static void for_pixels(Work &work, int n) {
    const int pixels = n / 3, stride = gridDim.x * FEW_THREADS * PIXELS;
    for (int span = (int)first_element(PIXELS) - lane_of() * PIXELS; span < pixels; span += stride) {
        if (n % VEC == 0 && span + 32 * PIXELS <= pixels) {
            work.template pixels<PIXELS>(span + lane_of() * PIXELS);
        } else {
            for (int i = span + lane_of(); i < min(span + 32 * PIXELS, pixels); i += 32) { work.template pixels<1>(i); }
        }
    }
}

// partial (B, chunks, 2) = a chunk's sums. Blocks (chunk, sample).
static __global__ void __launch_bounds__(FEW_THREADS)
    dice_sums(double *partial, const floatX *pred, const float *target, Color color, int n) {
    __shared__ double scratch[64];
    const size_t row = (size_t)blockIdx.y * n;
    DiceSums work = {pred + row, target + row, color, 0, 0};
    for_pixels(work, n);
    const double products = block_sum(work.products, scratch), squares = block_sum(work.squares, scratch + 32);
    if (threadIdx.x == 0) {
        double *out = partial + 2 * ((size_t)blockIdx.y * gridDim.x + blockIdx.x);
        out[0] = products;
        out[1] = squares;
    }
}

// loss (B) and its gradient. Every block folds its sample's sums.
static __global__ void __launch_bounds__(FEW_THREADS)
    dice_gradient(float *loss, floatX *dpred, const double *partial, int chunks, const floatX *pred,
                  const float *target, Color color, float scale, int n) {
    __shared__ double scratch[64];
    double products = 0, squares = 0;
    for (int k = threadIdx.x; k < chunks; k += FEW_THREADS) {
        products += partial[2 * ((size_t)blockIdx.y * chunks + k)];
        squares += partial[2 * ((size_t)blockIdx.y * chunks + k) + 1];
    }
    products = 2 * block_sum(products, scratch) + 1;
    squares = block_sum(squares, scratch + 32) + 1;
    if (threadIdx.x == 0 && blockIdx.x == 0) { loss[blockIdx.y] = (float)(1 - products / squares); }
    if (!dpred) { return; }
    const size_t row = (size_t)blockIdx.y * n;
    DiceSlope work = {dpred + row,
                      pred + row,
                      target + row,
                      color,
                      (float)(-2 * scale / squares),
                      (float)(2 * scale * products / (squares * squares))};
    for_pixels(work, n);
}

void dice_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *color, float scale,
               int B, int n, Device *dev) {
    const int chunks = chunks_for(ceil_div(n, 3 * PIXELS), FEW_THREADS);
    double *partial = (double *)device_workspace(dev, 2 * (size_t)B * chunks * sizeof(double));
    const double passes = dpred ? 2 : 1, gradient = dpred ? sizeof(floatX) * (double)B * n : 0;
    if (!device_launch(dev, "dice_loss", passes * traffic(NULL, B, n) + gradient, 6 * passes * B * n)) { return; }
    const Color of = {{color[0], color[1], color[2]}};
    launch<dice_sums>(dev, dim3(chunks, B), FEW_THREADS, 0, partial, pred, target, of, n);
    launch<dice_gradient>(dev, dim3(dpred ? chunks : 1, B), FEW_THREADS, 0, loss, dpred, (const double *)partial,
                          chunks, pred, target, of, scale, n);
}
