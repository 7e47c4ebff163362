#include "eval/report/findings.h"
#include "eval/report/page.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>

Findings findings_of(const Experiment *e, int resamples, uint64_t seed) {
    Findings f = {.e = e, .resamples = resamples, .seed = seed, .contrasts = contrasts_of(e, resamples, seed)};
    size_t n = (size_t)e->arm_count;
    f.giou = xcalloc(n, sizeof *f.giou);
    f.class_mean = xcalloc(n, sizeof *f.class_mean);
    f.false_area = xcalloc(n, sizeof *f.false_area);
    f.starts = xcalloc(n, sizeof *f.starts);
    f.run_failures = xcalloc(n, sizeof *f.run_failures);
    f.failures = xcalloc(n, sizeof *f.failures);
    for (int a = 0; a < e->arm_count; a++) {
        for (int g = 0; g < GROUPS; g++) {
            f.giou[a][g] = arm_average(e, a, FINAL, g, GIOU, resamples, seed);
            f.class_mean[a][g] = arm_average(e, a, FINAL, g, CLASS_MEAN, resamples, seed);
        }
        for (int start = 0; start < STARTS; start++) {
            f.starts[a][start] = arm_average(e, a, FINAL + start, GROUP_LISTED, GIOU, resamples, seed);
        }
        f.false_area[a] = arm_average(e, a, FINAL, GROUP_ALL, FALSE_AREA, resamples, seed);
        const Arm *arm = &e->arms[a];
        f.run_failures[a] = xcalloc((size_t)arm->run_count, sizeof **f.run_failures);
        for (int i = 0; i < arm->run_count; i++) {
            f.run_failures[a][i] = run_failure(e, &arm->runs[i], resamples, seed);
        }
        f.failures[a] = failures_of(f.run_failures[a], arm->run_count);
    }
    return f;
}

void findings_free(Findings *f) {
    contrasts_free(&f->contrasts);
    free(f->giou);
    free(f->class_mean);
    free(f->false_area);
    free(f->starts);
    for (int a = 0; f->e && a < f->e->arm_count; a++) { free(f->run_failures[a]); }
    free(f->run_failures);
    free(f->failures);
}

// The interval is on a line of its own.
static void interval_cell(FILE *out, Interval v, bool sign) {
    const char *bold = sign && distinguishable(v) ? "<b>" : "";
    if (isnan(v.value)) {
        fputs("<td>-</td>", out);
        return;
    }
    fprintf(out, sign ? "<td>%s%+.3f%s" : "<td>%s%.3f%s", bold, v.value, *bold ? "</b>" : "");
    if (!isnan(v.low)) {
        fprintf(out,
                sign ? "<span class=\"interval\">%+.3f to %+.3f</span>" : "<span class=\"interval\">%.3f–%.3f</span>",
                v.low, v.high);
    }
    fputs("</td>", out);
}

// Mean over an arm's runs at the last validation.
static double last_mean(const Arm *arm, bool full) {
    double sum = 0;
    for (int i = 0; i < arm->run_count; i++) {
        const ArmRun *run = &arm->runs[i];
        sum += (full ? run->full : run->empty)[run->step_count - 1];
    }
    return sum / arm->run_count;
}

const char *failures_text(Failures f, char buffer[48]) {
    snprintf(buffer, 48, f.unknown ? "-" : "%d of %d", f.failed, f.runs);
    return buffer;
}

