// The streaming reader of annotation files: yajl calls back for every value, and a stack of keys holds the position.
//
//     depth 1 {"images": [          depth 3 {"id": 9, "file_name": "9.jpg", ...}, ...],
//              "categories": [              {"id": 1, "name": "person", "isthing": 1}, ...],
//              "annotations": [             {"id": 5, "image_id": 9, "bbox": [x, y, w, h],
//                                            "segmentation": [[x, y, ...], ...] or {"size": [h, w], "counts": ...}},
//                                            ...
//     panoptic:                             {"image_id": 9, "file_name": "9.png",
//                                            "segments_info": [ depth 5 {"id": 77, "bbox": ..., ...}, ...]}, ...]}
#include "data/coco.h"
#include "data/segmentation.h"
#include "util/error.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

typedef enum { IN_NOTHING, IN_CATEGORIES, IN_IMAGES, IN_ANNOTATIONS } Section;
static const char *const section_names[] = {"", "categories", "images", "annotations"};

typedef enum {
    ID,
    IMAGE_ID,
    CATEGORY_ID,
    WIDTH,
    HEIGHT,
    ISCROWD,
    ISTHING,
    AREA,
    NAME,
    FILE_NAME,
    BBOX,
    SEGMENTATION,
    SEGMENTS_INFO,
    SIZE,
    COUNTS,
    FIELDS,
    OTHER = FIELDS
} Field;
static const char *const field_names[FIELDS] = {"id",      "image_id",     "category_id",   "width", "height",
                                                "iscrowd", "isthing",      "area",          "name",  "file_name",
                                                "bbox",    "segmentation", "segments_info", "size",  "counts"};

// The fields of the list object that is being read.
typedef struct {
    unsigned have; // bit per Field
    double value[AREA + 1], bbox[4];
    int bbox_count;
    const char *name, *file_name;
} Record;

// The PNG of a panoptic annotation.
typedef struct {
    int64_t image_id;
    const char *file_name;
} IdFile;

enum { DEEP = 8 };

typedef struct {
    const char *path;
    bool panoptic;
    Coco coco;
    int64_t *segment_picture, *segment_category; // ids of each segment, resolved at the end
    size_t pool_room;
    IdFile *files;
    int file_count;
    char *names_end;
    size_t names_left;
    // position
    int depth;
    bool in_map[DEEP];
    Field key[DEEP]; // key[d]: the current key of the object at depth d; a list has the key that it belongs to
    Section section;
    unsigned seen;     // bit per Section
    long long number;  // of the record in its list, from 1
    Record record[2];  // depth 3, and depth 5 (segments_info)
    int first_segment; // of this panoptic annotation
    // the segmentation of this annotation
    double *values; // coordinates of all polygons, or runs
    int value_count;
    int *lengths, length_count; // numbers of each polygon
    double size[2];
    int size_count;
    bool is_rle;
} Reader;

// "annotation 3 (id 77)" for messages.
static const char *where(Reader *r) {
    static _Thread_local char text[96];
    const Record *a = &r->record[0];
    const char *what = r->section == IN_ANNOTATIONS ? "annotation" : r->section == IN_IMAGES ? "image" : "category";
    int used = snprintf(text, sizeof text, "%s %lld", what, r->number);
    if (a->have >> ID & 1) { snprintf(text + used, sizeof text - used, " (id %.0f)", a->value[ID]); }
    if (a->have >> IMAGE_ID & 1 && !(a->have >> ID & 1)) {
        snprintf(text + used, sizeof text - used, " (image_id %.0f)", a->value[IMAGE_ID]);
    }
    return text;
}

static void wrong(Reader *r, Field field, const char *expected) {
    die("%s: %s: field \"%s\": expected %s", r->path, where(r), field_names[field], expected);
}

// Texts are stored in blocks that never move; each block begins with a pointer to the previous one.
static const char *keep_text(Reader *r, const unsigned char *text, size_t length) {
    if (r->names_left < length + 1) {
        size_t size = length + 1 > 65536 ? length + 1 : 65536;
        void **block = xmalloc(sizeof(void *) + size);
        *block = r->coco.names;
        r->coco.names = block;
        r->names_end = (char *)(block + 1);
        r->names_left = size;
    }
    char *copy = memcpy(r->names_end, text, length);
    copy[length] = 0;
    r->names_end += length + 1;
    r->names_left -= length + 1;
    return copy;
}

