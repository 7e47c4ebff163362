// Gradient norm, Adam and the running average, over the flat buffers of all parameters. Values that change from step to
// step are read from device memory, so that a captured graph stays valid.
#include "kernels/elementwise.cuh"
#include <assert.h>

// NORM_CHUNK: a block's share of the gradient.
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
        const float clipped = norm * clip;
        result->norm = norm;
        result->factor = s->grad_scale * clip;
        result->finite = isfinite(clipped * clipped) != 0;
    }
}

void grad_norm(GradNorm *result, const float *grad, size_t n, const StepScalars *s, Device *dev) {
    const size_t chunks = ceil_div(n, (size_t)NORM_CHUNK);
    const bool run = device_launch(dev, "grad_norm", grad_norm_cost(n));
    double *partial = (double *)device_workspace(dev, chunks * sizeof(double));
    if (!run) { return; }
    launch<squares_of_chunk>(dev, (unsigned)chunks, THREADS, 0, partial, grad, n);
    launch<finish_norm>(dev, 1, FOLD_THREADS, 0, result, partial, (int)chunks, s);
}

// Settings that are constant during a run.
struct AdamSettings {
    float beta1, beta2, eps, weight_decay;
};

// Values of one step, read from device memory once per block.
struct AdamStep {
    float factor, lr, over_bias1, over_root_bias2;
    bool finite;
};

__device__ static AdamStep adam_step(const GradNorm *result, const StepScalars *s) {
    return {result->factor, s->lr, 1 / s->bias1, 1 / sqrtf(s->bias2), result->finite != 0};
}

__device__ static void adam_moments(float &m, float &v, float grad, AdamSettings k, AdamStep now) {
    const float g = now.factor * grad;
    m = k.beta1 * m + (1.0f - k.beta1) * g;
    v = k.beta2 * v + (1.0f - k.beta2) * g * g;
}

__device__ static float adam_parameter(float p, float m, float v, AdamSettings k, AdamStep now) {
    const float step = m * now.over_bias1 / (sqrtf(v) * now.over_root_bias2 + k.eps);
    return p - now.lr * (step + k.weight_decay * p);
}

static __global__ void __launch_bounds__(THREADS)
    adam(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result, AdamSettings k,
         size_t n, const StepScalars *s) {
    __shared__ AdamStep now;
    const size_t span = first_of_span();
    const bool whole = span_exists(span, n);
    float p[VEC], g[VEC], mean[VEC], square[VEC];
    if (whole) { // start these loads before one thread reads the step
        load_quads(g, grad + span);
        load_quads(mean, m + span);
        load_quads(square, v + span);
        load_quads(p, master + span);
    }
    if (threadIdx.x == 0) { now = adam_step(result, s); }
    __syncthreads();
    if (!now.finite) { return; }
    if (whole) {
#pragma unroll
        for (int j = 0; j < VEC; j++) { adam_moments(mean[j], square[j], g[j], k, now); }
        store_quads(m + span, mean);
        store_quads(v + span, square);
#pragma unroll // separately: in one loop with the moments, CUDA 12.4's compiler would spill registers
        for (int j = 0; j < VEC; j++) { p[j] = adam_parameter(p[j], mean[j], square[j], k, now); }
        store_quads(master + span, p);
        if (sizeof(floatX) != sizeof(float)) { store_quads(param + span, p); }
    } else {
        for (size_t i = span + lane_of(); i < n; i += 32) {
            adam_moments(m[i], v[i], grad[i], k, now);
            master[i] = adam_parameter(master[i], m[i], v[i], k, now);
            if (sizeof(floatX) != sizeof(float)) { param[i] = to_floatX(master[i]); }
        }
    }
}

void adam_update(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                 float beta1, float beta2, float eps, float weight_decay, size_t n, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "adam_update", adam_update_cost(n)) || n == 0) { return; }
    assert(sizeof(floatX) != sizeof(float) || (void *)param == (void *)master);
    launch<adam>(dev, blocks_for(n, VEC), THREADS, 0, master, param, m, v, grad, result,
                 AdamSettings{beta1, beta2, eps, weight_decay}, n, s);
}

enum { AVERAGE_V = 8 };

static __global__ void __launch_bounds__(THREADS)
    average(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s) {
    __shared__ float decay;
    __shared__ bool finite;
    const size_t span = first_of_span<AVERAGE_V>();
    const bool whole = span_exists<AVERAGE_V>(span, n);
    float e[AVERAGE_V], p[AVERAGE_V];
    if (whole) {
        load_quads(e, ema + span);
        load_quads(p, master + span);
    }
    if (threadIdx.x == 0) {
        decay = s->ema_decay;
        finite = result->finite != 0;
    }
    __syncthreads();
    if (!finite) { return; }
    if (whole) {
#pragma unroll
        for (int j = 0; j < AVERAGE_V; j++) { e[j] = decay * e[j] + (1.0f - decay) * p[j]; }
        store_quads(ema + span, e);
    } else {
        for (size_t i = span + lane_of(); i < n; i += 32) { ema[i] = decay * ema[i] + (1.0f - decay) * master[i]; }
    }
}

void ema_update(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "ema_update", ema_update_cost(n)) || n == 0) { return; }
    launch<average>(dev, blocks_for(n, AVERAGE_V), THREADS, 0, ema, master, result, n, s);
}
