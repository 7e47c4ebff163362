// Segmentation of pictures by text: DDIM from Gaussian noise on [image latent | noisy latent], decoded by the VAE.
// Marigold's inference (Ke et al. 2024) with a text prompt.
#pragma once
#include "eval/mask.h"
#include "model/pipeline.h"

// Everything that sampling needs in memory, for a fixed largest batch and size; made once, used for many batches.
typedef struct {
    Pipeline *pipeline;
    Arena arena;
    int B, h, w, T;               // largest batch; latent size; text length
    float *image_latent, *latent; // (B, h, w, L) on the device
    float *timesteps;             // (B)
    float *images;                // (B, h f, w f, 3)
    floatX *sample, *output, *context;
    float *alphas_cumprod; // on the device
} Sampler;

Sampler sampler_create(Pipeline *pipeline, int B, int h, int w, Device *dev);
void sampler_destroy(Sampler *sampler, Device *dev);

// Predicted clean latents, left in sampler->latent: n <= B samples. image_latent (n, h, w, L) on the host, scaled;
// context (n, T, C) floatX on the device; sample_ids (n): noise of sample i is a function of (seed, sample_ids[i])
// alone.
void sampler_run(Sampler *sampler, const float *image_latent, const floatX *context, const uint64_t *sample_ids, int n,
                 int steps, uint64_t seed, Device *dev);
// Decodes sampler->latent (n) to pictures (n, h f, w f, 3) in [0, 1] on the host.
void sampler_decode(Sampler *sampler, float *pictures, int n, Device *dev);
