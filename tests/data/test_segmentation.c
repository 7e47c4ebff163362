// Polygons with corners anywhere: against the walk along the border by its definition, one fine pixel after the other.
// tests/reference/test_data_masks.py compares with pycocotools.
#include "data/segmentation.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { FINE = 5 };

// The columns that a line's walk passes, as switches[column * height + pixel]; the last pixel is one below.
static void walk(const int from[2], const int to[2], int width, int height, uint8_t *odd) {
    int dx = abs(to[0] - from[0]), dy = abs(to[1] - from[1]), length = dx >= dy ? dx : dy, before[2] = {0};
    bool flip = dx >= dy ? from[0] > to[0] : from[1] > to[1];
    const int *a = flip ? to : from, *b = flip ? from : to;
    for (int t = 0; t <= length && length; t++) {
        volatile double rise = (dx >= dy ? (double)(b[1] - a[1]) / dx : (double)(b[0] - a[0]) / dy) * t;
        int at[2] = {dx >= dy ? a[0] + t : (int)(a[0] + rise + 0.5), dx >= dy ? (int)(a[1] + rise + 0.5) : a[1] + t};
        int left = at[0] < before[0] ? at[0] : before[0];
        if (t > 0 && at[0] != before[0] && left >= 0 && left % FINE == FINE / 2 && left / FINE < width) {
            double y = ((at[1] < before[1] ? at[1] : before[1]) + 0.5) / FINE - 0.5;
            odd[left / FINE * height + (int)ceil(fmin(fmax(y, 0), height))] ^= 1;
        }
        memcpy(before, at, sizeof at);
    }
}

static void fill_slowly(const double *points, int count, int width, int height, uint8_t *mask) {
    uint8_t *odd = xcalloc((size_t)(width * height) + 1, 1), inside = 0;
    for (int i = 0; i < count; i++) {
        int ends[2][2];
        for (int k = 0; k < 4; k++) {
            volatile double fine = FINE * points[(2 * i + k) % (2 * count)];
            ends[k / 2][k % 2] = (int)(fine + 0.5);
        }
        walk(ends[0], ends[1], width, height, odd);
    }
    for (int i = 0; i < width * height; i++) {
        inside ^= odd[i];
        mask[i % height * width + i / height] |= inside;
    }
    free(odd);
}

static void fill(const double *points, int count, int width, int height, uint8_t *mask) {
    Runs runs = {0};
    polygon_runs(points, count, width, height, &runs);
    runs_fill(&runs, width, height, mask);
    free(runs.list);
}

// A coordinate around the picture, up to `spread` times its side away; whole, in hundredths, or any.
static double coordinate(Random *random, int side, double spread, int kind) {
    double x = side / 2.0 + (random_uniform(random) - 0.5) * spread * side;
    return kind == 0 ? rint(x) : kind == 1 ? rint(100 * x) / 100 : x;
}

static void test_anywhere(void **state) {
    (void)state;
    static const double spreads[] = {0.5, 1, 3, 40};
    enum { SIDE = 60, MOST = 3000 };
    double *points = xcalloc(2 * MOST, sizeof *points);
    for (int s = 0; s < 4; s++) {
        int differ = 0, pixels = 0, tried = 400;
        for (int k = 0; k < tried; k++) {
            Random random = random_begin(3, PHILOX_SHUFFLE, (uint32_t)s, (uint64_t)k);
            int width = 1 + (int)random_below(&random, SIDE), height = 1 + (int)random_below(&random, SIDE);
            int count = k % 40 ? 1 + (int)random_below(&random, 12) : MOST; // many corners: many switches in a column
            for (int i = 0; i < 2 * count; i++) {
                points[i] = coordinate(&random, i % 2 ? height : width, spreads[s], k % 3);
            }
            uint8_t mask[SIDE * SIDE] = {0}, expected[SIDE * SIDE] = {0};
            fill(points, count, width, height, mask);
            fill_slowly(points, count, width, height, expected);
            differ += memcmp(mask, expected, sizeof mask) != 0;
            for (int i = 0; i < width * height; i++) { pixels += mask[i]; }
        }
        printf("corners up to %g sides away: %d polygons, %d pixels, %d masks differ\n", spreads[s], tried, pixels,
               differ);
        assert_true(differ == 0 && pixels > 1000);
    }
    free(points);
}

// Ten thousand lines of 100000 pixels, which a walk would take minutes for.
static void test_far_away(void **state) {
    (void)state;
    enum { CORNERS = 10000 };
    double *points = xcalloc(2 * CORNERS, sizeof *points);
    for (int i = 0; i < 2 * CORNERS; i++) { points[i] = (i / 2 + i) % 2 ? -1e5 : 1e5; }
    uint8_t mask[20 * 10] = {0};
    fill(points, CORNERS, 20, 10, mask);
    for (int i = 0; i < 200; i++) { assert_int_equal(mask[i], 0); } // there and back
    points[0] = points[1] = -1e5;                                   // and a half-plane
    points[2] = 1e5, points[3] = -1e5, points[4] = points[5] = 1e5;
    fill(points, 3, 20, 10, mask);
    printf("above the diagonal: %d, %d, below: %d\n", mask[1], mask[19], mask[180]);
    assert_true(mask[1] && mask[19] && !mask[180]);
    free(points);
}

// tests/reference/test_segment.py compares the text with pycocotools'.
static void test_runs_as_text(void **state) {
    (void)state;
    enum { SIDE = 40 };
    int masks = 0, letters = 0;
    for (int k = 0; k < 300; k++) {
        Random random = random_begin(5, PHILOX_SHUFFLE, 0, (uint64_t)k);
        int width = 1 + (int)random_below(&random, SIDE), height = 1 + (int)random_below(&random, SIDE), count;
        double density = k % 11 / 10.0; // also empty and full ones
        uint8_t mask[SIDE * SIDE] = {0}, back[SIDE * SIDE] = {0};
        for (int i = 0; i < width * height; i++) { mask[i] = random_uniform(&random) < density; }
        char *text = rle_to_text(mask, width, height);
        int32_t *runs = rle_from_text(text, strlen(text), &count);
        assert_non_null(runs);
        rle_fill(runs, count, width, height, back);
        assert_memory_equal(mask, back, sizeof mask);
        masks++, letters += (int)strlen(text);
        free(runs);
        free(text);
    }
    printf("%d masks are the same after %d letters of text\n", masks, letters);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_anywhere), cmocka_unit_test(test_far_away),
                                       cmocka_unit_test(test_runs_as_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
