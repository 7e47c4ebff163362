// The figures of an experiment's page.
#include "eval/report/chart.h"
#include "eval/report/findings.h"
#include "eval/report/page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Lines of all arms, each in a colour of its own, the bare mask dashed. `fill` writes up to `capacity` points of an arm
// (x, y, low, high) and returns their number; `which` is for it alone.
typedef int Fill(const Findings *f, int arm, int which, double *x, double *y, double *low, double *high);
typedef struct {
    const char *id, *title, *x_label, *y_label, *caption;
    double y_high; // as ChartAxes has it
    Fill *fill;
    int which, capacity;
    bool band; // from low to high
} ArmsFigure;

static void arms_figure(FILE *out, const Findings *f, ArmsFigure figure) {
    const Experiment *e = f->e;
    size_t capacity = (size_t)figure.capacity;
    ChartLine *lines = xcalloc((size_t)e->arm_count, sizeof *lines);
    double *points = xcalloc((size_t)e->arm_count * capacity * 4 + 1, sizeof *points);
    for (int a = 0; a < e->arm_count; a++) {
        double *x = points + (size_t)a * capacity * 4, *y = x + capacity, *low = y + capacity, *high = low + capacity;
        lines[a] = (ChartLine){.name = e->arms[a].name, .x = x, .y = y, .color = a % SERIES_COLORS};
        lines[a].count = figure.fill(f, a, figure.which, x, y, low, high);
        lines[a].dashed = strcmp(e->arms[a].target, "mask") == 0;
        if (figure.band) { lines[a].low = low, lines[a].high = high; }
    }
    figure_begin(out, figure.id, figure.title);
    chart_lines(out, lines, e->arm_count,
                (ChartAxes){.x_label = figure.x_label, .y_label = figure.y_label, .y_high = figure.y_high});
    figure_end(out, figure.caption);
    free(points);
    free(lines);
}

// The number of first validations that are at the same steps in all runs of an arm: the shortest run limits it. 0: the
// runs were validated at different steps, so that there is no average over them.
static int common_steps(const Arm *arm) {
    const ArmRun *first = &arm->runs[0];
    int n = first->step_count;
    for (int i = 1; i < arm->run_count; i++) { n = arm->runs[i].step_count < n ? arm->runs[i].step_count : n; }
    for (int i = 1; i < arm->run_count; i++) {
        if (memcmp(arm->runs[i].steps, first->steps, (size_t)n * sizeof *first->steps) != 0) { return 0; }
    }
    return n;
}

// Names the arms that have no curves.
static void note_other_steps(FILE *out, const Experiment *e) {
    for (int a = 0; a < e->arm_count; a++) {
        if (common_steps(&e->arms[a])) { continue; }
        html(out, "<p class=\"small\">The runs of %s were validated at different steps: no average over them.</p>\n",
             e->arms[a].name);
    }
}

static int most_steps(const Experiment *e) {
    int most = 1;
    for (int a = 0; a < e->arm_count; a++) {
        int n = common_steps(&e->arms[a]);
        most = n > most ? n : most;
    }
    return most;
}

static int fill_iou(const Findings *f, int arm, int group, double *x, double *y, double *low, double *high) {
    int n = common_steps(&f->e->arms[arm]);
    for (int i = 0; i < n; i++) {
        Interval v = arm_average(f->e, arm, i, group, GIOU, f->resamples / 5, f->seed);
        x[i] = f->e->arms[arm].runs[0].steps[i];
        y[i] = v.value, low[i] = v.low, high[i] = v.high;
    }
    return n;
}

enum { OF_CONSTANT, OF_BLACK, OF_WHITE };
static int fill_share(const Findings *f, int arm, int which, double *x, double *y, double *low, double *high) {
    (void)low, (void)high;
    const Arm *a = &f->e->arms[arm];
    int n = common_steps(a);
    for (int i = 0; i < n; i++) {
        x[i] = a->runs[0].steps[i];
        y[i] = 0;
        for (int k = 0; k < a->run_count; k++) {
            const ArmRun *r = &a->runs[k];
            double values[] = {r->empty[i] + r->full[i], r->to_black[i], r->to_white[i]};
            y[i] += values[which] / a->run_count;
        }
    }
    return n;
}

