#include "train/validate_text.h"
#include "data/draw.h"
#include "data/paint.h"
#include "model/contexts.h"
#include "model/sampler.h"
#include "train/validation_shards.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/threads.h"
#include <stdlib.h>
#include <string.h>

enum { SHEET_ROWS = 4, SHEET_PAIRS = 2, SHEET = SHEET_ROWS * SHEET_PAIRS, DRAWN_AT_ONCE = 4 };

static size_t latent_count(const TextValidator *v) {
    const Diffusion *d = &v->diffusion.diffusion;
    return (size_t)d->h * (size_t)d->w * (size_t)d->L;
}

static void open_buffers(TextValidator *v, Device *dev) {
    size_t rows = (size_t)v->diffusion.diffusion.B, latents = rows * latent_count(v) * sizeof(float);
    size_t ids = rows * (size_t)v->diffusion.diffusion.tokens * sizeof(int);
    v->scalars = device_alloc(dev, sizeof *v->scalars);
    v->host_scalars = device_alloc_pinned(dev, sizeof *v->host_scalars);
    v->losses = device_alloc(dev, rows * sizeof(float));
    v->host_losses = device_alloc_pinned(dev, rows * sizeof(float));
    v->target = device_alloc(dev, latents);
    v->host_target = device_alloc_pinned(dev, latents);
    v->ids = device_alloc(dev, ids);
    v->host_ids = device_alloc_pinned(dev, ids);
    v->diffusion.ids = v->ids;
    v->diffusion.diffusion.inputs = (DiffusionInputs){.target = v->target};
}

bool text_validator_open(TextValidator *v, const DiffusionOptions *o, double guidance, const ShardSet *training,
                         const TextDiffusion *diffusion, Device *dev) {
    *v = (TextValidator){.options = o, .guidance = guidance, .diffusion = *diffusion};
    if (!validation_shards_open(&v->shards, &v->count, o, 0, training)) { return false; }
    schedule_warn_steps(diffusion->diffusion.schedule, o->validation_steps);
    v->shown = v->count < SHEET ? v->count : SHEET;
    open_buffers(v, dev);
    return true;
}

void text_validator_close(TextValidator *v, Device *dev) {
    device_free(dev, v->scalars), device_free(dev, v->losses);
    device_free(dev, v->target), device_free(dev, v->ids);
    void *pinned[] = {v->host_scalars, v->host_losses, v->host_target, v->host_ids};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) { device_free_pinned(dev, pinned[i]); }
    shards_close(&v->shards);
}

// Reads validation sample i: its latent (h, w, L) and its text.
static const char *read_sample(const TextValidator *v, int i, float *latent) {
    ShardSample s = {0};
    s.latents[LATENT_IMAGE] = latent;
    shards_read(&v->shards, validation_index(&v->shards, v->count, i), &s);
    return s.text;
}

// The sum of the losses of `rows` samples from number `first` on, at fixed noise and timesteps of draw number `draw`.
static double batch_loss(TextValidator *v, const Pipeline *pipeline, Arena *arena, int first, int rows, int draw,
                         Device *dev) {
    Diffusion *d = &v->diffusion.diffusion;
    for (int i = 0; i < d->B; i++) {
        const char *text = read_sample(v, first + i, v->host_target + (size_t)i * latent_count(v));
        tokenizer_encode(pipeline->tokenizer, text, v->host_ids + i * d->tokens, d->tokens);
    }
    *v->host_scalars = (StepScalars){
        .seed = VALIDATION_SEED, .step = (uint32_t)draw, .first_sample = (uint64_t)first, .grad_scale = 1};
    size_t B = (size_t)d->B;
    device_copy(dev, v->scalars, v->host_scalars, sizeof *v->scalars, false);
    device_copy(dev, v->target, v->host_target, B * latent_count(v) * sizeof(float), false);
    device_copy(dev, v->ids, v->host_ids, B * (size_t)d->tokens * sizeof(int), false);
    text_diffusion_step(&v->diffusion, arena, v->losses, v->scalars, 0, false, dev);
    device_copy(dev, v->host_losses, v->losses, B * sizeof(float), false);
    device_sync(dev);
    double sum = 0;
    for (int i = 0; i < rows; i++) { sum += v->host_losses[i]; }
    return sum;
}

// ---- The sheet -----------------------------------------------------------------------------------------------------

static int drawn_at_once(const TextValidator *v) { return v->shown < DRAWN_AT_ONCE ? v->shown : DRAWN_AT_ONCE; }

