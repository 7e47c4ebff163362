// What is evaluated: pairs of a picture and a class, from a dataset's annotations or from shards.
#pragma once
#include "data/coco.h"
#include "data/loader.h"

typedef struct {
    int item;     // index into coco->pictures, or sample of the shards
    int category; // class asked for; shards with texts: their class_count for a text that is no single class
    int64_t image_id;
    bool absent; // what is asked for is not in the picture
    int text;    // shards: index of the text in the set's texts; else the category
    int kind;    // of phrases
    // Random: decides whether the pair stays when there are too many. It depends only on seed, picture and class, so
    // that a smaller cap picks a subset.
    uint64_t key;
} Pair;

typedef struct {
    int per_class;      // largest number of pairs of a class, drawn at random; 0: all
    int limit;          // largest number of pairs in all, drawn at random; 0: all
    double absent;      // probability that a picture is also asked for a class that it does not show
    const bool *wanted; // (classes) only these; NULL: all
    uint64_t seed;
} PairOptions;

// Sorted by item, then category; freed by the caller. From annotations: every (picture, class) with an instance that is
// no crowd and has a mask.
Pair *pairs_of_coco(const Coco *coco, const PairOptions *options, int *count);
// From shards: every sample is a pair; those with an empty mask are absent ones. options->absent is ignored.
Pair *pairs_of_shards(const ShardSet *shards, const PairOptions *options, int *count);
