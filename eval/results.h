// What an evaluation found: metrics.json, from which terminal and page are made, and pairs.csv.
#pragma once
#include "eval/evaluate.h"
#include "util/json.h"

// What was evaluated and how, for the record.
typedef struct {
    const char *model, *where, *protocol, *command, *device, *tuned_on, *start;
    const Schedule *schedule;
    bool ema, tune_seen; // tune_seen: thresholds were chosen on seen classes
    int resolution, steps, ensemble, tune_pairs;
    PairOptions pairs;
    double tune_miou;
    int resamples; // of the bootstrap
} EvalRecord;

// metrics.json for json_write: the summaries of all groups of pairs, classes, numbers of steps and prompt sets, and the
// record.
yajl_gen result_json(const Dataset *dataset, const Evaluation *evaluation, const EvalRecord *record,
                     const ModelSettings *settings);
void result_write_pairs(const Dataset *dataset, const Evaluation *evaluation, const char *path);
void result_print(yajl_val metrics); // on stdout
