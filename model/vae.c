#include "model/vae.h"
#include <assert.h>
#include <stdlib.h>
#include "model/blocks.h"
#include "util/error.h"

static const float NORM_EPS = 1e-6f; // of every norm

// A resnet or a sampler: a step of the stream from one shape to the next.
typedef struct {
    Resnet resnet;
    int IC, OC, H, W;  // of the step's input, H and W of the last forward
    const floatX *inp; // (B, H, W, IC)
    ArenaMark mark;    // the arena before the step's forward
} Layer;

typedef struct {
    Layer *layers;
    int count;
    bool has_sampler;
    Conv sampler; // encoder: stride 2; decoder: after nearest upsampling
    int C, H, W;
    const floatX *sampler_inp;
    ArenaMark sampler_mark;
} Block;

// UNetMidBlock2D: resnet, attention of one head over all channels, resnet.
typedef struct {
    Layer layers[2];
    bool has_attention;
    GroupNorm norm;
    SelfAttention attention;
    const floatX *attention_inp;
    ArenaMark attention_mark;
} MidBlock;

// The end of both halves: norm, silu, convolution.
typedef struct {
    GroupNorm norm;
    Conv conv;
    int H, W;
    const floatX *inp;
} Head;

struct VAEEncoderLayers {
    Conv conv_in;
    Block down[MAX_LEVELS];
    MidBlock mid;
    Head head;
    bool has_quant_conv;
    Linear quant_conv;

    // The forward that backward belongs to.
    Run run;
    int H, W;
    ArenaMark mark;
    const floatX *image;
    floatX *head_out; // quant_conv's input
};

struct VAEDecoderLayers {
    bool has_post_quant_conv;
    Linear post_quant_conv;
    Conv conv_in;
    MidBlock mid;
    Block up[MAX_LEVELS];
    Head head;

    Run run;
    int H, W;
    ArenaMark mark;
    const floatX *latent, *quantized; // post_quant_conv's input and output
};

static size_t pixels(const Run *run, int H, int W) { return (size_t)run->B * H * W; }

// ---- Parts of both halves ------------------------------------------------------------------------------------------

static Layer layer_create(const VAEConfig *c, Params *p, const char *block, int i, int IC, int OC) {
    return (Layer){
        .IC = IC,
        .OC = OC,
        .resnet = resnet_create(p, name_of("%s.resnets.%d", block, i).text, IC, OC, 0, c->norm_num_groups, NORM_EPS)};
}

static Block block_create(const VAEConfig *c, Params *p, const char *name, int count, int IC, int OC) {
    Block b = {.layers = xcalloc(count, sizeof(Layer)), .count = count, .C = OC};
    for (int i = 0; i < count; i++) b.layers[i] = layer_create(c, p, name, i, i == 0 ? IC : OC, OC);
    return b;
}

static MidBlock mid_create(const VAEConfig *c, Params *p, const char *half) {
    static const char *const qkv[] = {"to_q", "to_k", "to_v"};
    Name name = name_of("%s.mid_block", half), attention = name_of("%s.attentions.0", name.text);
    int C = c->block_out_channels[c->levels - 1];
    MidBlock m = {.has_attention = c->mid_block_attention, .attention = {.NH = 1}};
    m.layers[0] = layer_create(c, p, name.text, 0, C, C);
    if (m.has_attention) {
        m.norm =
            groupnorm_create(p, name_of("%s.group_norm", attention.text).text, C, c->norm_num_groups, NORM_EPS, false);
        m.attention.qkv = linear_create_packed(p, attention.text, qkv, 3, C, C, true);
        m.attention.out = linear_create(p, name_of("%s.to_out.0", attention.text).text, C, C, true);
    }
    m.layers[1] = layer_create(c, p, name.text, 1, C, C);
    return m;
}

static Head head_create(const VAEConfig *c, Params *p, const char *half, int IC, int OC) {
    Head h = {0};
    h.norm = groupnorm_create(p, name_of("%s.conv_norm_out", half).text, IC, c->norm_num_groups, NORM_EPS, true);
    h.conv = conv_create(p, name_of("%s.conv_out", half).text, IC, OC, 1, 1, 1);
    return h;
}

