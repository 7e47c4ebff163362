// Steps to adam_update (kernels/optimizer.cu). Each parameter needs 16 bytes of reads (gradient, two moments, master)
// and 14 bytes of writes (in bf16; 12 in fp32, where the parameter is the master): 866 M parameters are 26 GB, 16.7 ms
// of an A100's memory. There are about 14 FLOPs for 30 bytes, so only the bytes count.
#include "bench/lab/steps.h"
#include "kernels/elementwise.cuh"

struct Settings {
    float beta1, beta2, eps, weight_decay;
};

__device__ static inline void adam_step(float &p, float &m, float &v, float grad, float factor, Settings k,
                                        const StepScalars *s) {
    const float g = factor * grad;
    m = k.beta1 * m + (1.0f - k.beta1) * g;
    v = k.beta2 * v + (1.0f - k.beta2) * g * g;
    p -= s->lr * (m / s->bias1 / (sqrtf(v / s->bias2) + k.eps) + k.weight_decay * p);
}

// Versions 1 and 2: a thread per parameter, 32 bits per lane. Sectors are used whole, with four times the instructions
// of 128-bit accesses. Version 1 makes the bf16 copy in a second kernel, which reads the masters again: 34 bytes.
// Version 2 makes it in the same pass: 30 bytes.
template <bool CAST>
static __global__ void __launch_bounds__(THREADS)
    lab_adam_scalar(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                    Settings k, size_t n, const StepScalars *s) {
    const size_t i = first_element(1);
    if (i >= n || !result->finite) { return; }
    adam_step(master[i], m[i], v[i], grad[i], result->factor, k, s);
    if (CAST && sizeof(floatX) != sizeof(float)) { param[i] = to_floatX(master[i]); }
}

static __global__ void __launch_bounds__(THREADS)
    lab_adam_cast(floatX *param, const float *master, const GradNorm *result, size_t n) {
    const size_t i = first_element(1);
    if (i >= n || !result->finite) { return; }
    param[i] = to_floatX(master[i]);
}

// Version 3: four parameters per thread. Accesses have 128 bits in each float array, but 64 in the bf16 copy. Every
// thread reads the step's scalars: seven sectors per warp in addition to 64 of data.
static __global__ void __launch_bounds__(THREADS)
    lab_adam_vector(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                    Settings k, size_t n, const StepScalars *s) {
    const size_t i = first_element(4);
    if (i >= n || !result->finite) { return; }
    const size_t left = n - i;
    float p[4], g[4], mean[4], square[4];
    load_part(g, grad + i, left);
    load_part(mean, m + i, left);
    load_part(square, v + i, left);
    load_part(p, master + i, left);
#pragma unroll
    for (int j = 0; j < 4; j++) { adam_step(p[j], mean[j], square[j], g[j], result->factor, k, s); }
    store_part(m + i, mean, left);
    store_part(v + i, square, left);
    store_part(master + i, p, left);
    if (sizeof(floatX) != sizeof(float)) { store_part(param + i, p, left); }
}

// Version 4, kernels/optimizer.cu: eight parameters per thread as two quads, so that twice as many loads are under way.
// Each block computes the step's scalars, square root and divisions once.

void lab_adam_update(int version, float *master, floatX *param, float *m, float *v, const float *grad,
                     const GradNorm *result, float beta1, float beta2, float eps, float weight_decay, size_t n,
                     const StepScalars *s, Device *dev) {
    if (dev->plan_only) { return; }
    const Settings k = {beta1, beta2, eps, weight_decay};
    const unsigned blocks = blocks_for(n, 1);
    if (version == 1) {
        launch<lab_adam_scalar<false>>(dev, blocks, THREADS, 0, master, param, m, v, grad, result, k, n, s);
        launch<lab_adam_cast>(dev, blocks, THREADS, 0, param, (const float *)master, result, n);
    } else if (version == 2) {
        launch<lab_adam_scalar<true>>(dev, blocks, THREADS, 0, master, param, m, v, grad, result, k, n, s);
    } else {
        launch<lab_adam_vector>(dev, blocks_for(n, 4), THREADS, 0, master, param, m, v, grad, result, k, n, s);
    }
}
