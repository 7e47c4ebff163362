#include "eval/leak.h"
#include "eval/covariance.h"
#include "util/error.h"
#include "util/progress.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- latents -------------------------------------------------------------------------------------------------------

// The pictures of one sample and representation.
enum { WITH_OBJECT, EMPTY, FULL, KINDS };

typedef struct {
    const LeakAnalysis *a;
    TargetCoder vae;
    uint8_t *masks[KINDS]; // (R, R); that of the object is the sample's
    float *latents;        // (REPRESENTATIONS, KINDS, r, r, L) of one sample
    float *differences;    // (REPRESENTATIONS, count, L, r, r): with the object minus without
} Work;

static Work work_create(const LeakAnalysis *a, Device *dev) {
    Work w = {.a = a};
    w.vae = target_coder_create(a->pipeline, a->sample.resolution, REPRESENTATIONS * KINDS, false, dev);
    size_t pixels = (size_t)w.vae.R * (size_t)w.vae.R, cells = (size_t)w.vae.cells;
    w.masks[EMPTY] = xcalloc(pixels, 1);
    w.masks[FULL] = xmalloc(pixels);
    memset(w.masks[FULL], 1, pixels);
    w.latents = xmalloc(REPRESENTATIONS * KINDS * cells * sizeof(float));
    w.differences = xmalloc(REPRESENTATIONS * (size_t)a->count * cells * sizeof(float));
    return w;
}

static void work_destroy(Work *w) {
    target_coder_destroy(&w->vae);
    free(w->masks[EMPTY]);
    free(w->masks[FULL]);
    free(w->latents);
    free(w->differences);
}

static const float *latent_of(const Work *w, int representation, int kind) {
    return w->latents + (size_t)(representation * KINDS + kind) * (size_t)w->vae.cells;
}

static float *difference_of(const Work *w, int representation, int index) {
    return w->differences + ((size_t)representation * (size_t)w->a->count + (size_t)index) * (size_t)w->vae.cells;
}

double zero_place(ZeroPlace place) { return place.square > 0 ? place.along / place.square : NAN; }

// Over the cells of which the mask has from `least` to `most` pixels.
static ZeroPlace place_of_zero(const Work *w, const uint8_t *mask, int representation, int least, int most) {
    const float *empty = latent_of(w, representation, EMPTY), *full = latent_of(w, representation, FULL);
    int r = w->vae.r, L = w->vae.L;
    ZeroPlace sum = {0};
    for (int i = 0; i < r * r; i++) {
        int pixels = cell_pixels(&w->vae, mask, i / r, i % r);
        for (int c = i * L; pixels >= least && pixels <= most && c < (i + 1) * L; c++) {
            double step = (double)full[c] - empty[c];
            sum.along -= empty[c] * step;
            sum.square += step * step;
        }
    }
    return sum;
}

static void analyze_object(Work *w, const Sample *s, LeakObject *out, int index) {
    *out = (LeakObject){.image_id = s->image_id, .category = s->category, .object_share = s->area};
    w->masks[WITH_OBJECT] = s->mask;
    for (int i = 0; i < REPRESENTATIONS * KINDS; i++) {
        target_paint(&w->vae, i, s, w->masks[i % KINDS], i / KINDS, &w->a->paint);
    }
    target_encode(&w->vae, w->latents, REPRESENTATIONS * KINDS);
    int n = w->vae.r * w->vae.r, L = w->vae.L, square = (w->vae.R / w->vae.r) * (w->vae.R / w->vae.r);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        const float *with = latent_of(w, k, WITH_OBJECT), *without = latent_of(w, k, EMPTY);
        float *d = difference_of(w, k, index);
        for (int i = 0; i < n * L; i++) { d[i % L * n + i / L] = with[i] - without[i]; }
        ZeroPlace *on_object = &out->of[k].on_object;
        out->of[k].on_background = place_of_zero(w, s->mask, k, 0, 0);
        *on_object = place_of_zero(w, s->mask, k, square, square);
        if (on_object->square == 0) { *on_object = place_of_zero(w, s->mask, k, 1, square); }
    }
}

