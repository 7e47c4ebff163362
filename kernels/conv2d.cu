// conv2d: an implicit matrix product over (tap, channel), where taps are the K x K positions of the kernel. No matrix
// of patches is stored: the loads of a tile compute the pixels' addresses, and padding becomes zeros in shared memory.
//     out and dinp:  rows = pixels, columns = channels, inner = (tap, channel)      conv_pixels
//     dweight:       rows = output channels, columns = (tap, channel), inner = pixels    conv_weights
// With stride 2, the gradient of the input is four products, one per phase (y mod 2, x mod 2) of the pixel, each with
// the taps that reach it. If there are too few tiles to fill the card, the inner dimension is split: a second kernel
// sums partial products from the workspace in a fixed order. The split depends only on the sizes, so that the bits are
// the same on every card.
//
// Channels that do not fill 16 bytes (pictures, latents) are first padded with zeros in the workspace.
#include "kernels/conv2d_choice.h"
#include "kernels/conv2d_tiles.cuh"
#include "kernels/cost.h"
#include "kernels/elementwise.cuh"
#include <algorithm>
#include <assert.h>
#include <type_traits>

// Blocks that an A100 runs at a time, two per SM: the number that a launch should come close to.
enum { SLOTS = 216 };

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

// ---- out and dinp: rows are pixels ---------------------------------------------------------------------------------

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

// ---- dweight: rows are output channels -----------------------------------------------------------------------------

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

// ---- Tiles ---------------------------------------------------------------------------------------------------------

// Widths of a tile across the channels (the other side is 128), and their costs: an SM's clocks for 16 steps of the
// inner dimension, of the tensor cores or of shared memory, whichever is slower.
struct Width {
    int channels, cost;
};
#ifdef PRECISION_bf16
static const Width WIDTHS[] = {{160, 320}, {128, 256}, {64, 144}, {32, 104}};
#else
static const Width WIDTHS[] = {{64, 64}, {32, 36}};
#endif

// The width that covers `channels` at the least cost; of two with equal cost, the wider one.
static int width_for(int channels) {
    Width best = WIDTHS[0];
    for (const Width &w : WIDTHS) {
        if (ceil_div(channels, w.channels) * w.cost < ceil_div(channels, best.channels) * best.cost) { best = w; }
    }
    return best.channels;
}

// The number of parts into which the steps of K are split so that the blocks fill a card. Writing and reading a tile of
// partial sums takes as long as 24 steps on the tensor cores, for every tile size: so a part has at least 24 steps.
static int splits_for(int blocks, int steps) {
    const int splits = min(SLOTS / blocks, steps / 24);
    return splits < 1 ? 1 : splits;
}

// The grid of blocks, for tiles of BM pixels by BN channels.
static dim3 pixel_grid(const PixelProduct &p, bool gradient, int BM, int BN) {
    const int phases = gradient ? p.conv.stride : 1;
    const int rows = p.conv.B * ceil_div(p.out_H, phases) * ceil_div(p.out_W, phases); // of the largest phase
    return dim3(ceil_div(rows, BM), ceil_div(p.N, BN), phases * phases * p.splits);
}

template <class T, bool GRADIENT>
static void launch_pixels(const PixelProduct &p, const PixelResult &result, Device *dev) {
    launch<conv_pixels<T, GRADIENT>>(dev, pixel_grid(p, GRADIENT, T::BM, T::BN), T::threads, T::shared_bytes, p,
                                     result);
}

[[maybe_unused]] static ConvCard card_of(Device *dev) {
    int shared;
    CHECK_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev->internals->index));
    return {.processors = device_processors(dev), .shared = (size_t)shared};
}

[[maybe_unused]] static int blocks_of(dim3 grid) { return (int)(grid.x * grid.y * grid.z); }

