#include "data/loader.h"
#include "data/classes.h"
#include "data/texts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/philox.h"
#include "util/text.h"
#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the set of shards

// The number in "SPLIT-00012.h5", or -1 for other names.
static int shard_number(const char *name, const char *split) {
    size_t length = strlen(split);
    int number, end = 0;
    if (strncmp(name, split, length) != 0) { return -1; }
    if (sscanf(name + length, "-%5d.h5%n", &number, &end) != 1 || strlen(name) != length + 9 || end != 9) { return -1; }
    return number;
}

static int count_shards(const char *folder, const char *split) {
    DIR *entries = opendir(folder);
    if (!entries) { die("%s: is not a folder, expected one written by `cocogold encode`", folder); }
    int count = 0;
    for (struct dirent *e; (e = readdir(entries));) { count += shard_number(e->d_name, split) >= 0; }
    closedir(entries);
    if (!count) {
        die("%s: holds no shard %s-00000.h5: expected a folder written by `cocogold encode`", folder, split);
    }
    return count;
}

static void check_agreement(const ShardFile *first, const ShardFile *shard) {
    char a[128], b[128];
    const char *name = shard_info_difference(&first->info, &shard->info, false, a, b);
    if (!name) { return; }
    die("%s: attribute \"%s\" is %s, but %s has %s: shards of one folder must come from one encoding", shard->path,
        name, b, first->path, a);
}

static void merge_texts(ShardSet *set) {
    TextTable table = {0};
    if (!shard_has_texts(&set->info)) {
        set->text_count = set->info.class_count;
        set->texts = xcalloc((size_t)set->text_count, sizeof *set->texts);
        for (int c = 0; c < set->text_count; c++) { set->texts[c] = xstrdup(set->info.classes[c]); }
        return;
    }
    set->text_number = xcalloc((size_t)set->count, sizeof *set->text_number);
    for (int k = 0; k < set->count; k++) {
        const ShardFile *s = &set->shards[k];
        set->text_number[k] = xcalloc((size_t)s->text_count + 1, sizeof(int));
        for (int i = 0; i < s->text_count; i++) { set->text_number[k][i] = text_table_add(&table, s->texts[i]); }
    }
    set->text_count = table.count;
    set->texts = table.texts;
    free(table.slots);
}

ShardSet shards_open(const char *folder, const char *split) {
    int count = count_shards(folder, split);
    ShardSet set = {.folder = xstrdup(folder), .count = count};
    set.shards = xcalloc((size_t)count, sizeof *set.shards);
    set.first = xcalloc((size_t)count + 1, sizeof *set.first);
    for (int i = 0; i < count; i++) {
        Path path = path_of("%s/%s-%05d.h5", folder, split, i);
        if (!file_exists(path.text)) {
            die("%s: is missing among %d shards: run `cocogold encode` again", path.text, count);
        }
        set.shards[i] = shard_open(path.text);
        check_agreement(&set.shards[0], &set.shards[i]);
        set.first[i + 1] = set.first[i] + set.shards[i].samples;
    }
    set.samples = set.first[count];
    set.info = shard_info_copy(&set.shards[0].info);
    if (count != set.info.shards) {
        die("%s: holds %d of the %d shards of the encoding: run `cocogold encode` again to finish it", folder, count,
            set.info.shards);
    }
    merge_texts(&set);
    return set;
}

void shards_close(ShardSet *set) {
    for (int i = 0; i < set->count; i++) { shard_close(&set->shards[i]); }
    for (int i = 0; i < set->text_count; i++) { free(set->texts[i]); }
    for (int i = 0; i < set->count && set->text_number; i++) { free(set->text_number[i]); }
    free(set->texts);
    free(set->text_number);
    shard_info_free(&set->info);
    free(set->shards);
    free(set->first);
    free(set->folder);
    *set = (ShardSet){0};
}

// Compares a sample with the shard whose first sample is *first.
static int by_shard(const void *sample, const void *first) {
    const long long *i = sample, *range = first;
    return (*i >= range[1]) - (*i < range[0]);
}

// The shard that holds sample i.
static int shard_of(const ShardSet *set, long long i) {
    assert(i >= 0 && i < set->samples);
    const long long *found = bsearch(&i, set->first, (size_t)set->count, sizeof *set->first, by_shard);
    return (int)(found - set->first);
}

void shards_read(const ShardSet *set, long long i, ShardSample *into) {
    int k = shard_of(set, i);
    shard_read(&set->shards[k], i - set->first[k], into);
    if (set->text_number) { into->text_index = set->text_number[k][into->text_index]; }
}

static int class_of(const ShardSet *set, long long i) {
    int k = shard_of(set, i);
    return set->shards[k].class_index[i - set->first[k]];
}

int shards_text(const ShardSet *set, long long i) {
    int k = shard_of(set, i);
    return set->text_number ? set->text_number[k][set->shards[k].text[i - set->first[k]]] : class_of(set, i);
}

