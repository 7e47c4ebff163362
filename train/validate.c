#include "train/validate.h"
#include "data/draw.h"
#include "data/paint.h"
#include "eval/frame.h"
#include "eval/stats.h"
#include "model/sampler.h"
#include "train/prompts.h"
#include "train/validation_shards.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHEET_ROWS = 8, SHEET_COLUMNS = 4, STRIP = 6 };

// Encodes an all-black and an all-white picture: a model that gives a constant answer might draw them.
static void encode_constants(Validator *v, const char *base, Device *dev) {
    const Diffusion *d = &v->diffusion;
    Pipeline vae = pipeline_open(base, PART_VAE_ENCODER, 0, dev);
    int R = v->shards.info.resolution, pixels = R * R * 3;
    size_t bytes = (size_t)pixels * sizeof(float), latent_bytes = (size_t)(d->h * d->w * d->L) * sizeof(float);
    Arena arena = arena_create(dev, pipeline_encode_bytes(&vae, 1, R, R, dev));
    float *picture = device_alloc(dev, bytes), *host = xmalloc(bytes), **to[] = {&v->black, &v->white};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < pixels; i++) { host[i] = k ? 1.0f : -1.0f; }
        *to[k] = xmalloc(latent_bytes);
        device_copy(dev, picture, host, bytes, false);
        pipeline_encode(&vae, &arena, v->image, picture, 1, R, R, dev);
        device_copy(dev, *to[k], v->image, latent_bytes, false);
        device_sync(dev);
    }
    free(host);
    device_free(dev, picture);
    arena_destroy(&arena);
    pipeline_close(&vae, dev);
}

// The contexts of every sample's text in the first template; they are few.
static Contexts *embed_texts(const Validator *v, Pipeline *pipeline, Device *dev) {
    char **texts = xcalloc((size_t)v->count + 1, sizeof *texts), *first = prompts_first(v->options);
    for (int i = 0; i < v->count; i++) {
        texts[i] =
            prompt_fill(first, v->shards.texts[shards_text(&v->shards, validation_index(&v->shards, v->count, i))]);
    }
    Contexts *contexts = xmalloc(sizeof *contexts);
    *contexts = contexts_create(pipeline, (const char *const *)texts, v->count, v->diffusion.B, INFINITY, false, dev);
    for (int i = 0; i < v->count; i++) { free(texts[i]); }
    free(texts);
    free(first);
    return contexts;
}

static bool same_classes(const ShardInfo *a, const ShardInfo *b) {
    bool same = a->class_count == b->class_count;
    for (int c = 0; same && c < a->class_count; c++) { same = strcmp(a->classes[c], b->classes[c]) == 0; }
    return same;
}

bool validator_open(Validator *v, const UNetOptions *o, const char *base, const ShardSet *training,
                    const ModelSettings *settings, Pipeline *pipeline, const Diffusion *d, Contexts *contexts,
                    Device *dev) {
    const DiffusionOptions *s = &o->diffusion;
    *v = (Validator){.options = o, .settings = settings, .diffusion = *d, .contexts = contexts};
    if (!validation_shards_open(&v->shards, &v->count, s, o->target_bit, training)) { return false; }
    const ShardInfo *info = &v->shards.info;
    if (!(info->targets & o->target_bit)) { die("%s: the shards val-*.h5 have no target %s", s->shards, o->target); }
    if (!same_classes(info, &training->info)) {
        die("%s: the shards val-*.h5 and %s-*.h5 differ in their classes", s->shards, s->train.split);
    }
    schedule_warn_steps(d->schedule, s->validation_steps);
    v->own_texts = shard_has_texts(info) || shard_has_texts(&training->info);
    if (v->own_texts) { v->contexts = embed_texts(v, pipeline, dev); }
    size_t rows = (size_t)d->B, latents = rows * (size_t)(d->h * d->w * d->L) * sizeof(float);
    v->scalars = device_alloc(dev, sizeof *v->scalars);
    v->losses = device_alloc(dev, rows * sizeof(float));
    v->timesteps = device_alloc(dev, rows * sizeof(float));
    v->image = device_alloc(dev, latents);
    v->target = device_alloc(dev, latents);
    v->weight = device_alloc(dev, rows * (size_t)(d->h * d->w) * sizeof(float));
    v->context =
        device_alloc(dev, rows * (size_t)d->tokens * (size_t)d->unet->config.cross_attention_dim * sizeof(floatX));
    v->diffusion.inputs = (DiffusionInputs){v->image, v->target, v->weight, v->context};
    encode_constants(v, base, dev);
    return true;
}

