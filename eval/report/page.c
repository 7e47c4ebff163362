#include "eval/report/page.h"
#include "data/canvas.h"
#include "eval/report/chart.h"
#include "util/error.h"
#include <math.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

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

AtomicFile page_begin(const char *path, const char *title) {
    AtomicFile page = atomic_open(path);
    html(page.stream,
         "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>%s</title>\n",
         title);
    fprintf(page.stream, "<style>%s</style>\n</head>\n<body>\n<main>\n", style);
    return page;
}

void page_end(AtomicFile *page) {
    fputs("</main>\n</body>\n</html>\n", page->stream);
    atomic_commit(page);
}

void html(FILE *out, const char *format, ...) {
    va_list values;
    va_start(values, format);
    while (*format) {
        size_t plain = strcspn(format, "%");
        fwrite(format, 1, plain, out);
        format += plain;
        if (!*format) { break; }
        char conversion[16];
        size_t length = strcspn(format + 1, "sdufg%") + 2;
        snprintf(conversion, sizeof conversion, "%.*s", (int)length, format);
        format += length;
        switch (conversion[length - 1]) {
        case 's':
            xml_text(out, va_arg(values, const char *));
            break;
        case '%':
            fputc('%', out);
            break;
        case 'f':
        case 'g':
            fprintf(out, conversion, va_arg(values, double));
            break;
        default:
            if (strstr(conversion, "ll")) {
                fprintf(out, conversion, va_arg(values, long long));
            } else {
                fprintf(out, conversion, va_arg(values, int));
            }
        }
    }
    va_end(values);
}

void html_file(FILE *out, const char *kind, const void *bytes, size_t size) {
    unsigned char *base64 = xmalloc((size + 2) / 3 * 4 + 1);
    EVP_EncodeBlock(base64, bytes, (int)size);
    fprintf(out, "<img src=\"data:image/%s;base64,%s\"", kind, (char *)base64);
    free(base64);
}

// Small pictures are PNG and shown with visible pixels, larger ones are JPEG.
void html_image(FILE *out, const Image *image, const char *alternative) {
    bool tiny = image->width <= 128 && image->height <= 128;
    size_t size;
    uint8_t *bytes = image_encode(image, tiny ? 0 : 88, &size);
    html_file(out, tiny ? "png" : "jpeg", bytes, size);
    html(out, " width=\"%d\" height=\"%d\" alt=\"%s\"", image->width, image->height, alternative);
    fputs(tiny ? " class=\"tiny\">" : ">", out);
    free(bytes);
}

void figure_begin(FILE *out, const char *id, const char *title) {
    html(out, "<figure id=\"%s\">\n<h3>%s</h3>\n", id, title);
}

void figure_end(FILE *out, const char *caption) {
    if (caption) { html(out, "<figcaption>%s</figcaption>\n", caption); }
    fputs("</figure>\n", out);
}

void html_cell(FILE *out, const char *format, double value) {
    fputs("<td>", out);
    if (isnan(value)) {
        fputs("&ndash;", out);
    } else {
        fprintf(out, format, value);
    }
    fputs("</td>", out);
}

const char *interval_text(Interval v, bool decimals, char buffer[48]) {
    if (isnan(v.value)) {
        snprintf(buffer, 48, "-");
    } else if (isnan(v.low)) {
        snprintf(buffer, 48, decimals ? "%.3f" : "%.4g", v.value);
    } else {
        snprintf(buffer, 48, decimals ? "%.3f (%.3f-%.3f)" : "%.4g (%.4g-%.4g)", v.value, v.low, v.high);
    }
    return buffer;
}

void json_put_interval(yajl_gen gen, const char *key, Interval v) {
    json_open_map(gen, key);
    json_put_number(gen, "value", v.value);
    json_put_number(gen, "low", v.low);
    json_put_number(gen, "high", v.high);
    yajl_gen_map_close(gen);
}

const char *const size_names[OBJECT_SIZES + 1] = {"small (< 2%)", "medium (< 15%)", "large", "all objects"};
const char *const size_keys[OBJECT_SIZES + 1] = {"small", "medium", "large", "all"};
const int size_order[OBJECT_SIZES + 1] = {OBJECT_SIZES, OBJECT_SMALL, OBJECT_MEDIUM, OBJECT_LARGE};

// ---- training curves -----------------------------------------------------------------------------------------------

