#include "eval/evaluate.h"
#include "data/paint.h"
#include "util/error.h"
#include "util/progress.h"
#include "util/text.h"
#include "util/threads.h"
#include <stdlib.h>
#include <string.h>

static size_t latent_count(const Evaluator *e) { return (size_t)e->sampler.h * e->sampler.w * e->sampler.L; }
static size_t picture_count(const Evaluator *e) { return (size_t)e->side * e->side * 3; }

// The contexts of all class names or texts, first in the model's template, then in the other prompt sets.
static Contexts text_contexts(Pipeline *pipeline, const Dataset *dataset, const ModelSettings *settings,
                              const PromptSet *sets, int set_count, int batch, Device *dev) {
    int n = dataset->texts ? dataset->shards.text_count : dataset->class_count, count = (1 + set_count) * n;
    const char *const *names = dataset->texts ? (const char *const *)dataset->shards.texts : dataset->class_names;
    char **texts = xcalloc((size_t)count + 1, sizeof *texts);
    for (int i = 0; i < count; i++) {
        int set = i / n, t = i % n;
        texts[i] = set ? xstrdup(sets[set - 1].text[t]) : settings_text(settings, names[t]);
    }
    Contexts contexts =
        contexts_create(pipeline, (const char *const *)texts, count, batch, CONTEXTS_SHARE, dataset->texts, dev);
    for (int i = 0; i < count; i++) { free(texts[i]); }
    free(texts);
    return contexts;
}

Evaluator evaluator_create(Pipeline *pipeline, const Dataset *dataset, const ModelSettings *settings,
                           const PromptSet *sets, int set_count, int steps, int ensemble, int batch, uint64_t seed,
                           Device *dev) {
    int f = vae_factor(&pipeline->vae_decoder.config);
    if (dataset->resolution % f != 0) {
        die("--resolution %d: expected a multiple of %d, the VAE's factor", dataset->resolution, f);
    }
    Evaluator e = {.pipeline = pipeline,
                   .dev = dev,
                   .settings = *settings,
                   .side = dataset->resolution,
                   .texts = dataset->texts ? dataset->shards.text_count : dataset->class_count,
                   .batch = batch,
                   .steps = steps,
                   .ensemble = ensemble,
                   .seed = seed};
    e.sampler = sampler_create(pipeline, batch, e.side / f, e.side / f, dev);
    e.contexts = text_contexts(pipeline, dataset, settings, sets, set_count, batch, dev);
    size_t row = (size_t)e.sampler.T * pipeline->clip.config.hidden_size, pictures = (size_t)batch * picture_count(&e);
    e.context = device_alloc(dev, (size_t)batch * row * sizeof(floatX));
    e.pixels = xmalloc(pictures * sizeof *e.pixels);
    e.inputs = xmalloc(pictures * sizeof *e.inputs);
    e.predictions = xmalloc(pictures * sizeof *e.predictions);
    e.latents = xmalloc((size_t)batch * latent_count(&e) * sizeof *e.latents);
    return e;
}

void evaluator_destroy(Evaluator *e) {
    sampler_destroy(&e->sampler, e->dev);
    contexts_destroy(&e->contexts, e->dev);
    device_free(e->dev, e->context);
    free(e->pixels);
    free(e->inputs);
    free(e->predictions);
    free(e->latents);
    free(e->starts);
    free(e->mean);
}

// Pairs of one picture are adjacent: slot[i] is the place of pair i's picture among the distinct ones. Returns their
// number.
static int distinct_pictures(const DatasetItem *items, int n, int *slot) {
    int count = 0;
    for (int i = 0; i < n; i++) {
        slot[i] = i > 0 && items[i].pair.item == items[i - 1].pair.item ? count - 1 : count++;
    }
    return count;
}

// `slot` (NULL: pair i is row i): the rows of the pairs.
static void want_finite(const Evaluator *e, const DatasetItem *items, const int *slot) {
    int i = 0, row = e->sampler.broken;
    while (slot && slot[i] < row) { i++; }
    const Pair *pair = &items[row < 0 ? 0 : slot ? i : row].pair;
    sampler_want_finite(&e->sampler, "picture %lld", (long long)pair->image_id);
}

