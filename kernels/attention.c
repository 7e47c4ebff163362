// attention in tiles with an online softmax (Rabe & Staats 2021; Dao et al. 2022): no T x T matrix is kept, backward
// computes each tile of probabilities again from lse. Tiles of scores are held transposed, (keys, queries): a vector
// register is a row of queries, so that maxima and sums need no step across its lanes, and only the queries (and dout)
// of a tile are packed. out and dq of a tile are summed transposed as well, (head size, queries), so that both vectors
// of a register tile are full for every head size.
//
// Against the plain loops (reference.c):
// - They go over the keys three times for each query: maximum, sum, output. Here once: when a tile of keys brings a
//   larger maximum, what was summed so far shrinks by exp(old - new).
// - A key and its value are read once for BQ queries, not for each, and all products are gemm.c's tiles in registers.
// - Backward cuts the keys into parts among the threads. A part owns its rows of dk and dv; the parts' dq are added
//   up in order. Their number depends on the shape alone, and so do the bits.
#include "kernels/cost.h"
#include "kernels/gemm.h"
#include "kernels/vecmath.h"
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

enum { BQ = 64, BK = 64 }; // queries (a multiple of NR) and keys of a tile

// The offset of the first element of token t, head h, sample b.
static inline size_t token(int b, int t, int h, int T, int stride, int HS) {
    return ((size_t)b * T + t) * stride + (size_t)h * HS;
}

// Asks for n rows: they are too far apart for the hardware to foresee them. Also for results: prefetching them for
// writing was slower.
ALWAYS_INLINE void prefetch_rows(const float *rows, int stride, int n, int HS) {
    for (int i = 0; i < n; i++) { prefetch(rows + (size_t)i * stride, HS); }
}

// packed (BQ / NR panels of (HS, NR)) = the transpose of nq rows.
static void pack_queries(float *packed, const float *rows, int stride, int nq, int HS) {
    for (int j = 0; j < nq; j += NR) {
        gemm_pack_transposed(packed + (size_t)j * HS, rows + (size_t)j * stride, stride, HS, min(NR, nq - j));
    }
}

// tile (nk, BQ) = keys packed: the products of nk keys with every packed query. Columns from nq up to the next multiple
// of VEC become 0.
static void scores(float *tile, const float *keys, int stride, const float *packed, int nk, int nq, int HS) {
    int columns = ceil_div(nq, VEC) * VEC;
    for (int j = 0; j < columns; j += NR) {
        gemm_strip(tile + j, NULL, BQ, keys, stride, 1, packed + (size_t)j * HS, NR, HS, nk, min(NR, columns - j));
    }
}

// n columns of `count` rows as the right matrix of a product: used in place, or copied to panel (count, NR) if the last
// vector would read beyond a row.
static const float *whole_vectors(const float *rows, ptrdiff_t stride, int count, int n, float *panel,
                                  ptrdiff_t *step) {
    *step = stride;
    if (n % VEC == 0) { return rows; }
    gemm_copy_columns(panel, rows, stride, count, n);
    *step = NR;
    return panel;
}

// sums (HS, BQ) = init + rows (nk, HS)^T tile (nk, BQ): init is sums, or NULL for 0.
static void add_down(float *sums, const float *init, const float *tile, const float *rows, int stride, int nk,
                     int columns, int HS) {
    for (int j = 0; j < columns; j += NR) {
        gemm_strip(sums + j, init ? init + j : NULL, BQ, rows, 1, stride, tile + j, BQ, nk, HS, min(NR, columns - j));
    }
}

// rows (nq, HS) = the transpose of sums (HS, BQ), few rows at a time: rows a multiple of 4 KB apart share an L1 set.
static void unpack_queries(float *rows, int stride, const float *sums, int nq, int HS) {
    for (int i = 0; i < nq; i += 8) {
        gemm_transpose(rows + (size_t)i * stride, stride, sums + i, BQ, min(8, nq - i), HS);
    }
}

