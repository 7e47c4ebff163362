#include "train/prompts.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdlib.h>
#include <string.h>

Prompts prompts_create(Pipeline *pipeline, const UNetOptions *o, const ShardInfo *info, Device *dev) {
    Prompts p = {.classes = info->class_count, .seed = (uint64_t)o->train.seed};
    p.count =
        prompt_sets_parse(p.sets, o->text_template, "--text-template", (const char *const *)info->classes, p.classes);
    char **texts = xcalloc((size_t)(p.count * p.classes) + 1, sizeof *texts);
    for (int i = 0; i < p.count * p.classes; i++) { texts[i] = p.sets[i / p.classes].text[i % p.classes]; }
    p.table = context_table(pipeline, (const char *const *)texts, p.count * p.classes, dev);
    free(texts);
    return p;
}

void prompts_destroy(Prompts *p, Device *dev) {
    for (int k = 0; k < p->count; k++) { prompt_set_free(&p->sets[k], p->classes); }
    device_free(dev, p->table);
}

void prompts_draw(const Prompts *p, int *rows, const int *class_index, const int64_t *position, int n) {
    for (int i = 0; i < n; i++) {
        int c = class_index[i], choices = 0, set = 0;
        for (int k = 0; k < p->count; k++) { choices += p->sets[k].has[c]; }
        Random random = random_begin(p->seed, PHILOX_TEXT, 0, (uint64_t)position[i]);
        int ticket = (int)random_below(&random, (uint32_t)choices); // the first set, a template, has all
        while (!p->sets[set].has[c] || ticket-- > 0) { set++; }
        rows[i] = set * p->classes + c;
    }
}

char *prompts_first(const UNetOptions *o) {
    return xprintf("%.*s", (int)strcspn(o->text_template, "|"), o->text_template);
}
