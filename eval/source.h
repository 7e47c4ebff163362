// Where evaluation takes pictures and true masks from: whole pictures of a dataset, or the crops of shards.
#pragma once
#include "eval/frame.h"
#include "eval/pairs.h"
#include "eval/settings.h"
#include "model/pipeline.h"

typedef struct {
    bool crops;
    Coco coco;       // whole pictures
    ShardSet shards; // crops
    int resolution;  // side of the model's square in pixels
    int class_count;
    const char **class_names;
    char *where; // "DATA, split val" for messages and reports
} Source;

// Whole pictures: data folder, split and form of annotations ("auto", "instances", "panoptic").
Source source_of_pictures(const char *data, const char *split, const char *annotations, int resolution);
// Crops: dies if the shards were encoded with another VAE than the model's, or do not hold the target.
Source source_of_shards(const char *folder, const char *split, const char *model, const ModelSettings *settings);
void source_close(Source *source);
Pair *source_pairs(const Source *source, const PairOptions *options, int *count);

// One pair, ready to be evaluated. Pixels of the picture's own size for truth, ignore and all_objects.
typedef struct {
    Pair pair;
    Frame frame;
    float *pixels;                         // (H, W, 3) in [-1, 1]; crops: NULL
    float *latent, *target_latent;         // (h, w, L), crops: read; pictures: NULL, to be encoded
    uint8_t *truth, *ignore, *all_objects; // (height, width), 0 or 1; all_objects NULL for crops
} SourceItem;

// Reads a pair's picture and masks. latent_count: h w L.
SourceItem source_read(const Source *source, Pair pair, const ModelSettings *settings, size_t latent_count);
void source_item_free(SourceItem *item);
// pixels (H, W, 3) in [-1, 1] of the target that the model is to draw for this pair.
void source_target(const SourceItem *item, const ModelSettings *settings, float *pixels);
