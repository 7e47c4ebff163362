// Does the latent MSE that diffusion training minimises tell good masks from bad ones? Masks of known IoU with a true
// mask go through the VAE as training targets, bare (black and white) or painted on the picture, and their latents are
// compared with the true target's. This needs no UNet and no training: it measures the VAE alone.
#pragma once
#include "eval/extraction.h"
#include "eval/metrics.h"
#include "eval/stats.h"
#include "eval/targets.h"
#include "eval/variants.h"

// What is measured. Losses are mean squares over the latent, in the units of training.
enum {
    MEASURE_ORDER, // Spearman's correlation of IoU and -mse over the variants: 1 if the loss orders them perfectly
    MEASURE_POOLED_ORDER,   // the same over the variants of all samples together
    MEASURE_ROUND_TRIP,     // IoU of the true mask after encoding, decoding and mask extraction
    MEASURE_CONSTANT,       // loss of the best constant answer: the mean target of the other samples
    MEASURE_EMPTY,          // loss of the target without the object: the bare picture, or black
    MEASURE_ONE_PIXEL,      // mean loss of the masks that miss by one pixel (eroded, dilated, shifted by 1)
    MEASURE_CONSTANT_RATIO, // constant / one pixel: above 1, a mask that misses by a pixel costs less
    MEASURE_PICTURE,        // mean square of the target without the object, around its mean over the other samples
    MEASURE_OBJECT_ENERGY,  // empty / (empty + picture): what part of a target's energy is the object, not the picture
    MEASURE_INSIDE,         // share of the loss `empty` in latent cells that the object touches
    MEASURES
};

// One representation of one sample.
typedef struct {
    double mse[MAX_VARIANTS]; // of each variant's latent against the true target's
    double of[MEASURES];      // NaN where a measure covers all samples together
} Representation;

typedef struct {
    int64_t image_id;
    int category;
    double object_share; // of pixels
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
// number. The caller frees the list. Latents are compared as training sees them: posterior mean times scaling factor.
LatentSample *latents_analyze(const LatentAnalysis *analysis, int *count, Device *dev);

// Means over samples with bootstrap intervals.
typedef struct {
    int samples;
    Interval of[MEASURES]; // without interval where a measure covers all samples together
} LatentSummary;

// size: of the object (eval/metrics.h), or OBJECT_SIZES for all.
LatentSummary latents_summarize(const LatentSample *samples, int count, int representation, int size, int resamples,
                                uint64_t seed);
// How much better the loss orders overlays than bare masks: MEASURE_ORDER of the overlay minus that of the mask, by
// sample.
Interval latents_order_difference(const LatentSample *samples, int count, int resamples, uint64_t seed);
