// Parameters of a model: one flat buffer of named, shaped slices. Gradients, master weights, moments and EMA are
// buffers of the same shape, so that the optimizer is one launch, the norm one sum and a reduction one call.
//
// Slices are listed, and written to files, in the order of the model's layers. They lie in the buffer in order of first
// use in forward, which is the same order but for gathered slices (params_gather); each group of slices starts at a
// multiple of 64 elements, the padding is zero, and the total is a multiple of 64 * 256 elements so that up to 64 ranks
// get equal contiguous shards.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/runtime/device.h"
#include "model/arena.h"

// A slice's memory layout, compared with PyTorch's.
typedef enum {
    LAYOUT_PLAIN, // as in PyTorch
    LAYOUT_CONV   // PyTorch (OC, IC, K, K), here (OC, K, K, IC)
} ParamLayout;

typedef struct {
    char name[160];       // key of the state dict, e.g. "down_blocks.0.resnets.0.conv1.weight"
    int ndim, shape[4];   // PyTorch's
    size_t offset, count; // elements in the flat buffer
    size_t listed;        // offset in a flat array in the list's order, without gathering: a checkpoint's moments
    ParamLayout layout;
    bool packed; // directly after another slice: kernels read such a group as one matrix
} ParamSlice;

// Backward's callback while it runs: the gradients from `first` to the end of the flat buffer are final. Slices lie in
// order of first use in forward, so backward finishes a growing suffix. It is called in host order, when the kernels
// are queued.
typedef struct {
    void (*call)(void *data, const float *first); // NULL: no callback
    void *data;
} GradsFinal;

// Elements between two slices, or after the last one.
typedef struct {
    size_t offset, count;
} ParamGap;

typedef struct {
    ParamSlice *slices;
    int count;
    ParamGap *gaps; // in the buffer's order; known from params_finish on
    int gap_count;
    size_t total;    // elements with padding
    size_t listed;   // the same of a flat array in the list's order
    floatX *weights; // (total) what kernels read, on the device; NULL until params_alloc, and if they are mapped
    float *grads;    // (total) memory of the caller (params_set_grads), or NULL: no parameter gradient is computed
    bool joined;     // the weights lie in another model's buffer
    struct MappedWeights *mapped; // model/mapped.h: weights that are read in the model's file; NULL: in `weights`
    GradsFinal grads_final;
} Params;

// Adds a slice and returns its offset. `packed` puts it directly after the previous slice without padding (to_k after
// to_q, ...): kernels read such a group as one matrix.
size_t params_add(Params *params, ParamLayout layout, bool packed, int ndim, const int *shape, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
// Gathered slices: a group that kernels read as one matrix although other slices are listed between its members. It
// lies in the buffer where params_gather reserves it, and must be filled.
typedef struct {
    size_t begin, next, end; // elements
} ParamGroup;
ParamGroup params_gather(Params *params, size_t count);
// Adds the group's next slice, in PyTorch's layout.
size_t params_add_gathered(Params *params, ParamGroup *group, int ndim, const int *shape, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
// Rounds the total up; no slice may be added afterwards.
void params_finish(Params *params);
// Allocates device memory for the weights, zeroed.
void params_alloc(Params *params, Device *dev);
// Moves the weights of two models into one buffer, `first`'s at its beginning, so that norm and update are one launch
// each. `first` owns the buffer: free `second` no later.
void params_join(Params *first, Params *second, Device *dev);
// The gradients of `count` models, one after the other, are in memory of the caller. PLAN_POINTER: they will be; until
// then backward may only be planned.
void params_set_grads(Params *const *params, int count, float *grads);
// The same for one model, in new device memory, zeroed; the caller frees it with device_free.
float *params_alloc_grads(Params *params, Device *dev);
void params_release(Params *params, Device *dev); // frees that memory; the slices remain
void params_free(Params *params, Device *dev);

// The slice of that name, or NULL.
const ParamSlice *params_find(const Params *params, const char *name);
// The slice that begins at that element.
const ParamSlice *params_at(const Params *params, size_t offset);

// Host conversions between PyTorch's order and the flat buffer's, for one slice of slice->count elements.
void slice_from_torch(const ParamSlice *slice, float *flat, const float *torch_order);
void slice_to_torch(const ParamSlice *slice, float *torch_order, const float *flat);

// (outer, rows, columns) to (outer, columns, rows): a convolution's weight is (OC, IC, K K) in PyTorch and (OC, K K,
// IC) here, a picture (B, C, H W) and (B, H W, C).
void transpose_inner(float *out, const float *inp, size_t outer, size_t rows, size_t columns);

// Clears what lies between slices in a host array of `total` floats.
void params_clear_padding(const Params *params, float *flat);
// All weights from a host array of `total` floats in the flat order (through the cast kernel).
void params_upload(Params *params, const float *flat, Device *dev);

// An address for plan-only passes: never read, but not NULL, which has a meaning for kernels.
#define PLAN_POINTER ((void *)(uintptr_t)256)
// After this a plan-only pass sees weights, and gradients if asked for, even if no memory is allocated. Returns what to
// assign to *params when the pass is over.
Params params_plan(Params *params, bool grads);

// For backward: reports that the gradients from element `first` on are final, after the folds that wait
// (kernels/folds.h). In an arena it clears what lies between them.
void params_grads_final(const Params *params, size_t first, Arena *arena, Device *dev);

#define NO_PARAM ((size_t)-1)
// Pointers into the flat buffers (weights: or into the mapped file, of which a plan reads nothing); NULL for NO_PARAM,
// and for gradients where none are computed.
const floatX *mapped_weight(const Params *params, size_t offset);
static inline const floatX *weight_at(const Params *p, size_t offset, const Device *dev) {
    if (offset == NO_PARAM) { return NULL; }
    if (p->weights) { return p->weights + offset; }
    return dev->plan_only ? PLAN_POINTER : mapped_weight(p, offset);
}
static inline float *grad_at(const Params *p, size_t offset) {
    return offset == NO_PARAM || !p->grads ? NULL : p->grads + offset;
}
