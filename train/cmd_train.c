// cocogold train: fine-tunes the UNet to segment by text. The loop in train/loop.c calls these functions:
//
//   next_batch       shards -> pinned memory -> device (train/feed.h), and the embeddings of the samples' texts
//   diffusion_step   noise, UNet forward, loss, UNet backward (train/diffusion.h)
//   validate         loss, IoU and pictures (train/validate.h)
//   describe         config.json and settings of a checkpoint
#include "data/loader.h"
#include "eval/settings.h"
#include "model/sampler.h"
#include "train/diffusion.h"
#include "train/feed.h"
#include "train/loop.h"
#include "train/micro_batch.h"
#include "train/prompts.h"
#include "train/validate.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/text.h"
#include <stdlib.h>
#include <string.h>

// Arrays of a micro-batch: image and target latents (B, h, w, L); with --loss weighted, cell weights (B, h, w); the
// texts' numbers (B), which stay on the host.
enum { FEED_IMAGE, FEED_TARGET, FEED_WEIGHT, FEED_TEXT };

typedef struct {
    UNetOptions options;
    Trainer trainer;
    Pipeline pipeline;
    ShardSet shards;
    bool *keep; // (classes) of --classes, or NULL: all
    Loader *loader;
    Feed feed;
    Diffusion diffusion;
    Validator validator;
    bool validates; // rank 0 only; the others wait for it
    Prompts prompts;
    ModelSettings settings; // of its checkpoints: what segment and eval need to know besides diffusers' files
    floatX *context;        // (B, tokens, C) of the micro-batch
    // used by the feed's thread
    int *text;         // (B) indices into the shards' texts
    int64_t *position; // (B) in the stream
    uint8_t *mask;     // (B, R, ceil(R/8)); NULL: not needed
} UNetTrainer;

// ---- a step --------------------------------------------------------------------------------------------------------

// Called by the feed's thread.
static void fill_batch(void *data, long long number, void *const *arrays) {
    UNetTrainer *t = data;
    const Diffusion *d = &t->diffusion;
    int R = t->shards.info.resolution;
    LoaderBatch batch = {.image_latent = arrays[FEED_IMAGE],
                         .target_latent = arrays[FEED_TARGET],
                         .mask = t->mask,
                         .text = t->text,
                         .position = t->position};
    loader_read(t->loader, number, &batch);
    prompts_draw(&t->prompts, arrays[FEED_TEXT], t->text, t->position, d->B);
    for (int i = 0; t->mask && i < d->B; i++) {
        cell_weights((float *)arrays[FEED_WEIGHT] + i * d->h * d->w, t->mask + (size_t)(i * R * ((R + 7) / 8)), R, d->h,
                     d->w);
    }
}

static void next_batch(void *data, Device *dev) {
    UNetTrainer *t = data;
    void *const *arrays = feed_next(&t->feed, dev);
    contexts_gather(&t->prompts.contexts, t->context, arrays[FEED_TEXT], t->diffusion.B, dev);
}

static char *name_sample(void *data, long long position) {
    UNetTrainer *t = data;
    return loader_name(t->loader, position);
}

// ---- validation and checkpoints ------------------------------------------------------------------------------------

static void validate(void *data, int step, Device *dev) {
    UNetTrainer *t = data;
    Validation v = validator_run(&t->validator, &t->pipeline, &t->trainer.arena, dev);
    // After a signal it may have ended early.
    if (!interrupt_signal()) { log_validation(&t->trainer.log, step, &v); }
    validation_free(&v);
}

static void write_config(const UNetTrainer *t, const char *folder, const char *module) {
    char *path = xprintf("%s/%s/config.json", folder, module);
    unet_config_write(&t->pipeline.unet.config, path);
    free(path);
}

static void describe(void *data, const char *folder, Device *dev) {
    UNetTrainer *t = data;
    (void)dev;
    write_config(t, folder, "unet");
    if (t->trainer.optimizer.ema) { write_config(t, folder, "unet_ema"); }
    settings_write(&t->settings, folder);
    if (!schedule_changes(&t->options.diffusion.schedule)) { return; }
    // A new file: the old one may be a hard link.
    schedule_config_write(&t->pipeline.schedule.config, path_of("%s/scheduler/scheduler_config.json", folder).text);
}

// ---- the run -------------------------------------------------------------------------------------------------------

// Memory of a validation with the diffusion's present size: the sampler and the average. The decoder is one of the
// frozen models.
static size_t validation_bytes(void *data, Device *dev) {
    UNetTrainer *t = data;
    const Diffusion *d = &t->diffusion;
    size_t sampler = t->validates ? sampler_own_bytes(&t->pipeline, d->B, d->h, d->w, true, 0, dev) : 0;
    return sampler + average_bytes(&t->trainer, t->pipeline.unet.params.total, t->validates);
}

