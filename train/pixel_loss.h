// A loss on pictures in addition to the one on latents. The frozen VAE decoder decodes the clean latent that the UNet's
// output implies, and the true target. The gradient of the loss of these pictures goes back through the decoder:
//
//   UNet output (B, h, w, L) -> x0 -> / scaling factor -> decoder -> picture (H, W, 3) --.
//   target latent            ->    -> / scaling factor -> decoder -> picture (H, W, 3) ---+-> L1 or Dice
//
// One sample at a time: at 512 pixels the decoder's activations are larger than the UNet's.
#pragma once
#include "kernels/kernels.h"
#include "model/vae.h"

typedef enum { PIXEL_L1, PIXEL_DICE } PixelLossKind;

typedef struct {
    VAEDecoder *decoder; // NULL: no pixel loss
    PixelLossKind kind;
    float weight;
    float color[3]; // of the painted mask, in [-1, 1], for Dice
} PixelLoss;

// None if the weight is 0. color: of the painted mask, 0..255.
PixelLoss pixel_loss_create(VAEDecoder *decoder, PixelLossKind kind, double weight, const int color[3]);

// What the UNet's output belongs to, on the device: noisy and target latents (B, h, w, L), timesteps (B),
// alphas_cumprod (T).
typedef struct {
    const float *noisy, *target, *timesteps, *alphas_cumprod;
    Prediction prediction;
    int B, h, w;
} NoisySamples;

// losses (B) += weight * each sample's loss (l1_mse_loss with mse_weight 0, or dice_loss); dpred (B, h, w, L) += the
// gradient of scale * weight * their sum with respect to the UNet's output pred. The decoder has no parameter
// gradients: it is frozen.
void pixel_loss_add(const PixelLoss *loss, Arena *arena, float *losses, floatX *dpred, const floatX *pred,
                    const NoisySamples *samples, float scale, Device *dev);
