#include "model/mapped.h"
#include "util/error.h"
#include "util/finite.h"
#include <stdlib.h>

struct MappedWeights {
    Safetensors file;
    const Tensor **tensors; // of each slice
    const float **used;     // of each slice that begins a group: its values after their first use, else NULL
    float **copies;         // those that are not in the file
    int count;
    Device *dev;
};

MappedWeights *mapped_open(Safetensors file, const Tensor **tensors, int count, Device *dev) {
    MappedWeights *m = xcalloc(1, sizeof *m);
    *m = (MappedWeights){.file = file, .tensors = tensors, .count = count, .dev = dev};
    m->used = xcalloc((size_t)count, sizeof *m->used);
    m->copies = xcalloc((size_t)count, sizeof *m->copies);
    float none;
    for (int i = 0; i < count; i++) { tensor_to_float(tensors[i], 0, 0, &none); }
    return m;
}

void mapped_close(MappedWeights *m) {
    for (int i = 0; i < m->count; i++) { device_free(m->dev, m->copies[i]); }
    safetensors_close(&m->file);
    free(m->tensors);
    free(m->used);
    free(m->copies);
    free(m);
}

// The slice that begins at `offset`; slices are in the order of their offsets.
static int slice_index(const Params *params, size_t offset) {
    int low = 0, high = params->count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (params->slices[middle].offset < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int group_end(const Params *params, int first) {
    int end = first + 1;
    while (end < params->count && params->slices[end].packed) { end++; }
    return end;
}

// F32 at aligned addresses, one directly after the other.
static bool is_in_place(const Tensor *const *tensors, int count) {
    for (int i = 0; i < count; i++) {
        if (tensors[i]->dtype != DTYPE_F32 || (uintptr_t)tensors[i]->data % sizeof(float) != 0) { return false; }
        if (i > 0 && tensors[i]->data != (const float *)tensors[i - 1]->data + tensors[i - 1]->count) { return false; }
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
    int first = slice_index(params, offset), end = group_end(params, first);
    if (!m->used[first]) {
        size_t total = params->slices[end - 1].offset + params->slices[end - 1].count - offset;
        bool in_place = is_in_place(m->tensors + first, end - first);
        if (!in_place) { m->copies[first] = device_alloc(m->dev, total * sizeof(float)); }
        for (int i = first; i < end; i++) {
            float *copy = in_place ? NULL : m->copies[first] + (params->slices[i].offset - offset);
            read_values(m->tensors[i], 0, m->tensors[i]->count, copy);
        }
        m->used[first] = in_place ? m->tensors[first]->data : m->copies[first];
    }
    return (const floatX *)m->used[first];
}

const floatX *mapped_rows(const Params *params, size_t offset, const int *rows, int n, int C) {
    MappedWeights *m = params->mapped;
    int i = slice_index(params, offset);
    const Tensor *tensor = m->tensors[i];
    bool in_place = is_in_place(&tensor, 1);
    if (!in_place && !m->copies[i]) { m->copies[i] = device_alloc(m->dev, (size_t)tensor->count * sizeof(float)); }
    for (int k = 0; k < n; k++) {
        int64_t at = (int64_t)rows[k] * C;
        read_values(tensor, at, C, in_place ? NULL : m->copies[i] + at);
    }
    return (const floatX *)(in_place ? tensor->data : m->copies[i]);
}
