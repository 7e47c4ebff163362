// conv2d.cu's kernels for out and dinp.
#pragma once
#include "kernels/conv2d_tiles.cuh"
#include "kernels/elementwise.cuh"
#include <type_traits>

// n / d for 0 <= n < 2^31 by a multiplication (Granlund & Montgomery 1994). d is 0 only for a phase without pixels.
struct Divisor {
    unsigned d, magic, shift;
};
static Divisor divisor(int d) {
    if (d == 0) { return {0, 0, 0}; }
    unsigned shift = 0;
    while (1u << shift < (unsigned)d) { shift++; }
    return {(unsigned)d, (unsigned)(((1ull << 32) * ((1ull << shift) - d)) / d + 1), shift};
}
__device__ static inline int divide(int n, Divisor by) { return (int)((__umulhi(n, by.magic) + n) >> by.shift); }

struct PixelProduct {
    Conv2d conv;
    const floatX *source, *weight; // source (B, H, W, C), weight (OC, K, K, weight_C)
    int H, W, C, weight_C;         // stored channels: multiples of VEC
    int out_H, out_W, N;           // of the result (B, out_H, out_W, N)
    int splits;
    Divisor phase_H[2], phase_W[2]; // of the result, by phase; where there is one phase, [0]
};

// Where the product goes: out = product + bias + sample_bias + residual, or partial (splits, elements).
struct PixelResult {
    floatX *out;
    float *partial; // NULL: not split
    const floatX *bias, *sample_bias, *residual;
    Divisor N, sample_pixels;
    int sample_stride;
    size_t elements;
    bool fours; // N and the rows of sample_bias allow accesses of 4 elements
};

// The pixels y phase_step + phase_y of the result, and the taps that reach them: pixel (y, x) of the phase reads the
// source at (y step + y0 + ty, x step + x0 + tx) (for dinp: - ty and - tx), with the weights of tap (first_y + ty
// tap_step, ...).
struct Phase {
    Divisor H, W;
    int y, x, phase_step;
    int step, y0, x0;
    int taps_y, taps_x, first_y, first_x, tap_step;
};

__device__ static inline int pixels_of(const PixelProduct &p, const Phase &s) { return p.conv.B * s.H.d * s.W.d; }

template <bool GRADIENT> __device__ static inline Phase phase_of(const PixelProduct &p, int index) {
    const int pad = p.conv.pad_before, stride = p.conv.stride, K = p.conv.K;
    if (!GRADIENT) {
        return {.H = p.phase_H[0],
                .W = p.phase_W[0],
                .y = 0,
                .x = 0,
                .phase_step = 1,
                .step = stride,
                .y0 = -pad,
                .x0 = -pad,
                .taps_y = K,
                .taps_x = K,
                .first_y = 0,
                .first_x = 0,
                .tap_step = 1};
    }
    // (y + pad - tap) / stride must be an integer: tap = first, first + stride, ...
    const int y = index / stride, x = index % stride, first_y = (y + pad) % stride, first_x = (x + pad) % stride;
    return {.H = p.phase_H[y],
            .W = p.phase_W[x],
            .y = y,
            .x = x,
            .phase_step = stride,
            .step = 1,
            .y0 = (y + pad - first_y) / stride,
            .x0 = (x + pad - first_x) / stride,
            .taps_y = (K - first_y + stride - 1) / stride,
            .taps_x = (K - first_x + stride - 1) / stride,
            .first_y = first_y,
            .first_x = first_x,
            .tap_step = stride};
}

// Calls copy(i, v, exists) for each vector v that this thread copies, of a tile of `vectors`; i counts from 0. There is
// no branch around a vector that does not exist, since ptxas interleaves the copies with the products only within a
// basic block.
template <class T, int vectors, class Copy> __device__ static inline void for_my_vectors(Copy copy) {
#pragma unroll
    for (int i = 0; i < (vectors + T::threads - 1) / T::threads; i++) {
        const int v = threadIdx.x + i * T::threads;
        if constexpr (vectors % T::threads == 0) {
            copy(i, v, std::true_type());
        } else {
            copy(i, v, v < vectors);
        }
    }
}
template <class Exists>
__device__ static inline void copy_vector(floatX *to, const floatX *from, bool inside, Exists exists) {
    if constexpr (std::is_same_v<Exists, bool>) {
        cp_async_16_if(exists, to, from, inside);
    } else {
        cp_async_16(to, from, inside);
    }
}

