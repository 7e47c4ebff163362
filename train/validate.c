#include "train/validate.h"
#include "data/draw.h"
#include "model/sampler.h"
#include "eval/settings.h"
#include "util/error.h"
#include "util/file.h"
#include "util/threads.h"
#include <stdlib.h>
#include <string.h>

enum { SHEET_ROWS = 8, SHEET_COLUMNS = 4, STRIP = 6 };
static const uint64_t VALIDATION_SEED = 1; // of noise and timesteps; independent of --seed for comparison

// Encodes an all-black and an all-white picture: a model that gives a constant answer might draw them.
static void encode_constants(Validator *v, const char *base, Device *dev) {
    const Diffusion *d = &v->diffusion;
    Pipeline vae = pipeline_open(base, PART_VAE_ENCODER, 0, dev);
    int R = v->shards.info.resolution;
    size_t pixels = (size_t)(R * R * 3), latent = (size_t)(d->h * d->w * d->L);
    Arena arena = arena_create(dev, pipeline_encode_bytes(&vae, 1, R, R, dev));
    float *picture = device_alloc(dev, pixels * sizeof(float)), *z = device_alloc(dev, latent * sizeof(float));
    float *host = xmalloc(pixels * sizeof(float)), **to[] = {&v->black, &v->white};
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < pixels; i++) { host[i] = k ? 1.0f : -1.0f; }
        *to[k] = xmalloc(latent * sizeof(float));
        device_copy(dev, picture, host, pixels * sizeof(float), false);
        pipeline_encode(&vae, &arena, z, picture, 1, R, R, dev);
        device_copy(dev, *to[k], z, latent * sizeof(float), false);
        device_sync(dev);
    }
    free(host);
    device_free(dev, picture);
    device_free(dev, z);
    arena_destroy(&arena);
    pipeline_close(&vae, dev);
}

bool validator_open(Validator *v, const UNetOptions *o, const char *base, const ShardSet *training, const Diffusion *d,
                    const floatX *table, Device *dev) {
    char *first = xprintf("%s/val-00000.h5", o->shards);
    bool exists = file_exists(first);
    free(first);
    if (o->train.validate_every == 0) { return false; }
    if (!exists) {
        printf("no validation: %s has no shards val-*.h5\n", o->shards);
        return false;
    }
    *v = (Validator){.options = o, .diffusion = *d, .shards = shards_open(o->shards, "val"), .table = table};
    const ShardInfo *info = &v->shards.info;
    if (!(info->targets & o->target_bit)) { die("%s: the shards val-*.h5 have no target %s", o->shards, o->target); }
    if (info->class_count != training->info.class_count || strcmp(info->vae_sha256, training->info.vae_sha256) != 0) {
        die("%s: the shards val-*.h5 and %s-*.h5 differ in their classes or their VAE", o->shards, o->train.split);
    }
    schedule_warn_steps(d->schedule, o->validation_steps);
    v->count = o->train.validation_samples < v->shards.samples ? o->train.validation_samples : (int)v->shards.samples;
    size_t rows = (size_t)d->B, latents = rows * (size_t)(d->h * d->w * d->L) * sizeof(float);
    v->scalars = device_alloc(dev, sizeof *v->scalars);
    v->host_scalars = device_alloc_pinned(dev, sizeof *v->host_scalars);
    v->losses = device_alloc(dev, rows * sizeof(float));
    v->host_losses = device_alloc_pinned(dev, rows * sizeof(float));
    v->timesteps = device_alloc(dev, rows * sizeof(float));
    v->host_timesteps = device_alloc_pinned(dev, rows * sizeof(float));
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
    device_free_pinned(dev, v->host_scalars);
    device_free_pinned(dev, v->host_losses);
    device_free_pinned(dev, v->host_timesteps);
    free(v->black);
    free(v->white);
    shards_close(&v->shards);
}

static long long stored_index(const Validator *v, int i) { return (long long)i * v->shards.samples / v->count; }

// A micro-batch of validation samples on the host, from number `first` on; after the last sample they repeat from the
// first.
typedef struct {
    float *image, *target, *weight; // (rows, h, w, L), same, (rows, h, w)
    uint8_t *mask;                  // (rows, R, R), 0 or 1
    int *class_index;
    int64_t *image_id;
} HostBatch;

static void unpack(uint8_t *mask, const uint8_t *packed, int R) {
    int stride = (R + 7) / 8;
    for (int i = 0; i < R * R; i++) { mask[i] = packed[i / R * stride + i % R / 8] >> (7 - i % R % 8) & 1; }
}

