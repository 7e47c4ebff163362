// Steps to attention_forward (kernels/attention.cu), for heads of at most 160. SD2's largest case has 10 heads x
// samples of 4096 queries and keys of 64 numbers: 43 GFLOP, 0.14 ms of an A100's tensor cores, and 21 MB of q, k, v and
// out.
#include "bench/lab/steps.h"
#include "kernels/cuda_common.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, LANE_COLUMNS = 5, QUERIES = 4 }; // 5 x 32 columns; queries per warp

// First element of token t, for head and sample number bh.
template <class T> __device__ static inline T *token(T *x, int bh, int t, int tokens, int stride, const Attention &a) {
    return x + ((size_t)(bh / a.NH) * tokens + t) * stride + (size_t)(bh % a.NH) * a.HS;
}

__device__ static inline float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) { x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bits)); }
    return x;
}

// Version 1: the three textbook steps with a matrix of scores in memory, B NH Tq Tk floats. Its 671 MB are written
// once, read and written by the softmax and read again: 1.7 ms of an A100's memory. Only the caches reuse q, k and v.
static __global__ void __launch_bounds__(THREADS)
    lab_attention_scores(float *scores, const floatX *q, const floatX *k, Attention a, float scale) {
    const int key = blockIdx.x * THREADS + threadIdx.x, query = blockIdx.y, bh = blockIdx.z;
    if (key >= a.Tk) { return; }
    const floatX *x = token(q, bh, query, a.Tq, a.q_stride, a), *y = token(k, bh, key, a.Tk, a.k_stride, a);
    float sum = 0;
    for (int d = 0; d < a.HS; d++) { sum += to_float(x[d]) * to_float(y[d]); }
    scores[((size_t)bh * a.Tq + query) * a.Tk + key] = a.causal && key > query ? -INFINITY : scale * sum;
}

// A warp per query.
static __global__ void __launch_bounds__(THREADS)
    lab_attention_softmax(float *scores, float *lse, size_t rows, int Tk) {
    const size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) { return; }
    float *x = scores + row * Tk, top = -INFINITY, sum = 0;
    for (int key = lane; key < Tk; key += 32) { top = fmaxf(top, x[key]); }
    top = warp_max(top);
    for (int key = lane; key < Tk; key += 32) { sum += __expf(x[key] - top); }
    sum = warp_sum(sum);
    for (int key = lane; key < Tk; key += 32) { x[key] = __expf(x[key] - top) / sum; }
    if (lane == 0) { lse[row] = top + __logf(sum); }
}

static __global__ void __launch_bounds__(THREADS)
    lab_attention_values(floatX *out, const float *scores, const floatX *v, Attention a) {
    const int query = blockIdx.x, bh = blockIdx.y;
    const float *p = scores + ((size_t)bh * a.Tq + query) * a.Tk;
    for (int d = threadIdx.x; d < a.HS; d += blockDim.x) {
        float sum = 0;
        for (int key = 0; key < a.Tk; key++) { sum += p[key] * to_float(token(v, bh, key, a.Tk, a.v_stride, a)[d]); }
        token(out, bh, query, a.Tq, a.out_stride, a)[d] = to_floatX(sum);
    }
}

// A query's sums relative to the running maximum (Milakov & Gimelshein 2018).
struct Running {
    float top, sum, out[LANE_COLUMNS]; // out: columns lane, lane + 32, ...
    __device__ void begin() {
        top = -INFINITY;
        sum = 0;
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) { out[i] = 0; }
    }
    // Takes the scores of 32 keys, one per lane; returns this lane's probability.
    __device__ float take(float score) {
        const float best = fmaxf(top, warp_max(score)), shrink = __expf(top - best), p = __expf(score - best);
        top = best;
        sum = sum * shrink + warp_sum(p);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) { out[i] *= shrink; }
        return p;
    }
    __device__ void finish(floatX *to, float *lse, int HS) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) {
            if (lane + 32 * i < HS) { to[lane + 32 * i] = to_floatX(out[i] / sum); }
        }
        if (lane == 0) { *lse = top + __logf(sum); }
    }
};

// Version 2: online softmax with a warp per query. It needs no matrix of scores; the 43 GFLOP are multiply-adds (2.2 ms
// at an A100's 19.5 TFLOP/s). A lane takes one of 32 keys, then a column of the values. Every query reads all keys and
// values: 10 GB through the caches.
static __global__ void __launch_bounds__(THREADS)
    lab_attention_online(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                         float scale) {
    float *query_of_warp = (float *)dynamic_shared + threadIdx.x / 32 * a.HS;
    const int lane = threadIdx.x % 32, query = blockIdx.x * WARPS + threadIdx.x / 32, bh = blockIdx.y;
    if (query >= a.Tq) { return; }
    for (int d = lane; d < a.HS; d += 32) {
        query_of_warp[d] = scale * to_float(token(q, bh, query, a.Tq, a.q_stride, a)[d]);
    }
    __syncwarp();
    Running r;
    r.begin();
    const int end = a.causal ? query + 1 : a.Tk;
    for (int first = 0; first < end; first += 32) {
        float score = -INFINITY;
        if (first + lane < end) {
            const floatX *key = token(k, bh, first + lane, a.Tk, a.k_stride, a);
            score = 0;
            for (int d = 0; d < a.HS; d += VEC) {
                float x[VEC];
                load(x, key + d);
#pragma unroll
                for (int i = 0; i < VEC; i++) { score += query_of_warp[d + i] * x[i]; }
            }
        }
        const float p = r.take(score);
        for (int j = 0; j < 32 && first + j < end; j++) {
            const floatX *value = token(v, bh, first + j, a.Tk, a.v_stride, a);
            const float weight = __shfl_sync(0xffffffffu, p, j);
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++) {
                if (lane + 32 * i < a.HS) { r.out[i] += weight * to_float(value[lane + 32 * i]); }
            }
        }
    }
    r.finish(token(out, bh, query, a.Tq, a.out_stride, a), lse + (size_t)bh * a.Tq + query, a.HS);
}

