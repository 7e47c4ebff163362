#include "eval/report/report.h"
#include "eval/report/chart.h"
#include "util/error.h"
#include "util/file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static yajl_val find(const Json *metrics, const char *path) {
    yajl_val at = metrics->root;
    char part[64];
    while (at && *path) {
        size_t length = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        at = json_find(at, part);
        path += length + (path[length] == '.');
    }
    return at;
}

double metric(const Json *metrics, const char *path) {
    yajl_val v = find(metrics, path);
    return v && YAJL_IS_NUMBER(v) ? strtod(YAJL_GET_NUMBER(v), NULL) : NAN;
}

const char *metric_text(const Json *metrics, const char *path) {
    yajl_val v = find(metrics, path);
    return v && YAJL_IS_STRING(v) ? YAJL_GET_STRING(v) : "";
}

static double group_metric(const Json *m, const char *group, const char *rest) {
    char path[128];
    snprintf(path, sizeof path, "%s.%s", group, rest);
    return metric(m, path);
}

static void cell(FILE *out, double value, const char *format) {
    fputs("<td>", out);
    if (isnan(value)) {
        fputs("&ndash;", out);
    } else {
        fprintf(out, format, value);
    }
    fputs("</td>", out);
}

// ---- parts of one evaluation ---------------------------------------------------------------------------------------

static void tile(FILE *out, const char *id, const char *name, double value, double low, double high) {
    fprintf(out, "<div class=\"tile\" id=\"%s\"><span>%s</span><b>", id, name);
    if (isnan(value)) {
        fputs("&ndash;</b><span>no pairs", out);
    } else {
        fprintf(out, "%.3f</b><span>", value);
        if (high > low) { fprintf(out, "95%% interval %.3f to %.3f", low, high); }
    }
    fputs("</span></div>\n", out);
}

static void tiles(FILE *out, const Json *m) {
    fputs("<div class=\"tiles\">\n", out);
    tile(out, "tile-seen", "mIoU, seen classes", metric(m, "seen.miou"), metric(m, "seen.miou_low"),
         metric(m, "seen.miou_high"));
    tile(out, "tile-unseen", "mIoU, unseen classes", metric(m, "unseen.miou"), metric(m, "unseen.miou_low"),
         metric(m, "unseen.miou_high"));
    tile(out, "tile-harmonic", "harmonic mean of both", metric(m, "harmonic"), 0, 0);
    fprintf(out,
            "<div class=\"tile\"><span>time per query</span><b>%.3g&thinsp;s</b><span>on %s</span></div>\n</div>\n",
            metric(m, "sampling_seconds_per_pair"), metric_text(m, "config.device"));
}

static void floors_figure(FILE *out, const Json *m) {
    static const struct {
        const char *label, *path;
    } rows[] = {{"whole picture", "floors.all_foreground.miou"},
                {"best centre box", "floors.centre_box.miou"},
                {"white filter", "floors.white_filter.miou"},
                {"model", "miou"},
                {"all objects", "all_objects.miou"},
                {"ceiling", "ceiling.miou"}};
    static const char *const groups[] = {"seen", "unseen"};
    ChartBar bars[2 * sizeof rows / sizeof *rows];
    char labels[2 * sizeof rows / sizeof *rows][64];
    int n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int g = 0; g < 2; g++) {
            bool model = strcmp(rows[i].path, "miou") == 0;
            double value = group_metric(m, groups[g], rows[i].path);
            if (isnan(value)) { continue; }
            snprintf(labels[n], sizeof labels[n], "%s, %s", rows[i].label, groups[g]);
            ChartBar bar = {labels[n], value, NAN, NAN, NAN, model ? g : COLOR_GREY, NULL};
            if (model) {
                bar.low = group_metric(m, groups[g], "miou_low");
                bar.high = group_metric(m, groups[g], "miou_high");
            }
            bars[n++] = bar;
        }
    }
    figure_begin(out, "fig-floors", "Between the floors and the ceiling (mIoU)");
    chart_bars(out, bars, n, false);
    figure_end(
        out,
        "What a model scores must be read between the floors, which need no model (the whole picture, the best "
        "centred box, a white filter on the input), and the ceiling: the true target after the VAE and the same mask "
        "extraction. All objects: everything that is annotated, whatever the text asks for - about the best that a "
        "model can do that ignores the text.");
}

