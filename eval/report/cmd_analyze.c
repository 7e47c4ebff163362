// cocogold analyze QUESTION: latents | leak | starts | arms.
#include "data/classes.h"
#include "eval/latents.h"
#include "eval/report/experiment_page.h"
#include "eval/report/latents_page.h"
#include "eval/report/leak_page.h"
#include "eval/report/starts_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/options.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what latents and leak share: a VAE and samples
// ------------------------------------------------------------------

static struct {
    char *model, *data, *split, *out, *source, *classes, *color;
    int resolution, min_side, samples, batch, resamples;
    double alpha, outline, multires, signal;
    int match_cells;
    double match_contrast, match_signal;
    long long seed;
} o = {.split = "val",
       .source = "auto",
       .classes = "all-things",
       .color = "white",
       .min_side = 300,
       .samples = 100,
       .batch = 8,
       .resamples = 1000,
       .alpha = 1,
       .multires = 0.9,
       .signal = AS_BETAS,
       .match_cells = 64,
       .match_contrast = 5,
       .match_signal = 0.068,
       .seed = 2024};

// Option rows (util/options.h). parts: what is read of the model directory; files: what is written.
// clang-format off
#define INPUT_ROWS(parts, files) \
    {OPT_HEADING, "Input and output"}, \
    {OPT_STRING, "model", &o.model, "model directory; only " parts " read", "DIR", \
     .required = "a pipeline directory"}, \
    DATA_ROWS(&o.data), \
    {OPT_STRING, "split", &o.split, "name of the split, e.g. train, val, train2017 or val2017", "NAME"}, \
    SOURCE_ROWS(&o.source), \
    MAX_PIXELS_ROWS, \
    {OPT_STRING, "out", &o.out, "folder for " files, "DIR"}
#define DRAWN_SAMPLE_ROWS \
    {OPT_HEADING, "Samples"}, \
    {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"}, \
    {OPT_INT, "samples", &o.samples, "number of crops with an object, one per picture", "N", .low = 2, .high = 1e6}, \
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: from the model's configs)", "PIXELS", \
     .high = MOST_RESOLUTION}, \
    {OPT_INT, "min-side", &o.min_side, "drop pictures whose shorter side is below this", "PIXELS", .high = 1e6}, \
    PAINT_ROWS(&o.color, &o.alpha, &o.outline)
#define BOOTSTRAP_ROWS \
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

