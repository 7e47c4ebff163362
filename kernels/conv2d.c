// conv2d: an implicit matrix product over (tap, input channel), taps being the K x K positions of the kernel. Forward
// and the gradient of the input walk tiles of pixels of one image row, whose neighbours are found through pointers;
// padding is a row of zeros. The gradient of the weight is a product of columns over all pixels.
#include "kernels/kernels.h"
#include <assert.h>
#include <string.h>
#include "kernels/gemm.h"

static inline int min(int a, int b) { return a < b ? a : b; }

static bool is_linear(const Conv2d *c) {
    return c->K == 1 && c->stride == 1 && c->pad_before == 0 && c->pad_after == 0;
}

// Tiles of pixels of `out` (B, H, W, N) that read pixels of `inp`. Output pixels y, x with the same remainder by
// `phases` form a tile, since they need the same taps.
typedef struct {
    const Conv2d *conv;
    float *out;
    const float *inp, *init, *bias, *zeros; // bias (B, N) if bias_per_sample
    bool transposed, bias_per_sample;       // transposed: the gradient of the input
    int B, H, W, N;                         // out
    int inp_H, inp_W, K;                    // inp (B, inp_H, inp_W, K)
    int phases, row_tiles;                  // tiles of an image row
} Pixels;

// Tiles of the pixels x = phase, phase + phases, ... of a row of W.
static int phase_tiles(int W, int phase, int phases) { return tile_count((W - phase + phases - 1) / phases); }

// Where tap k of output position `at` reads along one axis; -1: nowhere.
static int source(const Pixels *p, int at, int k, int size) {
    int s;
    if (p->transposed) {
        s = at + p->conv->pad_before - k;
        if (s < 0 || s % p->conv->stride) { return -1; }
        s /= p->conv->stride;
    } else {
        s = at * p->conv->stride + k - p->conv->pad_before;
    }
    return s >= 0 && s < size ? s : -1;
}

static void fill_pixels(GemmTile *tile, int index, const void *context) {
    const Pixels *p = context;
    int row = index / p->row_tiles, t = index % p->row_tiles, b = row / p->H, y = row % p->H, phase = 0;
    while (t >= phase_tiles(p->W, phase, p->phases)) t -= phase_tiles(p->W, phase++, p->phases);
    int width = (p->W - phase + p->phases - 1) / p->phases, tiles = tile_count(width);
    int first = tile_first(t, tiles, width), x0 = phase + first * p->phases;
    size_t at = ((size_t)row * p->W + x0) * p->N;
    tile->c = p->out + at;
    tile->init = p->init ? p->init + at : NULL;
    tile->bias = p->bias ? p->bias + (p->bias_per_sample ? (size_t)b * p->N : 0) : NULL;
    tile->stride = (ptrdiff_t)p->phases * p->N;
    tile->rows = tile_first(t + 1, tiles, width) - first;
    for (int k = 0; k < p->conv->K * p->conv->K; k++) {
        int sy = source(p, y, k / p->conv->K, p->inp_H);
        bool any = false;
        for (int i = 0; i < tile->rows; i++) {
            int sx = sy < 0 ? -1 : source(p, x0 + i * p->phases, k % p->conv->K, p->inp_W);
            any |= sx >= 0;
            tile->a[k][i] = sx < 0 ? p->zeros : p->inp + (((size_t)b * p->inp_H + sy) * p->inp_W + sx) * p->K;
        }
        if (!any) { tile->a[k][0] = NULL; }
    }
}

static void convolve(Pixels p, const GemmWeight *weight, float *scratch) {
    for (int phase = 0; phase < p.phases; phase++) p.row_tiles += phase_tiles(p.W, phase, p.phases);
    gemm_tiles(p.B * p.H * p.row_tiles, p.B * p.H * p.W, weight, fill_pixels, &p, scratch);
}

static GemmWeight forward_weight(const Conv2d *c, const float *weight) {
    return (GemmWeight){weight, c->IC, 1, (ptrdiff_t)c->K * c->K * c->IC, c->K * c->K, c->IC, c->OC};
}

