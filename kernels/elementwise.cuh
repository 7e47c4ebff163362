// Kernels over n elements: a thread handles V of them by accesses of 128 bits, the last one takes what is left one by
// one. Where float and floatX meet, a warp's floats are a span (below).
#pragma once
#include "kernels/cuda_common.cuh"

enum { THREADS = 256 };

// Blocks for n elements, V per thread.
static inline unsigned blocks_for(size_t n, int V) {
    return (unsigned)ceil_div(ceil_div(n, (size_t)V), (size_t)THREADS);
}

__device__ static inline size_t first_element(int V) { return ((size_t)blockIdx.x * THREADS + threadIdx.x) * V; }

__device__ static inline float from_storage(float x) { return x; }
template <class T> __device__ static inline T to_storage(float x);
template <> __device__ inline float to_storage<float>(float x) { return x; }
#ifdef PRECISION_bf16
__device__ static inline float from_storage(floatX x) { return to_float(x); }
template <> __device__ inline floatX to_storage<floatX>(float x) { return to_floatX(x); }
#endif

// V elements as floats, of which `left` exist; the others read as 0.
template <int V, class T> __device__ static inline void load_part(float (&to)[V], const T *from, size_t left) {
    T x[V];
    if (left >= V) {
        load_words(x, from);
#pragma unroll
        for (int i = 0; i < V; i++) { to[i] = from_storage(x[i]); }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) { to[i] = (size_t)i < left ? from_storage(from[i]) : 0.0f; }
    }
}

// One access to global memory, by an instruction that the compiler does not take apart.
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
    for (int i = 0; i < V; i++) { x[i] = to_storage<T>(from[i]); }
    if (left >= V) {
        store_global(to, x);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            if ((size_t)i < left) { to[i] = x[i]; }
        }
    }
}

// A warp's 32 V floats, V for each lane, by accesses of 128 bits that touch whole sectors. With V = 8, two neighbouring
// quads would be half sectors each time: a warp takes its 64 quads 32 at a time, each lane quad 2 (lane % 16) + lane /
// 16 of both halves, and lanes 16 apart trade: the lower one its second for the upper's first.
__device__ static inline int lane_of() { return threadIdx.x % 32; }
__device__ static inline int quad_of(int V) { return V == 4 ? lane_of() : 2 * (lane_of() % 16) + lane_of() / 16; }

__device__ static inline void trade(float4 &low, float4 &high) {
    const bool upper = lane_of() >= 16;
    const float4 given = upper ? low : high;
    const float4 got =
        make_float4(__shfl_xor_sync(0xffffffffu, given.x, 16), __shfl_xor_sync(0xffffffffu, given.y, 16),
                    __shfl_xor_sync(0xffffffffu, given.z, 16), __shfl_xor_sync(0xffffffffu, given.w, 16));
    low = upper ? got : low;
    high = upper ? high : got;
}

template <int V> __device__ static inline void load_span(float (&x)[V], const float *span) {
    const float4 *from = (const float4 *)span + quad_of(V);
    float4 q[V / 4];
#pragma unroll
    for (int i = 0; i < V / 4; i++) { q[i] = from[32 * i]; }
    if (V == 8) { trade(q[0], q[V / 4 - 1]); }
    memcpy(x, q, sizeof q);
}

template <int V> __device__ static inline void store_span(float *span, const float (&x)[V]) {
    float4 *to = (float4 *)span + quad_of(V), q[V / 4];
    memcpy(q, x, sizeof q);
    if (V == 8) { trade(q[0], q[V / 4 - 1]); }
#pragma unroll
    for (int i = 0; i < V / 4; i++) { to[32 * i] = q[i]; }
}
