// attention in tiles with an online softmax (Rabe & Staats 2021; Dao et al. 2022): no T x T matrix is kept, backward
// computes each tile of probabilities again from lse.
//
// Forward and dq: a block owns 64 queries and walks over tiles of keys. dk and dv: a block owns 64 keys and walks over
// tiles of queries, with every matrix transposed. Each gradient is summed by one thread in one order: no atomics, the
// same bits in every run, at the price of computing the scores twice. Heads larger than 160 (the VAE's one head of all
// channels) go through cuBLASLt and a matrix of scores in the workspace.
#include "kernels/attention_tiles.cuh"
#include "kernels/gemm.cuh"

// First element of token t of head h of sample b.
template <class T> __device__ static inline T *token(T *x, int b, int t, int h, int T_, int stride, int HS) {
    return x + ((size_t)b * T_ + t) * stride + (size_t)h * HS;
}

__device__ static inline bool visible(const Attention &a, int query, int key) {
    return query < a.Tq && key < a.Tk && (!a.causal || key <= query);
}

// The probability of a score: exp(scale score - lse). With both in units of log 2 it is one ex2.
__device__ static inline float probability(float score, float scale_log2, float lse_log2) {
    return exp2f(score * scale_log2 - lse_log2);
}

static constexpr float LOG2E = 1.4426950408889634f;
static float scale_of(const Attention &a) { return 1.0f / sqrtf((float)a.HS); }

__device__ static inline float row_max(float x) { // over the four lanes of a row
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ static inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// Turns a tile of scores into probabilities relative to the running maximum of their row, and scales what was summed
// before. top and sum are of this lane's two rows.
template <int D, int N>
__device__ static inline void online_softmax(float (&s)[N][4], float (&out)[D / 8][4], float (&top)[2], float (&sum)[2],
                                             const Attention &a, int query, int key, float scale_log2) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float best = top[r];
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = s[n][2 * r + i];
                const int k = key + n * 8 + i;
                if (k >= a.Tk || (a.causal && k > query + 8 * r)) { x = -INFINITY; }
                best = fmaxf(best, x);
            }
        }
        best = row_max(best);
        const float old = exp2f((top[r] - best) * scale_log2); // 0 at the first tile, whose key 0 every query sees
        float added = 0;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                added += s[n][2 * r + i] = probability(s[n][2 * r + i], scale_log2, best * scale_log2);
            }
        }
        sum[r] = sum[r] * old + row_sum(added);
        top[r] = best;
#pragma unroll
        for (int d = 0; d < D / 8; d++) { out[d][2 * r] *= old, out[d][2 * r + 1] *= old; }
    }
}

