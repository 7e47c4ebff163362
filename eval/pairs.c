#include "eval/pairs.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    Pair *pairs;
    int count, capacity;
} PairList;

static Philox4 draw(uint64_t seed, const Pair *pair, uint32_t purpose) {
    return philox(seed, PHILOX_SHUFFLE, purpose << 16 | (uint32_t)pair->category, (uint64_t)pair->image_id, 0);
}

static void add(PairList *list, Pair pair, uint64_t seed) {
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 1024;
        list->pairs = xrealloc(list->pairs, (size_t)list->capacity * sizeof *list->pairs);
    }
    Philox4 r = draw(seed, &pair, 1);
    pair.key = (uint64_t)r.x[0] << 32 | r.x[1];
    list->pairs[list->count++] = pair;
}

static int by_key(const void *a, const void *b) {
    const Pair *p = a, *q = b;
    return (p->key > q->key) - (p->key < q->key);
}

static int by_class_and_key(const void *a, const void *b) {
    const Pair *p = a, *q = b;
    return p->category != q->category ? p->category - q->category : by_key(a, b);
}

static int by_item(const void *a, const void *b) {
    const Pair *p = a, *q = b;
    return p->item != q->item ? p->item - q->item : p->category - q->category;
}

static void cap_classes(PairList *list, int per_class) {
    qsort(list->pairs, (size_t)list->count, sizeof *list->pairs, by_class_and_key);
    int kept = 0, of_class = 0, category = -1;
    for (int i = 0; i < list->count; i++) {
        if (list->pairs[i].category != category) { of_class = 0; }
        category = list->pairs[i].category;
        if (of_class++ < per_class) { list->pairs[kept++] = list->pairs[i]; }
    }
    list->count = kept;
}

static Pair *finish(PairList *list, const PairOptions *o, int *count) {
    if (o->per_class > 0) { cap_classes(list, o->per_class); }
    if (o->limit > 0 && list->count > o->limit) {
        qsort(list->pairs, (size_t)list->count, sizeof *list->pairs, by_key);
        list->count = o->limit;
    }
    if (list->count > 0) { qsort(list->pairs, (size_t)list->count, sizeof *list->pairs, by_item); }
    *count = list->count;
    return list->pairs;
}

enum { NOT_SHOWN, CROWD_ONLY, SHOWN }; // CROWD_ONLY: also annotations without a mask

// What a picture shows of each class.
static void classes_shown(const Coco *coco, int picture, uint8_t *shown) {
    const Picture *p = &coco->pictures[picture];
    memset(shown, NOT_SHOWN, (size_t)coco->category_count);
    for (int i = 0; i < p->count; i++) {
        const Segment *s = &coco->segments[p->first_segment + i];
        uint8_t what = s->crowd || s->form == SEGMENT_NO_MASK ? CROWD_ONLY : SHOWN;
        if (what > shown[s->category]) { shown[s->category] = what; }
    }
}

// With the given probability, a class that the picture does not show at all.
static void add_absent(PairList *list, Pair pair, const uint8_t *shown, int classes, const PairOptions *o) {
    int candidates = 0;
    pair.category = 0;
    Philox4 r = draw(o->seed, &pair, 2);
    for (int c = 0; c < classes; c++) { candidates += shown[c] == NOT_SHOWN && (!o->wanted || o->wanted[c]); }
    if (candidates == 0 || philox_uniform(r.x[0]) >= o->absent) { return; }
    int chosen = (int)((uint64_t)r.x[1] * (uint64_t)candidates >> 32);
    for (int c = 0; c < classes; c++) {
        if (shown[c] != NOT_SHOWN || (o->wanted && !o->wanted[c])) { continue; }
        if (chosen-- == 0) { pair.category = pair.text = c; }
    }
    pair.absent = true;
    add(list, pair, o->seed);
}

Pair *pairs_of_coco(const Coco *coco, const PairOptions *o, int *count) {
    PairList list = {NULL, 0, 0};
    uint8_t *shown = xmalloc((size_t)coco->category_count + 1);
    for (int i = 0; i < coco->picture_count; i++) {
        Pair pair = {.item = i, .image_id = coco->pictures[i].id};
        classes_shown(coco, i, shown);
        for (int c = 0; c < coco->category_count; c++) {
            if (shown[c] != SHOWN || (o->wanted && !o->wanted[c])) { continue; }
            pair.category = pair.text = c;
            add(&list, pair, o->seed);
        }
        add_absent(&list, pair, shown, coco->category_count, o);
    }
    free(shown);
    return finish(&list, o, count);
}

Pair *pairs_of_shards(const ShardSet *shards, const PairOptions *o, int *count) {
    PairList list = {NULL, 0, 0};
    for (long long i = 0; i < shards->samples; i++) {
        ShardSample sample = {0};
        shards_read(shards, i, &sample);
        int category = sample.class_index >= 0 ? sample.class_index : shards->info.class_count;
        if (o->wanted && !o->wanted[category]) { continue; }
        Pair pair = {(int)i, category, sample.image_id, sample.area <= 0, sample.text_index, sample.kind, 0};
        add(&list, pair, o->seed);
    }
    return finish(&list, o, count);
}