static int by_iou(const void *a, const void *b) {
    double p = ((const ChartBar *)a)->value, q = ((const ChartBar *)b)->value;
    return (p < q) - (p > q);
}

static double field(yajl_val object, const char *name) {
    yajl_val v = json_find(object, name);
    return v && YAJL_IS_NUMBER(v) ? strtod(YAJL_GET_NUMBER(v), NULL) : NAN;
}

static void classes_figure(FILE *out, const Json *m) {
    yajl_val list = json_find(m->root, "classes");
    int n = list && YAJL_IS_ARRAY(list) ? (int)list->u.array.len : 0;
    ChartBar *bars = xcalloc((size_t)n + 1, sizeof *bars);
    for (int i = 0; i < n; i++) {
        yajl_val c = list->u.array.values[i], name = json_find(c, "name"), seen = json_find(c, "seen");
        bars[i] = (ChartBar){YAJL_GET_STRING(name),
                             field(c, "iou"),
                             field(c, "iou_low"),
                             field(c, "iou_high"),
                             field(c, "ceiling"),
                             seen && YAJL_IS_TRUE(seen) ? COLOR_SEEN : COLOR_UNSEEN,
                             NULL};
        bars[i].note = xprintf("%s: IoU %.3f over %.0f pairs, ceiling %.3f", bars[i].label, bars[i].value,
                               field(c, "pairs"), bars[i].mark);
    }
    qsort(bars, (size_t)n, sizeof *bars, by_iou);
    figure_begin(out, "fig-classes", "IoU of each class");
    chart_legend(out, (const char *const[]){"seen in training", "unseen", "ceiling (tick)"},
                 (const int[]){COLOR_SEEN, COLOR_UNSEEN, COLOR_DARK}, 3);
    chart_bars(out, bars, n, false);
    figure_end(out, "Sum of intersections over sum of unions within the class; the whisker is the 95% bootstrap "
                    "interval over pictures. Rest the pointer on a bar for the number of pairs.");
    for (int i = 0; i < n; i++) { free((char *)bars[i].note); }
    free(bars);
}

typedef struct {
    const char *label, *path;
} NamedPath;

// Pairs of bars, seen and unseen, of some numbers of the groups.
static void grouped_figure(FILE *out, const Json *m, const char *id, const char *title, const NamedPath *rows,
                           int count, const char *caption) {
    ChartBar *bars = xcalloc((size_t)count * 2 + 1, sizeof *bars);
    for (int i = 0; i < count; i++) {
        bars[2 * i] =
            (ChartBar){rows[i].label, group_metric(m, "seen", rows[i].path), NAN, NAN, NAN, COLOR_SEEN, "seen"};
        bars[2 * i + 1] =
            (ChartBar){"", group_metric(m, "unseen", rows[i].path), NAN, NAN, NAN, COLOR_UNSEEN, "unseen"};
    }
    figure_begin(out, id, title);
    chart_legend(out, (const char *const[]){"seen", "unseen"}, (const int[]){COLOR_SEEN, COLOR_UNSEEN}, 2);
    chart_bars(out, bars, 2 * count, true);
    figure_end(out, caption);
    free(bars);
}

