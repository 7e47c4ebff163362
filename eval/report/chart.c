#include "eval/report/chart.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const palette[COLORS] = {"#2f6fd0", "#e0821e", "#aab2bd", "#3c4652", "#2a9d6f", "#9650b4"};

void html_text(FILE *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static const char style[] =
    ":root{color-scheme:light}"
    "body{margin:0;background:#f6f7f9;color:#20262e;font:16px/1.55 system-ui,'Segoe UI','DejaVu Sans',sans-serif}"
    "main{max-width:1060px;margin:0 auto;padding:36px 24px 80px}"
    "h1{font-size:30px;line-height:1.2;margin:0 0 6px}h2{font-size:21px;margin:44px 0 10px}"
    ".lead{color:#55606d;margin:0 0 24px;max-width:75ch}.small{color:#66707c;font-size:14px}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:16px;margin:20px 0}"
    ".tile,figure,.card{background:#fff;border:1px solid #e3e6ea;border-radius:12px;padding:18px 20px;margin:0}"
    ".tile b{display:block;font-size:38px;line-height:1.15;font-weight:650;font-variant-numeric:tabular-nums}"
    ".tile span{color:#66707c;font-size:14px}"
    ".two{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:16px}"
    "figure h3{font-size:16px;margin:0 0 10px}figcaption{color:#66707c;font-size:14px;margin-top:8px}"
    "figure+figure,.two+figure,figure+.two,.two+.two{margin-top:16px}.two figure{margin-top:0!important}"
    "svg{width:100%;height:auto;display:block}svg text{font-family:inherit}"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px;color:#55606d;margin:0 0 8px}"
    ".legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}"
    "table{border-collapse:collapse;width:100%;font-size:14.5px;font-variant-numeric:tabular-nums}"
    "th,td{text-align:right;padding:5px 9px;border-bottom:1px solid #eceef1}th{color:#66707c;font-weight:600}"
    "th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}"
    ".gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:14px}"
    ".pair{background:#fff;border:1px solid #e3e6ea;border-radius:12px;padding:12px}"
    ".pair div{display:grid;grid-template-columns:1fr 1fr 1fr;gap:6px;align-items:center}"
    ".pair img{width:100%;height:auto;border-radius:5px;display:block;image-rendering:auto}.pair "
    "img.tiny{image-rendering:pixelated}"
    ".pair p{margin:0 0 8px;display:flex;justify-content:space-between;font-size:14.5px}"
    ".pair em{font-style:normal;color:#66707c}dt{font-weight:600;margin-top:8px}dd{margin:0 0 4px;color:#404a55}"
    "details{margin-top:14px}summary{cursor:pointer;color:#2f6fd0}code{font-size:13.5px;overflow-wrap:anywhere}";

void html_begin(FILE *out, const char *title) {
    fputs("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
          out);
    html_text(out, title);
    fprintf(out, "</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n", style);
}

void html_end(FILE *out) { fputs("</main>\n</body>\n</html>\n", out); }

static void base64(FILE *out, const uint8_t *bytes, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t v = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                     (left > 2 ? (uint32_t)bytes[i + 2] : 0);
        fputc(digits[v >> 18], out);
        fputc(digits[v >> 12 & 63], out);
        fputc(left > 1 ? digits[v >> 6 & 63] : '=', out);
        fputc(left > 2 ? digits[v & 63] : '=', out);
    }
}

// Small pictures as PNG and shown with visible pixels, larger ones as JPEG.
void html_image(FILE *out, const Image *image, const char *alternative) {
    bool tiny = image->width <= 128 && image->height <= 128;
    size_t size;
    uint8_t *bytes = tiny ? image_encode_png(image, &size) : image_encode_jpg(image, 88, &size);
    fprintf(out, "<img%s width=\"%d\" height=\"%d\" alt=\"", tiny ? " class=\"tiny\"" : "", image->width,
            image->height);
    html_text(out, alternative);
    fprintf(out, "\" src=\"data:image/%s;base64,", tiny ? "png" : "jpeg");
    base64(out, bytes, size);
    fputs("\">", out);
    free(bytes);
}

void figure_begin(FILE *out, const char *id, const char *title) {
    fprintf(out, "<figure id=\"%s\">\n<h3>", id);
    html_text(out, title);
    fputs("</h3>\n", out);
}

void figure_end(FILE *out, const char *caption) {
    if (caption) {
        fputs("<figcaption>", out);
        html_text(out, caption);
        fputs("</figcaption>\n", out);
    }
    fputs("</figure>\n", out);
}