static void open_diffusion(UNetTrainer *t, Device *dev) {
    UNetOptions *o = &t->options;
    const ShardInfo *info = &t->shards.info;
    t->diffusion = diffusion_open(&t->pipeline, &o->diffusion, info->height, info->width, dev);
    t->diffusion.pixel_loss =
        pixel_loss_create(&t->pipeline.vae_decoder, (PixelLossKind)o->pixel_loss_kind, o->pixel_loss, info->color);
    MicroBatch m = {.micro_step = diffusion_step,
                    .model = &t->diffusion,
                    .B = &t->diffusion.B,
                    .parameters = t->pipeline.unet.params.total,
                    .others = validation_bytes,
                    .owner = t};
    micro_batch_choose(&m, &o->diffusion.train, &t->trainer.comm, dev);
}

// Adds the classes that the run's samples ask for to those that the model it starts from has seen. keep: of --classes,
// or NULL.
static void add_classes(ModelSettings *s, const ShardSet *shards, const bool *keep) {
    const ShardInfo *info = &shards->info;
    bool *asked = xcalloc((size_t)info->class_count + 1, sizeof *asked);
    for (int k = 0; k < shards->count; k++) {
        for (long long i = 0; i < shards->shards[k].samples; i++) {
            int c = shards->shards[k].class_index[i]; // -1: a text that is no single class
            if (c >= 0 && (!keep || keep[c])) { asked[c] = true; }
        }
    }
    const char **names = xcalloc((size_t)info->class_count + 1, sizeof *names);
    int count = 0;
    for (int c = 0; c < info->class_count; c++) {
        if (asked[c]) { names[count++] = info->classes[c]; }
    }
    settings_add(&s->train_class_count, &s->train_classes, count, names);
    settings_add(&s->all_class_count, &s->all_classes, info->class_count, (const char *const *)info->classes);
    free(names);
    free(asked);
}

// Listed classes that no sample asks for, in this training or before, do not count as seen. Texts have no list.
static void say_unasked(const UNetTrainer *t) {
    enum { NAMED = 5 };
    const ShardInfo *info = &t->shards.info;
    int *unasked = xcalloc((size_t)info->class_count + 1, sizeof *unasked), count = 0, listed = 0;
    for (int c = 0; c < info->class_count; c++) {
        if (info->sampled[c] != 1 || (t->keep && !t->keep[c])) { continue; }
        listed++;
        if (!settings_is_trained(&t->settings, info->classes[c])) { unasked[count++] = c; }
    }
    if (count && !shard_has_texts(info)) {
        printf("%s: %d of %d listed classes have no sample and do not count as seen:", t->shards.folder, count, listed);
        for (int i = 0; i < count && i < NAMED; i++) { printf("%s %s", i ? "," : "", info->classes[unasked[i]]); }
        printf("%s\n", count > NAMED ? ", ..." : "");
    }
    free(unasked);
}

static void find_settings(UNetTrainer *t, const char *base) {
    const ShardInfo *info = &t->shards.info;
    ModelSettings *s = &t->settings;
    settings_read(s, base);
    s->target = t->options.target_bit;
    memcpy(s->color, info->color, sizeof s->color);
    s->alpha = info->alpha;
    s->outline = info->outline;
    s->resolution = info->resolution;
    s->steps = t->options.diffusion.validation_steps;
    free(s->text_template);
    s->text_template = prompts_first(&t->options);
    add_classes(s, &t->shards, t->keep);
}

static void open_data(UNetTrainer *t, Device *dev) {
    const UNetOptions *o = &t->options;
    const TrainOptions *shared = &o->diffusion.train;
    const Comm *comm = &t->trainer.comm;
    t->shards = shards_open(o->diffusion.shards, shared->split);
    trainer_measure(&t->trainer);
    const char *base = run_folder_base(&t->trainer.run);
    t->validates = shared->validate_every && comm->rank == 0; // if there are shards for it
    bool decodes = t->validates || o->pixel_loss > 0;
    int parts = PART_UNET | PART_TEXT | PART_SCHEDULE | (decodes ? PART_VAE_DECODER : 0);
    t->pipeline = pipeline_open(base, parts, PART_UNET, dev);
    params_set_grads((Params *[]){&t->pipeline.unet.params}, 1, PLAN_POINTER);
    diffusion_check_latents(&t->pipeline, &t->shards);
    open_diffusion(t, dev);
    t->prompts = prompts_create(&t->pipeline, o, &t->shards, shared->train_batch_size, dev);
    t->keep = o->classes ? shards_classes(&t->shards, "--classes", o->classes) : NULL;
    LoaderOptions loader = {.target = o->target_bit,
                            .seed = (uint64_t)shared->seed,
                            .rank = comm->rank,
                            .world = comm->world,
                            .rows = shared->train_batch_size,
                            .start = t->trainer.run.first_step * train_samples(shared, comm->world),
                            .keep = t->keep};
    t->loader = loader_open(&t->shards, &loader);
    find_settings(t, base);
    if (comm->rank == 0) { say_unasked(t); }
}

