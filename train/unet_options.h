// The options of `cocogold train`, which trains the UNet to segment by text.
#pragma once
#include "train/diffusion_options.h"
#include "train/pixel_loss.h"

typedef struct {
    DiffusionOptions diffusion; // what it shares with `cocogold pretrain`, and the latents' loss and noise
    char *classes, *target, *text_template, *loss, *pixel_loss_type;
    double pixel_loss;
    double text_memory; // share of the free memory that the table of texts may take
    // parsed from the strings above
    int pixel_loss_kind; // PixelLossKind
    int target_bit;      // TARGET_OVERLAY or TARGET_MASK
} UNetOptions;

// Parses and checks the command line of `cocogold train`; dies if it is wrong. *options must not move: its table, which
// is recorded later, points into it.
void unet_options_parse(UNetOptions *options, int argc, char **argv);
