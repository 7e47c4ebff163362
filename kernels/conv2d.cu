// conv2d: an implicit matrix product over (tap, channel), where taps are the K x K positions of the kernel. No matrix
// of patches is stored: the loads of a tile compute the pixels' addresses, and padding becomes zeros in shared memory.
//     out and dinp:  rows = pixels, columns = channels, inner = (tap, channel)           conv2d_pixels.cuh
//     dweight:       rows = output channels, columns = (tap, channel), inner = pixels    conv2d_weights.cuh
// With stride 2, the gradient of the input is four products, one per phase (y mod 2, x mod 2) of the pixel, each with
// the taps that reach it. If there are too few tiles to fill the card, the inner dimension is split: a second kernel
// sums partial products from the workspace in a fixed order. The split depends only on the sizes, so that the bits are
// the same on every card.
//
// Channels that do not fill 16 bytes (pictures, latents) are first padded with zeros in the workspace.
#include "kernels/conv2d_choice.h"
#include "kernels/conv2d_pixels.cuh"
#include "kernels/conv2d_weights.cuh"
#include "kernels/cost.h"
#include <algorithm>
#include <assert.h>

// Blocks that an A100 runs at a time, two per SM: the number that a launch should come close to.
enum { SLOTS = 216 };

// ---- Tiles ---------------------------------------------------------------------------------------------------------

// Widths of a tile across the channels (the other side is 128), and their costs: an SM's clocks for 16 steps of the
// inner dimension, of the tensor cores or of shared memory, whichever is slower.
struct Width {
    int channels, cost;
};
#ifdef PRECISION_bf16
static const Width WIDTHS[] = {{160, 320}, {128, 256}, {64, 144}, {32, 104}};
#else
static const Width WIDTHS[] = {{64, 64}, {32, 36}};
#endif

// The width that covers `channels` at the least cost; of two with equal cost, the wider one.
static int width_for(int channels) {
    Width best = WIDTHS[0];
    for (const Width &w : WIDTHS) {
        if (ceil_div(channels, w.channels) * w.cost < ceil_div(channels, best.channels) * best.cost) { best = w; }
    }
    return best.channels;
}

// The number of parts into which the steps of K are split so that the blocks fill a card. Writing and reading a tile of
// partial sums takes as long as 24 steps on the tensor cores, for every tile size: so a part has at least 24 steps.
static int splits_for(int blocks, int steps) {
    const int splits = min(SLOTS / blocks, steps / 24);
    return splits < 1 ? 1 : splits;
}

// The grid of blocks, for tiles of BM pixels by BN channels.
static dim3 pixel_grid(const PixelProduct &p, bool gradient, int BM, int BN) {
    const int phases = gradient ? p.conv.stride : 1;
    const int rows = p.conv.B * ceil_div(p.out_H, phases) * ceil_div(p.out_W, phases); // of the largest phase
    return dim3(ceil_div(rows, BM), ceil_div(p.N, BN), phases * phases * p.splits);
}

template <class T, bool GRADIENT>
static void launch_pixels(const PixelProduct &p, const PixelResult &result, Device *dev) {
    launch<conv_pixels<T, GRADIENT>>(dev, pixel_grid(p, GRADIENT, T::BM, T::BN), T::threads, T::shared_bytes, p,
                                     result);
}

// fp32 has one kind of block for each width, and asks for no card.
[[maybe_unused]] static ConvCard card_of(Device *dev) {
    int shared;
    CHECK_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev->internals->index));
    return {.processors = device_processors(dev), .shared = (size_t)shared};
}

[[maybe_unused]] static int blocks_of(dim3 grid) { return (int)(grid.x * grid.y * grid.z); }

