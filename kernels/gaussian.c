// The VAE's diagonal Gaussian (Kingma & Welling 2013, arXiv 1312.6114).
#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "kernels/vecmath.h"

#define LOGVAR_MIN (-30.0f)
#define LOGVAR_MAX 20.0f

static inline float clamp_logvar(float v) {
    v = v < LOGVAR_MIN ? LOGVAR_MIN : v; // NaN stays
    return v > LOGVAR_MAX ? LOGVAR_MAX : v;
}

void gaussian_forward(floatX *z, const floatX *moments, const float *noise, int N, int L, Device *dev) {
    double n = (double)N * L;
    if (!device_launch(dev, "gaussian_forward", n * (noise ? 3.0 * sizeof(floatX) + 4 : 2.0 * sizeof(floatX)), 4 * n)) {
        return;
    }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const float *mean = moments + (size_t)row * 2 * L, *logvar = mean + L;
        for (int i = 0; i < L; i++) {
            size_t at = (size_t)row * L + i;
            z[at] = noise ? mean[i] + fast_expf(0.5f * clamp_logvar(logvar[i])) * noise[at] : mean[i];
        }
    }
}

void gaussian_backward(floatX *dmoments, const floatX *dz, const floatX *moments, const float *noise, float kl_scale,
                       int N, int L, Device *dev) {
    double n = (double)N * L;
    if (!device_launch(dev, "gaussian_backward", n * ((dz ? 5.0 : 4.0) * sizeof(floatX) + (noise ? 4 : 0)), 10 * n)) {
        return;
    }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const float *mean = moments + (size_t)row * 2 * L, *logvar = mean + L;
        float *dmean = dmoments + (size_t)row * 2 * L, *dlogvar = dmean + L;
        for (int i = 0; i < L; i++) {
            size_t at = (size_t)row * L + i;
            float g = dz ? dz[at] : 0, v = clamp_logvar(logvar[i]), deviation = fast_expf(0.5f * v);
            float slope = kl_scale * 0.5f * (deviation * deviation - 1.0f);
            if (noise) { slope += 0.5f * g * noise[at] * deviation; }
            dmean[i] = g + kl_scale * mean[i];
            dlogvar[i] = logvar[i] < LOGVAR_MIN || logvar[i] > LOGVAR_MAX ? 0 : slope;
        }
    }
}

void gaussian_kl(float *kl, const floatX *moments, int B, int N, int L, Device *dev) {
    double n = (double)N * L;
    if (!device_launch(dev, "gaussian_kl", 2 * n * sizeof(floatX) + 4.0 * B, 7 * n)) { return; }
    int rows = N / B;
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        double sum = 0;
        for (int row = b * rows; row < (b + 1) * rows; row++) {
            const float *mean = moments + (size_t)row * 2 * L, *logvar = mean + L;
            for (int i = 0; i < L; i++) {
                float v = clamp_logvar(logvar[i]);
                sum += (double)mean[i] * mean[i] + fast_expf(v) - 1.0 - v;
            }
        }
        kl[b] = (float)(0.5 * sum);
    }
}
