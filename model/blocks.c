#include "model/blocks.h"
#include <stdlib.h>
#include "util/error.h"

// ---- Self attention ------------------------------------------------------------------------------------------------

// q, k and v are columns of one product (N, 3C).
static Attention self_shape(const SelfAttention *a, int T, const Run *run) {
    int C = a->out.IC, stride = a->qkv.OC;
    return (Attention){.B = run->B,
                       .NH = a->NH,
                       .Tq = T,
                       .Tk = T,
                       .HS = C / a->NH,
                       .q_stride = stride,
                       .k_stride = stride,
                       .v_stride = stride,
                       .out_stride = C,
                       .causal = a->causal};
}

void self_attention_forward(SelfAttention *a, floatX *out, const floatX *inp, const floatX *residual, int T,
                            const Run *run) {
    int N = run->B * T, C = a->out.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *qkv = a->qkv_out = keep_tensor(run, (size_t)N * 3 * C);
    a->o = keep_tensor(run, (size_t)N * C);
    a->lse = keep_floats(run, (size_t)N * a->NH);
    linear_apply(&a->qkv, qkv, inp, NULL, N, run);
    attention_forward(a->o, a->lse, qkv, qkv + C, qkv + 2 * C, self_shape(a, T, run), run->dev);
    linear_apply(&a->out, out, a->o, residual, N, run);
    arena_release_top(run->arena, mark);
}

void self_attention_backward(const SelfAttention *a, floatX *dinp, const floatX *dout, const floatX *inp, int T,
                             const Run *run) {
    int N = run->B * T, C = a->out.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *d_o = arena_push(run->arena, (size_t)N * C);
    linear_param_grad(&a->out, dout, a->o, N, run);
    linear_input_grad(&a->out, d_o, dout, NULL, N, run);
    floatX *qkv = a->qkv_out, *dqkv = arena_push(run->arena, (size_t)N * 3 * C);
    attention_backward(dqkv, dqkv + C, dqkv + 2 * C, d_o, qkv, qkv + C, qkv + 2 * C, a->o, a->lse,
                       self_shape(a, T, run), run->dev);
    linear_param_grad(&a->qkv, dqkv, inp, N, run);
    linear_input_grad(&a->qkv, dinp, dqkv, NULL, N, run);
    arena_release_top(run->arena, mark);
}

// ---- Cross attention -----------------------------------------------------------------------------------------------

// k and v are columns of one product (B * context_length, 2C).
static Attention cross_shape(const CrossAttention *a, int T, const Run *run) {
    int C = a->out.IC;
    return (Attention){.B = run->B,
                       .NH = a->NH,
                       .Tq = T,
                       .Tk = run->context_length,
                       .HS = C / a->NH,
                       .q_stride = C,
                       .k_stride = 2 * C,
                       .v_stride = 2 * C,
                       .out_stride = C};
}

void cross_attention_forward(CrossAttention *a, floatX *out, const floatX *inp, const floatX *residual, int T,
                             const Run *run) {
    int N = run->B * T, M = run->B * run->context_length, C = a->out.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *q = a->q_out = keep_tensor(run, (size_t)N * C);
    floatX *kv = a->kv_out = keep_tensor(run, (size_t)M * 2 * C);
    a->o = keep_tensor(run, (size_t)N * C);
    a->lse = keep_floats(run, (size_t)N * a->NH);
    linear_apply(&a->q, q, inp, NULL, N, run);
    linear_apply(&a->kv, kv, run->context, NULL, M, run);
    attention_forward(a->o, a->lse, q, kv, kv + C, cross_shape(a, T, run), run->dev);
    linear_apply(&a->out, out, a->o, residual, N, run);
    arena_release_top(run->arena, mark);
}

