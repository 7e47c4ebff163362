// cocogold segment: masks of what texts name, in one picture or many.
#include "data/paint.h"
#include "data/texts.h"
#include "eval/coco_results.h"
#include "eval/frame.h"
#include "eval/gallery.h"
#include "eval/labels.h"
#include "eval/pictures.h"
#include "eval/settings.h"
#include "kernels/runtime/launch.h"
#include "model/contexts.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include "util/text.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Options -------------------------------------------------------------------------------------------------------

typedef struct {
    AnswerOptions answer;
    MaskOptions mask;
    char **images, **texts, *texts_from, *out, *fit, *noise, *json;
    int resolution, aspect, batch, no_pictures; // aspect: --fit aspect
    long long seed;
} Options;

static bool is_blank(const char *text) { return !text || strspn(text, " \t\n") == strlen(text); }

static void check(const Options *o) {
    bool any = o->texts_from != NULL;
    for (char **text = o->texts; text && *text; text++) {
        if (is_blank(*text)) { die("--text is missing: expected the name of what to find"); }
        any = true;
    }
    if (!any) { die("--text is missing: expected the name of what to find"); }
    if (o->no_pictures && !o->json) { die("--no-pictures: expected --json, or nothing is written"); }
    want_prefix("--out", o->out);
    if (o->json) { want_output("--json", o->json); }
    if (o->noise) { want_output("--dump-noise", o->noise); }
}

static const char *const fits[] = {"pad", "aspect", NULL};

static Options parse_options(int argc, char **argv, PictureList *pictures) {
    Options o = {
        .out = "segment", .fit = "pad", .batch = 4, .answer = ANSWER_OPTIONS_DEFAULT, .mask = MASK_OPTIONS_DEFAULT};
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        MODEL_ROWS(o.answer),
        {OPT_LIST, "image", &o.images,
         "picture (JPEG or PNG), folder of pictures, or @FILE with a path a line (may be repeated; also without "
         "--image)",
         "FILE"},
        MAX_PIXELS_ROWS,
        {OPT_LIST, "text", &o.texts, "what to find, e.g. \"elephant\" (may be repeated: a mask for each)", "TEXT"},
        {OPT_STRING, "texts-from", &o.texts_from,
         "take the texts from the model's list of classes: those it was trained on, or all; or from @FILE, one a line",
         "trained|all|@FILE"},
        {OPT_STRING, "out", &o.out,
         "prefix of the files, PREFIX-mask.png and others (docs/SEGMENT.md); with a slash at its end a folder",
         "PREFIX"},
        {OPT_STRING, "json", &o.json, "also write the masks in COCO's results format", "FILE"},
        {OPT_FLAG, "no-pictures", &o.no_pictures, "write no pictures, only --json"},
        {OPT_STRING, "dump-noise", &o.noise,
         "also write the initial noise as float32 (channels, height, width), to compare with other programs", "FILE"},
        {OPT_HEADING, "Sampling"},
        STEPS_ROWS(o.answer),
        SCHEDULE_ROWS(o.answer.schedule),
        ENSEMBLE_ROWS(o.answer),
        {OPT_INT, "resolution", &o.resolution, "longer side of the model's input (0: the training side)", "PIXELS",
         .high = MOST_RESOLUTION},
        {OPT_STRING, "fit", &o.fit, "pad the picture to a square, as eval does, or keep its aspect ratio", "KIND",
         .choices = fits, .choice = &o.aspect},
        {OPT_INT, "batch", &o.batch, "most masks drawn at once (fewer where memory is short)", "N", .low = 1,
         .high = 1024},
        {OPT_LONG, "seed", &o.seed, "seed of the initial noise", "N"},
        MASK_ROWS(o.mask),
        OPTIONS_END};
    static const OptionsHelp help = {.about = "Finds what texts name in pictures and writes the masks.",
                                     .usage =
                                         "--model DIR --text TEXT [--text TEXT ...] [--out PREFIX] PICTURE|FOLDER ...",
                                     .example = "--model run/model --image elephant.jpg --text elephant"};
    const char **more = options_parse(argc, argv, table, &help, INT_MAX);
    check(&o);
    *pictures = pictures_find("--image", (const char *const *)o.images, more);
    return o;
}

