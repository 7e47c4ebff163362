// Steps to attention_forward (kernels/attention.cu), for heads of at most 160. SD2's largest case has 10 heads x
// samples of 4096 queries and keys of 64 numbers: 43 GFLOP, 0.14 ms of an A100's tensor cores, and 21 MB of q, k, v and
// out.
#include "bench/lab/steps.h"
#include "kernels/attention_tiles.cuh"

enum { WARPS = THREADS / 32, LANE_COLUMNS = 5, QUERIES = 4 }; // 5 x 32 columns; queries per warp

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

// Version 2: the same three steps, with both products on tensor cores: 0.14 ms instead of 2.2 ms at an A100's rates. A
// warp has 16 queries and takes 32 keys at a time; kernels/attention_tiles.cuh has the products and their layout. The
// matrix of scores still costs 1.7 ms of memory: faster arithmetic alone does not help.
enum { MMA_QUERIES = 16, MMA_KEYS = 32 };
template <int D> struct Sizes { // for heads of at most D
    static constexpr int threads = Tiles<D>::threads, queries = MMA_QUERIES * Tiles<D>::warps, pitch = Layout<D>::pitch;
    static constexpr size_t shared = sizeof(floatX) * pitch * (queries + 2 * MMA_KEYS); // queries, keys, values
};
typedef float Scores[1][MMA_KEYS / 8][4]; // a lane's 16 of a warp's 16 x 32
__device__ static inline int row_of(int i) { return threadIdx.x % 32 / 4 + i / 2 * 8; }
__device__ static inline int column_of(int n, int i) { return 8 * n + threadIdx.x % 4 * 2 + i % 2; }
__device__ static inline int first_row_of_warp() { return threadIdx.x / 32 * MMA_QUERIES; }

__device__ static inline void wait_for_tiles() {
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
}

template <int D>
static __global__ void __launch_bounds__(Sizes<D>::threads, 2)
    lab_attention_scores_mma(float *scores, const floatX *q, const floatX *k, Attention a, float scale) {
    typedef Sizes<D> S;
    floatX *queries = (floatX *)dynamic_shared, *keys = queries + S::queries * S::pitch;
    const int first_key = blockIdx.x * MMA_KEYS, first_query = blockIdx.y * S::queries, bh = blockIdx.z;
    load_tile<D, S::queries>(queries, token(q, bh, 0, a.Tq, a.q_stride, a), a.q_stride, first_query, a.Tq, a.HS);
    load_tile<D, MMA_KEYS>(keys, token(k, bh, 0, a.Tk, a.k_stride, a), a.k_stride, first_key, a.Tk, a.HS);
    wait_for_tiles();
    Scores s;
    multiply_rows<D>(s, Left<D, 1, 0>(queries, first_row_of_warp()), keys);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int query = first_query + first_row_of_warp() + row_of(i % 4), key = first_key + column_of(i / 4, i % 4);
        if (query >= a.Tq || key >= a.Tk) { continue; }
        const bool hidden = a.causal && key > query;
        scores[((size_t)bh * a.Tq + query) * a.Tk + key] = hidden ? -INFINITY : scale * s[0][i / 4][i % 4];
    }
}

// Writes a warp's 16 rows, row r multiplied by scale[r / 8].
template <int D>
__device__ static inline void store_rows(floatX *out, const float (&o)[1][D / 8][4], const float (&scale)[2], int bh,
                                         int first_query, const Attention &a) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int query = first_query + first_row_of_warp() + row_of(2 * r);
        if (query >= a.Tq) { continue; }
        floatX *row = token(out, bh, query, a.Tq, a.out_stride, a);
#pragma unroll
        for (int i = 0; i < D / 4; i++) {
            const int d = column_of(i / 2, i % 2);
            if (d < a.HS) { row[d] = to_floatX(scale[r] * o[0][i / 2][2 * r + i % 2]); }
        }
    }
}

