// conv2d: an implicit matrix product over (tap, input channel), taps being the K x K positions of the kernel. Forward
// and the gradient of the input walk tiles of pixels of one image row, whose neighbours are found through pointers;
// padding is a row of zeros. The gradient of the weight is a product of columns over all pixels.
//
// Against the plain loops (reference.c):
// - They ask at every tap of every output element whether it is inside the image. Here the pointers of a tile answer
//   that for all output channels, and the sums run through gemm.c's tiles in registers. No patches are copied for it.
// - They scatter dout into dinp, so that two threads could meet in one pixel. Here each pixel of dinp gathers what
//   reaches it, and is written once. With stride 2 its taps depend on whether y and x are odd: such pixels form tiles
//   of their own.
// - A kernel of one tap with stride 1 is a linear layer. 3 x 3 taps with stride 1 and enough channels take fewer
//   products (winograd.c).
#include "kernels/cost.h"
#include "kernels/winograd.h"
#include <assert.h>
#include <string.h>

// Tiles of pixels of `out` (B, H, W, N) that read pixels of `inp`. Output pixels with the same remainders of y and x
// modulo `phases` need the same taps; tiles are runs of such pixels in a row. If rows are too short for good tiles and
// phases is 1, the whole sample is one run.
typedef struct {
    const Conv2d *conv;
    float *out;
    const float *inp, *init, *bias, *zeros; // bias (B, N) if bias_per_sample
    bool transposed, bias_per_sample;       // transposed: the gradient of the input
    int B, H, W, N;                         // out
    int inp_H, inp_W, K;                    // inp (B, inp_H, inp_W, K)
    int phases;
    bool whole_sample;
    int run_tiles; // tiles of an image row (all its phases) or of a sample
} Pixels;

// The number of pixels phase, phase + phases, ... in a row of W.
static int phase_width(int W, int phase, int phases) { return (W - phase + phases - 1) / phases; }

// The input position that tap k of output position `at` reads along one axis; may be outside. Transposed: -1 if there
// is none.
static inline int source(const Pixels *p, int at, int k) {
    int stride = p->conv->stride, pad = p->conv->pad_before;
    if (!p->transposed) { return at * stride + k - pad; }
    int s = at + pad - k;
    return s & (stride - 1) ? -1 : s >> (stride - 1); // stride is 1 or 2
}

// Sets the pointers of a tile within one row; its sources are dx apart.
static void fill_row(GemmTile *tile, const Pixels *p, int b, int y, int x0) {
    int side = p->conv->K, dx = p->transposed ? 1 : p->conv->stride, rows = tile->rows;
    for (int k = 0; k < side * side; k++) {
        bool meets = !p->transposed || !((x0 + p->conv->pad_before - k % side) & (p->conv->stride - 1));
        int sy = source(p, y, k / side), sx = source(p, x0, k % side), last = sx + (rows - 1) * dx;
        const float **a = tile->a[k];
        a[0] = NULL;
        if (!meets || (unsigned)sy >= (unsigned)p->inp_H || last < 0 || sx >= p->inp_W) { continue; }
        const float *row = p->inp + ((size_t)b * p->inp_H + sy) * p->inp_W * p->K;
        bool inside = sx >= 0 && last < p->inp_W;
        for (int i = 0; i < rows; i++, sx += dx) {
            a[i] = inside || (unsigned)sx < (unsigned)p->inp_W ? row + (ptrdiff_t)sx * p->K : p->zeros;
        }
    }
}

// Sets the pointers of a tile of consecutive pixels of a sample, from `first` on.
static void fill_run(GemmTile *tile, const Pixels *p, int b, int first) {
    int side = p->conv->K, x[MR], y[MR];
    for (int i = 0; i < tile->rows; i++) { y[i] = (first + i) / p->W, x[i] = (first + i) % p->W; }
    const float *sample = p->inp + (size_t)b * p->inp_H * p->inp_W * p->K;
    for (int k = 0; k < side * side; k++) {
        bool any = false;
        for (int i = 0; i < tile->rows; i++) {
            int sy = source(p, y[i], k / side), sx = source(p, x[i], k % side);
            bool inside = (unsigned)sy < (unsigned)p->inp_H && (unsigned)sx < (unsigned)p->inp_W;
            tile->a[k][i] = inside ? sample + ((ptrdiff_t)sy * p->inp_W + sx) * p->K : p->zeros;
            any |= inside;
        }
        if (!any) { tile->a[k][0] = NULL; }
    }
}