// ---- Texts ---------------------------------------------------------------------------------------------------------

static void add_listed(TextTable *texts, const Options *o, const ModelSettings *settings) {
    bool trained = strcmp(o->texts_from, "trained") == 0;
    if (o->texts_from[0] == '@') {
        text_table_add_lines(texts, o->texts_from + 1, "texts");
        return;
    }
    if (!trained && strcmp(o->texts_from, "all") != 0) {
        die("--texts-from %s: expected trained, all or @FILE", o->texts_from);
    }
    int count = trained ? settings->train_class_count : settings->all_class_count;
    char **names = trained ? settings->train_classes : settings->all_classes;
    if (!count) { die("--texts-from %s: %s/cocogold.json lists no classes", o->texts_from, o->answer.model); }
    for (int i = 0; i < count; i++) { text_table_add(texts, names[i]); }
}

static TextTable find_texts(const Options *o, const ModelSettings *settings) {
    TextTable texts = {0};
    for (char **text = o->texts; text && *text; text++) { text_table_add(&texts, *text); }
    if (o->texts_from) { add_listed(&texts, o, settings); }
    return texts;
}

// What is unusual about a text, in one line.
static void note_text(const char *text, const Tokenizer *tokenizer, const ModelSettings *settings) {
    int tokens, words;
    tokenizer_warn_length(tokenizer, "--text", text);
    tokenizer_count(tokenizer, text, &tokens, &words);
    bool pieces = words < tokens, unknown = settings->train_class_count && !settings_is_trained(settings, text);
    if (!pieces && !unknown) { return; }
    char *shown = text_shown(text), *count = xprintf("the tokenizer breaks words into pieces (%d tokens)", tokens);
    warn("\"%s\": %s%s%s", shown, pieces ? count : "", pieces && unknown ? ", and " : "",
         unknown ? "the model was not trained on a class of this name" : "");
    free(shown);
    free(count);
}

// ---- The model and its memory --------------------------------------------------------------------------------------

// A picture that is being segmented.
typedef struct {
    int number; // in the list
    Image rgb;
    Frame frame;
    LabelMap labels; // of several texts
} Subject;

typedef struct {
    Options o;
    Pipeline pipeline;
    ModelSettings settings;
    MaskRule rule;
    int side; // of the model's input in pixels, the longer one
    Device dev;
    PictureList pictures;
    int at, left_out; // pictures that were read or tried; those that cannot be read or are too large for the memory
    TextTable texts;
    Contexts contexts; // of the texts
    floatX *context;   // (largest batch, T, C) on the device
    double *shares;    // (texts) sums over pictures of the mask's share
    int *found;        // (texts) pictures with a mask
    yajl_gen results;  // NULL without --json
    CocoImage *images; // (pictures) with --json
    Progress progress;
    Image first; // a single picture, which is read before the model
    Subject held;
    bool holds; // `held` was read, but its frame has another size than those before
    // of the present frame's size
    Sampler sampler;   // B: most samples at once
    float *inputs;     // (B, H, W, 3) in [0, 1]: the pictures
    float *latents;    // (B, h, w, L) of the pictures
    float *conditions; // (B, h, w, L) the latents of a batch's samples
    float *predictions;
} Segmenter;

static int steps_of(const Segmenter *s) { return s->o.answer.steps ? s->o.answer.steps : s->settings.steps; }

static bool draws_labels(const Segmenter *s) {
    return s->texts.count > 1 && s->texts.count <= MOST_LABELS && !s->o.no_pictures;
}

// At most --batch and as many as there are.
static int largest_batch(const Segmenter *s) {
    long long masks = (long long)s->pictures.count * s->texts.count;
    return s->o.batch < masks ? s->o.batch : (int)masks;
}

