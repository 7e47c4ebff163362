// The options of a run, as log.jsonl and checkpoints record them.
#pragma once
#include "train/options.h"
#include "util/json.h"

// Writes every option of the command as a field of the generator's open object.
void record_options(const TrainOptions *options, yajl_gen gen);
// Dies at the first option that affects a run's results and differs from its value in a checkpoint (an object written
// by record_options in the file `path`).
void record_check(const TrainOptions *options, yajl_val recorded, const char *path);
