// Training the VAE from pictures: L1 + MSE + KL, encoder and decoder as one flat set of parameters. No adversarial or
// perceptual term: this is for small models; a full-size run keeps Stable Diffusion's VAE frozen.
#include "data/draw.h"
#include "data/loader.h"
#include "data/paint.h"
#include "data/classes.h"
#include "train/checkpoint.h"
#include "train/feed.h"
#include "train/interrupt.h"
#include "train/pictures.h"
#include "train/run.h"
#include "train/step.h"
#include "train/train.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const TrainOptions *options;
    Comm *comm;
    Run run;
    Pipeline pipeline;
    VAEEncoder *encoder;
    VAEDecoder *decoder;
    Coco coco, validation_coco;
    bool *classes, *validation_classes;
    PictureOptions training, validation;
    Pictures *pictures;
    Feed feed;
    Optimizer optimizer;
    Step step;
    Arena arena;
    floatX *weights; // joint buffers of encoder and decoder
    float *grads;
    float *images;                    // (B, R, R, 3) on the device: the feed's
    float *host_images, *host_losses; // (B, R, R, 3) and (B) pinned, for validation
    int B, R, r, L;                   // batch, side of pictures and latents, latent channels
} Trainer;

// Encoder and decoder move into one buffer, so that norm and update are one launch.
static void join(Trainer *t, Device *dev) {
    Params *parts[] = {&t->encoder->params, &t->decoder->params};
    size_t total = parts[0]->total + parts[1]->total, first = 0;
    t->weights = device_alloc(dev, total * sizeof(floatX));
    t->grads = device_alloc(dev, total * sizeof(float));
    for (int i = 0; i < 2; first += parts[i++]->total) {
        device_copy(dev, t->weights + first, parts[i]->weights, parts[i]->total * sizeof(floatX), false);
        device_sync(dev);
        device_free(dev, parts[i]->weights);
        if (parts[i]->grads) { device_free(dev, parts[i]->grads); }
        parts[i]->weights = t->weights + first;
        parts[i]->grads = t->grads + first;
    }
    device_fill(dev, t->grads, 0, total * sizeof(float)); // the padding between slices stays zero
}

static Trained trained(Trainer *t) {
    return (Trained){.module = "vae",
                     .file = "diffusion_pytorch_model.safetensors",
                     .params = {&t->encoder->params, &t->decoder->params},
                     .count = 2,
                     .vae_config = &t->encoder->config};
}

// One micro-step: picture -> moments -> latent -> picture. losses (B) = L1 + mse_weight MSE of each picture.
static void vae_step(Trainer *t, float *losses, const StepScalars *s, float beta, bool backward, Device *dev) {
    const TrainOptions *o = t->options;
    Arena *arena = &t->arena;
    int B = t->B, R = t->R, r = t->r, L = t->L, n = R * R * 3, rows = B * r * r;
    float scale = 1.0f / (float)(B * o->gradient_accumulation_steps);
    size_t pixels = (size_t)B * (size_t)n, latents = (size_t)rows * (size_t)L;
    ArenaMark mark = arena_mark(arena);
    floatX *input = arena_save(arena, pixels), *output = arena_save(arena, pixels);
    floatX *moments = arena_save(arena, 2 * latents), *z = arena_save(arena, latents);
    float *noise = arena_save_float(arena, latents);

    device_scope(dev, "forward");
    cast_to_floatX(input, t->images, pixels, dev);
    vae_encoder_forward(t->encoder, arena, moments, input, B, R, R, backward, dev);
    if (backward) { normal_noise(noise, B, r * r * L, PHILOX_POSTERIOR, s, dev); }
    gaussian_forward(z, moments, backward ? noise : NULL, rows, L, dev);
    vae_decoder_forward(t->decoder, arena, output, z, B, r, r, backward, dev);
    if (!backward) {
        l1_mse_loss(losses, NULL, output, t->images, (float)o->mse_weight, scale, B, n, dev);
        cast_to_float(t->images, output, pixels, dev); // the reconstruction replaces the picture
        arena_release(arena, mark);
        return;
    }
    device_scope(dev, "backward");
    floatX *dz = arena_push(arena, latents), *dmoments = arena_push(arena, 2 * latents),
           *doutput = arena_push(arena, pixels);
    l1_mse_loss(losses, doutput, output, t->images, (float)o->mse_weight, scale, B, n, dev);
    vae_decoder_backward(t->decoder, arena, dz, doutput, beta, dev);
    gaussian_backward(dmoments, dz, moments, noise, (float)o->kl_weight * scale, rows, L, dev);
    vae_encoder_backward(t->encoder, arena, NULL, dmoments, beta, dev);
    arena_release(arena, mark);
}