static HostBatch read_batch(const Validator *v, int first) {
    const Diffusion *d = &v->diffusion;
    const ShardInfo *info = &v->shards.info;
    size_t rows = (size_t)d->B, n = (size_t)(d->h * d->w * d->L), cells = (size_t)(d->h * d->w),
           R = (size_t)info->resolution;
    HostBatch b = {xmalloc(rows * n * sizeof(float)),     xmalloc(rows * n * sizeof(float)),
                   xmalloc(rows * cells * sizeof(float)), xmalloc(rows * R * R),
                   xmalloc(rows * sizeof(int)),           xmalloc(rows * sizeof(int64_t))};
    uint8_t *packed = xmalloc(R * ((R + 7) / 8));
    for (size_t i = 0; i < rows; i++) {
        ShardSample s = {.mask = packed};
        s.latents[LATENT_IMAGE] = b.image + i * n;
        s.latents[v->options->target_bit] = b.target + i * n;
        shards_read(&v->shards, stored_index(v, (first + (int)i) % v->count), &s);
        b.class_index[i] = s.class_index;
        b.image_id[i] = s.image_id;
        cell_weights(b.weight + i * cells, packed, info->resolution, d->h, d->w);
        unpack(b.mask + i * R * R, packed, info->resolution);
    }
    free(packed);
    return b;
}

static void free_batch(HostBatch *b) {
    free(b->image), free(b->target), free(b->weight), free(b->mask), free(b->class_index), free(b->image_id);
}

// Computes the batch's losses with the noise and timesteps of draw number `draw`.
static void batch_loss(Validator *v, Pipeline *pipeline, Arena *arena, const HostBatch *b, int first, int rows,
                       int draw, Validation *result, Device *dev) {
    Diffusion *d = &v->diffusion;
    size_t n = (size_t)(d->B * d->h * d->w);
    *v->host_scalars = (StepScalars){
        .seed = VALIDATION_SEED, .step = (uint32_t)draw, .first_sample = (uint64_t)first, .grad_scale = 1};
    device_copy(dev, v->scalars, v->host_scalars, sizeof *v->scalars, false);
    device_copy(dev, v->image, b->image, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->target, b->target, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->weight, b->weight, n * sizeof(float), false);
    context_gather(v->context, v->table, b->class_index, d->B, pipeline, dev);
    diffusion_step(d, arena, v->losses, v->scalars, 0, false, dev);
    sample_timesteps(v->timesteps, d->B, d->schedule->T, 0, v->scalars, dev); // as diffusion_step drew them
    device_copy(dev, v->host_losses, v->losses, (size_t)d->B * sizeof(float), false);
    device_copy(dev, v->host_timesteps, v->timesteps, (size_t)d->B * sizeof(float), false);
    device_sync(dev);
    for (int i = 0; i < rows; i++) {
        result->loss += v->host_losses[i] / ((double)v->count * v->options->validation_draws);
        result->losses[result->loss_count++] =
            (ValidationLoss){first + i, (int)v->host_timesteps[i], v->host_losses[i]};
    }
}

