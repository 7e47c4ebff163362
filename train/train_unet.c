// Fine-tuning the UNet to segment by text. One optimizer step is
//
//   loader -> pinned buffers -> device            feed_fill     (copy stream)
//   noise, UNet forward, loss, UNet backward      diffusion_step, once per micro-batch
//   norm, Adam, EMA                               optimizer_update
//
// Losses and norm come back through a pinned ring and are printed one step late: nothing in the step waits for the
// host.
#include "data/loader.h"
#include "eval/segment.h"
#include "eval/settings.h"
#include "train/checkpoint.h"
#include "train/diffusion.h"
#include "train/interrupt.h"
#include "train/train.h"
#include "train/validate.h"
#include "util/error.h"
#include "util/file.h"
#include "util/progress.h"
#include <stdlib.h>
#include <string.h>

// One of two sets of buffers: the copy stream fills one while the other is computed on.
typedef struct {
    LoaderBatch host; // pinned
    float *host_weight;
    float *image, *target, *weight; // on the device
    DeviceEvent *ready, *consumed;
} Feed;

// What comes back to the host from one step.
typedef struct {
    float *losses; // (micro_steps * B) pinned
    GradNorm *norm;
    DeviceEvent *started, *arrived;
    int step; // 0: empty
} Report;

typedef struct {
    const TrainOptions *options;
    Run run;
    Pipeline pipeline;
    ShardSet shards;
    Loader *loader;
    Diffusion diffusion;
    Optimizer optimizer;
    Arena arena;
    Validator validator;
    bool validates;
    floatX *table, *context; // embeddings of all class names; of the micro-batch
    float *losses;           // (micro_steps * B) on the device
    Feed feeds[2];
    Report reports[2];
    uint64_t *positions; // (micro_steps) of the step
    Peaks peaks;
} Trainer;

// ---- feeding -------------------------------------------------------------------------------------------------------

static Feed feed_create(const Diffusion *d, Device *dev) {
    size_t rows = (size_t)d->B, cells = rows * (size_t)(d->h * d->w), latents = cells * (size_t)d->L;
    Feed f = {.host_weight = device_alloc_pinned(dev, cells * sizeof(float)),
              .image = device_alloc(dev, latents * sizeof(float)),
              .target = device_alloc(dev, latents * sizeof(float)),
              .weight = device_alloc(dev, cells * sizeof(float)),
              .ready = device_event_create(dev),
              .consumed = device_event_create(dev)};
    f.host = (LoaderBatch){.image_latent = device_alloc_pinned(dev, latents * sizeof(float)),
                           .target_latent = device_alloc_pinned(dev, latents * sizeof(float)),
                           .class_index = device_alloc_pinned(dev, rows * sizeof(int)),
                           .position = device_alloc_pinned(dev, rows * sizeof(int64_t)),
                           .sample = device_alloc_pinned(dev, rows * sizeof(int64_t))};
    return f;
}

static void feed_destroy(Feed *f, Device *dev) {
    void *pinned[] = {f->host_weight,      f->host.image_latent, f->host.target_latent,
                      f->host.class_index, f->host.position,     f->host.sample};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) { device_free_pinned(dev, pinned[i]); }
    device_free(dev, f->image);
    device_free(dev, f->target);
    device_free(dev, f->weight);
    device_event_destroy(f->ready);
    device_event_destroy(f->consumed);
}

// The cell weights of --loss weighted come from the stored masks.
static void fill_weights(Trainer *t, Feed *f) {
    const Diffusion *d = &t->diffusion;
    int R = t->shards.info.resolution;
    uint8_t *packed = xmalloc((size_t)(R * ((R + 7) / 8)));
    for (int i = 0; i < d->B; i++) {
        ShardSample s = {.mask = packed};
        shards_read(&t->shards, f->host.sample[i], &s);
        cell_weights(f->host_weight + i * d->h * d->w, packed, R, d->h, d->w);
    }
    free(packed);
}

static void feed_fill(Trainer *t, Feed *f, Device *dev) {
    const Diffusion *d = &t->diffusion;
    size_t cells = (size_t)(d->B * d->h * d->w), bytes = cells * (size_t)d->L * sizeof(float);
    device_event_sync(f->consumed); // the step that read these buffers two micro-batches ago is done
    loader_next(t->loader, &f->host);
    device_copy(dev, f->image, f->host.image_latent, bytes, true);
    device_copy(dev, f->target, f->host.target_latent, bytes, true);
    if (t->options->loss_kind == LOSS_WEIGHTED) {
        fill_weights(t, f);
        device_copy(dev, f->weight, f->host_weight, cells * sizeof(float), true);
    }
    device_event_record(dev, f->ready, true);
}

// ---- a step --------------------------------------------------------------------------------------------------------