void chart_legend(FILE *out, const char *const *names, const int *colors, int count) {
    fputs("<div class=\"legend\">", out);
    for (int i = 0; i < count; i++) {
        fprintf(out, "<span><i style=\"background:%s\"></i>", palette[colors[i]]);
        html_text(out, names[i]);
        fputs("</span>", out);
    }
    fputs("</div>\n", out);
}

// ---- bars ----------------------------------------------------------------------------------------------------------

enum { BAR_RIGHT = 70, BAR_ROW = 26, LABEL_LENGTH = 26 };

// Where the bars begin and how long 1 is, in the units of the drawing.
typedef struct {
    int left, width;
} BarScale;

static double bar_x(BarScale s, double value) { return s.left + s.width * fmin(1, fmax(0, value)); }

static void draw_bar(FILE *out, BarScale s, const ChartBar *b, int row) {
    double y = 8 + row * BAR_ROW, middle = y + BAR_ROW / 2.0, end = b->value;
    fprintf(out, "<g>");
    if (b->note) {
        fputs("<title>", out);
        html_text(out, b->note);
        fputs("</title>", out);
    }
    fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" font-size=\"14\" fill=\"#20262e\">", s.left - 10,
            middle + 5);
    size_t length = strlen(b->label);
    if (length > LABEL_LENGTH) { fputs("&hellip;", out); }
    html_text(out, b->label + (length > LABEL_LENGTH ? length - LABEL_LENGTH : 0));
    fputs("</text>", out);
    if (isnan(b->value)) {
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" font-size=\"13\" fill=\"#66707c\">no data</text></g>\n", s.left + 6,
                middle + 5);
        return;
    }
    fprintf(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"3\" fill=\"%s\"/>", s.left, y + 4,
            fmax(1, bar_x(s, b->value) - s.left), BAR_ROW - 8, palette[b->color]);
    if (b->high > b->low) {
        fprintf(out,
                "<path d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\" stroke=\"#20262e\" stroke-opacity=\".65\" "
                "fill=\"none\"/>",
                bar_x(s, b->low), middle, bar_x(s, b->high), bar_x(s, b->low), middle - 4, bar_x(s, b->high),
                middle - 4);
        end = fmax(end, b->high);
    }
    if (!isnan(b->mark)) {
        fprintf(out, "<path d=\"M%.1f %.1fv%d\" stroke=\"#3c4652\" stroke-width=\"2.5\"/>", bar_x(s, b->mark), y + 2,
                BAR_ROW - 4);
        if (b->mark - end < 0.1) { end = fmax(end, b->mark); }
    }
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"13\" fill=\"#20262e\">%.3f</text></g>\n", bar_x(s, end) + 8,
            middle + 5, b->value);
}

void chart_bars(FILE *out, const ChartBar *bars, int count, bool narrow) {
    BarScale s = narrow ? (BarScale){140, 250} : (BarScale){190, 580};
    int height = 8 + count * BAR_ROW + 26, width = s.left + s.width + BAR_RIGHT;
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", width, height);
    for (int tick = 0; tick <= 10; tick += 2) {
        double x = bar_x(s, tick / 10.0);
        fprintf(out,
                "<path d=\"M%.1f 4V%d\" stroke=\"#e8ebee\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" "
                "font-size=\"12\" fill=\"#66707c\">%.1f</text>\n",
                x, height - 20, x, height - 5, tick / 10.0);
    }
    for (int i = 0; i < count; i++) { draw_bar(out, s, &bars[i], i); }
    fputs("</svg>\n", out);
}

// ---- lines ---------------------------------------------------------------------------------------------------------

typedef struct {
    double x0, x1, y0, y1; // data ranges; x in log2 with log_x
    bool log_x;
} Axes;

enum { PLOT_LEFT = 58, PLOT_TOP = 12, PLOT_WIDTH = 480, PLOT_HEIGHT = 250, PLOT_BOTTOM = 44, PLOT_RIGHT = 18 };

static double axis_x(const Axes *a, double x) { return a->log_x ? log2(x) : x; }
static double plot_x(const Axes *a, double x) {
    return PLOT_LEFT + PLOT_WIDTH * (a->x1 > a->x0 ? (axis_x(a, x) - a->x0) / (a->x1 - a->x0) : 0.5);
}
static double plot_y(const Axes *a, double y) {
    double share = (y - a->y0) / (a->y1 - a->y0);
    return PLOT_TOP + PLOT_HEIGHT * (1 - fmin(1.02, fmax(0, share)));
}

