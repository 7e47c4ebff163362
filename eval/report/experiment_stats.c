// Statistics of an experiment's scores: IoU with intervals, contrasts between arms, collapse.
#include "eval/report/experiment.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool in_group(const Pairs *p, int pair, int group) { return group == GROUP_ALL || p->group[pair] == group; }

// Average of one run over the pairs of a group; times[image] says how often a picture was drawn (NULL: once each).
static double mean_score(const Pairs *p, const PairScore *scores, int group, Average average, const int *times) {
    double *sum = xcalloc((size_t)p->classes + 1, sizeof *sum),
           *weight = xcalloc((size_t)p->classes + 1, sizeof *weight);
    for (int i = 0; i < p->count; i++) {
        if (!in_group(p, i, group) || scores[i].absent != (average == FALSE_AREA)) { continue; }
        int w = times ? times[p->image[i]] : 1, c = average == CLASS_MEAN ? p->class_index[i] : 0;
        sum[c] += w * (average == FALSE_AREA ? scores[i].predicted / scores[i].valid : pair_iou(&scores[i]));
        weight[c] += w;
    }
    double mean = 0;
    int classes = 0;
    for (int c = 0; c < p->classes; c++) {
        if (weight[c] > 0) { mean += sum[c] / weight[c], classes++; }
    }
    free(sum);
    free(weight);
    return classes ? mean / classes : NAN;
}

double pairs_giou(const Pairs *p, const PairScore *scores, int group) {
    return mean_score(p, scores, group, GIOU, NULL);
}

// The pairs that a question is about, and a run's scores of them.
static const Pairs *pairs_of(const Experiment *e, int moment, Average average) {
    return average == FALSE_AREA ? &e->absent : moment < 0 ? &e->final : &e->validation;
}
static const PairScore *scores_of(const Experiment *e, const ArmRun *run, int moment, Average average) {
    if (average == FALSE_AREA) { return run->absent; }
    return moment < 0 ? run->final[moment - FINAL] : run->scores + (size_t)moment * (size_t)e->validation.count;
}

// Weighted sum over arms of the mean over their runs; with `random`, pictures and runs are drawn with replacement.
static double contrast(const Experiment *e, const double *weights, int moment, int group, Average average, int *times,
                       Random *random) {
    const Pairs *p = pairs_of(e, moment, average);
    if (random) {
        for (int i = 0; i < p->images; i++) { times[i] = 0; }
        for (int i = 0; i < p->images; i++) { times[random_below(random, (uint32_t)p->images)]++; }
    }
    double sum = 0;
    for (int a = 0; a < e->arm_count; a++) {
        if (weights[a] == 0) { continue; }
        const Arm *arm = &e->arms[a];
        double mean = 0;
        for (int k = 0; k < arm->run_count; k++) {
            int pick = random ? (int)random_below(random, (uint32_t)arm->run_count) : k;
            const PairScore *scores = scores_of(e, &arm->runs[pick], moment, average);
            mean += scores ? mean_score(p, scores, group, average, random ? times : NULL) : NAN;
        }
        sum += weights[a] * mean / arm->run_count;
    }
    return sum;
}

static Interval bootstrap(const Experiment *e, const double *weights, int moment, int group, Average average,
                          int resamples, uint64_t seed) {
    const Pairs *p = pairs_of(e, moment, average);
    Interval out = {contrast(e, weights, moment, group, average, NULL, NULL), NAN, NAN};
    int *times = xcalloc((size_t)p->images + 1, sizeof *times), count = 0;
    double *values = xmalloc(((size_t)resamples + 1) * sizeof *values);
    for (int r = 0; r < resamples && !isnan(out.value); r++) {
        Random random = random_begin(seed, PHILOX_BOOTSTRAP, 2, (uint64_t)r);
        double value = contrast(e, weights, moment, group, average, times, &random);
        if (!isnan(value)) { values[count++] = value; } // a resample may miss a small group altogether
    }
    if (count) {
        out.low = percentile(values, count, 0.025);
        out.high = percentile(values, count, 0.975);
    }
    free(times);
    free(values);
    return out;
}

Interval arm_average(const Experiment *e, int arm, int moment, int group, Average average, int resamples,
                     uint64_t seed) {
    double *weights = xcalloc((size_t)e->arm_count, sizeof *weights);
    weights[arm] = 1;
    Interval out = bootstrap(e, weights, moment, group, average, resamples, seed);
    free(weights);
    return out;
}

// ---- contrasts -----------------------------------------------------------------------------------------------------

bool distinguishable(Interval d) { return d.low > 0 || d.high < 0; }

// Takes ownership of the name. arms and signs: pairs of an arm's index and its weight, `terms` of them.
static int add_contrast(Contrasts *c, const Experiment *e, char *name, int terms, const int *arms,
                        const double *signs) {
    c->list = xrealloc(c->list, ((size_t)c->count + 1) * sizeof *c->list);
    Contrast *contrast = &c->list[c->count];
    *contrast = (Contrast){.name = name, .weights = xcalloc((size_t)e->arm_count, sizeof(double))};
    for (int i = 0; i < terms; i++) { contrast->weights[arms[i]] += signs[i]; }
    return c->count++;
}

static void add_interaction(Contrasts *c, const Experiment *e) {
    const int arms[4] = {experiment_arm(e, "overlay"), experiment_arm(e, "mask"), experiment_arm(e, "overlay+leak"),
                         experiment_arm(e, "mask+leak")};
    for (int i = 0; i < 4; i++) {
        if (arms[i] < 0) { return; }
    }
    add_contrast(c, e, xstrdup("what painting gains more with the leak than without"), 4, arms,
                 (const double[]){-1, 1, 1, -1});
}

