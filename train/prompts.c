#include "train/prompts.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/text.h"
#include <stdlib.h>
#include <string.h>

Prompts prompts_create(Pipeline *pipeline, const UNetOptions *o, const ShardSet *shards, int batch, Device *dev) {
    Prompts p = {.texts = shards->text_count, .seed = (uint64_t)o->diffusion.train.seed};
    p.count =
        prompt_sets_parse(p.sets, o->text_template, "--text-template", (const char *const *)shards->texts, p.texts);
    int count = p.count * p.texts;
    char **texts = xcalloc((size_t)count + 1, sizeof *texts);
    for (int i = 0; i < count; i++) { texts[i] = p.sets[i / p.texts].text[i % p.texts]; }
    p.contexts = contexts_create(pipeline, (const char *const *)texts, count, batch, o->text_memory,
                                 shard_has_texts(&shards->info), dev);
    free(texts);
    return p;
}

void prompts_destroy(Prompts *p, Device *dev) {
    for (int k = 0; k < p->count; k++) { prompt_set_free(&p->sets[k], p->texts); }
    contexts_destroy(&p->contexts, dev);
}

void prompts_draw(const Prompts *p, int *rows, const int *text, const int64_t *position, int n) {
    for (int i = 0; i < n; i++) {
        int c = text[i], choices = 0, set = 0;
        for (int k = 0; k < p->count; k++) { choices += p->sets[k].has[c]; }
        Random random = random_begin(p->seed, PHILOX_TEXT, 0, (uint64_t)position[i]);
        int ticket = (int)random_below(&random, (uint32_t)choices); // the first set, a template, has all
        while (!p->sets[set].has[c] || ticket-- > 0) { set++; }
        rows[i] = set * p->texts + c;
    }
}

uint64_t prompts_hash(const Prompts *p) {
    uint64_t hash = HASH_BEGIN;
    for (int i = 0; i < p->count * p->texts; i++) {
        const PromptSet *set = &p->sets[i / p->texts];
        const char *text = set->text[i % p->texts];
        hash = hash_more(hash, &set->has[i % p->texts], sizeof *set->has);
        hash = hash_more(hash, text, strlen(text) + 1);
    }
    return hash;
}

char *prompts_first(const UNetOptions *o) {
    return xprintf("%.*s", (int)strcspn(o->text_template, "|"), o->text_template);
}
