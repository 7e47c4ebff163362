// Checkpoints: OUT/checkpoint-000500/ is a complete pipeline directory (frozen parts are hard links) plus
//   trainer/state.json              step, samples, skipped steps, device, ranks, options
//   trainer/optimizer.safetensors   exp_avg, exp_avg_sq: flat arrays in the order of the weights, whatever the ranks
// It appears whole or not at all.
#pragma once
#include "model/pipeline.h"
#include "train/optimizer.h"

// What is trained: the parts of one module, which stand one behind the other in the optimizer's flat buffers.
typedef struct {
    const char *module;      // "unet" or "vae"
    const char *file;        // name of its weights file
    const Params *params[2]; // 1 or 2
    int count;
    const UNetConfig *unet_config; // one of both is not NULL
    const VAEConfig *vae_config;
} Trained;

// The newest complete checkpoint in `out` (to be freed) and its step, or NULL (step 0).
char *checkpoint_newest(const char *out, int *step);
// Writes OUT/checkpoint-STEP with links to the other parts of the model directory `base`, removes temporary leftovers
// and all but the newest checkpoints_total_limit ones. `extra` (may be NULL) adds files to the folder before it
// appears. Returns its path, to be freed. Step N of a run may be saved only once. With several ranks rank 0 calls it,
// and the others call checkpoint_help at the same time.
char *checkpoint_save(const TrainOptions *options, const char *base, int step, const Trained *trained,
                      const Optimizer *optimizer, void (*extra)(void *data, const char *folder), void *data,
                      Device *dev);
// What the other ranks do while rank 0 saves: they send it their parts of the optimizer's state, if it is sharded.
void checkpoint_help(const Trained *trained, const Optimizer *optimizer, Device *dev);
// At the start of a run: masters, where they differ from the weights, from the model's files and not from the weights,
// which are rounded.
void checkpoint_start(const char *model, const Trained *trained, Optimizer *optimizer, Device *dev);
// Masters (where they differ from the weights, which the pipeline has loaded), moments, EMA and skipped steps.
void checkpoint_load(const TrainOptions *options, const char *checkpoint, const Trained *trained, Optimizer *optimizer,
                     Device *dev);
// Removes all checkpoints of a run, and what a killed one left behind.
void checkpoint_remove_all(const char *out);
// OUT/model: the checkpoint's pipeline without trainer/, as hard links.
void checkpoint_publish(const char *checkpoint, const char *out);
