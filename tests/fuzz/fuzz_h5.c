// A shard, byte by byte (data/shard.c, libhdf5). fuzz_shard.c changes what it says instead. Seven of eight changes stay
// inside of a block and get the checksums right again (h5_sums.h), so that libhdf5 reads on.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/h5_sums.h"
#include "tests/fuzz/shard_use.h"

const char *const fuzz_files[] = {"train-00000.h5", NULL};
void fuzz_begin(void) {
    h5_enter();
    h5_leave();
}
void fuzz_died(void) { h5_close_all(); }
void fuzz_one(void) { use_shards(fuzz_path("")); }

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t room, unsigned seed);

static uint32_t draw(uint32_t *state, size_t below) {
    *state = *state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)*state * below >> 32);
}

// The place of a block's first byte: the n-th signature of the file, counted round.
static size_t find_block(const uint8_t *bytes, size_t size, uint32_t n) {
    Sums s = {(uint8_t *)bytes, size, 0};
    size_t places[1024], count = 1;
    places[0] = 0;
    for (size_t at = 8; at + 4 <= size && count < 1024; at++) {
        static const char *const others[] = {"FSSE", "BTLF", "EAIB", "EADB", "FADB", "OCHK", "GCOL"};
        bool found = false;
        for (int k = 0; k < SUMS_KINDS && !found; k++) { found = sums_is(&s, at, sums_kinds[k].signature); }
        for (int k = 0; k < 7 && !found; k++) { found = sums_is(&s, at, others[k]); }
        if (found) { places[count++] = at; }
    }
    return places[n % count];
}

// Changes a few bytes near a block's begin, or one number to a special value, in place.
static void change_block(uint8_t *bytes, size_t size, uint32_t *state) {
    static const uint64_t special[] = {0,       1,          0xff,       0x7fff,          0xffff,
                                       0x10000, 0x7fffffff, 0xffffffff, UINT64_MAX >> 1, UINT64_MAX};
    size_t at = find_block(bytes, size, draw(state, 1 << 16));
    at += 4 + draw(state, draw(state, 4) ? 64 : 512);
    size_t count = (size_t)1 << draw(state, 4);
    if (at + count > size) { return; }
    if (draw(state, 2)) {
        LLVMFuzzerMutate(bytes + at, count, count);
        return;
    }
    uint64_t value = draw(state, 2) ? special[draw(state, 10)] : draw(state, size);
    for (size_t i = 0; i < count; i++) { bytes[at + i] = (uint8_t)(value >> 8 * i); }
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t room, unsigned seed) {
    uint32_t state = seed;
    if (draw(&state, 8) == 0 || size < 64) { return LLVMFuzzerMutate(bytes, size, room); }
    for (uint32_t changes = 1 + draw(&state, 3); changes; changes--) { change_block(bytes, size, &state); }
    h5_repair_sums(bytes, size);
    return size;
}
