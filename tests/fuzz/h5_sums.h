// Makes the checksums of an HDF5 file right again after a change, as whoever forges a file does: libhdf5 then reads
// what is behind them. Knows the blocks that the formats of version 1.8 and later have in shards (HDF5 File Format
// Specification, version 3): superblock, object headers with their continuations, fractal heaps with their blocks and
// free space, B-trees of one node, extensible and fixed arrays, and the chunks of datasets (Fletcher-32).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t *bytes;
    uint64_t size;
    int depth; // of continuations
} Sums;

static inline uint64_t sums_number(const Sums *s, uint64_t at, int bytes) { // 0 outside of the file
    uint64_t value = 0;
    if (at > s->size || s->size - at < (uint64_t)bytes) { return 0; }
    for (int i = bytes; i-- > 0;) { value = value << 8 | s->bytes[at + (uint64_t)i]; }
    return value;
}

static inline bool sums_is(const Sums *s, uint64_t at, const char *signature) {
    return at <= s->size && s->size - at >= 4 && memcmp(s->bytes + at, signature, 4) == 0;
}

static inline uint32_t sums_turn(uint32_t x, int bits) { return x << bits | x >> (32 - bits); }

// Bob Jenkins's lookup3 (public domain), hashlittle() with the initial value 0.
static inline uint32_t sums_lookup3(const uint8_t *p, size_t length) {
    uint32_t a = 0xdeadbeef + (uint32_t)length, b = a, c = a, w[3];
    while (length > 0) {
        size_t n = length < 12 ? length : 12;
        memset(w, 0, sizeof w);
        memcpy(w, p, n);
        a += w[0], b += w[1], c += w[2];
        if (length <= 12) {
            c = (c ^ b) - sums_turn(b, 14), a = (a ^ c) - sums_turn(c, 11), b = (b ^ a) - sums_turn(a, 25);
            c = (c ^ b) - sums_turn(b, 16), a = (a ^ c) - sums_turn(c, 4), b = (b ^ a) - sums_turn(a, 14);
            c = (c ^ b) - sums_turn(b, 24);
            break;
        }
        a = (a - c) ^ sums_turn(c, 4), c += b, b = (b - a) ^ sums_turn(a, 6), a += c;
        c = (c - b) ^ sums_turn(b, 8), b += a, a = (a - c) ^ sums_turn(c, 16), c += b;
        b = (b - a) ^ sums_turn(a, 19), a += c, c = (c - b) ^ sums_turn(b, 4), b += a;
        p += 12, length -= 12;
    }
    return c;
}

static inline uint32_t sums_fold(uint32_t sum) { return (sum & 0xffff) + (sum >> 16); }

// HDF5's Fletcher-32: of big-endian words of 16 bits. A sum that is a multiple of 65535 is 0 only of zeros.
static inline uint32_t sums_fletcher(const uint8_t *p, size_t length) {
    uint32_t one = 0, two = 0;
    for (size_t i = 0; i < length; i += 2) {
        one = sums_fold(one + (uint32_t)(p[i] << 8 | (i + 1 < length ? p[i + 1] : 0)));
        two = sums_fold(two + one);
    }
    return two << 16 | one;
}

static inline void sums_put(Sums *s, uint64_t at, uint32_t sum) {
    for (int i = 0; i < 4; i++) { s->bytes[at + (uint64_t)i] = (uint8_t)(sum >> 8 * i); }
}

static inline bool sums_inside(const Sums *s, uint64_t at, uint64_t length) {
    return at <= s->size && length <= s->size - at;
}

// A block of `length` bytes and its sum behind them.
static inline void sums_block(Sums *s, uint64_t at, uint64_t length) {
    if (!sums_inside(s, at, length) || !sums_inside(s, at + length, 4)) { return; }
    sums_put(s, at + length, sums_lookup3(s->bytes + at, (size_t)length));
}

// ---- Object headers: messages in `length` bytes, each of which may be a continuation --------------------------------

