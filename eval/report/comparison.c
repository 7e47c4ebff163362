#include "eval/report/chart.h"
#include "eval/report/report.h"
#include "util/error.h"
#include "util/file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void bars_figure(FILE *out, const Json *metrics, const char *const *names, int count) {
    ChartBar *bars = xcalloc((size_t)count * 2 + 1, sizeof *bars);
    for (int i = 0; i < count; i++) {
        const Json *m = &metrics[i];
        bars[2 * i] = (ChartBar){names[i],
                                 metric(m, "seen.miou"),
                                 metric(m, "seen.miou_low"),
                                 metric(m, "seen.miou_high"),
                                 metric(m, "seen.ceiling.miou"),
                                 COLOR_SEEN,
                                 "seen"};
        bars[2 * i + 1] = (ChartBar){"",
                                     metric(m, "unseen.miou"),
                                     metric(m, "unseen.miou_low"),
                                     metric(m, "unseen.miou_high"),
                                     metric(m, "unseen.ceiling.miou"),
                                     COLOR_UNSEEN,
                                     "unseen"};
    }
    figure_begin(out, "fig-evaluations", "mIoU of each evaluation");
    chart_legend(out, (const char *const[]){"seen", "unseen", "ceiling (tick)"},
                 (const int[]){COLOR_SEEN, COLOR_UNSEEN, COLOR_DARK}, 3);
    chart_bars(out, bars, 2 * count, false);
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
    for (int i = 0; i < count; i++) {
        fputs("<th>", out);
        html_text(out, names[i]);
        fputs("</th>", out);
    }
    fputs("</tr>\n<tr><td>target</td>", out);
    for (int i = 0; i < count; i++) { fprintf(out, "<td>%s</td>", metric_text(&metrics[i], "config.target")); }
    fputs("</tr>\n", out);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        fprintf(out, "<tr><td>%s</td>", rows[r].label);
        for (int i = 0; i < count; i++) {
            double value = rows[r].path ? metric(&metrics[i], rows[r].path)
                                        : metric(&metrics[i], "seen.miou") / metric(&metrics[i], "seen.ceiling.miou");
            if (isnan(value)) {
                fputs("<td>&ndash;</td>", out);
            } else {
                fprintf(out, value == floor(value) && value > 1 ? "<td>%.0f</td>" : "<td>%.3f</td>", value);
            }
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

void report_comparison(const char *path, const Json *metrics, const char *const *names, int count, const RunLog *logs,
                       int log_count) {
    AtomicFile file = atomic_open(path);
    FILE *out = file.stream;
    html_begin(out, "cocogold: runs side by side");
    fputs("<h1>Runs side by side</h1>\n<p class=\"lead\">", out);
    fprintf(out, "%d training run%s and %d evaluation%s.</p>\n", log_count, log_count == 1 ? "" : "s", count,
            count == 1 ? "" : "s");
    if (count > 0) {
        bars_figure(out, metrics, names, count);
        table(out, metrics, names, count);
    }
    report_training(out, logs, log_count);
    report_definitions(out);
    html_end(out);
    atomic_commit(&file);
}
