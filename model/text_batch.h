// Embedding of texts by the frozen text encoder, a batch at a time, with memory that stays allocated.
#pragma once
#include "model/pipeline.h"

typedef struct {
    Pipeline *pipeline;
    int batch;
    Arena arena;
    int *host, *ids;     // (batch, T) pinned, on the device
    DeviceEvent *copied; // host -> ids is done
} TextBatch;

// The pipeline must have PART_TEXT open as long as texts are embedded.
TextBatch text_batch_create(Pipeline *pipeline, int batch, Device *dev);
void text_batch_destroy(TextBatch *batch, Device *dev);
// out (n, T, hidden) on the device, n <= batch: the embeddings of texts[index[0..n)], or of the first n if index is
// NULL.
void text_batch_embed(TextBatch *batch, floatX *out, const char *const *texts, const int *index, int n, Device *dev);
