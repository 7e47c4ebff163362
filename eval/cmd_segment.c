// cocogold segment: one picture, one text, one mask.
#include "eval/frame.h"
#include "eval/gallery.h"
#include "eval/settings.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include "util/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
    AnswerOptions answer;
    MaskOptions mask;
    char *image, *text, *out, *fit, *noise;
    int resolution, aspect; // aspect: --fit aspect
    long long seed;
} o = {.out = "segment", .fit = "pad", .answer = ANSWER_OPTIONS_DEFAULT, .mask = MASK_OPTIONS_DEFAULT};

static const char *const fits[] = {"pad", "aspect", NULL};
static Option table[] = {
    {OPT_HEADING, "Input and output"},
    MODEL_OPTIONS(o.answer),
    {OPT_STRING, "image", &o.image, "picture of any size (JPEG, PNG, ...)", "FILE", .required = "a picture"},
    {OPT_STRING, "text", &o.text, "what to find, e.g. \"elephant\"", "TEXT"},
    {OPT_STRING, "out", &o.out, "prefix of the files PREFIX-mask.png, PREFIX-prediction.png and PREFIX-overlay.png",
     "PREFIX"},
    {OPT_STRING, "dump-noise", &o.noise,
     "also write the initial noise as float32 (channels, height, width), to compare with other programs", "FILE"},
    {OPT_HEADING, "Sampling"},
    STEPS_OPTION(o.answer),
    SCHEDULE_OPTIONS(o.answer.schedule),
    ENSEMBLE_OPTION(o.answer),
    {OPT_INT, "resolution", &o.resolution, "longer side of the model's input (0: the training side)", "PIXELS",
     .high = 4096},
    {OPT_STRING, "fit", &o.fit, "pad the picture to a square, as eval does, or keep its aspect ratio", "KIND",
     .choices = fits, .choice = &o.aspect},
    {OPT_LONG, "seed", &o.seed, "seed of the initial noise", "N"},
    MASK_OPTIONS(o.mask),
    OPTIONS_END};

static const OptionsHelp help = {.about = "Finds what the text names in a picture and writes the mask.",
                                 .usage = "--model DIR --image FILE --text TEXT [--out PREFIX]",
                                 .example = "--model run/model --image elephant.jpg --text elephant"};

static void parse(int argc, char **argv) {
    options_parse(argc, argv, table, &help, 0);
    options_require(o.text && strspn(o.text, " \t\n") < strlen(o.text) ? o.text : NULL, "--text",
                    "the name of what to find");
    want_folder_of("--out", o.out);
}

static Frame choose_frame(const Image *rgb, const ModelSettings *settings, const Pipeline *p, bool pad) {
    int f = vae_factor(&p->vae_decoder.config);
    int side = o.resolution ? o.resolution : settings->resolution;
    if (!side) { side = p->unet.config.sample_size * f; }
    if (side % f != 0) { die("--resolution %d: expected a multiple of %d, the VAE's factor", side, f); }
    // Use whole cells of the UNet's coarsest level, unless they are too large for the picture.
    int multiple = f << (p->unet.config.levels - 1);
    return pad ? frame_pad(rgb->width, rgb->height, side)
               : frame_aspect(rgb->width, rgb->height, side, multiple <= side / 4 ? multiple : f);
}

// PyTorch's order, so that a diffusers loop can start from it.
static void dump_noise(Sampler *s, Device *dev) {
    size_t cells = (size_t)s->h * s->w, count = cells * s->L;
    float *noise = xmalloc(count * sizeof *noise), *planes = xmalloc(count * sizeof *planes);
    sampler_noise(s, noise, 0, (uint64_t)o.seed, dev);
    for (size_t i = 0; i < cells; i++) {
        for (int c = 0; c < s->L; c++) { planes[c * cells + i] = noise[i * s->L + c]; }
    }
    atomic_write(o.noise, planes, count * sizeof *planes);
    free(noise);
    free(planes);
}

typedef struct {
    float *input, *prediction; // (H, W, 3) in [0, 1]: after the VAE; what the model drew
} Pictures;

