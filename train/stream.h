// What a run's stream of samples depends on besides the options: checkpoints record it, and --resume compares it, so
// that no run goes on with other data. Where the data lie does not matter.
#pragma once
#include "data/loader.h"
#include "util/json.h"

enum { STREAM_ROWS = 6 };
typedef struct {
    int count;
    struct {
        const char *field, *what; // in state.json; for messages
        char value[96];
    } rows[STREAM_ROWS];
} Stream;

// Adds a row: stream_add(&stream, "samples", "the number of samples", "%lld", n).
void stream_add(Stream *stream, const char *field, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void stream_add_hash(Stream *stream, const char *field, const char *what, uint64_t hash);
// Four rows: what a loader's samples are, and how the target that is trained is painted (as shard_paint).
void stream_add_shards(Stream *stream, const ShardSet *shards, const Loader *loader, int target);
// Writes the rows as fields of the generator's open object.
void stream_record(const Stream *stream, yajl_gen gen);
// Dies at the first row that differs from what a checkpoint recorded (an object written by stream_record in the file
// `path`).
void stream_check(const Stream *stream, yajl_val recorded, const char *path);
