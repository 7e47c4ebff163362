#include "train/diffusion.h"
#include "util/philox.h"
#include "util/error.h"
#include <string.h>

// What the options change of the model's schedule: validation samples with it, checkpoints record it.
static void change_schedule(Schedule *schedule, const TrainOptions *o) {
    ScheduleConfig config = schedule->config;
    if (o->prediction_type) {
        char kind = o->prediction_type[0];
        config.prediction = kind == 'v' ? PREDICT_V : kind == 'e' ? PREDICT_EPSILON : PREDICT_SAMPLE;
    }
    if (o->timestep_spacing) {
        config.spacing =
            (TimestepSpacing)options_choice(o->timestep_spacing, "--timestep-spacing", timestep_spacing_names);
    }
    if (o->zero_snr >= 0) { config.rescale_betas_zero_snr = o->zero_snr; }
    if (config.prediction == PREDICT_EPSILON && config.rescale_betas_zero_snr) {
        die("--prediction-type epsilon: the schedule's last signal-to-noise ratio is zero, noise cannot be told from "
            "it");
    }
    schedule_free(schedule);
    *schedule = schedule_create(&config);
}

static PixelLoss pixel_loss(Pipeline *pipeline, const TrainOptions *o, const int color[3]) {
    PixelLoss l = {.kind = o->pixel_loss_kind, .weight = (float)o->pixel_loss};
    if (o->pixel_loss > 0) { l.decoder = &pipeline->vae_decoder; }
    for (int c = 0; c < 3; c++) { l.color[c] = (float)color[c] / 127.5f - 1; }
    return l;
}

Diffusion diffusion_create(Pipeline *pipeline, const TrainOptions *o, const int color[3], int h, int w, Device *dev) {
    if (o->own_schedule) { change_schedule(&pipeline->schedule, o); }
    const Schedule *schedule = &pipeline->schedule;
    Diffusion d = {.unet = &pipeline->unet,
                   .schedule = schedule,
                   .options = o,
                   .B = o->train_batch_size,
                   .h = h,
                   .w = w,
                   .L = pipeline->unet.config.out_channels,
                   .tokens = tokenizer_length(pipeline->tokenizer),
                   .pixel_loss = pixel_loss(pipeline, o, color)};
    if (d.unet->config.in_channels != 2 * d.L) {
        die("%s/unet/config.json: field \"in_channels\" is %d, expected %d (image latent and noisy latent): make such "
            "a model with `cocogold init --from`",
            pipeline->folder, d.unet->config.in_channels, 2 * d.L);
    }
    d.prediction = schedule->config.prediction;
    d.unet->recompute = strcmp(o->recompute, "blocks") == 0         ? RECOMPUTE_BLOCKS
                        : strcmp(o->recompute, "transformers") == 0 ? RECOMPUTE_TRANSFORMERS
                                                                    : RECOMPUTE_NONE;
    size_t bytes = (size_t)schedule->T * sizeof(float);
    d.alphas_cumprod = device_alloc(dev, bytes);
    device_copy(dev, d.alphas_cumprod, schedule->alphas_cumprod, bytes, false);
    return d;
}

void diffusion_destroy(Diffusion *d, Device *dev) { device_free(dev, d->alphas_cumprod); }

// Times a sample's loss: makes gradients those of the mean over the optimizer step.
static float loss_scale(const Diffusion *d) { return 1.0f / (float)(d->B * d->options->gradient_accumulation_steps); }

static void latent_loss(const Diffusion *d, float *losses, floatX *dpred, const floatX *pred, const float *target,
                        const float *cell_weight, Device *dev) {
    int n = d->h * d->w * d->L;
    float scale = loss_scale(d);
    switch (d->options->loss_kind) {
    case LOSS_MSE:
        mse_loss(losses, dpred, pred, target, scale, d->B, n, dev);
        break;
    case LOSS_WEIGHTED:
        weighted_mse_loss(losses, dpred, pred, target, cell_weight, scale, d->B, n, d->L, dev);
        break;
    case LOSS_FOCAL:
        focal_mse_loss(losses, dpred, pred, target, (float)d->options->focal_gamma, scale, d->B, n, d->L, dev);
        break;
    }
}

