// Fine-tuning the UNet to segment by text. One optimizer step is
//
//   loader -> pinned memory -> device             feed_batch, once per micro-batch (train/feed.h)
//   noise, UNet forward, loss, UNet backward      diffusion_step (train/diffusion.h), recorded and replayed on a GPU
//   sum of the gradients over the ranks           while backward runs (train/step.h)
//   norm, Adam, EMA                               optimizer_update (train/optimizer.h)
//
// Losses and norm come back through a pinned ring and are printed one step late: nothing in the step waits for the
// host.
#include "data/loader.h"
#include "model/sampler.h"
#include "eval/settings.h"
#include "train/checkpoint.h"
#include "train/diffusion.h"
#include "train/feed.h"
#include "train/interrupt.h"
#include "train/prompts.h"
#include "train/step.h"
#include "train/train.h"
#include "train/validate.h"
#include "util/error.h"
#include "util/file.h"
#include "util/progress.h"
#include <stdlib.h>
#include <string.h>

enum { FEED_IMAGE, FEED_TARGET, FEED_WEIGHT }; // arrays of a micro-batch: (B, h, w, L) twice, (B, h, w)

typedef struct {
    const TrainOptions *options;
    Comm *comm;
    Run run;
    Pipeline pipeline;
    ShardSet shards;
    Loader *loader;
    Feed feed;
    int *class_index;           // (B) of the micro-batch
    int64_t *sample, *position; // (B) in stored order, in the stream
    Diffusion diffusion;
    Optimizer optimizer;
    Step step;
    Arena arena;
    Validator validator;
    bool validates; // on rank 0, while the others wait in the next reduction
    Prompts prompts;
    floatX *context; // (B, tokens, C) of the micro-batch
    Peaks peaks;
} Trainer;

// ---- a step --------------------------------------------------------------------------------------------------------

// The cell weights of --loss weighted come from the stored masks.
static void fill_weights(Trainer *t, float *weight) {
    const Diffusion *d = &t->diffusion;
    int R = t->shards.info.resolution;
    uint8_t *packed = xmalloc((size_t)(R * ((R + 7) / 8)));
    for (int i = 0; i < d->B; i++) {
        ShardSample s = {.mask = packed};
        shards_read(&t->shards, t->sample[i], &s);
        cell_weights(weight + i * d->h * d->w, packed, R, d->h, d->w);
    }
    free(packed);
}

static void feed_batch(Trainer *t, Device *dev) {
    void **arrays = feed_arrays(&t->feed);
    LoaderBatch batch = {.image_latent = arrays[FEED_IMAGE],
                         .target_latent = arrays[FEED_TARGET],
                         .class_index = t->class_index,
                         .sample = t->sample,
                         .position = t->position};
    loader_next(t->loader, &batch);
    if (t->options->loss_kind == LOSS_WEIGHTED) { fill_weights(t, arrays[FEED_WEIGHT]); }
    feed_send(&t->feed, dev);
    prompts_draw(&t->prompts, t->class_index, t->class_index, t->position, t->diffusion.B);
    context_gather(t->context, t->prompts.table, t->class_index, t->diffusion.B, &t->pipeline, dev);
}

static void micro_step(void *data, float beta, Device *dev) {
    Trainer *t = data;
    void **inputs = t->feed.inputs;
    diffusion_step(&t->diffusion, &t->arena, t->step.losses, inputs[FEED_IMAGE], inputs[FEED_TARGET],
                   inputs[FEED_WEIGHT], t->context, t->step.scalars, beta, true, dev);
}

static void optimizer_step(Trainer *t, int step, Device *dev) {
    step_begin(&t->step, step, dev);
    for (int k = 0; k < t->step.micro_steps; k++) {
        feed_batch(t, dev);
        step_micro(&t->step, k, dev); // calls micro_step
    }
    step_end(&t->step, step, dev);
}

// ---- the run -------------------------------------------------------------------------------------------------------

