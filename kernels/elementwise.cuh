// Kernels over n elements. A thread handles V elements with 128-bit accesses; the last thread handles the rest one by
// one. Kernels that use both float and floatX handle a warp's elements as a span (below).
#pragma once
#include "kernels/cuda_common.cuh"

// Threads of a block for latents and losses: fewer, so that a micro-batch of two keeps more SMs busy.
enum { FEW_THREADS = 128 };

// Blocks for n elements, V per thread.
static inline unsigned blocks_for(size_t n, int V, int threads = THREADS) {
    return (unsigned)ceil_div(ceil_div(n, (size_t)V), (size_t)threads);
}

__device__ static inline size_t first_element(int V) { return ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * V; }

// Adds two numbers over the block and writes the sums to partial (B, chunks, 2), for a grid of blocks (chunk, sample).
__device__ static inline void store_block_sums(double *partial, double first, double second) {
    __shared__ double scratch[64];
    first = block_sum(first, scratch), second = block_sum(second, scratch + 32);
    if (threadIdx.x == 0) {
        double *out = partial + 2 * ((size_t)blockIdx.y * gridDim.x + blockIdx.x);
        out[0] = first, out[1] = second;
    }
}

// The sums of a sample over its chunks, returned to every thread of the block.
struct TwoSums {
    double first, second;
};
__device__ static inline TwoSums sample_sums(const double *partial, size_t sample, int chunks) {
    __shared__ double scratch[64];
    double first = 0, second = 0;
    for (int k = threadIdx.x; k < chunks; k += blockDim.x) {
        first += partial[2 * (sample * chunks + k)];
        second += partial[2 * (sample * chunks + k) + 1];
    }
    return {block_sum(first, scratch), block_sum(second, scratch + 32)};
}

// Loads V elements as floats; only `left` of them exist, the others become 0.
template <int V, class T> __device__ static inline void load_part(float (&to)[V], const T *from, size_t left) {
    T x[V];
    if (left >= V) {
        load_words(x, from);
#pragma unroll
        for (int i = 0; i < V; i++) { to[i] = to_float(x[i]); }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) { to[i] = (size_t)i < left ? to_float(from[i]) : 0.0f; }
    }
}

// One access to global memory, by an instruction that the compiler does not split.
template <class T, int V> __device__ static inline void store_global(T *to, const T (&from)[V]) {
    typedef typename Word<V * sizeof(T)>::Type W;
    W word;
    memcpy(&word, from, sizeof word);
#ifdef __CUDACC__
    __stwb(reinterpret_cast<W *>(to), word);
#else
    *reinterpret_cast<W *>(to) = word;
#endif
}

template <int V, class T> __device__ static inline void store_part(T *to, const float (&from)[V], size_t left) {
    T x[V];
#pragma unroll
    for (int i = 0; i < V; i++) { x[i] = from_float<T>(from[i]); }
    if (left >= V) {
        store_global(to, x);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            if ((size_t)i < left) { to[i] = x[i]; }
        }
    }
}

// A span: a warp's 32 V elements. A lane handles V / 4 quads of it, 32 quads apart, so that the accesses of a warp
// touch whole sectors of floats (128 bits per lane) and of bf16 (64 bits) alike, and no lane needs another's elements.
__device__ static inline int lane_of() { return threadIdx.x % 32; }

template <class T, int V> __device__ static inline void load_quads(float (&to)[V], const T *span) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        T q[4];
        load_words(q, span + 4 * lane_of() + 32 * i);
#pragma unroll
        for (int j = 0; j < 4; j++) { to[i + j] = to_float(q[j]); }
    }
}

template <class T, int V> __device__ static inline void store_quads(T *span, const float (&from)[V]) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        T q[4];
#pragma unroll
        for (int j = 0; j < 4; j++) { q[j] = from_float<T>(from[i + j]); }
        store_global(span + 4 * lane_of() + 32 * i, q);
    }
}

// The first element of a warp's span; whether all of it exists in an array of n elements, and in rows of n elements,
// where it must also be aligned; its end there. If it is not whole, lanes handle every 32nd element up to its end.
template <int V = VEC> __device__ static inline size_t first_of_span() { return first_element(V) - lane_of() * V; }
template <int V = VEC> __device__ static inline bool span_exists(size_t span, size_t n) { return span + 32 * V <= n; }
__device__ static inline bool whole_span(size_t span, size_t n) { return n % VEC == 0 && span_exists(span, n); }
__device__ static inline size_t end_of_span(size_t span, size_t n) { return span + 32 * VEC < n ? span + 32 * VEC : n; }
