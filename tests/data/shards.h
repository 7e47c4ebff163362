// Small shards with known contents for tests. Include after cmocka.h.
#pragma once
#include "data/shard.h"
#include "util/error.h"
#include "util/file.h"
#include "util/philox.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const test_classes[] = {"person", "red circle", "dining table", "caf\xc3\xa9"};
enum { TEST_CLASSES = 4, TEST_TEXTS = 3 };
static const char *const test_texts[] = {"all squares", "", "the caf\xc3\xa9 left of the red circle"};
static const char *const test_kinds[] = {"plural", "relation"};

static inline ShardInfo test_info(int shards, int number) {
    ShardInfo info = {.split = "train",
                      .source = "panoptic",
                      .precision = "fp32",
                      .version = "1.0",
                      .resolution = 20,
                      .color = {255, 250, 0},
                      .alpha = 0.75,
                      .outline = 4,
                      .absent = 0.125,
                      .min_side = 300,
                      .passes = 1,
                      .shards = shards,
                      .seed = 1234567890123,
                      .targets = TARGET_OVERLAY | TARGET_MASK,
                      .height = 5,
                      .width = 6,
                      .channels = 4,
                      .first_picture = 10 * number,
                      .pictures = 10};
    memset(info.vae_sha256, 'a', 64);
    memset(info.annotations_sha256, 'b', 64);
    shard_info_classes(&info, TEST_CLASSES, test_classes);
    info.sampled[1] = info.sampled[0] = info.sampled[2] = info.sampled[3] = 1;
    return info;
}

// Values of sample i that fp16 holds exactly: multiples of 1/64 in (-8, 8).
static inline void test_latent(long long i, int which, const ShardInfo *info, float *values) {
    for (int k = 0; k < info->height * info->width * info->channels; k++) {
        uint32_t word = philox(7, PHILOX_NOISE, (uint32_t)which, (uint64_t)i, (uint32_t)k).x[0];
        values[k] = (float)((int)(word % 1023) - 511) / 64;
    }
}

typedef struct {
    float image[5 * 6 * 4], overlay[5 * 6 * 4], only_mask[5 * 6 * 4];
    uint8_t mask[20 * 3];
} TestArrays;

static inline ShardSample test_sample(long long i, const ShardInfo *info, TestArrays *a) {
    test_latent(i, 0, info, a->image);
    test_latent(i, 1, info, a->overlay);
    test_latent(i, 2, info, a->only_mask);
    for (int k = 0; k < 60; k++) { a->mask[k] = (uint8_t)(i * 31 + k * 7); }
    return (ShardSample){.latents = {a->image, a->overlay, a->only_mask},
                         .mask = a->mask,
                         .class_index = (int)(i % TEST_CLASSES),
                         .image_id = 1000000007LL * (i + 1),
                         .crop = {(int)i, 2 * (int)i, 300 + (int)i},
                         .area = (float)(i % 8) / 8,
                         .text = test_texts[i % TEST_TEXTS],
                         .kind = (int)(i % 2)};
}

// Writes samples [first, first + count) and two dropped pictures.
static inline void test_shard(const char *path, const ShardInfo *info, long long first, int count) {
    ShardWriter *writer = shard_begin(path, info);
    for (long long i = first; i < first + count; i++) {
        TestArrays arrays;
        ShardSample s = test_sample(i, info, &arrays);
        shard_add(writer, &s);
    }
    shard_drop(writer, 77, 2);
    shard_drop(writer, 99999999999, 5);
    shard_commit(writer);
}

// A fresh folder for this process, removed at exit.
static inline char *test_folder(void) {
    char *folder = xprintf("%s/cocogold-test-%ld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid());
    remove_tree(folder);
    make_folders(folder);
    return folder;
}
