// cocogold stats: what the sampler draws from a data set, class by class, and which pictures it drops and why.
#include "data/classes.h"
#include "data/coco.h"
#include "data/sample.h"
#include "eval/report/chart.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/json.h"
#include "util/options.h"
#include "util/progress.h"
#include "util/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    long long samples, absent;   // drawn in all passes
    long long pictures;          // that show the class
    long long instances, crowds; // in the annotation file
} ClassCount;

typedef struct {
    ClassCount *of;                    // one per category
    long long reasons[SAMPLE_REASONS]; // over all passes
    long long segments;                // with a mask
    long long total;                   // pictures x passes
} Counts;

static void count_annotations(const Coco *coco, Counts *counts) {
    int *last = xcalloc((size_t)coco->category_count, sizeof *last);
    for (int p = 0; p < coco->picture_count; p++) {
        const Segment *segments = coco->segments + coco->pictures[p].first_segment;
        for (int i = 0; i < coco->pictures[p].count; i++) {
            if (segments[i].form == SEGMENT_NO_MASK) { continue; } // left out
            ClassCount *c = &counts->of[segments[i].category];
            counts->segments++;
            c->crowds += segments[i].crowd;
            c->instances += !segments[i].crowd;
            c->pictures += last[segments[i].category] != p + 1;
            last[segments[i].category] = p + 1;
        }
    }
    free(last);
}

// check: also opens every picture and makes every mask, which finds damaged files and empty masks.
static void count_samples(const Coco *coco, const SampleOptions *options, int passes, bool check, Counts *counts) {
    counts->total = (long long)passes * coco->picture_count;
    Progress progress = progress_begin("stats", "pictures", counts->total, 0);
    long long done = 0;
    for (int pass = 0; pass < passes; pass++) {
#pragma omp parallel for schedule(dynamic, 16)
        for (int p = 0; p < coco->picture_count; p++) {
            Sample s;
            SampleReason reason = (check ? sample_make : sample_plan)(coco, options, p, (uint32_t)pass, &s);
#pragma omp critical
            {
                counts->reasons[reason]++;
                if (reason == SAMPLE_OK) { counts->of[s.category].samples++; }
                if (reason == SAMPLE_OK) { counts->of[s.category].absent += s.absent; }
                done++;
                if (check) { progress_update(&progress, done); }
            }
            sample_free(&s);
        }
    }
    if (check) { progress_end(&progress, done); }
}

static const Counts *sorted_counts;
static int by_samples(const void *a, const void *b) {
    const ClassCount *x = &sorted_counts->of[*(const int *)a], *y = &sorted_counts->of[*(const int *)b];
    long long order = y->samples != x->samples ? y->samples - x->samples : y->instances - x->instances;
    return order ? (order > 0) - (order < 0) : *(const int *)a - *(const int *)b;
}

// The allowed categories, most frequently drawn first.
static int *sort_classes(const Coco *coco, const bool *allowed, const Counts *counts, int *count) {
    int *order = xcalloc((size_t)coco->category_count, sizeof *order);
    *count = 0;
    for (int c = 0; c < coco->category_count; c++) {
        if (allowed[c]) { order[(*count)++] = c; }
    }
    sorted_counts = counts;
    qsort(order, (size_t)*count, sizeof *order, by_samples);
    return order;
}

static void print_table(const Coco *coco, const Counts *counts, const int *order, int classes, int passes) {
    printf("%s: %d pictures, %lld segments, %d categories (%s)\n\n", coco->path, coco->picture_count, counts->segments,
           coco->category_count, coco->panoptic ? "panoptic" : "instances");
    printf("%-24s %9s %7s %9s %10s %7s\n", "class", "samples", "share", "pictures", "instances", "crowds");
    long long samples = counts->reasons[SAMPLE_OK];
    for (int i = 0; i < classes; i++) {
        const ClassCount *c = &counts->of[order[i]];
        text_column(stdout, 24, coco->categories[order[i]].name);
        printf(" %9lld %6.2f%% %9lld %10lld %7lld\n", c->samples,
               samples ? 100.0 * (double)c->samples / (double)samples : 0, c->pictures, c->instances, c->crowds);
    }
    printf("\n%lld samples from %lld pictures (%d pass%s)", samples, counts->total, passes, passes == 1 ? "" : "es");
    long long absent = 0;
    for (int i = 0; i < classes; i++) { absent += counts->of[order[i]].absent; }
    if (absent) { printf(", %lld of them ask for an absent class", absent); }
    printf("\n");
    for (int r = SAMPLE_OK + 1; r < SAMPLE_REASONS; r++) {
        if (counts->reasons[r]) { printf("dropped %9lld %s\n", counts->reasons[r], sample_reason_names[r]); }
    }
}

static void write_json(const char *path, const Coco *coco, const Counts *counts, const int *order, int classes,
                       int passes) {
    yajl_gen g = json_writer();
    yajl_gen_map_open(g);
    json_put_string(g, "annotations", coco->path);
    json_put_integer(g, "pictures", coco->picture_count);
    json_put_integer(g, "segments", counts->segments);
    json_put_integer(g, "passes", passes);
    json_open_map(g, "reasons");
    for (int r = 0; r < SAMPLE_REASONS; r++) { json_put_integer(g, sample_reason_names[r], counts->reasons[r]); }
    yajl_gen_map_close(g);
    json_open_list(g, "classes");
    for (int i = 0; i < classes; i++) {
        const ClassCount *c = &counts->of[order[i]];
        yajl_gen_map_open(g);
        json_put_string(g, "name", coco->categories[order[i]].name);
        json_put_integer(g, "samples", c->samples);
        json_put_integer(g, "absent", c->absent);
        json_put_integer(g, "pictures", c->pictures);
        json_put_integer(g, "instances", c->instances);
        json_put_integer(g, "crowds", c->crowds);
        yajl_gen_map_close(g);
    }
    yajl_gen_array_close(g);
    coco_put_left_out(coco, g);
    yajl_gen_map_close(g);
    json_write(g, path);
}

