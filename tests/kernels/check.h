// Helpers of the kernel tests, for every backend and precision: tensors live on the device as floatX (or float) and on
// the host as the double values that the device holds, so that a float64 reference starts from the same rounded inputs.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "kernels/kernels.h"
#include "kernels/reference.h"
#include "util/error.h"
#include "util/philox.h"

#ifdef PRECISION_bf16
#define TOLERANCE_FORWARD 1e-2
#define TOLERANCE_BACKWARD 1e-2
#else
#define TOLERANCE_FORWARD 1e-5
#define TOLERANCE_BACKWARD 1e-4
#endif

static Device check_dev;

// A tensor of n elements. x: floatX or NULL; f: float or NULL; host: the values before the kernel under test runs.
typedef struct {
    size_t n;
    floatX *x;
    float *f;
    double *host;
} Tensor;

static inline void upload_floats(float *to, const float *from, size_t n) {
    float *pinned = device_alloc_pinned(&check_dev, n * sizeof *pinned);
    memcpy(pinned, from, n * sizeof *pinned);
    device_copy(&check_dev, to, pinned, n * sizeof *pinned, false);
    device_sync(&check_dev);
    device_free_pinned(&check_dev, pinned);
}

static inline void download_floats(float *to, const float *from, size_t n) {
    float *pinned = device_alloc_pinned(&check_dev, n * sizeof *pinned);
    device_copy(&check_dev, pinned, from, n * sizeof *pinned, false);
    device_sync(&check_dev);
    memcpy(to, pinned, n * sizeof *pinned);
    device_free_pinned(&check_dev, pinned);
}

// CHECK_BITS=FILE: appends a hash of the values, so that equal files mean equal bits (bench/gpu_check.sh).
static inline void record_bits(const float *values, size_t n) {
    const char *name = getenv("CHECK_BITS");
    FILE *file = name ? fopen(name, "a") : NULL;
    if (!file) { return; }
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (size_t i = 0; i < n * sizeof *values; i++) { hash = (hash ^ ((const uint8_t *)values)[i]) * 1099511628211u; }
    fprintf(file, "%zu %016llx\n", n, (unsigned long long)hash);
    fclose(file);
}

// The device's values as doubles, to be freed.
static inline double *tensor_values(const Tensor *t) {
    float *values = xmalloc(t->n * sizeof *values), *wide = t->f;
    if (t->x) {
        wide = device_alloc(&check_dev, t->n * sizeof *wide);
        cast_to_float(wide, t->x, t->n, &check_dev);
    }
    download_floats(values, wide, t->n);
    record_bits(values, t->n);
    if (t->x) { device_free(&check_dev, wide); }
    double *out = xmalloc(t->n * sizeof *out);
    for (size_t i = 0; i < t->n; i++) { out[i] = values[i]; }
    free(values);
    return out;
}

// Gives the device these values (rounded to its type) and keeps the rounded ones.
static inline void tensor_set(Tensor *t, const float *values) {
    if (t->x) {
        float *wide = device_alloc(&check_dev, t->n * sizeof *wide);
        upload_floats(wide, values, t->n);
        cast_to_floatX(t->x, wide, t->n, &check_dev);
        device_sync(&check_dev);
        device_free(&check_dev, wide);
    } else {
        upload_floats(t->f, values, t->n);
    }
    free(t->host);
    t->host = tensor_values(t);
}

static inline Tensor tensor_new(size_t n, bool is_float) {
    Tensor t = {.n = n};
    if (is_float) {
        t.f = device_alloc(&check_dev, n * sizeof *t.f);
    } else {
        t.x = device_alloc(&check_dev, n * sizeof *t.x);
    }
    return t;
}

// Normal numbers times scale; an id makes tensors differ.
static inline Tensor tensor_random(size_t n, double scale, uint32_t id, bool is_float) {
    Tensor t = tensor_new(n, is_float);
    Random random = random_begin(1234, PHILOX_INIT, id, 0);
    float *values = xmalloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) { values[i] = (float)(scale * random_normal(&random)); }
    tensor_set(&t, values);
    free(values);
    return t;
}

