// What the tests of whole models share: random weights, tensors on the device, gradients by finite differences.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/kernels.h"
#include "model/arena.h"
#include "model/params.h"
#include "util/error.h"
#include "util/philox.h"

static inline float *random_floats(size_t n, uint64_t seed) {
    float *values = xmalloc(n * sizeof(float));
    Random random = random_begin(seed, PHILOX_INIT, 0, 0);
    for (size_t i = 0; i < n; i++) { values[i] = random_normal(&random); }
    return values;
}

static inline float *floats_to_device(Device *dev, const float *values, size_t n) {
    float *out = device_alloc(dev, n * sizeof(float));
    device_copy(dev, out, values, n * sizeof(float), false);
    return out;
}

// to (n), on the device, gets these values.
static inline void put_floats(Device *dev, floatX *to, const float *values, size_t n) {
    float *staging = floats_to_device(dev, values, n);
    cast_to_floatX(to, staging, n, dev);
    device_sync(dev);
    device_free(dev, staging);
}

static inline floatX *to_device(Device *dev, const float *values, size_t n) {
    floatX *out = device_alloc(dev, n * sizeof(floatX));
    put_floats(dev, out, values, n);
    return out;
}

static inline void from_device(Device *dev, float *values, const floatX *data, size_t n) {
    float *staging = device_alloc(dev, n * sizeof(float));
    cast_to_float(staging, data, n, dev);
    device_copy(dev, values, staging, n * sizeof(float), false);
    device_sync(dev);
    device_free(dev, staging);
}

// n poisoned elements.
static inline floatX *device_tensor(Device *dev, size_t n) {
    floatX *out = device_alloc(dev, n * sizeof(floatX));
    device_fill(dev, out, 0xff, n * sizeof(floatX));
    return out;
}

// What backward says to be final is what is there at the end: a copy of the tail is taken at each message.
typedef struct {
    float *tails[256];
    size_t first[256];
    int count;
    const Params *params;
    Device *dev;
} FinalWatch;

static inline void final_watch_call(void *data, const float *first) {
    FinalWatch *w = data;
    assert_in_range(w->count, 0, 255);
    size_t at = (size_t)(first - w->params->grads), bytes = (w->params->total - at) * sizeof(float);
    if (w->count > 0) { assert_true(at < w->first[w->count - 1]); }
    w->first[w->count] = at;
    w->tails[w->count] = xmalloc(bytes);
    device_copy(w->dev, w->tails[w->count++], first, bytes, false);
    device_sync(w->dev);
}

static inline void check_finals(FinalWatch *w, const float *grads) {
    size_t largest = 0, before = w->params->total;
    for (int i = 0; i < w->count; i++) {
        size_t at = w->first[i];
        assert_memory_equal(w->tails[i], grads + at, (w->params->total - at) * sizeof(float));
        if (before - at > largest) { largest = before - at; }
        before = at;
        free(w->tails[i]);
    }
    print_message("    %d messages of final gradients, at most %.0f%% of them in one\n", w->count,
                  100.0 * (double)largest / (double)w->params->total);
    assert_true(w->count > 4 && before == 0);
}

// Matrices with variance 1 / fan-in, norms' weights near 1, biases near 0; the padding zero. Returns the host's copy.
static inline float *random_weights(Params *params, uint64_t seed, Device *dev) {
    float *flat = xcalloc(params->total, sizeof(float));
    Random random = random_begin(seed, PHILOX_INIT, 1, 0);
    for (int i = 0; i < params->count; i++) {
        const ParamSlice *s = &params->slices[i];
        bool norm = s->ndim == 1 && strstr(s->name, ".weight");
        float scale = s->ndim == 1 ? 0.2f : sqrtf((float)s->shape[0] / (float)s->count);
        for (size_t j = 0; j < s->count; j++) { flat[s->offset + j] = (norm ? 1 : 0) + scale * random_normal(&random); }
    }
    params_upload(params, flat, dev);
    return flat;
}

static inline double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)a[i] * b[i]; }
    return sum;
}

static inline bool all_finite(const float *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) { return false; }
    }
    return true;
}

// A function of the parameters and inputs: out = forward(model), `count` values on the host.
typedef struct {
    void (*forward)(void *model, float *out);
    void *model;
    size_t count;
    Params *params;
    const float *flat, *dout; // the weights and the gradient of out, on the host
    Device *dev;
} Function;

static inline double scalar_of(const Function *f) {
    float *out = xmalloc(f->count * sizeof(float));
    f->forward(f->model, out);
    double sum = dot(out, f->dout, f->count);
    free(out);
    return sum;
}

