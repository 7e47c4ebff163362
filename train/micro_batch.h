// The size and the number of micro-batches in a step, where the user leaves them open.
#pragma once
#include "kernels/runtime/comm.h"
#include "train/step.h"

typedef struct {
    MicroStep *micro_step;
    void *model;
    int *B;                                     // where the model keeps the size
    size_t parameters;                          // trained ones
    size_t (*others)(void *owner, Device *dev); // bytes of validation at size *B; may be NULL
    void *owner;
} MicroBatch;

// Samples of a step on each of `world` ranks. Without --gradient-accumulation-steps (0) a step has 32 samples on all
// ranks together; dies if these cannot be divided. With it, each rank has as many micro-batches of --train-batch-size,
// or of 2.
long long micro_batch_samples(const TrainOptions *options, int world);
// Sets o->train_batch_size, o->gradient_accumulation_steps and *m->B, and prints them. Where the size is open
// (--train-batch-size 0), it is on the CPU 2 (1 for an odd number of samples), and on a GPU the largest that divides
// the rank's samples and fits the free memory of rank 0's GPU.
// Noise and timesteps belong to the sample, so that only the rounding of sums depends on this choice. The weights of
// the model must already be on the device, its gradients not.
void micro_batch_choose(const MicroBatch *m, TrainOptions *o, Comm *comm, Device *dev);