void cross_attention_backward(const CrossAttention *a, floatX *dinp, const floatX *dout, const floatX *inp, int T,
                              Run *run) {
    int N = run->B * T, M = run->B * run->context_length, C = a->out.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *d_o = arena_push(run->arena, (size_t)N * C);
    linear_param_grad(&a->out, dout, a->o, N, run);
    linear_input_grad(&a->out, d_o, dout, NULL, N, run);
    floatX *dq = arena_push(run->arena, (size_t)N * C), *dkv = arena_push(run->arena, (size_t)M * 2 * C);
    attention_backward(dq, dkv, dkv + C, d_o, a->q_out, a->kv_out, a->kv_out + C, a->o, a->lse, cross_shape(a, T, run),
                       run->dev);
    linear_param_grad(&a->kv, dkv, run->context, M, run);
    if (run->dcontext) {
        linear_input_grad(&a->kv, run->dcontext, dkv, run->dcontext_begun ? run->dcontext : NULL, M, run);
        run->dcontext_begun = true;
    }
    linear_param_grad(&a->q, dq, inp, N, run);
    linear_input_grad(&a->q, dinp, dq, NULL, N, run);
    arena_release_top(run->arena, mark);
}

// ---- Feed-forward --------------------------------------------------------------------------------------------------

static void activation_apply(const FeedForward *f, floatX *out, int N, const Run *run) {
    size_t n = (size_t)N * f->fc2.IC;
    if (f->kind == FF_GEGLU)
        geglu_forward(out, f->hidden, N, f->fc2.IC, run->dev);
    else if (f->kind == FF_GELU)
        gelu_forward(out, f->hidden, n, run->dev);
    else
        quick_gelu_forward(out, f->hidden, n, run->dev);
}

static void activation_grad(const FeedForward *f, floatX *dhidden, const floatX *dout, int N, const Run *run) {
    size_t n = (size_t)N * f->fc2.IC;
    if (f->kind == FF_GEGLU)
        geglu_backward(dhidden, dout, f->hidden, N, f->fc2.IC, run->dev);
    else if (f->kind == FF_GELU)
        gelu_backward(dhidden, dout, f->hidden, n, run->dev);
    else
        quick_gelu_backward(dhidden, dout, f->hidden, n, run->dev);
}

void feed_forward_forward(FeedForward *f, floatX *out, const floatX *inp, const floatX *residual, int N,
                          const Run *run) {
    ArenaMark mark = arena_mark(run->arena);
    f->hidden = keep_tensor(run, (size_t)N * f->fc1.OC);
    floatX *active = arena_push(run->arena, (size_t)N * f->fc2.IC);
    linear_apply(&f->fc1, f->hidden, inp, NULL, N, run);
    activation_apply(f, active, N, run);
    linear_apply(&f->fc2, out, active, residual, N, run);
    arena_release_top(run->arena, mark);
}

void feed_forward_backward(const FeedForward *f, floatX *dinp, const floatX *dout, const floatX *inp, int N,
                           const Run *run) {
    ArenaMark mark = arena_mark(run->arena);
    floatX *active = arena_push(run->arena, (size_t)N * f->fc2.IC), *dactive = active;
    if (run->params->grads) {
        activation_apply(f, active, N, run);
        linear_param_grad(&f->fc2, dout, active, N, run);
    }
    linear_input_grad(&f->fc2, dactive, dout, NULL, N, run);
    floatX *dhidden = f->kind == FF_GEGLU ? f->hidden : dactive; // over what is no longer needed
    activation_grad(f, dhidden, dactive, N, run);
    linear_param_grad(&f->fc1, dhidden, inp, N, run);
    linear_input_grad(&f->fc1, dinp, dhidden, NULL, N, run);
    arena_release_top(run->arena, mark);
}

// ---- Resnet --------------------------------------------------------------------------------------------------------

