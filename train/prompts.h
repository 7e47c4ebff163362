// The prompts of training: --text-template gives one prompt set, or several to draw from (eval/prompt_sets.h), of the
// shards' texts: class names, or the texts of phrases and captions.
#pragma once
#include "data/loader.h"
#include "eval/prompt_sets.h"
#include "model/contexts.h"
#include "train/unet_options.h"

typedef struct {
    PromptSet sets[MAX_PROMPT_SETS];
    int count, texts; // sets; texts of a set
    uint64_t seed;
    Contexts contexts; // (count, texts); the first set's come first
} Prompts;

// batch: most rows of a contexts_gather. Only this call needs the pipeline's PART_TEXT, unless contexts.table is NULL.
Prompts prompts_create(Pipeline *pipeline, const UNetOptions *options, const ShardSet *shards, int batch, Device *dev);
void prompts_destroy(Prompts *prompts, Device *dev);
// rows (n) = the number in `contexts` of each sample's text. It is drawn among the sets that have a name for the
// sample's text (an index into the shards' texts), and depends only on (seed, position in the stream). rows may be
// text.
void prompts_draw(const Prompts *prompts, int *rows, const int *text, const int64_t *position, int n);
uint64_t prompts_hash(const Prompts *prompts); // of all texts of all sets
// The first template, which validation and the saved model use; to be freed.
char *prompts_first(const UNetOptions *options);