static GemmWeight backward_weight(const Conv2d *c, const float *weight) {
    return (GemmWeight){weight, c->IC, (ptrdiff_t)c->K * c->K * c->IC, 1, c->K * c->K, c->OC, c->IC};
}

// sum (B, OC) = bias + sample_bias.
static void add_biases(float *sum, const float *bias, const float *sample_bias, int B, int OC) {
    for (int i = 0; i < B * OC; i++) sum[i] = sample_bias[i] + (bias ? bias[i % OC] : 0);
}

// Elements that the trace counts.
static double inputs(const Conv2d *c) { return (double)c->B * c->H * c->W * c->IC; }
static double outputs(const Conv2d *c) { return (double)c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W) * c->OC; }
static double weights(const Conv2d *c) { return (double)c->OC * c->K * c->K * c->IC; }

// Output positions o < O of an axis whose tap k lies inside [0, size).
static int inside(const Conv2d *c, int k, int size) {
    int count = 0;
    for (int o = 0; o < conv2d_out(c, size); o++) {
        int at = o * c->stride + k - c->pad_before;
        count += at >= 0 && at < size;
    }
    return count;
}

// Useful FLOPs: products with padding are none.
static double conv_flops(const Conv2d *c) {
    double rows = 0, columns = 0;
    for (int k = 0; k < c->K; k++) rows += inside(c, k, c->H), columns += inside(c, k, c->W);
    return 2 * c->B * rows * columns * c->IC * c->OC;
}

void conv2d_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *sample_bias,
                    const floatX *residual, Conv2d conv, Device *dev) {
    const Conv2d *c = &conv;
    assert(c->K * c->K <= MAX_TAPS && (c->stride == 1 || c->stride == 2));
    if (is_linear(c) && !sample_bias) {
        linear_forward(out, inp, weight, bias, residual, c->B * c->H * c->W, c->IC, c->OC, dev);
        return;
    }
    double moved = inputs(c) + weights(c) + outputs(c) * (residual ? 2 : 1) + (bias ? c->OC : 0) +
                   (sample_bias ? (double)c->B * c->OC : 0);
    bool run = device_launch(dev, "conv2d_forward", sizeof(floatX) * moved, conv_flops(c));
    int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    GemmWeight w = forward_weight(c, weight);
    size_t head = c->IC + (sample_bias ? (size_t)c->B * c->OC : 0);
    head = (head + 63) / 64 * 64;
    float *zeros = device_workspace(dev, (head + gemm_scratch(c->B * OH * OW, &w)) * sizeof(float));
    if (!run) { return; }
    memset(zeros, 0, c->IC * sizeof *zeros);
    if (sample_bias) { add_biases(zeros + c->IC, bias, sample_bias, c->B, c->OC); }
    Pixels p = {c,
                out,
                inp,
                residual,
                sample_bias ? zeros + c->IC : bias,
                zeros,
                false,
                sample_bias != NULL,
                c->B,
                OH,
                OW,
                c->OC,
                c->H,
                c->W,
                c->IC,
                1,
                0};
    convolve(p, &w, zeros + head);
}

// ---- The gradient of the weight ------------------------------------------------------------------------------------

typedef struct {
    const Conv2d *conv;
    const float *inp;
    int OH, OW;
} Patches;

// Where tap t of output pixel (y, x) of sample b reads, or NULL.
static inline const float *patch(const Patches *p, int b, int y, int x, int t) {
    const Conv2d *c = p->conv;
    int sy = y * c->stride + t / c->K - c->pad_before, sx = x * c->stride + t % c->K - c->pad_before;
    if (sy < 0 || sy >= c->H || sx < 0 || sx >= c->W) { return NULL; }
    return p->inp + (((size_t)b * c->H + sy) * c->W + sx) * c->IC;
}

