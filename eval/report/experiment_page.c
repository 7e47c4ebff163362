#include "eval/report/experiment_page.h"
#include "eval/report/chart.h"
#include "eval/report/page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The contents of both the page and the JSON file.
typedef struct {
    const Experiment *e;
    const ExperimentRecord *record;
    Interval (*giou)[GROUPS], (*class_mean)[GROUPS], *false_area; // (arm_count) of the final models
    Contrasts contrasts;
    char **sentences;
    int sentence_count;
} Findings;

static Findings findings_of(const Experiment *e, const ExperimentRecord *r) {
    Findings f = {.e = e, .record = r, .contrasts = contrasts_of(e, r->resamples, r->seed)};
    f.giou = xcalloc((size_t)e->arm_count, sizeof *f.giou);
    f.class_mean = xcalloc((size_t)e->arm_count, sizeof *f.class_mean);
    f.false_area = xcalloc((size_t)e->arm_count, sizeof *f.false_area);
    for (int a = 0; a < e->arm_count; a++) {
        for (int g = 0; g < GROUPS; g++) {
            f.giou[a][g] = arm_average(e, a, -1, g, GIOU, r->resamples, r->seed);
            f.class_mean[a][g] = arm_average(e, a, -1, g, CLASS_MEAN, r->resamples, r->seed);
        }
        f.false_area[a] = arm_average(e, a, -1, GROUP_ALL, FALSE_AREA, r->resamples, r->seed);
    }
    f.sentences = experiment_sentences(e, &f.contrasts, &f.sentence_count);
    return f;
}

