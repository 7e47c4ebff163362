// Gradient norm, Adam and the running average, over the flat buffers of all parameters: the plain loops (reference.c)
// in fp32, on all threads; the norm's squares are summed in fp64 in chunks.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include <assert.h>
#include <math.h>

void grad_norm(GradNorm *result, const float *grad, size_t n, const StepScalars *s, Device *dev) {
    enum { CHUNK = 65536 };
    size_t chunks = count_chunks(n, CHUNK);
    bool run = device_launch(dev, "grad_norm", grad_norm_cost(n));
    double *partial = device_workspace(dev, chunks * sizeof(double));
    if (!run) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (size_t k = 0; k < chunks; k++) {
        const float *g = grad + k * CHUNK;
        size_t count = min_size(n - k * CHUNK, CHUNK);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t i = 0; i < count; i++) { sum += (double)g[i] * g[i]; }
        partial[k] = sum;
    }
    double sum = 0;
    for (size_t k = 0; k < chunks; k++) { sum += partial[k]; }
    float norm = (float)(fabs((double)s->grad_scale) * sqrt(sum));
    float clip = s->max_norm > 0 ? fminf(1.0f, s->max_norm / (norm + 1e-6f)) : 1.0f;
    float clipped = norm * clip;
    *result = (GradNorm){.norm = norm, .factor = s->grad_scale * clip, .finite = isfinite(clipped * clipped) != 0};
}

void adam_update(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                 float beta1, float beta2, float eps, float weight_decay, size_t n, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "adam_update", adam_update_cost(n))) { return; }
    assert(param == master);
    (void)param;
    if (!result->finite) { return; }
    float factor = result->factor, lr = s->lr, over_bias1 = 1 / s->bias1, over_root_bias2 = 1 / sqrtf(s->bias2);
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) {
        float g = factor * grad[i];
        float mi = m[i] = beta1 * m[i] + (1.0f - beta1) * g;
        float vi = v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
        float step = mi * over_bias1 / (sqrtf(vi) * over_root_bias2 + eps);
        master[i] -= lr * (step + weight_decay * master[i]);
    }
}

void ema_update(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "ema_update", ema_update_cost(n))) { return; }
    if (!result->finite) { return; }
    float decay = s->ema_decay;
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { ema[i] = decay * ema[i] + (1.0f - decay) * master[i]; }
}
