// Activations: SiLU (Elfwing et al. 2017), GELU (Hendrycks & Gimpel 2016, the erf form) and its sigmoid approximation,
// GEGLU (Shazeer 2020). The plain loops (reference.c) with elementary functions that become SIMD code (vecmath.h).
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include "kernels/vecmath.h"

static inline float silu(float x) { return x * fast_sigmoidf(x); }

static inline float gelu(float x) {
    float density;
    return x * fast_normal_cdf(x, &density);
}
static inline float gelu_slope(float x) {
    float density, cdf = fast_normal_cdf(x, &density);
    return cdf + x * density;
}

static inline float quick_gelu(float x) { return x * fast_sigmoidf(1.702f * x); }
static inline float quick_gelu_slope(float x) { return fast_silu_slope(1.702f * x); }

void silu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "silu_forward", silu_forward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = silu(inp[i]); }
}

void silu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "silu_backward", silu_backward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * fast_silu_slope(inp[i]); }
}

void gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "gelu_forward", gelu_forward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = gelu(inp[i]); }
}

void gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "gelu_backward", gelu_backward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * gelu_slope(inp[i]); }
}

void quick_gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "quick_gelu_forward", quick_gelu_forward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = quick_gelu(inp[i]); }
}

void quick_gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "quick_gelu_backward", quick_gelu_backward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * quick_gelu_slope(inp[i]); }
}

void geglu_forward(floatX *out, const floatX *inp, int N, int H, Device *dev) {
    size_t n = (size_t)N * H;
    if (!device_launch(dev, "geglu_forward", geglu_forward_cost(N, H))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const float *value = inp + (size_t)row * 2 * H, *gate = value + H;
        float *o = out + (size_t)row * H;
#pragma omp simd
        for (int i = 0; i < H; i++) { o[i] = value[i] * gelu(gate[i]); }
    }
}

void geglu_backward(floatX *dinp, floatX *out, const floatX *dout, const floatX *inp, int N, int H, Device *dev) {
    size_t n = (size_t)N * H;
    if (!device_launch(dev, "geglu_backward", geglu_backward_cost(out, N, H))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const float *value = inp + (size_t)row * 2 * H, *gate = value + H, *dy = dout + (size_t)row * H;
        float *dvalue = dinp + (size_t)row * 2 * H, *dgate = dvalue + H;
        float *o = out ? out + (size_t)row * H : NULL;
#pragma omp simd
        for (int i = 0; i < H; i++) {
            float x = value[i], g = gate[i], d = dy[i], density, cdf = fast_normal_cdf(g, &density);
            if (o) { o[i] = x * (g * cdf); }
            dvalue[i] = d * g * cdf;
            dgate[i] = d * x * (cdf + g * density);
        }
    }
}
