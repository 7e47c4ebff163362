// The folder of one training run: whose it is, what is continued, overwritten and published.
//   OUT/log.jsonl        a line for the run, each step, each validation
//   OUT/tensorboard/     the same for TensorBoard
//   OUT/samples/         pictures of validations
//   OUT/validation/      every sample of every validation: step-N.csv, its losses step-N-losses.csv, and the
//                        predictions for the first six side by side, step-N.png, with input.png and truth.png
//   OUT/checkpoint-N/    train/checkpoint.h
//   OUT/model/           the last checkpoint as a plain model directory
// Only rank 0 writes and prints.
#pragma once
#include "kernels/runtime/comm.h"
#include "train/checkpoint.h"

typedef struct {
    const TrainOptions *options;
    int rank, world;
    char *log_path;   // OUT/log.jsonl
    char *checkpoint; // the newest: at first the resumed one, later the last one saved; NULL: none yet
    int first_step;   // steps that the resumed checkpoint has done
    bool locked;      // this process holds OUT
    bool validated;   // rank 0: the log has the validation of the resumed checkpoint
} RunFolder;

// Finds the checkpoint to resume; then removes what killed runs left under temporary names, and writes nothing yet.
// Dies if OUT holds another run and neither --resume nor --overwrite is given, or a model but no checkpoint, or
// something else with a checkpoint's name, if another command wrote the checkpoint, if --overwrite would delete what
// the run reads, or if a rank does not see the checkpoint that rank 0 sees. Collective.
RunFolder run_folder_open(const TrainOptions *options, Comm *comm);
void run_folder_close(RunFolder *run);
// The model directory that all parts come from, trained or not: the newest checkpoint, or --model.
const char *run_folder_base(const RunFolder *run);
// Makes the folder, deletes the old run if --overwrite is given, and cuts the log back to the checkpoint. All ranks
// must have called run_folder_open before.
void run_folder_begin(RunFolder *run);
// At the end: makes OUT/model from the newest checkpoint, if all steps are done. It stays as it is if it has the
// weights of the checkpoint that was resumed, and no step was made.
void run_folder_publish(const RunFolder *run, const Trained *trained, int step);
