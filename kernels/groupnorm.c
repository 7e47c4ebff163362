// Group normalisation (Wu & He 2018, arXiv 1803.08494), optionally followed by SiLU, over channels-last maps.
//
// Against the plain loops (reference.c):
// - A group's channels (C / G = 10, 20, 30, ...) are no multiple of a vector, so everything is summed per channel
//   first, vectorised over C, and folded to groups in fp64.
// - The plain variance needs the mean, and with it another pass. Here one pass sums x - s and (x - s)^2, s being a
//   pixel of the chunk at hand, which keeps the digits that a plain sum of x^2 loses where the mean is large.
// - Pixels are cut into chunks among the threads. Samples that fit the cache together go through both passes before
//   the next ones, so that the second pass does not read from memory.
// - Backward keeps dy, dout times SiLU's slope, in dinp between its passes: the exponential is taken once.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include "kernels/vecmath.h"
#include <math.h>
#include <string.h>

// How the pixels of a sample are cut into chunks.
typedef struct {
    int chunks, pixels; // per sample; the last chunk may be shorter
    int sweep;          // samples handled together, so that the second read finds them in the cache
} Cut;

enum {
    CHUNK = 16384,         // elements: 64 KB, which stay in a core's cache
    LEAST_PIXELS = 16,     // of a chunk with many channels
    MOST_PIXELS = 128,     // of a chunk with few: fp32 sums of more would lose digits
    SWEEP = 1 << 20,       // elements: 4 MB, which stay in the last cache
    MOST_SAMPLES = 1 << 16 // of a sweep: fits an int
};

static Cut cut_pixels(int HW, int C) {
    int pixels = CHUNK / C, most = pixels < LEAST_PIXELS ? LEAST_PIXELS : pixels > MOST_PIXELS ? MOST_PIXELS : pixels;
    Cut cut = {.chunks = (HW + most - 1) / most};
    cut.pixels = (HW + cut.chunks - 1) / cut.chunks;
    cut.chunks = (HW + cut.pixels - 1) / cut.pixels;
    size_t samples = SWEEP / ((size_t)HW * C);
    cut.sweep = samples < 1 ? 1 : (int)min_size(samples, MOST_SAMPLES);
    return cut;
}

static int pixels_of(Cut cut, int chunk, int HW) {
    int left = HW - chunk * cut.pixels;
    return left < cut.pixels ? left : cut.pixels;
}