// out (nk, HS) = init + tile (nk, BQ) rows (nq, HS): init is out, or NULL for 0.
static void add_across(float *out, const float *init, int out_stride, const float *tile, const float *rows, int stride,
                       int nk, int nq, int HS) {
    float panel[BQ * NR];
    for (int j = 0; j < HS; j += NR) {
        int n = min(NR, HS - j);
        ptrdiff_t step;
        const float *b = whole_vectors(rows + j, stride, nq, n, panel, &step);
        gemm_strip(out + j, init ? init + j : NULL, out_stride, tile, BQ, 1, b, step, nq, nk, n);
    }
}

static void mask_future(float *tile, int q0, int k0, int nk, int nq) {
    for (int k = 0; k < nk; k++) {
        for (int i = 0; i < min(nq, k0 + k - q0); i++) { tile[k * BQ + i] = -INFINITY; }
    }
}

// A loop over the queries of a row, in whole registers: without simdlen, compilers use only half of AVX-512's.
#define EACH_QUERY(i)                                                                                                  \
    for (int first = 0; first < columns; first += VEC)                                                                 \
    _Pragma("omp simd simdlen(VEC)") for (int i = first; i < first + VEC; i++)

// Turns scores into exp(scale score - m), where m is the running maximum of the scaled scores. factor: what the earlier
// sums of each query must be multiplied by.
static void online_softmax(float *tile, float *m, float *sum, float *factor, float scale, int nk, int columns) {
    float top[BQ];
    for (int i = 0; i < columns; i++) { top[i] = m[i]; }
    for (int k = 0; k < nk; k++) {
        EACH_QUERY(i) {
            float s = tile[k * BQ + i] * scale;
            top[i] = s > top[i] ? s : top[i];
        }
    }
    EACH_QUERY(i) {
        factor[i] = fast_expf_softmax(m[i] - top[i]);
        m[i] = top[i];
        sum[i] *= factor[i];
    }
    for (int k = 0; k < nk; k++) {
        EACH_QUERY(i) {
            float e = fast_expf_softmax(tile[k * BQ + i] * scale - top[i]);
            tile[k * BQ + i] = e;
            sum[i] += e;
        }
    }
}

// sums (HS, BQ) *= factor (BQ).
static void scale_queries(float *sums, const float *factor, int columns, int HS) {
    for (int j = 0; j < HS; j++) {
        EACH_QUERY(i) { sums[j * BQ + i] *= factor[i]; }
    }
}

// The number of keys that a tile of queries sees.
static int visible(const Attention *a, int q0, int nq) { return a->causal ? min(a->Tk, q0 + nq) : a->Tk; }

// One tile of queries of one head; scratch holds 2 BQ * HS + BK * BQ floats.
static void forward_tile(float *out, float *lse, const float *q, const float *k, const float *v, const Attention *a,
                         int q0, float *scratch) {
    int nq = min(BQ, a->Tq - q0), columns = ceil_div(nq, VEC) * VEC, HS = a->HS, Tk = visible(a, q0, nq);
    float *packed = scratch, *sums = packed + (size_t)BQ * HS, *tile = sums + (size_t)BQ * HS;
    float m[BQ], sum[BQ], factor[BQ];
    for (int i = 0; i < BQ; i++) { m[i] = -INFINITY, sum[i] = 0; }
    prefetch_rows(q, a->q_stride, nq, HS);
    prefetch_rows(k, a->k_stride, min(BK, Tk), HS);
    pack_queries(packed, q, a->q_stride, nq, HS);
    for (int k0 = 0; k0 < Tk; k0 += BK) {
        int nk = min(BK, Tk - k0);
        prefetch_rows(v + (size_t)k0 * a->v_stride, a->v_stride, nk, HS);
        if (k0 == 0) { prefetch_rows(out, a->out_stride, nq, HS); }
        scores(tile, k + (size_t)k0 * a->k_stride, a->k_stride, packed, nk, nq, HS);
        if (a->causal && k0 + nk > q0) { mask_future(tile, q0, k0, nk, nq); }
        online_softmax(tile, m, sum, factor, 1 / sqrtf(HS), nk, columns);
        if (k0) { scale_queries(sums, factor, columns, HS); }
        add_down(sums, k0 ? sums : NULL, tile, v + (size_t)k0 * a->v_stride, a->v_stride, nk, columns, HS);
    }
    for (int i = 0; i < nq; i++) {
        factor[i] = 1 / sum[i];
        lse[i] = m[i] + logf(sum[i]);
    }
    scale_queries(sums, factor, columns, HS);
    unpack_queries(out, a->out_stride, sums, nq, HS);
}