static void micro_step(void *data, float beta, Device *dev) {
    Trainer *t = data;
    vae_step(t, t->step.losses, t->step.scalars, beta, true, dev);
}

static size_t plan(Trainer *t, Device *dev) {
    bool plan_only = dev->plan_only;
    dev->plan_only = true;
    t->arena = arena_measure(dev);
    vae_step(t, NULL, NULL, 0, true, dev);
    dev->plan_only = plan_only;
    return t->arena.peak;
}

static void plan_memory(Trainer *t, Device *dev) {
    size_t total = t->encoder->params.total + t->decoder->params.total, states[3];
    size_t arena = plan(t, dev);
    optimizer_bytes(t->options, optimizer_part(t->options, t->comm, total), states);
    char *note = optimizer_note(t->options, t->comm, total);
    MemoryRow rows[] = {
        {"VAE weights", total * sizeof(floatX)}, {"gradients", total * sizeof(float)}, {"fp32 masters", states[0]},
        {"Adam's moments", states[1]},           {"moving average", states[2]},        {"activations", arena},
        {"workspace", dev->workspace_needed}};
    memory_table(rows, (int)(sizeof rows / sizeof *rows), total * (sizeof(floatX) + sizeof(float)), note, dev);
    device_reserve_workspace(dev, dev->workspace_needed);
    t->arena = arena_create(dev, arena);
    free(note);
}

static double least_seconds(Trainer *t, const Peaks *peaks, Device *dev) {
    Trace trace = {0};
    Arena arena = t->arena;
    bool plan_only = dev->plan_only;
    dev->trace = &trace;
    plan(t, dev);
    t->arena = arena;
    double micro = trace_least_seconds(&trace, peaks);
    trace_clear(&trace);
    dev->plan_only = true;
    optimizer_update(&t->optimizer, t->options, dev);
    dev->plan_only = plan_only;
    dev->trace = NULL;
    double update = trace_least_seconds(&trace, peaks);
    trace_free(&trace);
    return micro * t->options->gradient_accumulation_steps + update;
}

// ---- validation ----------------------------------------------------------------------------------------------------

// "val2017" for "train2017"; the split itself if it does not begin with "train" or there is no such split.
static char *validation_split(const TrainOptions *o) {
    if (strncmp(o->split, "train", 5) != 0) { return xstrdup(o->split); }
    char *split = xprintf("val%s", o->split + 5);
    if (!coco_has_split(o->data, split)) {
        free(split);
        split = xstrdup(o->split);
    }
    return split;
}

static void upload_images(Trainer *t, Device *dev) {
    device_copy(dev, t->images, t->host_images, (size_t)(t->B * t->R * t->R * 3) * sizeof(float), false);
    device_sync(dev);
}

// Pictures and what the VAE makes of them, for the first few.
enum { SHEET_COLUMNS = 6, SHEET_ROWS = 4 };
static const char *const sheet_headings[] = {"scene", "decoded", "overlay", "decoded", "mask", "decoded"};

static Image draw_cells(Image *images) {
    Cell cells[SHEET_ROWS * SHEET_COLUMNS];
    for (int i = 0; i < SHEET_ROWS * SHEET_COLUMNS; i++) { cells[i] = (Cell){&images[i], NULL}; }
    Image sheet = draw_sheet(NULL, sheet_headings, cells, SHEET_ROWS, SHEET_COLUMNS, 128);
    for (int i = 0; i < SHEET_ROWS * SHEET_COLUMNS; i++) { image_free(&images[i]); }
    return sheet;
}

static double squared_error(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)(a[i] - b[i]) * (a[i] - b[i]); }
    return sum;
}

// A batch of one kind from position `first` on: decoded (B, R, R, 3) on the host, and the losses' sum.
static double reconstruct(Trainer *t, float *decoded, int first, PictureKind kind, Device *dev) {
    size_t size = (size_t)(t->R * t->R * 3), B = (size_t)t->B;
    for (size_t i = 0; i < B; i++) {
        pictures_at(&t->validation, NULL, first + (int)i, kind, t->host_images + i * size);
    }
    upload_images(t, dev);
    vae_step(t, t->step.losses, NULL, 0, false, dev);
    device_copy(dev, decoded, t->images, B * size * sizeof(float), false);
    device_copy(dev, t->host_losses, t->step.losses, B * sizeof(float), false);
    device_sync(dev);
    double sum = 0;
    for (size_t i = 0; i < B; i++) { sum += t->host_losses[i]; }
    return sum;
}

