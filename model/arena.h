// One block of memory for all activations of a model. Tensors that backward needs grow from the bottom (arena_save);
// temporaries and gradients of activations are a stack from the top (arena_push). A step allocates nothing: it
// only moves a pointer. Running forward and backward on a plan-only device with an arena without memory gives the
// needed size (peak) and, because the calls are the same, the same addresses as the real run.
//
// Debug builds (DEBUG_GUARDS) fill every tensor with NaN when it is handed out and keep a guard zone after it.
#pragma once
#include <stddef.h>
#include "kernels/runtime/device.h"

// Sizes of a tensor's axes, followed by zeros.
typedef struct {
    size_t size[4];
} Shape;
#define SHAPE(...) ((Shape){{__VA_ARGS__}})

// When something happened in a plan: after this many launches of the trace, in this scope (device_scope).
typedef struct {
    int launches;
    const char *scope;
} PlanTime;

// A tensor saved at the bottom.
typedef struct {
    char name[160]; // "down_blocks.0.resnets.0.norm1.mean"; with #2, #3, ... if the name is taken
    Shape shape;
    size_t element, begin, bytes; // bytes of an element; offset and bytes in the arena, aligned
    PlanTime saved, freed;
    char reader[160]; // the last layer whose backward was done before it was freed
    bool in_use;
} SavedTensor;

typedef struct {
    SavedTensor *tensors; // in the order of saving
    int count;
    const char *layer; // first weight of the last layer whose backward is done; NULL: none
} SavedTable;

typedef struct {
    char *base;         // made up in a measuring arena
    size_t size;        // bytes
    size_t bottom, top; // bytes in use at both ends
    size_t peak;        // largest bottom + top so far
    size_t most_saved;  // largest bottom so far
    bool measuring;
    SavedTable *table; // in a measuring arena with a traced device: lists what is saved; NULL: no list
    Device *dev;
    size_t *guards; // debug builds: offsets of the live tensors' guard zones
    int guard_count;
} Arena;

typedef struct {
    size_t bottom, top;
} ArenaMark;

Arena arena_measure(Device *dev);              // no memory: only counts; dev is plan-only
Arena arena_create(Device *dev, size_t bytes); // device memory
void arena_destroy(Arena *arena);

// Return 256-byte aligned memory. Die if the arena is full (a plan gives the needed size).
void *arena_save_tensor(Arena *arena, const char *name, size_t element, Shape shape);
void *arena_push_tensor(Arena *arena, size_t element, Shape shape);
// A tensor of up to four axes: arena_save(arena, "noisy", B, h, w, L).
#define arena_save(arena, name, ...) ((floatX *)arena_save_tensor(arena, name, sizeof(floatX), SHAPE(__VA_ARGS__)))
#define arena_save_float(arena, name, ...) ((float *)arena_save_tensor(arena, name, sizeof(float), SHAPE(__VA_ARGS__)))
floatX *arena_push(Arena *arena, size_t count);

// Free everything handed out after the mark, at both ends or only at one.
ArenaMark arena_mark(const Arena *arena);
void arena_release(Arena *arena, ArenaMark mark);
void arena_release_top(Arena *arena, ArenaMark mark);
void arena_release_bottom(Arena *arena, ArenaMark mark);
