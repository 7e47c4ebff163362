// attention.cu's aligned copies of tensors whose rows or heads are not.
#pragma once
#include "kernels/cuda_common.cuh"

// Allocates pieces of a workspace; if it is NULL, only counts their bytes.
struct Pieces {
    char *at;
    size_t bytes;
    void *take(size_t size) {
        const size_t offset = reserve(&bytes, size);
        return at ? at + offset : NULL;
    }
};

// The VEC elements of a copy (rows, NH, padded) that a thread handles: their offset in the tensor (rows `stride` apart,
// NH, HS), and how many of them exist there.
struct HeadPlace {
    unsigned vector; // fewer than 2^32 of them
    size_t at;
    int count;
    __device__ HeadPlace(int stride, int NH, int HS) : vector(blockIdx.x * 256 + threadIdx.x) {
        const unsigned per_head = ceil_div(HS, 8) * 8 / VEC, head = vector / per_head, d = vector % per_head * VEC;
        at = (size_t)(head / NH) * stride + head % NH * HS + d;
        count = HS - (int)d;
    }
};

static __global__ void __launch_bounds__(256)
    pad_heads(floatX *copy, const floatX *x, int stride, int NH, int HS, unsigned vectors) {
    const HeadPlace place(stride, NH, HS);
    floatX v[VEC];
    if (place.vector >= vectors) { return; }
#pragma unroll
    for (int i = 0; i < VEC; i++) { v[i] = i < place.count ? x[place.at + i] : to_floatX(0); }
    store_words(copy + (size_t)place.vector * VEC, v);
}

static __global__ void __launch_bounds__(256)
    cut_heads(floatX *x, const floatX *copy, int stride, int NH, int HS, unsigned vectors) {
    const HeadPlace place(stride, NH, HS);
    floatX v[VEC];
    if (place.vector >= vectors) { return; }
    load_words(v, copy + (size_t)place.vector * VEC);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        if (i < place.count) { x[place.at + i] = v[i]; }
    }
}

// Whether every row of every head is aligned to 16 bytes, given that the tensors are.
static bool is_aligned(const Attention &a) {
    return (a.HS | a.q_stride | a.k_stride | a.v_stride | a.out_stride) % 8 == 0;
}

// The copies' sizes: dense, with heads padded with zeros, which change no score and no sum.
static Attention padded_sizes(const Attention &a) {
    const int HS = ceil_div(a.HS, 8) * 8, C = a.NH * HS;
    return {a.B, a.NH, a.Tq, a.Tk, HS, C, C, C, C, a.causal};
}

static void pad(floatX *copy, const floatX *x, int stride, int T, const Attention &a, Device *dev) {
    const unsigned vectors = (unsigned)((size_t)a.B * T * padded_sizes(a).q_stride / VEC);
    launch<pad_heads>(dev, ceil_div(vectors, 256u), 256, 0, copy, x, stride, a.NH, a.HS, vectors);
}
static void cut(floatX *x, const floatX *copy, int stride, int T, const Attention &a, Device *dev) {
    const unsigned vectors = (unsigned)((size_t)a.B * T * padded_sizes(a).q_stride / VEC);
    if (x) { launch<cut_heads>(dev, ceil_div(vectors, 256u), 256, 0, x, copy, stride, a.NH, a.HS, vectors); }
}

// The copies in the workspace, and the rest of it for the kernels; with `backward` also the gradients' copies.
struct Copies {
    floatX *q, *k, *v, *out, *dq, *dk, *dv, *dout;
    void *workspace;
    size_t bytes;
};
static Copies copies_in(void *workspace, const Attention &a, bool backward) {
    const size_t queries = sizeof(floatX) * a.B * a.Tq * padded_sizes(a).q_stride;
    const size_t keys = sizeof(floatX) * a.B * a.Tk * padded_sizes(a).k_stride;
    Pieces pieces = {(char *)workspace, 0};
    Copies c = {};
    c.q = (floatX *)pieces.take(queries), c.out = (floatX *)pieces.take(queries);
    c.k = (floatX *)pieces.take(keys), c.v = (floatX *)pieces.take(keys);
    if (backward) {
        c.dq = (floatX *)pieces.take(queries), c.dout = (floatX *)pieces.take(queries);
        c.dk = (floatX *)pieces.take(keys), c.dv = (floatX *)pieces.take(keys);
    }
    c.workspace = pieces.take(0);
    c.bytes = pieces.bytes;
    return c;
}
