// One micro-step of diffusion training: noise, UNet, loss, and backward through the UNet.
//
//   image latent  z  (B, h, w, L) --------------------------------.
//   target latent x0 (B, h, w, L) + noise at t -> noisy latent ----+-> sample (B, h, w, 2L) -> UNet(t, text) -> loss
#pragma once
#include "model/pipeline.h"
#include "train/pixel_loss.h"

typedef struct {
    UNet *unet;
    const Schedule *schedule;
    const TrainOptions *options;
    Prediction prediction;
    float *alphas_cumprod;  // (T) on the device
    int B, h, w, L, tokens; // micro-batch, latent size and channels, text length
    PixelLoss pixel_loss;   // --pixel-loss: by the pipeline's decoder
} Diffusion;

// --prediction-type replaces the prediction of the pipeline's schedule. Dies if the UNet does not take twice the
// latent's channels, or if the schedule's last signal-to-noise ratio is zero and epsilon is to be predicted. color: of
// the painted mask, 0..255.
Diffusion diffusion_create(Pipeline *pipeline, const TrainOptions *options, const int color[3], int h, int w,
                           Device *dev);
void diffusion_destroy(Diffusion *diffusion, Device *dev);

// losses (B) = each sample's loss, that of --pixel-loss included if `backward`, and then also the parameter gradients
// of the batch mean times 1 / gradient_accumulation_steps (beta 0 or 1). image and target (B, h, w, L) float,
// cell_weight (B, h, w) float or NULL, context (B, tokens, C); all on the device. Noise and timesteps come from `s`.
void diffusion_step(Diffusion *diffusion, Arena *arena, float *losses, const float *image, const float *target,
                    const float *cell_weight, const floatX *context, const StepScalars *s, float beta, bool backward,
                    Device *dev);
// Bytes of arena that diffusion_step with backward needs; no kernel runs. What it would launch goes to dev->trace.
size_t diffusion_bytes(Diffusion *diffusion, Device *dev);

// Weights of latent cells for --loss weighted, on the host: with f the share of mask pixels in a cell and F the mean of
// f over the picture, w = f / (2F) + (1 - f) / (2 (1 - F)), so that object and background weigh the same; all ones if
// the mask is empty or full. weight (h, w), packed (R, ceil(R/8)) as numpy.packbits makes it.
void cell_weights(float *weight, const uint8_t *packed, int R, int h, int w);
