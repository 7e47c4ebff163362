#include "eval/report/chart.h"
#include "data/canvas.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int palette[SERIES_COLORS] = {0x2f6fd0, 0xe0821e, 0xaab2bd, 0x3c4652, 0x2a9d6f, 0x9650b4};

// Values from files may be anything: what is larger is not drawn, and no axis has more ticks.
static const double largest = 1e300;
enum { MOST_TICKS = 100 };

// 1, 2 or 5 times a power of ten, so that about `count` steps cover the range. 0 or not finite if there is no range.
static double nice_step(double range, int count) {
    double rough = range / count, power = pow(10, floor(log10(rough))), scaled = rough / power;
    return power * (scaled < 1.5 ? 1 : scaled < 3.5 ? 2 : scaled < 7.5 ? 5 : 10);
}

static void put_number(Canvas *c, double x, double y, Align align, double value) {
    char text[32];
    snprintf(text, sizeof text, "%.10g", value);
    canvas_text(c, x, y, align, COLOR_FAINT, text);
}

// An entry of a legend: a dot, or a dashed line, and the name, cut to `width`.
static void legend_entry(Canvas *c, double x, double y, double width, const char *name, int color, bool dashed) {
    char *text = xprintf("%s   ", name); // room for an ellipsis
    text[strlen(name)] = 0;
    canvas_font(c, 13, false);
    canvas_fit_text(c, text, width - 30);
    if (dashed) {
        canvas_path(c, (const double[]){x - 6, x + 12}, (const double[]){y - 4, y - 4}, 2, 2, palette[color], true);
    } else {
        canvas_dot(c, x + 6, y - 4, 5, palette[color], 1);
    }
    canvas_text(c, x + 16, y, ALIGN_LEFT, COLOR_INK, text);
    free(text);
}

// ---- bars ----------------------------------------------------------------------------------------------------------

// Where bars begin, the length of a bar of the value `highest`, and the distance between bars.
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
    const char *label = b->label; // the end of a long label distinguishes it
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
        canvas_line(c, mark, y + 2, mark, y + s->row - 2, 2.5, palette[SERIES_DARK]);
        if (mark - end < 0.1 * s->width) { end = fmax(end, mark); }
    }
    snprintf(value, sizeof value, format, b->value);
    canvas_text(c, end + 8, middle + 5, ALIGN_LEFT, COLOR_INK, value);
    canvas_note_end(c);
}

static void draw_bars(Canvas *c, const BarScale *s, double top, const ChartBar *bars, int count, const char *format) {
    double bottom = top + count * s->row, step = nice_step(s->highest, 5);
    canvas_font(c, 12, false);
    for (int i = 0; i * step <= s->highest * 1.0001 && i < MOST_TICKS; i++) {
        double x = bar_x(s, i * step);
        canvas_line(c, x, top - 4, x, bottom + 6, 1, COLOR_LINE);
        put_number(c, x, bottom + 21, ALIGN_CENTER, i * step);
    }
    for (int i = 0; i < count; i++) { draw_bar(c, s, &bars[i], top + i * s->row, format); }
}

static void draw_legend(Canvas *c, double x, double y, ChartLegend legend) {
    for (int i = 0; i < legend.count; i++) {
        legend_entry(c, x + i * 220, y, 220, legend.names[i], legend.colors[i], false);
    }
}

void chart_bars(FILE *out, const ChartBar *bars, int count, ChartLegend legend, bool narrow) {
    BarScale s = narrow ? (BarScale){140, 250, 26, 1} : (BarScale){190, 580, 26, 1};
    int top = legend.count ? 36 : 8;
    Canvas c = canvas_svg(out, (int)(s.left + s.width) + 70, top + count * (int)s.row + 26);
    draw_legend(&c, 6, 16, legend);
    draw_bars(&c, &s, top, bars, count, "%.3f");
    canvas_end(&c);
}