// With blocks of four warps or of eight, whichever the card prefers.
template <class FOUR, class EIGHT, bool GRADIENT>
static void launch_warps(const PixelProduct &p, const PixelResult &result, ConvCard card, Device *dev) {
    static_assert(FOUR::BM == EIGHT::BM && FOUR::BN == EIGHT::BN && FOUR::warps == 4 && EIGHT::warps == 8, "one tile");
    if (conv2d_eight_warps(FOUR::shared_bytes + STATIC_SHARED, card)) {
        launch_pixels<EIGHT, GRADIENT>(p, result, dev);
    } else {
        launch_pixels<FOUR, GRADIENT>(p, result, dev);
    }
}

template <bool GRADIENT> static void multiply_pixels(const PixelProduct &p, const PixelResult &result, Device *dev) {
    switch (width_for(p.N)) {
#ifdef PRECISION_bf16
    case 160: {
        const ConvCard card = card_of(dev);
        if (conv2d_tall(blocks_of(pixel_grid(p, GRADIENT, 160, 160)), blocks_of(pixel_grid(p, GRADIENT, 128, 160)),
                        card)) {
            launch_pixels<ConvTile<160, 160, 2, 4>, GRADIENT>(p, result, dev);
        } else {
            launch_warps<ConvTile<128, 160, 2, 2>, ConvTile<128, 160, 4, 2>, GRADIENT>(p, result, card, dev);
        }
        break;
    }
    case 128:
        launch_warps<ConvTile<128, 128, 2, 2>, ConvTile<128, 128, 4, 2>, GRADIENT>(p, result, card_of(dev), dev);
        break;
#endif
    case 64:
        launch_pixels<ConvTile<128, 64, 2, 2>, GRADIENT>(p, result, dev);
        break;
    default:
        launch_pixels<ConvTile<128, 32, 4, 1>, GRADIENT>(p, result, dev);
    }
    if (!result.partial) { return; }
    launch_one_of<sum_pixels<4>, sum_pixels<1>>(result.fours, dev, blocks_for(result.elements, result.fours ? 4 : 1),
                                                THREADS, 0, result, p.splits);
}

template <class T> static void launch_weights(const WeightProduct &p, Device *dev) {
    launch<conv_weights<T>>(dev, dim3(ceil_div(p.N, T::BN), ceil_div(p.conv.OC, T::BM), p.splits), T::threads,
                            T::shared_bytes, p);
}

template <class FOUR, class EIGHT> static void launch_warps(const WeightProduct &p, ConvCard card, Device *dev) {
    static_assert(FOUR::BM == EIGHT::BM && FOUR::BN == EIGHT::BN && FOUR::warps == 4 && EIGHT::warps == 8, "one tile");
    if (conv2d_eight_warps(FOUR::shared_bytes, card)) {
        launch_weights<EIGHT>(p, dev);
    } else {
        launch_weights<FOUR>(p, dev);
    }
}

static void multiply_weights(const WeightProduct &p, Device *dev) {
    switch (width_for(p.conv.OC)) {
#ifdef PRECISION_bf16
    case 160:
        launch_warps<ConvTile<160, 128, 2, 2>, ConvTile<160, 128, 2, 4>>(p, card_of(dev), dev);
        break;
    case 128:
        launch_warps<ConvTile<128, 128, 2, 2>, ConvTile<128, 128, 2, 4>>(p, card_of(dev), dev);
        break;
#endif
    case 64:
        launch_weights<ConvTile<64, 128, 2, 2>>(p, dev);
        break;
    default:
        launch_weights<ConvTile<32, 128, 1, 4>>(p, dev);
    }
    if (!p.partial) { return; }
    const int rows = p.conv.OC * p.conv.K * p.conv.K, C = p.conv.IC;
    launch_one_of<sum_weights<4>, sum_weights<1>>(C % 4 == 0, dev, blocks_for((size_t)rows * C, C % 4 == 0 ? 4 : 1),
                                                  THREADS, 0, p.dweight, p.partial, p.splits, rows, C, p.C, p.beta);
}

// ---- Channels that do not fill 16 bytes ----------------------------------------------------------------------------

static int stored(int channels) { return ceil_div(channels, VEC) * VEC; }

