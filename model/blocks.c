#include "model/blocks.h"
#include <stdlib.h>
#include "util/error.h"

// The output of a linear layer that backward needs: saved, or temporary if backward computes it again.
static floatX *product_tensor(const Pass *pass, size_t layer, const char *name, Shape shape) {
    if (pass->recompute_products) { return arena_push_tensor(pass->arena, sizeof(floatX), shape); }
    return save_tensor(pass, layer, name, shape);
}

// ---- Attention -----------------------------------------------------------------------------------------------------

// q, k and v are columns of one product (N, 3C); or q is a product, and k and v are columns of another
// (B context_length, 2C).
static Attention shape_of(const MultiHead *a, int T, const Pass *pass) {
    int C = a->out.IC, kv_stride = a->cross ? 2 * C : 3 * C;
    return (Attention){.B = pass->B,
                       .NH = a->NH,
                       .Tq = T,
                       .Tk = a->cross ? pass->context_length : T,
                       .HS = C / a->NH,
                       .q_stride = a->q.OC,
                       .k_stride = kv_stride,
                       .v_stride = kv_stride,
                       .out_stride = C,
                       .causal = a->causal};
}

// Computes q, k and v where backward looks for them: saved, or in temporary memory if backward computes them again.
static void project(MultiHead *a, const floatX *inp, int T, const Pass *pass) {
    int B = pass->B, C = a->out.IC;
    a->q_out = product_tensor(pass, a->q.weight, a->cross ? "../q" : "../qkv", SHAPE(B, T, a->q.OC));
    linear_apply(&a->q, a->q_out, inp, NULL, B * T, pass);
    if (!a->cross) { return; }
    a->kv_out = product_tensor(pass, a->q.weight, "../kv", SHAPE(B, pass->context_length, 2 * C));
    linear_apply(&a->kv, a->kv_out, pass->context, NULL, B * pass->context_length, pass);
}

static const floatX *keys_of(const MultiHead *a) { return a->cross ? a->kv_out : a->q_out + a->out.IC; }

void multihead_forward(MultiHead *a, floatX *out, const floatX *inp, const floatX *residual, int T, const Pass *pass) {
    int B = pass->B, C = a->out.IC;
    ArenaMark mark = arena_mark(pass->arena);
    project(a, inp, T, pass);
    a->o = save_tensor(pass, a->q.weight, "../o", SHAPE(B, T, C));
    a->lse = save_floats(pass, a->q.weight, "../lse", SHAPE(B, a->NH, T));
    const floatX *k = keys_of(a);
    attention_forward(a->o, a->lse, a->q_out, k, k + C, shape_of(a, T, pass), pass->dev);
    linear_apply(&a->out, out, a->o, residual, B * T, pass);
    arena_release_top(pass->arena, mark);
}

void multihead_backward(MultiHead *a, floatX *dinp, const floatX *dout, const floatX *inp, int T, Pass *pass) {
    int N = pass->B * T, M = pass->B * pass->context_length, C = a->out.IC;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *d_o = arena_push(pass->arena, (size_t)N * C), *dq = arena_push(pass->arena, (size_t)N * a->q.OC);
    if (pass->recompute_products) { project(a, inp, T, pass); }
    const floatX *k = keys_of(a);
    floatX *dk = a->cross ? arena_push(pass->arena, (size_t)M * 2 * C) : dq + C;
    linear_grads(&a->out, d_o, dout, a->o, NULL, N, pass);
    attention_backward(dq, dk, dk + C, d_o, a->q_out, k, k + C, a->o, a->lse, shape_of(a, T, pass), pass->dev);
    if (a->cross) {
        linear_grads(&a->kv, pass->dcontext, dk, pass->context, pass->dcontext_begun ? pass->dcontext : NULL, M, pass);
        pass->dcontext_begun = true;
    }
    linear_grads(&a->q, dinp, dq, inp, NULL, N, pass);
    arena_release_top(pass->arena, mark);
}

// ---- Feed-forward --------------------------------------------------------------------------------------------------

static void activation_apply(const FeedForward *f, floatX *out, int N, const Pass *pass) {
    size_t n = (size_t)N * f->fc2.IC;
    if (f->kind == FF_GEGLU) {
        geglu_forward(out, f->hidden, N, f->fc2.IC, pass->dev);
    } else if (f->kind == FF_GELU) {
        gelu_forward(out, f->hidden, n, pass->dev);
    } else {
        quick_gelu_forward(out, f->hidden, n, pass->dev);
    }
}

