// Contact sheets: pictures with their captions in a grid, to be written with image_save.
#pragma once
#include "data/image.h"

typedef struct {
    const Image *image;  // scaled to fit the cell; NULL = empty cell
    const char *caption; // under the picture, wrapped to two lines at most; NULL = none
} Cell;

// A grid of rows x columns cells (row by row), each picture fitted into cell_side pixels. headings: one per column.
Image draw_sheet(const char *const *headings, const Cell *cells, int rows, int columns, int cell_side);
