#include "eval/targets.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>

TargetCoder target_coder_create(Pipeline *pipeline, int resolution, int batch, bool decodes, Device *dev) {
    const VAEConfig *vae = &pipeline->vae_encoder.config;
    TargetCoder c = {.pipeline = pipeline, .dev = dev, .batch = batch, .R = resolution, .L = vae->latent_channels};
    c.r = vae_latent_size(vae, c.R);
    c.cells = c.r * c.r * c.L;
    size_t encode_bytes = pipeline_encode_bytes(pipeline, batch, c.R, c.R, dev);
    size_t decode_bytes = decodes ? pipeline_decode_bytes(pipeline, 1, c.r, c.r, dev) : 0;
    c.arena = arena_create(dev, encode_bytes > decode_bytes ? encode_bytes : decode_bytes);
    size_t pixels = (size_t)batch * (size_t)(c.R * c.R * 3), cells = (size_t)batch * (size_t)c.cells;
    c.pixels = device_alloc(dev, pixels * sizeof(float));
    c.latents = device_alloc(dev, cells * sizeof(float));
    c.host_pixels = xmalloc(pixels * sizeof(float));
    return c;
}

void target_coder_destroy(TargetCoder *c) {
    arena_destroy(&c->arena);
    device_free(c->dev, c->pixels);
    device_free(c->dev, c->latents);
    free(c->host_pixels);
}

void target_paint(TargetCoder *c, int index, const Sample *s, const uint8_t *mask, int representation,
                  const Paint *paint) {
    Image target = representation == REPRESENTED_OVERLAY ? paint_overlay(&s->rgb, mask, paint)
                                                         : paint_mask(mask, c->R, c->R, paint);
    image_to_floats(&target, c->host_pixels + (size_t)index * (size_t)(c->R * c->R * 3));
    image_free(&target);
}

void target_encode(TargetCoder *c, float *latents, int n) {
    size_t pixels = (size_t)n * (size_t)(c->R * c->R * 3), count = (size_t)n * (size_t)c->cells;
    device_copy(c->dev, c->pixels, c->host_pixels, pixels * sizeof(float), false);
    pipeline_encode(c->pipeline, &c->arena, c->latents, c->pixels, n, c->R, c->R, c->dev);
    device_copy(c->dev, latents, c->latents, count * sizeof(float), false);
    device_sync(c->dev);
}

void target_decode(TargetCoder *c, float *picture, const float *latent) {
    size_t pixels = (size_t)(c->R * c->R * 3);
    device_copy(c->dev, c->latents, latent, (size_t)c->cells * sizeof(float), false);
    pipeline_decode(c->pipeline, &c->arena, c->pixels, c->latents, 1, c->r, c->r, c->dev);
    device_copy(c->dev, c->host_pixels, c->pixels, pixels * sizeof(float), false);
    device_sync(c->dev);
    for (size_t i = 0; i < pixels; i++) { picture[i] = fminf(1, fmaxf(0, 0.5f * c->host_pixels[i] + 0.5f)); }
}

int cell_pixels(const TargetCoder *c, const uint8_t *mask, int y, int x) {
    int f = c->R / c->r, count = 0;
    for (int i = 0; i < f * f; i++) { count += mask[(y * f + i / f) * c->R + x * f + i % f] != 0; }
    return count;
}

SampleDraw samples_begin(const Coco *coco, const SampleOptions *options) {
    int *order = coco_shuffled(coco, random_begin(options->seed, PHILOX_VARIANTS, 1, 0));
    return (SampleDraw){coco, options, order, 0};
}

bool samples_next(SampleDraw *d, Sample *s) {
    while (d->at < d->coco->picture_count) {
        if (sample_make(d->coco, d->options, d->order[d->at++], 0, s) == SAMPLE_OK) { return true; }
        sample_free(s);
    }
    return false;
}

void samples_end(SampleDraw *d) { free(d->order); }