static Trained trained(Trainer *t) {
    return (Trained){.module = "unet",
                     .file = "diffusion_pytorch_model.safetensors",
                     .params = {&t->pipeline.unet.params},
                     .count = 1,
                     .unet_config = &t->pipeline.unet.config};
}

// What segment and eval need to know of the model, beside diffusers' files.
static void write_settings(void *data, const char *folder) {
    Trainer *t = data;
    const ShardInfo *info = &t->shards.info;
    ModelSettings s = settings_default();
    s.target = t->options->target_bit;
    memcpy(s.color, info->color, sizeof s.color);
    s.alpha = info->alpha;
    s.resolution = info->resolution;
    s.steps = t->options->validation_steps;
    s.text_template = prompts_first(t->options);
    bool *keep = t->options->classes ? shards_classes(&t->shards, "--classes", t->options->classes) : NULL;
    const char **names = xcalloc((size_t)info->class_count, sizeof *names);
    int count = 0;
    for (int i = 0; i < info->class_count; i++) {
        if (keep ? keep[i] : info->trained[i]) { names[count++] = info->classes[i]; }
    }
    settings_names(&s.train_class_count, &s.train_classes, count, names);
    settings_names(&s.all_class_count, &s.all_classes, info->class_count, (const char *const *)info->classes);
    settings_write(&s, folder);
    settings_free(&s);
    free(names);
    free(keep);
    if (t->options->own_schedule) { // a new file: the old one may be linked to the model directory of the start
        char *path = xprintf("%s/scheduler/scheduler_config.json", folder);
        schedule_config_write(&t->pipeline.schedule.config, path);
        free(path);
    }
}

static void save(Trainer *t, int step, Device *dev) {
    Trained what = trained(t);
    device_sync(dev);
    if (t->comm->rank > 0) {
        checkpoint_help(&what, &t->optimizer, dev);
        return;
    }
    run_saved(&t->run,
              checkpoint_save(t->options, run_base(&t->run), step, &what, &t->optimizer, write_settings, t, dev));
    printf("saved %s\n", t->run.checkpoint);
}

static void validate_weights(Trainer *t, int step, Device *dev) {
    Validation v = validator_run(&t->validator, &t->pipeline, &t->diffusion, &t->arena, dev);
    run_validation(&t->run, step, &v);
    validation_free(&v);
}

// The moving average is what is used later; its parts are gathered from all ranks.
static void validate(Trainer *t, int step, Device *dev) {
    UNet *unet = &t->pipeline.unet;
    floatX *weights = unet->params.weights, *average = NULL;
    if (t->optimizer.ema && (t->validates || t->optimizer.sharded)) {
        average = device_alloc(dev, unet->params.total * sizeof(floatX));
        optimizer_average(&t->optimizer, average, dev);
        unet->params.weights = average;
    }
    if (t->validates) { validate_weights(t, step, dev); }
    unet->params.weights = weights;
    if (average) { device_free(dev, average); }
}

static void check_vae(const Trainer *t) {
    char digest[65];
    pipeline_vae_digest(run_base(&t->run), digest);
    if (strcmp(digest, t->shards.info.vae_sha256) != 0) {
        die("%s: the latents were made by another VAE than %s/vae has (SHA-256 %.12s..., expected %.12s...): run "
            "`cocogold encode` with this model",
            t->options->shards, run_base(&t->run), t->shards.info.vae_sha256, digest);
    }
}

// The cost of a step: accumulation repeats the micro-step, the update comes once.
static double least_seconds(Trainer *t, Device *dev) {
    Trace micro = {0}, update = {0};
    bool plan_only = dev->plan_only;
    dev->trace = &micro;
    diffusion_bytes(&t->diffusion, dev);
    dev->plan_only = true;
    dev->trace = &update;
    optimizer_update(&t->optimizer, t->options, dev);
    dev->plan_only = plan_only;
    dev->trace = NULL;
    double seconds = trace_least_seconds(&micro, &t->peaks) * t->options->gradient_accumulation_steps +
                     trace_least_seconds(&update, &t->peaks);
    trace_free(&micro);
    trace_free(&update);
    return seconds;
}