// The gradients of fc2 and of the activation's argument. The activation, which was not saved, is computed again:
// GEGLU's backward does that on the way. All of it takes one buffer (N, fc2.IC), which becomes dhidden, or GEGLU's
// overwrites hidden.
static floatX *activation_grads(const FeedForward *f, const floatX *dout, int N, const Pass *pass) {
    size_t n = (size_t)N * f->fc2.IC;
    floatX *active = arena_push(pass->arena, n), *dactive = active;
    if (f->kind == FF_GEGLU) {
        linear_input_grad(&f->fc2, dactive, dout, NULL, N, pass);
        geglu_backward(f->hidden, pass->params->grads ? active : NULL, dactive, f->hidden, N, f->fc2.IC, pass->dev);
        linear_weight_grad(&f->fc2, dout, active, N, pass);
        return f->hidden;
    }
    if (pass->params->grads) { activation_apply(f, active, N, pass); }
    linear_grads(&f->fc2, dactive, dout, active, NULL, N, pass);
    if (f->kind == FF_GELU) {
        gelu_backward(dactive, dactive, f->hidden, n, pass->dev);
    } else {
        quick_gelu_backward(dactive, dactive, f->hidden, n, pass->dev);
    }
    return dactive;
}

static void hidden_apply(FeedForward *f, const floatX *inp, int N, const Pass *pass) {
    f->hidden = product_tensor(pass, f->fc1.weight, "out", SHAPE(N, f->fc1.OC));
    linear_apply(&f->fc1, f->hidden, inp, NULL, N, pass);
}

void feed_forward_forward(FeedForward *f, floatX *out, const floatX *inp, const floatX *residual, int N,
                          const Pass *pass) {
    ArenaMark mark = arena_mark(pass->arena);
    hidden_apply(f, inp, N, pass);
    floatX *active = arena_push(pass->arena, (size_t)N * f->fc2.IC);
    activation_apply(f, active, N, pass);
    linear_apply(&f->fc2, out, active, residual, N, pass);
    arena_release_top(pass->arena, mark);
}

void feed_forward_backward(FeedForward *f, floatX *dinp, const floatX *dout, const floatX *inp, int N,
                           const Pass *pass) {
    ArenaMark mark = arena_mark(pass->arena);
    if (pass->recompute_products) { hidden_apply(f, inp, N, pass); }
    const floatX *dhidden = activation_grads(f, dout, N, pass);
    linear_grads(&f->fc1, dinp, dhidden, inp, NULL, N, pass);
    arena_release_top(pass->arena, mark);
}

// ---- Resnet --------------------------------------------------------------------------------------------------------

Resnet resnet_create(Params *params, const char *name, int IC, int OC, LinearGroup *time, int groups, float eps) {
    Resnet r = {.has_time = time != NULL, .has_shortcut = IC != OC};
    r.norm1 = groupnorm_create(params, name_of("%s.norm1", name).text, IC, groups, eps, true);
    if (time) { r.time_column = linear_group_add(time, params, name_of("%s.time_emb_proj", name).text, OC); }
    r.conv1 = conv_create(params, name_of("%s.conv1", name).text, IC, OC, 1, 1, 1);
    if (time) { r.conv1.shape.sample_stride = time->all.OC; }
    r.norm2 = groupnorm_create(params, name_of("%s.norm2", name).text, OC, groups, eps, true);
    if (r.has_shortcut) { r.conv_shortcut = conv1x1_create(params, name_of("%s.conv_shortcut", name).text, IC, OC); }
    r.conv2 = conv_create(params, name_of("%s.conv2", name).text, OC, OC, 1, 1, 1);
    return r;
}

void resnet_forward(Resnet *r, floatX *out, const floatX *inp, int H, int W, const Pass *caller) {
    Pass own = *caller, *pass = &own;
    if (pass->recompute_resnets && out) { pass->save = false; }
    int HW = H * W, IC = r->norm1.C, OC = r->norm2.C;
    size_t N = (size_t)pass->B * HW;
    ArenaMark all = arena_mark(pass->arena);
    floatX *hidden = r->hidden = save_tensor(pass, r->conv1.weight, "out", SHAPE(pass->B, H, W, OC));

    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, N * IC);
    groupnorm_apply(&r->norm1, normed, inp, HW, pass);
    conv_apply(&r->conv1, hidden, normed, r->has_time ? pass->time + r->time_column : NULL, NULL, H, W, pass);
    arena_release_top(pass->arena, mark);

    if (out) {
        floatX *normed2 = pass->save ? arena_push(pass->arena, N * OC) : hidden;
        groupnorm_apply(&r->norm2, normed2, hidden, HW, pass);
        if (r->has_shortcut) { linear_apply(&r->conv_shortcut, out, inp, NULL, N, pass); }
        conv_apply(&r->conv2, out, normed2, NULL, r->has_shortcut ? out : inp, H, W, pass);
    }
    arena_release_top(pass->arena, all);
}