// The first pictures of the validation split in all three kinds, whatever the training mix is.
static void validate(Trainer *t, int step, Device *dev) {
    size_t size = (size_t)(t->R * t->R * 3), pixels = (size_t)t->B * size;
    float *decoded = xmalloc(pixels * sizeof(float));
    Image images[SHEET_ROWS * SHEET_COLUMNS] = {0};
    double loss = 0, error = 0;
    int count = 0;
    for (int first = 0; first < t->options->validation_samples || first < SHEET_ROWS; first += t->B) {
        for (int kind = 0; kind < 3; kind++, count += t->B) {
            loss += reconstruct(t, decoded, first, (PictureKind)kind, dev);
            error += squared_error(t->host_images, decoded, pixels);
            for (int i = 0; i < t->B && first + i < SHEET_ROWS; i++) {
                Image *cell = &images[(first + i) * SHEET_COLUMNS + 2 * kind];
                cell[0] = image_from_floats(t->host_images + (size_t)i * size, t->R, t->R, 3);
                cell[1] = image_from_floats(decoded + (size_t)i * size, t->R, t->R, 3);
            }
        }
    }
    Image sheet = draw_cells(images);
    run_validation_vae(&t->run, step, loss / count, 10 * log10(4 / (error / count / (double)size)), &sheet);
    image_free(&sheet);
    free(decoded);
}

// ---- the latents' scale --------------------------------------------------------------------------------------------

enum { SCALING_BATCHES = 8 };

// scaling_factor = 1 / standard deviation of the posterior means (Rombach et al. 2022), over the first batches of
// scenes.
static float measure_scaling(Trainer *t, Device *dev) {
    size_t rows = (size_t)(t->B * t->r * t->r), L = (size_t)t->L, size = (size_t)(t->R * t->R * 3);
    float *host = xmalloc(2 * rows * L * sizeof(float)), *device = device_alloc(dev, 2 * rows * L * sizeof(float));
    double sum = 0, squares = 0, n = (double)(SCALING_BATCHES * rows * L);
    for (int b = 0; b < SCALING_BATCHES; b++) {
        for (int i = 0; i < t->B; i++) {
            pictures_at(&t->training, NULL, b * t->B + i, KIND_SCENE, t->host_images + (size_t)i * size);
        }
        upload_images(t, dev);
        ArenaMark mark = arena_mark(&t->arena);
        floatX *input = arena_save(&t->arena, (size_t)t->B * size), *moments = arena_save(&t->arena, 2 * rows * L);
        cast_to_floatX(input, t->images, (size_t)t->B * size, dev);
        vae_encoder_forward(t->encoder, &t->arena, moments, input, t->B, t->R, t->R, false, dev);
        cast_to_float(device, moments, 2 * rows * L, dev);
        arena_release(&t->arena, mark);
        device_copy(dev, host, device, 2 * rows * L * sizeof(float), false);
        device_sync(dev);
        for (size_t i = 0; i < rows * L; i++) {
            double mean = host[i / L * 2 * L + i % L];
            sum += mean;
            squares += mean * mean;
        }
    }
    free(host);
    device_free(dev, device);
    double variance = squares / n - sum / n * (sum / n);
    return variance > 0 ? (float)(1 / sqrt(variance)) : 1;
}

static void save(Trainer *t, int step, Device *dev) {
    Trained what = trained(t);
    if (t->comm->rank > 0) {
        checkpoint_help(&what, &t->optimizer, dev);
        return;
    }
    float scaling = measure_scaling(t, dev);
    t->encoder->config.scaling_factor = t->decoder->config.scaling_factor = scaling;
    run_saved(&t->run, checkpoint_save(t->options, run_base(&t->run), step, &what, &t->optimizer, NULL, NULL, dev));
    printf("saved %s (scaling factor %.4f)\n", t->run.checkpoint, scaling);
}

// ---- the run -------------------------------------------------------------------------------------------------------

static void open_pictures(Trainer *t) {
    const TrainOptions *o = t->options;
    t->coco = coco_open(o->data, o->split, o->source);
    t->classes = classes_parse(&t->coco, "--classes", "all", NULL);
    t->training = (PictureOptions){.coco = &t->coco,
                                   .classes = t->classes,
                                   .resolution = t->R,
                                   .min_side = o->min_side,
                                   .mix_overlay = o->mix_overlay,
                                   .mix_mask = o->mix_mask,
                                   .seed = (uint64_t)o->seed,
                                   .rank = t->comm->rank,
                                   .world = t->comm->world,
                                   .rows = t->B,
                                   .workers = o->dataloader_num_workers,
                                   .start = t->run.first_step * train_samples(o, t->comm->world)};
    t->pictures = pictures_open(&t->training);
    if (o->validate_every == 0 || t->comm->rank > 0) { return; }
    char *split = validation_split(o);
    t->validation_coco = coco_open(o->data, split, o->source);
    t->validation_classes = classes_parse(&t->validation_coco, "--classes", "all", NULL);
    t->validation = t->training;
    t->validation.coco = &t->validation_coco;
    t->validation.classes = t->validation_classes;
    t->validation.seed = 1; // whatever --seed is: runs are comparable
    free(split);
}

