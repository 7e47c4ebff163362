// Losses with one value per sample, and the gradient of their scaled sum.
//
// A sample is cut into chunks. One thread sums a chunk in fp64; the chunks are added in order. Unlike the plain loops
// (reference.c), values that need no sum of the whole sample are written in the same pass, and focal's factors are
// computed once and kept.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include "kernels/formulas.h"
#include <math.h>

enum { CHUNK = 4096 };

// The chunks of the samples: chunk k of a sample covers its elements [k CHUNK, (k + 1) CHUNK).
typedef struct {
    size_t n, chunks;
    bool threads;
} Cut;

static Cut cut_sample(int B, int n) { return (Cut){n, count_chunks(n, CHUNK), (double)B * n >= PARALLEL_MIN}; }

// loss (B) = sum of a sample's chunks / n.
static void fold_loss(float *loss, const double *partial, int B, Cut cut) {
    for (int b = 0; b < B; b++) {
        double sum = 0;
        for (size_t k = 0; k < cut.chunks; k++) { sum += partial[b * cut.chunks + k]; }
        loss[b] = (float)(sum / cut.n);
    }
}

// The sum of square d^2 (absolute: |d| + square d^2) of d = pred - target, and its gradient.
static void difference_loss(float *loss, float *dpred, const float *pred, const float *target, bool absolute,
                            float square, float scale, double *partial, int B, Cut cut) {
    size_t n = cut.n;
    float sign = scale / n, factor = 2 * square * scale / n;
#pragma omp parallel for schedule(static) if (cut.threads)
    for (size_t i = 0; i < B * cut.chunks; i++) {
        size_t at = i / cut.chunks * n + i % cut.chunks * CHUNK, end = min_size(at + CHUNK, (i / cut.chunks + 1) * n);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t e = at; e < end; e++) {
            float d = pred[e] - target[e];
            sum += (absolute ? fabsf(d) : 0) + (double)(square * d) * d;
        }
        partial[i] = sum;
        if (!dpred) { continue; }
#pragma omp simd
        for (size_t e = at; e < end; e++) {
            float d = pred[e] - target[e], of_absolute = d > 0 ? sign : d < 0 ? -sign : 0 * d; // 0 * d keeps NaN
            dpred[e] = absolute ? of_absolute + factor * d : factor * d;
        }
    }
    fold_loss(loss, partial, B, cut);
}

void mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float scale, int B, int n,
              Device *dev) {
    Cut cut = cut_sample(B, n);
    bool run = device_launch(dev, "mse_loss", mse_loss_cost(dpred, B, n));
    double *partial = device_workspace(dev, B * cut.chunks * sizeof(double));
    if (!run) { return; }
    difference_loss(loss, dpred, pred, target, false, 1, scale, partial, B, cut);
}

void l1_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float mse_weight, float scale,
                 int B, int n, Device *dev) {
    Cut cut = cut_sample(B, n);
    bool run = device_launch(dev, "l1_mse_loss", l1_mse_loss_cost(dpred, B, n));
    double *partial = device_workspace(dev, B * cut.chunks * sizeof(double));
    if (!run) { return; }
    difference_loss(loss, dpred, pred, target, true, mse_weight, scale, partial, B, cut);
}

// Sum over a cell's C channels of (p - t)^2.
static inline float cell_square(const float *pred, const float *target, int C) {
    float sum = 0;
    for (int c = 0; c < C; c++) { sum += (pred[c] - target[c]) * (pred[c] - target[c]); }
    return sum;
}

// dpred = factor * weight of the cell * (pred - target) over cells.
static void cell_gradient(float *dpred, const float *pred, const float *target, const float *weight, float factor,
                          int cells, int C) {
    for (int i = 0; i < cells; i++) {
        float w = factor * weight[i];
        for (int c = 0; c < C; c++) { dpred[i * C + c] = w * (pred[i * C + c] - target[i * C + c]); }
    }
}

void weighted_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *weight,
                       float scale, int B, int n, int C, Device *dev) {
    int cells = n / C;
    if (!device_launch(dev, "weighted_mse_loss", weighted_mse_loss_cost(dpred, B, n, C))) { return; }
#pragma omp parallel for schedule(static) if ((double)B * n >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        const float *p = pred + (size_t)b * n, *t = target + (size_t)b * n, *w = weight + (size_t)b * cells;
        double sum = 0, weights = 0;
        for (int i = 0; i < cells; i++) {
            sum += (double)w[i] * cell_square(p + (size_t)i * C, t + (size_t)i * C, C);
            weights += w[i];
        }
        double over = weights != 0 ? 1 / (weights * C) : 0; // a sample without weight has no loss
        loss[b] = (float)(sum * over);
        if (dpred) { cell_gradient(dpred + (size_t)b * n, p, t, w, (float)(2 * scale * over), cells, C); }
    }
}