// Plots shares, so that the sampler's and the annotations' distributions have one scale.
static void write_chart(const char *path, const Coco *coco, const Counts *counts, const int *order, int classes,
                        int passes) {
    double samples = (double)counts->reasons[SAMPLE_OK], instances = 0;
    ChartBar *bars = xcalloc((size_t)classes * 2 + 1, sizeof *bars);
    for (int i = 0; i < classes; i++) { instances += (double)counts->of[order[i]].instances; }
    for (int i = 0; i < classes; i++) {
        const ClassCount *c = &counts->of[order[i]];
        bars[2 * i] = (ChartBar){.label = coco->categories[order[i]].name, .mark = NAN, .color = SERIES_SEEN};
        bars[2 * i + 1] = (ChartBar){.label = "", .mark = NAN, .color = SERIES_UNSEEN};
        bars[2 * i].value = samples > 0 ? 100 * (double)c->samples / samples : 0;
        bars[2 * i + 1].value = instances > 0 ? 100 * (double)c->instances / instances : 0;
    }
    char *note = xprintf("%s: %d pictures; %.0f samples in %d pass%s, %.0f instances of these classes", coco->path,
                         coco->picture_count, samples, passes, passes == 1 ? "" : "es", instances);
    static const char *const names[] = {"share of the samples drawn", "share of the annotated instances"};
    ChartLegend legend = {names, (const int[]){SERIES_SEEN, SERIES_UNSEEN}, 2};
    Image chart = chart_bars_picture("Class distribution", note, bars, 2 * classes, legend, "%.1f %%");
    image_save(&chart, path);
    image_free(&chart);
    free(note);
    free(bars);
}

typedef struct {
    char *data, *split, *source, *classes, *image, *json;
    int passes, minimum_side, size, check;
    long long seed;
    double absent;
} Options;

static Options parse_options(int argc, char **argv) {
    static Options o = {.split = "train2017", .source = "auto", .classes = "all-things", .passes = 1};
    o.minimum_side = 300, o.size = 512, o.seed = 2024;
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        DATA_ROWS(&o.data),
        {OPT_STRING, "split", &o.split, "name of the split, e.g. train2017 or val2017", "NAME"},
        SOURCE_ROWS(&o.source),
        MAX_PIXELS_ROWS,
        {OPT_STRING, "image", &o.image, "write the bar chart to this picture (.png or .jpg)", "FILE"},
        {OPT_STRING, "json", &o.json, "write all counts to this file", "FILE"},
        {OPT_HEADING, "Sampling"},
        {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"},
        {OPT_INT, "passes", &o.passes, "number of passes over the pictures", "N", .low = 1, .high = 100000},
        SAMPLE_ROWS(&o.absent, &o.minimum_side),
        {OPT_LONG, "seed", &o.seed, "seed of crops and classes", "SEED"},
        {OPT_HEADING, "Check"},
        {OPT_FLAG, "check", &o.check, "also read every picture and make every mask, to find damaged files"},
        {OPT_INT, "size", &o.size, "training resolution, for --check", "PIXELS", .low = 8, .high = 4096},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Counts the classes that the sampler draws from a data set, and the pictures that it drops.",
        .usage = "--data DIR [OPTIONS]",
        .example = "--data coco --split train2017 --image classes.png"};
    options_parse(argc, argv, table, &help, 0);
    return o;
}

int cmd_stats(int argc, char **argv) {
    Options o = parse_options(argc, argv);
    if (o.json) { want_output("--json", o.json); }
    if (o.image) {
        image_want_name(o.image);
        want_output("--image", o.image);
    }
    if (!o.json && !o.image) { interrupt_listing(); }
    Coco coco = coco_open(o.data, o.split, o.source);
    coco_want_segments(&coco);
    coco_want_exhaustive(&coco, o.absent);
    bool *allowed = classes_parse(&coco, "--classes", o.classes, NULL);
    SampleOptions options = {.allowed = allowed,
                             .seed = (uint64_t)o.seed,
                             .resolution = o.size,
                             .minimum_side = o.minimum_side,
                             .absent = o.absent,
                             .skip_damaged = true};
    Counts counts = {.of = xcalloc((size_t)coco.category_count, sizeof(ClassCount))};
    count_annotations(&coco, &counts);
    count_samples(&coco, &options, o.passes, o.check, &counts);
    int count;
    int *order = sort_classes(&coco, allowed, &counts, &count);
    print_table(&coco, &counts, order, count, o.passes);
    if (o.json) { write_json(o.json, &coco, &counts, order, count, o.passes); }
    if (o.image) { write_chart(o.image, &coco, &counts, order, count, o.passes); }
    bool nothing = !counts.reasons[SAMPLE_OK] && counts.reasons[SAMPLE_DAMAGED];
    if (nothing) { coco_say(&coco); }
    if (nothing) { die("%s: no picture that can give a sample can be read", coco.path); }
    free(order);
    free(counts.of);
    free(allowed);
    coco_free(&coco);
    return 0;
}
