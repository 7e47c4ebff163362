// Charts: as SVG in a page, bars also as a picture.
#pragma once
#include "data/image.h"
#include <stdbool.h>
#include <stdio.h>

enum { COLOR_SEEN, COLOR_UNSEEN, COLOR_GREY, COLOR_DARK, COLOR_THIRD, COLOR_FOURTH, COLORS };

typedef struct {
    const char *label;
    double value;     // not negative; NaN: "no data"
    double low, high; // whisker, where high > low
    double mark;      // a tick (the ceiling), where it is not NaN
    int color;
    const char *note; // shown when the pointer rests on the bar; may be NULL
} ChartBar;

typedef struct {
    const char *name;
    const double *x, *y;
    int count, color;
    bool dashed, dots;
    const double *low, *high; // a band around the line; NULL: none
} ChartLine;

typedef struct {
    const char *name;
    const double *x, *y;
    int count, color;
} ChartCloud;

// A row of names with their colours, in HTML.
void chart_legend(FILE *out, const char *const *names, const int *colors, int count);
// Horizontal bars on the scale 0..1. narrow: for half the page's width.
void chart_bars(FILE *out, const ChartBar *bars, int count, bool narrow);
// The same as a picture with title, a note in small print and legend, on a scale from 0 to the largest value. format:
// how a value is written, e.g. "%.1f %%".
Image chart_bars_picture(const char *title, const char *note, const char *const *names, const int *colors,
                         int name_count, const ChartBar *bars, int count, const char *format);
// Lines with axes. y from 0 to y_high (NaN: fitted to the values). log_x: for numbers of steps 1, 2, 4, ...
void chart_lines(FILE *out, const ChartLine *lines, int count, const char *x_label, const char *y_label, double y_high,
                 bool log_x);
// Points: x from 0 to 1, y > 0 on a logarithmic scale; with a legend, as a picture that can stand alone. marks
// (mark_count) are horizontal lines with a name each: clouds of one y.
void chart_scatter(FILE *out, const ChartCloud *clouds, int count, const ChartCloud *marks, int mark_count,
                   const char *x_label, const char *y_label);
