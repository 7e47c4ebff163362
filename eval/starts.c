#include "eval/starts.h"
#include "data/paint.h"
#include "eval/frame.h"
#include "model/contexts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/progress.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const map_kind_names[] = {"depth", "picture", NULL};

// ---- scores --------------------------------------------------------------------------------------------------------

// The scale and shift of v that are nearest to t, by least squares; a constant v has no scale.
static void fit(const float *v, const float *t, const uint8_t *valid, size_t n, double *scale, double *shift) {
    double count = 0, mean_v = 0, mean_t = 0, vv = 0, vt = 0;
    for (size_t i = 0; i < n; i++) {
        if (!valid[i]) { continue; }
        count++, mean_v += v[i], mean_t += t[i];
    }
    mean_v /= count, mean_t /= count;
    for (size_t i = 0; i < n; i++) {
        if (!valid[i]) { continue; }
        vv += (v[i] - mean_v) * (v[i] - mean_v), vt += (v[i] - mean_v) * (t[i] - mean_t);
    }
    *scale = vv > 1e-12 * count ? vt / vv : 0;
    *shift = mean_t - *scale * mean_v;
}

MapScore map_score(MapKind kind, const float *v, const float *t, const uint8_t *valid, size_t n) {
    double scale = 1, shift = 0, error = 0, good = 0, count = 0;
    if (kind == MAP_DEPTH) { fit(v, t, valid, n, &scale, &shift); }
    for (size_t i = 0; i < n; i++) {
        if (!valid[i]) { continue; }
        double answer = scale * v[i] + shift, off = fabs(answer - t[i]);
        error += kind == MAP_DEPTH ? off / t[i] : off;
        good += kind == MAP_DEPTH ? answer > 0 && answer < 1.25 * t[i] && t[i] < 1.25 * answer : off < 0.1;
        count++;
    }
    return (MapScore){error / count, good / count};
}

// ---- a picture with its map ----------------------------------------------------------------------------------------

typedef struct {
    Frame frame;
    float *picture, *map; // (H, W, 3) in [-1, 1]: for the VAE
    float *truth;         // (H, W) depth as in the file, or (H, W, 3) in [0, 1]
    uint8_t *valid;       // of each value of truth
} Subject;

static void subject_free(Subject *s) {
    free(s->picture);
    free(s->map);
    free(s->truth);
    free(s->valid);
    *s = (Subject){0};
}

static size_t pixels_of(const Subject *s) { return (size_t)s->frame.W * (size_t)s->frame.H; }
static int channels_of(MapKind kind) { return kind == MAP_DEPTH ? 1 : 3; }

// MAPS/NAME.png for .../NAME.jpg; false: there is none.
static bool map_path(const char *maps, const char *picture, Path *path) {
    static const char *const endings[] = {"png", "jpg", "jpeg", "PNG", "JPG", "JPEG"};
    const char *slash = strrchr(picture, '/'), *name = slash ? slash + 1 : picture, *dot = strrchr(name, '.');
    int length = dot ? (int)(dot - name) : (int)strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        *path = path_of("%s/%.*s.%s", maps, length, name, endings[i]);
        if (file_exists(path->text)) { return true; }
    }
    *path = path_of("%s/%.*s.png", maps, length, name);
    return false;
}

// Depth by the nearest pixel, so that nothing is mixed with pixels that were not measured. Returns why it is of no use.
static char *take_depth(Subject *s, const GreyValues *depth, const char *path) {
    const Frame *f = &s->frame;
    size_t n = pixels_of(s);
    int count = 0;
    double *sorted = xmalloc(n * sizeof *sorted), sum = 0;
    for (int y = 0; y < f->H; y++) {
        for (int x = 0; x < f->W; x++) {
            size_t i = (size_t)y * f->W + x, row = (size_t)((y + 0.5) * f->height / f->H);
            s->truth[i] = depth->values[row * f->width + (size_t)((x + 0.5) * f->width / f->W)];
            s->valid[i] = s->truth[i] > 0;
            if (s->valid[i]) { sorted[count++] = s->truth[i], sum += s->truth[i]; }
        }
    }
    double low = count ? percentile(sorted, count, 0.02) : 0, high = count ? percentile(sorted, count, 0.98) : 0;
    for (size_t i = 0; i < n && high > low; i++) {
        double value = s->valid[i] ? s->truth[i] : sum / count; // what was not measured gets the mean
        float unit = (float)fmin(1, fmax(-1, 2 * (value - low) / (high - low) - 1));
        for (int c = 0; c < 3; c++) { s->map[3 * i + c] = unit; }
    }
    free(sorted);
    if ((double)count < 0.01 * (double)n) {
        return xprintf("%s: has depth at %.2g%% of its pixels, expected at least 1%%", path, 100.0 * count / (double)n);
    }
    return high > low ? NULL : xprintf("%s: has the same depth everywhere, expected different values", path);
}

