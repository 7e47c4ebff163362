#include "model/contexts.h"
#include "util/error.h"
#include "util/progress.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static size_t row_size(const Pipeline *p) {
    return (size_t)tokenizer_length(p->tokenizer) * (size_t)p->clip.config.hidden_size;
}

floatX *context_table(Pipeline *pipeline, const char *const *texts, int count, Device *dev) {
    floatX *table = device_alloc(dev, (size_t)(count ? count : 1) * row_size(pipeline) * sizeof(floatX));
    pipeline_embed_texts(pipeline, texts, count, table, dev);
    return table;
}

Contexts contexts_create(Pipeline *pipeline, const char *const *texts, int count, int batch, double share, bool print,
                         Device *dev) {
    Contexts c = {.count = count, .batch = batch, .row = row_size(pipeline)};
    c.texts = xcalloc((size_t)count + 1, sizeof *c.texts);
    for (int i = 0; i < count; i++) { c.texts[i] = xstrdup(texts[i]); }
    size_t bytes = (size_t)count * c.row * sizeof(floatX), free_bytes, total;
    device_memory(dev, &free_bytes, &total);
    bool fits = (double)bytes <= share * (double)free_bytes;
    if (fits) {
        c.table = context_table(pipeline, texts, count, dev);
    } else {
        c.encoder = text_batch_create(pipeline, batch, dev);
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
    if (c->encoder.batch) { text_batch_destroy(&c->encoder, dev); }
    *c = (Contexts){0};
}

void contexts_gather(Contexts *c, floatX *out, const int *index, int n, Device *dev) {
    assert(n <= c->batch);
    if (!c->table) {
        text_batch_embed(&c->encoder, out, (const char *const *)c->texts, index, n, dev);
        return;
    }
    for (int i = 0; i < n; i++) {
        const floatX *from = c->table + (size_t)index[i] * c->row;
        device_copy(dev, out + (size_t)i * c->row, from, c->row * sizeof(floatX), false);
    }
}