// ---- evidence ------------------------------------------------------------------------------------------------------

// rows (planes, side, side) = d (planes, r, r), enlarged (or thinned out) by the nearest cell.
static void enlarge(float *rows, const float *d, int planes, int r, int side) {
    for (int plane = 0; plane < planes; plane++, d += r * r) {
        for (int i = 0; i < side * side; i++) { *rows++ = d[i / side * r / side * r + i % side * r / side]; }
    }
}

// out (count): the sum over channels of d' S^-1 d on a latent of side `side` for d (count, L, r, r). L: the factor of
// S; NULL: S = I.
static void sum_forms(double *out, const float *d, int count, int channels, int r, int side, const double *L) {
    enum { CHUNK = 128 }; // objects whose enlarged differences are held at a time
    int n = side * side;
    float *rows = xmalloc((size_t)CHUNK * (size_t)channels * (size_t)n * sizeof *rows);
    double *forms = xmalloc((size_t)CHUNK * (size_t)channels * sizeof *forms);
    for (int first = 0; first < count; first += CHUNK) {
        int objects = count - first < CHUNK ? count - first : CHUNK;
        enlarge(rows, d + (size_t)first * (size_t)(channels * r * r), objects * channels, r, side);
        if (L) { inverse_forms(forms, L, rows, n, objects * channels); }
        for (int i = 0; i < objects * channels; i++) {
            const float *row = rows + (size_t)i * (size_t)n;
            double square = 0;
            for (int k = 0; !L && k < n; k++) { square += (double)row[k] * row[k]; }
            if (i % channels == 0) { out[first + i / channels] = 0; }
            out[first + i / channels] += L ? forms[i] : square;
        }
    }
    free(rows);
    free(forms);
}

// The factor of the noise's covariance on a latent of this side; NULL: white noise.
static double *noise_factor(const LeakAnalysis *a, int side) {
    if (a->multires == 0) { return NULL; }
    double *S = noise_covariance(side, side, a->multires, COVARIANCE_DRAWS, a->sample.seed);
    cholesky(S, side * side);
    return S;
}

static void measure_evidence(const Work *w, LeakObject *objects, int count) {
    const LeakAnalysis *a = w->a;
    int r = w->vae.r, L = w->vae.L, side = a->reference_side;
    double *own = noise_factor(a, r), *of_reference = noise_factor(a, side);
    size_t bytes = ((size_t)count + 1) * sizeof(double);
    double *white = xmalloc(bytes), *recipe = xmalloc(bytes), *large = xmalloc(bytes), *plain = xmalloc(bytes);
    for (int k = 0; k < REPRESENTATIONS; k++) {
        const float *d = difference_of(w, k, 0);
        sum_forms(white, d, count, L, r, r, NULL);
        sum_forms(recipe, d, count, L, r, r, own);
        sum_forms(large, d, count, L, r, side, of_reference);
        sum_forms(plain, d, count, L, r, side, NULL);
        for (int i = 0; i < count; i++) {
            Leak *leak = &objects[i].of[k];
            double share = objects[i].object_share, wanted = a->reference_contrast * a->reference_contrast;
            leak->contrast = sqrt(white[i] / (share * r * r));
            leak->form[NOISE_WHITE] = white[i];
            leak->form[NOISE_RECIPE] = recipe[i];
            leak->reference = plain[i] > 0 ? large[i] * wanted * share * side * side / plain[i] : NAN;
        }
    }
    free(own);
    free(of_reference);
    free(white);
    free(recipe);
    free(large);
    free(plain);
}

