// cocogold generate: pictures from a text, by a text-to-image model such as Stable Diffusion.
#include "data/draw.h"
#include "data/paint.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    char *model, *text, *negative, *out, *noise, *latents;
    double guidance;
    int steps, count, batch, resolution, ema;
    long long seed;
    ScheduleChange schedule;
} o = {.out = "generated", .guidance = 7.5, .steps = 50, .count = 4, .batch = 4, .schedule = SCHEDULE_AS_MODEL};

static Option table[] = {
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
     "factor of classifier-free guidance: how far to go from the negative text's prediction towards the text's (up to "
     "1: none)",
     "X", .low = 0, .high = 1000},
    {OPT_INT, "steps", &o.steps, "DDIM steps", "N", .low = 1, .high = 1000},
    SCHEDULE_ROWS(o.schedule),
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: the model's)", "PIXELS", .high = MOST_RESOLUTION},
    {OPT_INT, "count", &o.count, "pictures to draw", "N", .low = 1, .high = 10000},
    {OPT_INT, "batch", &o.batch, "pictures drawn at once", "N", .low = 1, .high = 1024},
    {OPT_LONG, "seed", &o.seed, "seed of the initial noise; picture i depends only on seed and i", "N"},
    OPTIONS_END};

static const OptionsHelp help = {.about = "Draws pictures from a text. A Stable Diffusion directory is a model too.",
                                 .usage = "--model DIR --text TEXT [--out PREFIX]",
                                 .example =
                                     "--model stable-diffusion-2 --text \"an elephant in the desert\" --out elephant"};

static Path picture_path(int i) { return prefixed(o.out, path_of("%d.png", i).text); }
static Path sheet_path(void) { return is_folder_name(o.out) ? prefixed(o.out, "all.png") : path_of("%s.png", o.out); }

// Writes latents (count, h, w, L) in PyTorch's order: (count, L, h, w).
static void write_planes(const char *path, const Sampler *s, const float *latents) {
    size_t cells = (size_t)(s->h * s->w), L = (size_t)s->L, count = (size_t)o.count * cells * L;
    float *planes = xmalloc(count * sizeof *planes);
    transpose_inner(planes, latents, (size_t)o.count, cells, L);
    atomic_write(path, planes, count * sizeof *planes);
    free(planes);
}

static void dump_noise(Sampler *s, Device *dev) {
    size_t n = (size_t)(s->h * s->w * s->L);
    float *noise = xmalloc((size_t)o.count * n * sizeof *noise);
    for (int i = 0; i < o.count; i++) { sampler_noise(s, noise + (size_t)i * n, (uint64_t)i, (uint64_t)o.seed, dev); }
    write_planes(o.noise, s, noise);
    free(noise);
}

// The text's embeddings, once for each picture of a batch (batch, T, C), on the device. The negative text's go to the
// sampler.
static floatX *embed(Sampler *s, int batch, Device *dev) {
    Pipeline *p = s->pipeline;
    size_t row = (size_t)s->T * (size_t)p->clip.config.hidden_size;
    floatX *both = context_table(p, (const char *[]){o.negative ? o.negative : "", o.text}, 2, dev);
    floatX *context = device_alloc(dev, (size_t)batch * row * sizeof *context);
    if (o.guidance > 1) { sampler_negative(s, both, dev); }
    for (int i = 0; i < batch; i++) {
        device_copy(dev, context + (size_t)i * row, both + row, row * sizeof *context, false);
    }
    device_sync(dev);
    device_free(dev, both);
    pipeline_release(p, PART_TEXT, dev); // 1.4 GB with SD2
    return context;
}

// Draws pictures first .. first + rows - 1 of the text: `images` (rows), and their latents (rows, h, w, L).
static void draw_batch(Sampler *s, const floatX *context, int first, int rows, Image *images, float *latents,
                       Device *dev) {
    int H = s->h * s->f, W = s->w * s->f;
    size_t n = (size_t)(s->h * s->w * s->L), size = (size_t)(H * W * 3);
    float *pictures = xmalloc((size_t)rows * size * sizeof *pictures);
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    sampler_run(s, NULL, context, ids, rows, o.steps, 0, (uint64_t)o.seed, dev);
    device_copy(dev, latents, s->latent, (size_t)rows * n * sizeof *latents, false);
    device_sync(dev);
    sampler_decode(s, pictures, rows, dev);
    sampler_want_finite(s, "picture %d", first + s->broken);
    for (size_t i = 0; i < (size_t)rows * size; i++) { pictures[i] = 2 * pictures[i] - 1; }
    for (int i = 0; i < rows; i++) { images[i] = image_from_floats(pictures + (size_t)i * size, W, H, 3); }
    free(pictures), free(ids);
}

