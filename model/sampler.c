#include "model/sampler.h"
#include "kernels/kernels.h"
#include "model/mapped.h"
#include "util/error.h"
#include "util/finite.h"
#include "util/philox.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t latent_count(const Sampler *s) { return (size_t)s->h * s->w * s->L; }
static size_t picture_count(const Sampler *s) { return (size_t)s->h * s->f * s->w * s->f * 3; }
static size_t sample_count(const Sampler *s) { return latent_count(s) * (s->conditioned ? 2 : 1); }
static size_t context_count(const Pipeline *p) {
    return (size_t)tokenizer_length(p->tokenizer) * p->clip.config.hidden_size;
}
static bool guided(const Sampler *s) { return s->guidance > 1; }
static int rows_of(const Sampler *s, int n) { return guided(s) ? 2 * n : n; }

// output (n, h, w, L) = negative + guidance (output - negative), in place: the first n rows are the negative text's.
// The text's rows need not begin at 16 bytes: they are copied to where the UNet's input was.
static void guide(Sampler *s, int n, Device *dev) {
    size_t count = (size_t)n * latent_count(s);
    floatX *negative = s->output, *difference = s->noisy_part, *scratch = s->sample;
    device_copy(dev, difference, s->output + count, count * sizeof(floatX), false);
    scale_shift_forward(scratch, negative, -1, 0, count, dev);
    add_forward(difference, difference, scratch, count, dev);
    scale_shift_forward(difference, difference, s->guidance, 0, count, dev);
    add_forward(negative, negative, difference, count, dev);
}

// One forward of the UNet on [image latent | noisy latent] or the noisy latent; output (n, h, w, L).
static void predict(Sampler *s, const floatX *context, int n, Device *dev) {
    size_t rows = (size_t)n * s->h * s->w, count = (size_t)n * sample_count(s);
    cast_to_floatX(s->conditioned ? s->noisy_part : s->sample, s->latent, rows * s->L, dev);
    if (s->conditioned) { concat_forward(s->sample, s->image_part, s->noisy_part, (int)rows, s->L, s->L, dev); }
    if (guided(s)) { device_copy(dev, s->sample + count, s->sample, count * sizeof(floatX), false); }
    unet_forward(&s->pipeline->unet, &s->arena, s->output, s->sample, s->timesteps, context, rows_of(s, n), s->h, s->w,
                 s->T, false, dev);
    if (guided(s)) { guide(s, n, dev); }
}