// With blocks of four warps or of eight, whichever the card prefers.
template <class FOUR, class EIGHT, bool GRADIENT>
static void launch_warps(const PixelProduct &p, const PixelResult &result, ConvCard card, Device *dev) {
    static_assert(FOUR::BM == EIGHT::BM && FOUR::BN == EIGHT::BN && FOUR::warps == 4 && EIGHT::warps == 8, "one tile");
    if (conv2d_eight_warps(FOUR::shared_bytes + STATIC_SHARED, card)) {
        launch_pixels<EIGHT, GRADIENT>(p, result, dev);
    } else {
        launch_pixels<FOUR, GRADIENT>(p, result, dev);
    }
}

template <bool GRADIENT> static void multiply_pixels(const PixelProduct &p, const PixelResult &result, Device *dev) {
    [[maybe_unused]] const ConvCard card = card_of(dev);
    switch (width_for(p.N)) {
#ifdef PRECISION_bf16
    case 160:
        if (conv2d_tall(blocks_of(pixel_grid(p, GRADIENT, 160, 160)), blocks_of(pixel_grid(p, GRADIENT, 128, 160)),
                        card)) {
            launch_pixels<ConvTile<160, 160, 2, 4>, GRADIENT>(p, result, dev);
        } else {
            launch_warps<ConvTile<128, 160, 2, 2>, ConvTile<128, 160, 4, 2>, GRADIENT>(p, result, card, dev);
        }
        break;
    case 128:
        launch_warps<ConvTile<128, 128, 2, 2>, ConvTile<128, 128, 4, 2>, GRADIENT>(p, result, card, dev);
        break;
#endif
    case 64:
        launch_pixels<ConvTile<128, 64, 2, 2>, GRADIENT>(p, result, dev);
        break;
    default:
        launch_pixels<ConvTile<128, 32, 4, 1>, GRADIENT>(p, result, dev);
    }
    if (!result.partial) { return; }
    launch_one_of<sum_pixels<4>, sum_pixels<1>>(result.fours, dev, blocks_for(result.elements, result.fours ? 4 : 1),
                                                THREADS, 0, result, p.splits);
}

template <class T> static void launch_weights(const WeightProduct &p, Device *dev) {
    launch<conv_weights<T>>(dev, dim3(ceil_div(p.N, T::BN), ceil_div(p.conv.OC, T::BM), p.splits), T::threads,
                            T::shared_bytes, p);
}

template <class FOUR, class EIGHT> static void launch_warps(const WeightProduct &p, ConvCard card, Device *dev) {
    static_assert(FOUR::BM == EIGHT::BM && FOUR::BN == EIGHT::BN && FOUR::warps == 4 && EIGHT::warps == 8, "one tile");
    if (conv2d_eight_warps(FOUR::shared_bytes, card)) {
        launch_weights<EIGHT>(p, dev);
    } else {
        launch_weights<FOUR>(p, dev);
    }
}

static void multiply_weights(const WeightProduct &p, Device *dev) {
    [[maybe_unused]] const ConvCard card = card_of(dev);
    switch (width_for(p.conv.OC)) {
#ifdef PRECISION_bf16
    case 160:
        launch_warps<ConvTile<160, 128, 2, 2>, ConvTile<160, 128, 2, 4>>(p, card, dev);
        break;
    case 128:
        launch_warps<ConvTile<128, 128, 2, 2>, ConvTile<128, 128, 2, 4>>(p, card, dev);
        break;
#endif
    case 64:
        launch_weights<ConvTile<64, 128, 2, 2>>(p, dev);
        break;
    default:
        launch_weights<ConvTile<32, 128, 1, 4>>(p, dev);
    }
    if (!p.partial) { return; }
    const int rows = p.conv.OC * p.conv.K * p.conv.K, C = p.conv.IC;
    launch_one_of<sum_weights<4>, sum_weights<1>>(C % 4 == 0, dev, blocks_for((size_t)rows * C, C % 4 == 0 ? 4 : 1),
                                                  THREADS, 0, p.dweight, p.partial, p.splits, rows, C, p.C, p.beta);
}

// ---- Channels that do not fill 16 bytes ----------------------------------------------------------------------------

static int stored(int channels) { return ceil_div(channels, VEC) * VEC; }

