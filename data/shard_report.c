#include "data/shard_report.h"
#include "data/sample.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    long long pictures, dropped[SAMPLE_REASONS], *of_class, *of_kind; // samples (class_count), (kind_count)
    double bytes;
} Counts;

static Counts count_all(const ShardSet *set) {
    Counts c = {.of_class = xcalloc((size_t)set->info.class_count, sizeof *c.of_class),
                .of_kind = xcalloc((size_t)set->info.kind_count + 1, sizeof *c.of_kind)};
    for (int k = 0; k < set->count; k++) {
        const ShardFile *s = &set->shards[k];
        struct stat file;
        if (stat(s->path, &file) == 0) { c.bytes += (double)file.st_size; }
        c.pictures += s->info.pictures;
        for (long long i = 0; i < s->samples; i++) {
            if (s->class_index[i] >= 0) { c.of_class[s->class_index[i]]++; }
            if (s->kind) { c.of_kind[s->kind[i]]++; }
        }
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

// The ids that are texts in the annotations, by the numbers that stand for them in the shards.
static void put_names(yajl_gen gen, const Coco *coco) {
    bool any = false;
    for (int i = 0; i < coco->picture_count; i++) {
        const Picture *p = &coco->pictures[i];
        char number[24];
        snprintf(number, sizeof number, "%lld", (long long)p->id);
        if (!p->id_name || strcmp(p->id_name, number) == 0) { continue; }
        if (!any) { json_open_map(gen, "image_names"); }
        any = true;
        json_put_string(gen, number, p->id_name);
    }
    if (any) { yajl_gen_map_close(gen); }
}

static void put_texts(yajl_gen gen, const ShardSet *set, const Counts *counts) {
    json_put_string(gen, "text_source", set->info.text_source);
    json_put_integer(gen, "texts", set->text_count);
    json_open_map(gen, "samples_of_kind");
    for (int k = 0; k < set->info.kind_count; k++) { json_put_integer(gen, set->info.kinds[k], counts->of_kind[k]); }
    yajl_gen_map_close(gen);
}

static void write_json(const ShardSet *set, const Counts *counts, const Coco *coco, const char *path) {
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
        if (info->sampled[c] == 1) { json_put_integer(gen, info->classes[c], counts->of_class[c]); }
    }
    yajl_gen_map_close(gen);
    if (shard_has_texts(info)) { put_texts(gen, set, counts); }
    put_dropped(gen, set, counts);
    put_names(gen, coco);
    coco_put_left_out(coco, gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

void shard_report(const ShardSet *set, const Coco *coco) {
    Path path = path_of("%s/%s.json", set->folder, set->info.split);
    Counts counts = count_all(set);
    char size[24];
    write_json(set, &counts, coco, path.text);
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
    free(counts.of_kind);
}