static int fill_timesteps(const Findings *f, int arm, int which, double *x, double *y, double *low, double *high) {
    (void)low, (void)high, (void)which;
    const Arm *a = &f->e->arms[arm];
    for (int bin = 0; bin < TIMESTEP_BINS; bin++) {
        x[bin] = (bin + 0.5) * TRAINED_TIMESTEPS / TIMESTEP_BINS;
        y[bin] = 0;
        for (int k = 0; k < a->run_count; k++) {
            y[bin] += a->runs[k].by_timestep[a->runs[k].step_count - 1][bin] / a->run_count;
        }
    }
    return TIMESTEP_BINS;
}

enum { LOSS_POINTS = 60 };
static int fill_loss(const Findings *f, int arm, int which, double *x, double *y, double *low, double *high) {
    (void)low, (void)high;
    const RunCurves *run = &f->e->arms[arm].runs[0].curves;
    Curve curve = curve_smooth(which ? &run->validation_loss : &run->loss, LOSS_POINTS);
    int n = curve.count;
    for (int i = 0; i < n; i++) { x[i] = curve.step[i], y[i] = curve.value[i]; }
    curve_free(&curve);
    return n;
}

void group_curves(FILE *out, const Findings *f, const char *prefix) {
    static const char *const ids[] = {"listed", "held-out", "new-words", "frequent"};
    note_other_steps(out, f->e);
    fputs("<div class=\"two\">\n", out);
    for (int g = GROUP_LISTED; g <= GROUP_FREQUENT; g++) {
        if (!experiment_has_group(f->e, g)) { continue; }
        char *title = xprintf("gIoU on %s", group_names[g]), *id = xprintf("%s-%s", prefix, ids[g]);
        arms_figure(out, f,
                    (ArmsFigure){id, title, "step", "gIoU",
                                 "Validation samples; band: 95% bootstrap over pictures and runs.", .fill = fill_iou,
                                 .which = g, .capacity = most_steps(f->e), .band = true});
        free(title);
        free(id);
    }
    fputs("</div>\n", out);
}

void diagnostic_curves(FILE *out, const Findings *f) {
    static const char constant[] = "Of the predicted clean latent. Near zero, the answer is constant.",
                      distance[] = "mean square in latents";
    int steps = most_steps(f->e);
    const ArmsFigure figures[] = {
        {"fig-constant", "Empty or full predictions", "step", "share",
         "No pixel, or at least 99% of them; mean over runs.", .y_high = 1, .fill = fill_share, .which = OF_CONSTANT,
         .capacity = steps},
        {"fig-loss", "Training loss", "step", "loss", "First run of each arm, averaged over stretches of the run.",
         .fill = fill_loss, .capacity = LOSS_POINTS},
        {"fig-validation-loss", "Validation loss", "step", "loss",
         "First run of each arm, fixed noise and timesteps; more than 60 validations are averaged over stretches.",
         .fill = fill_loss, .which = 1, .capacity = LOSS_POINTS},
        {"fig-timesteps", "Final validation loss by timestep", "timestep", "loss",
         "Mean over runs in tenths of the timesteps.", .fill = fill_timesteps, .capacity = TIMESTEP_BINS},
        {"fig-black", "Distance to an all-black picture", "step", distance, constant, .fill = fill_share,
         .which = OF_BLACK, .capacity = steps},
        {"fig-white", "Distance to an all-white picture", "step", distance, constant, .fill = fill_share,
         .which = OF_WHITE, .capacity = steps}};
    fputs("<div class=\"two\">\n", out);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) { arms_figure(out, f, figures[i]); }
    fputs("</div>\n", out);
}

