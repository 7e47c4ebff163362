#include "eval/latents.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/progress.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const representation_names[REPRESENTATIONS] = {"overlay", "mask"};

// Latents of one kind of picture for all samples.
typedef struct {
    float *latents; // (samples, r, r, L)
    double *sum;    // (r, r, L)
} Gathered;

// What the work needs in memory: the VAE's buffers and the pictures of one sample's variants. Row 0 is the true mask.
typedef struct {
    const LatentAnalysis *a;
    Device *dev;
    Arena arena;
    int R, r, L, cells;                // side of pictures and of latents; channels; r r L
    float *pixels, *latents;           // on the device: (batch, R, R, 3), (batch, r, r, L)
    float *host_pixels;                // (batch, R, R, 3)
    uint8_t *masks;                    // (1 + MAX_VARIANTS, R, R)
    Gathered targets[REPRESENTATIONS]; // of the true masks
    Gathered empties[REPRESENTATIONS]; // of the empty masks
    float *variants;                   // (1 + MAX_VARIANTS, r, r, L) of one sample and representation
    float *reproduced, *decoded;       // (R, R, 3) in [0, 1]: the picture and a target through the VAE
} Work;

// ---- through the VAE -----------------------------------------------------------------------------------------------

static void paint_target(const Work *w, const Sample *s, const uint8_t *mask, int representation, float *pixels) {
    Image target = representation == REPRESENTED_OVERLAY ? paint_overlay(&s->rgb, mask, &w->a->paint)
                                                         : paint_mask(mask, w->R, w->R, &w->a->paint);
    image_to_floats(&target, pixels);
    image_free(&target);
}

static void encode(Work *w, float *latents, int n) {
    size_t pixels = (size_t)n * (size_t)(w->R * w->R * 3), count = (size_t)n * (size_t)w->cells;
    device_copy(w->dev, w->pixels, w->host_pixels, pixels * sizeof(float), false);
    pipeline_encode(w->a->pipeline, &w->arena, w->latents, w->pixels, n, w->R, w->R, w->dev);
    device_copy(w->dev, latents, w->latents, count * sizeof(float), false);
    device_sync(w->dev);
}

// picture (R, R, 3) in [0, 1].
static void decode(Work *w, float *picture, const float *latent) {
    size_t pixels = (size_t)(w->R * w->R * 3);
    device_copy(w->dev, w->latents, latent, (size_t)w->cells * sizeof(float), false);
    pipeline_decode(w->a->pipeline, &w->arena, w->pixels, w->latents, 1, w->r, w->r, w->dev);
    device_copy(w->dev, w->host_pixels, w->pixels, pixels * sizeof(float), false);
    device_sync(w->dev);
    for (size_t i = 0; i < pixels; i++) { picture[i] = fminf(1, fmaxf(0, 0.5f * w->host_pixels[i] + 0.5f)); }
}

// w->variants = latents of the true target (row 0) and of the sample's variants.
static void encode_variants(Work *w, const Sample *s, int variants, int representation) {
    size_t size = (size_t)w->R * (size_t)w->R;
    for (int first = 0, n; first <= variants; first += n) {
        n = variants + 1 - first < w->a->batch ? variants + 1 - first : w->a->batch;
        for (int i = 0; i < n; i++) {
            paint_target(w, s, w->masks + size * (size_t)(first + i), representation,
                         w->host_pixels + size * 3 * (size_t)i);
        }
        encode(w, w->variants + (size_t)first * (size_t)w->cells, n);
    }
}

// ---- measures ------------------------------------------------------------------------------------------------------

// A latent cell corresponds to a square of pixels.
static bool cell_touched(const Work *w, int y, int x) {
    int f = w->R / w->r;
    for (int i = 0; i < f * f; i++) {
        if (w->masks[(y * f + i / f) * w->R + x * f + i % f]) { return true; }
    }
    return false;
}

// Share of the square difference of two latents in cells that the object touches.
static double share_inside(const Work *w, const float *a, const float *b) {
    double in = 0, all = 0;
    for (int i = 0; i < w->r * w->r; i++) {
        double here = mean_square(a + (size_t)i * (size_t)w->L, b + (size_t)i * (size_t)w->L, (size_t)w->L);
        all += here;
        if (cell_touched(w, i / w->r, i % w->r)) { in += here; }
    }
    return all > 0 ? in / all : NAN;
}

