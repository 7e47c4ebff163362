// A drawing: an SVG in a page, or a picture in memory. Both take the same calls (cairo, DejaVu Sans). Lengths are in
// pixels, y points down, colours are 0xRRGGBB.
#pragma once
#include "data/image.h"
#include <cairo.h>
#include <stdbool.h>
#include <stdio.h>

enum { COLOR_INK = 0x20262e, COLOR_FAINT = 0x66707c, COLOR_LINE = 0xe3e6ea };

typedef struct {
    FILE *svg;                // NULL: a picture
    cairo_surface_t *surface; // the picture; for an SVG, it only measures texts
    cairo_t *cr;
    double font_size;
    bool bold;
} Canvas;

Canvas canvas_picture(int width, int height); // white
Canvas canvas_svg(FILE *out, int width, int height);
Image canvas_image(const Canvas *canvas); // what the picture shows so far
void canvas_end(Canvas *canvas);          // ends the SVG, or frees the picture

typedef enum { ALIGN_LEFT, ALIGN_CENTER, ALIGN_RIGHT } Align;
void canvas_font(Canvas *canvas, double size, bool bold); // for the texts that follow
double canvas_text_width(const Canvas *canvas, const char *text);
void canvas_text(Canvas *canvas, double x, double y, Align align, int color, const char *text); // y: the baseline
void canvas_text_upwards(Canvas *canvas, double x, double y, int color, const char *text); // SVG only; at the centre
// Cuts text to `width` in place, between characters (UTF-8), and adds an ellipsis. The buffer needs 3 spare bytes.
void canvas_fit_text(const Canvas *canvas, char *text, double width);

// A line through n points. Points whose y is not finite are skipped.
void canvas_path(Canvas *canvas, const double *x, const double *y, int n, double width, int color, bool dashed);
void canvas_line(Canvas *canvas, double x0, double y0, double x1, double y1, double width, int color);
// The area inside such a line; SVG only.
void canvas_area(Canvas *canvas, const double *x, const double *y, int n, int color, double opacity);
void canvas_bar(Canvas *canvas, double x, double y, double width, double height, int color);
void canvas_dot(Canvas *canvas, double x, double y, double radius, int color, double opacity);
// In an SVG, what is drawn between these two calls shows the text while the pointer rests on it. NULL: no text.
void canvas_note(Canvas *canvas, const char *text);
void canvas_note_end(Canvas *canvas);

// Text for a page or an SVG, with & < > " escaped.
void xml_text(FILE *out, const char *text);
