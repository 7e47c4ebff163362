// cocogold pretrain: trains a UNet from text to image, and with --train-text-encoder CLIP's text encoder with it. Its
// result is where `cocogold init --from` starts. The loop in train/loop.c calls these functions:
//
//   next_batch            shards and token ids -> pinned memory -> device (train/feed.h)
//   text_diffusion_step   text encoder, noise, UNet, loss and their backward (train/text_diffusion.h)
//   validate              loss, and pictures drawn from texts (train/validate_text.h)
//   describe              config.json files of a checkpoint
//
// The text encoder runs in every micro-step, also if it is frozen: that costs about 2% of a step with Stable Diffusion
// 2, whereas the embeddings of COCO's captions would take 93 GB.
#include "data/loader.h"
#include "train/feed.h"
#include "train/loop.h"
#include "train/micro_batch.h"
#include "train/validate_text.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    DiffusionOptions diffusion;
    double empty_text, guidance;
    int train_text_encoder;
} PretrainOptions;

static void parse(PretrainOptions *o, int argc, char **argv) {
    static const OptionsHelp help = {.about = "Trains the UNet from text to image.",
                                     .usage = "--model DIR --shards DIR --out DIR",
                                     .example = "--model model --shards captions --out words"};
    *o = (PretrainOptions){.diffusion = diffusion_options_default(), .empty_text = 0.1, .guidance = 3};
    o->diffusion.validation_steps = 25;
    o->diffusion.train.lr = 1e-4;
    o->diffusion.train.lr_scheduler = "constant";
    const Option rows[] = {{OPT_HEADING, "What is learned"},
                           {OPT_FLAG, "train-text-encoder", &o->train_text_encoder, "train the text encoder too"},
                           {OPT_DOUBLE, "empty-text", &o->empty_text,
                            "share of samples trained with the empty text, for guidance", "P", .high = 1},
                           {OPT_DOUBLE, "guidance", &o->guidance, "guidance of a validation's pictures (1: none)", "X",
                            .high = 1000, .may_change = true},
                           OPTIONS_END};
    diffusion_options_parse(&o->diffusion, argc, argv, rows, &help);
}

// Arrays of a micro-batch: image latents (B, h, w, L); token ids (B, tokens).
enum { FEED_IMAGE, FEED_IDS };

typedef struct {
    PretrainOptions options;
    Trainer trainer;
    Pipeline pipeline;
    ShardSet shards;
    Loader *loader;
    Feed feed;
    TextDiffusion diffusion;
    TextValidator validator;
    bool validates; // rank 0 only; the others wait for it
    // used by the feed's thread
    int *text;         // (B) index into the shards' texts
    int64_t *position; // (B) in the stream
} Pretrainer;

// ---- a step --------------------------------------------------------------------------------------------------------

// Called by the feed's thread.
static void fill_batch(void *data, long long number, void *const *arrays) {
    Pretrainer *t = data;
    const PretrainOptions *o = &t->options;
    int tokens = t->diffusion.diffusion.tokens, *ids = arrays[FEED_IDS];
    LoaderBatch batch = {.image_latent = arrays[FEED_IMAGE], .text = t->text, .position = t->position};
    loader_read(t->loader, number, &batch);
    for (int i = 0; i < t->diffusion.diffusion.B; i++) {
        bool empty = empty_text_drawn(o->empty_text, (uint64_t)o->diffusion.train.seed, t->position[i]);
        const char *text = empty ? "" : t->shards.texts[t->text[i]];
        tokenizer_encode(t->pipeline.tokenizer, text, ids + i * tokens, tokens);
    }
}

static void next_batch(void *data, Device *dev) {
    Pretrainer *t = data;
    feed_next(&t->feed, dev);
}

static char *name_sample(void *data, long long position) {
    Pretrainer *t = data;
    return loader_name(t->loader, position);
}

// ---- validation and checkpoints ------------------------------------------------------------------------------------

// The models that are trained, in the order of the optimizer's buffers. Backward ends with the text encoder, so its
// gradients come first.
static Trained trained(Pretrainer *t) {
    Params *unet = &t->pipeline.unet.params, *text = &t->pipeline.clip.params;
    if (t->options.train_text_encoder) { return (Trained){{"text_encoder", "unet"}, {text, unet}, 2}; }
    return (Trained){{"unet"}, {unet}, 1};
}

static void validate(void *data, int step, Device *dev) {
    Pretrainer *t = data;
    Image sheet = {0};
    double loss = text_validator_run(&t->validator, &t->pipeline, &t->trainer.arena, &sheet, dev);
    // After a signal it may have ended early.
    if (!interrupt_signal()) { log_text_validation(&t->trainer.log, step, loss, &sheet); }
    image_free(&sheet);
}

static void write_configs(const Pretrainer *t, const char *folder, const char *suffix) {
    UNetConfig unet = t->pipeline.unet.config;
    unet.sample_size = t->shards.info.height; // what `cocogold generate` draws without --resolution
    unet_config_write(&unet, path_of("%s/unet%s/config.json", folder, suffix).text);
    if (!t->options.train_text_encoder) { return; }
    clip_config_write(&t->pipeline.clip.config, path_of("%s/text_encoder%s/config.json", folder, suffix).text);
}

static void describe(void *data, const char *folder, Device *dev) {
    Pretrainer *t = data;
    (void)dev;
    write_configs(t, folder, "");
    if (t->trainer.optimizer.ema) { write_configs(t, folder, "_ema"); }
    if (!schedule_changes(&t->options.diffusion.schedule)) { return; }
    // A new file: the old one may be a hard link.
    schedule_config_write(&t->pipeline.schedule.config, path_of("%s/scheduler/scheduler_config.json", folder).text);
}

