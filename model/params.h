// Parameters of a model: one flat buffer of named, shaped slices. Gradients, master weights, moments and EMA are
// buffers of the same shape, so that the optimizer is one launch, the norm one sum and a reduction one call.
//
// Slices stand in order of first use in forward; each group of slices starts at a multiple of 64 elements, the padding
// is zero, and the total is a multiple of 64 * 256 elements so that up to 64 ranks get equal contiguous shards.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/runtime/device.h"

// How a slice lies in memory, seen from PyTorch's shape.
typedef enum {
    LAYOUT_PLAIN, // as in PyTorch
    LAYOUT_CONV   // PyTorch (OC, IC, K, K), here (OC, K, K, IC)
} ParamLayout;

typedef struct {
    char name[160];       // key of the state dict, e.g. "down_blocks.0.resnets.0.conv1.weight"
    int ndim, shape[4];   // PyTorch's
    size_t offset, count; // elements in the flat buffer
    ParamLayout layout;
} ParamSlice;

// How backward tells, on its way, that the gradients from `first` to the end of the flat buffer will not change any
// more: slices stand in order of first use in forward, so it finishes a growing suffix. Called in host order, when the
// kernels are queued.
typedef struct {
    void (*call)(void *data, const float *first); // NULL: nobody wants to know
    void *data;
} GradsFinal;

typedef struct {
    ParamSlice *slices;
    int count, capacity;
    size_t total;    // elements with padding
    floatX *weights; // (total) what kernels read, on the device; NULL until params_alloc
    float *grads;    // (total) on the device, or NULL: no parameter gradient is computed
    GradsFinal grads_final;
} Params;

// Adds a slice and returns its offset. `packed` puts it directly behind the previous slice without padding (to_k behind
// to_q, ...): kernels read such a group as one matrix.
size_t params_add(Params *params, ParamLayout layout, bool packed, int ndim, const int *shape, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
// Rounds the total up; no slice may be added afterwards.
void params_finish(Params *params);
// Device memory for the weights (zeroed), and for gradients if asked for.
void params_alloc(Params *params, bool grads, Device *dev);
void params_free(Params *params, Device *dev);

// The slice of that name, or NULL.
const ParamSlice *params_find(const Params *params, const char *name);

// Host conversions between PyTorch's order and the flat buffer's, for one slice of slice->count elements.
void slice_from_torch(const ParamSlice *slice, float *flat, const float *torch_order);
void slice_to_torch(const ParamSlice *slice, float *torch_order, const float *flat);

// All weights from a host array of `total` floats in the flat order, and back (through the cast kernels).
void params_upload(Params *params, const float *flat, Device *dev);
void params_download(const Params *params, float *flat, Device *dev);

// An address for plan-only passes: never read, but not NULL, which has a meaning for kernels.
#define PLAN_ADDRESS ((void *)(uintptr_t)256)
// Between the two, a plan-only pass finds weights, and gradients if asked for, whether there is memory or not.
typedef struct {
    floatX *weights;
    float *grads;
} PlannedParams;
PlannedParams params_plan(Params *params, bool grads);
void params_plan_end(Params *params, PlannedParams real);

// For backward: the gradients from element `first` on are final.
static inline void params_grads_final(const Params *p, size_t first) {
    if (p->grads && p->grads_final.call) { p->grads_final.call(p->grads_final.data, p->grads + first); }
}

#define NO_PARAM ((size_t)-1)
// Pointers into the flat buffers; NULL for NO_PARAM, and for gradients where none are computed.
static inline const floatX *weight_at(const Params *p, size_t offset) {
    return offset == NO_PARAM ? NULL : p->weights + offset;
}
static inline float *grad_at(const Params *p, size_t offset) {
    return offset == NO_PARAM || !p->grads ? NULL : p->grads + offset;
}