// to (rows, stored) = from (rows, C), padded with zeros. One vector per thread.
static __global__ void __launch_bounds__(THREADS)
    pad_channels(floatX *to, const floatX *from, size_t rows, int C, int stored) {
    const size_t i = first_element(VEC), row = i / stored;
    const int c = (int)(i % stored);
    if (row >= rows) { return; }
    float x[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] = c + j < C ? to_float(from[row * C + c + j]) : 0.0f; }
    store(to + i, x);
}

// A tensor (rows, C) whose channels are padded in the workspace if necessary.
struct Padded {
    const floatX *data;
    size_t rows;
    int C;
    size_t offset, bytes; // in the workspace; 0 bytes: not padded
};

// Parts of the workspace, each aligned to 256 bytes.
static size_t reserve(size_t *used, size_t bytes) {
    const size_t at = *used;
    *used += ceil_div(bytes, (size_t)256) * 256;
    return at;
}

static Padded padded(const floatX *data, size_t rows, int C, size_t *used) {
    const size_t bytes = C % VEC ? rows * stored(C) * sizeof(floatX) : 0;
    return {data, rows, C, reserve(used, bytes), bytes};
}

static const floatX *pad(const Padded &t, void *workspace, Device *dev) {
    if (!t.bytes) { return t.data; }
    floatX *to = (floatX *)((char *)workspace + t.offset);
    launch<pad_channels>(dev, blocks_for(t.rows * stored(t.C), VEC), THREADS, 0, to, t.data, t.rows, t.C, stored(t.C));
    return to;
}

// ---- The functions of kernels.h ------------------------------------------------------------------------------------

// Rows or columns of the result in phase `index`.
static Divisor phase_size(int size, int index, int phases) { return divisor((size - index + phases - 1) / phases); }

// The number of splits of the product with the result `pixels` x N, whose longest sums have `taps` taps of C channels.
static int pixel_splits(size_t pixels, int N, int taps, int C) {
    const int blocks = (int)ceil_div(pixels, (size_t)128) * ceil_div(N, width_for(N));
    return blocks > SLOTS / 2 ? 1 : splits_for(blocks, ceil_div(taps * stored(C), 4 * VEC));
}

// Whether each 4 elements of the rows of a matrix are aligned.
static bool in_fours(const floatX *data, int stride) {
    return stride % 4 == 0 && (uintptr_t)data % (4 * sizeof(floatX)) == 0;
}

void conv2d_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *sample_bias,
                    const floatX *residual, Conv2d conv, Device *dev) {
    const Conv2d *c = &conv;
    assert((c->K == 1 || c->K == 3) && (c->stride == 1 || c->stride == 2) && !c->torch_order);
    if (conv2d_is_linear(c) && !sample_bias) {
        linear_forward(out, inp, weight, bias, residual, c->B * c->H * c->W, c->IC, c->OC, dev);
        return;
    }
    const bool run = device_launch(dev, "conv2d_forward", conv2d_forward_cost(bias, sample_bias, residual, conv));
    const int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W), C = stored(c->IC);
    const size_t pixels = (size_t)c->B * OH * OW, elements = pixels * c->OC;
    const int splits = pixel_splits(pixels, c->OC, c->K * c->K, c->IC);
    size_t used = 0;
    const Padded source = padded(inp, (size_t)c->B * c->H * c->W, c->IC, &used);
    const Padded weights = padded(weight, (size_t)c->OC * c->K * c->K, c->IC, &used);
    const size_t partial = reserve(&used, splits > 1 ? splits * elements * sizeof(float) : 0);
    char *workspace = (char *)device_workspace(dev, used);
    if (!run) { return; }
    const PixelProduct p = {.conv = conv,
                            .source = pad(source, workspace, dev),
                            .weight = pad(weights, workspace, dev),
                            .H = c->H,
                            .W = c->W,
                            .C = C,
                            .weight_C = C,
                            .out_H = OH,
                            .out_W = OW,
                            .N = c->OC,
                            .splits = splits,
                            .phase_H = {divisor(OH)},
                            .phase_W = {divisor(OW)}};
    const int stride = conv2d_sample_stride(c);
    const PixelResult result = {.out = out,
                                .partial = splits > 1 ? (float *)(workspace + partial) : NULL,
                                .bias = bias,
                                .sample_bias = sample_bias,
                                .residual = residual,
                                .N = divisor(c->OC),
                                .sample_pixels = divisor(OH * OW),
                                .sample_stride = stride,
                                .elements = elements,
                                .fours = c->OC % 4 == 0 && (!sample_bias || in_fours(sample_bias, stride))};
    multiply_pixels<false>(p, result, dev);
}