bool *shards_classes(const ShardSet *set, const char *option, const char *text) {
    const ShardInfo *info = &set->info;
    bool *keep = classes_of_names(info->classes, info->class_count, set->folder, option, text);
    bool everything = strncmp(text, "all", 3) == 0;
    for (int c = 0; c < info->class_count; c++) {
        if (keep[c] && info->sampled[c] != 1 && !everything) {
            die("%s: class \"%s\" was not encoded (see encode --classes)", set->folder, info->classes[c]);
        }
        keep[c] &= info->sampled[c] == 1;
    }
    return keep;
}

// ---- the shuffled stream

void loader_permutation(uint64_t seed, long long epoch, long long n, int64_t *order) {
    Random random = random_begin(seed, PHILOX_SHUFFLE, (uint32_t)epoch, 0);
    for (long long i = 0; i < n; i++) { order[i] = i; }
    for (long long i = n - 1; i > 0; i--) { // Fisher and Yates
        long long j = random_below(&random, (uint32_t)(i + 1));
        int64_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

struct Loader {
    const ShardSet *set;
    LoaderOptions options;
    size_t latent_size, mask_size;
    int64_t *kept, *order; // (n) stored indices after the filter; permutation of `epoch`
    long long n, epoch;
};

// Positions usually increase, so the permutation is recomputed once per epoch.
static int64_t stored_at(Loader *l, long long position) {
    long long epoch = position / l->n;
    if (epoch != l->epoch) {
        l->epoch = epoch;
        loader_permutation(l->options.seed, epoch, l->n, l->order);
    }
    return l->kept[l->order[position % l->n]];
}

void loader_read(Loader *l, long long number, const LoaderBatch *batch) {
    const LoaderOptions *o = &l->options;
    long long position = o->start + (number * o->world + o->rank) * o->rows;
    for (size_t row = 0; row < (size_t)o->rows; row++, position++) {
        ShardSample s = {0};
        if (batch->image_latent) { s.latents[LATENT_IMAGE] = batch->image_latent + row * l->latent_size; }
        if (batch->target_latent) { s.latents[o->target] = batch->target_latent + row * l->latent_size; }
        if (batch->mask) { s.mask = batch->mask + row * l->mask_size; }
        shards_read(l->set, stored_at(l, position), &s);
        if (batch->position) { batch->position[row] = position; }
        if (batch->text) { batch->text[row] = s.text_index; }
    }
}

char *loader_name(const Loader *l, long long position) {
    int64_t *order = xmalloc((size_t)l->n * sizeof *order);
    loader_permutation(l->options.seed, position / l->n, l->n, order);
    int64_t sample = l->kept[order[position % l->n]];
    free(order);
    ShardSample s = {0};
    shards_read(l->set, sample, &s);
    int k = shard_of(l->set, sample);
    return xprintf("sample %lld of %s (picture %lld)", (long long)(sample - l->set->first[k]), l->set->shards[k].path,
                   (long long)s.image_id);
}

static void keep_classes(Loader *l) {
    const ShardSet *set = l->set;
    const bool *keep = l->options.keep;
    l->kept = xmalloc((size_t)(set->samples + 1) * sizeof *l->kept);
    for (long long i = 0; i < set->samples; i++) {
        int c = class_of(set, i);
        if (!keep || (c >= 0 && keep[c])) { l->kept[l->n++] = i; }
    }
    if (!l->n) { die("%s: the shards hold no sample of the requested classes", set->folder); }
    if (keep && l->n < set->samples) {
        warn(
            "%s: the class filter keeps %lld of %lld samples; encoding with that list would give another distribution, "
            "because it never draws a picture's other classes",
            set->folder, l->n, set->samples);
    }
}

Loader *loader_open(const ShardSet *set, const LoaderOptions *options) {
    assert(options->rows > 0 && options->world > 0 && options->rank >= 0 && options->rank < options->world);
    if (options->target & ~set->info.targets) {
        die("%s: the shards have no \"%s\" (see encode --targets)", set->folder, latent_names[options->target]);
    }
    Loader *l = xcalloc(1, sizeof *l);
    l->set = set;
    l->options = *options;
    l->latent_size = (size_t)set->info.height * (size_t)set->info.width * (size_t)set->info.channels;
    l->mask_size = (size_t)set->info.resolution * (size_t)((set->info.resolution + 7) / 8);
    l->epoch = -1;
    keep_classes(l);
    l->order = xmalloc((size_t)l->n * sizeof *l->order);
    return l;
}

long long loader_samples(const Loader *loader) { return loader->n; }

uint64_t loader_hash(const Loader *l) {
    const ShardSet *set = l->set;
    uint64_t hash = HASH_BEGIN;
    for (long long i = 0; i < l->n; i++) {
        int k = shard_of(set, l->kept[i]);
        const ShardFile *shard = &set->shards[k];
        long long at = l->kept[i] - set->first[k];
        const char *text = set->texts[shards_text(set, l->kept[i])];
        hash = hash_more(hash, &shard->image_id[at], sizeof *shard->image_id);
        hash = hash_more(hash, &shard->crop[3 * at], 3 * sizeof *shard->crop);
        hash = hash_more(hash, &shard->area[at], sizeof *shard->area);
        hash = hash_more(hash, text, strlen(text) + 1);
    }
    return hash;
}

void loader_close(Loader *l) {
    free(l->kept);
    free(l->order);
    free(l);
}
