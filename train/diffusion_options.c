#include "train/diffusion_options.h"
#include <stdlib.h>

DiffusionOptions diffusion_options_default(void) {
    return (DiffusionOptions){.train = train_options_default(),
                              .schedule = SCHEDULE_AS_MODEL,
                              .recompute = "none",
                              .validation_draws = 1,
                              .loss_kind = LOSS_MSE};
}

void diffusion_options_parse(DiffusionOptions *o, int argc, char **argv, const Option *own, const OptionsHelp *help) {
    const Option first[] = {{OPT_STRING, "shards", &o->shards,
                             "folder of latent shards SPLIT-*.h5 made by `cocogold encode`", "DIR",
                             .required = "a folder of latent shards made by `cocogold encode`", .may_change = true},
                            OPTIONS_END};
    const Option last[] = {
        {OPT_STRING, "prediction-type", &o->prediction_type,
         "what the UNet predicts (default: as in the model's scheduler_config.json)", "KIND",
         .choices = prediction_names, .choice = &o->schedule.prediction},
        SCHEDULE_ROWS(o->schedule),
        {OPT_DOUBLE, "t-max-prob", &o->t_max_prob, "share of samples drawn at the last timestep", "P", .high = 1},
        {OPT_DOUBLE, "ema-decay", &o->train.ema_decay,
         "keep a moving average of the trained weights, in unet_ema/ and text_encoder_ema/ (0: none)", "X",
         .high = 0.9999999},
        {OPT_INT, "validation-steps", &o->validation_steps,
         "DDIM steps of a validation's pictures; `train` writes them into the model as the default of segment and eval",
         "N", .low = 1, .high = 1000, .may_change = true},
        {OPT_INT, "validation-draws", &o->validation_draws,
         "draws of timestep and noise per sample for the validation loss", "N", .low = 1, .high = 1000,
         .may_change = true},
        {OPT_STRING, "recompute", &o->recompute,
         "activations that backward recomputes instead of keeping them in memory", "LEVEL", .choices = recompute_names,
         .choice = &o->recompute_level, .may_change = true},
        OPTIONS_END};
    Option *rows = options_join(first, own, last);
    train_options_parse(&o->train, argc, argv, rows, help);
    free(rows);
}
