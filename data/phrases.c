#include "data/phrases.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/text.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 5 }; // entries that are named before the others are only counted

typedef struct {
    const Coco *coco;
    Phrases p;
    int *by_id;       // coco_by_id
    int object_count; // of p.objects
    long long entry;  // its number, from 1
} Reader;

// ---- pictures and objects

// An id as the annotations may have it: a number, or a text. Returns whether it is one.
static bool read_id(yajl_val value, int64_t *id) {
    if (value && YAJL_IS_NUMBER(value)) {
        return coco_id_of_number(YAJL_GET_NUMBER(value), strlen(YAJL_GET_NUMBER(value)), id);
    }
    const char *text = value ? YAJL_GET_STRING(value) : NULL;
    if (text && *text) { *id = coco_id_of_text(text, strlen(text)); }
    return text && *text;
}

static int find_object(const Reader *r, int picture, int64_t id) {
    const Picture *p = &r->coco->pictures[picture];
    for (int i = p->first_segment; i < p->first_segment + p->count; i++) {
        const Segment *s = &r->coco->segments[i];
        if (s->id == id && s->form != SEGMENT_NO_MASK) { return i; }
    }
    return -1;
}

// ---- entries: a function that finds a fault returns what is wrong

static void leave_out(Reader *r, const char *problem) {
    char number[32];
    snprintf(number, sizeof number, "%lld", r->entry);
    left_out_add(r->p.list, r->p.captions ? "entries or texts of captions" : "entries or texts of refs", number, NULL);
    if (r->p.left_out++ < NAMED) { warn("%s: entry %lld %s: it is left out", r->p.path, r->entry, problem); }
}

// Appends the objects of an entry.
static const char *read_objects(Reader *r, yajl_val entry, Phrase *phrase) {
    yajl_val id = json_find(entry, "ann_id"), nothing = json_find(entry, "no_target");
    phrase->first = r->object_count;
    if (nothing && YAJL_IS_TRUE(nothing)) { return NULL; }
    if (!id) { return "has no \"ann_id\", expected an id or a list"; }
    size_t count = YAJL_IS_ARRAY(id) ? YAJL_GET_ARRAY(id)->len : 1;
    yajl_val *ids = YAJL_IS_ARRAY(id) ? YAJL_GET_ARRAY(id)->values : &id;
    for (size_t i = 0; i < count; i++) {
        int64_t number;
        if (!read_id(ids[i], &number)) { return "has an \"ann_id\" that is no id, expected an id or a list"; }
        if (count == 1 && number == -1) { return NULL; }
        int object = find_object(r, phrase->picture, number);
        if (object < 0) { return "has an \"ann_id\" that is no annotation of its picture, or one without a mask"; }
        for (int k = phrase->first; k < phrase->first + phrase->count; k++) {
            if (r->p.objects[k] == object) { return "has an \"ann_id\" twice"; }
        }
        GROW(r->p.objects, r->object_count);
        r->p.objects[r->object_count++] = object;
        int category = r->coco->segments[object].category;
        phrase->category = !phrase->count || phrase->category == category ? category : -1;
        phrase->count++;
    }
    return NULL;
}

static const char *read_kind(Reader *r, yajl_val entry, Phrase *phrase) {
    yajl_val kind = json_find(entry, "kind");
    if (kind && (!YAJL_IS_STRING(kind) || !*YAJL_GET_STRING(kind))) { return "has a \"kind\" that is not a text"; }
    const char *name = kind ? YAJL_GET_STRING(kind) : phrase->count ? "phrase" : "absent";
    if (strlen(name) > 64) { return "has a \"kind\" of more than 64 bytes"; }
    for (phrase->kind = 0; phrase->kind < r->p.kind_count; phrase->kind++) {
        if (strcmp(r->p.kinds[phrase->kind], name) == 0) { return NULL; }
    }
    if (r->p.kind_count == MAX_KINDS) { return "has one \"kind\" more than 64"; }
    GROW(r->p.kinds, r->p.kind_count);
    r->p.kinds[r->p.kind_count++] = xstrdup(name);
    return NULL;
}

static const char *read_picture(const Reader *r, yajl_val entry, Phrase *phrase) {
    if (!YAJL_IS_OBJECT(entry)) { return "is not an object"; }
    int64_t id;
    if (!read_id(json_find(entry, "image_id"), &id)) { return "has no \"image_id\", expected an id"; }
    phrase->picture = coco_find_picture(r->coco, r->by_id, id);
    return phrase->picture < 0 ? "has an \"image_id\" that the annotations do not have" : NULL;
}