static void details_figures(FILE *out, const Json *m) {
    static const NamedPath sizes[] = {
        {"small, < 2%", "giou_small"}, {"medium, < 15%", "giou_medium"}, {"large", "giou_large"}};
    static const NamedPath precisions[] = {
        {"IoU > 0.5", "p50"}, {"IoU > 0.6", "p60"}, {"IoU > 0.7", "p70"}, {"IoU > 0.8", "p80"}, {"IoU > 0.9", "p90"}};
    static const NamedPath degenerate[] = {{"empty masks", "empty"}, {"full masks", "full"}};
    fputs("<div class=\"two\">\n", out);
    grouped_figure(out, m, "fig-sizes", "By the object's share of the picture (gIoU)", sizes, 3, NULL);
    grouped_figure(out, m, "fig-precision", "Share of pairs above an IoU", precisions, 5, NULL);
    grouped_figure(out, m, "fig-degenerate", "Degenerate predictions", degenerate, 2,
                   "Share of predictions with no pixel at all, and with 99% of the pixels or more.");
    fputs("</div>\n", out);
}

static void texts_figure(FILE *out, const Json *m) {
    yajl_val list = json_find(m->root, "text_table");
    int n = list && YAJL_IS_ARRAY(list) ? (int)list->u.array.len : 0;
    if (n == 0) { return; }
    figure_begin(out, "table-texts", "Asked in other words");
    fputs("<table><tr><th>text</th><th>pairs</th><th>seen</th><th>in its own words</th><th>unseen</th><th>in its own "
          "words</th></tr>",
          out);
    for (int i = 0; i < n; i++) {
        static const char *const columns[] = {"seen_miou", "own_seen_miou", "unseen_miou", "own_unseen_miou"};
        yajl_val row = list->u.array.values[i], text = json_find(row, "text");
        fputs("<tr><td>", out);
        html_text(out, text && YAJL_IS_STRING(text) ? YAJL_GET_STRING(text) : "");
        fprintf(out, "</td><td>%g</td>", field(row, "pairs"));
        for (int k = 0; k < 4; k++) { cell(out, field(row, columns[k]), "%.3f"); }
        fputs("</tr>", out);
    }
    fputs("</table>\n", out);
    figure_end(out, "mIoU over the pairs of the classes that have such a name; beside it the same pairs asked as in "
                    "training.");
}

static void steps_figure(FILE *out, const Json *m) {
    yajl_val list = json_find(m->root, "steps_table");
    int n = list && YAJL_IS_ARRAY(list) ? (int)list->u.array.len : 0;
    if (n == 0) { return; }
    double *values = xmalloc((size_t)n * 3 * sizeof *values);
    for (int i = 0; i < n; i++) {
        yajl_val row = list->u.array.values[i];
        values[i] = field(row, "steps");
        values[n + i] = field(row, "seen_miou");
        values[2 * n + i] = field(row, "unseen_miou");
    }
    ChartLine lines[] = {{"seen", values, values + n, n, COLOR_SEEN, false, true, NULL, NULL},
                         {"unseen", values, values + 2 * n, n, COLOR_UNSEEN, false, true, NULL, NULL}};
    fputs("<div class=\"two\">\n", out);
    figure_begin(out, "fig-steps", "mIoU over the number of DDIM steps");
    chart_lines(out, lines, 2, "DDIM steps", "mIoU", NAN, true);
    figure_end(out, NULL);
    figure_begin(out, "table-steps", "The same as a table");
    fputs("<table><tr><th>steps</th><th>seen</th><th>unseen</th></tr>", out);
    for (int i = 0; i < n; i++) {
        fprintf(out, "<tr><td>%g</td>", values[i]);
        cell(out, values[n + i], "%.3f");
        cell(out, values[2 * n + i], "%.3f");
        fputs("</tr>", out);
    }
    fputs("</table>\n", out);
    figure_end(out, NULL);
    fputs("</div>\n", out);
    free(values);
}

