// cocogold bench: the speed of kernels and whole training steps, compared with this machine's peak rates.
#include "bench/bench.h"
#include "bench/lab.h"
#include "kernels/peaks.h"
#include "model/unet.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/json.h"
#include "util/options.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *shape, *shapes, *json, *version;
    int check;
    StepOptions step;
} BenchOptions;

static const char LARGE[] = "sd2-64";

// ---- Output --------------------------------------------------------------------------------------------------------

static void print_layer(const BenchResult *results, int count, const Peaks *peaks) {
    printf("%s (%s)\n", results->layer, results->sizes);
    printf("  %-28s %-6s %-28s %12s %9s %8s %8s\n", "function", "model", "shape", "us", "GFLOP/s", "GB/s", "roofline");
    for (const BenchResult *r = results; r < results + count; r++) {
        char shape[96];
        printf("  %-28s %-6s %-28s", r->row.name, r->model, format_shape(r->sizes, r->size, shape));
        print_timing(r, peaks);
        printf("\n");
    }
    printf("\n");
    fflush(stdout);
}

static void put_peaks(yajl_gen gen, const Device *dev, const Peaks *p) {
    json_put_string(gen, "device", device_name(dev));
    if (p->bytes_per_s == 0) { return; } // not measured
    json_put_number(gen, "flops_per_s", p->flops_per_s[UNIT_FP32]);
    json_put_number(gen, "mma_flops_per_s", p->flops_per_s[UNIT_MMA]);
    json_put_number(gen, "gemm_flops_per_s", p->flops_per_s[UNIT_GEMM]);
    json_put_number(gen, "bytes_per_s", p->bytes_per_s);
}

// Left out if the peaks were not measured.
static void put_share(yajl_gen gen, double share) {
    if (share > 0) { json_put_number(gen, "roofline", share); }
}

static void put_row(yajl_gen gen, const TraceRow *row, double seconds, const Peaks *peaks) {
    json_put_string(gen, "function", row->name);
    json_put_number(gen, "seconds", seconds);
    json_put_number(gen, "flops", row->flops);
    json_put_number(gen, "bytes", row->bytes);
    json_put_string(gen, "unit", unit_name(row->unit));
    put_share(gen, roofline_share(row, seconds, peaks));
}