SamplerWork sampler_work(const Sampler *sampler) {
    Progress encode = {.printed = NAN}, step = encode, decode = encode;
    Device plan = {.plan_only = true, .progress = &step};
    Sampler s = *sampler;
    s.arena = arena_measure(&plan);
    s.sample = s.output = PLAN_POINTER;
    predict(&s, NULL, 1, &plan);
    plan.progress = &decode;
    pipeline_decode_bytes(s.pipeline, 1, s.h, s.w, &plan);
    plan.progress = &encode;
    if (s.pipeline->parts & PART_VAE_ENCODER) { pipeline_encode_bytes(s.pipeline, 1, s.h * s.f, s.w * s.f, &plan); }
    return (SamplerWork){encode.done, step.done, decode.done};
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

// The arena's size: the largest need of the three models, measured without running them. Notes the workspace's.
static size_t arena_bytes(Sampler s, Device *dev) {
    Device plan = *dev;
    plan.plan_only = true;
    plan.trace = NULL;
    plan.progress = NULL;
    plan.workspace_needed = 0;
    s.arena = arena_measure(&plan);
    s.sample = s.output = PLAN_POINTER;
    predict(&s, NULL, s.B, &plan);
    size_t bytes = larger(s.arena.peak, pipeline_decode_bytes(s.pipeline, s.B, s.h, s.w, &plan));
    if (s.pipeline->parts & PART_VAE_ENCODER) {
        bytes = larger(bytes, pipeline_encode_bytes(s.pipeline, s.B, s.h * s.f, s.w * s.f, &plan));
    }
    dev->workspace_needed = larger(dev->workspace_needed, plan.workspace_needed);
    return bytes;
}

static Sampler sampler_shape(Pipeline *p, int B, int h, int w, bool conditioned, double guidance) {
    Sampler s = {.pipeline = p, .B = B, .h = h, .w = w, .L = p->vae_decoder.config.latent_channels};
    s.T = tokenizer_length(p->tokenizer);
    s.f = vae_factor(&p->vae_decoder.config);
    s.conditioned = conditioned;
    s.guidance = (float)guidance;
    if (conditioned && p->unet.config.in_channels != 2 * s.L) {
        die("%s/unet/config.json: field \"in_channels\" is %d, expected %d, twice the latent's channels (see `cocogold "
            "init --from`)",
            p->folder, p->unet.config.in_channels, 2 * s.L);
    }
    if (!conditioned && p->unet.config.in_channels != s.L) {
        die("%s/unet/config.json: field \"in_channels\" is %d, expected the latent's %d, as a text-to-image model has",
            p->folder, p->unet.config.in_channels, s.L);
    }
    return s;
}

static size_t pending_bytes(const Pipeline *p) {
    return mapped_pending_bytes(&p->unet.params) + mapped_pending_bytes(&p->vae_encoder.params) +
           mapped_pending_bytes(&p->vae_decoder.params);
}

// Without weights.
static size_t shape_bytes(Sampler s, Device *dev) {
    size_t latent = latent_count(&s), rows = (size_t)rows_of(&s, s.B), B = (size_t)s.B;
    size_t floats = B * (2 * latent + picture_count(&s)) + rows;
    size_t activations = 2 * B * latent + rows * (sample_count(&s) + latent);
    if (guided(&s)) { activations += rows * context_count(s.pipeline); }
    size_t buffers = floats * sizeof(float) + activations * sizeof(floatX) + B * sizeof(StepScalars);
    return arena_bytes(s, dev) + buffers;
}

size_t sampler_bytes(Pipeline *pipeline, int B, int h, int w, Device *dev) {
    return shape_bytes(sampler_shape(pipeline, B, h, w, true, 0), dev) + pending_bytes(pipeline);
}

size_t sampler_text_bytes(Pipeline *pipeline, int B, int h, int w, double guidance, Device *dev) {
    return shape_bytes(sampler_shape(pipeline, B, h, w, false, guidance), dev) + pending_bytes(pipeline);
}

size_t sampler_own_bytes(Pipeline *pipeline, int B, int h, int w, bool conditioned, double guidance, Device *dev) {
    return shape_bytes(sampler_shape(pipeline, B, h, w, conditioned, guidance), dev);
}

// *needed also gets what the workspace has to grow by.
static bool fits(size_t *needed, size_t *free_bytes, Device *dev) {
    size_t total;
    device_memory(dev, free_bytes, &total);
    *needed += larger(dev->workspace_needed, dev->workspace_size) - dev->workspace_size;
    return *needed <= *free_bytes;
}

void sampler_want_memory(size_t needed, int batch, int side, Device *dev) {
    size_t free_bytes;
    char a[24], b[24];
    if (!fits(&needed, &free_bytes, dev)) {
        Path samples = batch > 1 ? path_of("--batch %d", batch) : path_of("a picture");
        die("%s at %d pixels needs %s, but %s has %s free: expected a smaller %s--resolution", samples.text, side,
            format_bytes((double)needed, a), device_name(dev), format_bytes((double)free_bytes, b),
            batch > 1 ? "--batch or " : "");
    }
}

int sampler_batch(Pipeline *pipeline, int batch, int h, int w, Device *dev) {
    for (; batch > 0; batch /= 2) {
        dev->workspace_needed = 0;
        size_t free_bytes, needed = sampler_bytes(pipeline, batch, h, w, dev);
        if (fits(&needed, &free_bytes, dev)) { break; }
    }
    return batch;
}

static Sampler create(Sampler s, Device *dev) {
    size_t count = (size_t)s.B * latent_count(&s), rows = (size_t)rows_of(&s, s.B);
    size_t bytes = arena_bytes(s, dev);
    device_reserve_workspace(dev, dev->workspace_needed);
    s.arena = arena_create(dev, bytes);
    s.image_latent = device_alloc(dev, count * sizeof(float));
    s.latent = device_alloc(dev, count * sizeof(float));
    s.timesteps = device_alloc(dev, rows * sizeof(float));
    s.images = device_alloc(dev, (size_t)s.B * picture_count(&s) * sizeof(float));
    s.image_part = device_alloc(dev, count * sizeof(floatX));
    s.noisy_part = device_alloc(dev, count * sizeof(floatX));
    s.sample = device_alloc(dev, rows * sample_count(&s) * sizeof(floatX));
    s.output = device_alloc(dev, rows * latent_count(&s) * sizeof(floatX));
    if (guided(&s)) { s.context = device_alloc(dev, rows * context_count(s.pipeline) * sizeof(floatX)); }
    s.scalars = device_alloc(dev, (size_t)s.B * sizeof *s.scalars);
    s.host_timesteps = device_alloc_pinned(dev, rows * sizeof(float));
    s.host_scalars = device_alloc_pinned(dev, (size_t)s.B * sizeof *s.host_scalars);
    return s;
}

Sampler sampler_create(Pipeline *pipeline, int B, int h, int w, Device *dev) {
    return create(sampler_shape(pipeline, B, h, w, true, 0), dev);
}

Sampler sampler_create_text(Pipeline *pipeline, int B, int h, int w, double guidance, Device *dev) {
    return create(sampler_shape(pipeline, B, h, w, false, guidance), dev);
}

void sampler_negative(Sampler *s, const floatX *context, Device *dev) {
    device_copy(dev, s->context, context, context_count(s->pipeline) * sizeof(floatX), false);
}

void sampler_destroy(Sampler *s, Device *dev) {
    arena_destroy(&s->arena);
    void *buffers[] = {s->image_latent, s->latent, s->timesteps, s->images, s->image_part,
                       s->noisy_part,   s->sample, s->output,    s->scalars};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) { device_free(dev, buffers[i]); }
    if (s->context) { device_free(dev, s->context); }
    device_free_pinned(dev, s->host_timesteps);
    device_free_pinned(dev, s->host_scalars);
    memset(s, 0, sizeof *s);
}