// (f(x + e g) - f(x - e g)) / 2e for x in `values` (n, changed by `put` and restored), g of unit length.
static inline double slope(const Function *f, float *values, const float *grad, size_t n, double norm, double step,
                           void (*put)(void *, const float *), void *target) {
    float *saved = xmalloc(n * sizeof(float));
    memcpy(saved, values, n * sizeof(float));
    double sides[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) { values[i] = saved[i] + (side ? -1 : 1) * step * grad[i] / norm; }
        put(target, values);
        sides[side] = scalar_of(f);
    }
    memcpy(values, saved, n * sizeof(float));
    put(target, values);
    free(saved);
    return (sides[0] - sides[1]) / (2 * step);
}

typedef struct {
    Function *f;
    float *flat;
} FlatTarget;

static inline void put_flat(void *target, const float *values) {
    (void)values; // lies in flat already
    FlatTarget *t = target;
    params_upload(t->f->params, t->flat, t->f->dev);
}

// Slopes of a bf16 model are rounding errors: its gradients are judged by the fixtures. Emulation is slow: some slices.
static inline bool slope_is_checked(int slice) {
#if defined(PRECISION_bf16)
    (void)slice;
    return false;
#elif defined(BACKEND_emu)
    return slice % 16 == 3;
#else
    (void)slice;
    return true;
#endif
}

// Every slice's gradient: the slope along it must be its length. Slices whose gradient is a rounding error of the
// whole's (key biases have none) are compared with the whole.
static inline void check_param_gradients(Function *f, const float *grads, double step, double tolerance) {
    Params *p = f->params;
    float *flat = xmalloc(p->total * sizeof(float));
    memcpy(flat, f->flat, p->total * sizeof(float));
    double total = sqrt(dot(grads, grads, p->total)), worst = 0;
    const char *worst_name = "";
    FlatTarget target = {f, flat};
    for (int i = 0; i < p->count; i++) {
        const ParamSlice *s = &p->slices[i];
        const float *g = grads + s->offset;
        double norm = sqrt(dot(g, g, s->count));
        assert_true(all_finite(g, s->count));
        if (norm < 1e-5 * total || !slope_is_checked(i)) { continue; }
        double size = sqrt(dot(flat + s->offset, flat + s->offset, s->count));
        double got = slope(f, flat + s->offset, g, s->count, norm, step * size, put_flat, &target);
        double error = fabs(got - norm) / fmax(norm, 1e-2 * total);
        if (error > worst) { worst = error, worst_name = s->name; }
        if (error > tolerance) { print_message("%s: slope %g, gradient %g of %g\n", s->name, got, norm, total); }
    }
    print_message("    %d slices: largest deviation of a slope from its gradient %.1e (%s)\n", p->count, worst,
                  worst_name);
    assert_true(worst <= tolerance);
    free(flat);
}

static inline float *download_floats(Device *dev, const float *data, size_t n) {
    float *host = xmalloc(n * sizeof(float));
    device_copy(dev, host, data, n * sizeof(float), false);
    device_sync(dev);
    return host;
}

static inline float *download(Device *dev, const floatX *data, size_t n) {
    float *host = xmalloc(n * sizeof(float));
    from_device(dev, host, data, n);
    return host;
}

// The same for an input of n elements, whose gradient on the device is `grad`.
static inline void check_input_gradient(Function *f, const char *name, float *values, const floatX *grad, size_t n,
                                        void (*put)(void *, const float *)) {
    float *g = download(f->dev, grad, n);
    assert_true(all_finite(g, n));
    if (!slope_is_checked(3)) {
        free(g);
        return;
    }
    double norm = sqrt(dot(g, g, n)), got = slope(f, values, g, n, norm, 1e-3 * sqrt(n), put, f->model);
    print_message("    %s: slope %.6g, gradient %.6g\n", name, got, norm);
    assert_true(fabs(got - norm) <= 1e-2 * norm);
    free(g);
}

// Gradients that beta = 0 must overwrite: NaN in every slice, zero in the padding.
static inline void poison_grads(Params *params, Device *dev) {
    for (int i = 0; i < params->count; i++) {
        const ParamSlice *s = &params->slices[i];
        device_fill(dev, params->grads + s->offset, 0xff, s->count * sizeof(float));
    }
}

static inline double relative_distance(const float *a, const float *b, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) { difference += pow(a[i] - b[i], 2), norm += (double)b[i] * b[i]; }
    return sqrt(difference / norm);
}