// Image latents of n pairs, and e->inputs: their pictures; of shards, which hold none, as the VAE reproduces them.
static void load(Evaluator *e, const DatasetItem *items, int n) {
    int slot[n], count = distinct_pictures(items, n, slot);
    size_t latent = latent_count(e), picture = picture_count(e);
    for (int i = 0; i < n; i++) {
        if (items[i].latent) {
            memcpy(e->latents + slot[i] * latent, items[i].latent, latent * sizeof *e->latents);
        } else {
            memcpy(e->pixels + slot[i] * picture, items[i].pixels, picture * sizeof *e->pixels);
        }
    }
    if (items[0].latent) {
        sampler_decode_latents(&e->sampler, e->inputs, e->latents, count, e->dev);
        want_finite(e, items, slot);
    } else {
        sampler_encode(&e->sampler, e->latents, e->pixels, count, e->dev);
        frame_unit(e->inputs, e->pixels, (size_t)count * picture);
    }
    for (int i = n - 1; i > 0; i--) { // slot[i] <= i, so no row is overwritten before it is copied
        if (slot[i] == i) { continue; }
        memcpy(e->latents + i * latent, e->latents + slot[i] * latent, latent * sizeof *e->latents);
        memcpy(e->inputs + i * picture, e->inputs + slot[i] * picture, picture * sizeof *e->inputs);
    }
}

// latents (n, h, w, L): of the true targets.
static void target_latents(Evaluator *e, const DatasetItem *items, int n, float *latents) {
    for (int i = 0; i < n; i++) {
        if (items[i].target_latent) {
            memcpy(latents + (size_t)i * latent_count(e), items[i].target_latent, latent_count(e) * sizeof *latents);
        } else {
            dataset_target(&items[i], &e->settings, e->pixels + (size_t)i * picture_count(e));
        }
    }
    if (!items[0].target_latent) { sampler_encode(&e->sampler, latents, e->pixels, n, e->dev); }
}

// The next batch; pairs whose picture cannot be read leave the list.
static int read_batch(const Evaluator *e, const Dataset *dataset, Pair *pairs, int *count, int first,
                      DatasetItem *items) {
    return dataset_read_some(dataset, pairs, count, first, e->batch, &e->settings, latent_count(e), items);
}

// ---- starts --------------------------------------------------------------------------------------------------------

const char *const start_names[] = {"noise", "truth", "mean", "image", NULL};

enum { MEAN_PAIRS = 512 };

static void fill_mean(Evaluator *e, const Dataset *dataset, Pair *pairs, int *count) {
    size_t latent = latent_count(e);
    DatasetItem *items = xcalloc((size_t)e->batch, sizeof *items);
    int used = 0;
    Progress progress = progress_work("mean target", *count < MEAN_PAIRS ? *count : MEAN_PAIRS);
    for (int n; used < MEAN_PAIRS && (n = read_batch(e, dataset, pairs, count, used, items)) > 0; used += n) {
        target_latents(e, items, n, e->starts);
        for (size_t i = 0; i < (size_t)n * latent; i++) { e->mean[i % latent] += e->starts[i]; }
        for (int i = 0; i < n; i++) { dataset_item_free(&items[i]); }
        progress_add(&progress, n);
    }
    progress_end(&progress, progress.done);
    dataset_want_pairs(dataset, *count);
    for (size_t i = 0; i < latent; i++) { e->mean[i] /= (float)used; }
    free(items);
}

void evaluator_start(Evaluator *e, Start start, const Dataset *dataset, Pair *pairs, int *count) {
    e->start = start;
    if (start == START_NOISE) { return; }
    e->starts = xcalloc((size_t)e->batch * latent_count(e), sizeof *e->starts);
    e->sampler.start = e->starts;
    if (start == START_MEAN) {
        e->mean = xcalloc(latent_count(e), sizeof *e->mean);
        fill_mean(e, dataset, pairs, count);
    }
}

static void fill_starts(Evaluator *e, const DatasetItem *items, int n) {
    size_t bytes = latent_count(e) * sizeof *e->starts;
    if (e->start == START_TRUTH) { target_latents(e, items, n, e->starts); }
    if (e->start == START_IMAGE) { memcpy(e->starts, e->latents, (size_t)n * bytes); }
    for (int i = 0; e->start == START_MEAN && i < n; i++) {
        memcpy(e->starts + (size_t)i * latent_count(e), e->mean, bytes);
    }
}