// to (rows, stored) = from (rows, C), padded with zeros. One vector per thread.
static __global__ void __launch_bounds__(THREADS)
    pad_channels(floatX *to, const floatX *from, size_t rows, int C, int stored) {
    const size_t i = first_element(VEC), row = i / stored;
    const int c = (int)(i % stored);
    if (row >= rows) { return; }
    float x[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++) { x[j] = c + j < C ? to_float(from[row * C + c + j]) : 0.0f; }
    store(to + i, x);
}

// A tensor (rows, C) whose channels are padded in the workspace if necessary.
struct Padded {
    const floatX *data;
    size_t rows;
    int C;
    size_t offset, bytes; // in the workspace; 0 bytes: not padded
};

static Padded padded(const floatX *data, size_t rows, int C, size_t *used) {
    const size_t bytes = C % VEC ? rows * stored(C) * sizeof(floatX) : 0;
    return {data, rows, C, reserve(used, bytes), bytes};
}

static const floatX *pad(const Padded &t, void *workspace, Device *dev) {
    if (!t.bytes) { return t.data; }
    floatX *to = (floatX *)((char *)workspace + t.offset);
    launch<pad_channels>(dev, blocks_for(t.rows * stored(t.C), VEC), THREADS, 0, to, t.data, t.rows, t.C, stored(t.C));
    return to;
}

// ---- The functions of kernels.h ------------------------------------------------------------------------------------

// Rows or columns of the result in phase `index`.
static Divisor phase_size(int size, int index, int phases) { return divisor((size - index + phases - 1) / phases); }

// The number of splits of the product with the result `pixels` x N, whose longest sums have `taps` taps of C channels.
static int pixel_splits(size_t pixels, int N, int taps, int C) {
    const int blocks = (int)ceil_div(pixels, (size_t)128) * ceil_div(N, width_for(N));
    return blocks > SLOTS / 2 ? 1 : splits_for(blocks, ceil_div(taps * stored(C), 4 * VEC));
}

// Whether each 4 elements of the rows of a matrix are aligned.
static bool in_fours(const floatX *data, int stride) {
    return stride % 4 == 0 && (uintptr_t)data % (4 * sizeof(floatX)) == 0;
}

void conv2d_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *sample_bias,
                    const floatX *residual, Conv2d conv, Device *dev) {
    const Conv2d *c = &conv;
    assert((c->K == 1 || c->K == 3) && (c->stride == 1 || c->stride == 2) && !c->torch_order);
    if (conv2d_is_linear(c) && !sample_bias) {
        linear_forward(out, inp, weight, bias, residual, c->B * c->H * c->W, c->IC, c->OC, dev);
        return;
    }
    const bool run = device_launch(dev, "conv2d_forward", conv2d_forward_cost(bias, sample_bias, residual, conv));
    const int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W), C = stored(c->IC);
    const size_t pixels = (size_t)c->B * OH * OW, elements = pixels * c->OC;
    const int splits = pixel_splits(pixels, c->OC, c->K * c->K, c->IC);
    size_t used = 0;
    const Padded source = padded(inp, (size_t)c->B * c->H * c->W, c->IC, &used);
    const Padded weights = padded(weight, (size_t)c->OC * c->K * c->K, c->IC, &used);
    const size_t partial = reserve(&used, splits > 1 ? splits * elements * sizeof(float) : 0);
    char *workspace = (char *)device_workspace(dev, used);
    if (!run) { return; }
    const PixelProduct p = {.conv = conv,
                            .source = pad(source, workspace, dev),
                            .weight = pad(weights, workspace, dev),
                            .H = c->H,
                            .W = c->W,
                            .C = C,
                            .weight_C = C,
                            .out_H = OH,
                            .out_W = OW,
                            .N = c->OC,
                            .splits = splits,
                            .phase_H = {divisor(OH)},
                            .phase_W = {divisor(OW)}};
    const int stride = conv2d_sample_stride(c);
    const PixelResult result = {.out = out,
                                .partial = splits > 1 ? (float *)(workspace + partial) : NULL,
                                .bias = bias,
                                .sample_bias = sample_bias,
                                .residual = residual,
                                .N = divisor(c->OC),
                                .sample_pixels = divisor(OH * OW),
                                .sample_stride = stride,
                                .elements = elements,
                                .fours = c->OC % 4 == 0 && (!sample_bias || in_fours(sample_bias, stride))};
    multiply_pixels<false>(p, result, dev);
}

