// The options that all training commands share, as one struct and one table. Each command adds its own rows.
// Defaults follow Marigold (Ke et al. 2024) and the original cocogold; --help prints them.
#pragma once
#include "util/options.h"

typedef enum { LR_EXPONENTIAL, LR_CONSTANT, LR_LINEAR, LR_COSINE, LR_WSD } LRKind;

typedef struct {
    char *model, *split, *out;
    // optimization
    int max_train_steps, train_batch_size, gradient_accumulation_steps;
    double lr, lr_final, lr_decay_share, adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm, ema_decay;
    int lr_warmup_steps, lr_total_steps, lr_kind; // LRKind
    char *lr_scheduler;
    long long seed;
    // memory and speed
    int zero, tune, no_cuda_graph, no_roofline;
    // periods
    int log_every, validate_every, validation_samples, checkpoint_every, checkpoints_total_limit;
    int skipped_steps_limit;
    // run
    int resume, overwrite;
    // for log and checkpoints
    const char *command; // "train", "train-vae" or "pretrain"
    char *command_line;  // valid until the next one is parsed
    const Option *table; // all rows, the command's own included
} TrainOptions;

TrainOptions train_options_default(void);
// Parses and checks a command line; dies if it is wrong. The rows of `own`, which end with OPTIONS_END, come after
// those of input and output. *options and what the rows point to must not move.
void train_options_parse(TrainOptions *options, int argc, char **argv, const Option *own, const OptionsHelp *help);

// Samples of an optimizer step on `world` ranks.
static inline long long train_samples(const TrainOptions *options, int world) {
    return (long long)options->train_batch_size * options->gradient_accumulation_steps * world;
}