static void optimizer_step(Trainer *t, int step, Device *dev) {
    const TrainOptions *o = t->options;
    int micro_steps = o->gradient_accumulation_steps, B = t->diffusion.B;
    uint64_t samples = (uint64_t)B * (uint64_t)micro_steps;
    for (int k = 0; k < micro_steps; k++) { t->positions[k] = (uint64_t)step * samples + (uint64_t)(k * B); }
    device_event_record(dev, t->reports[step % 2].started, false);
    optimizer_begin(&t->optimizer, o, step, t->positions, dev);
    for (int k = 0; k < micro_steps; k++) {
        Feed *f = &t->feeds[((long long)step * micro_steps + k) % 2];
        feed_fill(t, f, dev);
        device_event_wait(dev, f->ready, false);
        context_gather(t->context, t->table, f->host.class_index, B, &t->pipeline, dev);
        diffusion_step(&t->diffusion, &t->arena, t->losses + k * B, f->image, f->target, f->weight, t->context,
                       t->optimizer.scalars + k, k > 0, true, dev);
        device_event_record(dev, f->consumed, false);
    }
    optimizer_update(&t->optimizer, o, dev);
}

static void report_send(Trainer *t, int step, Device *dev) {
    Report *r = &t->reports[step % 2];
    size_t count = (size_t)(t->diffusion.B * t->options->gradient_accumulation_steps);
    device_copy(dev, r->losses, t->losses, count * sizeof(float), false);
    device_copy(dev, r->norm, t->optimizer.norm, sizeof *r->norm, false);
    device_event_record(dev, r->arrived, false);
    r->step = step + 1;
}

// Prints what step `step` (from 0) sent, if that was not done yet.
static void report_print(Trainer *t, int step) {
    Report *r = step < 0 ? NULL : &t->reports[step % 2];
    if (!r || !r->step) { return; }
    device_event_sync(r->arrived);
    int count = t->diffusion.B * t->options->gradient_accumulation_steps;
    double sum = 0;
    for (int i = 0; i < count; i++) { sum += r->losses[i]; }
    optimizer_count(&t->optimizer, r->step - 1, r->norm);
    run_step(&t->run, r->step, sum / count, r->norm->norm, r->norm->finite,
             device_event_seconds(r->started, r->arrived));
    r->step = 0;
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
    s.text_template = xstrdup(t->options->text_template);
    uint8_t *keep = t->options->classes ? shards_classes(&t->shards, t->options->classes) : NULL;
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
    if (t->options->prediction_type) { // a new file: the old one may be linked to the model directory of the start
        char *path = xprintf("%s/scheduler/scheduler_config.json", folder);
        schedule_config_write(&t->pipeline.schedule.config, path);
        free(path);
    }
}

static void save(Trainer *t, int step, Device *dev) {
    Trained what = trained(t);
    device_sync(dev);
    run_saved(&t->run,
              checkpoint_save(t->options, run_base(&t->run), step, &what, &t->optimizer, write_settings, t, dev));
    printf("saved %s\n", t->run.checkpoint);
}

static void validate(Trainer *t, int step, Device *dev) {
    if (!t->validates) { return; }
    UNet *unet = &t->pipeline.unet;
    floatX *weights = unet->params.weights, *average = NULL;
    if (t->optimizer.ema) { // the moving average is what is used later
        average = device_alloc(dev, unet->params.total * sizeof(floatX));
        cast_to_floatX(average, t->optimizer.ema, unet->params.total, dev);
        unet->params.weights = average;
    }
    Validation v = validator_run(&t->validator, &t->pipeline, &t->diffusion, &t->arena, dev);
    unet->params.weights = weights;
    if (average) { device_free(dev, average); }
    run_validation(&t->run, step, &v);
    image_free(&v.sheet);
}

static floatX *embed_classes(Trainer *t, Device *dev) {
    const ShardInfo *info = &t->shards.info;
    const char *form = t->options->text_template, *gap = strstr(form, "{}");
    char **texts = xcalloc((size_t)info->class_count, sizeof *texts);
    for (int i = 0; i < info->class_count; i++) {
        texts[i] = xprintf("%.*s%s%s", (int)(gap - form), form, info->classes[i], gap + 2);
    }
    floatX *table = context_table(&t->pipeline, (const char *const *)texts, info->class_count, dev);
    for (int i = 0; i < info->class_count; i++) { free(texts[i]); }
    free(texts);
    return table;
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
    if (!t->validates) { return 0; }
    const Diffusion *d = &t->diffusion;
    size_t average = t->options->ema_decay > 0 ? t->pipeline.unet.params.total * sizeof(floatX) : 0;
    return sampler_bytes(&t->pipeline, d->B, d->h, d->w, dev) + average;
}

static void plan_memory(Trainer *t, Device *dev) {
    const Params *p = &t->pipeline.unet.params;
    size_t states[3], free_bytes, total_bytes, arena = diffusion_bytes(&t->diffusion, dev);
    optimizer_bytes(t->options, p->total, states);
    size_t frozen = (t->pipeline.vae_decoder.params.total + t->pipeline.clip.params.total) * sizeof(floatX);
    MemoryRow rows[] = {{"UNet weights", p->total * sizeof(floatX)},
                        {"frozen weights", frozen},
                        {"gradients", p->total * sizeof(float)},
                        {"fp32 masters", states[0]},
                        {"Adam's moments", states[1]},
                        {"moving average", states[2]},
                        {"activations", arena},
                        {"validation", validation_bytes(t, dev)},
                        {"workspace", dev->workspace_needed}};
    device_memory(dev, &free_bytes, &total_bytes);
    size_t held = p->total * (sizeof(floatX) + sizeof(float)) + frozen; // allocated already
    memory_table(rows, (int)(sizeof rows / sizeof *rows), device_name(dev), free_bytes + held);
    device_reserve_workspace(dev, dev->workspace_needed);
    t->arena = arena_create(dev, arena);
}