// Where nothing is kept, the output goes over the input if its shape is the same.
static floatX *layer_forward(Layer *l, floatX *stream, int H, int W, const Run *run) {
    l->mark = arena_mark(run->arena);
    l->inp = stream, l->H = H, l->W = W;
    size_t n = pixels(run, H, W) * l->OC;
    floatX *out = l->IC == l->OC ? next_tensor(run, stream, n) : keep_tensor(run, n);
    resnet_forward(&l->resnet, out, stream, H, W, run);
    return out;
}

// d is the gradient of the stream, updated in place where its shape stays.
static floatX *layer_backward(Layer *l, floatX *d, Run *run) {
    floatX *dinp = l->IC == l->OC ? d : arena_push(run->arena, pixels(run, l->H, l->W) * l->IC);
    resnet_backward(&l->resnet, dinp, d, l->inp, l->H, l->W, run);
    params_grads_final(run->params, l->resnet.norm1.weight);
    arena_release_bottom(run->arena, l->mark);
    return dinp;
}

static floatX *mid_forward(MidBlock *m, floatX *stream, int H, int W, const Run *run) {
    size_t n = pixels(run, H, W) * m->layers[0].OC;
    stream = layer_forward(&m->layers[0], stream, H, W, run);
    if (m->has_attention) {
        m->attention_mark = arena_mark(run->arena);
        m->attention_inp = stream;
        floatX *out = next_tensor(run, stream, n);
        ArenaMark mark = arena_mark(run->arena);
        groupnorm_statistics(&m->norm, run);
        floatX *normed = arena_push(run->arena, n);
        groupnorm_apply(&m->norm, normed, stream, H * W, run);
        self_attention_forward(&m->attention, out, normed, stream, H * W, run);
        arena_release_top(run->arena, mark);
        stream = out;
    }
    return layer_forward(&m->layers[1], stream, H, W, run);
}

static floatX *mid_backward(MidBlock *m, floatX *d, Run *run) {
    d = layer_backward(&m->layers[1], d, run);
    if (m->has_attention) {
        int HW = m->layers[0].H * m->layers[0].W;
        ArenaMark mark = arena_mark(run->arena);
        floatX *normed = arena_push(run->arena, (size_t)run->B * HW * m->norm.C), *dnormed = normed;
        groupnorm_apply(&m->norm, normed, m->attention_inp, HW, run);
        self_attention_backward(&m->attention, dnormed, d, normed, HW, run);
        groupnorm_grad(&m->norm, d, dnormed, m->attention_inp, d, HW, run);
        arena_release(run->arena, (ArenaMark){m->attention_mark.bottom, mark.top});
    }
    return layer_backward(&m->layers[0], d, run);
}

static void head_forward(Head *h, floatX *out, const floatX *inp, int H, int W, const Run *run) {
    h->inp = inp, h->H = H, h->W = W;
    groupnorm_statistics(&h->norm, run);
    ArenaMark mark = arena_mark(run->arena);
    floatX *normed = arena_push(run->arena, pixels(run, H, W) * h->norm.C);
    groupnorm_apply(&h->norm, normed, inp, H * W, run);
    conv_apply(&h->conv, out, normed, NULL, NULL, H, W, run);
    arena_release_top(run->arena, mark);
}

static floatX *head_backward(const Head *h, const floatX *dout, const Run *run) {
    int H = h->H, W = h->W;
    floatX *d = arena_push(run->arena, pixels(run, H, W) * h->norm.C), *normed = d;
    if (run->params->grads) groupnorm_apply(&h->norm, normed, h->inp, H * W, run);
    conv_param_grad(&h->conv, NULL, dout, normed, H, W, run);
    conv_input_grad(&h->conv, d, dout, NULL, H, W, run);
    groupnorm_grad(&h->norm, d, d, h->inp, NULL, H * W, run);
    return d;
}

// ---- Encoder -------------------------------------------------------------------------------------------------------

int vae_factor(const VAEConfig *config) { return 1 << (config->levels - 1); }

int vae_latent_size(const VAEConfig *config, int size) { return size / vae_factor(config); }

