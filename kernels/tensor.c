// Data movement and element-wise sums.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include <string.h>

void concat_forward(floatX *out, const floatX *a, const floatX *b, int N, int CA, int CB, Device *dev) {
    size_t n = (size_t)N * (CA + CB);
    if (!device_launch(dev, "concat_forward", concat_forward_cost(N, CA, CB))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        floatX *o = out + (size_t)row * (CA + CB);
        memcpy(o, a + (size_t)row * CA, CA * sizeof(floatX));
        memcpy(o + CA, b + (size_t)row * CB, CB * sizeof(floatX));
    }
}

void concat_backward(floatX *da, floatX *db, const floatX *dout, int N, int CA, int CB, Device *dev) {
    size_t n = (size_t)N * ((da ? CA : 0) + (db ? CB : 0));
    if (!device_launch(dev, "concat_backward", concat_backward_cost(da, db, N, CA, CB))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int row = 0; row < N; row++) {
        const floatX *d = dout + (size_t)row * (CA + CB);
        if (da) { memcpy(da + (size_t)row * CA, d, CA * sizeof(floatX)); }
        if (db) { memcpy(db + (size_t)row * CB, d + CA, CB * sizeof(floatX)); }
    }
}

void add_forward(floatX *out, const floatX *a, const floatX *b, size_t n, Device *dev) {
    if (!device_launch(dev, "add_forward", add_forward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = a[i] + b[i]; }
}

void scale_shift_forward(floatX *out, const floatX *inp, float scale, float shift, size_t n, Device *dev) {
    if (!device_launch(dev, "scale_shift_forward", scale_shift_forward_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = scale * inp[i] + shift; }
}

void add_scaled(float *out, const float *inp, float scale, size_t n, Device *dev) {
    if (!device_launch(dev, "add_scaled", add_scaled_cost(n))) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] += scale * inp[i]; }
}

static void copy_floats(float *out, const float *inp, size_t n) {
    if (out == inp) { return; }
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) { out[i] = inp[i]; }
}

void cast_to_floatX(floatX *out, const float *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "cast_to_floatX", cast_to_floatX_cost(out, inp, n))) { return; }
    copy_floats(out, inp, n);
}

void cast_to_float(float *out, const floatX *inp, size_t n, Device *dev) {
    if (!device_launch(dev, "cast_to_float", cast_to_float_cost(out, inp, n))) { return; }
    copy_floats(out, inp, n);
}