static Sampler open_sampler(const TextValidator *v, Pipeline *pipeline, Device *dev) {
    const Diffusion *d = &v->diffusion.diffusion;
    return sampler_create_text(pipeline, drawn_at_once(v), d->h, d->w, v->guidance, dev);
}

size_t text_validator_bytes(const Diffusion *d, double guidance, Pipeline *pipeline, Device *dev) {
    int samples = d->options->train.validation_samples, most = samples < DRAWN_AT_ONCE ? samples : DRAWN_AT_ONCE;
    return sampler_own_bytes(pipeline, most, d->h, d->w, false, guidance, dev);
}

// pictures (n, H, W, 3) in [0, 1] to every second one of images.
static void to_images(const Sampler *s, float *pictures, Image *images, int n) {
    int H = s->h * s->f, W = s->w * s->f;
    size_t size = (size_t)(H * W * 3);
    for (int i = 0; i < n; i++) {
        float *picture = pictures + (size_t)i * size;
        for (size_t k = 0; k < size; k++) { picture[k] = 2 * picture[k] - 1; }
        images[2 * i] = image_from_floats(picture, W, H, 3);
    }
}

// Fills the pairs of cells from number `first` on: the sample's own picture, and what the model draws from its text.
static void draw_pairs(const TextValidator *v, Sampler *s, Image *images, const char **texts, int first, int n,
                       Device *dev) {
    Pipeline *p = s->pipeline;
    size_t size = (size_t)(s->h * s->f * s->w * s->f * 3), latents = (size_t)n * latent_count(v);
    float *pictures = xmalloc((size_t)n * size * sizeof(float)), *latent = xmalloc(latents * sizeof(float));
    uint64_t ids[DRAWN_AT_ONCE];
    const char *all[DRAWN_AT_ONCE + 1] = {""}; // the empty text, then the samples'
    for (int i = 0; i < n; i++) {
        ids[i] = (uint64_t)(first + i);
        all[1 + i] = texts[first + i] = read_sample(v, first + i, latent + (size_t)i * latent_count(v));
    }
    floatX *context = context_table(p, all, n + 1, dev);
    if (v->guidance > 1) { sampler_negative(s, context, dev); }
    sampler_decode_latents(s, pictures, latent, n, dev);
    to_images(s, pictures, images + 2 * first, n);
    size_t row = (size_t)s->T * (size_t)p->clip.config.hidden_size;
    sampler_run(s, NULL, context + row, ids, n, v->options->validation_steps, 0, VALIDATION_SEED, dev);
    sampler_decode(s, pictures, n, dev);
    if (s->broken >= 0) {
        warn("validation: what the model draws for \"%s\" is NaN or infinite", texts[first + s->broken]);
    }
    to_images(s, pictures, images + 2 * first + 1, n);
    device_free(dev, context);
    free(pictures), free(latent);
}

static Image draw_texts(const TextValidator *v, Pipeline *pipeline, Device *dev) {
    static const char *const headings[] = {"picture", "drawn", "picture", "drawn"};
    Image images[2 * SHEET] = {0};
    const char *texts[SHEET] = {0};
    Cell cells[2 * SHEET] = {0};
    Sampler sampler = open_sampler(v, pipeline, dev);
    for (int first = 0, n; first < v->shown && !interrupt_signal(); first += n) {
        n = v->shown - first < sampler.B ? v->shown - first : sampler.B;
        draw_pairs(v, &sampler, images, texts, first, n, dev);
    }
    sampler_destroy(&sampler, dev);
    for (int i = 0; i < 2 * v->shown; i++) { cells[i] = (Cell){&images[i], i % 2 ? texts[i / 2] : NULL}; }
    int rows = (v->shown + SHEET_PAIRS - 1) / SHEET_PAIRS;
    Image sheet = {0};
    if (!interrupt_signal()) { sheet = draw_sheet(headings, cells, rows, 2 * SHEET_PAIRS, 128); }
    for (int i = 0; i < 2 * v->shown; i++) { image_free(&images[i]); }
    return sheet;
}

double text_validator_run(TextValidator *v, Pipeline *pipeline, Arena *arena, Image *sheet, Device *dev) {
    int B = v->diffusion.diffusion.B, draws = v->options->validation_draws;
    double loss = 0;
    for (int first = 0; first < v->count && !interrupt_signal(); first += B) {
        threads_adapt();
        int rows = v->count - first < B ? v->count - first : B;
        for (int draw = 0; draw < draws; draw++) {
            loss += batch_loss(v, pipeline, arena, first, rows, draw, dev) / ((double)v->count * draws);
        }
    }
    *sheet = draw_texts(v, pipeline, dev);
    return loss;
}
