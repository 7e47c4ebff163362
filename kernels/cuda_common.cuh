// Shared by the .cu files: conversions, 128-bit accesses and sums.
#pragma once
#include "kernels/cost.h"
#include "kernels/runtime/cuda.cuh"
#include <string.h>

enum { THREADS = 256 }; // of a block, unless a kernel says otherwise

template <class T> __host__ __device__ static inline T ceil_div(T a, T b) { return (a + b - 1) / b; }

// The offset of the next part of a workspace, of so many bytes. Parts are aligned to 256 bytes; *used counts all of
// them.
static inline size_t reserve(size_t *used, size_t bytes) {
    const size_t at = *used;
    *used += ceil_div(bytes, (size_t)256) * 256;
    return at;
}

// ---- floatX --------------------------------------------------------------------------------------------------------

__device__ static inline float to_float(float x) { return x; }
template <class T> __device__ static inline T from_float(float x) { return x; }
#ifdef PRECISION_bf16
__device__ static inline float to_float(floatX x) { return __bfloat162float(x); }
template <> __device__ inline floatX from_float<floatX>(float x) { return __float2bfloat16_rn(x); }
#endif
__device__ static inline floatX to_floatX(float x) { return from_float<floatX>(x); }

constexpr int VEC = 16 / sizeof(floatX); // elements of a 128-bit access

// One access of V elements: V sizeof(T) bytes, at most 16, with the same alignment.
template <int BYTES> struct Word;
template <> struct Word<16> { typedef uint4 Type; };
template <> struct Word<8> { typedef uint2 Type; };
template <> struct Word<4> { typedef unsigned Type; };
template <> struct Word<2> { typedef unsigned short Type; };

template <class T, int V> __device__ static inline void load_words(T (&to)[V], const T *from) {
    typedef typename Word<V * sizeof(T)>::Type W;
    const W word = *reinterpret_cast<const W *>(from);
    memcpy(to, &word, sizeof word);
}

template <class T, int V> __device__ static inline void store_words(T *to, const T (&from)[V]) {
    typedef typename Word<V * sizeof(T)>::Type W;
    W word;
    memcpy(&word, from, sizeof word);
    *reinterpret_cast<W *>(to) = word;
}

// Floats use the vector type: the compiler would split the copy of a word if it knows the single numbers.
__device__ static inline void load_words(float (&to)[4], const float *from) {
    const float4 word = *reinterpret_cast<const float4 *>(from);
    to[0] = word.x, to[1] = word.y, to[2] = word.z, to[3] = word.w;
}

__device__ static inline void store_words(float *to, const float (&from)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
}

// One load and one store, of a word type, so that the compiler does not split the copy.
template <int V, class T> __device__ static inline void copy_words(T *to, const T *from) {
    typedef typename Word<V * sizeof(T)>::Type W;
    *reinterpret_cast<W *>(to) = *reinterpret_cast<const W *>(from);
}

// V elements as floats: floatX by one access, float by one or two.
template <int V> __device__ static inline void load(float (&to)[V], const floatX *from) {
    floatX x[V];
    load_words(x, from);
#pragma unroll
    for (int i = 0; i < V; i++) { to[i] = to_float(x[i]); }
}

template <int V> __device__ static inline void store(floatX *to, const float (&from)[V]) {
    floatX x[V];
#pragma unroll
    for (int i = 0; i < V; i++) { x[i] = to_floatX(from[i]); }
    store_words(to, x);
}

// ---- Activations ---------------------------------------------------------------------------------------------------

__device__ static inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
// Derivative of silu(y) = y s: s (1 + y (1 - s)).
__device__ static inline float silu_slope(float y) {
    const float s = sigmoid(y);
    return s * (1.0f + y * (1.0f - s));
}

// ---- Sums ----------------------------------------------------------------------------------------------------------

template <class T> __device__ static inline T warp_sum(T x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) { x += __shfl_xor_sync(0xffffffffu, x, bits); }
    return x;
}

// Sum of floats or doubles over a block of whole warps, returned to every thread. scratch: 32 numbers of shared memory;
// each call needs its own.
template <class T> __device__ static inline T block_sum(T x, T *scratch) {
    const int thread = threadIdx.x, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (thread % 32 == 0) { scratch[thread / 32] = x; }
    __syncthreads();
    return warp_sum(thread % 32 < warps ? scratch[thread % 32] : (T)0);
}

