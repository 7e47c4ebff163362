// The elementary layers with parameters: where their slices lie, and the kernels called with them. A model's forward is
// a list of these calls.
//
// Feature maps are (B, H, W, C) = tokens (B*H*W, C), N tokens in all; B and what all layers share is in Run.
#pragma once
#include "kernels/kernels.h"
#include "model/arena.h"
#include "model/params.h"

// One pass through a model: what every layer function needs besides its own tensors.
typedef struct {
    const Params *params;
    Arena *arena;
    Device *dev;
    int B;
    bool keep;                                      // forward: what backward needs stays in the arena
    bool recompute_resnets, recompute_transformers; // keep only the inputs of these, backward runs their forward again
    float beta;                                     // backward: grad = gradient + beta * grad

    // What all blocks of a UNet are conditioned on, and the gradients that they add up. NULL: there is none.
    const floatX *temb;               // (B, time dim): silu of the time embedding
    const floatX *context;            // (B, context_length, cross dim)
    int context_length;               //
    floatX *dtemb, *dcontext;         //
    bool dtemb_begun, dcontext_begun; // false: the next one overwrites
} Run;

// A name of a state dict, built with printf's format.
typedef struct {
    char text[128];
} Name;
Name name_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A tensor of n elements that stays in the arena if the run keeps, else a temporary that the caller's mark releases.
floatX *keep_tensor(const Run *run, size_t n);
float *keep_floats(const Run *run, size_t n);
// Where the next tensor of a residual stream goes: into the arena if the run keeps, else over the current one.
floatX *next_tensor(const Run *run, floatX *current, size_t n);

typedef struct {
    size_t weight, bias;
    int IC, OC;
} Linear;

Linear linear_create(Params *params, const char *name, int IC, int OC, bool bias);
// A 1x1 convolution: the same matrix, PyTorch's shape (OC, IC, 1, 1).
Linear conv1x1_create(Params *params, const char *name, int IC, int OC);
// `count` matrices (OC, IC) called prefix.names[i], packed to one of (count * OC, IC).
Linear linear_create_packed(Params *params, const char *prefix, const char *const *names, int count, int IC, int OC,
                            bool bias);
// out (N, OC); residual (N, OC) may be NULL or out.
void linear_apply(const Linear *l, floatX *out, const floatX *inp, const floatX *residual, int N, const Run *run);
// dinp (N, IC) = dout weight + dresidual; dresidual may be NULL or dinp.
void linear_input_grad(const Linear *l, floatX *dinp, const floatX *dout, const floatX *dresidual, int N,
                       const Run *run);
void linear_param_grad(const Linear *l, const floatX *dout, const floatX *inp, int N, const Run *run);

typedef struct {
    size_t weight, bias;
    Conv2d shape; // B, H, W are filled in by each call
} Conv;

// 3x3 with padding 1, or (stride 2) with the given padding.
Conv conv_create(Params *params, const char *name, int IC, int OC, int stride, int pad_before, int pad_after);
int conv_out_size(const Conv *c, int size);
void conv_apply(const Conv *c, floatX *out, const floatX *inp, const floatX *sample_bias, const floatX *residual, int H,
                int W, const Run *run);
void conv_input_grad(const Conv *c, floatX *dinp, const floatX *dout, const floatX *dresidual, int H, int W,
                     const Run *run);
// dsample_bias (B, OC) may be NULL.
void conv_param_grad(const Conv *c, floatX *dsample_bias, const floatX *dout, const floatX *inp, int H, int W,
                     const Run *run);

typedef struct {
    size_t weight, bias;
    int C, G;
    float eps;
    bool silu;
    float *mean, *rstd; // (B, G)
} GroupNorm;

GroupNorm groupnorm_create(Params *params, const char *name, int C, int G, float eps, bool silu);
void groupnorm_statistics(GroupNorm *g, const Run *run); // memory for mean and rstd: before the first apply
void groupnorm_apply(const GroupNorm *g, floatX *out, const floatX *inp, int HW, const Run *run);
void groupnorm_grad(const GroupNorm *g, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                    int HW, const Run *run);

typedef struct {
    size_t weight, bias;
    int C;
    float eps;
    float *mean, *rstd; // (N)
} LayerNorm;

LayerNorm layernorm_create(Params *params, const char *name, int C, float eps);
void layernorm_statistics(LayerNorm *l, int N, const Run *run);
void layernorm_apply(const LayerNorm *l, floatX *out, const floatX *inp, int N, const Run *run);
void layernorm_grad(const LayerNorm *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                    int N, const Run *run);
