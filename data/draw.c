#include "data/draw.h"
#include "util/error.h"
#include <cairo.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double r, g, b;
} Color;
static const Color ink = {0.13, 0.15, 0.18}, faint = {0.42, 0.45, 0.50}, line = {0.88, 0.89, 0.91}, paper = {1, 1, 1};
static const Color groups_color[4] = {{0.22, 0.46, 0.75}, {0.93, 0.55, 0.18}, {0.25, 0.63, 0.42}, {0.60, 0.62, 0.66}};

typedef enum { LEFT, CENTER, RIGHT } Align;

static void set_color(cairo_t *cr, Color c) { cairo_set_source_rgb(cr, c.r, c.g, c.b); }

static void set_font(cairo_t *cr, double size, bool bold) {
    cairo_select_font_face(cr, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cr, size);
}

static double text_width(cairo_t *cr, const char *text) {
    cairo_text_extents_t extents;
    cairo_text_extents(cr, text, &extents);
    return extents.x_advance;
}

// Text in the present font with its baseline at y.
static void put_text(cairo_t *cr, double x, double y, Align align, Color color, const char *text) {
    set_color(cr, color);
    cairo_move_to(cr, round(x - text_width(cr, text) * (align == CENTER ? 0.5 : align == RIGHT ? 1 : 0)), y);
    cairo_show_text(cr, text);
}

// Cuts text to `width` pixels with an ellipsis, at a character's border (UTF-8), in place; it has room for 3 bytes
// more.
static void fit_text(cairo_t *cr, char *text, double width) {
    if (text_width(cr, text) <= width) { return; }
    for (size_t n = strlen(text); n > 0;) {
        do { n--; } while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80);
        strcpy(text + n, "…");
        if (text_width(cr, text) <= width) { return; }
    }
}

// Splits text at blanks into at most `most` lines of `width` pixels; each line is to be freed. Returns their number.
static int wrap_text(cairo_t *cr, const char *text, double width, int most, char **lines) {
    int count = 0;
    while (*text && count < most) {
        size_t taken = strlen(text);
        char *out = xmalloc(taken + 4);
        strcpy(out, text);
        while (count + 1 < most && text_width(cr, out) > width) {
            char *blank = strrchr(out, ' ');
            if (!blank) { break; }
            *blank = 0;
            taken = (size_t)(blank - out);
        }
        fit_text(cr, out, width);
        lines[count++] = out;
        text += taken + (text[taken] == ' ');
    }
    return count;
}

static void put_lines(cairo_t *cr, double x, double y, double leading, Align align, Color color, char **lines,
                      int count) {
    for (int i = 0; i < count; i++) {
        put_text(cr, x, y + i * leading, align, color, lines[i]);
        free(lines[i]);
    }
}

typedef struct {
    cairo_surface_t *surface;
    cairo_t *cr;
} Canvas;

static Canvas canvas_new(int width, int height) {
    Canvas c = {.surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height)};
    if (cairo_surface_status(c.surface) != CAIRO_STATUS_SUCCESS) {
        die("cannot draw a picture of %d x %d pixels: %s", width, height,
            cairo_status_to_string(cairo_surface_status(c.surface)));
    }
    c.cr = cairo_create(c.surface);
    set_color(c.cr, paper);
    cairo_paint(c.cr);
    return c;
}

static Image canvas_finish(Canvas *c) {
    cairo_surface_flush(c->surface);
    int width = cairo_image_surface_get_width(c->surface), height = cairo_image_surface_get_height(c->surface);
    int stride = cairo_image_surface_get_stride(c->surface);
    const unsigned char *data = cairo_image_surface_get_data(c->surface);
    Image image = image_new(width, height, 3);
    for (int y = 0; y < height; y++) {
        const uint32_t *row = (const uint32_t *)(data + (size_t)y * stride);
        uint8_t *out = image.pixels + (size_t)y * width * 3;
        for (int x = 0; x < width; x++) {
            for (int k = 0; k < 3; k++) { *out++ = (uint8_t)(row[x] >> (16 - 8 * k)); }
        }
    }
    cairo_destroy(c->cr);
    cairo_surface_destroy(c->surface);
    return image;
}

// A step of 1, 2 or 5 times a power of ten with at most 8 steps up to `highest`.
static double nice_step(double highest) {
    double power = pow(10, floor(log10(highest / 8)));
    for (;; power *= 10) {
        for (int i = 0; i < 3; i++) {
            double step = power * (i == 0 ? 1 : i == 1 ? 2 : 5);
            if (highest / step <= 8) { return step; }
        }
    }
}

enum { BARS_WIDTH = 960, MARGIN = 28, ROW = 24 };

