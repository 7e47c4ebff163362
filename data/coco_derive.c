#include "data/coco_derive.h"
#include "util/error.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Of a mask: pixels, and the box as x, y, width, height.
typedef struct {
    double area, box[4];
} Shape;

static Shape shape_of(const uint8_t *mask, int width, int height) {
    int left = width, right = -1, top = height, bottom = -1;
    long long count = 0;
    for (int y = 0; y < height; y++, mask += width) {
        const uint8_t *first = memchr(mask, 1, (size_t)width);
        if (!first) { continue; }
        int x = (int)(first - mask);
        left = x < left ? x : left;
        for (; x < width; x++) {
            count += mask[x];
            if (mask[x] && x > right) { right = x; }
        }
        top = y < top ? y : top;
        bottom = y;
    }
    if (!count) { return (Shape){0}; }
    return (Shape){(double)count, {left, top, right - left + 1, bottom - top + 1}};
}

// Coordinates are bounded as those of polygons.
static bool usable(const Segment *s) {
    bool bounded = s->area > 0 && s->area <= 1e10;
    for (int i = 0; i < 4; i++) { bounded &= fabs(s->bbox[i]) <= 1e5; }
    return bounded && s->bbox[2] > 0 && s->bbox[3] > 0;
}

// Whether the box is far from another, both cut at the picture.
static bool box_differs(const double *a, const double *b, const Picture *p) {
    bool differs = false;
    for (int axis = 0; axis < 2; axis++) {
        double size = axis ? p->height : p->width, most = fmax(4, 0.1 * b[2 + axis]);
        for (int end = 0; end < 2; end++) {
            double x = fmin(fmax(a[axis] + end * a[2 + axis], 0), size);
            double y = fmin(fmax(b[axis] + end * b[2 + axis], 0), size);
            differs |= fabs(x - y) > most;
        }
    }
    return differs;
}

static bool area_differs(double area, double pixels) {
    return fabs(area - pixels) > 16 && fabs(area - pixels) > pixels / 2;
}

static bool differs(const Segment *s, const Shape *shape, const Picture *p) {
    return area_differs(s->area, shape->area) || box_differs(s->bbox, shape->box, p);
}

// The polygons' box and the sum of their areas (the shoelace formula), which need no mask: not what the mask has, but
// near it, unless polygons overlap or leave the picture.
static Shape polygon_shape(const int32_t *data, bool exact) {
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY}, area = 0;
    int polygons = *data++;
    for (int i = 0; i < polygons; i++) {
        int n = *data++;
        double twice = 0, first[2] = {0}, before[2] = {0};
        for (int j = 0; j < n; j += 2) {
            double at[2];
            for (int axis = 0; axis < 2; axis++) {
                if (exact) {
                    memcpy(&at[axis], data + 2 * (j + axis), sizeof(double));
                } else {
                    at[axis] = data[j + axis] / 100.0;
                }
                low[axis] = fmin(low[axis], at[axis]);
                high[axis] = fmax(high[axis], at[axis]);
            }
            if (j == 0) { memcpy(first, at, sizeof at); }
            if (j > 0) { twice += before[0] * at[1] - at[0] * before[1]; }
            memcpy(before, at, sizeof at);
        }
        area += fabs(twice + before[0] * first[1] - first[0] * before[1]) / 2;
        data += exact ? 2 * n : n;
    }
    return (Shape){area, {low[0], low[1], high[0] - low[0], high[1] - low[1]}};
}

// What the runs of a run-length code cover, down the columns.
static Shape rle_shape(const int32_t *data) {
    int height = data[0], width = data[1], count = data[2], left = width, right = -1, top = height, bottom = -1;
    int64_t at = 0, pixels = 0;
    for (int i = 0; i < count; at += data[3 + i], i++) {
        int64_t end = at + data[3 + i];
        if (i % 2 == 0 || end == at) { continue; }
        int first = (int)(at / height), last = (int)((end - 1) / height);
        bool columns = last > first; // then it reaches the bottom of one and the top of the next
        int y = columns ? 0 : (int)(at % height), z = columns ? height - 1 : (int)((end - 1) % height);
        left = first < left ? first : left;
        right = last > right ? last : right;
        top = y < top ? y : top;
        bottom = z > bottom ? z : bottom;
        pixels += end - at;
    }
    if (!pixels) { return (Shape){0}; }
    return (Shape){(double)pixels, {left, top, right - left + 1, bottom - top + 1}};
}

// Whether a look at the mask is worth it.
static bool suspicious(const Coco *coco, const Segment *s, const Picture *p) {
    if (!usable(s)) { return true; }
    if (s->crowd) { return false; } // some of COCO's have boxes and areas of their own; nothing is drawn from them
    if (s->form == SEGMENT_PANOPTIC) {
        double right = s->bbox[0] + s->bbox[2], below = s->bbox[1] + s->bbox[3];
        return right > p->width + 4 || below > p->height + 4 || s->area > 1.5 * s->bbox[2] * s->bbox[3] + 16;
    }
    const int32_t *data = coco->pool + s->data;
    Shape shape = s->form == SEGMENT_RLE ? rle_shape(data) : polygon_shape(data, s->exact);
    return differs(s, &shape, p);
}

static void derive(const Coco *coco, int picture, Segment *s, const uint32_t *ids) {
    const Picture *p = &coco->pictures[picture];
    uint8_t *mask = xcalloc((size_t)p->width * (size_t)p->height, 1);
    coco_add_mask(coco, picture, s, ids, mask);
    Shape shape = shape_of(mask, p->width, p->height);
    free(mask);
    if (!usable(s) || (shape.area > 0 && differs(s, &shape, p))) {
        s->derived = 1 + (s->area != 0 && s->bbox[2] != 0);
        s->area = shape.area;
        memcpy(s->bbox, shape.box, sizeof s->bbox);
    }
}

// A panoptic PNG that cannot be read leaves whole-picture boxes, so that whoever needs the mask meets it and says so.
static void derive_picture(const Coco *coco, int picture) {
    const Picture *p = &coco->pictures[picture];
    uint32_t *ids = NULL;
    bool read = false;
    for (int i = p->first_segment; i < p->first_segment + p->count; i++) {
        Segment *s = &coco->segments[i];
        if (!suspicious(coco, s, p)) { continue; }
        if (coco->panoptic && !read) {
            char *why;
            ids = coco_try_segment_ids(coco, picture, &why);
            free(why);
            read = true;
        }
        if (!coco->panoptic || ids) {
            derive(coco, picture, s, ids);
        } else if (!usable(s)) {
            s->area = (double)p->width * p->height;
            memcpy(s->bbox, (double[]){0, 0, p->width, p->height}, sizeof s->bbox);
        }
    }
    free(ids);
}

void coco_derive(Coco *coco) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int p = 0; p < coco->picture_count; p++) { derive_picture(coco, p); }
    for (int i = 0; i < coco->segment_count; i++) {
        char id[32];
        snprintf(id, sizeof id, "%lld", (long long)coco->segments[i].id);
        if (coco->segments[i].derived == 2) {
            left_out_add(coco->computed, "areas and boxes of annotations", id, NULL);
        }
    }
}