template <int D>
static __global__ void __launch_bounds__(Tiles<D>::threads, 2)
    forward_tiles(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                  float scale) {
    typedef Tiles<D> T;
    constexpr int tile = T::inner * T::pitch;
    floatX *Q = (floatX *)dynamic_shared, *K = Q + T::rows * T::pitch, *V = K + T::stages * tile;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * T::rows, warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32, query = first + warp * 16 + lane / 4;
    const floatX *k0 = token(k, b, 0, h, a.Tk, a.k_stride, a.HS), *v0 = token(v, b, 0, h, a.Tk, a.v_stride, a.HS);
    const int keys = a.causal ? min(a.Tk, first + T::rows) : a.Tk, tiles = ceil_div(keys, T::inner);
    auto load_keys = [&](int j) {
        load_tile<D, T::inner>(K + j % T::stages * tile, k0, a.k_stride, j * T::inner, a.Tk, a.HS);
        load_tile<D, T::inner>(V + j % T::stages * tile, v0, a.v_stride, j * T::inner, a.Tk, a.HS);
        cp_async_commit();
    };
    load_tile<D, T::rows>(Q, token(q, b, 0, h, a.Tq, a.q_stride, a.HS), a.q_stride, first, a.Tq, a.HS);
    load_keys(0);
    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    for (int j = 0; j < tiles; j++) {
        const bool ahead = T::stages == 2 && j + 1 < tiles;
        if (ahead) {
            load_keys(j + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        float s[T::inner / 8][4];
        multiply_rows<D>(s, Q + warp * 16 * T::pitch, K + j % T::stages * tile);
        online_softmax<D>(s, o, top, sum, a, query, j * T::inner + lane % 4 * 2, scale * LOG2E);
        add_product<D>(o, s, V + j % T::stages * tile);
        __syncthreads();
        if (T::stages == 1 && j + 1 < tiles) { load_keys(j + 1); }
    }
    store_rows<D>(token(out, b, 0, h, a.Tq, a.out_stride, a.HS), a.out_stride, first + warp * 16, a.Tq, a.HS,
                  Q + warp * 16 * T::pitch, o, 1 / sum[0], 1 / sum[1]);
    if (lane % 4 == 0) {
        float *to = lse + ((size_t)b * a.NH + h) * a.Tq;
        if (query < a.Tq) { to[query] = top[0] * scale + logf(sum[0]); }
        if (query + 8 < a.Tq) { to[query + 8] = top[1] * scale + logf(sum[1]); }
    }
}

// ---- Backward ------------------------------------------------------------------------------------------------------

// delta (B, NH, Tq) = sum over the head of dout out: what every row of dS = P (dP - delta) subtracts. Four lanes a row.
static __global__ void __launch_bounds__(256)
    output_dots(float *delta, const floatX *dout, const floatX *out, Attention a) {
    const int row = blockIdx.x * 64 + threadIdx.x / 4, part = threadIdx.x % 4; // row = (b Tq + t) NH + h
    const bool inside = row < a.B * a.Tq * a.NH;
    const int h = row % a.NH, bt = row / a.NH;
    float sum = 0;
    if (inside) {
        const size_t at = (size_t)bt * a.out_stride + (size_t)h * a.HS;
        for (int d = part * VEC; d < a.HS; d += 4 * VEC) {
            float x[VEC], y[VEC];
            load(x, dout + at + d);
            load(y, out + at + d);
#pragma unroll
            for (int i = 0; i < VEC; i++) { sum += x[i] * y[i]; }
        }
    }
    sum = row_sum(sum);
    if (inside && part == 0) { delta[((size_t)(bt / a.Tq) * a.NH + h) * a.Tq + bt % a.Tq] = sum; }
}

// dq of the block's queries: dq += dS k over tiles of keys.
template <int D>
static __global__ void __launch_bounds__(Tiles<D>::threads, 2)
    backward_queries(floatX *dq, const floatX *dout, const floatX *q, const floatX *k, const floatX *v,
                     const float *lse, const float *delta, Attention a, float scale) {
    typedef Tiles<D> T;
    constexpr int tile = T::inner * T::pitch, N = T::inner / 8;
    floatX *Q = (floatX *)dynamic_shared, *dO = Q + T::rows * T::pitch, *K = dO + T::rows * T::pitch;
    floatX *V = K + T::stages * tile;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * T::rows, warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32, query = first + warp * 16 + lane / 4;
    const floatX *k0 = token(k, b, 0, h, a.Tk, a.k_stride, a.HS), *v0 = token(v, b, 0, h, a.Tk, a.v_stride, a.HS);
    const int keys = a.causal ? min(a.Tk, first + T::rows) : a.Tk, tiles = ceil_div(keys, T::inner);
    auto load_keys = [&](int j) {
        load_tile<D, T::inner>(K + j % T::stages * tile, k0, a.k_stride, j * T::inner, a.Tk, a.HS);
        load_tile<D, T::inner>(V + j % T::stages * tile, v0, a.v_stride, j * T::inner, a.Tk, a.HS);
        cp_async_commit();
    };
    load_tile<D, T::rows>(Q, token(q, b, 0, h, a.Tq, a.q_stride, a.HS), a.q_stride, first, a.Tq, a.HS);
    load_tile<D, T::rows>(dO, token(dout, b, 0, h, a.Tq, a.out_stride, a.HS), a.out_stride, first, a.Tq, a.HS);
    load_keys(0);
    float lse_log2[2], row_delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const size_t at = ((size_t)b * a.NH + h) * a.Tq + query + 8 * r;
        lse_log2[r] = query + 8 * r < a.Tq ? lse[at] * LOG2E : 0;
        row_delta[r] = query + 8 * r < a.Tq ? delta[at] : 0;
    }
    float grad[D / 8][4] = {};
    for (int j = 0; j < tiles; j++) {
        const bool ahead = T::stages == 2 && j + 1 < tiles;
        if (ahead) {
            load_keys(j + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        float s[N][4], dp[N][4];
        multiply_rows<D>(s, Q + warp * 16 * T::pitch, K + j % T::stages * tile);
        multiply_rows<D>(dp, dO + warp * 16 * T::pitch, V + j % T::stages * tile);
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = j * T::inner + n * 8 + lane % 4 * 2 + i % 2, r = i / 2;
                const float p = probability(s[n][i], scale * LOG2E, lse_log2[r]);
                s[n][i] = visible(a, query + 8 * r, key) ? p * (dp[n][i] - row_delta[r]) : 0;
            }
        }
        add_product<D>(grad, s, K + j % T::stages * tile);
        __syncthreads();
        if (T::stages == 1 && j + 1 < tiles) { load_keys(j + 1); }
    }
    store_rows<D>(token(dq, b, 0, h, a.Tq, a.q_stride, a.HS), a.q_stride, first + warp * 16, a.Tq, a.HS,
                  Q + warp * 16 * T::pitch, grad, scale, scale);
}

// dk (if DK) and dv (if DV) of the block's keys: dv += P^T dout, dk += dS^T q over tiles of queries. Large heads take
// two launches, since the registers hold one gradient only.
template <int D, bool DK, bool DV>
static __global__ void __launch_bounds__(Tiles<D>::threads, 2)
    backward_keys(floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k, const floatX *v,
                  const float *lse, const float *delta, Attention a, float scale) {
    typedef Tiles<D> T;
    constexpr int tile = T::inner * T::pitch, N = T::inner / 8;
    floatX *K = (floatX *)dynamic_shared, *V = K + T::rows * T::pitch, *Q = V + T::rows * T::pitch;
    floatX *dO = Q + T::stages * tile;
    float *lse_tile = (float *)(dO + T::stages * tile), *delta_tile = lse_tile + T::stages * T::inner;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * T::rows, warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32, key = first + warp * 16 + lane / 4;
    const floatX *q0 = token(q, b, 0, h, a.Tq, a.q_stride, a.HS), *d0 = token(dout, b, 0, h, a.Tq, a.out_stride, a.HS);
    const int begin = a.causal ? first / T::inner : 0, tiles = ceil_div(a.Tq, T::inner);
    const float *head_lse = lse + ((size_t)b * a.NH + h) * a.Tq, *head_delta = delta + ((size_t)b * a.NH + h) * a.Tq;
    auto load_queries = [&](int j) {
        const int stage = j % T::stages;
        load_tile<D, T::inner>(Q + stage * tile, q0, a.q_stride, j * T::inner, a.Tq, a.HS);
        load_tile<D, T::inner>(dO + stage * tile, d0, a.out_stride, j * T::inner, a.Tq, a.HS);
        cp_async_commit();
        if (threadIdx.x < T::inner) {
            const int t = j * T::inner + threadIdx.x;
            lse_tile[stage * T::inner + threadIdx.x] = t < a.Tq ? head_lse[t] * LOG2E : 0;
            delta_tile[stage * T::inner + threadIdx.x] = t < a.Tq ? head_delta[t] : 0;
        }
    };
    load_tile<D, T::rows>(K, token(k, b, 0, h, a.Tk, a.k_stride, a.HS), a.k_stride, first, a.Tk, a.HS);
    load_tile<D, T::rows>(V, token(v, b, 0, h, a.Tk, a.v_stride, a.HS), a.v_stride, first, a.Tk, a.HS);
    load_queries(begin);
    float grad_k[DK ? D / 8 : 1][4] = {}, grad_v[DV ? D / 8 : 1][4] = {};
    for (int j = begin; j < tiles; j++) {
        const bool ahead = T::stages == 2 && j + 1 < tiles;
        if (ahead) {
            load_queries(j + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const floatX *Qj = Q + j % T::stages * tile, *dOj = dO + j % T::stages * tile;
        const float *lse_j = lse_tile + j % T::stages * T::inner, *delta_j = delta_tile + j % T::stages * T::inner;
        float p[N][4]; // transposed: rows are keys, columns queries
        multiply_rows<D>(p, K + warp * 16 * T::pitch, Qj);
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = n * 8 + lane % 4 * 2 + i % 2, query = j * T::inner + column;
                const float x = probability(p[n][i], scale * LOG2E, lse_j[column]);
                p[n][i] = visible(a, query, key + i / 2 * 8) ? x : 0;
            }
        }
        if constexpr (DV) { add_product<D>(grad_v, p, dOj); }
        if constexpr (DK) {
            float dp[N][4];
            multiply_rows<D>(dp, V + warp * 16 * T::pitch, dOj);
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) { p[n][i] *= dp[n][i] - delta_j[n * 8 + lane % 4 * 2 + i % 2]; }
            }
            add_product<D>(grad_k, p, Qj);
        }
        __syncthreads();
        if (T::stages == 1 && j + 1 < tiles) { load_queries(j + 1); }
    }
    floatX *staging = K + warp * 16 * T::pitch;
    if constexpr (DK) {
        if (dk) {
            store_rows<D>(token(dk, b, 0, h, a.Tk, a.k_stride, a.HS), a.k_stride, first + warp * 16, a.Tk, a.HS,
                          staging, grad_k, scale, scale);
        }
    }
    if constexpr (DV) {
        if (dv) {
            store_rows<D>(token(dv, b, 0, h, a.Tk, a.v_stride, a.HS), a.v_stride, first + warp * 16, a.Tk, a.HS,
                          staging, grad_v, 1, 1);
        }
    }
}