// The position in K: a tap, and a channel of `depth` per tap. For dinp the depth is padded with zeros to a multiple of
// BK, so that a step has only one tap. Has no branches, since it runs among the products.
template <class T, bool GRADIENT> struct TapChannel {
    int C, taps_x, channel;
    int tap;              // y taps_x + x; dinp, whose registers are scarce: 4 y + x
    int reciprocal, taps; // not dinp: 32 / taps_x, rounded up; whole taps of a step, 0 from BK channels on

    __device__ TapChannel(const Phase &s, int C, int depth, int k)
        : C(C), taps_x(s.taps_x), channel(k % depth), tap(k / depth),
          reciprocal(s.taps_x == 3 ? 11 : (s.taps_x == 2 ? 16 : 32)), taps(GRADIENT ? 0 : T::BK / depth) {
        if (GRADIENT) { tap += (tap * reciprocal >> 5) * (4 - taps_x); }
    }
    __device__ int y() const { return GRADIENT ? tap >> 2 : tap * reciprocal >> 5; } // tap / taps_x for tap < 32
    __device__ int x() const { return GRADIENT ? tap & 3 : tap - y() * taps_x; }
    __device__ void next() {
        if (GRADIENT) { // needs no depth: a tap ends where a step begins at C or beyond
            const int own = threadIdx.x % 4 * VEC;
            channel += T::BK;
            if (channel - own >= C) {
                tap = ((tap & 3) == taps_x - 1 ? tap | 3 : tap) + 1;
                channel = own;
            }
        } else {
            tap += taps, channel += T::BK - taps * C;
            if (channel >= C) { tap++, channel -= C; }
        }
    }
};

template <class T, bool GRADIENT> __device__ static inline int tap_depth(int C) {
    return GRADIENT ? ceil_div(C, T::BK) * T::BK : C;
}

// A by rows: pixels of the source. A thread copies the same vector of each of its rows.
template <class T, bool GRADIENT> struct SourcePixels {
    static constexpr int count = (T::BM * 4 + T::threads - 1) / T::threads;
    static constexpr int sign = GRADIENT ? -1 : 1;
    const floatX *source;
    int C, width;
    int pixel[count];               // the source pixel of tap 0, may be outside the image
    unsigned mask[(count + 1) / 2]; // 16 bits each, one per tap: its pixel is inside the image
    TapChannel<T, GRADIENT> at;     // of this thread's vector

    __device__ SourcePixels(const PixelProduct &p, const Phase &s, int first_row, int first_step)
        : source(p.source), C(p.C), width(p.W),
          at(s, p.C, tap_depth<T, GRADIENT>(p.C), first_step * T::BK + threadIdx.x % 4 * VEC) {
        const int rows = pixels_of(p, s);
#pragma unroll
        for (int i = 0; i < count; i++) {
            const int row = first_row + threadIdx.x / 4 + i * (T::threads / 4);
            const int line = divide(row, s.W), b = divide(line, s.H);
            const int x = (row - line * (int)s.W.d) * s.step + s.x0, y = (line - b * (int)s.H.d) * s.step + s.y0;
            pixel[i] = (b * p.H + y) * width + x;
            if (i % 2 == 0) { mask[i / 2] = 0; }
            for (int ty = 0; ty < s.taps_y; ty++) {
                for (int tx = 0; tx < s.taps_x; tx++) {
                    const bool inside = (unsigned)(y + sign * ty) < (unsigned)p.H &&
                                        (unsigned)(x + sign * tx) < (unsigned)width && row < rows;
                    mask[i / 2] |= (unsigned)inside << (ty * (GRADIENT ? 4 : s.taps_x) + tx + i % 2 * 16);
                }
            }
        }
    }

    __device__ void load(floatX *tile, bool more) {
        const int offset = sign * (at.y() * width + at.x());
        const unsigned bit = more && (!GRADIENT || at.channel < C) ? 1u << at.tap : 0;
        for_my_vectors<T, T::BM * 4>([&](int i, int v, auto exists) {
            const bool inside = mask[i / 2] & bit << i % 2 * 16;
            const floatX *from = source + (size_t)(pixel[i] + offset) * C + at.channel;
            copy_vector(tile + swizzle<4>(v / 4, v % 4), from, inside, exists);
        });
        at.next();
    }
};

