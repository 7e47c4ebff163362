#include "train/validate.h"
#include "data/draw.h"
#include "eval/segment.h"
#include "eval/settings.h"
#include "util/error.h"
#include "util/file.h"
#include <stdlib.h>
#include <string.h>

enum { SHEET_ROWS = 8, SHEET_COLUMNS = 4 };
static const uint64_t VALIDATION_SEED = 1; // of noise and timesteps, whatever --seed is: runs are comparable

bool validator_open(Validator *v, const TrainOptions *o, const ShardSet *training, const Diffusion *d,
                    const floatX *table, Device *dev) {
    char *first = xprintf("%s/val-00000.h5", o->shards);
    bool exists = file_exists(first);
    free(first);
    if (o->validate_every == 0) { return false; }
    if (!exists) {
        printf("no validation: %s has no shards val-*.h5\n", o->shards);
        return false;
    }
    *v = (Validator){.options = o, .shards = shards_open(o->shards, "val"), .table = table};
    const ShardInfo *info = &v->shards.info;
    if (!(info->targets & o->target_bit)) { die("%s: the shards val-*.h5 have no target %s", o->shards, o->target); }
    if (info->class_count != training->info.class_count || strcmp(info->vae_sha256, training->info.vae_sha256) != 0) {
        die("%s: the shards val-*.h5 and %s-*.h5 have other classes or another VAE", o->shards, o->split);
    }
    v->count = o->validation_samples < v->shards.samples ? o->validation_samples : (int)v->shards.samples;
    size_t rows = (size_t)d->B, latents = rows * (size_t)(d->h * d->w * d->L) * sizeof(float);
    v->scalars = device_alloc(dev, sizeof *v->scalars);
    v->host_scalars = device_alloc_pinned(dev, sizeof *v->host_scalars);
    v->losses = device_alloc(dev, rows * sizeof(float));
    v->host_losses = device_alloc_pinned(dev, rows * sizeof(float));
    v->image = device_alloc(dev, latents);
    v->target = device_alloc(dev, latents);
    v->weight = device_alloc(dev, rows * (size_t)(d->h * d->w) * sizeof(float));
    v->context =
        device_alloc(dev, rows * (size_t)d->tokens * (size_t)d->unet->config.cross_attention_dim * sizeof(floatX));
    return true;
}

void validator_close(Validator *v, Device *dev) {
    void *buffers[] = {v->scalars, v->losses, v->image, v->target, v->weight, v->context};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) { device_free(dev, buffers[i]); }
    device_free_pinned(dev, v->host_scalars);
    device_free_pinned(dev, v->host_losses);
    shards_close(&v->shards);
}

static long long stored_index(const Validator *v, int i) { return (long long)i * v->shards.samples / v->count; }

// A micro-batch of validation samples on the host, from number `first` on; beyond the last one they repeat from the
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