// ---- Heads of any size, by cuBLASLt --------------------------------------------------------------------------------

// Workspace of one head at a time: scores (Tq, pitch) float, dp the same, probabilities and dS (Tq, pitch) floatX.
struct Scores {
    int pitch; // Tk rounded up, so that every row is aligned
    float *scores, *dp;
    floatX *p;
    void *lt;
    size_t bytes;
};

static Scores scores_in(void *workspace, const Attention &a, bool backward) {
    Scores s = {ceil_div(a.Tk, 8) * 8, NULL, NULL, NULL, workspace, 0};
    const size_t n = ceil_div((size_t)a.Tq * s.pitch, (size_t)64) * 64;
    s.scores = (float *)((char *)workspace + LT_WORKSPACE);
    s.dp = s.scores + n;
    s.p = (floatX *)(s.dp + (backward ? n : 0));
    s.bytes = LT_WORKSPACE + n * sizeof(float) * (backward ? 2 : 1) + n * sizeof(floatX);
    return s;
}

// p (Tq, pitch) = softmax of the scores, lse (Tq). One block a row; masked and padding columns get 0.
static __global__ void __launch_bounds__(256)
    softmax_rows(floatX *p, float *lse, const float *scores, int pitch, Attention a, float scale) {
    __shared__ float scratch[2][32];
    const int t = blockIdx.x, keys = a.causal ? t + 1 : a.Tk, thread = threadIdx.x;
    const float *row = scores + (size_t)t * pitch;
    float top = -INFINITY, sum = 0;
    for (int k = thread; k < keys; k += 256) { top = fmaxf(top, row[k]); }
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) { top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, bits)); }
    if (thread % 32 == 0) { scratch[0][thread / 32] = top; }
    __syncthreads();
    for (int i = 0; i < 8; i++) { top = fmaxf(top, scratch[0][i]); }
    for (int k = thread; k < keys; k += 256) { sum += exp2f((row[k] - top) * scale * LOG2E); }
    sum = block_sum(sum, scratch[1]);
    const float l = top * scale + logf(sum);
    for (int k = thread; k < pitch; k += 256) {
        p[(size_t)t * pitch + k] = to_floatX(k < keys ? probability(row[k], scale * LOG2E, l * LOG2E) : 0);
    }
    if (thread == 0) { lse[t] = l; }
}

