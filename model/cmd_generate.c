// cocogold generate: pictures from a text, by a text-to-image model such as Stable Diffusion.
#include "data/draw.h"
#include "data/paint.h"
#include "kernels/runtime/launch.h"
#include "model/contexts.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *model, *text, *negative, *out, *noise, *latents;
    double guidance;
    int steps, count, batch, resolution, ema;
    long long seed;
    ScheduleChange schedule;
} Options;

static Path picture_path(const Options *o, int i) { return prefixed(o->out, path_of("%d.png", i).text); }
static Path sheet_path(const Options *o) {
    return is_folder_name(o->out) ? prefixed(o->out, "all.png") : path_of("%s.png", o->out);
}

// Before the work begins, which may take minutes.
static void check(const Options *o) {
    if (o->negative && *o->negative && o->guidance <= 1) { die("--negative-text: needs --guidance above 1"); }
    want_prefix("--out", o->out);
    want_output("--out", sheet_path(o).text);
    want_output("--out", picture_path(o, 0).text);
    if (o->noise) { want_output("--dump-noise", o->noise); }
    if (o->latents) { want_output("--dump-latents", o->latents); }
}

static Options parse_options(int argc, char **argv) {
    Options o = {
        .out = "generated", .guidance = 7.5, .steps = 50, .count = 4, .batch = 4, .schedule = SCHEDULE_AS_MODEL};
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        {OPT_STRING, "model", &o.model, "pipeline directory", "DIR", .required = "a pipeline directory"},
        {OPT_FLAG, "ema", &o.ema, "use the averaged weights of unet_ema/"},
        {OPT_STRING, "text", &o.text, "what to draw, e.g. \"a red circle\"", "TEXT", .required = "what to draw"},
        {OPT_STRING, "negative-text", &o.negative, "what guidance leads away from (default: the empty text)", "TEXT"},
        {OPT_STRING, "out", &o.out,
         "prefix of the files: the pictures PREFIX-0.png, ... and all of them in PREFIX.png; one that ends with / is a "
         "folder with 0.png, ... and all.png",
         "PREFIX"},
        {OPT_STRING, "dump-noise", &o.noise,
         "also write the initial noise as float32 (count, channels, height, width), to compare with other programs",
         "FILE"},
        {OPT_STRING, "dump-latents", &o.latents, "also write the final latents, likewise", "FILE"},
        {OPT_HEADING, "Sampling"},
        {OPT_DOUBLE, "guidance", &o.guidance,
         "factor of classifier-free guidance: how far to go from the negative text's prediction towards the text's (up "
         "to 1: none)",
         "X", .low = 0, .high = 1000},
        {OPT_INT, "steps", &o.steps, "DDIM steps", "N", .low = 1, .high = 1000},
        SCHEDULE_ROWS(o.schedule),
        {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: the model's)", "PIXELS",
         .high = MOST_RESOLUTION},
        {OPT_INT, "count", &o.count, "pictures to draw", "N", .low = 1, .high = 10000},
        {OPT_INT, "batch", &o.batch, "pictures drawn at once", "N", .low = 1, .high = 1024},
        {OPT_LONG, "seed", &o.seed, "seed of the initial noise; picture i depends only on seed and i", "N"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Draws pictures from a text. A Stable Diffusion directory is a model too.",
        .usage = "--model DIR --text TEXT [--out PREFIX]",
        .example = "--model stable-diffusion-2 --text \"an elephant in the desert\" --out elephant"};
    options_parse(argc, argv, table, &help, 0);
    check(&o);
    return o;
}

// Pictures that are being drawn.
typedef struct {
    Options o;
    Device dev;
    Pipeline pipeline;
    Sampler sampler;
    int batch;
    floatX *context; // (batch, T, C) on the device: the text's embeddings, once for each picture of a batch
    float *latents;  // (count, h, w, L)
    Image *images;   // (count)
} Drawing;

static size_t latent_count(const Drawing *d) { return (size_t)(d->sampler.h * d->sampler.w * d->sampler.L); }

// Writes latents (count, h, w, L) in PyTorch's order: (count, L, h, w).
static void write_planes(const Drawing *d, const char *path, const float *latents) {
    size_t L = (size_t)d->sampler.L, n = (size_t)d->o.count, count = n * latent_count(d);
    float *planes = xmalloc(count * sizeof *planes);
    transpose_inner(planes, latents, n, latent_count(d) / L, L);
    atomic_write(path, planes, count * sizeof *planes);
    free(planes);
}

static void dump_noise(Drawing *d) {
    size_t n = latent_count(d);
    float *noise = xmalloc((size_t)d->o.count * n * sizeof *noise);
    for (int i = 0; i < d->o.count; i++) {
        sampler_noise(&d->sampler, noise + (size_t)i * n, (uint64_t)i, (uint64_t)d->o.seed, &d->dev);
    }
    write_planes(d, d->o.noise, noise);
    free(noise);
}

