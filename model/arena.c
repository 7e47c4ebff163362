#include "model/arena.h"
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
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

void arena_plan_grads(Arena *arena, float *first, size_t count) {
    assert(arena->measuring);
    arena->grads = (ArenaGrads){.count = count, .first = first};
}

size_t arena_planned(const Arena *plan) {
    const ArenaGrads *g = &plan->grads;
    size_t backward = g->count ? g->offset + round_up(g->count * sizeof(float)) + g->temporaries : 0;
    return backward > plan->peak ? backward : plan->peak;
}

Arena arena_create_planned(Device *dev, const Arena *plan) {
    Arena arena = arena_create(dev, arena_planned(plan));
    arena.grads = plan->grads;
    arena.grads.first = (float *)(arena.base + plan->grads.offset);
    return arena;
}

void arena_destroy(Arena *arena) {
    if (!arena->measuring) { device_free(arena->dev, arena->base); }
    free(arena->guards);
    *arena = (Arena){0};
}

// ---- Debug builds: NaN in every new tensor, and a zone of ALIGN bytes after each that must not change

#ifdef DEBUG_GUARDS
enum { GUARD_BYTES = ALIGN, GUARD_FILL = 0xff };

// 0xff in all bytes is a NaN in float and in bf16.
static void guard_add(Arena *arena, size_t offset, size_t bytes) {
    if (arena->measuring) { return; }
    device_fill(arena->dev, arena->base + offset, GUARD_FILL, bytes);
    GROW(arena->guards, arena->guard_count);
    arena->guards[arena->guard_count++] = offset + bytes - GUARD_BYTES;
}

// Checks and drops the guards that are neither below `bottom` nor in the last `top` bytes.
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
            if (zone[j] != GUARD_FILL) { die("a kernel wrote past the end of the tensor before arena byte %zu", at); }
        }
    }
    arena->guard_count = kept;
}
#else
enum { GUARD_BYTES = 0 };
static void guard_add(Arena *arena, size_t offset, size_t bytes) { (void)arena, (void)offset, (void)bytes; }
static void guards_check(Arena *arena, size_t bottom, size_t top) { (void)arena, (void)bottom, (void)top; }
#endif

// ---- The table of what a plan saves --------------------------------------------------------------------------------

static PlanTime plan_time(const Arena *arena) {
    const Trace *trace = arena->dev->trace;
    PlanTime now = {.scope = arena->dev->scope ? arena->dev->scope : "-"};
    for (int i = 0; i < trace->count; i++) { now.launches += trace->rows[i].launches; }
    return now;
}

static void table_add(Arena *arena, const char *name, size_t element, Shape shape, size_t bytes) {
    SavedTable *table = arena->table;
    GROW(table->tensors, table->count);
    int number = 1;
    size_t length = strlen(name);
    for (const SavedTensor *t = table->tensors; t < table->tensors + table->count; t++) {
        number += strncmp(t->name, name, length) == 0 && (t->name[length] == 0 || t->name[length] == '#');
    }
    SavedTensor *t = &table->tensors[table->count++];
    *t = (SavedTensor){.shape = shape,
                       .element = element,
                       .begin = arena->bottom,
                       .bytes = bytes,
                       .saved = plan_time(arena),
                       .in_use = true};
    snprintf(t->name, sizeof t->name, number > 1 ? "%s#%d" : "%s", name, number);
}

static void table_release(Arena *arena, size_t bottom) {
    const char *weight = arena->table->layer ? arena->table->layer : "."; // "conv_in.weight"
    for (int i = arena->table->count; i-- > 0;) {
        SavedTensor *t = &arena->table->tensors[i];
        if (!t->in_use || t->begin < bottom) { continue; }
        t->in_use = false;
        t->freed = plan_time(arena);
        snprintf(t->reader, sizeof t->reader, "%.*s", (int)(strrchr(weight, '.') - weight), weight);
    }
}

// ---- The two ends --------------------------------------------------------------------------------------------------

static void note_peak(Arena *arena) {
    assert(arena->bottom + arena->top <= arena->size); // else it was planned for a smaller batch or picture
    if (arena->bottom + arena->top > arena->peak) { arena->peak = arena->bottom + arena->top; }
    if (arena->bottom > arena->grads.saved) { arena->grads.saved = arena->bottom; }
    if (arena->top > arena->grads.temporaries) { arena->grads.temporaries = arena->top; }
}

static size_t bytes_of(size_t element, Shape shape) {
    for (int i = 0; i < 4 && shape.size[i]; i++) { element *= shape.size[i]; }
    return round_up(element) + GUARD_BYTES;
}

void *arena_save_tensor(Arena *arena, const char *name, size_t element, Shape shape) {
    size_t offset = arena->bottom, bytes = bytes_of(element, shape);
    if (arena->table) { table_add(arena, name, element, shape, bytes); }
    arena->bottom += bytes;
    if (arena->bottom > arena->most_saved) { arena->most_saved = arena->bottom; }
    note_peak(arena);
    guard_add(arena, offset, bytes);
    return arena->base + offset;
}

void *arena_push_tensor(Arena *arena, size_t element, Shape shape) {
    size_t bytes = bytes_of(element, shape);
    arena->top += bytes;
    note_peak(arena);
    guard_add(arena, arena->size - arena->top, bytes);
    return arena->base + (arena->size - arena->top);
}

floatX *arena_push(Arena *arena, size_t count) { return arena_push_tensor(arena, sizeof(floatX), SHAPE(count)); }

ArenaMark arena_mark(const Arena *arena) { return (ArenaMark){arena->bottom, arena->top}; }

void arena_release(Arena *arena, ArenaMark mark) {
    assert(mark.bottom <= arena->bottom && mark.top <= arena->top);
    guards_check(arena, mark.bottom, mark.top);
    if (arena->table) { table_release(arena, mark.bottom); }
    arena->bottom = mark.bottom;
    arena->top = mark.top;
}

void arena_release_top(Arena *arena, ArenaMark mark) { arena_release(arena, (ArenaMark){arena->bottom, mark.top}); }

void arena_release_bottom(Arena *arena, ArenaMark mark) { arena_release(arena, (ArenaMark){mark.bottom, arena->top}); }

// ---- Gradients in the arena ----------------------------------------------------------------------------------------

void arena_grads_begin(Arena *arena) {
    arena->grads.final = arena->grads.count;
    arena->grads.saved = arena->bottom;
    arena->grads.temporaries = arena->top;
}

// What was saved since the last call lies below `first`, so that no kernel of this time has written over a tensor that
// another one reads.
const float *arena_grads_final(Arena *arena, const float *first) {
    ArenaGrads *g = &arena->grads;
    if (!g->count) { return NULL; }
    const float *before = g->first + g->final;
    g->final = (size_t)(first - g->first);
    size_t below = g->final * sizeof(float);
    if (arena->measuring && g->saved > g->offset + below) { g->offset = round_up(g->saved - below); }
    assert(g->saved <= g->offset + below);
    g->saved = arena->bottom;
    return before;
}
