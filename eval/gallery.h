// Pictures for the report: the best pairs, the worst pairs and some drawn at random, as small pictures in memory.
#pragma once
#include "data/image.h"
#include "eval/dataset.h"
#include <stdbool.h>

typedef enum { GALLERY_TYPICAL, GALLERY_BEST, GALLERY_WORST, GALLERY_KINDS } GalleryKind;
enum { GALLERY_SIZE = 9 }; // entries of a kind

typedef struct {
    Pair pair;
    double iou, rank; // entries with the largest rank stay
    bool seen;
    Image input, prediction, outcome; // outcome: hits green, false alarms red, misses blue, on the grey picture
} GalleryEntry;

typedef struct {
    GalleryEntry entries[GALLERY_KINDS][GALLERY_SIZE]; // sorted by falling rank
    int count[GALLERY_KINDS];
} Gallery;

// Offers a pair to every kind. input (as the VAE reproduces it, shown if there is no picture) and prediction are (H, W,
// 3) in [0, 1] in the model's rectangle; mask is (height, width).
void gallery_offer(Gallery *gallery, const DatasetItem *item, const float *input, const float *prediction,
                   const uint8_t *mask, double iou, bool seen);
void gallery_free(Gallery *gallery);
// The picture in grey with hits green, false alarms red and misses blue; all (height, width). truth may be NULL: then
// the mask is green.
Image outcome_picture(const Image *rgb, const uint8_t *mask, const uint8_t *truth, const uint8_t *ignore);
