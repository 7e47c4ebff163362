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
    {OPT_STRING, "out", &o.out, "prefix of the files: the pictures PREFIX-0.png, ... and all of them in PREFIX.png",
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
    SCHEDULE_OPTIONS(o.schedule),
    {OPT_INT, "resolution", &o.resolution, "side of the pictures (0: the model's)", "PIXELS", .high = 4096},
    {OPT_INT, "count", &o.count, "pictures to draw", "N", .low = 1, .high = 10000},
    {OPT_INT, "batch", &o.batch, "pictures drawn at once", "N", .low = 1, .high = 1024},
    {OPT_LONG, "seed", &o.seed, "seed of the initial noise; picture i depends only on seed and i", "N"},
    OPTIONS_END};

static const OptionsHelp help = {.about = "Draws pictures from a text. A Stable Diffusion directory is a model too.",
                                 .usage = "--model DIR --text TEXT [--out PREFIX]",
                                 .example =
                                     "--model stable-diffusion-2 --text \"an elephant in the desert\" --out elephant"};

// One picture's latents in PyTorch's order, to `planes` (L, h, w).
static void to_planes(const Sampler *s, const float *latent, float *planes) {
    size_t cells = (size_t)s->h * s->w;
    for (size_t i = 0; i < cells; i++) {
        for (int c = 0; c < s->L; c++) { planes[(size_t)c * cells + i] = latent[i * (size_t)s->L + (size_t)c]; }
    }
}

static void dump_noise(Sampler *s, Device *dev) {
    size_t n = (size_t)(s->h * s->w * s->L);
    float *noise = xmalloc(n * sizeof *noise), *planes = xmalloc((size_t)o.count * n * sizeof *planes);
    for (int i = 0; i < o.count; i++) {
        sampler_noise(s, noise, (uint64_t)i, (uint64_t)o.seed, dev);
        to_planes(s, noise, planes + (size_t)i * n);
    }
    atomic_write(o.noise, planes, (size_t)o.count * n * sizeof *planes);
    free(noise);
    free(planes);
}

// Embeddings (1 + batch, T, C) on the device: the negative text's, then the text's for each picture of a batch.
static floatX *embed(Pipeline *p, int batch, Device *dev) {
    const char **texts = xmalloc((size_t)(batch + 1) * sizeof *texts);
    texts[0] = o.negative ? o.negative : "";
    for (int i = 1; i <= batch; i++) { texts[i] = o.text; }
    floatX *context = context_table(p, texts, batch + 1, dev);
    free(texts);
    return context;
}

// Draws pictures first .. first + rows - 1 of the text: `images` (rows), and their latents as planes (rows, L, h, w).
static void draw_batch(Sampler *s, const floatX *context, int first, int rows, Image *images, float *planes,
                       Device *dev) {
    int H = s->h * s->f, W = s->w * s->f;
    size_t n = (size_t)(s->h * s->w * s->L), size = (size_t)(H * W * 3);
    float *latents = xmalloc((size_t)rows * n * sizeof *latents);
    float *pictures = xmalloc((size_t)rows * size * sizeof *pictures);
    uint64_t *ids = xmalloc((size_t)rows * sizeof *ids);
    for (int i = 0; i < rows; i++) { ids[i] = (uint64_t)(first + i); }
    sampler_run(s, NULL, context, ids, rows, o.steps, 0, (uint64_t)o.seed, dev);
    device_copy(dev, latents, s->latent, (size_t)rows * n * sizeof *latents, false);
    device_sync(dev);
    sampler_decode(s, pictures, rows, dev);
    sampler_want_finite(s, "picture %d", first + s->broken);
    for (size_t i = 0; i < (size_t)rows * size; i++) { pictures[i] = 2 * pictures[i] - 1; }
    for (int i = 0; i < rows; i++) {
        images[i] = image_from_floats(pictures + (size_t)i * size, W, H, 3);
        to_planes(s, latents + (size_t)i * n, planes + (size_t)i * n);
    }
    free(latents), free(pictures), free(ids);
}

