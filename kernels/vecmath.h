// Elementary functions for the inner loops of the CPU backend. They have no branches, so that gcc turns loops over them
// into SIMD code (libm's functions are calls). The .cu files use some of them: where both backends must give the same
// numbers (noise, losses), and where CUDA's own functions have a slow path in local memory (sine and cosine). The
// polynomials are minimax fits made for cocogold (Lawson's reweighted least squares on Chebyshev nodes, 40-digit
// reference); the range reductions are the classical ones of Cody & Waite 1980. tests/kernels/test_activation.c
// measures the errors stated here over their whole ranges.
#pragma once
#include "util/host_device.h"

// exp(x) = 2^n exp(r) with x = n ln 2 + r, |r| <= ln(2) / 2, exp(r) = 1 + r + r^2 q(r): returns exp(r). *n_bits has n
// in its low bits (it is a float so large that adding rounds to a whole number).
HOST_DEVICE float exp_reduced(float x, int32_t *n_bits) {
    float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    float r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f; // ln 2 in two parts; products of the first with n are exact
    float q = 0.00138145988f;
    q = q * r + 0.00836871658f;
    q = q * r + 0.041668389f;
    q = q * r + 0.166665211f;
    q = q * r + 0.49999994f;
    *n_bits = (int32_t)float_bits(shifted);
    return 1.0f + (r + r * r * q);
}

// exp(x), error below 1.5 ulp if the result is normal; subnormal, 0, inf and NaN as in libm. 2^n is applied in two
// factors, since neither 2^128 nor 2^-149 is a normal float.
HOST_DEVICE float fast_expf(float x) {
    x = x < -104.0f ? -104.0f : x; // NaN stays NaN: comparisons with it are false
    x = x > 89.0f ? 89.0f : x;
    int32_t n_bits;
    float p = exp_reduced(x, &n_bits);
    int32_t n = n_bits - 0x4b400000, half = n >> 1;
    return p * bits_float((uint32_t)(half + 127) << 23) * bits_float((uint32_t)(n - half + 127) << 23);
}

// The same with one factor, only for |x| <= 87.
HOST_DEVICE float fast_expf_normal(float x) {
    int32_t n_bits;
    float p = exp_reduced(x, &n_bits);
    return bits_float(float_bits(p) + ((uint32_t)n_bits << 23));
}

// The same with one factor and 0 below -87, -inf included, for x <= 87: exp(score - maximum) of a softmax.
HOST_DEVICE float fast_expf_softmax(float x) {
    float e = fast_expf_normal(x);
    return x < -87.0f ? 0.0f : e;
}

// log(x), error below 1.5 ulp, for x positive and normal.
// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), log(1 + f) = f - f^2 / 2 + f^3 q(f).
HOST_DEVICE float fast_logf(float x) {
    int32_t bits = (int32_t)float_bits(x), e = (bits - 0x3f3504f3) >> 23;
    float f = bits_float((uint32_t)bits - ((uint32_t)e << 23)) - 1.0f, n = (float)e;
    float q = -0.0763449669f;
    q = q * f + 0.127615765f;
    q = q * f - 0.131601825f;
    q = q * f + 0.142017573f;
    q = q * f - 0.166233569f;
    q = q * f + 0.200012267f;
    q = q * f - 0.250008196f;
    q = q * f + 0.333333313f;
    float tail = f * f * (f * q - 0.5f);
    return n * 0x1.62e4p-1f + (f + (tail + n * 0x1.7f7d1cp-20f));
}

// *sine = sin(x), *cosine = cos(x), absolute error below 1e-7, for |x| up to 100.
// x = n pi/2 + r with |r| <= pi/4; n mod 4 swaps and negates the two polynomials.
HOST_DEVICE void fast_sincosf(float x, float *sine, float *cosine) {
    float shifted = x * 0.636619772f + 0x1.8p23f;
    float n = shifted - 0x1.8p23f;
    float r = x - n * 0x1.92p0f - n * 0x1.fb4p-12f - n * 0x1.4442d2p-24f; // pi/2 in three parts
    float s = r * r;
    float sin_r = r + r * s * (-0.166666552f + s * (0.008332178f - s * 0.000195172353f));
    float cos_r = 1.0f - 0.5f * s + s * s * (0.0416666456f + s * (-0.00138873153f + s * 2.44330822e-05f));
    uint32_t i = float_bits(shifted);
    float a = i & 1 ? cos_r : sin_r, b = i & 1 ? sin_r : cos_r;
    *sine = bits_float(float_bits(a) ^ (i & 2) << 30);
    *cosine = bits_float(float_bits(b) ^ ((i + 1) & 2) << 30);
}

// min(|x|, bound), computed on the bits: one instruction, whereas gcc would compute both outcomes of a comparison of
// floats. A NaN becomes the bound; the activations below multiply by x, which restores it.
HOST_DEVICE float bounded_magnitude(float x, float bound) {
    int32_t a = (int32_t)(float_bits(x) & 0x7fffffff), b = (int32_t)float_bits(bound);
    return bits_float((uint32_t)(a < b ? a : b));
}

// 1 / (1 + exp(-x)), error below 3 ulp for x >= -86; for smaller x a constant, 4e-38. Not for NaN.
HOST_DEVICE float fast_sigmoidf(float x) {
    float e = fast_expf_normal(-bounded_magnitude(x, 86.0f));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

// The derivative of silu(x) = x s, s = 1 / (1 + exp(-x)): s (1 + x (1 - s)).
HOST_DEVICE float fast_silu_slope(float x) {
    float s = fast_sigmoidf(x);
    return s * (1.0f + x * (1.0f - s));
}

// t R(t) of Phi(-a) = exp(-a^2 / 2) t R(t), a >= 0, t = 1 / (1 + 0.35 a): the form of Hastings 1955.
HOST_DEVICE float normal_tail(float t) {
    float r = -0.029146174f;
    r = r * t + 0.143972859f;
    r = r * t - 0.255716592f;
    r = r * t + 0.159176767f;
    r = r * t - 0.0231115762f;
    r = r * t + 0.105508722f;
    r = r * t + 0.119832687f;
    r = r * t + 0.139861897f;
    r = r * t + 0.139621407f;
    return t * r;
}

// The standard normal distribution function Phi(x) = (1 + erf(x / sqrt 2)) / 2 and, in *density, its derivative.
// The error is 3 ulp for x >= 0. In the left tail the relative error grows with the rounding of x^2 / 2, to 5e-6 at
// x = -12.9, where Phi is 2e-38 and stays constant for smaller x (1 + erf would cancel completely beyond x = -5). Not
// for NaN.
HOST_DEVICE float fast_normal_cdf(float x, float *density) {
    float a = bounded_magnitude(x, 12.9f);
    float e = fast_expf_normal(-0.5f * a * a), t = 1.0f / (1.0f + 0.35f * a);
    float tail = e * normal_tail(t);
    *density = 0.398942280f * e;
    return x < 0 ? tail : 1.0f - tail;
}