void focal_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float gamma, float scale,
                    int B, int n, int C, Device *dev) {
    int cells = n / C;
    bool run = device_launch(dev, "focal_mse_loss", focal_mse_loss_cost(dpred, B, n, C));
    float *factors = device_workspace(dev, (size_t)B * cells * sizeof(float));
    if (!run) { return; }
#pragma omp parallel for schedule(static) if ((double)B * n >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        const float *p = pred + (size_t)b * n, *t = target + (size_t)b * n;
        float *f = factors + (size_t)b * cells;
        double sum = 0, weights = 0;
        for (int i = 0; i < cells; i++) { f[i] = cell_square(p + (size_t)i * C, t + (size_t)i * C, C) / C; }
#pragma omp simd reduction(+ : sum, weights)
        for (int i = 0; i < cells; i++) {
            float e = f[i];
            f[i] = focal_factor(e, gamma);
            sum += (double)f[i] * e;
            weights += f[i];
        }
        double over = weights != 0 ? 1 / weights : 0; // a perfect prediction has no loss
        loss[b] = (float)(sum * over);
        if (dpred) { cell_gradient(dpred + (size_t)b * n, p, t, f, (float)(2 * scale * over / C), cells, C); }
    }
}

// 1 - mean |p - color| / 2 over a pixel's channels.
static inline float soft_mask(const float *p, const float *color) {
    return 1 - (fabsf(p[0] - color[0]) + fabsf(p[1] - color[1]) + fabsf(p[2] - color[2])) / 6;
}

// products += sum of s m, squares += sum of s^2 + m^2 over pixels.
static void dice_sums(double *products, double *squares, const float *pred, const float *target, const float *color,
                      size_t pixels) {
    double product = 0, square = 0;
#pragma omp simd reduction(+ : product, square)
    for (size_t i = 0; i < pixels; i++) {
        double s = soft_mask(pred + 3 * i, color), m = soft_mask(target + 3 * i, color);
        product += s * m;
        square += s * s + m * m;
    }
    *products = product;
    *squares = square;
}

// dpred = (of_mask m + of_soft s) ds / dpred over pixels.
static void dice_gradient(float *dpred, const float *pred, const float *target, const float *color, float of_mask,
                          float of_soft, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) {
        float d = (of_mask * soft_mask(target + 3 * i, color) + of_soft * soft_mask(pred + 3 * i, color)) / 6;
        for (int c = 0; c < 3; c++) {
            float away = pred[3 * i + c] - color[c];
            dpred[3 * i + c] = away > 0 ? -d : away < 0 ? d : 0 * d;
        }
    }
}

void dice_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *color, float scale,
               int B, int n, Device *dev) {
    Cut cut = cut_sample(B, n / 3);
    bool run = device_launch(dev, "dice_loss", dice_loss_cost(dpred, B, n));
    double *products = device_workspace(dev, 2 * B * cut.chunks * sizeof(double)), *squares = products;
    if (!run) { return; }
    squares += B * cut.chunks;
#pragma omp parallel for schedule(static) if (cut.threads)
    for (size_t i = 0; i < B * cut.chunks; i++) {
        size_t first = i % cut.chunks * CHUNK, at = i / cut.chunks * n + 3 * first;
        dice_sums(products + i, squares + i, pred + at, target + at, color, min_size(CHUNK, cut.n - first));
    }
    for (int b = 0; b < B; b++) {
        double product = 0.5, square = 1; // the + 1 of numerator (2 product) and denominator
        for (size_t k = 0; k < cut.chunks; k++) {
            product += products[b * cut.chunks + k];
            square += squares[b * cut.chunks + k];
        }
        loss[b] = (float)(1 - 2 * product / square);
        products[b * cut.chunks] = product; // for the gradient
        squares[b * cut.chunks] = square;
    }
#pragma omp parallel for schedule(static) if (cut.threads)
    for (size_t i = 0; i < (dpred ? B * cut.chunks : 0); i++) {
        size_t row = i / cut.chunks, first = i % cut.chunks * CHUNK, at = row * n + 3 * first;
        double product = products[row * cut.chunks], square = squares[row * cut.chunks];
        dice_gradient(dpred + at, pred + at, target + at, color, (float)(-2 * scale / square),
                      (float)(4 * scale * product / (square * square)), min_size(CHUNK, cut.n - first));
    }
}
