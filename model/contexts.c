#include "model/contexts.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/progress.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

// Memory to embed a batch of texts, which stays allocated.
static void open_encoder(Contexts *c, Device *dev) {
    int T = tokenizer_length(c->pipeline->tokenizer);
    Device plan = {.plan_only = true};
    c->arena = arena_create(dev, clip_plan(&c->pipeline->clip, c->batch, T, false, &plan));
    device_reserve_workspace(dev, plan.workspace_needed);
    size_t bytes = (size_t)c->batch * (size_t)T * sizeof(int);
    c->host = device_alloc_pinned(dev, bytes);
    c->ids = device_alloc(dev, bytes);
    c->copied = device_event_create(dev);
}

Contexts contexts_create(Pipeline *pipeline, const char *const *texts, int count, int batch, double share, bool print,
                         Device *dev) {
    Contexts c = {.pipeline = pipeline, .count = count, .batch = batch};
    c.row = (size_t)tokenizer_length(pipeline->tokenizer) * (size_t)pipeline->clip.config.hidden_size;
    c.texts = xcalloc((size_t)count + 1, sizeof *c.texts);
    for (int i = 0; i < count; i++) { c.texts[i] = xstrdup(texts[i]); }
    size_t bytes = (size_t)count * c.row * sizeof(floatX), free_bytes, total;
    device_memory(dev, &free_bytes, &total);
    bool fits = (double)bytes <= share * (double)free_bytes;
    if (fits) {
        c.table = context_table(pipeline, texts, count, dev);
    } else {
        open_encoder(&c, dev);
    }
    char size[24], room[24];
    if (print) {
        printf("texts: %d distinct, %s (%s, %s free)\n", count,
               fits ? "embedded once" : "embedded with each batch, the table would be too large",
               format_bytes((double)bytes, size), format_bytes((double)free_bytes, room));
    }
    return c;
}

void contexts_destroy(Contexts *c, Device *dev) {
    for (int i = 0; i < c->count; i++) { free(c->texts[i]); }
    free(c->texts);
    device_free(dev, c->table);
    if (c->copied) {
        device_event_destroy(c->copied);
        device_free_pinned(dev, c->host);
        device_free(dev, c->ids);
        arena_destroy(&c->arena);
    }
    *c = (Contexts){0};
}

void contexts_gather(Contexts *c, floatX *out, const int *index, int n, Device *dev) {
    assert(n <= c->batch);
    if (c->table) {
        for (int i = 0; i < n; i++) {
            const floatX *from = c->table + (size_t)index[i] * c->row;
            device_copy(dev, out + (size_t)i * c->row, from, c->row * sizeof(floatX), false);
        }
        return;
    }
    int T = tokenizer_length(c->pipeline->tokenizer);
    device_event_sync(c->copied); // the previous batch's ids have left `host`
    for (int i = 0; i < n; i++) { tokenizer_encode(c->pipeline->tokenizer, c->texts[index[i]], c->host + i * T, T); }
    device_copy(dev, c->ids, c->host, (size_t)n * (size_t)T * sizeof(int), false);
    device_event_record(dev, c->copied, false);
    clip_forward(&c->pipeline->clip, &c->arena, out, c->ids, n, T, false, dev);
}
