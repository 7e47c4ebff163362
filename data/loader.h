// Shards as one data set, and the shuffled stream of training batches.
//
// The stream is endless: position p is sample permutation(seed, epoch)[p % n] of epoch p / n, where the permutation is
// a full Fisher-Yates shuffle of all samples (a chunk is one sample, so any order can be read: SD2's latents need 52
// MB/s in 32 KB reads for 800 samples/s). It does not depend on ranks, batch size or restarts: micro-batch k of all
// ranks together is positions [start + k*world*rows, + world*rows), and rank r takes the r-th `rows` of them.
#pragma once
#include "data/shard.h"
#include <stdbool.h>
#include <stdint.h>

// All shards FOLDER/SPLIT-*.h5 in the order of their names.
typedef struct {
    char *folder;
    int count;
    ShardFile *shards;
    long long *first; // (count + 1) index of each shard's first sample
    long long samples;
    ShardInfo info; // what they agree on
    // What the samples are asked with: the distinct texts of all shards in the order of their first appearance. Where
    // the shards have no texts, these are the class names, and a sample's text index is its class.
    int text_count;
    char **texts;      // (text_count)
    int **text_number; // (count) each shard's texts -> texts; NULL: no texts
} ShardSet;

// Opens all shards; dies if there is none, one is damaged or missing, or two of them disagree in an attribute.
ShardSet shards_open(const char *folder, const char *split);
void shards_close(ShardSet *set);
// Sample i (0..samples-1) in stored order, for validation. Arrays of `into` that are NULL are skipped; its text_index
// counts in the set's texts.
void shards_read(const ShardSet *set, long long i, ShardSample *into);
int shards_text(const ShardSet *set, long long i); // its index in the set's texts, without reading it
// Parses a text as classes_parse does into flags (class_count), freed by the caller. Dies if a name is unknown or was
// not encoded. "all" means all encoded classes.
bool *shards_classes(const ShardSet *set, const char *option, const char *text);

typedef struct {
    int target; // TARGET_OVERLAY or TARGET_MASK; dies if the shards lack it. 0: none is read
    uint64_t seed;
    long long start;  // stream position of the first micro-batch: the number of samples that all ranks have consumed
    int rank, world;  // this process's part
    int rows;         // samples per micro-batch and rank
    const bool *keep; // (class_count) classes to train on, read only by loader_open; NULL: all encoded, and all texts
} LoaderOptions;

// Buffers of the caller; arrays that are NULL are skipped.
typedef struct {
    float *image_latent, *target_latent; // (rows, h, w, C)
    uint8_t *mask;                       // (rows, R, ceil(R/8)) packed bits, as stored
    int64_t *position;                   // (rows) in the stream: the "global sample index" that keys noise and timestep
    int *text;                           // (rows) index into the set's texts
} LoaderBatch;

typedef struct Loader Loader;
Loader *loader_open(const ShardSet *set, const LoaderOptions *options); // the set must outlive it
// Reads this rank's part of micro-batch `number` (from 0, at `start`). One thread at a time; shards_read may be called
// while it runs.
void loader_read(Loader *loader, long long number, const LoaderBatch *batch);
// "sample 3 of shards/train-00000.h5 (picture 42)", to be freed: the one at a position of the stream. May be called
// while loader_read runs.
char *loader_name(const Loader *loader, long long position);
long long loader_samples(const Loader *loader); // n: samples per epoch, after the class filter
uint64_t loader_hash(const Loader *loader);     // of picture, crop, text and mask's area of each, in stored order
void loader_close(Loader *loader);

// order[p] gets the stored index at position p of an epoch's permutation of n samples. Depends only on (seed, epoch).
void loader_permutation(uint64_t seed, long long epoch, long long n, int64_t *order);
