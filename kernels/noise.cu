// Random numbers of the forward diffusion, adding noise, and sampling (DDIM). All random numbers are functions of
// (seed, stream, step, global sample, element), computed by util/philox.h and the same polynomials as on the CPU
// (kernels/vecmath.h).
#include "kernels/elementwise.cuh"
#include "kernels/formulas.h"

// Four standard normal numbers: two Box-Muller pairs.
__device__ static void normal4(float (&out)[4], Philox4 r) {
    normal_pair(&out[0], &out[1], r.x[0], r.x[1]);
    normal_pair(&out[2], &out[3], r.x[2], r.x[3]);
}

// Stores up to 4 elements, of which `left` exist in the row; aligned: rows are aligned to 16 bytes.
__device__ static void store_normals(float *to, const float (&x)[4], size_t left, bool aligned) {
    if (aligned) {
        store_global(to, x);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if ((size_t)j < left) { to[j] = x[j]; }
        }
    }
}

// Blocks (chunk, sample).
static __global__ void __launch_bounds__(FEW_THREADS)
    normals(float *out, int n, uint32_t stream, const StepScalars *s) {
    const size_t e = first_element(4), b = blockIdx.y;
    if (e >= (size_t)n) { return; }
    float x[4];
    normal4(x, philox(s->seed, stream, s->step, s->first_sample + b, (uint32_t)(e / 4)));
    store_normals(out + b * n + e, x, n - e, n % 4 == 0);
}

void normal_noise(float *out, int B, int n, uint32_t stream, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "normal_noise", normal_noise_cost(B, n))) { return; }
    launch<normals>(dev, dim3(blocks_for(n, 4, FEW_THREADS), B), FEW_THREADS, 0, out, n, stream, s);
}

// ---- Multi-resolution noise ----------------------------------------------------------------------------------------

enum { MAX_LEVELS = 9 };

// The sizes of a sample's coarse levels, in shared memory; every block draws them itself.
struct Levels {
    int count;
    int h[MAX_LEVELS + 1], w[MAX_LEVELS + 1], first[MAX_LEVELS + 2]; // level i >= 1 has elements first[i]..first[i+1]-1
    float power[MAX_LEVELS + 1];                                     // r_i^i
};

// Must be called by all threads of the block; ends with a barrier.
__device__ static void draw_levels(Levels *k, uint64_t sample, int H, int W, int C, const StepScalars *s) {
    const int thread = threadIdx.x;
    if (thread >= 1 && thread <= MAX_LEVELS) { k->power[thread] = level_power(thread, sample, s); }
    __syncthreads();
    if (thread == 0) {
        int level = 1, h = H, w = W;
        k->first[1] = 0;
        for (; level <= MAX_LEVELS && h > 1 && w > 1; level++) {
            h = level_side(h, k->power[level]);
            w = level_side(w, k->power[level]);
            k->h[level] = h;
            k->w[level] = w;
            k->first[level + 1] = k->first[level] + (h * w * C + 3) / 4 * 4; // levels are aligned to 16 bytes
        }
        k->count = level - 1;
    }
    __syncthreads();
}

// Elements of a sample's levels, at most: their sides are at most 1/2, 1/8, 1/64 ... of the map's.
static size_t coarse_room(int H, int W, int C) {
    size_t room = 0;
    for (int level = 1, h = H, w = W; level <= MAX_LEVELS && h > 1 && w > 1; level++) {
        h = h >> level > 1 ? h >> level : 1;
        w = w >> level > 1 ? w >> level : 1;
        room += ((size_t)h * w * C + 3) / 4 * 4;
    }
    return room;
}

// coarse (B, room): the normal numbers of all levels of each sample. Blocks (chunk, sample).
static __global__ void __launch_bounds__(THREADS)
    coarse_normals(float *coarse, int room, int H, int W, int C, const StepScalars *s) {
    __shared__ Levels k;
    const uint64_t sample = s->first_sample + blockIdx.y;
    draw_levels(&k, sample, H, W, C, s);
    const int e = (int)first_element(4);
    int level = 1;
    while (level <= k.count && e >= k.first[level + 1]) { level++; }
    if (level > k.count) { return; }
    const uint32_t block = ((uint32_t)level << 24) + (uint32_t)(e - k.first[level]) / 4;
    float x[4];
    normal4(x, philox(s->seed, PHILOX_MULTIRES, s->step, sample, block));
    store_global(coarse + (size_t)blockIdx.y * room + e, x);
}