template <int D>
static __global__ void __launch_bounds__(Sizes<D>::threads, 2)
    lab_attention_values_mma(floatX *out, const float *scores, const floatX *v, Attention a) {
    floatX *values = (floatX *)dynamic_shared;
    const int first_query = blockIdx.x * Sizes<D>::queries, bh = blockIdx.y;
    float o[1][D / 8][4] = {};
    for (int first = 0; first < a.Tk; first += MMA_KEYS) {
        __syncthreads();
        load_tile<D, MMA_KEYS>(values, token(v, bh, 0, a.Tk, a.v_stride, a), a.v_stride, first, a.Tk, a.HS);
        Scores p;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int query = first_query + first_row_of_warp() + row_of(i % 4), key = first + column_of(i / 4, i % 4);
            const bool exists = query < a.Tq && key < a.Tk;
            p[0][i / 4][i % 4] = exists ? scores[((size_t)bh * a.Tq + query) * a.Tk + key] : 0.0f;
        }
        wait_for_tiles();
        add_product<D>(o, p, values);
    }
    const float ones[2] = {1, 1};
    store_rows<D>(out, o, ones, bh, first_query, a);
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

// Version 3: online softmax with a warp per query. It needs no matrix of scores; the 43 GFLOP are multiply-adds (2.2 ms
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

// Version 4: a block of 32 queries reads keys and values once for all of them, 32 at a time, into shared memory: 0.3
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

// Version 5: tensor cores and online softmax together. Scores, probabilities and sums stay in the registers of the warp
// that owns the queries: of the layout of a score, a probability is already an operand of the second product. The warps
// wait for each tile of keys and values, and nothing multiplies meanwhile.
struct RunningRows { // of a lane's two rows
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    // Turns the scores of 32 keys into probabilities, and rescales o. sum covers only this lane's columns.
    template <int D> __device__ void take(Scores &s, float (&o)[1][D / 8][4]) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float best = top[r];
#pragma unroll
            for (int i = 0; i < 8; i++) { best = fmaxf(best, s[0][i / 2][2 * r + i % 2]); }
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
            const float shrink = __expf(top[r] - best);
            top[r] = best;
            sum[r] *= shrink;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                sum[r] += s[0][i / 2][2 * r + i % 2] = __expf(s[0][i / 2][2 * r + i % 2] - best);
            }
#pragma unroll
            for (int i = 0; i < D / 4; i++) { o[0][i / 2][2 * r + i % 2] *= shrink; }
        }
    }
    // The inverse sums of whole rows; writes lse from query on.
    __device__ void finish(float (&inverse)[2], float *lse, int query, int Tq) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = sum[r] + __shfl_xor_sync(0xffffffffu, sum[r], 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            inverse[r] = 1 / total;
            if (threadIdx.x % 4 == 0 && query + 8 * r < Tq) { lse[query + 8 * r] = top[r] + __logf(total); }
        }
    }
};

template <int D>
static __global__ void __launch_bounds__(Sizes<D>::threads, 2)
    lab_attention_mma(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                      float scale) {
    typedef Sizes<D> S;
    floatX *queries = (floatX *)dynamic_shared, *keys = queries + S::queries * S::pitch;
    floatX *values = keys + MMA_KEYS * S::pitch;
    const int first_query = blockIdx.x * S::queries, query = first_query + first_row_of_warp(), bh = blockIdx.y;
    const int end = a.causal ? min(first_query + S::queries, a.Tk) : a.Tk;
    RunningRows rows;
    float o[1][D / 8][4] = {}, inverse[2];
    load_tile<D, S::queries>(queries, token(q, bh, 0, a.Tq, a.q_stride, a), a.q_stride, first_query, a.Tq, a.HS);
    for (int first = 0; first < end; first += MMA_KEYS) {
        __syncthreads();
        load_tile<D, MMA_KEYS>(keys, token(k, bh, 0, a.Tk, a.k_stride, a), a.k_stride, first, a.Tk, a.HS);
        load_tile<D, MMA_KEYS>(values, token(v, bh, 0, a.Tk, a.v_stride, a), a.v_stride, first, a.Tk, a.HS);
        wait_for_tiles();
        Scores s;
        multiply_rows<D>(s, Left<D, 1, 0>(queries, first_row_of_warp()), keys);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int key = first + column_of(i / 4, i % 4);
            const bool hidden = key >= a.Tk || (a.causal && key > query + row_of(i % 4));
            s[0][i / 4][i % 4] = hidden ? -INFINITY : scale * s[0][i / 4][i % 4];
        }
        rows.take<D>(s, o);
        add_product<D>(o, s, values);
    }
    rows.finish(inverse, lse + (size_t)bh * a.Tq, query + row_of(0), a.Tq);
    store_rows<D>(out, o, inverse, bh, first_query, a);
}

