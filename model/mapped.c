#include "model/mapped.h"
#include "util/error.h"
#include "util/finite.h"
#include <stdlib.h>

struct MappedWeights {
    Safetensors file;
    const Tensor **tensors; // of each slice
    const float **used;     // of each slice that begins a group: its values after their first use, else NULL
    float **copies;         // those that are not in the file
    int *order;             // the slices in the order of their offsets
    int count;
    Device *dev;
};

// Gathered slices lie before others that are listed before them: insertion sort, as most are in order.
static void sort_by_offset(int *order, const Params *params) {
    for (int i = 0; i < params->count; i++) {
        int at = i;
        size_t offset = params->slices[i].offset;
        for (; at > 0 && params->slices[order[at - 1]].offset > offset; at--) { order[at] = order[at - 1]; }
        order[at] = i;
    }
}

MappedWeights *mapped_open(Safetensors file, const Tensor **tensors, const Params *params, Device *dev) {
    MappedWeights *m = xcalloc(1, sizeof *m);
    size_t count = (size_t)params->count;
    *m = (MappedWeights){.file = file, .tensors = tensors, .count = params->count, .dev = dev};
    m->used = xcalloc(count, sizeof *m->used);
    m->copies = xcalloc(count, sizeof *m->copies);
    m->order = xcalloc(count, sizeof *m->order);
    sort_by_offset(m->order, params);
    float none;
    for (int i = 0; i < m->count; i++) { tensor_to_float(tensors[i], 0, 0, &none); }
    return m;
}

void mapped_close(MappedWeights *m) {
    for (int i = 0; i < m->count; i++) { device_free(m->dev, m->copies[i]); }
    safetensors_close(&m->file);
    free(m->tensors);
    free(m->used);
    free(m->copies);
    free(m->order);
    free(m);
}

// The place in `order` of the slice that begins at `offset`.
static int place_of(const Params *params, size_t offset) {
    const int *order = params->mapped->order;
    int low = 0, high = params->count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (params->slices[order[middle]].offset < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// The end, in `order`, of the group that begins at `first`.
static int group_end(const Params *params, int first) {
    const int *order = params->mapped->order;
    int end = first + 1;
    while (end < params->count && params->slices[order[end]].packed) { end++; }
    return end;
}

// Floats of a group of slices, from the first one's offset on.
static size_t group_floats(const Params *params, const int *slices, int count) {
    const ParamSlice *last = &params->slices[slices[count - 1]];
    return last->offset + last->count - params->slices[slices[0]].offset;
}

// F32 at aligned addresses, one directly after the other.
static bool is_in_place(const Tensor *const *tensors, const int *slices, int count) {
    const float *next = NULL;
    for (int i = 0; i < count; i++) {
        const Tensor *tensor = tensors[slices[i]];
        if (tensor->dtype != DTYPE_F32 || (uintptr_t)tensor->data % sizeof(float) != 0) { return false; }
        if (i > 0 && tensor->data != next) { return false; }
        next = (const float *)tensor->data + tensor->count;
    }
    return true;
}

// Checks `count` values from element `first` on, after converting them to `copy` if that is not NULL; all threads.
static void read_values(const Tensor *tensor, int64_t first, int64_t count, float *copy) {
    enum { PIECE = 1 << 18 };
    int64_t broken = count;
#pragma omp parallel for schedule(dynamic) reduction(min : broken) if (count > PIECE)
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        const float *values = (const float *)tensor->data + first + at;
        if (copy) {
            tensor_to_float(tensor, first + at, n, copy + at);
            values = copy + at;
        }
        int64_t found = (int64_t)first_not_finite(values, (size_t)n);
        if (found < n && at + found < broken) { broken = at + found; }
    }
    if (broken == count) { return; }
    float value;
    tensor_to_float(tensor, first + broken, 1, &value);
    tensor_want_finite(tensor, &value, 1);
}

const floatX *mapped_weight(const Params *params, size_t offset) {
    MappedWeights *m = params->mapped;
    int place = place_of(params, offset), first = m->order[place];
    if (m->used[first]) { return (const floatX *)m->used[first]; }
    int count = group_end(params, place) - place;
    const int *group = m->order + place;
    bool in_place = is_in_place(m->tensors, group, count);
    if (!in_place) { m->copies[first] = device_alloc(m->dev, group_floats(params, group, count) * sizeof(float)); }
    for (int i = 0; i < count; i++) {
        const Tensor *tensor = m->tensors[group[i]];
        float *copy = in_place ? NULL : m->copies[first] + (params->slices[group[i]].offset - offset);
        read_values(tensor, 0, tensor->count, copy);
        if (copy) { tensor_drop_pages(tensor, 0, tensor->count); }
    }
    m->used[first] = in_place ? m->tensors[first]->data : m->copies[first];
    return (const floatX *)m->used[first];
}

size_t mapped_pending_bytes(const Params *params) {
    const MappedWeights *m = params->mapped;
    size_t floats = 0;
    for (int place = 0, end; m && place < m->count; place = end) {
        const int *group = m->order + place;
        end = group_end(params, place);
        bool there = m->used[*group] || m->copies[*group] || is_in_place(m->tensors, group, end - place);
        if (!there) { floats += group_floats(params, group, end - place); }
    }
    return floats * sizeof(float);
}

const floatX *mapped_rows(const Params *params, size_t offset, const int *rows, int n, int C) {
    MappedWeights *m = params->mapped;
    int i = m->order[place_of(params, offset)];
    const Tensor *tensor = m->tensors[i];
    bool in_place = is_in_place(m->tensors, &i, 1);
    if (!in_place && !m->copies[i]) { m->copies[i] = device_alloc(m->dev, (size_t)tensor->count * sizeof(float)); }
    for (int k = 0; k < n; k++) {
        int64_t at = (int64_t)rows[k] * C;
        read_values(tensor, at, C, in_place ? NULL : m->copies[i] + at);
    }
    return (const floatX *)(in_place ? tensor->data : m->copies[i]);
}
