#include "train/options.h"
#include "data/coco.h"
#include "data/shard.h"
#include "model/config.h"
#include "util/error.h"
#include "util/file.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static TrainOptions o = {
    .train = "unet",
    .target = "overlay",
    .split = "train",
    .text_template = "{}",
    .max_train_steps = 25000,
    .train_batch_size = 2,
    .gradient_accumulation_steps = 16,
    .lr = 3e-5,
    .lr_final = 0.01,
    .lr_decay_share = 0.3,
    .lr_warmup_steps = 100,
    .lr_scheduler = "exponential",
    .adam_beta1 = 0.9,
    .adam_beta2 = 0.999,
    .adam_epsilon = 1e-8,
    .loss = "mse",
    .focal_gamma = 2,
    .pixel_loss_type = "l1",
    .zero_snr = -1,
    .multires_noise = 0.9,
    .multires_annealed = 1,
    .kl_weight = 1e-6,
    .mse_weight = 1,
    .mix_overlay = 0.25,
    .mix_mask = 0.25,
    .min_side = 0,
    .source = "auto",
    .dataloader_num_workers = 1,
    .recompute = "none",
    .log_every = 1,
    .validate_every = 500,
    .checkpoint_every = 500,
    .checkpoints_total_limit = 2,
    .validation_samples = 64,
    .validation_steps = 4,
    .validation_draws = 1,
    .seed = 2024,
};

static const char *const parts[] = {"unet", "vae", NULL};
static const char *const targets[] = {"overlay", "mask", NULL};
static const char *const losses[] = {"mse", "weighted", "focal", NULL}; // as LossKind
static const char *const pixel_losses[] = {"l1", "dice", NULL};         // as PixelLossKind
static const char *const schedulers[] = {"exponential", "constant", "linear", "cosine", "wsd", NULL}; // as LRKind
static const char *const levels[] = {"none", "transformers", "blocks", NULL};
static const char *const predictions[] = {"v_prediction", "epsilon", "sample", NULL};

