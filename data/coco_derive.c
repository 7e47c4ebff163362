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

static const char empty_mask[] = "annotations with an empty mask", wrong_shape[] = "areas and boxes of annotations";

// What runs of pixels, counted down the columns, cover.
typedef struct {
    int height, left, right, top, bottom;
    int64_t pixels;
} Extent;

static Extent extent_begin(const Picture *p) { return (Extent){p->height, p->width, -1, p->height, -1, 0}; }

static void extend(Extent *e, int64_t begin, int64_t end) {
    if (begin == end) { return; }
    int first = (int)(begin / e->height), last = (int)((end - 1) / e->height);
    bool columns = last > first; // then it reaches the bottom of one and the top of the next
    int y = columns ? 0 : (int)(begin % e->height), z = columns ? e->height - 1 : (int)((end - 1) % e->height);
    e->left = first < e->left ? first : e->left;
    e->right = last > e->right ? last : e->right;
    e->top = y < e->top ? y : e->top;
    e->bottom = z > e->bottom ? z : e->bottom;
    e->pixels += end - begin;
}

static Shape extent_shape(const Extent *e) {
    if (!e->pixels) { return (Shape){0}; }
    return (Shape){(double)e->pixels, {e->left, e->top, e->right - e->left + 1, e->bottom - e->top + 1}};
}

// The ratio of two areas stays finite.
static bool usable_area(double area) { return area >= 1e-6 && area <= 1e10; }

// Coordinates are bounded as those of polygons.
static bool usable_box(const double *box) {
    bool bounded = true;
    for (int i = 0; i < 4; i++) { bounded &= fabs(box[i]) <= 1e5; }
    return bounded && box[2] > 0 && box[3] > 0;
}

static bool usable(const Segment *s) { return usable_area(s->area) && usable_box(s->bbox); }

static bool box_differs(const double *box, const double *right) {
    bool differs = false;
    for (int axis = 0; axis < 2; axis++) {
        double begin = box[axis] - right[axis], end = begin + box[2 + axis] - right[2 + axis];
        differs |= fmax(fabs(begin), fabs(end)) > fmax(4, 0.1 * right[2 + axis]);
    }
    return differs;
}

static bool area_differs(double area, double pixels) {
    return fabs(area - pixels) > 16 && fabs(area - pixels) > pixels / 2;
}

static bool differs(const Segment *s, const Shape *shape) {
    return area_differs(s->area, shape->area) || box_differs(s->bbox, shape->box);
}

// Whether a box leaves the picture by more than `margin` pixels.
static bool leaves(const double *box, const Picture *p, double margin) {
    return box[0] < -margin || box[1] < -margin || box[0] + box[2] > p->width + margin ||
           box[1] + box[3] > p->height + margin;
}

// The polygons' box, length (*border) and sum of areas (the shoelace formula), which need no mask: not what the mask
// has, but near it, unless polygons overlap or leave the picture.
static Shape polygon_shape(const int32_t *data, bool exact, double *border) {
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY}, area = 0;
    int polygons = *data++;
    *border = 0;
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
            if (j > 0) { *border += hypot(at[0] - before[0], at[1] - before[1]); }
            memcpy(before, at, sizeof at);
        }
        *border += hypot(first[0] - before[0], first[1] - before[1]);
        area += fabs(twice + before[0] * first[1] - first[0] * before[1]) / 2;
        data += exact ? 2 * n : n;
    }
    return (Shape){area, {low[0], low[1], high[0] - low[0], high[1] - low[1]}};
}

static Shape rle_shape(const int32_t *data, const Picture *p) {
    Extent e = extent_begin(p);
    int64_t at = 0;
    for (int i = 0; i < data[2]; at += data[3 + i], i++) {
        if (i % 2) { extend(&e, at, at + data[3 + i]); }
    }
    return extent_shape(&e);
}

// What is worth a look at the mask: values that may be wrong, or only that it may be empty.
typedef enum { FINE, MAYBE_EMPTY, MAYBE_WRONG } Suspicion;

static Suspicion suspicion(const Coco *coco, const Segment *s, const Picture *p) {
    if (!usable(s)) { return MAYBE_WRONG; }
    if (s->crowd) { return FINE; } // some of COCO's have boxes and areas of their own; nothing is drawn from them
    if (s->form == SEGMENT_PANOPTIC) {
        return leaves(s->bbox, p, 4) || s->area > 1.5 * s->bbox[2] * s->bbox[3] + 16 ? MAYBE_WRONG : FINE;
    }
    const int32_t *data = coco->pool + s->data;
    double border = 0; // of run-length codes: their shape is exact
    Shape shape = s->form == SEGMENT_RLE ? rle_shape(data, p) : polygon_shape(data, s->exact, &border);
    if (leaves(shape.box, p, 1) || differs(s, &shape)) { return MAYBE_WRONG; }
    // The area of a region is at most its border times the radius of its largest disc, and a disc of two pixels covers
    // some. A ring that is traced twice can hide an empty mask from this.
    return shape.area <= 2 * border ? MAYBE_EMPTY : FINE;
}