// B by rows, for out: row n is the weights (tap, channel) of output channel n.
template <class T> struct WeightRows {
    const floatX *weight;
    int first, N, K, k;

    __device__ WeightRows(const PixelProduct &p, const Phase &s, const SourcePixels<T, false> &, int first_column,
                          int first_step)
        : weight(p.weight), first(first_column), N(p.N), K(s.taps_y * s.taps_x * p.C),
          k(first_step * T::BK + threadIdx.x % 4 * VEC) {}

    __device__ void load(floatX *tile, bool more) {
        for_my_vectors<T, T::BN * 4>([&](int, int v, auto exists) {
            const int n = first + v / 4;
            const bool inside = (n < N) & (k < K) & more;
            copy_vector(tile + swizzle<4>(v / 4, v % 4), weight + (size_t)n * K + k, inside, exists);
        });
        k += T::BK;
    }
};

// B transposed, for dinp: row (tap, output channel), columns = input channels. Uses the pixels' tap.
template <class T> struct WeightColumns {
    static constexpr int P = T::BN / VEC; // vectors of a row
    const floatX *weight;
    int first, OC, C, K, first_tap, tap_step; // C: stored channels of a weight
    const SourcePixels<T, true> &pixels;

    __device__ WeightColumns(const PixelProduct &p, const Phase &s, const SourcePixels<T, true> &pixels,
                             int first_column, int)
        : weight(p.weight), first(first_column), OC(p.conv.OC), C(p.weight_C), K(p.conv.K),
          first_tap(s.first_y * K + s.first_x), tap_step(p.conv.stride), pixels(pixels) {}

    __device__ void load(floatX *tile, bool more) {
        const int tap = first_tap + (pixels.at.y() * K + pixels.at.x()) * tap_step;
        const int channel = pixels.at.channel - threadIdx.x % 4 * VEC; // of the tile's first row
        const floatX *step = weight + (size_t)(channel * K * K + tap) * C;
        // A thread copies vectors of one row, four apart: their addresses differ by constants.
        const int row = threadIdx.x / 4 % T::BK;
        constexpr int side = T::threads / 4 / T::BK, count = (P / 4 + side - 1) / side; // threads of a row; vectors
        static_assert(side * T::BK * 4 == T::threads, "whole rows");
        const floatX *from = step + row * K * K * C + first;
#pragma unroll
        for (int i = 0; i < count; i++) {
            const int group = i * side + threadIdx.x / 4 / T::BK, v = group * 4 + threadIdx.x % 4;
            const bool inside = (channel + row < OC) & (first + v * VEC < C) & more;
            floatX *to = tile + swizzle<P>(row, v);
            if constexpr (P / 4 % side == 0) {
                cp_async_16(to, from + v * VEC, inside);
            } else {
                cp_async_16_if(group < P / 4, to, from + v * VEC, inside);
            }
        }
    }
};

// What is added to V neighbouring channels of a pixel. Loaded before the sums are at hand, many at a time.
template <int V> struct Addends { typename Word<V * sizeof(floatX)>::Type bias, sample_bias, residual; };

// BIASES false: there are none (dinp).
template <int V, bool BIASES> __device__ static inline Addends<V> load_addends(const PixelResult &r, int pixel, int n) {
    typedef typename Word<V * sizeof(floatX)>::Type W;
    auto at = [](const floatX *from) { return *reinterpret_cast<const W *>(from); };
    Addends<V> a = {};
    if (BIASES && r.bias) { a.bias = at(r.bias + n); }
    if (BIASES && r.sample_bias) {
        a.sample_bias = at(r.sample_bias + (size_t)divide(pixel, r.sample_pixels) * r.sample_stride + n);
    }
    if (r.residual) { a.residual = at(r.residual + (size_t)pixel * r.N.d + n); }
    return a;
}

// out[pixel, n ..] = product + bias + sample_bias + residual.
template <int V, bool BIASES>
__device__ static inline void finish(const PixelResult &r, const Addends<V> &a, int pixel, int n,
                                     const float (&product)[V]) {
    float x[V];
#pragma unroll
    for (int i = 0; i < V; i++) { x[i] = product[i]; }
    auto add = [&](typename Word<V * sizeof(floatX)>::Type word) {
        floatX y[V];
        memcpy(y, &word, sizeof word);
#pragma unroll
        for (int i = 0; i < V; i++) { x[i] += to_float(y[i]); }
    };
    if (BIASES && r.bias) { add(a.bias); }
    if (BIASES && r.sample_bias) { add(a.sample_bias); }
    if (r.residual) { add(a.residual); }
    store(r.out + (size_t)pixel * r.N.d + n, x);
}