static const Option table[] = {
    {OPT_HEADING, "Input and output"},
    {OPT_STRING, "train", &o.train, "what to train", "PART", .choices = parts, .choice = &o.part},
    {OPT_STRING, "model", &o.model, "pipeline directory to start from", "DIR", .required = "a pipeline directory",
     .may_change = true},
    {OPT_STRING, "shards", &o.shards, "unet: folder of latent shards made by `cocogold encode`", "DIR",
     .may_change = true},
    {OPT_STRING, "data", &o.data, "vae: data set in COCO's layout", "DIR", .may_change = true},
    {OPT_STRING, "split", &o.split, "training split: shards SPLIT-*.h5, or the data set's split", "NAME"},
    {OPT_STRING, "source", &o.source, "vae: annotations to read; auto takes instances where there are any", "KIND",
     .choices = coco_sources},
    {OPT_STRING, "out", &o.out, "folder of the run: log, pictures, checkpoints, model", "DIR",
     .required = "a folder for the run", .may_change = true},
    {OPT_FLAG, "resume", &o.resume, "continue from the newest checkpoint in --out, if there is one",
     .may_change = true},
    {OPT_FLAG, "overwrite", &o.overwrite, "throw away what is in --out", .may_change = true},
    {OPT_HEADING, "What is learned"},
    {OPT_STRING, "target", &o.target, "what the UNet draws: the mask painted on the picture, or black and white",
     "KIND", .choices = targets, .choice = &o.target_index},
    {OPT_STRING, "classes", &o.classes,
     "unet: train on these of the shards' classes only (not the distribution of encoding with that list)", "LIST"},
    {OPT_STRING, "text-template", &o.text_template,
     "prompt, {} is the class name; several to draw from: templates and @FILEs of synonyms, separated by |", "TEXT"},
    {OPT_STRING, "loss", &o.loss, "loss on latents; weighted balances object and background", "KIND", .choices = losses,
     .choice = &o.loss_kind},
    {OPT_DOUBLE, "focal-gamma", &o.focal_gamma, "exponent of the focal loss", "X", .high = 100},
    {OPT_DOUBLE, "pixel-loss", &o.pixel_loss,
     "unet: weight of a loss on pictures, back through the frozen decoder (0: none; at 512 pixels a step costs about "
     "four times as much)",
     "W", .high = 1e9},
    {OPT_STRING, "pixel-loss-type", &o.pixel_loss_type, "loss on pictures; dice is of soft masks", "KIND",
     .choices = pixel_losses, .choice = &o.pixel_loss_kind},
    {OPT_STRING, "prediction-type", &o.prediction_type,
     "what the UNet predicts (default: as in the model's scheduler_config.json)", "KIND", .choices = predictions},
    {OPT_STRING, "timestep-spacing", &o.timestep_spacing,
     "timesteps of sampling (default: as in the model's scheduler_config.json)", "KIND",
     .choices = timestep_spacing_names},
    {OPT_INT, "zero-snr", &o.zero_snr, "1: no signal at the last timestep, 0: what the betas leave, -1: the model's",
     "0|1", .low = -1, .high = 1},
    {OPT_DOUBLE, "multires-noise", &o.multires_noise, "strength of multi-resolution noise (0: plain Gaussian)", "X",
     .high = 1},
    {OPT_INT, "multires-annealed", &o.multires_annealed, "1: the strength falls with the timestep", "0|1", .high = 1},
    {OPT_DOUBLE, "t-max-prob", &o.t_max_prob, "share of samples drawn at the last timestep", "P", .high = 1},
    {OPT_LONG, "seed", &o.seed, "seed of noise, timesteps and order of the samples", "N",
     .high = (double)(1LL << 56) - 1},
    {OPT_HEADING, "Optimisation"},
    {OPT_INT, "max-train-steps", &o.max_train_steps, "optimizer steps", "N", .low = 1, .high = 1e9, .may_change = true},
    {OPT_INT, "train-batch-size", &o.train_batch_size, "samples per micro-batch and rank", "N", .low = 1, .high = 65536,
     .may_change = true},
    {OPT_INT, "gradient-accumulation-steps", &o.gradient_accumulation_steps, "micro-batches per optimizer step", "N",
     .low = 1, .high = 65536, .may_change = true},
    {OPT_DOUBLE, "lr", &o.lr, "learning rate", "RATE", .high = 10},
    {OPT_STRING, "lr-scheduler", &o.lr_scheduler, "shape of the learning rate over the steps", "KIND",
     .choices = schedulers, .choice = &o.lr_kind},
    {OPT_INT, "lr-warmup-steps", &o.lr_warmup_steps, "linear warm-up", "N", .high = 1e9},
    {OPT_INT, "lr-total-steps", &o.lr_total_steps,
     "step at which the schedule ends (0: 25000 for exponential, else max-train-steps)", "N", .high = 1e9},
    {OPT_DOUBLE, "lr-final", &o.lr_final, "last learning rate as a share of --lr", "X", .low = 1e-9, .high = 1},
    {OPT_DOUBLE, "lr-decay-share", &o.lr_decay_share, "wsd: share of the steps in which the rate falls", "X",
     .high = 1},
    {OPT_DOUBLE, "adam-beta1", &o.adam_beta1, "decay of the first moment", "X", .high = 0.9999999},
    {OPT_DOUBLE, "adam-beta2", &o.adam_beta2, "decay of the second moment", "X", .high = 0.9999999},
    {OPT_DOUBLE, "adam-epsilon", &o.adam_epsilon, "added to the root of the second moment", "X", .high = 1},
    {OPT_DOUBLE, "weight-decay", &o.weight_decay, "decoupled weight decay (AdamW)", "X", .high = 100},
    {OPT_DOUBLE, "max-grad-norm", &o.max_grad_norm, "clip the gradient to this norm (0: no clipping)", "X",
     .high = 1e9},
    {OPT_DOUBLE, "ema-decay", &o.ema_decay, "keep a moving average of the weights in unet_ema/ (0: none)", "X",
     .high = 0.9999999},
    {OPT_HEADING, "VAE"},
    {OPT_DOUBLE, "kl-weight", &o.kl_weight, "vae: weight of the KL term", "X", .high = 1e9},
    {OPT_DOUBLE, "mse-weight", &o.mse_weight, "vae: weight of MSE beside L1", "X", .high = 1e9},
    {OPT_DOUBLE, "mix-overlay", &o.mix_overlay, "vae: share of pictures with a painted mask", "P", .high = 1},
    {OPT_DOUBLE, "mix-mask", &o.mix_mask, "vae: share of black and white masks", "P", .high = 1},
    {OPT_INT, "resolution", &o.resolution, "vae: side of the training pictures (0: the config's sample_size)", "PX",
     .high = 65536},
    {OPT_INT, "min-side", &o.min_side, "vae: leave out pictures with a shorter side", "PX", .high = 1e9},
    {OPT_INT, "dataloader-num-workers", &o.dataloader_num_workers, "vae: threads that decode pictures", "N", .low = 1,
     .high = 256, .may_change = true},
    {OPT_HEADING, "Memory and speed"},
    {OPT_STRING, "recompute", &o.recompute, "what backward computes again instead of reading it from memory", "LEVEL",
     .choices = levels, .may_change = true},
    {OPT_INT, "zero", &o.zero, "1: divide masters, moments and average among the ranks (ZeRO stage 1)", "0|1",
     .high = 1, .may_change = true},
    {OPT_FLAG, "no-cuda-graph", &o.no_cuda_graph, "launch every kernel of a step one by one", .may_change = true},
    {OPT_FLAG, "no-roofline", &o.no_roofline, "do not measure the machine's peaks at the start", .may_change = true},
    {OPT_HEADING, "Logs, validation and checkpoints"},
    {OPT_INT, "log-every", &o.log_every, "print every N steps (log.jsonl has all)", "N", .low = 1, .high = 1e9,
     .may_change = true},
    {OPT_INT, "validate-every", &o.validate_every, "loss, IoU and pictures on SPLIT val every N steps (0: never)", "N",
     .high = 1e9, .may_change = true},
    {OPT_INT, "validation-samples", &o.validation_samples, "samples of a validation", "N", .low = 1, .high = 1e9,
     .may_change = true},
    {OPT_INT, "validation-steps", &o.validation_steps, "DDIM steps of a validation", "N", .low = 1, .high = 1000,
     .may_change = true},
    {OPT_INT, "validation-draws", &o.validation_draws, "timesteps and noises per sample for the validation loss", "N",
     .low = 1, .high = 1000, .may_change = true},
    {OPT_INT, "checkpoint-every", &o.checkpoint_every, "steps between checkpoints (0: only at the end)", "N",
     .high = 1e9, .may_change = true},
    {OPT_INT, "checkpoints-total-limit", &o.checkpoints_total_limit, "checkpoints to keep (0: all)", "N", .high = 1e9,
     .may_change = true},
    OPTIONS_END};

