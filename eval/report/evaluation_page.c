#include "eval/report/evaluation_page.h"
#include "eval/report/chart.h"
#include "eval/report/page.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// from: the object with miou and its interval.
static void tile(FILE *out, const char *id, const char *name, double value, yajl_val from) {
    double low = json_number_at(from, "miou_low"), high = json_number_at(from, "miou_high");
    html(out, "<div class=\"tile\" id=\"%s\"><span>%s</span><b>", id, name);
    if (isnan(value)) {
        fputs("&ndash;</b><span>no pairs", out);
    } else {
        fprintf(out, "%.3f</b><span>", value);
        if (high > low) { fprintf(out, "95%% interval %.3f to %.3f", low, high); }
    }
    fputs("</span></div>\n", out);
}

static void tiles(FILE *out, yajl_val m) {
    fputs("<div class=\"tiles\">\n", out);
    tile(out, "tile-seen", "mIoU, seen classes", json_number_at(m, "seen.miou"), json_find(m, "seen"));
    tile(out, "tile-unseen", "mIoU, unseen classes", json_number_at(m, "unseen.miou"), json_find(m, "unseen"));
    tile(out, "tile-harmonic", "harmonic mean of both", json_number_at(m, "harmonic"), NULL);
    html(out, "<div class=\"tile\"><span>time per query</span><b>%.3g&thinsp;s</b><span>on %s</span></div>\n</div>\n",
         json_number_at(m, "sampling_seconds_per_pair"), json_string_at(m, "config.device"));
}

// The groups of classes, also their names in metrics.json, and the mark.
static const char *const legend_names[] = {"seen", "unseen", "ceiling (tick)"};
static const int legend_colors[] = {SERIES_SEEN, SERIES_UNSEEN, SERIES_DARK};

typedef struct {
    const char *label, *path;
} NamedPath;

static void floors_figure(FILE *out, yajl_val m) {
    static const NamedPath rows[] = {{"whole picture", "floors.all_foreground.miou"},
                                     {"best centre box", "floors.centre_box.miou"},
                                     {"white filter", "floors.white_filter.miou"},
                                     {"model", "miou"},
                                     {"all objects", "all_objects.miou"},
                                     {"ceiling", "ceiling.miou"}};
    ChartBar bars[2 * sizeof rows / sizeof *rows];
    char labels[2 * sizeof rows / sizeof *rows][64];
    int n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int g = 0; g < 2; g++) {
            bool model = strcmp(rows[i].path, "miou") == 0;
            yajl_val group = json_find(m, legend_names[g]);
            double value = json_number_at(group, rows[i].path);
            if (isnan(value)) { continue; }
            snprintf(labels[n], sizeof labels[n], "%s, %s", rows[i].label, legend_names[g]);
            bars[n] = (ChartBar){.label = labels[n],
                                 .value = value,
                                 .low = model ? json_number_at(group, "miou_low") : NAN,
                                 .high = model ? json_number_at(group, "miou_high") : NAN,
                                 .mark = NAN,
                                 .color = model ? g : SERIES_GREY};
            n++;
        }
    }
    figure_begin(out, "fig-floors", "Between the floors and the ceiling (mIoU)");
    chart_bars(out, bars, n, (ChartLegend){0}, false);
    figure_end(
        out,
        "Compare the model with the floors, which need no model (the whole picture, the best centred box, a white "
        "filter on the input), and with the ceiling: the true target after the VAE and the same mask extraction. All "
        "objects: everything that is annotated, whatever the text asks for. This is about the best score of a model "
        "that ignores the text.");
}

static int by_iou(const void *a, const void *b) {
    double p = ((const ChartBar *)a)->value, q = ((const ChartBar *)b)->value;
    return (p < q) - (p > q);
}

static yajl_val list_at(yajl_val object, const char *field, int *count) {
    yajl_val list = json_find(object, field);
    *count = list && YAJL_IS_ARRAY(list) ? (int)list->u.array.len : 0;
    return list;
}

