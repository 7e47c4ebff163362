// Losses with one value per sample, and the gradient of their scaled sum.
//
// A sample is cut into chunks, one per block. A block sums in fp64; a second kernel adds the chunks in order. Losses
// with weights need the sum of the weights before the gradient, which takes a second pass over the (small) prediction.
#include "kernels/elementwise.cuh"
#include "kernels/formulas.h"

enum { MOST_CHUNKS = 128 }; // of a sample: enough for any card, few enough to be added by one block

static int chunks_for(int vectors, int threads) { return min(ceil_div(vectors, threads), (int)MOST_CHUNKS); }

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

// Adds square d^2 (with ABSOLUTE: |d| + square d^2) of d = pred - target to sum; returns the gradient.
template <bool ABSOLUTE>
__device__ static float difference_element(float &sum, float pred, float target, float square, float sign,
                                           float factor) {
    const float d = pred - target;
    if (!ABSOLUTE) {
        sum += d * d;
        return factor * d;
    }
    sum += fabsf(d) + square * d * d;
    return factor * d + (d > 0 ? sign : d < 0 ? -sign : 0 * d); // 0 * d keeps NaN
}

// partial (B, chunks) = the sums of a sample's chunks; the gradient is computed in the same pass. Blocks (chunk,
// sample).
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
            float p[VEC], t[VEC];
            load_quads(p, pred + row + span);
            load_quads(t, target + row + span);
#pragma unroll
            for (int j = 0; j < VEC; j++) {
                p[j] = difference_element<ABSOLUTE>(of_span, p[j], t[j], square, sign, factor);
            }
            if (dpred) { store_quads(dpred + row + span, p); }
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
static void difference(float *loss, floatX *dpred, const floatX *pred, const float *target, float square, float scale,
                       int B, int n, bool run, Device *dev) {
    const int chunks = chunks_for(ceil_div(n, VEC), FEW_THREADS);
    double *partial = (double *)device_workspace(dev, (size_t)B * chunks * sizeof(double));
    if (!run) { return; }
    launch<difference_loss<ABSOLUTE>>(dev, dim3(chunks, B), FEW_THREADS, 0, partial, dpred, pred, target, square,
                                      scale / n, 2 * square * scale / n, n);
    fold_samples(loss, partial, B, chunks, 1.0 / n, dev);
}

void mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float scale, int B, int n,
              Device *dev) {
    const bool run = device_launch(dev, "mse_loss", mse_loss_cost(dpred, B, n));
    difference<false>(loss, dpred, pred, target, 1, scale, B, n, run, dev);
}

void l1_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float mse_weight, float scale,
                 int B, int n, Device *dev) {
    const bool run = device_launch(dev, "l1_mse_loss", l1_mse_loss_cost(dpred, B, n));
    difference<true>(loss, dpred, pred, target, mse_weight, scale, B, n, run, dev);
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

// partial (B, chunks, 2) = sums over a chunk's cells of w (p - t)^2 and of w. w is weight or, with FOCAL, the factor,
// which is computed from (p - t)^2 and stored in factors. One thread per cell, blocks (chunk, sample).
template <int V, bool FOCAL>
static __global__ void __launch_bounds__(THREADS)
    cell_sums(double *partial, float *factors, const floatX *pred, const float *target, const float *weight,
              float gamma, int cells, int C) {
    double sum = 0, weights = 0;
    for (int cell = blockIdx.x * THREADS + threadIdx.x; cell < cells; cell += gridDim.x * THREADS) {
        const size_t at = (size_t)blockIdx.y * cells + cell;
        const float e = cell_square<V>(pred, target, at * C, C), w = FOCAL ? focal_factor(e / C, gamma) : weight[at];
        if (FOCAL) { factors[at] = w; }
        sum += (double)w * e;
        weights += w;
    }
    store_block_sums(partial, sum, weights);
}

// loss (B) = sum w (p - t)^2 / (C sum w), or 0 if all weights are 0; and its gradient. Every block adds up its sample's
// sums.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    cell_gradient(float *loss, floatX *dpred, const double *partial, int chunks, const floatX *pred,
                  const float *target, const float *weight, float scale, int cells, int C) {
    const TwoSums sums = sample_sums(partial, blockIdx.y, chunks); // of w (p - t)^2 and of w
    const double over = sums.second != 0 ? 1 / (sums.second * C) : 0;
    if (threadIdx.x == 0 && blockIdx.x == 0) { loss[blockIdx.y] = (float)(sums.first * over); }
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
    const bool run = device_launch(dev, "weighted_mse_loss", weighted_mse_loss_cost(dpred, B, n, C));
    double *partial = (double *)device_workspace(dev, 2 * (size_t)B * chunks * sizeof(double));
    if (!run) { return; }
    auto *variant = C % 4 ? weigh_cells<1, false> : weigh_cells<4, false>;
    variant(loss, dpred, pred, target, weight, partial, NULL, 0, scale, B, cells, C, dev);
}

