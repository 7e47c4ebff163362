// Results of an analysis of latents: a table for the terminal, latents.json, pairs.csv, latents.html and its pictures.
#pragma once
#include "eval/latents.h"
#include <stdio.h>

// What was analysed and how, for the record.
typedef struct {
    const char *model, *data, *split, *command, *device, *color;
    int resolution, latent_side;
    double alpha, outline;
    uint64_t seed;
    int resamples; // of the bootstrap
} LatentRecord;

// Writes all files into the folder and prints the table.
void latents_report(const LatentRecord *record, const LatentSample *samples, int count, const Coco *coco,
                    const char *folder);