static void measure(Work *w, LatentSample *out, int representation) {
    Representation *r = &out->representation[representation];
    double iou[MAX_VARIANTS], closeness[MAX_VARIANTS], one_pixel = 0;
    int misses = 0;
    for (int i = 0; i < MEASURES; i++) { r->of[i] = NAN; }
    for (int v = 0; v < out->variants; v++) {
        const float *latent = w->variants + (size_t)(v + 1) * (size_t)w->cells;
        const MaskVariant *variant = &out->variant[v];
        double mse = r->mse[v] = mean_square(latent, w->variants, (size_t)w->cells);
        iou[v] = variant->iou;
        closeness[v] = -mse;
        if (variant->pixels == 1) { one_pixel += mse, misses++; }
        if (variant->kind == MASK_EMPTY) {
            r->of[MEASURE_EMPTY] = mse;
            r->of[MEASURE_INSIDE] = share_inside(w, latent, w->variants);
        }
    }
    r->of[MEASURE_ORDER] = spearman(iou, closeness, out->variants);
    r->of[MEASURE_ONE_PIXEL] = misses ? one_pixel / misses : NAN;
}

static double round_trip(Work *w, int representation) {
    uint8_t *mask = xmalloc((size_t)w->R * (size_t)w->R);
    decode(w, w->decoded, w->variants);
    mask_extract(mask, w->decoded, w->reproduced, w->R, w->R, &w->a->rules[representation]);
    double iou = mask_iou(mask, w->masks, w->R * w->R);
    free(mask);
    return iou;
}

static void gather(const Work *w, Gathered *to, const float *latent, int index) {
    memcpy(to->latents + (size_t)index * (size_t)w->cells, latent, (size_t)w->cells * sizeof(float));
    for (int i = 0; i < w->cells; i++) { to->sum[i] += latent[i]; }
}

static void analyze_sample(Work *w, const Sample *s, const uint8_t *stranger, LatentSample *out, int index) {
    *out = (LatentSample){.image_id = s->image_id, .category = s->category, .object_share = s->area};
    out->variants = mask_variants(out->variant, w->masks, w->a->coco, &w->a->sample, s, stranger);
    image_to_floats(&s->rgb, w->host_pixels);
    encode(w, w->variants, 1);
    decode(w, w->reproduced, w->variants);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        encode_variants(w, s, out->variants, k);
        measure(w, out, k);
        out->representation[k].of[MEASURE_ROUND_TRIP] = round_trip(w, k);
        gather(w, &w->targets[k], w->variants, index);
        for (int v = 0; v < out->variants; v++) {
            const float *latent = w->variants + (size_t)(v + 1) * (size_t)w->cells;
            if (out->variant[v].kind == MASK_EMPTY) { gather(w, &w->empties[k], latent, index); }
        }
    }
}

// Mean square of a sample's latent around the mean of the other samples', which tells nothing of the sample itself.
static double loss_of_mean(const Work *w, const Gathered *g, int index, int count) {
    const float *latent = g->latents + (size_t)index * (size_t)w->cells;
    double sum = 0;
    for (int i = 0; i < w->cells; i++) {
        double mean = (g->sum[i] - latent[i]) / (count - 1);
        sum += (latent[i] - mean) * (latent[i] - mean);
    }
    return count > 1 ? sum / w->cells : NAN;
}

static Gathered gathered_create(size_t samples, size_t cells) {
    return (Gathered){xmalloc(samples * cells * sizeof(float)), xcalloc(cells, sizeof(double))};
}

static void gathered_free(Gathered *g) {
    free(g->latents);
    free(g->sum);
}

static Work work_create(const LatentAnalysis *a, Device *dev) {
    const VAEConfig *vae = &a->pipeline->vae_encoder.config;
    Work w = {.a = a, .dev = dev, .R = a->sample.resolution, .L = vae->latent_channels};
    w.r = vae_latent_size(vae, w.R);
    w.cells = w.r * w.r * w.L;
    size_t encode_bytes = pipeline_encode_bytes(a->pipeline, a->batch, w.R, w.R, dev);
    size_t decode_bytes = pipeline_decode_bytes(a->pipeline, 1, w.r, w.r, dev);
    w.arena = arena_create(dev, encode_bytes > decode_bytes ? encode_bytes : decode_bytes);
    size_t size = (size_t)w.R * (size_t)w.R, batch = (size_t)a->batch, cells = (size_t)w.cells;
    w.pixels = device_alloc(dev, batch * size * 3 * sizeof(float));
    w.latents = device_alloc(dev, batch * cells * sizeof(float));
    w.host_pixels = xmalloc(batch * size * 3 * sizeof(float));
    w.masks = xmalloc((1 + MAX_VARIANTS) * size);
    w.variants = xmalloc((1 + MAX_VARIANTS) * cells * sizeof(float));
    w.reproduced = xmalloc(size * 3 * sizeof(float));
    w.decoded = xmalloc(size * 3 * sizeof(float));
    for (int k = 0; k < REPRESENTATIONS; k++) {
        w.targets[k] = gathered_create((size_t)a->count, cells);
        w.empties[k] = gathered_create((size_t)a->count, cells);
    }
    return w;
}

