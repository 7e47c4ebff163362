// What the diffusion model is trained to draw: the picture with the object painted on it, or the bare mask.
#pragma once
#include "data/image.h"

typedef struct {
    uint8_t color[3];
    float alpha;   // 1 = opaque
    float outline; // width in pixels, at 512 px, of a line along the mask's border; half of it lies outside. 0 = exact
                   // mask; 4 = the original's, whose masks were about 2 px too fat
} Paint;

// color: "white", "black", "red", "green", "blue", "yellow", "magenta", "cyan", "#rrggbb" or "R,G,B" (0..255). Dies on
// anything else, and on an alpha outside 0..1 or an outline outside 0..64.
Paint paint_parse(const char *color, double alpha, double outline);

// The rows of an option table (util/options.h) with the parameters of paint_parse.
// clang-format off
#define PAINT_ROWS(color, alpha, outline) \
    {OPT_STRING, "color", color, "colour of the painted mask: a name, #rrggbb or R,G,B", "COLOR"}, \
    {OPT_DOUBLE, "alpha", alpha, "opacity of the painted mask", "SHARE"}, \
    {OPT_DOUBLE, "outline", outline, \
     "width of a line along the mask's border, in pixels at size 512 (the original uses 4)", "PIXELS"}
// clang-format on

// The targets, both (height, width, 3) of the picture's size. mask: (height, width), 0 or 1.
Image paint_overlay(const Image *rgb, const uint8_t *mask, const Paint *paint);
Image paint_mask(const uint8_t *mask, int width, int height, const Paint *paint); // black and white; uses the outline

// Grows a mask by `radius` pixels (Euclidean distance between pixel centres).
void mask_grow(uint8_t *mask, int width, int height, float radius);

// Converts (height, width, C) between bytes and [-1, 1], the VAE's range: x / 127.5 - 1, and back with rounding and
// clipping.
void image_to_floats(const Image *image, float *out);
Image image_from_floats(const float *values, int width, int height, int channels);
// A mask (height, width) of 0 and 1 as black and white, and values (height, width, 3) in [0, 1] as a picture.
Image mask_image(const uint8_t *mask, int width, int height);
Image float_image(const float *values, int width, int height);
