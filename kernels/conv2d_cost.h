// What a convolution costs, for the trace of every backend (conv2d.c, conv2d.cu): elements, useful FLOPs, least bytes.
#pragma once
#include "kernels/kernels.h"

// A 1x1 convolution over all pixels is a matrix product of the token matrix.
static inline bool conv2d_is_linear(const Conv2d *c) {
    return c->K == 1 && c->stride == 1 && c->pad_before == 0 && c->pad_after == 0;
}

// Elements.
static inline double conv2d_inputs(const Conv2d *c) { return (double)c->B * c->H * c->W * c->IC; }
static inline double conv2d_outputs(const Conv2d *c) {
    return (double)c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W) * c->OC;
}
static inline double conv2d_weights(const Conv2d *c) { return (double)c->OC * c->K * c->K * c->IC; }

// Output positions o of an axis of `size` input positions whose tap k lies inside [0, size).
static inline int conv2d_inside(const Conv2d *c, int k, int size) {
    int count = 0;
    for (int o = 0; o < conv2d_out(c, size); o++) {
        int at = o * c->stride + k - c->pad_before;
        count += at >= 0 && at < size;
    }
    return count;
}

// Useful FLOPs of one of the three products: products with padding are none.
static inline double conv2d_flops(const Conv2d *c) {
    double rows = 0, columns = 0;
    for (int k = 0; k < c->K; k++) rows += conv2d_inside(c, k, c->H), columns += conv2d_inside(c, k, c->W);
    return 2 * c->B * rows * columns * c->IC * c->OC;
}

static inline double conv2d_forward_bytes(const Conv2d *c, bool bias, bool sample_bias, bool residual) {
    return sizeof(floatX) * (conv2d_inputs(c) + conv2d_weights(c) + conv2d_outputs(c) * (residual ? 2 : 1) +
                             (bias ? c->OC : 0) + (sample_bias ? (double)c->B * c->OC : 0));
}

typedef struct {
    double bytes, flops;
} Conv2dCost;

// Of the gradients that are asked for. beta != 0 reads the gradient of the weight.
static inline Conv2dCost conv2d_backward_cost(const Conv2d *c, bool dinp, bool dweight, bool sums, bool dresidual,
                                              float beta) {
    double inputs = conv2d_inputs(c), weights = conv2d_weights(c);
    Conv2dCost cost = {sizeof(floatX) * conv2d_outputs(c), 0};
    if (dinp) {
        cost.bytes += sizeof(floatX) * (inputs * (dresidual ? 2 : 1) + weights);
        cost.flops += conv2d_flops(c);
    }
    if (dweight) {
        cost.bytes += sizeof(floatX) * inputs + sizeof(float) * weights * (beta != 0 ? 2 : 1);
        cost.flops += conv2d_flops(c);
    }
    if (sums) { cost.flops += conv2d_outputs(c); }
    return cost;
}