static void check(void) {
    o.vae = o.part == 1;
    o.target_bit = o.target_index == 0 ? TARGET_OVERLAY : TARGET_MASK;
    o.own_schedule = o.prediction_type || o.timestep_spacing || o.zero_snr >= 0;
    if (o.vae) {
        options_require(o.data, "--data", "a data set in COCO's layout");
    } else {
        options_require(o.shards, "--shards", "a folder of latent shards made by `cocogold encode`");
        char *hole = strstr(o.text_template, "{}");
        if (!hole || o.text_template[0] == '@' || hole > o.text_template + strcspn(o.text_template, "|")) {
            die("--text-template %s: expected {} where the class name goes", o.text_template);
        }
    }
    options_range(o.mix_mask, "--mix-mask", 0, 1 - o.mix_overlay);
    if (o.vae && o.ema_decay > 0) { die("--ema-decay: expected with --train unet only"); }
    if (o.vae && o.pixel_loss > 0) { die("--pixel-loss: expected with --train unet only"); }
    if (o.lr_total_steps == 0) { o.lr_total_steps = o.lr_kind == LR_EXPONENTIAL ? 25000 : o.max_train_steps; }
}

TrainOptions train_options_parse(int argc, char **argv) {
    static const OptionsHelp help = {
        .about = "Fine-tunes the UNet to segment by text (Marigold's recipe), or trains the VAE.",
        .usage = "--model DIR --shards DIR --out DIR | --train vae --model DIR --data DIR --out DIR",
        .example = "--model model --shards latents --out run"};
    options_parse(argc, argv, table, &help, 0);
    check();
    free(o.command);
    o.command = options_command(argc, argv);
    return o;
}