Image chart_bars_picture(const char *title, const char *note, const ChartBar *bars, int count, ChartLegend legend,
                         const char *format) {
    enum { MARGIN = 28, TOP = 100 };
    BarScale s = {220, 640, 18, 0};
    for (int i = 0; i < count; i++) {
        if (bars[i].value <= largest) { s.highest = fmax(s.highest, bars[i].value); }
    }
    if (s.highest == 0) { s.highest = 1; }
    Canvas c = canvas_picture((int)(s.left + s.width) + 100, TOP + count * (int)s.row + 40);
    canvas_font(&c, 18, true);
    canvas_text(&c, MARGIN, 40, ALIGN_LEFT, COLOR_INK, title);
    canvas_font(&c, 12, false);
    canvas_text(&c, MARGIN, 62, ALIGN_LEFT, COLOR_FAINT, note);
    draw_legend(&c, MARGIN, 86, legend);
    draw_bars(&c, &s, TOP, bars, count, format);
    Image image = canvas_image(&c);
    canvas_end(&c);
    return image;
}

// ---- lines ---------------------------------------------------------------------------------------------------------

enum { LEFT = 58, WIDTH = 480, RIGHT = LEFT + WIDTH, HEIGHT = 270, LEGEND_ROW = 22 };

// One axis: from `low` to `high`, log10 of the values if it is logarithmic.
typedef struct {
    double low, high;
    bool logarithmic;
} Axis;

typedef struct {
    Axis x, y;
    double bottom; // y of the x axis, in pixels
} Plot;

// NaN for values that the axis cannot show.
static double axis_value(const Axis *a, double value) {
    if (!(fabs(value) <= largest)) { return NAN; }
    return !a->logarithmic ? value : value > 0 ? log10(value) : NAN;
}

static double axis_share(const Axis *a, double value) {
    double at = axis_value(a, value);
    return isnan(at) ? NAN : a->high > a->low ? fmin(1.02, fmax(0, (at - a->low) / (a->high - a->low))) : 0.5;
}

static double plot_x(const Plot *p, double x) { return LEFT + WIDTH * axis_share(&p->x, x); }
static double plot_y(const Plot *p, double y) { return p->bottom - HEIGHT * axis_share(&p->y, y); }

static void widen(Axis *a, const double *values, int count) {
    for (int k = 0; k < count; k++) {
        double at = axis_value(a, values[k]);
        if (!isfinite(at)) { continue; }
        a->low = fmin(a->low, at);
        a->high = fmax(a->high, at);
    }
}

static Plot fit_plot(const ChartLine *lines, int count, const ChartAxes *axes) {
    Plot p = {{INFINITY, -INFINITY, axes->log_x}, {INFINITY, -INFINITY, axes->log_y}, 0};
    for (int i = 0; i < count; i++) {
        widen(&p.x, lines[i].x, lines[i].count);
        widen(&p.y, lines[i].high ? lines[i].high : lines[i].y, lines[i].count);
    }
    if (!(p.x.high >= p.x.low)) { p.x.low = p.x.high = 0; }
    if (!axes->log_x && p.x.low > 0 && p.x.low < 0.5 * p.x.high) { p.x.low = 0; }
    if (axes->x_high > 0) { p.x.low = 0, p.x.high = axes->x_high; }
    if (axes->log_y && isfinite(p.y.low)) {
        p.y.low = floor(p.y.low), p.y.high = fmax(ceil(p.y.high), p.y.low + 1);
    } else {
        p.y.low = axes->log_y ? -1 : 0;
        p.y.high = axes->log_y ? 0 : axes->y_high > 0 ? axes->y_high : p.y.high > 0 ? 1.05 * p.y.high : 1;
    }
    p.bottom = (count + 1) / 2 * LEGEND_ROW + (axes->top ? 50 : 12) + HEIGHT;
    return p;
}