// What a validation allocates and frees again: the sampler, and the average in the type of the weights.
static size_t validation_bytes(Trainer *t, Device *dev) {
    const Diffusion *d = &t->diffusion;
    const TrainOptions *o = t->options;
    size_t average = o->ema_decay > 0 ? t->pipeline.unet.params.total * sizeof(floatX) : 0;
    if (!t->validates) { return o->validate_every && o->zero && t->comm->world > 1 ? average : 0; }
    return sampler_bytes(&t->pipeline, d->B, d->h, d->w, dev) + average;
}

static void plan_memory(Trainer *t, Device *dev) {
    const Params *p = &t->pipeline.unet.params;
    size_t states[3], arena = diffusion_bytes(&t->diffusion, dev);
    optimizer_bytes(t->options, optimizer_part(t->options, t->comm, p->total), states);
    size_t frozen =
        t->validates || t->options->pixel_loss > 0 ? t->pipeline.vae_decoder.params.total * sizeof(floatX) : 0;
    char *note = optimizer_note(t->options, t->comm, p->total);
    MemoryRow rows[] = {{"UNet weights", p->total * sizeof(floatX)},
                        {"frozen weights", frozen},
                        {"gradients", p->total * sizeof(float)},
                        {"fp32 masters", states[0]},
                        {"Adam's moments", states[1]},
                        {"moving average", states[2]},
                        {"activations", arena},
                        {"validation", validation_bytes(t, dev)},
                        {"workspace", dev->workspace_needed}};
    size_t held = p->total * (sizeof(floatX) + sizeof(float)) + frozen;
    memory_table(rows, (int)(sizeof rows / sizeof *rows), held, note, dev);
    device_reserve_workspace(dev, dev->workspace_needed);
    t->arena = arena_create(dev, arena);
    free(note);
}

static void open_data(Trainer *t, Device *dev) {
    const TrainOptions *o = t->options;
    int rank = t->comm->rank, world = t->comm->world;
    t->shards = shards_open(o->shards, o->split);
    const ShardInfo *info = &t->shards.info;
    t->peaks = run_peaks(o, t->comm, dev);
    bool decodes = (o->validate_every && rank == 0) || o->pixel_loss > 0;
    int parts = PART_UNET | PART_TEXT | PART_SCHEDULE | (decodes ? PART_VAE_DECODER : 0);
    t->pipeline = pipeline_open(run_base(&t->run), parts, PART_UNET, dev);
    check_vae(t);
    if (info->channels != t->pipeline.unet.config.out_channels) {
        die("%s: latents have %d channels, the UNet of %s %d", o->shards, info->channels, run_base(&t->run),
            t->pipeline.unet.config.out_channels);
    }
    t->prompts = prompts_create(&t->pipeline, o, info, dev);
    pipeline_release(&t->pipeline, PART_TEXT, dev); // SD2's are 1.4 GB
    LoaderOptions loader = {.target = o->target_bit,
                            .seed = (uint64_t)o->seed,
                            .rank = rank,
                            .world = world,
                            .rows = o->train_batch_size,
                            .start = t->run.first_step * train_samples(o, world),
                            .keep = o->classes ? shards_classes(&t->shards, "--classes", o->classes) : NULL};
    t->loader = loader_open(&t->shards, &loader);
}

static void open_optimizer(Trainer *t, Device *dev) {
    Params *p = &t->pipeline.unet.params;
    Trained what = trained(t);
    t->optimizer = optimizer_create(t->options, t->comm, p->weights, p->grads, p->total, dev);
    if (t->run.checkpoint) {
        checkpoint_load(t->options, t->run.checkpoint, &what, &t->optimizer, dev);
    } else {
        checkpoint_start(t->options->model, &what, &t->optimizer, dev);
    }
}

