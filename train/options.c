#include "train/options.h"
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

static struct poptOption table[] = {
    {"train", 0, OPT_STRING, &o.train, 0, "what to train: unet or vae", "PART"},
    {"model", 0, OPT_TEXT, &o.model, 0, "pipeline directory to start from", "DIR"},
    {"shards", 0, OPT_TEXT, &o.shards, 0, "unet: folder of latent shards made by `cocogold encode`", "DIR"},
    {"data", 0, OPT_TEXT, &o.data, 0, "vae: data set in COCO's layout", "DIR"},
    {"split", 0, OPT_STRING, &o.split, 0, "training split: shards SPLIT-*.h5, or the data set's split", "NAME"},
    {"source", 0, OPT_STRING, &o.source, 0, "vae: masks from panoptic or instances annotations, or auto", "KIND"},
    {"out", 0, OPT_TEXT, &o.out, 0, "folder of the run: log, pictures, checkpoints, model", "DIR"},
    {"classes", 0, OPT_TEXT, &o.classes, 0,
     "unet: train on these of the shards' classes only (not the distribution of encoding with that list)", "LIST"},
    {"target", 0, OPT_STRING, &o.target, 0, "unet: overlay (mask painted on the picture) or mask (black and white)",
     "KIND"},
    {"text-template", 0, OPT_STRING, &o.text_template, 0,
     "prompt, {} is the class name; several to draw from: templates and @FILEs of synonyms, separated by |", "TEXT"},
    {"max-train-steps", 0, OPT_INT, &o.max_train_steps, 0, "optimizer steps", "N"},
    {"train-batch-size", 0, OPT_INT, &o.train_batch_size, 0, "samples per micro-batch and rank", "N"},
    {"gradient-accumulation-steps", 0, OPT_INT, &o.gradient_accumulation_steps, 0, "micro-batches per optimizer step",
     "N"},
    {"lr", 0, OPT_DOUBLE, &o.lr, 0, "learning rate", "RATE"},
    {"lr-scheduler", 0, OPT_STRING, &o.lr_scheduler, 0, "exponential, constant, linear, cosine or wsd", "KIND"},
    {"lr-warmup-steps", 0, OPT_INT, &o.lr_warmup_steps, 0, "linear warm-up", "N"},
    {"lr-total-steps", 0, OPT_INT, &o.lr_total_steps, 0,
     "step at which the schedule ends (0: 25000 for exponential, else max-train-steps)", "N"},
    {"lr-final", 0, OPT_DOUBLE, &o.lr_final, 0, "last learning rate as a share of --lr", "X"},
    {"lr-decay-share", 0, OPT_DOUBLE, &o.lr_decay_share, 0, "wsd: share of the steps in which the rate falls", "X"},
    {"adam-beta1", 0, OPT_DOUBLE, &o.adam_beta1, 0, "decay of the first moment", "X"},
    {"adam-beta2", 0, OPT_DOUBLE, &o.adam_beta2, 0, "decay of the second moment", "X"},
    {"adam-epsilon", 0, OPT_DOUBLE, &o.adam_epsilon, 0, "added to the root of the second moment", "X"},
    {"weight-decay", 0, OPT_DOUBLE, &o.weight_decay, 0, "decoupled weight decay (AdamW)", "X"},
    {"max-grad-norm", 0, OPT_DOUBLE, &o.max_grad_norm, 0, "clip the gradient to this norm (0: no clipping)", "X"},
    {"ema-decay", 0, OPT_DOUBLE, &o.ema_decay, 0, "keep a moving average of the weights in unet_ema/ (0: none)", "X"},
    {"loss", 0, OPT_STRING, &o.loss, 0, "mse, weighted (object and background balanced) or focal", "KIND"},
    {"focal-gamma", 0, OPT_DOUBLE, &o.focal_gamma, 0, "exponent of the focal loss", "X"},
    {"pixel-loss", 0, OPT_DOUBLE, &o.pixel_loss, 0,
     "unet: weight of a loss on pictures, back through the frozen decoder (0: none; at 512 pixels a step costs about "
     "four times as much)",
     "W"},
    {"pixel-loss-type", 0, OPT_STRING, &o.pixel_loss_type, 0, "l1, or dice of soft masks", "KIND"},
    {"prediction-type", 0, OPT_TEXT, &o.prediction_type, 0,
     "v_prediction, epsilon or sample (default: the model's scheduler_config.json)", "KIND"},
    {"timestep-spacing", 0, OPT_TEXT, &o.timestep_spacing, 0,
     "of sampling: trailing, leading or linspace (default: the model's scheduler_config.json)", "KIND"},
    {"zero-snr", 0, OPT_INT, &o.zero_snr, 0,
     "1: no signal at the last timestep, 0: what the betas leave, -1: the model's", "0|1"},
    {"multires-noise", 0, OPT_DOUBLE, &o.multires_noise, 0, "strength of multi-resolution noise (0: plain Gaussian)",
     "X"},
    {"multires-annealed", 0, OPT_INT, &o.multires_annealed, 0, "1: the strength falls with the timestep", "0|1"},
    {"t-max-prob", 0, OPT_DOUBLE, &o.t_max_prob, 0, "share of samples drawn at the last timestep", "P"},
    {"kl-weight", 0, OPT_DOUBLE, &o.kl_weight, 0, "vae: weight of the KL term", "X"},
    {"mse-weight", 0, OPT_DOUBLE, &o.mse_weight, 0, "vae: weight of MSE beside L1", "X"},
    {"mix-overlay", 0, OPT_DOUBLE, &o.mix_overlay, 0, "vae: share of pictures with a painted mask", "P"},
    {"mix-mask", 0, OPT_DOUBLE, &o.mix_mask, 0, "vae: share of black and white masks", "P"},
    {"resolution", 0, OPT_INT, &o.resolution, 0, "vae: side of the training pictures (0: the config's sample_size)",
     "PX"},
    {"min-side", 0, OPT_INT, &o.min_side, 0, "vae: leave out pictures with a shorter side", "PX"},
    {"dataloader-num-workers", 0, OPT_INT, &o.dataloader_num_workers, 0, "vae: threads that decode pictures", "N"},
    {"recompute", 0, OPT_STRING, &o.recompute, 0,
     "run again in backward instead of keeping: none, transformers, blocks", "LEVEL"},
    {"zero", 0, OPT_INT, &o.zero, 0, "1: divide masters, moments and average among the ranks (ZeRO stage 1)", "0|1"},
    {"no-cuda-graph", 0, OPT_FLAG, &o.no_cuda_graph, 0, "launch every kernel of a step one by one", NULL},
    {"log-every", 0, OPT_INT, &o.log_every, 0, "print every N steps (log.jsonl has all)", "N"},
    {"validate-every", 0, OPT_INT, &o.validate_every, 0, "loss, IoU and pictures on SPLIT val every N steps (0: never)",
     "N"},
    {"validation-samples", 0, OPT_INT, &o.validation_samples, 0, "samples of a validation", "N"},
    {"validation-steps", 0, OPT_INT, &o.validation_steps, 0, "DDIM steps of a validation", "N"},
    {"validation-draws", 0, OPT_INT, &o.validation_draws, 0, "timesteps and noises per sample for the validation loss",
     "N"},
    {"checkpoint-every", 0, OPT_INT, &o.checkpoint_every, 0, "steps between checkpoints (0: only at the end)", "N"},
    {"checkpoints-total-limit", 0, OPT_INT, &o.checkpoints_total_limit, 0, "checkpoints to keep (0: all)", "N"},
    {"seed", 0, OPT_LONG, &o.seed, 0, "noise, timesteps and order of the samples", "N"},
    {"resume", 0, OPT_FLAG, &o.resume, 0, "continue from the newest checkpoint in --out, if there is one", NULL},
    {"overwrite", 0, OPT_FLAG, &o.overwrite, 0, "throw away what is in --out", NULL},
    {"no-roofline", 0, OPT_FLAG, &o.no_roofline, 0, "do not measure the machine's peaks at the start", NULL},
    OPTIONS_END};

