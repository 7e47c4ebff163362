// The training loop: the same on every rank, and for every command that trains. A command (train/cmd_train.c,
// train/cmd_train_vae.c) opens a Trainer, makes a Task of what only it knows, and calls train.
#pragma once
#include "kernels/runtime/comm.h"
#include "train/checkpoint.h"
#include "train/step.h"

typedef struct {
    Trained trained;
    MicroStep *micro_step;                                // forward and backward
    void *model;                                          // the micro-step's
    void *owner;                                          // the functions' below
    void (*next_batch)(void *owner, Device *dev);         // what the next micro-step reads comes to the device
    void (*validate)(void *owner, int step, Device *dev); // after `step` steps; all ranks call it
    void (*describe)(void *owner, const char *folder, Device *dev); // rank 0: adds config.json, ... to a checkpoint
    size_t frozen_bytes, validation_bytes; // of weights that are not trained; of what a validation takes for itself
    long long samples;                     // of an epoch
    const char *vae_sha256;                // of the latents; NULL: there are none
} Task;

// Do not move an open Trainer: others keep pointers into it.
typedef struct {
    const TrainOptions *options;
    Comm comm;
    Device dev;
    RunLog log;
    Peaks peaks; // rank 0's; bytes_per_s 0: not measured
    // made by train
    Arena arena;
    Optimizer optimizer;
    Step step;
} Trainer;

// Meets the other ranks, opens the device and finds the checkpoint to go on from.
void trainer_open(Trainer *trainer, const TrainOptions *options);
void trainer_close(Trainer *trainer);
// Rank 0 measures its ceilings for the share of the roofline, unless --no-roofline is given: before a run's large
// allocations. A warning where too little memory is free.
void trainer_measure(Trainer *trainer);

// Plans the memory, which it prints, or dies with a sentence; then all steps, validations and checkpoints. Returns the
// exit code: 0, or 128 + signal after Ctrl-C, SIGTERM or SIGUSR1.
int train(Trainer *trainer, const Task *task);
