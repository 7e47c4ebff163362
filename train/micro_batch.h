// The size of a micro-batch where the user leaves it open.
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

// Sets o->train_batch_size and *m->B. With --train-batch-size 0, a step has 2 x --gradient-accumulation-steps samples
// on each rank, as with the size 2. On the CPU the size is 2; on a GPU it is the largest that divides these samples and
// fits the free memory of rank 0's GPU, and o->gradient_accumulation_steps becomes the number of such micro-batches.
// Noise and timesteps belong to the sample, so that only the rounding of sums depends on this choice. The weights of
// the model must already be on the device, its gradients not.
void micro_batch_choose(const MicroBatch *m, TrainOptions *o, Comm *comm, Device *dev);