// The record and the key that a value at the current depth belongs to; NULL if none.
static Record *record_here(Reader *r, Field *field) {
    int level = r->depth >= 5 && r->key[3] == SEGMENTS_INFO && r->panoptic ? 5 : 3;
    if (r->section == IN_NOTHING || r->depth < level || r->depth > level + 1) { return NULL; }
    *field = r->key[level];
    if (r->depth == level + 1 && (*field != BBOX || r->in_map[r->depth])) { return NULL; }
    return &r->record[level == 5];
}

static bool in_segmentation(const Reader *r) {
    return r->section == IN_ANNOTATIONS && !r->panoptic && r->depth >= 4 && r->key[3] == SEGMENTATION;
}

static void segmentation_number(Reader *r, double value) {
    if (r->in_map[4] && r->key[4] == OTHER) { return; }
    if (r->depth == 5 && !r->in_map[4]) { // a polygon's coordinate
        if (!(fabs(value) <= 1e5)) { wrong(r, SEGMENTATION, "coordinates within 100000 pixels"); }
    } else if (r->depth == 5 && r->key[4] == SIZE) {
        if (r->size_count < 2) { r->size[r->size_count] = value; }
        r->size_count++;
        return;
    } else if (r->depth == 5 && r->key[4] == COUNTS) {
        if (!(value >= 0 && value <= INT32_MAX && value == floor(value))) { wrong(r, COUNTS, "non-negative integers"); }
    } else {
        wrong(r, SEGMENTATION, "a list of polygons, or an object with \"size\" and \"counts\"");
    }
    GROW(r->values, r->value_count);
    r->values[r->value_count++] = value;
    if (!r->in_map[4]) { r->lengths[r->length_count - 1]++; }
}

// The lists that are read here hold only objects.
static void need_object_list(Reader *r, bool right) {
    if (r->section != IN_NOTHING && !right) {
        die("%s: field \"%s\": expected a list of objects", r->path, section_names[r->section]);
    }
}

static int take_number(Reader *r, double value) {
    Field field;
    need_object_list(r, r->depth > 2);
    if (in_segmentation(r)) {
        segmentation_number(r, value);
        return 1;
    }
    Record *record = record_here(r, &field);
    if (!record) { return 1; }
    if (field == BBOX && r->depth % 2 == 0) {
        if (record->bbox_count < 4) { record->bbox[record->bbox_count] = value; }
        record->bbox_count++;
        record->have |= 1u << BBOX;
    } else if (field <= AREA) {
        if (field < AREA && !(value == floor(value) && fabs(value) < 9e15)) { wrong(r, field, "an integer"); }
        record->value[field] = value;
        record->have |= 1u << field;
    } else if (field < OTHER) {
        wrong(r, field, field == NAME || field == FILE_NAME ? "a string" : "a list");
    }
    return 1;
}

// yajl has seen the character that ends the number, so strtod stops there too.
static int on_number(void *context, const char *text, size_t length) {
    (void)length;
    Reader *r = context;
    return r->section == IN_NOTHING ? 1 : take_number(r, strtod(text, NULL));
}

static int on_boolean(void *context, int value) {
    Reader *r = context;
    Field field;
    need_object_list(r, r->depth > 2);
    Record *record = in_segmentation(r) ? NULL : record_here(r, &field);
    if (record && (field == ISCROWD || field == ISTHING)) { return take_number(r, value); }
    if (in_segmentation(r)) { wrong(r, SEGMENTATION, "numbers, not true or false"); }
    if (record && field != OTHER) { wrong(r, field, "a value other than true or false"); }
    return 1;
}

static int on_null(void *context) {
    Reader *r = context;
    Field field;
    need_object_list(r, r->depth > 2);
    if (in_segmentation(r)) { wrong(r, SEGMENTATION, "numbers, not null"); }
    Record *record = record_here(r, &field);
    if (record && field == BBOX && r->depth % 2 == 0) { wrong(r, BBOX, "four numbers"); }
    return 1; // elsewhere null counts as missing
}