// 1, 2 or 5 times a power of ten, so that about `count` steps cover the range.
static double nice_step(double range, int count) {
    double rough = range / count, power = pow(10, floor(log10(rough))), scaled = rough / power;
    return power * (scaled < 1.5 ? 1 : scaled < 3.5 ? 2 : scaled < 7.5 ? 5 : 10);
}

static Axes fit_axes(const ChartLine *lines, int count, double y_high, bool log_x) {
    Axes a = {INFINITY, -INFINITY, 0, isnan(y_high) ? 0 : y_high, log_x};
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

static void draw_axes(FILE *out, const Axes *a, const ChartLine *lines, int count, const char *x_label,
                      const char *y_label) {
    double step = nice_step(a->y1 - a->y0, 5);
    for (double y = a->y0; y <= a->y1 + step * 1e-6; y += step) {
        fprintf(out,
                "<path d=\"M%d %.1fh%d\" stroke=\"#e8ebee\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" "
                "font-size=\"12\" fill=\"#66707c\">%g</text>\n",
                PLOT_LEFT, plot_y(a, y), PLOT_WIDTH, PLOT_LEFT - 8, plot_y(a, y) + 4, fabs(y) < step * 1e-6 ? 0 : y);
    }
    int bottom = PLOT_TOP + PLOT_HEIGHT;
    if (a->log_x && count > 0) {
        for (int k = 0; k < lines[0].count; k++) {
            fprintf(out,
                    "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-size=\"12\" fill=\"#66707c\">%g</text>\n",
                    plot_x(a, lines[0].x[k]), bottom + 18, lines[0].x[k]);
        }
    } else if (a->x1 > a->x0) {
        double dx = nice_step(a->x1 - a->x0, 6);
        for (double x = ceil(a->x0 / dx) * dx; x <= a->x1 + dx * 1e-6; x += dx) {
            fprintf(out,
                    "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-size=\"12\" fill=\"#66707c\">%g</text>\n",
                    plot_x(a, x), bottom + 18, x);
        }
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"12.5\" fill=\"#3c4652\">",
            PLOT_LEFT + PLOT_WIDTH, bottom + 37);
    html_text(out, x_label);
    fprintf(out,
            "</text><text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\" font-size=\"12.5\" "
            "fill=\"#3c4652\">",
            PLOT_TOP + PLOT_HEIGHT / 2);
    html_text(out, y_label);
    fputs("</text>\n", out);
}

static void draw_band(FILE *out, const Axes *a, const ChartLine *l) {
    fprintf(out, "<path fill=\"%s\" fill-opacity=\".15\" d=\"", palette[l->color]);
    char move = 'M';
    for (int k = 0; k < 2 * l->count; k++) { // there along the upper edge, back along the lower
        int i = k < l->count ? k : 2 * l->count - 1 - k;
        double y = k < l->count ? l->high[i] : l->low[i];
        if (!isfinite(y)) { continue; }
        fprintf(out, "%c%.1f %.1f", move, plot_x(a, l->x[i]), plot_y(a, y));
        move = 'L';
    }
    fputs("\"/>\n", out);
}

static void draw_line(FILE *out, const Axes *a, const ChartLine *l) {
    bool started = false;
    fprintf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\"%s d=\"",
            palette[l->color], l->dashed ? " stroke-dasharray=\"6 4\"" : "");
    for (int k = 0; k < l->count; k++) {
        if (!isfinite(l->y[k])) { continue; }
        fprintf(out, "%c%.1f %.1f", started ? 'L' : 'M', plot_x(a, l->x[k]), plot_y(a, l->y[k]));
        started = true;
    }
    fputs("\"/>\n", out);
    for (int k = 0; l->dots && k < l->count; k++) {
        if (!isfinite(l->y[k])) { continue; }
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\"><title>", plot_x(a, l->x[k]),
                plot_y(a, l->y[k]), palette[l->color]);
        html_text(out, l->name);
        fprintf(out, ": %.4g at %g</title></circle>\n", l->y[k], l->x[k]);
    }
}