static void draw_axes(Canvas *c, const Plot *p, const ChartLine *lines, int count, const ChartAxes *axes) {
    canvas_font(c, 12, false);
    double dy = axes->log_y ? ceil((p->y.high - p->y.low) / 20) : nice_step(p->y.high, 5),
           dx = nice_step(p->x.high - p->x.low, 6);
    double at = p->y.low, x = ceil(p->x.low / dx) * dx;
    for (int i = 0; at <= p->y.high + 1e-4 * dy && i < MOST_TICKS; i++, at += dy) {
        double value = axes->log_y ? pow(10, at) : at, y = plot_y(p, value);
        canvas_line(c, LEFT, y, RIGHT, y, 1, COLOR_LINE);
        put_number(c, LEFT - 8, y + 4, ALIGN_RIGHT, value);
    }
    for (int k = 0; axes->log_x && count > 0 && k < lines[0].count; k++) {
        put_number(c, plot_x(p, lines[0].x[k]), p->bottom + 18, ALIGN_CENTER, lines[0].x[k]);
    }
    for (int i = 0; !axes->log_x && dx > 0 && x <= p->x.high + 1e-4 * dx && i < MOST_TICKS; i++, x += dx) {
        put_number(c, plot_x(p, x), p->bottom + 18, ALIGN_CENTER, x);
    }
    double top = p->bottom - HEIGHT;
    for (int k = 0; axes->top && count > 0 && k < lines[0].count; k++) {
        double x = plot_x(p, lines[0].x[k]);
        canvas_line(c, x, top, x, top - 4, 1, COLOR_FAINT);
        canvas_text(c, x, top - 8, ALIGN_CENTER, COLOR_INK, axes->top[k]);
    }
    if (axes->mark) {
        double x = plot_x(p, axes->mark_x);
        canvas_line(c, x, top, x, p->bottom, 1.5, COLOR_FAINT);
        canvas_text(c, x + 6, top + 14, ALIGN_LEFT, COLOR_INK, axes->mark);
    }
    canvas_font(c, 12.5, false);
    if (axes->top) { canvas_text(c, RIGHT, top - 26, ALIGN_RIGHT, palette[SERIES_DARK], axes->top_label); }
    canvas_text(c, RIGHT, p->bottom + 37, ALIGN_RIGHT, palette[SERIES_DARK], axes->x_label);
    canvas_text_upwards(c, 14, p->bottom - HEIGHT / 2.0, palette[SERIES_DARK], axes->y_label);
}

// The line, or with `band` the area between its limits: along the upper limit, then back along the lower one.
static void draw_line(Canvas *c, const Plot *p, const ChartLine *l, bool band) {
    int n = band ? 2 * l->count : l->count;
    double *x = xmalloc(((size_t)n + 1) * sizeof *x), *y = xmalloc(((size_t)n + 1) * sizeof *y);
    for (int k = 0; k < n; k++) {
        int i = k < l->count ? k : n - 1 - k;
        x[k] = plot_x(p, l->x[i]);
        y[k] = plot_y(p, !band ? l->y[i] : k < l->count ? l->high[i] : l->low[i]);
    }
    if (band) {
        canvas_area(c, x, y, n, palette[l->color], 0.15);
    } else if (l->style != CLOUD) {
        canvas_path(c, x, y, n, 2, palette[l->color], l->dashed);
    }
    for (int k = 0; !band && l->style != LINE && k < n; k++) {
        if (!isfinite(x[k]) || !isfinite(y[k])) { continue; }
        char *note = l->style == CLOUD ? NULL : xprintf("%s: %.4g at %g", l->name, l->y[k], l->x[k]);
        if (note) { canvas_note(c, note); }
        canvas_dot(c, x[k], y[k], note ? 3.2 : 2.4, palette[l->color], note ? 1 : 0.45);
        if (note) { canvas_note_end(c); }
        free(note);
    }
    free(x);
    free(y);
}

void chart_lines(FILE *out, const ChartLine *lines, int count, ChartAxes axes) {
    Plot plot = fit_plot(lines, count, &axes);
    Canvas c = canvas_svg(out, RIGHT + 18, (int)plot.bottom + 44);
    for (int i = 0; i < count; i++) {
        legend_entry(&c, 12 + i % 2 * 270, 16 + i / 2 * LEGEND_ROW, 270, lines[i].name, lines[i].color,
                     lines[i].dashed);
    }
    draw_axes(&c, &plot, lines, count, &axes);
    for (int i = 0; i < count; i++) {
        if (lines[i].low) { draw_line(&c, &plot, &lines[i], true); }
    }
    for (int i = 0; i < count; i++) { draw_line(&c, &plot, &lines[i], false); }
    canvas_end(&c);
}
