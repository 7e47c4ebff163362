// One block of memory for all activations of a model. Tensors that backward needs grow from the bottom (arena_save);
// temporaries and gradients of activations are a stack from the top (arena_push). A step allocates nothing: it
// only moves a pointer. Running forward and backward on a plan-only device with an arena without memory gives the
// needed size (peak) and, because the calls are the same, the same addresses as the real run.
//
// The gradients of parameters may lie in the arena too, if a step has one micro-batch, so that they need not outlive
// the next forward pass. Backward frees the saved tensors from the last to the first, and completes the gradients of
// the last layers first: each gradient takes the place of tensors that have been freed. From the bottom:
//
//   offset                                  bytes that the pass needs below the first gradient
//   count gradients                         forward saves tensors here; backward fills it from its end
//   temporaries                             the most that backward has at the top
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

// Gradients that lie in the arena.
typedef struct {
    size_t count;  // 0: they lie elsewhere
    float *first;  // of them; made up in a measuring arena
    size_t offset; // bytes from the base to the first one: what a plan finds
    // Of the backward pass that runs or was planned:
    size_t final;       // element from which on they are final
    size_t saved;       // largest bottom since the last gradients became final
    size_t temporaries; // largest top
} ArenaGrads;

typedef struct {
    char *base;         // made up in a measuring arena
    size_t size;        // bytes
    size_t bottom, top; // bytes in use at both ends
    size_t peak;        // largest bottom + top so far
    size_t most_saved;  // largest bottom so far
    bool measuring;
    ArenaGrads grads;
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

// Lets `count` gradients lie in a measuring arena; `first` is their address during the plan.
void arena_plan_grads(Arena *arena, float *first, size_t count);
// Bytes that the measured passes need, with gradients.
size_t arena_planned(const Arena *plan);
// An arena for passes that were measured; plan->grads.count gradients begin at arena.grads.first.
Arena arena_create_planned(Device *dev, const Arena *plan);
// From here on until the next forward pass, backward writes gradients.
void arena_grads_begin(Arena *arena);
// The gradients from `first` on are written, and no other was. Returns where the gradients begin that were final
// before; NULL: they lie elsewhere.
const float *arena_grads_final(Arena *arena, const float *first);

// Return 256-byte aligned memory. The arena must have the room: a plan gives the needed size.
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
