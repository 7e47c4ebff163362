// The prompts of training: --text-template gives one prompt set, or several to draw from (eval/prompt_sets.h).
#pragma once
#include "data/shard.h"
#include "eval/prompt_sets.h"
#include "model/pipeline.h"
#include "train/unet_options.h"

typedef struct {
    PromptSet sets[MAX_PROMPT_SETS];
    int count, classes;
    uint64_t seed;
    floatX *table; // (count, classes, tokens, C) embeddings on the device; the first set's rows come first
} Prompts;

// Only this call needs the pipeline's PART_TEXT.
Prompts prompts_create(Pipeline *pipeline, const UNetOptions *options, const ShardInfo *info, Device *dev);
void prompts_destroy(Prompts *prompts, Device *dev);
// rows (n) = the table's row of each sample's text. It is drawn among the sets that have a name for the sample's class,
// and depends only on (seed, position in the stream). rows may be class_index.
void prompts_draw(const Prompts *prompts, int *rows, const int *class_index, const int64_t *position, int n);
// The first template, which validation and the saved model use; to be freed.
char *prompts_first(const UNetOptions *options);
