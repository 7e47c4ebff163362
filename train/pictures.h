// Training pictures of the VAE: an endless, shuffled stream of scenes, scenes with a painted mask, and bare
// masks. The VAE cannot draw what the mix leaves out: if it never saw masks, it cannot draw them.
#pragma once
#include "data/coco.h"
#include "data/sample.h"
#include <stdint.h>

typedef enum { KIND_SCENE, KIND_OVERLAY, KIND_MASK } PictureKind;

typedef struct {
    const Coco *coco;
    const bool *classes; // (category_count): masks of these are painted
    int resolution, min_side;
    double mix_overlay, mix_mask; // shares; the rest are scenes
    uint64_t seed;
    long long start; // stream position to begin at
    int rank, world; // this process's part of the stream, as in data/loader.h
    int rows;        // pictures per batch and rank
    int workers;     // threads that decode
    int64_t *order;  // permutation of `epoch`, set by pictures_open; NULL: the data set's order
    long long epoch;
} Pictures;

// The caller sets all but order and epoch.
void pictures_open(Pictures *pictures);
void pictures_close(Pictures *pictures);
// This rank's part of batch `number` (from 0, at `start`): out (rows, R, R, 3) in [-1, 1]. Not thread-safe.
void pictures_read(Pictures *pictures, long long number, float *out);
// A hash of the pictures' ids and sizes, and of their objects (box, area, class, crowd).
uint64_t pictures_hash(const Pictures *pictures);
// "picture 000042.jpg", to be freed: the file at a position of the stream. May be called while pictures_read runs.
char *pictures_name(const Pictures *pictures, long long position);
// The picture at a stream position in one kind: out (R, R, 3) in [-1, 1]. A picture that yields no sample is replaced
// by the next one; dies if none does.
void pictures_at(const Pictures *pictures, long long position, PictureKind kind, float *out);