// Fills d->context. The negative text's embeddings go to the sampler.
static void embed(Drawing *d) {
    Pipeline *p = &d->pipeline;
    Device *dev = &d->dev;
    size_t row = (size_t)d->sampler.T * (size_t)p->clip.config.hidden_size;
    floatX *both = context_table(p, (const char *[]){d->o.negative ? d->o.negative : "", d->o.text}, 2, dev);
    d->context = device_alloc(dev, (size_t)d->batch * row * sizeof *d->context);
    if (d->o.guidance > 1) { sampler_negative(&d->sampler, both, dev); }
    for (int i = 0; i < d->batch; i++) {
        device_copy(dev, d->context + (size_t)i * row, both + row, row * sizeof *both, false);
    }
    device_sync(dev);
    device_free(dev, both);
    pipeline_release(p, PART_TEXT, dev); // 1.4 GB with SD2
}

// Draws pictures first .. first + rows - 1.
static void draw_batch(Drawing *d, int first, int rows) {
    Sampler *s = &d->sampler;
    int H = s->h * s->f, W = s->w * s->f;
    size_t n = latent_count(d), size = (size_t)(H * W * 3);
    float *pictures = xmalloc((size_t)rows * size * sizeof *pictures), *latents = d->latents + (size_t)first * n;
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    sampler_run(s, NULL, d->context, ids, rows, d->o.steps, 0, (uint64_t)d->o.seed, &d->dev);
    device_copy(&d->dev, latents, s->latent, (size_t)rows * n * sizeof *latents, false);
    device_sync(&d->dev);
    sampler_decode(s, pictures, rows, &d->dev);
    sampler_want_finite(s, "picture %d", first + s->broken);
    for (int i = 0; i < rows; i++) { d->images[first + i] = float_image(pictures + (size_t)i * size, W, H); }
    free(pictures), free(ids);
}

static void draw_all(Drawing *d) {
    int count = d->o.count;
    SamplerWork work = sampler_work(&d->sampler);
    Progress progress = progress_work("generate", count * (d->o.steps * work.step + work.decode));
    d->dev.progress = &progress;
    for (int first = 0; first < count; first += d->batch) {
        draw_batch(d, first, count - first < d->batch ? count - first : d->batch);
    }
    d->dev.progress = NULL;
    progress_end(&progress, progress.done);
}

// Each picture, and all of them in a grid that is about as wide as high.
static void save(const Drawing *d) {
    const Options *o = &d->o;
    int columns = (int)ceil(sqrt(o->count)), rows = (o->count + columns - 1) / columns;
    Cell *cells = xcalloc((size_t)(rows * columns), sizeof *cells);
    for (int i = 0; i < o->count; i++) {
        image_save(&d->images[i], picture_path(o, i).text);
        cells[i].image = &d->images[i];
    }
    Image sheet = draw_sheet(NULL, cells, rows, columns, d->images->width < 128 ? 128 : d->images->width);
    image_save(&sheet, sheet_path(o).text);
    image_free(&sheet);
    free(cells);
    if (o->latents) { write_planes(d, o->latents, d->latents); }
}

// The model, and memory for pictures. Returns their side.
static int drawing_open(Drawing *d) {
    const Options *o = &d->o;
    Device *dev = &d->dev;
    Pipeline *p = &d->pipeline;
    device_open(dev, 0);
    *p = pipeline_open_sampling(o->model, PART_VAE_DECODER | PART_TEXT, o->ema, &o->schedule, o->steps, dev);
    tokenizer_warn_length(p->tokenizer, "--text", o->text);
    if (o->negative) { tokenizer_warn_length(p->tokenizer, "--negative-text", o->negative); }
    int side = pipeline_resolution(p, o->resolution), cells = side / vae_factor(&p->vae_decoder.config);
    d->batch = o->batch < o->count ? o->batch : o->count;
    sampler_want_memory(sampler_text_bytes(p, d->batch, cells, cells, o->guidance, dev), d->batch, side, dev);
    d->sampler = sampler_create_text(p, d->batch, cells, cells, o->guidance, dev);
    d->images = xcalloc((size_t)o->count, sizeof *d->images);
    d->latents = xmalloc((size_t)o->count * latent_count(d) * sizeof *d->latents);
    return side;
}

static void drawing_close(Drawing *d) {
    for (int i = 0; i < d->o.count; i++) { image_free(&d->images[i]); }
    free(d->images);
    free(d->latents);
    device_free(&d->dev, d->context);
    sampler_destroy(&d->sampler, &d->dev);
    pipeline_close(&d->pipeline, &d->dev);
    device_close(&d->dev);
}

int cmd_generate(int argc, char **argv) {
    Drawing d = {.o = parse_options(argc, argv)};
    const Options *o = &d.o;
    launch_want_alone("generate");
    int side = drawing_open(&d);
    double started = now_seconds();
    embed(&d);
    if (o->noise) { dump_noise(&d); }
    draw_all(&d);
    save(&d);
    printf("\"%s\": %d picture%s of %d pixels (%.2f s); wrote %s and %s%s\n", o->text, o->count,
           o->count > 1 ? "s" : "", side, now_seconds() - started, sheet_path(o).text, picture_path(o, 0).text,
           o->count > 1 ? ", ..." : "");
    drawing_close(&d);
    return 0;
}
