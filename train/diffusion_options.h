// The options that training a UNet has, whether from text to image (`cocogold pretrain`) or from text and image to mask
// (`cocogold train`). Each command adds its own rows.
#pragma once
#include "model/schedule.h"
#include "model/unet.h"
#include "train/options.h"

typedef enum { LOSS_MSE, LOSS_WEIGHTED, LOSS_FOCAL } LossKind;

typedef struct {
    TrainOptions train; // the shared ones
    char *shards, *prediction_type, *recompute;
    ScheduleChange schedule;
    double t_max_prob;
    int validation_steps, validation_draws;
    int recompute_level; // Recompute
    // rows of `cocogold train`; by default a plain loss and plain noise
    int loss_kind; // LossKind
    double focal_gamma, multires_noise;
    int multires_annealed;
} DiffusionOptions;

DiffusionOptions diffusion_options_default(void);
// Parses and checks a command line; dies if it is wrong. The rows of `own`, which end with OPTIONS_END, come after
// --shards. *options and what the rows point to must not move: the table, which is recorded later, points to them.
void diffusion_options_parse(DiffusionOptions *options, int argc, char **argv, const Option *own,
                             const OptionsHelp *help);
