// One block of memory for all activations of a model. Tensors that backward needs grow from the bottom (arena_save);
// temporaries and gradients of activations are a stack from the top (arena_push). Nothing is allocated in a step: a
// pointer moves. Running forward and backward on a plan-only device with an arena without memory gives the size that is
// needed (peak) and, being the same calls, the same addresses as the real run.
//
// Debug builds (DEBUG_GUARDS) fill every tensor with NaN when it is handed out and keep a guard zone behind it.
#pragma once
#include <stddef.h>
#include "kernels/runtime/device.h"

typedef struct {
    char *base;         // made up in a measuring arena
    size_t size;        // bytes
    size_t bottom, top; // bytes in use at both ends
    size_t peak;        // largest bottom + top so far
    bool measuring;
    Device *dev;
    size_t *guards; // debug builds: where the guard zones of the living tensors begin
    int guard_count, guard_capacity;
} Arena;

typedef struct {
    size_t bottom, top;
} ArenaMark;

Arena arena_measure(Device *dev);              // no memory: only counts; dev is plan-only
Arena arena_create(Device *dev, size_t bytes); // device memory
void arena_destroy(Arena *arena);

// `count` elements of 256-byte aligned memory. Dies if there is no room (the plan said how much is needed).
floatX *arena_save(Arena *arena, size_t count);
float *arena_save_float(Arena *arena, size_t count);
floatX *arena_push(Arena *arena, size_t count);
float *arena_push_float(Arena *arena, size_t count);

// Everything handed out after the mark is given back, at both ends or at one.
ArenaMark arena_mark(const Arena *arena);
void arena_release(Arena *arena, ArenaMark mark);
void arena_release_top(Arena *arena, ArenaMark mark);
void arena_release_bottom(Arena *arena, ArenaMark mark);
