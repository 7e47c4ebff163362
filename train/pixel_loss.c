#include "train/pixel_loss.h"
#include <assert.h>

PixelLoss pixel_loss_create(VAEDecoder *decoder, PixelLossKind kind, double weight, const int color[3]) {
    PixelLoss l = {.decoder = weight > 0 ? decoder : NULL, .kind = kind, .weight = (float)weight};
    for (int c = 0; c < 3; c++) { l.color[c] = (float)color[c] / 127.5f - 1; }
    return l;
}

// picture (h f, w f, 3) of one scaled latent (h, w, L) float; backward needs input (h, w, L). A sample of a batch need
// not begin at 16 bytes, as kernels want it: latent is copied to `copy` (h, w, L).
static void decode(VAEDecoder *decoder, Arena *arena, floatX *picture, floatX *input, float *copy, const float *latent,
                   int h, int w, bool keep, Device *dev) {
    size_t n = (size_t)(h * w * decoder->config.latent_channels);
    device_copy(dev, copy, latent, n * sizeof(float), false);
    cast_to_floatX(input, copy, n, dev);
    scale_shift_forward(input, input, 1 / decoder->config.scaling_factor, 0, n, dev);
    vae_decoder_forward(decoder, arena, picture, input, 1, h, w, keep, dev);
}

// loss (1) of one sample; dx0 = the gradient of scale * loss with respect to the scaled latent x0.
static void sample_loss(const PixelLoss *l, Arena *arena, float *loss, floatX *dx0, const float *x0,
                        const float *target, float scale, int h, int w, Device *dev) {
    int f = vae_factor(&l->decoder->config), pixels = h * f * w * f * 3;
    size_t n = (size_t)(h * w * l->decoder->config.latent_channels);
    ArenaMark mark = arena_mark(arena);
    float *goal = arena_save_float(arena, "goal", (size_t)pixels), *copy = arena_save_float(arena, "latent", n);
    floatX *picture = arena_save(arena, "picture", (size_t)pixels), *input = arena_save(arena, "input", n);
    floatX *dlatent = arena_save(arena, "dlatent", n);
    decode(l->decoder, arena, picture, input, copy, target, h, w, false, dev);
    cast_to_float(goal, picture, (size_t)pixels, dev);
    decode(l->decoder, arena, picture, input, copy, x0, h, w, true, dev);
    floatX *dpicture = arena_save(arena, "dpicture", (size_t)pixels);
    if (l->kind == PIXEL_DICE) {
        dice_loss(loss, dpicture, picture, goal, l->color, scale, 1, pixels, dev);
    } else {
        l1_mse_loss(loss, dpicture, picture, goal, 0, scale, 1, pixels, dev);
    }
    vae_decoder_backward(l->decoder, arena, dlatent, dpicture, 0, dev);
    scale_shift_forward(dlatent, dlatent, 1 / l->decoder->config.scaling_factor, 0, n, dev);
    device_copy(dev, dx0, dlatent, n * sizeof(floatX), false);
    arena_release(arena, mark);
}

void pixel_loss_add(const PixelLoss *l, Arena *arena, float *losses, floatX *dpred, const floatX *pred,
                    const NoisySamples *s, float scale, Device *dev) {
    assert(!l->decoder->params.grads);
    size_t B = (size_t)s->B, n = (size_t)(s->h * s->w * l->decoder->config.latent_channels);
    ArenaMark mark = arena_mark(arena);
    float *x0 = arena_save_float(arena, "x0", B * n), *of_pixels = arena_save_float(arena, "of_pixels", B);
    floatX *dx0 = arena_save(arena, "dx0", B * n);
    predict_x0(x0, pred, s->noisy, s->timesteps, s->alphas_cumprod, s->prediction, s->B, (int)n, dev);
    for (size_t b = 0; b < B; b++) {
        sample_loss(l, arena, of_pixels + b, dx0 + b * n, x0 + b * n, s->target + b * n, scale * l->weight, s->h, s->w,
                    dev);
    }
    predict_x0_backward(dpred, dx0, s->timesteps, s->alphas_cumprod, s->prediction, 1, s->B, (int)n, dev);
    add_scaled(losses, of_pixels, l->weight, B, dev);
    arena_release(arena, mark);
}
