#include "data/segmentation.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>

// Sets the pixels numbered [begin, end), counted down the columns.
static void fill_run(int64_t begin, int64_t end, int width, int height, uint8_t *mask) {
    if (end > (int64_t)width * height) { end = (int64_t)width * height; }
    if (begin >= end) { return; }
    int x = (int)(begin / height), y = (int)(begin % height);
    for (int64_t i = begin; i < end; i++) {
        mask[(size_t)y * width + x] = 1;
        if (++y == height) {
            y = 0;
            x++;
        }
    }
}

void rle_fill(const int32_t *runs, int count, int width, int height, uint8_t *mask) {
    int64_t at = 0;
    for (int i = 0; i < count; i++) {
        if (i % 2) { fill_run(at, at + runs[i], width, height, mask); }
        at += runs[i];
    }
}

int32_t *rle_from_text(const char *text, size_t length, int *count) {
    int32_t *runs = xcalloc(length + 1, sizeof *runs); // every run takes at least one character
    int n = 0;
    for (size_t p = 0; p < length; n++) {
        int64_t value = 0;
        for (int shift = 0, more = 1; more; shift += 5) {
            int c = p < length ? text[p++] - '0' : -1;
            if (c < 0 || c > 63 || shift > 30) {
                free(runs);
                return NULL;
            }
            value |= (int64_t)(c & 31) << shift;
            more = c & 32;
            if (!more && (c & 16)) { value -= (int64_t)32 << shift; } // the sign is the last group's top bit
        }
        if (n > 2) { value += runs[n - 2]; }
        if (value < 0 || value > INT32_MAX) {
            free(runs);
            return NULL;
        }
        runs[n] = (int32_t)value;
    }
    *count = n;
    return runs;
}

// The border of a polygon is walked on a grid five times finer; where it passes the middle of a pixel column, the mask
// switches between outside and inside at the pixel below.
enum { FINE = 5 };

typedef struct {
    int width, height, count;
    int64_t *switches; // pixel numbers, down the columns
    int u, v, started; // the previous point of the walk
} Border;

// One step of the walk to the fine point (u, v).
static void border_step(Border *b, int u, int v) {
    int u0 = b->u, v0 = b->v, first = !b->started;
    b->u = u;
    b->v = v;
    b->started = 1;
    if (first || u == u0) { return; }
    int column = u < u0 ? u : u - 1; // the fine column to the left of the step
    if (column < FINE / 2 || column % FINE != FINE / 2 || column / FINE >= b->width) { return; }
    double y = ((v < v0 ? v : v0) + 0.5) / FINE - 0.5;
    y = ceil(fmin(fmax(y, 0), b->height));
    GROW(b->switches, b->count);
    b->switches[b->count++] = (int64_t)(column / FINE) * b->height + (int64_t)y;
}

// From one corner to the next, one fine pixel at a time along the longer axis. The other axis is always computed from
// the end with the smaller coordinate, so that both directions pass the same points.
static void border_line(Border *b, int xs, int ys, int xe, int ye) {
    int dx = abs(xe - xs), dy = abs(ye - ys), length = dx >= dy ? dx : dy;
    int flip = dx >= dy ? xs > xe : ys > ye;
    if (length == 0) { return; } // repeated corner
    int x0 = flip ? xe : xs, y0 = flip ? ye : ys, x1 = flip ? xs : xe, y1 = flip ? ys : ye;
    double slope = dx >= dy ? (double)(y1 - y0) / dx : (double)(x1 - x0) / dy;
    for (int d = 0; d <= length; d++) {
        int t = flip ? length - d : d;
        volatile double rise = slope * t; // rounded here: a fused multiply-add could move a pixel of the border
        if (dx >= dy) {
            border_step(b, x0 + t, (int)(y0 + rise + 0.5));
        } else {
            border_step(b, (int)(x0 + rise + 0.5), y0 + t);
        }
    }
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int to_fine(double coordinate) {
    volatile double fine = FINE * coordinate; // see border_line
    return (int)(fine + 0.5);
}

void polygon_fill(const double *points, int count, int width, int height, uint8_t *mask) {
    Border b = {.width = width, .height = height};
    for (int i = 0; i < count; i++) {
        const double *from = points + 2 * i, *to = points + 2 * ((i + 1) % count);
        border_line(&b, to_fine(from[0]), to_fine(from[1]), to_fine(to[0]), to_fine(to[1]));
    }
    if (b.count) { qsort(b.switches, (size_t)b.count, sizeof *b.switches, ascending); }
    for (int i = 0; i < b.count; i += 2) {
        int64_t end = i + 1 < b.count ? b.switches[i + 1] : (int64_t)width * height;
        fill_run(b.switches[i], end, width, height, mask);
    }
    free(b.switches);
}