// ---- predictions ---------------------------------------------------------------------------------------------------

// Noise depends only on picture and class, so that neither the batch nor a cap on the pairs changes a prediction: on
// the CPU not a bit, on a GPU by no more than rounding.
static uint64_t sample_id(const Pair *pair) { return (uint64_t)pair->image_id << 16 | (uint16_t)pair->category; }

// e->predictions for the loaded pairs with prompt set `set` (0: the model's own, else 1 + index).
static void predict(Evaluator *e, const DatasetItem *items, int n, int steps, int set) {
    uint64_t ids[n];
    int rows[n];
    for (int i = 0; i < n; i++) {
        ids[i] = sample_id(&items[i].pair);
        rows[i] = set * e->texts + items[i].pair.text;
    }
    contexts_gather(&e->contexts, e->context, rows, n, e->dev);
    fill_starts(e, items, n);
    sampler_ensemble(&e->sampler, e->predictions, e->latents, e->context, ids, n, steps, e->ensemble, e->seed, e->dev);
    want_finite(e, items, NULL);
}

// e->predictions = the true targets through the VAE, as from a perfect UNet.
static void reproduce_targets(Evaluator *e, const DatasetItem *items, int n) {
    float *latents = xmalloc((size_t)n * latent_count(e) * sizeof *latents);
    target_latents(e, items, n, latents);
    sampler_decode_latents(&e->sampler, e->predictions, latents, n, e->dev);
    want_finite(e, items, NULL);
    free(latents);
}

// ---- scoring -------------------------------------------------------------------------------------------------------

static PairScore score_mask(const DatasetItem *item, const uint8_t *mask) {
    PairScore score = pair_score(mask, item->truth, item->ignore, (int64_t)item->frame.width * item->frame.height);
    score.image_id = item->pair.image_id;
    score.class_index = item->pair.category;
    score.absent = item->pair.absent;
    return score;
}

// Extraction in the model's rectangle; mask (height, width) of the picture.
static PairScore score_picture(const DatasetItem *item, const float *picture, const float *input, const MaskRule *rule,
                               uint8_t *mask) {
    const Frame *f = &item->frame;
    uint8_t *model_mask = xmalloc((size_t)f->W * f->H);
    mask_extract(model_mask, picture, input, f->H, f->W, rule);
    frame_restore_mask(f, model_mask, mask);
    free(model_mask);
    return score_mask(item, mask);
}

int box_percent(int k) { return 20 + 10 * k; }

static void centre_box(uint8_t *mask, int width, int height, double share) {
    int w = (int)(width * share + 0.5), h = (int)(height * share + 0.5), x = (width - w) / 2, y = (height - h) / 2;
    memset(mask, 0, (size_t)width * height);
    for (int row = y; row < y + h; row++) { memset(mask + (size_t)row * width + x, 1, (size_t)w); }
}

// The scores that need no model.
static void score_floors(const DatasetItem *item, const float *input, Evaluation *v, int index) {
    const Frame *f = &item->frame;
    uint8_t *mask = xmalloc((size_t)f->width * f->height);
    MaskRule white = mask_rule_default(MASK_WHITENESS);
    v->scores[SCORE_WHITE][index] = score_picture(item, input, NULL, &white, mask);
    memset(mask, 1, (size_t)f->width * f->height);
    v->scores[SCORE_ALL_FOREGROUND][index] = score_mask(item, mask);
    if (item->all_objects) { v->scores[SCORE_ALL_OBJECTS][index] = score_mask(item, item->all_objects); }
    for (int k = 0; k < BOX_SIZES; k++) {
        centre_box(mask, f->width, f->height, box_percent(k) / 100.0);
        v->scores[SCORE_BOX + k][index] = score_mask(item, mask);
    }
    free(mask);
}

