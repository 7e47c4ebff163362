// A shard, byte by byte (data/shard.c, libhdf5). fuzz_shard.c changes what it says instead.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shard_use.h"

const char *const fuzz_files[] = {"train-00000.h5", NULL};
void fuzz_begin(void) {
    h5_enter();
    h5_leave();
}
void fuzz_died(void) { h5_close_all(); }
void fuzz_one(void) { use_shards(fuzz_path("")); }
