// What the parts of an experiment's page are made from, and those parts: tables and figures of one experiment.
#pragma once
#include "eval/report/experiment_page.h"
#include <stdio.h>

typedef struct {
    const Experiment *e;
    int resamples;
    uint64_t seed;
    Interval (*giou)[GROUPS], (*class_mean)[GROUPS], *false_area; // (arm_count) of the final models
    Interval (*starts)[STARTS]; // (arm_count) gIoU on listed classes by the start of sampling
    Failure **run_failures;     // (arm_count, runs)
    Failures *failures;         // (arm_count)
    Contrasts contrasts;
} Findings;

Findings findings_of(const Experiment *e, int resamples, uint64_t seed);
void findings_free(Findings *f);

// Conclusions, by fixed rules that know nothing of the expected outcome. words: of another experiment, {from scratch,
// pretrained} x {overlay, mask}, or NULL; unscaled: of the 2 x 2 at another size, or NULL.
typedef struct {
    char **list;
    int count;
} Sentences;
Sentences experiment_sentences(const Findings *f, const Findings *words, const Findings *unscaled);
void sentences_free(Sentences *sentences);

// "1 of 3", or a dash where it cannot be told.
const char *failures_text(Failures failures, char buffer[48]);

// Tables. id: of the heading, which `title` is the text of.
void arms_table(FILE *out, const Findings *f, const char *id, const char *title);
void contrasts_table(FILE *out, const Findings *f);
void starts_table(FILE *out, const Findings *f); // nothing unless other starts were asked for

// gIoU over training for each group of classes that the experiment has. prefix: of the figures' ids.
void group_curves(FILE *out, const Findings *f, const char *prefix);
// Shares of empty and full predictions, losses, distances to constant answers.
void diagnostic_curves(FILE *out, const Findings *f);
// gIoU over the terminal signal, with the evidence of leak.json (may be NULL) as a second axis; nothing where fewer
// than three signals were tried.
void dose_figure(FILE *out, const Findings *f, const char *leak);
// What the final models of the arms in `names` (NULL-terminated) draw for the same samples.
void final_strips(FILE *out, const Experiment *e, const char *const *names);
// The same samples at every checkpoint, for each arm.
void filmstrips(FILE *out, const Experiment *e);
