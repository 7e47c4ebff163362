// COCO's two ways to write a mask. Both are defined by the reference implementation (pycocotools): pixels are counted
// down the columns, and a polygon's border follows a rule of its own.
#pragma once
#include <stddef.h>
#include <stdint.h>

// All masks are (height, width) bytes in row order; pixels inside are set to 1, the others are unchanged.

// Pixels [begin, end) of a mask, counted down the columns; a mask has fewer than 2^31.
typedef struct {
    int32_t begin, end;
} Run;
typedef struct {
    Run *list; // freed by the caller; begin with {0}
    int count;
} Runs;
// A polygon of `count` points x, y, x, y, ..., which is closed automatically. Its runs are appended; runs_unite sorts
// the runs of several and joins those that touch.
void polygon_runs(const double *points, int count, int width, int height, Runs *runs);
void runs_unite(Runs *runs);
void runs_fill(const Runs *runs, int width, int height, uint8_t *mask);

// runs: lengths of background, object, background, ... down the columns. Pixels beyond the mask are ignored.
void rle_fill(const int32_t *runs, int count, int width, int height, uint8_t *mask);

// Decodes the compressed form. It stores each run (from the fourth on, its difference to the run two before) in groups
// of 5 bits, lowest first, as characters from '0' on. Returns the runs, freed by the caller, and their number in
// *count; NULL if the text is damaged.
int32_t *rle_from_text(const char *text, size_t length, int *count);
// The compressed form of a mask (height, width) of 0 and 1; the caller frees it.
char *rle_to_text(const uint8_t *mask, int width, int height);
