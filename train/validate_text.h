// Validation of a text-to-image model on a fixed set of validation samples: loss at fixed noise and timesteps, and a
// sheet of pictures drawn from the texts of the first ones.
#pragma once
#include "data/image.h"
#include "data/loader.h"
#include "train/text_diffusion.h"

typedef struct {
    const DiffusionOptions *options;
    double guidance;
    TextDiffusion diffusion; // training's, with inputs of its own
    ShardSet shards;         // SPLIT val
    int count;               // samples, spread evenly over the set
    int shown;               // of them in the sheet
    StepScalars *scalars, *host_scalars;
    float *losses, *host_losses;
    float *target, *host_target; // (B, h, w, L)
    int *ids, *host_ids;         // (B, tokens)
} TextValidator;

// Opens the shards val-*.h5 in the folder of the training shards; returns false if there are none.
bool text_validator_open(TextValidator *validator, const DiffusionOptions *options, double guidance,
                         const ShardSet *training, const TextDiffusion *diffusion, Device *dev);
void text_validator_close(TextValidator *validator, Device *dev);
// Computes the loss in training's arena, and draws the sheet, to be freed. Sampling takes memory of its own and frees
// it at the end. Ends early when a signal comes; then the results are of no use.
double text_validator_run(TextValidator *validator, Pipeline *pipeline, Arena *arena, Image *sheet, Device *dev);
// The most memory that the sampling takes, without the decoder's weights.
size_t text_validator_bytes(const Diffusion *diffusion, double guidance, Pipeline *pipeline, Device *dev);
