#include "model/layers.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

Name name_of(const char *format, ...) {
    Name name;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name.text, sizeof name.text, format, args);
    va_end(args);
    assert(length >= 0 && (size_t)length < sizeof name.text);
    (void)length;
    return name;
}

floatX *keep_tensor(const Run *run, size_t n) {
    return run->keep ? arena_save(run->arena, n) : arena_push(run->arena, n);
}

float *keep_floats(const Run *run, size_t n) {
    return run->keep ? arena_save_float(run->arena, n) : arena_push_float(run->arena, n);
}

floatX *next_tensor(const Run *run, floatX *current, size_t n) {
    return run->keep ? arena_save(run->arena, n) : current;
}

// ---- Linear --------------------------------------------------------------------------------------------------------

Linear linear_create(Params *params, const char *name, int IC, int OC, bool bias) {
    Linear l = {.bias = NO_PARAM, .IC = IC, .OC = OC};
    l.weight = params_add(params, LAYOUT_PLAIN, false, 2, (int[]){OC, IC}, "%s.weight", name);
    if (bias) l.bias = params_add(params, LAYOUT_PLAIN, false, 1, &OC, "%s.bias", name);
    return l;
}

Linear conv1x1_create(Params *params, const char *name, int IC, int OC) {
    Linear l = {.IC = IC, .OC = OC};
    l.weight = params_add(params, LAYOUT_CONV, false, 4, (int[]){OC, IC, 1, 1}, "%s.weight", name);
    l.bias = params_add(params, LAYOUT_PLAIN, false, 1, &OC, "%s.bias", name);
    return l;
}

Linear linear_create_packed(Params *params, const char *prefix, const char *const *names, int count, int IC, int OC,
                            bool bias) {
    Linear l = {.bias = NO_PARAM, .IC = IC, .OC = count * OC};
    for (int i = 0; i < count; i++) {
        size_t at = params_add(params, LAYOUT_PLAIN, i > 0, 2, (int[]){OC, IC}, "%s.%s.weight", prefix, names[i]);
        if (i == 0) l.weight = at;
    }
    for (int i = 0; bias && i < count; i++) {
        size_t at = params_add(params, LAYOUT_PLAIN, i > 0, 1, &OC, "%s.%s.bias", prefix, names[i]);
        if (i == 0) l.bias = at;
    }
    return l;
}

void linear_apply(const Linear *l, floatX *out, const floatX *inp, const floatX *residual, int N, const Run *run) {
    const Params *p = run->params;
    linear_forward(out, inp, weight_at(p, l->weight), weight_at(p, l->bias), residual, N, l->IC, l->OC, run->dev);
}

void linear_input_grad(const Linear *l, floatX *dinp, const floatX *dout, const floatX *dresidual, int N,
                       const Run *run) {
    linear_backward(dinp, NULL, NULL, dout, NULL, weight_at(run->params, l->weight), dresidual, 0, N, l->IC, l->OC,
                    run->dev);
}

void linear_param_grad(const Linear *l, const floatX *dout, const floatX *inp, int N, const Run *run) {
    const Params *p = run->params;
    if (!p->grads) return;
    linear_backward(NULL, grad_at(p, l->weight), grad_at(p, l->bias), dout, inp, NULL, NULL, run->beta, N, l->IC, l->OC,
                    run->dev);
}

// ---- Convolution ---------------------------------------------------------------------------------------------------

Conv conv_create(Params *params, const char *name, int IC, int OC, int stride, int pad_before, int pad_after) {
    Conv c = {
        .shape = {.IC = IC, .OC = OC, .K = 3, .stride = stride, .pad_before = pad_before, .pad_after = pad_after}};
    c.weight = params_add(params, LAYOUT_CONV, false, 4, (int[]){OC, IC, 3, 3}, "%s.weight", name);
    c.bias = params_add(params, LAYOUT_PLAIN, false, 1, &OC, "%s.bias", name);
    return c;
}