// ---- dose ----------------------------------------------------------------------------------------------------------

enum { MOST_DOSES = 32 };

static int by_signal(const void *a, const void *b) {
    double x = (*(const Arm *const *)a)->signal, y = (*(const Arm *const *)b)->signal;
    return (x > y) - (x < y);
}

// The arms of one target that differ only in the terminal signal, in its order.
static int dose_arms(const Experiment *e, const char *target, const Arm **arms) {
    int count = 0;
    for (int a = 0; a < e->arm_count && count < MOST_DOSES; a++) {
        const char *plus = strchr(e->arms[a].name, '+');
        bool other = plus && (strncmp(plus, "+leak", 5) != 0 || strchr(plus + 1, '+'));
        if (strcmp(e->arms[a].target, target) == 0 && !other) { arms[count++] = &e->arms[a]; }
    }
    qsort(arms, (size_t)count, sizeof *arms, by_signal);
    return count;
}

typedef struct {
    double x[MOST_DOSES], y[2][MOST_DOSES], low[2][MOST_DOSES], high[2][MOST_DOSES]; // of listed and held-out classes
    int count;
} Dose;

static Dose dose_of(const Findings *f, const char *target) {
    const Arm *arms[MOST_DOSES];
    Dose d = {.count = dose_arms(f->e, target, arms)};
    for (int i = 0; i < d.count; i++) {
        d.x[i] = arms[i]->signal;
        for (int g = 0; g < 2; g++) {
            Interval v = f->giou[arms[i] - f->e->arms][g];
            d.y[g][i] = v.value, d.low[g][i] = v.low, d.high[g][i] = v.high;
        }
    }
    return d;
}

// Evidence in nats for a typical object under the recipe's noise, mean over both targets, at a terminal signal: from
// that at leak.json's last signal, which is not 0. It is proportional to a^2 / (1 - a^2).
static double leak_nats(const Json *leak, double signal) {
    yajl_val list = json_at(leak->root, "per_signal");
    if (!list || !YAJL_IS_ARRAY(list) || list->u.array.len == 0) {
        die("%s: the list \"per_signal\" is missing", leak->path);
    }
    yajl_val last = list->u.array.values[list->u.array.len - 1];
    double own = json_number_at(last, "signal");
    double nats = (json_number_at(last, "overlay_recipe") + json_number_at(last, "mask_recipe")) / 2;
    return nats * (signal * signal / (1 - signal * signal)) / (own * own / (1 - own * own));
}

void dose_figure(FILE *out, const Findings *f, const char *leak) {
    Dose doses[2] = {dose_of(f, "overlay"), dose_of(f, "mask")};
    if (doses[0].count < 3) { return; }
    static const char *const names[2][2] = {{"overlay, listed", "overlay, held out"},
                                            {"mask, listed", "mask, held out"}};
    ChartLine lines[4];
    for (int i = 0; i < 4; i++) {
        Dose *d = &doses[i / 2];
        int g = i % 2;
        lines[i] = (ChartLine){.name = names[i / 2][g],
                               .x = d->x,
                               .y = d->y[g],
                               .count = d->count,
                               .color = i / 2 ? SERIES_UNSEEN : SERIES_SEEN,
                               .dashed = g == 1,
                               .style = LINE_WITH_DOTS};
        if (g == 0) { lines[i].low = d->low[g], lines[i].high = d->high[g]; }
    }
    ChartAxes axes = {.x_label = "terminal signal: share of the target in the noisiest training sample",
                      .y_label = "gIoU"};
    char *labels[MOST_DOSES], *mark = NULL;
    Json json = leak ? json_read(leak) : (Json){0};
    for (int i = 0; leak && i < doses[0].count; i++) { labels[i] = xprintf("%.0f", leak_nats(&json, doses[0].x[i])); }
    if (leak) {
        axes.top = (const char *const *)labels;
        axes.top_label = "evidence for an object in it, nats";
        axes.mark_x = json_number_at(json.root, "matched_signal");
        axes.mark = mark = xprintf("Stable Diffusion at 512 px: %.0f nats", leak_nats(&json, axes.mark_x));
    }
    figure_begin(out, "fig-dose", "gIoU by what the schedule leaves of the target");
    chart_lines(out, lines, 4, axes);
    figure_end(out, "Band: 95% bootstrap over pictures and runs, of listed classes.");
    for (int i = 0; leak && i < doses[0].count; i++) { free(labels[i]); }
    free(mark);
    if (leak) { json_free(&json); }
}

