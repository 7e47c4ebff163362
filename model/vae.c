#include "model/vae.h"
#include <assert.h>
#include <stdlib.h>
#include "model/blocks.h"
#include "util/error.h"

static const float NORM_EPS = 1e-6f; // of every norm

// A resnet. Attention with one head over all channels follows the mid block's first one (UNetMidBlock2D); a change of
// resolution follows the last one of a block.
typedef struct {
    Resnet resnet;
    GroupNorm norm;
    MultiHead attention;
    Conv resample; // encoder: stride 2; decoder: after nearest upsampling to twice the size
    bool has_attention, has_resample;
    int IC, OC;

    // Set by forward, for backward.
    int H, W;
    const floatX *inp, *hidden, *out; // before the resnet, after it, before the resampling
    ArenaMark mark, resample_mark;    // the arena before the layer and before its resampling
} Layer;

struct VAELayers {
    Conv conv_in;
    Layer *layers; // in the order of forward: the encoder's down blocks and middle, the decoder's middle and up blocks
    int count;
    Head head;
    bool has_quant;
    Linear quant; // quant_conv after the encoder, post_quant_conv before the decoder

    // Set by forward, for backward.
    Pass pass;
    int H, W; // of conv_in
    ArenaMark mark;
    const floatX *conv_inp, *quant_inp;
};

// ---- What both halves have: conv_in, layers, head ------------------------------------------------------------------

static VAEHalf half_create(const VAEConfig *config, bool has_quant, int count) {
    VAEHalf half = {.config = *config, .layers = xcalloc(1, sizeof(VAELayers))};
    half.layers->layers = xcalloc(count, sizeof(Layer));
    half.layers->has_quant = has_quant;
    return half;
}

void vae_destroy(VAEHalf *half, Device *dev) {
    free(half->layers->layers);
    free(half->layers);
    params_free(&half->params, dev);
    *half = (VAEHalf){0};
}

static Layer *layer_add(VAEHalf *half, const char *block, int i, int IC, int OC) {
    Layer *l = &half->layers->layers[half->layers->count++];
    Name name = name_of("%s.resnets.%d", block, i);
    l->IC = IC, l->OC = OC;
    l->resnet = resnet_create(&half->params, name.text, IC, OC, NULL, half->config.norm_num_groups, NORM_EPS);
    return l;
}

static void mid_create(VAEHalf *half, const char *name, int C) {
    static const char *const qkv[] = {"to_q", "to_k", "to_v"};
    Params *p = &half->params;
    Name attention = name_of("%s.attentions.0", name);
    Layer *l = layer_add(half, name, 0, C, C);
    l->has_attention = half->config.mid_block_attention;
    if (l->has_attention) {
        l->norm = groupnorm_create(p, name_of("%s.group_norm", attention.text).text, C, half->config.norm_num_groups,
                                   NORM_EPS, false);
        l->attention = (MultiHead){.NH = 1, .q = linear_create_packed(p, attention.text, qkv, 3, C, C, true)};
        l->attention.out = linear_create(p, name_of("%s.to_out.0", attention.text).text, C, C, true);
    }
    layer_add(half, name, 1, C, C);
}

static void attention_add(Layer *l, floatX *out, const floatX *inp, const Pass *pass) {
    int HW = l->H * l->W;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)pass->B * HW * l->OC);
    groupnorm_apply(&l->norm, normed, inp, HW, pass);
    multihead_forward(&l->attention, out, normed, inp, HW, pass);
    arena_release_top(pass->arena, mark);
}