void diffusion_step(Diffusion *d, Arena *arena, float *losses, const float *image, const float *target,
                    const float *cell_weight, const floatX *context, const StepScalars *s, float beta, bool backward,
                    Device *dev) {
    const TrainOptions *o = d->options;
    int B = d->B, n = d->h * d->w * d->L, T = d->schedule->T;
    size_t N = (size_t)B * (size_t)n;
    ArenaMark mark = arena_mark(arena);
    float *timesteps = arena_save_float(arena, (size_t)B), *noise = arena_save_float(arena, N);
    float *goal = arena_save_float(arena, N);
    floatX *noisy = arena_save(arena, N), *condition = arena_save(arena, N), *sample = arena_save(arena, 2 * N);
    floatX *pred = arena_save(arena, N), *dpred = backward ? arena_save(arena, N) : NULL;

    device_scope(dev, "noise");
    sample_timesteps(timesteps, B, T, backward ? (float)o->t_max_prob : 0, s, dev);
    normal_noise(noise, B, n, PHILOX_NOISE, s, dev);
    if (o->multires_noise > 0) {
        multires_noise(noise, timesteps, (float)o->multires_noise, o->multires_annealed, T, B, d->h, d->w, d->L, s,
                       dev);
    }
    add_noise_forward(noisy, goal, target, noise, timesteps, d->alphas_cumprod, d->prediction, B, n, dev);
    cast_to_floatX(condition, image, N, dev);
    concat_forward(sample, condition, noisy, B * d->h * d->w, d->L, d->L, dev);

    device_scope(dev, "forward");
    unet_forward(d->unet, arena, pred, sample, timesteps, context, B, d->h, d->w, d->tokens, backward, dev);
    device_scope(dev, "loss");
    latent_loss(d, losses, dpred, pred, goal, cell_weight, dev);
    if (backward && d->pixel_loss.decoder) {
        device_scope(dev, "pixel loss");
        float *noisy_float = noise; // which is done with
        cast_to_float(noisy_float, noisy, N, dev);
        pixel_loss_add(&d->pixel_loss, arena, losses, dpred, pred, noisy_float, target, timesteps, d->alphas_cumprod,
                       d->prediction, loss_scale(d), B, d->h, d->w, dev);
    }
    if (backward) {
        device_scope(dev, "backward");
        unet_backward(d->unet, arena, NULL, NULL, dpred, beta, dev);
    }
    arena_release(arena, mark);
}

size_t diffusion_bytes(Diffusion *d, Device *dev) {
    bool plan_only = dev->plan_only;
    dev->plan_only = true;
    Arena arena = arena_measure(dev);
    diffusion_step(d, &arena, PLAN_ADDRESS, PLAN_ADDRESS, PLAN_ADDRESS, NULL, PLAN_ADDRESS, NULL, 0, true, dev);
    dev->plan_only = plan_only;
    return arena.peak;
}

void cell_weights(float *weight, const uint8_t *packed, int R, int h, int w) {
    int stride = (R + 7) / 8;
    double sum = 0;
    for (int i = 0; i < h * w; i++) {
        int y0 = i / w * R / h, y1 = (i / w + 1) * R / h, x0 = i % w * R / w, x1 = (i % w + 1) * R / w, count = 0;
        for (int y = y0; y < y1; y++) {
            for (int x = x0; x < x1; x++) { count += packed[y * stride + x / 8] >> (7 - x % 8) & 1; }
        }
        weight[i] = (float)count / (float)((y1 - y0) * (x1 - x0));
        sum += weight[i];
    }
    float F = (float)(sum / (h * w));
    for (int i = 0; i < h * w; i++) {
        weight[i] = F > 0 && F < 1 ? weight[i] / (2 * F) + (1 - weight[i]) / (2 * (1 - F)) : 1;
    }
}