// What backward does, and the parts of its workspace. The three products use one part, one after the other.
struct BackwardPlan {
    Padded dout, inp, weight;
    int splits, weight_splits; // of dinp's sums and of dweight's
    bool direct;               // dweight needs no partial sums
    int samples;               // the biases' sums are over the pixels of so many parts
    size_t sums;               // bytes of these sums
    size_t partial, bytes;     // offset of the part that the products share; bytes of the workspace
};

static int columns_of_weight(const Conv2d *c) { return c->K * c->K * stored(c->IC); }

static BackwardPlan plan_backward(const Conv2d *c, const floatX *dout, const floatX *inp, const floatX *weight,
                                  bool dinp, bool dweight, bool dbias, bool dsample_bias) {
    const size_t pixels = (size_t)c->B * c->H * c->W;
    const size_t out_pixels = (size_t)c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W);
    size_t used = 0;
    BackwardPlan plan = {};
    plan.dout = padded(dout, dinp || dweight ? out_pixels : 0, c->OC, &used);
    plan.inp = padded(inp, dweight ? pixels : 0, c->IC, &used);
    plan.weight = padded(weight, dinp ? (size_t)c->OC * c->K * c->K : 0, c->IC, &used);
    const int met = ceil_div(c->K, c->stride), N = columns_of_weight(c);
    const int tiles = ceil_div(c->OC, width_for(c->OC)) * ceil_div(N, 128);
    plan.splits = dinp ? pixel_splits(pixels, c->IC, met * met, c->OC) : 1;
    plan.weight_splits = splits_for(tiles, (int)ceil_div(out_pixels, (size_t)(4 * VEC)));
    plan.direct = plan.weight_splits == 1 && c->IC % VEC == 0;
    plan.samples = dsample_bias ? c->B : 1;
    plan.sums = dbias || dsample_bias ? chunk_sums_size(plan.samples, (int)(out_pixels / plan.samples), c->OC) : 0;
    const size_t of_pixels = plan.splits > 1 ? plan.splits * pixels * c->IC * sizeof(float) : 0;
    const size_t of_weights = dweight && !plan.direct ? (size_t)plan.weight_splits * c->OC * N * sizeof(float) : 0;
    plan.partial = reserve(&used, std::max({of_pixels, of_weights, plan.sums}));
    plan.bytes = used;
    return plan;
}

// dout and weight are padded.
static void input_gradient(floatX *dinp, const floatX *dout, const floatX *weight, const floatX *dresidual,
                           const Conv2d *c, int splits, float *partial, Device *dev) {
    const PixelProduct p = {.conv = *c,
                            .source = dout,
                            .weight = weight,
                            .H = conv2d_out(c, c->H),
                            .W = conv2d_out(c, c->W),
                            .C = stored(c->OC),
                            .weight_C = stored(c->IC),
                            .out_H = c->H,
                            .out_W = c->W,
                            .N = c->IC,
                            .splits = splits,
                            .phase_H = {phase_size(c->H, 0, c->stride), phase_size(c->H, 1, c->stride)},
                            .phase_W = {phase_size(c->W, 0, c->stride), phase_size(c->W, 1, c->stride)}};
    const PixelResult result = {.out = dinp,
                                .partial = splits > 1 ? partial : NULL,
                                .residual = dresidual,
                                .N = divisor(c->IC),
                                .sample_pixels = divisor(c->H * c->W),
                                .elements = (size_t)c->B * c->H * c->W * c->IC,
                                .fours = c->IC % 4 == 0};
    multiply_pixels<true>(p, result, dev);
}