// Returns the stream after the layer, and sets H and W to its size. If nothing is saved, the output overwrites an input
// of the same shape.
static floatX *layer_forward(Layer *l, floatX *stream, int *H, int *W, const Pass *pass) {
    l->mark = arena_mark(pass->arena);
    l->inp = stream, l->H = *H, l->W = *W;
    Shape shape = SHAPE(pass->B, *H, *W, l->OC);
    size_t conv2 = l->resnet.conv2.weight;
    floatX *hidden = l->IC == l->OC ? next_tensor(pass, stream, conv2, shape) : save_tensor(pass, conv2, "out", shape);
    resnet_forward(&l->resnet, hidden, stream, *H, *W, pass);
    floatX *out = hidden;
    if (l->has_attention) {
        out = next_tensor(pass, hidden, l->attention.out.weight, shape);
        attention_add(l, out, hidden, pass);
    }
    l->hidden = hidden, l->out = out;
    if (!l->has_resample) { return out; }

    bool down = l->resample.shape.stride == 2;
    *H = down ? conv2d_out(&l->resample.shape, l->H) : 2 * l->H;
    *W = down ? conv2d_out(&l->resample.shape, l->W) : 2 * l->W;
    l->resample_mark = arena_mark(pass->arena);
    floatX *resampled = save_tensor(pass, l->resample.weight, "out", SHAPE(pass->B, *H, *W, l->OC));
    if (down) {
        conv_apply(&l->resample, resampled, out, NULL, NULL, l->H, l->W, pass);
    } else {
        upsample_forward(&l->resample, resampled, out, l->H, l->W, *H, *W, pass);
    }
    return resampled;
}

static floatX *resample_backward(const Layer *l, const floatX *d, Pass *pass) {
    floatX *dinp = arena_push(pass->arena, (size_t)pass->B * l->H * l->W * l->OC);
    if (l->resample.shape.stride == 2) {
        conv_grads(&l->resample, dinp, NULL, d, l->out, NULL, l->H, l->W, pass);
    } else {
        upsample_backward(&l->resample, dinp, d, l->out, l->H, l->W, 2 * l->H, 2 * l->W, pass);
    }
    backward_done(pass, l->resample.weight, l->resample_mark);
    return dinp;
}

static void attention_backward_add(Layer *l, floatX *d, Pass *pass) {
    int HW = l->H * l->W;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)pass->B * HW * l->OC), *dnormed = normed;
    groupnorm_again(&l->norm, normed, l->hidden, HW, pass);
    multihead_backward(&l->attention, dnormed, d, normed, HW, pass);
    groupnorm_grads(&l->norm, d, dnormed, l->hidden, d, HW, pass);
    arena_release_top(pass->arena, mark);
}

// d is the gradient of the stream, updated in place if its shape does not change.
static floatX *layer_backward(Layer *l, floatX *d, Pass *pass) {
    if (l->has_resample) { d = resample_backward(l, d, pass); }
    if (l->has_attention) { attention_backward_add(l, d, pass); }
    floatX *dinp = l->IC == l->OC ? d : arena_push(pass->arena, (size_t)pass->B * l->H * l->W * l->IC);
    resnet_backward(&l->resnet, dinp, d, l->inp, l->H, l->W, pass);
    backward_done(pass, l->resnet.norm1.weight, l->mark);
    return dinp;
}

static const Pass *forward_begin(VAEHalf *half, Arena *arena, int B, bool save, Device *dev) {
    VAELayers *v = half->layers;
    v->pass = (Pass){.params = &half->params, .arena = arena, .dev = dev, .B = B, .save = save};
    v->mark = arena_mark(arena);
    return &v->pass;
}

// H and W of inp.
static void half_forward(VAELayers *v, floatX *out, const floatX *inp, int H, int W) {
    const Pass *pass = &v->pass;
    v->conv_inp = inp, v->H = H, v->W = W;
    floatX *stream = save_tensor(pass, v->conv_in.weight, "out", SHAPE(pass->B, H, W, v->conv_in.shape.OC));
    conv_apply(&v->conv_in, stream, inp, NULL, NULL, H, W, pass);
    for (int i = 0; i < v->count; i++) { stream = layer_forward(&v->layers[i], stream, &H, &W, pass); }
    head_forward(&v->head, out, stream, H, W, pass);
}