// What backward does, and the parts of its workspace. The three products use one part, one after the other.
struct BackwardPlan {
    Padded dout, inp, weight;
    int splits, weight_splits; // of dinp's sums and of dweight's
    bool direct;               // dweight needs no partial sums
    int samples;               // the biases' sums are over the pixels of so many parts
    size_t sums;               // bytes of these sums
    size_t partial, bytes;     // offset of the part that the products share; bytes of the workspace
};

static int columns_of_weight(const Conv2d *c) { return c->K * c->K * stored(c->IC); }

static BackwardPlan plan_backward(const Conv2d *c, const floatX *dout, const floatX *inp, const floatX *weight,
                                  bool dinp, bool dweight, bool dbias, bool dsample_bias) {
    const size_t pixels = (size_t)c->B * c->H * c->W;
    const size_t out_pixels = (size_t)c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W);
    size_t used = 0;
    BackwardPlan plan = {};
    plan.dout = padded(dout, dinp || dweight ? out_pixels : 0, c->OC, &used);
    plan.inp = padded(inp, dweight ? pixels : 0, c->IC, &used);
    plan.weight = padded(weight, dinp ? (size_t)c->OC * c->K * c->K : 0, c->IC, &used);
    const int met = ceil_div(c->K, c->stride), N = columns_of_weight(c);
    const int tiles = ceil_div(c->OC, width_for(c->OC)) * ceil_div(N, 128);
    plan.splits = dinp ? pixel_splits(pixels, c->IC, met * met, c->OC) : 1;
    plan.weight_splits = splits_for(tiles, (int)ceil_div(out_pixels, (size_t)(4 * VEC)));
    plan.direct = plan.weight_splits == 1 && c->IC % VEC == 0;
    plan.samples = dsample_bias ? c->B : 1;
    plan.sums = dbias || dsample_bias ? chunk_sums_size(plan.samples, (int)(out_pixels / plan.samples), c->OC) : 0;
    const size_t of_pixels = plan.splits > 1 ? plan.splits * pixels * c->IC * sizeof(float) : 0;
    const size_t of_weights = dweight && !plan.direct ? (size_t)plan.weight_splits * c->OC * N * sizeof(float) : 0;
    plan.partial = reserve(&used, std::max({of_pixels, of_weights, plan.sums}));
    plan.bytes = used;
    return plan;
}

// dout and weight are padded.
static void input_gradient(floatX *dinp, const floatX *dout, const floatX *weight, const floatX *dresidual,
                           const Conv2d *c, int splits, float *partial, Device *dev) {
    const PixelProduct p = {.conv = *c,
                            .source = dout,
                            .weight = weight,
                            .H = conv2d_out(c, c->H),
                            .W = conv2d_out(c, c->W),
                            .C = stored(c->OC),
                            .weight_C = stored(c->IC),
                            .out_H = c->H,
                            .out_W = c->W,
                            .N = c->IC,
                            .splits = splits,
                            .phase_H = {phase_size(c->H, 0, c->stride), phase_size(c->H, 1, c->stride)},
                            .phase_W = {phase_size(c->W, 0, c->stride), phase_size(c->W, 1, c->stride)}};
    const PixelResult result = {.out = dinp,
                                .partial = splits > 1 ? partial : NULL,
                                .residual = dresidual,
                                .N = divisor(c->IC),
                                .sample_pixels = divisor(c->H * c->W),
                                .elements = (size_t)c->B * c->H * c->W * c->IC,
                                .fours = c->IC % 4 == 0};
    multiply_pixels<true>(p, result, dev);
}