// ---- the run -------------------------------------------------------------------------------------------------------

static size_t parameters(const Pretrainer *t) {
    return t->pipeline.unet.params.total + (t->options.train_text_encoder ? t->pipeline.clip.params.total : 0);
}

// Memory of a validation: the sampler and the average.
static size_t validation_bytes(void *data, Device *dev) {
    Pretrainer *t = data;
    const Diffusion *d = &t->diffusion.diffusion;
    size_t sampler = t->validates ? text_validator_bytes(d, t->options.guidance, &t->pipeline, dev) : 0;
    return sampler + average_bytes(&t->trainer, parameters(t), t->validates);
}

static void open_diffusion(Pretrainer *t, Device *dev) {
    PretrainOptions *o = &t->options;
    const ShardInfo *info = &t->shards.info;
    t->diffusion =
        text_diffusion_open(&t->pipeline, &o->diffusion, o->train_text_encoder, info->height, info->width, dev);
    MicroBatch m = {.micro_step = text_diffusion_step,
                    .model = &t->diffusion,
                    .B = &t->diffusion.diffusion.B,
                    .parameters = parameters(t),
                    .others = validation_bytes,
                    .owner = t};
    micro_batch_choose(&m, &o->diffusion.train, &t->trainer.comm, dev);
}

static void open_data(Pretrainer *t, Device *dev) {
    const TrainOptions *o = &t->options.diffusion.train;
    const Comm *comm = &t->trainer.comm;
    t->shards = shards_open(t->options.diffusion.shards, o->split);
    trainer_measure(&t->trainer);
    bool text = t->options.train_text_encoder;
    t->validates = o->validate_every && comm->rank == 0; // if there are shards for it
    int parts = PART_UNET | PART_TEXT | PART_SCHEDULE | (t->validates ? PART_VAE_DECODER : 0);
    t->pipeline = pipeline_open(run_folder_base(&t->trainer.run), parts, PART_UNET | (text ? PART_TEXT : 0), dev);
    if (text) { params_join(&t->pipeline.clip.params, &t->pipeline.unet.params, dev); }
    Trained models = trained(t);
    params_set_grads(models.params, models.count, PLAN_POINTER);
    diffusion_check_latents(&t->pipeline, &t->shards);
    open_diffusion(t, dev);
    LoaderOptions loader = {.seed = (uint64_t)o->seed,
                            .rank = comm->rank,
                            .world = comm->world,
                            .rows = o->train_batch_size,
                            .start = t->trainer.run.first_step * train_samples(o, comm->world)};
    t->loader = loader_open(&t->shards, &loader);
}

static void open_model(Pretrainer *t, Device *dev) {
    const PretrainOptions *o = &t->options;
    t->validates =
        t->validates && text_validator_open(&t->validator, &o->diffusion, o->guidance, &t->shards, &t->diffusion, dev);
    if (!t->validates) { pipeline_release(&t->pipeline, PART_VAE_DECODER, dev); }
}

static void open_feed(Pretrainer *t, Device *dev) {
    const Diffusion *d = &t->diffusion.diffusion;
    size_t rows = (size_t)d->B;
    const size_t bytes[] = {rows * (size_t)(d->h * d->w * d->L) * sizeof(float),
                            rows * (size_t)d->tokens * sizeof(int)};
    t->text = xcalloc(rows, sizeof *t->text);
    t->position = xcalloc(rows, sizeof *t->position);
    feed_open(&t->feed, bytes, 2, 2, fill_batch, t, dev);
    t->diffusion.diffusion.inputs = (DiffusionInputs){.target = t->feed.inputs[FEED_IMAGE]};
    t->diffusion.ids = t->feed.inputs[FEED_IDS];
}

static void close_all(Pretrainer *t, Device *dev) {
    feed_close(&t->feed, dev);
    loader_close(t->loader);
    if (t->validates) { text_validator_close(&t->validator, dev); }
    free(t->text);
    free(t->position);
    text_diffusion_destroy(&t->diffusion, dev);
    pipeline_close(&t->pipeline, dev); // the UNet first: its weights may lie in the text encoder's buffer
    shards_close(&t->shards);
}

int cmd_pretrain(int argc, char **argv) {
    Pretrainer t = {0};
    Device *dev = &t.trainer.dev;
    parse(&t.options, argc, argv);
    trainer_open(&t.trainer, &t.options.diffusion.train);
    open_data(&t, dev);
    open_model(&t, dev);
    open_feed(&t, dev);
    Task task = {.trained = trained(&t),
                 .micro_step = text_diffusion_step,
                 .model = &t.diffusion,
                 .owner = &t,
                 .next_batch = next_batch,
                 .name_sample = name_sample,
                 .validate = validate,
                 .describe = describe,
                 .validates = t.validates,
                 .frozen = {t.options.train_text_encoder ? NULL : &t.pipeline.clip.params,
                            t.validates ? &t.pipeline.vae_decoder.params : NULL},
                 .validation_bytes = validation_bytes(&t, dev),
                 .samples = loader_samples(t.loader),
                 .more_samples = "more --passes of encode give more crops",
                 .vae_sha256 = t.shards.info.vae_sha256};
    stream_add_shards(&task.stream, &t.shards, t.loader, 0);
    int code = train(&t.trainer, &task);
    close_all(&t, dev);
    trainer_close(&t.trainer);
    return code;
}