// How a matrix of rows and C columns is cut for sums over rows: a block of x threads (V columns each) by y rows loops
// over a chunk of rows. The cut depends only on the sizes, so that sums have the same bits on every card. Blocks are
// narrow and tall, so that the data of a block's columns (weights, statistics, sums) is small compared with its rows.
struct Cut {
    int V, x, y;       // elements per access; threads of the block: a power of two and 256 / x
    int tiles, chunks; // blocks across the columns, blocks down the rows
    int rows;          // of a chunk: a multiple of 4 y
    dim3 block() const { return dim3(x, y); }
    dim3 grid(int samples) const { return dim3(chunks, tiles, samples); }
};

// Blocks that a cut aims at: several for each SM of any card, so that none waits long for the last ones.
enum { CUT_BLOCKS = 512 };

static inline Cut cut_rows(int rows, int C, int samples) {
    Cut cut = {C % VEC ? 1 : VEC, 1, 0, 0, 0, 0};
    const int columns = C / cut.V, widest = cut.V == 1 ? 32 : columns % 16 ? 8 : 16;
    while (cut.x < columns && cut.x < widest) { cut.x *= 2; }
    cut.y = 256 / cut.x;
    cut.tiles = ceil_div(columns, cut.x);
    const int wanted = ceil_div((int)CUT_BLOCKS, samples * cut.tiles), quads = rows / (4 * cut.y * wanted);
    cut.rows = 4 * cut.y * (quads < 1 ? 1 : quads);
    cut.chunks = ceil_div(rows, cut.rows);
    return cut;
}

// Adds value[V] over the rows of each warp of a block of x by y threads, as Cut's, and writes the sums to scratch
// (warps, x V), at most x y V floats. After a barrier, column_sums_of adds the sums of the warps.
template <int V> __device__ static inline void rows_to_scratch(float *scratch, const float (&value)[V]) {
    const int x = blockDim.x, thread = threadIdx.y * x + threadIdx.x;
    float sum[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        sum[i] = value[i];
        for (int bits = x; bits < 32; bits *= 2) { sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], bits); }
    }
    if (thread % 32 < x) {
        float *to = scratch + (thread / 32 * x + threadIdx.x) * V;
#pragma unroll
        for (int i = 0; i < V; i++) { to[i] = sum[i]; }
    }
}

// The sums of W columns from c on: 4 if the warps' rows of sums are aligned to 16 bytes, else 1.
template <int W> __device__ static inline void column_sums_of(float (&sum)[W], const float *scratch, int c, int width) {
    const int warps = blockDim.x * blockDim.y / 32;
#pragma unroll
    for (int i = 0; i < W; i++) { sum[i] = 0; }
    for (int warp = 0; warp < warps; warp++) {
        float x[W];
        load_words(x, scratch + warp * width + c);
#pragma unroll
        for (int i = 0; i < W; i++) { sum[i] += x[i]; }
    }
}

// Adds value[V] over the block's rows and writes the column sums to out (C). scratch: x y V floats of shared memory.
template <int V>
__device__ static inline void sum_rows_of_block(float *out, const float (&value)[V], float *scratch, int first, int C) {
    const int width = blockDim.x * V, thread = threadIdx.y * blockDim.x + threadIdx.x;
    __syncthreads(); // other threads may still read the previous sums
    rows_to_scratch(scratch, value);
    __syncthreads();
    constexpr int W = V < 4 ? 1 : 4;
    const int c = thread * W;
    if (c < width && first + c < C) {
        float sum[W];
        column_sums_of(sum, scratch, c, width);
        store_words(out + first + c, sum);
    }
}

// linear.cu. partial (samples, chunks, C) = sums over chunks of the rows of inp (samples, N, C); returns the number of
// chunks. partial has chunk_sums_size bytes.
int chunk_sums(float *partial, const floatX *inp, int samples, int N, int C, Device *dev);
size_t chunk_sums_size(int samples, int N, int C);
// folds.cu. Memory for the argument of fold_rows: `workspace`, or other memory in which it may wait (kernels/folds.h).
float *partial_sums(void *workspace, size_t bytes, Device *dev);
// folds.cu. first (C) = sum over rows of partial (rows, stride)[:, :C] + beta first; second (C) the same of [:, C:2C].
// Either may be NULL.
void fold_rows(float *first, float *second, const float *partial, int rows, int stride, int C, float beta, Device *dev);
// loss.cu. out (B) = factor * sum over the chunks of partial (B, chunks).
void fold_samples(float *out, const double *partial, int B, int chunks, double factor, Device *dev);