static void summary_table(FILE *out, const Json *m) {
    static const char *const groups[] = {"seen", "unseen", "all", "without_person"};
    static const char *const names[] = {"seen", "unseen", "all classes", "without person"};
    static const NamedPath columns[] = {{"pairs", "pairs"},
                                        {"classes", "classes"},
                                        {"mIoU", "miou"},
                                        {"gIoU", "giou"},
                                        {"class gIoU", "class_giou"},
                                        {"cIoU", "ciou"},
                                        {"IoU bin", "iou_bin"},
                                        {"P@.5", "p50"},
                                        {"P@.7", "p70"},
                                        {"P@.9", "p90"},
                                        {"ceiling", "ceiling.miou"}};
    enum { COLUMNS = sizeof columns / sizeof *columns };
    fputs("<div class=\"card scroll\" id=\"table-summary\"><table><tr><th></th>", out);
    for (int c = 0; c < COLUMNS; c++) { fprintf(out, "<th>%s</th>", columns[c].label); }
    fputs("</tr>\n", out);
    for (int g = 0; g < 4; g++) {
        if (!(group_metric(m, groups[g], "pairs") > 0)) { continue; }
        fprintf(out, "<tr><td>%s</td>", names[g]);
        for (int c = 0; c < COLUMNS; c++) {
            cell(out, group_metric(m, groups[g], columns[c].path), c < 2 ? "%.0f" : "%.3f");
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
    if (metric(m, "absent.pairs") > 0) {
        fprintf(
            out,
            "<p class=\"small\" id=\"absent\">Asked for classes that are not in the picture (%.0f queries), the model "
            "answered %.1f%% with an empty mask and marked %.2f%% of the picture on average.</p>\n",
            metric(m, "absent.pairs"), 100 * metric(m, "absent.empty"), 100 * metric(m, "absent.false_area"));
    }
}

static void gallery_section(FILE *out, const Gallery *g, GalleryKind kind, const char *id, const char *title,
                            const char *const *class_names) {
    if (g->count[kind] == 0) { return; }
    fprintf(out, "<h2>%s</h2>\n<div class=\"gallery\" id=\"%s\">\n", title, id);
    for (int i = 0; i < g->count[kind]; i++) {
        const GalleryEntry *e = &g->entries[kind][i];
        fputs("<div class=\"pair\"><p><span>&ldquo;", out);
        html_text(out, class_names[e->pair.category]);
        fprintf(out, "&rdquo; <em>%s</em></span><b>IoU %.2f</b></p><div>", e->seen ? "seen" : "unseen", e->iou);
        html_image(out, &e->input, "input");
        html_image(out, &e->prediction, "prediction");
        html_image(out, &e->outcome, "mask against truth");
        fprintf(out, "</div></div>\n<!-- picture %lld -->\n", (long long)e->pair.image_id);
    }
    fputs("</div>\n", out);
}

static void pictures(FILE *out, const Gallery *g, const char *const *class_names) {
    fputs("<p class=\"small\" style=\"margin-top:36px\">Each triple: the picture, what the model drew, and the "
          "extracted mask on "
          "the grey picture &ndash; hits green, false alarms red, misses blue.</p>\n",
          out);
    gallery_section(out, g, GALLERY_TYPICAL, "gallery-typical", "Drawn by chance", class_names);
    gallery_section(out, g, GALLERY_BEST, "gallery-best", "The best", class_names);
    gallery_section(out, g, GALLERY_WORST, "gallery-worst", "The worst", class_names);
}

void report_definitions(FILE *out) {
    fputs(
        "<h2 id=\"definitions\">What the numbers mean</h2>\n<div class=\"card\"><dl>"
        "<dt>IoU of a pair</dt><dd>A pair is a picture and a class that it shows. Intersection over union of the "
        "predicted and the true mask, at the picture's own resolution; the true mask is the union of the class's "
        "instances, and crowd regions do not count either way. Empty against empty is 1.</dd>"
        "<dt>mIoU</dt><dd>The mean over classes of the class's IoU, which is its sum of intersections over its sum of "
        "unions. Frequent classes weigh no more than rare ones.</dd>"
        "<dt>gIoU</dt><dd>The mean over pairs of the pair's IoU; class gIoU averages within each class first.</dd>"
        "<dt>cIoU</dt><dd>Sum of all intersections over sum of all unions: large objects count most.</dd>"
        "<dt>IoU bin</dt><dd>The mean of the cIoU of the foreground and that of the background.</dd>"
        "<dt>Harmonic mean</dt><dd>2SU / (S + U) of the mIoU on seen (S) and unseen (U) classes.</dd>"
        "<dt>Floors</dt><dd>The whole picture as mask; the best of nine centred boxes (20% to 100% of the sides), "
        "chosen "
        "on the evaluated pairs themselves, which favours the floor; the white filter applied to the input "
        "picture.</dd>"
        "<dt>Ceiling</dt><dd>The true target painted, encoded and decoded by the VAE, and extracted by the same rule: "
        "what a perfect UNet would score.</dd>"
        "<dt>Intervals</dt><dd>95% percentile bootstrap over pictures. It covers the choice of pictures, not the "
        "training seed.</dd></dl></div>\n",
        out);
}

static void configuration(FILE *out, const Json *m) {
    yajl_val config = json_find(m->root, "config");
    if (!config || !YAJL_IS_OBJECT(config)) { return; }
    fputs("<details id=\"configuration\"><summary>How this was measured</summary><div class=\"card\"><table>", out);
    for (size_t i = 0; i < config->u.object.len; i++) {
        yajl_val v = config->u.object.values[i];
        fputs("<tr><td>", out);
        html_text(out, config->u.object.keys[i]);
        fputs("</td><td style=\"text-align:left\"><code>", out);
        if (YAJL_IS_STRING(v)) { html_text(out, YAJL_GET_STRING(v)); }
        if (YAJL_IS_NUMBER(v)) { html_text(out, YAJL_GET_NUMBER(v)); }
        if (YAJL_IS_TRUE(v) || YAJL_IS_FALSE(v)) { fputs(YAJL_IS_TRUE(v) ? "yes" : "no", out); }
        if (YAJL_IS_OBJECT(v)) {
            fprintf(out, "%s, tolerance %.3g", metric_text(m, "config.extraction.method"),
                    metric(m, "config.extraction.tolerance"));
            if (!isnan(metric(m, "config.extraction.changed"))) {
                fprintf(out, ", changed by at least %.3g", metric(m, "config.extraction.changed"));
            }
        }
        fputs("</code></td></tr>", out);
    }
    fputs("</table></div></details>\n", out);
}

// ---- training curves -----------------------------------------------------------------------------------------------

static ChartLine line_of(const Curve *c, const char *name, int color, bool dashed, bool dots) {
    return (ChartLine){name, c->step, c->value, c->count, color, dashed, dots, NULL, NULL};
}

static const int run_colors[] = {COLOR_SEEN, COLOR_UNSEEN, COLOR_THIRD, COLOR_FOURTH, COLOR_DARK, COLOR_GREY};
enum { RUN_COLORS = sizeof run_colors / sizeof *run_colors };

static void loss_figure(FILE *out, const RunLog *logs, int count) {
    ChartLine *lines = xcalloc((size_t)count * 2 + 1, sizeof *lines);
    Curve *smooth = xcalloc((size_t)count + 1, sizeof *smooth);
    char(*names)[80] = xcalloc((size_t)count * 2 + 1, sizeof *names);
    int n = 0;
    for (int i = 0; i < count; i++) {
        int color = run_colors[i % RUN_COLORS];
        smooth[i] = curve_smooth(&logs[i].loss, 200);
        snprintf(names[n], sizeof *names, "%s, training", logs[i].name);
        lines[n] = line_of(&smooth[i], names[n], color, false, false);
        n++;
        if (logs[i].validation_loss.count == 0) { continue; }
        snprintf(names[n], sizeof *names, "%s, validation", logs[i].name);
        lines[n] = line_of(&logs[i].validation_loss, names[n], color, true, false);
        n++;
    }
    figure_begin(out, "fig-loss", "Loss");
    chart_lines(out, lines, n, "optimizer steps", "loss", NAN, false);
    figure_end(out, "Training loss averaged over stretches of the run.");
    for (int i = 0; i < count; i++) { curve_free(&smooth[i]); }
    free(lines);
    free(smooth);
    free(names);
}

typedef const Curve *(*CurveOf)(const RunLog *log);
static const Curve *seen_of(const RunLog *log) { return &log->miou_seen; }
static const Curve *unseen_of(const RunLog *log) { return &log->miou_unseen; }
static const Curve *empty_of(const RunLog *log) { return &log->empty; }
static const Curve *full_of(const RunLog *log) { return &log->full; }

// Two curves of each run: the first solid, the second dashed (or in another colour where there is one run).
static void validation_figure(FILE *out, const RunLog *logs, int count, const char *id, const char *title,
                              const char *y_label, CurveOf first, const char *first_name, CurveOf second,
                              const char *second_name) {
    ChartLine *lines = xcalloc((size_t)count * 2 + 1, sizeof *lines);
    char(*names)[80] = xcalloc((size_t)count * 2 + 1, sizeof *names);
    int n = 0;
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 2; k++) {
            const Curve *curve = k ? second(&logs[i]) : first(&logs[i]);
            if (curve->count == 0) { continue; }
            int color = count == 1 ? (k ? COLOR_UNSEEN : COLOR_SEEN) : run_colors[i % RUN_COLORS];
            snprintf(names[n], sizeof *names, "%s%s%s", count > 1 ? logs[i].name : "", count > 1 ? ", " : "",
                     k ? second_name : first_name);
            lines[n] = line_of(curve, names[n], color, count > 1 && k, true);
            n++;
        }
    }
    if (n > 0) {
        figure_begin(out, id, title);
        chart_lines(out, lines, n, "optimizer steps", y_label, NAN, false);
        figure_end(out, NULL);
    }
    free(lines);
    free(names);
}