static Pictures run(Pipeline *p, const ModelSettings *settings, const Frame *frame, const Image *rgb, Device *dev) {
    int f = vae_factor(&p->vae_decoder.config);
    Sampler s = sampler_create(p, 1, frame->H / f, frame->W / f, dev);
    size_t count = (size_t)frame->H * frame->W * 3 * sizeof(float);
    Pictures pictures = {xmalloc(count), xmalloc(count)};
    float *pixels = xmalloc(count), *latent = xmalloc((size_t)s.h * s.w * s.L * sizeof *latent);
    frame_picture(frame, rgb, pixels);
    sampler_encode(&s, latent, pixels, 1, dev);
    sampler_decode_latents(&s, pictures.input, latent, 1, dev);
    sampler_want_finite(&s, "the picture itself");
    char *prompt = settings_text(settings, o.text);
    floatX *context = context_table(p, (const char *const[]){prompt}, 1, dev);
    if (o.noise) { dump_noise(&s, dev); }
    sampler_ensemble(&s, pictures.prediction, latent, context, (const uint64_t[]){0}, 1,
                     o.answer.steps ? o.answer.steps : settings->steps, o.answer.ensemble, (uint64_t)o.seed, dev);
    sampler_want_finite(&s, "\"%s\"", o.text);
    device_free(dev, context);
    sampler_destroy(&s, dev);
    free(pixels);
    free(latent);
    free(prompt);
    return pictures;
}

static void save(const Image *image, const char *what) {
    char *path = xprintf("%s-%s.png", o.out, what);
    image_save(image, path);
    free(path);
}

// Writes the three pictures; returns the share of the picture that is mask.
static double write_pictures(const Image *rgb, const Frame *frame, const Pictures *pictures, const MaskRule *rule) {
    size_t pixels = (size_t)rgb->width * rgb->height;
    uint8_t *model_mask = xmalloc((size_t)frame->H * frame->W), *mask = xmalloc(pixels);
    mask_extract(model_mask, pictures->prediction, pictures->input, frame->H, frame->W, rule);
    frame_restore_mask(frame, model_mask, mask);
    double marked = 0;
    for (size_t i = 0; i < pixels; i++) { marked += mask[i]; }
    Image grey = mask_image(mask, rgb->width, rgb->height);
    Image prediction = frame_restore_picture(frame, pictures->prediction);
    Image overlay = outcome_picture(rgb, mask, NULL, NULL);
    save(&grey, "mask");
    save(&prediction, "prediction");
    save(&overlay, "overlay");
    image_free(&grey);
    image_free(&prediction);
    image_free(&overlay);
    free(model_mask);
    free(mask);
    return marked / (double)pixels;
}

int cmd_segment(int argc, char **argv) {
    parse(argc, argv);
    ModelSettings settings;
    settings_read(&settings, o.answer.model);
    if (o.noise) { want_output("--dump-noise", o.noise); }
    Image rgb = image_load(o.image, 3);
    image_upright(&rgb); // as people see it
    Device dev;
    device_open(&dev, 0);
    int parts = PART_UNET | PART_VAE_ENCODER | PART_VAE_DECODER | PART_TEXT | PART_SCHEDULE;
    Pipeline p = pipeline_open(o.answer.model, parts | (o.answer.ema ? PART_UNET_EMA : 0), 0, &dev);
    if (schedule_changes(&o.answer.schedule)) { schedule_change(&p.schedule, &o.answer.schedule); }
    schedule_warn_steps(&p.schedule, o.answer.steps ? o.answer.steps : settings.steps);
    tokenizer_warn_length(p.tokenizer, "--text", o.text);
    MaskRule rule = settings_rule(&settings, o.answer.model, &o.mask);
    Frame frame = choose_frame(&rgb, &settings, &p, !o.aspect);
    double started = now_seconds();
    Pictures pictures = run(&p, &settings, &frame, &rgb, &dev);
    double share = write_pictures(&rgb, &frame, &pictures, &rule);
    char *text = text_shown(o.text);
    printf("\"%s\" covers %.1f%% of %s (%.2f s); wrote %s-mask.png, -prediction.png, -overlay.png\n", text, 100 * share,
           o.image, now_seconds() - started, o.out);
    free(text);
    free(pictures.input);
    free(pictures.prediction);
    image_free(&rgb);
    settings_free(&settings);
    pipeline_close(&p, &dev);
    device_close(&dev);
    return 0;
}
