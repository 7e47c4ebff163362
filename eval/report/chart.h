// Charts: as SVG in a page, bars also as a picture.
#pragma once
#include "data/image.h"
#include <stdbool.h>
#include <stdio.h>

enum { SERIES_SEEN, SERIES_UNSEEN, SERIES_GREY, SERIES_DARK, SERIES_THIRD, SERIES_FOURTH, SERIES_COLORS };

typedef struct {
    const char *label;
    double value;     // not negative; NaN: "no data"
    double low, high; // whisker, where high > low
    double mark;      // a tick (the ceiling), where it is not NaN
    int color;
    const char *note; // shown while the pointer rests on the bar; may be NULL
} ChartBar;

typedef struct {
    const char *const *names;
    const int *colors;
    int count;
} ChartLegend;

// Horizontal bars on the scale 0..1. narrow: for half the page's width.
void chart_bars(FILE *out, const ChartBar *bars, int count, ChartLegend legend, bool narrow);
// The same as a picture with title and a note in small print, on a scale from 0 to the largest value. format: how a
// value is written, e.g. "%.1f %%".
Image chart_bars_picture(const char *title, const char *note, const ChartBar *bars, int count, ChartLegend legend,
                         const char *format);

typedef struct {
    const char *name;
    const double *x, *y;
    int count, color;
    bool dashed;
    enum { LINE, LINE_WITH_DOTS, CLOUD } style; // CLOUD: only dots
    const double *low, *high;                   // a band around the line; NULL: none
} ChartLine;

typedef struct {
    const char *x_label, *y_label;
    double x_high, y_high; // ends of axes that begin at 0; 0: chosen from the values
    bool log_x;            // with labels at the first line's points: 1, 2, 4, ...
    bool log_y;            // whole decades that hold all values above 0
    const char *top_label; // of a second x axis at the top, with a label for each of the first line's points
    const char *const *top;
    const char *mark; // of a vertical line at mark_x; NULL: none
    double mark_x;
} ChartAxes;

void chart_lines(FILE *out, const ChartLine *lines, int count, ChartAxes axes);