int conv_out_size(const Conv *c, int size) { return conv2d_out(&c->shape, size); }

static Conv2d shape_of(const Conv *c, int H, int W, const Run *run) {
    Conv2d shape = c->shape;
    shape.B = run->B, shape.H = H, shape.W = W;
    return shape;
}

void conv_apply(const Conv *c, floatX *out, const floatX *inp, const floatX *sample_bias, const floatX *residual, int H,
                int W, const Run *run) {
    const Params *p = run->params;
    conv2d_forward(out, inp, weight_at(p, c->weight), weight_at(p, c->bias), sample_bias, residual,
                   shape_of(c, H, W, run), run->dev);
}

void conv_input_grad(const Conv *c, floatX *dinp, const floatX *dout, const floatX *dresidual, int H, int W,
                     const Run *run) {
    conv2d_backward(dinp, NULL, NULL, NULL, dout, NULL, weight_at(run->params, c->weight), dresidual, 0,
                    shape_of(c, H, W, run), run->dev);
}

void conv_param_grad(const Conv *c, floatX *dsample_bias, const floatX *dout, const floatX *inp, int H, int W,
                     const Run *run) {
    const Params *p = run->params;
    if (!p->grads) return;
    conv2d_backward(NULL, grad_at(p, c->weight), grad_at(p, c->bias), dsample_bias, dout, inp, NULL, NULL, run->beta,
                    shape_of(c, H, W, run), run->dev);
}

// ---- Norms ---------------------------------------------------------------------------------------------------------

GroupNorm groupnorm_create(Params *params, const char *name, int C, int G, float eps, bool silu) {
    GroupNorm g = {.C = C, .G = G, .eps = eps, .silu = silu};
    g.weight = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.weight", name);
    g.bias = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.bias", name);
    return g;
}

void groupnorm_statistics(GroupNorm *g, const Run *run) {
    g->mean = keep_floats(run, (size_t)run->B * g->G);
    g->rstd = keep_floats(run, (size_t)run->B * g->G);
}

void groupnorm_apply(const GroupNorm *g, floatX *out, const floatX *inp, int HW, const Run *run) {
    const Params *p = run->params;
    groupnorm_forward(out, g->mean, g->rstd, inp, weight_at(p, g->weight), weight_at(p, g->bias), run->B, HW, g->C,
                      g->G, g->eps, g->silu, run->dev);
}

void groupnorm_grad(const GroupNorm *g, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                    int HW, const Run *run) {
    const Params *p = run->params;
    groupnorm_backward(dinp, grad_at(p, g->weight), grad_at(p, g->bias), dout, inp, weight_at(p, g->weight),
                       weight_at(p, g->bias), g->mean, g->rstd, dresidual, run->beta, run->B, HW, g->C, g->G, g->silu,
                       run->dev);
}

LayerNorm layernorm_create(Params *params, const char *name, int C, float eps) {
    LayerNorm l = {.C = C, .eps = eps};
    l.weight = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.weight", name);
    l.bias = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.bias", name);
    return l;
}

void layernorm_statistics(LayerNorm *l, int N, const Run *run) {
    l->mean = keep_floats(run, N);
    l->rstd = keep_floats(run, N);
}

void layernorm_apply(const LayerNorm *l, floatX *out, const floatX *inp, int N, const Run *run) {
    const Params *p = run->params;
    layernorm_forward(out, l->mean, l->rstd, inp, weight_at(p, l->weight), weight_at(p, l->bias), N, l->C, l->eps,
                      run->dev);
}

void layernorm_grad(const LayerNorm *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                    int N, const Run *run) {
    const Params *p = run->params;
    layernorm_backward(dinp, grad_at(p, l->weight), grad_at(p, l->bias), dout, inp, weight_at(p, l->weight), l->mean,
                       l->rstd, dresidual, run->beta, N, l->C, run->dev);
}