// "mask+leading" against "mask": the arm without its last change; and overlay against mask with the same changes.
static void add_differences(Contrasts *c, const Experiment *e) {
    for (int a = 0; a < e->arm_count; a++) {
        const char *name = e->arms[a].name, *plus = strrchr(name, '+');
        char *without = plus ? xprintf("%.*s", (int)(plus - name), name) : NULL;
        char *bare = strncmp(name, "overlay", 7) == 0 ? xprintf("mask%s", name + 7) : NULL;
        const char *others[] = {bare, without};
        for (int k = 0; k < 2; k++) {
            int other = others[k] ? experiment_arm(e, others[k]) : -1;
            if (other < 0) { continue; }
            add_contrast(c, e, xprintf("%s - %s", name, others[k]), 2, (const int[]){a, other},
                         (const double[]){1, -1});
        }
        free(without);
        free(bare);
    }
}

Contrasts contrasts_of(const Experiment *e, int resamples, uint64_t seed) {
    Contrasts c = {.resamples = resamples, .seed = seed};
    add_interaction(&c, e);
    add_differences(&c, e);
    for (int i = 0; i < c.count; i++) {
        for (int g = 0; g < GROUPS; g++) {
            const double *weights = c.list[i].weights;
            c.list[i].giou[g] = bootstrap(e, weights, FINAL, g, GIOU, resamples, seed);
            c.list[i].class_mean[g] = bootstrap(e, weights, FINAL, g, CLASS_MEAN, resamples, seed);
        }
        c.list[i].false_area = bootstrap(e, c.list[i].weights, FINAL, GROUP_ALL, FALSE_AREA, resamples, seed);
    }
    return c;
}

void contrasts_free(Contrasts *c) {
    for (int i = 0; i < c->count; i++) {
        free(c->list[i].name);
        free(c->list[i].weights);
    }
    free(c->list);
}

const Contrast *contrast_named(const Contrasts *c, const char *name) {
    for (int i = 0; i < c->count; i++) {
        if (strcmp(c->list[i].name, name) == 0) { return &c->list[i]; }
    }
    return NULL;
}

// ---- failure and training loss -------------------------------------------------------------------------------------

// Final gIoU on listed classes of the first of two arms plus `weight` times that of the second.
static Interval listed_of(const Experiment *e, Arm arms[2], double weight, int resamples, uint64_t seed) {
    Experiment both = *e;
    both.arms = arms;
    both.arm_count = 2;
    return bootstrap(&both, (const double[]){1, weight}, FINAL, GROUP_LISTED, GIOU, resamples, seed);
}

// By pair, what a run's IoU gains from a start; NULL: it was not asked.
static PairScore *gains_of(const ArmRun *run, int start, int pairs) {
    const PairScore *with = run->final[start], *noise = run->final[START_NOISE];
    PairScore *gains = with ? xcalloc((size_t)pairs + 1, sizeof *gains) : NULL;
    for (int i = 0; with && i < pairs; i++) {
        gains[i] = (PairScore){.intersection = pair_iou(&with[i]) - pair_iou(&noise[i]), .union_ = 1};
        gains[i].absent = noise[i].absent;
    }
    return gains;
}

Interval start_gain(const Experiment *e, int arm, int start, int resamples, uint64_t seed) {
    int n = e->arms[arm].run_count;
    Arm arms[2] = {{.runs = xcalloc((size_t)n, sizeof(ArmRun)), .run_count = n}};
    for (int i = 0; i < n; i++) {
        arms->runs[i].final[START_NOISE] = gains_of(&e->arms[arm].runs[i], start, e->final.count);
    }
    Interval gain = listed_of(e, arms, 0, resamples, seed);
    for (int i = 0; i < n; i++) { free(arms->runs[i].final[START_NOISE]); }
    free(arms->runs);
    return gain;
}

// One run's final gIoU on listed classes, with its interval over pictures, and its difference to the best centre box.
static void compare_with_box(const Experiment *e, const ArmRun *run, int resamples, uint64_t seed, Failure *f) {
    ArmRun box = {.final[START_NOISE] = e->box};
    Arm arms[2] = {{.runs = (ArmRun *)run, .run_count = 1}, {.runs = &box, .run_count = 1}};
    f->listed = listed_of(e, arms, 0, resamples, seed);
    f->above_box = listed_of(e, arms, -1, resamples, seed);
}

Failure run_failure(const Experiment *e, const ArmRun *run, int resamples, uint64_t seed) {
    Failure f = {0};
    compare_with_box(e, run, resamples, seed, &f);
    int last = run->step_count - 1;
    for (int step = 0; step <= last; step++) {
        f.end = mean_score(&e->validation, scores_of(e, run, step, GIOU), GROUP_ALL, GIOU, NULL);
        f.peak = fmax(f.peak, f.end);
    }
    f.constant = last >= 0 ? run->empty[last] + run->full[last] : 0;
    f.collapsed = f.end < 0.5 * f.peak && f.constant >= 0.5;
    f.at_floor = f.above_box.low <= 0;
    f.known = !isnan(f.above_box.low);
    return f;
}

Failures failures_of(const Failure *runs, int count) {
    Failures sum = {.runs = count};
    for (int i = 0; i < count; i++) {
        bool failed = runs[i].at_floor || runs[i].collapsed;
        sum.failed += failed;
        sum.unknown += !failed && !runs[i].known;
    }
    return sum;
}

double arm_training_loss(const Experiment *e, int arm) {
    double sum = 0;
    int count = 0;
    for (int i = 0; i < e->arms[arm].run_count; i++) {
        const Curve *loss = &e->arms[arm].runs[i].curves.loss;
        for (int k = loss->count - loss->count / 5; k < loss->count; k++) {
            sum += loss->value[k];
            count++;
        }
    }
    return count ? sum / count : NAN;
}
