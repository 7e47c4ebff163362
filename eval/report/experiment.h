// An experiment: arms that differ in what they change, several runs (seeds) each, validated on the same samples with
// the same noise. Written by train/experiments/failure_and_fix.sh:
//   ARMS/NAME/seed-N/arm.json             what the arm is
//   ARMS/NAME/seed-N/log.jsonl, validation/   of `cocogold train`
//   ARMS/NAME/seed-N/eval/                of `cocogold eval`: all validation samples with the final model
//   ARMS/NAME/seed-N/absent/              the same for samples that ask for a class that is not there (may be missing)
#pragma once
#include "eval/metrics.h"
#include "eval/report/runlog.h"
#include "eval/stats.h"
#include <stdbool.h>

// Groups of classes. The short list is what arms without the frequent class are trained on.
enum { GROUP_LISTED, GROUP_HELD_OUT, GROUP_FREQUENT, GROUP_ALL, GROUPS };
extern const char *const group_names[GROUPS]; // "listed classes", ...

enum { TIMESTEP_BINS = 10, TRAINED_TIMESTEPS = 1000 };

// Scores of one list of pairs; the same list in every run of an experiment.
typedef struct {
    int count, classes, images;       // pairs; numbers of different classes and pictures
    int *group, *class_index, *image; // (count) GROUP_..., and running numbers
    char **class_names;               // (classes)
} Pairs;

typedef struct {
    char *folder;
    int seed;
    RunLog log;
    int step_count, *steps;                     // validations
    PairScore *scores;                          // (step_count, validation pairs)
    double *to_black, *to_white, *empty, *full; // (step_count) means over the pairs
    double (*by_timestep)[TIMESTEP_BINS]; // (step_count) mean validation loss in a tenth of the timesteps; NaN: none
    PairScore *final;                     // (final pairs), by the final model
    PairScore *absent;                    // (absent pairs), by the final model; NULL: was not asked
    double ceiling[GROUPS];               // gIoU of the true targets through the VAE
} ArmRun;

typedef struct {
    char *name, *target, *classes; // "mask+frequent", "mask", "with"
    ArmRun *runs;
    int run_count;
} Arm;

typedef struct {
    char *frequent; // name of the frequent class
    Arm *arms;      // overlay before mask, then by name
    int arm_count;
    Pairs validation, final, absent; // absent: classes that are not in the picture
    double floors[3][GROUPS];        // gIoU of all foreground, best centre box, white filter on the input; NaN: unknown
} Experiment;
extern const char *const floor_names[3];

// Dies where a run is unfinished or was validated on other pairs than the first, with the folder's name. `smallest`
// runs of an arm are not enough for an interval over seeds; that is said in the report, not here.
Experiment experiment_read(const char *arms_folder);
void experiment_free(Experiment *experiment);
// The arm of that name, or -1.
int experiment_arm(const Experiment *experiment, const char *name);

// GIOU averages IoU over pairs. CLASS_MEAN averages over classes the mean over each class's pairs. FALSE_AREA is the
// share of the picture that final models mark when asked for absent classes.
typedef enum { GIOU, CLASS_MEAN, FALSE_AREA } Average;

// Average of an arm's runs at one validation (index `step`) or of the final models (step -1), mean over runs, with the
// 95% interval of a bootstrap over pictures and, if there is more than one, over runs.
Interval arm_average(const Experiment *e, int arm, int step, int group, Average average, int resamples, uint64_t seed);

// A comparison: a weighted sum of the arms' final IoU.
typedef struct {
    char *name;      // "overlay instead of mask"
    double *weights; // (arm_count)
    Interval giou[GROUPS], class_mean[GROUPS], false_area;
} Contrast;
typedef struct {
    Contrast *list;
    int count;
    int target, classes, interaction; // of the 2 x 2, indices into the list; -1 where an arm is missing
} Contrasts;

// The 2 x 2's two effects (each the mean over both settings of the other axis) and their interaction, if its four arms
// are there; then every arm with a change against the same arm without it. Bootstrap: pictures are drawn for all arms
// together, runs within each arm. Free with contrasts_free.
Contrasts contrasts_of(const Experiment *e, int resamples, uint64_t seed);
void contrasts_free(Contrasts *contrasts);
bool distinguishable(Interval difference); // zero is outside the interval

// A run has collapsed if its gIoU over all pairs ends below half its peak while at least half of its predictions are
// empty or full.
typedef struct {
    double peak, end, constant; // constant: share of empty and full predictions at the end
    bool collapsed;
} Collapse;
Collapse run_collapse(const Experiment *e, const ArmRun *run);
int arm_collapses(const Experiment *e, int arm); // number of its runs that collapsed

// Conclusions from the experiment's numbers, by fixed rules; *count gets the number of sentences. Free each sentence
// and the list.
char **experiment_sentences(const Experiment *e, const Contrasts *contrasts, int *count);