static int on_string(void *context, const unsigned char *text, size_t length) {
    Reader *r = context;
    Field field;
    need_object_list(r, r->depth > 2);
    if (in_segmentation(r)) {
        if (r->depth != 4 || !r->in_map[4]) { wrong(r, SEGMENTATION, "numbers, not a string"); }
        if (r->key[4] == SIZE) { wrong(r, SIZE, "height and width"); }
        if (r->key[4] != COUNTS) { return 1; }
        int count;
        int32_t *runs = rle_from_text((const char *)text, length, &count);
        if (!runs) { wrong(r, COUNTS, "an undamaged compressed run-length code"); }
        for (int i = 0; i < count; i++) {
            GROW(r->values, r->value_count);
            r->values[r->value_count++] = runs[i];
        }
        free(runs);
        return 1;
    }
    Record *record = record_here(r, &field);
    if (!record || field == OTHER) { return 1; }
    if (field != NAME && field != FILE_NAME) {
        wrong(r, field,
              field == BBOX   ? "four numbers"
              : field <= AREA ? "a number, not a string"
                              : "a list, not a string");
    }
    const char **slot = field == NAME ? &record->name : &record->file_name;
    *slot = keep_text(r, text, length);
    record->have |= 1u << field;
    return 1;
}

static void need(Reader *r, const Record *record, Field field, const char *expected) {
    if (!(record->have >> field & 1)) { wrong(r, field, expected); }
}

static void end_category(Reader *r) {
    const Record *a = &r->record[0];
    need(r, a, ID, "an integer");
    need(r, a, NAME, "a string");
    GROW(r->coco.categories, r->coco.category_count);
    bool thing = !(a->have >> ISTHING & 1) || a->value[ISTHING] != 0;
    r->coco.categories[r->coco.category_count++] = (Category){(int64_t)a->value[ID], a->name, thing};
}

static void end_image(Reader *r) {
    const Record *a = &r->record[0];
    need(r, a, ID, "an integer");
    need(r, a, FILE_NAME, "a string");
    for (Field f = WIDTH; f <= HEIGHT; f++) {
        need(r, a, f, "an integer");
        if (a->value[f] < 1 || a->value[f] > 32768) { wrong(r, f, "1 to 32768 pixels"); }
    }
    GROW(r->coco.pictures, r->coco.picture_count);
    r->coco.pictures[r->coco.picture_count++] = (Picture){.id = (int64_t)a->value[ID],
                                                          .width = (int)a->value[WIDTH],
                                                          .height = (int)a->value[HEIGHT],
                                                          .file_name = a->file_name};
}

static int32_t *pool_take(Reader *r, size_t count) {
    while (r->coco.pool_size + count > r->pool_room) {
        r->pool_room = r->pool_room * 3 / 2 + 1024;
        r->coco.pool = xrealloc(r->coco.pool, r->pool_room * sizeof(int32_t));
    }
    r->coco.pool_size += count;
    return r->coco.pool + r->coco.pool_size - count;
}

// Pool: height, width, number of runs, runs.
static void pack_rle(Reader *r, Segment *s) {
    if (r->size_count != 2) { wrong(r, SIZE, "height and width"); }
    double sum = 0;
    for (int i = 0; i < r->value_count; i++) { sum += r->values[i]; }
    if (sum != r->size[0] * r->size[1]) { wrong(r, COUNTS, "runs that add up to height x width"); }
    int32_t *out = pool_take(r, 3 + (size_t)r->value_count);
    s->form = SEGMENT_RLE;
    *out++ = (int32_t)r->size[0];
    *out++ = (int32_t)r->size[1];
    *out++ = r->value_count;
    for (int i = 0; i < r->value_count; i++) { *out++ = (int32_t)r->values[i]; }
}

// Pool: number of polygons, then for each polygon its number of coordinates and the coordinates. COCO writes two
// decimals, so integer hundredths of a pixel give the same doubles (n / 100 is correctly rounded) in half the memory.
// Other values stay doubles.
static void pack_polygons(Reader *r, Segment *s) {
    for (int i = 0; i < r->value_count && !s->exact; i++) { s->exact = rint(r->values[i] * 100) / 100 != r->values[i]; }
    size_t words = s->exact ? sizeof(double) / sizeof(int32_t) : 1;
    int32_t *out = pool_take(r, 1 + (size_t)r->length_count + words * (size_t)r->value_count);
    const double *value = r->values;
    s->form = SEGMENT_POLYGONS;
    *out++ = r->length_count;
    for (int p = 0; p < r->length_count; p++) {
        int n = *out++ = r->lengths[p];
        if (n < 6 || n % 2) { wrong(r, SEGMENTATION, "polygons of an even number of coordinates, at least 6"); }
        if (s->exact) {
            memcpy(out, value, (size_t)n * sizeof(double));
        } else {
            for (int i = 0; i < n; i++) { out[i] = (int32_t)rint(value[i] * 100); }
        }
        value += n;
        out += words * (size_t)n;
    }
}

