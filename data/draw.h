// Charts and contact sheets as pictures (cairo, DejaVu Sans), to be written with image_save.
#pragma once
#include "data/image.h"

typedef struct {
    const char *label;
    double value;     // not negative; NaN draws no bar and "n/a"
    int group;        // 0..3: the colour
    double low, high; // an interval drawn as a whisker, if high > low
} Bar;

// Horizontal bars, one a row; neighbours with the same label share a row. groups: a name per group for the legend
// (`group_count` of them; 0 = no legend). format: how a value is written, e.g. "%.0f" or "%.3f". note (may be NULL):
// small print under the title.
Image draw_bars(const char *title, const char *note, const Bar *bars, int count, const char *const *groups,
                int group_count, const char *format);

typedef struct {
    const Image *image;  // scaled to fit the cell; NULL = empty cell
    const char *caption; // under the picture, wrapped to two lines at most; NULL = none
} Cell;

// A grid of rows x columns cells (row by row), each picture fitted into cell_side pixels. headings: one per column, or
// NULL. title may be NULL.
Image draw_sheet(const char *title, const char *const *headings, const Cell *cells, int rows, int columns,
                 int cell_side);