// FOLDER/IMAGE-TEXT.png, white where the class or phrase was found; FOLDER/IMAGE-TEXT-ITEM.png of shards, which may
// hold several crops of a picture, and where IMAGE is a text: shirt in x-t is not t-shirt in x.
static void save_mask(const char *folder, const Dataset *dataset, const DatasetItem *item, const uint8_t *mask) {
    char number[24];
    Image image = mask_image(mask, item->frame.width, item->frame.height);
    char *name = text_file_name(dataset_text(dataset, &item->pair));
    char *id = text_file_name(dataset_image_name(dataset, &item->pair, number));
    bool numbered = dataset->crops || dataset->coco.pictures[item->pair.item].id_name;
    char *ending = numbered ? xprintf("-%d", item->pair.item) : xstrdup("");
    char *path = xprintf("%s/%s-%s%s.png", folder, id, name, ending);
    image_save(&image, path);
    image_free(&image);
    free(path);
    free(ending);
    free(name);
    free(id);
}

// Extraction and scores of a batch. masks[i] (NULL: not needed) gets the predicted mask of pair i, which the caller
// frees.
static void score_batch(Evaluator *e, const DatasetItem *items, int n, Evaluation *v, int kind, int first,
                        uint8_t **masks) {
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) {
        const float *input = e->inputs + (size_t)i * picture_count(e);
        const float *prediction = e->predictions + (size_t)i * picture_count(e);
        uint8_t *mask = xmalloc((size_t)items[i].frame.width * items[i].frame.height);
        v->scores[kind][first + i] = score_picture(&items[i], prediction, input, &v->rule, mask);
        if (masks) {
            masks[i] = mask;
        } else {
            free(mask);
        }
    }
}

// The work done once for each pair, with the model's own prediction: floors, pictures for the report, mask files.
static void score_model(Evaluator *e, const Dataset *dataset, const DatasetItem *items, int n, Evaluation *v,
                        int first) {
    uint8_t *masks[n];
    score_batch(e, items, n, v, SCORE_MODEL, first, masks);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) { score_floors(&items[i], e->inputs + (size_t)i * picture_count(e), v, first + i); }
    for (int i = 0; i < n; i++) {
        const PairScore *score = &v->scores[SCORE_MODEL][first + i];
        size_t at = (size_t)i * picture_count(e);
        v->counted[first + i] = score->absent || score->truth > 0;
        if (!score->absent && score->truth > 0) {
            gallery_offer(&v->gallery, &items[i], e->inputs + at, e->predictions + at, masks[i], pair_iou(score),
                          v->seen[score->class_index]);
        }
        if (v->masks) { save_mask(v->masks, dataset, &items[i], masks[i]); }
        free(masks[i]);
    }
}

static void evaluate_batch(Evaluator *e, const Dataset *dataset, const DatasetItem *items, int n, Evaluation *v,
                           int first) {
    load(e, items, n);
    double started = now_seconds();
    predict(e, items, n, e->steps, 0);
    v->sampling_seconds += now_seconds() - started;
    score_model(e, dataset, items, n, v, first);
    for (int k = 0; k < v->table_count; k++) {
        PairScore *scores = v->scores[SCORE_STEPS + k] + first;
        if (v->table[k] == e->steps) {
            memcpy(scores, v->scores[SCORE_MODEL] + first, (size_t)n * sizeof *scores);
            continue;
        }
        predict(e, items, n, v->table[k], 0);
        score_batch(e, items, n, v, SCORE_STEPS + k, first, NULL);
    }
    for (int k = 0; k < v->prompt_set_count; k++) {
        predict(e, items, n, e->steps, 1 + k);
        score_batch(e, items, n, v, SCORE_PROMPTS + k, first, NULL);
    }
    reproduce_targets(e, items, n);
    score_batch(e, items, n, v, SCORE_CEILING, first, NULL);
}