typedef struct {
    double left, right, top, bottom, highest;
} Plot;

static double plot_x(const Plot *p, double value) { return p->left + value / p->highest * (p->right - p->left); }

static void draw_grid(cairo_t *cr, const Plot *p) {
    double step = nice_step(p->highest);
    set_font(cr, 11, false);
    for (int i = 0; i * step <= p->highest * 1.0001; i++) {
        double x = round(plot_x(p, i * step)) + 0.5;
        char text[32];
        snprintf(text, sizeof text, "%.10g", i * step);
        set_color(cr, line);
        cairo_set_line_width(cr, 1);
        cairo_move_to(cr, x, p->top);
        cairo_line_to(cr, x, p->bottom);
        cairo_stroke(cr);
        put_text(cr, x, p->bottom + 15, CENTER, faint, text);
    }
}

static void draw_bar(cairo_t *cr, const Plot *p, const Bar *bar, double y, double thickness, const char *format) {
    char text[64] = "n/a";
    double end = p->left;
    if (!isnan(bar->value)) {
        end = plot_x(p, fmax(bar->value, 0));
        set_color(cr, groups_color[bar->group & 3]);
        cairo_rectangle(cr, p->left, y, fmax(end - p->left, 1), thickness);
        cairo_fill(cr);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, format, bar->value);
#pragma GCC diagnostic pop
    }
    if (bar->high > bar->low) {
        double a = plot_x(p, bar->low), b = plot_x(p, bar->high), middle = y + thickness / 2;
        set_color(cr, ink);
        cairo_set_line_width(cr, 1.2);
        cairo_move_to(cr, a, middle);
        cairo_line_to(cr, b, middle);
        for (int i = 0; i < 2; i++) {
            cairo_move_to(cr, i ? b : a, middle - 3.5);
            cairo_line_to(cr, i ? b : a, middle + 3.5);
        }
        cairo_stroke(cr);
        end = fmax(end, b);
    }
    set_font(cr, 11, false);
    put_text(cr, end + 6, y + thickness / 2 + 4, LEFT, faint, text);
}

static void draw_legend(cairo_t *cr, double y, const char *const *groups, int count) {
    double x = MARGIN;
    set_font(cr, 12, false);
    for (int i = 0; i < count; i++) {
        set_color(cr, groups_color[i & 3]);
        cairo_rectangle(cr, x, y - 10, 11, 11);
        cairo_fill(cr);
        put_text(cr, x + 17, y, LEFT, ink, groups[i]);
        x += 17 + text_width(cr, groups[i]) + 22;
    }
}

// Rows: bars that follow each other under the same label share one.
static int count_rows(const Bar *bars, int count) {
    int rows = 0;
    for (int i = 0; i < count; i++) { rows += i == 0 || strcmp(bars[i].label, bars[i - 1].label) != 0; }
    return rows;
}

static Plot layout_bars(cairo_t *cr, const Bar *bars, int count, double top, double bottom) {
    double labels = 40, values = 60, highest = 0;
    set_font(cr, 12, false);
    for (int i = 0; i < count; i++) {
        labels = fmax(labels, text_width(cr, bars[i].label));
        if (!isnan(bars[i].value)) { highest = fmax(highest, fmax(bars[i].value, bars[i].high)); }
    }
    labels = fmin(labels, 300);
    return (Plot){MARGIN + labels + 12, BARS_WIDTH - MARGIN - values, top, bottom, highest > 0 ? highest : 1};
}

Image draw_bars(const char *title, const char *note, const Bar *bars, int count, const char *const *groups,
                int group_count, const char *format) {
    int rows = count_rows(bars, count);
    double top = MARGIN + 24 + (note ? 22 : 0) + (group_count ? 26 : 0);
    int per_row = rows ? (count + rows - 1) / rows : 1; // bars side by side make the rows thicker
    double row = ROW + (per_row - 1) * 10, bottom = top + rows * row + 6;
    Canvas canvas = canvas_new(BARS_WIDTH, (int)bottom + 24 + MARGIN / 2);
    cairo_t *cr = canvas.cr;
    set_font(cr, 18, true);
    put_text(cr, MARGIN, MARGIN + 12, LEFT, ink, title);
    set_font(cr, 12, false);
    if (note) { put_text(cr, MARGIN, MARGIN + 34, LEFT, faint, note); }
    if (group_count) { draw_legend(cr, top - 12, groups, group_count); }
    Plot plot = layout_bars(cr, bars, count, top, bottom);
    draw_grid(cr, &plot);
    double y = top + 4;
    for (int i = 0; i < count;) {
        int same = 1;
        while (i + same < count && strcmp(bars[i].label, bars[i + same].label) == 0) { same++; }
        double thickness = (row - 7) / same;
        set_font(cr, 12, false);
        char *label = xprintf("%s   ", bars[i].label);
        label[strlen(bars[i].label)] = 0;
        fit_text(cr, label, plot.left - 12 - MARGIN);
        put_text(cr, plot.left - 9, y + (row - 7) / 2 + 4, RIGHT, ink, label);
        free(label);
        for (int j = 0; j < same; j++) { draw_bar(cr, &plot, &bars[i + j], y + j * thickness, thickness - 1, format); }
        y += row;
        i += same;
    }
    return canvas_finish(&canvas);
}

