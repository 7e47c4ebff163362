// Training targets through the VAE, and the samples that they are made of: what the analyses of latents share.
#pragma once
#include "data/paint.h"
#include "data/sample.h"
#include "data/shard.h"
#include "model/pipeline.h"

enum { REPRESENTED_OVERLAY, REPRESENTED_MASK, REPRESENTATIONS }; // indices of target_names (data/shard.h)

// The VAE with its buffers. Latents are as training sees them: posterior mean times scaling factor.
typedef struct {
    Pipeline *pipeline;
    Device *dev;
    Arena arena;
    int batch;               // pictures per run of the encoder
    int R, r, L, cells;      // side of pictures and of latents; channels; r r L
    float *pixels, *latents; // on the device: (batch, R, R, 3), (batch, r, r, L)
    float *host_pixels;      // (batch, R, R, 3)
} TargetCoder;

// pipeline: PART_VAE_ENCODER, with `decodes` also PART_VAE_DECODER.
TargetCoder target_coder_create(Pipeline *pipeline, int resolution, int batch, bool decodes, Device *dev);
void target_coder_destroy(TargetCoder *coder);

// Row `index` of coder->host_pixels = the sample's target for a mask (R, R), in [-1, 1].
void target_paint(TargetCoder *coder, int index, const Sample *sample, const uint8_t *mask, int representation,
                  const Paint *paint);
// latents (n, r, r, L) of the first n rows of coder->host_pixels, n <= batch.
void target_encode(TargetCoder *coder, float *latents, int n);
// picture (R, R, 3) in [0, 1] of one latent.
void target_decode(TargetCoder *coder, float *picture, const float *latent);

// The number of the mask's pixels in latent cell (y, x), which corresponds to a square of (R / r)^2 pixels.
int cell_pixels(const TargetCoder *coder, const uint8_t *mask, int y, int x);

// Samples with an object, at most one per picture, in an order of the pictures that depends on the seed alone.
typedef struct {
    const Coco *coco;
    const SampleOptions *options;
    int *order, at;
} SampleDraw;
SampleDraw samples_begin(const Coco *coco, const SampleOptions *options);
bool samples_next(SampleDraw *draw, Sample *sample); // false: no picture is left
void samples_end(SampleDraw *draw);
