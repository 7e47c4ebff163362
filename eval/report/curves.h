// A training run's log.jsonl as arrays, for curves.
#pragma once

typedef struct {
    double *step, *value;
    int count, capacity;
} Curve;

typedef struct {
    char *name;                                                 // the folder's name
    char *command;                                              // of the first start; NULL if the log does not say
    Curve loss;                                                 // training loss
    Curve validation_loss, miou_seen, miou_unseen, empty, full; // at validations
} RunCurves;

// FOLDER/log.jsonl. A last line that was cut off is left out; where a resumed run repeats steps, the later lines count.
// Dies with file and line number if a line is damaged.
RunCurves curves_read(const char *folder);
// The same; where it cannot be read, *why gets the sentence, to be freed, and there are no curves.
RunCurves curves_try_read(const char *folder, char **why);
void curves_free(RunCurves *run);
// Means over at most `points` stretches of equal length, for noisy curves; free with curve_free.
Curve curve_smooth(const Curve *curve, int points);
void curve_free(Curve *curve);
