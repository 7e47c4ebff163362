// AutoencoderKL: pictures (B, H, W, 3) in [-1, 1] to moments of a diagonal Gaussian over latents (B, h, w, 2L) and
// back. Encoder and decoder are two models with their own flat parameters. Slices have diffusers' names
// ("encoder....", "quant_conv.weight" in the encoder's, "post_quant_conv.weight", "decoder...." in the decoder's).
#pragma once
#include "model/arena.h"
#include "model/config.h"
#include "model/params.h"

typedef struct VAELayers VAELayers; // in vae.c

typedef struct {
    VAEConfig config;
    Params params;
    VAELayers *layers;
} VAEHalf;
typedef VAEHalf VAEEncoder, VAEDecoder;

VAEEncoder vae_encoder_create(const VAEConfig *config);
VAEDecoder vae_decoder_create(const VAEConfig *config);
void vae_destroy(VAEHalf *half, Device *dev);

int vae_factor(const VAEConfig *config); // pixels per latent cell and side: 2^(levels - 1)
// Latent cells of a side of `size` pixels, rounded down at every level.
int vae_latent_size(const VAEConfig *config, int size);

// moments (B, h, w, 2L) from image (B, H, W, 3), after quant_conv. save and arena as in unet.h.
void vae_encoder_forward(VAEEncoder *encoder, Arena *arena, floatX *moments, const floatX *image, int B, int H, int W,
                         bool save, Device *dev);
void vae_encoder_backward(VAEEncoder *encoder, Arena *arena, floatX *dimage, const floatX *dmoments, float beta,
                          Device *dev);

// image (B, h*f, w*f, 3) from latent (B, h, w, L), already divided by the scaling factor; post_quant_conv included.
void vae_decoder_forward(VAEDecoder *decoder, Arena *arena, floatX *image, const floatX *latent, int B, int h, int w,
                         bool save, Device *dev);
void vae_decoder_backward(VAEDecoder *decoder, Arena *arena, floatX *dlatent, const floatX *dimage, float beta,
                          Device *dev);

// Bytes of the arena for a forward (and with `train` a backward), as in unet.h.
size_t vae_encoder_plan(VAEEncoder *encoder, int B, int H, int W, bool train, Device *plan);
size_t vae_decoder_plan(VAEDecoder *decoder, int B, int h, int w, bool train, Device *plan);