void attention_forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention attention,
                       Device *dev) {
    const Attention *a = &attention;
    assert(a->HS > 0 && (!a->causal || a->Tq == a->Tk));
    bool run = device_launch(dev, "attention_forward", attention_forward_cost(attention));
    size_t floats = 2 * (size_t)BQ * a->HS + BK * BQ; // of a thread
    float *scratch = device_workspace(dev, omp_get_max_threads() * floats * sizeof(float));
    if (!run) { return; }
    int tiles = ceil_div(a->Tq, BQ);
#pragma omp parallel for collapse(3) schedule(dynamic)
    for (int b = 0; b < a->B; b++) {
        for (int h = 0; h < a->NH; h++) {
            for (int i = 0; i < tiles; i++) {
                forward_tile(
                    out + token(b, i * BQ, h, a->Tq, a->out_stride, a->HS),
                    lse + ((size_t)b * a->NH + h) * a->Tq + i * BQ, q + token(b, i * BQ, h, a->Tq, a->q_stride, a->HS),
                    k + token(b, 0, h, a->Tk, a->k_stride, a->HS), v + token(b, 0, h, a->Tk, a->v_stride, a->HS), a,
                    i * BQ, scratch + omp_get_thread_num() * floats);
            }
        }
    }
}

// ---- Backward ------------------------------------------------------------------------------------------------------

// A part of a head's keys. Heads are cut into parts so that few heads keep many threads busy. A part owns its rows of
// dk and dv and sums dq in its own array.
typedef struct {
    float *dq, *dk, *dv; // of the part's head; dq dense (Tq, HS) or with q's stride
    const float *dout, *q, *k, *v, *out, *lse;
    int dq_stride, k0, k1; // the part's keys
} Part;

// delta (nq) = sum of dout * out, which softmax's backward subtracts.
static void row_products(float *delta, const float *dout, const float *out, int stride, int nq, int HS) {
    for (int i = 0; i < nq; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < HS; j++) { sum += dout[(size_t)i * stride + j] * out[(size_t)i * stride + j]; }
        delta[i] = sum;
    }
}

// Converts scores to probabilities p, and dp to dscores = p (dp - delta) scale. (Inlined into the long loop below, gcc
// would load exp's constants again for each vector.)
static __attribute__((noinline)) void softmax_backward(float *p, float *dp, const float *lse, const float *delta,
                                                       float scale, int nk, int columns) {
    for (int k = 0; k < nk; k++) {
        EACH_QUERY(i) {
            float e = fast_expf_softmax(p[k * BQ + i] * scale - lse[i]);
            p[k * BQ + i] = e;
            dp[k * BQ + i] = e * (dp[k * BQ + i] - delta[i]) * scale;
        }
    }
}

static void zero_rows(float *to, int stride, int rows, int HS) {
    for (int i = 0; i < rows; i++) { memset(to + (size_t)i * stride, 0, HS * sizeof *to); }
}

// A tile of queries.
typedef struct {
    const float *q, *dout;
    float *packed_q, *packed_d, lse[BQ], delta[BQ];
    int q0, nq, columns; // columns: nq, rounded up to whole vectors
} Queries;

