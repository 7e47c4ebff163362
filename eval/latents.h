// Does the latent MSE that diffusion training minimises tell good masks from bad ones? Masks of known IoU with a true
// mask go through the VAE as targets of training, bare (black and white) or painted on the picture, and their latents
// are compared with the true target's. No UNet and no training: the question is the VAE's alone.
#pragma once
#include "data/paint.h"
#include "eval/extraction.h"
#include "eval/stats.h"
#include "eval/variants.h"
#include "model/pipeline.h"

enum { REPRESENTED_OVERLAY, REPRESENTED_MASK, REPRESENTATIONS };
extern const char *const representation_names[REPRESENTATIONS]; // "overlay", "mask"

// One representation of one sample. Losses are mean squares over the latent, in the units of training.
typedef struct {
    double mse[MAX_VARIANTS]; // of each variant's latent against the true target's
    double order;      // Spearman's correlation of IoU and -mse over the variants: 1 if the loss orders masks perfectly
    double constant;   // loss of the best constant answer: the mean target of the other samples
    double one_pixel;  // mean loss of the masks that miss by one pixel (eroded, dilated, shifted by 1)
    double empty;      // loss of the target without the object: the bare picture, or black
    double picture;    // mean square of that target without the object, around its mean over the other samples
    double inside;     // share of that loss in latent cells that the object touches
    double round_trip; // IoU of the true mask after encoding, decoding and mask extraction
} Representation;

typedef struct {
    int64_t image_id;
    int category;
    double object_share, cell_share; // of pixels; of latent cells that the object touches
    int variants;
    MaskVariant variant[MAX_VARIANTS];
    Representation representation[REPRESENTATIONS];
} LatentSample;

typedef struct {
    Pipeline *pipeline; // PART_VAE_ENCODER and PART_VAE_DECODER
    const Coco *coco;
    SampleOptions sample; // which samples: resolution, classes, seed
    Paint paint;
    MaskRule rules[REPRESENTATIONS]; // for the round trip
    int batch;                       // pictures per run of the VAE
    int count;                       // samples wanted
} LatentAnalysis;

// Analyses up to `count` samples, drawn from the pictures in an order that depends on the seed alone; *count gets their
// number. To be freed. Latents are compared as training sees them: posterior mean times scaling factor.
LatentSample *latents_analyze(const LatentAnalysis *analysis, int *count, Device *dev);

// Means over samples with bootstrap intervals, for a size of the object: all, below 2% of the picture, below 15%, rest.
typedef struct {
    int samples;
    Interval order, constant, one_pixel, empty, picture, inside, round_trip;
    double pooled_order;   // Spearman over the variants of all samples together
    double constant_ratio; // constant / one_pixel: above 1, even a mask that misses by a pixel pays less
    double object_energy;  // empty / (empty + picture): what part of a target's energy is the object, not the picture
} LatentSummary;

enum { SIZE_ALL, SIZE_SMALL, SIZE_MEDIUM, SIZE_LARGE, SIZES };
LatentSummary latents_summarize(const LatentSample *samples, int count, int representation, int size, int resamples,
                                uint64_t seed);
