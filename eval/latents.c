#include "eval/latents.h"
#include "util/error.h"
#include "util/progress.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Latents of one kind of picture for all samples.
typedef struct {
    float *latents; // (samples, r, r, L)
    double *sum;    // (r, r, L)
} Gathered;

// What the work needs in memory: the VAE and the masks of one sample's variants. Row 0 is the true mask.
typedef struct {
    const LatentAnalysis *a;
    TargetCoder vae;
    int cells;                         // r r L, as in vae
    uint8_t *masks;                    // (1 + MAX_VARIANTS, R, R)
    Gathered targets[REPRESENTATIONS]; // of the true masks
    Gathered empties[REPRESENTATIONS]; // of the empty masks
    float *variants;                   // (1 + MAX_VARIANTS, r, r, L) of one sample and representation
    float *reproduced, *decoded;       // (R, R, 3) in [0, 1]: the picture and a target through the VAE
} Work;

// ---- through the VAE -----------------------------------------------------------------------------------------------

// w->variants = latents of the true target (row 0) and of the sample's variants.
static void encode_variants(Work *w, const Sample *s, int variants, int representation) {
    size_t size = (size_t)w->vae.R * (size_t)w->vae.R;
    for (int first = 0, n; first <= variants; first += n) {
        n = variants + 1 - first < w->a->batch ? variants + 1 - first : w->a->batch;
        for (int i = 0; i < n; i++) {
            target_paint(&w->vae, i, s, w->masks + size * (size_t)(first + i), representation, &w->a->paint);
        }
        target_encode(&w->vae, w->variants + (size_t)first * (size_t)w->cells, n);
    }
}

// ---- measures ------------------------------------------------------------------------------------------------------

// Share of the square difference of two latents in cells that the object touches.
static double share_inside(const Work *w, const float *a, const float *b) {
    double in = 0, all = 0;
    int r = w->vae.r, L = w->vae.L;
    for (int i = 0; i < r * r; i++) {
        double here = mean_square(a + (size_t)i * (size_t)L, b + (size_t)i * (size_t)L, (size_t)L);
        all += here;
        if (cell_pixels(&w->vae, w->masks, i / r, i % r)) { in += here; }
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
    int R = w->vae.R;
    uint8_t *mask = xmalloc((size_t)R * (size_t)R);
    target_decode(&w->vae, w->decoded, w->variants);
    mask_extract(mask, w->decoded, w->reproduced, R, R, &w->a->rules[representation]);
    double iou = mask_iou(mask, w->masks, R * R);
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
    image_to_floats(&s->rgb, w->vae.host_pixels);
    target_encode(&w->vae, w->variants, 1);
    target_decode(&w->vae, w->reproduced, w->variants);
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
    Work w = {.a = a, .vae = target_coder_create(a->pipeline, a->sample.resolution, a->batch, true, dev)};
    w.cells = w.vae.cells;
    size_t size = (size_t)w.vae.R * (size_t)w.vae.R, cells = (size_t)w.cells;
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
    target_coder_destroy(&w->vae);
    free(w->masks);
    free(w->variants);
    free(w->reproduced);
    free(w->decoded);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        gathered_free(&w->targets[k]);
        gathered_free(&w->empties[k]);
    }
}

LatentSample *latents_analyze(const LatentAnalysis *a, int *count, Device *dev) {
    Work w = work_create(a, dev);
    LatentSample *samples = xcalloc((size_t)a->count + 1, sizeof *samples);
    SampleDraw draw = samples_begin(a->coco, &a->sample);
    int n = 0;
    size_t size = (size_t)w.vae.R * (size_t)w.vae.R;
    uint8_t *first = xcalloc(size, 1); // the first mask, which is the last sample's stranger
    Sample now, next;
    bool more = samples_next(&draw, &now);
    if (more) { memcpy(first, now.mask, size); }
    Progress progress = progress_begin("analyze", "samples", a->count, 0);
    while (more && n < a->count) {
        threads_adapt();
        more = samples_next(&draw, &next);
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
    samples_end(&draw);
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

Interval latents_order_difference(const LatentSample *samples, int count, int resamples, uint64_t seed) {
    double *values = xmalloc(((size_t)count + 1) * sizeof *values);
    for (int i = 0; i < count; i++) {
        const Representation *of = samples[i].representation;
        values[i] = of[REPRESENTED_OVERLAY].of[MEASURE_ORDER] - of[REPRESENTED_MASK].of[MEASURE_ORDER];
    }
    Interval difference = bootstrap_mean(values, count, resamples, seed);
    free(values);
    return difference;
}
