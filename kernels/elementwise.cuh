// Kernels over n elements: a thread handles V of them by accesses of 128 bits (of float; where float and floatX meet,
// V is 4 for both, so that the lanes of a warp read whole sectors of each). The last thread takes what is left one by
// one.
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

template <int V, class T> __device__ static inline void store_part(T *to, const float (&from)[V], size_t left) {
    T x[V];
#pragma unroll
    for (int i = 0; i < V; i++) { x[i] = to_storage<T>(from[i]); }
    if (left >= V) {
        store_words(to, x);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            if ((size_t)i < left) { to[i] = x[i]; }
        }
    }
}
