// What a model is evaluated on: whole pictures of a data set with their true masks, or the crops of shards.
#pragma once
#include "eval/frame.h"
#include "eval/pairs.h"
#include "eval/settings.h"
#include "model/pipeline.h"

typedef struct {
    bool crops;
    Coco coco;       // whole pictures
    ShardSet shards; // crops
    int resolution;  // side of the model's square in pixels; of pictures the caller sets it before reading them
    bool texts;      // crops asked with texts of their own
    int class_count; // with texts one more, for those that are no single class
    const char **class_names;
    char *where; // "DATA, split val" for messages and reports
} Dataset;

// Whole pictures: data folder, split and form of annotations ("auto", "instances", "panoptic").
Dataset dataset_of_pictures(const char *data, const char *split, const char *annotations);
// Crops: dies if the shards were encoded with another VAE than the model's, or do not hold the target, or if it is
// painted otherwise than the model draws (colour, opacity, outline).
Dataset dataset_of_shards(const char *folder, const char *split, const char *model, const ModelSettings *settings);
void dataset_close(Dataset *dataset);
// What a pair is asked with, before the template: its class's name, or its text.
const char *dataset_text(const Dataset *dataset, const Pair *pair);
Pair *dataset_pairs(const Dataset *dataset, const PairOptions *options, int *count);

// One pair, ready to be evaluated. Pixels of the picture's own size for truth, ignore and all_objects.
typedef struct {
    Pair pair;
    Frame frame;
    float *pixels;                         // (H, W, 3) in [-1, 1]; crops: NULL
    float *latent, *target_latent;         // (h, w, L), read from shards; NULL for whole pictures, which are encoded
    uint8_t *truth, *ignore, *all_objects; // (height, width), 0 or 1; all_objects NULL for crops
} DatasetItem;

// Reads a pair's picture and masks. latent_count: h w L. Returns false, and counts the picture as left out, if its file
// or its panoptic PNG cannot be read.
bool dataset_read(const Dataset *dataset, Pair pair, const ModelSettings *settings, size_t latent_count,
                  DatasetItem *item);
// Reads at most `most` of pairs[first .. *count) into items. Pairs that cannot be read are removed from the list.
// Returns the number of items: 0 at the end of the list.
int dataset_read_some(const Dataset *dataset, Pair *pairs, int *count, int first, int most,
                      const ModelSettings *settings, size_t latent_count, DatasetItem *items);
void dataset_want_pairs(const Dataset *dataset, int count); // dies if there is none that could be read
// The id of a pair's picture as the annotations have it.
const char *dataset_image_name(const Dataset *dataset, const Pair *pair, char number[24]);
void dataset_item_free(DatasetItem *item);
// pixels (H, W, 3) in [-1, 1] of the target that the model should draw for this pair.
void dataset_target(const DatasetItem *item, const ModelSettings *settings, float *pixels);