static void contexts_open(Segmenter *s) {
    int batch = largest_batch(s);
    char **prompts = xcalloc((size_t)s->texts.count, sizeof *prompts);
    for (int i = 0; i < s->texts.count; i++) { prompts[i] = settings_text(&s->settings, s->texts.texts[i]); }
    s->contexts = contexts_create(&s->pipeline, (const char *const *)prompts, s->texts.count, batch, CONTEXTS_SHARE,
                                  false, &s->dev);
    s->context = device_alloc(&s->dev, (size_t)batch * s->contexts.row * sizeof *s->context);
    if (s->contexts.table) { pipeline_release(&s->pipeline, PART_TEXT, &s->dev); } // 1.4 GB with SD2
    for (int i = 0; i < s->texts.count; i++) { free(prompts[i]); }
    free(prompts);
}

static void sampler_close(Segmenter *s) {
    if (!s->sampler.B) { return; }
    sampler_destroy(&s->sampler, &s->dev);
    free(s->inputs);
    free(s->latents);
    free(s->conditions);
    free(s->predictions);
}

// Once. PyTorch's order, so that a diffusers loop can start from it.
static void dump_noise(Segmenter *s) {
    size_t cells = (size_t)(s->sampler.h * s->sampler.w), L = (size_t)s->sampler.L, count = cells * L;
    float *noise = xmalloc(count * sizeof *noise), *planes = xmalloc(count * sizeof *planes);
    sampler_noise(&s->sampler, noise, 0, (uint64_t)s->o.seed, &s->dev);
    transpose_inner(planes, noise, 1, cells, L);
    atomic_write(s->o.noise, planes, count * sizeof *planes);
    s->o.noise = NULL;
    free(noise);
    free(planes);
}

// Makes the memory for frames of this size, unless it is there. Without enough for one frame, one picture of several is
// named and left out: false.
static bool want_sampler(Segmenter *s, const Frame *frame, const char *picture) {
    int f = vae_factor(&s->pipeline.vae_decoder.config), h = frame->H / f, w = frame->W / f;
    if (s->sampler.B && s->sampler.h == h && s->sampler.w == w) { return true; }
    sampler_close(s);
    size_t B = (size_t)sampler_batch(&s->pipeline, largest_batch(s), h, w, &s->dev),
           pixels = B * (size_t)frame->H * (size_t)frame->W * 3;
    if (!B && s->pictures.several) {
        warn("%s: there is too little memory for %d x %d pixels", picture, frame->W, frame->H);
        s->left_out++;
        return false;
    }
    if (!B) { sampler_want_memory(sampler_bytes(&s->pipeline, 1, h, w, &s->dev), 1, s->side, &s->dev); }
    s->sampler = sampler_create(&s->pipeline, (int)B, h, w, &s->dev);
    size_t latents = B * (size_t)(h * w * s->sampler.L);
    s->inputs = xmalloc(pixels * sizeof *s->inputs);
    s->predictions = xmalloc(pixels * sizeof *s->predictions);
    s->latents = xmalloc(latents * sizeof *s->latents);
    s->conditions = xmalloc(latents * sizeof *s->conditions);
    if (s->o.noise) { dump_noise(s); }
    return true;
}

// ---- Pictures ------------------------------------------------------------------------------------------------------

static Frame choose_frame(const Segmenter *s, const Image *rgb) {
    return s->o.aspect ? frame_aspect(rgb->width, rgb->height, s->side, pipeline_multiple(&s->pipeline, s->side))
                       : frame_pad(rgb->width, rgb->height, s->side);
}

// Reads a picture of the list. One of several that cannot be read is named and left out: false.
static bool subject_read(Segmenter *s, Subject *subject, int number) {
    char *why = NULL;
    *subject = (Subject){.number = number, .rgb = s->first};
    if (s->pictures.several) { subject->rgb = image_try_load(s->pictures.paths[number], 3, &why); }
    if (why) {
        warn("%s", why);
        free(why);
        s->left_out++;
        return false;
    }
    image_upright(&subject->rgb); // as people see it
    subject->frame = choose_frame(s, &subject->rgb);
    if (draws_labels(s)) { subject->labels = labels_new(subject->rgb.width, subject->rgb.height); }
    return true;
}