static HostBatch read_batch(const Validator *v, const Diffusion *d, int first) {
    const ShardInfo *info = &v->shards.info;
    size_t rows = (size_t)d->B, n = (size_t)(d->h * d->w * d->L), cells = (size_t)(d->h * d->w),
           R = (size_t)info->resolution;
    HostBatch b = {xmalloc(rows * n * sizeof(float)),     xmalloc(rows * n * sizeof(float)),
                   xmalloc(rows * cells * sizeof(float)), xmalloc(rows * R * R),
                   xmalloc(rows * sizeof(int)),           xmalloc(rows * sizeof(int64_t))};
    uint8_t *packed = xmalloc(R * ((R + 7) / 8));
    for (size_t i = 0; i < rows; i++) {
        ShardSample s = {.image_latent = b.image + i * n, .mask = packed};
        *(v->options->target_bit == TARGET_OVERLAY ? &s.target_overlay : &s.target_mask) = b.target + i * n;
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

static double batch_loss(Validator *v, Pipeline *pipeline, Diffusion *d, Arena *arena, const HostBatch *b, int first,
                         int rows, Device *dev) {
    size_t n = (size_t)(d->B * d->h * d->w);
    *v->host_scalars = (StepScalars){.seed = VALIDATION_SEED, .first_sample = (uint64_t)first, .grad_scale = 1};
    device_copy(dev, v->scalars, v->host_scalars, sizeof *v->scalars, false);
    device_copy(dev, v->image, b->image, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->target, b->target, n * (size_t)d->L * sizeof(float), false);
    device_copy(dev, v->weight, b->weight, n * sizeof(float), false);
    context_gather(v->context, v->table, b->class_index, d->B, pipeline, dev);
    diffusion_step(d, arena, v->losses, v->image, v->target, v->weight, v->context, v->scalars, 0, false, dev);
    device_copy(dev, v->host_losses, v->losses, (size_t)d->B * sizeof(float), false);
    device_sync(dev);
    double sum = 0;
    for (int i = 0; i < rows; i++) { sum += v->host_losses[i]; }
    return sum;
}

static Image to_image(const float *picture, int R) {
    Image image = image_new(R, R, 3);
    for (int i = 0; i < R * R * 3; i++) {
        float x = picture[i] * 255 + 0.5f;
        image.pixels[i] = (uint8_t)(x < 0 ? 0 : x > 255 ? 255 : x);
    }
    return image;
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

static void sheet_add(Sheet *sheet, const float *input, const float *prediction, const uint8_t *mask,
                      const uint8_t *truth, const char *class_name, bool seen, double iou, int R) {
    if (sheet->rows == SHEET_ROWS) { return; }
    int k = SHEET_COLUMNS * sheet->rows++;
    sheet->images[k] = to_image(input, R);
    sheet->images[k + 1] = to_image(prediction, R);
    sheet->images[k + 2] = mask_image(mask, R);
    sheet->images[k + 3] = mask_image(truth, R);
    sheet->captions[k] = xprintf("%s%s", class_name, seen ? "" : " (unseen)");
    sheet->captions[k + 2] = xprintf("IoU %.2f", iou);
}

static Image sheet_draw(Sheet *sheet) {
    static const char *const headings[] = {"input", "prediction", "mask", "truth"};
    Cell cells[SHEET_ROWS * SHEET_COLUMNS] = {0};
    int count = SHEET_COLUMNS * sheet->rows;
    for (int i = 0; i < count; i++) { cells[i] = (Cell){&sheet->images[i], sheet->captions[i]}; }
    Image image = draw_sheet(NULL, headings, cells, sheet->rows, SHEET_COLUMNS, 128);
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

// Samples and scores one batch; scores[first..first + rows).
static void score_batch(const Validator *v, Sampler *sampler, const HostBatch *b, int first, int rows,
                        PairScore *scores, Sheet *sheet, Device *dev) {
    const ShardInfo *info = &v->shards.info;
    int R = sampler->h * sampler->f, n = R * R * 3;
    float *prediction = xmalloc((size_t)(rows * n) * sizeof(float)),
          *input = xmalloc((size_t)(rows * n) * sizeof(float));
    uint8_t *mask = xmalloc((size_t)(R * R));
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    MaskRule rule = mask_rule(v);
    context_gather(v->context, v->table, b->class_index, rows, sampler->pipeline, dev);
    sampler_run(sampler, b->image, v->context, ids, rows, v->options->validation_steps, VALIDATION_SEED, dev);
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
        scores[first + i] = score;
        sheet_add(sheet, input + i * n, prediction + i * n, mask, truth, info->classes[c], info->trained[c],
                  pair_iou(&score), R);
    }
    free(prediction), free(input), free(mask), free(ids);
}

static void summarize_scores(const Validator *v, const PairScore *scores, Validation *result) {
    const ShardInfo *info = &v->shards.info;
    bool *seen = xmalloc((size_t)v->count), *unseen = xmalloc((size_t)v->count);
    for (int i = 0; i < v->count; i++) {
        seen[i] = info->trained[scores[i].class_index];
        unseen[i] = !seen[i];
        result->empty += pair_empty(&scores[i]);
        result->full += pair_full(&scores[i]);
    }
    result->empty /= v->count;
    result->full /= v->count;
    result->seen = summarize(scores, v->count, seen, info->class_count, 0, 0);
    result->unseen = summarize(scores, v->count, unseen, info->class_count, 0, 0);
    free(seen), free(unseen);
}

Validation validator_run(Validator *v, Pipeline *pipeline, Diffusion *d, Arena *arena, Device *dev) {
    Validation result = {0};
    Sheet sheet = {0};
    PairScore *scores = xcalloc((size_t)v->count, sizeof *scores);
    Sampler sampler = sampler_create(pipeline, d->B, d->h, d->w, dev);
    if (sampler.h * sampler.f != v->shards.info.resolution) {
        die("%s: the shards' resolution is %d, but latents of %d cells give %d pixels", v->options->shards,
            v->shards.info.resolution, sampler.h, sampler.h * sampler.f);
    }
    for (int first = 0; first < v->count; first += d->B) {
        int rows = v->count - first < d->B ? v->count - first : d->B;
        HostBatch b = read_batch(v, d, first);
        result.loss += batch_loss(v, pipeline, d, arena, &b, first, rows, dev) / v->count;
        score_batch(v, &sampler, &b, first, rows, scores, &sheet, dev);
        free_batch(&b);
    }
    summarize_scores(v, scores, &result);
    result.sheet = sheet_draw(&sheet);
    sampler_destroy(&sampler, dev);
    free(scores);
    return result;
}