// Two curves of each run, given by their places in RunCurves: the first solid, the second dashed, or in another colour
// if there is only one run. Long curves are averaged over stretches.
static void training_figure(FILE *out, const RunCurves *runs, int count, const char *id, const char *title,
                            const char *y_label, const size_t curves[2], const char *const names[2],
                            const char *caption) {
    static const int colors[] = {SERIES_SEEN, SERIES_UNSEEN, SERIES_THIRD, SERIES_FOURTH, SERIES_DARK, SERIES_GREY};
    ChartLine *lines = xcalloc((size_t)count * 2 + 1, sizeof *lines);
    Curve *smooth = xcalloc((size_t)count * 2 + 1, sizeof *smooth);
    int n = 0;
    for (int i = 0; i < 2 * count; i++) {
        const RunCurves *run = &runs[i / 2];
        smooth[i] = curve_smooth((const Curve *)((const char *)run + curves[i % 2]), 200);
        const Curve *curve = &smooth[i];
        if (curve->count == 0) { continue; }
        char *name = count > 1 ? xprintf("%s, %s", run->name, names[i % 2]) : xstrdup(names[i % 2]);
        lines[n] = (ChartLine){.name = name, .x = curve->step, .y = curve->value, .count = curve->count};
        lines[n].color = colors[(count > 1 ? i / 2 : i) % (int)(sizeof colors / sizeof *colors)];
        lines[n].dashed = count > 1 && i % 2;
        lines[n++].style = curve->count < 60 ? LINE_WITH_DOTS : LINE;
    }
    if (n > 0) {
        figure_begin(out, id, title);
        chart_lines(out, lines, n, (ChartAxes){.x_label = "optimizer steps", .y_label = y_label});
        figure_end(out, caption);
    }
    for (int i = 0; i < n; i++) { free((char *)lines[i].name); }
    for (int i = 0; i < 2 * count; i++) { curve_free(&smooth[i]); }
    free(lines);
    free(smooth);
}

void page_training(FILE *out, const RunCurves *runs, int count) {
    if (count == 0) { return; }
    fputs("<h2>Training</h2>\n<div class=\"two\">\n", out);
    training_figure(out, runs, count, "fig-loss", "Loss", "loss",
                    (const size_t[]){offsetof(RunCurves, loss), offsetof(RunCurves, validation_loss)},
                    (const char *const[]){"training", "validation"}, "Averaged over stretches of the run.");
    training_figure(out, runs, count, "fig-validation", "mIoU on validation samples", "mIoU",
                    (const size_t[]){offsetof(RunCurves, miou_seen), offsetof(RunCurves, miou_unseen)},
                    (const char *const[]){"seen", "unseen"}, NULL);
    training_figure(out, runs, count, "fig-collapse", "Degenerate predictions on validation samples", "share",
                    (const size_t[]){offsetof(RunCurves, empty), offsetof(RunCurves, full)},
                    (const char *const[]){"empty", "full"}, NULL);
    fputs("</div>\n", out);
}

// How IoU is measured, a sentence for each protocol of these evaluations.
static void protocols(FILE *out, const Json *metrics, int count) {
    int crops = 0;
    for (int i = 0; i < count; i++) {
        crops += strcmp(json_string_at(metrics[i].root, "config.protocol"), "crops") == 0;
    }
    if (crops < count || !count) {
        fputs(" Whole pictures are scored at their own resolution, and crowd regions do not count either way.", out);
    }
    if (crops) { fputs(" Crops are scored at the training resolution, with crowd regions as background.", out); }
}

void page_definitions(FILE *out, const Json *metrics, int count) {
    fputs("<h2 id=\"definitions\">What the numbers mean</h2>\n<div class=\"card\"><dl>"
          "<dt>IoU of a pair</dt><dd>A pair is a picture and a class that it shows. Intersection over union of the "
          "predicted and the true mask, which is the union of the class's instances. Empty against empty is 1.",
          out);
    protocols(out, metrics, count);
    fputs(
        "</dd><dt>mIoU</dt><dd>The mean over classes of the class's IoU, which is its sum of intersections over its "
        "sum of unions. Frequent classes weigh no more than rare ones.</dd>"
        "<dt>gIoU</dt><dd>The mean over pairs of the pair's IoU; class gIoU averages within each class first.</dd>"
        "<dt>cIoU</dt><dd>Sum of all intersections over sum of all unions: large objects count most.</dd>"
        "<dt>IoU bin</dt><dd>The mean of the cIoU of the foreground and that of the background.</dd>"
        "<dt>Harmonic mean</dt><dd>2SU / (S + U) of the mIoU on seen (S) and unseen (U) classes.</dd>"
        "<dt>Floors</dt><dd>The whole picture as mask; the best of nine centred boxes (20% to 100% of the sides), "
        "chosen on the scored pairs themselves, which favours the floor; the white filter applied to the input "
        "picture.</dd>"
        "<dt>Ceiling</dt><dd>The true target painted, encoded and decoded by the VAE, and extracted by the same rule: "
        "what a perfect UNet would score.</dd>"
        "<dt>Intervals</dt><dd>95% percentile bootstrap over pictures. It covers the choice of pictures, not the "
        "training seed.</dd></dl></div>\n",
        out);
}
