// Random numbers of the forward diffusion, adding noise, and sampling (DDIM). All random numbers are functions of
// (seed, stream, step, global sample, element), computed by util/philox.h. Unlike the plain loops (reference.c), a
// block of random words gives its four numbers at once, 32 blocks are computed side by side in vectors, and a coarse
// level of multi-resolution noise is kept while it is enlarged.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include "kernels/formulas.h"
#include <math.h>
#include <string.h>

// Standard normal numbers from..to-1 of one sequence; block e / 4 gives the elements e .. e + 3 (two Box-Muller pairs).
// first_block offsets the sequence. `from` is a multiple of 4.
static void fill_normal(float *out, size_t from, size_t to, uint64_t seed, uint32_t stream, uint32_t step,
                        uint64_t sample, uint32_t first_block) {
    enum { LANES = 32 };
    float normal[LANES][4];
    for (size_t e = from; e < to; e += 4 * LANES) {
        uint32_t block = first_block + (uint32_t)(e / 4);
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            Philox4 r = philox(seed, stream, step, sample, block + (uint32_t)lane);
            normal_pair(&normal[lane][0], &normal[lane][1], r.x[0], r.x[1]);
            normal_pair(&normal[lane][2], &normal[lane][3], r.x[2], r.x[3]);
        }
        memcpy(out + e, normal, min_size(to - e, 4 * LANES) * sizeof(float));
    }
}

void normal_noise(float *out, int B, int n, uint32_t stream, const StepScalars *s, Device *dev) {
    enum { CHUNK = 4096 };
    if (!device_launch(dev, "normal_noise", normal_noise_cost(B, n))) { return; }
    size_t chunks = count_chunks(n, CHUNK);
#pragma omp parallel for schedule(static) if ((double)B * n >= PARALLEL_MIN)
    for (size_t i = 0; i < B * chunks; i++) {
        size_t b = i / chunks, from = i % chunks * CHUNK;
        fill_normal(out + b * n, from, min_size(n, from + CHUNK), s->seed, stream, s->step, s->first_sample + b, 0);
    }
}

// out (H, W, C) += factor * bilinear_up(coarse (h, w, C))
static void add_upsampled(float *out, const float *coarse, float factor, int H, int W, int C, int h, int w) {
    for (int y = 0; y < H; y++) {
        Tap ty = tap_at(y, h, H);
        const float *top = coarse + (size_t)ty.low * w * C, *bottom = coarse + (size_t)ty.high * w * C;
        for (int x = 0; x < W; x++) {
            Tap tx = tap_at(x, w, W);
            float *o = out + ((size_t)y * W + x) * C;
            for (int c = 0; c < C; c++) {
                float t0 = top[tx.low * C + c], t1 = top[tx.high * C + c];
                float b0 = bottom[tx.low * C + c], b1 = bottom[tx.high * C + c];
                float t = t0 + tx.weight * (t1 - t0), b = b0 + tx.weight * (b1 - b0);
                o[c] += factor * (t + ty.weight * (b - t));
            }
        }
    }
}

static void divide_by_deviation(float *x, size_t n) {
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) { sum += x[i]; }
    for (size_t i = 0; i < n; i++) { square += (x[i] - sum / n) * (x[i] - sum / n); }
    if (n < 2 || square == 0) { return; }
    float factor = (float)(1 / sqrt(square / (n - 1)));
    for (size_t i = 0; i < n; i++) { x[i] *= factor; }
}

// One sample. coarse: scratch for the largest level. Level i = 1..9 is the sequence that begins at block i << 24 of the
// stream PHILOX_MULTIRES; its r_i comes from word 0 of block i.
static void multires_sample(float *out, float *coarse, float strength, uint64_t sample, int H, int W, int C,
                            const StepScalars *s) {
    size_t n = (size_t)H * W * C;
    for (size_t i = 0; i < n; i++) { out[i] *= 1.41421356f; }
    float factor = 1;
    for (int level = 1, h = H, w = W; level < 10 && h > 1 && w > 1; level++) {
        float power = level_power(level, sample, s);
        h = level_side(h, power);
        w = level_side(w, power);
        factor *= strength;
        fill_normal(coarse, 0, (size_t)h * w * C, s->seed, PHILOX_MULTIRES, s->step, sample, (uint32_t)level << 24);
        add_upsampled(out, coarse, factor, H, W, C, h, w);
    }
    divide_by_deviation(out, n);
}

