#include "model/layers.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

// "down_blocks.0.attentions.0.norm.weight" and "mean" make "down_blocks.0.attentions.0.norm.mean"; with "../x" it is
// "down_blocks.0.attentions.0.x".
static Name tensor_name(const Params *params, size_t of_weight, const char *name) {
    Name prefix = name_of("%s", params_at(params, of_weight)->name);
    *strrchr(prefix.text, '.') = 0;
    if (strncmp(name, "../", 3) == 0) {
        *strrchr(prefix.text, '.') = 0;
        name += 3;
    }
    return name_of("%s.%s", prefix.text, name);
}

static void *save(const Pass *pass, size_t element, size_t of_weight, const char *name, Shape shape) {
    if (!pass->save) { return arena_push_tensor(pass->arena, element, shape); }
    Name full = {.text = ""};
    if (pass->arena->table) { full = tensor_name(pass->params, of_weight, name); }
    return arena_save_tensor(pass->arena, full.text, element, shape);
}

floatX *save_tensor(const Pass *pass, size_t of_weight, const char *name, Shape shape) {
    return save(pass, sizeof(floatX), of_weight, name, shape);
}

float *save_floats(const Pass *pass, size_t of_weight, const char *name, Shape shape) {
    return save(pass, sizeof(float), of_weight, name, shape);
}

floatX *next_tensor(const Pass *pass, floatX *current, size_t of_weight, Shape shape) {
    return pass->save ? save_tensor(pass, of_weight, "out", shape) : current;
}

void forward_done(const Pass *pass, ArenaMark begin) {
    if (!pass->save) { arena_release_bottom(pass->arena, begin); }
    arena_release_top(pass->arena, begin);
}

void backward_done(const Pass *pass, size_t first, ArenaMark begin) {
    if (pass->arena->table) { pass->arena->table->layer = params_at(pass->params, first)->name; }
    arena_release_bottom(pass->arena, begin);
    params_grads_final(pass->params, first, pass->arena, pass->dev);
}

// ---- Linear --------------------------------------------------------------------------------------------------------

Linear linear_create(Params *params, const char *name, int IC, int OC, bool bias) {
    Linear l = {.bias = NO_PARAM, .IC = IC, .OC = OC};
    l.weight = params_add(params, LAYOUT_PLAIN, false, 2, (int[]){OC, IC}, "%s.weight", name);
    if (bias) { l.bias = params_add(params, LAYOUT_PLAIN, false, 1, &OC, "%s.bias", name); }
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
        if (i == 0) { l.weight = at; }
    }
    for (int i = 0; bias && i < count; i++) {
        size_t at = params_add(params, LAYOUT_PLAIN, i > 0, 1, &OC, "%s.%s.bias", prefix, names[i]);
        if (i == 0) { l.bias = at; }
    }
    return l;
}

LinearGroup linear_group_create(Params *params, int IC, int OC) {
    LinearGroup g = {.all = {.IC = IC, .OC = OC}};
    g.weight = params_gather(params, (size_t)OC * (size_t)IC);
    g.bias = params_gather(params, (size_t)OC);
    g.all.weight = g.weight.begin, g.all.bias = g.bias.begin;
    return g;
}

int linear_group_add(LinearGroup *g, Params *params, const char *name, int OC) {
    params_add_gathered(params, &g->weight, 2, (int[]){OC, g->all.IC}, "%s.weight", name);
    return (int)(params_add_gathered(params, &g->bias, 1, &OC, "%s.bias", name) - g->bias.begin);
}

void linear_apply(const Linear *l, floatX *out, const floatX *inp, const floatX *residual, int N, const Pass *pass) {
    const Params *p = pass->params;
    linear_forward(out, inp, weight_at(p, l->weight, pass->dev), weight_at(p, l->bias, pass->dev), residual, N, l->IC,
                   l->OC, pass->dev);
}

void linear_weight_grad(const Linear *l, const floatX *dout, const floatX *inp, int N, const Pass *pass) {
    const Params *p = pass->params;
    if (!p->grads) { return; }
    linear_backward(NULL, grad_at(p, l->weight), grad_at(p, l->bias), dout, inp, NULL, NULL, pass->beta, N, l->IC,
                    l->OC, pass->dev);
}

void linear_input_grad(const Linear *l, floatX *dinp, const floatX *dout, const floatX *dresidual, int N,
                       const Pass *pass) {
    const floatX *weight = weight_at(pass->params, l->weight, pass->dev);
    linear_backward(dinp, NULL, NULL, dout, NULL, weight, dresidual, 0, N, l->IC, l->OC, pass->dev);
}

void linear_grads(const Linear *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual, int N,
                  const Pass *pass) {
    linear_weight_grad(l, dout, inp, N, pass);
    if (dinp) { linear_input_grad(l, dinp, dout, dresidual, N, pass); }
}

// ---- Convolution ---------------------------------------------------------------------------------------------------

