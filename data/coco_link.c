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
                  same_id[] = "pictures with the id of a later one",
                  twice[] = "annotations of pictures that have one already";

// A sorted table from ids to positions.
typedef struct {
    int64_t id;
    int index;
} IdIndex;

static int by_id(const void *a, const void *b) {
    int64_t x = ((const IdIndex *)a)->id, y = ((const IdIndex *)b)->id;
    return (x > y) - (x < y);
}

// Entries with one id are kept in order, so that the last is found.
static int by_id_and_index(const void *a, const void *b) {
    int order = by_id(a, b);
    return order ? order : ((const IdIndex *)a)->index - ((const IdIndex *)b)->index;
}

// Removes all entries but the last of each id. Returns their number.
static int drop_twins(IdIndex *table, int count) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (i + 1 == count || table[i + 1].id != table[i].id) { table[kept++] = table[i]; }
    }
    return kept;
}

static int find_id(const IdIndex *table, int count, int64_t id) {
    const IdIndex key = {id, 0};
    const IdIndex *found = count ? bsearch(&key, table, (size_t)count, sizeof key, by_id) : NULL;
    return found ? found->index : -1;
}

static const char *picture_name(const Picture *p, char number[24]) {
    snprintf(number, 24, "%lld", (long long)p->id);
    return p->id_name ? p->id_name : number;
}

// Pictures by id. As in pycocotools, the last of those with one id counts; the others are left out.
static IdIndex *link_pictures(Coco *c, int *count) {
    IdIndex *table = xcalloc((size_t)c->picture_count + 1, sizeof *table);
    for (int i = 0; i < c->picture_count; i++) { table[i] = (IdIndex){c->pictures[i].id, i}; }
    qsort(table, (size_t)c->picture_count, sizeof *table, by_id_and_index);
    *count = drop_twins(table, c->picture_count);
    if (*count == c->picture_count) { return table; }
    bool *keep = xcalloc((size_t)c->picture_count, sizeof *keep);
    int *moved = xcalloc((size_t)c->picture_count, sizeof *moved), kept = 0;
    for (int i = 0; i < *count; i++) { keep[table[i].index] = true; }
    for (int i = 0; i < c->picture_count; i++) {
        char number[24];
        if (!keep[i]) { left_out_add(c->left_out, same_id, picture_name(&c->pictures[i], number), NULL); }
        moved[i] = kept;
        if (keep[i]) { c->pictures[kept++] = c->pictures[i]; }
    }
    for (int i = 0; i < *count; i++) { table[i].index = moved[table[i].index]; }
    c->picture_count = kept;
    free(keep);
    free(moved);
    return table;
}

// Categories by id. Those with one name are one class, the first of them: a mask is the union.
static IdIndex *link_categories(Coco *c, int *count) {
    IdIndex *table = xcalloc((size_t)c->category_count + 1, sizeof *table);
    int classes = 0;
    TextTable names = {0};
    *count = c->category_count;
    for (int i = 0; i < *count; i++) {
        Category category = c->categories[i];
        int same = text_table_add(&names, category.name);
        table[i] = (IdIndex){category.id, same};
        if (same == classes) { c->categories[classes++] = category; }
        if (same < classes) { c->categories[same].thing |= category.thing; }
    }
    c->category_count = classes;
    text_table_free(&names);
    qsort(table, (size_t)*count, sizeof *table, by_id_and_index);
    for (int i = 1; i < *count; i++) {
        if (table[i].id == table[i - 1].id && table[i].index != table[i - 1].index) {
            die("%s: field \"categories\": id %lld occurs twice, as \"%s\" and \"%s\"", c->path, (long long)table[i].id,
                c->categories[table[i - 1].index].name, c->categories[table[i].index].name);
        }
    }
    *count = drop_twins(table, *count);
    return table;
}

// Gives the pictures their PNGs. gone[s] becomes true for the segments of an annotation that is left out.
static void link_files(Coco *c, const Links *links, const IdIndex *pictures, int count, bool *gone) {
    for (int i = 0; i < links->file_count; i++) {
        char number[32];
        int p = find_id(pictures, count, links->files[i].image_id);
        const char *problem = p < 0 ? coco_no_picture : c->pictures[p].ids_name ? twice : NULL;
        snprintf(number, sizeof number, "number %lld", links->files[i].number);
        if (problem == twice) {
            left_out_add(c->left_out, problem, number, NULL);
            for (int s = links->files[i].first_segment; s < links->files[i].end_segment; s++) { gone[s] = true; }
        }
        if (!problem) { c->pictures[p].ids_name = links->files[i].file_name; }
    }
}

// Why a segment is left out; NULL: it is not.
static const char *segment_problem(const Coco *c, const Segment *s, int owner) {
    if (owner < 0) { return coco_no_picture; }
    if (s->category < 0) { return coco_no_category; }
    if (s->form != SEGMENT_RLE) { return NULL; }
    const Picture *p = &c->pictures[owner];
    const int32_t *size = c->pool + s->data;
    return size[0] != p->height || size[1] != p->width ? other_size : NULL;
}

// Turns ids into indices and sorts the segments by picture, keeping the file's order within a picture.
void coco_link(Coco *c, const Links *links) {
    int picture_ids, category_ids;
    IdIndex *pictures = link_pictures(c, &picture_ids), *categories = link_categories(c, &category_ids);
    bool *gone = xcalloc((size_t)c->segment_count + 1, sizeof *gone);
    link_files(c, links, pictures, picture_ids, gone);
    int *owner = xcalloc((size_t)c->segment_count + 1, sizeof *owner), kept = 0;
    for (int i = 0; i < c->segment_count; i++) {
        if (gone[i]) { continue; }
        Segment *s = &c->segments[i];
        int picture = find_id(pictures, picture_ids, links->picture[i]);
        s->category = find_id(categories, category_ids, links->category[i]);
        const char *problem = segment_problem(c, s, picture);
        char number[32];
        snprintf(number, sizeof number, "%lld", (long long)s->id);
        if (problem) {
            left_out_add(c->left_out, problem, links->name[i] ? links->name[i] : number, NULL);
            continue;
        }
        owner[kept] = picture;
        c->segments[kept++] = *s;
        c->pictures[picture].count++;
    }
    c->segment_count = kept;
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
    free(pictures);
    free(categories);
    free(owner);
    free(gone);
}