// Rows first .. first + 31 of a head as floats in shared memory, pitch floats apart; zeros after the last token.
__device__ static inline void tile_of(float *tile, int pitch, const floatX *x, int bh, int first, int tokens,
                                      int stride, float scale, const Attention &a) {
    const int vectors = a.HS / VEC;
    for (int i = threadIdx.x; i < 32 * vectors; i += THREADS) {
        const int row = i / vectors, d = i % vectors * VEC;
        float v[VEC] = {};
        if (first + row < tokens) { load(v, token(x, bh, first + row, tokens, stride, a) + d); }
#pragma unroll
        for (int j = 0; j < VEC; j++) { tile[row * pitch + d + j] = scale * v[j]; }
    }
}

// Version 3: a block of 32 queries reads keys and values once for all of them, 32 at a time, into shared memory: 0.3
// GB. A warp has four queries, so that each number from shared memory is used four times. Shared memory is the limit:
// four multiply-adds for two reads, where tensor cores would do 4096 for four.
static __global__ void __launch_bounds__(THREADS, 2)
    lab_attention_tiles(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                        float scale) {
    const int pitch = a.HS + 1; // lanes read the same column of 32 rows: 32 banks
    float *queries = (float *)dynamic_shared, *keys = queries + 32 * a.HS, *values = keys + 32 * pitch;
    const int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * QUERIES, first_query = blockIdx.x * 32;
    const int bh = blockIdx.y, end = a.causal ? min(first_query + 32, a.Tk) : a.Tk;
    Running r[QUERIES];
#pragma unroll
    for (int i = 0; i < QUERIES; i++) { r[i].begin(); }
    tile_of(queries, a.HS, q, bh, first_query, a.Tq, a.q_stride, scale, a);
    for (int first = 0; first < end; first += 32) {
        __syncthreads();
        tile_of(keys, pitch, k, bh, first, a.Tk, a.k_stride, 1.0f, a);
        tile_of(values, a.HS, v, bh, first, a.Tk, a.v_stride, 1.0f, a);
        __syncthreads();
        float p[QUERIES] = {};
        for (int d = 0; d < a.HS; d++) {
            const float key = keys[lane * pitch + d];
#pragma unroll
            for (int i = 0; i < QUERIES; i++) { p[i] += queries[(mine + i) * a.HS + d] * key; }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; i++) {
            const bool seen = first + lane < a.Tk && !(a.causal && first + lane > first_query + mine + i);
            p[i] = r[i].take(seen ? p[i] : -INFINITY);
        }
        for (int j = 0; j < 32; j++) {
            float value[LANE_COLUMNS];
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; c++) {
                value[c] = lane + 32 * c < a.HS ? values[j * a.HS + lane + 32 * c] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < QUERIES; i++) {
                const float weight = __shfl_sync(0xffffffffu, p[i], j);
#pragma unroll
                for (int c = 0; c < LANE_COLUMNS; c++) { r[i].out[c] += weight * value[c]; }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < QUERIES; i++) {
        const int query = first_query + mine + i;
        if (query < a.Tq) {
            r[i].finish(token(out, bh, query, a.Tq, a.out_stride, a), lse + (size_t)bh * a.Tq + query, a.HS);
        }
    }
}

// Version 4, kernels/attention.cu: the same tiles, with both products on tensor cores, scores and sums in registers,
// and copies that run ahead.

void lab_attention_forward(int version, floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                           Attention a, Device *dev) {
    const int heads = a.B * a.NH;
    const size_t rows = (size_t)heads * a.Tq;
    float *scores = version == 1 ? (float *)device_workspace(dev, rows * a.Tk * sizeof(float)) : NULL;
    if (dev->plan_only) { return; }
    const float scale = 1.0f / sqrtf((float)a.HS);
    if (version == 1) {
        launch<lab_attention_scores>(dev, dim3(ceil_div(a.Tk, (int)THREADS), a.Tq, heads), THREADS, 0, scores, q, k, a,
                                     scale);
        launch<lab_attention_softmax>(dev, (unsigned)ceil_div(rows, (size_t)WARPS), THREADS, 0, scores, lse, rows,
                                      a.Tk);
        launch<lab_attention_values>(dev, dim3(a.Tq, heads), 64, 0, out, (const float *)scores, v, a);
    } else if (version == 2) {
        launch<lab_attention_online>(dev, dim3(ceil_div(a.Tq, (int)WARPS), heads), THREADS,
                                     sizeof(float) * WARPS * a.HS, out, lse, q, k, v, a, scale);
    } else {
        launch<lab_attention_tiles>(dev, dim3(ceil_div(a.Tq, 32), heads), THREADS, sizeof(float) * 32 * (3 * a.HS + 1),
                                    out, lse, q, k, v, a, scale);
    }
}
