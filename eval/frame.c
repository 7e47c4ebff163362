#include "eval/frame.h"
#include "data/paint.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int at_least_one(double size) { return size < 1 ? 1 : (int)lround(size); }

Frame frame_pad(int width, int height, int side) {
    double scale = (double)side / (width > height ? width : height);
    Frame f = {.width = width, .height = height, .W = side, .H = side};
    f.w = at_least_one(width * scale);
    f.h = at_least_one(height * scale);
    f.x = (side - f.w) / 2;
    f.y = (side - f.h) / 2;
    return f;
}

Frame frame_aspect(int width, int height, int side, int multiple) {
    double scale = (double)side / (width > height ? width : height);
    Frame f = {.width = width, .height = height};
    f.W = f.w = multiple * at_least_one(width * scale / multiple);
    f.H = f.h = multiple * at_least_one(height * scale / multiple);
    return f;
}

void frame_picture(const Frame *f, const Image *rgb, float *out) {
    Image small = image_resize(rgb, 0, 0, f->width, f->height, f->w, f->h, FILTER_LANCZOS);
    memset(out, 0, (size_t)f->H * f->W * 3 * sizeof *out);
    for (int y = 0; y < f->h; y++) {
        const uint8_t *from = small.pixels + (size_t)y * f->w * 3;
        float *to = out + ((size_t)(f->y + y) * f->W + f->x) * 3;
        for (int i = 0; i < f->w * 3; i++) { to[i] = (float)from[i] / 127.5f - 1; }
    }
    image_free(&small);
}

void frame_unit(float *out, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = values[i] / 2 + 0.5f; }
}

void frame_mask(const Frame *f, const uint8_t *mask, uint8_t *out) {
    uint8_t *small = xmalloc((size_t)f->w * f->h);
    mask_resize(mask, f->width, f->height, 0, 0, f->width, f->height, small, f->w, f->h);
    memset(out, 0, (size_t)f->H * f->W);
    for (int y = 0; y < f->h; y++) {
        memcpy(out + (size_t)(f->y + y) * f->W + f->x, small + (size_t)y * f->w, (size_t)f->w);
    }
    free(small);
}

void frame_restore_mask(const Frame *f, const uint8_t *mask, uint8_t *out) {
    Image model = mask_image(mask, f->W, f->H);
    Image own = image_resize(&model, f->x, f->y, f->w, f->h, f->width, f->height, FILTER_BILINEAR);
    for (int i = 0; i < f->width * f->height; i++) { out[i] = own.pixels[i] >= 128; }
    image_free(&own);
    image_free(&model);
}

Image frame_restore_values(const Frame *f, const float *values) {
    Image model = image_new(f->W, f->H, 1);
    for (size_t i = 0; i < (size_t)f->W * f->H; i++) { model.pixels[i] = (uint8_t)lroundf(255 * values[i]); }
    Image own = image_resize(&model, f->x, f->y, f->w, f->h, f->width, f->height, FILTER_BILINEAR);
    image_free(&model);
    return own;
}

Image frame_restore_picture(const Frame *f, const float *prediction) {
    Image model = float_image(prediction, f->W, f->H);
    Image own = image_resize(&model, f->x, f->y, f->w, f->h, f->width, f->height, FILTER_BILINEAR);
    image_free(&model);
    return own;
}
