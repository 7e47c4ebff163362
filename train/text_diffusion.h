// One micro-step of training from text to image, with the text encoder in it:
//
//   ids (B, tokens) -> text encoder -> context -> diffusion_step (train/diffusion.h) -> dcontext -> text encoder
//
// The last arrow only if the text encoder is trained too.
#pragma once
#include "train/diffusion.h"

typedef struct {
    Diffusion diffusion; // the step sets its context and dcontext
    CLIPText *clip;
    bool trains_text;
    const int *ids; // (B, tokens) on the device, set by the caller of text_diffusion_step
} TextDiffusion;

// diffusion_open_text for a pipeline whose PART_TEXT is open. To train the text encoder, it must have gradients.
TextDiffusion text_diffusion_open(Pipeline *pipeline, const DiffusionOptions *options, bool train_text_encoder, int h,
                                  int w, Device *dev);
void text_diffusion_destroy(TextDiffusion *diffusion, Device *dev);

// A MicroStep (train/step.h) of a TextDiffusion, as diffusion_step.
void text_diffusion_step(void *diffusion, Arena *arena, float *losses, const StepScalars *s, float beta, bool backward,
                         Device *dev);

// Whether the sample at that position of the stream is trained with the empty text, for classifier-free guidance (Ho &
// Salimans 2022). It depends only on (seed, position).
bool empty_text_drawn(double probability, uint64_t seed, int64_t position);