// ---- pictures ------------------------------------------------------------------------------------------------------

// A strip that cannot be read is named and left out of the page: what was computed is not lost for it.
static bool read_strip(const char *path, Image *image) {
    char *why = NULL;
    if (!file_exists(path)) { return false; }
    *image = image_try_load(path, 3, &why);
    if (why) { warn("%s: it is left out", why); }
    free(why);
    return image->pixels != NULL;
}

static void strip(FILE *out, const ArmRun *run, const char *name, const char *label) {
    char *path = xprintf("%s/validation/%s.png", run->folder, name);
    Image image;
    if (read_strip(path, &image)) {
        char *alternative = xprintf("%s: %s", run->folder, label);
        html(out, "<tr><td>%s</td><td>", label);
        html_image(out, &image, alternative);
        fputs("</td></tr>\n", out);
        free(alternative);
        image_free(&image);
    }
    free(path);
}

// The classes asked for. The strip shows the first samples.
static void strip_texts(FILE *out, const Experiment *e, const ArmRun *run) {
    char *path = xprintf("%s/validation/truth.png", run->folder);
    Image image;
    if (read_strip(path, &image)) {
        fputs("<tr><td>asked for</td><td><div class=\"asked\">", out);
        for (int i = 0; i < image.width / image.height && i < e->validation.count; i++) {
            html(out, "<span>%s</span>", e->validation.class_names[e->validation.class_index[i]]);
        }
        fputs("</div></td></tr>\n", out);
        image_free(&image);
    }
    free(path);
}

void final_strips(FILE *out, const Experiment *e, const char *const *names) {
    const ArmRun *first = &e->arms[0].runs[0];
    figure_begin(out, "strip", "The same samples, drawn by the final models");
    fputs("<table class=\"film\">\n", out);
    strip_texts(out, e, first);
    strip(out, first, "input", "input");
    strip(out, first, "truth", "truth");
    for (; *names; names++) {
        int arm = experiment_arm(e, *names);
        if (arm < 0) { continue; }
        const ArmRun *run = &e->arms[arm].runs[0];
        char *step = xprintf("step-%06d", run->steps[run->step_count - 1]);
        strip(out, run, step, *names);
        free(step);
    }
    fputs("</table>\n", out);
    figure_end(out, "First run of each arm.");
}

void filmstrips(FILE *out, const Experiment *e) {
    fputs("<h2 id=\"filmstrips\">The same samples at every checkpoint</h2>\n<p class=\"small\">First run of each arm; "
          "one row per validation.</p>\n<div class=\"two\">\n",
          out);
    for (int a = 0; a < e->arm_count; a++) {
        const ArmRun *run = &e->arms[a].runs[0];
        char *id = xprintf("film-%s", e->arms[a].name);
        figure_begin(out, id, e->arms[a].name);
        fputs("<table class=\"film\">\n", out);
        strip_texts(out, e, run);
        strip(out, run, "input", "input");
        strip(out, run, "truth", "truth");
        for (int i = 0; i < run->step_count; i++) {
            char *name = xprintf("step-%06d", run->steps[i]), *label = xprintf("step %d", run->steps[i]);
            strip(out, run, name, label);
            free(name);
            free(label);
        }
        fputs("</table>\n", out);
        figure_end(out, NULL);
        free(id);
    }
    fputs("</div>\n", out);
}