static void classes_figure(FILE *out, yajl_val m) {
    int n;
    yajl_val list = list_at(m, "classes", &n);
    ChartBar *bars = xcalloc((size_t)n + 1, sizeof *bars);
    for (int i = 0; i < n; i++) {
        yajl_val c = list->u.array.values[i], seen = json_find(c, "seen");
        bars[i] = (ChartBar){json_string_at(c, "name"),
                             json_number_at(c, "iou"),
                             json_number_at(c, "iou_low"),
                             json_number_at(c, "iou_high"),
                             json_number_at(c, "ceiling"),
                             seen && YAJL_IS_TRUE(seen) ? SERIES_SEEN : SERIES_UNSEEN,
                             NULL};
        bars[i].note = xprintf("%s: IoU %.3f over %.0f pairs, ceiling %.3f", bars[i].label, bars[i].value,
                               json_number_at(c, "pairs"), bars[i].mark);
    }
    qsort(bars, (size_t)n, sizeof *bars, by_iou);
    figure_begin(out, "fig-classes", "IoU of each class");
    chart_bars(out, bars, n,
               (ChartLegend){(const char *const[]){"seen in training", "unseen", "ceiling (tick)"}, legend_colors, 3},
               false);
    figure_end(out, "Sum of intersections over sum of unions within the class; the whisker is the 95% bootstrap "
                    "interval over pictures. Rest the pointer on a bar for the number of pairs.");
    for (int i = 0; i < n; i++) { free((char *)bars[i].note); }
    free(bars);
}

// Pairs of bars, seen and unseen, for some of the groups' numbers.
static void grouped_figure(FILE *out, yajl_val m, const char *id, const char *title, const NamedPath *rows, int count,
                           const char *caption) {
    ChartBar *bars = xcalloc((size_t)count * 2 + 1, sizeof *bars);
    for (int i = 0; i < 2 * count; i++) {
        double value = json_number_at(json_find(m, legend_names[i % 2]), rows[i / 2].path);
        bars[i] =
            (ChartBar){i % 2 ? "" : rows[i / 2].label, value, NAN, NAN, NAN, legend_colors[i % 2], legend_names[i % 2]};
    }
    figure_begin(out, id, title);
    chart_bars(out, bars, 2 * count, (ChartLegend){legend_names, legend_colors, 2}, true);
    figure_end(out, caption);
    free(bars);
}

