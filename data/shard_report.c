#include "data/shard_report.h"
#include "data/sample.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

typedef struct {
    long long pictures, dropped[SAMPLE_REASONS], *of_class; // of_class: samples (class_count)
    double bytes;
} Counts;

static Counts count_all(const ShardSet *set) {
    Counts c = {.of_class = xcalloc((size_t)set->info.class_count, sizeof *c.of_class)};
    for (int k = 0; k < set->count; k++) {
        const ShardFile *s = &set->shards[k];
        struct stat file;
        if (stat(s->path, &file) == 0) { c.bytes += (double)file.st_size; }
        c.pictures += s->info.pictures;
        for (long long i = 0; i < s->samples; i++) { c.of_class[s->class_index[i]]++; }
        for (long long i = 0; i < s->dropped; i++) { c.dropped[s->dropped_reason[i] % SAMPLE_REASONS]++; }
    }
    return c;
}

// Every dropped picture by reason; a picture may occur once per pass.
static void put_dropped(yajl_gen gen, const ShardSet *set, const Counts *counts) {
    json_open_map(gen, "dropped");
    for (int reason = 1; reason < SAMPLE_REASONS; reason++) {
        if (!counts->dropped[reason]) { continue; }
        json_open_list(gen, sample_reason_names[reason]);
        for (int k = 0; k < set->count; k++) {
            const ShardFile *s = &set->shards[k];
            for (long long i = 0; i < s->dropped; i++) {
                if (s->dropped_reason[i] % SAMPLE_REASONS == reason) { yajl_gen_integer(gen, s->dropped_image[i]); }
            }
        }
        yajl_gen_array_close(gen);
    }
    yajl_gen_map_close(gen);
}

static void write_json(const ShardSet *set, const Counts *counts, const char *path) {
    const ShardInfo *info = &set->info;
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "split", info->split);
    json_put_string(gen, "source", info->source);
    json_put_integer(gen, "resolution", info->resolution);
    json_put_integer(gen, "seed", info->seed);
    json_put_string(gen, "vae_sha256", info->vae_sha256);
    json_put_integer(gen, "passes", info->passes);
    json_put_integer(gen, "shards", set->count);
    json_put_number(gen, "bytes", counts->bytes);
    json_put_integer(gen, "pictures", counts->pictures / info->passes);
    json_put_integer(gen, "samples", set->samples);
    json_open_map(gen, "samples_of_class");
    for (int c = 0; c < info->class_count; c++) {
        if (info->sampled[c]) { json_put_integer(gen, info->classes[c], counts->of_class[c]); }
    }
    yajl_gen_map_close(gen);
    put_dropped(gen, set, counts);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

void shard_report(const ShardSet *set) {
    Path path = path_of("%s/%s.json", set->folder, set->info.split);
    Counts counts = count_all(set);
    char size[24];
    write_json(set, &counts, path.text);
    printf("%s: %lld samples of %lld pictures in %d pass%s, %d shard%s, %s", set->folder, set->samples,
           counts.pictures / set->info.passes, set->info.passes, set->info.passes == 1 ? "" : "es", set->count,
           set->count == 1 ? "" : "s", format_bytes(counts.bytes, size));
    long long all = counts.pictures - set->samples;
    printf("; %lld dropped", all);
    const char *separator = ": ";
    for (int reason = 1; reason < SAMPLE_REASONS; reason++) {
        if (!counts.dropped[reason]) { continue; }
        printf("%s%lld %s", separator, counts.dropped[reason], sample_reason_names[reason]);
        separator = ", ";
    }
    printf(all ? " (ids in %s)\n" : "\n", path.text);
    free(counts.of_class);
}