static inline void sums_messages(Sums *s, uint64_t at, uint64_t length, int flags) {
    uint64_t end = at + length, head = flags & 4 ? 6 : 4;
    if (!sums_inside(s, at, length) || s->depth > 8) { return; }
    for (uint64_t next; at + head <= end; at = next) {
        next = at + head + sums_number(s, at + 1, 2);
        uint64_t block = sums_number(s, at + head, 8), bytes = sums_number(s, at + head + 8, 8);
        if (s->bytes[at] != 0x10 || !sums_is(s, block, "OCHK") || bytes < 8 || !sums_inside(s, block, bytes)) {
            continue;
        }
        s->depth++;
        sums_messages(s, block + 4, bytes - 8, flags);
        s->depth--;
        sums_block(s, block, bytes - 4);
    }
}

static inline void sums_object(Sums *s, uint64_t at) {
    int flags = (int)sums_number(s, at + 5, 1), width = 1 << (flags & 3);
    uint64_t head = 6u + (flags & 0x20 ? 16u : 0u) + (flags & 0x10 ? 4u : 0u);
    uint64_t length = sums_number(s, at + head, width);
    head += (uint64_t)width;
    if (!sums_inside(s, at, head) || length > s->size) { return; }
    sums_messages(s, at + head, length, flags);
    sums_block(s, at, head + length);
}

// ---- Fractal heaps --------------------------------------------------------------------------------------------------

enum { HEAP_FILTERS = 7, HEAP_WIDTH = 110, HEAP_START = 112, HEAP_BITS = 128, HEAP_ROWS = 140, HEAP_LENGTH = 142 };

static inline void sums_heap(Sums *s, uint64_t at) {
    uint64_t filters = sums_number(s, at + HEAP_FILTERS, 2);
    sums_block(s, at, HEAP_LENGTH + (filters ? 12 + filters : 0));
}

// The sum stands in the head and counts as 0. Blocks of row 0 and 1 have the first size, those of row r + 1 twice that
// of row r.
static inline void sums_direct(Sums *s, uint64_t at) {
    uint64_t heap = sums_number(s, at + 5, 8), size = sums_number(s, heap + HEAP_START, 8);
    uint64_t offset_bytes = (sums_number(s, heap + HEAP_BITS, 2) + 7) / 8, sum = at + 13 + offset_bytes;
    if (!sums_is(s, heap, "FRHP") || offset_bytes > 8 || !size || size > s->size) { return; }
    uint64_t offset = sums_number(s, at + 13, (int)offset_bytes), row = size * sums_number(s, heap + HEAP_WIDTH, 2);
    for (uint64_t end = 2 * row; row && end <= offset && size < s->size; end *= 2) { size *= 2; }
    if (!sums_inside(s, at, size) || size < 17 + offset_bytes) { return; }
    sums_put(s, sum, 0);
    sums_put(s, sum, sums_lookup3(s->bytes + at, (size_t)size));
}

static inline void sums_indirect(Sums *s, uint64_t at) {
    uint64_t heap = sums_number(s, at + 5, 8), offset_bytes = (sums_number(s, heap + HEAP_BITS, 2) + 7) / 8;
    uint64_t entries = sums_number(s, heap + HEAP_ROWS, 2) * sums_number(s, heap + HEAP_WIDTH, 2);
    if (sums_is(s, heap, "FRHP")) { sums_block(s, at, 13 + offset_bytes + 8 * entries); }
}

static inline void sums_free_space(Sums *s, uint64_t at) {
    uint64_t list = sums_number(s, at + 62, 8), length = sums_number(s, at + 70, 8);
    if (sums_is(s, list, "FSSE") && length > 4) { sums_block(s, list, length - 4); }
    sums_block(s, at, 78);
}

static inline void sums_tree(Sums *s, uint64_t at) {
    uint64_t root = sums_number(s, at + 16, 8);
    if (sums_is(s, root, "BTLF")) { sums_block(s, root, 6 + sums_number(s, at + 24, 2) * sums_number(s, at + 10, 2)); }
    sums_block(s, at, 34);
}

// ---- Arrays of chunks -----------------------------------------------------------------------------------------------

