#include "train/options.h"
#include <stdlib.h>

TrainOptions train_options_default(void) {
    return (TrainOptions){
        .split = "train",
        .max_train_steps = 25000,
        .lr = 3e-5,
        .lr_final = 0.01,
        .lr_decay_share = 0.3,
        .lr_warmup_steps = 100,
        .lr_scheduler = "exponential",
        .adam_beta1 = 0.9,
        .adam_beta2 = 0.999,
        .adam_epsilon = 1e-8,
        .log_every = 1,
        .validate_every = 500,
        .validation_samples = 64,
        .checkpoint_every = 500,
        .checkpoints_total_limit = 2,
        .skipped_steps_limit = 5,
        .seed = 2024,
    };
}

static const char *const schedulers[] = {"exponential", "constant", "linear", "cosine", "wsd", NULL}; // as LRKind

static Option *make_table(TrainOptions *o, const Option *own) {
    const Option first[] = {
        {OPT_HEADING, "Input and output"},
        {OPT_STRING, "model", &o->model, "pipeline directory to start from", "DIR", .required = "a pipeline directory",
         .may_change = true},
        {OPT_STRING, "split", &o->split, "name of the training split, as in its files' names", "NAME"},
        {OPT_STRING, "out", &o->out, "folder of the run: log, pictures, checkpoints, model", "DIR",
         .required = "a folder for the run", .may_change = true},
        {OPT_FLAG, "resume", &o->resume, "continue from the newest checkpoint in --out, if there is one",
         .may_change = true},
        {OPT_FLAG, "overwrite", &o->overwrite, "delete the run in --out first", .may_change = true},
        OPTIONS_END};
    const Option last[] = {
        {OPT_HEADING, "Optimisation"},
        {OPT_INT, "max-train-steps", &o->max_train_steps, "optimizer steps", "N", .low = 1, .high = 1e9,
         .may_change = true}, // schedules depend on lr-total-steps instead
        {OPT_INT, "train-batch-size", &o->train_batch_size,
         "samples per micro-batch and rank (0: the largest that fits the GPU and divides the rank's samples of a step; "
         "2 on the CPU)",
         "N", .high = 65536, .may_change = true}, // checkpoint_load checks the samples of a step
        {OPT_INT, "gradient-accumulation-steps", &o->gradient_accumulation_steps,
         "micro-batches per optimizer step and rank (0: as many as a step of 32 samples on all ranks together needs); "
         "if it is given, --train-batch-size 0 divides 2 x N samples per rank",
         "N", .high = 65536, .may_change = true},
        {OPT_DOUBLE, "lr", &o->lr, "learning rate", "RATE", .high = 10},
        {OPT_STRING, "lr-scheduler", &o->lr_scheduler, "shape of the learning rate over the steps", "KIND",
         .choices = schedulers, .choice = &o->lr_kind},
        {OPT_INT, "lr-warmup-steps", &o->lr_warmup_steps, "steps of linear warm-up", "N", .high = 1e9},
        {OPT_INT, "lr-total-steps", &o->lr_total_steps,
         "step at which the schedule ends (0: 25000 for exponential, max-train-steps for linear, cosine and wsd)", "N",
         .high = 1e9},
        {OPT_DOUBLE, "lr-final", &o->lr_final, "last learning rate as a share of --lr", "X", .low = 1e-9, .high = 1},
        {OPT_DOUBLE, "lr-decay-share", &o->lr_decay_share, "share of the steps over which wsd lowers the rate", "X",
         .high = 1},
        {OPT_DOUBLE, "adam-beta1", &o->adam_beta1, "decay of the first moment", "X", .high = 0.9999999},
        {OPT_DOUBLE, "adam-beta2", &o->adam_beta2, "decay of the second moment", "X", .high = 0.9999999},
        {OPT_DOUBLE, "adam-epsilon", &o->adam_epsilon, "added to the root of the second moment", "X", .high = 1},
        {OPT_DOUBLE, "weight-decay", &o->weight_decay, "decoupled weight decay (AdamW)", "X", .high = 100},
        {OPT_DOUBLE, "max-grad-norm", &o->max_grad_norm, "clip the gradient to this norm (0: no clipping)", "X",
         .high = 1e9},
        {OPT_LONG, "seed", &o->seed, "seed of noise, timesteps and sample order", "N",
         .high = (double)(1LL << 56) - 1}, // the range of Philox
        {OPT_HEADING, "Memory and speed"},
        {OPT_INT, "zero", &o->zero, "1: divide masters, moments and average among the ranks (ZeRO stage 1)", "0|1",
         .high = 1, .may_change = true},
        {OPT_FLAG, "tune", &o->tune,
         "on a GPU: take the fastest of cuBLASLt's first 8 algorithms for each matrix product, timed once and kept in "
         "$XDG_CACHE_HOME/cocogold (~/.cache/cocogold), instead of the first one; the bits depend on the choice",
         .may_change = true}, // checkpoint_load compares the choices
        {OPT_FLAG, "no-cuda-graph", &o->no_cuda_graph, "launch kernels one by one instead of replaying CUDA graphs",
         .may_change = true},
        {OPT_FLAG, "no-roofline", &o->no_roofline, "do not measure the machine's peaks at the start",
         .may_change = true},
        {OPT_HEADING, "Logs, validation and checkpoints"},
        {OPT_INT, "log-every", &o->log_every, "print every N steps (log.jsonl has every step)", "N", .low = 1,
         .high = 1e9, .may_change = true},
        {OPT_INT, "validate-every", &o->validate_every, "validate every N steps (0: never)", "N", .high = 1e9,
         .may_change = true},
        {OPT_INT, "validation-samples", &o->validation_samples, "number of validation samples", "N", .low = 1,
         .high = 1e9, .may_change = true},
        {OPT_INT, "checkpoint-every", &o->checkpoint_every, "steps between checkpoints (0: only at the end)", "N",
         .high = 1e9, .may_change = true},
        {OPT_INT, "checkpoints-total-limit", &o->checkpoints_total_limit, "checkpoints to keep (0: all)", "N",
         .high = 1e9, .may_change = true},
        {OPT_INT, "skipped-steps-limit", &o->skipped_steps_limit,
         "end with an error after N steps in a row whose loss or gradient is not finite (0: never)", "N", .high = 1e9,
         .may_change = true},
        OPTIONS_END};
    return options_join(first, own, last);
}

void train_options_parse(TrainOptions *o, int argc, char **argv, const Option *own, const OptionsHelp *help) {
    static char *command_line;
    static Option *table;
    free(table);
    o->table = table = make_table(o, own);
    options_parse(argc, argv, o->table, help, 0);
    if (o->lr_total_steps == 0 && o->lr_kind != LR_CONSTANT) { // constant has no end
        o->lr_total_steps = o->lr_kind == LR_EXPONENTIAL ? 25000 : o->max_train_steps;
    }
    free(command_line);
    o->command = argv[0];
    o->command_line = command_line = options_command(argc, argv);
}
