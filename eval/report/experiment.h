// An experiment: arms that differ in what they change, several runs (seeds) each, validated on the same samples with
// the same noise. Written by train/experiments/failure_and_fix.sh:
//   ARMS/NAME/seed-N/arm.json                   what the arm is
//   ARMS/NAME/seed-N/log.jsonl, validation/     of `cocogold train`
//   ARMS/NAME/seed-N/{noise,truth,mean,image}/  of `cocogold eval --start ...` with the final model (all but noise may
//                                               be missing)
//   ARMS/NAME/seed-N/absent/                    the same for samples that ask for a class that is not there (may be
//                                               missing)
#pragma once
#include "eval/evaluate.h"
#include "eval/report/curves.h"
#include "eval/stats.h"
#include <stdbool.h>

// Groups of classes. Listed: trained in every arm. New words: classes with a word that no training text has. Held out:
// the other classes that are not trained.
enum { GROUP_LISTED, GROUP_HELD_OUT, GROUP_NEW_WORDS, GROUP_FREQUENT, GROUP_ALL, GROUPS };
extern const char *const group_names[GROUPS]; // "listed classes", ...

enum { TIMESTEP_BINS = 10, TRAINED_TIMESTEPS = 1000, STARTS = 4 };

// Scores of one list of pairs; the same list in every run of an experiment.
typedef struct {
    int count, classes, images;       // pairs; numbers of different classes and pictures
    int *group, *class_index, *image; // (count) GROUP_..., and running numbers
    char **class_names;               // (classes)
} Pairs;

typedef struct {
    char *folder;
    int seed;
    RunCurves curves;
    int step_count, *steps;                     // validations
    PairScore *scores;                          // (step_count, validation pairs)
    double *to_black, *to_white, *empty, *full; // (step_count) means over the pairs
    double (*by_timestep)[TIMESTEP_BINS]; // (step_count) mean validation loss in a tenth of the timesteps; NaN: none
    PairScore *final[STARTS];             // (final pairs) by the final model from each Start; NULL: was not asked
    PairScore *absent;                    // (absent pairs), by the final model; NULL: was not asked
    double ceiling[GROUPS];               // gIoU of the true targets through the VAE
} ArmRun;

typedef struct {
    char *name, *target, *classes; // "mask+leak", "mask", "without"
    double signal;                 // terminal signal of its schedule: sqrt(alphas_cumprod) at the last timestep
    ArmRun *runs;
    int run_count;
} Arm;

typedef struct {
    char *frequent, *new_words; // name of the frequent class; words separated by commas, or NULL
    Arm *arms;                  // overlay before mask, then by name
    int arm_count;
    Pairs validation, final, absent; // absent: classes that are not in the picture
    double floors[3][GROUPS];        // gIoU of all foreground, best centre box, white filter on the input; NaN: unknown
    PairScore *box; // (final pairs) of the centre box that is the best on listed classes; NULL: there are no such pairs
} Experiment;
enum { FLOOR_ALL_FOREGROUND, FLOOR_CENTRE_BOX, FLOOR_WHITE };
extern const char *const floor_names[3];

// Dies where a run is unfinished or was validated on other pairs than the first, with the folder's name.
Experiment experiment_read(const char *arms_folder);
void experiment_free(Experiment *experiment);
// The arm of that name, or -1.
int experiment_arm(const Experiment *experiment, const char *name);
// True if the experiment's final pairs have one of this group.
bool experiment_has_group(const Experiment *experiment, int group);

// GIOU averages IoU over pairs. CLASS_MEAN averages over classes the mean over each class's pairs. FALSE_AREA is the
// share of the picture that final models mark when asked for absent classes.
typedef enum { GIOU, CLASS_MEAN, FALSE_AREA } Average;

// What is averaged: a validation of the runs (its index), or the final models sampled from a start (FINAL + Start).
enum { FINAL = -STARTS };

double pairs_giou(const Pairs *pairs, const PairScore *scores, int group); // of one list of scores; NaN: no pair
// Average of an arm's runs, mean over runs, with the 95% interval of a bootstrap over pictures and, if there is more
// than one, over runs. moment: a validation's index, or FINAL + a Start.
Interval arm_average(const Experiment *e, int arm, int moment, int group, Average average, int resamples,
                     uint64_t seed);
// Final gIoU of an arm on listed classes from a start minus that from noise.
Interval start_gain(const Experiment *e, int arm, int start, int resamples, uint64_t seed);
// Mean training loss of an arm's runs over the last fifth of the steps; NaN if the logs have none.
double arm_training_loss(const Experiment *e, int arm);

// A comparison: a weighted sum of the arms' final IoU.
typedef struct {
    char *name;      // "overlay - mask"
    double *weights; // (arm_count)
    Interval giou[GROUPS], class_mean[GROUPS], false_area;
} Contrast;
typedef struct {
    Contrast *list;
    int count, resamples; // of the bootstrap
    uint64_t seed;
} Contrasts;

// Every arm with a change against the same arm without its last one, every overlay arm against the mask with the same
// changes, and the interaction of target and leak if the arms of that 2 x 2 are there. Bootstrap: pictures are drawn
// for all arms together, runs within each arm. Free with contrasts_free.
Contrasts contrasts_of(const Experiment *e, int resamples, uint64_t seed);
void contrasts_free(Contrasts *contrasts);
// The comparison of that name, or NULL.
const Contrast *contrast_named(const Contrasts *contrasts, const char *name);
bool distinguishable(Interval difference); // zero is outside the interval

// A run has failed if its final gIoU on listed classes is not distinguishably above that of the best centre box (the
// interval of the difference by pair reaches down to zero; where the box's pairs are unknown, the run's interval to the
// box), or if its gIoU over all pairs ends below half its peak while at least half of its predictions are empty or
// full.
typedef struct {
    double peak, end, constant; // constant: share of empty and full predictions at the end
    Interval listed, above_box; // of the final model
    bool at_floor, collapsed;   // the two rules
    bool known;                 // false: there are no listed pairs, so that the first rule cannot be applied
} Failure;
Failure run_failure(const Experiment *e, const ArmRun *run, int resamples, uint64_t seed);

// Numbers of an arm's runs.
typedef struct {
    int failed, unknown, runs; // unknown: those of the others of which it cannot be told
} Failures;
Failures failures_of(const Failure *runs, int count);
