// `cocogold analyze latents`: how well the latent MSE of a VAE orders masks by IoU, bare and painted on the picture.
#include "eval/report/analyze.h"
#include "data/classes.h"
#include "eval/latents.h"
#include "eval/report/latents_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <stdlib.h>
#include <string.h>

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
    {OPT_STRING, "split", &o.split, "train, val, train2017, val2017 or whatever the split is called", "NAME"},
    {OPT_STRING, "source", &o.source, "annotations to read; auto takes instances where there are any", "KIND",
     .choices = coco_sources},
    {OPT_STRING, "out", &o.out, "folder for latents.html, latents.json, pairs.csv and the two pictures", "DIR"},
    {OPT_HEADING, "Samples"},
    {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"},
    {OPT_INT, "samples", &o.samples, "crops with an object, one of a picture", "N", .low = 2, .high = 1e6},
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: as the model's configs say)", "PIXELS",
     .high = 8192},
    {OPT_INT, "min-side", &o.min_side, "drop pictures with a shorter side", "PIXELS", .high = 1e6},
    {OPT_STRING, "color", &o.color, "colour of the painted mask: a name, #rrggbb or R,G,B", "COLOR"},
    {OPT_DOUBLE, "alpha", &o.alpha, "opacity of the painted mask", "SHARE"},
    {OPT_DOUBLE, "outline", &o.outline,
     "width of a line along the mask's border, in pixels at 512 (the original has 4)", "PIXELS"},
    {OPT_HEADING, "Run"},
    {OPT_INT, "batch", &o.batch, "pictures per run of the VAE", "N", .low = 1, .high = 4096},
    {OPT_INT, "bootstrap", &o.resamples, "resamples for the 95% intervals (over samples)", "N", .high = 1e6},
    {OPT_LONG, "seed", &o.seed, "seed of the choice of samples, their crops and shifts", "N"},
    OPTIONS_END};

static const OptionsHelp help = {
    .about = "Encodes masks of known IoU, bare and painted on the picture, and compares their latents.",
    .usage = "--model DIR --data DIR [--out DIR]",
    .example = "--model demo/vae/model --data demo/data --out latents"};
static void parse(int argc, char **argv) { options_parse(argc, argv, table, &help, 0); }

static int resolution_of(const Pipeline *p) {
    const VAEConfig *vae = &p->vae_encoder.config;
    int resolution = o.resolution ? o.resolution : pipeline_resolution(o.model, vae);
    if (resolution % vae_factor(vae)) {
        die("--resolution %d: expected a multiple of %d, the VAE's pixels per latent cell", resolution,
            vae_factor(vae));
    }
    return resolution;
}

// What is painted is found again by comparison with the picture, a bare mask by its brightness.
static void choose_rules(LatentAnalysis *a) {
    a->rules[REPRESENTED_OVERLAY] = mask_rule_default(MASK_COMPARE);
    for (int i = 0; i < 3; i++) { a->rules[REPRESENTED_OVERLAY].color[i] = a->paint.color[i] / 255.0f; }
    a->rules[REPRESENTED_OVERLAY].alpha = a->paint.alpha;
    a->rules[REPRESENTED_MASK] = mask_rule_default(MASK_LUMINANCE);
}

int analyze_latents(int argc, char **argv, const char *command) {
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
        die("%s: %d of %d pictures gave a sample, at least 2 are needed (see --classes and --min-side)", coco.path,
            count, coco.picture_count);
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
