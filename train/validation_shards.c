#include "train/validation_shards.h"
#include "util/error.h"
#include "util/file.h"
#include <stdio.h>
#include <string.h>

// The masks of what a model draws are found by the training's paint, so that other targets would only look like a model
// that fails.
static void want_same_paint(const ShardInfo *a, const ShardInfo *b, const DiffusionOptions *o, int target) {
    PaintText val = shard_paint(a, target), train = shard_paint(b, target);
    if (strcmp(val.text, train.text) == 0) { return; }
    die("%s: the shards val-*.h5 were encoded with %s, but %s-*.h5 with %s: encode them alike, or give "
        "--validate-every 0",
        o->shards, val.text, o->train.split, train.text);
}

bool validation_shards_open(ShardSet *shards, int *count, const DiffusionOptions *o, int target,
                            const ShardSet *training) {
    if (!file_exists(path_of("%s/val-00000.h5", o->shards).text)) {
        printf("no validation: %s has no shards val-*.h5\n", o->shards);
        return false;
    }
    *shards = shards_open(o->shards, "val");
    const ShardInfo *a = &shards->info, *b = &training->info;
    bool same_size = a->height == b->height && a->width == b->width && a->channels == b->channels;
    if (!same_size || strcmp(a->vae_sha256, b->vae_sha256) != 0) {
        die("%s: the shards val-*.h5 and %s-*.h5 differ in their sizes or their VAE", o->shards, o->train.split);
    }
    want_same_paint(a, b, o, target);
    if (!shards->samples) {
        die("%s: the shards val-*.h5 have no samples, expected some, or --validate-every 0", o->shards);
    }
    *count = o->train.validation_samples < shards->samples ? o->train.validation_samples : (int)shards->samples;
    return true;
}

long long validation_index(const ShardSet *shards, int count, int i) {
    return (long long)(i % count) * shards->samples / count;
}
