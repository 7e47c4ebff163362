#include "model/unet.h"
#include <assert.h>
#include <stdlib.h>
#include "model/blocks.h"
#include "util/error.h"

// A resnet and, in cross-attention blocks, a transformer behind it.
typedef struct {
    Resnet resnet;
    Transformer transformer;
    bool attention;
    int IC, OC;                 // of the resnet, in up blocks with the skip's channels
    const floatX *inp, *hidden; // the stream before the layer and between its two parts
    ArenaMark mark;             // the arena before the layer's forward
} Layer;

typedef struct {
    Layer *layers;
    int count, C, H, W;
    bool has_sampler;
    Conv sampler;              // down blocks: stride 2; up blocks: after nearest upsampling
    const floatX *sampler_inp; // of an up block
    ArenaMark sampler_mark;
} Block;

// An output of the down path, consumed a second time by the up path.
typedef struct {
    floatX *data, *grad; // (B, H, W, C)
    int H, W, C;
    ArenaMark mark; // the arena before data was made
} Skip;

struct UNetLayers {
    Linear time1, time2;
    Conv conv_in, conv_out;
    GroupNorm norm_out;
    Block down[MAX_LEVELS], mid, up[MAX_LEVELS];
    Skip *skips; // conv_in's output, then each down layer's and each downsampler's
    int skip_count, skip_capacity;

    // The forward that backward belongs to.
    Run run;
    int H, W;
    ArenaMark mark;
    const floatX *sample, *stream_out;
    floatX *sinusoids, *time1_out, *time1_silu, *time2_out, *temb; // (B, C0), the others (B, 4 C0)
};

// ---- Construction --------------------------------------------------------------------------------------------------

static Layer layer_create(const UNetConfig *c, Params *p, const char *block, int i, int IC, int OC, int heads) {
    Layer l = {.attention = heads > 0, .IC = IC, .OC = OC};
    l.resnet = resnet_create(p, name_of("%s.resnets.%d", block, i).text, IC, OC, 4 * c->block_out_channels[0],
                             c->norm_num_groups, c->norm_eps);
    if (l.attention) {
        l.transformer =
            transformer_create(p, name_of("%s.attentions.%d", block, i).text, OC, heads, c->transformer_layers,
                               c->cross_attention_dim, c->norm_num_groups, c->use_linear_projection);
    }
    return l;
}

static Block block_create(int count, int C) {
    return (Block){.layers = xcalloc(count, sizeof(Layer)), .count = count, .C = C};
}

// Channels of the skips so far, in the order of the down path, for the up path's resnets.
typedef struct {
    int C[MAX_LEVELS * 64], count;
} SkipChannels;

static void skip_add(SkipChannels *skips, int C) {
    assert(skips->count < (int)(sizeof skips->C / sizeof skips->C[0]));
    skips->C[skips->count++] = C;
}

static void down_create(UNet *unet, SkipChannels *skips) {
    const UNetConfig *c = &unet->config;
    Params *p = &unet->params;
    int C = c->block_out_channels[0];
    skip_add(skips, C);
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("down_blocks.%d", i);
        Block *b = &unet->layers->down[i];
        *b = block_create(c->layers_per_block, c->block_out_channels[i]);
        for (int j = 0; j < b->count; j++, C = b->C) {
            b->layers[j] = layer_create(c, p, name.text, j, C, b->C, c->down_attention[i] ? c->num_heads[i] : 0);
            skip_add(skips, b->C);
        }
        b->has_sampler = i + 1 < c->levels;
        if (!b->has_sampler) continue;
        b->sampler = conv_create(p, name_of("%s.downsamplers.0.conv", name.text).text, C, C, 2, c->downsample_padding,
                                 c->downsample_padding);
        skip_add(skips, C);
    }
}

static void up_create(UNet *unet, SkipChannels *skips) {
    const UNetConfig *c = &unet->config;
    Params *p = &unet->params;
    int C = c->block_out_channels[c->levels - 1];
    for (int i = 0; i < c->levels; i++) {
        int level = c->levels - 1 - i, heads = c->up_attention[i] ? c->num_heads[level] : 0;
        Name name = name_of("up_blocks.%d", i);
        Block *b = &unet->layers->up[i];
        *b = block_create(c->layers_per_block + 1, c->block_out_channels[level]);
        for (int j = 0; j < b->count; j++, C = b->C) {
            b->layers[j] = layer_create(c, p, name.text, j, C + skips->C[--skips->count], b->C, heads);
        }
        b->has_sampler = i + 1 < c->levels;
        if (b->has_sampler) {
            b->sampler = conv_create(p, name_of("%s.upsamplers.0.conv", name.text).text, C, C, 1, 1, 1);
        }
    }
}

