// Results of an analysis of the schedule's leak: tables for the terminal, leak.json, objects.csv and leak.html.
#pragma once
#include "eval/leak.h"
#include <stdio.h>

enum { MAX_SIGNALS = 8 };

// What was analysed and how, for the record.
typedef struct {
    const char *model, *data, *split, *command, *device, *color;
    int resolution, latent_side, resamples;
    double alpha, outline;
    double signal;   // a of the summaries
    double multires; // strength of the recipe's noise; at the last timestep of annealed noise: times (T - 1) / T
    double signals[MAX_SIGNALS];
    int signal_count;
    int match_cells; // side of the reference latent
    double match_contrast, match_signal;
    uint64_t seed;
} LeakRecord;

// Writes all files into the folder and prints the tables.
void leak_report(const LeakRecord *record, const LeakObject *objects, int count, const Coco *coco, const char *folder);
