#include "model/params.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/folds.h"
#include "kernels/kernels.h"
#include "model/mapped.h"
#include "util/error.h"

enum {
    GROUP_ALIGN = 64,       // elements at which a group of slices begins
    TOTAL_ALIGN = 64 * 256, // elements: equal shards for up to 64 ranks
    STAGING = 1 << 22       // floats converted at a time
};

static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Appends a slice to the list, without a place in the buffer. `packed`: directly after the previous one in the list.
static ParamSlice *list_slice(Params *params, ParamLayout layout, bool packed, int ndim, const int *shape,
                              const char *format, va_list args) {
    assert(ndim >= 1 && ndim <= 4 && (layout == LAYOUT_PLAIN || (ndim == 4 && shape[2] == shape[3])));
    GROW(params->slices, params->count);
    ParamSlice *slice = &params->slices[params->count++];
    *slice = (ParamSlice){.ndim = ndim, .count = 1, .layout = layout};
    int length = vsnprintf(slice->name, sizeof slice->name, format, args);
    assert(length > 0 && (size_t)length < sizeof slice->name);
    for (int i = 0; i < ndim; i++) {
        slice->shape[i] = shape[i];
        slice->count *= (size_t)shape[i];
    }
    slice->listed = packed ? params->listed : round_up(params->listed, GROUP_ALIGN);
    params->listed = slice->listed + slice->count;
    return slice;
}

size_t params_add(Params *params, ParamLayout layout, bool packed, int ndim, const int *shape, const char *format,
                  ...) {
    va_list args;
    va_start(args, format);
    ParamSlice *slice = list_slice(params, layout, packed, ndim, shape, format, args);
    va_end(args);
    slice->packed = packed;
    slice->offset = packed ? params->total : round_up(params->total, GROUP_ALIGN);
    params->total = slice->offset + slice->count;
    return slice->offset;
}

ParamGroup params_gather(Params *params, size_t count) {
    size_t begin = round_up(params->total, GROUP_ALIGN);
    params->total = begin + count;
    return (ParamGroup){begin, begin, begin + count};
}

size_t params_add_gathered(Params *params, ParamGroup *group, int ndim, const int *shape, const char *format, ...) {
    va_list args;
    va_start(args, format);
    ParamSlice *slice = list_slice(params, LAYOUT_PLAIN, false, ndim, shape, format, args);
    va_end(args);
    slice->packed = group->next > group->begin;
    slice->offset = group->next;
    group->next += slice->count;
    assert(group->next <= group->end);
    return slice->offset;
}