static void details_figures(FILE *out, yajl_val m) {
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

static void texts_figure(FILE *out, yajl_val m) {
    int n;
    yajl_val list = list_at(m, "text_table", &n);
    if (n == 0) { return; }
    figure_begin(out, "table-texts", "Other texts");
    fputs("<table><tr><th>text</th><th>pairs</th><th>seen</th><th>own text</th><th>unseen</th><th>own text</th></tr>",
          out);
    for (int i = 0; i < n; i++) {
        static const char *const columns[] = {"seen_miou", "own_seen_miou", "unseen_miou", "own_unseen_miou"};
        yajl_val row = list->u.array.values[i];
        html(out, "<tr><td>%s</td><td>%g</td>", json_string_at(row, "text"), json_number_at(row, "pairs"));
        for (int k = 0; k < 4; k++) { html_cell(out, "%.3f", json_number_at(row, columns[k])); }
        fputs("</tr>", out);
    }
    fputs("</table>\n", out);
    figure_end(out, "mIoU over the pairs of the classes that have such a name. Own text: the same pairs with the text "
                    "used in training.");
}

static void steps_figure(FILE *out, yajl_val m) {
    int n;
    yajl_val list = list_at(m, "steps_table", &n);
    if (n == 0) { return; }
    double *values = xmalloc((size_t)n * 3 * sizeof *values);
    for (int i = 0; i < n; i++) {
        yajl_val row = list->u.array.values[i];
        values[i] = json_number_at(row, "steps");
        values[n + i] = json_number_at(row, "seen_miou");
        values[2 * n + i] = json_number_at(row, "unseen_miou");
    }
    ChartLine lines[] = {{"seen", values, values + n, n, SERIES_SEEN, false, LINE_WITH_DOTS, NULL, NULL},
                         {"unseen", values, values + 2 * n, n, SERIES_UNSEEN, false, LINE_WITH_DOTS, NULL, NULL}};
    fputs("<div class=\"two\">\n", out);
    figure_begin(out, "fig-steps", "mIoU by number of DDIM steps");
    chart_lines(out, lines, 2, (ChartAxes){.x_label = "DDIM steps", .y_label = "mIoU", .log_x = true});
    figure_end(out, NULL);
    figure_begin(out, "table-steps", "mIoU by number of DDIM steps, as a table");
    fputs("<table><tr><th>steps</th><th>seen</th><th>unseen</th></tr>", out);
    for (int i = 0; i < n; i++) {
        fprintf(out, "<tr><td>%g</td>", values[i]);
        html_cell(out, "%.3f", values[n + i]);
        html_cell(out, "%.3f", values[2 * n + i]);
        fputs("</tr>", out);
    }
    fputs("</table>\n", out);
    figure_end(out, NULL);
    fputs("</div>\n", out);
    free(values);
}

// A row of the table of groups, unless the group has no pairs.
static void summary_row(FILE *out, const char *name, yajl_val group, const NamedPath *columns, int count) {
    if (!(json_number_at(group, "pairs") > 0)) { return; }
    html(out, "<tr><td>%s</td>", name);
    for (int c = 0; c < count; c++) { html_cell(out, c < 2 ? "%.0f" : "%.3f", json_number_at(group, columns[c].path)); }
    fputs("</tr>\n", out);
}

static void summary_table(FILE *out, yajl_val m) {
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
    for (int g = 0; g < 4; g++) { summary_row(out, names[g], json_find(m, groups[g]), columns, COLUMNS); }
    yajl_val own = json_find(m, "groups"); // of --group, and kinds of phrases
    for (size_t k = 0; YAJL_IS_OBJECT(own) && k < own->u.object.len; k++) {
        summary_row(out, own->u.object.keys[k], own->u.object.values[k], columns, COLUMNS);
    }
    fputs("</table></div>\n", out);
    if (json_number_at(m, "absent.pairs") > 0) {
        fprintf(out,
                "<p class=\"small\" id=\"absent\">When asked for absent classes (%.0f queries), the model "
                "answered %.1f%% with an empty mask and marked %.2f%% of the picture on average.</p>\n",
                json_number_at(m, "absent.pairs"), 100 * json_number_at(m, "absent.empty"),
                100 * json_number_at(m, "absent.false_area"));
    }
}

static void gallery_section(FILE *out, const Gallery *g, GalleryKind kind, const char *id, const char *title,
                            const Dataset *dataset) {
    if (g->count[kind] == 0) { return; }
    fprintf(out, "<h2>%s</h2>\n<div class=\"gallery\" id=\"%s\">\n", title, id);
    for (int i = 0; i < g->count[kind]; i++) {
        const GalleryEntry *e = &g->entries[kind][i];
        html(out, "<div class=\"pair\"><p><span>&ldquo;%s&rdquo; <em>%s</em></span><b>IoU %.2f</b></p><div>",
             dataset_text(dataset, &e->pair), e->seen ? "seen" : "unseen", e->iou);
        html_image(out, &e->input, "input");
        html_image(out, &e->prediction, "prediction");
        html_image(out, &e->outcome, "mask against truth");
        fprintf(out, "</div></div>\n<!-- picture %lld -->\n", (long long)e->pair.image_id);
    }
    fputs("</div>\n", out);
}

static void pictures(FILE *out, const Gallery *g, const Dataset *dataset) {
    fputs("<p class=\"small\" style=\"margin-top:36px\">Each triple shows the picture, what the model drew, and the "
          "extracted mask on the grey picture: hits are green, false alarms red, misses blue.</p>\n",
          out);
    gallery_section(out, g, GALLERY_TYPICAL, "gallery-typical", "Random pairs", dataset);
    gallery_section(out, g, GALLERY_BEST, "gallery-best", "Best pairs", dataset);
    gallery_section(out, g, GALLERY_WORST, "gallery-worst", "Worst pairs", dataset);
}

// A field of "config" as text, to be freed: "" where there is none.
static char *setting(yajl_val m, const char *field) {
    yajl_val v = json_find(json_find(m, "config"), field);
    if (YAJL_IS_STRING(v)) { return xstrdup(YAJL_GET_STRING(v)); }
    if (YAJL_IS_NUMBER(v)) { return xstrdup(YAJL_GET_NUMBER(v)); }
    if (YAJL_IS_TRUE(v) || YAJL_IS_FALSE(v)) { return xstrdup(YAJL_IS_TRUE(v) ? "yes" : "no"); }
    if (!YAJL_IS_OBJECT(v)) { return xstrdup(""); } // else it is "extraction"
    double changed = json_number_at(v, "changed");
    char *least = isnan(changed) ? xstrdup("") : xprintf(", changed by at least %.3g", changed);
    yajl_val opening = json_find(v, "opening");
    char *text = xprintf("%s, tolerance %.3g%s%s", json_string_at(v, "method"), json_number_at(v, "tolerance"), least,
                         opening && YAJL_IS_FALSE(opening) ? ", no opening" : "");
    free(least);
    return text;
}

static void configuration(FILE *out, yajl_val m) {
    yajl_val config = json_find(m, "config");
    if (!config || !YAJL_IS_OBJECT(config)) { return; }
    fputs("<details id=\"configuration\"><summary>How this was measured</summary><div class=\"card\"><table>", out);
    for (size_t i = 0; i < config->u.object.len; i++) {
        char *text = setting(m, config->u.object.keys[i]);
        html(out, "<tr><td>%s</td><td style=\"text-align:left\"><code>%s</code></td></tr>", config->u.object.keys[i],
             text);
        free(text);
    }
    fputs("</table></div></details>\n", out);
}

// ---- one evaluation -------------------------------------------------------------------------------------------------

static void lead(FILE *out, yajl_val m) {
    yajl_val ema = json_at(m, "config.ema");
    bool mask = strcmp(json_string_at(m, "config.target"), "mask") == 0;
    html(out,
         "<p class=\"lead\">Model <code>%s</code>%s, trained to draw the %s, on %s: %.0f pairs of a picture and a "
         "class, %.0f pictures, %.0f DDIM steps.</p>\n",
         json_string_at(m, "config.model"), ema && YAJL_IS_TRUE(ema) ? " (averaged weights)" : "",
         mask ? "black and white mask" : "mask painted on the picture", json_string_at(m, "config.data"),
         json_number_at(m, "all.pairs"), json_number_at(m, "pictures"), json_number_at(m, "config.steps"));
}

void report_evaluation(const char *path, const Json *metrics, const Gallery *gallery, const Dataset *dataset,
                       const RunCurves *runs, int run_count) {
    AtomicFile page = page_begin(path, "cocogold: evaluation");
    FILE *out = page.stream;
    yajl_val m = metrics->root;
    fputs("<h1>Segmentation by text: how good is it?</h1>\n", out);
    lead(out, m);
    tiles(out, m);
    floors_figure(out, m);
    classes_figure(out, m);
    if (gallery) { pictures(out, gallery, dataset); }
    fputs("<h2>Details</h2>\n", out);
    details_figures(out, m);
    steps_figure(out, m);
    texts_figure(out, m);
    fputs("<h2>All numbers</h2>\n", out);
    summary_table(out, m);
    page_training(out, runs, run_count);
    page_definitions(out, metrics, 1);
    configuration(out, m);
    page_end(&page);
}

// ---- several runs side by side --------------------------------------------------------------------------------------

static void comparison_figure(FILE *out, const Json *metrics, const char *const *names, int count) {
    ChartBar *bars = xcalloc((size_t)count * 2 + 1, sizeof *bars);
    for (int i = 0; i < 2 * count; i++) {
        yajl_val group = json_find(metrics[i / 2].root, legend_names[i % 2]);
        bars[i] = (ChartBar){.label = i % 2 ? "" : names[i / 2],
                             .value = json_number_at(group, "miou"),
                             .low = json_number_at(group, "miou_low"),
                             .high = json_number_at(group, "miou_high"),
                             .mark = json_number_at(group, "ceiling.miou"),
                             .color = legend_colors[i % 2],
                             .note = legend_names[i % 2]};
    }
    figure_begin(out, "fig-evaluations", "mIoU of each evaluation");
    chart_bars(out, bars, 2 * count, (ChartLegend){legend_names, legend_colors, 3}, false);
    figure_end(out, "Whiskers: 95% bootstrap intervals over pictures. Ticks: the true target through the VAE.");
    free(bars);
}

// Whether one of the texts is another than `usual`; NULL: than others of them. Empty ones are of builds that did not
// record this setting.
static bool any_other(char *const *texts, int count, const char *usual) {
    for (int i = 0; i < count; i++) {
        if (!*texts[i]) { continue; }
        if (usual && strcmp(texts[i], usual) != 0) { return true; }
        usual = texts[i];
    }
    return false;
}

// What was measured. Rows with a usual value, what `cocogold eval` does by default, are shown if an evaluation has
// another one; those without one if the evaluations differ.
static void settings_rows(FILE *out, const Json *metrics, int count) {
    static const struct {
        const char *label, *field, *usual;
        bool always;
    } rows[] = {{"target", "target", NULL, true},
                {"data", "data", NULL, true},
                {"resolution", "resolution", NULL, false},
                {"protocol", "protocol", "images", false},
                {"pairs of a class (0: all)", "per_class", NULL, false},
                {"pairs in all (0: all)", "limit", NULL, false},
                {"share of absent classes", "absent", NULL, false},
                {"seed", "seed", NULL, false},
                {"terminal signal", "terminal_signal", NULL, false},
                {"start", "start", "noise", false},
                {"ensemble", "ensemble", "1", false},
                {"averaged weights", "ema", "no", false},
                {"extraction", "extraction", NULL, true}};
    char **texts = xcalloc((size_t)count + 1, sizeof *texts);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (int i = 0; i < count; i++) { texts[i] = setting(metrics[i].root, rows[r].field); }
        bool shown = rows[r].always || any_other(texts, count, rows[r].usual);
        if (shown) { html(out, "<tr><td>%s</td>", rows[r].label); }
        for (int i = 0; i < count; i++) {
            if (shown) { html(out, "<td>%s</td>", texts[i]); }
            free(texts[i]);
        }
        if (shown) { fputs("</tr>\n", out); }
    }
    free(texts);
}

