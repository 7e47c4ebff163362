#include "eval/report/leak_page.h"
#include "eval/report/chart.h"
#include "eval/report/page.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const noise_keys[NOISES] = {"white", "recipe"};

// What the files and tables say, computed once.
typedef struct {
    const LeakRecord *record;
    const LeakObject *objects;
    int count;
    LeakSummary of[REPRESENTATIONS][OBJECT_SIZES + 1];
    double per_signal[MAX_SIGNALS][REPRESENTATIONS][NOISES];         // median nats over all objects
    double reference[REPRESENTATIONS + 1], matched[REPRESENTATIONS]; // the last: over the objects of both
    double matched_signal;                                           // mean of both, three decimals
} LeakFindings;

static LeakFindings find(const LeakRecord *r, const LeakObject *objects, int count) {
    LeakFindings f = {.record = r, .objects = objects, .count = count};
    for (int k = 0; k < REPRESENTATIONS; k++) {
        for (int size = 0; size <= OBJECT_SIZES; size++) {
            f.of[k][size] = leak_summarize(objects, count, k, size, r->latent_side, r->signal, r->resamples, r->seed);
        }
        for (int i = 0; i < r->signal_count; i++) {
            LeakSummary s = leak_summarize(objects, count, k, OBJECT_SIZES, r->latent_side, r->signals[i], 0, r->seed);
            memcpy(f.per_signal[i][k], s.median, sizeof s.median);
        }
        f.matched[k] = leak_matched_signal(objects, count, k, r->match_signal);
    }
    for (int k = 0; k <= REPRESENTATIONS; k++) {
        f.reference[k] = leak_reference_nats(objects, count, k, r->match_signal);
    }
    f.matched_signal = round((f.matched[REPRESENTED_OVERLAY] + f.matched[REPRESENTED_MASK]) / 2 * 1000) / 1000;
    return f;
}

// ---- tables --------------------------------------------------------------------------------------------------------

// The rows of the tables by size; the evidence is that at the record's signal.
enum { ROW_CONTRAST, ROW_BACKGROUND, ROW_OBJECT, ROW_WHITE, ROW_WHITE_MEAN, ROW_RECIPE, ROW_RECIPE_MEAN, ROWS };
static const char *const row_names[ROWS] = {"contrast C: root of the sum of d^2 over the object's cells",
                                            "where 0 lies on background cells (0: empty, 1: full)",
                                            "... on cells of the object",
                                            "evidence under white noise, nats, median",
                                            "... mean",
                                            "evidence under the recipe's noise, nats, median",
                                            "... mean"};

static Interval row_value(const LeakSummary *s, int row) {
    const Interval of[ROWS] = {s->contrast,
                               {s->zero_background, NAN, NAN},
                               {s->zero_object, NAN, NAN},
                               {s->median[NOISE_WHITE], NAN, NAN},
                               s->mean[NOISE_WHITE],
                               {s->median[NOISE_RECIPE], NAN, NAN},
                               s->mean[NOISE_RECIPE]};
    return of[row];
}

// How the matched signal follows.
static char *derivation(const LeakFindings *f) {
    const LeakRecord *r = f->record;
    return xprintf(
        "Matched signal %.3f: on a latent of %d x %d cells, at contrast %g and a = %g, these objects leave %.1f "
        "(overlay) and %.1f (mask) nats in the median; a^2 / (1 - a^2) = %g^2 / (1 - %g^2) exp(mean log(Q there / Q "
        "here)), with Q = d' S^-1 d, gives %.3f and %.3f here.",
        f->matched_signal, r->match_cells, r->match_cells, r->match_contrast, r->match_signal,
        f->reference[REPRESENTED_OVERLAY], f->reference[REPRESENTED_MASK], r->match_signal, r->match_signal,
        f->matched[REPRESENTED_OVERLAY], f->matched[REPRESENTED_MASK]);
}

