// One optimizer step, whatever is trained. The loop (train/loop.c) calls in this order:
//
//   step_begin         the step's scalars go to the device
//   step_micro_begin   once per micro-batch; if it says so, forward and backward (a MicroStep) follow; else they were
//                      recorded before, and it replays them
//   step_micro_end     the micro-batch's losses are kept. After the last one the gradient is summed over the ranks, a
//                      bucket at a time, while backward goes on
//   step_end           norm, update, and what is to be logged sets out for the host
//   step_print         one step later: loss and norm have arrived
//
// On a GPU a micro-step runs kernel by kernel the first time, is recorded the second time and replayed from then on.
// Communication stays outside of the graphs: the last micro-step is one graph for each bucket.
#pragma once
#include "kernels/runtime/comm.h"
#include "model/arena.h"
#include "model/params.h"
#include "train/optimizer.h"
#include "train/run_log.h"

// Forward and, with `backward`, backward of the micro-batch that `model` has on the device: losses (B), and gradients
// with beta 0 or 1.
typedef void MicroStep(void *model, Arena *arena, float *losses, const StepScalars *scalars, float beta, bool backward,
                       Device *dev);
// Bytes of arena that one with backward needs. No kernel runs; what it would launch goes to dev->trace.
size_t micro_step_bytes(MicroStep *micro_step, void *model, Device *dev);

// A recorded micro-step: graphs, each followed by the reduction of the gradients from element `from` on.
typedef struct {
    struct RecordedPart {
        DeviceGraph *graph;
        size_t from;
    } * parts;
    int count;
    bool warm; // it ran once: workspace and algorithms are there
} Recording;

// What comes back to the host from one step.
typedef struct {
    float *losses; // (world, micro_steps * B + 1) pinned
    GradNorm *norm;
    DeviceEvent *started, *arrived;
    int step; // 0: empty
} Report;

typedef struct {
    const TrainOptions *options;
    Comm *comm;
    Optimizer *optimizer;
    Params *params[2]; // whose backward tells how far it is
    int B, micro_steps;
    StepScalars *scalars; // (1) of the micro-step
    float *losses;        // (B) of the micro-step
    float *all_losses;    // (world, micro_steps * B + 1) of the step; the last of a row: the signal that stops the rank
    float *stop;          // (2) pinned, on its way there
    uint64_t *positions;  // (micro_steps) of the step
    size_t bucket;        // elements of the gradient that are worth a reduction
    size_t reduced;       // from here on the gradient is reduced, or about to be
    Recording recordings[2][2]; // [beta][the last one of several ranks]
    Recording *recording;       // being made
    void *workspace;            // when they were made
    Report reports[2];
    int stopped; // the signal, once all ranks know that one of them got it
    Device *dev;
} Step;

// params[1] may be NULL; they lie one behind the other in the optimizer's buffers.
Step step_create(const TrainOptions *options, Comm *comm, Optimizer *optimizer, Params *const params[2], Device *dev);
void step_destroy(Step *step, Device *dev);

void step_begin(Step *s, int step, Device *dev);
bool step_micro_begin(Step *s, int k, Device *dev);
void step_micro_end(Step *s, int k, Device *dev);
void step_end(Step *s, int step, Device *dev);
// Prints and logs what step `step` (from 0) sent, if that was not done yet.
void step_print(Step *s, RunLog *log, int step);
// 0, or the signal after which all ranks save and leave: the same after the same step on all of them.
int step_stopped(const Step *s);
