#include "model/unet.h"
#include <assert.h>
#include <stdlib.h>
#include "kernels/folds.h"
#include "model/blocks.h"
#include "util/error.h"

const char *const recompute_names[] = {"none", "products", "transformers", "blocks", NULL};

typedef enum { PATH_DOWN, PATH_MID, PATH_UP } UNetPath;

// A resnet, followed by a transformer in cross-attention blocks, and by a change of resolution at the end of a block.
typedef struct {
    UNetPath path; // down: its outputs become skips; up: its resnet reads stream and skip, concatenated
    Resnet resnet;
    Transformer transformer;
    Conv resample; // down: stride 2; up: after nearest upsampling
    bool has_transformer, has_resample;
    int IC, OC; // of the resnet; in the up path IC includes the skip's channels

    // Set by forward, for backward.
    int H, W;
    const floatX *inp, *hidden, *out; // the stream before the layer, after the resnet, before the resampling
    ArenaMark mark, resample_mark;    // the arena before the layer and before its resampling
} Layer;

// An output of the down path, which the up path reads again.
typedef struct {
    floatX *data, *grad; // (B, H, W, C)
    int H, W, C;
    ArenaMark mark; // the arena before data was made
} Skip;

struct UNetLayers {
    Linear time1, time2;
    LinearGroup time_proj; // the time_emb_proj of all resnets
    Conv conv_in;
    Head head;
    Layer *layers; // in the order of forward: down_blocks, mid_block, up_blocks
    int count;
    Skip *skips; // conv_in's output, then the outputs of all down layers and their resamplings
    int skip_count, skip_capacity;

    // Set by forward, for backward.
    Pass pass;
    int H, W;
    ArenaMark mark;
    const floatX *sample;
    floatX *sinusoids, *time1_out, *time1_silu, *time2_out, *temb; // (B, C0), the others (B, 4 C0)
    floatX *time;                                                  // (B, channels of all resnets' outputs)
};

// ---- Construction --------------------------------------------------------------------------------------------------

// The state of construction: channels of the stream before the next layer, and of the skips so far.
typedef struct {
    const UNetConfig *config;
    Params *params;
    UNetLayers *layers;
    int C, skip_C[MAX_LEVELS * 64];
} Builder;

static void skip_add(Builder *b) {
    assert(b->layers->skip_capacity < (int)(sizeof b->skip_C / sizeof b->skip_C[0]));
    b->skip_C[b->layers->skip_capacity++] = b->C;
}

static Layer *layer_add(Builder *b, UNetPath path, const char *block, int i, int IC, int OC, int heads) {
    const UNetConfig *c = b->config;
    Layer *l = &b->layers->layers[b->layers->count++];
    *l = (Layer){.path = path, .has_transformer = heads > 0, .IC = IC, .OC = OC};
    l->resnet = resnet_create(b->params, name_of("%s.resnets.%d", block, i).text, IC, OC, &b->layers->time_proj,
                              c->norm_num_groups, c->norm_eps);
    if (l->has_transformer) {
        l->transformer =
            transformer_create(b->params, name_of("%s.attentions.%d", block, i).text, OC, heads, c->transformer_layers,
                               c->cross_attention_dim, c->norm_num_groups, c->use_linear_projection);
    }
    b->C = OC;
    return l;
}

static void resample_add(Builder *b, Layer *l, const char *name, int stride, int pad_before) {
    l->has_resample = true;
    l->resample = conv_create(b->params, name, l->OC, l->OC, stride, pad_before, 1);
}

static void down_create(Builder *b) {
    const UNetConfig *c = b->config;
    skip_add(b);
    for (int i = 0; i < c->levels; i++) {
        Name name = name_of("down_blocks.%d", i);
        Layer *l = NULL;
        for (int j = 0; j < c->layers_per_block; j++) {
            int heads = c->down_attention[i] ? c->num_heads[i] : 0;
            l = layer_add(b, PATH_DOWN, name.text, j, b->C, c->block_out_channels[i], heads);
            skip_add(b);
        }
        if (i + 1 == c->levels) { break; }
        // Downsample2D with padding 0 still pads by 1 at the bottom and on the right.
        resample_add(b, l, name_of("%s.downsamplers.0.conv", name.text).text, 2, c->downsample_padding);
        skip_add(b);
    }
}