static void print_tables(const LeakFindings *f) {
    const LeakRecord *r = f->record;
    char a[48], b[48];
    printf("\na = %.4g, %d x %d latent cells, recipe: multi-resolution noise %g\n", r->signal, r->latent_side,
           r->latent_side, r->multires);
    for (int i = 0; i <= OBJECT_SIZES; i++) {
        int size = size_order[i];
        const LeakSummary *overlay = &f->of[REPRESENTED_OVERLAY][size], *mask = &f->of[REPRESENTED_MASK][size];
        if (!overlay->objects) { continue; }
        printf("\n%-14s %4d objects of %7.1f cells %16s  %24s\n", size_names[size], overlay->objects, overlay->cells,
               "overlay", "mask");
        for (int row = 0; row < ROWS; row++) {
            printf("  %-56s %24s  %24s\n", row_names[row], interval_text(row_value(overlay, row), false, a),
                   interval_text(row_value(mask, row), false, b));
        }
    }
    printf("\nnats, median of all objects: noise %20s  %20s  %20s  %20s\n", "white, overlay", "white, mask",
           "recipe, overlay", "recipe, mask");
    for (int i = 0; i < r->signal_count; i++) {
        printf("  a = %-28.3g", r->signals[i]);
        for (int k = 0; k < REPRESENTATIONS * NOISES; k++) {
            printf("  %20.4g", f->per_signal[i][k % REPRESENTATIONS][k / REPRESENTATIONS]);
        }
        printf("\n");
    }
    char *sentence = derivation(f);
    printf("\n%s\n", sentence);
    free(sentence);
}

// ---- files ---------------------------------------------------------------------------------------------------------

static void put_summary(yajl_gen gen, const char *key, const LeakSummary *s) {
    json_open_map(gen, key);
    json_put_integer(gen, "objects", s->objects);
    json_put_number(gen, "cells", s->cells);
    json_put_interval(gen, "contrast", s->contrast);
    json_put_number(gen, "zero_background", s->zero_background);
    json_put_number(gen, "zero_object", s->zero_object);
    for (int noise = 0; noise < NOISES; noise++) {
        json_open_map(gen, noise_keys[noise]);
        json_put_number(gen, "median", s->median[noise]);
        json_put_interval(gen, "mean", s->mean[noise]);
        yajl_gen_map_close(gen);
    }
    yajl_gen_map_close(gen);
}