static void inputs_open(Inputs *in, int parts) {
    want_folder(o.out);
    device_open(&in->dev, 0);
    in->pipeline = pipeline_open(o.model, parts, 0, &in->dev);
    in->coco = coco_open(o.data, o.split, o.source);
    coco_want_segments(&in->coco);
    in->allowed = classes_parse(&in->coco, "--classes", o.classes, NULL);
    in->paint = paint_parse(o.color, o.alpha, o.outline);
    in->sample = (SampleOptions){.allowed = in->allowed, .seed = (uint64_t)o.seed, .minimum_side = o.min_side};
    in->sample.resolution = pipeline_resolution(&in->pipeline, o.resolution);
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

static Option latents_table[] = {
    INPUT_ROWS("vae/ is", "latents.html, latents.json, pairs.csv and the two pictures"),
    DRAWN_SAMPLE_ROWS,
    {OPT_HEADING, "Run"},
    {OPT_INT, "batch", &o.batch, "pictures per call of the VAE", "N", .low = 1, .high = 4096},
    BOOTSTRAP_ROWS,
    {OPT_LONG, "seed", &o.seed, "seed of the samples, their crops and their shifts", "N"},
    OPTIONS_END};

static const OptionsHelp latents_help = {
    .about = "Encodes masks of known IoU, bare and painted on the picture, and compares their latents.",
    .usage = "--model DIR --data DIR [--out DIR]",
    .example = "--model demo/vae/model --data demo/data --min-side 0 --out latents"};

// A painted mask is extracted by comparison with the picture, a bare mask by its brightness.
static void choose_rules(LatentAnalysis *a) {
    a->rules[REPRESENTED_OVERLAY] = mask_rule_default(MASK_COMPARE);
    for (int i = 0; i < 3; i++) { a->rules[REPRESENTED_OVERLAY].color[i] = a->paint.color[i] / 255.0f; }
    a->rules[REPRESENTED_OVERLAY].alpha = a->paint.alpha;
    a->rules[REPRESENTED_MASK] = mask_rule_default(MASK_LUMINANCE);
}

static int analyze_latents(int argc, char **argv, const char *command) {
    o.out = "analysis";
    options_parse(argc, argv, latents_table, &latents_help, 0);
    Inputs in;
    inputs_open(&in, PART_VAE_ENCODER | PART_VAE_DECODER);
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
    record.resolution = a.sample.resolution,
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

static Option leak_table[] = {
    INPUT_ROWS("vae/ and scheduler/ are", "leak.html, leak.json and objects.csv"),
    DRAWN_SAMPLE_ROWS,
    {OPT_HEADING, "Noise"},
    {OPT_DOUBLE, "terminal-signal", &o.signal,
     "share of the target in the noisiest training sample, sqrt(alphas_cumprod) at the last timestep; -1: as the betas "
     "give it, without rescaling",
     "A", .low = -1, .high = MOST_TERMINAL_SIGNAL},
    {OPT_DOUBLE, "multires-noise", &o.multires,
     "strength of the recipe's multi-resolution noise, annealed (0: the recipe's noise is white)", "X", .high = 1},
    {OPT_HEADING, "The latent to match: how large an A here leaves as much as there"},
    {OPT_INT, "match-cells", &o.match_cells, "side of that latent, in cells", "N", .low = 1, .high = MOST_CELLS},
    {OPT_DOUBLE, "match-contrast", &o.match_contrast,
     "contrast there: root of the sum of squares over channels between object and surroundings", "C", .low = 1e-3,
     .high = 1e3},
    {OPT_DOUBLE, "match-signal", &o.match_signal, "its terminal signal", "A", .low = 1e-6,
     .high = MOST_TERMINAL_SIGNAL},
    {OPT_HEADING, "Run"},
    BOOTSTRAP_ROWS,
    {OPT_LONG, "seed", &o.seed, "seed of the samples, their crops and the noise's level sizes", "N"},
    OPTIONS_END};

static const OptionsHelp leak_help = {
    .about = "Computes how much the noisiest training sample tells about the object, for a VAE and a noise schedule.",
    .usage = "--model DIR --data DIR [--terminal-signal A] [--out DIR]",
    .example = "--model demo/vae/model --data demo/data --min-side 0 --out leak"};

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

// sqrt(alphas_cumprod) at the last timestep of the model's betas, unless the command line gives it.
static double terminal_signal_of(const Schedule *schedule) {
    if (o.signal >= 0) { return o.signal; }
    ScheduleConfig config = schedule->config;
    config.terminal_signal = AS_BETAS;
    Schedule own = schedule_create(&config);
    double signal = sqrt(own.alphas_cumprod[own.T - 1]);
    schedule_free(&own);
    return signal;
}

static int analyze_leak(int argc, char **argv, const char *command) {
    o.out = "leak";
    options_parse(argc, argv, leak_table, &leak_help, 0);
    if (o.signal < 0 && o.signal != AS_BETAS) {
        die("--terminal-signal %g: expected -1, or a value from 0 to %g", o.signal, MOST_TERMINAL_SIGNAL);
    }
    Inputs in;
    inputs_open(&in, PART_VAE_ENCODER | PART_SCHEDULE);
    int cells = vae_latent_size(&in.pipeline.vae_encoder.config, in.sample.resolution);
    if (cells > MOST_CELLS && o.multires > 0) { // the covariance has cells^4 numbers
        die("--resolution %d: gives %d x %d latent cells, expected at most %d x %d, or --multires-noise 0",
            in.sample.resolution, cells, cells, MOST_CELLS, MOST_CELLS);
    }
    make_folders(o.out);
    LeakAnalysis a = {.pipeline = &in.pipeline, .coco = &in.coco, .count = o.samples};
    a.sample = in.sample, a.paint = in.paint;
    a.multires = o.multires * (in.pipeline.schedule.T - 1) / in.pipeline.schedule.T; // annealed, at the last timestep
    a.reference_side = o.match_cells, a.reference_contrast = o.match_contrast;
    int count;
    LeakObject *objects = leak_analyze(&a, &count, &in.dev);
    want_samples(&in, count);
    LeakRecord record = {
        .model = o.model, .data = o.data, .split = o.split, .command = command, .device = device_name(&in.dev)};
    record.resolution = a.sample.resolution;
    record.latent_side = vae_latent_size(&in.pipeline.vae_encoder.config, a.sample.resolution);
    record.color = o.color, record.alpha = o.alpha, record.outline = o.outline;
    record.signal = terminal_signal_of(&in.pipeline.schedule), record.multires = o.multires;
    record.match_cells = o.match_cells, record.match_contrast = o.match_contrast, record.match_signal = o.match_signal;
    record.seed = (uint64_t)o.seed, record.resamples = o.resamples;
    choose_signals(&record);
    leak_report(&record, objects, count, &in.coco, o.out);
    free(objects);
    inputs_close(&in);
    return 0;
}

// ---- starts: what a model of Marigold's kind reads from the start of sampling --------------------------------------

static int analyze_starts(int argc, char **argv, const char *command) {
    AnswerOptions answer = ANSWER_OPTIONS_DEFAULT;
    char **pictures = NULL, *maps = NULL, *kind_name = "depth", *text = "", *out = "starts";
    int kind = MAP_DEPTH, pad_text = 0, resolution = 0, resamples = 1000;
    long long seed = 0;
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        MODEL_ROWS(answer),
        {OPT_LIST, "images", &pictures, "picture, folder of pictures, or @FILE with a path a line (may be repeated)",
         "DIR", .required = "pictures"},
        {OPT_STRING, "maps", &maps, "folder with the true map of each picture, under the same name and of its size",
         "DIR", .required = "a folder of maps"},
        {OPT_STRING, "kind", &kind_name,
         "depth: grey maps of 8 or 16 bits, 0 where nothing was measured; picture: any with three channels", "KIND",
         .choices = map_kind_names, .choice = &kind},
        MAX_PIXELS_ROWS,
        {OPT_STRING, "out", &out, "folder for starts.html, starts.json and pictures.csv", "DIR"},
        {OPT_HEADING, "Sampling"},
        {OPT_STRING, "text", &text, "text of all pictures; Marigold's is empty", "TEXT"},
        {OPT_FLAG, "pad-text", &pad_text,
         "pad the text to the tokenizer's length, as Stable Diffusion and `cocogold train` do and Marigold does not"},
        STEPS_ROWS(answer),
        SCHEDULE_ROWS(answer.schedule),
        {OPT_INT, "resolution", &resolution, "longer side of the model's input (0: the training side)", "PIXELS",
         .high = MOST_RESOLUTION},
        {OPT_LONG, "seed", &seed, "seed of the noise and the bootstrap", "N"},
        {OPT_INT, "bootstrap", &resamples, "bootstrap resamples for the 95% intervals (over pictures)", "N",
         .high = 1e6},
        OPTIONS_END};
    static const OptionsHelp starts_help = {
        .about = "Samples from noise and from noise that holds a little of the true map: what does a model read there?",
        .usage = "--model DIR --images DIR --maps DIR [--out DIR]",
        .example = "--model marigold-depth-v1-0 --images nyu/rgb --maps nyu/depth --steps 10"};
    options_parse(argc, argv, table, &starts_help, 0);
    want_folder(out);
    if (!folder_exists(maps)) { die("--maps %s: is not a folder", maps); }
    PictureList list = pictures_find("--images", (const char *const *)pictures, NULL);
    ModelSettings settings;
    settings_read(&settings, answer.model);
    Device dev;
    device_open(&dev, 0);
    int parts = PART_UNET | PART_VAE_ENCODER | PART_VAE_DECODER | PART_TEXT | PART_SCHEDULE;
    Pipeline pipeline = pipeline_open(answer.model, parts | (answer.ema ? PART_UNET_EMA : 0), 0, &dev);
    if (schedule_changes(&answer.schedule)) { schedule_change(&pipeline.schedule, &answer.schedule); }
    StartAnalysis a = {.pipeline = &pipeline, .pictures = &list, .maps = maps, .kind = (MapKind)kind, .text = text};
    a.pad_text = pad_text, a.seed = (uint64_t)seed;
    a.steps = answer.steps ? answer.steps : settings.steps;
    a.side = pipeline_resolution(&pipeline, resolution ? resolution : settings.resolution);
    schedule_warn_steps(&pipeline.schedule, a.steps);
    make_folders(out);
    int count;
    StartItem *items = starts_analyze(&a, &count, &dev);
    if (!items) { die("--images: none of %d pictures could be used with a map of %s", list.count, maps); }
    StartRecord record = {.analysis = &a, .command = command, .device = device_name(&dev), .resamples = resamples};
    record.left_out = list.count - count;
    starts_report(&record, items, count, out);
    starts_free(items, count);
    pipeline_close(&pipeline, &dev);
    device_close(&dev);
    settings_free(&settings);
    pictures_free(&list);
    return 0;
}

// ---- arms: comparison of the runs of an experiment ------------------------------------------------------------------

static int analyze_arms(int argc, char **argv, const char *command) {
    char *arms = NULL, *words = NULL, *unscaled = NULL, *latents = NULL, *leak = NULL, *out = ".";
    int resamples = 1000;
    long long seed = 2024;
    Option table[] = {
        {OPT_STRING, "arms", &arms, "folder with ARM/seed-N/, from failure_and_fix.sh", "DIR",
         .required = "a folder with ARM/seed-N/"},
        {OPT_STRING, "words", &words, "the same, of the runs from scratch and pretrained", "DIR"},
        {OPT_STRING, "unscaled", &unscaled, "the same, of the runs with Stable Diffusion's schedule and latent size",
         "DIR"},
        {OPT_STRING, "leak", &leak, "leak.json of `cocogold analyze leak`, to include in the page", "FILE"},
        {OPT_STRING, "latents", &latents, "latents.json of `cocogold analyze latents`, to include in the page", "FILE"},
        {OPT_STRING, "out", &out, "folder for report.html and experiment.json", "DIR"},
        {OPT_INT, "bootstrap", &resamples, "bootstrap resamples (over pictures and runs)", "N", .low = 10, .high = 1e6},
        {OPT_LONG, "seed", &seed, "seed of the bootstrap", "N"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Compares the arms of an experiment: failures, differences with intervals, curves, pictures.",
        .usage = "--arms DIR [--latents FILE] [--out DIR]",
        .example = "--arms reproduce/arms --out reproduce"};
    options_parse(argc, argv, table, &help, 0);
    want_folder(out);
    Experiment e = experiment_read(arms), more[2] = {0};
    ExperimentRecord record = {
        .command = command, .latents = latents, .leak = leak, .resamples = resamples, .seed = (uint64_t)seed};
    if (words) { record.words = &more[0], more[0] = experiment_read(words); }
    if (unscaled) { record.unscaled = &more[1], more[1] = experiment_read(unscaled); }
    experiment_report(&e, &record, out);
    experiment_free(&e);
    for (int i = 0; i < 2; i++) { experiment_free(&more[i]); }
    return 0;
}

// ---- the command ----------------------------------------------------------------------------------------------------

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, const char *command);
    const char *about;
} questions[] = {
    {"latents", analyze_latents, "how well a VAE's latents tell good masks from bad ones"},
    {"leak", analyze_leak, "how much of the answer a noise schedule leaves in the noisiest training sample"},
    {"starts", analyze_starts, "what a model of Marigold's kind reads from the start of sampling"},
    {"arms", analyze_arms, "how the runs of an experiment compare (train/experiments/failure_and_fix.sh)"},
};

int cmd_analyze(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        if (strcmp(name, questions[i].name) != 0) { continue; }
        char *command = options_command(argc, argv);
        argv[1] = xprintf("analyze %s", name);
        int code = questions[i].run(argc - 1, argv + 1, command);
        free(command);
        return code;
    }
    if (strcmp(name, "--help") != 0 && strcmp(name, "-?") != 0) {
        die("analyze: %s (see cocogold analyze --help)",
            name[0] == '-' ? xprintf("%s: unknown option", name) : "expected latents, leak, starts or arms");
    }
    interrupt_listing();
    printf("Analyses the latents of a VAE, a noise schedule or a trained model, or compares the runs of an "
           "experiment.\n\nUsage: "
           "cocogold analyze QUESTION "
           "[OPTIONS]\n");
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        printf("  %-9s %s\n", questions[i].name, questions[i].about);
    }
    printf("\n`cocogold analyze QUESTION --help` lists its options with their defaults.\n");
    return 0;
}
