// The training loop, the same on every rank and for every command that trains. A command (train/cmd_train.c,
// train/cmd_train_vae.c) opens a Trainer, describes its own part in a Task, and calls train.
#pragma once
#include "kernels/runtime/comm.h"
#include "train/checkpoint.h"
#include "train/step.h"

typedef struct {
    Trained trained;
    MicroStep *micro_step;                                          // forward and backward
    void *model;                                                    // first argument of micro_step
    void *owner;                                                    // first argument of the functions below
    void (*next_batch)(void *owner, Device *dev);                   // brings the next micro-step's input to the device
    char *(*name_sample)(void *owner, long long position);          // of a position of the stream, to be freed
    void (*validate)(void *owner, int step, Device *dev);           // after `step` steps, on the rank that validates
    void (*describe)(void *owner, const char *folder, Device *dev); // rank 0: adds config.json, ... to a checkpoint
    bool validates;                                                 // this rank; the others wait for it
    const Params *frozen[2];                                        // models that are read only; NULL: none
    size_t validation_bytes;                                        // memory of a validation, without frozen weights
    long long samples;                                              // in an epoch
    const char *more_samples;                                       // how to get more; NULL: each draw is another crop
    Stream stream;                                                  // what they depend on
    const char *vae_sha256;                                         // of the latents' VAE; NULL: no latents
} Task;

// Do not move an open Trainer: other structs keep pointers into it.
typedef struct {
    const TrainOptions *options;
    Comm comm;
    Device dev;
    RunFolder run;
    RunLog log;
    Peaks peaks; // rank 0's; bytes_per_s 0: not measured
    // set by train
    Arena arena;
    float *grads; // NULL: the gradients lie in the arena
    Optimizer optimizer;
    Step step;
} Trainer;

// Meets the other ranks, opens the device and finds the checkpoint to continue from.
void trainer_open(Trainer *trainer, const TrainOptions *options);
void trainer_close(Trainer *trainer);
// Rank 0 measures its peaks for the roofline, unless --no-roofline is given. Call it before a run's large allocations.
// Warns if too little memory is free.
void trainer_measure(Trainer *trainer);

// Memory of the average of `total` trained parameters in a validation, in the type of the weights: on a rank that
// validates, and on those that gather its parts for it.
size_t average_bytes(const Trainer *trainer, size_t total, bool validates);

// Plans and prints the memory, and dies if there is too little; then runs all steps, validations and checkpoints.
// Returns the exit code: 0; 128 + signal after Ctrl-C, SIGTERM, SIGHUP or SIGUSR1; 1 after --skipped-steps-limit steps
// in a row whose loss or gradient is not finite, of which none is saved.
int train(Trainer *trainer, const Task *task);