static void put_per_signal(yajl_gen gen, const LeakFindings *f) {
    json_open_list(gen, "per_signal");
    for (int i = 0; i < f->record->signal_count; i++) {
        json_open_map(gen, NULL);
        json_put_number(gen, "signal", f->record->signals[i]);
        for (int k = 0; k < REPRESENTATIONS * NOISES; k++) {
            char key[32];
            snprintf(key, sizeof key, "%s_%s", target_names[k / NOISES], noise_keys[k % NOISES]);
            json_put_number(gen, key, f->per_signal[i][k / NOISES][k % NOISES]);
        }
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_matched(yajl_gen gen, const LeakFindings *f) {
    const LeakRecord *r = f->record;
    json_put_number(gen, "matched_signal", f->matched_signal);
    json_open_map(gen, "matched");
    for (int k = 0; k < REPRESENTATIONS; k++) { json_put_number(gen, target_names[k], f->matched[k]); }
    yajl_gen_map_close(gen);
    json_open_map(gen, "reference");
    json_put_integer(gen, "cells", r->match_cells);
    json_put_number(gen, "contrast", r->match_contrast);
    json_put_number(gen, "signal", r->match_signal);
    json_put_number(gen, "nats", f->reference[REPRESENTATIONS]);
    for (int k = 0; k < REPRESENTATIONS; k++) { json_put_number(gen, target_names[k], f->reference[k]); }
    yajl_gen_map_close(gen);
}

static void put_config(yajl_gen gen, const LeakRecord *r) {
    json_open_map(gen, "config");
    json_put_string(gen, "command", r->command);
    json_put_string(gen, "model", r->model);
    json_put_string(gen, "data", r->data);
    json_put_string(gen, "split", r->split);
    json_put_integer(gen, "resolution", r->resolution);
    json_put_integer(gen, "latent_side", r->latent_side);
    json_put_number(gen, "terminal_signal", r->signal);
    json_open_list(gen, "signals");
    for (int i = 0; i < r->signal_count; i++) { json_put_number(gen, NULL, r->signals[i]); }
    yajl_gen_array_close(gen);
    json_put_number(gen, "multires_noise", r->multires);
    json_put_integer(gen, "covariance_draws", COVARIANCE_DRAWS);
    json_put_string(gen, "color", r->color);
    json_put_number(gen, "alpha", r->alpha);
    json_put_number(gen, "outline", r->outline);
    json_put_integer(gen, "bootstrap", r->resamples);
    json_put_integer(gen, "seed", (long long)r->seed);
    json_put_string(gen, "device", r->device);
    yajl_gen_map_close(gen);
}

static void write_json(const LeakFindings *f, const Coco *coco, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        json_open_map(gen, target_names[k]);
        for (int i = 0; i <= OBJECT_SIZES; i++) {
            put_summary(gen, size_keys[size_order[i]], &f->of[k][size_order[i]]);
        }
        yajl_gen_map_close(gen);
    }
    put_matched(gen, f);
    put_per_signal(gen, f);
    put_config(gen, f->record);
    coco_put_left_out(coco, gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// Evidence as d' S^-1 d, which no signal scales.
static void write_objects(const LeakFindings *f, const Coco *coco, const char *path) {
    AtomicFile file = atomic_open(path);
    fprintf(file.stream, "image_id,class,object_share");
    for (int k = 0; k < REPRESENTATIONS; k++) {
        const char *name = target_names[k];
        fprintf(file.stream, ",contrast_%s,zero_background_%s,zero_object_%s,white_%s,recipe_%s,reference_%s", name,
                name, name, name, name, name);
    }
    fputc('\n', file.stream);
    for (int i = 0; i < f->count; i++) {
        const LeakObject *o = &f->objects[i];
        fprintf(file.stream, "%lld,", (long long)o->image_id);
        csv_put_text(file.stream, coco->categories[o->category].name);
        fprintf(file.stream, ",%.8g", o->object_share);
        for (int k = 0; k < REPRESENTATIONS; k++) {
            const Leak *l = &o->of[k];
            fprintf(file.stream, ",%.8g,%.8g,%.8g,%.8g,%.8g,%.8g", l->contrast, zero_place(l->on_background),
                    zero_place(l->on_object), l->form[NOISE_WHITE], l->form[NOISE_RECIPE], l->reference);
        }
        fputc('\n', file.stream);
    }
    atomic_commit(&file);
}

// ---- pictures ------------------------------------------------------------------------------------------------------

static const char *const series_names[REPRESENTATIONS][NOISES] = {{"overlay, white noise", "overlay, recipe's noise"},
                                                                  {"mask, white noise", "mask, recipe's noise"}};
static const int series_colors[REPRESENTATIONS][NOISES] = {{SERIES_THIRD, SERIES_SEEN}, {SERIES_FOURTH, SERIES_UNSEEN}};
enum { SERIES = REPRESENTATIONS * NOISES };

// The recipe's series only where its noise is not white.
static bool drawn(const LeakFindings *f, int noise) { return noise == NOISE_WHITE || f->record->multires > 0; }

static char *reference_name(const LeakFindings *f) {
    return xprintf("%d x %d at a = %g, median", f->record->match_cells, f->record->match_cells,
                   f->record->match_signal);
}

// Each object's evidence against its share of the picture.
static void draw_by_share(FILE *out, const LeakFindings *f) {
    static const double ticks[] = {1, 2, 5, 10, 20, 50}; // percent; a logarithmic axis has labels at the first line
    double level[6];
    for (int i = 0; i < 6; i++) { level[i] = f->reference[REPRESENTATIONS]; }
    char *name = reference_name(f);
    ChartLine lines[1 + SERIES] = {
        {.name = name, .x = ticks, .y = level, .count = 6, .color = SERIES_DARK, .dashed = true}};
    double *points = xmalloc(((size_t)f->count * 2 + 1) * SERIES * sizeof *points);
    int n = 1;
    for (int i = 0; i < SERIES; i++) {
        int k = i / NOISES, noise = i % NOISES;
        if (!drawn(f, noise)) { continue; }
        double *x = points + (size_t)i * (size_t)f->count * 2, *y = x + f->count;
        for (int j = 0; j < f->count; j++) {
            x[j] = 100 * f->objects[j].object_share;
            y[j] = leak_nats(f->objects[j].of[k].form[noise], f->record->signal);
        }
        lines[n++] = (ChartLine){.name = series_names[k][noise],
                                 .x = x,
                                 .y = y,
                                 .count = f->count,
                                 .color = series_colors[k][noise],
                                 .style = CLOUD};
    }
    chart_lines(out, lines, n,
                (ChartAxes){"object's share of the picture, %", "evidence, nats", .log_x = true, .log_y = true});
    free(points);
    free(name);
}

// The median over objects against the signal.
static void draw_by_signal(FILE *out, const LeakFindings *f) {
    enum { POINTS = 33 };
    double x[POINTS], y[SERIES][POINTS];
    char *name = reference_name(f);
    const double ends[] = {0, 0.34}, level[] = {f->reference[REPRESENTATIONS], f->reference[REPRESENTATIONS]};
    ChartLine lines[2 + SERIES] = {
        {.name = name, .x = ends, .y = level, .count = 2, .color = SERIES_DARK, .dashed = true}};
    int n = 1, last = f->record->signal_count - 1; // the largest signal: the record's own may be 0
    for (int i = 0; i < SERIES; i++) {
        int k = i / NOISES, noise = i % NOISES;
        if (!drawn(f, noise)) { continue; }
        for (int j = 0; j < POINTS; j++) {
            x[j] = 0.02 + 0.01 * j;
            y[i][j] = f->per_signal[last][k][noise] * leak_nats(1, x[j]) / leak_nats(1, f->record->signals[last]);
        }
        lines[n++] = (ChartLine){
            .name = series_names[k][noise], .x = x, .y = y[i], .count = POINTS, .color = series_colors[k][noise]};
    }
    lines[n++] = (ChartLine){.name = "matched signal",
                             .x = &f->matched_signal,
                             .y = level,
                             .count = 1,
                             .color = SERIES_DARK,
                             .style = LINE_WITH_DOTS};
    chart_lines(out, lines, n,
                (ChartAxes){"a, the target's share of x_T", "evidence, nats", .x_high = 0.34, .log_y = true});
    free(name);
}

// ---- the page ------------------------------------------------------------------------------------------------------

static void conclusions(FILE *out, const LeakFindings *f) {
    const LeakRecord *r = f->record;
    const LeakSummary *o = &f->of[REPRESENTED_OVERLAY][OBJECT_SIZES], *m = &f->of[REPRESENTED_MASK][OBJECT_SIZES];
    fputs("<ul class=\"lead\" id=\"conclusions\">\n", out);
    html(out,
         "<li>With a = %.3g, the noisiest training sample holds a median of %.3g nats about the object for the overlay "
         "and %.3g for the bare mask under white noise, %.3g and %.3g under the recipe's noise.</li>\n",
         r->signal, o->median[NOISE_WHITE], m->median[NOISE_WHITE], o->median[NOISE_RECIPE], m->median[NOISE_RECIPE]);
    html(out,
         "<li>Whoever knows the median object's two latents and has only to say whether it is there errs in %.2g%% "
         "(overlay) and %.2g%% (mask) of the cases.</li>\n",
         100 * leak_error_rate(o->median[NOISE_RECIPE]), 100 * leak_error_rate(m->median[NOISE_RECIPE]));
    html(out,
         "<li>Latent 0, the mean of the noise, lies %.0f%% of the way from background to object on background cells "
         "and %.0f%% on the object's for the overlay; %.0f%% and %.0f%% for the bare mask.</li>\n",
         100 * o->zero_background, 100 * o->zero_object, 100 * m->zero_background, 100 * m->zero_object);
    char *sentence = derivation(f);
    html(out, "<li>%s</li>\n</ul>\n", sentence);
    free(sentence);
}

static void tables_by_size(FILE *out, const LeakFindings *f) {
    char text[48];
    for (int i = 0; i <= OBJECT_SIZES; i++) {
        int size = size_order[i];
        const LeakSummary *s = &f->of[0][size];
        if (!s->objects) { continue; }
        html(out,
             "<table id=\"table-%s\"><tr><th>%s, %d objects of %.1f cells</th><th>overlay</th><th>mask</th></tr>\n",
             size_keys[size], size_names[size], s->objects, s->cells);
        for (int row = 0; row < ROWS; row++) {
            html(out, "<tr><td>%s</td>", row_names[row]);
            for (int k = 0; k < REPRESENTATIONS; k++) {
                html(out, "<td>%s</td>", interval_text(row_value(&f->of[k][size], row), false, text));
            }
            fputs("</tr>\n", out);
        }
        fputs("</table>\n", out);
    }
}

static void table_by_signal(FILE *out, const LeakFindings *f) {
    fputs("<table id=\"table-signals\"><tr><th>a</th>", out);
    for (int i = 0; i < SERIES; i++) {
        html(out, "<th>%s</th>", series_names[i % REPRESENTATIONS][i / REPRESENTATIONS]);
    }
    fputs("</tr>\n", out);
    for (int i = 0; i < f->record->signal_count; i++) {
        html(out, "<tr><td>%.3g</td>", f->record->signals[i]);
        for (int k = 0; k < SERIES; k++) {
            html_cell(out, "%.3g", f->per_signal[i][k % REPRESENTATIONS][k / REPRESENTATIONS]);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
}

static void definitions(FILE *out, const LeakRecord *r) {
    fputs("<h2 id=\"definitions\">What the numbers mean</h2>\n<div class=\"card\"><dl>"
          "<dt>x_T, a</dt><dd>The noisiest training sample is a &middot; target + &radic;(1 - a&sup2;) &middot; noise, "
          "with a the root of the last cumulative alpha. Sampling begins with noise alone, a = 0.</dd>"
          "<dt>d</dt><dd>The difference of the target's latent with the object and without it.</dd>"
          "<dt>Evidence</dt><dd>The Kullback-Leibler divergence of x_T with and without the object: a&sup2; / (1 - "
          "a&sup2;) / 2 &middot; d' S<sup>-1</sup> d, summed over channels, in nats. S is the covariance of the noise: "
          "1 for white noise; for multi-resolution noise the mean over the sizes of its levels, with variance 1.</dd>"
          "<dt>Cells</dt><dd>The object's share of the pixels times the cells of the latent.</dd>"
          "<dt>Contrast</dt><dd>The root of the sum of d&sup2; divided by the object's cells.</dd>"
          "<dt>Where 0 lies</dt><dd>On the way from the latent of the target with an empty mask to the one with a full "
          "mask, over the cells of all objects, each with the square of the difference as weight. A model that has "
          "learned to read the target out of x_T takes noise, whose mean is 0, for a "
          "target there.</dd>"
          "<dt>Matched signal</dt><dd>The a that leaves here as much evidence as the reference latent has, which is "
          "larger: the same objects, enlarged, at another contrast. The mean over both targets.</dd>"
          "<dt>Intervals</dt><dd>95% percentile bootstrap of the mean over objects.</dd></dl></div>\n",
          out);
    html(out,
         "<details open><summary>How it was made</summary><p><code>%s</code></p><p class=\"small\">%d x %d pixels, "
         "%d x %d latent cells, multi-resolution noise %g, seed %llu, %s</p></details>\n",
         r->command, r->resolution, r->resolution, r->latent_side, r->latent_side, r->multires,
         (unsigned long long)r->seed, r->device);
}

static void write_page(const LeakFindings *f, const char *path) {
    static const char title[] = "How much of the answer does the noise schedule leave?";
    AtomicFile page = page_begin(path, title);
    FILE *out = page.stream;
    html(out,
         "<h1>%s</h1>\n<p class=\"lead\">%d objects as targets, encoded by the VAE of %s: painted on the picture "
         "(overlay) and bare (mask).</p>\n",
         title, f->count, f->record->model);
    conclusions(out, f);
    fputs("<div class=\"two\">\n", out);
    if (f->record->signal > 0) { // at 0 nothing is left
        figure_begin(out, "by-share", "Large objects leave more");
        draw_by_share(out, f);
        figure_end(out, "Every point is one object, at this schedule's a. Both axes are logarithmic.");
    }
    figure_begin(out, "by-signal", "Evidence against the signal");
    draw_by_signal(out, f);
    figure_end(out, "Medians over all objects. The dashed line is the reference latent, the dot the matched signal.");
    fputs("</div>\n<h2>In numbers</h2>\n<div class=\"card scroll\">\n", out);
    tables_by_size(out, f);
    fputs(
        "</div>\n<h2>By signal</h2>\n<div class=\"card scroll\">\n<p class=\"small\">Median evidence over all objects, "
        "in nats.</p>\n",
        out);
    table_by_signal(out, f);
    fputs("</div>\n", out);
    definitions(out, f->record);
    page_end(&page);
}

void leak_report(const LeakRecord *record, const LeakObject *objects, int count, const Coco *coco, const char *folder) {
    LeakFindings f = find(record, objects, count);
    print_tables(&f);
    Path json = path_of("%s/leak.json", folder), csv = path_of("%s/objects.csv", folder);
    Path page = path_of("%s/leak.html", folder);
    write_json(&f, coco, json.text);
    write_objects(&f, coco, csv.text);
    write_page(&f, page.text);
    printf("wrote %s, %s, %s\n", page.text, json.text, csv.text);
}
