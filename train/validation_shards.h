// The samples of a validation: SPLIT val in the folder of the training shards.
#pragma once
#include "data/loader.h"
#include "train/diffusion_options.h"

enum { VALIDATION_SEED = 1 }; // of noise and timesteps; independent of --seed for comparison

// Opens the shards val-*.h5; *count = the number of samples to use. Returns false, and says so, if there are none. Dies
// if their latents have another size or VAE than those of the training, or if their target is painted in another way.
// target: TARGET_OVERLAY or TARGET_MASK, 0: none is trained.
bool validation_shards_open(ShardSet *shards, int *count, const DiffusionOptions *options, int target,
                            const ShardSet *training);
// Where validation sample i lies in the shards: the `count` samples are spread evenly over them, and then repeat.
long long validation_index(const ShardSet *shards, int count, int i);