VAEEncoder vae_encoder_create(const VAEConfig *config) {
    VAEEncoder encoder = {.config = *config, .layers = xcalloc(1, sizeof(VAEEncoderLayers))};
    VAEEncoderLayers *e = encoder.layers;
    const VAEConfig *c = &encoder.config;
    Params *p = &encoder.params;
    int C = c->block_out_channels[0], moments = 2 * c->latent_channels;
    e->conv_in = conv_create(p, "encoder.conv_in", c->in_channels, C, 1, 1, 1);
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("encoder.down_blocks.%d", i);
        Block *b = &e->down[i];
        *b = block_create(c, p, name.text, c->layers_per_block, C, c->block_out_channels[i]);
        C = b->C;
        b->has_sampler = i + 1 < c->levels;
        if (b->has_sampler) {
            // Zeros only at the bottom and on the right.
            b->sampler = conv_create(p, name_of("%s.downsamplers.0.conv", name.text).text, C, C, 2, 0, 1);
        }
    }
    e->mid = mid_create(c, p, "encoder");
    e->head = head_create(c, p, "encoder", C, moments);
    e->has_quant_conv = c->quant_conv;
    if (e->has_quant_conv) e->quant_conv = conv1x1_create(p, "quant_conv", moments, moments);
    params_finish(p);
    return encoder;
}

void vae_encoder_destroy(VAEEncoder *encoder, Device *dev) {
    for (int i = 0; i < MAX_LEVELS; i++) free(encoder->layers->down[i].layers);
    free(encoder->layers);
    params_free(&encoder->params, dev);
    *encoder = (VAEEncoder){0};
}

static floatX *down_forward(Block *b, floatX *stream, int *H, int *W, const Run *run) {
    b->H = *H, b->W = *W;
    for (int i = 0; i < b->count; i++) stream = layer_forward(&b->layers[i], stream, *H, *W, run);
    if (!b->has_sampler) return stream;
    *H = conv_out_size(&b->sampler, b->H), *W = conv_out_size(&b->sampler, b->W);
    b->sampler_mark = arena_mark(run->arena);
    b->sampler_inp = stream;
    floatX *out = keep_tensor(run, pixels(run, *H, *W) * b->C);
    conv_apply(&b->sampler, out, stream, NULL, NULL, b->H, b->W, run);
    return out;
}

static floatX *down_backward(Block *b, floatX *d, Run *run) {
    if (b->has_sampler) {
        floatX *dinp = arena_push(run->arena, pixels(run, b->H, b->W) * b->C);
        conv_param_grad(&b->sampler, NULL, d, b->sampler_inp, b->H, b->W, run);
        conv_input_grad(&b->sampler, dinp, d, NULL, b->H, b->W, run);
        arena_release_bottom(run->arena, b->sampler_mark);
        d = dinp;
    }
    for (int i = b->count; i-- > 0;) d = layer_backward(&b->layers[i], d, run);
    return d;
}

void vae_encoder_forward(VAEEncoder *encoder, Arena *arena, floatX *moments, const floatX *image, int B, int H, int W,
                         bool keep, Device *dev) {
    VAEEncoderLayers *e = encoder->layers;
    const VAEConfig *c = &encoder->config;
    e->run = (Run){.params = &encoder->params, .arena = arena, .dev = dev, .B = B, .keep = keep};
    e->mark = arena_mark(arena);
    e->image = image, e->H = H, e->W = W;
    const Run *run = &e->run;
    floatX *stream = keep_tensor(run, pixels(run, H, W) * c->block_out_channels[0]);
    conv_apply(&e->conv_in, stream, image, NULL, NULL, H, W, run);
    for (int i = 0; i < c->levels; i++) stream = down_forward(&e->down[i], stream, &H, &W, run);
    stream = mid_forward(&e->mid, stream, H, W, run);
    size_t N = pixels(run, H, W);
    e->head_out = e->has_quant_conv ? keep_tensor(run, N * 2 * c->latent_channels) : moments;
    head_forward(&e->head, e->head_out, stream, H, W, run);
    if (e->has_quant_conv) linear_apply(&e->quant_conv, moments, e->head_out, NULL, N, run);
    if (keep)
        arena_release_top(arena, e->mark);
    else
        arena_release(arena, e->mark);
}