static void open_optimizer(Trainer *t, Device *dev) {
    Trained what = trained(t);
    t->optimizer = optimizer_create(t->options, t->comm, t->weights, t->grads,
                                    t->encoder->params.total + t->decoder->params.total, dev);
    if (t->run.checkpoint) {
        checkpoint_load(t->options, t->run.checkpoint, &what, &t->optimizer, dev);
    } else {
        checkpoint_start(t->options->model, &what, &t->optimizer, dev);
    }
}

static void open_step(Trainer *t, Device *dev) {
    size_t images = (size_t)(t->B * t->R * t->R * 3) * sizeof(float);
    t->feed = feed_create(&images, 1, dev);
    t->images = t->feed.inputs[0];
    t->host_images = device_alloc_pinned(dev, images);
    t->host_losses = device_alloc_pinned(dev, (size_t)t->B * sizeof *t->host_losses);
    Params *const params[2] = {&t->encoder->params, &t->decoder->params};
    t->step = step_create(t->options, t->comm, &t->optimizer, params, micro_step, t, dev);
}

static void trainer_open(Trainer *t, Device *dev) {
    const TrainOptions *o = t->options;
    t->run = run_open(o, t->comm);
    Peaks peaks = run_peaks(o, t->comm, dev);
    t->pipeline = pipeline_open(run_base(&t->run), PART_VAE_ENCODER | PART_VAE_DECODER, 0, dev);
    t->encoder = &t->pipeline.vae_encoder;
    t->decoder = &t->pipeline.vae_decoder;
    t->B = o->train_batch_size;
    t->R = o->resolution ? o->resolution : t->encoder->config.sample_size;
    t->r = vae_latent_size(&t->encoder->config, t->R);
    t->L = t->encoder->config.latent_channels;
    if (t->R != t->r * vae_factor(&t->encoder->config)) {
        die("--resolution %d: expected a multiple of %d, the VAE's pixels per latent cell", t->R,
            vae_factor(&t->encoder->config));
    }
    join(t, dev);
    plan_memory(t, dev);
    open_optimizer(t, dev);
    open_pictures(t);
    open_step(t, dev);
    if (peaks.bytes_per_s > 0) { t->run.least_seconds = least_seconds(t, &peaks, dev); }
}

static void trainer_close(Trainer *t, Device *dev) {
    pictures_close(t->pictures);
    coco_free(&t->coco);
    coco_free(&t->validation_coco);
    free(t->classes);
    free(t->validation_classes);
    device_free_pinned(dev, t->host_images);
    device_free_pinned(dev, t->host_losses);
    step_destroy(&t->step, dev);
    feed_destroy(&t->feed, dev);
    optimizer_destroy(&t->optimizer, dev);
    arena_destroy(&t->arena);
    Params *parts[] = {&t->encoder->params, &t->decoder->params};
    for (int i = 0; i < 2; i++) { parts[i]->weights = NULL, parts[i]->grads = NULL; } // they lie in the joint buffers
    pipeline_close(&t->pipeline, dev);
    device_free(dev, t->weights);
    device_free(dev, t->grads);
    run_close(&t->run);
}

static void optimizer_step(Trainer *t, int step, Device *dev) {
    step_begin(&t->step, step, dev);
    for (int k = 0; k < t->step.micro_steps; k++) {
        pictures_next(t->pictures, feed_arrays(&t->feed)[0]);
        feed_send(&t->feed, dev);
        step_micro(&t->step, k, dev); // calls micro_step
    }
    step_end(&t->step, step, dev);
}

static bool due(int step, int period) { return period > 0 && step % period == 0; }

int train_vae(const TrainOptions *o, Comm *comm, Device *dev) {
    Trainer t = {.options = o, .comm = comm};
    trainer_open(&t, dev);
    run_begin(&t.run, NULL, NULL);
    interrupt_install();
    int step = t.run.first_step, saved = step;
    while (step < o->max_train_steps && !step_stopped(&t.step)) {
        optimizer_step(&t, step, dev);
        step_print(&t.step, &t.run, step - 1);
        step++;
        if (due(step, o->validate_every) || (step == o->max_train_steps && o->validate_every)) {
            step_print(&t.step, &t.run, step - 1);
            if (comm->rank == 0) { validate(&t, step, dev); }
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
