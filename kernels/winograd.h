// 3x3 convolutions with stride 1 and padding 1 by Winograd's F(2x2, 3x3): 16 products instead of 36 for 2x2 pixels.
#pragma once
#include "kernels/gemm.h"

typedef struct {
    float *out;                 // (B, H, W, N)
    const float *inp;           // (B, H, W, K)
    const float *init;          // (B, H, W, N), added; NULL or out
    const float *bias;          // (N), or (B, N) with bias_per_sample; NULL: 0
    bool bias_per_sample, flip; // flip: tap t is the weight's tap 8 - t (the gradient of the input)
    int B, H, W;
    GemmWeight weight; // 9 taps
} Winograd;

// Whether it is faster than the plain product: with few channels, its additions take as long as the products it saves.
static inline bool winograd_pays(int K, int N) { return K >= 128 && N >= 128 && K % VEC == 0 && N % VEC == 0; }
// Floats of scratch that winograd_convolve needs. The order of the sums depends only on the sizes.
size_t winograd_scratch(int B, int H, int W, int K, int N);
void winograd_convolve(const Winograd *conv, float *scratch);