static Image to_image(const float *picture, int R) {
    Image image = image_new(R, R, 3);
    for (int i = 0; i < R * R * 3; i++) {
        float x = picture[i] * 255 + 0.5f;
        image.pixels[i] = (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
    }
    return image;
}

static double mean_square(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sum / (double)n;
}

// Copies a picture (R, R) of 1 or 3 channels to place `column` of a strip.
static void strip_put(Image *strip, const Image *picture, int column) {
    int R = picture->height;
    for (int i = 0; i < R * R * 3; i++) {
        int y = i / (R * 3), x = i / 3 % R, c = i % 3;
        strip->pixels[((size_t)y * (size_t)strip->width + (size_t)(column * R + x)) * 3 + (size_t)c] =
            picture->pixels[(y * R + x) * picture->channels + c % picture->channels];
    }
}

static Image mask_image(const uint8_t *mask, int R) {
    Image image = image_new(R, R, 1);
    for (int i = 0; i < R * R; i++) { image.pixels[i] = mask[i] ? 255 : 0; }
    return image;
}

typedef struct {
    Image images[SHEET_ROWS * SHEET_COLUMNS];
    char *captions[SHEET_ROWS * SHEET_COLUMNS];
    int rows;
} Sheet;

// Adds the first SHEET_ROWS samples to the sheet, and the first STRIP samples to the strips too.
static void show_sample(Validation *result, Sheet *sheet, const float *input, const float *prediction,
                        const uint8_t *mask, const uint8_t *truth, const ValidationRow *row, int R) {
    if (sheet->rows == SHEET_ROWS) { return; }
    int k = SHEET_COLUMNS * sheet->rows;
    Image *images = sheet->images + k;
    images[0] = to_image(input, R);
    images[1] = to_image(prediction, R);
    images[2] = mask_image(mask, R);
    images[3] = mask_image(truth, R);
    sheet->captions[k] = xprintf("%s%s", row->class_name, row->seen ? "" : " (unseen)");
    sheet->captions[k + 2] = xprintf("IoU %.2f", pair_iou(&row->score));
    if (sheet->rows < STRIP) {
        strip_put(&result->inputs, &images[0], sheet->rows);
        strip_put(&result->predictions, &images[1], sheet->rows);
        strip_put(&result->truths, &images[3], sheet->rows);
    }
    sheet->rows++;
}

static Image sheet_draw(Sheet *sheet) {
    static const char *const headings[] = {"input", "prediction", "mask", "truth"};
    Cell cells[SHEET_ROWS * SHEET_COLUMNS] = {0};
    int count = SHEET_COLUMNS * sheet->rows;
    for (int i = 0; i < count; i++) { cells[i] = (Cell){&sheet->images[i], sheet->captions[i]}; }
    Image image = draw_sheet(headings, cells, sheet->rows, SHEET_COLUMNS, 128);
    for (int i = 0; i < count; i++) {
        image_free(&sheet->images[i]);
        free(sheet->captions[i]);
    }
    return image;
}

static MaskRule mask_rule(const Validator *v) {
    const ShardInfo *info = &v->shards.info;
    MaskRule rule = mask_rule_default(v->options->target_bit == TARGET_MASK ? MASK_LUMINANCE : MASK_COMPARE);
    for (int c = 0; c < 3; c++) { rule.color[c] = (float)info->color[c] / 255; }
    rule.alpha = (float)info->alpha;
    return rule;
}

// Samples and scores one batch: result->rows[first..first + rows).
static void score_batch(const Validator *v, Sampler *sampler, const HostBatch *b, int first, int rows,
                        Validation *result, Sheet *sheet, Device *dev) {
    const ShardInfo *info = &v->shards.info;
    int R = sampler->h * sampler->f, n = R * R * 3;
    float *prediction = xmalloc((size_t)(rows * n) * sizeof(float)),
          *input = xmalloc((size_t)(rows * n) * sizeof(float));
    uint8_t *mask = xmalloc((size_t)(R * R));
    size_t cells = (size_t)(sampler->h * sampler->w * sampler->L);
    float *latents = xmalloc((size_t)rows * cells * sizeof *latents);
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    MaskRule rule = mask_rule(v);
    context_gather(v->context, v->table, b->class_index, rows, sampler->pipeline, dev);
    sampler_run(sampler, b->image, v->context, ids, rows, v->options->validation_steps, 0, VALIDATION_SEED, dev);
    device_copy(dev, latents, sampler->latent, (size_t)rows * cells * sizeof(float), false);
    device_sync(dev);
    sampler_decode(sampler, prediction, rows, dev);
    sampler_decode_latents(sampler, input, b->image, rows, dev);
    for (int i = 0; i < rows; i++) {
        int c = b->class_index[i];
        const uint8_t *truth = b->mask + (size_t)i * (size_t)(R * R);
        mask_extract(mask, prediction + i * n, input + i * n, R, R, &rule);
        PairScore score = pair_score(mask, truth, NULL, R * R);
        score.image_id = b->image_id[i];
        score.class_index = c;
        score.absent = score.truth == 0;
        const float *latent = latents + (size_t)i * cells;
        result->rows[first + i] =
            (ValidationRow){score, info->classes[c], info->trained[c], mean_square(latent, v->black, cells),
                            mean_square(latent, v->white, cells)};
        show_sample(result, sheet, input + i * n, prediction + i * n, mask, truth, &result->rows[first + i], R);
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
    result->seen = summarize(scores, v->count, seen, info->class_count, 0, 0);
    result->unseen = summarize(scores, v->count, unseen, info->class_count, 0, 0);
    free(seen), free(unseen), free(scores);
}

static Validation validation_create(const Validator *v) {
    int R = v->shards.info.resolution, strip = v->count < STRIP ? v->count : STRIP;
    return (Validation){.count = v->count,
                        .rows = xcalloc((size_t)v->count, sizeof(ValidationRow)),
                        .losses =
                            xcalloc((size_t)v->count * (size_t)v->options->validation_draws, sizeof(ValidationLoss)),
                        .inputs = image_new(strip * R, R, 3),
                        .predictions = image_new(strip * R, R, 3),
                        .truths = image_new(strip * R, R, 3)};
}

void validation_free(Validation *v) {
    free(v->rows);
    free(v->losses);
    Image *images[] = {&v->sheet, &v->inputs, &v->predictions, &v->truths};
    for (int i = 0; i < 4; i++) { image_free(images[i]); }
}

Validation validator_run(Validator *v, Pipeline *pipeline, Arena *arena, Device *dev) {
    const Diffusion *d = &v->diffusion;
    Validation result = validation_create(v);
    Sheet sheet = {0};
    Sampler sampler = sampler_create(pipeline, d->B, d->h, d->w, dev);
    if (sampler.h * sampler.f != v->shards.info.resolution) {
        die("%s: the shards' resolution is %d, but latents of %d cells give %d pixels", v->options->shards,
            v->shards.info.resolution, sampler.h, sampler.h * sampler.f);
    }
    for (int first = 0; first < v->count; first += d->B) {
        threads_adapt();
        int rows = v->count - first < d->B ? v->count - first : d->B;
        HostBatch b = read_batch(v, first);
        for (int draw = 0; draw < v->options->validation_draws; draw++) {
            batch_loss(v, pipeline, arena, &b, first, rows, draw, &result, dev);
        }
        score_batch(v, &sampler, &b, first, rows, &result, &sheet, dev);
        free_batch(&b);
    }
    summarize_rows(v, &result);
    result.sheet = sheet_draw(&sheet);
    sampler_destroy(&sampler, dev);
    return result;
}