void resnet_backward(Resnet *r, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, Pass *pass) {
    int HW = H * W, IC = r->norm1.C, OC = r->norm2.C;
    size_t N = (size_t)pass->B * HW;
    bool grads = pass->params->grads;
    ArenaMark all = arena_mark(pass->arena);
    if (pass->recompute_resnets) { resnet_forward(r, NULL, inp, H, W, pass); }

    floatX *dhidden = arena_push(pass->arena, N * OC), *normed2 = dhidden;
    if (pass->recompute_resnets) {
        groupnorm_apply(&r->norm2, normed2, r->hidden, HW, pass);
    } else if (grads) {
        groupnorm_again(&r->norm2, normed2, r->hidden, HW, pass);
    }
    conv_grads(&r->conv2, dhidden, NULL, dout, normed2, NULL, H, W, pass);
    groupnorm_grads(&r->norm2, dhidden, dhidden, r->hidden, NULL, HW, pass);

    floatX *dnormed = arena_push(pass->arena, N * IC), *normed = dnormed;
    floatX *dtime = r->has_time && grads ? pass->dtime + r->time_column : NULL;
    if (grads) { groupnorm_again(&r->norm1, normed, inp, HW, pass); }
    conv_grads(&r->conv1, dnormed, dtime, dhidden, normed, NULL, H, W, pass);
    if (r->has_shortcut) { linear_grads(&r->conv_shortcut, dinp, dout, inp, NULL, N, pass); }
    groupnorm_grads(&r->norm1, dinp, dnormed, inp, r->has_shortcut ? dinp : dout, HW, pass);
    arena_release(pass->arena, all);
}

// ---- Transformer ---------------------------------------------------------------------------------------------------

static TransformerBlock transformer_block_create(Params *params, const char *name, int C, int heads, int cross_dim) {
    static const char *const qkv[] = {"to_q", "to_k", "to_v"};
    TransformerBlock b;
    b.norm1 = layernorm_create(params, name_of("%s.norm1", name).text, C, 1e-5f);
    Name attn1 = name_of("%s.attn1", name), attn2 = name_of("%s.attn2", name);
    b.attn1 = (MultiHead){.NH = heads};
    b.attn1.q = linear_create_packed(params, attn1.text, qkv, 3, C, C, false);
    b.attn1.out = linear_create(params, name_of("%s.to_out.0", attn1.text).text, C, C, true);
    b.norm2 = layernorm_create(params, name_of("%s.norm2", name).text, C, 1e-5f);
    b.attn2 = (MultiHead){.NH = heads, .cross = true};
    b.attn2.q = linear_create_packed(params, attn2.text, qkv, 1, C, C, false);
    b.attn2.kv = linear_create_packed(params, attn2.text, qkv + 1, 2, cross_dim, C, false);
    b.attn2.out = linear_create(params, name_of("%s.to_out.0", attn2.text).text, C, C, true);
    b.norm3 = layernorm_create(params, name_of("%s.norm3", name).text, C, 1e-5f);
    b.ff = (FeedForward){.kind = FF_GEGLU};
    b.ff.fc1 = linear_create(params, name_of("%s.ff.net.0.proj", name).text, C, 8 * C, true);
    b.ff.fc2 = linear_create(params, name_of("%s.ff.net.2", name).text, 4 * C, C, true);
    return b;
}

