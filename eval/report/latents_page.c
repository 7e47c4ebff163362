#include "eval/report/latents_page.h"
#include "eval/report/chart.h"
#include "eval/report/page.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The rows of every table, in the order of the measures.
static const struct {
    const char *key, *name;
    bool interval; // else a single number
} rows[MEASURES] = {
    {"order", "IoU ordered by latent MSE, within a sample (Spearman)", true},
    {"pooled_order", "... over all samples together", false},
    {"round_trip_iou", "IoU after encoding and decoding", true},
    {"loss_constant", "loss of the best constant answer", true},
    {"loss_empty", "loss of leaving the object out", true},
    {"loss_one_pixel", "loss of a mask that misses by one pixel", true},
    {"constant_over_one_pixel", "constant answer / one pixel", false},
    {"energy_picture", "energy of the target without the object", true},
    {"object_energy", "object's share of a target's energy", false},
    {"inside", "share of the object's energy in the cells it touches", true},
};

typedef LatentSummary Summaries[REPRESENTATIONS][OBJECT_SIZES + 1];

static void print_table(Summaries summaries) {
    char a[48], b[48];
    for (int i = 0; i <= OBJECT_SIZES; i++) {
        int size = size_order[i];
        const LatentSummary *overlay = &summaries[REPRESENTED_OVERLAY][size],
                            *mask = &summaries[REPRESENTED_MASK][size];
        if (!overlay->samples) { continue; }
        printf("\n%-14s %4d samples %33s  %26s\n", size_names[size], overlay->samples, "overlay", "mask");
        for (int row = 0; row < MEASURES; row++) {
            printf("  %-56s %26s  %26s\n", rows[row].name, interval_text(overlay->of[row], false, a),
                   interval_text(mask->of[row], false, b));
        }
    }
}

// ---- files ---------------------------------------------------------------------------------------------------------

static void put_summary(yajl_gen gen, const char *key, const LatentSummary *s) {
    json_open_map(gen, key);
    json_put_integer(gen, "samples", s->samples);
    for (int row = 0; row < MEASURES; row++) {
        if (rows[row].interval) {
            json_put_interval(gen, rows[row].key, s->of[row]);
        } else {
            json_put_number(gen, rows[row].key, s->of[row].value);
        }
    }
    yajl_gen_map_close(gen);
}

