// The VAE's diagonal Gaussian (Kingma & Welling 2013, arXiv 1312.6114). Against the plain loops (reference.c),
// exponentials are taken over blocks of latents, in vectors.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include "kernels/formulas.h"

// Rows of moments are short (L = 4). So the log-variances of a block of latents are gathered first, and the
// exponentials are computed for the whole block.
enum { BLOCK = 512 };

// deviation[i] = exp(logvar / 2) of latents first .. first + count - 1, numbered across rows of L.
static void standard_deviations(float *deviation, const float *moments, size_t first, size_t count, int L) {
    size_t row = first / L, column = first % L;
    for (size_t i = 0; i < count; i++) {
        deviation[i] = moments[row * 2 * L + L + column];
        if (++column == (size_t)L) { column = 0, row++; }
    }
#pragma omp simd
    for (size_t i = 0; i < count; i++) { deviation[i] = fast_expf_normal(0.5f * clamp_logvar(deviation[i])); }
}

void gaussian_forward(floatX *z, const floatX *moments, const float *noise, int N, int L, Device *dev) {
    size_t n = (size_t)N * L;
    if (!device_launch(dev, "gaussian_forward", gaussian_forward_cost(noise, N, L))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (size_t first = 0; first < n; first += BLOCK) {
        float deviation[BLOCK];
        size_t count = min_size(n - first, BLOCK), row = first / L, column = first % L;
        if (noise) { standard_deviations(deviation, moments, first, count, L); }
        for (size_t i = 0; i < count; i++) {
            float mean = moments[row * 2 * L + column];
            z[first + i] = noise ? mean + deviation[i] * noise[first + i] : mean;
            if (++column == (size_t)L) { column = 0, row++; }
        }
    }
}

void gaussian_backward(floatX *dmoments, const floatX *dz, const floatX *moments, const float *noise, float kl_scale,
                       int N, int L, Device *dev) {
    size_t n = (size_t)N * L;
    if (!device_launch(dev, "gaussian_backward", gaussian_backward_cost(dz, noise, N, L))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (size_t first = 0; first < n; first += BLOCK) {
        float deviation[BLOCK];
        size_t count = min_size(n - first, BLOCK), row = first / L, column = first % L;
        standard_deviations(deviation, moments, first, count, L);
        for (size_t i = 0; i < count; i++) {
            size_t mean = row * 2 * L + column, logvar = mean + L;
            float g = dz ? dz[first + i] : 0, s = deviation[i], v = moments[logvar];
            float slope = kl_scale * 0.5f * (s * s - 1.0f) + (noise ? 0.5f * g * noise[first + i] * s : 0);
            dmoments[mean] = g + kl_scale * moments[mean];
            dmoments[logvar] = v < LOGVAR_MIN || v > LOGVAR_MAX ? 0 : slope;
            if (++column == (size_t)L) { column = 0, row++; }
        }
    }
}

// Sum of KL over latents first .. end - 1.
static double kl_of_block(const float *moments, size_t first, size_t end, int L) {
    float deviation[BLOCK];
    double sum = 0;
    size_t row = first / L, column = first % L;
    standard_deviations(deviation, moments, first, end - first, L);
    for (size_t i = 0; i < end - first; i++) {
        float mean = moments[row * 2 * L + column], v = clamp_logvar(moments[row * 2 * L + L + column]);
        sum += (double)mean * mean + (double)deviation[i] * deviation[i] - 1.0 - v;
        if (++column == (size_t)L) { column = 0, row++; }
    }
    return 0.5 * sum;
}

void gaussian_kl(float *kl, const floatX *moments, int B, int N, int L, Device *dev) {
    size_t n = (size_t)N * L, of_sample = n / B;
    if (!device_launch(dev, "gaussian_kl", gaussian_kl_cost(B, N, L))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        double sum = 0;
        for (size_t first = b * of_sample; first < (b + 1) * of_sample; first += BLOCK) {
            sum += kl_of_block(moments, first, min_size(first + BLOCK, (b + 1) * of_sample), L);
        }
        kl[b] = (float)sum;
    }
}
