#include "model/text_batch.h"
#include <assert.h>

TextBatch text_batch_create(Pipeline *pipeline, int batch, Device *dev) {
    int T = tokenizer_length(pipeline->tokenizer);
    size_t bytes = (size_t)batch * (size_t)T * sizeof(int);
    Device plan = {.plan_only = true};
    TextBatch b = {.pipeline = pipeline, .batch = batch};
    b.arena = arena_create(dev, clip_plan(&pipeline->clip, batch, T, false, &plan));
    device_reserve_workspace(dev, plan.workspace_needed);
    b.host = device_alloc_pinned(dev, bytes);
    b.ids = device_alloc(dev, bytes);
    b.copied = device_event_create(dev);
    return b;
}

void text_batch_destroy(TextBatch *b, Device *dev) {
    device_event_destroy(b->copied);
    device_free_pinned(dev, b->host);
    device_free(dev, b->ids);
    arena_destroy(&b->arena);
    *b = (TextBatch){0};
}

void text_batch_embed(TextBatch *b, floatX *out, const char *const *texts, const int *index, int n, Device *dev) {
    const Tokenizer *tokenizer = b->pipeline->tokenizer;
    int T = tokenizer_length(tokenizer);
    assert(n <= b->batch);
    device_event_sync(b->copied); // the previous batch's ids have left `host`
    for (int i = 0; i < n; i++) { tokenizer_encode(tokenizer, texts[index ? index[i] : i], b->host + i * T, T); }
    device_copy(dev, b->ids, b->host, (size_t)n * (size_t)T * sizeof(int), false);
    device_event_record(dev, b->copied, false);
    clip_forward(&b->pipeline->clip, &b->arena, out, b->ids, n, T, false, dev);
}