enum { GAP = 12, CAPTION_LINES = 2, LEADING = 16 };

// The picture scaled into a square cell; x and y get its upper left corner in it.
static Image fit_picture(const Image *image, int side, int *x, int *y) {
    double scale = fmin((double)side / image->width, (double)side / image->height);
    int width = (int)fmax(1, round(image->width * scale)), height = (int)fmax(1, round(image->height * scale));
    *x = (side - width) / 2;
    *y = (side - height) / 2;
    return image_resize(image, 0, 0, image->width, image->height, width, height, FILTER_LANCZOS);
}

static void paste(Image *sheet, const Image *image, int x, int y) {
    for (int j = 0; j < image->height; j++) {
        for (int i = 0; i < image->width; i++) {
            const uint8_t *from = image->pixels + ((size_t)j * image->width + i) * image->channels;
            uint8_t *to = sheet->pixels + ((size_t)(y + j) * sheet->width + x + i) * 3;
            for (int c = 0; c < 3; c++) { to[c] = from[image->channels == 3 ? c : 0]; }
        }
    }
}

// The most lines that a caption takes.
static int caption_lines(const Cell *cells, int count, int width) {
    Canvas canvas = canvas_new(1, 1);
    set_font(canvas.cr, 12, false);
    int most = 0;
    for (int i = 0; i < count; i++) {
        char *lines[CAPTION_LINES];
        int n = cells[i].caption ? wrap_text(canvas.cr, cells[i].caption, width, CAPTION_LINES, lines) : 0;
        most = n > most ? n : most;
        for (int k = 0; k < n; k++) { free(lines[k]); }
    }
    Image none = canvas_finish(&canvas);
    image_free(&none);
    return most;
}

Image draw_sheet(const char *title, const char *const *headings, const Cell *cells, int rows, int columns,
                 int cell_side) {
    int captions = caption_lines(cells, rows * columns, cell_side);
    int top = MARGIN + (title ? 30 : 0) + (headings ? 22 : 0);
    int row = cell_side + GAP + (captions ? captions * LEADING + 8 : 0), column = cell_side + GAP;
    int width = 2 * MARGIN + columns * column - GAP, height = top + rows * row - GAP + MARGIN;
    Canvas canvas = canvas_new(width, height);
    cairo_t *cr = canvas.cr;
    char *lines[CAPTION_LINES];
    set_font(cr, 17, true);
    if (title) {
        put_lines(cr, MARGIN, MARGIN + 12, 0, LEFT, ink, lines, wrap_text(cr, title, width - 2 * MARGIN, 1, lines));
    }
    set_font(cr, 12, true);
    for (int c = 0; headings && c < columns; c++) {
        int n = wrap_text(cr, headings[c], cell_side, 1, lines);
        put_lines(cr, MARGIN + c * column + cell_side / 2.0, top - 8, 0, CENTER, faint, lines, n);
    }
    set_font(cr, 12, false);
    for (int i = 0; i < rows * columns; i++) {
        double x = MARGIN + i % columns * column, y = top + i / columns * row + cell_side + 15;
        int n = cells[i].caption ? wrap_text(cr, cells[i].caption, cell_side, CAPTION_LINES, lines) : 0;
        put_lines(cr, x + cell_side / 2.0, y, LEADING, CENTER, ink, lines, n);
        set_color(cr, line);
        cairo_set_line_width(cr, 1);
        if (cells[i].image) { cairo_rectangle(cr, x - 0.5, y - cell_side - 15.5, cell_side + 1, cell_side + 1); }
        cairo_stroke(cr);
    }
    Image sheet = canvas_finish(&canvas);
    for (int i = 0; i < rows * columns; i++) {
        if (!cells[i].image) { continue; }
        int x, y;
        Image fitted = fit_picture(cells[i].image, cell_side, &x, &y);
        paste(&sheet, &fitted, MARGIN + i % columns * column + x, top + i / columns * row + y);
        image_free(&fitted);
    }
    return sheet;
}
