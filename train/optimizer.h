// The optimizer's state over the flat buffers: Adam's moments, fp32 masters, the moving average of the weights.
//
// With --zero 1 (ZeRO stage 1, Rajbhandari et al. 2020) rank r of n keeps them only for the r-th of n equal parts of
// the weights. It updates that part; an all-gather brings the other parts.
#pragma once
#include "kernels/runtime/comm.h"
#include "kernels/kernels.h"
#include "train/options.h"

typedef struct {
    Comm *comm;
    size_t total;        // elements of weights and grads
    size_t first, count; // this rank's part of the state: everything, or its shard
    bool sharded;
    floatX *weights;                     // (total) what the kernels read (owned by the model)
    float *grads;                        // (total) in the step's arena, or owned by the loop
    float *master;                       // (count) in fp32 builds the weights themselves
    float *m, *v;                        // (count) first and second moments
    float *ema;                          // (count) NULL without --ema-decay
    GradNorm *norm;                      // of the last step
    GradNorm *shard_norm;                // sharded: of this rank's part, without clipping
    float *norms;                        // sharded: norms of all parts
    StepScalars *scalars, *host_scalars; // (micro_steps + 1) on the device; (2, micro_steps + 1) pinned
    int micro_steps;
    int skipped;      // steps skipped because the gradient was not finite
    int last_skipped; // the latest of them, -1: none
} Optimizer;

// Masters and average start with the values of the weights.
Optimizer optimizer_create(const TrainOptions *options, Comm *comm, floatX *weights, float *grads, size_t total,
                           Device *dev);
void optimizer_destroy(Optimizer *optimizer, Device *dev);

typedef struct {
    size_t masters, moments, average;
} OptimizerBytes;
// The memory that optimizer_create takes for `total` parameters (of a shard, if the state is sharded).
OptimizerBytes optimizer_bytes(const TrainOptions *options, size_t total);
static inline size_t optimizer_all_bytes(OptimizerBytes b) { return b.masters + b.moments + b.average; }

// The number of the `total` elements whose state a rank keeps: all, or a shard. Dies if they cannot be divided equally.
size_t optimizer_part(const TrainOptions *options, const Comm *comm, size_t total);
// A sentence on what --zero 1 saves or would save, to be freed; NULL with one rank.
char *optimizer_note(const TrainOptions *options, const Comm *comm, size_t total);

// Learning rate of optimizer step `step` (from 0). With w = lr_warmup_steps, T = lr_total_steps, f = lr_final and
// x = (step - w) / (T - w), at most 1:
//   step < w      lr (step + 1) / w
//   exponential   lr f^x                                   Marigold's IterExponential
//   linear        lr (1 - (1 - f) x)
//   cosine        lr (f + (1 - f) (1 + cos(pi x)) / 2)
//   wsd           warm-up, stable, decay (Hu et al. 2024): lr, then a linear decay to lr f over the last lr_decay_share
//                 of the T steps
//   constant      lr
double learning_rate(const TrainOptions *options, int step);

// Sends the scalars of optimizer step `step` (from 0) to the device, for all its micro-steps: first_sample of
// micro-step k is positions[k]. It is one asynchronous copy; step - 2 must have arrived on the host.
void optimizer_begin(Optimizer *optimizer, const TrainOptions *options, int step, const uint64_t *positions,
                     Device *dev);
// Computes norm, update and moving average, and brings the new weights to all ranks. Call it after the last backward,
// when the gradient (of this rank's part) is the sum over the ranks.
void optimizer_update(Optimizer *optimizer, const TrainOptions *options, Device *dev);
// Counts step `step`, whose norm has arrived on the host, if it was skipped. Norms may arrive one step late: so the
// bias correction ignores whether the step just before was skipped, and a resumed run has the same numbers.
void optimizer_count(Optimizer *optimizer, int step, const GradNorm *norm);

// host (count) = elements [first, first + count) of master, m, v or ema, as if there were one rank. Only rank 0 gets
// them; the others pass NULL. If the state is sharded all ranks must call it.
void optimizer_fetch(const Optimizer *optimizer, const float *array, size_t first, size_t count, float *host,
                     Device *dev);
// The reverse: stores the part of host (count) that this rank keeps. Not collective.
void optimizer_store(const Optimizer *optimizer, float *array, size_t first, size_t count, const float *host,
                     Device *dev);
// weights (total) = the moving average in the type of the weights. If the state is sharded all ranks must call it.
void optimizer_average(const Optimizer *optimizer, floatX *weights, Device *dev);