// Columns n0 .. n0 + n - 1 of (tap, channel) for output pixels first .. end - 1; pixels that see only padding are left
// out where the columns belong to one tap.
static int gather_patches(int *offset, float *panel, const float **b, ptrdiff_t *b_step, int first, int end, int n0,
                          int n, const void *context) {
    const Patches *p = context;
    int IC = p->conv->IC, OC = p->conv->OC, t0 = n0 / IC, t1 = (n0 + n - 1) / IC, count = 0;
    int x = first % p->OW, y = first / p->OW % p->OH, sample = first / p->OW / p->OH;
    for (int pixel = first; pixel < end; pixel++) {
        float *to = panel + count * NR;
        bool any = t0 != t1;
        for (int t = t0, column = n0; t <= t1; t++) {
            const float *from = patch(p, sample, y, x, t);
            int channel = column - t * IC, width = min(IC - channel, n0 + n - column);
            if (from && width == NR) {
                memcpy(to, from + channel, NR * sizeof *to);
            } else if (from) {
                memcpy(to, from + channel, width * sizeof *to);
            } else {
                memset(to, 0, width * sizeof *to);
            }
            any |= from != NULL;
            to += width;
            column += width;
        }
        if (any) { offset[count++] = (pixel - first) * OC; }
        if (++x == p->OW) {
            x = 0;
            if (++y == p->OH) { y = 0, sample++; }
        }
    }
    *b = panel;
    *b_step = NR;
    return count;
}

// dsample_bias (B, OC) and dbias (OC) from the sums of dout over each sample's pixels.
static void bias_gradients(float *dbias, float *dsample_bias, const float *dout, float beta, int B, int pixels, int OC,
                           float *scratch) {
    if (!dsample_bias) {
        column_sum(dbias, dout, beta, B * pixels, OC, scratch);
        return;
    }
    for (int b = 0; b < B; b++) {
        column_sum(dsample_bias + (size_t)b * OC, dout + (size_t)b * pixels * OC, 0, pixels, OC, scratch);
    }
    if (dbias) { column_sum(dbias, dsample_bias, beta, B, OC, scratch); }
}

void conv2d_backward(floatX *dinp, float *dweight, float *dbias, floatX *dsample_bias, const floatX *dout,
                     const floatX *inp, const floatX *weight, const floatX *dresidual, float beta, Conv2d conv,
                     Device *dev) {
    const Conv2d *c = &conv;
    if (is_linear(c) && !dsample_bias) {
        linear_backward(dinp, dweight, dbias, dout, inp, weight, dresidual, beta, c->B * c->H * c->W, c->IC, c->OC,
                        dev);
        return;
    }
    double again = beta != 0 ? 2 : 1, bytes = sizeof(floatX) * outputs(c), flops = 0;
    if (dinp) { bytes += sizeof(floatX) * (inputs(c) * (dresidual ? 2 : 1) + weights(c)), flops += conv_flops(c); }
    if (dweight) { bytes += sizeof(floatX) * inputs(c) + sizeof(float) * weights(c) * again, flops += conv_flops(c); }
    if (dbias || dsample_bias) { flops += outputs(c); }
    bool run = device_launch(dev, "conv2d_backward", bytes, flops);
    int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    GemmWeight w = backward_weight(c, weight);
    size_t head = (c->OC + 63) / 64 * 64, need = dinp ? head + gemm_scratch(c->B * c->H * c->W, &w) : 0;
    size_t sums = column_sum_scratch(c->B * OH * OW, c->OC);
    float *scratch = device_workspace(dev, (size_t)(need > sums ? need : sums) * sizeof(float));
    if (!run) { return; }
    if (dinp) {
        memset(scratch, 0, c->OC * sizeof *scratch);
        Pixels p = {c,    dinp, dout,  dresidual, NULL, scratch, true,      false, c->B,
                    c->H, c->W, c->IC, OH,        OW,   c->OC,   c->stride, 0};
        convolve(p, &w, scratch + head);
    }
    if (dweight) {
        Patches p = {c, inp, OH, OW};
        gemm_outer(dweight, dout, beta, c->B * OH * OW, c->OC, c->K * c->K * c->IC, gather_patches, &p);
    }
    if (dbias || dsample_bias) { bias_gradients(dbias, dsample_bias, dout, beta, c->B, OH * OW, c->OC, scratch); }
}
