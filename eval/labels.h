// Label maps: each pixel's most certain text, as the number of the text from 1 on; 0: none.
#pragma once
#include "data/image.h"

enum { MOST_LABELS = 255 }; // of a PNG with a palette, beside 0

typedef struct {
    Image label, certainty; // grey
} LabelMap;

LabelMap labels_new(int width, int height);
void labels_free(LabelMap *map);
// Gives pixels of the mask (height, width) to `label` where its certainty is above that of the label before.
void labels_add(LabelMap *map, int label, const uint8_t *mask, const Image *certainty);
// PNG with a palette: black for 0.
void labels_save(const LabelMap *map, int label_count, const char *path);
// A sheet of the colours with their texts.
void labels_save_legend(char *const *texts, int count, const char *path);