UNet unet_create(const UNetConfig *config) {
    UNet unet = {.config = *config, .layers = xcalloc(1, sizeof(UNetLayers))};
    UNetLayers *u = unet.layers;
    Params *p = &unet.params;
    int C0 = config->block_out_channels[0], last = config->levels - 1, C = config->block_out_channels[last];
    SkipChannels skips = {.count = 0};
    u->time1 = linear_create(p, "time_embedding.linear_1", C0, 4 * C0, true);
    u->time2 = linear_create(p, "time_embedding.linear_2", 4 * C0, 4 * C0, true);
    u->conv_in = conv_create(p, "conv_in", config->in_channels, C0, 1, 1, 1);
    down_create(&unet, &skips);
    u->skip_capacity = skips.count;
    u->skips = xcalloc(skips.count, sizeof(Skip));
    u->mid = block_create(2, C);
    u->mid.layers[0] = layer_create(config, p, "mid_block", 0, C, C, config->num_heads[last]);
    u->mid.layers[1] = layer_create(config, p, "mid_block", 1, C, C, 0);
    up_create(&unet, &skips);
    u->norm_out = groupnorm_create(p, "conv_norm_out", C0, config->norm_num_groups, config->norm_eps, true);
    u->conv_out = conv_create(p, "conv_out", C0, config->out_channels, 1, 1, 1);
    params_finish(p);
    return unet;
}

static void block_destroy(Block *b) {
    for (int i = 0; i < b->count; i++) {
        if (b->layers[i].attention) transformer_destroy(&b->layers[i].transformer);
    }
    free(b->layers);
}

