#include "eval/variants.h"
#include "data/paint.h"
#include "eval/metrics.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdlib.h>
#include <string.h>

const char *const variant_names[VARIANT_KINDS] = {"eroded",       "dilated",       "shifted", "box",
                                                  "other object", "other picture", "empty",   "full"};

static void erode(uint8_t *mask, int R, int pixels) {
    for (int i = 0; i < R * R; i++) { mask[i] = !mask[i]; }
    mask_grow(mask, R, R, (float)pixels);
    for (int i = 0; i < R * R; i++) { mask[i] = !mask[i]; }
}

static void shift(uint8_t *out, const uint8_t *mask, int R, int dx, int dy) {
    for (int y = 0; y < R; y++) {
        for (int x = 0; x < R; x++) {
            int sx = x - dx, sy = y - dy;
            out[y * R + x] = sx >= 0 && sy >= 0 && sx < R && sy < R && mask[sy * R + sx];
        }
    }
}

static void fill_box(uint8_t *out, const uint8_t *mask, int R) {
    int x0 = R, y0 = R, x1 = -1, y1 = -1;
    for (int i = 0; i < R * R; i++) {
        if (!mask[i]) { continue; }
        int x = i % R, y = i / R;
        x0 = x < x0 ? x : x0, y0 = y < y0 ? y : y0, x1 = x > x1 ? x : x1, y1 = y > y1 ? y : y1;
    }
    for (int y = 0; y < R; y++) {
        for (int x = 0; x < R; x++) { out[y * R + x] = x >= x0 && x <= x1 && y >= y0 && y <= y1; }
    }
}

// The mask of the largest other class in the sample's crop; false if there is none.
static bool other_object(uint8_t *out, const Coco *coco, const SampleOptions *o, const Sample *s) {
    const Picture *picture = &coco->pictures[s->picture];
    const Segment *segments = coco->segments + picture->first_segment;
    float largest = 0;
    bool *done = xcalloc((size_t)coco->category_count, sizeof *done);
    for (int i = 0; i < picture->count; i++) {
        int c = segments[i].category;
        if (c == s->category || segments[i].crowd || done[c]) { continue; }
        done[c] = true;
        Sample other = {.picture = s->picture, .category = c, .x = s->x, .y = s->y, .side = s->side};
        other.valid = xcalloc((size_t)picture->count, 1);
        for (int k = 0; k < picture->count; k++) { other.valid[k] = segments[k].category == c && !segments[k].crowd; }
        sample_render_mask(coco, o, &other);
        if (other.area > largest) {
            largest = other.area;
            memcpy(out, other.mask, (size_t)o->resolution * (size_t)o->resolution);
        }
        sample_free(&other);
    }
    free(done);
    return largest > 0;
}

double mask_iou(const uint8_t *mask, const uint8_t *truth, int pixels) {
    PairScore score = pair_score(mask, truth, NULL, pixels);
    return pair_iou(&score);
}

// A variant made from the mask alone. d: distance in pixels, direction 0..3.
static void make_variant(uint8_t *out, VariantKind kind, int d, int direction, const Sample *s, int R) {
    size_t size = (size_t)R * (size_t)R;
    int step = direction & 1 ? -d : d;
    memcpy(out, s->mask, size);
    if (kind == MASK_ERODED) { erode(out, R, d); }
    if (kind == MASK_DILATED) { mask_grow(out, R, R, (float)d); }
    if (kind == MASK_SHIFTED) { shift(out, s->mask, R, direction & 2 ? step : 0, direction & 2 ? 0 : step); }
    if (kind == MASK_BOX) { fill_box(out, s->mask, R); }
    if (kind == MASK_EMPTY) { memset(out, 0, size); }
    if (kind == MASK_FULL) { memset(out, 1, size); }
}

int mask_variants(MaskVariant *variants, uint8_t *masks, const Coco *coco, const SampleOptions *o, const Sample *s,
                  const uint8_t *stranger) {
    int R = o->resolution, count = 0, farthest = R >= 32 ? R / 16 : 1;
    size_t size = (size_t)R * (size_t)R;
    Random random = random_begin(o->seed, PHILOX_VARIANTS, 0, (uint64_t)s->image_id);
    memcpy(masks, s->mask, size);
    for (int kind = 0; kind < VARIANT_KINDS; kind++) {
        bool sized = kind == MASK_ERODED || kind == MASK_DILATED || kind == MASK_SHIFTED;
        for (int d = 1; d <= (sized ? farthest : 1) && count < MAX_VARIANTS; d *= 2) {
            uint8_t *mask = masks + size * (size_t)(count + 1);
            int direction = (int)random_below(&random, 4);
            if (kind == MASK_OTHER_PICTURE) {
                memcpy(mask, stranger, size);
            } else if (kind == MASK_OTHER_OBJECT) {
                if (!other_object(mask, coco, o, s)) { continue; }
            } else {
                make_variant(mask, (VariantKind)kind, d, direction, s, R);
            }
            double iou = mask_iou(mask, s->mask, (int)size);
            if (iou < 1) { variants[count++] = (MaskVariant){(VariantKind)kind, sized ? d : 0, iou}; }
        }
    }
    return count;
}