static void set_timestep(Sampler *s, int t, int n, Device *dev) {
    device_sync(dev); // until the last copy has read host_timesteps
    int rows = rows_of(s, n);
    for (int i = 0; i < rows; i++) { s->host_timesteps[i] = (float)t; }
    device_copy(dev, s->timesteps, s->host_timesteps, (size_t)rows * sizeof(float), false);
}

// The context of the UNet's rows: with guidance n times the negative text's, which is the first row, then the given n.
static const floatX *rows_context(Sampler *s, const floatX *context, int n, Device *dev) {
    if (!guided(s)) { return context; }
    size_t row = context_count(s->pipeline);
    for (int i = 1; i < n; i++) {
        device_copy(dev, s->context + (size_t)i * row, s->context, row * sizeof(floatX), false);
    }
    device_copy(dev, s->context + (size_t)n * row, context, (size_t)n * row * sizeof(floatX), false);
    return s->context;
}

// DDIM (Song et al. 2020) from the noise in s->latent; eta = 0.
static void denoise(Sampler *s, const float *image_latent, const floatX *context, int n, int steps, Device *dev) {
    const Schedule *schedule = &s->pipeline->schedule;
    size_t count = (size_t)n * latent_count(s);
    if (s->conditioned) {
        device_copy(dev, s->image_latent, image_latent, count * sizeof(float), false);
        cast_to_floatX(s->image_part, s->image_latent, count, dev);
    }
    context = rows_context(s, context, n, dev);
    int *timesteps = xmalloc((size_t)steps * sizeof *timesteps);
    schedule_timesteps(schedule, steps, timesteps);
    for (int i = 0; i < steps; i++) {
        float alpha, alpha_prev;
        schedule_step_alphas(schedule, timesteps[i], steps, &alpha, &alpha_prev);
        progress_phase(dev->progress, "step %d of %d", i + 1, steps);
        set_timestep(s, timesteps[i], n, dev);
        predict(s, context, n, dev);
        ddim_step(s->latent, s->output, alpha, alpha_prev, schedule->config.prediction, n, (int)latent_count(s), dev);
    }
    free(timesteps);
}

// s->latent (n, h, w, L) = noise. A row depends only on (seed, its id, member), not on the batch.
static void fill_noise(Sampler *s, const uint64_t *ids, int n, int member, uint64_t seed, Device *dev) {
    device_sync(dev); // until the last copy has read host_scalars
    for (int i = 0; i < n; i++) {
        s->host_scalars[i] = (StepScalars){.seed = seed, .first_sample = ids[i], .step = (uint32_t)member};
    }
    device_copy(dev, s->scalars, s->host_scalars, (size_t)n * sizeof *s->scalars, false);
    for (int i = 0; i < n; i++) {
        float *row = s->latent + (size_t)i * latent_count(s);
        normal_noise(row, 1, (int)latent_count(s), PHILOX_INFERENCE, s->scalars + i, dev);
    }
}

