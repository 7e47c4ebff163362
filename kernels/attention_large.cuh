// attention.cu's heads of any size: products with cuBLASLt, one head at a time.
#pragma once
#include "kernels/attention_rows.cuh"
#include "kernels/gemm.cuh"
#include "kernels/ptx.cuh"

// Workspace for one head at a time: scores and dp (Tq, pitch) float, probabilities and dS (Tq, pitch) floatX.
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

// p (Tq, pitch) = softmax of the scores, lse (Tq). One block per row; masked and padding columns get 0.
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
        p[(size_t)t * pitch + k] = to_floatX(k < keys ? exp2_fast(row[k] * scale * LOG2E - l * LOG2E) : 0);
    }
    if (thread == 0) { lse[t] = l; }
}

// GRADIENT: p = dS = P (dP - delta) scale; otherwise p = P. One block per row.
template <bool GRADIENT>
static __global__ void __launch_bounds__(256)
    probability_rows(floatX *p, const float *scores, const float *dp, const float2 *rows, int pitch, Attention a,
                     float scale) {
    const int t = blockIdx.x, keys = a.causal ? t + 1 : a.Tk;
    const float l = rows[t].x, d = rows[t].y;
    for (int k = threadIdx.x; k < pitch; k += 256) {
        const size_t at = (size_t)t * pitch + k;
        float x = 0;
        if (k < keys) {
            x = exp2_fast(scores[at] * scale * LOG2E - l);
            if (GRADIENT) { x *= (dp[at] - d) * scale; }
        }
        p[at] = to_floatX(x);
    }
}

// scores (Tq, pitch) = x (Tq, HS) y (Tk, HS)^T.
static void head_scores(float *scores, const floatX *x, int x_stride, const floatX *y, int y_stride, const Scores &s,
                        const Attention &a, Device *dev) {
    const Product p = {.transpose_a = true,
                       .m = a.Tk,
                       .n = a.Tq,
                       .k = a.HS,
                       .lda = y_stride,
                       .ldb = x_stride,
                       .ldd = s.pitch,
                       .float_out = true};
    product(scores, y, x, NULL, NULL, 1, 0, p, s.lt, dev);
}
// out (Tq, HS) = p y (Tk, HS).
static void head_rows(floatX *out, int stride, const floatX *y, int y_stride, const Scores &s, const Attention &a,
                      Device *dev) {
    const Product p = {.m = a.HS, .n = a.Tq, .k = a.Tk, .lda = y_stride, .ldb = s.pitch, .ldd = stride};
    product(out, y, s.p, NULL, NULL, 1, 0, p, s.lt, dev);
}
// out (Tk, HS) = p^T x (Tq, HS).
static void head_columns(floatX *out, int stride, const floatX *x, int x_stride, const Scores &s, const Attention &a,
                         Device *dev) {
    const Product p = {
        .transpose_b = true, .m = a.HS, .n = a.Tk, .k = a.Tq, .lda = x_stride, .ldb = s.pitch, .ldd = stride};
    product(out, x, s.p, NULL, NULL, 1, 0, p, s.lt, dev);
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

static size_t forward_large_bytes(const Attention &a) { return scores_in(NULL, a, false).bytes; }

static void forward_large(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                          const Attention &a, float scale, void *workspace, Device *dev) {
    const Scores s = scores_in(workspace, a, false);
    for (int i = 0; i < a.B * a.NH; i++) {
        const Head at = head_at(a, i / a.NH, i % a.NH);
        head_scores(s.scores, q + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev);
        launch<softmax_rows>(dev, a.Tq, 256, 0, s.p, lse + at.row, s.scores, s.pitch, a, scale);
        head_rows(out + at.out, a.out_stride, v + at.v, a.v_stride, s, a, dev);
    }
}

// Bytes of output_dots' rows, which come before the scores.
static size_t rows_bytes(const Attention &a) {
    return sizeof(float2) * ceil_div((size_t)a.B * a.NH * a.Tq, (size_t)32) * 32;
}
static size_t backward_large_bytes(const Attention &a) { return rows_bytes(a) + scores_in(NULL, a, true).bytes; }

static void backward_large(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                           const floatX *v, const floatX *out, const float *lse, const Attention &a, float scale,
                           void *workspace, Device *dev) {
    float2 *rows = (float2 *)workspace;
    const Scores s = scores_in((char *)rows + rows_bytes(a), a, true);
    launch<output_dots>(dev, dim3(ceil_div(a.Tq, 64), a.B * a.NH), 256, 0, rows, (unsigned *)NULL, 0u, dout, out, lse,
                        a, a.Tq);
    for (int i = 0; i < a.B * a.NH; i++) {
        const Head at = head_at(a, i / a.NH, i % a.NH);
        head_scores(s.scores, q + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev);
        if (dv) {
            launch<probability_rows<false>>(dev, a.Tq, 256, 0, s.p, s.scores, s.dp, rows + at.row, s.pitch, a, scale);
            head_columns(dv + at.v, a.v_stride, dout + at.out, a.out_stride, s, a, dev);
        }
        if (!dq && !dk) { continue; }
        head_scores(s.dp, dout + at.out, a.out_stride, v + at.v, a.v_stride, s, a, dev);
        launch<probability_rows<true>>(dev, a.Tq, 256, 0, s.p, s.scores, s.dp, rows + at.row, s.pitch, a, scale);
        if (dq) { head_rows(dq + at.q, a.q_stride, k + at.k, a.k_stride, s, a, dev); }
        if (dk) { head_columns(dk + at.k, a.k_stride, q + at.q, a.q_stride, s, a, dev); }
    }
}