static void fill_pixels(GemmTile *tile, int index, const void *context) {
    const Pixels *p = context;
    int run = index / p->run_tiles, t = index % p->run_tiles, phase = 0, pixels = p->H * p->W;
    if (!p->whole_sample) {
        while (t >= tile_count(pixels = phase_width(p->W, phase, p->phases))) { t -= tile_count(pixels), phase++; }
    }
    int tiles = tile_count(pixels), first = tile_first(t, tiles, pixels);
    int b = p->whole_sample ? run : run / p->H, x0 = phase + first * p->phases;
    size_t at = ((size_t)run * (p->whole_sample ? p->H * p->W : p->W) + x0) * p->N;
    tile->c = p->out + at;
    tile->init = p->init ? p->init + at : NULL;
    tile->bias = p->bias ? p->bias + (p->bias_per_sample ? (size_t)b * p->N : 0) : NULL;
    tile->stride = (ptrdiff_t)p->phases * p->N;
    tile->rows = tile_first(t + 1, tiles, pixels) - first;
    if (p->whole_sample) {
        fill_run(tile, p, b, first);
    } else {
        fill_row(tile, p, b, run % p->H, x0);
    }
}

// The same convolution for winograd.c.
static Winograd fast_filter(const Pixels *p) {
    const Conv2d *c = p->conv;
    return (Winograd){.out = p->out,
                      .inp = p->inp,
                      .init = p->init,
                      .bias = p->bias,
                      .bias_per_sample = p->bias_per_sample,
                      .flipped = p->transposed,
                      .B = p->B,
                      .H = p->H,
                      .W = p->W,
                      .N = p->N,
                      .inp_H = p->inp_H,
                      .inp_W = p->inp_W,
                      .K = p->K,
                      .pad = p->transposed ? c->K - 1 - c->pad_before : c->pad_before};
}

static bool is_fast(const Conv2d *c, const Winograd *w) { return c->K == 3 && c->stride == 1 && winograd_pays(w); }

// The weight as the right matrix of a product, for p's direction.
static GemmWeight right_matrix(const Pixels *p, const float *weight, bool torch_order) {
    const Conv2d *c = p->conv;
    ptrdiff_t taps = c->K * c->K, row = taps * c->IC, tap = torch_order ? 1 : c->IC, inp = torch_order ? taps : 1;
    if (p->transposed) { return (GemmWeight){weight, tap, row, inp, (int)taps, c->OC, c->IC}; }
    return (GemmWeight){weight, tap, inp, row, (int)taps, c->IC, c->OC};
}

// to (OC, K, K, IC) = from (OC, IC, K, K)
static void reorder(float *to, const float *from, const Conv2d *c) {
    int taps = c->K * c->K, IC = c->IC;
#pragma omp parallel for
    for (int o = 0; o < c->OC; o++) {
        size_t row = (size_t)o * taps * IC;
        for (int i = 0; i < IC; i++) {
            for (int t = 0; t < taps; t++) { to[row + (size_t)t * IC + i] = from[row + i * taps + t]; }
        }
    }
}

static size_t product_scratch(const Pixels *p) {
    GemmWeight w = right_matrix(p, NULL, false);
    return gemm_scratch(p->B * p->H * p->W, &w);
}

static size_t convolve_scratch(const Pixels *p) {
    Winograd w = fast_filter(p);
    const Conv2d *c = p->conv;
    if (is_fast(c, &w)) { return winograd_scratch(&w); }
    return product_scratch(p) + (c->torch_order ? (size_t)c->OC * c->K * c->K * c->IC : 0);
}

