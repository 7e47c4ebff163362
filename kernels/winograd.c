// Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks": with a 4x4 patch d of the input and a 3x3
// kernel g, the 2x2 outputs are A' [(G g G') * (B' d B)] A, where * multiplies element by element and
//
//          1  0 -1  0             1   0   0
//     B' = 0  1  1  0        G = .5  .5  .5        A' = 1  1  1  0
//          0 -1  1  0            .5 -.5  .5             0  1 -1 -1
//          0  1  0 -1             0   0   1
//
// The sum over input channels makes each of the 16 elements ("points") a matrix product (patches, K) x (K, N), which
// runs through gemm.c's tiles. All factors are 0, 1/2 and 1, so that errors stay near those of the plain sum.
//
// Patches pass in blocks that fit into L3. A thread takes a panel of NR output channels: it transforms the weight a
// chunk of input channels at a time, which no memory ever holds as a whole, adds up its products, and transforms them
// back. Each weight is read once in a block, in the order of the file or in ours.
#include "kernels/winograd.h"
#include <assert.h>
#include <string.h>

enum {
    POINTS = 16,
    MOST_PATCHES = 512,     // of a block
    BLOCK_FLOATS = 6 << 20, // of its transformed input and products
    KC = 128,               // input channels of a chunk of weights
    PAD = 48,               // floats between points, which would else share few cache sets
    GROUP = 8               // patches that a thread transforms at a time
};

// Where a block's patches lie, and its arrays in scratch.
typedef struct {
    const Winograd *conv;
    int rows, columns;            // patches of a sample's height and width
    int first, count;             // patches of the block
    float *transformed;           // (POINTS, count, K)
    float *products;              // (panels, POINTS, count, NR)
    size_t point, product, panel; // strides
} Block;

static int patches_of(int side) { return (side + 1) / 2; }

static int block_patches(int K, int N, int patches) {
    int fit = BLOCK_FLOATS / (POINTS * (K + N)) / MR * MR;
    fit = fit < MR ? MR : fit;
    return min(patches, min(fit, MOST_PATCHES));
}

static size_t point_stride(int count, int K) { return (size_t)count * K + PAD; }

size_t winograd_scratch(int B, int H, int W, int K, int N) {
    int count = block_patches(K, N, B * patches_of(H) * patches_of(W));
    return POINTS * (point_stride(count, K) + ceil_div(N, NR) * point_stride(count, NR));
}

// ---- The input -----------------------------------------------------------------------------------------------------

// B' d B for VEC channels: columns first, then rows.
static inline void transform_patch(float *to, size_t point, const float *const pixels[16], int channel) {
    Vec d[16], e[16];
    for (int i = 0; i < 16; i++) { d[i] = pixels[i] ? vec_load(pixels[i] + channel) : (Vec){0}; }
    for (int x = 0; x < 4; x++) {
        e[x] = d[x] - d[8 + x];
        e[4 + x] = d[4 + x] + d[8 + x];
        e[8 + x] = d[8 + x] - d[4 + x];
        e[12 + x] = d[4 + x] - d[12 + x];
    }
    for (int y = 0; y < 16; y += 4) {
        vec_store(to + (size_t)y * point, e[y] - e[y + 2]);
        vec_store(to + (size_t)(y + 1) * point, e[y + 1] + e[y + 2]);
        vec_store(to + (size_t)(y + 2) * point, e[y + 2] - e[y + 1]);
        vec_store(to + (size_t)(y + 3) * point, e[y + 1] - e[y + 3]);
    }
}

// The sample and the first output pixel of a patch.
static void patch_place(const Block *b, int index, int *sample, int *y, int *x) {
    int patch = b->first + index, per_sample = b->rows * b->columns;
    *sample = patch / per_sample;
    *y = patch % per_sample / b->columns * 2;
    *x = patch % b->columns * 2;
}

static void transform_input(const Block *b, int index) {
    const Winograd *c = b->conv;
    const float *pixels[16];
    int sample, y0, x0, K = c->weight.K;
    patch_place(b, index, &sample, &y0, &x0);
    for (int i = 0; i < 16; i++) {
        int y = y0 - 1 + i / 4, x = x0 - 1 + i % 4;
        bool inside = y >= 0 && y < c->H && x >= 0 && x < c->W;
        pixels[i] = inside ? c->inp + (((size_t)sample * c->H + y) * c->W + x) * K : NULL;
    }
    float *to = b->transformed + (size_t)index * K;
    for (int k = 0; k < K; k += VEC) { transform_patch(to + k, b->point, pixels, k); }
}

// ---- The weight ----------------------------------------------------------------------------------------------------

// taps (9, K, NR), or (K, 9, NR) if the taps of an input channel are neighbours: input channels k0 .. k0 + K - 1,
// output channels n0 .. n0 + n - 1. Returns whether they are.
static bool load_taps(float *taps, const GemmWeight *w, int k0, int K, int n0, int n) {
    const float *from = w->w + k0 * w->k_stride + n0 * w->n_stride;
    if (w->tap_stride == 1 && w->k_stride == 9) {
        gemm_pack_transposed(taps, from, w->n_stride, 9 * K, n);
        return true;
    }
    for (int t = 0; t < 9; t++) {
        float *to = taps + t * K * NR;
        const float *tap = from + t * w->tap_stride;
        if (w->k_stride == 1) {
            gemm_pack_transposed(to, tap, w->n_stride, K, n);
            continue;
        }
        for (int k = 0; k < K; k++) {
            for (int j = 0; j < NR; j++) { to[k * NR + j] = j < n ? tap[k * w->k_stride + j * w->n_stride] : 0; }
        }
    }
    return false;
}