void focal_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float gamma, float scale,
                    int B, int n, int C, Device *dev) {
    const int cells = n / C, chunks = chunks_for(cells, THREADS);
    const size_t sums = 2 * (size_t)B * chunks * sizeof(double);
    const bool run = device_launch(dev, "focal_mse_loss", focal_mse_loss_cost(dpred, B, n, C));
    char *scratch = (char *)device_workspace(dev, sums + (size_t)B * cells * sizeof(float));
    if (!run) { return; }
    auto *variant = C % 4 ? weigh_cells<1, true> : weigh_cells<4, true>;
    variant(loss, dpred, pred, target, NULL, (double *)scratch, (float *)(scratch + sums), gamma, scale, B, cells, C,
            dev);
}

// ---- Dice ----------------------------------------------------------------------------------------------------------

// If possible a lane handles as many pixels as a vector has values, that is three whole vectors of the prediction.
enum { PIXELS = VEC, STAGE = 32 * 3 * PIXELS * sizeof(float) / 16 };

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

// Load and store the pixels of a warp, PIXELS for each lane, in whole sectors; the lanes exchange them through shared
// memory, stage (STAGE) of the warp.
template <class T> __device__ static void load_pixels(float (&to)[3 * PIXELS], const T *span, uint4 *stage) {
    constexpr int V = 16 / sizeof(T), VECTORS = 3 * PIXELS / V;
#pragma unroll
    for (int k = 0; k < VECTORS; k++) { stage[32 * k + lane_of()] = ((const uint4 *)span)[32 * k + lane_of()]; }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
        const uint4 word = stage[VECTORS * lane_of() + k];
        T part[V];
        memcpy(part, &word, sizeof part);
#pragma unroll
        for (int j = 0; j < V; j++) { to[V * k + j] = to_float(part[j]); }
    }
    __syncwarp();
}

__device__ static void store_pixels(floatX *span, const float (&from)[3 * PIXELS], uint4 *stage) {
    constexpr int VECTORS = 3 * PIXELS / VEC;
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
        floatX part[VEC];
#pragma unroll
        for (int j = 0; j < VEC; j++) { part[j] = to_floatX(from[VEC * k + j]); }
        memcpy(stage + VECTORS * lane_of() + k, part, sizeof part);
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < VECTORS; k++) { ((uint4 *)span)[32 * k + lane_of()] = stage[32 * k + lane_of()]; }
    __syncwarp();
}

template <int P> __device__ static void soft_masks(float (&masks)[P], const float (&pixels)[3 * P], Color color) {
#pragma unroll
    for (int i = 0; i < P; i++) { masks[i] = soft_mask(pixels + 3 * i, color); }
}

// The sums of s m and of s^2 + m^2.
struct DiceSums {
    double products, squares;

    template <int P> __device__ void pixels(float (&)[3 * P], const float (&s)[P], const float (&m)[P], Color) {
        float product = 0, square = 0;
#pragma unroll
        for (int i = 0; i < P; i++) {
            product += s[i] * m[i];
            square += s[i] * s[i] + m[i] * m[i];
        }
        products += product;
        squares += square;
    }
};

// pred becomes (of_mask m + of_soft s) ds / dpred.
struct DiceSlope {
    float of_mask, of_soft;

    template <int P>
    __device__ void pixels(float (&pred)[3 * P], const float (&s)[P], const float (&m)[P], Color color) {
#pragma unroll
        for (int i = 0; i < P; i++) {
            const float d = (of_mask * m[i] + of_soft * s[i]) / 6;
#pragma unroll
            for (int c = 0; c < 3; c++) {
                const float away = pred[3 * i + c] - color.channel[c];
                pred[3 * i + c] = away > 0 ? -d : away < 0 ? d : 0 * d;
            }
        }
    }
};