void validator_close(Validator *v, Device *dev) {
    void *buffers[] = {v->scalars, v->losses, v->timesteps, v->image, v->target, v->weight, v->context};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) { device_free(dev, buffers[i]); }
    if (v->own_texts) {
        contexts_destroy(v->contexts, dev);
        free(v->contexts);
    }
    free(v->black);
    free(v->white);
    shards_close(&v->shards);
}

// A micro-batch of validation samples on the host, from number `first` on; after the last sample they repeat from the
// first.
typedef struct {
    float *image, *target, *weight; // (rows, h, w, L), same, (rows, h, w)
    uint8_t *mask;                  // (rows, R, R), 0 or 1
    int *class_index, *text;        // (rows) the class, -1: none; the number in v->contexts
    const char **name;              // (rows) class or text
    int64_t *image_id;
} HostBatch;

static HostBatch read_batch(const Validator *v, int first) {
    const Diffusion *d = &v->diffusion;
    const ShardInfo *info = &v->shards.info;
    size_t rows = (size_t)d->B, n = (size_t)(d->h * d->w * d->L), cells = (size_t)(d->h * d->w),
           R = (size_t)info->resolution;
    HostBatch b = {xmalloc(rows * n * sizeof(float)),     xmalloc(rows * n * sizeof(float)),
                   xmalloc(rows * cells * sizeof(float)), xmalloc(rows * R * R),
                   xmalloc(rows * sizeof(int)),           xmalloc(rows * sizeof(int)),
                   xmalloc(rows * sizeof(char *)),        xmalloc(rows * sizeof(int64_t))};
    uint8_t *packed = xmalloc(R * ((R + 7) / 8));
    for (size_t i = 0; i < rows; i++) {
        ShardSample s = {.mask = packed};
        s.latents[LATENT_IMAGE] = b.image + i * n;
        s.latents[v->options->target_bit] = b.target + i * n;
        shards_read(&v->shards, validation_index(&v->shards, v->count, first + (int)i), &s);
        b.class_index[i] = s.class_index;
        b.text[i] = v->own_texts ? (first + (int)i) % v->count : s.class_index;
        b.name[i] = s.text;
        b.image_id[i] = s.image_id;
        cell_weights(b.weight + i * cells, packed, info->resolution, d->h, d->w);
        mask_unpack(packed, info->resolution, b.mask + i * R * R);
    }
    free(packed);
    return b;
}

static void free_batch(HostBatch *b) {
    free(b->image), free(b->target), free(b->weight), free(b->mask), free(b->class_index), free(b->image_id);
    free(b->text), free(b->name);
}

// Computes the batch's losses with the noise and timesteps of draw number `draw`.
static void batch_loss(Validator *v, Arena *arena, const HostBatch *b, int first, int rows, int draw,
                       Validation *result, Device *dev) {
    Diffusion *d = &v->diffusion;
    size_t n = (size_t)(d->B * d->h * d->w);
    float losses[d->B], timesteps[d->B];
    const StepScalars scalars = {
        .seed = VALIDATION_SEED, .step = (uint32_t)draw, .first_sample = (uint64_t)first, .grad_scale = 1};
    device_copy(dev, v->scalars, &scalars, sizeof scalars, false);
    device_copy(dev, v->image, b->image, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->target, b->target, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->weight, b->weight, n * sizeof(float), false);
    contexts_gather(v->contexts, v->context, b->text, d->B, dev);
    diffusion_step(d, arena, v->losses, v->scalars, 0, false, dev);
    sample_timesteps(v->timesteps, d->B, d->schedule->T, 0, v->scalars, dev); // as diffusion_step drew them
    device_copy(dev, losses, v->losses, sizeof losses, false);
    device_copy(dev, timesteps, v->timesteps, sizeof timesteps, false);
    device_sync(dev);
    for (int i = 0; i < rows; i++) {
        result->loss += losses[i] / ((double)v->count * v->options->diffusion.validation_draws);
        result->losses[result->loss_count++] = (ValidationLoss){first + i, (int)timesteps[i], losses[i]};
    }
}