void multires_noise(float *out, const float *timesteps, float strength, bool annealed, int T, int B, int H, int W,
                    int C, const StepScalars *s, Device *dev) {
    size_t n = (size_t)H * W * C, coarse_size = (size_t)(H / 2 + 1) * (W / 2 + 1) * C; // r_1 >= 2
    bool run = device_launch(dev, "multires_noise", multires_noise_cost(B, H, W, C));
    float *coarse = device_workspace(dev, B * coarse_size * sizeof(float));
    if (!run) { return; }
#pragma omp parallel for schedule(static) if (B * n >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        float part = annealed ? timesteps[b] / (float)T : 1.0f;
        multires_sample(out + b * n, coarse + b * coarse_size, strength * part, s->first_sample + b, H, W, C, s);
    }
}

void sample_timesteps(float *timesteps, int B, int T, float t_max_prob, const StepScalars *s, Device *dev) {
    if (!device_launch(dev, "sample_timesteps", sample_timesteps_cost(B))) { return; }
    for (int b = 0; b < B; b++) {
        Random r = random_begin(s->seed, PHILOX_TIMESTEP, s->step, s->first_sample + b);
        bool last = random_uniform(&r) < t_max_prob;
        uint32_t t = random_below(&r, (uint32_t)T);
        timesteps[b] = last ? (float)(T - 1) : (float)t;
    }
}

void add_noise_forward(floatX *noisy, float *target, const float *x0, const float *noise, const float *timesteps,
                       const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev) {
    double count = (double)B * n;
    if (!device_launch(dev, "add_noise_forward", add_noise_forward_cost(target, B, n))) { return; }
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        NoiseLevel k = noise_level(alphas_cumprod[(int)timesteps[b]]);
        const float *x = x0 + (size_t)b * n, *e = noise + (size_t)b * n;
        floatX *out = noisy + (size_t)b * n;
#pragma omp simd
        for (int i = 0; i < n; i++) { out[i] = k.alpha * x[i] + k.sigma * e[i]; }
        if (!target) { continue; }
        float *t = target + (size_t)b * n;
        float of_noise, of_x0;
        target_factors(&of_noise, &of_x0, prediction, k);
#pragma omp simd
        for (int i = 0; i < n; i++) { t[i] = of_noise * e[i] + of_x0 * x[i]; }
    }
}

void predict_x0(float *x0, const floatX *model_out, const float *noisy, const float *timesteps,
                const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev) {
    double count = (double)B * n;
    if (!device_launch(dev, "predict_x0", predict_x0_cost(B, n))) { return; }
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        float of_x, of_out;
        x0_factors(&of_x, &of_out, prediction, noise_level(alphas_cumprod[(int)timesteps[b]]));
#pragma omp simd
        for (size_t i = (size_t)b * n; i < (size_t)(b + 1) * n; i++) {
            x0[i] = of_x * noisy[i] + of_out * model_out[i];
        }
    }
}

void predict_x0_backward(floatX *dmodel_out, const floatX *dx0, const float *timesteps, const float *alphas_cumprod,
                         Prediction prediction, float scale, int B, int n, Device *dev) {
    double count = (double)B * n;
    if (!device_launch(dev, "predict_x0_backward", predict_x0_backward_cost(B, n))) { return; }
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
    for (int b = 0; b < B; b++) {
        float of_x, of_out;
        x0_factors(&of_x, &of_out, prediction, noise_level(alphas_cumprod[(int)timesteps[b]]));
        of_out *= scale;
#pragma omp simd
        for (size_t i = (size_t)b * n; i < (size_t)(b + 1) * n; i++) { dmodel_out[i] += of_out * dx0[i]; }
    }
}

void ddim_step(float *x, const floatX *model_out, float alpha_cumprod_t, float alpha_cumprod_prev,
               Prediction prediction, int B, int n, Device *dev) {
    size_t count = (size_t)B * n;
    if (!device_launch(dev, "ddim_step", ddim_step_cost(B, n))) { return; }
    DdimFactors k = ddim_factors(prediction, noise_level(alpha_cumprod_t), noise_level(alpha_cumprod_prev));
#pragma omp parallel for simd schedule(static) if (count >= PARALLEL_MIN)
    for (size_t i = 0; i < count; i++) { x[i] = ddim_element(x[i], model_out[i], k); }
}
