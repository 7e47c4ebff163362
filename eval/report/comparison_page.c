#include "eval/report/chart.h"
#include "eval/report/evaluation_page.h"
#include "eval/report/page.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void bars_figure(FILE *out, const Json *metrics, const char *const *names, int count) {
    ChartBar *bars = xcalloc((size_t)count * 2 + 1, sizeof *bars);
    for (int i = 0; i < 2 * count; i++) {
        yajl_val group = json_find(metrics[i / 2].root, i % 2 ? "unseen" : "seen");
        bars[i] = (ChartBar){.label = i % 2 ? "" : names[i / 2],
                             .value = json_number_at(group, "miou"),
                             .low = json_number_at(group, "miou_low"),
                             .high = json_number_at(group, "miou_high"),
                             .mark = json_number_at(group, "ceiling.miou"),
                             .color = i % 2 ? COLOR_UNSEEN : COLOR_SEEN,
                             .note = i % 2 ? "unseen" : "seen"};
    }
    figure_begin(out, "fig-evaluations", "mIoU of each evaluation");
    chart_bars(out, bars, 2 * count,
               (ChartLegend){(const char *const[]){"seen", "unseen", "ceiling (tick)"},
                             (const int[]){COLOR_SEEN, COLOR_UNSEEN, COLOR_DARK}, 3},
               false);
    figure_end(out, "Whiskers: 95% bootstrap intervals over pictures. Ticks: the true target through the VAE.");
    free(bars);
}

typedef struct {
    const char *label, *path;
} Row;

static void table(FILE *out, const Json *metrics, const char *const *names, int count) {
    static const Row rows[] = {{"seen: mIoU", "seen.miou"},
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
    fputs("</tr>\n<tr><td>target</td>", out);
    for (int i = 0; i < count; i++) { html(out, "<td>%s</td>", json_string_at(metrics[i].root, "config.target")); }
    fputs("</tr>\n", out);
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

void report_comparison(const char *path, const Json *metrics, const char *const *names, int count, const RunLog *logs,
                       int log_count) {
    AtomicFile page = page_begin(path, "cocogold: runs side by side");
    FILE *out = page.stream;
    fprintf(out, "<h1>Runs side by side</h1>\n<p class=\"lead\">%d training run%s and %d evaluation%s.</p>\n",
            log_count, log_count == 1 ? "" : "s", count, count == 1 ? "" : "s");
    if (count > 0) {
        bars_figure(out, metrics, names, count);
        table(out, metrics, names, count);
    }
    page_training(out, logs, log_count);
    page_definitions(out);
    page_end(&page);
}