// dout and inp are padded. partial NULL: there is one split.
static void weight_gradient(float *dweight, const floatX *dout, const floatX *inp, float beta, const Conv2d *c,
                            int splits, float *partial, Device *dev) {
    const int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    const WeightProduct p = {.conv = *c,
                             .dout = dout,
                             .inp = inp,
                             .OC = stored(c->OC),
                             .C = stored(c->IC),
                             .pixels = c->B * OH * OW,
                             .N = columns_of_weight(c),
                             .out_W = divisor(OW),
                             .out_H = divisor(OH),
                             .splits = splits,
                             .dweight = dweight,
                             .partial = partial,
                             .beta = beta};
    multiply_weights(p, dev);
}

// dsample_bias (B, C) = sums over the chunks of partial (B, chunks, C).
static __global__ void __launch_bounds__(256)
    fold_sample_bias(floatX *dsample_bias, const float *partial, int chunks, int C, int stride) {
    __shared__ float sums[8][32];
    const int c = blockIdx.x * 32 + threadIdx.x, b = blockIdx.y;
    float sum = 0;
    if (c < C) {
        for (int i = threadIdx.y; i < chunks; i += 8) { sum += partial[((size_t)b * chunks + i) * C + c]; }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < C) {
        for (int y = 1; y < 8; y++) { sum += sums[y][threadIdx.x]; }
        dsample_bias[(size_t)b * stride + c] = to_floatX(sum);
    }
}

// dsample_bias (B, OC) and dbias (OC) from the sums of dout over the pixels of each of `samples` parts.
static void bias_gradients(float *dbias, floatX *dsample_bias, const floatX *dout, float beta, const Conv2d *c,
                           int samples, float *partial, Device *dev) {
    const int OC = c->OC, pixels = c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W);
    const int chunks = chunk_sums(partial, dout, samples, pixels / samples, OC, dev);
    if (dsample_bias) {
        launch<fold_sample_bias>(dev, dim3(ceil_div(OC, 32), samples), dim3(32, 8), 0, dsample_bias, partial, chunks,
                                 OC, conv2d_sample_stride(c));
    }
    if (dbias) { fold_rows(dbias, NULL, partial, samples * chunks, OC, OC, beta, dev); }
}

void conv2d_backward(floatX *dinp, float *dweight, float *dbias, floatX *dsample_bias, const floatX *dout,
                     const floatX *inp, const floatX *weight, const floatX *dresidual, float beta, Conv2d conv,
                     Device *dev) {
    const Conv2d *c = &conv;
    assert(!c->torch_order);
    if (conv2d_is_linear(c) && !dsample_bias) {
        linear_backward(dinp, dweight, dbias, dout, inp, weight, dresidual, beta, c->B * c->H * c->W, c->IC, c->OC,
                        dev);
        return;
    }
    const bool run = device_launch(dev, "conv2d_backward",
                                   conv2d_backward_cost(dinp, dweight, dbias, dsample_bias, dresidual, beta, conv));
    const BackwardPlan plan = plan_backward(c, dout, inp, weight, dinp, dweight, dbias, dsample_bias);
    char *workspace = (char *)device_workspace(dev, plan.bytes);
    if (!run) { return; }
    float *partial = (float *)(workspace + plan.partial);
    const floatX *padded_dout = pad(plan.dout, workspace, dev);
    if (dinp) {
        input_gradient(dinp, padded_dout, pad(plan.weight, workspace, dev), dresidual, c, plan.splits, partial, dev);
    }
    if (dweight) {
        weight_gradient(dweight, padded_dout, pad(plan.inp, workspace, dev), beta, c, plan.weight_splits,
                        plan.direct ? NULL : partial, dev);
    }
    if (dbias) { partial = partial_sums(partial, plan.sums, dev); }
    if (dbias || dsample_bias) { bias_gradients(dbias, dsample_bias, dout, beta, c, plan.samples, partial, dev); }
}