// Where a block's elements go (emit_result).
template <bool GRADIENT> struct PixelEpilogue {
    typedef Addends<4> Ahead;
    static constexpr bool always_fours = false;
    const PixelResult &r;
    const Phase s;
    int out_H, out_W, m0, n0, rows;
    float *partial; // of this split

    __device__ bool fours() const { return r.fours; }
    __device__ bool inside(int row, int column) const { return m0 + row < rows && n0 + column < (int)r.N.d; }
    __device__ int pixel(int row) const {
        const int m = m0 + row;
        if (!GRADIENT || s.phase_step == 1) { return m; }
        const int line = divide(m, s.W), b = divide(line, s.H);
        const int y = (line - b * (int)s.H.d) * s.phase_step + s.y;
        return (b * out_H + y) * out_W + (m - line * (int)s.W.d) * s.phase_step + s.x;
    }
    // Rows and columns beyond the result load those at its end: no branch around the loads.
    __device__ Ahead load(int row, int column) const {
        if (partial) { return Ahead(); }
        return load_addends<4, !GRADIENT>(r, pixel(min(row, rows - 1 - m0)), min(n0 + column, (int)r.N.d - 4));
    }
    __device__ void store(const Ahead &ahead, int row, int column, const float (&x)[4]) const {
        if (!inside(row, column)) { return; }
        if (partial) {
            store_words(partial + (size_t)pixel(row) * r.N.d + n0 + column, x);
        } else {
            finish<4, !GRADIENT>(r, ahead, pixel(row), n0 + column, x);
        }
    }
    __device__ void store_one(int row, int column, float x) const {
        if (!inside(row, column)) { return; }
        const int at = pixel(row), n = n0 + column;
        const float one[1] = {x};
        if (partial) {
            partial[(size_t)at * r.N.d + n] = x;
        } else {
            finish<1, !GRADIENT>(r, load_addends<1, !GRADIENT>(r, at, n), at, n, one);
        }
    }
};

template <class T, bool GRADIENT>
static __global__ void __launch_bounds__(T::threads, T::blocks) conv_pixels(PixelProduct p, PixelResult result) {
    const int m0 = blockIdx.x * T::BM, n0 = blockIdx.y * T::BN;
    // In shared memory, since the products use all registers.
    __shared__ Phase s;
    __shared__ int split;
    static_assert(sizeof s + sizeof split <= STATIC_SHARED, "both lie before the tiles");
    if (threadIdx.x == 0) { s = phase_of<GRADIENT>(p, blockIdx.z / p.splits), split = blockIdx.z % p.splits; }
    __syncthreads();
    const int K = s.taps_y * s.taps_x * tap_depth<T, GRADIENT>(p.C);
    const int steps = ceil_div(K, T::BK);
    if (m0 >= pixels_of(p, s)) { return; }
    const int first = (int)((long long)steps * split / p.splits);
    const int last = (int)((long long)steps * (split + 1) / p.splits);
    SourcePixels<T, GRADIENT> a(p, s, m0, first);
    std::conditional_t<GRADIENT, WeightColumns<T>, WeightRows<T>> b(p, s, a, n0, first);
    float acc[T::rows][T::columns];
    multiply_tiles<T, false, GRADIENT>(acc, a, b, last - first);
    emit_result<T, false>(
        acc, PixelEpilogue<GRADIENT>{.r = result,
                                     .s = s,
                                     .out_H = p.out_H,
                                     .out_W = p.out_W,
                                     .m0 = m0,
                                     .n0 = n0,
                                     .rows = pixels_of(p, s),
                                     .partial = result.partial ? result.partial + split * result.elements : NULL});
}

// The elements fit into 31 bits: only products of few blocks are split.
template <int V> static __global__ void __launch_bounds__(THREADS) sum_pixels(PixelResult result, int splits) {
    const size_t i = first_element(V);
    if (i >= result.elements) { return; }
    const int pixel = divide((int)i, result.N), n = (int)i - pixel * (int)result.N.d;
    const Addends<V> addends = load_addends<V, true>(result, pixel, n);
    float sum[V] = {}, x[V];
    for (int s = 0; s < splits; s++) {
        load_words(x, result.partial + s * result.elements + i);
#pragma unroll
        for (int j = 0; j < V; j++) { sum[j] += x[j]; }
    }
    finish<V, true>(result, addends, pixel, n, sum);
}