static const char *add_text(Reader *r, yajl_val value, const Phrase *phrase) {
    if (value && YAJL_IS_OBJECT(value)) {
        yajl_val sent = json_find(value, "sent");
        value = sent ? sent : json_find(value, "raw");
    }
    if (!value || !YAJL_IS_STRING(value)) { return "has something else than a text where one is expected"; }
    char *copy = xstrdup(YAJL_GET_STRING(value)), *text = text_trim(copy);
    const char *problem = *text ? text_problem(text) : "has an empty text";
    if (!problem) {
        GROW(r->p.phrases, r->p.count);
        Phrase *added = &r->p.phrases[r->p.count++];
        *added = *phrase;
        int number = text_table_add(&r->p.texts, text); // may move the list of texts, but no text
        added->text = r->p.texts.texts[number];
    }
    free(copy);
    return problem;
}

static void read_entry(Reader *r, yajl_val entry) {
    Phrase phrase = {.category = -1};
    int objects = r->object_count;
    const char *problem = read_picture(r, entry, &phrase);
    if (!problem && r->p.captions) { problem = add_text(r, json_find(entry, "caption"), &phrase); }
    if (!problem && !r->p.captions) { problem = read_objects(r, entry, &phrase); }
    if (!problem && !r->p.captions) { problem = read_kind(r, entry, &phrase); }
    if (problem) {
        r->object_count = objects;
        leave_out(r, problem);
    }
    if (problem || r->p.captions) { return; }
    yajl_val texts = json_find(entry, "sentences");
    if (!texts || !YAJL_IS_ARRAY(texts)) {
        leave_out(r, "has no \"sentences\", expected a list");
        return;
    }
    for (size_t i = 0; i < YAJL_GET_ARRAY(texts)->len; i++) {
        problem = add_text(r, YAJL_GET_ARRAY(texts)->values[i], &phrase);
        if (problem) { leave_out(r, problem); }
    }
}

// ---- the file

// annotations/instances_val.json -> annotations/captions_val.json
static char *path_beside(const Coco *coco, const char *what) {
    const char *slash = strrchr(coco->path, '/'), *base = slash ? slash + 1 : coco->path, *split = strchr(base, '_');
    return xprintf("%.*s%s%s", (int)(base - coco->path), coco->path, what, split ? split : ".json");
}

static yajl_val find_list(const Json *json, bool captions) {
    yajl_val list = !captions && YAJL_IS_ARRAY(json->root) ? json->root : NULL;
    if (!list && YAJL_IS_OBJECT(json->root)) { list = json_find(json->root, captions ? "annotations" : "refs"); }
    if (!list || !YAJL_IS_ARRAY(list)) {
        die("%s: expected %s", json->path,
            captions ? "an object with the list \"annotations\"" : "a list, or an object with the list \"refs\"");
    }
    return list;
}

// A stable sort: entries of a picture keep the file's order.
static void sort_by_picture(Reader *r) {
    int pictures = r->coco->picture_count;
    int *first = xcalloc((size_t)pictures + 2, sizeof *first), *next = xcalloc((size_t)pictures + 1, sizeof *next);
    Phrase *sorted = xcalloc((size_t)r->p.count + 1, sizeof *sorted);
    for (int i = 0; i < r->p.count; i++) { first[r->p.phrases[i].picture + 1]++; }
    for (int i = 0; i < pictures; i++) {
        first[i + 1] += first[i];
        next[i] = first[i];
    }
    for (int i = 0; i < r->p.count; i++) { sorted[next[r->p.phrases[i].picture]++] = r->p.phrases[i]; }
    free(next);
    free(r->p.phrases);
    r->p.phrases = sorted;
    r->p.first = first;
}

Phrases phrases_open(const Coco *coco, bool captions) {
    Reader r = {.coco = coco, .p = {.captions = captions}};
    r.p.path = path_beside(coco, captions ? "captions" : "refs");
    if (!file_exists(r.p.path)) { die("%s: does not exist, expected beside %s", r.p.path, coco->path); }
    r.p.list = coco->texts_left_out;
    r.by_id = coco_by_id(coco);
    Json json = json_read_any(r.p.path);
    yajl_val list = find_list(&json, captions);
    for (size_t i = 0; i < YAJL_GET_ARRAY(list)->len; i++) {
        r.entry = (long long)i + 1;
        read_entry(&r, YAJL_GET_ARRAY(list)->values[i]);
    }
    r.p.entries = r.entry;
    json_free(&json);
    if (!r.p.count) { die("%s: none of its %lld entries can be used", r.p.path, r.p.entries); }
    if (r.p.left_out) {
        warn("%s: %lld entries or single texts of its %lld entries are left out", r.p.path, r.p.left_out, r.p.entries);
    }
    sort_by_picture(&r);
    free(r.by_id);
    return r.p;
}

void phrases_free(Phrases *p) {
    for (int i = 0; i < p->kind_count; i++) { free(p->kinds[i]); }
    free(p->kinds);
    free(p->phrases);
    free(p->first);
    free(p->objects);
    text_table_free(&p->texts);
    free(p->path);
    *p = (Phrases){0};
}
