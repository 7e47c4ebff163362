// cocogold analyze latents | leak: a VAE and samples of a data set.
#include "data/classes.h"
#include "eval/latents.h"
#include "eval/report/latents_page.h"
#include "eval/report/leak_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <math.h>
#include <stdlib.h>

// ---- what both share -----------------------------------------------------------------------------------------------

typedef struct {
    char *model, *data, *split, *out, *source, *classes, *color;
    int resolution, min_side, samples, batch, resamples;
    double alpha, outline;
    long long seed;
} Options;

static const Options defaults = {.split = "val",
                                 .source = "auto",
                                 .classes = "all-things",
                                 .color = "white",
                                 .min_side = 300,
                                 .samples = 100,
                                 .batch = 8,
                                 .resamples = 1000,
                                 .alpha = 1,
                                 .seed = 2024};

// Option rows (util/options.h). parts: what is read of the model directory; files: what is written.
// clang-format off
#define INPUT_ROWS(o, parts, files) \
    {OPT_HEADING, "Input and output"}, \
    {OPT_STRING, "model", &o.model, "model directory; only " parts " read", "DIR", \
     .required = "a pipeline directory"}, \
    DATA_ROWS(&o.data), \
    {OPT_STRING, "split", &o.split, "name of the split, e.g. train, val, train2017 or val2017", "NAME"}, \
    SOURCE_ROWS(&o.source), \
    MAX_PIXELS_ROWS, \
    {OPT_STRING, "out", &o.out, "folder for " files, "DIR"}
#define DRAWN_SAMPLE_ROWS(o) \
    {OPT_HEADING, "Samples"}, \
    {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"}, \
    {OPT_INT, "samples", &o.samples, "number of crops with an object, one per picture", "N", .low = 2, .high = 1e6}, \
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: from the model's configs)", "PIXELS", \
     .high = MOST_RESOLUTION}, \
    MIN_SIDE_ROWS(&o.min_side), \
    PAINT_ROWS(&o.color, &o.alpha, &o.outline)
#define BOOTSTRAP_ROWS(o) \
    {OPT_INT, "bootstrap", &o.resamples, "bootstrap resamples for the 95% intervals (over samples)", "N", .high = 1e6}
// clang-format on

// What is opened for both.
typedef struct {
    Device dev;
    Pipeline pipeline;
    Coco coco;
    bool *allowed;
    SampleOptions sample;
    Paint paint;
} Inputs;

static void inputs_open(Inputs *in, const Options *o, int parts) {
    want_folder(o->out);
    device_open(&in->dev, 0);
    in->pipeline = pipeline_open(o->model, parts, 0, &in->dev);
    in->coco = coco_open(o->data, o->split, o->source);
    coco_want_segments(&in->coco);
    in->allowed = classes_parse(&in->coco, "--classes", o->classes, NULL);
    in->paint = paint_parse(o->color, o->alpha, o->outline);
    in->sample = (SampleOptions){.allowed = in->allowed, .seed = (uint64_t)o->seed, .minimum_side = o->min_side};
    in->sample.resolution = pipeline_resolution(&in->pipeline, o->resolution);
    in->sample.skip_damaged = true;
}

static void inputs_close(Inputs *in) {
    free(in->allowed);
    coco_free(&in->coco);
    pipeline_close(&in->pipeline, &in->dev);
    device_close(&in->dev);
}

static void want_samples(const Inputs *in, int count) {
    if (count < 2) {
        coco_say(&in->coco);
        die("%s: %d of %d pictures gave a sample, expected at least 2 (see --classes and --min-side)", in->coco.path,
            count, in->coco.picture_count);
    }
}

// ---- latents: how well the latent MSE of a VAE orders masks by IoU, bare and painted on the picture -----------------

// A painted mask is extracted by comparison with the picture, a bare mask by its brightness.
static void choose_rules(LatentAnalysis *a) {
    a->rules[REPRESENTED_OVERLAY] = mask_rule_default(MASK_COMPARE);
    for (int i = 0; i < 3; i++) { a->rules[REPRESENTED_OVERLAY].color[i] = a->paint.color[i] / 255.0f; }
    a->rules[REPRESENTED_OVERLAY].alpha = a->paint.alpha;
    a->rules[REPRESENTED_MASK] = mask_rule_default(MASK_LUMINANCE);
}

int analyze_latents(int argc, char **argv, const char *command) {
    Options o = defaults;
    o.out = "analysis";
    Option table[] = {INPUT_ROWS(o, "vae/ is", "latents.html, latents.json, pairs.csv and the two pictures"),
                      DRAWN_SAMPLE_ROWS(o),
                      {OPT_HEADING, "Run"},
                      {OPT_INT, "batch", &o.batch, "pictures per call of the VAE", "N", .low = 1, .high = 4096},
                      BOOTSTRAP_ROWS(o),
                      {OPT_LONG, "seed", &o.seed, "seed of the samples, their crops and their shifts", "N"},
                      OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Encodes masks of known IoU, bare and painted on the picture, and compares their latents.",
        .usage = "--model DIR --data DIR [--out DIR]",
        .example = "--model demo/vae/model --data demo/data --min-side 0 --out latents"};
    options_parse(argc, argv, table, &help, 0);
    Inputs in;
    inputs_open(&in, &o, PART_VAE_ENCODER | PART_VAE_DECODER);
    make_folders(o.out);
    LatentAnalysis a = {.pipeline = &in.pipeline, .coco = &in.coco, .batch = o.batch, .count = o.samples};
    a.paint = in.paint;
    a.sample = in.sample;
    choose_rules(&a);
    int count;
    LatentSample *samples = latents_analyze(&a, &count, &in.dev);
    want_samples(&in, count);
    LatentRecord record = {
        .model = o.model, .data = o.data, .split = o.split, .command = command, .device = device_name(&in.dev)};
    record.resolution = a.sample.resolution;
    record.latent_side = vae_latent_size(&in.pipeline.vae_encoder.config, a.sample.resolution);
    record.color = o.color, record.alpha = o.alpha, record.outline = o.outline;
    record.seed = (uint64_t)o.seed, record.resamples = o.resamples;
    latents_report(&record, samples, count, &in.coco, o.out);
    free(samples);
    inputs_close(&in);
    return 0;
}

