// One micro-step of diffusion training: noise, UNet, loss, and backward through the UNet.
//
//   image latent  z  (B, h, w, L) --------------------------------.
//   target latent x0 (B, h, w, L) + noise at t -> noisy latent ----+-> sample (B, h, w, 2L) -> UNet(t, text) -> loss
//
// A UNet from text to image (`cocogold pretrain`) has no image latent: the noisy latent is the sample (B, h, w, L).
#pragma once
#include "data/loader.h"
#include "model/pipeline.h"
#include "train/diffusion_options.h"
#include "train/pixel_loss.h"

// A micro-batch, on the device.
typedef struct {
    const float *image, *target; // (B, h, w, L); no image: not conditioned
    const float *cell_weight;    // (B, h, w), for --loss weighted
    const floatX *context;       // (B, tokens, C)
} DiffusionInputs;

typedef struct {
    UNet *unet;
    const Schedule *schedule;
    const DiffusionOptions *options;
    float *alphas_cumprod;  // (T) on the device
    int B, h, w, L, tokens; // micro-batch, latent size and channels, text length
    bool conditioned;       // the UNet takes the image latent too: 2L channels instead of L
    PixelLoss pixel_loss;   // none, unless the caller sets it
    DiffusionInputs inputs; // set by the caller of diffusion_step
    floatX *dcontext;       // (B, tokens, C) gets the gradient of inputs.context, if the caller sets it
} Diffusion;

// Sets the UNet's recompute level. tokens: the text's length.
Diffusion diffusion_create(UNet *unet, const Schedule *schedule, const DiffusionOptions *options, int tokens, int h,
                           int w, Device *dev);
// The same for a pipeline: applies the options to its schedule. Dies if the UNet does not take twice the latent's
// channels, or if it predicts epsilon and the schedule's last signal-to-noise ratio is zero.
Diffusion diffusion_open(Pipeline *pipeline, const DiffusionOptions *options, int h, int w, Device *dev);
// The same for a UNet from text to image; dies if it does not take the latent's channels.
Diffusion diffusion_open_text(Pipeline *pipeline, const DiffusionOptions *options, int h, int w, Device *dev);
// Dies if the latents of the shards are not of the pipeline's VAE, or have other channels than its UNet.
void diffusion_check_latents(const Pipeline *pipeline, const ShardSet *shards);
void diffusion_destroy(Diffusion *diffusion, Device *dev);

// A MicroStep (train/step.h) of a Diffusion on its inputs. losses (B) = each sample's loss. With `backward` it includes
// --pixel-loss, and the step also computes the parameter gradients of the batch mean times
// 1 / gradient_accumulation_steps (beta 0 or 1). Noise and timesteps come from `s`.
void diffusion_step(void *diffusion, Arena *arena, float *losses, const StepScalars *s, float beta, bool backward,
                    Device *dev);

// Weights of latent cells for --loss weighted, on the host: with f the share of mask pixels in a cell and F the mean of
// f over the picture, w = f / (2F) + (1 - f) / (2 (1 - F)), so that object and background weigh the same; all ones if
// the mask is empty or full. weight (h, w), packed (R, ceil(R/8)) as numpy.packbits makes it.
void cell_weights(float *weight, const uint8_t *packed, int R, int h, int w);