void vae_encoder_backward(VAEEncoder *encoder, Arena *arena, floatX *dimage, const floatX *dmoments, float beta,
                          Device *dev) {
    VAEEncoderLayers *e = encoder->layers;
    Run *run = &e->run;
    assert(run->keep);
    run->arena = arena, run->dev = dev, run->beta = beta;
    ArenaMark mark = arena_mark(arena);
    const floatX *dhead = dmoments;
    if (e->has_quant_conv) {
        size_t N = pixels(run, e->head.H, e->head.W);
        floatX *dinp = arena_push(arena, N * e->quant_conv.IC);
        linear_param_grad(&e->quant_conv, dmoments, e->head_out, N, run);
        linear_input_grad(&e->quant_conv, dinp, dmoments, NULL, N, run);
        dhead = dinp;
    }
    floatX *d = head_backward(&e->head, dhead, run);
    d = mid_backward(&e->mid, d, run);
    for (int i = encoder->config.levels; i-- > 0;) d = down_backward(&e->down[i], d, run);
    conv_param_grad(&e->conv_in, NULL, d, e->image, e->H, e->W, run);
    params_grads_final(run->params, 0);
    if (dimage) conv_input_grad(&e->conv_in, dimage, d, NULL, e->H, e->W, run);
    arena_release(arena, (ArenaMark){e->mark.bottom, mark.top});
    run->keep = false;
}

size_t vae_encoder_plan(VAEEncoder *encoder, int B, int H, int W, bool train, Device *plan) {
    PlannedParams real = params_plan(&encoder->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    vae_encoder_forward(encoder, &arena, PLAN_ADDRESS, PLAN_ADDRESS, B, H, W, train, plan);
    device_scope(plan, "backward");
    if (train) vae_encoder_backward(encoder, &arena, NULL, PLAN_ADDRESS, 1, plan);
    params_plan_end(&encoder->params, real);
    return arena.peak;
}

// ---- Decoder -------------------------------------------------------------------------------------------------------

VAEDecoder vae_decoder_create(const VAEConfig *config) {
    VAEDecoder decoder = {.config = *config, .layers = xcalloc(1, sizeof(VAEDecoderLayers))};
    VAEDecoderLayers *d = decoder.layers;
    const VAEConfig *c = &decoder.config;
    Params *p = &decoder.params;
    int C = c->block_out_channels[c->levels - 1], L = c->latent_channels;
    d->has_post_quant_conv = c->post_quant_conv;
    if (d->has_post_quant_conv) d->post_quant_conv = conv1x1_create(p, "post_quant_conv", L, L);
    d->conv_in = conv_create(p, "decoder.conv_in", L, C, 1, 1, 1);
    d->mid = mid_create(c, p, "decoder");
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("decoder.up_blocks.%d", i);
        Block *b = &d->up[i];
        *b = block_create(c, p, name.text, c->layers_per_block + 1, C, c->block_out_channels[c->levels - 1 - i]);
        C = b->C;
        b->has_sampler = i + 1 < c->levels;
        if (b->has_sampler) {
            b->sampler = conv_create(p, name_of("%s.upsamplers.0.conv", name.text).text, C, C, 1, 1, 1);
        }
    }
    d->head = head_create(c, p, "decoder", C, c->out_channels);
    params_finish(p);
    return decoder;
}

void vae_decoder_destroy(VAEDecoder *decoder, Device *dev) {
    for (int i = 0; i < MAX_LEVELS; i++) free(decoder->layers->up[i].layers);
    free(decoder->layers);
    params_free(&decoder->params, dev);
    *decoder = (VAEDecoder){0};
}

static floatX *up_forward(Block *b, floatX *stream, int *H, int *W, const Run *run) {
    b->H = *H, b->W = *W;
    for (int i = 0; i < b->count; i++) stream = layer_forward(&b->layers[i], stream, *H, *W, run);
    if (!b->has_sampler) return stream;
    *H *= 2, *W *= 2;
    b->sampler_mark = arena_mark(run->arena);
    b->sampler_inp = stream;
    floatX *out = keep_tensor(run, pixels(run, *H, *W) * b->C);
    upsample_forward(&b->sampler, out, stream, b->H, b->W, *H, *W, run);
    return out;
}

