// Validation of the UNet on a fixed set of validation samples: loss at fixed noise and timesteps, IoU of sampled masks
// and a sheet of pictures. It reads only latents: the VAE decodes the input picture from the image latent.
#pragma once
#include "data/loader.h"
#include "model/contexts.h"
#include "train/diffusion.h"
#include "train/run_log.h"

typedef struct {
    const UNetOptions *options;
    Diffusion diffusion; // training's, with inputs of its own
    ShardSet shards;     // SPLIT val
    int count;           // samples, spread evenly over the set
    // a micro-batch on the device
    StepScalars *scalars;
    float *losses, *timesteps, *image, *target, *weight;
    floatX *context;
    float *black, *white; // (h, w, L): latents of an all-black and an all-white picture
    Contexts *contexts;   // of the classes in the first template, not owned; or of every sample's own text
    bool own_texts;
} Validator;

// Opens the shards val-*.h5 in the folder of the training shards; returns false if there are none. Opens the VAE's
// encoder in the model directory `base` temporarily. contexts: training's. The pipeline needs PART_TEXT if the
// validation shards have texts, which are embedded here.
bool validator_open(Validator *validator, const UNetOptions *options, const char *base, const ShardSet *training,
                    Pipeline *pipeline, const Diffusion *d, Contexts *contexts, Device *dev);
void validator_close(Validator *validator, Device *dev);
// Computes the loss in training's arena. Sampling takes memory of its own and frees it at the end. The result is to be
// freed with validation_free. Ends early when a signal comes; then the result is of no use.
Validation validator_run(Validator *validator, Pipeline *pipeline, Arena *arena, Device *dev);
void validation_free(Validation *validation);