// GRADIENT: p = dS = P (dP - delta) scale; else p = P. One block a row.
template <bool GRADIENT>
static __global__ void __launch_bounds__(256)
    probability_rows(floatX *p, const float *scores, const float *dp, const float *lse, const float *delta, int pitch,
                     Attention a, float scale) {
    const int t = blockIdx.x, keys = a.causal ? t + 1 : a.Tk;
    const float l = lse[t] * LOG2E, d = GRADIENT ? delta[t] : 0;
    for (int k = threadIdx.x; k < pitch; k += 256) {
        const size_t at = (size_t)t * pitch + k;
        float x = 0;
        if (k < keys) {
            x = probability(scores[at], scale * LOG2E, l);
            if (GRADIENT) { x *= (dp[at] - d) * scale; }
        }
        p[at] = to_floatX(x);
    }
}

// scores (Tq, pitch) = x (Tq, HS) y (Tk, HS)^T.
static void head_scores(float *scores, const floatX *x, int x_stride, const floatX *y, int y_stride, const Scores &s,
                        const Attention &a, Device *dev) {
    product(scores, y, x, NULL, NULL, 1, 0, {true, false, a.Tk, a.Tq, a.HS, y_stride, x_stride, s.pitch, false, true},
            s.lt, dev);
}
// out (Tq, HS) = p y (Tk, HS).
static void head_rows(floatX *out, int stride, const floatX *y, int y_stride, const Scores &s, const Attention &a,
                      Device *dev) {
    product(out, y, s.p, NULL, NULL, 1, 0, {false, false, a.HS, a.Tq, a.Tk, y_stride, s.pitch, stride, false, false},
            s.lt, dev);
}
// out (Tk, HS) = p^T x (Tq, HS).
static void head_columns(floatX *out, int stride, const floatX *x, int x_stride, const Scores &s, const Attention &a,
                         Device *dev) {
    product(out, x, s.p, NULL, NULL, 1, 0, {false, true, a.HS, a.Tk, a.Tq, x_stride, s.pitch, stride, false, false},
            s.lt, dev);
}