Resnet resnet_create(Params *params, const char *name, int IC, int OC, int time_dim, int groups, float eps) {
    Resnet r = {.has_time = time_dim > 0, .has_shortcut = IC != OC};
    r.norm1 = groupnorm_create(params, name_of("%s.norm1", name).text, IC, groups, eps, true);
    if (r.has_time) {
        r.time_emb_proj = linear_create(params, name_of("%s.time_emb_proj", name).text, time_dim, OC, true);
    }
    r.conv1 = conv_create(params, name_of("%s.conv1", name).text, IC, OC, 1, 1, 1);
    r.norm2 = groupnorm_create(params, name_of("%s.norm2", name).text, OC, groups, eps, true);
    if (r.has_shortcut) r.conv_shortcut = conv1x1_create(params, name_of("%s.conv_shortcut", name).text, IC, OC);
    r.conv2 = conv_create(params, name_of("%s.conv2", name).text, OC, OC, 1, 1, 1);
    return r;
}

// out NULL: only what backward needs.
static void resnet_run(Resnet *r, floatX *out, const floatX *inp, int H, int W, const Run *run) {
    int HW = H * W, IC = r->norm1.C, OC = r->norm2.C;
    size_t N = (size_t)run->B * HW;
    ArenaMark all = arena_mark(run->arena);
    groupnorm_statistics(&r->norm1, run);
    groupnorm_statistics(&r->norm2, run);
    floatX *hidden = r->hidden = keep_tensor(run, N * OC);

    ArenaMark mark = arena_mark(run->arena);
    floatX *normed = arena_push(run->arena, N * IC);
    floatX *time = r->has_time ? arena_push(run->arena, (size_t)run->B * OC) : NULL;
    if (time) linear_apply(&r->time_emb_proj, time, run->temb, NULL, run->B, run);
    groupnorm_apply(&r->norm1, normed, inp, HW, run);
    conv_apply(&r->conv1, hidden, normed, time, NULL, H, W, run);
    arena_release_top(run->arena, mark);

    floatX *normed2 = run->keep && out ? arena_push(run->arena, N * OC) : hidden;
    if (out) {
        groupnorm_apply(&r->norm2, normed2, hidden, HW, run);
        if (r->has_shortcut) linear_apply(&r->conv_shortcut, out, inp, NULL, N, run);
        conv_apply(&r->conv2, out, normed2, NULL, r->has_shortcut ? out : inp, H, W, run);
    }
    arena_release_top(run->arena, all);
}

void resnet_forward(Resnet *r, floatX *out, const floatX *inp, int H, int W, const Run *run) {
    Run inner = *run;
    inner.keep = run->keep && !run->recompute_resnets;
    resnet_run(r, out, inp, H, W, &inner);
}

// The time embedding's part: dtemb += dtime W.
static void time_backward(const Resnet *r, const floatX *dtime, Run *run) {
    linear_param_grad(&r->time_emb_proj, dtime, run->temb, run->B, run);
    linear_input_grad(&r->time_emb_proj, run->dtemb, dtime, run->dtemb_begun ? run->dtemb : NULL, run->B, run);
    run->dtemb_begun = true;
}

void resnet_backward(Resnet *r, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, Run *run) {
    int HW = H * W, IC = r->norm1.C, OC = r->norm2.C;
    size_t N = (size_t)run->B * HW;
    bool grads = run->params->grads;
    ArenaMark all = arena_mark(run->arena);
    if (run->recompute_resnets) {
        Run again = *run;
        again.keep = true;
        resnet_run(r, NULL, inp, H, W, &again);
    }

    floatX *dhidden = arena_push(run->arena, N * OC), *normed2 = dhidden;
    if (grads || run->recompute_resnets) groupnorm_apply(&r->norm2, normed2, r->hidden, HW, run);
    conv_param_grad(&r->conv2, NULL, dout, normed2, H, W, run);
    conv_input_grad(&r->conv2, dhidden, dout, NULL, H, W, run);
    groupnorm_grad(&r->norm2, dhidden, dhidden, r->hidden, NULL, HW, run);

    floatX *dnormed = arena_push(run->arena, N * IC), *normed = dnormed;
    floatX *dtime = r->has_time ? arena_push(run->arena, (size_t)run->B * OC) : NULL;
    if (grads) groupnorm_apply(&r->norm1, normed, inp, HW, run);
    conv_param_grad(&r->conv1, dtime, dhidden, normed, H, W, run);
    if (grads && dtime) time_backward(r, dtime, run);
    conv_input_grad(&r->conv1, dnormed, dhidden, NULL, H, W, run);
    if (r->has_shortcut) {
        linear_param_grad(&r->conv_shortcut, dout, inp, N, run);
        linear_input_grad(&r->conv_shortcut, dinp, dout, NULL, N, run);
    }
    groupnorm_grad(&r->norm1, dinp, dnormed, inp, r->has_shortcut ? dinp : dout, HW, run);
    arena_release(run->arena, all);
}

