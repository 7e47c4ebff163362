// cocogold analyze QUESTION: latents | arms.
#include "data/classes.h"
#include "eval/latents.h"
#include "eval/report/experiment_page.h"
#include "eval/report/latents_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- latents: how well the latent MSE of a VAE orders masks by IoU, bare and painted on the picture -----------------

static struct {
    char *model, *data, *split, *out, *source, *classes, *color;
    int resolution, min_side, samples, batch, resamples;
    double alpha, outline;
    long long seed;
} o = {.split = "val",
       .source = "auto",
       .out = "analysis",
       .classes = "all-things",
       .color = "white",
       .min_side = 300,
       .samples = 100,
       .batch = 8,
       .resamples = 1000,
       .alpha = 1,
       .seed = 2024};

static Option table[] = {
    {OPT_HEADING, "Input and output"},
    {OPT_STRING, "model", &o.model, "model directory; only vae/ is read", "DIR", .required = "a pipeline directory"},
    {OPT_STRING, "data", &o.data, "folder of the data set, in COCO's layout", "DIR",
     .required = "a data set in COCO's layout"},
    {OPT_STRING, "split", &o.split, "name of the split, e.g. train, val, train2017 or val2017", "NAME"},
    {OPT_STRING, "source", &o.source, "annotations to read (auto prefers instances)", "KIND", .choices = coco_sources},
    {OPT_STRING, "out", &o.out, "folder for latents.html, latents.json, pairs.csv and the two pictures", "DIR"},
    {OPT_HEADING, "Samples"},
    {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"},
    {OPT_INT, "samples", &o.samples, "number of crops with an object, one per picture", "N", .low = 2, .high = 1e6},
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: from the model's configs)", "PIXELS",
     .high = 8192},
    {OPT_INT, "min-side", &o.min_side, "drop pictures whose shorter side is below this", "PIXELS", .high = 1e6},
    {OPT_STRING, "color", &o.color, "colour of the painted mask: a name, #rrggbb or R,G,B", "COLOR"},
    {OPT_DOUBLE, "alpha", &o.alpha, "opacity of the painted mask", "SHARE"},
    {OPT_DOUBLE, "outline", &o.outline,
     "width of a line along the mask's border, in pixels at size 512 (the original uses 4)", "PIXELS"},
    {OPT_HEADING, "Run"},
    {OPT_INT, "batch", &o.batch, "pictures per call of the VAE", "N", .low = 1, .high = 4096},
    {OPT_INT, "bootstrap", &o.resamples, "bootstrap resamples for the 95% intervals (over samples)", "N", .high = 1e6},
    {OPT_LONG, "seed", &o.seed, "seed of the samples, their crops and their shifts", "N"},
    OPTIONS_END};

static const OptionsHelp latents_help = {
    .about = "Encodes masks of known IoU, bare and painted on the picture, and compares their latents.",
    .usage = "--model DIR --data DIR [--out DIR]",
    .example = "--model demo/vae/model --data demo/data --min-side 0 --out latents"};

static void parse(int argc, char **argv) { options_parse(argc, argv, table, &latents_help, 0); }

static int resolution_of(const Pipeline *p) {
    const VAEConfig *vae = &p->vae_encoder.config;
    int resolution = o.resolution ? o.resolution : pipeline_resolution(o.model, vae);
    if (resolution % vae_factor(vae)) {
        die("--resolution %d: expected a multiple of %d, the VAE's pixels per latent cell", resolution,
            vae_factor(vae));
    }
    return resolution;
}

// A painted mask is extracted by comparison with the picture, a bare mask by its brightness.
static void choose_rules(LatentAnalysis *a) {
    a->rules[REPRESENTED_OVERLAY] = mask_rule_default(MASK_COMPARE);
    for (int i = 0; i < 3; i++) { a->rules[REPRESENTED_OVERLAY].color[i] = a->paint.color[i] / 255.0f; }
    a->rules[REPRESENTED_OVERLAY].alpha = a->paint.alpha;
    a->rules[REPRESENTED_MASK] = mask_rule_default(MASK_LUMINANCE);
}

static int analyze_latents(int argc, char **argv, const char *command) {
    parse(argc, argv);
    Device dev;
    device_open(&dev, 0);
    Pipeline pipeline = pipeline_open(o.model, PART_VAE_ENCODER | PART_VAE_DECODER, 0, &dev);
    Coco coco = coco_open(o.data, o.split, o.source);
    bool *allowed = classes_parse(&coco, "--classes", o.classes, NULL);
    LatentAnalysis a = {.pipeline = &pipeline, .coco = &coco, .batch = o.batch, .count = o.samples};
    a.paint = paint_parse(o.color, o.alpha, o.outline);
    a.sample = (SampleOptions){.allowed = allowed, .seed = (uint64_t)o.seed, .minimum_side = o.min_side};
    a.sample.resolution = resolution_of(&pipeline);
    a.sample.skip_damaged = true;
    choose_rules(&a);
    make_folders(o.out);
    int count;
    LatentSample *samples = latents_analyze(&a, &count, &dev);
    if (count < 2) {
        die("%s: %d of %d pictures gave a sample, expected at least 2 (see --classes and --min-side)", coco.path, count,
            coco.picture_count);
    }
    LatentRecord record = {
        .model = o.model, .data = o.data, .split = o.split, .command = command, .device = device_name(&dev)};
    record.resolution = a.sample.resolution,
    record.latent_side = vae_latent_size(&pipeline.vae_encoder.config, a.sample.resolution);
    record.color = o.color, record.alpha = o.alpha, record.outline = o.outline;
    record.seed = (uint64_t)o.seed, record.resamples = o.resamples;
    latents_report(&record, samples, count, &coco, o.out);
    free(samples);
    free(allowed);
    coco_free(&coco);
    pipeline_close(&pipeline, &dev);
    device_close(&dev);
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
            name[0] == '-' ? xprintf("%s: unknown option", name) : "expected latents or arms");
    }
    printf("Analyses the latents of a VAE, or compares the runs of an experiment.\n\nUsage: cocogold analyze QUESTION "
           "[OPTIONS]\n");
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        printf("  %-9s %s\n", questions[i].name, questions[i].about);
    }
    printf("\n`cocogold analyze QUESTION --help` lists its options with their defaults.\n");
    return 0;
}