static void work_destroy(Work *w) {
    arena_destroy(&w->arena);
    device_free(w->dev, w->pixels);
    device_free(w->dev, w->latents);
    free(w->host_pixels);
    free(w->masks);
    free(w->variants);
    free(w->reproduced);
    free(w->decoded);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        gathered_free(&w->targets[k]);
        gathered_free(&w->empties[k]);
    }
}

// Takes pictures in order until one yields a sample with an object.
static bool next_sample(const LatentAnalysis *a, const int *order, int *at, Sample *s) {
    while (*at < a->coco->picture_count) {
        if (sample_make(a->coco, &a->sample, order[(*at)++], 0, s) == SAMPLE_OK) { return true; }
        sample_free(s);
    }
    return false;
}

LatentSample *latents_analyze(const LatentAnalysis *a, int *count, Device *dev) {
    Work w = work_create(a, dev);
    LatentSample *samples = xcalloc((size_t)a->count + 1, sizeof *samples);
    int *order = coco_shuffled(a->coco, random_begin(a->sample.seed, PHILOX_VARIANTS, 1, 0)), at = 0, n = 0;
    size_t size = (size_t)w.R * (size_t)w.R;
    uint8_t *first = xcalloc(size, 1); // the first mask, which is the last sample's stranger
    Sample now, next;
    bool more = next_sample(a, order, &at, &now);
    if (more) { memcpy(first, now.mask, size); }
    Progress progress = progress_begin("analyze", "samples", a->count, 0);
    while (more && n < a->count) {
        threads_adapt();
        more = next_sample(a, order, &at, &next);
        analyze_sample(&w, &now, more ? next.mask : first, &samples[n], n);
        sample_free(&now);
        now = next;
        progress_update(&progress, ++n);
    }
    if (more) { sample_free(&now); }
    progress_end(&progress, n);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < REPRESENTATIONS; k++) {
            samples[i].representation[k].of[MEASURE_CONSTANT] = loss_of_mean(&w, &w.targets[k], i, n);
            samples[i].representation[k].of[MEASURE_PICTURE] = loss_of_mean(&w, &w.empties[k], i, n);
        }
    }
    free(first);
    free(order);
    work_destroy(&w);
    *count = n;
    return samples;
}

// ---- summary -------------------------------------------------------------------------------------------------------

static double pooled_order(const LatentSample *const *kept, int n, int representation) {
    double *iou = xmalloc(((size_t)n * MAX_VARIANTS + 1) * sizeof *iou);
    double *closeness = xmalloc(((size_t)n * MAX_VARIANTS + 1) * sizeof *closeness);
    int count = 0;
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < kept[i]->variants; v++) {
            iou[count] = kept[i]->variant[v].iou;
            closeness[count++] = -kept[i]->representation[representation].mse[v];
        }
    }
    double order = spearman(iou, closeness, count);
    free(iou);
    free(closeness);
    return order;
}

LatentSummary latents_summarize(const LatentSample *samples, int count, int representation, int size, int resamples,
                                uint64_t seed) {
    const LatentSample **kept = xcalloc((size_t)count + 1, sizeof *kept);
    LatentSummary s = {0};
    for (int i = 0; i < count; i++) {
        if (size == OBJECT_SIZES || object_size(samples[i].object_share) == size) { kept[s.samples++] = &samples[i]; }
    }
    double *values = xmalloc(((size_t)count + 1) * sizeof *values);
    for (int k = 0; k < MEASURES; k++) {
        for (int i = 0; i < s.samples; i++) { values[i] = kept[i]->representation[representation].of[k]; }
        s.of[k] = bootstrap_mean(values, s.samples, resamples, seed);
    }
    double empty = s.of[MEASURE_EMPTY].value;
    s.of[MEASURE_POOLED_ORDER].value = pooled_order(kept, s.samples, representation);
    s.of[MEASURE_CONSTANT_RATIO].value = s.of[MEASURE_CONSTANT].value / s.of[MEASURE_ONE_PIXEL].value;
    s.of[MEASURE_OBJECT_ENERGY].value = empty / (empty + s.of[MEASURE_PICTURE].value);
    free(values);
    free(kept);
    return s;
}
