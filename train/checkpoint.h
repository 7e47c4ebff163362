// Checkpoints: OUT/checkpoint-000500/ is a complete pipeline directory (frozen parts are hard links) plus
//   trainer/state.json              command, step, samples, skipped steps, device, ranks, options, stream of samples
//   trainer/optimizer.safetensors   exp_avg, exp_avg_sq: flat arrays in the order of the list of weights, never sharded
//   trainer/sha256.txt              digests of its files (train/digests.h)
// A checkpoint appears complete or not at all.
#pragma once
#include "model/pipeline.h"
#include "train/optimizer.h"
#include "train/stream.h"

// What is trained: one or two models, one after the other in the optimizer's flat buffers.
typedef struct {
    const char *modules[3]; // each one's folder ("unet"), NULL-terminated; {"vae", "vae"}: both are in one file
    Params *params[2];
    int count;
} Trained;

// The newest complete checkpoint in `out` (to be freed) and its step, or NULL (step 0).
char *checkpoint_newest(const char *out, int *step);
// Something in `out` with a checkpoint's name that no run wrote (to be freed), or NULL.
char *checkpoint_other(const char *out);
// A new checkpoint takes two calls.
// All ranks call checkpoint_write. It writes the checkpoint under a temporary name, with links to the other parts of
// the model directory `base` and a copy of its cocogold.json, and returns the folder. The caller adds the trained
// modules' other files (config.json). On ranks other than 0 the result is NULL; they send their parts of the state if
// it is sharded. Only rank 0 calls checkpoint_commit. It writes the digests, renames the folder to OUT/checkpoint-STEP,
// removes all but the newest checkpoints_total_limit checkpoints unless keep_all is set, frees `work` and returns the
// path, to be freed. Step N of a run may be saved only once.
char *checkpoint_write(const TrainOptions *options, const Stream *stream, const char *base, int step,
                       const Trained *trained, const Optimizer *optimizer, Device *dev);
char *checkpoint_commit(const TrainOptions *options, int step, char *work, bool keep_all);
// At the start of a run: reads the masters from the model's files, because the weights are rounded, and starts the
// EMA from them. Does nothing if the masters are the weights.
void checkpoint_start(const char *model, const Trained *trained, Optimizer *optimizer, Device *dev);
// Dies if a command other than `command` ("train", "train-vae", "pretrain") wrote the checkpoint.
void checkpoint_check_command(const char *command, const char *checkpoint);
// Loads masters (if they are not the weights, which the pipeline has loaded), moments, EMA and skipped steps. Dies if
// the run has other options or another stream of samples.
void checkpoint_load(const TrainOptions *options, const Stream *stream, const char *checkpoint, const Trained *trained,
                     Optimizer *optimizer, Device *dev);
// Dies if a file of the newest checkpoint is not as it was written, naming it and the newest one that is whole.
void checkpoint_want_whole(const char *out);
// Removes all checkpoints of a run.
void checkpoint_remove_all(const char *out);
// Removes checkpoints and models under temporary names (util/file.h), of any process and host: for the one that holds
// the folder's lock.
void checkpoint_remove_leftovers(const char *out);
// Whether OUT/model has the checkpoint's weights.
bool checkpoint_is_published(const char *checkpoint, const Trained *trained, const char *out);
// Makes OUT/model: hard links to the checkpoint's pipeline, without trainer/.
void checkpoint_publish(const char *checkpoint, const char *out);