static void findings_free(Findings *f) {
    for (int i = 0; i < f->sentence_count; i++) { free(f->sentences[i]); }
    free(f->sentences);
    contrasts_free(&f->contrasts);
    free(f->giou);
    free(f->class_mean);
    free(f->false_area);
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

// ---- curves --------------------------------------------------------------------------------------------------------

// Lines of all arms, each in a colour of its own, the bare mask dashed. `fill` writes up to `capacity` points of an arm
// (x, y, low, high) and returns their number.
typedef int Fill(const Findings *f, int arm, int which, double *x, double *y, double *low, double *high);

static void arms_figure(FILE *out, const Findings *f, const char *id, const char *title, const char *x_label,
                        const char *y_label, double y_high, Fill *fill, int which, int capacity, bool band,
                        const char *caption) {
    const Experiment *e = f->e;
    ChartLine *lines = xcalloc((size_t)e->arm_count, sizeof *lines);
    double *points = xcalloc((size_t)e->arm_count * (size_t)capacity * 4 + 1, sizeof *points);
    for (int a = 0; a < e->arm_count; a++) {
        double *x = points + (size_t)a * (size_t)capacity * 4, *y = x + capacity, *low = y + capacity;
        lines[a] = (ChartLine){.name = e->arms[a].name, .x = x, .y = y, .color = a % COLORS};
        lines[a].count = fill(f, a, which, x, y, low, low + capacity);
        lines[a].dashed = strcmp(e->arms[a].target, "mask") == 0;
        if (band) { lines[a].low = low, lines[a].high = low + capacity; }
    }
    figure_begin(out, id, title);
    chart_lines(out, lines, e->arm_count, (ChartAxes){.x_label = x_label, .y_label = y_label, .y_high = y_high});
    figure_end(out, caption);
    free(points);
    free(lines);
}

// All runs of an arm are validated at the same steps; the shortest run limits their number.
static int common_steps(const Arm *arm) {
    int n = arm->runs[0].step_count;
    for (int i = 1; i < arm->run_count; i++) { n = arm->runs[i].step_count < n ? arm->runs[i].step_count : n; }
    return n;
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
        Interval v = arm_average(f->e, arm, i, group, GIOU, f->record->resamples / 5, f->record->seed);
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
    const RunLog *log = &f->e->arms[arm].runs[0].log;
    Curve curve = which ? (Curve){0} : curve_smooth(&log->loss, LOSS_POINTS - 1);
    const Curve *shown = which ? &log->validation_loss : &curve;
    int n = shown->count < LOSS_POINTS ? shown->count : LOSS_POINTS;
    memcpy(x, shown->step, (size_t)n * sizeof *x);
    memcpy(y, shown->value, (size_t)n * sizeof *y);
    curve_free(&curve);
    return n;
}

static void curves(FILE *out, const Findings *f) {
    int steps = most_steps(f->e);
    fputs("<h2>During training</h2>\n<div class=\"two\">\n", out);
    static const char *const ids[] = {"fig-listed", "fig-held-out", "fig-frequent"};
    for (int g = GROUP_LISTED; g <= GROUP_FREQUENT; g++) {
        if (isnan(f->giou[0][g].value)) { continue; }
        char *title = xprintf("gIoU on %s", group_names[g]);
        arms_figure(out, f, ids[g], title, "step", "gIoU", 0, fill_iou, g, steps, true,
                    "Validation samples; band: 95% bootstrap over pictures and runs.");
        free(title);
    }
    arms_figure(out, f, "fig-constant", "Empty or full predictions", "step", "share", 1, fill_share, OF_CONSTANT, steps,
                false, "No pixel, or at least 99% of them; mean over runs.");
    arms_figure(out, f, "fig-loss", "Training loss", "step", "loss", 0, fill_loss, 0, LOSS_POINTS, false,
                "First run of each arm, averaged over stretches of the run.");
    arms_figure(out, f, "fig-validation-loss", "Validation loss", "step", "loss", 0, fill_loss, 1, LOSS_POINTS, false,
                "First run of each arm, fixed noise and timesteps.");
    arms_figure(out, f, "fig-timesteps", "Final validation loss by timestep", "timestep", "loss", 0, fill_timesteps, 0,
                TIMESTEP_BINS, false, "Mean over runs in tenths of the timesteps.");
    arms_figure(out, f, "fig-black", "Distance to an all-black picture", "step", "mean square in latents", 0,
                fill_share, OF_BLACK, steps, false,
                "Of the predicted clean latent. Near zero, the answer is constant.");
    arms_figure(out, f, "fig-white", "Distance to an all-white picture", "step", "mean square in latents", 0,
                fill_share, OF_WHITE, steps, false,
                "Of the predicted clean latent. Near zero, the answer is constant.");
    fputs("</div>\n", out);
}

// ---- tables --------------------------------------------------------------------------------------------------------

// Mean over an arm's runs at the last validation.
static double last_mean(const Arm *arm, bool full) {
    double sum = 0;
    for (int i = 0; i < arm->run_count; i++) {
        const ArmRun *run = &arm->runs[i];
        sum += (full ? run->full : run->empty)[run->step_count - 1];
    }
    return sum / arm->run_count;
}

static void arms_table(FILE *out, const Findings *f) {
    const Experiment *e = f->e;
    fputs("<h2 id=\"arms\">Final results of the arms</h2>\n<div class=\"card scroll\"><table "
          "class=\"arms\"><tr><th>arm</th><th>runs</th>",
          out);
    for (int g = 0; g < GROUPS; g++) { fprintf(out, "<th>gIoU, %s</th>", group_names[g]); }
    fputs("<th>class mean, listed</th><th>area marked for absent "
          "classes</th><th>ceiling</th><th>empty</th><th>full</th><th>collapsed</th></tr>\n",
          out);
    for (int a = 0; a < e->arm_count; a++) {
        const Arm *arm = &e->arms[a];
        html(out, "<tr><td>%s</td><td>%d</td>", arm->name, arm->run_count);
        for (int g = 0; g < GROUPS; g++) { interval_cell(out, f->giou[a][g], false); }
        interval_cell(out, f->class_mean[a][GROUP_LISTED], false);
        interval_cell(out, f->false_area[a], false);
        fprintf(out, "<td>%.3f</td><td>%.0f%%</td><td>%.0f%%</td><td>%d of %d</td></tr>\n",
                arm->runs[0].ceiling[GROUP_ALL], 100 * last_mean(arm, false), 100 * last_mean(arm, true),
                arm_collapses(e, a), arm->run_count);
    }
    for (int k = 0; k < 3; k++) {
        fprintf(out, "<tr><td>floor: %s</td><td></td>", floor_names[k]);
        for (int g = 0; g < GROUPS; g++) { interval_cell(out, (Interval){e->floors[k][g], NAN, NAN}, false); }
        fputs("<td></td><td></td><td></td><td></td><td></td><td></td></tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void contrasts_table(FILE *out, const Findings *f) {
    if (!f->contrasts.count) { return; }
    fputs("<h2 id=\"differences\">Differences</h2>\n<div class=\"card scroll\"><table><tr><th>of the final gIoU, with "
          "95% intervals</th>",
          out);
    for (int g = 0; g < GROUPS; g++) { fprintf(out, "<th>%s</th>", group_names[g]); }
    fputs("<th>area marked for absent classes</th></tr>\n", out);
    for (int i = 0; i < f->contrasts.count; i++) {
        const Contrast *c = &f->contrasts.list[i];
        html(out, "<tr><td>%s</td>", c->name);
        for (int g = 0; g < GROUPS; g++) { interval_cell(out, c->giou[g], true); }
        interval_cell(out, c->false_area, true);
        fputs("</tr>\n", out);
    }
    fputs("</table><p class=\"small\">Bold: the interval does not contain zero. Pictures are drawn for all arms "
          "together, runs within each arm.</p></div>\n",
          out);
}

// ---- filmstrips ----------------------------------------------------------------------------------------------------

static void strip(FILE *out, const ArmRun *run, const char *name, const char *label) {
    char *path = xprintf("%s/validation/%s.png", run->folder, name);
    if (file_exists(path)) {
        Image image = image_load(path, 3);
        char *alternative = xprintf("%s: %s", run->folder, label);
        fprintf(out, "<tr><td>%s</td><td>", label);
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
    if (file_exists(path)) {
        Image image = image_load(path, 3);
        fputs("<tr><td>asked for</td><td><div class=\"asked\">", out);
        for (int i = 0; i < image.width / image.height && i < e->validation.count; i++) {
            html(out, "<span>%s</span>", e->validation.class_names[e->validation.class_index[i]]);
        }
        fputs("</div></td></tr>\n", out);
        image_free(&image);
    }
    free(path);
}

static void filmstrips(FILE *out, const Experiment *e) {
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

// ---- the latents ---------------------------------------------------------------------------------------------------

static void latents_row(FILE *out, const Json *json, const char *name, const char *path) {
    fprintf(out, "<tr><td>%s</td>", name);
    for (int k = 0; k < 2; k++) {
        char *full = xprintf("%s.all.%s", k ? "mask" : "overlay", path);
        fprintf(out, "<td>%.3f</td>", json_number_at(json->root, full));
        free(full);
    }
    fputs("</tr>\n", out);
}

// The scatter pictures are in the folder of latents.json.
static void embed_scatter(FILE *out, const char *latents, const char *representation) {
    const char *slash = strrchr(latents, '/');
    char *path = xprintf("%.*slatents-%s.svg", slash ? (int)(slash - latents + 1) : 0, latents, representation);
    char *id = xprintf("fig-latents-%s", representation);
    if (file_exists(path)) {
        char *svg = read_file(path, NULL);
        figure_begin(out, id, strcmp(representation, "mask") ? "Painted on the picture" : "Bare mask");
        fputs(svg, out);
        figure_end(out, "Every point is one mask of one object.");
        free(svg);
    }
    free(id);
    free(path);
}

static void latents_section(FILE *out, const char *path) {
    if (!path) { return; }
    Json json = json_read(path);
    fputs("<h2 id=\"latents\">Latents without training</h2>\n<p class=\"small\">Masks of known IoU, encoded by the VAE "
          "without any training (cocogold analyze latents).</p>\n<div class=\"two\">\n",
          out);
    embed_scatter(out, path, "overlay");
    embed_scatter(out, path, "mask");
    fputs("</div>\n<div class=\"card\" "
          "style=\"margin-top:16px\"><table><tr><th></th><th>overlay</th><th>mask</th></tr>\n",
          out);
    latents_row(out, &json, "IoU ordered by latent MSE, within a sample (Spearman)", "order.value");
    latents_row(out, &json, "best constant answer / mask that misses by one pixel", "constant_over_one_pixel");
    latents_row(out, &json, "object's share of a target's energy", "object_energy");
    latents_row(out, &json, "IoU after encoding and decoding", "round_trip_iou.value");
    fputs("</table></div>\n", out);
    json_free(&json);
}

// ---- the page ------------------------------------------------------------------------------------------------------

static void how(FILE *out, const Findings *f) {
    const Experiment *e = f->e;
    html(out,
         "<h2 id=\"how\">How it was made</h2>\n<div class=\"card\"><p>Report: <code>%s</code></p>"
         "<details><summary>The command of every run</summary>\n",
         f->record->command);
    for (int a = 0; a < e->arm_count; a++) {
        for (int i = 0; i < e->arms[a].run_count; i++) {
            const ArmRun *run = &e->arms[a].runs[i];
            html(out, "<p><b>%s</b><br><code>%s</code></p>\n", run->folder,
                 run->log.command ? run->log.command : "not recorded");
        }
    }
    html(out,
         "</details><dl><dt>gIoU</dt><dd>Mean IoU over pairs of a picture and a class, on crops at the training "
         "resolution against exact masks. Class mean: averaged first within each class.</dd>"
         "<dt>Classes</dt><dd>Listed: those of the short list, trained in every arm. Held out: not in it. The "
         "frequent class: %s, trained only in arms with &ldquo;frequent&rdquo;.</dd>"
         "<dt>Collapse</dt><dd>gIoU over all pairs ends below half its peak while at least half of the predictions "
         "are empty (no pixel) or full (99%% of them).</dd>"
         "<dt>Area marked for absent classes</dt><dd>Share of the picture that the final model marks when asked for a "
         "class that is not in it.</dd>"
         "<dt>Ceiling</dt><dd>gIoU of the true targets after the VAE and the same mask extraction.</dd>"
         "<dt>Intervals</dt><dd>95%% percentile bootstrap over pictures and runs, %d resamples, seed %llu.</dd></dl>"
         "</div>\n",
         e->frequent, f->record->resamples, (unsigned long long)f->record->seed);
}

static void write_page(const Findings *f, const char *path) {
    AtomicFile page = page_begin(path, "Failure and fix");
    FILE *out = page.stream;
    int runs = 0;
    for (int a = 0; a < f->e->arm_count; a++) { runs += f->e->arms[a].run_count; }
    fputs("<style>.film td{border:0;padding:1px 6px 1px 0;font-size:12px;white-space:nowrap}.film img{display:block;"
          "width:100%;height:auto;image-rendering:pixelated}.film{width:100%}.film td:last-child{width:100%}"
          ".arms td,.arms th{padding-left:6px;padding-right:6px}.asked{display:flex}.asked "
          "span{flex:1;text-align:center;font-size:11px;line-height:1.2;white-space:normal}"
          ".interval{display:block;white-space:nowrap;font-size:11px;opacity:.7}</style>\n",
          out);
    fputs("<h1>Does latent MSE on binary masks fail, and does painting the mask fix it?</h1>\n", out);
    fprintf(out, "<p class=\"lead\">%d arms, %d runs, %d validation samples, %d pairs at the end.</p>\n",
            f->e->arm_count, runs, f->e->validation.count, f->e->final.count);
    fputs("<div class=\"card\"><ul id=\"conclusions\">\n", out);
    for (int i = 0; i < f->sentence_count; i++) { html(out, "<li>%s</li>\n", f->sentences[i]); }
    fputs("</ul></div>\n", out);
    arms_table(out, f);
    contrasts_table(out, f);
    curves(out, f);
    filmstrips(out, f->e);
    latents_section(out, f->record->latents);
    how(out, f);
    page_end(&page);
}

// ---- JSON ----------------------------------------------------------------------------------------------------------

static void put_groups(yajl_gen gen, const char *name, const Interval values[GROUPS]) {
    static const char *const keys[GROUPS] = {"listed", "held_out", "frequent", "all"};
    json_open_map(gen, name);
    for (int g = 0; g < GROUPS; g++) { json_put_interval(gen, keys[g], values[g]); }
    yajl_gen_map_close(gen);
}

static void put_arm(yajl_gen gen, const Findings *f, int a) {
    const Arm *arm = &f->e->arms[a];
    yajl_gen_map_open(gen);
    json_put_string(gen, "name", arm->name);
    json_put_string(gen, "target", arm->target);
    json_put_string(gen, "classes", arm->classes);
    put_groups(gen, "giou", f->giou[a]);
    put_groups(gen, "class_mean", f->class_mean[a]);
    json_put_interval(gen, "false_area", f->false_area[a]);
    json_put_number(gen, "ceiling", arm->runs[0].ceiling[GROUP_ALL]);
    json_put_integer(gen, "collapsed", arm_collapses(f->e, a));
    json_open_list(gen, "runs");
    for (int i = 0; i < arm->run_count; i++) {
        Collapse c = run_collapse(f->e, &arm->runs[i]);
        yajl_gen_map_open(gen);
        json_put_integer(gen, "seed", arm->runs[i].seed);
        json_put_number(gen, "peak", c.peak);
        json_put_number(gen, "end", c.end);
        json_put_number(gen, "empty_or_full", c.constant);
        json_put_boolean(gen, "collapsed", c.collapsed);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
}

static void write_json(const Findings *f, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_strings(gen, "sentences", (const char *const *)f->sentences, f->sentence_count);
    json_open_list(gen, "arms");
    for (int a = 0; a < f->e->arm_count; a++) { put_arm(gen, f, a); }
    yajl_gen_array_close(gen);
    json_open_list(gen, "differences");
    for (int i = 0; i < f->contrasts.count; i++) {
        yajl_gen_map_open(gen);
        json_put_string(gen, "name", f->contrasts.list[i].name);
        put_groups(gen, "giou", f->contrasts.list[i].giou);
        put_groups(gen, "class_mean", f->contrasts.list[i].class_mean);
        json_put_interval(gen, "false_area", f->contrasts.list[i].false_area);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
    json_put_string(gen, "command", f->record->command);
    json_put_integer(gen, "bootstrap", f->record->resamples);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

static void print(const Findings *f) {
    char a[48], b[48], c[48];
    printf("\n%-28s %4s  %-22s %-22s %-22s %s\n", "final gIoU", "runs", "listed", "held out", "frequent", "collapsed");
    for (int i = 0; i < f->e->arm_count; i++) {
        const Arm *arm = &f->e->arms[i];
        printf("%-28s %4d  %-22s %-22s %-22s %d\n", arm->name, arm->run_count,
               interval_text(f->giou[i][GROUP_LISTED], true, a), interval_text(f->giou[i][GROUP_HELD_OUT], true, b),
               interval_text(f->giou[i][GROUP_FREQUENT], true, c), arm_collapses(f->e, i));
    }
    printf("\n");
    for (int i = 0; i < f->sentence_count; i++) { printf("- %s\n", f->sentences[i]); }
}

void experiment_report(const Experiment *e, const ExperimentRecord *record, const char *folder) {
    Findings f = findings_of(e, record);
    char *page = xprintf("%s/report.html", folder), *json = xprintf("%s/experiment.json", folder);
    make_folders(folder);
    write_page(&f, page);
    write_json(&f, json);
    print(&f);
    printf("\nwrote %s and %s\n", page, json);
    findings_free(&f);
    free(page);
    free(json);
}