typedef struct {
    Image images[SHEET_ROWS * SHEET_COLUMNS];
    char *captions[SHEET_ROWS * SHEET_COLUMNS];
    int rows;
} Sheet;

// Adds the first SHEET_ROWS samples to the sheet.
static void show_sample(Sheet *sheet, const float *input, const float *prediction, const uint8_t *mask,
                        const uint8_t *truth, const ValidationRow *row, int R) {
    if (sheet->rows == SHEET_ROWS) { return; }
    int k = SHEET_COLUMNS * sheet->rows;
    Image *images = sheet->images + k;
    images[0] = float_image(input, R, R);
    images[1] = float_image(prediction, R, R);
    images[2] = mask_image(mask, R, R);
    images[3] = mask_image(truth, R, R);
    sheet->captions[k] = xprintf("%s%s", row->class_name, row->seen ? "" : " (unseen)");
    sheet->captions[k + 2] = xprintf("IoU %.2f", pair_iou(&row->score));
    sheet->rows++;
}

// The first STRIP pictures (R, R), of 1 or 3 channels, of a column of the sheet side by side.
static Image strip_draw(const Sheet *sheet, int column, int R) {
    int count = sheet->rows < STRIP ? sheet->rows : STRIP, width = count * R;
    Image strip = image_new(width, R, 3);
    for (int i = 0; i < width * R * 3; i++) {
        int y = i / (width * 3), x = i / 3 % width, c = i % 3;
        const Image *picture = &sheet->images[x / R * SHEET_COLUMNS + column];
        strip.pixels[i] = picture->pixels[(y * R + x % R) * picture->channels + c % picture->channels];
    }
    return strip;
}

static Image sheet_draw(Sheet *sheet) {
    static const char *const headings[] = {"input", "prediction", "mask", "truth"};
    Cell cells[SHEET_ROWS * SHEET_COLUMNS] = {0};
    int count = SHEET_COLUMNS * sheet->rows;
    for (int i = 0; i < count; i++) { cells[i] = (Cell){&sheet->images[i], sheet->captions[i]}; }
    return draw_sheet(headings, cells, sheet->rows, SHEET_COLUMNS, 128);
}

static void sheet_free(Sheet *sheet) {
    for (int i = 0; i < SHEET_COLUMNS * sheet->rows; i++) {
        image_free(&sheet->images[i]);
        free(sheet->captions[i]);
    }
}

// Samples and scores one batch: result->rows[first..first + rows).
static void score_batch(const Validator *v, Sampler *sampler, const HostBatch *b, int first, int rows,
                        Validation *result, Sheet *sheet, Device *dev) {
    const ShardInfo *info = &v->shards.info;
    int R = sampler->h * sampler->f, n = R * R * 3;
    size_t pixels = (size_t)(rows * n);
    float *prediction = xmalloc(pixels * sizeof(float)), *input = xmalloc(pixels * sizeof(float));
    uint8_t *mask = xmalloc((size_t)(R * R));
    size_t cells = (size_t)(sampler->h * sampler->w * sampler->L);
    float *latents = xmalloc((size_t)rows * cells * sizeof *latents);
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    MaskMethod method = v->options->target_bit == TARGET_MASK ? MASK_LUMINANCE : MASK_COMPARE;
    MaskRule rule = mask_rule(method, info->color, info->alpha);
    contexts_gather(v->contexts, v->context, b->text, rows, dev);
    sampler_run(sampler, b->image, v->context, ids, rows, v->options->diffusion.validation_steps, 0, VALIDATION_SEED,
                dev);
    device_copy(dev, latents, sampler->latent, (size_t)rows * cells * sizeof(float), false);
    device_sync(dev);
    sampler_decode(sampler, prediction, rows, dev);
    result->broken += sampler->broken >= 0;
    sampler_decode_latents(sampler, input, b->image, rows, dev);
    for (int i = 0; i < rows; i++) {
        int c = b->class_index[i]; // phrases without one class count as one class more, which is seen
        const uint8_t *truth = b->mask + (size_t)i * (size_t)(R * R);
        mask_extract(mask, prediction + i * n, input + i * n, R, R, &rule);
        PairScore score = pair_score(mask, truth, NULL, R * R);
        score.image_id = b->image_id[i];
        score.class_index = c >= 0 ? c : info->class_count;
        score.absent = score.truth == 0;
        const float *latent = latents + (size_t)i * cells;
        bool seen = c < 0 || settings_is_trained(v->settings, info->classes[c]);
        result->rows[first + i] = (ValidationRow){score, b->name[i], seen, mean_square(latent, v->black, cells),
                                                  mean_square(latent, v->white, cells)};
        show_sample(sheet, input + i * n, prediction + i * n, mask, truth, &result->rows[first + i], R);
    }
    free(prediction), free(input), free(mask), free(ids), free(latents);
}

