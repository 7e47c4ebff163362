#include "train/stream.h"
#include "util/error.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void stream_add(Stream *s, const char *field, const char *what, const char *format, ...) {
    assert(s->count < STREAM_ROWS);
    s->rows[s->count].field = field;
    s->rows[s->count].what = what;
    va_list values;
    va_start(values, format);
    vsnprintf(s->rows[s->count].value, sizeof s->rows[s->count].value, format, values);
    va_end(values);
    s->count++;
}

void stream_add_hash(Stream *s, const char *field, const char *what, uint64_t hash) {
    stream_add(s, field, what, "%016llx", (unsigned long long)hash);
}

void stream_add_shards(Stream *s, const ShardSet *shards, const Loader *loader, int target) {
    stream_add(s, "resolution", "the shards' resolution", "%d", shards->info.resolution);
    stream_add(s, "paint", "the paint of the shards' targets", "%s", shard_paint(&shards->info, target).text);
    stream_add(s, "samples", "the number of samples", "%lld", loader_samples(loader));
    stream_add_hash(s, "pictures", "the list of the samples' pictures, crops, masks and texts", loader_hash(loader));
}

void stream_record(const Stream *s, yajl_gen gen) {
    for (int i = 0; i < s->count; i++) { json_put_string(gen, s->rows[i].field, s->rows[i].value); }
}

void stream_check(const Stream *s, yajl_val recorded, const char *path) {
    if (!recorded) { die("%s: field \"stream\" is missing", path); }
    for (int i = 0; i < s->count; i++) {
        const char *before = json_string_at(recorded, s->rows[i].field), *now = s->rows[i].value;
        if (strcmp(before, now) == 0) { continue; }
        die("--resume: %s differs from what %s recorded (%s, now %s): give what the run began with, or begin another "
            "run",
            s->rows[i].what, path, before, now);
    }
}