// Elements of a dataset with filters: address, stored bytes, filters left out. Chunks end with their sum.
static inline void sums_chunks(Sums *s, uint64_t at, uint64_t count, int bytes, int client) {
    for (; client == 1 && count && bytes > 12 && bytes <= 20 && sums_inside(s, at, (uint64_t)bytes);
         count--, at += (uint64_t)bytes) {
        uint64_t chunk = sums_number(s, at, 8), length = sums_number(s, at + 8, bytes - 12);
        if (length <= 4 || !sums_inside(s, chunk, length)) { continue; }
        sums_put(s, chunk + length - 4, sums_fletcher(s->bytes + chunk, (size_t)length - 4));
    }
}

// Data blocks follow the elements in the index block; the n-th group of them has 2^(n/2) blocks of 2^((n+1)/2) units.
static inline void sums_array(Sums *s, uint64_t at) {
    int client = (int)sums_number(s, at + 5, 1), bytes = (int)sums_number(s, at + 6, 1);
    int bits = (int)sums_number(s, at + 7, 1), pointers = (int)sums_number(s, at + 10, 1), first = 0, unit_bits = 0;
    uint64_t elements = sums_number(s, at + 8, 1), unit = sums_number(s, at + 9, 1), index = sums_number(s, at + 60, 8);
    while (unit >> (unit_bits + 1)) { unit_bits++; }
    while (pointers >> (first / 2 + 1)) { first += 2; }
    uint64_t blocks = pointers ? 2 * (uint64_t)(pointers - 1) : 0, offset_bytes = ((uint64_t)bits + 7) / 8;
    int64_t groups = 1 + bits - unit_bits - first;
    if (sums_is(s, index, "EAIB") && groups >= 0 && offset_bytes <= 8) {
        uint64_t place = index + 14 + elements * (uint64_t)bytes, end = place + 8 * blocks;
        sums_chunks(s, index + 14, elements, bytes, client);
        for (int group = 0; place < end; group++) {
            uint64_t count = unit << (group + 1) / 2;
            for (int i = 0; i < 1 << group / 2 && place < end; i++, place += 8) {
                uint64_t block = sums_number(s, place, 8), length = count * (uint64_t)bytes;
                if (!sums_is(s, block, "EADB")) { continue; }
                sums_chunks(s, block + 14 + offset_bytes, count, bytes, client);
                sums_block(s, block, 14 + offset_bytes + length);
            }
        }
        sums_block(s, index, end - index + 8 * (uint64_t)groups);
    }
    sums_block(s, at, 68);
}

static inline void sums_fixed_array(Sums *s, uint64_t at) {
    int client = (int)sums_number(s, at + 5, 1), bytes = (int)sums_number(s, at + 6, 1);
    uint64_t count = sums_number(s, at + 8, 8), block = sums_number(s, at + 16, 8);
    if (sums_is(s, block, "FADB") && count <= s->size && count <= 1u << (sums_number(s, at + 7, 1) & 15)) {
        sums_chunks(s, block + 14, count, bytes, client);
        sums_block(s, block, 14 + count * (uint64_t)bytes);
    }
    sums_block(s, at, 24);
}

// ---- The whole file -------------------------------------------------------------------------------------------------

static const struct {
    const char *signature;
    void (*repair)(Sums *, uint64_t);
} sums_kinds[] = {{"OHDR", sums_object},     {"FRHP", sums_heap}, {"FHDB", sums_direct}, {"FHIB", sums_indirect},
                  {"FSHD", sums_free_space}, {"BTHD", sums_tree}, {"EAHD", sums_array},  {"FAHD", sums_fixed_array}};
enum { SUMS_KINDS = sizeof sums_kinds / sizeof *sums_kinds };

static inline void h5_repair_sums(uint8_t *bytes, size_t size) {
    Sums s = {bytes, size, 0};
    for (uint64_t at = 8; at + 4 <= size; at++) {
        for (int k = 0; k < SUMS_KINDS; k++) {
            if (sums_is(&s, at, sums_kinds[k].signature)) { sums_kinds[k].repair(&s, at); }
        }
    }
    if (size >= 48 && bytes[8] >= 2) { sums_block(&s, 0, 44); }
}