static void write_kernels(const char *path, const Bench *b, const Peaks *peaks) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    put_peaks(gen, b->dev, peaks);
    json_open_list(gen, "kernels");
    for (const BenchResult *r = b->results; r < b->results + b->count; r++) {
        char shape[96];
        yajl_gen_map_open(gen);
        json_put_string(gen, "layer", r->layer);
        json_put_string(gen, "model", r->model);
        json_put_string(gen, "shape", format_shape(r->sizes, r->size, shape));
        put_row(gen, &r->row, r->seconds, peaks);
        json_put_number(gen, "least", r->low);
        json_put_number(gen, "most", r->high);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// Times and counts of the profile are per step.
static void put_profile(yajl_gen gen, const StepResult *r, const Peaks *peaks) {
    json_open_list(gen, "profile");
    for (int i = 0; i < r->profile.count; i++) {
        TraceRow row = r->profile.rows[i];
        row.flops /= r->profile_steps, row.bytes /= r->profile_steps;
        yajl_gen_map_open(gen);
        json_put_string(gen, "scope", row.scope);
        json_put_integer(gen, "launches", row.launches / r->profile_steps);
        put_row(gen, &row, row.seconds / r->profile_steps, peaks);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void write_step(const char *path, const StepResult *r, const Device *dev, const Peaks *peaks) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    put_peaks(gen, dev, peaks);
    json_put_string(gen, "model", r->name);
    json_put_integer(gen, "parameters", (long long)r->parameters);
    json_put_integer(gen, "batch", r->B);
    json_put_integer(gen, "size", r->size);
    json_put_integer(gen, "tokens", r->tokens);
    json_put_integer(gen, "threads", r->threads);
    json_put_number(gen, "seconds", r->seconds);
    json_put_number(gen, "mean", r->mean);
    json_put_number(gen, "least", r->low);
    json_put_number(gen, "most", r->high);
    json_put_number(gen, "loss", r->loss);
    json_put_number(gen, "flops", r->profile.flops / r->profile_steps);
    json_put_number(gen, "bytes", r->profile.bytes / r->profile_steps);
    put_share(gen, step_roofline_share(r, peaks));
    json_put_number(gen, "peak_bytes", r->peak_bytes);
    json_put_number(gen, "arena_bytes", r->arena_bytes);
    put_profile(gen, r, peaks);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

static void put_launches(yajl_gen gen, const char *key, const Trace *trace) {
    json_open_list(gen, key);
    for (const TraceRow *row = trace->rows; row < trace->rows + trace->count; row++) {
        yajl_gen_map_open(gen);
        json_put_string(gen, "function", row->name);
        json_put_string(gen, "scope", row->scope);
        json_put_integer(gen, "launches", row->launches);
        json_put_number(gen, "bytes", row->bytes / row->launches); // of one launch
        json_put_number(gen, "flops", row->flops / row->launches);
        json_put_string(gen, "unit", unit_name(row->unit));
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static const char *type_of(const SavedTensor *t) { return t->element == sizeof(float) ? "fp32" : "bf16"; }

// "2x64x64x320" into text.
static const char *format_axes(Shape shape, char text[96]) {
    int used = 0;
    for (int i = 0; i < 4 && shape.size[i]; i++) {
        used += snprintf(text + used, 96 - (size_t)used, "%s%zu", i ? "x" : "", shape.size[i]);
    }
    return text;
}

// Launches are counted from 1. A tensor exists from the first launch after `saved` to `freed`.
static void print_tensors(const StepPlan *p) {
    char shape[96];
    printf("\n%-66s %-16s %-4s %12s  %-14s %-14s %s\n", "tensor", "shape", "type", "bytes", "saved after",
           "freed after", "backward of");
    for (const SavedTensor *t = p->saved.tensors; t < p->saved.tensors + p->saved.count; t++) {
        printf("%-66s %-16s %-4s %12zu  %-8s %5d %-8s %5d  %s\n", t->name, format_axes(t->shape, shape), type_of(t),
               t->bytes, t->saved.scope, t->saved.launches, t->freed.scope, t->freed.launches, t->reader);
    }
    printf("%d tensors; %.0f bytes are saved at the peak, of %.0f bytes of activations and gradients\n", p->saved.count,
           p->saved_bytes, p->arena);
}

static void put_tensors(yajl_gen gen, const SavedTable *table) {
    json_open_list(gen, "tensors");
    for (const SavedTensor *t = table->tensors; t < table->tensors + table->count; t++) {
        yajl_gen_map_open(gen);
        json_put_string(gen, "name", t->name);
        json_open_list(gen, "shape");
        for (int i = 0; i < 4 && t->shape.size[i]; i++) { yajl_gen_integer(gen, (long long)t->shape.size[i]); }
        yajl_gen_array_close(gen);
        json_put_string(gen, "type", type_of(t));
        json_put_integer(gen, "bytes", (long long)t->bytes);
        json_put_string(gen, "saved_scope", t->saved.scope);
        json_put_integer(gen, "saved_launch", t->saved.launches);
        json_put_string(gen, "freed_scope", t->freed.scope);
        json_put_integer(gen, "freed_launch", t->freed.launches);
        json_put_string(gen, "backward_of", t->reader);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void write_plan(const char *path, const StepPlan *p, bool tensors) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "model", p->name);
    json_put_integer(gen, "batch", p->B);
    json_put_integer(gen, "size", p->size);
    json_put_integer(gen, "element_bytes", sizeof(floatX));
    json_put_number(gen, "parameters", p->parameters);
    json_put_number(gen, "arena_bytes", p->arena);
    json_put_number(gen, "saved_bytes", p->saved_bytes);
    json_put_number(gen, "workspace_bytes", p->workspace);
    json_put_number(gen, "vae_arena_bytes", p->vae_arena);
    put_launches(gen, "step", &p->step);
    put_launches(gen, "vae", &p->vae);
    if (tensors) { put_tensors(gen, &p->saved); }
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// ---- What to run ---------------------------------------------------------------------------------------------------

static const BenchLayer *find_layer(const char *name) {
    if (strcmp(name, "adam") == 0) { name = "optimizer"; } // as the lab calls them
    if (strcmp(name, "groupnorm_backward") == 0) { name = "groupnorm"; }
    char *known = xstrdup("");
    for (const BenchLayer *layer = bench_layers; layer->name; layer++) {
        if (strcmp(layer->name, name) == 0) {
            free(known);
            return layer;
        }
        char *longer = xprintf("%s, %s", known, layer->name);
        free(known);
        known = longer;
    }
    die("bench %s: expected all, step, plan or one of the layers%s", name, known + 1);
}

// The numbers of --shape, one for each of the layer's sizes; 0 is allowed for switches (the last of some layers).
static void parse_shape(const char *text, const BenchLayer *layer, int size[MAX_SIZES]) {
    int wanted = count_sizes(layer->sizes), count = 0;
    const char *p = text;
    for (; count < wanted; count++) {
        char *end;
        long value = strtol(p, &end, 10);
        bool may_be_zero = count + 1 == wanted && (strstr(layer->sizes, "silu") || strstr(layer->sizes, "causal"));
        if (end == p || value < !may_be_zero || value > 1 << 30) { break; }
        size[count] = (int)value;
        p = end;
        if (*p == ',' && count + 1 < wanted) { p++; }
    }
    if (count != wanted || *p) { die("--shape %s: expected the numbers %s of %s", text, layer->sizes, layer->name); }
}

// Whether a row belongs to the table of --shapes.
static bool in_table(const char *model, const BenchOptions *o) {
    return (strcmp(model, LARGE) == 0) == (strcmp(o->shapes, LARGE) == 0);
}

static bool has_rows(const BenchLayer *layer, const BenchOptions *o) {
    bool any = o->shape != NULL;
    for (int i = 0; i < MAX_SHAPES && layer->shapes[i].model; i++) { any |= in_table(layer->shapes[i].model, o); }
    return any;
}

static int of_batch(const BenchLayer *layer, int of_two, int batch) {
    long long size = of_two / 2LL * batch;
    if (size > 1 << 30) { die("--batch %d: is too large for bench %s", batch, layer->name); }
    return (int)size;
}

static void run_layer(Bench *b, const BenchLayer *layer, const BenchOptions *o, const Peaks *peaks) {
    int first = b->count, size[MAX_SIZES] = {0};
    if (o->shape) {
        parse_shape(o->shape, layer, size);
        bench_layer(b, layer, "given", size);
    }
    for (int i = 0; !o->shape && i < MAX_SHAPES && layer->shapes[i].model; i++) {
        if (!in_table(layer->shapes[i].model, o)) { continue; }
        memcpy(size, layer->shapes[i].size, sizeof size);
        // --batch is only for sd2-64, whose rows are those of batch 2.
        if (o->step.batch && !layer->of_parameters) { size[0] = of_batch(layer, size[0], o->step.batch); }
        bench_layer(b, layer, layer->shapes[i].model, size);
    }
    if (b->count == first) { return; }
    print_layer(b->results + first, b->count - first, peaks);
}

static void bench_kernels(const char *what, const BenchOptions *o, Device *dev) {
    bool all = strcmp(what, "all") == 0;
    const BenchLayer *one = all ? NULL : find_layer(what);
    if (one && !has_rows(one, o)) {
        die("bench %s --shapes %s: a step of SD2 does not run this layer: expected --shape or --shapes mixed",
            one->name, o->shapes);
    }
    Bench b;
    bench_open(&b, o->step.runs, dev);
    Peaks peaks = device_measure_peaks(dev);
    print_peaks(dev, &peaks);
    printf("\n");
    for (const BenchLayer *layer = bench_layers; layer->name; layer++) {
        if (all || layer == one) { run_layer(&b, layer, o, &peaks); }
    }
    if (o->json) { write_kernels(o->json, &b, &peaks); }
    bench_close(&b);
}

static void bench_versions(const char *what, const BenchOptions *o, Device *dev) {
    const LabLayer *lab = lab_find(what);
    const BenchLayer sizes = {.name = lab->layer, .sizes = lab->sizes};
    int size[MAX_SIZES] = {0};
    if (o->shape) { parse_shape(o->shape, &sizes, size); }
    Bench b;
    bench_open(&b, o->step.runs, dev);
    lab_command(&b, lab, o->version, o->shape ? size : NULL, !o->check);
    bench_close(&b);
}

// The step runs first: measuring the peaks needs memory that would count in the process's peak memory.
static void bench_steps(const BenchOptions *o, Device *dev) {
    StepResult r = bench_step(&o->step, dev);
    Peaks peaks = device_measure_peaks(dev);
    print_peaks(dev, &peaks);
    printf("\n");
    step_result_print(&r, &peaks);
    if (o->json) { write_step(o->json, &r, dev, &peaks); }
    step_result_free(&r);
}

static void bench_plans(const BenchOptions *o) {
    StepPlan p = bench_plan(&o->step);
    printf("%s, batch %d, %dx%d latents: %.1f M parameters, %.2f GB of activations and gradients, %.2f GB of "
           "workspace; a step has "
           "%.2f TFLOP and moves %.2f GB\n",
           p.name, p.B, p.size, p.size, 1e-6 * p.parameters, 1e-9 * p.arena, 1e-9 * p.workspace, 1e-12 * p.step.flops,
           1e-9 * p.step.bytes);
    if (o->step.tensors) { print_tensors(&p); }
    if (o->json) { write_plan(o->json, &p, o->step.tensors); }
    bench_plan_free(&p);
}

static const BenchOptions defaults = {.shapes = "mixed",
                                      .step = {.preset = "quarter-sd2", .recompute = "none", .runs = 7}};

// Dies if an option has a value that nothing would read.
static void check(const BenchOptions *o, const char *what) {
    const StepOptions *s = &o->step, *unset = &defaults.step;
    bool step = strcmp(what, "step") == 0, plan = strcmp(what, "plan") == 0, model = step || plan;
    bool layer = !model && strcmp(what, "all") != 0, table = !model && !o->shape && !o->version;
    bool large = strcmp(o->shapes, LARGE) == 0;
    const struct {
        const char *option;
        bool given, read;
        const char *needs;
    } rules[] = {{"--runs", s->runs != unset->runs, !plan, "what is measured, not bench plan"},
                 {"--json", o->json, !o->version, "a benchmark without --version"},
                 {"--shape", o->shape, layer, "a layer"},
                 {"--shapes", large, table, "a layer or all of them, without --shape and --version"},
                 {"--version", o->version, layer, "a layer"},
                 {"--check", o->check, o->version, "--version"},
                 {"--preset", strcmp(s->preset, unset->preset) != 0, model, "bench step or bench plan"},
                 {"--model", s->model, model, "bench step or bench plan"},
                 {"--batch", s->batch, model || (table && large), "bench step, bench plan or --shapes sd2-64"},
                 {"--size", s->size, model, "bench step or bench plan"},
                 {"--recompute", strcmp(s->recompute, unset->recompute) != 0, model, "bench step or bench plan"},
                 {"--tensors", s->tensors, plan, "bench plan"},
                 {"--write-config", s->write_config, step, "bench step"}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].given && !rules[i].read) { die("%s needs %s", rules[i].option, rules[i].needs); }
    }
}

static const char *const shape_tables[] = {"mixed", LARGE, NULL};
static const char *const presets[] = {"mini", "quarter-sd2", "sd1", "sd2", NULL};

int cmd_bench(int argc, char **argv) {
    BenchOptions o = defaults;
    Option table[] = {
        {OPT_HEADING, "Measuring"},
        {OPT_INT, "runs", &o.step.runs, "number of runs; the median is printed", "N", .low = 1, .high = MAX_RUNS},
        {OPT_STRING, "json", &o.json, "also write the results to this file", "FILE"},
        {OPT_HEADING, "A layer"},
        {OPT_STRING, "shape", &o.shape, "measure these sizes instead of the table's, e.g. 2,32,32,320,320,3,1",
         "NUMBERS"},
        {OPT_STRING, "shapes", &o.shapes,
         "the table's shapes: of several models, or those of a step of SD2 at 64x64 latents with --batch samples",
         "TABLE", .choices = shape_tables},
        {OPT_STRING, "version", &o.version,
         "measure version N of conv2d, attention, groupnorm, groupnorm_backward, layernorm or adam, from naive to "
         "final, or all versions",
         "N|all"},
        {OPT_FLAG, "check", &o.check, "with --version: check the result without timing"},
        {OPT_HEADING, "step and plan"},
        {OPT_STRING, "preset", &o.step.preset, "model to measure, with random weights", "NAME", .choices = presets},
        {OPT_STRING, "model", &o.step.model,
         "measure the architecture of this pipeline directory instead, with random weights", "DIR"},
        {OPT_INT, "batch", &o.step.batch, "samples per batch (0: 16 for mini, else 2)", "N", .high = 65536},
        {OPT_INT, "size", &o.step.size, "side of the latents (0: the model's, 16 for mini, else 32)", "N",
         .high = 4096},
        {OPT_STRING, "recompute", &o.step.recompute, "what backward recomputes instead of reading from memory", "LEVEL",
         .choices = recompute_names, .choice = &o.step.recompute_level},
        {OPT_FLAG, "tensors", &o.step.tensors, "plan: print every saved tensor with its bytes and lifetime"},
        {OPT_STRING, "write-config", &o.step.write_config, "also write the UNet's config.json to this file", "FILE"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Times every kernel, one layer's kernels, or a whole training step, and compares the "
                 "times with the\npeak rates of this machine (bench/README.md). plan: prints the launches, "
                 "bytes and FLOPs of a step without\nrunning it.",
        .usage = "[LAYER|all|step|plan] [OPTIONS]",
        .example = "conv2d --shape 2,32,32,320,320,3,1"};
    const char **arguments = options_parse(argc, argv, table, &help, 1);
    const char *what = arguments[0] ? arguments[0] : "all";
    check(&o, what);
    if (o.json) { want_output("--json", o.json); }
    if (o.step.write_config) { want_output("--write-config", o.step.write_config); }
    if (!o.json && !o.step.write_config) { interrupt_listing(); }
    if (strcmp(what, "plan") == 0) { // needs no device
        bench_plans(&o);
        return 0;
    }
    Device dev;
    device_open(&dev, 0);
    if (o.version) {
        bench_versions(what, &o, &dev);
    } else if (strcmp(what, "step") == 0) {
        bench_steps(&o, &dev);
    } else {
        bench_kernels(what, &o, &dev);
    }
    device_close(&dev);
    return 0;
}