void report_training(FILE *out, const RunLog *logs, int count) {
    if (count == 0) { return; }
    fputs("<h2>Training</h2>\n<div class=\"two\">\n", out);
    loss_figure(out, logs, count);
    validation_figure(out, logs, count, "fig-validation", "mIoU on validation samples", "mIoU", seen_of, "seen",
                      unseen_of, "unseen");
    validation_figure(out, logs, count, "fig-collapse", "Degenerate predictions on validation samples", "share",
                      empty_of, "empty", full_of, "full");
    fputs("</div>\n", out);
}

// ---- the page ------------------------------------------------------------------------------------------------------

static void lead(FILE *out, const Json *m) {
    fputs("<p class=\"lead\">Model <code>", out);
    html_text(out, metric_text(m, "config.model"));
    fprintf(out, "</code>%s, trained to draw the %s, on ",
            find(m, "config.ema") && YAJL_IS_TRUE(find(m, "config.ema")) ? " (averaged weights)" : "",
            strcmp(metric_text(m, "config.target"), "mask") == 0 ? "black and white mask"
                                                                 : "mask painted on the picture");
    html_text(out, metric_text(m, "config.data"));
    fprintf(out, ": %.0f pairs of a picture and a class, %.0f pictures, %.0f DDIM steps.</p>\n", metric(m, "all.pairs"),
            metric(m, "pictures"), metric(m, "config.steps"));
}

void report_evaluation(const char *path, const Json *m, const Gallery *gallery, const char *const *class_names,
                       const RunLog *logs, int log_count) {
    AtomicFile file = atomic_open(path);
    FILE *out = file.stream;
    html_begin(out, "cocogold: evaluation");
    fputs("<h1>Segmentation by text: how good is it?</h1>\n", out);
    lead(out, m);
    tiles(out, m);
    floors_figure(out, m);
    classes_figure(out, m);
    if (gallery) { pictures(out, gallery, class_names); }
    fputs("<h2>Closer</h2>\n", out);
    details_figures(out, m);
    steps_figure(out, m);
    texts_figure(out, m);
    fputs("<h2>All numbers</h2>\n", out);
    summary_table(out, m);
    report_training(out, logs, log_count);
    report_definitions(out);
    configuration(out, m);
    html_end(out);
    atomic_commit(&file);
}
