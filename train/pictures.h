// Training pictures of the VAE: an endless, shuffled, prefetched stream of scenes, scenes with a painted mask, and bare
// masks. What the mix leaves out, the VAE cannot express later (a VAE that never saw masks cannot draw them).
#pragma once
#include "data/coco.h"
#include "data/sample.h"
#include <stdint.h>

typedef enum { KIND_SCENE, KIND_OVERLAY, KIND_MASK } PictureKind;

typedef struct {
    const char *data, *split, *source;
    int resolution, min_side;
    double mix_overlay, mix_mask; // shares; the rest are scenes
    uint64_t seed;
    long long start; // stream position to begin at
    int rows;        // pictures per batch
    int workers;     // threads that decode
} PictureOptions;

typedef struct Pictures Pictures;
Pictures *pictures_open(const PictureOptions *options); // starts the prefetch thread
void pictures_close(Pictures *pictures);
long long pictures_count(const Pictures *pictures); // pictures in the data set
// Copies the next batch: out (rows, R, R, 3) in [-1, 1].
void pictures_next(Pictures *pictures, float *out);
// Picture at stream position p in one kind: out (R, R, 3) in [-1, 1]. Pure in (options, p, kind).
void pictures_at(const PictureOptions *options, const Coco *coco, const bool *classes, const int64_t *order,
                 long long position, PictureKind kind, float *out);
