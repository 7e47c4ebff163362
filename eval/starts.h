// What a model that turns pictures into maps (depth, normals, masks, ...) reads from the start of sampling. Models of
// Marigold's kind (Ke et al. 2024) take the picture's latent and a noisy latent of the map. If the schedule leaves some
// of the map in the noisiest training sample, they may learn to read their answer from there, where inference has noise
// alone. Each picture is answered from white noise and from white noise with as much of its true map, of the mean map
// or of the picture as the schedule leaves at the first timestep (eval/evaluate.h: Start). Nothing is trained.
#pragma once
#include "data/image.h"
#include "eval/evaluate.h"
#include "eval/pictures.h"
#include "eval/stats.h"

// MAP_DEPTH: grey, 8 or 16 bits, 0 where nothing was measured; to the model the values between the 2nd and the 98th
// percentile are -1 to 1, in all three channels, as Marigold has it. MAP_PICTURE: three channels as they are.
typedef enum { MAP_DEPTH, MAP_PICTURE } MapKind;
extern const char *const map_kind_names[]; // "depth", "picture", NULL

// Depth: after the scale and the shift that fit best (least squares), the mean of |answer - truth| / truth, and the
// share of pixels with max(answer / truth, truth / answer) < 1.25: AbsRel and delta1. Picture: the mean of |answer -
// truth|, and the share of values with less than 0.1 of it, in [0, 1].
typedef struct {
    double error, good;
} MapScore;

// Of each picture: the answers from the starts (Start), then the mean of the true map as a constant, and the true
// map through the VAE.
enum { ANSWER_CONSTANT = START_IMAGE + 1, ANSWER_CEILING, ANSWERS };

typedef struct {
    char *path;
    MapScore scores[ANSWERS];
    Image picture, truth, answers[START_IMAGE + 1]; // of the first examples, in the model's size; else no pixels
} StartItem;
enum { START_EXAMPLES = 6 };

typedef struct {
    Pipeline *pipeline; // all parts
    const PictureList *pictures;
    const char *maps; // folder with a map for each picture: the same name, .png, .jpg or .jpeg
    MapKind kind;
    const char *text; // Marigold's is empty
    bool pad_text;    // to the tokenizer's length; else the UNet sees the text's tokens only, as Marigold's does
    int side, steps;  // longer side of the model's input in pixels; DDIM steps
    uint64_t seed;
} StartAnalysis;

// Answers all pictures; *count gets the number of items. A picture or map that cannot be used is named and left out.
// The caller frees the list with starts_free. NULL: nothing could be used.
StartItem *starts_analyze(const StartAnalysis *analysis, int *count, Device *dev);
void starts_free(StartItem *items, int count);

// Score of values v against truth t (n), where valid. Both have one channel for depth.
MapScore map_score(MapKind kind, const float *v, const float *t, const uint8_t *valid, size_t n);
