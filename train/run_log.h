// One training run and its folder:
//   OUT/log.jsonl        a line for the run, each step, each validation
//   OUT/tensorboard/     the same for TensorBoard
//   OUT/samples/         pictures of validations
//   OUT/validation/      every sample of every validation: step-N.csv, its losses step-N-losses.csv, and the
//                        predictions for the first six side by side, step-N.png, with input.png and truth.png
//   OUT/checkpoint-N/    train/checkpoint.h
//   OUT/model/           the last checkpoint as a plain model directory
// Only rank 0 writes and prints; on the others the functions that log do nothing.
#pragma once
#include "data/image.h"
#include "eval/metrics.h"
#include "kernels/runtime/comm.h"
#include "train/checkpoint.h"
#include "train/tensorboard.h"
#include <stdio.h>

enum { LOSS_WINDOW = 10, LOSS_EXPLODES = 10 };

typedef struct {
    const TrainOptions *options;
    char *checkpoint; // the newest: at first the resumed one, later the last one saved; NULL: none yet
    int first_step;   // steps that the resumed checkpoint has done
    int rank, world;
    double least_seconds;   // of a step by the roofline; 0: unknown
    const char *algorithms; // algorithms_chosen; NULL or "": none
    FILE *file;             // OUT/log.jsonl
    char *log_path;
    TensorBoard *board;
    double started, working;            // clock at the start; seconds in steps
    double losses[LOSS_WINDOW], lowest; // finite ones of the last steps; their lowest mean so far
    int loss_count;
    bool locked, exploded; // this process holds OUT; the warning was given
    bool validated;        // rank 0: the log has the validation of the resumed checkpoint
} RunLog;

// Finds the checkpoint to resume; then removes what killed runs left under temporary names, and writes nothing yet.
// Dies if OUT holds another run and neither --resume nor --overwrite is given, or a model but no checkpoint, if another
// command wrote the checkpoint, if --overwrite would delete what the run reads, or if a rank does not see the
// checkpoint that rank 0 sees. Collective.
RunLog run_log_open(const TrainOptions *options, Comm *comm);
void run_log_close(RunLog *log);
// The model directory that all parts come from, trained or not: the newest checkpoint, or --model.
const char *run_log_base(const RunLog *log);
// Makes the folder, deletes the old run if --overwrite is given, cuts the log back to the checkpoint and writes the
// run's line: options, number of trained parameters, samples in an epoch, and the latents' VAE (NULL: no latents). All
// ranks must have called run_log_open before.
void run_log_begin(RunLog *log, long long parameters, long long samples, const char *vae_sha256);
// At the end: makes OUT/model from the newest checkpoint, if all steps are done. It stays as it is if it has the
// weights of the checkpoint that was resumed, and no step was made.
void run_log_publish(const RunLog *log, const Trained *trained, int step);

// Logs and prints the results of step `step` (1 = first), which have arrived. Warns once if the loss explodes: its mean
// over the last LOSS_WINDOW steps is LOSS_EXPLODES times the lowest such mean of this run.
void log_step(RunLog *log, int step, double loss, double grad_norm, double seconds);

// A validation's result for one sample. to_black and to_white are mean squared distances of the predicted clean latent
// from that of an all-black or all-white picture: small if the model gives a constant answer.
typedef struct {
    PairScore score;
    const char *class_name;
    bool seen;
    double to_black, to_white;
} ValidationRow;

typedef struct {
    int sample, timestep;
    double loss;
} ValidationLoss;

typedef struct {
    double loss;                       // validation loss at fixed noise and timesteps
    Summary seen, unseen;              // IoU over the validation samples; unseen.pairs may be 0
    double empty, full;                // shares of all predictions
    double to_black, to_white;         // means over the samples
    Image sheet;                       // pictures; pixels NULL: none
    Image inputs, predictions, truths; // the first samples side by side
    ValidationRow *rows;               // (count)
    ValidationLoss *losses;            // (loss_count)
    int count, loss_count;
    int broken; // batches with a prediction that is NaN or infinite
} Validation;
// These write the line last: --resume does a validation again whose line is missing.
void log_validation(RunLog *log, int step, const Validation *validation);
// VAE: reconstruction loss, PSNR in dB (peak 2) and pictures.
void log_vae_validation(RunLog *log, int step, double loss, double psnr, const Image *sheet);
// Text to image: loss and drawn pictures.
void log_text_validation(RunLog *log, int step, double loss, const Image *sheet);