static void up_create(Builder *b) {
    const UNetConfig *c = b->config;
    for (int i = 0, skips = b->layers->skip_capacity; i < c->levels; i++) {
        int level = c->levels - 1 - i, heads = c->up_attention[i] ? c->num_heads[level] : 0;
        Name name = name_of("up_blocks.%d", i);
        Layer *l = NULL;
        for (int j = 0; j <= c->layers_per_block; j++) {
            int IC = b->C + b->skip_C[--skips];
            l = layer_add(b, PATH_UP, name.text, j, IC, c->block_out_channels[level], heads);
        }
        if (i + 1 < c->levels) { resample_add(b, l, name_of("%s.upsamplers.0.conv", name.text).text, 1, 1); }
    }
}

// The sum of the resnets' output channels.
static int time_columns(const UNetConfig *c) {
    int columns = 2 * c->block_out_channels[c->levels - 1]; // mid_block
    for (int i = 0; i < c->levels; i++) { columns += (2 * c->layers_per_block + 1) * c->block_out_channels[i]; }
    return columns;
}

UNet unet_create(const UNetConfig *config) {
    UNet unet = {.config = *config, .layers = xcalloc(1, sizeof(UNetLayers))};
    UNetLayers *u = unet.layers;
    Params *p = &unet.params;
    int C0 = config->block_out_channels[0], last = config->levels - 1, C = config->block_out_channels[last];
    Builder builder = {.config = config, .params = p, .layers = u, .C = C0};
    u->layers = xcalloc(2 + config->levels * (2 * config->layers_per_block + 1), sizeof(Layer));
    u->time1 = linear_create(p, "time_embedding.linear_1", C0, 4 * C0, true);
    u->time2 = linear_create(p, "time_embedding.linear_2", 4 * C0, 4 * C0, true);
    u->time_proj = linear_group_create(p, 4 * C0, time_columns(config));
    u->conv_in = conv_create(p, "conv_in", config->in_channels, C0, 1, 1, 1);
    down_create(&builder);
    layer_add(&builder, PATH_MID, "mid_block", 0, C, C, config->num_heads[last]);
    layer_add(&builder, PATH_MID, "mid_block", 1, C, C, 0);
    up_create(&builder);
    assert(u->time_proj.bias.next == u->time_proj.bias.end);
    u->skips = xcalloc(u->skip_capacity, sizeof(Skip));
    u->head = head_create(p, "", C0, config->out_channels, config->norm_num_groups, config->norm_eps);
    params_finish(p);
    return unet;
}

