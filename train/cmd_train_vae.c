// cocogold train-vae: trains the VAE on pictures with L1 + MSE + KL. Encoder and decoder are one flat set of
// parameters. There is no adversarial or perceptual term, because this is for small models: a full-size run keeps
// Stable Diffusion's VAE frozen. The loop in train/loop.c calls next_batch, vae_step, validate and describe.
#include "data/classes.h"
#include "data/coco.h"
#include "data/draw.h"
#include "data/paint.h"
#include "model/pipeline.h"
#include "train/feed.h"
#include "train/loop.h"
#include "train/micro_batch.h"
#include "train/pictures.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/philox.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    TrainOptions train; // the shared ones
    char *data, *source;
    double kl_weight, mse_weight, mix_overlay, mix_mask;
    int resolution, min_side, dataloader_num_workers;
} VAEOptions;

static void parse(VAEOptions *o, int argc, char **argv) {
    static const OptionsHelp help = {.about = "Trains the VAE of a small model from pictures and masks.",
                                     .usage = "--model DIR --data DIR --out DIR",
                                     .example = "--model init --data data --out vae --lr 4e-3"};
    *o = (VAEOptions){.train = train_options_default(),
                      .source = "auto",
                      .kl_weight = 1e-6,
                      .mse_weight = 1,
                      .mix_overlay = 0.25,
                      .mix_mask = 0.25,
                      .dataloader_num_workers = 1};
    const Option rows[] = {
        DATA_ROWS(&o->data),
        SOURCE_ROWS(&o->source),
        MAX_PIXELS_ROWS,
        {OPT_INT, "resolution", &o->resolution, "side of the training pictures (0: from the model's configs)", "PX",
         .high = MOST_RESOLUTION},
        MIN_SIDE_ROWS(&o->min_side),
        {OPT_INT, "dataloader-num-workers", &o->dataloader_num_workers, "threads that decode pictures", "N", .low = 1,
         .high = 256, .may_change = true},
        {OPT_HEADING, "What is learned"},
        {OPT_DOUBLE, "kl-weight", &o->kl_weight, "weight of the KL term", "X", .high = 1e9},
        {OPT_DOUBLE, "mse-weight", &o->mse_weight, "weight of the MSE term; the L1 term has weight 1", "X",
         .high = 1e9},
        {OPT_DOUBLE, "mix-overlay", &o->mix_overlay, "share of pictures with a painted mask", "P", .high = 1},
        {OPT_DOUBLE, "mix-mask", &o->mix_mask, "share of black and white masks", "P", .high = 1},
        OPTIONS_END};
    train_options_parse(&o->train, argc, argv, rows, &help);
    options_range(o->mix_mask, "--mix-mask", 0, round((1 - o->mix_overlay) * 1e9) / 1e9); // 1 - 0.8 is less than 0.2
}

typedef struct {
    VAEOptions options;
    Trainer trainer;
    Pipeline pipeline;
    VAEEncoder *encoder;
    VAEDecoder *decoder;
    Coco coco, validation_coco;
    bool *classes, *validation_classes;
    Pictures training, validation, scenes; // scenes: the training pictures in the data set's order
    Feed feed;
    float *images;      // (B, R, R, 3) on the device, owned by the feed
    float *host_images; // the same, for validation
    int B, R, r, L;     // batch, side of pictures and latents, latent channels
} VAETrainer;

// A MicroStep: picture -> moments -> latent -> picture. losses (B) = L1 + mse_weight MSE of each picture.
static void vae_step(void *data, Arena *arena, float *losses, const StepScalars *s, float beta, bool backward,
                     Device *dev) {
    VAETrainer *t = data;
    const VAEOptions *o = &t->options;
    int B = t->B, R = t->R, r = t->r, L = t->L, n = R * R * 3, rows = B * r * r;
    float scale = 1.0f / (float)(B * o->train.gradient_accumulation_steps);
    size_t pixels = (size_t)B * (size_t)n, latents = (size_t)rows * (size_t)L;
    ArenaMark mark = arena_mark(arena);
    floatX *input = arena_save(arena, "input", pixels), *output = arena_save(arena, "output", pixels);
    floatX *moments = arena_save(arena, "moments", 2 * latents), *z = arena_save(arena, "z", latents);
    float *noise = arena_save_float(arena, "noise", latents);

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
    arena_grads_begin(arena);
    vae_decoder_backward(t->decoder, arena, dz, doutput, beta, dev);
    gaussian_backward(dmoments, dz, moments, noise, (float)o->kl_weight * scale, rows, L, dev);
    vae_encoder_backward(t->encoder, arena, NULL, dmoments, beta, dev);
    arena_release(arena, mark);
}

// Called by the feed's thread.
static void fill_batch(void *data, long long number, void *const *arrays) {
    VAETrainer *t = data;
    pictures_read(&t->training, number, arrays[0]);
}

