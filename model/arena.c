#include "model/arena.h"
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "util/error.h"

enum { ALIGN = 256 };

static size_t round_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

Arena arena_measure(Device *dev) {
    assert(dev->plan_only);
    // A made-up address: NULL has a meaning for kernels.
    return (Arena){
        .base = (char *)(uintptr_t)ALIGN, .size = SIZE_MAX / 2 / ALIGN * ALIGN, .measuring = true, .dev = dev};
}

Arena arena_create(Device *dev, size_t bytes) {
    size_t size = round_up(bytes);
    return (Arena){.base = device_alloc(dev, size ? size : ALIGN), .size = size, .dev = dev};
}

void arena_destroy(Arena *arena) {
    if (!arena->measuring) device_free(arena->dev, arena->base);
    free(arena->guards);
    *arena = (Arena){0};
}

// ---- Debug builds: NaN in every new tensor, and a zone of ALIGN bytes behind each that must stay as it was
// -----------

#ifdef DEBUG_GUARDS
enum { GUARD_BYTES = ALIGN, GUARD_FILL = 0xff };

// 0xff in all bytes is a NaN in float and in bf16.
static void guard_add(Arena *arena, size_t offset, size_t bytes) {
    if (arena->measuring) return;
    device_fill(arena->dev, arena->base + offset, GUARD_FILL, bytes);
    if (arena->guard_count == arena->guard_capacity) {
        arena->guard_capacity = arena->guard_capacity ? 2 * arena->guard_capacity : 64;
        arena->guards = xrealloc(arena->guards, arena->guard_capacity * sizeof(size_t));
    }
    arena->guards[arena->guard_count++] = offset + bytes - GUARD_BYTES;
}

// Checks and forgets the guards that no longer lie below `bottom` or in the last `top` bytes.
static void guards_check(Arena *arena, size_t bottom, size_t top) {
    int kept = 0;
    for (int i = 0; i < arena->guard_count; i++) {
        size_t at = arena->guards[i];
        if (at < bottom || at >= arena->size - top) {
            arena->guards[kept++] = at;
            continue;
        }
        unsigned char zone[GUARD_BYTES];
        device_copy(arena->dev, zone, arena->base + at, GUARD_BYTES, false);
        device_sync(arena->dev);
        for (int j = 0; j < GUARD_BYTES; j++) {
            if (zone[j] != GUARD_FILL) die("a kernel wrote past the end of the tensor before arena byte %zu", at);
        }
    }
    arena->guard_count = kept;
}
#else
enum { GUARD_BYTES = 0 };
static void guard_add(Arena *arena, size_t offset, size_t bytes) { (void)arena, (void)offset, (void)bytes; }
static void guards_check(Arena *arena, size_t bottom, size_t top) { (void)arena, (void)bottom, (void)top; }
#endif

// ---- The two ends --------------------------------------------------------------------------------------------------

static void note_peak(Arena *arena) {
    if (arena->bottom + arena->top > arena->size) {
        die("an arena of %zu bytes is too small: it was planned for a smaller batch or picture", arena->size);
    }
    if (arena->bottom + arena->top > arena->peak) arena->peak = arena->bottom + arena->top;
}

static void *take_bottom(Arena *arena, size_t bytes) {
    size_t offset = arena->bottom;
    bytes = round_up(bytes) + GUARD_BYTES;
    arena->bottom += bytes;
    note_peak(arena);
    guard_add(arena, offset, bytes);
    return arena->base + offset;
}

static void *take_top(Arena *arena, size_t bytes) {
    bytes = round_up(bytes) + GUARD_BYTES;
    arena->top += bytes;
    note_peak(arena);
    guard_add(arena, arena->size - arena->top, bytes);
    return arena->base + (arena->size - arena->top);
}

floatX *arena_save(Arena *arena, size_t count) { return take_bottom(arena, count * sizeof(floatX)); }
float *arena_save_float(Arena *arena, size_t count) { return take_bottom(arena, count * sizeof(float)); }
floatX *arena_push(Arena *arena, size_t count) { return take_top(arena, count * sizeof(floatX)); }
float *arena_push_float(Arena *arena, size_t count) { return take_top(arena, count * sizeof(float)); }

ArenaMark arena_mark(const Arena *arena) { return (ArenaMark){arena->bottom, arena->top}; }

void arena_release(Arena *arena, ArenaMark mark) {
    assert(mark.bottom <= arena->bottom && mark.top <= arena->top);
    guards_check(arena, mark.bottom, mark.top);
    arena->bottom = mark.bottom;
    arena->top = mark.top;
}

void arena_release_top(Arena *arena, ArenaMark mark) { arena_release(arena, (ArenaMark){arena->bottom, mark.top}); }

void arena_release_bottom(Arena *arena, ArenaMark mark) { arena_release(arena, (ArenaMark){mark.bottom, arena->top}); }