// ---- leak: how much of the answer the noise schedule leaves in the noisiest training sample -------------------------

enum { MOST_CELLS = 128 }; // side of a latent whose noise has a covariance

// The signals of the table, ascending: a few, and the one asked for.
static void choose_signals(LeakRecord *r) {
    static const double usual[] = {0.068, 0.14, 0.22, 0.27};
    bool placed = false;
    for (int i = 0; i < 4; i++) {
        placed |= fabs(r->signal - usual[i]) < 5e-4; // SD's own is 0.0683
        if (!placed && r->signal < usual[i]) { r->signals[r->signal_count++] = r->signal, placed = true; }
        r->signals[r->signal_count++] = usual[i];
    }
    if (!placed) { r->signals[r->signal_count++] = r->signal; }
}

// sqrt(alphas_cumprod) at the last timestep of the model's betas.
static double own_signal(const Schedule *schedule) {
    ScheduleConfig config = schedule->config;
    config.terminal_signal = AS_BETAS;
    Schedule own = schedule_create(&config);
    double signal = sqrt(own.alphas_cumprod[own.T - 1]);
    schedule_free(&own);
    return signal;
}

static LeakRecord parse_leak(int argc, char **argv, Options *o) {
    LeakRecord r = {.signal = AS_BETAS, .multires = 0.9, .match_cells = 64, .match_contrast = 5, .match_signal = 0.068};
    Option table[] = {
        INPUT_ROWS((*o), "vae/ and scheduler/ are", "leak.html, leak.json and objects.csv"),
        DRAWN_SAMPLE_ROWS((*o)),
        {OPT_HEADING, "Noise"},
        {OPT_DOUBLE, "terminal-signal", &r.signal,
         "share of the target in the noisiest training sample, sqrt(alphas_cumprod) at the last timestep; -1: as the "
         "betas give it, without rescaling",
         "A", .low = -1, .high = MOST_TERMINAL_SIGNAL},
        {OPT_DOUBLE, "multires-noise", &r.multires,
         "strength of the recipe's multi-resolution noise, annealed (0: the recipe's noise is white)", "X", .high = 1},
        {OPT_HEADING, "The latent whose evidence is to be matched"},
        {OPT_INT, "match-cells", &r.match_cells, "side of that latent, in cells", "N", .low = 1, .high = MOST_CELLS},
        {OPT_DOUBLE, "match-contrast", &r.match_contrast,
         "contrast there: root of the sum of squares over channels between object and surroundings", "C", .low = 1e-3,
         .high = 1e3},
        {OPT_DOUBLE, "match-signal", &r.match_signal, "its terminal signal", "A", .low = 1e-6,
         .high = MOST_TERMINAL_SIGNAL},
        {OPT_HEADING, "Run"},
        BOOTSTRAP_ROWS((*o)),
        {OPT_LONG, "seed", &o->seed, "seed of the samples, their crops and the noise's level sizes", "N"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about =
            "Computes how much the noisiest training sample tells about the object, for a VAE and a noise schedule.",
        .usage = "--model DIR --data DIR [--terminal-signal A] [--out DIR]",
        .example = "--model demo/vae/model --data demo/data --min-side 0 --out leak"};
    options_parse(argc, argv, table, &help, 0);
    if (r.signal < 0 && r.signal != AS_BETAS) {
        die("--terminal-signal %g: expected -1, or a value from 0 to %g", r.signal, MOST_TERMINAL_SIGNAL);
    }
    return r;
}

int analyze_leak(int argc, char **argv, const char *command) {
    Options o = defaults;
    o.out = "leak";
    LeakRecord record = parse_leak(argc, argv, &o);
    Inputs in;
    inputs_open(&in, &o, PART_VAE_ENCODER | PART_SCHEDULE);
    const Schedule *schedule = &in.pipeline.schedule;
    int cells = vae_latent_size(&in.pipeline.vae_encoder.config, in.sample.resolution);
    if (cells > MOST_CELLS && record.multires > 0) { // the covariance has cells^4 numbers
        die("--resolution %d: gives %d x %d latent cells, expected at most %d x %d, or --multires-noise 0",
            in.sample.resolution, cells, cells, MOST_CELLS, MOST_CELLS);
    }
    make_folders(o.out);
    LeakAnalysis a = {.pipeline = &in.pipeline, .coco = &in.coco, .count = o.samples};
    a.sample = in.sample, a.paint = in.paint;
    a.multires = record.multires * (schedule->T - 1) / schedule->T; // annealed, at the last timestep
    a.reference_side = record.match_cells, a.reference_contrast = record.match_contrast;
    int count;
    LeakObject *objects = leak_analyze(&a, &count, &in.dev);
    want_samples(&in, count);
    record.model = o.model, record.data = o.data, record.split = o.split, record.command = command;
    record.device = device_name(&in.dev), record.resolution = a.sample.resolution, record.latent_side = cells;
    record.color = o.color, record.alpha = o.alpha, record.outline = o.outline;
    record.seed = (uint64_t)o.seed, record.resamples = o.resamples;
    if (record.signal < 0) { record.signal = own_signal(schedule); }
    choose_signals(&record);
    leak_report(&record, objects, count, &in.coco, o.out);
    free(objects);
    inputs_close(&in);
    return 0;
}
