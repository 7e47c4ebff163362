#include "train/diffusion.h"
#include "util/philox.h"
#include "util/error.h"
#include <string.h>

Diffusion diffusion_create(UNet *unet, const Schedule *schedule, const DiffusionOptions *o, int tokens, int h, int w,
                           Device *dev) {
    Diffusion d = {.unet = unet,
                   .schedule = schedule,
                   .options = o,
                   .B = o->train.train_batch_size,
                   .h = h,
                   .w = w,
                   .L = unet->config.out_channels,
                   .tokens = tokens,
                   .conditioned = unet->config.in_channels != unet->config.out_channels,
                   .inputs = {PLAN_POINTER, PLAN_POINTER, NULL, PLAN_POINTER}}; // for plans
    unet->recompute = (Recompute)o->recompute_level;
    if (dev->plan_only) { return d; }
    size_t bytes = (size_t)schedule->T * sizeof(float);
    d.alphas_cumprod = device_alloc(dev, bytes);
    device_copy(dev, d.alphas_cumprod, schedule->alphas_cumprod, bytes, false);
    return d;
}

static Diffusion of_pipeline(Pipeline *pipeline, const DiffusionOptions *o, int h, int w, Device *dev) {
    // Validation samples with the changed schedule, and checkpoints record it.
    if (schedule_changes(&o->schedule)) { schedule_change(&pipeline->schedule, &o->schedule); }
    return diffusion_create(&pipeline->unet, &pipeline->schedule, o, tokenizer_length(pipeline->tokenizer), h, w, dev);
}

Diffusion diffusion_open(Pipeline *pipeline, const DiffusionOptions *o, int h, int w, Device *dev) {
    const UNetConfig *config = &pipeline->unet.config;
    if (config->in_channels != 2 * config->out_channels) {
        die("%s/unet/config.json: field \"in_channels\" is %d, expected %d (image latent and noisy latent): make such "
            "a model with `cocogold init --from`",
            pipeline->folder, config->in_channels, 2 * config->out_channels);
    }
    return of_pipeline(pipeline, o, h, w, dev);
}

Diffusion diffusion_open_text(Pipeline *pipeline, const DiffusionOptions *o, int h, int w, Device *dev) {
    const UNetConfig *config = &pipeline->unet.config;
    if (config->in_channels != config->out_channels) {
        die("%s/unet/config.json: field \"in_channels\" is %d, expected the latent's %d, as a text-to-image model has: "
            "make one with `cocogold init --text-to-image`",
            pipeline->folder, config->in_channels, config->out_channels);
    }
    return of_pipeline(pipeline, o, h, w, dev);
}

void diffusion_check_latents(const Pipeline *p, const ShardSet *shards) {
    char digest[65];
    const ShardInfo *info = &shards->info;
    pipeline_vae_digest(p->folder, digest);
    if (strcmp(digest, info->vae_sha256) != 0) {
        die("%s: the latents were made by another VAE than %s/vae (SHA-256 %.12s..., expected %.12s...): run "
            "`cocogold encode` with this model",
            shards->folder, p->folder, info->vae_sha256, digest);
    }
    if (info->channels != p->unet.config.out_channels) {
        die("%s: the latents have %d channels, but the UNet of %s has %d", shards->folder, info->channels, p->folder,
            p->unet.config.out_channels);
    }
}

void diffusion_destroy(Diffusion *d, Device *dev) { device_free(dev, d->alphas_cumprod); }

// Factor of a sample's loss, which makes gradients those of the mean over the optimizer step.
static float loss_scale(const Diffusion *d) {
    return 1.0f / (float)(d->B * d->options->train.gradient_accumulation_steps);
}

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

void diffusion_step(void *diffusion, Arena *arena, float *losses, const StepScalars *s, float beta, bool backward,
                    Device *dev) {
    Diffusion *d = diffusion;
    const DiffusionInputs *in = &d->inputs;
    const DiffusionOptions *o = d->options;
    int B = d->B, n = d->h * d->w * d->L, T = d->schedule->T;
    size_t N = (size_t)B * (size_t)n;
    ArenaMark mark = arena_mark(arena);
    size_t b = (size_t)B, h = (size_t)d->h, w = (size_t)d->w, L = (size_t)d->L;
    float *timesteps = arena_save_float(arena, "timesteps", b);
    float *noise = arena_save_float(arena, "noise", b, h, w, L), *goal = arena_save_float(arena, "goal", b, h, w, L);
    floatX *noisy = arena_save(arena, "noisy", b, h, w, L), *sample = noisy;
    floatX *condition = d->conditioned ? arena_save(arena, "condition", b, h, w, L) : NULL;
    if (condition) { sample = arena_save(arena, "sample", b, h, w, 2 * L); }
    floatX *pred = arena_save(arena, "pred", b, h, w, L);
    floatX *dpred = backward ? arena_save(arena, "dpred", b, h, w, L) : NULL;

    device_scope(dev, "noise");
    sample_timesteps(timesteps, B, T, backward ? (float)o->t_max_prob : 0, s, dev);
    normal_noise(noise, B, n, PHILOX_NOISE, s, dev);
    if (o->multires_noise > 0) {
        multires_noise(noise, timesteps, (float)o->multires_noise, o->multires_annealed, T, B, d->h, d->w, d->L, s,
                       dev);
    }
    add_noise_forward(noisy, goal, in->target, noise, timesteps, d->alphas_cumprod, d->schedule->config.prediction, B,
                      n, dev);
    if (condition) {
        cast_to_floatX(condition, in->image, N, dev);
        concat_forward(sample, condition, noisy, B * d->h * d->w, d->L, d->L, dev);
    }

    device_scope(dev, "forward");
    unet_forward(d->unet, arena, pred, sample, timesteps, in->context, B, d->h, d->w, d->tokens, backward, dev);
    device_scope(dev, "loss");
    latent_loss(d, losses, dpred, pred, goal, in->cell_weight, dev);
    if (backward && d->pixel_loss.decoder) {
        device_scope(dev, "pixel loss");
        float *noisy_float = noise; // noise is no longer needed
        cast_to_float(noisy_float, noisy, N, dev);
        const NoisySamples samples = {.noisy = noisy_float,
                                      .target = in->target,
                                      .timesteps = timesteps,
                                      .alphas_cumprod = d->alphas_cumprod,
                                      .prediction = d->schedule->config.prediction,
                                      .B = B,
                                      .h = d->h,
                                      .w = d->w};
        pixel_loss_add(&d->pixel_loss, arena, losses, dpred, pred, &samples, loss_scale(d), dev);
    }
    if (backward) {
        device_scope(dev, "backward");
        arena_grads_begin(arena);
        unet_backward(d->unet, arena, NULL, d->dcontext, dpred, beta, dev);
    }
    arena_release(arena, mark);
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