static Segment *add_segment(Reader *r, const Record *a) {
    need(r, a, ID, "an integer");
    need(r, a, CATEGORY_ID, "an integer");
    need(r, a, AREA, "a number");
    need(r, a, BBOX, "four numbers");
    if (a->bbox_count != 4) { wrong(r, BBOX, "four numbers"); }
    Coco *c = &r->coco;
    GROW(c->segments, c->segment_count);
    GROW(r->segment_picture, c->segment_count);
    GROW(r->segment_category, c->segment_count);
    r->segment_category[c->segment_count] = (int64_t)a->value[CATEGORY_ID];
    Segment *s = &c->segments[c->segment_count++];
    *s = (Segment){.id = (int64_t)a->value[ID], .area = a->value[AREA], .crowd = a->value[ISCROWD] != 0};
    memcpy(s->bbox, a->bbox, sizeof s->bbox);
    return s;
}

static void end_instance(Reader *r) {
    const Record *a = &r->record[0];
    need(r, a, IMAGE_ID, "an integer");
    need(r, a, SEGMENTATION, "a list of polygons, or an object with \"size\" and \"counts\"");
    Segment *s = add_segment(r, a);
    r->segment_picture[r->coco.segment_count - 1] = (int64_t)a->value[IMAGE_ID];
    s->data = r->coco.pool_size;
    if (!r->value_count) { wrong(r, SEGMENTATION, "a list of polygons, or an object with \"size\" and \"counts\""); }
    if (r->is_rle) {
        pack_rle(r, s);
    } else {
        pack_polygons(r, s);
    }
}

static void end_panoptic_segment(Reader *r) {
    add_segment(r, &r->record[1])->form = SEGMENT_PANOPTIC;
    r->segment_picture[r->coco.segment_count - 1] = -1;
}

// The segments may come before their picture's id in the file.
static void end_panoptic(Reader *r) {
    const Record *a = &r->record[0];
    need(r, a, IMAGE_ID, "an integer");
    need(r, a, FILE_NAME, "a string");
    need(r, a, SEGMENTS_INFO, "a list");
    for (int i = r->first_segment; i < r->coco.segment_count; i++) {
        r->segment_picture[i] = (int64_t)a->value[IMAGE_ID];
    }
    GROW(r->files, r->file_count);
    r->files[r->file_count++] = (IdFile){(int64_t)a->value[IMAGE_ID], a->file_name};
}

static int on_map_start(void *context) {
    Reader *r = context;
    if (++r->depth < DEEP) {
        r->in_map[r->depth] = true;
        r->key[r->depth] = OTHER;
    }
    if (r->section == IN_NOTHING) { return 1; }
    need_object_list(r, r->depth != 2);
    if (r->depth == 3) {
        r->record[0] = (Record){0};
        r->number++;
        r->first_segment = r->coco.segment_count;
        r->value_count = r->length_count = r->size_count = 0;
    } else if (r->depth == 4 && r->key[3] == SEGMENTATION) {
        r->record[0].have |= 1u << SEGMENTATION;
        r->is_rle = true;
    } else if (r->depth == 5 && r->key[3] == SEGMENTS_INFO) {
        r->record[1] = (Record){0};
    }
    return 1;
}

static int on_map_end(void *context) {
    Reader *r = context;
    int depth = r->depth--;
    if (depth == 5 && r->section == IN_ANNOTATIONS && r->panoptic && r->key[3] == SEGMENTS_INFO) {
        end_panoptic_segment(r);
    }
    if (depth != 3) { return 1; }
    switch (r->section) {
    case IN_CATEGORIES:
        end_category(r);
        break;
    case IN_IMAGES:
        end_image(r);
        break;
    case IN_ANNOTATIONS:
        (r->panoptic ? end_panoptic : end_instance)(r);
        break;
    default:
        break;
    }
    return 1;
}

