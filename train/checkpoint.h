// Checkpoints: OUT/checkpoint-000500/ is a complete pipeline directory (frozen parts are hard links) plus
//   trainer/state.json              command, step, samples, skipped steps, device, ranks, options
//   trainer/optimizer.safetensors   exp_avg, exp_avg_sq: flat arrays in the order of the weights, whatever the ranks
// It appears whole or not at all.
#pragma once
#include "model/pipeline.h"
#include "train/optimizer.h"

// What is trained: the parts of one module, which stand one behind the other in the optimizer's flat buffers.
typedef struct {
    const char *module; // "unet" or "vae"
    Params *params[2];  // 1 or 2
    int count;
} Trained;

// The newest complete checkpoint in `out` (to be freed) and its step, or NULL (step 0).
char *checkpoint_newest(const char *out, int *step);
// A new checkpoint, in two halves.
// checkpoint_write, called by all ranks, writes it under a temporary name, with links to the other parts of the model
// directory `base`, and returns its folder, to which the caller adds what else belongs to the trained module
// (config.json). On ranks other than 0, which send their parts of the state if it is sharded, the result is NULL.
// checkpoint_commit, for rank 0 alone, lets it appear as OUT/checkpoint-STEP, removes temporary leftovers and all but
// the newest checkpoints_total_limit ones, frees `work` and returns the path, to be freed. Step N of a run may be saved
// only once.
char *checkpoint_write(const TrainOptions *options, const char *base, int step, const Trained *trained,
                       const Optimizer *optimizer, Device *dev);
char *checkpoint_commit(const TrainOptions *options, int step, char *work);
// At the start of a run: masters, where they differ from the weights, from the model's files and not from the weights,
// which are rounded.
void checkpoint_start(const char *model, const Trained *trained, Optimizer *optimizer, Device *dev);
// Dies if the checkpoint is one of another command than this ("train", "train-vae").
void checkpoint_check_command(const char *command, const char *checkpoint);
// Masters (where they differ from the weights, which the pipeline has loaded), moments, EMA and skipped steps.
void checkpoint_load(const TrainOptions *options, const char *checkpoint, const Trained *trained, Optimizer *optimizer,
                     Device *dev);
// Removes all checkpoints of a run, and what a killed one left behind.
void checkpoint_remove_all(const char *out);
// OUT/model: the checkpoint's pipeline without trainer/, as hard links.
void checkpoint_publish(const char *checkpoint, const char *out);