static void take_picture(Subject *s, const Image *map) {
    frame_picture(&s->frame, map, s->map);
    frame_unit(s->truth, s->map, 3 * pixels_of(s));
    memset(s->valid, 1, 3 * pixels_of(s));
}

// Places both in the model's rectangle. Returns NULL, or why the map is of no use.
static char *place(const StartAnalysis *a, Subject *s, const Image *rgb, const GreyValues *depth, const Image *map,
                   const char *path) {
    *s = (Subject){.frame = frame_aspect(rgb->width, rgb->height, a->side, pipeline_multiple(a->pipeline, a->side))};
    size_t n = 3 * pixels_of(s);
    s->picture = xmalloc(n * sizeof *s->picture), s->map = xmalloc(n * sizeof *s->map);
    s->truth = xmalloc(n * sizeof *s->truth), s->valid = xmalloc(n);
    frame_picture(&s->frame, rgb, s->picture);
    char *why = NULL;
    if (a->kind == MAP_DEPTH) {
        why = take_depth(s, depth, path);
    } else {
        take_picture(s, map);
    }
    if (why) { subject_free(s); }
    return why;
}

// Reads both files; returns NULL, or why they cannot be used.
static char *subject_read(const StartAnalysis *a, const char *picture, Subject *s) {
    char *why = NULL;
    Path path;
    bool mapped = map_path(a->maps, picture, &path);
    Image rgb = image_try_load(picture, 3, &why), map = {0};
    if (!why && !mapped) { why = xprintf("%s: does not exist, expected the map of %s", path.text, picture); }
    GreyValues depth = {0};
    bool grey = a->kind == MAP_DEPTH;
    if (!why && grey) { depth = image_try_load_grey(path.text, &why); }
    if (!why && !grey) { map = image_try_load(path.text, 3, &why); }
    int width = grey ? depth.width : map.width, height = grey ? depth.height : map.height;
    int stored_width = rgb.width, stored_height = rgb.height;
    // The map may be one of the picture as people see it.
    if (!why && (width != rgb.width || height != rgb.height)) { image_upright(&rgb); }
    if (!why && (width != rgb.width || height != rgb.height)) {
        why = xprintf("%s: has %d x %d pixels, expected %d x %d as %s", path.text, width, height, stored_width,
                      stored_height, picture);
    }
    if (!why) { why = place(a, s, &rgb, &depth, &map, path.text); }
    free(depth.values);
    image_free(&rgb);
    image_free(&map);
    return why;
}

// ---- answers -------------------------------------------------------------------------------------------------------

typedef struct {
    const StartAnalysis *a;
    Device *dev;
    Sampler sampler;     // of the present frame's size, one sample
    int tokens;          // that the UNet sees
    floatX *context;     // (T, C) on the device
    float mean[64];      // latent channels: the mean map
    float *latent, *map; // (h, w, L) of the picture and of the true map
    float *start;        // (h, w, L)
    float *decoded;      // (H, W, 3) in [-1, 1] and beyond
} Work;

static void work_resize(Work *w, const Frame *frame) {
    int f = vae_factor(&w->a->pipeline->vae_decoder.config), h = frame->H / f, width = frame->W / f;
    if (w->sampler.B && w->sampler.h == h && w->sampler.w == width) { return; }
    if (w->sampler.B) { sampler_destroy(&w->sampler, w->dev); }
    sampler_want_memory(sampler_bytes(w->a->pipeline, 1, h, width, w->dev), 1, w->a->side, w->dev);
    w->sampler = sampler_create(w->a->pipeline, 1, h, width, w->dev);
    w->sampler.T = w->tokens;
    size_t latent = (size_t)h * (size_t)width * (size_t)w->sampler.L * sizeof(float);
    w->latent = xrealloc(w->latent, latent);
    w->map = xrealloc(w->map, latent);
    w->start = xrealloc(w->start, latent);
    w->decoded = xrealloc(w->decoded, (size_t)frame->H * (size_t)frame->W * 3 * sizeof *w->decoded);
}