// Offsets of head h of sample b in the tensors of queries, keys, values and outputs.
struct Head {
    size_t q, k, v, out, row;
};
static Head head_at(const Attention &a, int b, int h) {
    const size_t at = (size_t)h * a.HS, bq = (size_t)b * a.Tq, bk = (size_t)b * a.Tk;
    return {bq * a.q_stride + at, bk * a.k_stride + at, bk * a.v_stride + at, bq * a.out_stride + at,
            ((size_t)b * a.NH + h) * a.Tq};
}

static void forward_large(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                          const Attention &a, void *workspace, Device *dev) {
    const Scores s = scores_in(workspace, a, false);
    for (int i = 0; i < a.B * a.NH; i++) {
        const Head at = head_at(a, i / a.NH, i % a.NH);
        head_scores(s.scores, q + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev);
        launch<softmax_rows>(dev, a.Tq, 256, 0, s.p, lse + at.row, s.scores, s.pitch, a, scale_of(a));
        head_rows(out + at.out, a.out_stride, v + at.v, a.v_stride, s, a, dev);
    }
}

static void backward_large(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                           const floatX *v, const float *lse, const float *delta, const Attention &a, void *workspace,
                           Device *dev) {
    const Scores s = scores_in(workspace, a, true);
    const float scale = scale_of(a);
    for (int i = 0; i < a.B * a.NH; i++) {
        const Head at = head_at(a, i / a.NH, i % a.NH);
        head_scores(s.scores, q + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev);
        if (dv) {
            launch<probability_rows<false>>(dev, a.Tq, 256, 0, s.p, s.scores, s.dp, lse + at.row, delta + at.row,
                                            s.pitch, a, scale);
            head_columns(dv + at.v, a.v_stride, dout + at.out, a.out_stride, s, a, dev);
        }
        if (!dq && !dk) { continue; }
        head_scores(s.dp, dout + at.out, a.out_stride, v + at.v, a.v_stride, s, a, dev);
        launch<probability_rows<true>>(dev, a.Tq, 256, 0, s.p, s.scores, s.dp, lse + at.row, delta + at.row, s.pitch, a,
                                       scale);
        if (dq) { head_rows(dq + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev); }
        if (dk) { head_columns(dk + at.k, a.k_stride, q + at.q, a.q_stride, s, a, dev); }
    }
}

// ---- The functions of kernels.h ------------------------------------------------------------------------------------

enum { LARGEST_TILED = 160 };

// Bytes of shared memory: `owned` tiles of the block's rows, two tiles per stage that it walks over, lse and delta.
template <int D> static size_t shared_bytes(int owned) {
    typedef Tiles<D> T;
    return sizeof(floatX) * T::pitch * (owned * T::rows + 2 * T::stages * T::inner) +
           sizeof(float) * 2 * T::stages * T::inner;
}

template <int D> static dim3 grid_of(int tokens, const Attention &a) {
    return dim3(ceil_div(tokens, Tiles<D>::rows), a.NH, a.B);
}