// ---- Transformer ---------------------------------------------------------------------------------------------------

static TransformerBlock transformer_block_create(Params *params, const char *name, int C, int heads, int cross_dim) {
    static const char *const qkv[] = {"to_q", "to_k", "to_v"};
    TransformerBlock b;
    b.norm1 = layernorm_create(params, name_of("%s.norm1", name).text, C, 1e-5f);
    Name attn1 = name_of("%s.attn1", name), attn2 = name_of("%s.attn2", name);
    b.attn1 = (SelfAttention){.NH = heads};
    b.attn1.qkv = linear_create_packed(params, attn1.text, qkv, 3, C, C, false);
    b.attn1.out = linear_create(params, name_of("%s.to_out.0", attn1.text).text, C, C, true);
    b.norm2 = layernorm_create(params, name_of("%s.norm2", name).text, C, 1e-5f);
    b.attn2 = (CrossAttention){.NH = heads};
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
static floatX *transformer_block_forward(TransformerBlock *b, floatX *stream, int HW, const Run *run) {
    int N = run->B * HW, C = b->norm1.C;
    size_t n = (size_t)N * C;
    floatX *normed = arena_push(run->arena, n);
    b->x1 = stream;
    layernorm_statistics(&b->norm1, N, run);
    layernorm_apply(&b->norm1, normed, b->x1, N, run);
    b->x2 = next_tensor(run, b->x1, n);
    self_attention_forward(&b->attn1, b->x2, normed, b->x1, HW, run);

    layernorm_statistics(&b->norm2, N, run);
    layernorm_apply(&b->norm2, normed, b->x2, N, run);
    b->x3 = next_tensor(run, b->x2, n);
    cross_attention_forward(&b->attn2, b->x3, normed, b->x2, HW, run);

    layernorm_statistics(&b->norm3, N, run);
    layernorm_apply(&b->norm3, normed, b->x3, N, run);
    floatX *out = next_tensor(run, b->x3, n);
    feed_forward_forward(&b->ff, out, normed, b->x3, N, run);
    return out;
}

// The stream's gradient, in place.
static void transformer_block_backward(TransformerBlock *b, floatX *dstream, int HW, Run *run) {
    int N = run->B * HW, C = b->norm1.C;
    floatX *normed = arena_push(run->arena, (size_t)N * C), *dnormed = normed;
    layernorm_apply(&b->norm3, normed, b->x3, N, run);
    feed_forward_backward(&b->ff, dnormed, dstream, normed, N, run);
    layernorm_grad(&b->norm3, dstream, dnormed, b->x3, dstream, N, run);

    layernorm_apply(&b->norm2, normed, b->x2, N, run);
    cross_attention_backward(&b->attn2, dnormed, dstream, normed, HW, run);
    layernorm_grad(&b->norm2, dstream, dnormed, b->x2, dstream, N, run);

    layernorm_apply(&b->norm1, normed, b->x1, N, run);
    self_attention_backward(&b->attn1, dnormed, dstream, normed, HW, run);
    layernorm_grad(&b->norm1, dstream, dnormed, b->x1, dstream, N, run);
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

// out NULL: only what backward needs.
static void transformer_run(Transformer *t, floatX *out, const floatX *inp, int HW, const Run *run) {
    int N = run->B * HW;
    size_t n = (size_t)N * t->norm.C;
    ArenaMark all = arena_mark(run->arena);
    groupnorm_statistics(&t->norm, run);
    floatX *stream = keep_tensor(run, n);
    ArenaMark mark = arena_mark(run->arena);
    floatX *normed = arena_push(run->arena, n);
    groupnorm_apply(&t->norm, normed, inp, HW, run);
    linear_apply(&t->proj_in, stream, normed, NULL, N, run);
    for (int i = 0; i < t->count; i++) {
        arena_release_top(run->arena, mark);
        stream = transformer_block_forward(&t->blocks[i], stream, HW, run);
    }
    t->hidden = stream;
    if (out) linear_apply(&t->proj_out, out, stream, inp, N, run);
    arena_release_top(run->arena, all);
}

void transformer_forward(Transformer *t, floatX *out, const floatX *inp, int HW, const Run *run) {
    Run inner = *run;
    inner.keep = run->keep && !run->recompute_transformers;
    transformer_run(t, out, inp, HW, &inner);
}

void transformer_backward(Transformer *t, floatX *dinp, const floatX *dout, const floatX *inp, int HW, Run *run) {
    int N = run->B * HW;
    size_t n = (size_t)N * t->norm.C;
    ArenaMark all = arena_mark(run->arena);
    if (run->recompute_transformers) {
        Run again = *run;
        again.keep = true;
        transformer_run(t, NULL, inp, HW, &again);
    }
    floatX *dstream = arena_push(run->arena, n);
    linear_param_grad(&t->proj_out, dout, t->hidden, N, run);
    linear_input_grad(&t->proj_out, dstream, dout, NULL, N, run);
    ArenaMark mark = arena_mark(run->arena);
    for (int i = t->count; i-- > 0;) {
        transformer_block_backward(&t->blocks[i], dstream, HW, run);
        arena_release_top(run->arena, mark);
    }
    floatX *normed = arena_push(run->arena, n), *dnormed = normed;
    if (run->params->grads) groupnorm_apply(&t->norm, normed, inp, HW, run);
    linear_param_grad(&t->proj_in, dstream, normed, N, run);
    linear_input_grad(&t->proj_in, dnormed, dstream, NULL, N, run);
    groupnorm_grad(&t->norm, dinp, dnormed, inp, dout, HW, run);
    arena_release(run->arena, all);
}

// ---- Upsampling ----------------------------------------------------------------------------------------------------

void upsample_forward(const Conv *conv, floatX *out, const floatX *inp, int H, int W, int OH, int OW, const Run *run) {
    int C = conv->shape.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *large = arena_push(run->arena, (size_t)run->B * OH * OW * C);
    upsample_nearest_forward(large, inp, run->B, H, W, C, OH, OW, run->dev);
    conv_apply(conv, out, large, NULL, NULL, OH, OW, run);
    arena_release_top(run->arena, mark);
}

void upsample_backward(const Conv *conv, floatX *dinp, const floatX *dout, const floatX *inp, int H, int W, int OH,
                       int OW, const Run *run) {
    int C = conv->shape.IC;
    ArenaMark mark = arena_mark(run->arena);
    floatX *large = arena_push(run->arena, (size_t)run->B * OH * OW * C), *dlarge = large;
    if (run->params->grads) upsample_nearest_forward(large, inp, run->B, H, W, C, OH, OW, run->dev);
    conv_param_grad(conv, NULL, dout, large, OH, OW, run);
    conv_input_grad(conv, dlarge, dout, NULL, OH, OW, run);
    upsample_nearest_backward(dinp, dlarge, run->B, H, W, C, OH, OW, run->dev);
    arena_release_top(run->arena, mark);
}