static void write_json(const LatentRecord *record, Summaries summaries, Interval order, const Coco *coco,
                       const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        json_open_map(gen, target_names[k]);
        for (int i = 0; i <= OBJECT_SIZES; i++) {
            put_summary(gen, size_keys[size_order[i]], &summaries[k][size_order[i]]);
        }
        yajl_gen_map_close(gen);
    }
    json_put_interval(gen, "order_difference", order);
    json_open_map(gen, "config");
    json_put_string(gen, "command", record->command);
    json_put_string(gen, "model", record->model);
    json_put_string(gen, "data", record->data);
    json_put_string(gen, "split", record->split);
    json_put_integer(gen, "resolution", record->resolution);
    json_put_integer(gen, "latent_side", record->latent_side);
    json_put_string(gen, "color", record->color);
    json_put_number(gen, "alpha", record->alpha);
    json_put_number(gen, "outline", record->outline);
    json_put_integer(gen, "bootstrap", record->resamples);
    json_put_integer(gen, "seed", (long long)record->seed);
    json_put_string(gen, "device", record->device);
    yajl_gen_map_close(gen);
    coco_put_left_out(coco, gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

static void write_pairs(const LatentSample *samples, int count, const Coco *coco, const char *path) {
    AtomicFile file = atomic_open(path);
    fprintf(file.stream, "image_id,class,object_share,variant,pixels,iou,mse_overlay,mse_mask\n");
    for (int i = 0; i < count; i++) {
        const LatentSample *s = &samples[i];
        for (int v = 0; v < s->variants; v++) {
            fprintf(file.stream, "%lld,", (long long)s->image_id);
            csv_put_text(file.stream, coco->categories[s->category].name);
            fprintf(file.stream, ",%.6g,%s,%d,%.6g,%.8g,%.8g\n", s->object_share, variant_names[s->variant[v].kind],
                    s->variant[v].pixels, s->variant[v].iou, s->representation[REPRESENTED_OVERLAY].mse[v],
                    s->representation[REPRESENTED_MASK].mse[v]);
        }
    }
    atomic_commit(&file);
}

// ---- pictures ------------------------------------------------------------------------------------------------------

// Kinds of masks that share a colour.
static const struct {
    const char *name;
    unsigned kinds; // bits
    int color;
} cloud_kinds[] = {{"eroded, dilated", 1u << MASK_ERODED | 1u << MASK_DILATED, SERIES_SEEN},
                   {"shifted", 1u << MASK_SHIFTED, SERIES_UNSEEN},
                   {"bounding box", 1u << MASK_BOX, SERIES_THIRD},
                   {"another object", 1u << MASK_OTHER_OBJECT | 1u << MASK_OTHER_PICTURE, SERIES_FOURTH},
                   {"empty", 1u << MASK_EMPTY, SERIES_DARK},
                   {"full", 1u << MASK_FULL, SERIES_GREY}};
enum { CLOUDS = sizeof cloud_kinds / sizeof *cloud_kinds };

static void draw_scatter(FILE *out, const LatentSample *samples, int count, int representation,
                         const LatentSummary *s) {
    ChartLine lines[CLOUDS + 1];
    double *points = xmalloc(((size_t)count * MAX_VARIANTS + 1) * 2 * CLOUDS * sizeof *points), *at = points;
    for (int g = 0; g < CLOUDS; g++) {
        double *x = at, *y = x + (size_t)count * MAX_VARIANTS;
        ChartLine *cloud = &lines[g];
        *cloud =
            (ChartLine){.name = cloud_kinds[g].name, .x = x, .y = y, .color = cloud_kinds[g].color, .style = CLOUD};
        for (int i = 0; i < count; i++) {
            for (int v = 0; v < samples[i].variants; v++) {
                if (!(cloud_kinds[g].kinds >> samples[i].variant[v].kind & 1)) { continue; }
                x[cloud->count] = samples[i].variant[v].iou;
                y[cloud->count++] = samples[i].representation[representation].mse[v];
            }
        }
        at = y + (size_t)count * MAX_VARIANTS;
    }
    const double ends[] = {0, 1}, constant[] = {s->of[MEASURE_CONSTANT].value, s->of[MEASURE_CONSTANT].value};
    lines[CLOUDS] = (ChartLine){"best constant answer", ends, constant, 2, SERIES_DARK, true, LINE, NULL, NULL};
    chart_lines(out, lines, CLOUDS + 1,
                (ChartAxes){"IoU with the true mask", "latent MSE to the true target", .x_high = 1, .log_y = true});
    free(points);
}

static void write_scatter(const LatentSample *samples, int count, int representation, const LatentSummary *s,
                          const char *folder) {
    char *path = xprintf("%s/latents-%s.svg", folder, target_names[representation]);
    AtomicFile file = atomic_open(path);
    draw_scatter(file.stream, samples, count, representation, s);
    atomic_commit(&file);
    free(path);
}

// ---- the page ------------------------------------------------------------------------------------------------------

// By the paired difference: both representations have the same samples.
static void say_order(FILE *out, Interval d) {
    if (isnan(d.low)) {
        fprintf(out, "the overlay has %+.3f more. There is no interval.</li>\n", d.value);
        return;
    }
    fprintf(out, "the overlay has %+.3f more (95%% interval %+.3f to %+.3f), so %s.</li>\n", d.value, d.low, d.high,
            d.low > 0    ? "it is ordered better"
            : d.high < 0 ? "the bare mask is ordered better"
                         : "neither is shown to be ordered better");
}

static void conclusions(FILE *out, Summaries summaries, Interval order) {
    const LatentSummary *o = &summaries[REPRESENTED_OVERLAY][OBJECT_SIZES],
                        *m = &summaries[REPRESENTED_MASK][OBJECT_SIZES];
    fprintf(out, "<ul class=\"lead\" id=\"conclusions\">\n");
    fprintf(out,
            "<li>Within a sample, a lower latent MSE means a higher IoU with rank correlation %.3f for the overlay and "
            "%.3f for the bare mask: ",
            o->of[MEASURE_ORDER].value, m->of[MEASURE_ORDER].value);
    say_order(out, order);
    fprintf(
        out,
        "<li>For the overlay, the best constant answer costs %.1f times as much as a mask that misses by one pixel; "
        "for the bare mask, %.1f times as much%s.</li>\n",
        o->of[MEASURE_CONSTANT_RATIO].value, m->of[MEASURE_CONSTANT_RATIO].value,
        m->of[MEASURE_CONSTANT_RATIO].value < o->of[MEASURE_CONSTANT_RATIO].value
            ? ", so that a constant answer is relatively cheaper there"
            : "");
    fprintf(out,
            "<li>The object makes up %.0f%% of what varies between targets in overlays (the rest is the picture, which "
            "the model is given) and %.0f%% in bare masks.</li>\n",
            100 * o->of[MEASURE_OBJECT_ENERGY].value, 100 * m->of[MEASURE_OBJECT_ENERGY].value);
    fprintf(out, "<li>After encoding and decoding, the mask has IoU %.3f as overlay and %.3f bare.</li>\n</ul>\n",
            o->of[MEASURE_ROUND_TRIP].value, m->of[MEASURE_ROUND_TRIP].value);
}

static void page_table(FILE *out, Summaries summaries) {
    char text[48];
    for (int i = 0; i <= OBJECT_SIZES; i++) {
        int size = size_order[i];
        if (!summaries[0][size].samples) { continue; }
        html(out, "<table id=\"table-%s\"><tr><th>%s, %d samples</th><th>overlay</th><th>mask</th></tr>\n",
             size_keys[size], size_names[size], summaries[0][size].samples);
        for (int row = 0; row < MEASURES; row++) {
            fprintf(out, "<tr><td>%s</td>", rows[row].name);
            for (int k = 0; k < REPRESENTATIONS; k++) {
                fprintf(out, "<td>%s</td>", interval_text(summaries[k][size].of[row], false, text));
            }
            fputs("</tr>\n", out);
        }
        fputs("</table>\n", out);
    }
}

static void definitions(FILE *out, const LatentRecord *r) {
    fputs(
        "<h2 id=\"definitions\">What the numbers mean</h2>\n<div class=\"card\"><dl>"
        "<dt>Latent MSE</dt><dd>The mean square difference of two targets' latents (posterior mean times scaling "
        "factor). Up to the noise, it is the diffusion loss at the last timestep of a model that predicts one "
        "target where the other is true.</dd>"
        "<dt>Masks</dt><dd>The true one, eroded and dilated by 1, 2, 4, ... pixels (Euclidean), shifted by as many, "
        "its bounding box, another object of the picture, another picture's mask, empty, full. Those that equal the "
        "true mask are left out.</dd>"
        "<dt>Constant answer</dt><dd>The mean latent of all other samples' targets.</dd>"
        "<dt>Leaving the object out</dt><dd>The bare picture for the overlay, a black picture for the mask.</dd>"
        "<dt>Energy</dt><dd>For the target without the object: its mean square around the mean over the other samples. "
        "For the object: the loss of leaving it out. The object's share is its part of the sum of both.</dd>"
        "<dt>Intervals</dt><dd>95% percentile bootstrap over samples; of a difference, over its values by "
        "sample.</dd></dl></div>\n",
        out);
    html(out,
         "<details open><summary>How it was made</summary><p><code>%s</code></p><p class=\"small\">%d x %d pixels, "
         "%d x %d latent cells, seed %llu, %s</p></details>\n",
         r->command, r->resolution, r->resolution, r->latent_side, r->latent_side, (unsigned long long)r->seed,
         r->device);
}

static void write_page(const LatentRecord *r, const LatentSample *samples, int count, Summaries summaries,
                       Interval order, const char *path) {
    AtomicFile page = page_begin(path, "Do latents tell good masks from bad ones?");
    FILE *out = page.stream;
    fputs("<h1>Do latents tell good masks from bad ones?</h1>\n", out);
    html(out,
         "<p class=\"lead\">Masks of known IoU for %d objects, encoded by the VAE of %s: painted on the picture "
         "(overlay) and bare.</p>\n",
         count, r->model);
    conclusions(out, summaries, order);
    fputs("<div class=\"two\">\n", out);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        figure_begin(out, k == REPRESENTED_OVERLAY ? "scatter-overlay" : "scatter-mask",
                     k == REPRESENTED_OVERLAY ? "Painted on the picture" : "Bare mask");
        draw_scatter(out, samples, count, k, &summaries[k][OBJECT_SIZES]);
        figure_end(out, "Every point is one mask of one object.");
    }
    fputs("</div>\n<h2>In numbers</h2>\n<div class=\"card scroll\">\n", out);
    page_table(out, summaries);
    fputs("</div>\n", out);
    definitions(out, r);
    page_end(&page);
}

void latents_report(const LatentRecord *record, const LatentSample *samples, int count, const Coco *coco,
                    const char *folder) {
    Summaries summaries;
    for (int k = 0; k < REPRESENTATIONS; k++) {
        for (int size = 0; size <= OBJECT_SIZES; size++) {
            summaries[k][size] = latents_summarize(samples, count, k, size, record->resamples, record->seed);
        }
        write_scatter(samples, count, k, &summaries[k][OBJECT_SIZES], folder);
    }
    print_table(summaries);
    char *json = xprintf("%s/latents.json", folder), *csv = xprintf("%s/pairs.csv", folder);
    char *page = xprintf("%s/latents.html", folder);
    Interval order = latents_order_difference(samples, count, record->resamples, record->seed);
    write_json(record, summaries, order, coco, json);
    write_pairs(samples, count, coco, csv);
    write_page(record, samples, count, summaries, order, page);
    printf("\nwrote %s, %s, %s\n", page, json, csv);
    free(json);
    free(csv);
    free(page);
}
