#include "data/paint.h"
#include "util/error.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint8_t rgb[3];
} colors[] = {{"white", {255, 255, 255}}, {"black", {0, 0, 0}},   {"red", {255, 0, 0}},
              {"green", {0, 255, 0}},     {"blue", {0, 0, 255}},  {"yellow", {255, 255, 0}},
              {"magenta", {255, 0, 255}}, {"cyan", {0, 255, 255}}};

static bool parse_color(const char *text, uint8_t rgb[3]) {
    for (size_t i = 0; i < sizeof colors / sizeof *colors; i++) {
        if (strcmp(text, colors[i].name) == 0) {
            memcpy(rgb, colors[i].rgb, 3);
            return true;
        }
    }
    unsigned value[3];
    int end = -1;
    bool hex = strlen(text) == 7 && sscanf(text, "#%2x%2x%2x%n", &value[0], &value[1], &value[2], &end) == 3;
    if (!hex) { sscanf(text, "%3u,%3u,%3u%n", &value[0], &value[1], &value[2], &end); }
    if (end < 0 || text[end] != 0) { return false; }
    for (int c = 0; c < 3; c++) {
        if (value[c] > 255) { return false; }
        rgb[c] = (uint8_t)value[c];
    }
    return true;
}

Paint paint_parse(const char *color, double alpha, double outline) {
    Paint paint = {.alpha = (float)alpha, .outline = (float)outline};
    if (!parse_color(color, paint.color)) {
        die("--color %s: expected white, black, red, green, blue, yellow, magenta, cyan, #rrggbb or R,G,B", color);
    }
    if (!(alpha >= 0 && alpha <= 1)) { die("--alpha %g: expected a value from 0 to 1", alpha); }
    if (!(outline >= 0 && outline <= 64)) { die("--outline %g: expected a width from 0 to 64 pixels", outline); }
    return paint;
}

void mask_grow(uint8_t *mask, int width, int height, float radius) {
    int reach = (int)radius;
    if (reach < 1) { return; }
    size_t size = (size_t)width * (size_t)height;
    uint8_t *before = xmalloc(size);
    memcpy(before, mask, size);
    for (int dy = -reach; dy <= reach; dy++) {
        int half = (int)sqrtf(radius * radius - (float)(dy * dy)); // the disc's half width in this row
        for (int y = dy > 0 ? 0 : -dy; y < (dy > 0 ? height - dy : height); y++) {
            const uint8_t *from = before + (size_t)y * width;
            uint8_t *to = mask + (size_t)(y + dy) * width;
            for (int x = 0; x < width; x++) {
                if (!from[x]) { continue; }
                int low = x < half ? 0 : x - half, high = x + half >= width ? width - 1 : x + half;
                memset(to + low, 1, (size_t)(high - low + 1));
            }
        }
    }
    free(before);
}

// The mask as it is painted: with the outer half of the outline, whose width is given at 512 pixels.
static uint8_t *painted_mask(const uint8_t *mask, int width, int height, const Paint *paint) {
    uint8_t *copy = xmalloc((size_t)width * (size_t)height);
    memcpy(copy, mask, (size_t)width * (size_t)height);
    mask_grow(copy, width, height, paint->outline / 2 * (float)(width > height ? width : height) / 512);
    return copy;
}

Image paint_overlay(const Image *rgb, const uint8_t *mask, const Paint *paint) {
    Image out = image_copy(rgb);
    uint8_t *painted = painted_mask(mask, rgb->width, rgb->height, paint);
    size_t pixels = (size_t)rgb->width * (size_t)rgb->height;
    for (size_t i = 0; i < pixels; i++) {
        for (int c = 0; painted[i] && c < 3; c++) {
            float before = out.pixels[3 * i + c];
            out.pixels[3 * i + c] = (uint8_t)lrintf(before + paint->alpha * ((float)paint->color[c] - before));
        }
    }
    free(painted);
    return out;
}

Image paint_mask(const uint8_t *mask, int width, int height, const Paint *paint) {
    Image out = image_new(width, height, 3);
    uint8_t *painted = painted_mask(mask, width, height, paint);
    for (size_t i = 0; i < (size_t)width * height; i++) { memset(out.pixels + 3 * i, painted[i] ? 255 : 0, 3); }
    free(painted);
    return out;
}

void image_to_floats(const Image *image, float *out) {
    size_t count = (size_t)image->width * (size_t)image->height * (size_t)image->channels;
    for (size_t i = 0; i < count; i++) { out[i] = (float)image->pixels[i] / 127.5f - 1; }
}

Image image_from_floats(const float *values, int width, int height, int channels) {
    Image image = image_new(width, height, channels);
    size_t count = (size_t)width * (size_t)height * (size_t)channels;
    for (size_t i = 0; i < count; i++) {
        float byte = (values[i] + 1) * 127.5f;
        image.pixels[i] = (uint8_t)(byte >= 255 ? 255 : byte > 0 ? lrintf(byte) : 0); // NaN becomes 0
    }
    return image;
}

Image mask_image(const uint8_t *mask, int width, int height) {
    Image image = image_new(width, height, 1);
    for (size_t i = 0; i < (size_t)width * height; i++) { image.pixels[i] = mask[i] ? 255 : 0; }
    return image;
}

Image float_image(const float *values, int width, int height) {
    Image image = image_new(width, height, 3);
    for (size_t i = 0; i < (size_t)width * height * 3; i++) {
        image.pixels[i] = (uint8_t)lroundf(255 * fminf(1, fmaxf(0, values[i])));
    }
    return image;
}