void unet_destroy(UNet *unet, Device *dev) {
    UNetLayers *u = unet->layers;
    for (int i = 0; i < u->count; i++) {
        if (u->layers[i].has_transformer) { transformer_destroy(&u->layers[i].transformer); }
    }
    free(u->layers);
    free(u->skips);
    free(u);
    params_free(&unet->params, dev);
    *unet = (UNet){0};
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// temb = silu(linear_2(silu(linear_1(sinusoids)))), and its projections by all resnets.
static void time_forward(UNet *unet, const float *timesteps, const Pass *pass) {
    UNetLayers *u = unet->layers;
    int B = pass->B, C = u->time1.IC, TD = u->time1.OC;
    u->sinusoids = save_tensor(pass, u->time1.weight, "inp", SHAPE(B, C));
    u->time1_out = save_tensor(pass, u->time1.weight, "out", SHAPE(B, TD));
    u->time1_silu = save_tensor(pass, u->time1.weight, "silu", SHAPE(B, TD));
    u->time2_out = save_tensor(pass, u->time2.weight, "out", SHAPE(B, TD));
    u->temb = save_tensor(pass, u->time2.weight, "silu", SHAPE(B, TD));
    u->time = save_tensor(pass, u->time2.weight, "../time_emb_proj", SHAPE(B, u->time_proj.all.OC));
    timestep_embedding_forward(u->sinusoids, timesteps, B, C, unet->config.flip_sin_to_cos, unet->config.freq_shift,
                               pass->dev);
    linear_apply(&u->time1, u->time1_out, u->sinusoids, NULL, B, pass);
    silu_forward(u->time1_silu, u->time1_out, (size_t)B * TD, pass->dev);
    linear_apply(&u->time2, u->time2_out, u->time1_silu, NULL, B, pass);
    silu_forward(u->temb, u->time2_out, (size_t)B * TD, pass->dev);
    linear_apply(&u->time_proj.all, u->time, u->temb, NULL, B, pass);
}

static size_t pixels(const Pass *pass, int H, int W) { return (size_t)pass->B * H * W; }

static void skip_push(UNetLayers *u, floatX *data, int H, int W, int C, ArenaMark mark) {
    assert(u->skip_count < u->skip_capacity);
    u->skips[u->skip_count++] = (Skip){.data = data, .H = H, .W = W, .C = C, .mark = mark};
}

// Skips stay until the up path has read them, even if the pass saves nothing.
static floatX *save_skip(const Pass *pass, size_t layer, Shape shape) {
    Pass always = *pass;
    always.save = true;
    return save_tensor(&always, layer, "out", shape);
}

// Upsamples to the size of the next block's skips, which is not twice this size if a side was odd.
static floatX *resample_forward(UNetLayers *u, Layer *l, const floatX *stream, const Pass *pass) {
    const Skip *skip = &u->skips[u->skip_count - 1];
    bool down = l->path == PATH_DOWN;
    int H = down ? conv2d_out(&l->resample.shape, l->H) : skip->H;
    int W = down ? conv2d_out(&l->resample.shape, l->W) : skip->W;
    l->resample_mark = arena_mark(pass->arena);
    Shape shape = SHAPE(pass->B, H, W, l->OC);
    if (down) {
        floatX *out = save_skip(pass, l->resample.weight, shape);
        conv_apply(&l->resample, out, stream, NULL, NULL, l->H, l->W, pass);
        skip_push(u, out, H, W, l->OC, l->resample_mark);
        return out;
    }
    // The next block uses the same memory.
    floatX *out = pass->save ? NULL : arena_push(pass->arena, pixels(pass, H, W) * (l[1].OC > l->OC ? l[1].OC : l->OC));
    out = next_tensor(pass, out, l->resample.weight, shape);
    upsample_forward(&l->resample, out, stream, l->H, l->W, H, W, pass);
    return out;
}

// Returns the stream after the layer. In the up path the concatenation of stream and skip is not saved; backward makes
// it again.
static floatX *layer_forward(UNetLayers *u, Layer *l, floatX *stream, const Pass *pass) {
    const Skip *skip = &u->skips[u->skip_count - 1];
    int H = l->H = skip->H, W = l->W = skip->W;
    size_t N = pixels(pass, H, W), conv2 = l->resnet.conv2.weight;
    Shape shape = SHAPE(pass->B, H, W, l->OC);
    l->mark = arena_mark(pass->arena);
    l->inp = stream;
    floatX *hidden = stream; // if nothing is saved, mid block and up path overwrite the stream, but never a skip
    if (l->path == PATH_DOWN) {
        hidden = save_skip(pass, conv2, shape);
    } else if (pass->save || stream == skip->data) {
        hidden = save_tensor(pass, conv2, "out", shape);
    }
    ArenaMark mark = arena_mark(pass->arena);
    if (l->path == PATH_UP) {
        floatX *both = arena_push(pass->arena, N * l->IC);
        concat_forward(both, stream, skip->data, N, l->IC - skip->C, skip->C, pass->dev);
        u->skip_count--;
        stream = both;
    }
    resnet_forward(&l->resnet, hidden, stream, H, W, pass);
    arena_release_top(pass->arena, mark);
    if (l->path == PATH_UP && !pass->save) { arena_release_bottom(pass->arena, skip->mark); }

    floatX *out = hidden;
    if (l->has_transformer) {
        out = next_tensor(pass, hidden, l->transformer.proj_out.weight, shape);
        transformer_forward(&l->transformer, out, hidden, H * W, pass);
    }
    l->hidden = hidden, l->out = out;
    if (l->path == PATH_DOWN) { skip_push(u, out, H, W, l->OC, l->mark); }
    return l->has_resample ? resample_forward(u, l, out, pass) : out;
}

void unet_forward(UNet *unet, Arena *arena, floatX *out, const floatX *sample, const float *timesteps,
                  const floatX *context, int B, int H, int W, int T, bool save, Device *dev) {
    UNetLayers *u = unet->layers;
    int C0 = unet->config.block_out_channels[0];
    u->pass = (Pass){.params = &unet->params,
                     .arena = arena,
                     .dev = dev,
                     .B = B,
                     .save = save,
                     .recompute_resnets = unet->recompute == RECOMPUTE_BLOCKS,
                     .recompute_transformers = unet->recompute >= RECOMPUTE_TRANSFORMERS,
                     .recompute_products = save && unet->recompute == RECOMPUTE_PRODUCTS,
                     .context = context,
                     .context_length = T};
    Pass *pass = &u->pass;
    u->H = H, u->W = W, u->sample = sample, u->skip_count = 0;
    u->mark = arena_mark(arena);
    time_forward(unet, timesteps, pass);
    pass->time = u->time;

    ArenaMark mark = arena_mark(arena);
    floatX *stream = save_skip(pass, u->conv_in.weight, SHAPE(B, H, W, C0));
    conv_apply(&u->conv_in, stream, sample, NULL, NULL, H, W, pass);
    skip_push(u, stream, H, W, C0, mark);
    for (int i = 0; i < u->count; i++) { stream = layer_forward(u, &u->layers[i], stream, pass); }
    head_forward(&u->head, out, stream, H, W, pass);
    forward_done(pass, u->mark);
}

// ---- Backward: the same list from bottom to top. `d` is the gradient of the stream, updated in place if its shape
// does not change. What a layer saved is freed as soon as its gradients are done.

// Adds the up path's gradient of the last skip to d, its gradient so far.
static void skip_merge(UNetLayers *u, floatX *d, const Pass *pass) {
    const Skip *skip = &u->skips[u->skip_count - 1];
    add_forward(d, d, skip->grad, pixels(pass, skip->H, skip->W) * skip->C, pass->dev);
}

// Returns the gradient of the resampling's input; in the down path it includes the up path's gradient of that skip.
static floatX *resample_backward(UNetLayers *u, Layer *l, floatX *d, Pass *pass) {
    const Skip *last = &u->skips[u->skip_count - 1];
    floatX *dinp;
    if (l->path == PATH_DOWN) {
        skip_merge(u, d, pass);
        u->skip_count--;
        dinp = last[-1].grad;
        conv_grads(&l->resample, dinp, NULL, d, l->out, dinp, l->H, l->W, pass);
    } else {
        dinp = arena_push(pass->arena, pixels(pass, l->H, l->W) * l->OC);
        upsample_backward(&l->resample, dinp, d, l->out, l->H, l->W, last->H, last->W, pass);
    }
    backward_done(pass, l->resample.weight, l->resample_mark);
    return dinp;
}

// Returns the layer's part of the gradient of its input.
static floatX *layer_backward(UNetLayers *u, Layer *l, floatX *d, Pass *pass) {
    size_t N = pixels(pass, l->H, l->W);
    if (l->has_resample) {
        d = resample_backward(u, l, d, pass);
    } else if (l->path == PATH_DOWN) {
        skip_merge(u, d, pass);
    }
    Skip *skip = l->path == PATH_UP ? &u->skips[u->skip_count++] : NULL;
    int C = l->IC - (skip ? skip->C : 0);
    if (skip) { skip->grad = arena_push(pass->arena, N * skip->C); }
    floatX *dinp = C == l->OC ? d : arena_push(pass->arena, N * C);
    if (l->has_transformer) { transformer_backward(&l->transformer, d, d, l->hidden, l->H * l->W, pass); }
    if (skip) {
        ArenaMark mark = arena_mark(pass->arena);
        floatX *both = arena_push(pass->arena, N * l->IC), *dboth = arena_push(pass->arena, N * l->IC);
        concat_forward(both, l->inp, skip->data, N, C, skip->C, pass->dev);
        resnet_backward(&l->resnet, dboth, d, both, l->H, l->W, pass);
        concat_backward(dinp, skip->grad, dboth, N, C, skip->C, pass->dev);
        arena_release_top(pass->arena, mark);
    } else {
        resnet_backward(&l->resnet, dinp, d, l->inp, l->H, l->W, pass);
    }
    backward_done(pass, l->resnet.norm1.weight, l->mark);
    if (l->path == PATH_DOWN) { u->skip_count--; }
    return dinp;
}

static void time_backward(UNetLayers *u, const Pass *pass) {
    int B = pass->B, TD = u->time1.OC;
    size_t n = (size_t)B * TD;
    floatX *d = arena_push(pass->arena, n), *dsilu = arena_push(pass->arena, n);
    linear_grads(&u->time_proj.all, d, pass->dtime, u->temb, NULL, B, pass);
    silu_backward(d, d, u->time2_out, n, pass->dev);
    linear_grads(&u->time2, dsilu, d, u->time1_silu, NULL, B, pass);
    silu_backward(dsilu, dsilu, u->time1_out, n, pass->dev);
    linear_grads(&u->time1, NULL, dsilu, u->sinusoids, NULL, B, pass);
}

void unet_backward(UNet *unet, Arena *arena, floatX *dsample, floatX *dcontext, const floatX *dout, float beta,
                   Device *dev) {
    UNetLayers *u = unet->layers;
    bool grads = unet->params.grads;
    Pass *pass = &u->pass;
    assert(pass->save && u->skip_count == 0);
    ArenaMark mark = arena_mark(arena);
    pass->arena = arena, pass->dev = dev, pass->beta = beta, pass->dcontext = dcontext;
    pass->dtime = grads ? arena_push(arena, (size_t)pass->B * u->time_proj.all.OC) : NULL;
    pass->dcontext_begun = false;
    size_t waiting = grads ? folds_bytes(arena->bottom) : 0;
    void *sums = waiting ? arena_push_tensor(arena, 1, SHAPE(waiting)) : NULL;
    if (grads) { folds_begin(dev, sums, waiting); }

    floatX *d = head_backward(&u->head, dout, pass);
    params_grads_final(pass->params, u->head.norm.weight, arena, dev);
    for (int i = u->count; i-- > 0;) { d = layer_backward(u, &u->layers[i], d, pass); }
    skip_merge(u, d, pass);
    conv_grads(&u->conv_in, dsample, NULL, d, u->sample, NULL, u->H, u->W, pass);
    params_grads_final(pass->params, u->conv_in.weight, arena, dev);
    if (grads) {
        time_backward(u, pass);
        folds_end(dev);
    }
    backward_done(pass, 0, u->mark);
    arena_release_top(arena, mark);
    pass->save = false;
}

// ---- Plan ----------------------------------------------------------------------------------------------------------

size_t unet_plan(UNet *unet, int B, int H, int W, int T, bool train, Device *plan) {
    Params real = params_plan(&unet->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    unet_forward(unet, &arena, PLAN_POINTER, PLAN_POINTER, PLAN_POINTER, PLAN_POINTER, B, H, W, T, train, plan);
    device_scope(plan, "backward");
    if (train) { unet_backward(unet, &arena, NULL, NULL, PLAN_POINTER, 1, plan); }
    unet->params = real;
    return arena.peak;
}
