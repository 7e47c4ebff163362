// Formulas of single elements that LAYER.c and LAYER.cu share: noise, sampling, losses, the VAE's Gaussian.
#pragma once
#include "kernels/kernels.h"
#include "kernels/vecmath.h"
#include "util/philox.h"

// Two standard normal numbers from two random words (Box and Muller 1958).
HOST_DEVICE void normal_pair(float *first, float *second, uint32_t a, uint32_t b) {
    float radius = sqrtf(-2.0f * fast_logf(philox_uniform(a))), sine, cosine;
    fast_sincosf(6.2831853071795865f * philox_uniform(b), &sine, &cosine);
    *first = radius * cosine;
    *second = radius * sine;
}

// Multi-resolution noise: level i is r_i^i times smaller than the one before; a side ends at 1.
HOST_DEVICE float level_power(int level, uint64_t sample, const StepScalars *s) {
    float r = 2 + 2 * philox_uniform(philox(s->seed, PHILOX_MULTIRES, s->step, sample, (uint32_t)level).x[0]),
          power = 1;
    for (int i = 0; i < level; i++) { power *= r; }
    return power;
}
HOST_DEVICE int level_side(int side, float power) { return (float)side < power ? 1 : (int)((float)side / power); }

// The position of an output coordinate in a line of `size` samples, as in torch's bilinear filter with align_corners =
// false.
typedef struct {
    int low, high;
    float weight; // of high
} Tap;

HOST_DEVICE Tap tap_at(int i, int size, int out_size) {
    float x = ((float)i + 0.5f) * ((float)size / (float)out_size) - 0.5f;
    x = x < 0 ? 0 : x;
    int low = (int)x;
    Tap tap = {low, low + 1 < size ? low + 1 : low, x - (float)low};
    return tap;
}

// alpha = sqrt(abar), sigma = sqrt(1 - abar): x_t = alpha x0 + sigma noise.
typedef struct {
    float alpha, sigma;
} NoiseLevel;

HOST_DEVICE NoiseLevel noise_level(float alpha_cumprod) {
    NoiseLevel k = {sqrtf(alpha_cumprod), sqrtf(1.0f - alpha_cumprod)};
    return k;
}

// The model's target = of_noise noise + of_x0 x0.
HOST_DEVICE void target_factors(float *of_noise, float *of_x0, Prediction prediction, NoiseLevel k) {
    *of_noise = prediction == PREDICT_EPSILON ? 1 : prediction == PREDICT_V ? k.alpha : 0;
    *of_x0 = prediction == PREDICT_SAMPLE ? 1 : prediction == PREDICT_V ? -k.sigma : 0;
}

// x0 = of_x x + of_out out for a model's output at x = alpha x0 + sigma eps.
HOST_DEVICE void x0_factors(float *of_x, float *of_out, Prediction prediction, NoiseLevel k) {
    *of_x = prediction == PREDICT_EPSILON ? 1 / k.alpha : prediction == PREDICT_V ? k.alpha : 0;
    *of_out = prediction == PREDICT_EPSILON ? -k.sigma / k.alpha : prediction == PREDICT_V ? -k.sigma : 1;
}

// The coefficients of x0 and eps as sums of x and the model's output, and of the next x as a sum of both.
typedef struct {
    float x0_x, x0_out, eps_x, eps_out, of_x0, of_eps;
} DdimFactors;

HOST_DEVICE DdimFactors ddim_factors(Prediction prediction, NoiseLevel now, NoiseLevel previous) {
    DdimFactors k = {0, 0, 0, 0, previous.alpha, previous.sigma};
    x0_factors(&k.x0_x, &k.x0_out, prediction, now);
    // eps: the model's output itself, alpha out + sigma x for v, (x - alpha x0) / sigma for a sample.
    k.eps_x = prediction == PREDICT_V ? now.sigma : prediction == PREDICT_SAMPLE ? 1 / now.sigma : 0;
    k.eps_out = prediction == PREDICT_V ? now.alpha : prediction == PREDICT_SAMPLE ? -now.alpha / now.sigma : 1;
    return k;
}

HOST_DEVICE float ddim_element(float x, float out, DdimFactors k) {
    float x0 = k.x0_x * x + k.x0_out * out, eps = k.eps_x * x + k.eps_out * out;
    return k.of_x0 * x0 + k.of_eps * eps;
}

// f = (1 - exp(-e))^gamma for e >= 0, without the cancellation of 1 - exp(-e) for small e.
HOST_DEVICE float focal_factor(float e, float gamma) {
    float series = e * (1 - e / 2 * (1 - e / 3 * (1 - e / 4 * (1 - e / 5 * (1 - e / 6)))));
    float base = e < 0.125f ? series : 1 - fast_expf(-e);
    float power = fast_expf(gamma * fast_logf(base < 1e-37f ? 1e-37f : base));
    float at_zero = gamma == 0 ? 1 : 0;
    return e != e ? e : base < 1e-37f ? at_zero : power; // NaN stays NaN
}

// The VAE's log-variances are clamped to these limits.
#define LOGVAR_MIN (-30.0f)
#define LOGVAR_MAX 20.0f

HOST_DEVICE float clamp_logvar(float v) {
    v = v < LOGVAR_MIN ? LOGVAR_MIN : v; // NaN stays NaN
    return v > LOGVAR_MAX ? LOGVAR_MAX : v;
}