// sum (C) of d = x - (the chunk's first pixel), square (C) of d^2. With this shift, a variance that is small compared
// with the mean does not lose digits.
static void moments_of_chunk(float *sum, float *square, const float *x, int pixels, int C) {
    memset(sum, 0, C * sizeof(float));
    memset(square, 0, C * sizeof(float));
    int p = 1;
    for (; p + 4 <= pixels; p += 4) {
        const float *x0 = x + (size_t)p * C, *x1 = x0 + C, *x2 = x1 + C, *x3 = x2 + C;
#pragma omp simd
        for (int c = 0; c < C; c++) {
            float d0 = x0[c] - x[c], d1 = x1[c] - x[c], d2 = x2[c] - x[c], d3 = x3[c] - x[c];
            sum[c] += (d0 + d1) + (d2 + d3);
            square[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
        }
    }
    for (; p < pixels; p++) {
        const float *x0 = x + (size_t)p * C;
#pragma omp simd
        for (int c = 0; c < C; c++) {
            float d = x0[c] - x[c];
            sum[c] += d;
            square[c] += d * d;
        }
    }
}

// Mean and variance of channels c0 .. c0 + n - 1 of a sample x (HW, C), from its chunks' sums (chunks, 2, C). All
// values are relative to the group's first one.
static void fold_group(double *mean, double *variance, const float *x, const float *sums, Cut cut, int HW, int C,
                       int c0, int n) {
    double origin = x[c0], first = 0, second = 0;
    for (int k = 0; k < cut.chunks; k++) {
        const float *shift = x + (size_t)k * cut.pixels * C, *sum = sums + (size_t)k * 2 * C, *square = sum + C;
        double pixels = pixels_of(cut, k, HW);
        for (int c = c0; c < c0 + n; c++) {
            double d = shift[c] - origin;
            first += pixels * d + sum[c];
            second += d * (pixels * d + 2.0 * sum[c]) + square[c];
        }
    }
    double count = (double)HW * n, offset = first / count;
    *mean = origin + offset;
    *variance = fmax(second / count - offset * offset, 0);
}

// affine (3, C) of a sample for the channels of a group: scale, mean, bias.
static void set_affine(float *affine, const float *weight, const float *bias, float mean, float rstd, int C, int c0,
                       int n) {
    for (int c = c0; c < c0 + n; c++) {
        affine[c] = rstd * weight[c];
        affine[C + c] = mean;
        affine[2 * C + c] = bias ? bias[c] : 0;
    }
}

// out = (x - mean) scale + bias per channel, then SiLU. affine (3, C) holds scale, mean and bias; x scale + shift would
// lose digits if the mean is large.
static void normalise_chunk(float *out, const float *x, const float *affine, int pixels, int C, bool silu) {
    const float *scale = affine, *mean = scale + C, *bias = mean + C;
    for (int p = 0; p < pixels; p++, x += C, out += C) {
        if (silu) {
#pragma omp simd
            for (int c = 0; c < C; c++) {
                float y = (x[c] - mean[c]) * scale[c] + bias[c];
                out[c] = y * fast_sigmoidf(y);
            }
        } else {
#pragma omp simd
            for (int c = 0; c < C; c++) { out[c] = (x[c] - mean[c]) * scale[c] + bias[c]; }
        }
    }
}

void groupnorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev) {
    size_t size = (size_t)HW * C, n = B * size;
    Cut cut = cut_pixels(HW, C);
    size_t sums_size = (size_t)B * cut.chunks * 2 * C;
    bool run = device_launch(dev, "groupnorm_forward", groupnorm_forward_cost(bias, B, HW, C, G, silu));
    float *sums = device_workspace(dev, (sums_size + (size_t)B * 3 * C) * sizeof(float));
    if (!run) { return; }
    float *affine = sums + sums_size; // (B, 3, C)
#pragma omp parallel if (n >= PARALLEL_MIN)
    for (int b0 = 0; b0 < B; b0 += cut.sweep) {
        int b1 = B - b0 < cut.sweep ? B : b0 + cut.sweep;
#pragma omp for schedule(static)
        for (int i = b0 * cut.chunks; i < b1 * cut.chunks; i++) {
            int b = i / cut.chunks, k = i % cut.chunks;
            float *sum = sums + (size_t)i * 2 * C;
            moments_of_chunk(sum, sum + C, inp + b * size + (size_t)k * cut.pixels * C, pixels_of(cut, k, HW), C);
        }
#pragma omp for schedule(static)
        for (int i = b0 * G; i < b1 * G; i++) {
            int b = i / G, c0 = i % G * (C / G);
            double m, variance;
            fold_group(&m, &variance, inp + b * size, sums + (size_t)b * cut.chunks * 2 * C, cut, HW, C, c0, C / G);
            mean[i] = (float)m;
            rstd[i] = (float)(1 / sqrt(variance + eps));
            set_affine(affine + (size_t)b * 3 * C, weight, bias, mean[i], rstd[i], C, c0, C / G);
        }
#pragma omp for schedule(static)
        for (int i = b0 * cut.chunks; i < b1 * cut.chunks; i++) {
            int b = i / cut.chunks, k = i % cut.chunks;
            size_t at = b * size + (size_t)k * cut.pixels * C;
            normalise_chunk(out + at, inp + at, affine + (size_t)b * 3 * C, pixels_of(cut, k, HW), C, silu);
        }
    }
}