// Draws all pictures to `images` (count).
static void draw(Pipeline *p, int batch, int cells, Image *images, Device *dev) {
    Sampler s = sampler_create_text(p, batch, cells, cells, o.guidance, dev);
    size_t n = (size_t)(cells * cells * s.L), row = (size_t)s.T * (size_t)p->clip.config.hidden_size;
    float *planes = xmalloc((size_t)o.count * n * sizeof *planes);
    floatX *context = embed(p, batch, dev);
    if (o.guidance > 1) { sampler_negative(&s, context, dev); }
    if (o.noise) { dump_noise(&s, dev); }
    Progress progress = progress_begin("generate", "steps", (long long)((o.count + batch - 1) / batch) * o.steps, 0);
    s.progress = &progress;
    for (int first = 0; first < o.count; first += batch) {
        int rows = o.count - first < batch ? o.count - first : batch;
        draw_batch(&s, context + row, first, rows, images + first, planes + (size_t)first * n, dev);
    }
    progress_end(&progress, s.steps_done);
    if (o.latents) { atomic_write(o.latents, planes, (size_t)o.count * n * sizeof *planes); }
    free(planes);
    device_free(dev, context);
    sampler_destroy(&s, dev);
}

// PREFIX.png shows all pictures in a grid, about as wide as high.
static void save(const Image *images) {
    int columns = (int)ceil(sqrt(o.count)), rows = (o.count + columns - 1) / columns;
    Cell *cells = xcalloc((size_t)(rows * columns), sizeof *cells);
    for (int i = 0; i < o.count; i++) {
        image_save(&images[i], path_of("%s-%d.png", o.out, i).text);
        cells[i].image = &images[i];
    }
    Image sheet = draw_sheet(NULL, cells, rows, columns, images->width < 128 ? 128 : images->width);
    image_save(&sheet, path_of("%s.png", o.out).text);
    image_free(&sheet);
    free(cells);
}

// Before the work begins, which may take minutes.
static void check_options(void) {
    if (o.negative && *o.negative && o.guidance <= 1) { die("--negative-text: needs --guidance above 1"); }
    want_folder_of("--out", o.out);
    if (o.noise) { want_folder_of("--dump-noise", o.noise); }
    if (o.latents) { want_folder_of("--dump-latents", o.latents); }
}

static void check_memory(Pipeline *p, int batch, int cells, int side, Device *dev) {
    size_t free_bytes, total, needed = sampler_text_bytes(p, batch, cells, cells, o.guidance, dev);
    device_memory(dev, &free_bytes, &total);
    char a[24], b[24];
    if (needed > free_bytes) {
        die("--batch %d at %d pixels needs %s besides the weights, but %s has %s free: expected a smaller --batch or "
            "--resolution",
            batch, side, format_bytes((double)needed, a), device_name(dev), format_bytes((double)free_bytes, b));
    }
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
    int f = vae_factor(&p.vae_decoder.config);
    int side = o.resolution ? o.resolution : pipeline_resolution(o.model, &p.vae_decoder.config);
    if (side % f != 0) { die("--resolution %d: expected a multiple of %d, the VAE's factor", side, f); }
    double started = now_seconds();
    Image *images = xcalloc((size_t)o.count, sizeof *images);
    int batch = o.batch < o.count ? o.batch : o.count;
    sampler_want_memory(sampler_text_bytes(&p, batch, side / f, side / f, o.guidance, &dev), batch, side, &dev);
    draw(&p, batch, side / f, &dev);
    printf("\"%s\": %d picture%s of %d pixels (%.2f s); wrote %s and %s%s\n", o.text, o.count, o.count > 1 ? "s" : "",
           side, now_seconds() - started, sheet_path().text, picture_path(0).text, o.count > 1 ? ", ..." : "");
    pipeline_close(&p, &dev);
    device_close(&dev);
    return 0;
}
