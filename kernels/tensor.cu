// Data movement and element-wise sums.
#include "kernels/cuda_common.cuh"

enum { THREADS = 256 };

// Blocks for n elements, V per thread; the last thread takes what is left one by one.
static unsigned blocks_for(size_t n, int V) { return (unsigned)ceil_div(ceil_div(n, (size_t)V), (size_t)THREADS); }

__device__ static size_t first_element(int V) { return ((size_t)blockIdx.x * THREADS + threadIdx.x) * V; }

static __global__ void __launch_bounds__(THREADS) add(floatX *out, const floatX *a, const floatX *b, size_t n) {
    const size_t i = first_element(VEC);
    if (i + VEC <= n) {
        float x[VEC], y[VEC];
        load(x, a + i);
        load(y, b + i);
#pragma unroll
        for (int j = 0; j < VEC; j++) { x[j] += y[j]; }
        store(out + i, x);
    } else {
        for (size_t j = i; j < n; j++) { out[j] = to_floatX(to_float(a[j]) + to_float(b[j])); }
    }
}

void add_forward(floatX *out, const floatX *a, const floatX *b, size_t n, Device *dev) {
    if (!device_launch(dev, "add_forward", 3.0 * n * sizeof(floatX), n) || n == 0) { return; }
    launch<add>(dev, blocks_for(n, VEC), THREADS, 0, out, a, b, n);
}

static __global__ void __launch_bounds__(THREADS) to_floatX_kernel(floatX *out, const float *inp, size_t n) {
    const size_t i = first_element(4);
    if (i + 4 <= n) {
        float x[4];
        load_words(x, inp + i);
        store(out + i, x);
    } else {
        for (size_t j = i; j < n; j++) { out[j] = to_floatX(inp[j]); }
    }
}

static __global__ void __launch_bounds__(THREADS) to_float_kernel(float *out, const floatX *inp, size_t n) {
    const size_t i = first_element(4);
    if (i + 4 <= n) {
        float x[4];
        load(x, inp + i);
        store_words(out + i, x);
    } else {
        for (size_t j = i; j < n; j++) { out[j] = to_float(inp[j]); }
    }
}

void cast_to_floatX(floatX *out, const float *inp, size_t n, Device *dev) {
    const bool same = (const void *)out == (const void *)inp;
    const double bytes = same ? 0 : (sizeof(floatX) + sizeof(float)) * (double)n;
    if (!device_launch(dev, "cast_to_floatX", bytes, 0) || same || n == 0) { return; }
    launch<to_floatX_kernel>(dev, blocks_for(n, 4), THREADS, 0, out, inp, n);
}

void cast_to_float(float *out, const floatX *inp, size_t n, Device *dev) {
    const bool same = (const void *)out == (const void *)inp;
    const double bytes = same ? 0 : (sizeof(floatX) + sizeof(float)) * (double)n;
    if (!device_launch(dev, "cast_to_float", bytes, 0) || same || n == 0) { return; }
    launch<to_float_kernel>(dev, blocks_for(n, 4), THREADS, 0, out, inp, n);
}