static void read_queries(Queries *t, const Part *part, const Attention *a) {
    const float *out = part->out + (size_t)t->q0 * a->out_stride;
    t->q = part->q + (size_t)t->q0 * a->q_stride, t->dout = part->dout + (size_t)t->q0 * a->out_stride;
    prefetch_rows(out, a->out_stride, t->nq, a->HS);
    prefetch_rows(t->dout, a->out_stride, t->nq, a->HS);
    prefetch_rows(t->q, a->q_stride, t->nq, a->HS);
    for (int i = 0; i < BQ; i++) { t->lse[i] = i < t->nq ? part->lse[t->q0 + i] : 0, t->delta[i] = 0; }
    row_products(t->delta, t->dout, out, a->out_stride, t->nq, a->HS);
    pack_queries(t->packed_q, t->q, a->q_stride, t->nq, a->HS);
    pack_queries(t->packed_d, t->dout, a->out_stride, t->nq, a->HS);
}

// The tile of queries and nk keys from k0 on. sums (HS, BQ): dq, or NULL; p: 2 BK * BQ floats.
static void backward_tile(float *sums, const Part *part, const Queries *t, const Attention *a, int k0, int nk,
                          float *p) {
    int HS = a->HS, k_stride = a->k_stride, v_stride = a->v_stride;
    size_t at_k = (size_t)k0 * k_stride, at_v = (size_t)k0 * v_stride;
    const float *k = part->k + at_k, *v = part->v + at_v;
    float *dk = part->dk ? part->dk + at_k : NULL, *dv = part->dv ? part->dv + at_v : NULL, *dp = p + BK * BQ;
    bool first = t->q0 == 0 && !a->causal; // else the rows of dk and dv hold sums, or zeros
    prefetch_rows(k, k_stride, nk, HS);
    prefetch_rows(v, v_stride, nk, HS);
    scores(p, k, k_stride, t->packed_q, nk, t->nq, HS);
    if (a->causal && k0 + nk > t->q0) { mask_future(p, t->q0, k0, nk, t->nq); }
    if (dk) { prefetch_rows(dk, k_stride, nk, HS); }
    if (dv) { prefetch_rows(dv, v_stride, nk, HS); }
    scores(dp, v, v_stride, t->packed_d, nk, t->nq, HS);
    softmax_backward(p, dp, t->lse, t->delta, 1 / sqrtf(HS), nk, t->columns);
    if (dv) { add_across(dv, first ? NULL : dv, v_stride, p, t->dout, a->out_stride, nk, t->nq, HS); }
    if (dk) { add_across(dk, first ? NULL : dk, k_stride, dp, t->q, a->q_stride, nk, t->nq, HS); }
    if (sums) { add_down(sums, k0 > part->k0 ? sums : NULL, dp, k, k_stride, nk, t->columns, HS); }
}

// scratch holds 3 BQ * HS + 2 BK * BQ floats.
static void backward_part(const Part *part, const Attention *a, float *scratch) {
    int HS = a->HS, k0 = part->k0, keys = part->k1 - k0;
    float *packed_q = scratch, *packed_d = packed_q + (size_t)BQ * HS, *sums = packed_d + (size_t)BQ * HS,
          *p = sums + (size_t)BQ * HS;
    // A causal tile of queries may see a part of a tile of keys.
    if (a->causal && part->dk) { zero_rows(part->dk + (size_t)k0 * a->k_stride, a->k_stride, keys, HS); }
    if (a->causal && part->dv) { zero_rows(part->dv + (size_t)k0 * a->v_stride, a->v_stride, keys, HS); }
    for (int q0 = 0; q0 < a->Tq; q0 += BQ) {
        int nq = min(BQ, a->Tq - q0), end = min(part->k1, visible(a, q0, nq));
        float *dq = part->dq ? part->dq + (size_t)q0 * part->dq_stride : NULL;
        if (end <= k0) {
            if (dq) { zero_rows(dq, part->dq_stride, nq, HS); }
            continue;
        }
        Queries t = {.packed_q = packed_q, .packed_d = packed_d, .q0 = q0, .nq = nq};
        t.columns = ceil_div(nq, VEC) * VEC;
        read_queries(&t, part, a);
        if (dq) { prefetch_rows(dq, part->dq_stride, nq, HS); }
        for (int k = k0; k < end; k += BK) { backward_tile(dq ? sums : NULL, part, &t, a, k, min(BK, end - k), p); }
        if (dq) { unpack_queries(dq, part->dq_stride, sums, nq, HS); }
    }
}

