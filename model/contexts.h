// Contexts of many texts: what the UNet's cross attention reads. All distinct texts are embedded once into a table on
// the device if that takes no more than a share of its free memory; else each batch's texts are embedded when they are
// asked for. On the CPU both give the same bits. On a GPU they agree up to rounding: cuBLASLt's algorithm depends on
// how many texts are embedded together.
#pragma once
#include "model/text_batch.h"

#define CONTEXTS_SHARE 0.25 // of the free memory, by default

typedef struct {
    char **texts; // (count) copies
    int count, batch;
    size_t row;        // values of a text's context: T C
    floatX *table;     // (count, T, C) on the device; NULL: embedded batch by batch
    TextBatch encoder; // without a table
} Contexts;

// batch: most texts of contexts_gather. share: of the free memory, that the table may take, 0: none. The pipeline must
// have PART_TEXT open now and, where there is no table, as long as the contexts are used. print: says on stdout which
// way was taken, with the number of texts.
Contexts contexts_create(Pipeline *pipeline, const char *const *texts, int count, int batch, double share, bool print,
                         Device *dev);
void contexts_destroy(Contexts *contexts, Device *dev);
// out (n, T, C) on the device: the contexts of the texts index[0..n), n <= batch.
void contexts_gather(Contexts *contexts, floatX *out, const int *index, int n, Device *dev);

// The table alone: (count, T, C) on the device, to be freed with device_free.
floatX *context_table(Pipeline *pipeline, const char *const *texts, int count, Device *dev);