void train_options_put(const TrainOptions *options, yajl_gen gen) {
    assert(options);
    for (const Option *row = table; row->kind != OPT_END; row++) {
        switch (row->kind) {
        case OPT_STRING:
            json_put_string(gen, row->name, *(char **)row->value);
            break;
        case OPT_DOUBLE:
            json_put_number(gen, row->name, *(double *)row->value);
            break;
        case OPT_LONG:
            json_put_integer(gen, row->name, *(long long *)row->value);
            break;
        case OPT_INT:
        case OPT_FLAG:
            json_put_integer(gen, row->name, *(int *)row->value);
            break;
        default:
            break;
        }
    }
}

static bool same(const Option *row, yajl_val value) {
    switch (row->kind) {
    case OPT_STRING: {
        const char *mine = *(char **)row->value, *theirs = YAJL_GET_STRING(value);
        return mine && theirs ? strcmp(mine, theirs) == 0 : !mine && !theirs;
    }
    case OPT_DOUBLE:
        return YAJL_IS_NUMBER(value) && strtod(YAJL_GET_NUMBER(value), NULL) == *(double *)row->value;
    case OPT_LONG:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(long long *)row->value;
    case OPT_INT:
    case OPT_FLAG:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(int *)row->value;
    default:
        return true;
    }
}

static const char *text_of(yajl_val value) {
    return YAJL_IS_STRING(value) ? YAJL_GET_STRING(value) : YAJL_IS_NUMBER(value) ? YAJL_GET_NUMBER(value) : "none";
}

void train_options_check(const TrainOptions *options, yajl_val recorded, const char *path) {
    assert(options);
    if (!recorded) { die("%s: field \"options\" is missing", path); }
    for (const Option *row = table; row->kind != OPT_END; row++) {
        if (row->kind == OPT_HEADING || row->may_change) { continue; }
        const char *field[] = {row->name, NULL};
        yajl_val value = yajl_tree_get(recorded, field, yajl_t_any);
        if (!value) { die("%s: field \"%s\" is missing: not a checkpoint of this program's version", path, row->name); }
        if (!same(row, value)) {
            die("--resume: --%s differs from what %s recorded (%s)", row->name, path, text_of(value));
        }
    }
}

double train_lr(const TrainOptions *options, int step) {
    int warmup = options->lr_warmup_steps, total = options->lr_total_steps;
    double f = options->lr_final;
    if (step < warmup) { return options->lr * (step + 1) / warmup; }
    double x = total > warmup ? fmin(1, (double)(step - warmup) / (total - warmup)) : 1;
    switch (options->lr_kind) {
    case LR_EXPONENTIAL:
        return options->lr * pow(f, x);
    case LR_LINEAR:
        return options->lr * (1 - (1 - f) * x);
    case LR_COSINE:
        return options->lr * (f + (1 - f) * 0.5 * (1 + cos(M_PI * x)));
    case LR_WSD: {
        double start = total * (1 - options->lr_decay_share), length = fmax(1, total - start);
        return options->lr * (1 - (1 - f) * fmin(1, fmax(0, (step + 1 - start) / length)));
    }
    default:
        return options->lr;
    }
}