// scratch holds convolve_scratch floats.
static void convolve(Pixels p, const float *weight, float *scratch) {
    bool torch_order = p.conv->torch_order;
    Winograd fast = fast_filter(&p);
    if (is_fast(p.conv, &fast)) {
        GemmWeight w = right_matrix(&p, weight, torch_order);
        winograd_convolve(&fast, &w, scratch);
        return;
    }
    if (torch_order) { // gemm.c packs weights in our order
        float *ours = scratch + product_scratch(&p);
        reorder(ours, weight, p.conv);
        weight = ours;
    }
    GemmWeight w = right_matrix(&p, weight, false);
    p.whole_sample = p.phases == 1 && p.W < (MR - 1) * tile_count(p.W);
    if (p.whole_sample) {
        p.run_tiles = tile_count(p.H * p.W);
    } else {
        for (int phase = 0; phase < p.phases; phase++) { p.run_tiles += tile_count(phase_width(p.W, phase, p.phases)); }
    }
    int runs = p.whole_sample ? p.B : p.B * p.H;
    gemm_tiles(runs * p.run_tiles, p.B * p.H * p.W, &w, fill_pixels, &p, scratch);
}

// sum (B, OC) = bias + sample_bias.
static void add_biases(float *sum, const float *bias, const float *sample_bias, const Conv2d *c) {
    int stride = conv2d_sample_stride(c);
    for (int b = 0; b < c->B; b++, sum += c->OC, sample_bias += stride) {
        for (int o = 0; o < c->OC; o++) { sum[o] = sample_bias[o] + (bias ? bias[o] : 0); }
    }
}

void conv2d_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *sample_bias,
                    const floatX *residual, Conv2d conv, Device *dev) {
    const Conv2d *c = &conv;
    assert(c->K * c->K <= MAX_TAPS && (c->stride == 1 || c->stride == 2));
    if (conv2d_is_linear(c) && !sample_bias) {
        linear_forward(out, inp, weight, bias, residual, c->B * c->H * c->W, c->IC, c->OC, dev);
        return;
    }
    bool run = device_launch(dev, "conv2d_forward", conv2d_forward_cost(bias, sample_bias, residual, conv));
    int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    Pixels p = {.conv = c, .out = out, .inp = inp, .init = residual, .bias = bias, .phases = 1};
    p.B = c->B, p.H = OH, p.W = OW, p.N = c->OC, p.inp_H = c->H, p.inp_W = c->W, p.K = c->IC;
    size_t head = c->IC + (sample_bias ? (size_t)c->B * c->OC : 0);
    head = (head + 63) / 64 * 64;
    float *zeros = device_workspace(dev, (head + convolve_scratch(&p)) * sizeof(float));
    if (!run) { return; }
    memset(zeros, 0, c->IC * sizeof *zeros);
    p.zeros = zeros;
    if (sample_bias) {
        add_biases(zeros + c->IC, bias, sample_bias, c);
        p.bias = zeros + c->IC, p.bias_per_sample = true;
    }
    convolve(p, weight, zeros + head);
}

// ---- The gradient of the weight ------------------------------------------------------------------------------------

typedef struct {
    const Conv2d *conv;
    const float *inp;
    int OH, OW;
} Patches;

// The columns (tap, channel) of one row of taps that belong to a panel, for pixels of one image row. The values of a
// pixel are contiguous in inp, from offset c0 of the row of taps on.
typedef struct {
    const float *row; // inp at the start of the image row; NULL: outside
    int column, c0, width;
} Segment;

// Copies the columns of a segment for pixel x; outside the image they are 0. May write up to NR extra columns.
static inline void copy_segment(float *to, const Conv2d *c, const Segment *s, int x) {
    int from = (x * c->stride - c->pad_before) * c->IC + s->c0, row_floats = c->W * c->IC;
    if (s->row && from >= 0 && from + NR <= row_floats) {
        vec_store(to, vec_load(s->row + from));
        vec_store(to + VEC, vec_load(s->row + from + VEC));
        return;
    }
    for (int j = 0; j < s->width; j++) {
        to[j] = s->row && from + j >= 0 && from + j < row_floats ? s->row[from + j] : 0;
    }
}

// The row of inp that row ky of taps reads for row y of sample b, or NULL if it is outside.
static const float *tap_row(const Patches *p, int b, int y, int ky) {
    const Conv2d *c = p->conv;
    int sy = y * c->stride + ky - c->pad_before;
    return sy < 0 || sy >= c->H ? NULL : p->inp + ((size_t)b * c->H + sy) * c->W * c->IC;
}