void groupnorm_recompute(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                         const float *rstd, int B, int HW, int C, int G, bool silu, Device *dev) {
    Cut cut = cut_pixels(HW, C);
    bool run = device_launch(dev, "groupnorm_recompute", groupnorm_recompute_cost(bias, B, HW, C, G, silu));
    float *affine = device_workspace(dev, (size_t)B * 3 * C * sizeof(float)); // (B, 3, C)
    if (!run) { return; }
    for (int i = 0; i < B * G; i++) {
        set_affine(affine + (size_t)(i / G) * 3 * C, weight, bias, mean[i], rstd[i], C, i % G * (C / G), C / G);
    }
#pragma omp parallel for schedule(static) if ((size_t)B * HW * C >= PARALLEL_MIN)
    for (int i = 0; i < B * cut.chunks; i++) {
        int b = i / cut.chunks, k = i % cut.chunks;
        size_t at = ((size_t)b * HW + (size_t)k * cut.pixels) * C;
        normalise_chunk(out + at, inp + at, affine + (size_t)b * 3 * C, pixels_of(cut, k, HW), C, silu);
    }
}

// Per-channel coefficients of one sample in backward, each (C).
typedef struct {
    float *mean, *rstd;                 // x^ = (x - mean) rstd
    float *from_dy, *from_x, *constant; // dinp = dy from_dy + x^ from_x + constant
} Coefficients;

static Coefficients coefficients_of(float *memory, int b, int C) {
    float *m = memory + (size_t)b * 5 * C;
    return (Coefficients){m, m + C, m + 2 * C, m + 3 * C, m + 4 * C};
}

// Loops over the channels of a pixel, expanded once for each kind: the conditions are constants.
#define BODY static inline __attribute__((always_inline)) void

// Adds dy to sum (C) and dy x^ to dot (C); with keep also writes dy.
BODY add_pixel(float *sum, float *dot, float *dy, const float *dout, const float *x, Coefficients k,
               const float *weight, const float *bias, int C, const bool silu, const bool keep) {
#pragma omp simd
    for (int c = 0; c < C; c++) {
        float xhat = (x[c] - k.mean[c]) * k.rstd[c];
        float g = silu ? dout[c] * fast_silu_slope(xhat * weight[c] + bias[c]) : dout[c];
        sum[c] += g;
        dot[c] += g * xhat;
        if (keep) { dy[c] = g; }
    }
}

BODY pixel_gradient(float *dinp, const float *dout, const float *x, const float *dresidual, Coefficients k,
                    const float *weight, const float *bias, int C, const bool silu, const bool residual) {
#pragma omp simd
    for (int c = 0; c < C; c++) {
        float xhat = (x[c] - k.mean[c]) * k.rstd[c];
        float dy = silu ? dout[c] * fast_silu_slope(xhat * weight[c] + bias[c]) : dout[c];
        float dx = dy * k.from_dy[c] + (xhat * k.from_x[c] + k.constant[c]);
        dinp[c] = residual ? dx + dresidual[c] : dx;
    }
}

// sum (C) of dy and dot (C) of dy x^ over a chunk; dy is the gradient of y = x^ weight + bias. With silu it is also
// stored in dy (unless NULL), so that the exponentials need not be computed twice.
static void gradient_sums(float *sum, float *dot, float *dy, const float *dout, const float *x, Coefficients k,
                          const float *weight, const float *bias, int pixels, int C, bool silu) {
    memset(sum, 0, C * sizeof(float));
    memset(dot, 0, C * sizeof(float));
    for (int p = 0; p < pixels; p++, x += C, dout += C) {
        if (silu && dy) {
            add_pixel(sum, dot, dy + (size_t)p * C, dout, x, k, weight, bias, C, true, true);
        } else if (silu) {
            add_pixel(sum, dot, NULL, dout, x, k, weight, bias, C, true, false);
        } else {
            add_pixel(sum, dot, NULL, dout, x, k, weight, bias, C, false, false);
        }
    }
}

// dx = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), with means over a group, from the sums (chunks, 2, C) of a sample.
static void fold_gradient(Coefficients k, const float *sums, const float *weight, int chunks, int HW, int C, int c0,
                          int n) {
    double mean_dy = 0, mean_dot = 0;
    for (int i = 0; i < chunks; i++) {
        const float *sum = sums + (size_t)i * 2 * C, *dot = sum + C;
        for (int c = c0; c < c0 + n; c++) {
            mean_dy += (double)weight[c] * sum[c];
            mean_dot += (double)weight[c] * dot[c];
        }
    }
    double count = (double)HW * n, rstd = k.rstd[c0];
    for (int c = c0; c < c0 + n; c++) {
        k.from_dy[c] = (float)(rstd * weight[c]);
        k.from_x[c] = (float)(-rstd * mean_dot / count);
        k.constant[c] = (float)(-rstd * mean_dy / count);
    }
}