// Of the union of a segment's polygons. No mask is made: it could be far larger than the file.
static Shape united_shape(const Coco *coco, const Segment *s, const Picture *p) {
    Runs runs = coco_polygon_runs(coco, p, s);
    Extent e = extent_begin(p);
    runs_unite(&runs);
    for (int i = 0; i < runs.count; i++) { extend(&e, runs.list[i].begin, runs.list[i].end); }
    free(runs.list);
    return extent_shape(&e);
}

static Shape ids_shape(const uint32_t *ids, int64_t id, const Picture *p) {
    Extent e = extent_begin(p);
    for (int y = 0; y < p->height; y++) {
        for (int x = 0; x < p->width; x++) {
            int64_t at = (int64_t)x * p->height + y;
            if (*ids++ == id) { extend(&e, at, at + 1); }
        }
    }
    return extent_shape(&e);
}

// Without a mask, an area or a box that is not usable becomes the picture's.
static void cover_picture(Segment *s, const Picture *p) {
    if (!usable_area(s->area)) { s->area = (double)p->width * p->height; }
    if (!usable_box(s->bbox)) { memcpy(s->bbox, (double[]){0, 0, p->width, p->height}, sizeof s->bbox); }
}

static void derive(const Coco *coco, int picture, Segment *s, const uint32_t *ids, bool maybe_wrong) {
    const Picture *p = &coco->pictures[picture];
    Shape shape = s->form == SEGMENT_RLE        ? rle_shape(coco->pool + s->data, p)
                  : s->form == SEGMENT_POLYGONS ? united_shape(coco, s, p)
                                                : ids_shape(ids, s->id, p);
    if (!shape.area) {
        s->shape = SHAPE_EMPTY;
        s->form = SEGMENT_NO_MASK;
        cover_picture(s, p);
    } else if (maybe_wrong && (!usable(s) || differs(s, &shape))) {
        s->shape = s->area != 0 && s->bbox[2] != 0 ? SHAPE_WRONG : SHAPE_MISSING;
        s->area = shape.area;
        memcpy(s->bbox, shape.box, sizeof s->bbox);
    }
}

// A panoptic PNG that cannot be read leaves the segments their masks, so that whoever needs one meets it and says so.
static void derive_picture(const Coco *coco, int picture) {
    const Picture *p = &coco->pictures[picture];
    uint32_t *ids = NULL;
    bool read = false;
    for (int i = p->first_segment; i < p->first_segment + p->count; i++) {
        Segment *s = &coco->segments[i];
        if (s->form == SEGMENT_NO_MASK) {
            cover_picture(s, p);
            continue;
        }
        Suspicion found = suspicion(coco, s, p);
        if (found == FINE) { continue; }
        if (coco->panoptic && !read) {
            char *why;
            ids = coco_try_segment_ids(coco, picture, &why);
            free(why);
            read = true;
        }
        if (!coco->panoptic || ids) {
            derive(coco, picture, s, ids, found == MAYBE_WRONG);
        } else {
            cover_picture(s, p);
        }
    }
    free(ids);
}

// Lists the segments whose values in the file are wrong.
static void note_picture(const Coco *coco, int picture) {
    const Picture *p = &coco->pictures[picture];
    for (int i = p->first_segment; i < p->first_segment + p->count; i++) {
        const Segment *s = &coco->segments[i];
        if (s->shape != SHAPE_WRONG && s->shape != SHAPE_EMPTY) { continue; }
        char number[24], *name = coco_segment_name(coco, coco_picture_name(coco, picture, number), s);
        if (s->shape == SHAPE_WRONG) { left_out_add(coco->computed, wrong_shape, name, NULL); }
        if (s->shape == SHAPE_EMPTY) { left_out_add(coco->left_out, empty_mask, name, NULL); }
        free(name);
    }
}

void coco_derive(Coco *coco) {
#pragma omp parallel for schedule(dynamic, 64)
    for (int p = 0; p < coco->picture_count; p++) { derive_picture(coco, p); }
    for (int p = 0; p < coco->picture_count; p++) { note_picture(coco, p); }
}
