// The page about an experiment, and its numbers as JSON.
#pragma once
#include "eval/report/experiment.h"

typedef struct {
    const char *command;        // of this report
    const char *latents;        // latents.json of `cocogold analyze latents`, or NULL
    const char *leak;           // leak.json of `cocogold analyze leak`, or NULL
    const Experiment *words;    // {from scratch, pretrained} x {overlay, mask}, or NULL
    const Experiment *unscaled; // the 2 x 2 at Stable Diffusion's schedule and latent size, or NULL
    int resamples;              // of the bootstrap
    uint64_t seed;
} ExperimentRecord;

// Writes FOLDER/report.html and FOLDER/experiment.json and prints sentences and table.
void experiment_report(const Experiment *experiment, const ExperimentRecord *record, const char *folder);