// points (POINTS, KC, NR) = G g G' of K input channels.
static void transform_weight(float *points, const Winograd *c, int k0, int K, int n0, int n) {
    float taps[9 * KC * NR] __attribute__((aligned(64)));
    bool inner = load_taps(taps, &c->weight, k0, K, n0, n);
    size_t tap = inner ? NR : (size_t)K * NR, row = inner ? 9 * NR : NR;
    const Vec half = {0};
    for (int k = 0; k < K; k++) {
        for (int j = 0; j < NR; j += VEC) {
            const float *from = taps + k * row + j;
            Vec g[9], e[12];
            for (int t = 0; t < 9; t++) { g[t] = vec_load(from + (c->flip ? 8 - t : t) * tap); }
            for (int x = 0; x < 3; x++) {
                Vec even = (g[x] + g[6 + x]) * (half + 0.5f), odd = g[3 + x] * (half + 0.5f);
                e[x] = g[x];
                e[3 + x] = even + odd;
                e[6 + x] = even - odd;
                e[9 + x] = g[6 + x];
            }
            float *to = points + k * NR + j;
            for (int y = 0; y < 4; y++, to += 4 * KC * NR) {
                Vec even = (e[3 * y] + e[3 * y + 2]) * (half + 0.5f), odd = e[3 * y + 1] * (half + 0.5f);
                vec_store(to, e[3 * y]);
                vec_store(to + KC * NR, even + odd);
                vec_store(to + 2 * KC * NR, even - odd);
                vec_store(to + 3 * KC * NR, e[3 * y + 2]);
            }
        }
    }
}

// ---- A panel of the output -----------------------------------------------------------------------------------------

static void multiply(const Block *b, float *products, int n0, int n) {
    float points[POINTS * KC * NR] __attribute__((aligned(64)));
    int K = b->conv->weight.K, tiles = tile_count(b->count);
    for (int k0 = 0; k0 < K; k0 += KC) {
        int k = min(KC, K - k0);
        transform_weight(points, b->conv, k0, k, n0, n);
        for (int p = 0; p < POINTS; p++) {
            for (int t = 0; t < tiles; t++) {
                int first = tile_first(t, tiles, b->count), rows = tile_first(t + 1, tiles, b->count) - first;
                const float *a[MR];
                for (int i = 0; i < rows; i++) { a[i] = b->transformed + p * b->point + (size_t)(first + i) * K; }
                float *c = products + p * b->product + (size_t)first * NR;
                gemm_tile(c, k0 ? c : NULL, NULL, NR, a, 0, k0, points + p * KC * NR, NR, 1, k, rows, NR);
            }
        }
    }
}

// A' m A of VEC channels of a patch: out (4).
static inline void transform_product(Vec out[4], const float *m, size_t point) {
    Vec e[8];
    for (int x = 0; x < 4; x++) {
        Vec m0 = vec_load(m + x * point), m1 = vec_load(m + (4 + x) * point), m2 = vec_load(m + (8 + x) * point),
            m3 = vec_load(m + (12 + x) * point);
        e[x] = m0 + m1 + m2;
        e[4 + x] = m1 - m2 - m3;
    }
    for (int y = 0; y < 2; y++) {
        out[2 * y] = e[4 * y] + e[4 * y + 1] + e[4 * y + 2];
        out[2 * y + 1] = e[4 * y + 1] - e[4 * y + 2] - e[4 * y + 3];
    }
}

static void finish_patch(const Block *b, const float *products, int index, int n0, int n) {
    const Winograd *c = b->conv;
    int sample, y0, x0, N = c->weight.N;
    patch_place(b, index, &sample, &y0, &x0);
    const float *bias = c->bias ? c->bias + (c->bias_per_sample ? (size_t)sample * N : 0) + n0 : NULL;
    for (int j = 0; j < n; j += VEC) {
        Vec out[4];
        transform_product(out, products + (size_t)index * NR + j, b->product);
        for (int i = 0; i < 4; i++) {
            int y = y0 + i / 2, x = x0 + i % 2;
            if (y >= c->H || x >= c->W) { continue; }
            size_t at = (((size_t)sample * c->H + y) * c->W + x) * N + n0 + j;
            Vec sum = out[i];
            if (bias) { sum += vec_load(bias + j); }
            if (c->init) { sum += vec_load(c->init + at); }
            vec_store(c->out + at, sum);
        }
    }
}

static void finish_panel(const Block *b, int panel) {
    int n0 = panel * NR, n = min(NR, b->conv->weight.N - n0);
    float *products = b->products + panel * b->panel;
    multiply(b, products, n0, n);
    for (int i = 0; i < b->count; i++) { finish_patch(b, products, i, n0, n); }
}

void winograd_convolve(const Winograd *c, float *scratch) {
    const GemmWeight *w = &c->weight;
    int K = w->K, N = w->N, rows = patches_of(c->H), columns = patches_of(c->W), patches = c->B * rows * columns;
    int most = block_patches(K, N, patches), panels = ceil_div(N, NR);
    assert(w->taps == 9 && K % VEC == 0 && N % VEC == 0);
#pragma omp parallel
    for (int first = 0; first < patches; first += most) {
        int count = min(most, patches - first);
        Block b = {c, rows, columns, first, count, scratch, scratch + POINTS * point_stride(most, K)};
        b.point = point_stride(count, K), b.product = point_stride(count, NR), b.panel = POINTS * b.product;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < count; i += GROUP) {
            for (int j = i; j < min(i + GROUP, count); j++) { transform_input(&b, j); }
        }
#pragma omp for schedule(dynamic)
        for (int panel = 0; panel < panels; panel++) { finish_panel(&b, panel); }
    }
}
