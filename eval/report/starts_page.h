// Results of an analysis of starts: a table for the terminal, starts.json, pictures.csv and starts.html.
#pragma once
#include "eval/starts.h"

// What was analysed and how, for the record.
typedef struct {
    const StartAnalysis *analysis;
    const char *command, *device;
    int left_out;  // pictures
    int resamples; // of the bootstrap
} StartRecord;

// Writes all files into the folder and prints the table.
void starts_report(const StartRecord *record, const StartItem *items, int count, const char *folder);
