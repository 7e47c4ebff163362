// Charts as inline SVG, and the frame of a self-contained HTML page.
#pragma once
#include "data/image.h"
#include <stdbool.h>
#include <stdio.h>

enum { COLOR_SEEN, COLOR_UNSEEN, COLOR_GREY, COLOR_DARK, COLOR_THIRD, COLOR_FOURTH, COLORS };

typedef struct {
    const char *label;
    double value;     // in [0, 1]; NaN: "no data"
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

void html_text(FILE *out, const char *text); // with & < > " escaped
void html_begin(FILE *out, const char *title);
void html_end(FILE *out);
void html_image(FILE *out, const Image *image, const char *alternative); // <img> with the picture inside
// <figure id=...> with its caption, around one of the charts: figure_begin, chart_..., figure_end.
void figure_begin(FILE *out, const char *id, const char *title);
void figure_end(FILE *out, const char *caption); // caption may be NULL

// Horizontal bars on the scale 0..1. narrow: for half the page's width.
void chart_bars(FILE *out, const ChartBar *bars, int count, bool narrow);
// Lines with axes. y from 0 to y_high (NaN: fitted to the values). log_x: for numbers of steps 1, 2, 4, ...
void chart_lines(FILE *out, const ChartLine *lines, int count, const char *x_label, const char *y_label, double y_high,
                 bool log_x);
typedef struct {
    const char *name;
    const double *x, *y;
    int count, color;
} ChartCloud;
// Points: x from 0 to 1, y > 0 on a logarithmic scale; with a legend, as a picture that can stand alone. marks
// (mark_count) are horizontal lines with a name each: clouds of one y.
void chart_scatter(FILE *out, const ChartCloud *clouds, int count, const ChartCloud *marks, int mark_count,
                   const char *x_label, const char *y_label);
// A row of names with their colours.
void chart_legend(FILE *out, const char *const *names, const int *colors, int count);