static void summarize_rows(const Validator *v, Validation *result) {
    const ShardInfo *info = &v->shards.info;
    bool *seen = xmalloc((size_t)v->count), *unseen = xmalloc((size_t)v->count);
    PairScore *scores = xmalloc((size_t)v->count * sizeof *scores);
    for (int i = 0; i < v->count; i++) {
        const ValidationRow *row = &result->rows[i];
        scores[i] = row->score;
        seen[i] = row->seen;
        unseen[i] = !seen[i];
        result->empty += (double)pair_empty(&row->score) / v->count;
        result->full += (double)pair_full(&row->score) / v->count;
        result->to_black += row->to_black / v->count;
        result->to_white += row->to_white / v->count;
    }
    result->seen = summarize(scores, v->count, seen, info->class_count + 1, 0, 0);
    result->unseen = summarize(scores, v->count, unseen, info->class_count + 1, 0, 0);
    free(seen), free(unseen), free(scores);
}

void validation_free(Validation *v) {
    free(v->rows);
    free(v->losses);
    Image *images[] = {&v->sheet, &v->inputs, &v->predictions, &v->truths};
    for (int i = 0; i < 4; i++) { image_free(images[i]); }
}

Validation validator_run(Validator *v, Pipeline *pipeline, Arena *arena, Device *dev) {
    const Diffusion *d = &v->diffusion;
    int R = v->shards.info.resolution, draws = v->options->diffusion.validation_draws;
    Validation result = {.count = v->count,
                         .rows = xcalloc((size_t)v->count, sizeof(ValidationRow)),
                         .losses = xcalloc((size_t)v->count * (size_t)draws, sizeof(ValidationLoss))};
    Sheet sheet = {0};
    Sampler sampler = sampler_create(pipeline, d->B, d->h, d->w, dev);
    if (sampler.h * sampler.f != R) {
        die("%s: the shards' resolution is %d, but latents of %d cells give %d pixels", v->options->diffusion.shards, R,
            sampler.h, sampler.h * sampler.f);
    }
    for (int first = 0; first < v->count && !interrupt_signal(); first += d->B) {
        threads_adapt();
        int rows = v->count - first < d->B ? v->count - first : d->B;
        HostBatch b = read_batch(v, first);
        for (int draw = 0; draw < draws; draw++) { batch_loss(v, arena, &b, first, rows, draw, &result, dev); }
        score_batch(v, &sampler, &b, first, rows, &result, &sheet, dev);
        free_batch(&b);
    }
    if (!interrupt_signal()) {
        summarize_rows(v, &result);
        result.inputs = strip_draw(&sheet, 0, R);
        result.predictions = strip_draw(&sheet, 1, R);
        result.truths = strip_draw(&sheet, 3, R);
        result.sheet = sheet_draw(&sheet);
    }
    sheet_free(&sheet);
    sampler_destroy(&sampler, dev);
    return result;
}