// Options that may differ between a run and its continuation without changing its numbers.
static const char *const free_options[] = {"out",
                                           "log-every",
                                           "validate-every",
                                           "validation-samples",
                                           "validation-steps",
                                           "validation-draws",
                                           "checkpoint-every",
                                           "checkpoints-total-limit",
                                           "resume",
                                           "overwrite",
                                           "no-roofline",
                                           "dataloader-num-workers",
                                           "model",
                                           "shards",
                                           "data",
                                           "recompute",
                                           "zero",
                                           "no-cuda-graph",
                                           "train-batch-size", // times ranks and accumulation: checkpoint_load
                                           "gradient-accumulation-steps",
                                           "max-train-steps", // schedules depend on lr-total-steps
                                           NULL};

static bool is_free(const char *name) {
    for (int i = 0; free_options[i]; i++) {
        if (strcmp(free_options[i], name) == 0) { return true; }
    }
    return false;
}

static void check(void) {
    static const char *const parts[] = {"unet", "vae", NULL}, *const targets[] = {"overlay", "mask", NULL},
                             *const pixel_losses[] = {"l1", "dice", NULL},
                             *const losses[] = {"mse", "weighted", "focal", NULL},
                             *const schedulers[] = {"exponential", "constant", "linear", "cosine", "wsd", NULL},
                             *const levels[] = {"none", "transformers", "blocks", NULL},
                             *const predictions[] = {"v_prediction", "epsilon", "sample", NULL};
    o.vae = options_choice(o.train, "--train", parts) == 1;
    o.target_bit = options_choice(o.target, "--target", targets) == 0 ? TARGET_OVERLAY : TARGET_MASK;
    o.loss_kind = (LossKind)options_choice(o.loss, "--loss", losses);
    o.pixel_loss_kind = (PixelLossKind)options_choice(o.pixel_loss_type, "--pixel-loss-type", pixel_losses);
    o.lr_kind = (LRKind)options_choice(o.lr_scheduler, "--lr-scheduler", schedulers);
    options_choice(o.recompute, "--recompute", levels);
    if (o.prediction_type) { options_choice(o.prediction_type, "--prediction-type", predictions); }
    if (o.timestep_spacing) { options_choice(o.timestep_spacing, "--timestep-spacing", timestep_spacing_names); }
    options_range(o.zero_snr, "--zero-snr", -1, 1);
    o.own_schedule = o.prediction_type || o.timestep_spacing || o.zero_snr >= 0;
    options_require(o.model, "--model", "a pipeline directory");
    options_require(o.out, "--out", "a folder for the run");
    if (o.vae) {
        options_require(o.data, "--data", "a data set in COCO's layout");
    } else {
        options_require(o.shards, "--shards", "a folder of latent shards made by `cocogold encode`");
        char *hole = strstr(o.text_template, "{}");
        if (!hole || o.text_template[0] == '@' || hole > o.text_template + strcspn(o.text_template, "|")) {
            die("--text-template %s: expected {} where the class name goes", o.text_template);
        }
    }
    options_range(o.max_train_steps, "--max-train-steps", 1, 1e9);
    options_range(o.train_batch_size, "--train-batch-size", 1, 65536);
    options_range(o.gradient_accumulation_steps, "--gradient-accumulation-steps", 1, 65536);
    options_range(o.lr, "--lr", 0, 10);
    options_range(o.lr_final, "--lr-final", 1e-9, 1);
    options_range(o.lr_decay_share, "--lr-decay-share", 0, 1);
    options_range(o.lr_warmup_steps, "--lr-warmup-steps", 0, 1e9);
    options_range(o.lr_total_steps, "--lr-total-steps", 0, 1e9);
    options_range(o.adam_beta1, "--adam-beta1", 0, 0.9999999);
    options_range(o.adam_beta2, "--adam-beta2", 0, 0.9999999);
    options_range(o.adam_epsilon, "--adam-epsilon", 0, 1);
    options_range(o.weight_decay, "--weight-decay", 0, 100);
    options_range(o.max_grad_norm, "--max-grad-norm", 0, 1e9);
    options_range(o.ema_decay, "--ema-decay", 0, 0.9999999);
    if (o.vae && o.ema_decay > 0) { die("--ema-decay: expected with --train unet only"); }
    options_range(o.focal_gamma, "--focal-gamma", 0, 100);
    options_range(o.pixel_loss, "--pixel-loss", 0, 1e9);
    if (o.vae && o.pixel_loss > 0) { die("--pixel-loss: expected with --train unet only"); }
    options_range(o.kl_weight, "--kl-weight", 0, 1e9);
    options_range(o.mse_weight, "--mse-weight", 0, 1e9);
    options_range(o.resolution, "--resolution", 0, 65536);
    options_range(o.min_side, "--min-side", 0, 1e9);
    options_range((double)o.seed, "--seed", 0, (double)(1LL << 56) - 1); // what Philox takes
    options_range(o.t_max_prob, "--t-max-prob", 0, 1);
    options_range(o.multires_noise, "--multires-noise", 0, 1);
    options_range(o.multires_annealed, "--multires-annealed", 0, 1);
    options_range(o.mix_overlay, "--mix-overlay", 0, 1);
    options_range(o.mix_mask, "--mix-mask", 0, 1 - o.mix_overlay);
    options_range(o.dataloader_num_workers, "--dataloader-num-workers", 1, 256);
    options_range(o.zero, "--zero", 0, 1);
    options_range(o.log_every, "--log-every", 1, 1e9);
    options_range(o.validate_every, "--validate-every", 0, 1e9);
    options_range(o.checkpoint_every, "--checkpoint-every", 0, 1e9);
    options_range(o.checkpoints_total_limit, "--checkpoints-total-limit", 0, 1e9);
    options_range(o.validation_samples, "--validation-samples", 1, 1e9);
    options_range(o.validation_steps, "--validation-steps", 1, 1000);
    options_range(o.validation_draws, "--validation-draws", 1, 1000);
    if (o.lr_total_steps == 0) { o.lr_total_steps = o.lr_kind == LR_EXPONENTIAL ? 25000 : o.max_train_steps; }
}

