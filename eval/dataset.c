#include "eval/dataset.h"
#include "data/image.h"
#include "data/paint.h"
#include "util/error.h"
#include <stdlib.h>
#include <string.h>

Dataset dataset_of_pictures(const char *data, const char *split, const char *annotations, int resolution) {
    Dataset s = {.resolution = resolution, .coco = coco_open(data, split, annotations)};
    s.class_count = s.coco.category_count;
    s.class_names = coco_class_names(&s.coco);
    s.where = xprintf("%s, split %s (%s)", data, split, s.coco.panoptic ? "panoptic" : "instances");
    return s;
}

Dataset dataset_of_shards(const char *folder, const char *split, const char *model, const ModelSettings *settings) {
    Dataset s = {.crops = true, .shards = shards_open(folder, split)};
    const ShardInfo *info = &s.shards.info;
    char digest[65];
    pipeline_vae_digest(model, digest);
    if (strcmp(digest, info->vae_sha256) != 0) {
        die("%s: split %s was encoded with another VAE (SHA-256 %.12s...): expected that of %s (%.12s...)", folder,
            split, info->vae_sha256, model, digest);
    }
    if (!(info->targets & settings->target)) {
        die("%s: split %s lacks the target that %s draws: expected shards of `cocogold encode --targets %s`", folder,
            split, model, settings->target == TARGET_MASK ? "mask" : "overlay");
    }
    s.resolution = info->resolution;
    s.class_count = info->class_count;
    s.class_names = xmalloc(((size_t)s.class_count + 1) * sizeof *s.class_names);
    for (int c = 0; c < s.class_count; c++) { s.class_names[c] = info->classes[c]; }
    s.where = xprintf("crops of %s, split %s", folder, split);
    return s;
}

void dataset_close(Dataset *s) {
    if (s->crops) {
        shards_close(&s->shards);
    } else {
        coco_free(&s->coco);
    }
    free(s->class_names);
    free(s->where);
}

Pair *dataset_pairs(const Dataset *s, const PairOptions *options, int *count) {
    return s->crops ? pairs_of_shards(&s->shards, options, count) : pairs_of_coco(&s->coco, options, count);
}

// Splits a class mask with MASK_IGNORE into two of 0 and 1.
static void split_mask(const uint8_t *mask, size_t pixels, uint8_t *object, uint8_t *ignore) {
    for (size_t i = 0; i < pixels; i++) {
        object[i] = mask[i] == MASK_OBJECT;
        ignore[i] = mask[i] == MASK_IGNORE;
    }
}

// The union of everything that is annotated, whatever its class.
static void mark_all_objects(const Coco *coco, int picture, uint8_t *mask) {
    const Picture *p = &coco->pictures[picture];
    uint32_t *ids = coco_segment_ids(coco, picture);
    for (int i = 0; i < p->count; i++) {
        const Segment *segment = &coco->segments[p->first_segment + i];
        if (coco->categories[segment->category].thing) { coco_add_mask(coco, picture, segment, ids, mask); }
    }
    free(ids);
}

static DatasetItem read_picture(const Dataset *s, Pair pair) {
    const Picture *picture = &s->coco.pictures[pair.item];
    size_t pixels = (size_t)picture->width * picture->height;
    char *path = coco_picture_path(&s->coco, pair.item);
    Image rgb = image_load(path, 3);
    if (rgb.width != picture->width || rgb.height != picture->height) {
        die("%s is %dx%d: expected %dx%d, as in %s", path, rgb.width, rgb.height, picture->width, picture->height,
            s->coco.path);
    }
    DatasetItem item = {.pair = pair, .frame = frame_pad(rgb.width, rgb.height, s->resolution)};
    item.pixels = xmalloc((size_t)s->resolution * s->resolution * 3 * sizeof *item.pixels);
    frame_picture(&item.frame, &rgb, item.pixels);
    uint8_t *mask = coco_class_mask(&s->coco, pair.item, pair.category);
    item.truth = xmalloc(pixels);
    item.ignore = xmalloc(pixels);
    item.all_objects = xcalloc(pixels, 1);
    split_mask(mask, pixels, item.truth, item.ignore);
    mark_all_objects(&s->coco, pair.item, item.all_objects);
    free(mask);
    free(path);
    image_free(&rgb);
    return item;
}

static DatasetItem read_crop(const Dataset *s, Pair pair, const ModelSettings *settings, size_t latent_count) {
    int R = s->resolution;
    DatasetItem item = {.pair = pair, .frame = frame_pad(R, R, R)};
    item.latent = xmalloc(latent_count * sizeof *item.latent);
    item.target_latent = xmalloc(latent_count * sizeof *item.target_latent);
    uint8_t *packed = xmalloc((size_t)R * (size_t)((R + 7) / 8));
    ShardSample sample = {.mask = packed};
    sample.latents[LATENT_IMAGE] = item.latent;
    sample.latents[settings->target] = item.target_latent;
    shards_read(&s->shards, pair.item, &sample);
    item.truth = xmalloc((size_t)R * R);
    item.ignore = xcalloc((size_t)R * R, 1);
    mask_unpack(packed, R, item.truth);
    free(packed);
    return item;
}

DatasetItem dataset_read(const Dataset *s, Pair pair, const ModelSettings *settings, size_t latent_count) {
    return s->crops ? read_crop(s, pair, settings, latent_count) : read_picture(s, pair);
}

void dataset_item_free(DatasetItem *item) {
    free(item->pixels);
    free(item->latent);
    free(item->target_latent);
    free(item->truth);
    free(item->ignore);
    free(item->all_objects);
    memset(item, 0, sizeof *item);
}

void dataset_target(const DatasetItem *item, const ModelSettings *settings, float *pixels) {
    const Frame *f = &item->frame;
    uint8_t *mask = xmalloc((size_t)f->W * f->H);
    frame_mask(f, item->truth, mask);
    Paint paint = {.alpha = (float)settings->alpha};
    for (int c = 0; c < 3; c++) { paint.color[c] = (uint8_t)settings->color[c]; }
    Image rgb = image_from_floats(item->pixels, f->W, f->H, 3);
    Image target =
        settings->target == TARGET_MASK ? paint_mask(mask, f->W, f->H, &paint) : paint_overlay(&rgb, mask, &paint);
    image_to_floats(&target, pixels);
    image_free(&target);
    image_free(&rgb);
    free(mask);
}
