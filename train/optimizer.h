// The optimizer's state over the flat buffers: Adam's moments, fp32 masters, the moving average of the weights.
#pragma once
#include "kernels/kernels.h"
#include "train/options.h"

typedef struct {
    size_t total;                        // elements of every buffer below
    floatX *weights;                     // what the kernels read (owned by the model)
    float *grads;                        // (owned by the model)
    float *master;                       // fp32 builds: the weights themselves
    float *m, *v;                        // first and second moments
    float *ema;                          // NULL without --ema-decay
    GradNorm *norm;                      // of the last step
    StepScalars *scalars, *host_scalars; // (micro_steps) on the device and pinned
    int micro_steps;
    int skipped;      // steps left out because the gradient was not finite
    int last_skipped; // the latest of them, -1: none
} Optimizer;

Optimizer optimizer_create(const TrainOptions *options, floatX *weights, float *grads, size_t total, Device *dev);
void optimizer_destroy(Optimizer *optimizer, Device *dev);
// Bytes for masters, moments and EMA that optimizer_create takes for `total` parameters: {masters, moments, ema}.
void optimizer_bytes(const TrainOptions *options, size_t total, size_t bytes[3]);

// The scalars of optimizer step `step` (from 0) for all its micro-steps: first_sample of micro-step k is
// positions[k]. One asynchronous copy.
void optimizer_begin(Optimizer *optimizer, const TrainOptions *options, int step, const uint64_t *positions,
                     Device *dev);
// After the last backward: gradient norm, update, moving average.
void optimizer_update(Optimizer *optimizer, const TrainOptions *options, Device *dev);
// Counts step `step`, whose norm has arrived on the host. Norms may arrive one step late: the bias correction of a step
// knows of the skipped steps up to the last but one, early or late, so that a resumed run has the same numbers.
void optimizer_count(Optimizer *optimizer, int step, const GradNorm *norm);
