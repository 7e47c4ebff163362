#include "eval/report/chart.h"
#include "data/canvas.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int palette[COLORS] = {0x2f6fd0, 0xe0821e, 0xaab2bd, 0x3c4652, 0x2a9d6f, 0x9650b4};

// 1, 2 or 5 times a power of ten, so that about `count` steps cover the range.
static double nice_step(double range, int count) {
    double rough = range / count, power = pow(10, floor(log10(rough))), scaled = rough / power;
    return power * (scaled < 1.5 ? 1 : scaled < 3.5 ? 2 : scaled < 7.5 ? 5 : 10);
}

static void put_number(Canvas *c, double x, double y, Align align, double value) {
    char text[32];
    snprintf(text, sizeof text, "%.10g", value);
    canvas_text(c, x, y, align, COLOR_FAINT, text);
}

// ---- legends -------------------------------------------------------------------------------------------------------

static void legend_entry(FILE *out, const char *name, int color, bool dashed) {
    fprintf(out, "<span><i style=\"background:#%06x%s\"></i>", (unsigned)palette[color],
            dashed ? ";height:4px;vertical-align:3px;opacity:.6" : "");
    xml_text(out, name);
    fputs("</span>", out);
}

void chart_legend(FILE *out, const char *const *names, const int *colors, int count) {
    fputs("<div class=\"legend\">", out);
    for (int i = 0; i < count; i++) { legend_entry(out, names[i], colors[i], false); }
    fputs("</div>\n", out);
}

// An entry of a legend that is part of the drawing; returns where the next one begins.
static double draw_legend_entry(Canvas *c, double x, double y, const char *name, int color) {
    canvas_dot(c, x + 6, y - 4, 5, palette[color], 1);
    canvas_text(c, x + 16, y, ALIGN_LEFT, COLOR_INK, name);
    return x + 16 + canvas_text_width(c, name) + 22;
}

// ---- bars ----------------------------------------------------------------------------------------------------------

// Where bars begin, how long one of the value `highest` is, and how far they are apart.
typedef struct {
    double left, width, row, highest;
} BarScale;

static double bar_x(const BarScale *s, double value) {
    return s->left + s->width * fmin(1, fmax(0, value / s->highest));
}

static void draw_bar(Canvas *c, const BarScale *s, const ChartBar *b, double y, const char *format) {
    double middle = y + s->row / 2, end = bar_x(s, b->value);
    char value[32];
    canvas_note(c, b->note);
    canvas_font(c, 14, false);
    const char *label = b->label; // the end of a long one tells it from others
    while (canvas_text_width(c, label) > s->left - 20) {
        do { label++; } while (((unsigned char)*label & 0xC0) == 0x80);
    }
    char *cut = xprintf("%s%s", label > b->label ? "…" : "", label);
    canvas_text(c, s->left - 10, middle + 5, ALIGN_RIGHT, COLOR_INK, cut);
    free(cut);
    canvas_font(c, 13, false);
    if (isnan(b->value)) {
        canvas_text(c, s->left + 6, middle + 5, ALIGN_LEFT, COLOR_FAINT, "no data");
        canvas_note_end(c);
        return;
    }
    canvas_bar(c, s->left, y + 0.15 * s->row, fmax(1, end - s->left), 0.7 * s->row, palette[b->color]);
    if (b->high > b->low) {
        double low = bar_x(s, b->low), high = bar_x(s, b->high);
        canvas_line(c, low, middle, high, middle, 1, COLOR_INK);
        canvas_line(c, low, middle - 4, low, middle + 4, 1, COLOR_INK);
        canvas_line(c, high, middle - 4, high, middle + 4, 1, COLOR_INK);
        end = fmax(end, high);
    }
    if (!isnan(b->mark)) {
        double mark = bar_x(s, b->mark);
        canvas_line(c, mark, y + 2, mark, y + s->row - 2, 2.5, palette[COLOR_DARK]);
        if (mark - end < 0.1 * s->width) { end = fmax(end, mark); }
    }
    snprintf(value, sizeof value, format, b->value);
    canvas_text(c, end + 8, middle + 5, ALIGN_LEFT, COLOR_INK, value);
    canvas_note_end(c);
}

