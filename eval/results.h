// What an evaluation found: as a table for the terminal, as metrics.json and as pairs.csv.
#pragma once
#include "eval/evaluate.h"
#include <stdio.h>

// What was evaluated and how, for the record.
typedef struct {
    const char *model, *where, *protocol, *command, *device, *tuned_on, *start;
    const Schedule *schedule;
    bool ema;
    int resolution, steps, ensemble, tune_pairs, per_class, limit;
    double absent, tune_miou;
    uint64_t seed;
    int resamples; // of the bootstrap
} EvalRecord;

// One number of each kind for a group of pairs.
typedef struct {
    Summary model, ceiling, all_foreground, white, all_objects, box;
    AbsentSummary absent;
} GroupResult;

// Results of a prompt set over the classes that have such a name; own: the same pairs with the model's own prompts.
typedef struct {
    Summary seen, unseen, own_seen, own_unseen;
} PromptResult;

typedef struct {
    GroupResult seen, unseen, all, without_person;
    bool has_person, has_objects;
    double harmonic, harmonic_giou;
    AbsentSummary absent;
    int box; // best of the box sizes, chosen on the evaluated pairs themselves
    Summary steps_seen[MAX_STEPS_TABLE], steps_unseen[MAX_STEPS_TABLE];
    PromptResult prompts[MAX_PROMPT_SETS];
    GroupResult groups[MAX_GROUPS];
    Summary *classes, *class_ceilings; // (class_count), pairs 0 where the class was not asked for
} EvalResult;

EvalResult result_summarize(const Dataset *dataset, const Evaluation *evaluation, const EvalRecord *record);
void result_free(EvalResult *result);
void result_print(FILE *out, const EvalResult *result, const Dataset *dataset, const Evaluation *evaluation);
void result_write_json(const EvalResult *result, const Dataset *dataset, const Evaluation *evaluation,
                       const EvalRecord *record, const ModelSettings *settings, const char *path);
void result_write_pairs(const Dataset *dataset, const Evaluation *evaluation, const char *path);