// sum += factor * bilinear_up(coarse (h, w, C)) at (y, x), channels c .. c + V - 1.
template <int V>
__device__ static void add_upsampled(float (&sum)[V], const float *coarse, float factor, int y, int x, int c, int H,
                                     int W, int C, int h, int w) {
    const Tap ty = tap_at(y, h, H), tx = tap_at(x, w, W);
    float t0[V], t1[V], b0[V], b1[V];
    load_words(t0, coarse + (ty.low * w + tx.low) * C + c);
    load_words(t1, coarse + (ty.low * w + tx.high) * C + c);
    load_words(b0, coarse + (ty.high * w + tx.low) * C + c);
    load_words(b1, coarse + (ty.high * w + tx.high) * C + c);
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float t = t0[j] + tx.weight * (t1[j] - t0[j]), b = b0[j] + tx.weight * (b1[j] - b0[j]);
        sum[j] += factor * (t + ty.weight * (b - t));
    }
}

// out = sqrt(2) out + its levels; partial (B, chunks, 2) = sums of the result and of its squares. Blocks (chunk,
// sample).
template <int V>
static __global__ void __launch_bounds__(THREADS)
    add_levels(float *out, double *partial, const float *coarse, int room, const float *timesteps, float strength,
               bool annealed, int T, int H, int W, int C, const StepScalars *s) {
    __shared__ Levels k;
    const size_t b = blockIdx.y, n = (size_t)H * W * C;
    draw_levels(&k, s->first_sample + b, H, W, C, s);
    const int e = (int)first_element(V), c = e % C, x = e / C % W, y = e / C / W;
    const float of_level = strength * (annealed ? timesteps[b] / (float)T : 1.0f);
    double sum = 0, square = 0;
    if ((size_t)e < n) {
        float v[V], factor = 1;
        load_words(v, out + b * n + e);
#pragma unroll
        for (int j = 0; j < V; j++) { v[j] *= 1.41421356f; }
        for (int level = 1; level <= k.count; level++) {
            factor *= of_level;
            add_upsampled(v, coarse + b * room + k.first[level], factor, y, x, c, H, W, C, k.h[level], k.w[level]);
        }
        store_global(out + b * n + e, v);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum += v[j];
            square += (double)v[j] * v[j];
        }
    }
    store_block_sums(partial, sum, square);
}

// out / its standard deviation over the sample (n - 1). Every block adds up its sample's sums.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    divide_by_deviation(float *out, const double *partial, int chunks, size_t n) {
    const size_t b = blockIdx.y, e = first_element(V);
    const TwoSums sums = sample_sums(partial, b, chunks); // of the result and of its squares
    const double about_mean = sums.second - sums.first * sums.first / n;
    if (n < 2 || about_mean <= 0 || e >= n) { return; } // NaN continues
    const float factor = (float)(1 / sqrt(about_mean / (n - 1)));
    float v[V];
    load_words(v, out + b * n + e);
#pragma unroll
    for (int j = 0; j < V; j++) { v[j] *= factor; }
    store_global(out + b * n + e, v);
}

template <int V>
static void mix_levels(float *out, double *partial, const float *coarse, int room, const float *timesteps,
                       float strength, bool annealed, int T, int B, int H, int W, int C, const StepScalars *s,
                       Device *dev) {
    const size_t n = (size_t)H * W * C;
    const int chunks = blocks_for(n, V);
    launch<add_levels<V>>(dev, dim3(chunks, B), THREADS, 0, out, partial, coarse, room, timesteps, strength, annealed,
                          T, H, W, C, s);
    launch<divide_by_deviation<V>>(dev, dim3(chunks, B), THREADS, 0, out, (const double *)partial, chunks, n);
}