// Lists in files may change: their names count.
static void describe_stream(Stream *stream, const UNetTrainer *t) {
    const UNetOptions *o = &t->options;
    const ShardInfo *info = &t->shards.info;
    uint64_t classes = HASH_BEGIN;
    for (int c = 0; t->keep && c < info->class_count; c++) {
        if (t->keep[c]) { classes = hash_more(classes, info->classes[c], strlen(info->classes[c]) + 1); }
    }
    if (t->keep) { stream_add_hash(stream, "classes", "the list of --classes", classes); }
    stream_add_shards(stream, &t->shards, t->loader, o->target_bit);
    stream_add_hash(stream, "texts", "the list of --text-template's texts", prompts_hash(&t->prompts));
}

static void open_model(UNetTrainer *t, Device *dev) {
    const UNetOptions *o = &t->options;
    t->validates = t->validates && validator_open(&t->validator, o, t->pipeline.folder, &t->shards, &t->settings,
                                                  &t->pipeline, &t->diffusion, &t->prompts.contexts, dev);
    if (t->prompts.contexts.table) { pipeline_release(&t->pipeline, PART_TEXT, dev); } // 1.4 GB with SD2
    if (!t->validates && o->pixel_loss == 0) { pipeline_release(&t->pipeline, PART_VAE_DECODER, dev); }
}

static void open_feed(UNetTrainer *t, Device *dev) {
    const Diffusion *d = &t->diffusion;
    bool weighted = t->options.diffusion.loss_kind == LOSS_WEIGHTED;
    size_t rows = (size_t)d->B, cells = rows * (size_t)(d->h * d->w) * sizeof(float), latents = cells * (size_t)d->L;
    size_t context = rows * (size_t)d->tokens * (size_t)d->unet->config.cross_attention_dim;
    size_t R = (size_t)t->shards.info.resolution;
    const size_t bytes[] = {latents, latents, weighted ? cells : 0, rows * sizeof(int)};
    t->text = xcalloc(rows, sizeof *t->text);
    t->position = xcalloc(rows, sizeof *t->position);
    if (weighted) { t->mask = xmalloc(rows * R * ((R + 7) / 8)); }
    t->context = device_alloc(dev, context * sizeof(floatX));
    feed_open(&t->feed, bytes, 4, 3, fill_batch, t, dev);
    t->diffusion.inputs = (DiffusionInputs){t->feed.inputs[FEED_IMAGE], t->feed.inputs[FEED_TARGET],
                                            t->feed.inputs[FEED_WEIGHT], t->context};
}

static void close_all(UNetTrainer *t, Device *dev) {
    feed_close(&t->feed, dev);
    loader_close(t->loader);
    if (t->validates) { validator_close(&t->validator, dev); }
    free(t->text);
    free(t->position);
    free(t->mask);
    prompts_destroy(&t->prompts, dev);
    device_free(dev, t->context);
    diffusion_destroy(&t->diffusion, dev);
    pipeline_close(&t->pipeline, dev);
    shards_close(&t->shards);
    settings_free(&t->settings);
    free(t->keep);
}

int cmd_train(int argc, char **argv) {
    UNetTrainer t = {0};
    Device *dev = &t.trainer.dev;
    unet_options_parse(&t.options, argc, argv);
    trainer_open(&t.trainer, &t.options.diffusion.train);
    open_data(&t, dev);
    open_model(&t, dev);
    open_feed(&t, dev);
    bool decodes = t.validates || t.options.pixel_loss > 0;
    Task task = {.trained = {{"unet"}, {&t.pipeline.unet.params}, 1},
                 .micro_step = diffusion_step,
                 .model = &t.diffusion,
                 .owner = &t,
                 .next_batch = next_batch,
                 .name_sample = name_sample,
                 .validate = validate,
                 .describe = describe,
                 .validates = t.validates,
                 .frozen = {decodes ? &t.pipeline.vae_decoder.params : NULL,
                            t.prompts.contexts.table ? NULL : &t.pipeline.clip.params},
                 .validation_bytes = validation_bytes(&t, dev),
                 .samples = loader_samples(t.loader),
                 .more_samples = "more --passes of encode give more crops",
                 .vae_sha256 = t.shards.info.vae_sha256};
    describe_stream(&task.stream, &t);
    int code = train(&t.trainer, &task);
    close_all(&t, dev);
    trainer_close(&t.trainer);
    return code;
}