static void subject_free(Subject *subject) {
    image_free(&subject->rgb);
    labels_free(&subject->labels);
}

// PREFIX[-PICTURE][-TEXT]-WHAT.png; subject and text may be NULL.
static Path output_path(const Segmenter *s, const Subject *subject, const char *text, const char *what) {
    char *word = text && s->texts.count > 1 ? text_file_name(text) : NULL;
    const char *picture = subject && s->pictures.several ? s->pictures.names[subject->number] : NULL;
    const char *parts[] = {picture, word, what};
    Path path = path_of("%s", s->o.out);
    for (int i = 0; i < 3; i++) {
        if (parts[i]) { path = prefixed(path.text, parts[i]); }
    }
    free(word);
    return path_of("%s.png", path.text);
}

// Whether a text is among the first `count` of a table.
static bool has_text(TextTable *table, int count, const char *text) { return text_table_add(table, text) < count; }

// Dies if two masks would have the same file, such as that of "t-shirt" in x.jpg and that of "shirt" in x-t.jpg.
static void want_distinct_files(const Segmenter *s) {
    if (!s->pictures.several || s->texts.count < 2 || s->o.no_pictures) { return; }
    int count = s->pictures.count, texts = s->texts.count;
    TextTable pictures = {0}, words = {0};
    for (int i = 0; i < count; i++) { text_table_add(&pictures, s->pictures.names[i]); }
    for (int i = 0; i < texts; i++) {
        char *word = text_file_name(s->texts.texts[i]);
        text_table_add(&words, word);
        free(word);
    }
    int known = words.count;
    for (int i = 0; i < count; i++) {
        const char *name = s->pictures.names[i];
        for (const char *dash = strchr(name, '-'); dash; dash = strchr(dash + 1, '-')) {
            Path shorter = path_of("%.*s", (int)(dash - name), name);
            for (int t = 0; has_text(&pictures, count, shorter.text) && t < known; t++) {
                Path longer = path_of("%s-%s", dash + 1, words.texts[t]);
                if (!has_text(&words, known, longer.text)) { continue; }
                die("the masks of %s in %s and of %s in %s would have the same file: expected other names, or another "
                    "--out for one of them",
                    longer.text, shorter.text, words.texts[t], name);
            }
        }
    }
    text_table_free(&pictures);
    text_table_free(&words);
}

static void want_kept(TextTable *pictures, int count, Path path) {
    Path place = file_place(path.text);
    if (!place.text[0] || !has_text(pictures, count, place.text)) { return; }
    die("%s is one of the pictures, and would be replaced: expected another --out", path.text);
}

// Dies if what would be written is one of the pictures: a folder may hold pictures named x.png and x-mask.png. Pictures
// in other folders cannot be replaced, since a file takes the place of a link, not of what that points to.
static void want_pictures_kept(const Segmenter *s) {
    static const char *const kinds[] = {"mask", "prediction", "overlay"};
    Path folder = file_place(folder_of(s->o.out).text);
    TextTable files = {0}; // the places on their devices of the pictures in this folder
    for (int i = 0; i < s->pictures.count; i++) {
        const char *path = s->pictures.paths[i];
        if (strcmp(file_place(folder_of(path).text).text, folder.text) != 0) { continue; }
        text_table_add(&files, file_place(path).text);
    }
    int known = files.count, count = !known || s->o.no_pictures ? 0 : s->pictures.several ? s->pictures.count : 1;
    for (int i = 0; i < count; i++) {
        Subject subject = {.number = i};
        if (draws_labels(s)) { want_kept(&files, known, output_path(s, &subject, NULL, "labels")); }
        for (int k = 0; k < 3 * s->texts.count; k++) {
            want_kept(&files, known, output_path(s, &subject, s->texts.texts[k / 3], kinds[k % 3]));
        }
    }
    if (count && draws_labels(s)) { want_kept(&files, known, output_path(s, NULL, NULL, "legend")); }
    text_table_free(&files);
}