// Restricts [*x0, *x1) to output positions x whose tap kx is inside the image.
static void clip(const Conv2d *c, int kx, int *x0, int *x1) {
    int low = c->pad_before - kx, high = c->W + c->pad_before - kx; // low <= x stride < high
    low = low <= 0 ? 0 : (low + c->stride - 1) / c->stride;
    high = high <= 0 ? 0 : (high + c->stride - 1) / c->stride;
    *x0 = *x0 > low ? *x0 : low;
    *x1 = min(*x1, high);
}

static int image_run(const Patches *p, int first, int end) { return min(end - first, p->OW - first % p->OW); }

// Gathers the columns of one tap, without the pixels for which it is padding. A chunk of one image row is used in
// place.
static int gather_tap(int *offset, int scale, float *panel, const float **b, ptrdiff_t *b_step, int first, int end,
                      int n0, int n, const Patches *p) {
    const Conv2d *c = p->conv;
    int tap = n0 / c->IC, ky = tap / c->K, kx = tap % c->K, channel = n0 % c->IC, step = c->stride * c->IC, count = 0;
    *b = panel;
    *b_step = NR;
    for (int pixel = first, run; pixel < end; pixel += run) {
        run = image_run(p, pixel, end);
        int x = pixel % p->OW, x0 = x, x1 = x + run, y = pixel / p->OW;
        const float *from = tap_row(p, y / p->OH, y % p->OH, ky);
        clip(c, kx, &x0, &x1);
        if (!from || x1 <= x0) { continue; }
        from += (x0 * c->stride + kx - c->pad_before) * c->IC + channel;
        for (int i = x0; i < x1; i++) { offset[count + i - x0] = (pixel - first + i - x) * scale; }
        if (run == end - first && n % VEC == 0 && step <= DIRECT_STEP) {
            *b = from;
            *b_step = step;
            return x1 - x0;
        }
        gemm_copy_columns(panel + (size_t)count * NR, from, step, x1 - x0, n);
        count += x1 - x0;
    }
    return count;
}

// Gathers columns n0 .. n0 + n - 1 of (tap, channel) for output pixels first .. end - 1.
static int gather_patches(int *offset, int scale, float *panel, const float **b, ptrdiff_t *b_step, int first, int end,
                          int n0, int n, const void *context) {
    const Patches *p = context;
    int IC = p->conv->IC, tap_columns = p->conv->K * IC;
    if (n0 / IC == (n0 + n - 1) / IC) { return gather_tap(offset, scale, panel, b, b_step, first, end, n0, n, p); }
    for (int pixel = first, run; pixel < end; pixel += run) {
        run = image_run(p, pixel, end);
        int x = pixel % p->OW, y = pixel / p->OW;
        int count = 0;
        Segment segments[NR];
        for (int column = n0; column < n0 + n; column += segments[count++].width) {
            int ky = column / tap_columns, c0 = column % tap_columns;
            const float *row = tap_row(p, y / p->OH, y % p->OH, ky);
            segments[count] = (Segment){row, column - n0, c0, min(tap_columns - c0, n0 + n - column)};
        }
        for (int i = 0; i < run; i++) { // in order: the next pixel overwrites the extra columns
            float *to = panel + (size_t)(pixel - first + i) * NR;
            for (int s = 0; s < count; s++) { copy_segment(to + segments[s].column, p->conv, segments + s, x + i); }
        }
    }
    for (int i = 0; i < end - first; i++) { offset[i] = i * scale; }
    *b = panel;
    *b_step = NR;
    return end - first;
}

// The number of pixels of a chunk: whole image rows, or one row of at least 32 pixels if it can then be used in place.
static int chunk_pixels(const Conv2d *c) {
    int OW = conv2d_out(c, c->W);
    if (OW >= OUTER_CHUNK) { return OUTER_CHUNK; }
    return OW >= 32 && c->stride * c->IC <= DIRECT_STEP ? OW : OUTER_CHUNK / OW * OW;
}