void multires_noise(float *out, const float *timesteps, float strength, bool annealed, int T, int B, int H, int W,
                    int C, const StepScalars *s, Device *dev) {
    const size_t n = (size_t)H * W * C, room = coarse_room(H, W, C);
    const size_t sums = 2 * (size_t)B * blocks_for(n, C % 4 ? 1 : 4) * sizeof(double);
    const bool run = device_launch(dev, "multires_noise", multires_noise_cost(B, H, W, C));
    char *scratch = (char *)device_workspace(dev, sums + B * room * sizeof(float));
    if (!run) { return; }
    float *coarse = (float *)(scratch + sums);
    if (room > 0) {
        launch<coarse_normals>(dev, dim3(blocks_for(room, 4), B), THREADS, 0, coarse, (int)room, H, W, C, s);
    }
    auto *variant = C % 4 ? mix_levels<1> : mix_levels<4>;
    variant(out, (double *)scratch, coarse, (int)room, timesteps, strength, annealed, T, B, H, W, C, s, dev);
}

static __global__ void __launch_bounds__(THREADS)
    draw_timesteps(float *timesteps, int B, int T, float t_max_prob, const StepScalars *s) {
    const int b = blockIdx.x * THREADS + threadIdx.x;
    if (b >= B) { return; }
    const Philox4 r = philox(s->seed, PHILOX_TIMESTEP, s->step, s->first_sample + b, 0);
    const bool last = philox_uniform(r.x[0]) < t_max_prob;
    timesteps[b] = last ? (float)(T - 1) : (float)__umulhi(r.x[1], (uint32_t)T); // random_below
}

void sample_timesteps(float *timesteps, int B, int T, float t_max_prob, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "sample_timesteps", sample_timesteps_cost(B))) { return; }
    launch<draw_timesteps>(dev, blocks_for(B, 1), THREADS, 0, timesteps, B, T, t_max_prob, s);
}

// ---- Adding noise and sampling -------------------------------------------------------------------------------------

// The schedule of sample blockIdx.y, read once per block. Must be called by all threads.
__device__ static NoiseLevel noise_level_of_block(const float *timesteps, const float *alphas_cumprod) {
    __shared__ float alpha_cumprod;
    if (threadIdx.x == 0) { alpha_cumprod = alphas_cumprod[(int)timesteps[blockIdx.y]]; }
    __syncthreads();
    return noise_level(alpha_cumprod);
}

// Blocks (chunk, sample).
static __global__ void __launch_bounds__(FEW_THREADS)
    add_noise(floatX *noisy, float *target, const float *x0, const float *noise, const float *timesteps,
              const float *alphas_cumprod, Prediction prediction, int n) {
    const size_t span = first_of_span(), row = (size_t)blockIdx.y * n;
    const NoiseLevel k = noise_level_of_block(timesteps, alphas_cumprod);
    float of_noise, of_x0;
    target_factors(&of_noise, &of_x0, prediction, k);
    if (whole_span(span, n)) {
        float x[VEC], z[VEC], mixed[VEC];
        load_quads(x, x0 + row + span);
        load_quads(z, noise + row + span);
        if (target) {
#pragma unroll
            for (int j = 0; j < VEC; j++) { mixed[j] = of_noise * z[j] + of_x0 * x[j]; }
            store_quads(target + row + span, mixed);
        }
#pragma unroll
        for (int j = 0; j < VEC; j++) { mixed[j] = k.alpha * x[j] + k.sigma * z[j]; }
        store_quads(noisy + row + span, mixed);
    } else {
        for (size_t i = row + span + lane_of(); i < row + end_of_span(span, n); i += 32) {
            noisy[i] = to_floatX(k.alpha * x0[i] + k.sigma * noise[i]);
            if (target) { target[i] = of_noise * noise[i] + of_x0 * x0[i]; }
        }
    }
}

void add_noise_forward(floatX *noisy, float *target, const float *x0, const float *noise, const float *timesteps,
                       const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev) {
    if (!device_launch(dev, "add_noise_forward", add_noise_forward_cost(target, B, n))) { return; }
    launch<add_noise>(dev, dim3(blocks_for(n, VEC, FEW_THREADS), B), FEW_THREADS, 0, noisy, target, x0, noise,
                      timesteps, alphas_cumprod, prediction, n);
}