static Pass *backward_begin(VAELayers *v, Arena *arena, float beta, Device *dev) {
    assert(v->pass.save);
    v->pass.arena = arena, v->pass.dev = dev, v->pass.beta = beta;
    return &v->pass;
}

// dinp, the gradient of conv_in's input, may be NULL.
static void half_backward(VAELayers *v, floatX *dinp, const floatX *dout) {
    floatX *d = head_backward(&v->head, dout, &v->pass);
    for (int i = v->count; i-- > 0;) { d = layer_backward(&v->layers[i], d, &v->pass); }
    conv_grads(&v->conv_in, dinp, NULL, d, v->conv_inp, NULL, v->H, v->W, &v->pass);
}

static void backward_end(VAELayers *v, ArenaMark mark) {
    backward_done(&v->pass, 0, v->mark);
    arena_release_top(v->pass.arena, mark);
    v->pass.save = false;
}

typedef void Forward(VAEHalf *half, Arena *arena, floatX *out, const floatX *inp, int B, int H, int W, bool save,
                     Device *dev);
typedef void Backward(VAEHalf *half, Arena *arena, floatX *dinp, const floatX *dout, float beta, Device *dev);

static size_t half_plan(VAEHalf *half, Forward *forward, Backward *backward, int B, int H, int W, bool train,
                        Device *plan) {
    Params real = params_plan(&half->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    forward(half, &arena, PLAN_POINTER, PLAN_POINTER, B, H, W, train, plan);
    device_scope(plan, "backward");
    if (train) { backward(half, &arena, NULL, PLAN_POINTER, 1, plan); }
    half->params = real;
    return arena.peak;
}

// ---- Encoder -------------------------------------------------------------------------------------------------------

int vae_factor(const VAEConfig *config) { return 1 << (config->levels - 1); }

int vae_latent_size(const VAEConfig *config, int size) { return size / vae_factor(config); }

VAEEncoder vae_encoder_create(const VAEConfig *config) {
    const VAEConfig *c = config;
    int C = c->block_out_channels[0], moments = 2 * c->latent_channels;
    VAEEncoder encoder = half_create(c, c->quant_conv, c->levels * c->layers_per_block + 2);
    VAELayers *v = encoder.layers;
    Params *p = &encoder.params;
    v->conv_in = conv_create(p, "encoder.conv_in", c->in_channels, C, 1, 1, 1);
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("encoder.down_blocks.%d", i);
        Layer *l = NULL;
        for (int j = 0; j < c->layers_per_block; j++, C = l->OC) {
            l = layer_add(&encoder, name.text, j, C, c->block_out_channels[i]);
        }
        l->has_resample = i + 1 < c->levels;
        if (l->has_resample) { // padding only at the bottom and on the right
            l->resample = conv_create(p, name_of("%s.downsamplers.0.conv", name.text).text, C, C, 2, 0, 1);
        }
    }
    mid_create(&encoder, "encoder.mid_block", C);
    v->head = head_create(p, "encoder.", C, moments, c->norm_num_groups, NORM_EPS);
    if (v->has_quant) { v->quant = conv1x1_create(p, "quant_conv", moments, moments); }
    params_finish(p);
    return encoder;
}

void vae_encoder_forward(VAEEncoder *encoder, Arena *arena, floatX *moments, const floatX *image, int B, int H, int W,
                         bool save, Device *dev) {
    VAELayers *v = encoder->layers;
    const Pass *pass = forward_begin(encoder, arena, B, save, dev);
    int h = vae_latent_size(&encoder->config, H), w = vae_latent_size(&encoder->config, W);
    floatX *out = v->has_quant ? save_tensor(pass, v->quant.weight, "inp", SHAPE(B, h, w, v->quant.IC)) : moments;
    v->quant_inp = out;
    half_forward(v, out, image, H, W);
    if (v->has_quant) { linear_apply(&v->quant, moments, out, NULL, B * h * w, pass); }
    forward_done(pass, v->mark);
}