static floatX *up_backward(Block *b, floatX *d, Run *run) {
    if (b->has_sampler) {
        floatX *dinp = arena_push(run->arena, pixels(run, b->H, b->W) * b->C);
        upsample_backward(&b->sampler, dinp, d, b->sampler_inp, b->H, b->W, 2 * b->H, 2 * b->W, run);
        arena_release_bottom(run->arena, b->sampler_mark);
        d = dinp;
    }
    for (int i = b->count; i-- > 0;) d = layer_backward(&b->layers[i], d, run);
    return d;
}

void vae_decoder_forward(VAEDecoder *decoder, Arena *arena, floatX *image, const floatX *latent, int B, int h, int w,
                         bool keep, Device *dev) {
    VAEDecoderLayers *d = decoder->layers;
    const VAEConfig *c = &decoder->config;
    d->run = (Run){.params = &decoder->params, .arena = arena, .dev = dev, .B = B, .keep = keep};
    d->mark = arena_mark(arena);
    d->latent = d->quantized = latent;
    d->H = h, d->W = w;
    const Run *run = &d->run;
    size_t N = pixels(run, h, w);
    if (d->has_post_quant_conv) {
        floatX *quantized = keep_tensor(run, N * c->latent_channels);
        linear_apply(&d->post_quant_conv, quantized, latent, NULL, N, run);
        d->quantized = quantized;
    }
    floatX *stream = keep_tensor(run, N * c->block_out_channels[c->levels - 1]);
    conv_apply(&d->conv_in, stream, d->quantized, NULL, NULL, h, w, run);
    stream = mid_forward(&d->mid, stream, h, w, run);
    for (int i = 0; i < c->levels; i++) stream = up_forward(&d->up[i], stream, &h, &w, run);
    head_forward(&d->head, image, stream, h, w, run);
    if (keep)
        arena_release_top(arena, d->mark);
    else
        arena_release(arena, d->mark);
}

void vae_decoder_backward(VAEDecoder *decoder, Arena *arena, floatX *dlatent, const floatX *dimage, float beta,
                          Device *dev) {
    VAEDecoderLayers *l = decoder->layers;
    Run *run = &l->run;
    assert(run->keep);
    run->arena = arena, run->dev = dev, run->beta = beta;
    ArenaMark mark = arena_mark(arena);
    floatX *d = head_backward(&l->head, dimage, run);
    for (int i = decoder->config.levels; i-- > 0;) d = up_backward(&l->up[i], d, run);
    d = mid_backward(&l->mid, d, run);
    conv_param_grad(&l->conv_in, NULL, d, l->quantized, l->H, l->W, run);
    if (l->has_post_quant_conv && (dlatent || run->params->grads)) {
        size_t N = pixels(run, l->H, l->W);
        floatX *dquantized = arena_push(arena, N * l->post_quant_conv.OC);
        conv_input_grad(&l->conv_in, dquantized, d, NULL, l->H, l->W, run);
        linear_param_grad(&l->post_quant_conv, dquantized, l->latent, N, run);
        if (dlatent) linear_input_grad(&l->post_quant_conv, dlatent, dquantized, NULL, N, run);
    } else if (dlatent) {
        conv_input_grad(&l->conv_in, dlatent, d, NULL, l->H, l->W, run);
    }
    params_grads_final(run->params, 0);
    arena_release(arena, (ArenaMark){l->mark.bottom, mark.top});
    run->keep = false;
}

size_t vae_decoder_plan(VAEDecoder *decoder, int B, int h, int w, bool train, Device *plan) {
    PlannedParams real = params_plan(&decoder->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    vae_decoder_forward(decoder, &arena, PLAN_ADDRESS, PLAN_ADDRESS, B, h, w, train, plan);
    device_scope(plan, "backward");
    if (train) vae_decoder_backward(decoder, &arena, NULL, PLAN_ADDRESS, 1, plan);
    params_plan_end(&decoder->params, real);
    return arena.peak;
}
