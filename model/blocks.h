// The blocks that UNet, VAE and text encoder are made of. A block's struct holds its layers and, after a forward that
// saves, the tensors that its backward needs. Outputs of norms and activation functions are cheap to recompute and not
// saved: backward runs those kernels again.
#pragma once
#include "model/layers.h"

// ---- The three residual branches of a transformer block ------------------------------------------------------------
// out (N, C) = branch(inp) + residual: inp is the normalized stream; residual is the stream and may be out.
// Backward: dinp (N, C) from dout and inp, which the caller recomputes; dinp may be inp.

typedef struct {
    Linear q;  // self-attention: to_q, to_k and to_v, packed; cross-attention: to_q
    Linear kv; // cross-attention: to_k and to_v, packed, of the pass's context
    Linear out;
    int NH;
    bool cross, causal;
    floatX *q_out, *kv_out, *o; // (N, 3C) or (N, C); (B * context_length, 2C) or NULL; (N, C)
    float *lse;                 // (B, NH, T)
} MultiHead;

void multihead_forward(MultiHead *a, floatX *out, const floatX *inp, const floatX *residual, int T, const Pass *pass);
void multihead_backward(MultiHead *a, floatX *dinp, const floatX *dout, const floatX *inp, int T, Pass *pass);

typedef enum { FF_GEGLU, FF_GELU, FF_QUICK_GELU } FeedForwardKind;

typedef struct {
    Linear fc1, fc2;
    FeedForwardKind kind;
    floatX *hidden; // fc1's output (N, fc1.OC)
} FeedForward;

void feed_forward_forward(FeedForward *f, floatX *out, const floatX *inp, const floatX *residual, int N,
                          const Pass *pass);
void feed_forward_backward(FeedForward *f, floatX *dinp, const floatX *dout, const floatX *inp, int N,
                           const Pass *pass);

// ---- ResnetBlock2D -------------------------------------------------------------------------------------------------

typedef struct {
    GroupNorm norm1, norm2;
    Linear conv_shortcut;
    Conv conv1, conv2;
    bool has_time, has_shortcut; // has_shortcut: IC != OC
    int time_column;             // the first of OC columns of the pass's time that conv1's output gets
    floatX *hidden;              // conv1's output (B, H, W, OC)
} Resnet;

// time_emb_proj is one of the layers of `time`; NULL: no time embedding (in the VAE).
Resnet resnet_create(Params *params, const char *name, int IC, int OC, LinearGroup *time, int groups, float eps);
// out (B, H, W, OC) from inp (B, H, W, IC). If IC == OC and nothing is saved, out may be inp. out NULL: recomputes only
// what backward needs.
void resnet_forward(Resnet *r, floatX *out, const floatX *inp, int H, int W, const Pass *pass);
// dinp may be dout if IC == OC.
void resnet_backward(Resnet *r, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, Pass *pass);

// ---- Transformer2DModel of BasicTransformerBlocks ------------------------------------------------------------------

typedef struct {
    LayerNorm norm1, norm2, norm3;
    MultiHead attn1, attn2; // over the picture, over the text
    FeedForward ff;
    floatX *x1, *x2, *x3; // the stream before each branch (N, C)
} TransformerBlock;

typedef struct {
    GroupNorm norm;
    Linear proj_in, proj_out;
    TransformerBlock *blocks;
    int count;
    floatX *hidden; // proj_out's input (N, C)
} Transformer;

Transformer transformer_create(Params *params, const char *name, int C, int heads, int count, int cross_dim, int groups,
                               bool linear_projection);
void transformer_destroy(Transformer *t);
// out (B, HW, C) from inp (B, HW, C). If nothing is saved, out may be inp. out NULL: as above.
void transformer_forward(Transformer *t, floatX *out, const floatX *inp, int HW, const Pass *pass);
// dinp may be dout.
void transformer_backward(Transformer *t, floatX *dinp, const floatX *dout, const floatX *inp, int HW, Pass *pass);

// ---- Upsample2D: nearest neighbour to a given size, then a 3x3 convolution -----------------------------------------

void upsample_forward(const Conv *conv, floatX *out, const floatX *inp, int H, int W, int OH, int OW, const Pass *pass);
void upsample_backward(const Conv *conv, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, int OH,
                       int OW, const Pass *pass);

// ---- The end of UNet and VAE: norm, silu, 3x3 convolution ----------------------------------------------------------

typedef struct {
    GroupNorm norm;
    Conv conv;
    int H, W;
    const floatX *inp; // (B, H, W, IC)
} Head;

// The layers' names are the prefix followed by conv_norm_out and conv_out.
Head head_create(Params *params, const char *prefix, int IC, int OC, int groups, float eps);
void head_forward(Head *h, floatX *out, const floatX *inp, int H, int W, const Pass *pass);
// Returns the gradient of inp, pushed onto the arena.
floatX *head_backward(const Head *h, const floatX *dout, const Pass *pass);