// The forward convolution for winograd.c.
static Winograd forward_filter(const Conv2d *c, const float *inp) {
    Pixels p = {.conv = c, .inp = inp, .B = c->B, .inp_H = c->H, .inp_W = c->W, .K = c->IC, .N = c->OC};
    p.H = conv2d_out(c, c->H), p.W = conv2d_out(c, c->W);
    return fast_filter(&p);
}

static size_t weight_gradient_scratch(const Conv2d *c) {
    Winograd w = forward_filter(c, NULL);
    if (is_fast(c, &w)) { return winograd_gradient_scratch(&w); }
    return gemm_outer_scratch(w.B * w.H * w.W, c->OC, c->K * c->K * c->IC, chunk_pixels(c));
}

static void weight_gradient(float *dweight, const float *dout, const float *inp, float beta, const Conv2d *c,
                            float *scratch) {
    Winograd w = forward_filter(c, inp);
    if (is_fast(c, &w)) {
        winograd_weight_gradient(dweight, dout, beta, &w, scratch);
        return;
    }
    Patches p = {c, inp, w.H, w.W};
    gemm_outer(dweight, dout, beta, w.B * w.H * w.W, c->OC, c->K * c->K * c->IC, chunk_pixels(c), gather_patches, &p,
               scratch);
}

// dsample_bias (B, OC) and dbias (OC) from the sums of dout over each sample's pixels.
static void bias_gradients(float *dbias, float *dsample_bias, const float *dout, float beta, const Conv2d *c,
                           float *scratch) {
    int pixels = conv2d_out(c, c->H) * conv2d_out(c, c->W), OC = c->OC, stride = conv2d_sample_stride(c);
    if (!dsample_bias) {
        column_sum(dbias, dout, beta, c->B * pixels, OC, scratch);
        return;
    }
    for (int b = 0; b < c->B; b++) {
        column_sum(dsample_bias + (size_t)b * stride, dout + (size_t)b * pixels * OC, 0, pixels, OC, scratch);
    }
    for (int o = 0; dbias && o < OC; o++) {
        double sum = 0;
        for (int s = 0; s < c->B; s++) { sum += dsample_bias[(size_t)s * stride + o]; }
        dbias[o] = (float)(sum + (beta != 0 ? (double)beta * dbias[o] : 0));
    }
}

void conv2d_backward(floatX *dinp, float *dweight, float *dbias, floatX *dsample_bias, const floatX *dout,
                     const floatX *inp, const floatX *weight, const floatX *dresidual, float beta, Conv2d conv,
                     Device *dev) {
    const Conv2d *c = &conv;
    assert(!dweight || !c->torch_order);
    if (conv2d_is_linear(c) && !dsample_bias) {
        linear_backward(dinp, dweight, dbias, dout, inp, weight, dresidual, beta, c->B * c->H * c->W, c->IC, c->OC,
                        dev);
        return;
    }
    bool run = device_launch(dev, "conv2d_backward",
                             conv2d_backward_cost(dinp, dweight, dbias, dsample_bias, dresidual, beta, conv));
    int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    Pixels p = {.conv = c, .out = dinp, .inp = dout, .init = dresidual, .phases = c->stride, .transposed = true};
    p.B = c->B, p.H = c->H, p.W = c->W, p.N = c->IC, p.inp_H = OH, p.inp_W = OW, p.K = c->OC;
    size_t head = (c->OC + 63) / 64 * 64, need = dinp ? head + convolve_scratch(&p) : 0;
    size_t sums = column_sum_scratch(c->B * OH * OW, c->OC), outer = dweight ? weight_gradient_scratch(c) : 0;
    if (outer > need) { need = outer; }
    float *scratch = device_workspace(dev, (need > sums ? need : sums) * sizeof(float));
    if (!run) { return; }
    if (dinp) {
        memset(scratch, 0, c->OC * sizeof *scratch);
        p.zeros = scratch;
        convolve(p, weight, scratch + head);
    }
    if (dweight) { weight_gradient(dweight, dout, inp, beta, c, scratch); }
    if (dbias || dsample_bias) { bias_gradients(dbias, dsample_bias, dout, beta, c, scratch); }
}