// Returns the stream after the block's three branches.
static floatX *transformer_block_forward(TransformerBlock *b, floatX *stream, int HW, const Pass *pass) {
    int N = pass->B * HW, C = b->norm1.C;
    Shape shape = SHAPE(pass->B, HW, C);
    floatX *normed = arena_push(pass->arena, (size_t)N * C);
    b->x1 = stream;
    layernorm_apply(&b->norm1, normed, b->x1, N, pass);
    b->x2 = pass->recompute_products ? arena_push(pass->arena, (size_t)N * C)
                                     : next_tensor(pass, b->x1, b->attn1.out.weight, shape);
    multihead_forward(&b->attn1, b->x2, normed, b->x1, HW, pass);

    layernorm_apply(&b->norm2, normed, b->x2, N, pass);
    b->x3 = pass->recompute_products ? b->x2 : next_tensor(pass, b->x2, b->attn2.out.weight, shape);
    multihead_forward(&b->attn2, b->x3, normed, b->x2, HW, pass);

    layernorm_apply(&b->norm3, normed, b->x3, N, pass);
    floatX *out = next_tensor(pass, b->x3, b->ff.fc2.weight, shape);
    feed_forward_forward(&b->ff, out, normed, b->x3, N, pass);
    return out;
}

// The streams before the last two branches, from the attention's results.
static void streams_again(TransformerBlock *b, int N, const Pass *pass) {
    b->x2 = arena_push(pass->arena, (size_t)N * b->norm1.C);
    b->x3 = arena_push(pass->arena, (size_t)N * b->norm1.C);
    linear_apply(&b->attn1.out, b->x2, b->attn1.o, b->x1, N, pass);
    linear_apply(&b->attn2.out, b->x3, b->attn2.o, b->x2, N, pass);
}

// Updates the stream's gradient in place.
static void transformer_block_backward(TransformerBlock *b, floatX *dstream, int HW, Pass *pass) {
    int N = pass->B * HW, C = b->norm1.C;
    floatX *normed = arena_push(pass->arena, (size_t)N * C), *dnormed = normed;
    if (pass->recompute_products) { streams_again(b, N, pass); }
    layernorm_again(&b->norm3, normed, b->x3, N, pass);
    feed_forward_backward(&b->ff, dnormed, dstream, normed, N, pass);
    layernorm_grads(&b->norm3, dstream, dnormed, b->x3, dstream, N, pass);

    layernorm_again(&b->norm2, normed, b->x2, N, pass);
    multihead_backward(&b->attn2, dnormed, dstream, normed, HW, pass);
    layernorm_grads(&b->norm2, dstream, dnormed, b->x2, dstream, N, pass);

    layernorm_again(&b->norm1, normed, b->x1, N, pass);
    multihead_backward(&b->attn1, dnormed, dstream, normed, HW, pass);
    layernorm_grads(&b->norm1, dstream, dnormed, b->x1, dstream, N, pass);
}

Transformer transformer_create(Params *params, const char *name, int C, int heads, int count, int cross_dim, int groups,
                               bool linear_projection) {
    Transformer t = {.count = count, .blocks = xcalloc(count, sizeof(TransformerBlock))};
    Name proj_in = name_of("%s.proj_in", name), proj_out = name_of("%s.proj_out", name);
    t.norm = groupnorm_create(params, name_of("%s.norm", name).text, C, groups, 1e-6f, false);
    t.proj_in = linear_projection ? linear_create(params, proj_in.text, C, C, true)
                                  : conv1x1_create(params, proj_in.text, C, C);
    for (int i = 0; i < count; i++) {
        t.blocks[i] =
            transformer_block_create(params, name_of("%s.transformer_blocks.%d", name, i).text, C, heads, cross_dim);
    }
    t.proj_out = linear_projection ? linear_create(params, proj_out.text, C, C, true)
                                   : conv1x1_create(params, proj_out.text, C, C);
    return t;
}

void transformer_destroy(Transformer *t) { free(t->blocks); }

void transformer_forward(Transformer *t, floatX *out, const floatX *inp, int HW, const Pass *caller) {
    Pass own = *caller, *pass = &own;
    if (pass->recompute_transformers && out) { pass->save = false; }
    int N = pass->B * HW, C = t->norm.C;
    ArenaMark all = arena_mark(pass->arena);
    floatX *stream = product_tensor(pass, t->proj_in.weight, "out", SHAPE(pass->B, HW, C));
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)N * C);
    groupnorm_apply(&t->norm, normed, inp, HW, pass);
    linear_apply(&t->proj_in, stream, normed, NULL, N, pass);
    for (int i = 0; i < t->count; i++) {
        arena_release_top(pass->arena, mark);
        stream = transformer_block_forward(&t->blocks[i], stream, HW, pass);
    }
    t->hidden = stream;
    if (out) { linear_apply(&t->proj_out, out, stream, inp, N, pass); }
    arena_release_top(pass->arena, all);
}