Conv conv_create(Params *params, const char *name, int IC, int OC, int stride, int pad_before, int pad_after) {
    Conv c = {
        .shape = {.IC = IC, .OC = OC, .K = 3, .stride = stride, .pad_before = pad_before, .pad_after = pad_after}};
    c.weight = params_add(params, LAYOUT_CONV, false, 4, (int[]){OC, IC, 3, 3}, "%s.weight", name);
    c.bias = params_add(params, LAYOUT_PLAIN, false, 1, &OC, "%s.bias", name);
    return c;
}

static Conv2d shape_of(const Conv *c, int H, int W, const Pass *pass) {
    Conv2d shape = c->shape;
    shape.torch_order = pass->params->mapped != NULL;
    shape.B = pass->B, shape.H = H, shape.W = W;
    return shape;
}

void conv_apply(const Conv *c, floatX *out, const floatX *inp, const floatX *sample_bias, const floatX *residual, int H,
                int W, const Pass *pass) {
    const Params *p = pass->params;
    conv2d_forward(out, inp, weight_at(p, c->weight, pass->dev), weight_at(p, c->bias, pass->dev), sample_bias,
                   residual, shape_of(c, H, W, pass), pass->dev);
}

void conv_grads(const Conv *c, floatX *dinp, floatX *dsample_bias, const floatX *dout, const floatX *inp,
                const floatX *dresidual, int H, int W, const Pass *pass) {
    const Params *p = pass->params;
    Conv2d shape = shape_of(c, H, W, pass);
    if (p->grads) {
        conv2d_backward(NULL, grad_at(p, c->weight), grad_at(p, c->bias), dsample_bias, dout, inp, NULL, NULL,
                        pass->beta, shape, pass->dev);
    }
    if (!dinp) { return; }
    conv2d_backward(dinp, NULL, NULL, NULL, dout, NULL, weight_at(p, c->weight, pass->dev), dresidual, 0, shape,
                    pass->dev);
}

// ---- Norms ---------------------------------------------------------------------------------------------------------

GroupNorm groupnorm_create(Params *params, const char *name, int C, int G, float eps, bool silu) {
    GroupNorm g = {.C = C, .G = G, .eps = eps, .silu = silu};
    g.weight = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.weight", name);
    g.bias = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.bias", name);
    return g;
}

void groupnorm_apply(GroupNorm *g, floatX *out, const floatX *inp, int HW, const Pass *pass) {
    g->mean = save_floats(pass, g->weight, "mean", SHAPE(pass->B, g->G));
    g->rstd = save_floats(pass, g->weight, "rstd", SHAPE(pass->B, g->G));
    const Params *p = pass->params;
    groupnorm_forward(out, g->mean, g->rstd, inp, weight_at(p, g->weight, pass->dev), weight_at(p, g->bias, pass->dev),
                      pass->B, HW, g->C, g->G, g->eps, g->silu, pass->dev);
}

void groupnorm_again(const GroupNorm *g, floatX *out, const floatX *inp, int HW, const Pass *pass) {
    const Params *p = pass->params;
    groupnorm_recompute(out, inp, weight_at(p, g->weight, pass->dev), weight_at(p, g->bias, pass->dev), g->mean,
                        g->rstd, pass->B, HW, g->C, g->G, g->silu, pass->dev);
}

void groupnorm_grads(const GroupNorm *g, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                     int HW, const Pass *pass) {
    const Params *p = pass->params;
    groupnorm_backward(dinp, grad_at(p, g->weight), grad_at(p, g->bias), dout, inp, weight_at(p, g->weight, pass->dev),
                       weight_at(p, g->bias, pass->dev), g->mean, g->rstd, dresidual, pass->beta, pass->B, HW, g->C,
                       g->G, g->silu, pass->dev);
}

LayerNorm layernorm_create(Params *params, const char *name, int C, float eps) {
    LayerNorm l = {.C = C, .eps = eps};
    l.weight = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.weight", name);
    l.bias = params_add(params, LAYOUT_PLAIN, false, 1, &C, "%s.bias", name);
    return l;
}

void layernorm_again(const LayerNorm *l, floatX *out, const floatX *inp, int N, const Pass *pass) {
    const Params *p = pass->params;
    layernorm_forward(out, l->mean, l->rstd, inp, weight_at(p, l->weight, pass->dev), weight_at(p, l->bias, pass->dev),
                      N, l->C, l->eps, pass->dev);
}

void layernorm_apply(LayerNorm *l, floatX *out, const floatX *inp, int N, const Pass *pass) {
    l->mean = save_floats(pass, l->weight, "mean", SHAPE(N));
    l->rstd = save_floats(pass, l->weight, "rstd", SHAPE(N));
    layernorm_again(l, out, inp, N, pass);
}

void layernorm_grads(const LayerNorm *l, floatX *dinp, const floatX *dout, const floatX *inp, const floatX *dresidual,
                     int N, const Pass *pass) {
    const Params *p = pass->params;
    layernorm_backward(dinp, grad_at(p, l->weight), grad_at(p, l->bias), dout, inp, weight_at(p, l->weight, pass->dev),
                       l->mean, l->rstd, dresidual, pass->beta, N, l->C, pass->dev);
}