static void input_gradient(float *dinp, const float *dout, const float *x, const float *dresidual, Coefficients k,
                           const float *weight, const float *bias, int pixels, int C, bool silu) {
    for (int p = 0; p < pixels; p++, x += C, dout += C, dinp += C) {
        const float *residual = dresidual ? dresidual + (size_t)p * C : NULL;
        if (silu && residual) {
            pixel_gradient(dinp, dout, x, residual, k, weight, bias, C, true, true);
        } else if (silu) {
            pixel_gradient(dinp, dout, x, NULL, k, weight, bias, C, true, false);
        } else if (residual) {
            pixel_gradient(dinp, dout, x, residual, k, weight, bias, C, false, true);
        } else {
            pixel_gradient(dinp, dout, x, NULL, k, weight, bias, C, false, false);
        }
    }
}

void groupnorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const floatX *bias, const float *mean, const float *rstd,
                        const floatX *dresidual, float beta, int B, int HW, int C, int G, bool silu, Device *dev) {
    size_t size = (size_t)HW * C, n = B * size;
    Cut cut = cut_pixels(HW, C);
    size_t sums_size = (size_t)B * cut.chunks * 2 * C;
    bool run = device_launch(dev, "groupnorm_backward",
                             groupnorm_backward_cost(dinp, dweight, dbias, bias, dresidual, beta, B, HW, C, G, silu));
    float *sums = device_workspace(dev, (sums_size + (size_t)B * 5 * C + C) * sizeof(float));
    if (!run) { return; }
    float *memory = sums + sums_size, *no_bias = memory + (size_t)B * 5 * C;
    bool kept = silu && dinp && dinp != dresidual; // dinp holds dy between the two reads
    if (!bias) { bias = memset(no_bias, 0, C * sizeof(float)); }
#pragma omp parallel if (n >= PARALLEL_MIN)
    for (int b0 = 0; b0 < B; b0 += cut.sweep) {
        int b1 = B - b0 < cut.sweep ? B : b0 + cut.sweep;
#pragma omp for schedule(static)
        for (int i = b0 * G; i < b1 * G; i++) {
            Coefficients k = coefficients_of(memory, i / G, C);
            for (int c = i % G * (C / G); c < (i % G + 1) * (C / G); c++) {
                k.rstd[c] = rstd[i];
                k.mean[c] = mean[i];
            }
        }
#pragma omp for schedule(static)
        for (int i = b0 * cut.chunks; i < b1 * cut.chunks; i++) {
            int b = i / cut.chunks, chunk = i % cut.chunks;
            size_t at = b * size + (size_t)chunk * cut.pixels * C;
            float *sum = sums + (size_t)i * 2 * C;
            gradient_sums(sum, sum + C, kept ? dinp + at : NULL, dout + at, inp + at, coefficients_of(memory, b, C),
                          weight, bias, pixels_of(cut, chunk, HW), C, silu);
        }
        if (dinp) {
#pragma omp for schedule(static)
            for (int i = b0 * G; i < b1 * G; i++) {
                int b = i / G;
                fold_gradient(coefficients_of(memory, b, C), sums + (size_t)b * cut.chunks * 2 * C, weight, cut.chunks,
                              HW, C, i % G * (C / G), C / G);
            }
#pragma omp for schedule(static)
            for (int i = b0 * cut.chunks; i < b1 * cut.chunks; i++) {
                int b = i / cut.chunks, chunk = i % cut.chunks;
                size_t at = b * size + (size_t)chunk * cut.pixels * C;
                input_gradient(dinp + at, (kept ? dinp : dout) + at, inp + at, dresidual ? dresidual + at : NULL,
                               coefficients_of(memory, b, C), weight, bias, pixels_of(cut, chunk, HW), C,
                               silu && !kept);
            }
        }
    }
    size_t rows = (size_t)B * cut.chunks;
    if (dbias) { fold_rows(dbias, sums, rows, 2 * C, C, beta); }
    if (dweight) { fold_rows(dweight, sums + C, rows, 2 * C, C, beta); }
}
