// The elementary layers with parameters: the offsets of their slices, and the calls of their kernels. A model's forward
// is a list of these calls.
//
// Feature maps are (B, H, W, C), which is (N, C) with N = B*H*W tokens. Pass holds B and what all layers share.
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
    bool save;                                      // forward: what backward needs stays in the arena
    bool recompute_resnets, recompute_transformers; // save only their inputs; backward runs their forward again
    bool recompute_products;                        // backward runs a transformer's linear layers again
    float beta;                                     // backward: grad = gradient + beta * grad

    // Inputs that all blocks of a UNet share, and their gradients. NULL: none.
    const floatX *time;    // (B, columns of all resnets): the projections of the time embedding
    floatX *dtime;         // of which each resnet writes its columns
    const floatX *context; // (B, context_length, cross dim)
    int context_length;
    floatX *dcontext;    // which the blocks sum
    bool dcontext_begun; // false: the next gradient overwrites
} Pass;

// A name of a state dict, built with printf's format.
typedef struct {
    char text[128];
} Name;
Name name_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A tensor that stays in the arena if the pass saves, else a temporary that the caller's mark releases. A plan's table
// names it after the layer whose weight lies at `of_weight`: "out" is its output, residual included, such as
// "down_blocks.0.resnets.0.conv1.out"; "../o" is a tensor of the layer's parent.
floatX *save_tensor(const Pass *pass, size_t of_weight, const char *name, Shape shape);
float *save_floats(const Pass *pass, size_t of_weight, const char *name, Shape shape);
// Memory for the next tensor of a residual stream: new in the arena if the pass saves, else that of the current one.
floatX *next_tensor(const Pass *pass, floatX *current, size_t of_weight, Shape shape);
// Ends a forward: frees temporaries, and everything since `begin` if the pass does not save.
void forward_done(const Pass *pass, ArenaMark begin);
// Ends a layer's backward: frees what the arena saved since `begin`, and reports that gradients from the parameter
// `first` on are final.
void backward_done(const Pass *pass, size_t first, ArenaMark begin);

typedef struct {
    size_t weight, bias;
    int IC, OC;
} Linear;

Linear linear_create(Params *params, const char *name, int IC, int OC, bool bias);
// A 1x1 convolution: the same matrix, PyTorch's shape (OC, IC, 1, 1).
Linear conv1x1_create(Params *params, const char *name, int IC, int OC);
// `count` matrices (OC, IC) called prefix.names[i], packed into one (count * OC, IC).
Linear linear_create_packed(Params *params, const char *prefix, const char *const *names, int count, int IC, int OC,
                            bool bias);
// Linear layers of the same inp, computed as one: their weights are gathered into one matrix (params_gather).
typedef struct {
    Linear all;
    ParamGroup weight, bias;
} LinearGroup;
// Room for layers that have OC outputs together.
LinearGroup linear_group_create(Params *params, int IC, int OC);
// Adds a layer with a bias and returns its first column in the outputs of all.
int linear_group_add(LinearGroup *group, Params *params, const char *name, int OC);
// out (N, OC); residual (N, OC) may be NULL or out.
void linear_apply(const Linear *l, floatX *out, const floatX *inp, const floatX *residual, int N, const Pass *pass);
// Computes the parameters' gradients, if there are any, then dinp (N, IC) = dout weight + dresidual, if dinp is not
// NULL. dresidual may be NULL or dinp; dinp may be inp.
void linear_grads(const Linear *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual, int N,
                  const Pass *pass);
// Its two parts, for callers whose inp is only there between them.
void linear_weight_grad(const Linear *l, const floatX *dout, const floatX *inp, int N, const Pass *pass);
void linear_input_grad(const Linear *l, floatX *dinp, const floatX *dout, const floatX *dresidual, int N,
                       const Pass *pass);

typedef struct {
    size_t weight, bias;
    Conv2d shape; // B, H, W are filled in by each call
} Conv;

// 3x3 with padding 1, or (stride 2) with the given padding.
Conv conv_create(Params *params, const char *name, int IC, int OC, int stride, int pad_before, int pad_after);
void conv_apply(const Conv *c, floatX *out, const floatX *inp, const floatX *sample_bias, const floatX *residual, int H,
                int W, const Pass *pass);
// As linear_grads. dsample_bias (B, OC) may be NULL; it is computed only with the parameters' gradients.
void conv_grads(const Conv *c, floatX *dinp, floatX *dsample_bias, const floatX *dout, const floatX *inp,
                const floatX *dresidual, int H, int W, const Pass *pass);

typedef struct {
    size_t weight, bias;
    int C, G;
    float eps;
    bool silu;
    float *mean, *rstd; // (B, G)
} GroupNorm;

GroupNorm groupnorm_create(Params *params, const char *name, int C, int G, float eps, bool silu);
// Allocates mean and rstd.
void groupnorm_apply(GroupNorm *g, floatX *out, const floatX *inp, int HW, const Pass *pass);
// For backward: recomputes the output, which was not saved.
void groupnorm_again(const GroupNorm *g, floatX *out, const floatX *inp, int HW, const Pass *pass);
void groupnorm_grads(const GroupNorm *g, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                     int HW, const Pass *pass);

typedef struct {
    size_t weight, bias;
    int C;
    float eps;
    float *mean, *rstd; // (N)
} LayerNorm;

LayerNorm layernorm_create(Params *params, const char *name, int C, float eps);
// Allocates mean and rstd.
void layernorm_apply(LayerNorm *l, floatX *out, const floatX *inp, int N, const Pass *pass);
// For backward: recomputes the output, which was not saved.
void layernorm_again(const LayerNorm *l, floatX *out, const floatX *inp, int N, const Pass *pass);
void layernorm_grads(const LayerNorm *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                     int N, const Pass *pass);