void evaluate(Evaluator *e, const Dataset *dataset, Evaluation *v) {
    for (int kind = 0; kind < SCORE_KINDS; kind++) {
        bool beyond =
            kind < SCORE_PROMPTS ? kind >= SCORE_STEPS + v->table_count : kind >= SCORE_PROMPTS + v->prompt_set_count;
        if (beyond || (kind == SCORE_ALL_OBJECTS && dataset->crops)) { continue; }
        v->scores[kind] = xcalloc((size_t)v->count + 1, sizeof **v->scores);
    }
    v->counted = xcalloc((size_t)v->count + 1, sizeof *v->counted);
    double started = now_seconds();
    Progress progress = progress_begin("eval", "pairs", v->count, 0);
    DatasetItem *items = xcalloc((size_t)e->batch, sizeof *items);
    for (int first = 0, n; (n = read_batch(e, dataset, v->pairs, &v->count, first, items)) > 0;) {
        threads_adapt();
        evaluate_batch(e, dataset, items, n, v, first);
        for (int i = 0; i < n; i++) { dataset_item_free(&items[i]); }
        first += n;
        progress_update(&progress, first);
    }
    progress_end(&progress, v->count);
    dataset_want_pairs(dataset, v->count);
    v->seconds = now_seconds() - started;
    free(items);
}

void evaluation_free(Evaluation *v) {
    for (int kind = 0; kind < SCORE_KINDS; kind++) { free(v->scores[kind]); }
    free(v->counted);
    gallery_free(&v->gallery);
}

// ---- thresholds ----------------------------------------------------------------------------------------------------

static const float tolerances[] = {0.05f, 0.1f, 0.15f, 0.2f, 0.25f, 0.3f, 0.35f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f};
static const float changes[] = {0.02f, 0.04f, 0.06f, 0.08f, 0.1f, 0.13f, 0.16f, 0.2f, 0.25f, 0.3f};
enum { TOLERANCES = sizeof tolerances / sizeof *tolerances, CHANGES = sizeof changes / sizeof *changes };

static MaskRule grid_rule(const MaskRule *rule, int point) {
    MaskRule r = *rule;
    r.tolerance = tolerances[point % TOLERANCES];
    if (r.method == MASK_COMPARE) { r.changed = changes[point / TOLERANCES]; }
    return r;
}

// The best point of the grid by the mIoU, which it sets, over the pairs that count; *used gets their number.
static int best_point(const PairScore *scores, int points, int row, int count, int classes, int *used, double *miou) {
    bool *keep = xcalloc((size_t)count + 1, sizeof *keep);
    for (int i = 0; i < count; i++) { keep[i] = scores[i].truth > 0; }
    int best = 0;
    *miou = -1;
    for (int point = 0; point < points; point++) {
        Summary s = summarize(scores + (size_t)point * row, count, keep, classes, 0, 0);
        *used = s.pairs;
        if (s.miou > *miou) {
            *miou = s.miou;
            best = point;
        }
    }
    free(keep);
    return best;
}

double tune_rule(Evaluator *e, const Dataset *dataset, Pair *pairs, int *left, MaskRule *rule) {
    int count = *left; // the rows of scores; *left becomes smaller where pictures cannot be read
    int points = TOLERANCES * (rule->method == MASK_COMPARE ? CHANGES : 1);
    PairScore *scores = xmalloc(((size_t)points * count + 1) * sizeof *scores); // (points, count)
    DatasetItem *items = xcalloc((size_t)e->batch, sizeof *items);
    Progress progress = progress_begin("tune", "pairs", count, 0);
    for (int first = 0, n; (n = read_batch(e, dataset, pairs, left, first, items)) > 0;) {
        threads_adapt();
        load(e, items, n);
        predict(e, items, n, e->steps, 0);
#pragma omp parallel for schedule(dynamic)
        for (int job = 0; job < points * n; job++) {
            int point = job / n, i = job % n;
            const float *input = e->inputs + (size_t)i * picture_count(e);
            const float *prediction = e->predictions + (size_t)i * picture_count(e);
            MaskRule candidate = grid_rule(rule, point);
            uint8_t *mask = xmalloc((size_t)items[i].frame.width * items[i].frame.height);
            scores[(size_t)point * count + first + i] = score_picture(&items[i], prediction, input, &candidate, mask);
            free(mask);
        }
        for (int i = 0; i < n; i++) { dataset_item_free(&items[i]); }
        first += n;
        progress_update(&progress, first);
    }
    progress_end(&progress, *left);
    dataset_want_pairs(dataset, *left);
    double miou;
    *rule = grid_rule(rule, best_point(scores, points, count, *left, dataset->class_count, left, &miou));
    if (!*left) { die("%s: no pair has a true pixel, so that no thresholds can be chosen on them", dataset->where); }
    free(items);
    free(scores);
    return miou;
}
