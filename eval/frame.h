// How a picture of any size is placed in the model's rectangle.
#pragma once
#include "data/image.h"

typedef struct {
    int width, height; // the picture's own size
    int W, H;          // the model's rectangle, pixels
    int x, y, w, h;    // where the resized picture lies in it; the rest is padding
} Frame;

// The longer side becomes `side`; the shorter one is padded to it, half at each end: (side, side).
Frame frame_pad(int width, int height, int side);
// The longer side becomes `side`; both are rounded to multiples of `multiple`; nothing is padded.
Frame frame_aspect(int width, int height, int side, int multiple);

// out (H, W, 3) in [-1, 1]: the picture by Lanczos, padding 0 (mid-grey).
void frame_picture(const Frame *frame, const Image *rgb, float *out);
// n values from [-1, 1] to [0, 1].
void frame_unit(float *out, const float *values, size_t n);
// out (H, W), 0 or 1: a mask of the picture's size by box average, then >= 0.5; padding 0.
void frame_mask(const Frame *frame, const uint8_t *mask, uint8_t *out);
// Back: out (height, width), 0 or 1, from the model's mask (H, W) by bilinear interpolation, then >= 0.5.
void frame_restore_mask(const Frame *frame, const uint8_t *mask, uint8_t *out);
// Back: values (H, W) in [0, 1] as a grey picture (height, width).
Image frame_restore_values(const Frame *frame, const float *values);
// Back: a prediction (H, W, 3) in [0, 1] as a picture (height, width).
Image frame_restore_picture(const Frame *frame, const float *prediction);
