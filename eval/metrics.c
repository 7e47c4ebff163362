#include "eval/metrics.h"
#include "eval/stats.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>

PairScore pair_score(const uint8_t *mask, const uint8_t *truth, const uint8_t *ignore, int64_t pixels) {
    int64_t both = 0, predicted = 0, wanted = 0, valid = 0;
    for (int64_t i = 0; i < pixels; i++) {
        int counts = !ignore || !ignore[i], m = counts && mask[i], t = counts && truth[i];
        both += m & t;
        predicted += m;
        wanted += t;
        valid += counts;
    }
    PairScore score = {.intersection = (double)both, .union_ = (double)(predicted + wanted - both)};
    score.predicted = (double)predicted;
    score.truth = (double)wanted;
    score.valid = (double)valid;
    score.object_share = valid ? score.truth / score.valid : 0;
    return score;
}

double pair_iou(const PairScore *score) { return score->union_ > 0 ? score->intersection / score->union_ : 1; }
bool pair_empty(const PairScore *score) { return score->predicted == 0; }
bool pair_full(const PairScore *score) { return score->valid > 0 && score->predicted >= 0.99 * score->valid; }

int object_size(double share) { return share < 0.02 ? OBJECT_SMALL : share < 0.15 ? OBJECT_MEDIUM : OBJECT_LARGE; }

double harmonic_mean(double seen, double unseen) {
    return seen + unseen == 0 ? 0 : 2 * seen * unseen / (seen + unseen);
}

// Sums of one class, from which its cIoU and gIoU follow.
typedef struct {
    double intersection, union_, iou;
    int pairs;
} ClassSums;

static void add_to_class(ClassSums *sums, const PairScore *score) {
    sums->intersection += score->intersection;
    sums->union_ += score->union_;
    sums->iou += pair_iou(score);
    sums->pairs++;
}

// Sets classes, miou, class_giou and giou.
static void class_means(Summary *s, const ClassSums *sums, int class_count) {
    int pairs = 0;
    s->classes = 0;
    s->miou = s->class_giou = s->giou = 0;
    for (int c = 0; c < class_count; c++) {
        if (sums[c].pairs == 0) { continue; }
        s->miou += sums[c].union_ > 0 ? sums[c].intersection / sums[c].union_ : 1;
        s->class_giou += sums[c].iou / sums[c].pairs;
        s->giou += sums[c].iou;
        pairs += sums[c].pairs;
        s->classes++;
    }
    s->miou = s->classes ? s->miou / s->classes : NAN;
    s->class_giou = s->classes ? s->class_giou / s->classes : NAN;
    s->giou = pairs ? s->giou / pairs : NAN;
}

static int by_image(const void *a, const void *b) {
    const PairScore *p = a, *q = b;
    return p->image_id != q->image_id ? (p->image_id < q->image_id ? -1 : 1) : p->class_index - q->class_index;
}

// Efron's percentile bootstrap. It draws pictures, not pairs, because the pairs of one picture are not independent.
static void bootstrap(Summary *s, PairScore *scores, int count, int class_count, int resamples, uint64_t seed) {
    qsort(scores, (size_t)count, sizeof *scores, by_image);
    int *first = xmalloc(((size_t)count + 1) * sizeof *first), pictures = 0;
    for (int i = 0; i < count; i++) {
        if (i == 0 || scores[i].image_id != scores[i - 1].image_id) { first[pictures++] = i; }
    }
    first[pictures] = count;
    double *miou = xmalloc((size_t)resamples * sizeof *miou), *giou = xmalloc((size_t)resamples * sizeof *giou);
    ClassSums *sums = xmalloc((size_t)class_count * sizeof *sums);
    for (int r = 0; r < resamples; r++) {
        Random random = random_begin(seed, PHILOX_BOOTSTRAP, 0, (uint64_t)r);
        for (int c = 0; c < class_count; c++) { sums[c] = (ClassSums){0, 0, 0, 0}; }
        for (int k = 0; k < pictures; k++) {
            int p = (int)random_below(&random, (uint32_t)pictures);
            for (int i = first[p]; i < first[p + 1]; i++) { add_to_class(&sums[scores[i].class_index], &scores[i]); }
        }
        Summary m;
        class_means(&m, sums, class_count);
        miou[r] = m.miou;
        giou[r] = m.giou;
    }
    s->miou_low = percentile(miou, resamples, 0.025);
    s->miou_high = percentile(miou, resamples, 0.975);
    s->giou_low = percentile(giou, resamples, 0.025);
    s->giou_high = percentile(giou, resamples, 0.975);
    free(first);
    free(miou);
    free(giou);
    free(sums);
}

// Everything that is a plain mean over pairs.
static void count_pairs(Summary *s, const PairScore *scores, int count) {
    double both = 0, either = 0, background = 0, not_both = 0, predicted = 0, truth = 0;
    for (int i = 0; i < count; i++) {
        const PairScore *p = &scores[i];
        double iou = pair_iou(p);
        for (int k = 0; k < 5; k++) { s->precision_at[k] += iou > 0.5 + 0.1 * k; }
        s->missed += iou < 0.1;
        predicted += p->predicted;
        truth += p->truth;
        s->empty += pair_empty(p);
        s->full += pair_full(p);
        both += p->intersection;
        either += p->union_;
        background += p->valid - p->union_;
        not_both += p->valid - p->intersection;
        int size = object_size(p->object_share);
        s->giou_of_size[size] += iou;
        s->pairs_of_size[size]++;
    }
    for (int k = 0; k < 5; k++) { s->precision_at[k] /= count; }
    s->missed /= count;
    s->area_ratio = truth > 0 ? predicted / truth : NAN;
    s->empty /= count;
    s->full /= count;
    s->ciou = count == 0 ? NAN : either > 0 ? both / either : 1;
    s->iou_bin = count == 0 ? NAN : (s->ciou + (not_both > 0 ? background / not_both : 1)) / 2;
    for (int k = 0; k < OBJECT_SIZES; k++) { s->giou_of_size[k] /= s->pairs_of_size[k]; }
}

Summary summarize(const PairScore *scores, int count, const bool *keep, int class_count, int resamples, uint64_t seed) {
    PairScore *kept = xmalloc(((size_t)count + 1) * sizeof *kept);
    ClassSums *sums = xcalloc((size_t)class_count + 1, sizeof *sums);
    Summary s = {.miou_low = NAN, .miou_high = NAN, .giou_low = NAN, .giou_high = NAN};
    for (int i = 0; i < count; i++) {
        if (scores[i].absent || (keep && !keep[i])) { continue; }
        kept[s.pairs++] = scores[i];
        add_to_class(&sums[scores[i].class_index], &scores[i]);
    }
    class_means(&s, sums, class_count);
    count_pairs(&s, kept, s.pairs);
    if (resamples > 0 && s.pairs > 0) { bootstrap(&s, kept, s.pairs, class_count, resamples, seed); }
    free(kept);
    free(sums);
    return s;
}

AbsentSummary summarize_absent(const PairScore *scores, int count, const bool *keep) {
    AbsentSummary s = {0, 0, 0};
    for (int i = 0; i < count; i++) {
        if (!scores[i].absent || (keep && !keep[i])) { continue; }
        s.pairs++;
        s.empty += pair_empty(&scores[i]);
        s.false_area += scores[i].valid > 0 ? scores[i].predicted / scores[i].valid : 0;
    }
    s.empty /= s.pairs;
    s.false_area /= s.pairs;
    return s;
}