static Work work_create(const StartAnalysis *a, Device *dev) {
    Work w = {.a = a, .dev = dev, .tokens = tokenizer_length(a->pipeline->tokenizer)};
    if (a->pipeline->vae_decoder.config.latent_channels > (int)(sizeof w.mean / sizeof *w.mean)) {
        die("%s/vae/config.json: field \"latent_channels\" is %d, expected at most %d", a->pipeline->folder,
            a->pipeline->vae_decoder.config.latent_channels, (int)(sizeof w.mean / sizeof *w.mean));
    }
    w.context = context_table(a->pipeline, &a->text, 1, dev);
    // A causal text encoder gives the first tokens the same embeddings with or without padding behind them.
    int ids[w.tokens], used = tokenizer_encode(a->pipeline->tokenizer, a->text, ids, w.tokens);
    if (!a->pad_text) { w.tokens = used; }
    return w;
}

static void work_destroy(Work *w) {
    if (w->sampler.B) { sampler_destroy(&w->sampler, w->dev); }
    device_free(w->dev, w->context);
    free(w->latent);
    free(w->map);
    free(w->start);
    free(w->decoded);
}

// w->decoded = the sampler's pictures before they are clipped.
static void fetch_decoded(Work *w, const Subject *s) {
    device_copy(w->dev, w->decoded, w->sampler.images, 3 * pixels_of(s) * sizeof *w->decoded, false);
    device_sync(w->dev);
}

// values: what is scored, in [0, 1]: for depth (H, W) the mean of the channels, clipped, as in Marigold.
static void answer_values(const Work *w, const Subject *s, float *values) {
    size_t n = pixels_of(s);
    int channels = channels_of(w->a->kind);
    for (size_t i = 0; i < n * (size_t)channels; i++) {
        const float *d = w->decoded + (channels == 1 ? 3 * i : i);
        float value = channels == 1 ? (d[0] + d[1] + d[2]) / 3 : d[0];
        values[i] = fminf(1, fmaxf(0, value / 2 + 0.5f));
    }
}

static Image values_image(MapKind kind, const float *values, const Frame *f) {
    if (kind == MAP_PICTURE) { return float_image(values, f->W, f->H); }
    Image image = image_new(f->W, f->H, 1);
    for (size_t i = 0; i < (size_t)f->W * (size_t)f->H; i++) { image.pixels[i] = (uint8_t)lroundf(255 * values[i]); }
    return image;
}

// The picture is answered from the start; NULL: from noise.
static void answer(Work *w, const Subject *s, const float *start, uint64_t id, float *values) {
    float *picture = xmalloc(3 * pixels_of(s) * sizeof *picture);
    w->sampler.start = start;
    sampler_run(&w->sampler, w->latent, w->context, &id, 1, w->a->steps, 0, w->a->seed, w->dev);
    sampler_decode(&w->sampler, picture, 1, w->dev);
    fetch_decoded(w, s);
    answer_values(w, s, values);
    free(picture);
}

// The true map through the VAE.
static void reproduce(Work *w, const Subject *s, float *values) {
    float *picture = xmalloc(3 * pixels_of(s) * sizeof *picture);
    sampler_decode_latents(&w->sampler, picture, w->map, 1, w->dev);
    fetch_decoded(w, s);
    answer_values(w, s, values);
    free(picture);
}

static MapScore score(const Work *w, const Subject *s, const float *values) {
    MapKind kind = w->a->kind;
    return map_score(kind, values, s->truth, s->valid, pixels_of(s) * (size_t)channels_of(kind));
}

// The score of the mean of the truth, in each channel: the floor.
static MapScore score_constant(const Work *w, const Subject *s) {
    size_t n = pixels_of(s);
    int channels = channels_of(w->a->kind);
    float *values = xcalloc(n * (size_t)channels, sizeof *values);
    for (int c = 0; c < channels; c++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) { sum += s->truth[i * (size_t)channels + (size_t)c]; }
        for (size_t i = 0; i < n; i++) { values[i * (size_t)channels + (size_t)c] = (float)(sum / (double)n); }
    }
    MapScore constant = score(w, s, values); // of depth the fit takes its own mean, of the pixels that were measured
    free(values);
    return constant;
}