static void comparison_table(FILE *out, const Json *metrics, const char *const *names, int count) {
    static const NamedPath rows[] = {{"seen: mIoU", "seen.miou"},
                                     {"seen: share of its ceiling", NULL},
                                     {"seen: gIoU", "seen.giou"},
                                     {"seen: P@0.5", "seen.p50"},
                                     {"seen: P@0.9", "seen.p90"},
                                     {"unseen: mIoU", "unseen.miou"},
                                     {"unseen: gIoU", "unseen.giou"},
                                     {"unseen: P@0.5", "unseen.p50"},
                                     {"harmonic mean of mIoU", "harmonic"},
                                     {"empty predictions", "all.empty"},
                                     {"full predictions", "all.full"},
                                     {"floor: whole picture, seen", "seen.floors.all_foreground.miou"},
                                     {"floor: centre box, seen", "seen.floors.centre_box.miou"},
                                     {"floor: white filter, seen", "seen.floors.white_filter.miou"},
                                     {"ceiling, seen", "seen.ceiling.miou"},
                                     {"ceiling, unseen", "unseen.ceiling.miou"},
                                     {"pairs", "all.pairs"},
                                     {"DDIM steps", "config.steps"},
                                     {"seconds per query", "sampling_seconds_per_pair"}};
    fputs("<div class=\"card scroll\" id=\"table-evaluations\" style=\"margin-top:16px\"><table><tr><th></th>", out);
    for (int i = 0; i < count; i++) { html(out, "<th>%s</th>", names[i]); }
    fputs("</tr>\n", out);
    settings_rows(out, metrics, count);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        fprintf(out, "<tr><td>%s</td>", rows[r].label);
        for (int i = 0; i < count; i++) {
            yajl_val m = metrics[i].root;
            double value = rows[r].path ? json_number_at(m, rows[r].path)
                                        : json_number_at(m, "seen.miou") / json_number_at(m, "seen.ceiling.miou");
            html_cell(out, value == floor(value) && value > 1 ? "%.0f" : "%.3f", value);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

void report_comparison(const char *path, const Json *metrics, const char *const *names, int count,
                       const RunCurves *runs, int run_count) {
    AtomicFile page = page_begin(path, "cocogold: runs side by side");
    FILE *out = page.stream;
    fprintf(out, "<h1>Runs side by side</h1>\n<p class=\"lead\">%d training run%s and %d evaluation%s.</p>\n",
            run_count, run_count == 1 ? "" : "s", count, count == 1 ? "" : "s");
    if (count > 0) {
        comparison_figure(out, metrics, names, count);
        comparison_table(out, metrics, names, count);
    }
    page_training(out, runs, run_count);
    page_definitions(out, metrics, count);
    page_end(&page);
}
