#include "model/clip.h"
#include <assert.h>
#include <stdlib.h>
#include "model/blocks.h"
#include "model/mapped.h"
#include "util/error.h"

typedef struct {
    LayerNorm norm1, norm2;
    MultiHead attention;
    FeedForward mlp;
    floatX *x1, *x2; // the stream before each of the two branches (N, C)
    ArenaMark mark;  // the arena before the layer's forward
} CLIPLayer;

struct CLIPLayers {
    size_t token_embedding, position_embedding;
    CLIPLayer *layers;
    LayerNorm norm_out;

    // Set by forward, for backward.
    Pass pass;
    int T;
    ArenaMark mark;
    const int *ids;
    floatX *stream_out;
};

static CLIPLayer layer_create(const CLIPConfig *c, Params *p, const char *name) {
    static const char *const qkv[] = {"q_proj", "k_proj", "v_proj"};
    int C = c->hidden_size, H = c->intermediate_size;
    CLIPLayer l = {.attention = {.NH = c->num_attention_heads, .causal = true},
                   .mlp = {.kind = c->quick_gelu ? FF_QUICK_GELU : FF_GELU}};
    Name attention = name_of("%s.self_attn", name);
    l.norm1 = layernorm_create(p, name_of("%s.layer_norm1", name).text, C, c->layer_norm_eps);
    l.attention.q = linear_create_packed(p, attention.text, qkv, 3, C, C, true);
    l.attention.out = linear_create(p, name_of("%s.out_proj", attention.text).text, C, C, true);
    l.norm2 = layernorm_create(p, name_of("%s.layer_norm2", name).text, C, c->layer_norm_eps);
    l.mlp.fc1 = linear_create(p, name_of("%s.mlp.fc1", name).text, C, H, true);
    l.mlp.fc2 = linear_create(p, name_of("%s.mlp.fc2", name).text, H, C, true);
    return l;
}

CLIPText clip_create(const CLIPConfig *config) {
    CLIPText clip = {.config = *config, .layers = xcalloc(1, sizeof(CLIPLayers))};
    CLIPLayers *t = clip.layers;
    Params *p = &clip.params;
    int C = config->hidden_size, count = config->num_hidden_layers;
    t->token_embedding = params_add(p, LAYOUT_PLAIN, false, 2, (int[]){config->vocab_size, C},
                                    "text_model.embeddings.token_embedding.weight");
    t->position_embedding = params_add(p, LAYOUT_PLAIN, false, 2, (int[]){config->max_position_embeddings, C},
                                       "text_model.embeddings.position_embedding.weight");
    t->layers = xcalloc(count, sizeof(CLIPLayer));
    for (int i = 0; i < count; i++) {
        t->layers[i] = layer_create(config, p, name_of("text_model.encoder.layers.%d", i).text);
    }
    t->norm_out = layernorm_create(p, "text_model.final_layer_norm", C, config->layer_norm_eps);
    params_finish(p);
    return clip;
}

void clip_destroy(CLIPText *clip, Device *dev) {
    free(clip->layers->layers);
    free(clip->layers);
    params_free(&clip->params, dev);
    *clip = (CLIPText){0};
}

static floatX *layer_forward(CLIPLayer *l, floatX *stream, int T, const Pass *pass) {
    int N = pass->B * T, C = l->norm1.C;
    Shape shape = SHAPE(pass->B, T, C);
    l->mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)N * C);
    l->x1 = stream;
    layernorm_apply(&l->norm1, normed, l->x1, N, pass);
    l->x2 = next_tensor(pass, l->x1, l->attention.out.weight, shape);
    multihead_forward(&l->attention, l->x2, normed, l->x1, T, pass);

    layernorm_apply(&l->norm2, normed, l->x2, N, pass);
    floatX *out = next_tensor(pass, l->x2, l->mlp.fc2.weight, shape);
    feed_forward_forward(&l->mlp, out, normed, l->x2, N, pass);
    arena_release_top(pass->arena, l->mark);
    return out;
}