void unet_destroy(UNet *unet, Device *dev) {
    for (int i = 0; i < MAX_LEVELS; i++) {
        block_destroy(&unet->layers->down[i]);
        block_destroy(&unet->layers->up[i]);
    }
    block_destroy(&unet->layers->mid);
    free(unet->layers->skips);
    free(unet->layers);
    params_free(&unet->params, dev);
    *unet = (UNet){0};
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// temb = silu(linear_2(silu(linear_1(sinusoids)))): what every resnet projects.
static void time_forward(UNet *unet, const float *timesteps, const Run *run) {
    UNetLayers *u = unet->layers;
    int B = run->B, C = u->time1.IC, TD = u->time1.OC;
    u->sinusoids = arena_save(run->arena, (size_t)B * C);
    u->time1_out = arena_save(run->arena, (size_t)B * TD);
    u->time1_silu = arena_save(run->arena, (size_t)B * TD);
    u->time2_out = arena_save(run->arena, (size_t)B * TD);
    u->temb = arena_save(run->arena, (size_t)B * TD);
    timestep_embedding_forward(u->sinusoids, timesteps, B, C, unet->config.flip_sin_to_cos, unet->config.freq_shift,
                               run->dev);
    linear_apply(&u->time1, u->time1_out, u->sinusoids, NULL, B, run);
    silu_forward(u->time1_silu, u->time1_out, (size_t)B * TD, run->dev);
    linear_apply(&u->time2, u->time2_out, u->time1_silu, NULL, B, run);
    silu_forward(u->temb, u->time2_out, (size_t)B * TD, run->dev);
}

static size_t pixels(const Run *run, int H, int W) { return (size_t)run->B * H * W; }

// The layer's tensors go over `stream`, which has room for them, where nothing is kept.
static floatX *layer_forward(Layer *l, floatX *stream, const floatX *inp, int H, int W, const Run *run) {
    size_t n = pixels(run, H, W) * l->OC;
    floatX *hidden = next_tensor(run, stream, n);
    l->hidden = hidden;
    resnet_forward(&l->resnet, hidden, inp, H, W, run);
    if (!l->attention) return hidden;
    floatX *out = next_tensor(run, hidden, n);
    transformer_forward(&l->transformer, out, hidden, H * W, run);
    return out;
}

static void skip_push(UNetLayers *u, floatX *data, int H, int W, int C, ArenaMark mark) {
    assert(u->skip_count < u->skip_capacity);
    u->skips[u->skip_count++] = (Skip){.data = data, .H = H, .W = W, .C = C, .mark = mark};
}

static void down_forward(UNetLayers *u, Block *b, const Run *run) {
    const Skip *before = &u->skips[u->skip_count - 1];
    int H = b->H = before->H, W = b->W = before->W;
    const floatX *stream = before->data;
    for (int i = 0; i < b->count; i++) {
        Layer *l = &b->layers[i];
        l->mark = arena_mark(run->arena);
        l->inp = stream;
        floatX *buffer = run->keep ? NULL : arena_save(run->arena, pixels(run, H, W) * l->OC);
        floatX *out = layer_forward(l, buffer, stream, H, W, run);
        skip_push(u, out, H, W, l->OC, l->mark);
        stream = out;
    }
    if (!b->has_sampler) return;
    ArenaMark mark = arena_mark(run->arena);
    int OH = conv_out_size(&b->sampler, H), OW = conv_out_size(&b->sampler, W);
    floatX *out = arena_save(run->arena, pixels(run, OH, OW) * b->C);
    conv_apply(&b->sampler, out, stream, NULL, NULL, H, W, run);
    skip_push(u, out, OH, OW, b->C, mark);
}

// Room for the stream of the next block, if it is not kept.
static floatX *stream_buffer(const Run *run, int H, int W, int C, int next_C) {
    return run->keep ? NULL : arena_push(run->arena, pixels(run, H, W) * (C > next_C ? C : next_C));
}

static floatX *mid_forward(UNetLayers *u, const Run *run) {
    Block *b = &u->mid;
    const Skip *before = &u->skips[u->skip_count - 1];
    b->H = before->H, b->W = before->W;
    floatX *stream = before->data, *buffer = stream_buffer(run, b->H, b->W, b->C, u->up[0].C);
    for (int i = 0; i < b->count; i++) {
        Layer *l = &b->layers[i];
        l->mark = arena_mark(run->arena);
        l->inp = stream;
        stream = layer_forward(l, buffer, stream, b->H, b->W, run);
    }
    return stream;
}

// The layer's resnet reads the stream and the skip side by side. The copy is not kept: backward makes it again.
static floatX *up_layer_forward(UNetLayers *u, Layer *l, floatX *stream, int H, int W, const Run *run) {
    const Skip *skip = &u->skips[--u->skip_count];
    size_t N = pixels(run, H, W);
    l->mark = arena_mark(run->arena);
    l->inp = stream;
    floatX *hidden = next_tensor(run, stream, N * l->OC);
    ArenaMark mark = arena_mark(run->arena);
    floatX *both = arena_push(run->arena, N * l->IC);
    concat_forward(both, stream, skip->data, N, l->IC - skip->C, skip->C, run->dev);
    resnet_forward(&l->resnet, hidden, both, H, W, run);
    arena_release_top(run->arena, mark);
    if (!run->keep) arena_release_bottom(run->arena, skip->mark);
    l->hidden = hidden;
    if (!l->attention) return hidden;
    floatX *out = next_tensor(run, hidden, N * l->OC);
    transformer_forward(&l->transformer, out, hidden, H * W, run);
    return out;
}

// Upsampling goes to the size of the next block's skips, which is not twice this one's where a side was odd.
static floatX *up_forward(UNetLayers *u, Block *b, const Block *next, floatX *stream, const Run *run) {
    int H = b->H = u->skips[u->skip_count - 1].H, W = b->W = u->skips[u->skip_count - 1].W;
    for (int i = 0; i < b->count; i++) stream = up_layer_forward(u, &b->layers[i], stream, H, W, run);
    if (!b->has_sampler) return stream;
    const Skip *skip = &u->skips[u->skip_count - 1];
    b->sampler_mark = arena_mark(run->arena);
    b->sampler_inp = stream;
    floatX *out = stream_buffer(run, skip->H, skip->W, b->C, next->C);
    out = next_tensor(run, out, pixels(run, skip->H, skip->W) * b->C);
    upsample_forward(&b->sampler, out, stream, H, W, skip->H, skip->W, run);
    return out;
}

static void out_forward(UNetLayers *u, floatX *out, const floatX *stream, const Run *run) {
    u->stream_out = stream;
    groupnorm_statistics(&u->norm_out, run);
    floatX *normed = arena_push(run->arena, pixels(run, u->H, u->W) * u->norm_out.C);
    groupnorm_apply(&u->norm_out, normed, stream, u->H * u->W, run);
    conv_apply(&u->conv_out, out, normed, NULL, NULL, u->H, u->W, run);
}

void unet_forward(UNet *unet, Arena *arena, floatX *out, const floatX *sample, const float *timesteps,
                  const floatX *context, int B, int H, int W, int T, bool keep, Device *dev) {
    UNetLayers *u = unet->layers;
    int levels = unet->config.levels, C0 = unet->config.block_out_channels[0];
    u->run = (Run){.params = &unet->params,
                   .arena = arena,
                   .dev = dev,
                   .B = B,
                   .keep = keep,
                   .recompute_resnets = unet->recompute == RECOMPUTE_BLOCKS,
                   .recompute_transformers = unet->recompute != RECOMPUTE_NONE,
                   .context = context,
                   .context_length = T};
    Run *run = &u->run;
    u->H = H, u->W = W, u->sample = sample, u->skip_count = 0;
    u->mark = arena_mark(arena);
    time_forward(unet, timesteps, run);
    run->temb = u->temb;

    ArenaMark mark = arena_mark(arena);
    floatX *stream = arena_save(arena, pixels(run, H, W) * C0);
    conv_apply(&u->conv_in, stream, sample, NULL, NULL, H, W, run);
    skip_push(u, stream, H, W, C0, mark);
    for (int i = 0; i < levels; i++) down_forward(u, &u->down[i], run);
    stream = mid_forward(u, run);
    for (int i = 0; i < levels; i++) stream = up_forward(u, &u->up[i], &u->up[i + 1], stream, run);
    out_forward(u, out, stream, run);

    if (keep)
        arena_release_top(arena, u->mark);
    else
        arena_release(arena, u->mark);
}

// ---- Backward: the same list from bottom to top. `d` is the gradient of the stream, updated in place where its shape
// stays. What a layer kept is given back as soon as its gradients are done.
// --------------------------------------------

static floatX *out_backward(UNetLayers *u, const floatX *dout, Run *run) {
    floatX *d = arena_push(run->arena, pixels(run, u->H, u->W) * u->norm_out.C), *normed = d;
    if (run->params->grads) groupnorm_apply(&u->norm_out, normed, u->stream_out, u->H * u->W, run);
    conv_param_grad(&u->conv_out, NULL, dout, normed, u->H, u->W, run);
    conv_input_grad(&u->conv_out, d, dout, NULL, u->H, u->W, run);
    groupnorm_grad(&u->norm_out, d, d, u->stream_out, NULL, u->H * u->W, run);
    params_grads_final(run->params, u->norm_out.weight);
    return d;
}

static floatX *up_layer_backward(UNetLayers *u, Layer *l, floatX *d, int H, int W, Run *run) {
    Skip *skip = &u->skips[u->skip_count++];
    int C = l->IC - skip->C;
    size_t N = pixels(run, H, W);
    skip->grad = arena_push(run->arena, N * skip->C);
    floatX *dinp = C == l->OC ? d : arena_push(run->arena, N * C);
    if (l->attention) transformer_backward(&l->transformer, d, d, l->hidden, H * W, run);
    ArenaMark mark = arena_mark(run->arena);
    floatX *both = arena_push(run->arena, N * l->IC), *dboth = arena_push(run->arena, N * l->IC);
    concat_forward(both, l->inp, skip->data, N, C, skip->C, run->dev);
    resnet_backward(&l->resnet, dboth, d, both, H, W, run);
    params_grads_final(run->params, l->resnet.norm1.weight);
    concat_backward(dinp, skip->grad, dboth, N, C, skip->C, run->dev);
    arena_release_top(run->arena, mark);
    arena_release_bottom(run->arena, l->mark);
    return dinp;
}

static floatX *up_backward(UNetLayers *u, Block *b, floatX *d, Run *run) {
    if (b->has_sampler) {
        const Skip *skip = &u->skips[u->skip_count - 1];
        floatX *dinp = arena_push(run->arena, pixels(run, b->H, b->W) * b->C);
        upsample_backward(&b->sampler, dinp, d, b->sampler_inp, b->H, b->W, skip->H, skip->W, run);
        arena_release_bottom(run->arena, b->sampler_mark);
        d = dinp;
    }
    for (int i = b->count; i-- > 0;) d = up_layer_backward(u, &b->layers[i], d, b->H, b->W, run);
    return d;
}

// Returns the gradient of the layer's input as far as it comes from the layer.
static floatX *layer_backward(Layer *l, floatX *d, int H, int W, Run *run) {
    floatX *dinp = l->IC == l->OC ? d : arena_push(run->arena, pixels(run, H, W) * l->IC);
    if (l->attention) transformer_backward(&l->transformer, d, d, l->hidden, H * W, run);
    resnet_backward(&l->resnet, dinp, d, l->inp, H, W, run);
    params_grads_final(run->params, l->resnet.norm1.weight);
    arena_release_bottom(run->arena, l->mark);
    return dinp;
}

// Adds what the up path sent to the last skip: d is its gradient so far.
static void skip_merge(UNetLayers *u, floatX *d, const Run *run) {
    const Skip *skip = &u->skips[u->skip_count - 1];
    add_forward(d, d, skip->grad, pixels(run, skip->H, skip->W) * skip->C, run->dev);
}

static floatX *down_backward(UNetLayers *u, Block *b, floatX *d, Run *run) {
    if (b->has_sampler) {
        const Skip *out = &u->skips[--u->skip_count], *inp = out - 1;
        conv_param_grad(&b->sampler, NULL, d, inp->data, b->H, b->W, run);
        conv_input_grad(&b->sampler, inp->grad, d, inp->grad, b->H, b->W, run);
        arena_release_bottom(run->arena, out->mark);
        d = inp->grad;
    }
    for (int i = b->count; i-- > 0;) {
        d = layer_backward(&b->layers[i], d, b->H, b->W, run);
        u->skip_count--;
        skip_merge(u, d, run);
    }
    return d;
}

static void time_backward(UNetLayers *u, const Run *run) {
    int B = run->B, TD = u->time1.OC;
    size_t n = (size_t)B * TD;
    floatX *d = run->dtemb, *dsilu = arena_push(run->arena, n);
    silu_backward(d, d, u->time2_out, n, run->dev);
    linear_param_grad(&u->time2, d, u->time1_silu, B, run);
    linear_input_grad(&u->time2, dsilu, d, NULL, B, run);
    silu_backward(dsilu, dsilu, u->time1_out, n, run->dev);
    linear_param_grad(&u->time1, dsilu, u->sinusoids, B, run);
}

void unet_backward(UNet *unet, Arena *arena, floatX *dsample, floatX *dcontext, const floatX *dout, float beta,
                   Device *dev) {
    UNetLayers *u = unet->layers;
    int levels = unet->config.levels;
    bool grads = unet->params.grads;
    Run *run = &u->run;
    assert(run->keep && u->skip_count == 0);
    ArenaMark mark = arena_mark(arena);
    run->arena = arena, run->dev = dev, run->beta = beta, run->dcontext = dcontext;
    run->dtemb = grads ? arena_push(arena, (size_t)run->B * u->time1.OC) : NULL;
    run->dtemb_begun = run->dcontext_begun = false;

    floatX *d = out_backward(u, dout, run);
    for (int i = levels; i-- > 0;) d = up_backward(u, &u->up[i], d, run);
    for (int i = u->mid.count; i-- > 0;) d = layer_backward(&u->mid.layers[i], d, u->mid.H, u->mid.W, run);
    skip_merge(u, d, run);
    for (int i = levels; i-- > 0;) d = down_backward(u, &u->down[i], d, run);
    conv_param_grad(&u->conv_in, NULL, d, u->sample, u->H, u->W, run);
    params_grads_final(run->params, u->conv_in.weight);
    if (dsample) conv_input_grad(&u->conv_in, dsample, d, NULL, u->H, u->W, run);
    if (grads) time_backward(u, run);
    params_grads_final(run->params, 0);
    arena_release(arena, (ArenaMark){u->mark.bottom, mark.top});
    run->keep = false;
}

// ---- Plan ----------------------------------------------------------------------------------------------------------

size_t unet_plan(UNet *unet, int B, int H, int W, int T, bool train, Device *plan) {
    PlannedParams real = params_plan(&unet->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    unet_forward(unet, &arena, PLAN_ADDRESS, PLAN_ADDRESS, PLAN_ADDRESS, PLAN_ADDRESS, B, H, W, T, train, plan);
    device_scope(plan, "backward");
    if (train) unet_backward(unet, &arena, NULL, NULL, PLAN_ADDRESS, 1, plan);
    params_plan_end(&unet->params, real);
    return arena.peak;
}