void chart_lines(FILE *out, const ChartLine *lines, int count, const char *x_label, const char *y_label, double y_high,
                 bool log_x) {
    fputs("<div class=\"legend\">", out);
    for (int i = 0; i < count; i++) {
        fprintf(out, "<span><i style=\"background:%s%s\"></i>", palette[lines[i].color],
                lines[i].dashed ? ";height:4px;vertical-align:3px;opacity:.6" : "");
        html_text(out, lines[i].name);
        fputs("</span>", out);
    }
    fputs("</div>\n", out);
    Axes axes = fit_axes(lines, count, y_high, log_x);
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\">\n", PLOT_LEFT + PLOT_WIDTH + PLOT_RIGHT,
            PLOT_TOP + PLOT_HEIGHT + PLOT_BOTTOM);
    draw_axes(out, &axes, lines, count, x_label, y_label);
    for (int i = 0; i < count; i++) {
        if (lines[i].low) { draw_band(out, &axes, &lines[i]); }
    }
    for (int i = 0; i < count; i++) { draw_line(out, &axes, &lines[i]); }
    fputs("</svg>\n", out);
}

// ---- points --------------------------------------------------------------------------------------------------------

enum { CLOUD_HEIGHT = 330, CLOUD_LEGEND = 26, CLOUD_TOP = 2 * CLOUD_LEGEND + 8 };

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
    return CLOUD_TOP + CLOUD_HEIGHT * (1 - (log10(y) - d.low) / (d.high - d.low));
}

static void draw_decades(FILE *out, Decades d, const char *x_label, const char *y_label) {
    int bottom = CLOUD_TOP + CLOUD_HEIGHT;
    for (double e = d.low; e <= d.high; e++) {
        double y = cloud_y(d, pow(10, e));
        fprintf(out,
                "<path d=\"M%d %.1fh%d\" stroke=\"#e8ebee\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" "
                "font-size=\"12\" fill=\"#66707c\">%g</text>\n",
                PLOT_LEFT, y, PLOT_WIDTH, PLOT_LEFT - 8, y + 4, pow(10, e));
    }
    for (int i = 0; i <= 10; i += 2) {
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-size=\"12\" fill=\"#66707c\">%.1f</text>\n",
                cloud_x(i / 10.0), bottom + 18, i / 10.0);
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"12.5\" fill=\"#3c4652\">",
            PLOT_LEFT + PLOT_WIDTH, bottom + 37);
    html_text(out, x_label);
    fprintf(out,
            "</text><text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\" font-size=\"12.5\" "
            "fill=\"#3c4652\">",
            CLOUD_TOP + CLOUD_HEIGHT / 2);
    html_text(out, y_label);
    fputs("</text>\n", out);
}

void chart_scatter(FILE *out, const ChartCloud *clouds, int count, const ChartCloud *marks, int mark_count,
                   const char *x_label, const char *y_label) {
    int width = PLOT_LEFT + PLOT_WIDTH + PLOT_RIGHT, height = CLOUD_TOP + CLOUD_HEIGHT + PLOT_BOTTOM;
    Decades d = fit_decades(marks, mark_count, fit_decades(clouds, count, (Decades){INFINITY, -INFINITY}));
    if (!(d.high > d.low)) { d = isfinite(d.low) ? (Decades){d.low - 1, d.low + 1} : (Decades){-1, 0}; }
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
            "font-family=\"system-ui,'DejaVu Sans',sans-serif\">\n",
            width, height);
    draw_decades(out, d, x_label, y_label);
    for (int i = 0; i < count; i++) {
        const char *color = palette[clouds[i].color];
        int column = i % 3, row = i / 3;
        fprintf(out,
                "<circle cx=\"%d\" cy=\"%d\" r=\"5\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" font-size=\"13\" "
                "fill=\"#55606d\">",
                PLOT_LEFT + 6 + column * 165, 14 + row * CLOUD_LEGEND, color, PLOT_LEFT + 16 + column * 165,
                18 + row * CLOUD_LEGEND);
        html_text(out, clouds[i].name);
        fprintf(out, "</text>\n<g fill=\"%s\" fill-opacity=\".45\">", color);
        for (int k = 0; k < clouds[i].count; k++) {
            if (!(clouds[i].y[k] > 0)) { continue; }
            fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.4\"/>", cloud_x(clouds[i].x[k]),
                    cloud_y(d, clouds[i].y[k]));
        }
        fputs("</g>\n", out);
    }
    for (int i = 0; i < mark_count; i++) {
        double y = cloud_y(d, marks[i].y[0]);
        fprintf(out,
                "<path d=\"M%d %.1fh%d\" stroke=\"%s\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" font-size=\"12.5\" fill=\"#20262e\">",
                PLOT_LEFT, y, PLOT_WIDTH, palette[marks[i].color], PLOT_LEFT + PLOT_WIDTH - 4, y - 5);
        html_text(out, marks[i].name);
        fputs("</text>\n", out);
    }
    fputs("</svg>\n", out);
}