enum {
    LEAST_TASKS = 8, // for threads, if there are few heads: each part has its own dq, which must be added up
    LEAST_TILES = 4  // of keys in a part
};

// The number of parts of a head's keys. Depends only on the shape, so that results do not depend on the thread count.
static int key_parts(const Attention *a) {
    return min(ceil_div(LEAST_TASKS, a->B * a->NH), ceil_div(a->Tk, LEAST_TILES * BK));
}

static void sum_parts(float *dq, const float *partial, int parts, const Attention *a) {
    size_t part_floats = (size_t)a->Tq * a->HS;
#pragma omp parallel for collapse(2)
    for (int bh = 0; bh < a->B * a->NH; bh++) {
        for (int t = 0; t < a->Tq; t++) {
            float *to = dq + token(bh / a->NH, t, bh % a->NH, a->Tq, a->q_stride, a->HS);
            const float *from = partial + (size_t)bh * parts * part_floats + (size_t)t * a->HS;
            for (int j = 0; j < a->HS; j++) {
                float sum = from[j];
                for (int p = 1; p < parts; p++) { sum += from[p * part_floats + j]; }
                to[j] = sum;
            }
        }
    }
}

void attention_backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                        const floatX *v, const floatX *out, const float *lse, Attention attention, Device *dev) {
    const Attention *a = &attention;
    assert(a->HS > 0 && (!a->causal || a->Tq == a->Tk));
    int heads = a->B * a->NH;
    bool run = device_launch(dev, "attention_backward", attention_backward_cost(dq, dk, dv, attention));
    int parts = key_parts(a);
    size_t floats = 3 * (size_t)BQ * a->HS + 2 * BK * BQ, threads = omp_get_max_threads(),
           part_floats = (size_t)a->Tq * a->HS;
    size_t partial_floats = dq && parts > 1 ? heads * parts * part_floats : 0;
    float *scratch = device_workspace(dev, (threads * floats + partial_floats) * sizeof(float));
    if (!run) { return; }
    float *partial = scratch + threads * floats;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int bh = 0; bh < heads; bh++) {
        for (int i = 0; i < parts; i++) {
            int b = bh / a->NH, h = bh % a->NH;
            size_t at_q = token(b, 0, h, a->Tq, a->q_stride, a->HS), at_k = token(b, 0, h, a->Tk, a->k_stride, a->HS),
                   at_v = token(b, 0, h, a->Tk, a->v_stride, a->HS),
                   at_out = token(b, 0, h, a->Tq, a->out_stride, a->HS);
            Part part = {.dq = !dq         ? NULL
                               : parts > 1 ? partial + ((size_t)bh * parts + i) * part_floats
                                           : dq + at_q,
                         .dk = dk ? dk + at_k : NULL,
                         .dv = dv ? dv + at_v : NULL,
                         .dout = dout + at_out,
                         .q = q + at_q,
                         .k = k + at_k,
                         .v = v + at_v,
                         .out = out + at_out,
                         .lse = lse + (size_t)bh * a->Tq,
                         .dq_stride = parts > 1 ? a->HS : a->q_stride,
                         .k0 = (long)a->Tk * i / parts,
                         .k1 = (long)a->Tk * (i + 1) / parts};
            backward_part(&part, a, scratch + omp_get_thread_num() * floats);
        }
    }
    if (dq && parts > 1) { sum_parts(dq, partial, parts, a); }
}