LeakObject *leak_analyze(const LeakAnalysis *a, int *count, Device *dev) {
    Work w = work_create(a, dev);
    LeakObject *objects = xcalloc((size_t)a->count + 1, sizeof *objects);
    SampleDraw draw = samples_begin(a->coco, &a->sample);
    Progress progress = progress_begin("analyze", "samples", a->count, 0);
    Sample sample;
    int n = 0;
    while (n < a->count && samples_next(&draw, &sample)) {
        threads_adapt();
        analyze_object(&w, &sample, &objects[n], n);
        sample_free(&sample);
        progress_update(&progress, ++n);
    }
    progress_end(&progress, n);
    measure_evidence(&w, objects, n);
    samples_end(&draw);
    work_destroy(&w);
    *count = n;
    return objects;
}

double leak_nats(double form, double signal) { return signal * signal / (1 - signal * signal) / 2 * form; }

// Two Gaussians whose means are s standard deviations apart, s^2 / 2 = nats; the border is halfway.
double leak_error_rate(double nats) { return 0.5 * erfc(sqrt(2 * nats) / 2 / sqrt(2)); }

// ---- summary -------------------------------------------------------------------------------------------------------

static double median(double *values, int n) { return n ? percentile(values, n, 0.5) : NAN; }

static void add_place(ZeroPlace *sum, ZeroPlace place) {
    sum->along += place.along;
    sum->square += place.square;
}

LeakSummary leak_summarize(const LeakObject *objects, int count, int representation, int size, int side, double signal,
                           int resamples, uint64_t seed) {
    double *contrasts = xmalloc(((size_t)count + 1) * sizeof *contrasts), *nats[NOISES], cells = 0;
    for (int k = 0; k < NOISES; k++) { nats[k] = xmalloc(((size_t)count + 1) * sizeof *nats[k]); }
    ZeroPlace background = {0}, object = {0};
    LeakSummary s = {0};
    for (int i = 0; i < count; i++) {
        if (size != OBJECT_SIZES && object_size(objects[i].object_share) != size) { continue; }
        const Leak *leak = &objects[i].of[representation];
        cells += objects[i].object_share * side * side;
        add_place(&background, leak->on_background);
        add_place(&object, leak->on_object);
        for (int k = 0; k < NOISES; k++) { nats[k][s.objects] = leak_nats(leak->form[k], signal); }
        contrasts[s.objects++] = leak->contrast;
    }
    s.cells = s.objects ? cells / s.objects : NAN;
    s.contrast = bootstrap_mean(contrasts, s.objects, resamples, seed);
    s.zero_background = zero_place(background), s.zero_object = zero_place(object);
    for (int k = 0; k < NOISES; k++) {
        s.mean[k] = bootstrap_mean(nats[k], s.objects, resamples, seed);
        s.median[k] = median(nats[k], s.objects);
        free(nats[k]);
    }
    free(contrasts);
    return s;
}

double leak_reference_nats(const LeakObject *objects, int count, int representation, double signal) {
    double *nats = xmalloc(((size_t)count * REPRESENTATIONS + 1) * sizeof *nats);
    int n = 0;
    for (int i = 0; i < count * REPRESENTATIONS; i++) {
        const Leak *leak = &objects[i / REPRESENTATIONS].of[i % REPRESENTATIONS];
        bool wanted = representation == REPRESENTATIONS || i % REPRESENTATIONS == representation;
        if (wanted && !isnan(leak->reference)) { nats[n++] = leak_nats(leak->reference, signal); }
    }
    double middle = median(nats, n);
    free(nats);
    return middle;
}

double leak_matched_signal(const LeakObject *objects, int count, int representation, double signal) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < count; i++) {
        const Leak *leak = &objects[i].of[representation];
        if (isnan(leak->reference)) { continue; }
        sum += log(leak->reference / leak->form[NOISE_RECIPE]);
        n++;
    }
    double ratio = n ? signal * signal / (1 - signal * signal) * exp(sum / n) : NAN;
    return sqrt(ratio / (1 + ratio));
}