void sampler_noise(Sampler *s, float *noise, uint64_t sample_id, uint64_t seed, Device *dev) {
    fill_noise(s, &sample_id, 1, 0, seed, dev);
    device_copy(dev, noise, s->latent, latent_count(s) * sizeof(float), false);
    device_sync(dev);
}

// s->latent = a * start + sqrt(1 - a^2) * s->latent
static void mix_start(Sampler *s, int n, int steps, Device *dev) {
    size_t count = (size_t)n * latent_count(s);
    float *latent = xmalloc(count * sizeof *latent);
    float a = schedule_first_signal(&s->pipeline->schedule, steps), b = sqrtf(1 - a * a);
    device_copy(dev, latent, s->latent, count * sizeof *latent, false);
    device_sync(dev);
    for (size_t i = 0; i < count; i++) { latent[i] = a * s->start[i] + b * latent[i]; }
    device_copy(dev, s->latent, latent, count * sizeof *latent, false);
    device_sync(dev);
    free(latent);
}

void sampler_run(Sampler *s, const float *image_latent, const floatX *context, const uint64_t *sample_ids, int n,
                 int steps, int member, uint64_t seed, Device *dev) {
    fill_noise(s, sample_ids, n, member, seed, dev);
    if (s->start) { mix_start(s, n, steps, dev); }
    denoise(s, image_latent, context, n, steps, dev);
}

// Before the values are clipped to [0, 1]: that would make a black pixel of a NaN.
static int find_broken(const Sampler *s, const float *pictures, size_t count) {
    size_t at = first_not_finite(pictures, count);
    return at < count ? (int)(at / picture_count(s)) : -1;
}

void sampler_want_finite(const Sampler *s, const char *format, ...) {
    if (s->broken < 0) { return; }
    va_list arguments;
    char *what = NULL;
    va_start(arguments, format);
    if (vasprintf(&what, format, arguments) < 0) { what = NULL; }
    va_end(arguments);
    die("%s: what the model draws for %s is NaN or infinite: expected finite pixels (is the model damaged, or was its "
        "training unstable?)",
        s->pipeline->folder, what ? what : format);
}

void sampler_decode(Sampler *s, float *pictures, int n, Device *dev) {
    size_t count = (size_t)n * picture_count(s);
    progress_phase(dev->progress, "decode");
    pipeline_decode(s->pipeline, &s->arena, s->images, s->latent, n, s->h, s->w, dev);
    device_copy(dev, pictures, s->images, count * sizeof(float), false);
    device_sync(dev);
    s->broken = find_broken(s, pictures, count);
    for (size_t i = 0; i < count; i++) { pictures[i] = fminf(1, fmaxf(0, pictures[i] / 2 + 0.5f)); }
}

void sampler_ensemble(Sampler *s, float *predictions, const float *image_latent, const floatX *context,
                      const uint64_t *sample_ids, int n, int steps, int members, uint64_t seed, Device *dev) {
    size_t count = (size_t)n * picture_count(s);
    float *one = members > 1 ? xmalloc(count * sizeof *one) : NULL;
    int broken = -1;
    for (int m = 0; m < members; m++) {
        sampler_run(s, image_latent, context, sample_ids, n, steps, m, seed, dev);
        sampler_decode(s, m == 0 ? predictions : one, n, dev);
        if (broken < 0) { broken = s->broken; }
        if (m == 0) { continue; }
        float share = 1.0f / (float)(m + 1); // running mean
        for (size_t i = 0; i < count; i++) { predictions[i] += (one[i] - predictions[i]) * share; }
    }
    s->broken = broken;
    free(one);
}

void sampler_decode_latents(Sampler *s, float *pictures, const float *latents, int n, Device *dev) {
    device_copy(dev, s->latent, latents, (size_t)n * latent_count(s) * sizeof(float), false);
    sampler_decode(s, pictures, n, dev);
}

void sampler_encode(Sampler *s, float *latents, const float *pictures, int n, Device *dev) {
    progress_phase(dev->progress, "encode");
    device_copy(dev, s->images, pictures, (size_t)n * picture_count(s) * sizeof(float), false);
    pipeline_encode(s->pipeline, &s->arena, s->latent, s->images, n, s->h * s->f, s->w * s->f, dev);
    device_copy(dev, latents, s->latent, (size_t)n * latent_count(s) * sizeof(float), false);
    device_sync(dev);
}