// The stream before the first block.
static floatX *first_stream_again(Transformer *t, const floatX *inp, int HW, const Pass *pass) {
    size_t n = (size_t)pass->B * HW * t->norm.C;
    floatX *stream = arena_push(pass->arena, n);
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, n);
    groupnorm_again(&t->norm, normed, inp, HW, pass);
    linear_apply(&t->proj_in, stream, normed, NULL, pass->B * HW, pass);
    arena_release_top(pass->arena, mark);
    return stream;
}

void transformer_backward(Transformer *t, floatX *dinp, const floatX *dout, const floatX *inp, int HW, Pass *pass) {
    int N = pass->B * HW;
    size_t n = (size_t)N * t->norm.C;
    ArenaMark all = arena_mark(pass->arena);
    if (pass->recompute_transformers) { transformer_forward(t, NULL, inp, HW, pass); }
    floatX *dstream = arena_push(pass->arena, n);
    linear_grads(&t->proj_out, dstream, dout, t->hidden, NULL, N, pass);
    ArenaMark mark = arena_mark(pass->arena);
    for (int i = t->count; i-- > 0;) {
        if (pass->recompute_products && i == 0) { t->blocks[0].x1 = first_stream_again(t, inp, HW, pass); }
        transformer_block_backward(&t->blocks[i], dstream, HW, pass);
        arena_release_top(pass->arena, mark);
    }
    floatX *normed = arena_push(pass->arena, n), *dnormed = normed;
    if (pass->params->grads) { groupnorm_again(&t->norm, normed, inp, HW, pass); }
    linear_grads(&t->proj_in, dnormed, dstream, normed, NULL, N, pass);
    groupnorm_grads(&t->norm, dinp, dnormed, inp, dout, HW, pass);
    arena_release(pass->arena, all);
}

// ---- Upsampling ----------------------------------------------------------------------------------------------------

void upsample_forward(const Conv *conv, floatX *out, const floatX *inp, int H, int W, int OH, int OW,
                      const Pass *pass) {
    int C = conv->shape.IC;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *large = arena_push(pass->arena, (size_t)pass->B * OH * OW * C);
    upsample_nearest_forward(large, inp, pass->B, H, W, C, OH, OW, pass->dev);
    conv_apply(conv, out, large, NULL, NULL, OH, OW, pass);
    arena_release_top(pass->arena, mark);
}

void upsample_backward(const Conv *conv, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, int OH,
                       int OW, const Pass *pass) {
    int C = conv->shape.IC;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *large = arena_push(pass->arena, (size_t)pass->B * OH * OW * C), *dlarge = large;
    if (pass->params->grads) { upsample_nearest_forward(large, inp, pass->B, H, W, C, OH, OW, pass->dev); }
    conv_grads(conv, dlarge, NULL, dout, large, NULL, OH, OW, pass);
    upsample_nearest_backward(dinp, dlarge, pass->B, H, W, C, OH, OW, pass->dev);
    arena_release_top(pass->arena, mark);
}

// ---- Head ----------------------------------------------------------------------------------------------------------

Head head_create(Params *params, const char *prefix, int IC, int OC, int groups, float eps) {
    Head h = {.norm = groupnorm_create(params, name_of("%sconv_norm_out", prefix).text, IC, groups, eps, true)};
    h.conv = conv_create(params, name_of("%sconv_out", prefix).text, IC, OC, 1, 1, 1);
    return h;
}

void head_forward(Head *h, floatX *out, const floatX *inp, int H, int W, const Pass *pass) {
    h->inp = inp, h->H = H, h->W = W;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)pass->B * H * W * h->norm.C);
    groupnorm_apply(&h->norm, normed, inp, H * W, pass);
    conv_apply(&h->conv, out, normed, NULL, NULL, H, W, pass);
    arena_release_top(pass->arena, mark);
}

floatX *head_backward(const Head *h, const floatX *dout, const Pass *pass) {
    int H = h->H, W = h->W;
    floatX *d = arena_push(pass->arena, (size_t)pass->B * H * W * h->norm.C), *normed = d;
    if (pass->params->grads) { groupnorm_again(&h->norm, normed, h->inp, H * W, pass); }
    conv_grads(&h->conv, d, NULL, dout, normed, NULL, H, W, pass);
    groupnorm_grads(&h->norm, d, d, h->inp, NULL, H * W, pass);
    return d;
}
