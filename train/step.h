// One optimizer step of any model. The loop (train/loop.c) calls in this order:
//
//   step_begin         sends the step's scalars to the device
//   step_micro_begin   once per micro-batch: replays forward and backward if they were recorded; else it returns true,
//                      and the caller runs them (a MicroStep)
//   step_micro_end     keeps the micro-batch's losses. In the last micro-step, while backward continues, each gradient
//                      bucket is summed over the ranks as soon as it is final; step_micro_end sums the rest
//   step_end           norm and update; starts the copy of losses and norm to the host
//   step_print         one step later: prints and logs loss and norm, which have arrived. Names a sample whose loss is
//                      not finite
//
// On a GPU a micro-step runs kernel by kernel the first time, is recorded the second time and replayed from then on.
// Communication stays outside the graphs: the last micro-step has one graph for each bucket.
#pragma once
#include "kernels/runtime/comm.h"
#include "model/arena.h"
#include "model/params.h"
#include "train/optimizer.h"
#include "train/run_log.h"

// Runs forward, and with `backward` also backward, on the micro-batch that `model` has on the device: losses (B), and
// gradients with beta 0 or 1.
typedef void MicroStep(void *model, Arena *arena, float *losses, const StepScalars *scalars, float beta, bool backward,
                       Device *dev);
// A micro-step with backward, measured: arena_planned says its bytes. `grads` gradients from PLAN_POINTER on lie in the
// arena, or 0. No kernel runs; dev->trace gets what would be launched.
Arena micro_step_plan(MicroStep *micro_step, void *model, size_t grads, Device *dev);
// Of `parameters` gradients those that lie in the arena: all if a step has one micro-batch, else none.
size_t grads_in_arena(int micro_steps, size_t parameters);

// A recorded micro-step: graphs, each followed by the reduction of the gradients from element `from` on.
typedef struct {
    struct RecordedPart {
        DeviceGraph *graph;
        size_t from;
    } * parts;
    int count;
    bool warm; // it ran once: workspace and algorithms exist
} Recording;

// The results of one step on the host.
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
    Params *params[2]; // whose backward reports final gradients
    int B, micro_steps;
    StepScalars *scalars; // (1) of the micro-step
    float *losses;        // (B) of the micro-step
    float *all_losses;    // (world, micro_steps * B + 1) of the step; last in a row: the signal that stops the rank
    float *stop;          // (2) pinned: the signal, as sent to all_losses
    uint64_t *positions;  // (micro_steps) of the step
    size_t bucket;        // least elements of the gradient in one reduction
    size_t reduced;       // from this element on the gradient is being reduced
    Recording recordings[2][2]; // [beta][1: the last micro-step, with several ranks]
    Recording *recording;       // being made
    void *workspace;            // the workspace that they use
    Report reports[2];
    int stopped; // the signal, once all ranks know that one rank got it
    int bad;     // steps in a row, up to the last one printed, whose losses or gradient are not finite
    Device *dev;
    // The name of a stream position, to be freed; set by the loop.
    char *(*name_sample)(void *owner, long long position);
    void *owner;
} Step;

// params[1] may be NULL. Both lie one after the other in the optimizer's buffers.
Step step_create(const TrainOptions *options, Comm *comm, Optimizer *optimizer, Params *const params[2], Device *dev);
void step_destroy(Step *step, Device *dev);

void step_begin(Step *s, int step, Device *dev);
bool step_micro_begin(Step *s, int k, Device *dev);
void step_micro_end(Step *s, int k, Device *dev);
void step_end(Step *s, int step, Device *dev);
// Prints and logs the results of step `step` (from 0), if not done yet.
void step_print(Step *s, RunLog *log, int step);
// 0, or the signal after which all ranks save and exit. All ranks get the same value after the same step.
int step_stopped(const Step *s);
