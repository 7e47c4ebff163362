// Masks of known IoU with a true one: what a slightly or badly wrong model might predict.
#pragma once
#include "data/sample.h"

typedef enum {
    MASK_ERODED,
    MASK_DILATED,
    MASK_SHIFTED,       // up, down, left or right
    MASK_BOX,           // its bounding box, filled
    MASK_OTHER_OBJECT,  // the largest other class in the same crop (left out if there is none)
    MASK_OTHER_PICTURE, // the mask of another sample
    MASK_EMPTY,
    MASK_FULL,
    VARIANT_KINDS
} VariantKind;
extern const char *const variant_names[VARIANT_KINDS]; // "eroded", ...

enum { MAX_VARIANTS = 40 };

typedef struct {
    VariantKind kind;
    int pixels; // of erosion, dilation, shift; else 0
    double iou; // with the true mask, below 1
} MaskVariant;

// masks (1 + MAX_VARIANTS, R, R): row 0 gets the sample's mask, row 1 + i variant i. Distances are 1, 2, 4, ... pixels
// up to R / 16, directions a function of (options->seed, image id). stranger (R, R): another sample's mask. Variants
// that equal the true mask are left out. Returns their number.
int mask_variants(MaskVariant *variants, uint8_t *masks, const Coco *coco, const SampleOptions *options,
                  const Sample *sample, const uint8_t *stranger);
double mask_iou(const uint8_t *mask, const uint8_t *truth, int pixels); // empty against empty is 1
