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

// One run, to `to`; returns the end. A run takes at most 7 characters.
static char *put_run(char *to, int64_t value) {
    for (int more = 1; more;) {
        int low = (int)(value & 31);
        value >>= 5;
        more = low & 16 ? value != -1 : value != 0;
        *to++ = (char)('0' + (low | (more ? 32 : 0)));
    }
    return to;
}

char *rle_to_text(const uint8_t *mask, int width, int height) {
    int64_t pixels = (int64_t)width * height, before[2] = {0}; // before[0]: the run two before, from the fourth on
    int count = 0;
    size_t used = 0, capacity = 0;
    char *text = NULL;
    for (int64_t begin = 0, end; begin < pixels || count == 0; begin = end, count++) {
        for (end = begin; end < pixels && mask[end % height * width + end / height] == count % 2;) { end++; }
        if (used + 8 > capacity) { text = xrealloc(text, capacity = 2 * capacity + 64); }
        used = (size_t)(put_run(text + used, end - begin - (count > 2 ? before[0] : 0)) - text);
        before[0] = before[1];
        before[1] = end - begin;
    }
    text[used] = 0;
    return text;
}

// The border of a polygon is walked on a grid five times finer; where it passes the middle of a pixel column, the mask
// switches between outside and inside at the pixel below. Only those places are computed, and none outside of the
// picture's columns: the work is bounded by its width, whatever the coordinates.
enum { FINE = 5 };

typedef struct {
    int width, height, count;
    int32_t *switches; // pixel numbers, down the columns
    uint8_t *odd;      // (width * height + 1) 1: an odd number of switches, of those that `switches` had no room for
} Border;

// The walk from one corner to another, `length` fine pixels along the longer axis. The other axis is always computed
// from the end with the smaller coordinate, so that both directions pass the same points.
typedef struct {
    int x, y, length; // from (x, y)
    bool flat;        // the longer axis is x
    double slope;
} Line;

static int line_other(const Line *l, int t) {
    volatile double rise = l->slope * t; // rounded here: a fused multiply-add could move a pixel of the border
    return (int)((l->flat ? l->y : l->x) + rise + 0.5);
}
static int line_x(const Line *l, int t) { return l->flat ? l->x + t : line_other(l, t); }
static int line_y(const Line *l, int t) { return l->flat ? line_other(l, t) : l->y + t; }

// The switches so far, as counts for each pixel: their number has no limit, that of the pixels has.
static void border_gather(Border *b) {
    if (!b->odd) { b->odd = xcalloc((size_t)b->width * (size_t)b->height + 1, 1); }
    for (int i = 0; i < b->count; i++) { b->odd[b->switches[i]] ^= 1; }
    b->count = 0;
}

// The line passes the middle of a column in its step from t - 1 to t.
static void border_switch(Border *b, const Line *l, int t, int column) {
    int before = line_y(l, t - 1), after = line_y(l, t);
    double y = ((after < before ? after : before) + 0.5) / FINE - 0.5;
    y = ceil(fmin(fmax(y, 0), b->height));
    if (b->count > 1024 + (int64_t)b->width * b->height / 64) { border_gather(b); }
    GROW(b->switches, b->count);
    b->switches[b->count++] = column * b->height + (int)y;
}

// The first t at which a steep line has passed from one side of `x` to the other: x, of which 0 < x, is on the right.
static int line_reach(const Line *l, int x) {
    bool grows = l->slope > 0;
    int t = (int)fmin(fmax((x - 0.5 - l->x) / l->slope, 0), l->length); // up to rounding
    while (t > 0 && (line_x(l, t - 1) >= x) == grows) { t--; }
    while (t < l->length && (line_x(l, t) >= x) != grows) { t++; }
    return t;
}

static void border_line(Border *b, int xs, int ys, int xe, int ye) {
    int dx = abs(xe - xs), dy = abs(ye - ys);
    bool flat = dx >= dy, flip = flat ? xs > xe : ys > ye;
    if (flip) {
        int x = xs, y = ys;
        xs = xe, ys = ye, xe = x, ye = y;
    }
    Line l = {.x = xs, .y = ys, .length = flat ? dx : dy, .flat = flat};
    if (l.length == 0) { return; } // repeated corner
    l.slope = flat ? (double)(ye - ys) / dx : (double)(xe - xs) / dy;
    int first = line_x(&l, 0), last = line_x(&l, l.length), low = first < last ? first : last,
        high = first < last ? last : first;
    int column = low <= FINE / 2 ? 0 : (low + FINE - 1 - FINE / 2) / FINE;
    // the middle of a column is between the fine pixels m and m + 1
    for (int m = column * FINE + FINE / 2; m < high && column < b->width; m += FINE, column++) {
        border_switch(b, &l, flat ? m + 1 - xs : line_reach(&l, m + 1), column);
    }
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int to_fine(double coordinate) {
    volatile double fine = FINE * coordinate; // see border_line
    return (int)(fine + 0.5);
}

static void add_run(Runs *runs, int begin, int end) {
    if (begin >= end) { return; }
    GROW(runs->list, runs->count);
    runs->list[runs->count++] = (Run){begin, end};
}

// From odd counts instead of from `switches`.
static void odd_runs(Border *b, Runs *runs) {
    int pixels = b->width * b->height, begin = -1;
    border_gather(b);
    for (int i = 0; i < pixels; i++) {
        if (!b->odd[i]) { continue; }
        if (begin >= 0) { add_run(runs, begin, i); }
        begin = begin < 0 ? i : -1;
    }
    if (begin >= 0) { add_run(runs, begin, pixels); }
    free(b->odd);
}

void polygon_runs(const double *points, int count, int width, int height, Runs *runs) {
    Border b = {.width = width, .height = height};
    for (int i = 0; i < count; i++) {
        const double *from = points + 2 * i, *to = points + 2 * ((i + 1) % count);
        border_line(&b, to_fine(from[0]), to_fine(from[1]), to_fine(to[0]), to_fine(to[1]));
    }
    if (b.odd) { odd_runs(&b, runs); }
    if (b.count) { qsort(b.switches, (size_t)b.count, sizeof *b.switches, ascending); }
    for (int i = 0; i < b.count; i += 2) {
        add_run(runs, b.switches[i], i + 1 < b.count ? b.switches[i + 1] : width * height);
    }
    free(b.switches);
}

void runs_fill(const Runs *runs, int width, int height, uint8_t *mask) {
    for (int i = 0; i < runs->count; i++) { fill_run(runs->list[i].begin, runs->list[i].end, width, height, mask); }
}

static int by_begin(const void *a, const void *b) {
    int x = ((const Run *)a)->begin, y = ((const Run *)b)->begin;
    return (x > y) - (x < y);
}

void runs_unite(Runs *runs) {
    int kept = 0;
    if (runs->count) { qsort(runs->list, (size_t)runs->count, sizeof *runs->list, by_begin); }
    for (int i = 0; i < runs->count; i++) {
        Run next = runs->list[i], *last = &runs->list[kept - 1];
        if (kept && next.begin <= last->end) {
            last->end = next.end > last->end ? next.end : last->end;
        } else {
            runs->list[kept++] = next;
        }
    }
    runs->count = kept;
}
