// From a decoded prediction to a binary mask.
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    MASK_WHITENESS, // the original: every channel within `tolerance` of the mask colour
    MASK_COMPARE // near the mask colour AND changed: distance to the colour is smaller than that to the input picture
} MaskMethod;

typedef struct {
    MaskMethod method;
    float color[3];  // mask colour in [0, 1], white by default
    float tolerance; // largest distance (per channel) to the colour that counts as near
    float changed;   // MASK_COMPARE: least change (largest channel difference) against the input
    bool opening;    // 3x3 morphological opening (erosion, then dilation) afterwards
} MaskRule;

MaskRule mask_rule_default(MaskMethod method);

// mask (H, W), 0 or 1, from prediction and input picture (H, W, 3) in [0, 1]. input may be NULL for MASK_WHITENESS.
void mask_extract(uint8_t *mask, const float *prediction, const float *input, int H, int W, const MaskRule *rule);
// In place; pixels outside the picture do not take part.
void mask_opening(uint8_t *mask, int H, int W);
