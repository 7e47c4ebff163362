// The options of `cocogold train`, which trains the UNet to segment by text. `cocogold pretrain` has its own table,
// whose rows point to some of them.
#pragma once
#include "kernels/kernels.h"
#include "model/schedule.h"
#include "model/unet.h"
#include "train/options.h"

typedef enum { LOSS_MSE, LOSS_WEIGHTED, LOSS_FOCAL } LossKind;
typedef enum { PIXEL_L1, PIXEL_DICE } PixelLossKind;

typedef struct {
    TrainOptions train; // the shared ones
    char *shards, *classes, *target, *text_template, *loss, *pixel_loss_type, *prediction_type, *recompute;
    double focal_gamma, pixel_loss, multires_noise, t_max_prob;
    double text_memory; // share of the free memory that the table of texts may take
    int zero_snr;       // 1, 0: sets schedule.terminal_signal; -1: does not
    ScheduleChange schedule;
    int multires_annealed, validation_steps, validation_draws;
    // parsed from the strings above
    int loss_kind, pixel_loss_kind; // LossKind, PixelLossKind
    int recompute_level;            // Recompute
    int target_bit;                 // TARGET_OVERLAY or TARGET_MASK
} UNetOptions;

extern const char *const recompute_names[]; // as Recompute, NULL
// Parses and checks the command line of `cocogold train`; dies if it is wrong. *options must not move: its table, which
// is recorded later, points into it.
void unet_options_parse(UNetOptions *options, int argc, char **argv);
