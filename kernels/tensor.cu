// Data movement and element-wise sums.
#include "kernels/elementwise.cuh"

// to (N, to_stride)[:, :C] = from (N, from_stride)[:, :C].
template <int V>
static __global__ void __launch_bounds__(THREADS)
    copy_columns(floatX *to, int to_stride, const floatX *from, int from_stride, int N, int C) {
    const size_t i = first_element(V), row = i / C, c = i % C;
    if (row < (size_t)N) { copy_words<V>(to + row * to_stride + c, from + row * from_stride + c); }
}

static void copy(floatX *to, int to_stride, const floatX *from, int from_stride, int N, int C, bool vectors,
                 Device *dev) {
    const size_t n = (size_t)N * C;
    if (!to || n == 0) { return; }
    launch_one_of<copy_columns<VEC>, copy_columns<1>>(vectors, dev, blocks_for(n, vectors ? VEC : 1), THREADS, 0, to,
                                                      to_stride, from, from_stride, N, C);
}

void concat_forward(floatX *out, const floatX *a, const floatX *b, int N, int CA, int CB, Device *dev) {
    const int C = CA + CB;
    const bool vectors = CA % VEC == 0 && CB % VEC == 0;
    if (!device_launch(dev, "concat_forward", concat_forward_cost(N, CA, CB))) { return; }
    copy(out, C, a, CA, N, CA, vectors, dev);
    copy(out + CA, C, b, CB, N, CB, vectors, dev);
}

void concat_backward(floatX *da, floatX *db, const floatX *dout, int N, int CA, int CB, Device *dev) {
    const int C = CA + CB;
    const bool vectors = CA % VEC == 0 && CB % VEC == 0;
    if (!device_launch(dev, "concat_backward", concat_backward_cost(da, db, N, CA, CB))) { return; }
    copy(da, CA, dout, C, N, CA, vectors, dev);
    copy(db, CB, dout + CA, C, N, CB, vectors, dev);
}

static __global__ void __launch_bounds__(THREADS) add(floatX *out, const floatX *a, const floatX *b, size_t n) {
    const size_t i = first_element(VEC);
    if (i >= n) { return; }
    float x[VEC], y[VEC];
    load_part(x, a + i, n - i);
    load_part(y, b + i, n - i);
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] += y[j]; }
    store_part(out + i, x, n - i);
}

void add_forward(floatX *out, const floatX *a, const floatX *b, size_t n, Device *dev) {
    if (!device_launch(dev, "add_forward", add_forward_cost(n)) || n == 0) { return; }
    launch<add>(dev, blocks_for(n, VEC), THREADS, 0, out, a, b, n);
}

static __global__ void __launch_bounds__(THREADS)
    scale_shift(floatX *out, const floatX *inp, float scale, float shift, size_t n) {
    const size_t i = first_element(VEC);
    if (i >= n) { return; }
    float x[VEC];
    load_part(x, inp + i, n - i);
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] = scale * x[j] + shift; }
    store_part(out + i, x, n - i);
}

void scale_shift_forward(floatX *out, const floatX *inp, float scale, float shift, size_t n, Device *dev) {
    if (!device_launch(dev, "scale_shift_forward", scale_shift_forward_cost(n)) || n == 0) { return; }
    launch<scale_shift>(dev, blocks_for(n, VEC), THREADS, 0, out, inp, scale, shift, n);
}

static __global__ void __launch_bounds__(THREADS)
    add_scaled_kernel(float *out, const float *inp, float scale, size_t n) {
    const size_t i = first_element(4);
    if (i >= n) { return; }
    float x[4], y[4];
    load_part(x, out + i, n - i);
    load_part(y, inp + i, n - i);
#pragma unroll
    for (int j = 0; j < 4; j++) { x[j] += scale * y[j]; }
    store_part(out + i, x, n - i);
}

void add_scaled(float *out, const float *inp, float scale, size_t n, Device *dev) {
    if (!device_launch(dev, "add_scaled", add_scaled_cost(n)) || n == 0) { return; }
    launch<add_scaled_kernel>(dev, blocks_for(n, 4), THREADS, 0, out, inp, scale, n);
}

template <class To, class From>
static __global__ void __launch_bounds__(THREADS) cast(To *out, const From *inp, size_t n) {
    const size_t span = first_of_span();
    if (span_exists(span, n)) {
        float x[VEC];
        load_quads(x, inp + span);
        store_quads(out + span, x);
    } else {
        for (size_t i = span + lane_of(); i < n; i += 32) { out[i] = from_float<To>(to_float(inp[i])); }
    }
}

void cast_to_floatX(floatX *out, const float *inp, size_t n, Device *dev) {
    const bool same = (const void *)out == (const void *)inp;
    if (!device_launch(dev, "cast_to_floatX", cast_to_floatX_cost(out, inp, n)) || same || n == 0) { return; }
    launch<cast<floatX, float>>(dev, blocks_for(n, VEC), THREADS, 0, out, inp, n);
}

void cast_to_float(float *out, const floatX *inp, size_t n, Device *dev) {
    const bool same = (const void *)out == (const void *)inp;
    if (!device_launch(dev, "cast_to_float", cast_to_float_cost(out, inp, n)) || same || n == 0) { return; }
    launch<cast<float, floatX>>(dev, blocks_for(n, VEC), THREADS, 0, out, inp, n);
}