static void draw_bars(Canvas *c, const BarScale *s, double top, const ChartBar *bars, int count, const char *format) {
    double bottom = top + count * s->row, step = nice_step(s->highest, 5);
    canvas_font(c, 12, false);
    for (int i = 0; i * step <= s->highest * 1.0001; i++) {
        double x = bar_x(s, i * step);
        canvas_line(c, x, top - 4, x, bottom + 6, 1, COLOR_LINE);
        put_number(c, x, bottom + 21, ALIGN_CENTER, i * step);
    }
    for (int i = 0; i < count; i++) { draw_bar(c, s, &bars[i], top + i * s->row, format); }
}

void chart_bars(FILE *out, const ChartBar *bars, int count, bool narrow) {
    BarScale s = narrow ? (BarScale){140, 250, 26, 1} : (BarScale){190, 580, 26, 1};
    Canvas c = canvas_svg(out, (int)(s.left + s.width) + 70, 8 + count * (int)s.row + 26);
    draw_bars(&c, &s, 8, bars, count, "%.3f");
    canvas_end(&c);
}

Image chart_bars_picture(const char *title, const char *note, const char *const *names, const int *colors,
                         int name_count, const ChartBar *bars, int count, const char *format) {
    enum { MARGIN = 28, TOP = 100 };
    BarScale s = {220, 640, 18, 0};
    for (int i = 0; i < count; i++) { s.highest = fmax(s.highest, bars[i].value); }
    if (s.highest == 0) { s.highest = 1; }
    Canvas c = canvas_picture((int)(s.left + s.width) + 100, TOP + count * (int)s.row + 40);
    canvas_font(&c, 18, true);
    canvas_text(&c, MARGIN, 40, ALIGN_LEFT, COLOR_INK, title);
    canvas_font(&c, 12, false);
    canvas_text(&c, MARGIN, 62, ALIGN_LEFT, COLOR_FAINT, note);
    double x = MARGIN;
    for (int i = 0; i < name_count; i++) { x = draw_legend_entry(&c, x, 86, names[i], colors[i]); }
    draw_bars(&c, &s, TOP, bars, count, format);
    Image image = canvas_image(&c);
    canvas_end(&c);
    return image;
}

// ---- axes ----------------------------------------------------------------------------------------------------------

enum { PLOT_LEFT = 58, PLOT_WIDTH = 480, PLOT_RIGHT = 18, PLOT_BOTTOM = 44 };

static void x_number(Canvas *c, double x, double bottom, double value) {
    put_number(c, x, bottom + 18, ALIGN_CENTER, value);
}

static void y_number(Canvas *c, double y, double value) {
    canvas_line(c, PLOT_LEFT, y, PLOT_LEFT + PLOT_WIDTH, y, 1, COLOR_LINE);
    put_number(c, PLOT_LEFT - 8, y + 4, ALIGN_RIGHT, value);
}

static void axis_labels(Canvas *c, double top, double bottom, const char *x_label, const char *y_label) {
    canvas_font(c, 12.5, false);
    canvas_text(c, PLOT_LEFT + PLOT_WIDTH, bottom + 37, ALIGN_RIGHT, palette[COLOR_DARK], x_label);
    canvas_text_upwards(c, 14, (top + bottom) / 2, palette[COLOR_DARK], y_label);
}

// ---- lines ---------------------------------------------------------------------------------------------------------

enum { LINES_TOP = 12, LINES_HEIGHT = 250, LINES_BOTTOM = LINES_TOP + LINES_HEIGHT };

typedef struct {
    double x0, x1, y1; // data ranges, y from 0; x in log2 with log_x
    bool log_x;
} Axes;

