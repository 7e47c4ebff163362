// From a decoded prediction to a binary mask.
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    MASK_WHITENESS, // the original: every channel within `tolerance` of the mask colour
    MASK_COMPARE,   // near the painted colour, changed against the input, and nearer to the paint than to the input
    MASK_LUMINANCE  // for models that draw a black and white mask: mean of the channels >= 1 - tolerance
} MaskMethod;
extern const char *const mask_method_names[]; // "whiteness", "compare", "luminance", NULL

typedef struct {
    MaskMethod method;
    float color[3];  // mask colour in [0, 1], white by default
    float alpha;     // MASK_COMPARE: opacity of the paint; 1 by default
    float tolerance; // largest distance (over the channels) to the colour that counts as near
    float changed;   // MASK_COMPARE: smallest change (largest channel difference) from the input
    bool opening;    // 3x3 morphological opening (erosion, then dilation) afterwards
} MaskRule;

MaskRule mask_rule_default(MaskMethod method);
// The same for a painted mask: color 0..255.
MaskRule mask_rule(MaskMethod method, const int color[3], double alpha);

// mask (H, W), 0 or 1, from prediction and input picture (H, W, 3) in [0, 1]. Only MASK_COMPARE reads input. `segment`
// and `eval` pass the picture itself, which has sharper edges than decode(encode(picture)): 0.011 more mIoU on the demo
// (bench/LOG.md), and one decoding less. For latents of shards only the latter is there.
//
// MASK_COMPARE: with the largest channel difference as distance d, and painted = alpha color + (1 - alpha) input, a
// pixel is mask where d(prediction, painted) <= tolerance, d(prediction, input) >= changed and d(prediction, painted) <
// d(prediction, input). A white sky that stays as it was has no change; a brightened sky is nearer to itself.
void mask_extract(uint8_t *mask, const float *prediction, const float *input, int H, int W, const MaskRule *rule);
// How certain each pixel is mask, (H, W) in [0, 1]. MASK_COMPARE: the distance to the input as a share of the distances
// to the input and to the paint, at least 1/2 in the mask; MASK_WHITENESS: 1 - the distance to the mask's colour;
// MASK_LUMINANCE: the mean of the channels.
void mask_certainty(float *certainty, const float *prediction, const float *input, int H, int W, const MaskRule *rule);
// In place; pixels outside the picture are ignored.
void mask_opening(uint8_t *mask, int H, int W);
