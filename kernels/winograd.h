// 3 x 3 convolutions with stride 1 on the CPU by fast filtering: F(4 x 4, 3 x 3), Lavin & Gray 2016, "Fast Algorithms
// for Convolutional Neural Networks". A tile of 4 x 4 outputs takes 36 products per pair of channels instead of 144.
// conv2d.c uses this where it pays.
#pragma once
#include "kernels/gemm.h"

typedef struct {
    float *out;                    // (B, H, W, N)
    const float *inp;              // (B, inp_H, inp_W, K)
    const float *init, *bias;      // added to out, may be NULL; bias is (N), or (B, N) if bias_per_sample
    bool bias_per_sample, flipped; // flipped: tap (y, x) of the weight stands at (2 - y, 2 - x)
    int B, H, W, N, inp_H, inp_W, K;
    int pad; // zeros before the first row and column
} Winograd;

// Whether this is faster than the direct sum. It depends on the size of a sample and the channels alone (H, W, N, K),
// so that a sample has the same bits in every batch.
bool winograd_pays(const Winograd *w);

// out = conv(inp, weight) + init + bias. weight has 9 taps (y, x). scratch holds winograd_scratch floats.
size_t winograd_scratch(const Winograd *w);
void winograd_convolve(const Winograd *w, const GemmWeight *weight, float *scratch);

// dweight (N, 3, 3, K) = beta dweight + the gradient of the weight of w's convolution; dout (B, H, W, N) is the
// gradient of out. w's out, init and bias are not read. scratch holds winograd_gradient_scratch floats.
size_t winograd_gradient_scratch(const Winograd *w);
void winograd_weight_gradient(float *dweight, const float *dout, float beta, const Winograd *w, float *scratch);