template <int D>
static void forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                    Device *dev) {
    launch<forward_tiles<D>>(dev, grid_of<D>(a.Tq, a), Tiles<D>::threads, shared_bytes<D>(1), out, lse, q, k, v, a,
                             scale_of(a));
}

template <int D>
static void backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                     const floatX *v, const float *lse, const float *delta, Attention a, Device *dev) {
    const dim3 queries = grid_of<D>(a.Tq, a), keys = grid_of<D>(a.Tk, a);
    const int threads = Tiles<D>::threads;
    const size_t shared = shared_bytes<D>(2);
    const float scale = scale_of(a);
    if (dq) { launch<backward_queries<D>>(dev, queries, threads, shared, dq, dout, q, k, v, lse, delta, a, scale); }
    if constexpr (D <= 96) {
        if (dk || dv) {
            launch<backward_keys<D, true, true>>(dev, keys, threads, shared, dk, dv, dout, q, k, v, lse, delta, a,
                                                 scale);
        }
    } else {
        if (dk) {
            launch<backward_keys<D, true, false>>(dev, keys, threads, shared, dk, dv, dout, q, k, v, lse, delta, a,
                                                  scale);
        }
        if (dv) {
            launch<backward_keys<D, false, true>>(dev, keys, threads, shared, dk, dv, dout, q, k, v, lse, delta, a,
                                                  scale);
        }
    }
}

// Query-key pairs that are looked at.
static double pairs_of(const Attention &a) {
    return (double)a.B * a.NH * (a.causal ? 0.5 * a.Tq * (a.Tq + 1.0) : (double)a.Tq * a.Tk);
}

void attention_forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                       Device *dev) {
    const double tokens = (double)a.B * a.NH * a.HS, bytes = sizeof(floatX) * tokens * 2.0 * ((double)a.Tq + a.Tk);
    const bool run = device_launch(dev, "attention_forward", bytes + 4.0 * a.B * a.NH * a.Tq, 4.0 * a.HS * pairs_of(a));
    void *workspace = a.HS > LARGEST_TILED ? device_workspace(dev, scores_in(NULL, a, false).bytes) : NULL;
    if (!run) { return; }
    if (a.HS > LARGEST_TILED) { return forward_large(out, lse, q, k, v, a, workspace, dev); }
    auto *tiled = a.HS <= 32    ? forward<32>
                  : a.HS <= 48  ? forward<48>
                  : a.HS <= 64  ? forward<64>
                  : a.HS <= 80  ? forward<80>
                  : a.HS <= 96  ? forward<96>
                  : a.HS <= 128 ? forward<128>
                                : forward<160>;
    tiled(out, lse, q, k, v, a, dev);
}

void attention_backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                        const floatX *v, const floatX *out, const float *lse, Attention a, Device *dev) {
    const double tokens = (double)a.B * a.NH * a.HS, rows = (double)a.B * a.NH * a.Tq;
    const double bytes =
        sizeof(floatX) * tokens * (3.0 * a.Tq + 2.0 * a.Tk + (dq ? a.Tq : 0) + (dk ? a.Tk : 0.0) + (dv ? a.Tk : 0));
    const bool run = device_launch(dev, "attention_backward", bytes + 4.0 * rows, 10.0 * a.HS * pairs_of(a));
    const size_t delta_bytes = ceil_div((size_t)rows * sizeof(float), (size_t)256) * 256;
    const size_t large = a.HS > LARGEST_TILED ? scores_in(NULL, a, true).bytes : 0;
    float *delta = (float *)device_workspace(dev, delta_bytes + large);
    if (!run) { return; }
    launch<output_dots>(dev, (unsigned)ceil_div((size_t)rows, (size_t)64), 256, 0, delta, dout, out, a);
    if (large) { return backward_large(dq, dk, dv, dout, q, k, v, lse, delta, a, (char *)delta + delta_bytes, dev); }
    auto *tiled = a.HS <= 32    ? backward<32>
                  : a.HS <= 48  ? backward<48>
                  : a.HS <= 64  ? backward<64>
                  : a.HS <= 80  ? backward<80>
                  : a.HS <= 96  ? backward<96>
                  : a.HS <= 128 ? backward<128>
                                : backward<160>;
    tiled(dq, dk, dv, dout, q, k, v, lse, delta, a, dev);
}