static int on_key(void *context, const unsigned char *text, size_t length) {
    Reader *r = context;
    if (r->depth == 1) {
        r->section = IN_NOTHING;
        r->number = 0;
        for (Section s = IN_CATEGORIES; s <= IN_ANNOTATIONS; s++) {
            bool same = strlen(section_names[s]) == length && memcmp(section_names[s], text, length) == 0;
            if (same) { r->section = s; }
            if (same) { r->seen |= 1u << s; }
        }
    }
    if (r->section == IN_NOTHING || r->depth >= DEEP) { return 1; }
    Field f = 0;
    while (f < FIELDS && !(strlen(field_names[f]) == length && memcmp(field_names[f], text, length) == 0)) { f++; }
    r->key[r->depth] = r->depth == 1 ? OTHER : f;
    return 1;
}

static int on_array_start(void *context) {
    Reader *r = context;
    if (++r->depth < DEEP) {
        r->in_map[r->depth] = false;
        r->key[r->depth] = r->key[r->depth - 1];
    }
    need_object_list(r, r->depth != 3);
    if (r->section == IN_NOTHING || r->depth >= DEEP || r->depth < 4) { return 1; }
    if (in_segmentation(r) && r->depth == 4) { r->is_rle = false; }
    if (in_segmentation(r) && r->depth == 5 && !r->in_map[4]) {
        GROW(r->lengths, r->length_count);
        r->lengths[r->length_count++] = 0;
    }
    Field f = r->key[r->depth - 1];
    if (r->depth == 4 && f <= SEGMENTS_INFO) { r->record[0].have |= 1u << f; }
    if (r->depth == 4 && f <= FILE_NAME) { wrong(r, f, "a single value, not a list"); }
    return 1;
}

static int on_array_end(void *context) {
    ((Reader *)context)->depth--;
    return 1;
}

static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                         .yajl_boolean = on_boolean,
                                         .yajl_number = on_number,
                                         .yajl_string = on_string,
                                         .yajl_start_map = on_map_start,
                                         .yajl_map_key = on_key,
                                         .yajl_end_map = on_map_end,
                                         .yajl_start_array = on_array_start,
                                         .yajl_end_array = on_array_end};

static void parse_file(Reader *r) {
    FILE *file = fopen(r->path, "rb");
    if (!file) { die("%s: cannot be opened: %s", r->path, strerror(errno)); }
    static const size_t block = 1 << 20;
    unsigned char *text = xmalloc(block);
    yajl_handle parser = yajl_alloc(&callbacks, NULL, r);
    size_t before = 0;
    yajl_status status = yajl_status_ok;
    for (size_t n; status == yajl_status_ok && (n = fread(text, 1, block, file)) > 0; before += n) {
        status = yajl_parse(parser, text, n);
        if (status != yajl_status_ok) { before += yajl_get_bytes_consumed(parser) - n; }
    }
    if (ferror(file)) { die("%s: cannot be read: %s", r->path, strerror(errno)); }
    bool whole = status == yajl_status_ok;
    if (whole) { status = yajl_complete_parse(parser); }
    if (status != yajl_status_ok) {
        char *reason = (char *)yajl_get_error(parser, 0, text, 0);
        reason[strcspn(reason, "\n")] = 0;
        die("%s: is not valid JSON: %s at byte %zu%s", r->path, reason, before, whole ? ", where the file ends" : "");
    }
    yajl_free(parser);
    free(text);
    fclose(file);
    for (Section s = IN_CATEGORIES; s <= IN_ANNOTATIONS; s++) {
        if (!(r->seen >> s & 1)) { die("%s: field \"%s\" is missing: expected a list", r->path, section_names[s]); }
    }
}

// A sorted table from ids to positions.
typedef struct {
    int64_t id;
    int index;
} IdIndex;

static int by_id(const void *a, const void *b) {
    int64_t x = ((const IdIndex *)a)->id, y = ((const IdIndex *)b)->id;
    return (x > y) - (x < y);
}

