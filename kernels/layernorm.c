// Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over rows of C elements. As the plain loops (reference.c) row
// by row, but in fp32 and vectors: forward corrects the mean by what its rounding has left over, and dweight and dbias
// are summed per chunk of rows, one thread each, and folded in fp64 in order.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include <math.h>
#include <string.h>

void layernorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int N, int C, float eps, Device *dev) {
    size_t n = (size_t)N * C;
    if (!device_launch(dev, "layernorm_forward", layernorm_forward_cost(bias, N, C))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const float *x = inp + (size_t)row * C;
        float *y = out + (size_t)row * C, sum = 0, correction = 0, square = 0;
#pragma omp simd reduction(+ : sum)
        for (int c = 0; c < C; c++) { sum += x[c]; }
        float m = sum / C;
#pragma omp simd reduction(+ : correction, square)
        for (int c = 0; c < C; c++) { // the mean of x - m corrects the rounding of m
            float d = x[c] - m;
            correction += d;
            square += d * d;
        }
        correction /= C;
        float s = 1 / sqrtf(square / C - correction * correction + eps);
        mean[row] = m + correction;
        rstd[row] = s;
        if (bias) {
#pragma omp simd
            for (int c = 0; c < C; c++) { y[c] = ((x[c] - m) - correction) * s * weight[c] + bias[c]; }
        } else {
#pragma omp simd
            for (int c = 0; c < C; c++) { y[c] = ((x[c] - m) - correction) * s * weight[c]; }
        }
    }
}

// Adds dout to sum (C) and dout x^ to dot (C); returns the row's means of w dout and w dout x^.
static void row_sums(float *mean_dy, float *mean_dot, float *sum, float *dot, const float *dout, const float *x,
                     const float *weight, float mean, float rstd, int C) {
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int c = 0; c < C; c++) {
        float xhat = (x[c] - mean) * rstd, dy = dout[c] * weight[c];
        a += dy;
        b += dy * xhat;
        sum[c] += dout[c];
        dot[c] += dout[c] * xhat;
    }
    *mean_dy = a / C;
    *mean_dot = b / C;
}

// dinp = rstd (w dout - mean(w dout) - x^ mean(w dout x^)) + dresidual
static void row_gradient(float *dinp, const float *dout, const float *x, const float *weight, const float *dresidual,
                         float mean, float rstd, float mean_dy, float mean_dot, int C) {
    if (dresidual) {
#pragma omp simd
        for (int c = 0; c < C; c++) {
            float xhat = (x[c] - mean) * rstd;
            dinp[c] = rstd * (dout[c] * weight[c] - mean_dy - xhat * mean_dot) + dresidual[c];
        }
    } else {
#pragma omp simd
        for (int c = 0; c < C; c++) {
            float xhat = (x[c] - mean) * rstd;
            dinp[c] = rstd * (dout[c] * weight[c] - mean_dy - xhat * mean_dot);
        }
    }
}

void layernorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const float *mean, const float *rstd, const floatX *dresidual, float beta,
                        int N, int C, Device *dev) {
    enum { ROWS = 32 }; // rows of a chunk
    size_t n = (size_t)N * C, chunks = count_chunks(N, ROWS);
    bool run =
        device_launch(dev, "layernorm_backward", layernorm_backward_cost(dinp, dweight, dbias, dresidual, beta, N, C));
    float *sums = device_workspace(dev, chunks * 2 * C * sizeof(float));
    if (!run) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (size_t k = 0; k < chunks; k++) {
        float *sum = sums + k * 2 * C, *dot = sum + C;
        memset(sum, 0, 2 * C * sizeof(float));
        for (size_t row = k * ROWS; row < min_size(N, (k + 1) * ROWS); row++) {
            size_t at = row * C;
            float mean_dy, mean_dot;
            row_sums(&mean_dy, &mean_dot, sum, dot, dout + at, inp + at, weight, mean[row], rstd[row], C);
            if (dinp) {
                row_gradient(dinp + at, dout + at, inp + at, weight, dresidual ? dresidual + at : NULL, mean[row],
                             rstd[row], mean_dy, mean_dot, C);
            }
        }
    }
    if (dbias) { fold_rows(dbias, sums, chunks, 2 * C, C, beta); }
    if (dweight) { fold_rows(dweight, sums + C, chunks, 2 * C, C, beta); }
}