static __global__ void __launch_bounds__(FEW_THREADS)
    back_to_x0(float *x0, const floatX *model_out, const float *noisy, const float *timesteps,
               const float *alphas_cumprod, Prediction prediction, int n) {
    const size_t span = first_of_span(), row = (size_t)blockIdx.y * n;
    float of_x, of_out;
    x0_factors(&of_x, &of_out, prediction, noise_level_of_block(timesteps, alphas_cumprod));
    if (whole_span(span, n)) {
        float x[VEC], out[VEC];
        load_quads(x, noisy + row + span);
        load_quads(out, model_out + row + span);
#pragma unroll
        for (int j = 0; j < VEC; j++) { x[j] = of_x * x[j] + of_out * out[j]; }
        store_quads(x0 + row + span, x);
    } else {
        for (size_t i = row + span + lane_of(); i < row + end_of_span(span, n); i += 32) {
            x0[i] = of_x * noisy[i] + of_out * to_float(model_out[i]);
        }
    }
}

void predict_x0(float *x0, const floatX *model_out, const float *noisy, const float *timesteps,
                const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev) {
    if (!device_launch(dev, "predict_x0", predict_x0_cost(B, n))) { return; }
    launch<back_to_x0>(dev, dim3(blocks_for(n, VEC, FEW_THREADS), B), FEW_THREADS, 0, x0, model_out, noisy, timesteps,
                       alphas_cumprod, prediction, n);
}

static __global__ void __launch_bounds__(FEW_THREADS)
    x0_gradient(floatX *dmodel_out, const floatX *dx0, const float *timesteps, const float *alphas_cumprod,
                Prediction prediction, float scale, int n) {
    const size_t span = first_of_span(), row = (size_t)blockIdx.y * n;
    float of_x, of_out;
    x0_factors(&of_x, &of_out, prediction, noise_level_of_block(timesteps, alphas_cumprod));
    of_out *= scale;
    if (whole_span(span, n)) {
        const size_t i = row + span + lane_of() * VEC;
        float sum[VEC], d[VEC];
        load_part(sum, dmodel_out + i, VEC);
        load_part(d, dx0 + i, VEC);
#pragma unroll
        for (int j = 0; j < VEC; j++) { sum[j] += of_out * d[j]; }
        store_part(dmodel_out + i, sum, VEC);
    } else {
        for (size_t i = row + span + lane_of(); i < row + end_of_span(span, n); i += 32) {
            dmodel_out[i] = to_floatX(to_float(dmodel_out[i]) + of_out * to_float(dx0[i]));
        }
    }
}

void predict_x0_backward(floatX *dmodel_out, const floatX *dx0, const float *timesteps, const float *alphas_cumprod,
                         Prediction prediction, float scale, int B, int n, Device *dev) {
    if (!device_launch(dev, "predict_x0_backward", predict_x0_backward_cost(B, n))) { return; }
    launch<x0_gradient>(dev, dim3(blocks_for(n, VEC, FEW_THREADS), B), FEW_THREADS, 0, dmodel_out, dx0, timesteps,
                        alphas_cumprod, prediction, scale, n);
}

static __global__ void __launch_bounds__(FEW_THREADS) ddim(float *x, const floatX *model_out, DdimFactors k, size_t n) {
    const size_t span = first_of_span();
    if (span_exists(span, n)) {
        float v[VEC], out[VEC];
        load_quads(v, x + span);
        load_quads(out, model_out + span);
#pragma unroll
        for (int j = 0; j < VEC; j++) { v[j] = ddim_element(v[j], out[j], k); }
        store_quads(x + span, v);
    } else {
        for (size_t i = span + lane_of(); i < n; i += 32) { x[i] = ddim_element(x[i], to_float(model_out[i]), k); }
    }
}

void ddim_step(float *x, const floatX *model_out, float alpha_cumprod_t, float alpha_cumprod_prev,
               Prediction prediction, int B, int n, Device *dev) {
    const size_t count = (size_t)B * n;
    if (!device_launch(dev, "ddim_step", ddim_step_cost(B, n))) { return; }
    const DdimFactors k = ddim_factors(prediction, noise_level(alpha_cumprod_t), noise_level(alpha_cumprod_prev));
    launch<ddim>(dev, blocks_for(count, VEC, FEW_THREADS), FEW_THREADS, 0, x, model_out, k, count);
}