static IdIndex *sort_ids(Reader *r, IdIndex *table, int count, Section section) {
    qsort(table, (size_t)count, sizeof *table, by_id);
    for (int i = 1; i < count; i++) {
        if (table[i].id == table[i - 1].id) {
            die("%s: field \"%s\": id %lld occurs twice", r->path, section_names[section], (long long)table[i].id);
        }
    }
    return table;
}

static int find_id(const IdIndex *table, int count, int64_t id) {
    const IdIndex key = {id, 0};
    const IdIndex *found = count ? bsearch(&key, table, (size_t)count, sizeof key, by_id) : NULL;
    return found ? found->index : -1;
}

static void check_size(Reader *r, const Segment *s, const Picture *p) {
    const int32_t *size = r->coco.pool + s->data;
    if (s->form != SEGMENT_RLE || (size[0] == p->height && size[1] == p->width)) { return; }
    die("%s: annotation with id %lld: field \"size\": [%d, %d], expected [%d, %d] as in image %lld", r->path,
        (long long)s->id, size[0], size[1], p->height, p->width, (long long)p->id);
}

static void link_files(Reader *r, const IdIndex *pictures) {
    Coco *c = &r->coco;
    for (int i = 0; i < r->file_count; i++) {
        int p = find_id(pictures, c->picture_count, r->files[i].image_id);
        if (p < 0) {
            die("%s: annotation %d: field \"image_id\": %lld is not among the images", r->path, i + 1,
                (long long)r->files[i].image_id);
        }
        if (c->pictures[p].ids_name) {
            die("%s: annotation %d: field \"image_id\": %lld occurs twice", r->path, i + 1,
                (long long)r->files[i].image_id);
        }
        c->pictures[p].ids_name = r->files[i].file_name;
    }
}

// Turns ids into indices and sorts the segments by picture, keeping the file's order within a picture.
static void link_segments(Reader *r) {
    Coco *c = &r->coco;
    IdIndex *pictures = xcalloc((size_t)c->picture_count + 1, sizeof *pictures);
    IdIndex *categories = xcalloc((size_t)c->category_count + 1, sizeof *categories);
    for (int i = 0; i < c->picture_count; i++) { pictures[i] = (IdIndex){c->pictures[i].id, i}; }
    for (int i = 0; i < c->category_count; i++) { categories[i] = (IdIndex){c->categories[i].id, i}; }
    sort_ids(r, pictures, c->picture_count, IN_IMAGES);
    sort_ids(r, categories, c->category_count, IN_CATEGORIES);
    link_files(r, pictures);
    int *owner = xcalloc((size_t)c->segment_count + 1, sizeof *owner);
    for (int i = 0; i < c->segment_count; i++) {
        Segment *s = &c->segments[i];
        owner[i] = find_id(pictures, c->picture_count, r->segment_picture[i]);
        s->category = find_id(categories, c->category_count, r->segment_category[i]);
        if (owner[i] < 0) {
            die("%s: annotation with id %lld: field \"image_id\": %lld is not among the images", r->path,
                (long long)s->id, (long long)r->segment_picture[i]);
        }
        if (s->category < 0) {
            die("%s: annotation with id %lld: field \"category_id\": %lld is not among the categories", r->path,
                (long long)s->id, (long long)r->segment_category[i]);
        }
        check_size(r, s, &c->pictures[owner[i]]);
        c->pictures[owner[i]].count++;
    }
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
}

static void check_names(const Reader *r) {
    const Coco *c = &r->coco;
    if (!c->category_count) { die("%s: field \"categories\" is empty: expected at least one class", r->path); }
    for (int i = 0; i < c->category_count; i++) {
        if (coco_find_category(c, c->categories[i].name) != i) {
            die("%s: field \"categories\": the name \"%s\" occurs twice", r->path, c->categories[i].name);
        }
    }
}

Coco coco_read(const char *path, bool panoptic) {
    Reader *r = xcalloc(1, sizeof *r);
    r->path = path;
    r->panoptic = panoptic;
    parse_file(r);
    check_names(r);
    link_segments(r);
    Coco coco = r->coco;
    coco.path = xstrdup(path);
    coco.panoptic = panoptic;
    if (coco.pool) { coco.pool = xrealloc(coco.pool, (coco.pool_size + 1) * sizeof *coco.pool); }
    free(r->segment_picture);
    free(r->segment_category);
    free(r->files);
    free(r->values);
    free(r->lengths);
    free(r);
    return coco;
}
