// UNet2DConditionModel: predicts noise, velocity or the clean latent from [image latent | noisy latent], a timestep and
// the text's embeddings. Forward is a list of calls; backward is the same list from bottom to top.
// Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models".
#pragma once
#include "model/arena.h"
#include "model/config.h"
#include "model/params.h"

typedef enum {
    RECOMPUTE_NONE,         // save every activation that backward needs
    RECOMPUTE_PRODUCTS,     // in transformers save only the attentions' results and the blocks' outputs
    RECOMPUTE_TRANSFORMERS, // save the inputs of transformer blocks and run them again in backward
    RECOMPUTE_BLOCKS        // save the inputs of resnets and transformers only
} Recompute;
extern const char *const recompute_names[]; // as Recompute, NULL

typedef struct UNetLayers UNetLayers; // the tree of layers, in unet.c

typedef struct {
    UNetConfig config;
    Params params;
    Recompute recompute;
    UNetLayers *layers;
} UNet;

// The layers and the slices of their parameters, without memory for weights (params_alloc does that).
UNet unet_create(const UNetConfig *config);
void unet_destroy(UNet *unet, Device *dev);

// out (B, H, W, out_channels) from sample (B, H, W, in_channels), timesteps (B) float, context (B, T, cross_dim); all
// on the device. H and W are arbitrary. With `save`, what backward needs stays in the arena (from arena->bottom on)
// until the caller releases it; else everything is released. The caller may have allocated `out` from the arena.
void unet_forward(UNet *unet, Arena *arena, floatX *out, const floatX *sample, const float *timesteps,
                  const floatX *context, int B, int H, int W, int T, bool save, Device *dev);
// After a forward with `save` of the same tensors. Parameter gradients go to params.grads (beta 0 or 1), if there are
// any. dsample and dcontext may be NULL. dout is not changed. Backward frees what forward kept, down to the arena's
// bottom before forward: between the two, allocate only with arena_push.
void unet_backward(UNet *unet, Arena *arena, floatX *dsample, floatX *dcontext, const floatX *dout, float beta,
                   Device *dev);

// Arena bytes that a forward, and with `train` a backward, of this shape needs at the current recompute level. `plan`
// is a plan-only device: it gets the trace (scopes "forward" and "backward") and the workspace's size. Needs no memory
// for weights. Do not call it between a forward and its backward.
size_t unet_plan(UNet *unet, int B, int H, int W, int T, bool train, Device *plan);
