// conv2d.cu's kernels for dweight.
#pragma once
#include "kernels/conv2d_pixels.cuh"

struct WeightProduct {
    Conv2d conv;
    const floatX *dout, *inp; // (pixels, OC), (B, H, W, C)
    int OC, C;                // stored channels: multiples of VEC
    int pixels, N;            // N = K K C columns
    Divisor out_W, out_H;
    int splits;
    float *dweight, *partial; // partial (splits, conv.OC, N); NULL: dweight = product + beta dweight
    float beta;
};

// A transposed: rows = output pixels, columns = output channels.
template <class T> struct OutputChannels {
    static constexpr int P = T::BM / VEC;
    const floatX *dout;
    int first, OC, pixels, pixel;

    __device__ OutputChannels(const WeightProduct &p, int first_row, int first_step)
        : dout(p.dout), first(first_row), OC(p.OC), pixels(p.pixels), pixel(first_step * T::BK) {}

    __device__ void load(floatX *tile, bool more) {
        for_my_vectors<T, T::BK * P>([&](int, int v, auto exists) {
            const int row = v / P, m = first + v % P * VEC;
            const bool inside = (pixel + row < pixels) & (m < OC) & more;
            copy_vector(tile + swizzle<P>(row, v % P), dout + (size_t)(pixel + row) * OC + m, inside, exists);
        });
        pixel += T::BK;
    }
};

// B transposed: rows = output pixels, columns = (tap, channel) of the input. A thread's column stays the same.
template <class T> struct InputPatches {
    static constexpr int P = T::BN / VEC;
    static_assert(T::threads % P == 0, "a thread copies one column");
    const floatX *inp;
    int C, H, W, stride, pixels, pixel;
    Divisor out_W, out_H;
    int tap_y, tap_x; // relative to the output pixel times the stride
    bool inside;

    __device__ InputPatches(const WeightProduct &p, int first_column, int first_step)
        : C(p.C), H(p.conv.H), W(p.conv.W), stride(p.conv.stride), pixels(p.pixels), pixel(first_step * T::BK),
          out_W(p.out_W), out_H(p.out_H) {
        const int n = first_column + threadIdx.x % P * VEC, tap = n / C;
        tap_y = tap / p.conv.K - p.conv.pad_before, tap_x = tap % p.conv.K - p.conv.pad_before;
        inp = p.inp + n % C;
        inside = n < p.N;
    }

    __device__ void load(floatX *tile, bool more) {
        for_my_vectors<T, T::BK * P>([&](int, int v, auto exists) {
            const int at = pixel + v / P, line = divide(at, out_W), b = divide(line, out_H);
            const int x = (at - line * (int)out_W.d) * stride + tap_x, y = (line - b * (int)out_H.d) * stride + tap_y;
            const bool in = inside & more & (at < pixels) & ((unsigned)y < (unsigned)H) & ((unsigned)x < (unsigned)W);
            copy_vector(tile + swizzle<P>(v / P, v % P), inp + (ptrdiff_t)((b * H + y) * W + x) * C, in, exists);
        });
        pixel += T::BK;
    }
};

// Where a block's elements go (emit_result).
struct WeightEpilogue {
    typedef float4 Ahead; // of dweight, if it is added to
    static constexpr bool always_fours = true;
    const WeightProduct &p;
    int m0, n0, split;

    __device__ bool inside(int row, int column) const { return m0 + row < p.conv.OC && n0 + column < p.N; }
    __device__ size_t at(int row, int column) const { return (size_t)(m0 + row) * p.N + n0 + column; }
    __device__ Ahead load(int row, int column) const {
        const bool read = !p.partial && p.beta != 0 && inside(row, column);
        return read ? *(const float4 *)(p.dweight + at(row, column)) : make_float4(0, 0, 0, 0);
    }
    __device__ void store(const Ahead &old, int row, int column, const float (&x)[4]) const {
        if (!inside(row, column)) { return; }
        if (p.partial) {
            store_words(p.partial + (size_t)split * p.conv.OC * p.N + at(row, column), x);
            return;
        }
        float sum[4] = {x[0], x[1], x[2], x[3]};
        if (p.beta != 0) {
            sum[0] += p.beta * old.x, sum[1] += p.beta * old.y, sum[2] += p.beta * old.z, sum[3] += p.beta * old.w;
        }
        store_words(p.dweight + at(row, column), sum);
    }
};

template <class T> static __global__ void __launch_bounds__(T::threads, T::blocks) conv_weights(WeightProduct p) {
    const int split = blockIdx.z, m0 = blockIdx.y * T::BM, n0 = blockIdx.x * T::BN, steps = ceil_div(p.pixels, T::BK);
    const int first = (int)((long long)steps * split / p.splits);
    const int last = (int)((long long)steps * (split + 1) / p.splits);
    OutputChannels<T> a(p, m0, first);
    InputPatches<T> b(p, n0, first);
    float acc[T::rows][T::columns];
    multiply_tiles<T, true, true>(acc, a, b, last - first);
    emit_result<T, true>(acc, WeightEpilogue{p, m0, n0, split});
}

// dweight (rows, C) = sum over splits of partial (splits, rows, stored)[..., :C] + beta dweight.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    sum_weights(float *dweight, const float *partial, int splits, int rows, int C, int stored, float beta) {
    const size_t i = first_element(V), row = i / C, at = row * stored + i % C;
    if (row >= (size_t)rows) { return; }
    float sum[V] = {}, x[V];
    for (int s = 0; s < splits; s++) {
        load_words(x, partial + (size_t)s * rows * stored + at);
#pragma unroll
        for (int j = 0; j < V; j++) { sum[j] += x[j]; }
    }
    if (beta != 0) {
        load_words(x, dweight + i);
#pragma unroll
        for (int j = 0; j < V; j++) { sum[j] += beta * x[j]; }
    }
    store_words(dweight + i, sum);
}
