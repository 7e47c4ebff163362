// The log of a training run, in its folder (train/run_folder.h): log.jsonl, TensorBoard, pictures and tables of
// validations, and what is printed. On ranks other than 0 the functions do nothing.
#pragma once
#include "data/image.h"
#include "train/run_folder.h"
#include "train/tensorboard.h"
#include "train/validate.h"
#include <stdio.h>

enum { LOSS_WINDOW = 10, LOSS_EXPLODES = 10 };

typedef struct {
    const RunFolder *run;
    double least_seconds;   // of a step by the roofline; 0: unknown
    const char *algorithms; // algorithms_chosen; NULL or "": none
    FILE *file;             // OUT/log.jsonl
    TensorBoard *board;
    double started, working;            // clock at the start; seconds in steps
    double losses[LOSS_WINDOW], lowest; // finite ones of the last steps; their lowest mean so far
    int loss_count;
    bool exploded; // the warning was given
} RunLog;

// Opens the files after run_folder_begin and writes the run's line: options, number of trained parameters, samples in
// an epoch, and the latents' VAE (NULL: no latents). The caller has set the first three fields.
void run_log_open(RunLog *log, long long parameters, long long samples, const char *vae_sha256);
void run_log_close(RunLog *log);

// Logs and prints the results of step `step` (1 = first), which have arrived. Warns once if the loss explodes: its mean
// over the last LOSS_WINDOW steps is LOSS_EXPLODES times the lowest such mean of this run.
void log_step(RunLog *log, int step, double loss, double grad_norm, double seconds);

// These write the line last: --resume does a validation again whose line is missing.
void log_validation(RunLog *log, int step, const Validation *validation);
// VAE: reconstruction loss, PSNR in dB (peak 2) and pictures.
void log_vae_validation(RunLog *log, int step, double loss, double psnr, const Image *sheet);
// Text to image: loss and drawn pictures.
void log_text_validation(RunLog *log, int step, double loss, const Image *sheet);
