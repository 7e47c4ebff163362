// The options of `cocogold train`: one struct, one table. Defaults are Marigold's recipe (Ke et al. 2024) and the
// original cocogold's; --help prints them.
#pragma once
#include "util/json.h"
#include "util/options.h"
#include <stdbool.h>

typedef enum { LOSS_MSE, LOSS_WEIGHTED, LOSS_FOCAL } LossKind;
typedef enum { PIXEL_L1, PIXEL_DICE } PixelLossKind;
typedef enum { LR_EXPONENTIAL, LR_CONSTANT, LR_LINEAR, LR_COSINE, LR_WSD } LRKind;

typedef struct {
    // what to train, on what
    char *train, *model, *shards, *data, *split, *out, *classes, *target, *text_template;
    // optimization
    int max_train_steps, train_batch_size, gradient_accumulation_steps;
    double lr, lr_final, lr_decay_share, adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm, ema_decay;
    int lr_warmup_steps, lr_total_steps;
    char *lr_scheduler;
    // diffusion
    char *loss, *pixel_loss_type, *prediction_type, *timestep_spacing;
    int zero_snr; // -1: as the model's schedule
    double focal_gamma, pixel_loss, multires_noise, t_max_prob;
    int multires_annealed;
    // VAE
    double kl_weight, mse_weight, mix_overlay, mix_mask;
    int resolution, min_side, dataloader_num_workers;
    char *source;
    // memory and speed
    char *recompute;
    int zero, no_cuda_graph;
    // periods
    int log_every, validate_every, checkpoint_every, checkpoints_total_limit, validation_samples, validation_steps,
        validation_draws;
    // run
    long long seed;
    int resume, overwrite, no_roofline;
    // parsed from the strings above
    int loss_kind, pixel_loss_kind, lr_kind; // LossKind, PixelLossKind, LRKind
    int part, target_index;
    int target_bit; // TARGET_OVERLAY or TARGET_MASK
    bool vae;
    char *command;     // the command line, for the record; until the next one is parsed
    bool own_schedule; // an option changes the model's schedule
} TrainOptions;

// Parses and checks the command line; dies with a sentence.
TrainOptions train_options_parse(int argc, char **argv);
// Every option as a field of the generator's open object, for log.jsonl and the checkpoint.
void train_options_put(const TrainOptions *options, yajl_gen gen);
// Dies with the first option that changes the numbers of a run and differs from what a checkpoint recorded (an object
// written by train_options_put in the file `path`).
void train_options_check(const TrainOptions *options, yajl_val recorded, const char *path);

// Samples of an optimizer step on `world` ranks.
static inline long long train_samples(const TrainOptions *options, int world) {
    return (long long)options->train_batch_size * options->gradient_accumulation_steps * world;
}

// Learning rate of optimizer step `step` (from 0). Warm-up is linear: (step + 1) / lr_warmup_steps. exponential:
// lr * lr_final^((step - warmup) / (lr_total_steps - warmup)), constant afterwards (Marigold's IterExponential);
// linear and cosine fall to lr * lr_final at lr_total_steps; wsd (warm-up, stable, decay; Hu et al. 2024) is constant
// and falls linearly to lr * lr_final over the last lr_decay_share of lr_total_steps.
double train_lr(const TrainOptions *options, int step);
