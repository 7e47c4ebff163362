#include "train/text_diffusion.h"
#include "util/philox.h"

TextDiffusion text_diffusion_open(Pipeline *pipeline, const DiffusionOptions *o, bool train_text_encoder, int h, int w,
                                  Device *dev) {
    return (TextDiffusion){.diffusion = diffusion_open_text(pipeline, o, h, w, dev),
                           .clip = &pipeline->clip,
                           .trains_text = train_text_encoder,
                           .ids = PLAN_POINTER}; // for plans
}

void text_diffusion_destroy(TextDiffusion *t, Device *dev) { diffusion_destroy(&t->diffusion, dev); }

void text_diffusion_step(void *diffusion, Arena *arena, float *losses, const StepScalars *s, float beta, bool backward,
                         Device *dev) {
    TextDiffusion *t = diffusion;
    Diffusion *d = &t->diffusion;
    size_t B = (size_t)d->B, T = (size_t)d->tokens, C = (size_t)t->clip->config.hidden_size;
    bool trains_text = backward && t->trains_text;
    ArenaMark mark = arena_mark(arena);
    floatX *context = arena_save(arena, "context", B, T, C);
    floatX *dcontext = trains_text ? arena_save(arena, "dcontext", B, T, C) : NULL;

    device_scope(dev, "text encoder");
    clip_forward(t->clip, arena, context, t->ids, d->B, d->tokens, trains_text, dev);
    d->inputs.context = context;
    d->dcontext = dcontext;
    diffusion_step(d, arena, losses, s, beta, backward, dev);
    if (trains_text) {
        device_scope(dev, "text encoder's backward");
        clip_backward(t->clip, arena, dcontext, beta, dev);
    }
    arena_release(arena, mark);
}

bool empty_text_drawn(double probability, uint64_t seed, int64_t position) {
    Random random = random_begin(seed, PHILOX_EMPTY, 0, (uint64_t)position);
    return random_uniform(&random) < probability;
}