static void analyze_item(Work *w, const Subject *s, StartItem *item, uint64_t id, bool example) {
    size_t latent = (size_t)w->sampler.h * (size_t)w->sampler.w * (size_t)w->sampler.L;
    float *values = xmalloc(3 * pixels_of(s) * sizeof *values);
    sampler_encode(&w->sampler, w->latent, s->picture, 1, w->dev);
    sampler_encode(&w->sampler, w->map, s->map, 1, w->dev);
    for (size_t i = 0; i < latent; i++) { w->start[i] = w->mean[i % (size_t)w->sampler.L]; }
    const float *starts[] = {
        [START_NOISE] = NULL, [START_TRUTH] = w->map, [START_MEAN] = w->start, [START_IMAGE] = w->latent};
    for (int k = START_NOISE; k <= START_IMAGE; k++) {
        answer(w, s, starts[k], id, values);
        sampler_want_finite(&w->sampler, "%s", item->path);
        item->scores[k] = score(w, s, values);
        if (example) { item->answers[k] = values_image(w->a->kind, values, &s->frame); }
    }
    item->scores[ANSWER_CONSTANT] = score_constant(w, s);
    reproduce(w, s, values);
    item->scores[ANSWER_CEILING] = score(w, s, values);
    if (example) {
        frame_unit(values, s->picture, 3 * pixels_of(s));
        item->picture = float_image(values, s->frame.W, s->frame.H);
        frame_unit(values, s->map, 3 * pixels_of(s));
        item->truth = float_image(values, s->frame.W, s->frame.H);
    }
    free(values);
}

// ---- all pictures --------------------------------------------------------------------------------------------------

enum { MEAN_MAPS = 64 };

// w->mean: the mean of each channel over the latents of the first maps.
static void find_mean(Work *w) {
    const PictureList *list = w->a->pictures;
    int used = 0, L = w->a->pipeline->vae_decoder.config.latent_channels;
    double sums[sizeof w->mean / sizeof *w->mean] = {0}, cells = 0;
    Progress progress = progress_work("mean map", list->count < MEAN_MAPS ? list->count : MEAN_MAPS);
    for (int i = 0; i < list->count && used < MEAN_MAPS; i++) {
        Subject s;
        char *why = subject_read(w->a, list->paths[i], &s);
        free(why); // named when the pictures are answered
        if (why) { continue; }
        work_resize(w, &s.frame);
        sampler_encode(&w->sampler, w->map, s.map, 1, w->dev);
        size_t n = (size_t)w->sampler.h * (size_t)w->sampler.w;
        for (size_t k = 0; k < n * (size_t)L; k++) { sums[k % (size_t)L] += w->map[k]; }
        cells += (double)n;
        used++;
        subject_free(&s);
        progress_add(&progress, 1);
    }
    progress_end(&progress, progress.done);
    for (int c = 0; c < L && used; c++) { w->mean[c] = (float)(sums[c] / cells); }
}

StartItem *starts_analyze(const StartAnalysis *a, int *count, Device *dev) {
    Work w = work_create(a, dev);
    StartItem *items = xcalloc((size_t)a->pictures->count, sizeof *items);
    int n = 0;
    find_mean(&w);
    Progress progress = progress_begin("analyze", "pictures", a->pictures->count, 0);
    for (int i = 0; i < a->pictures->count; i++) {
        Subject s;
        threads_adapt();
        char *why = subject_read(a, a->pictures->paths[i], &s);
        if (why) {
            warn("%s", why);
            free(why);
            continue;
        }
        work_resize(&w, &s.frame);
        items[n].path = xstrdup(a->pictures->paths[i]);
        analyze_item(&w, &s, &items[n], (uint64_t)i, n < START_EXAMPLES);
        subject_free(&s);
        n++;
        progress_update(&progress, i + 1);
    }
    progress_end(&progress, a->pictures->count);
    work_destroy(&w);
    *count = n;
    if (n) { return items; }
    free(items);
    return NULL;
}

void starts_free(StartItem *items, int count) {
    for (int i = 0; i < count; i++) {
        free(items[i].path);
        image_free(&items[i].picture);
        image_free(&items[i].truth);
        for (int k = 0; k <= START_IMAGE; k++) { image_free(&items[i].answers[k]); }
    }
    free(items);
}