// Each picture, and all of them in a grid that is about as wide as high.
static void save(const Image *images) {
    int columns = (int)ceil(sqrt(o.count)), rows = (o.count + columns - 1) / columns;
    Cell *cells = xcalloc((size_t)(rows * columns), sizeof *cells);
    for (int i = 0; i < o.count; i++) {
        image_save(&images[i], picture_path(i).text);
        cells[i].image = &images[i];
    }
    Image sheet = draw_sheet(NULL, cells, rows, columns, images->width < 128 ? 128 : images->width);
    image_save(&sheet, sheet_path().text);
    image_free(&sheet);
    free(cells);
}

// Draws and saves all pictures.
static void draw(Pipeline *p, int batch, int cells, Device *dev) {
    Sampler s = sampler_create_text(p, batch, cells, cells, o.guidance, dev);
    size_t n = (size_t)(cells * cells * s.L);
    Image *images = xcalloc((size_t)o.count, sizeof *images);
    float *latents = xmalloc((size_t)o.count * n * sizeof *latents);
    floatX *context = embed(&s, batch, dev);
    if (o.noise) { dump_noise(&s, dev); }
    Progress progress = progress_begin("generate", "steps", (long long)((o.count + batch - 1) / batch) * o.steps, 0);
    s.progress = &progress;
    for (int first = 0; first < o.count; first += batch) {
        int rows = o.count - first < batch ? o.count - first : batch;
        draw_batch(&s, context, first, rows, images + first, latents + (size_t)first * n, dev);
    }
    progress_end(&progress, s.steps_done);
    save(images);
    if (o.latents) { write_planes(o.latents, &s, latents); }
    for (int i = 0; i < o.count; i++) { image_free(&images[i]); }
    free(images);
    free(latents);
    device_free(dev, context);
    sampler_destroy(&s, dev);
}

// Before the work begins, which may take minutes.
static void check_options(void) {
    if (o.negative && *o.negative && o.guidance <= 1) { die("--negative-text: needs --guidance above 1"); }
    want_prefix("--out", o.out);
    want_output("--out", sheet_path().text);
    want_output("--out", picture_path(0).text);
    if (o.noise) { want_output("--dump-noise", o.noise); }
    if (o.latents) { want_output("--dump-latents", o.latents); }
}

int cmd_generate(int argc, char **argv) {
    options_parse(argc, argv, table, &help, 0);
    check_options();
    Device dev;
    device_open(&dev, 0);
    int parts = PART_UNET | PART_VAE_DECODER | PART_TEXT | PART_SCHEDULE;
    Pipeline p = pipeline_open(o.model, parts | (o.ema ? PART_UNET_EMA : 0), 0, &dev);
    if (schedule_changes(&o.schedule)) { schedule_change(&p.schedule, &o.schedule); }
    schedule_warn_steps(&p.schedule, o.steps);
    tokenizer_warn_length(p.tokenizer, "--text", o.text);
    if (o.negative) { tokenizer_warn_length(p.tokenizer, "--negative-text", o.negative); }
    int f = vae_factor(&p.vae_decoder.config), side = pipeline_resolution(&p, o.resolution);
    double started = now_seconds();
    int batch = o.batch < o.count ? o.batch : o.count;
    sampler_want_memory(sampler_text_bytes(&p, batch, side / f, side / f, o.guidance, &dev), batch, side, &dev);
    draw(&p, batch, side / f, &dev);
    printf("\"%s\": %d picture%s of %d pixels (%.2f s); wrote %s and %s%s\n", o.text, o.count, o.count > 1 ? "s" : "",
           side, now_seconds() - started, sheet_path().text, picture_path(0).text, o.count > 1 ? ", ..." : "");
    pipeline_close(&p, &dev);
    device_close(&dev);
    return 0;
}