TrainOptions train_options_parse(int argc, char **argv) {
    options_parse(argc, argv, table,
                  "--model DIR --shards DIR --out DIR | --train vae --model DIR --data DIR --out DIR",
                  "Fine-tunes the UNet to segment by text (Marigold's recipe), or trains the VAE.", 0);
    check();
    free(o.command);
    o.command = options_command(argc, argv);
    return o;
}

void train_options_put(const TrainOptions *options, yajl_gen gen) {
    assert(options);
    for (const struct poptOption *entry = table; entry->longName; entry++) {
        switch (entry->argInfo & POPT_ARG_MASK) {
        case POPT_ARG_STRING:
            json_put_string(gen, entry->longName, *(char **)entry->arg);
            break;
        case POPT_ARG_DOUBLE:
            json_put_number(gen, entry->longName, *(double *)entry->arg);
            break;
        case POPT_ARG_LONGLONG:
            json_put_integer(gen, entry->longName, *(long long *)entry->arg);
            break;
        case POPT_ARG_INT:
        case POPT_ARG_NONE:
            json_put_integer(gen, entry->longName, *(int *)entry->arg);
            break;
        default:
            break;
        }
    }
}

static bool same(const struct poptOption *entry, yajl_val value) {
    switch (entry->argInfo & POPT_ARG_MASK) {
    case POPT_ARG_STRING: {
        const char *mine = *(char **)entry->arg, *theirs = YAJL_GET_STRING(value);
        return mine && theirs ? strcmp(mine, theirs) == 0 : !mine && !theirs;
    }
    case POPT_ARG_DOUBLE:
        return YAJL_IS_NUMBER(value) && strtod(YAJL_GET_NUMBER(value), NULL) == *(double *)entry->arg;
    case POPT_ARG_LONGLONG:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(long long *)entry->arg;
    case POPT_ARG_INT:
    case POPT_ARG_NONE:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(int *)entry->arg;
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
    for (const struct poptOption *entry = table; entry->longName; entry++) {
        if (!entry->arg || is_free(entry->longName)) { continue; }
        const char *field[] = {entry->longName, NULL};
        yajl_val value = yajl_tree_get(recorded, field, yajl_t_any);
        if (!value) {
            die("%s: field \"%s\" is missing: not a checkpoint of this program's version", path, entry->longName);
        }
        if (!same(entry, value)) {
            die("--resume: --%s differs from what %s recorded (%s)", entry->longName, path, text_of(value));
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
