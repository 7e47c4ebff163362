// Gradient norm, Adam and the running average, over the flat buffers of all parameters. Everything that changes from
// step to step is read from the device, so that a captured graph stays valid.
#include <assert.h>
#include "kernels/elementwise.cuh"

// A block's share of the gradient.
enum { NORM_PASSES = 16, NORM_CHUNK = THREADS * 4 * NORM_PASSES, FOLD_THREADS = 1024 };

static __global__ void __launch_bounds__(THREADS) squares_of_chunk(double *partial, const float *grad, size_t n) {
    __shared__ double scratch[32];
    const size_t first = (size_t)blockIdx.x * NORM_CHUNK + threadIdx.x * 4;
    double sum = 0;
#pragma unroll 4
    for (int pass = 0; pass < NORM_PASSES; pass++) {
        const size_t i = first + pass * (THREADS * 4);
        float g[4];
        load_part(g, grad + i, i < n ? n - i : 0);
#pragma unroll
        for (int j = 0; j < 4; j++) { sum += (double)g[j] * g[j]; }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) { partial[blockIdx.x] = sum; }
}

static __global__ void __launch_bounds__(FOLD_THREADS)
    finish_norm(GradNorm *result, const double *partial, int chunks, const StepScalars *s) {
    __shared__ double scratch[32];
    double sum = 0;
    for (int i = threadIdx.x; i < chunks; i += FOLD_THREADS) { sum += partial[i]; }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        const float norm = (float)(fabs((double)s->grad_scale) * sqrt(sum));
        const float clip = s->max_norm > 0 ? fminf(1.0f, s->max_norm / (norm + 1e-6f)) : 1.0f;
        result->norm = norm;
        result->factor = s->grad_scale * clip;
        result->finite = isfinite(norm) != 0;
    }
}

void grad_norm(GradNorm *result, const float *grad, size_t n, const StepScalars *s, Device *dev) {
    const size_t chunks = ceil_div(n, (size_t)NORM_CHUNK);
    double *partial = (double *)device_workspace(dev, chunks * sizeof(double));
    if (!device_launch(dev, "grad_norm", 4.0 * n, 2.0 * n)) { return; }
    launch<squares_of_chunk>(dev, (unsigned)chunks, THREADS, 0, partial, grad, n);
    launch<finish_norm>(dev, 1, FOLD_THREADS, 0, result, partial, (int)chunks, s);
}

// What does not change between the calls of a run.
struct AdamSettings {
    float beta1, beta2, eps, weight_decay;
};

static __global__ void __launch_bounds__(THREADS)
    adam(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result, AdamSettings k,
         size_t n, const StepScalars *s) {
    const size_t i = first_element(4);
    if (i >= n || !result->finite) { return; }
    const size_t left = n - i;
    const float factor = result->factor, lr = s->lr, over_bias1 = 1 / s->bias1, over_root_bias2 = 1 / sqrtf(s->bias2);
    float p[4], g[4], mean[4], square[4];
    load_part(g, grad + i, left);
    load_part(mean, m + i, left);
    load_part(square, v + i, left);
    load_part(p, master + i, left);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        g[j] *= factor;
        mean[j] = k.beta1 * mean[j] + (1.0f - k.beta1) * g[j];
        square[j] = k.beta2 * square[j] + (1.0f - k.beta2) * g[j] * g[j];
        const float step = mean[j] * over_bias1 / (sqrtf(square[j]) * over_root_bias2 + k.eps);
        p[j] -= lr * (step + k.weight_decay * p[j]);
    }
    store_part(m + i, mean, left);
    store_part(v + i, square, left);
    store_part(master + i, p, left);
    if (sizeof(floatX) != sizeof(float)) { store_part(param + i, p, left); }
}

void adam_update(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                 float beta1, float beta2, float eps, float weight_decay, size_t n, const StepScalars *s, Device *dev) {
    const bool masters = sizeof(floatX) != sizeof(float);
    if (!device_launch(dev, "adam_update", (28.0 + (masters ? sizeof(floatX) : 0)) * n, 14.0 * n) || n == 0) { return; }
    assert(masters || (void *)param == (void *)master);
    launch<adam>(dev, blocks_for(n, 4), THREADS, 0, master, param, m, v, grad, result,
                 AdamSettings{beta1, beta2, eps, weight_decay}, n, s);
}

static __global__ void __launch_bounds__(THREADS)
    average(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s) {
    const size_t i = first_element(4);
    if (i >= n || !result->finite) { return; }
    const float decay = s->ema_decay;
    float e[4], p[4];
    load_part(e, ema + i, n - i);
    load_part(p, master + i, n - i);
#pragma unroll
    for (int j = 0; j < 4; j++) { e[j] = decay * e[j] + (1.0f - decay) * p[j]; }
    store_part(ema + i, e, n - i);
}

void ema_update(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "ema_update", 12.0 * n, 3.0 * n) || n == 0) { return; }
    launch<average>(dev, blocks_for(n, 4), THREADS, 0, ema, master, result, n, s);
}