void clip_forward(CLIPText *clip, Arena *arena, floatX *out, const int *ids, int B, int T, bool save, Device *dev) {
    CLIPLayers *t = clip->layers;
    const CLIPConfig *c = &clip->config;
    assert(T <= c->max_position_embeddings);
    t->pass = (Pass){.params = &clip->params, .arena = arena, .dev = dev, .B = B, .save = save};
    t->mark = arena_mark(arena);
    t->ids = ids, t->T = T;
    const Pass *pass = &t->pass;
    floatX *stream = save_tensor(pass, t->token_embedding, "out", SHAPE(B, T, c->hidden_size));
    bool mapped = clip->params.mapped && !dev->plan_only;
    const floatX *tokens = mapped ? mapped_rows(pass->params, t->token_embedding, ids, B * T, c->hidden_size)
                                  : weight_at(pass->params, t->token_embedding, dev);
    embedding_forward(stream, ids, tokens, weight_at(pass->params, t->position_embedding, dev), B, T, c->hidden_size,
                      c->vocab_size, dev);
    for (int i = 0; i < c->num_hidden_layers; i++) { stream = layer_forward(&t->layers[i], stream, T, pass); }
    t->stream_out = stream;
    layernorm_apply(&t->norm_out, out, stream, B * T, pass);
    forward_done(pass, t->mark);
}

// Updates the stream's gradient in place.
static void layer_backward(CLIPLayer *l, floatX *d, int T, Pass *pass) {
    int N = pass->B * T, C = l->norm1.C;
    ArenaMark mark = arena_mark(pass->arena);
    floatX *normed = arena_push(pass->arena, (size_t)N * C), *dnormed = normed;
    layernorm_again(&l->norm2, normed, l->x2, N, pass);
    feed_forward_backward(&l->mlp, dnormed, d, normed, N, pass);
    layernorm_grads(&l->norm2, d, dnormed, l->x2, d, N, pass);

    layernorm_again(&l->norm1, normed, l->x1, N, pass);
    multihead_backward(&l->attention, dnormed, d, normed, T, pass);
    layernorm_grads(&l->norm1, d, dnormed, l->x1, d, N, pass);
    arena_release_top(pass->arena, mark);
    backward_done(pass, l->norm1.weight, l->mark);
}

void clip_backward(CLIPText *clip, Arena *arena, const floatX *dout, float beta, Device *dev) {
    CLIPLayers *t = clip->layers;
    const CLIPConfig *c = &clip->config;
    Pass *pass = &t->pass;
    assert(pass->save && clip->params.grads);
    pass->arena = arena, pass->dev = dev, pass->beta = beta;
    int B = pass->B, T = t->T, C = c->hidden_size;
    ArenaMark mark = arena_mark(arena);
    floatX *d = arena_push(arena, (size_t)B * T * C);
    layernorm_grads(&t->norm_out, d, dout, t->stream_out, NULL, B * T, pass);
    for (int i = c->num_hidden_layers; i-- > 0;) { layer_backward(&t->layers[i], d, T, pass); }
    embedding_backward(grad_at(pass->params, t->token_embedding), grad_at(pass->params, t->position_embedding), d,
                       t->ids, beta, B, T, C, c->vocab_size, c->max_position_embeddings, dev);
    arena_release_top(arena, mark);
    backward_done(pass, 0, t->mark);
    pass->save = false;
}

size_t clip_plan(CLIPText *clip, int B, int T, bool train, Device *plan) {
    Params real = params_plan(&clip->params, train);
    Arena arena = arena_measure(plan);
    device_scope(plan, "forward");
    clip_forward(clip, &arena, PLAN_POINTER, PLAN_POINTER, B, T, train, plan);
    device_scope(plan, "backward");
    if (train) { clip_backward(clip, &arena, PLAN_POINTER, 1, plan); }
    clip->params = real;
    return arena.peak;
}
