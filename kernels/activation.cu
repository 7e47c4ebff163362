// Activations: SiLU (Elfwing et al. 2017), GELU (Hendrycks & Gimpel 2016, the erf form) and its sigmoid approximation,
// GEGLU (Shazeer 2020).
#include "kernels/elementwise.cuh"
#include "kernels/vecmath.h"

enum Activation { SILU, GELU, QUICK_GELU };

// Phi(x) as in kernels/vecmath.h, but with the GPU's exponential: about 30 instructions, so that GEGLU remains bound by
// memory. A NaN becomes a number here; the activations multiply by x, which restores it.
__device__ static float normal_cdf(float x, float *density) {
    const float a = fminf(fabsf(x), 12.9f), e = __expf(-0.5f * a * a);
    const float tail = e * normal_tail(__fdividef(1.0f, 1.0f + 0.35f * a));
    *density = 0.398942280f * e;
    return x < 0 ? tail : 1.0f - tail;
}

template <Activation A> __device__ static float activation(float x) {
    if (A != GELU) { return x * sigmoid(A == SILU ? x : 1.702f * x); }
    float density;
    return x * normal_cdf(x, &density);
}

template <Activation A> __device__ static float activation_slope(float x) {
    if (A != GELU) { return silu_slope(A == SILU ? x : 1.702f * x); }
    float density;
    const float cdf = normal_cdf(x, &density);
    return cdf + x * density;
}

template <Activation A>
static __global__ void __launch_bounds__(THREADS) activate(floatX *out, const floatX *inp, size_t n) {
    const size_t i = first_element(VEC);
    if (i >= n) { return; }
    float x[VEC];
    load_part(x, inp + i, n - i);
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] = activation<A>(x[j]); }
    store_part(out + i, x, n - i);
}

template <Activation A>
static __global__ void __launch_bounds__(THREADS)
    activate_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n) {
    const size_t i = first_element(VEC);
    if (i >= n) { return; }
    float x[VEC], dy[VEC];
    load_part(x, inp + i, n - i);
    load_part(dy, dout + i, n - i);
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] = dy[j] * activation_slope<A>(x[j]); }
    store_part(dinp + i, x, n - i);
}

template <Activation A> static void forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (n == 0) { return; }
    launch<activate<A>>(dev, blocks_for(n, VEC), THREADS, 0, out, inp, n);
}

template <Activation A>
static void backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (n == 0) { return; }
    launch<activate_backward<A>>(dev, blocks_for(n, VEC), THREADS, 0, dinp, dout, inp, n);
}

void silu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "silu_forward", silu_forward_cost(n))) { forward<SILU>(out, inp, n, dev); }
}

void silu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "silu_backward", silu_backward_cost(n))) { backward<SILU>(dinp, dout, inp, n, dev); }
}

void gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "gelu_forward", gelu_forward_cost(n))) { forward<GELU>(out, inp, n, dev); }
}

void gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "gelu_backward", gelu_backward_cost(n))) { backward<GELU>(dinp, dout, inp, n, dev); }
}

void quick_gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "quick_gelu_forward", quick_gelu_forward_cost(n))) { forward<QUICK_GELU>(out, inp, n, dev); }
}

void quick_gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev) {
    if (device_launch(dev, "quick_gelu_backward", quick_gelu_backward_cost(n))) {
        backward<QUICK_GELU>(dinp, dout, inp, n, dev);
    }
}

// The offset in (N, 2H) of the value of output element i of (N, H); its gate is H elements further. 32-bit division,
// since there are fewer than 2^32 vectors.
template <int V> __device__ static size_t value_of(unsigned vector, int H) {
    const unsigned per_row = (unsigned)H / V, row = vector / per_row;
    return (size_t)row * 2 * H + (vector - row * per_row) * V;
}

template <int V>
static __global__ void __launch_bounds__(THREADS) geglu(floatX *out, const floatX *inp, unsigned vectors, int H) {
    const unsigned vector = blockIdx.x * THREADS + threadIdx.x;
    if (vector >= vectors) { return; }
    const size_t i = value_of<V>(vector, H);
    float value[V], gate[V];
    load(value, inp + i);
    load(gate, inp + i + H);
#pragma unroll
    for (int j = 0; j < V; j++) { value[j] *= activation<GELU>(gate[j]); }
    store(out + (size_t)vector * V, value);
}

// dinp may be inp, and out may be dout: all words are read before one is written, and no other thread reads them.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    geglu_gradient(floatX *dinp, floatX *out, const floatX *dout, const floatX *inp, unsigned vectors, int H) {
    const unsigned vector = blockIdx.x * THREADS + threadIdx.x;
    if (vector >= vectors) { return; }
    const size_t i = value_of<V>(vector, H);
    float value[V], gate[V], dy[V], y[V];
    load(value, inp + i);
    load(gate, inp + i + H);
    load(dy, dout + (size_t)vector * V);
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float x = value[j], g = gate[j];
        float density;
        const float cdf = normal_cdf(g, &density);
        y[j] = x * (g * cdf);
        value[j] = dy[j] * (g * cdf);
        gate[j] = dy[j] * x * (cdf + g * density);
    }
    store(dinp + i, value);
    store(dinp + i + H, gate);
    if (out) { store(out + (size_t)vector * V, y); }
}

void geglu_forward(floatX *out, const floatX *inp, int N, int H, Device *dev) {
    const size_t n = (size_t)N * H;
    if (!device_launch(dev, "geglu_forward", geglu_forward_cost(N, H)) || n == 0) { return; }
    const int V = H % VEC ? 1 : VEC;
    launch_one_of<geglu<1>, geglu<VEC>>(V == 1, dev, blocks_for(n, V), THREADS, 0, out, inp, (unsigned)(n / V), H);
}

void geglu_backward(floatX *dinp, floatX *out, const floatX *dout, const floatX *inp, int N, int H, Device *dev) {
    const size_t n = (size_t)N * H;
    if (!device_launch(dev, "geglu_backward", geglu_backward_cost(out, N, H)) || n == 0) { return; }
    const int V = H % VEC ? 1 : VEC;
    launch_one_of<geglu_gradient<1>, geglu_gradient<VEC>>(V == 1, dev, blocks_for(n, V), THREADS, 0, dinp, out, dout,
                                                          inp, (unsigned)(n / V), H);
}