static void open_data(Trainer *t, Device *dev) {
    const TrainOptions *o = t->options;
    t->shards = shards_open(o->shards, o->split);
    const ShardInfo *info = &t->shards.info;
    int parts = PART_UNET | PART_TEXT | PART_SCHEDULE | (o->validate_every ? PART_VAE_DECODER : 0);
    t->pipeline = pipeline_open(run_base(&t->run), parts, PART_UNET, dev);
    check_vae(t);
    if (info->channels != t->pipeline.unet.config.out_channels) {
        die("%s: latents have %d channels, the UNet of %s %d", o->shards, info->channels, run_base(&t->run),
            t->pipeline.unet.config.out_channels);
    }
    t->table = embed_classes(t, dev);
    LoaderOptions loader = {.target = o->target_bit,
                            .seed = (uint64_t)o->seed,
                            .world = 1,
                            .rows = o->train_batch_size,
                            .start =
                                (long long)t->run.first_step * o->train_batch_size * o->gradient_accumulation_steps,
                            .keep = o->classes ? shards_classes(&t->shards, o->classes) : NULL};
    t->loader = loader_open(&t->shards, &loader);
}

static void trainer_open(Trainer *t, Device *dev) {
    const TrainOptions *o = t->options;
    t->run = run_open(o);
    open_data(t, dev);
    const ShardInfo *info = &t->shards.info;
    t->diffusion = diffusion_create(&t->pipeline, o, info->height, info->width, dev);
    t->validates = validator_open(&t->validator, o, &t->shards, &t->diffusion, t->table, dev);
    plan_memory(t, dev);
    Params *p = &t->pipeline.unet.params;
    t->optimizer = optimizer_create(o, p->weights, p->grads, p->total, dev);
    if (t->run.checkpoint) {
        Trained what = trained(t);
        checkpoint_load(o, t->run.checkpoint, &what, &t->optimizer, dev);
    }
    size_t losses = (size_t)(t->diffusion.B * o->gradient_accumulation_steps) * sizeof(float);
    t->losses = device_alloc(dev, losses);
    t->positions = xcalloc((size_t)o->gradient_accumulation_steps, sizeof *t->positions);
    t->context =
        device_alloc(dev, (size_t)(t->diffusion.B * t->diffusion.tokens * t->pipeline.unet.config.cross_attention_dim) *
                              sizeof(floatX));
    for (int i = 0; i < 2; i++) {
        t->feeds[i] = feed_create(&t->diffusion, dev);
        t->reports[i] = (Report){.losses = device_alloc_pinned(dev, losses),
                                 .norm = device_alloc_pinned(dev, sizeof(GradNorm)),
                                 .started = device_event_create(dev),
                                 .arrived = device_event_create(dev)};
    }
    if (!o->no_roofline) {
        t->peaks = device_measure_peaks(dev);
        t->run.least_seconds = least_seconds(t, dev);
    }
}

static void trainer_close(Trainer *t, Device *dev) {
    loader_close(t->loader);
    if (t->validates) { validator_close(&t->validator, dev); }
    for (int i = 0; i < 2; i++) {
        feed_destroy(&t->feeds[i], dev);
        device_free_pinned(dev, t->reports[i].losses);
        device_free_pinned(dev, t->reports[i].norm);
        device_event_destroy(t->reports[i].started);
        device_event_destroy(t->reports[i].arrived);
    }
    device_free(dev, t->losses);
    device_free(dev, t->table);
    device_free(dev, t->context);
    free(t->positions);
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

int train_unet(const TrainOptions *o, Device *dev) {
    Trainer t = {.options = o};
    trainer_open(&t, dev);
    run_begin(&t.run, put_run, &t);
    interrupt_install();
    if (t.run.first_step == 0) { validate(&t, 0, dev); }
    int step = t.run.first_step, saved = step;
    while (step < o->max_train_steps && !interrupt_signal()) {
        optimizer_step(&t, step, dev);
        report_send(&t, step, dev);
        report_print(&t, step - 1);
        step++;
        if (due(step, o->validate_every) || (step == o->max_train_steps && o->validate_every)) {
            report_print(&t, step - 1);
            validate(&t, step, dev);
        }
        if (due(step, o->checkpoint_every)) {
            report_print(&t, step - 1);
            save(&t, saved = step, dev);
        }
    }
    report_print(&t, step - 1);
    if (step > saved) { save(&t, step, dev); }
    if (step >= o->max_train_steps) {
        checkpoint_publish(t.run.checkpoint, o->out);
        printf("the model is in %s/model\n", o->out);
    }
    trainer_close(&t, dev);
    return interrupt_signal() ? 128 + interrupt_signal() : 0;
}
