#include "data/coco_link.h"
#include "data/texts.h"
#include "util/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Kinds of what is left out.
const char coco_no_picture[] = "annotations of pictures that are not there",
           coco_no_category[] = "annotations of categories that are not there";
static const char other_size[] = "annotations with a mask of another size than the picture's",
                  same_picture[] = "pictures with the id of a later one",
                  same_category[] = "categories with the id of a later one",
                  same_file[] = "annotations of a picture with a later one";

typedef struct {
    int64_t id;
    int index;
} IdIndex;

// From ids to positions, sorted.
typedef struct {
    IdIndex *list;
    int count;
} IdTable;

static int by_id(const void *a, const void *b) {
    int64_t x = ((const IdIndex *)a)->id, y = ((const IdIndex *)b)->id;
    return (x > y) - (x < y);
}

// Entries with one id are kept in order, so that the last is found.
static int by_id_and_index(const void *a, const void *b) {
    int order = by_id(a, b);
    return order ? order : ((const IdIndex *)a)->index - ((const IdIndex *)b)->index;
}

// Sorts a table. Of entries with one id the last counts, as in pycocotools: keep[index] becomes true, and the others
// are removed.
static void keep_last(IdTable *t, bool *keep) {
    int kept = 0;
    qsort(t->list, (size_t)t->count, sizeof *t->list, by_id_and_index);
    for (int i = 0; i < t->count; i++) {
        if (i + 1 < t->count && t->list[i + 1].id == t->list[i].id) { continue; }
        keep[t->list[i].index] = true;
        t->list[kept++] = t->list[i];
    }
    t->count = kept;
}

static int find_id(const IdTable *t, int64_t id) {
    const IdIndex key = {id, 0};
    const IdIndex *found = t->count ? bsearch(&key, t->list, (size_t)t->count, sizeof key, by_id) : NULL;
    return found ? found->index : -1;
}

static IdTable link_pictures(Coco *c) {
    size_t room = (size_t)c->picture_count + 1;
    IdTable table = {xcalloc(room, sizeof *table.list), c->picture_count};
    bool *keep = xcalloc(room, sizeof *keep);
    int *moved = xcalloc(room, sizeof *moved), kept = 0;
    for (int i = 0; i < c->picture_count; i++) { table.list[i] = (IdIndex){c->pictures[i].id, i}; }
    keep_last(&table, keep);
    for (int i = 0; i < c->picture_count; i++) {
        char number[24];
        if (!keep[i]) { left_out_add(c->left_out, same_picture, coco_picture_name(c, i, number), NULL); }
        moved[i] = kept;
        if (keep[i]) { c->pictures[kept++] = c->pictures[i]; }
    }
    for (int i = 0; i < table.count; i++) { table.list[i].index = moved[table.list[i].index]; }
    c->picture_count = kept;
    free(keep);
    free(moved);
    return table;
}

// Categories with one name are one class, the first of them: a mask is the union.
static IdTable link_categories(Coco *c) {
    size_t room = (size_t)c->category_count + 1;
    IdTable table = {xcalloc(room, sizeof *table.list), c->category_count};
    bool *keep = xcalloc(room, sizeof *keep);
    int *class_of = xcalloc(room, sizeof *class_of), classes = 0;
    TextTable names = {0};
    for (int i = 0; i < c->category_count; i++) { table.list[i] = (IdIndex){c->categories[i].id, i}; }
    keep_last(&table, keep);
    for (int i = 0; i < c->category_count; i++) {
        Category category = c->categories[i];
        if (!keep[i]) {
            left_out_add(c->left_out, same_category, category.name, NULL);
            continue;
        }
        int same = class_of[i] = text_table_add(&names, category.name);
        if (same == classes) { c->categories[classes++] = category; }
        c->categories[same].thing |= category.thing;
    }
    for (int i = 0; i < table.count; i++) { table.list[i].index = class_of[table.list[i].index]; }
    c->category_count = classes;
    text_table_free(&names);
    free(keep);
    free(class_of);
    return table;
}

// Gives the pictures their PNGs. Of several annotations of one picture the last counts, as in panopticapi; the segments
// of the others have no masks.
static void link_files(Coco *c, const Links *links, const IdTable *pictures) {
    for (int i = links->file_count - 1; i >= 0; i--) {
        const IdFile *file = &links->files[i];
        int p = find_id(pictures, file->image_id);
        if (p < 0) { continue; }
        if (!c->pictures[p].ids_name) {
            c->pictures[p].ids_name = file->file_name;
            continue;
        }
        char number[32];
        snprintf(number, sizeof number, "number %lld", file->number);
        left_out_add(c->left_out, same_file, number, NULL);
        for (int s = file->first_segment; s < file->end_segment; s++) { c->segments[s].form = SEGMENT_NO_MASK; }
    }
}

// Why a segment of a picture (-1: of none) has no mask or no place; NULL: it has both.
static const char *segment_problem(const Coco *c, const Segment *s, const Link *link, int picture) {
    if (link->problem) { return link->problem; }
    if (picture < 0) { return coco_no_picture; }
    if (s->category < 0) { return coco_no_category; }
    if (s->form != SEGMENT_RLE) { return NULL; }
    const Picture *p = &c->pictures[picture];
    const int32_t *size = c->pool + s->data;
    return size[0] != p->height || size[1] != p->width ? other_size : NULL;
}

static void note_problem(const Coco *c, const Segment *s, const Link *link, int picture, const char *problem) {
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)link->picture);
    char *name = coco_segment_name(c, picture < 0 ? number : coco_picture_name(c, picture, number), s);
    left_out_add(c->left_out, problem, name, NULL);
    free(name);
}

// Removes the segments without a place. Gives the others their categories, and counts those of each picture. owner:
// their pictures.
static void place_segments(Coco *c, const Links *links, const IdTable *pictures, const IdTable *categories,
                           int *owner) {
    int kept = 0;
    for (int i = 0; i < c->segment_count; i++) {
        Segment *s = &c->segments[i];
        const Link *link = &links->segments[i];
        int picture = find_id(pictures, link->picture);
        s->category = find_id(categories, link->category);
        const char *problem = segment_problem(c, s, link, picture);
        if (problem) { s->form = SEGMENT_NO_MASK; }
        if (problem && (problem != link->problem || c->panoptic)) { note_problem(c, s, link, picture, problem); }
        bool lost = problem == coco_no_picture || problem == coco_no_category;
        if (lost || picture < 0 || s->category < 0) { continue; }
        owner[kept] = picture;
        c->segments[kept++] = *s;
        c->pictures[picture].count++;
    }
    c->segment_count = kept;
}

void coco_link(Coco *c, const Links *links) {
    IdTable pictures = link_pictures(c), categories = link_categories(c);
    link_files(c, links, &pictures);
    int *owner = xcalloc((size_t)c->segment_count + 1, sizeof *owner);
    place_segments(c, links, &pictures, &categories, owner);
    for (int i = 1; i < c->picture_count; i++) {
        c->pictures[i].first_segment = c->pictures[i - 1].first_segment + c->pictures[i - 1].count;
    }
    Segment *sorted = xmalloc(((size_t)c->segment_count + 1) * sizeof *sorted);
    for (int i = 0; i < c->picture_count; i++) { c->pictures[i].count = 0; }
    for (int i = 0; i < c->segment_count; i++) {
        Picture *p = &c->pictures[owner[i]];
        sorted[p->first_segment + p->count++] = c->segments[i];
    }
    free(c->segments);
    c->segments = sorted;
    free(pictures.list);
    free(categories.list);
    free(owner);
}