static void save(Image image, Path path) {
    image_save(&image, path.text);
    image_free(&image);
}

static void write_pictures(const Segmenter *s, const Subject *subject, const char *text, const uint8_t *mask,
                           const float *prediction) {
    const Image *rgb = &subject->rgb;
    save(mask_image(mask, rgb->width, rgb->height), output_path(s, subject, text, "mask"));
    save(frame_restore_picture(&subject->frame, prediction), output_path(s, subject, text, "prediction"));
    save(outcome_picture(rgb, mask, NULL, NULL), output_path(s, subject, text, "overlay"));
}

// The certainty of each pixel (grey) and, returned, its mean over the mask, in [0, 1].
static double find_certainty(const Segmenter *s, const Subject *subject, const float *prediction, const float *input,
                             const uint8_t *mask, Image *certainty) {
    const Frame *frame = &subject->frame;
    float *values = xmalloc((size_t)frame->H * (size_t)frame->W * sizeof *values);
    mask_certainty(values, prediction, input, frame->H, frame->W, &s->rule);
    *certainty = frame_restore_values(frame, values);
    double sum = 0, count = 0;
    for (size_t i = 0; i < (size_t)frame->width * (size_t)frame->height; i++) {
        sum += mask[i] * certainty->pixels[i];
        count += mask[i];
    }
    free(values);
    return count > 0 ? sum / count / 255 : 0;
}

// From a prediction to the mask and all that is written of it.
static void finish_mask(Segmenter *s, Subject *subject, int t, const float *prediction, const float *input) {
    const Frame *frame = &subject->frame;
    size_t pixels = (size_t)frame->width * (size_t)frame->height;
    const char *text = s->texts.texts[t];
    uint8_t *model_mask = xmalloc((size_t)frame->H * frame->W), *mask = xmalloc(pixels);
    mask_extract(model_mask, prediction, input, frame->H, frame->W, &s->rule);
    frame_restore_mask(frame, model_mask, mask);
    double marked = 0;
    for (size_t i = 0; i < pixels; i++) { marked += mask[i]; }
    s->shares[t] += marked / (double)pixels;
    s->found[t] += marked > 0;
    if (!s->o.no_pictures) { write_pictures(s, subject, text, mask, prediction); }
    if (s->results || draws_labels(s)) {
        Image certainty;
        double score = find_certainty(s, subject, prediction, input, mask, &certainty);
        if (draws_labels(s)) { labels_add(&subject->labels, t + 1, mask, &certainty); }
        if (s->results && marked > 0) {
            coco_result_put(s->results, &s->images[subject->number], t + 1, text, mask, frame->width, frame->height,
                            score);
        }
        image_free(&certainty);
    }
    free(model_mask);
    free(mask);
}

// ---- Sampling ------------------------------------------------------------------------------------------------------

// Latents of n subjects, and their pictures for comparison.
static void encode(Segmenter *s, const Subject *subjects, int n) {
    size_t count = (size_t)subjects->frame.H * (size_t)subjects->frame.W * 3;
    float *pixels = xmalloc((size_t)n * count * sizeof *pixels);
    for (int i = 0; i < n; i++) { frame_picture(&subjects[i].frame, &subjects[i].rgb, pixels + (size_t)i * count); }
    sampler_encode(&s->sampler, s->latents, pixels, n, &s->dev);
    frame_unit(s->inputs, pixels, (size_t)n * count);
    free(pixels);
}