void vae_encoder_backward(VAEEncoder *encoder, Arena *arena, floatX *dimage, const floatX *dmoments, float beta,
                          Device *dev) {
    VAELayers *v = encoder->layers;
    ArenaMark mark = arena_mark(arena);
    Pass *pass = backward_begin(v, arena, beta, dev);
    if (v->has_quant) {
        int N = pass->B * v->head.H * v->head.W;
        floatX *dinp = arena_push(arena, (size_t)N * v->quant.IC);
        linear_grads(&v->quant, dinp, dmoments, v->quant_inp, NULL, N, pass);
        dmoments = dinp;
    }
    half_backward(v, dimage, dmoments);
    backward_end(v, mark);
}

size_t vae_encoder_plan(VAEEncoder *encoder, int B, int H, int W, bool train, Device *plan) {
    return half_plan(encoder, vae_encoder_forward, vae_encoder_backward, B, H, W, train, plan);
}

// ---- Decoder -------------------------------------------------------------------------------------------------------

VAEDecoder vae_decoder_create(const VAEConfig *config) {
    const VAEConfig *c = config;
    int C = c->block_out_channels[c->levels - 1], L = c->latent_channels;
    VAEDecoder decoder = half_create(c, c->post_quant_conv, 2 + c->levels * (c->layers_per_block + 1));
    VAELayers *v = decoder.layers;
    Params *p = &decoder.params;
    if (v->has_quant) { v->quant = conv1x1_create(p, "post_quant_conv", L, L); }
    v->conv_in = conv_create(p, "decoder.conv_in", L, C, 1, 1, 1);
    mid_create(&decoder, "decoder.mid_block", C);
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("decoder.up_blocks.%d", i);
        Layer *l = NULL;
        for (int j = 0; j <= c->layers_per_block; j++, C = l->OC) {
            l = layer_add(&decoder, name.text, j, C, c->block_out_channels[c->levels - 1 - i]);
        }
        l->has_resample = i + 1 < c->levels;
        if (l->has_resample) {
            l->resample = conv_create(p, name_of("%s.upsamplers.0.conv", name.text).text, C, C, 1, 1, 1);
        }
    }
    v->head = head_create(p, "decoder.", C, c->out_channels, c->norm_num_groups, NORM_EPS);
    params_finish(p);
    return decoder;
}

void vae_decoder_forward(VAEDecoder *decoder, Arena *arena, floatX *image, const floatX *latent, int B, int h, int w,
                         bool save, Device *dev) {
    VAELayers *v = decoder->layers;
    const Pass *pass = forward_begin(decoder, arena, B, save, dev);
    v->quant_inp = latent;
    if (v->has_quant) {
        floatX *out = save_tensor(pass, v->quant.weight, "out", SHAPE(B, h, w, v->quant.OC));
        linear_apply(&v->quant, out, latent, NULL, B * h * w, pass);
        latent = out;
    }
    half_forward(v, image, latent, h, w);
    forward_done(pass, v->mark);
}

void vae_decoder_backward(VAEDecoder *decoder, Arena *arena, floatX *dlatent, const floatX *dimage, float beta,
                          Device *dev) {
    VAELayers *v = decoder->layers;
    ArenaMark mark = arena_mark(arena);
    Pass *pass = backward_begin(v, arena, beta, dev);
    if (v->has_quant && (dlatent || pass->params->grads)) {
        int N = pass->B * v->H * v->W;
        floatX *dquantized = arena_push(arena, (size_t)N * v->quant.OC);
        half_backward(v, dquantized, dimage);
        linear_grads(&v->quant, dlatent, dquantized, v->quant_inp, NULL, N, pass);
    } else {
        half_backward(v, dlatent, dimage);
    }
    backward_end(v, mark);
}

size_t vae_decoder_plan(VAEDecoder *decoder, int B, int h, int w, bool train, Device *plan) {
    return half_plan(decoder, vae_decoder_forward, vae_decoder_backward, B, h, w, train, plan);
}