// Handles a row's pixels in spans of a warp; the pixels of an incomplete or unaligned span one by one. dpred may be
// NULL.
template <class Work>
__device__ static void for_pixels(Work &work, floatX *dpred, const floatX *pred, const float *target, Color color,
                                  int n) {
    __shared__ uint4 stages[FEW_THREADS / 32][STAGE];
    uint4 *stage = stages[threadIdx.x / 32];
    const int pixels = n / 3, stride = gridDim.x * FEW_THREADS * PIXELS;
    for (int span = (int)first_element(PIXELS) - lane_of() * PIXELS; span < pixels; span += stride) {
        if (n % VEC == 0 && span + 32 * PIXELS <= pixels) {
            float p[3 * PIXELS], t[3 * PIXELS], s[PIXELS], m[PIXELS];
            load_pixels(t, target + 3 * (size_t)span, stage);
            soft_masks(m, t, color);
            load_pixels(p, pred + 3 * (size_t)span, stage);
            soft_masks(s, p, color);
            work.template pixels<PIXELS>(p, s, m, color);
            if (dpred) { store_pixels(dpred + 3 * (size_t)span, p, stage); }
            continue;
        }
        for (int pixel = span + lane_of(); pixel < min(span + 32 * PIXELS, pixels); pixel += 32) {
            const size_t i = pixel;
            float p[3], t[3], s[1], m[1];
            for (int c = 0; c < 3; c++) {
                p[c] = to_float(pred[3 * i + c]);
                t[c] = target[3 * i + c];
            }
            soft_masks(s, p, color);
            soft_masks(m, t, color);
            work.template pixels<1>(p, s, m, color);
            for (int c = 0; dpred && c < 3; c++) { dpred[3 * i + c] = to_floatX(p[c]); }
        }
    }
}

// partial (B, chunks, 2) = a chunk's sums. Blocks (chunk, sample).
static __global__ void __launch_bounds__(FEW_THREADS)
    dice_sums(double *partial, const floatX *pred, const float *target, Color color, int n) {
    const size_t row = (size_t)blockIdx.y * n;
    DiceSums work = {0, 0};
    for_pixels(work, NULL, pred + row, target + row, color, n);
    store_block_sums(partial, work.products, work.squares);
}

// loss (B), and slopes (B): the coefficients of m and s in the gradient. One block per sample.
static __global__ void __launch_bounds__(FEW_THREADS)
    fold_dice(float *loss, float2 *slopes, const double *partial, int chunks, float scale) {
    const TwoSums sums = sample_sums(partial, blockIdx.x, chunks);
    const double products = 2 * sums.first + 1, squares = sums.second + 1;
    if (threadIdx.x == 0) {
        loss[blockIdx.x] = (float)(1 - products / squares);
        slopes[blockIdx.x] =
            make_float2((float)(-2 * scale / squares), (float)(2 * scale * products / (squares * squares)));
    }
}

// Blocks (chunk, sample).
static __global__ void __launch_bounds__(FEW_THREADS)
    dice_gradient(floatX *dpred, const float2 *slopes, const floatX *pred, const float *target, Color color, int n) {
    const size_t row = (size_t)blockIdx.y * n;
    const float2 slope = slopes[blockIdx.y];
    DiceSlope work = {slope.x, slope.y};
    for_pixels(work, dpred + row, pred + row, target + row, color, n);
}

void dice_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *color, float scale,
               int B, int n, Device *dev) {
    const int chunks = chunks_for(ceil_div(n, 3 * PIXELS), FEW_THREADS);
    const size_t sums = 2 * (size_t)B * chunks * sizeof(double);
    const bool run = device_launch(dev, "dice_loss", dice_loss_cost(dpred, B, n));
    char *scratch = (char *)device_workspace(dev, sums + B * sizeof(float2));
    if (!run) { return; }
    const Color of = {{color[0], color[1], color[2]}};
    float2 *slopes = (float2 *)(scratch + sums);
    launch<dice_sums>(dev, dim3(chunks, B), FEW_THREADS, 0, (double *)scratch, pred, target, of, n);
    launch<fold_dice>(dev, B, FEW_THREADS, 0, loss, slopes, (const double *)scratch, chunks, scale);
    if (!dpred) { return; }
    launch<dice_gradient>(dev, dim3(chunks, B), FEW_THREADS, 0, dpred, (const float2 *)slopes, pred, target, of, n);
}