// The masks of n subjects with frames of one size, for all texts: sample k is of subject k / texts and text k % texts.
// All start from the same noise, so that a mask does not depend on what else is asked.
static void segment(Segmenter *s, Subject *subjects, int n) {
    encode(s, subjects, n);
    int texts = s->texts.count, B = s->sampler.B, *index = xcalloc((size_t)B, sizeof *index);
    uint64_t *ids = xcalloc((size_t)B, sizeof *ids);
    size_t latent = (size_t)(s->sampler.h * s->sampler.w * s->sampler.L);
    size_t count = (size_t)subjects->frame.H * (size_t)subjects->frame.W * 3;
    for (int first = 0; first < n * texts; first += B) {
        int m = n * texts - first < B ? n * texts - first : B;
        for (int i = 0; i < m; i++) {
            index[i] = (first + i) % texts;
            memcpy(s->conditions + (size_t)i * latent, s->latents + (size_t)((first + i) / texts) * latent,
                   latent * sizeof *s->latents);
        }
        contexts_gather(&s->contexts, s->context, index, m, &s->dev);
        sampler_ensemble(&s->sampler, s->predictions, s->conditions, s->context, ids, m, steps_of(s),
                         s->o.answer.ensemble, (uint64_t)s->o.seed, &s->dev);
        int broken = s->sampler.broken < 0 ? 0 : s->sampler.broken;
        sampler_want_finite(&s->sampler, "\"%s\"", s->texts.texts[index[broken]]);
        for (int i = 0; i < m; i++) {
            int k = (first + i) / texts;
            finish_mask(s, &subjects[k], index[i], s->predictions + (size_t)i * count, s->inputs + (size_t)k * count);
        }
    }
    free(index);
    free(ids);
}

// The work that is left, if the pictures to come have frames of this size.
static void expect_work(Segmenter *s, int left) {
    SamplerWork w = sampler_work(&s->sampler);
    int steps = steps_of(s);
    long long masks = (long long)left * s->texts.count * s->o.answer.ensemble;
    s->progress.total = s->progress.done + masks * (steps * w.step + w.decode) + left * w.encode;
}

// Reads the next picture that can be read; false: there is none.
static bool subject_next(Segmenter *s, Subject *subject) {
    if (s->holds) {
        *subject = s->held;
        s->holds = false;
        return true;
    }
    while (s->at < s->pictures.count) {
        if (subject_read(s, subject, s->at++)) { return true; }
    }
    return false;
}

// Reads the next pictures with frames of one size, at most a batch. Returns their number.
static int read_group(Segmenter *s, Subject *subjects) {
    int n = 0;
    while (n == 0 || n < s->sampler.B) {
        Subject *next = &subjects[n];
        if (!subject_next(s, next)) { break; }
        s->holds = n > 0 && (next->frame.W != subjects->frame.W || next->frame.H != subjects->frame.H);
        if (s->holds) {
            s->held = *next;
            break;
        }
        if (n > 0 || want_sampler(s, &next->frame, s->pictures.paths[next->number])) {
            n++;
        } else {
            subject_free(next);
        }
    }
    return n;
}

static void segment_all(Segmenter *s) {
    Subject *subjects = xcalloc((size_t)s->o.batch, sizeof *subjects);
    s->progress = progress_work("segment", 0);
    for (int n; (n = read_group(s, subjects)) > 0;) {
        expect_work(s, n + s->holds + s->pictures.count - s->at);
        s->dev.progress = &s->progress;
        segment(s, subjects, n);
        s->dev.progress = NULL;
        for (int i = 0; i < n; i++) {
            if (draws_labels(s)) {
                labels_save(&subjects[i].labels, s->texts.count, output_path(s, &subjects[i], NULL, "labels").text);
            }
            subject_free(&subjects[i]);
        }
    }
    progress_end(&s->progress, s->progress.done);
    free(subjects);
}

// ---- Command -------------------------------------------------------------------------------------------------------