static double axis_x(const Axes *a, double x) { return a->log_x ? log2(x) : x; }
static double plot_x(const Axes *a, double x) {
    return PLOT_LEFT + PLOT_WIDTH * (a->x1 > a->x0 ? (axis_x(a, x) - a->x0) / (a->x1 - a->x0) : 0.5);
}
static double plot_y(const Axes *a, double y) { // NaN stays NaN
    return isnan(y) ? y : LINES_BOTTOM - LINES_HEIGHT * fmin(1.02, fmax(0, y / a->y1));
}

static Axes fit_axes(const ChartLine *lines, int count, double y_high, bool log_x) {
    Axes a = {INFINITY, -INFINITY, isnan(y_high) ? 0 : y_high, log_x};
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < lines[i].count; k++) {
            a.x0 = fmin(a.x0, axis_x(&a, lines[i].x[k]));
            a.x1 = fmax(a.x1, axis_x(&a, lines[i].x[k]));
            double top = lines[i].high ? lines[i].high[k] : lines[i].y[k];
            if (isnan(y_high) && isfinite(top)) { a.y1 = fmax(a.y1, top * 1.05); }
        }
    }
    if (!(a.x1 >= a.x0)) { a.x0 = a.x1 = 0; }
    if (a.y1 <= 0) { a.y1 = 1; }
    if (!log_x && a.x0 > 0 && a.x0 < 0.5 * a.x1) { a.x0 = 0; }
    return a;
}

static void draw_axes(Canvas *c, const Axes *a, const ChartLine *lines, int count) {
    canvas_font(c, 12, false);
    double dy = nice_step(a->y1, 5), dx = nice_step(a->x1 - a->x0, 6);
    for (int i = 0; i * dy <= a->y1 * 1.0001; i++) { y_number(c, plot_y(a, i * dy), i * dy); }
    if (a->log_x) {
        for (int k = 0; count > 0 && k < lines[0].count; k++) {
            x_number(c, plot_x(a, lines[0].x[k]), LINES_BOTTOM, lines[0].x[k]);
        }
    } else if (a->x1 > a->x0) {
        for (double x = ceil(a->x0 / dx) * dx; x <= a->x1 + dx * 1e-6; x += dx) {
            x_number(c, plot_x(a, x), LINES_BOTTOM, x);
        }
    }
}

// The line, or with `band` what lies between its limits: there along the upper one, back along the lower.
static void draw_line(Canvas *c, const Axes *a, const ChartLine *l, bool band) {
    int n = band ? 2 * l->count : l->count;
    double *x = xmalloc(((size_t)n + 1) * sizeof *x), *y = xmalloc(((size_t)n + 1) * sizeof *y);
    for (int k = 0; k < n; k++) {
        int i = k < l->count ? k : n - 1 - k;
        x[k] = plot_x(a, l->x[i]);
        y[k] = plot_y(a, !band ? l->y[i] : k < l->count ? l->high[i] : l->low[i]);
    }
    if (band) {
        canvas_area(c, x, y, n, palette[l->color], 0.15);
    } else {
        canvas_path(c, x, y, n, 2, palette[l->color], l->dashed);
    }
    for (int k = 0; !band && l->dots && k < n; k++) {
        if (!isfinite(y[k])) { continue; }
        char *note = xprintf("%s: %.4g at %g", l->name, l->y[k], l->x[k]);
        canvas_note(c, note);
        canvas_dot(c, x[k], y[k], 3.2, palette[l->color], 1);
        canvas_note_end(c);
        free(note);
    }
    free(x);
    free(y);
}

