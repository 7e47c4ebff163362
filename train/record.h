// The options of a run as log.jsonl and checkpoints record them, for --resume and for whoever asks later.
#pragma once
#include "train/options.h"
#include "util/json.h"

// Every option of the command as a field of the generator's open object.
void record_options(const TrainOptions *options, yajl_gen gen);
// Dies with the first option that changes the numbers of a run and differs from what a checkpoint recorded (an object
// written by record_options in the file `path`).
void record_check(const TrainOptions *options, yajl_val recorded, const char *path);