static void segmenter_open(Segmenter *s) {
    const Options *o = &s->o;
    int parts = PART_VAE_ENCODER | PART_VAE_DECODER | PART_TEXT;
    s->pipeline =
        pipeline_open_sampling(o->answer.model, parts, o->answer.ema, &o->answer.schedule, steps_of(s), &s->dev);
    s->rule = settings_rule(&s->settings, o->answer.model, &o->mask, COMPARED_PICTURE);
    s->side = pipeline_resolution(&s->pipeline, o->resolution ? o->resolution : s->settings.resolution);
    for (int i = 0; i < s->texts.count; i++) { note_text(s->texts.texts[i], s->pipeline.tokenizer, &s->settings); }
    if (s->texts.count > MOST_LABELS && !o->no_pictures) {
        warn("%d texts: no label maps, which have at most %d", s->texts.count, MOST_LABELS);
    }
    contexts_open(s);
    s->shares = xcalloc((size_t)s->texts.count, sizeof *s->shares);
    s->found = xcalloc((size_t)s->texts.count, sizeof *s->found);
    if (!o->json) { return; }
    s->images = coco_images(s->pictures.paths, s->pictures.count);
    s->results = json_writer();
    yajl_gen_array_open(s->results);
}

static void segmenter_close(Segmenter *s) {
    sampler_close(s);
    contexts_destroy(&s->contexts, &s->dev);
    device_free(&s->dev, s->context);
    pipeline_close(&s->pipeline, &s->dev);
    device_close(&s->dev);
    settings_free(&s->settings);
    text_table_free(&s->texts);
    if (s->images) { coco_images_free(s->images, s->pictures.count); }
    pictures_free(&s->pictures);
    free(s->shares);
    free(s->found);
}

static void report_one(const Segmenter *s, double seconds) {
    char *text = text_shown(s->texts.texts[0]);
    printf("\"%s\" covers %.1f%% of %s (%.2f s)", text, 100 * s->shares[0], s->pictures.paths[0], seconds);
    if (!s->o.no_pictures) {
        printf("; wrote %s, %s, %s", output_path(s, NULL, NULL, "mask").text,
               output_path(s, NULL, NULL, "prediction").text, output_path(s, NULL, NULL, "overlay").text);
    }
    printf("\n");
    free(text);
}

static void report_many(const Segmenter *s, double seconds) {
    int read = s->pictures.count - s->left_out;
    for (int i = 0; i < s->texts.count; i++) {
        text_column(stdout, 24, s->texts.texts[i]);
        printf(" in %d of %d pictures, %.1f%% of the pixels\n", s->found[i], read,
               100 * s->shares[i] / (read ? read : 1));
    }
    printf("%d picture%s, %d text%s (%.2f s)", read, read == 1 ? "" : "s", s->texts.count,
           s->texts.count == 1 ? "" : "s", seconds);
    if (!s->o.no_pictures) {
        printf("; wrote %s*mask.png, %s*prediction.png, %s*overlay.png", s->o.out, s->o.out, s->o.out);
    }
    if (draws_labels(s)) { printf(", %s*labels.png, %s", s->o.out, output_path(s, NULL, NULL, "legend").text); }
    printf("\n");
}

int cmd_segment(int argc, char **argv) {
    Segmenter s = {0};
    s.o = parse_options(argc, argv, &s.pictures);
    launch_want_alone("segment");
    settings_read(&s.settings, s.o.answer.model);
    s.texts = find_texts(&s.o, &s.settings);
    want_distinct_files(&s);
    want_pictures_kept(&s);
    if (!s.pictures.several) { s.first = image_load(s.pictures.paths[0], 3); }
    device_open(&s.dev, 0);
    segmenter_open(&s);
    double started = now_seconds();
    segment_all(&s);
    if (draws_labels(&s)) {
        labels_save_legend(s.texts.texts, s.texts.count, output_path(&s, NULL, NULL, "legend").text);
    }
    if (s.results) {
        yajl_gen_array_close(s.results);
        json_write(s.results, s.o.json);
    }
    (s.pictures.several || s.texts.count > 1 ? report_many : report_one)(&s, now_seconds() - started);
    int left_out = s.left_out;
    if (left_out) { complain("%d of %d pictures are left out", left_out, s.pictures.count); }
    segmenter_close(&s);
    return left_out > 0;
}