void chart_lines(FILE *out, const ChartLine *lines, int count, const char *x_label, const char *y_label, double y_high,
                 bool log_x) {
    fputs("<div class=\"legend\">", out);
    for (int i = 0; i < count; i++) { legend_entry(out, lines[i].name, lines[i].color, lines[i].dashed); }
    fputs("</div>\n", out);
    Axes axes = fit_axes(lines, count, y_high, log_x);
    Canvas c = canvas_svg(out, PLOT_LEFT + PLOT_WIDTH + PLOT_RIGHT, LINES_BOTTOM + PLOT_BOTTOM);
    draw_axes(&c, &axes, lines, count);
    axis_labels(&c, LINES_TOP, LINES_BOTTOM, x_label, y_label);
    for (int i = 0; i < count; i++) {
        if (lines[i].low) { draw_line(&c, &axes, &lines[i], true); }
    }
    for (int i = 0; i < count; i++) { draw_line(&c, &axes, &lines[i], false); }
    canvas_end(&c);
}

// ---- points --------------------------------------------------------------------------------------------------------

enum {
    CLOUD_LEGEND = 26,
    CLOUD_TOP = 2 * CLOUD_LEGEND + 8,
    CLOUD_HEIGHT = 330,
    CLOUD_BOTTOM = CLOUD_TOP + CLOUD_HEIGHT
};

// Decades that hold all points.
typedef struct {
    double low, high; // log10
} Decades;

static Decades fit_decades(const ChartCloud *clouds, int count, Decades d) {
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < clouds[i].count; k++) {
            if (!(clouds[i].y[k] > 0)) { continue; }
            d.low = fmin(d.low, floor(log10(clouds[i].y[k])));
            d.high = fmax(d.high, ceil(log10(clouds[i].y[k])));
        }
    }
    return d;
}

static double cloud_x(double x) { return PLOT_LEFT + PLOT_WIDTH * fmin(1, fmax(0, x)); }
static double cloud_y(Decades d, double y) {
    return CLOUD_BOTTOM - CLOUD_HEIGHT * (log10(y) - d.low) / (d.high - d.low);
}

void chart_scatter(FILE *out, const ChartCloud *clouds, int count, const ChartCloud *marks, int mark_count,
                   const char *x_label, const char *y_label) {
    Decades d = fit_decades(marks, mark_count, fit_decades(clouds, count, (Decades){INFINITY, -INFINITY}));
    if (!(d.high > d.low)) { d = isfinite(d.low) ? (Decades){d.low - 1, d.low + 1} : (Decades){-1, 0}; }
    Canvas c = canvas_svg(out, PLOT_LEFT + PLOT_WIDTH + PLOT_RIGHT, CLOUD_BOTTOM + PLOT_BOTTOM);
    canvas_font(&c, 12, false);
    for (double e = d.low; e <= d.high; e++) { y_number(&c, cloud_y(d, pow(10, e)), pow(10, e)); }
    for (int i = 0; i <= 10; i += 2) { x_number(&c, cloud_x(i / 10.0), CLOUD_BOTTOM, i / 10.0); }
    axis_labels(&c, CLOUD_TOP, CLOUD_BOTTOM, x_label, y_label);
    canvas_font(&c, 13, false);
    for (int i = 0; i < count; i++) {
        const ChartCloud *cloud = &clouds[i];
        draw_legend_entry(&c, PLOT_LEFT + i % 3 * 165, 18 + i / 3 * CLOUD_LEGEND, cloud->name, cloud->color);
        for (int k = 0; k < cloud->count; k++) {
            if (!(cloud->y[k] > 0)) { continue; }
            canvas_dot(&c, cloud_x(cloud->x[k]), cloud_y(d, cloud->y[k]), 2.4, palette[cloud->color], 0.45);
        }
    }
    for (int i = 0; i < mark_count; i++) {
        double y = cloud_y(d, marks[i].y[0]), x[] = {PLOT_LEFT, PLOT_LEFT + PLOT_WIDTH};
        canvas_path(&c, x, (const double[]){y, y}, 2, 1.5, palette[marks[i].color], true);
        canvas_text(&c, x[1] - 4, y - 5, ALIGN_RIGHT, COLOR_INK, marks[i].name);
    }
    canvas_end(&c);
}