static void open_step(Trainer *t, Device *dev) {
    const Diffusion *d = &t->diffusion;
    size_t rows = (size_t)d->B, cells = rows * (size_t)(d->h * d->w) * sizeof(float), latents = cells * (size_t)d->L;
    size_t context = rows * (size_t)d->tokens * (size_t)d->unet->config.cross_attention_dim;
    t->feed = feed_create((size_t[]){latents, latents, cells}, t->options->loss_kind == LOSS_WEIGHTED ? 3 : 2, dev);
    t->class_index = xcalloc(rows, sizeof *t->class_index);
    t->sample = xcalloc(rows, sizeof *t->sample);
    t->position = xcalloc(rows, sizeof *t->position);
    t->context = device_alloc(dev, context * sizeof(floatX));
    Params *const params[2] = {&t->pipeline.unet.params, NULL};
    t->step = step_create(t->options, t->comm, &t->optimizer, params, micro_step, t, dev);
}

static void trainer_open(Trainer *t, Device *dev) {
    const TrainOptions *o = t->options;
    bool first = t->comm->rank == 0;
    t->run = run_open(o, t->comm);
    open_data(t, dev);
    const ShardInfo *info = &t->shards.info;
    t->diffusion = diffusion_create(&t->pipeline, o, info->color, info->height, info->width, dev);
    t->validates =
        first && validator_open(&t->validator, o, t->pipeline.folder, &t->shards, &t->diffusion, t->prompts.table, dev);
    if (!t->validates && o->pixel_loss == 0) { pipeline_release(&t->pipeline, PART_VAE_DECODER, dev); }
    plan_memory(t, dev);
    open_optimizer(t, dev);
    open_step(t, dev);
    if (t->peaks.bytes_per_s > 0) { t->run.least_seconds = least_seconds(t, dev); }
}

static void trainer_close(Trainer *t, Device *dev) {
    loader_close(t->loader);
    if (t->validates) { validator_close(&t->validator, dev); }
    step_destroy(&t->step, dev);
    feed_destroy(&t->feed, dev);
    free(t->class_index);
    free(t->sample);
    free(t->position);
    prompts_destroy(&t->prompts, dev);
    device_free(dev, t->context);
    optimizer_destroy(&t->optimizer, dev);
    diffusion_destroy(&t->diffusion, dev);
    arena_destroy(&t->arena);
    pipeline_close(&t->pipeline, dev);
    shards_close(&t->shards);
    run_close(&t->run);
}

static void put_run(yajl_gen gen, void *data) {
    const Trainer *t = data;
    json_put_integer(gen, "parameters", (long long)t->pipeline.unet.params.total);
    json_put_integer(gen, "samples", loader_samples(t->loader));
    json_put_number(gen, "least_seconds", t->run.least_seconds);
    json_put_string(gen, "vae_sha256", t->shards.info.vae_sha256);
}

static bool due(int step, int period) { return period > 0 && step % period == 0; }

// All ranks do the same steps; what rank 0 does alone, the others wait for in the next reduction.
int train_unet(const TrainOptions *o, Comm *comm, Device *dev) {
    Trainer t = {.options = o, .comm = comm};
    trainer_open(&t, dev);
    run_begin(&t.run, put_run, &t);
    interrupt_install();
    if (t.run.first_step == 0 && o->validate_every) { validate(&t, 0, dev); }
    int step = t.run.first_step, saved = step;
    while (step < o->max_train_steps && !step_stopped(&t.step)) {
        optimizer_step(&t, step, dev);
        step_print(&t.step, &t.run, step - 1);
        step++;
        if (due(step, o->validate_every) || (step == o->max_train_steps && o->validate_every)) {
            step_print(&t.step, &t.run, step - 1);
            validate(&t, step, dev);
        }
        if (due(step, o->checkpoint_every)) {
            step_print(&t.step, &t.run, step - 1);
            save(&t, saved = step, dev);
        }
    }
    step_print(&t.step, &t.run, step - 1);
    if (step > saved) { save(&t, step, dev); }
    run_publish(&t.run, step);
    int signal = step_stopped(&t.step);
    trainer_close(&t, dev);
    return signal ? 128 + signal : 0;
}
