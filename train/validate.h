// Validation of the UNet on a fixed set of validation samples: loss at fixed noise and timesteps, IoU of sampled masks
// and a sheet of pictures. It reads only latents: the VAE decodes the input picture from the image latent.
#pragma once
#include "data/image.h"
#include "data/loader.h"
#include "eval/metrics.h"
#include "eval/settings.h"
#include "model/contexts.h"
#include "train/diffusion.h"
#include "train/unet_options.h"

typedef struct {
    const UNetOptions *options;
    const ModelSettings *settings; // say which classes are seen
    Diffusion diffusion;           // training's, with inputs of its own
    ShardSet shards;               // SPLIT val
    int count;                     // samples, spread evenly over the set
    // a micro-batch on the device
    StepScalars *scalars;
    float *losses, *timesteps, *image, *target, *weight;
    floatX *context;
    float *black, *white; // (h, w, L): latents of an all-black and an all-white picture
    Contexts *contexts;   // of the classes in the first template, not owned; or of every sample's own text
    bool own_texts;
} Validator;

// A validation's result for one sample. to_black and to_white are mean squared distances of the predicted clean latent
// from that of an all-black or all-white picture: small if the model gives a constant answer.
typedef struct {
    PairScore score;
    const char *class_name;
    bool seen;
    double to_black, to_white;
} ValidationRow;

typedef struct {
    int sample, timestep;
    double loss;
} ValidationLoss;

typedef struct {
    double loss;                       // validation loss at fixed noise and timesteps
    Summary seen, unseen;              // IoU over the validation samples; unseen.pairs may be 0
    double empty, full;                // shares of all predictions
    double to_black, to_white;         // means over the samples
    Image sheet;                       // pictures; pixels NULL: none
    Image inputs, predictions, truths; // the first samples side by side
    ValidationRow *rows;               // (count)
    ValidationLoss *losses;            // (loss_count)
    int count, loss_count;
    int broken; // batches with a prediction that is NaN or infinite
} Validation;

// Opens the shards val-*.h5 in the folder of the training shards; returns false if there are none. Opens the VAE's
// encoder in the model directory `base` temporarily. settings: what this training will write; it must outlive the
// validator. contexts: training's. The pipeline needs PART_TEXT if the validation shards have texts, which are embedded
// here.
bool validator_open(Validator *validator, const UNetOptions *options, const char *base, const ShardSet *training,
                    const ModelSettings *settings, Pipeline *pipeline, const Diffusion *d, Contexts *contexts,
                    Device *dev);
void validator_close(Validator *validator, Device *dev);
// Computes the loss in training's arena. Sampling takes memory of its own and frees it at the end. The result is to be
// freed with validation_free. Ends early when a signal comes; then the result is of no use.
Validation validator_run(Validator *validator, Pipeline *pipeline, Arena *arena, Device *dev);
void validation_free(Validation *validation);