static void next_batch(void *data, Device *dev) {
    VAETrainer *t = data;
    feed_next(&t->feed, dev);
}

static char *name_sample(void *data, long long position) {
    VAETrainer *t = data;
    return pictures_name(&t->training, position);
}

// ---- validation ----------------------------------------------------------------------------------------------------

// "val2017" for "train2017"; the split itself if it does not begin with "train" or there is no such split.
static char *validation_split(const VAEOptions *o) {
    const char *split = o->train.split;
    if (strncmp(split, "train", 5) != 0) { return xstrdup(split); }
    char *val = xprintf("val%s", split + 5);
    if (coco_has_split(o->data, val)) { return val; }
    free(val);
    return xstrdup(split);
}

// t->images = host_images = a batch of one kind from position `first` on.
static void load_images(VAETrainer *t, const Pictures *from, int first, PictureKind kind, Device *dev) {
    size_t size = (size_t)(t->R * t->R * 3), B = (size_t)t->B;
    for (size_t i = 0; i < B; i++) { pictures_at(from, first + (int)i, kind, t->host_images + i * size); }
    device_copy(dev, t->images, t->host_images, B * size * sizeof(float), false);
    device_sync(dev);
}

// The sheet of a validation: the first pictures and their reconstructions.
enum { SHEET_COLUMNS = 6, SHEET_ROWS = 4 };
static const char *const sheet_headings[] = {"scene", "decoded", "overlay", "decoded", "mask", "decoded"};

static Image draw_cells(Image *images) {
    Cell cells[SHEET_ROWS * SHEET_COLUMNS];
    for (int i = 0; i < SHEET_ROWS * SHEET_COLUMNS; i++) { cells[i] = (Cell){&images[i], NULL}; }
    return draw_sheet(sheet_headings, cells, SHEET_ROWS, SHEET_COLUMNS, 128);
}

static double squared_error(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)(a[i] - b[i]) * (a[i] - b[i]); }
    return sum;
}

// Reconstructs a batch of one kind from position `first` on: decoded (B, R, R, 3) on the host. Returns the losses' sum.
static double reconstruct(VAETrainer *t, float *decoded, int first, PictureKind kind, Device *dev) {
    size_t size = (size_t)(t->R * t->R * 3), B = (size_t)t->B;
    load_images(t, &t->validation, first, kind, dev);
    vae_step(t, &t->trainer.arena, t->trainer.step.losses, NULL, 0, false, dev);
    device_copy(dev, decoded, t->images, B * size * sizeof(float), false);
    float losses[B];
    device_copy(dev, losses, t->trainer.step.losses, sizeof losses, false);
    device_sync(dev);
    double sum = 0;
    for (size_t i = 0; i < B; i++) { sum += losses[i]; }
    return sum;
}