// Whole numbers in [-range, range]: products and sums of small ones are exact.
static inline Tensor tensor_integers(size_t n, int range, uint32_t id, bool is_float) {
    Tensor t = tensor_new(n, is_float);
    Random random = random_begin(4321, PHILOX_INIT, id, 0);
    float *values = xmalloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) { values[i] = (float)((int)random_below(&random, 2 * range + 1) - range); }
    tensor_set(&t, values);
    free(values);
    return t;
}

// An output: full of NaN, so that an element that is not written shows.
static inline Tensor tensor_poisoned(size_t n, bool is_float) {
    Tensor t = tensor_new(n, is_float);
    device_fill(&check_dev, t.x ? (void *)t.x : (void *)t.f, 0xff, n * (t.x ? sizeof *t.x : sizeof *t.f));
    return t;
}

// Another tensor with the same values, for kernels that work in place.
static inline Tensor tensor_copy(const Tensor *from) {
    Tensor t = tensor_new(from->n, from->f != NULL);
    device_copy(&check_dev, t.x ? (void *)t.x : (void *)t.f, from->x ? (void *)from->x : (void *)from->f,
                t.n * (t.x ? sizeof *t.x : sizeof *t.f), false);
    t.host = tensor_values(&t);
    return t;
}

// A tensor with these values.
static inline Tensor tensor_of(const float *values, size_t n, bool is_float) {
    Tensor t = tensor_new(n, is_float);
    tensor_set(&t, values);
    return t;
}

static inline void tensor_free(Tensor *t) {
    device_free(&check_dev, t->x ? (void *)t->x : (void *)t->f);
    free(t->host);
    *t = (Tensor){0};
}

// ||values - reference|| / ||reference|| must be finite and at most the tolerance.
static inline void check_values(const char *name, const double *values, const double *reference, size_t n,
                                double tolerance) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += (values[i] - reference[i]) * (values[i] - reference[i]);
        norm += reference[i] * reference[i];
    }
    double error = sqrt(difference) / (norm > 0 ? sqrt(norm) : 1);
    printf("    %-12s %8zu elements, relative error %.2e (at most %.0e)\n", name, n, error, tolerance);
    assert_true(error <= tolerance); // false for NaN
}

static inline void check_tensor(const char *name, const Tensor *t, const double *reference, double tolerance) {
    double *values = tensor_values(t);
    check_values(name, values, reference, t->n, tolerance);
    free(values);
}

// As check_tensor, and frees both.
static inline void check_and_free(const char *name, Tensor *t, double *reference, double tolerance) {
    check_tensor(name, t, reference, tolerance);
    tensor_free(t);
    free(reference);
}

// Bit for bit the same values.
static inline void check_equal(const char *name, const Tensor *a, const Tensor *b) {
    double *va = tensor_values(a), *vb = tensor_values(b);
    size_t differ = 0;
    for (size_t i = 0; i < a->n; i++) { differ += !(va[i] == vb[i]); }
    printf("    %-12s %8zu elements, %zu differ\n", name, a->n, differ);
    assert_int_equal(differ, 0);
    free(va);
    free(vb);
}

// Results must not depend on the number of threads of the CPU backend.
static inline void check_threads(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    (void)threads;
}

static inline double *doubles(size_t n) { return xcalloc(n ? n : 1, sizeof(double)); }

// What a function of reference.c finds where a kernel finds t: the same values, or NaN for an output.
static inline double *found_in(const Tensor *t) {
    double *values = doubles(t->n);
    for (size_t i = 0; i < t->n; i++) { values[i] = t->host ? t->host[i] : NAN; }
    return values;
}

static inline int check_open(void **state) {
    (void)state;
    device_open(&check_dev, 0);
    return 0;
}

static inline int check_close(void **state) {
    (void)state;
    device_close(&check_dev);
    return 0;
}
