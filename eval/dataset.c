#include "eval/dataset.h"
#include "data/image.h"
#include "data/paint.h"
#include "util/error.h"
#include <stdlib.h>
#include <string.h>

Dataset dataset_of_pictures(const char *data, const char *split, const char *annotations) {
    Dataset s = {.coco = coco_open(data, split, annotations)};
    coco_want_segments(&s.coco);
    s.class_count = s.coco.category_count;
    s.class_names = coco_class_names(&s.coco);
    s.where = xprintf("%s, split %s (%s)", data, split, s.coco.panoptic ? "panoptic" : "instances");
    return s;
}

static void want_paint(const char *folder, const char *split, const char *model, const ShardInfo *info,
                       const ModelSettings *settings) {
    ShardInfo drawn = {.alpha = settings->alpha, .outline = settings->outline};
    memcpy(drawn.color, settings->color, sizeof drawn.color);
    PaintText here = shard_paint(info, settings->target), wanted = shard_paint(&drawn, settings->target);
    if (strcmp(here.text, wanted.text) == 0) { return; }
    die("%s: split %s was encoded with %s, but %s draws what shards of %s hold", folder, split, here.text, model,
        wanted.text);
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
            split, model, target_names[settings->target - TARGET_OVERLAY]);
    }
    want_paint(folder, split, model, info, settings);
    s.resolution = info->resolution;
    s.texts = shard_has_texts(info);
    s.class_count = info->class_count + s.texts;
    s.class_names = xmalloc(((size_t)s.class_count + 1) * sizeof *s.class_names);
    for (int c = 0; c < info->class_count; c++) { s.class_names[c] = info->classes[c]; }
    if (s.texts) { s.class_names[info->class_count] = "(no single class)"; }
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

const char *dataset_text(const Dataset *s, const Pair *pair) {
    return s->texts ? s->shards.texts[pair->text] : s->class_names[pair->category];
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
static void mark_all_objects(const Coco *coco, int picture, const uint32_t *ids, uint8_t *mask) {
    const Picture *p = &coco->pictures[picture];
    for (int i = 0; i < p->count; i++) {
        const Segment *segment = &coco->segments[p->first_segment + i];
        if (coco->categories[segment->category].thing) { coco_add_mask(coco, picture, segment, ids, mask); }
    }
}

static bool unreadable(const Dataset *s, int picture, char *why) {
    coco_unreadable(&s->coco, picture, why);
    free(why);
    return false;
}

static bool read_picture(const Dataset *s, Pair pair, DatasetItem *item) {
    const Picture *picture = &s->coco.pictures[pair.item];
    size_t pixels = (size_t)picture->width * picture->height;
    char *why;
    uint32_t *ids = coco_try_segment_ids(&s->coco, pair.item, &why);
    if (why) { return unreadable(s, pair.item, why); }
    Image rgb = coco_load_picture(&s->coco, pair.item, &why);
    if (why) {
        free(ids);
        return unreadable(s, pair.item, why);
    }
    *item = (DatasetItem){.pair = pair, .frame = frame_pad(rgb.width, rgb.height, s->resolution)};
    item->pixels = xmalloc((size_t)s->resolution * s->resolution * 3 * sizeof *item->pixels);
    frame_picture(&item->frame, &rgb, item->pixels);
    uint8_t *mask = coco_class_mask(&s->coco, pair.item, pair.category, ids);
    item->truth = xmalloc(pixels);
    item->ignore = xmalloc(pixels);
    item->all_objects = xcalloc(pixels, 1);
    split_mask(mask, pixels, item->truth, item->ignore);
    mark_all_objects(&s->coco, pair.item, ids, item->all_objects);
    free(mask);
    free(ids);
    image_free(&rgb);
    return true;
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

bool dataset_read(const Dataset *s, Pair pair, const ModelSettings *settings, size_t latent_count, DatasetItem *item) {
    if (!s->crops) { return read_picture(s, pair, item); }
    *item = read_crop(s, pair, settings, latent_count);
    return true;
}

int dataset_read_some(const Dataset *s, Pair *pairs, int *count, int first, int most, const ModelSettings *settings,
                      size_t latent_count, DatasetItem *items) {
    int n = 0, at = first;
    for (; at < *count && n < most; at++) {
        Pair pair = pairs[at];
        if (dataset_read(s, pair, settings, latent_count, &items[n])) { pairs[first + n++] = pair; }
    }
    int left_out = at - first - n;
    if (left_out) {
        memmove(pairs + first + n, pairs + at, (size_t)(*count - at) * sizeof *pairs);
        *count -= left_out;
    }
    return n;
}

void dataset_want_pairs(const Dataset *s, int count) {
    if (count) { return; }
    if (!s->crops) { coco_say(&s->coco); }
    die("%s: none of the pictures that are asked for can be read", s->where);
}

const char *dataset_image_name(const Dataset *s, const Pair *pair, char number[24]) {
    if (!s->crops) { return coco_picture_name(&s->coco, pair->item, number); }
    snprintf(number, 24, "%lld", (long long)pair->image_id);
    return number;
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
    Paint paint = {.alpha = (float)settings->alpha, .outline = (float)settings->outline};
    for (int c = 0; c < 3; c++) { paint.color[c] = (uint8_t)settings->color[c]; }
    Image rgb = image_from_floats(item->pixels, f->W, f->H, 3);
    Image target =
        settings->target == TARGET_MASK ? paint_mask(mask, f->W, f->H, &paint) : paint_overlay(&rgb, mask, &paint);
    image_to_floats(&target, pixels);
    image_free(&target);
    image_free(&rgb);
    free(mask);
}