static int by_offset(const void *a, const void *b) {
    const ParamSlice *x = *(const ParamSlice *const *)a, *y = *(const ParamSlice *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void add_gap(Params *params, size_t begin, size_t end) {
    if (begin == end) { return; }
    GROW(params->gaps, params->gap_count);
    params->gaps[params->gap_count++] = (ParamGap){begin, end - begin};
}

void params_finish(Params *params) {
    params->total = round_up(params->total, TOTAL_ALIGN);
    params->listed = round_up(params->listed, TOTAL_ALIGN);
    const ParamSlice **sorted = xcalloc((size_t)params->count, sizeof *sorted);
    for (int i = 0; i < params->count; i++) { sorted[i] = &params->slices[i]; }
    qsort(sorted, (size_t)params->count, sizeof *sorted, by_offset);
    size_t end = 0;
    for (int i = 0; i < params->count; i++) {
        add_gap(params, end, sorted[i]->offset);
        end = sorted[i]->offset + sorted[i]->count;
    }
    add_gap(params, end, params->total);
    free(sorted);
}

void params_alloc(Params *params, Device *dev) {
    assert(params->total % TOTAL_ALIGN == 0 && !params->weights);
    params->weights = device_alloc(dev, params->total * sizeof(floatX));
    device_fill(dev, params->weights, 0, params->total * sizeof(floatX));
}

void params_join(Params *first, Params *second, Device *dev) {
    Params *parts[] = {first, second};
    assert(first->weights && second->weights); // not mapped
    size_t total = first->total + second->total, at = 0;
    floatX *weights = device_alloc(dev, total * sizeof(floatX));
    for (int i = 0; i < 2; at += parts[i++]->total) {
        device_copy(dev, weights + at, parts[i]->weights, parts[i]->total * sizeof(floatX), false);
        device_sync(dev);
        params_release(parts[i], dev);
        parts[i]->weights = weights + at;
    }
    second->joined = true;
}

void params_set_grads(Params *const *params, int count, float *grads) {
    for (int i = 0; i < count; grads += params[i++]->total) { params[i]->grads = grads; }
}

float *params_alloc_grads(Params *params, Device *dev) {
    params->grads = device_alloc(dev, params->total * sizeof(float));
    device_fill(dev, params->grads, 0, params->total * sizeof(float));
    return params->grads;
}

void params_release(Params *params, Device *dev) {
    if (params->weights && !params->joined) { device_free(dev, params->weights); }
    if (params->mapped) { mapped_close(params->mapped); }
    params->mapped = NULL;
    params->weights = NULL;
    params->grads = NULL;
}

void params_free(Params *params, Device *dev) {
    params_release(params, dev);
    free(params->slices);
    free(params->gaps);
    *params = (Params){0};
}

const ParamSlice *params_find(const Params *params, const char *name) {
    for (int i = 0; i < params->count; i++) {
        if (strcmp(params->slices[i].name, name) == 0) { return &params->slices[i]; }
    }
    return NULL;
}

const ParamSlice *params_at(const Params *params, size_t offset) {
    const ParamSlice *slice = params->slices;
    while (slice->offset != offset) { slice++; }
    return slice;
}

void transpose_inner(float *out, const float *inp, size_t outer, size_t rows, size_t columns) {
    for (size_t o = 0; o < outer; o++, out += rows * columns, inp += rows * columns) {
        for (size_t r = 0; r < rows; r++) {
            for (size_t c = 0; c < columns; c++) { out[c * rows + r] = inp[r * columns + c]; }
        }
    }
}

void slice_from_torch(const ParamSlice *slice, float *flat, const float *torch_order) {
    const int *s = slice->shape;
    if (slice->layout == LAYOUT_PLAIN) {
        memcpy(flat, torch_order, slice->count * sizeof(float));
    } else {
        transpose_inner(flat, torch_order, s[0], s[1], (size_t)s[2] * s[3]);
    }
}

void slice_to_torch(const ParamSlice *slice, float *torch_order, const float *flat) {
    const int *s = slice->shape;
    if (slice->layout == LAYOUT_PLAIN) {
        memcpy(torch_order, flat, slice->count * sizeof(float));
    } else {
        transpose_inner(torch_order, flat, s[0], (size_t)s[2] * s[3], s[1]);
    }
}

void params_clear_padding(const Params *params, float *flat) {
    for (const ParamGap *gap = params->gaps; gap < params->gaps + params->gap_count; gap++) {
        memset(flat + gap->offset, 0, gap->count * sizeof *flat);
    }
}

void params_upload(Params *params, const float *flat, Device *dev) {
    float *staging = device_alloc(dev, STAGING * sizeof(float));
    for (size_t done = 0; done < params->total; done += STAGING) {
        size_t n = params->total - done < STAGING ? params->total - done : STAGING;
        device_copy(dev, staging, flat + done, n * sizeof(float), false);
        cast_to_floatX(params->weights + done, staging, n, dev);
    }
    device_sync(dev);
    device_free(dev, staging);
}

void params_grads_final(const Params *p, size_t first, Arena *arena, Device *dev) {
    if (!p->grads) { return; }
    const float *until = arena_grads_final(arena, p->grads + first);
    for (const ParamGap *gap = p->gaps; until && gap < p->gaps + p->gap_count; gap++) {
        float *at = p->grads + gap->offset;
        if (gap->offset >= first && at < until) { device_fill(dev, at, 0, gap->count * sizeof *at); }
    }
    if (!p->grads_final.call) { return; }
    folds_flush(dev);
    p->grads_final.call(p->grads_final.data, p->grads + first);
}

Params params_plan(Params *params, bool grads) {
    Params real = *params;
    params->weights = PLAN_POINTER;
    params->grads = grads ? PLAN_POINTER : NULL;
    return real;
}