// dout and inp are padded. partial NULL: there is one split.
static void weight_gradient(float *dweight, const floatX *dout, const floatX *inp, float beta, const Conv2d *c,
                            int splits, float *partial, Device *dev) {
    const int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    const WeightProduct p = {.conv = *c,
                             .dout = dout,
                             .inp = inp,
                             .OC = stored(c->OC),
                             .C = stored(c->IC),
                             .pixels = c->B * OH * OW,
                             .N = columns_of_weight(c),
                             .out_W = divisor(OW),
                             .out_H = divisor(OH),
                             .splits = splits,
                             .dweight = dweight,
                             .partial = partial,
                             .beta = beta};
    multiply_weights(p, dev);
}

// dsample_bias (B, C) = sums over the chunks of partial (B, chunks, C).
static __global__ void __launch_bounds__(256)
    fold_sample_bias(floatX *dsample_bias, const float *partial, int chunks, int C, int stride) {
    __shared__ float sums[8][32];
    const int c = blockIdx.x * 32 + threadIdx.x, b = blockIdx.y;
    float sum = 0;
    if (c < C) {
        for (int i = threadIdx.y; i < chunks; i += 8) { sum += partial[((size_t)b * chunks + i) * C + c]; }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        for (int y = 1; y < 8; y++) { sum += sums[y][threadIdx.x]; }
        dsample_bias[(size_t)b * stride + c] = to_floatX(sum);
    }
}

// dsample_bias (B, OC) and dbias (OC) from the sums of dout over the pixels of each of `samples` parts.
static void bias_gradients(float *dbias, floatX *dsample_bias, const floatX *dout, float beta, const Conv2d *c,
                           int samples, float *partial, Device *dev) {
    const int OC = c->OC, pixels = c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W);
    const int chunks = chunk_sums(partial, dout, samples, pixels / samples, OC, dev);
    if (dsample_bias) {
        launch<fold_sample_bias>(dev, dim3(ceil_div(OC, 32), samples), dim3(32, 8), 0, dsample_bias, partial, chunks,
                                 OC, conv2d_sample_stride(c));
    }
    if (dbias) { fold_rows(dbias, NULL, partial, samples * chunks, OC, OC, beta, dev); }
}

void conv2d_backward(floatX *dinp, float *dweight, float *dbias, floatX *dsample_bias, const floatX *dout,
                     const floatX *inp, const floatX *weight, const floatX *dresidual, float beta, Conv2d conv,
                     Device *dev) {
    const Conv2d *c = &conv;
    assert(!c->torch_order);
    if (conv2d_is_linear(c) && !dsample_bias) {
        linear_backward(dinp, dweight, dbias, dout, inp, weight, dresidual, beta, c->B * c->H * c->W, c->IC, c->OC,
                        dev);
        return;
    }
    const bool run = device_launch(dev, "conv2d_backward",
                                   conv2d_backward_cost(dinp, dweight, dbias, dsample_bias, dresidual, beta, conv));
    const BackwardPlan plan = plan_backward(c, dout, inp, weight, dinp, dweight, dbias, dsample_bias);
    char *workspace = (char *)device_workspace(dev, plan.bytes);
    if (!run) { return; }
    float *partial = (float *)(workspace + plan.partial);
    const floatX *padded_dout = pad(plan.dout, workspace, dev);
    if (dinp) {
        input_gradient(dinp, padded_dout, pad(plan.weight, workspace, dev), dresidual, c, plan.splits, partial, dev);
    }
    if (dweight) {
        weight_gradient(dweight, padded_dout, pad(plan.inp, workspace, dev), beta, c, plan.weight_splits,
                        plan.direct ? NULL : partial, dev);
    }
    if (dbias) { partial = partial_sums(partial, plan.sums, dev); }
    if (dbias || dsample_bias) { bias_gradients(dbias, dsample_bias, dout, beta, c, plan.samples, partial, dev); }
}