// Validates on the first pictures of the validation split, each in all three kinds, independent of the training mix.
static void validate(void *data, int step, Device *dev) {
    VAETrainer *t = data;
    if (step == 0) { return; }
    size_t size = (size_t)(t->R * t->R * 3), pixels = (size_t)t->B * size;
    float *decoded = xmalloc(pixels * sizeof(float));
    Image images[SHEET_ROWS * SHEET_COLUMNS] = {0};
    double loss = 0, error = 0;
    int count = 0, wanted = t->options.train.validation_samples;
    for (int first = 0; (first < wanted || first < SHEET_ROWS) && !interrupt_signal(); first += t->B) {
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
    // After a signal it may have ended early.
    if (!interrupt_signal()) {
        Image sheet = draw_cells(images);
        log_vae_validation(&t->trainer.log, step, loss / count, 10 * log10(4 / (error / count / (double)size)), &sheet);
        image_free(&sheet);
    }
    for (int i = 0; i < SHEET_ROWS * SHEET_COLUMNS; i++) { image_free(&images[i]); }
    free(decoded);
}

// ---- the latents' scale --------------------------------------------------------------------------------------------

enum { SCALING_BATCHES = 8 };

// scaling_factor = 1 / standard deviation of the posterior means (Rombach et al. 2022), over the first batches of
// scenes.
static float measure_scaling(VAETrainer *t, Device *dev) {
    size_t n = (size_t)(t->B * t->r * t->r * t->L);
    float *host = xmalloc(n * sizeof(float)), *latents = device_alloc(dev, n * sizeof(float));
    double sum = 0, squares = 0, count = (double)(SCALING_BATCHES * n);
    t->encoder->config.scaling_factor = 1;
    for (int b = 0; b < SCALING_BATCHES; b++) {
        load_images(t, &t->scenes, b * t->B, KIND_SCENE, dev);
        pipeline_encode(&t->pipeline, &t->trainer.arena, latents, t->images, t->B, t->R, t->R, dev);
        device_copy(dev, host, latents, n * sizeof(float), false);
        device_sync(dev);
        for (size_t i = 0; i < n; i++) {
            sum += host[i];
            squares += (double)host[i] * host[i];
        }
    }
    free(host);
    device_free(dev, latents);
    double variance = squares / count - sum / count * (sum / count);
    return variance > 0 ? (float)(1 / sqrt(variance)) : 1;
}

static void describe(void *data, const char *folder, Device *dev) {
    VAETrainer *t = data;
    t->encoder->config.scaling_factor = t->decoder->config.scaling_factor = measure_scaling(t, dev);
    printf("scaling factor %.4f\n", t->encoder->config.scaling_factor);
    char *path = xprintf("%s/vae/config.json", folder);
    vae_config_write(&t->encoder->config, path);
    free(path);
}

// ---- the run -------------------------------------------------------------------------------------------------------

static void open_pictures(VAETrainer *t) {
    const VAEOptions *o = &t->options;
    const Comm *comm = &t->trainer.comm;
    t->coco = coco_open(o->data, o->train.split, o->source);
    coco_want_segments(&t->coco);
    t->classes = classes_parse(&t->coco, "--classes", "all", NULL);
    t->scenes = (Pictures){.coco = &t->coco,
                           .classes = t->classes,
                           .resolution = t->R,
                           .min_side = o->min_side,
                           .mix_overlay = o->mix_overlay,
                           .mix_mask = o->mix_mask,
                           .seed = (uint64_t)o->train.seed,
                           .rank = comm->rank,
                           .world = comm->world,
                           .rows = t->B,
                           .workers = o->dataloader_num_workers,
                           .start = t->trainer.run.first_step * train_samples(&o->train, comm->world)};
    t->training = t->scenes;
    pictures_open(&t->training);
    if (o->train.validate_every == 0 || comm->rank > 0) { return; }
    char *split = validation_split(o);
    t->validation_coco = coco_open(o->data, split, o->source);
    t->validation_classes = classes_parse(&t->validation_coco, "--classes", "all", NULL);
    t->validation = t->scenes;
    t->validation.coco = &t->validation_coco;
    t->validation.classes = t->validation_classes;
    t->validation.seed = 1; // independent of --seed, so that runs are comparable
    free(split);
}

static void open_feed(VAETrainer *t, Device *dev) {
    size_t bytes = (size_t)(t->B * t->R * t->R * 3) * sizeof(float);
    feed_open(&t->feed, &bytes, 1, 1, fill_batch, t, dev);
    t->images = t->feed.inputs[0];
    t->host_images = xmalloc(bytes);
}

static void open_model(VAETrainer *t, Device *dev) {
    VAEOptions *o = &t->options;
    int parts = PART_VAE_ENCODER | PART_VAE_DECODER;
    t->pipeline = pipeline_open(run_folder_base(&t->trainer.run), parts, parts, dev);
    t->encoder = &t->pipeline.vae_encoder;
    t->decoder = &t->pipeline.vae_decoder;
    t->R = pipeline_resolution(&t->pipeline, o->resolution);
    t->r = vae_latent_size(&t->encoder->config, t->R);
    t->L = t->encoder->config.latent_channels;
    params_join(&t->encoder->params, &t->decoder->params, dev);
    params_set_grads((Params *[]){&t->encoder->params, &t->decoder->params}, 2, PLAN_POINTER);
    MicroBatch m = {.micro_step = vae_step,
                    .model = t,
                    .B = &t->B,
                    .parameters = t->encoder->params.total + t->decoder->params.total};
    micro_batch_choose(&m, &o->train, &t->trainer.comm, dev);
}

static void close_all(VAETrainer *t, Device *dev) {
    feed_close(&t->feed, dev);
    pictures_close(&t->training);
    coco_free(&t->coco);
    coco_free(&t->validation_coco);
    free(t->classes);
    free(t->validation_classes);
    free(t->host_images);
    pipeline_close(&t->pipeline, dev);
}

int cmd_train_vae(int argc, char **argv) {
    VAETrainer t = {0};
    Device *dev = &t.trainer.dev;
    parse(&t.options, argc, argv);
    trainer_open(&t.trainer, &t.options.train);
    trainer_measure(&t.trainer);
    open_model(&t, dev);
    open_pictures(&t);
    open_feed(&t, dev);
    Task task = {.trained = {{"vae", "vae"}, {&t.encoder->params, &t.decoder->params}, 2},
                 .micro_step = vae_step,
                 .model = &t,
                 .owner = &t,
                 .next_batch = next_batch,
                 .name_sample = name_sample,
                 .validate = validate,
                 .describe = describe,
                 .validates = t.trainer.comm.rank == 0,
                 .samples = t.coco.picture_count};
    stream_add(&task.stream, "resolution", "the resolution", "%d", t.R);
    stream_add(&task.stream, "samples", "the number of pictures", "%d", t.coco.picture_count);
    stream_add_hash(&task.stream, "pictures", "the list of pictures and objects", pictures_hash(&t.training));
    int code = train(&t.trainer, &task);
    close_all(&t, dev);
    trainer_close(&t.trainer);
    return code;
}