void arms_table(FILE *out, const Findings *f, const char *id, const char *title) {
    const Experiment *e = f->e;
    char text[48];
    html(out,
         "<h2 id=\"%s\">%s</h2>\n<div class=\"card scroll\"><table class=\"arms\"><tr><th>arm</th><th>runs</th>"
         "<th>terminal signal</th>",
         id, title);
    for (int g = 0; g < GROUPS; g++) {
        if (experiment_has_group(e, g)) { fprintf(out, "<th>gIoU, %s</th>", group_names[g]); }
    }
    fputs("<th>class mean, listed</th>", out);
    if (e->absent.count) { fputs("<th>area marked for absent classes</th>", out); }
    fputs("<th>ceiling</th><th>training loss</th><th>empty</th><th>full</th><th>failed</th></tr>\n", out);
    for (int a = 0; a < e->arm_count; a++) {
        const Arm *arm = &e->arms[a];
        html(out, "<tr><td>%s</td><td>%d</td>", arm->name, arm->run_count);
        html_cell(out, "%.3f", arm->signal);
        for (int g = 0; g < GROUPS; g++) {
            if (experiment_has_group(e, g)) { interval_cell(out, f->giou[a][g], false); }
        }
        interval_cell(out, f->class_mean[a][GROUP_LISTED], false);
        if (e->absent.count) { interval_cell(out, f->false_area[a], false); }
        html_cell(out, "%.3f", arm->runs[0].ceiling[GROUP_ALL]);
        html_cell(out, "%.3f", arm_training_loss(e, a));
        fprintf(out, "<td>%.0f%%</td><td>%.0f%%</td><td>%s</td></tr>\n", 100 * last_mean(arm, false),
                100 * last_mean(arm, true), failures_text(f->failures[a], text));
    }
    for (int k = 0; k < 3; k++) {
        fprintf(out, "<tr><td>floor: %s</td><td></td><td></td>", floor_names[k]);
        for (int g = 0; g < GROUPS; g++) {
            if (experiment_has_group(e, g)) { html_cell(out, "%.3f", e->floors[k][g]); }
        }
        fprintf(out, "<td colspan=\"%d\"></td></tr>\n", e->absent.count ? 7 : 6);
    }
    fputs("</table></div>\n", out);
}

void contrasts_table(FILE *out, const Findings *f) {
    if (!f->contrasts.count) { return; }
    fputs("<h2 id=\"differences\">Differences</h2>\n<div class=\"card scroll\"><table><tr><th>of the final gIoU, with "
          "95% intervals</th>",
          out);
    for (int g = 0; g < GROUPS; g++) {
        if (experiment_has_group(f->e, g)) { fprintf(out, "<th>%s</th>", group_names[g]); }
    }
    fputs(f->e->absent.count ? "<th>area marked for absent classes</th></tr>\n" : "</tr>\n", out);
    for (int i = 0; i < f->contrasts.count; i++) {
        const Contrast *c = &f->contrasts.list[i];
        html(out, "<tr><td>%s</td>", c->name);
        for (int g = 0; g < GROUPS; g++) {
            if (experiment_has_group(f->e, g)) { interval_cell(out, c->giou[g], true); }
        }
        if (f->e->absent.count) { interval_cell(out, c->false_area, true); }
        fputs("</tr>\n", out);
    }
    fputs("</table><p class=\"small\">Bold: the interval does not contain zero. Pictures are drawn for all arms "
          "together, runs within each arm.</p></div>\n",
          out);
}

void starts_table(FILE *out, const Findings *f) {
    bool any = false;
    for (int a = 0; a < f->e->arm_count; a++) { any |= !isnan(f->starts[a][START_TRUTH].value); }
    if (!any) { return; }
    fputs(
        "<h2 id=\"starts\">What the models read from the start of sampling</h2>\n<p class=\"small\">gIoU on listed "
        "classes. Sampling starts from white noise, or from white noise with as much of the true target, of the mean "
        "target or of the picture as the schedule leaves at the first timestep.</p>\n<div class=\"card scroll\"><table "
        "class=\"arms\"><tr><th>arm</th><th>terminal signal</th>",
        out);
    for (int start = 0; start < STARTS; start++) { fprintf(out, "<th>%s</th>", start_names[start]); }
    fputs("</tr>\n", out);
    for (int a = 0; a < f->e->arm_count; a++) {
        html(out, "<tr><td>%s</td>", f->e->arms[a].name);
        html_cell(out, "%.3f", f->e->arms[a].signal);
        for (int start = 0; start < STARTS; start++) { interval_cell(out, f->starts[a][start], false); }
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}