// Version 6, kernels/attention.cu: copies run ahead of the products, 32 queries per warp in bf16, so that what ldmatrix
// reads is multiplied twice, queries in registers, and exponentials of base 2 with the scale in the same multiply-add.

// Calls the function for the smallest D that holds a head.
template <class F> static void with_head(int HS, F f) {
    if (HS <= 32) {
        f(Sizes<32>());
    } else if (HS <= 64) {
        f(Sizes<64>());
    } else if (HS <= 128) {
        f(Sizes<128>());
    } else {
        f(Sizes<160>());
    }
}

template <int D>
static void lab_attention_in_memory(Sizes<D>, floatX *out, float *scores, float *lse, const floatX *q, const floatX *k,
                                    const floatX *v, Attention a, float scale, Device *dev) {
    typedef Sizes<D> S;
    const int heads = a.B * a.NH, blocks = ceil_div(a.Tq, (int)S::queries);
    const size_t rows = (size_t)heads * a.Tq;
    launch<lab_attention_scores_mma<D>>(dev, dim3(ceil_div(a.Tk, (int)MMA_KEYS), blocks, heads), S::threads, S::shared,
                                        scores, q, k, a, scale);
    launch<lab_attention_softmax>(dev, (unsigned)ceil_div(rows, (size_t)WARPS), THREADS, 0, scores, lse, rows, a.Tk);
    launch<lab_attention_values_mma<D>>(dev, dim3(blocks, heads), S::threads, S::shared, out, (const float *)scores, v,
                                        a);
}

template <int D>
static void lab_attention_in_registers(Sizes<D>, floatX *out, float *lse, const floatX *q, const floatX *k,
                                       const floatX *v, Attention a, float scale, Device *dev) {
    typedef Sizes<D> S;
    launch<lab_attention_mma<D>>(dev, dim3(ceil_div(a.Tq, (int)S::queries), a.B * a.NH), S::threads, S::shared, out,
                                 lse, q, k, v, a, scale);
}

void lab_attention_forward(int version, floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                           Attention a, Device *dev) {
    const int heads = a.B * a.NH;
    const size_t rows = (size_t)heads * a.Tq;
    float *scores = version <= 2 ? (float *)device_workspace(dev, rows * a.Tk * sizeof(float)) : NULL;
    if (dev->plan_only) { return; }
    const float scale = 1.0f / sqrtf((float)a.HS);
    if (version == 1) {
        launch<lab_attention_scores>(dev, dim3(ceil_div(a.Tk, (int)THREADS), a.Tq, heads), THREADS, 0, scores, q, k, a,
                                     scale);
        launch<lab_attention_softmax>(dev, (unsigned)ceil_div(rows, (size_t)WARPS), THREADS, 0, scores, lse, rows,
                                      a.Tk);
        launch<lab_attention_values>(dev, dim3(a.Tq, heads), 64, 0, out, (const float *)scores, v, a);
    } else if (version == 2) {
        with_head(a.HS, [&](auto sizes) { lab_attention_in_memory(sizes, out, scores, lse, q, k, v, a, scale, dev); });
    } else if (version == 3) {
        launch<lab_attention_online>(dev, dim3(ceil_div(a.Tq, (int)WARPS), heads), THREADS,
                                     sizeof(float) * WARPS * a.HS, out, lse, q, k, v, a, scale);
    } else if (version == 4) {
        launch<lab_attention_tiles>(dev, dim3(ceil_div(a.Tq, 32), heads), THREADS, sizeof(float) * 32 * (3 * a.HS + 1),
                                    out, lse, q, k, v, a, scale);
    } else {
        with_head(a.HS, [&](auto sizes) { lab_attention_in_registers(sizes, out, lse, q, k, v, a, scale, dev); });
    }
}
