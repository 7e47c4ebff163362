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
#include "data/coco_derive.h"
#include "data/coco_link.h"
#include "data/segmentation.h"
#include "util/error.h"
#include "util/json.h"
#include "util/progress.h"
#include "util/text.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yajl/yajl_parse.h>

// Kinds of what is left out.
static const char no_mask[] = "annotations without a mask", bad_mask[] = "annotations with a damaged mask",
                  no_ring[] = "annotations without a polygon of three points",
                  bad_ring[] = "annotations with polygons of fewer than three points or an odd number of coordinates, "
                               "which are left out",
                  no_id[] = "annotations with a damaged id", no_name[] = "pictures without an id or a name",
                  no_size[] = "pictures without a size", no_class[] = "categories without an id or a name",
                  no_object[] = "entries that are no objects";

typedef enum { IN_NOTHING, IN_CATEGORIES, IN_IMAGES, IN_ANNOTATIONS } Section;
static const char *const section_names[] = {"", "categories", "images", "annotations"};

// The objects that have fields: bits.
enum { CATEGORY = 1, IMAGE = 2, INSTANCE = 4, PANOPTIC = 8, SEGMENT = 16, MASK = 32 };

typedef enum {
    TYPE_ID,     // a number or a text
    TYPE_NUMBER, // also true and false, or in quotes
    TYPE_TEXT,   // NAME: also a number
    TYPE_BOX,    // four numbers
    TYPE_LIST    // read by what is in it
} Type;

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
    COCO_URL,
    BBOX,
    SEGMENTATION,
    SEGMENTS_INFO,
    SIZE,
    COUNTS,
    FIELDS,
    OTHER = FIELDS
} Field;

static const struct {
    const char *name;
    Type type;
    unsigned objects; // that it belongs to; elsewhere the key is OTHER and may have any value
} fields[FIELDS] = {[ID] = {"id", TYPE_ID, CATEGORY | IMAGE | INSTANCE | SEGMENT},
                    [IMAGE_ID] = {"image_id", TYPE_ID, INSTANCE | PANOPTIC},
                    [CATEGORY_ID] = {"category_id", TYPE_ID, INSTANCE | SEGMENT},
                    [WIDTH] = {"width", TYPE_NUMBER, IMAGE},
                    [HEIGHT] = {"height", TYPE_NUMBER, IMAGE},
                    [ISCROWD] = {"iscrowd", TYPE_NUMBER, INSTANCE | SEGMENT},
                    [ISTHING] = {"isthing", TYPE_NUMBER, CATEGORY},
                    [AREA] = {"area", TYPE_NUMBER, INSTANCE | SEGMENT},
                    [NAME] = {"name", TYPE_TEXT, CATEGORY},
                    [FILE_NAME] = {"file_name", TYPE_TEXT, IMAGE | PANOPTIC},
                    [COCO_URL] = {"coco_url", TYPE_TEXT, IMAGE},
                    [BBOX] = {"bbox", TYPE_BOX, INSTANCE | SEGMENT},
                    [SEGMENTATION] = {"segmentation", TYPE_LIST, INSTANCE},
                    [SEGMENTS_INFO] = {"segments_info", TYPE_LIST, PANOPTIC},
                    [SIZE] = {"size", TYPE_LIST, MASK},
                    [COUNTS] = {"counts", TYPE_LIST, MASK}};

// The fields of the list object that is being read. Values of another type than the field's count as missing, but for
// lists.
typedef struct {
    unsigned have; // bit per Field
    union {
        int64_t id; // a text's number is coco_id_of_text
        double number;
        const char *text;
    } value[FIELDS];
    const char *id_name; // ID if it is a text
    double bbox[4];
    int bbox_count;      // -1: something else than numbers
    const char *problem; // why it is left out (a kind of data/left_out.h), or NULL
    Field wrong;         // the field that is the reason, if it is one
    char why[400];
} Record;

enum { DEEP = 8 };

typedef struct {
    const char *path;
    Coco coco;
    Links links;
    size_t pool_room;
    char *names_end;
    size_t names_left;
    // position
    int depth;
    bool in_map[DEEP];
    Field key[DEEP]; // key[d]: the current key of the object at depth d; a list has the key that it belongs to
    Section section;
    unsigned seen;    // bit per Section
    long long number; // of the record in its list, from 1
    long long annotations;
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
    Field field = a->have >> ID & 1 ? ID : IMAGE_ID;
    if (a->have >> field & 1) {
        snprintf(text + used, sizeof text - used, " (%s %lld)", fields[field].name, (long long)a->value[field].id);
    }
    return text;
}

// Whether this depth is in an object of the list segments_info.
static bool in_segments(const Reader *r) {
    return r->depth >= 5 && r->key[3] == SEGMENTS_INFO && !r->in_map[4] && r->in_map[5];
}

// The record that a value at this depth belongs to.
static Record *current(Reader *r) { return &r->record[in_segments(r)]; }

static bool in_segmentation(const Reader *r) { return r->depth >= 4 && r->key[3] == SEGMENTATION; }

// Whether a value of a segmentation is in an object with "size" and "counts"; r->key[4] is its key.
static bool in_mask(const Reader *r) { return in_segmentation(r) && r->in_map[4]; }
static bool in_other_field(const Reader *r) { return in_mask(r) && r->key[4] == OTHER; }

static const char *kind_of(const Reader *r, Field field) {
    if (r->section == IN_CATEGORIES) { return no_class; }
    if (r->section == IN_IMAGES) { return field == WIDTH || field == HEIGHT ? no_size : no_name; }
    return field == IMAGE_ID      ? coco_no_picture
           : field == CATEGORY_ID ? coco_no_category
           : field == ID          ? no_id
                                  : bad_mask;
}

static void wrong(Reader *r, Field field, const char *expected) {
    Record *record = current(r);
    if (record->problem) { return; }
    record->problem = kind_of(r, field);
    record->wrong = field == SEGMENTATION && in_mask(r) ? r->key[4] : field;
    snprintf(record->why, sizeof record->why, "%.200s: %s: field \"%s\": expected %s", r->path, where(r),
             fields[field].name, expected);
}

// A record's id, or its number in the list.
static const char *name_of(const Reader *r, const Record *record) {
    static _Thread_local char text[32];
    if (record->id_name) { return record->id_name; }
    bool id = record->have >> ID & 1;
    snprintf(text, sizeof text, id ? "%lld" : "number %lld", id ? (long long)record->value[ID].id : r->number);
    return text;
}

static void leave_out(Reader *r, const Record *record) {
    left_out_add(r->coco.left_out, record->problem, name_of(r, record), *record->why ? record->why : NULL);
}

// Texts are stored in blocks that never move; each block begins with a pointer to the previous one.
static const char *keep_text(Reader *r, const char *text, size_t length) {
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

// The record and the field that a value at the current depth belongs to; NULL if none.
static Record *record_here(Reader *r, Field *field) {
    int level = in_segments(r) ? 5 : 3;
    if (r->section == IN_NOTHING || r->depth < level || r->depth > level + 1) { return NULL; }
    *field = r->key[level];
    bool inside = r->depth == level + 1; // only the numbers of a box are
    if (*field == OTHER || (inside && (*field != BBOX || r->in_map[r->depth]))) { return NULL; }
    return &r->record[level == 5];
}

static const char mask_forms[] = "a list of polygons, or an object with \"size\" and \"counts\"";

static void segmentation_number(Reader *r, double value) {
    if (in_other_field(r)) { return; }
    bool in_list = r->depth == 5 && !r->in_map[5];
    if (in_list && !r->in_map[4]) { // a polygon's coordinate
        if (!(fabs(value) <= 1e5)) { wrong(r, SEGMENTATION, "coordinates within 100000 pixels"); }
    } else if (in_list && r->key[4] == SIZE) {
        if (r->size_count < 2) { r->size[r->size_count] = value; }
        r->size_count++;
        return;
    } else if (!in_list || r->key[4] != COUNTS) {
        wrong(r, SEGMENTATION, mask_forms);
        return;
    }
    GROW(r->values, r->value_count);
    r->values[r->value_count++] = value;
    if (!r->in_map[4]) { r->lengths[r->length_count - 1]++; }
}

// The lists that are read here hold only objects. Returns false for a value among them that is none.
static bool need_object_list(Reader *r, bool right) {
    if (r->section == IN_NOTHING || right) { return true; }
    if (r->depth < 2 || r->in_map[2]) {
        die("%s: field \"%s\": expected a list of objects", r->path, section_names[r->section]);
    }
    r->record[0] = (Record){.problem = no_object};
    r->number++;
    leave_out(r, &r->record[0]);
    return false;
}

static bool is_integer(const char *text, size_t length) {
    size_t minus = length > 0 && text[0] == '-';
    bool integer = length > minus;
    for (size_t i = minus; i < length; i++) { integer &= text[i] >= '0' && text[i] <= '9'; }
    return integer;
}

int64_t coco_id_of_text(const char *text, size_t length) {
    char digits[64];
    int64_t id = (int64_t)(text_hash(text, length) >> 2 | (uint64_t)1 << 62);
    if (length >= sizeof digits || !is_integer(text, length)) { return id; }
    snprintf(digits, sizeof digits, "%.*s", (int)length, text);
    errno = 0;
    long long number = strtoll(digits, NULL, 10);
    if (errno == ERANGE && digits[0] != '-') {
        errno = 0;
        number = (long long)strtoull(digits, NULL, 10); // the same bits: still distinct
    }
    if (errno != ERANGE) { id = number; }
    errno = 0;
    return id;
}

bool coco_id_of_number(const char *text, size_t length, int64_t *id) {
    double value = strtod(text, NULL);
    if (is_integer(text, length)) {
        *id = coco_id_of_text(text, length);
        return true;
    }
    if (value != floor(value) || fabs(value) >= 9e15) { return false; }
    *id = (int64_t)value;
    return true;
}

static void take_id(Record *record, Field field, int64_t id) {
    record->value[field].id = id;
    record->have |= 1u << field;
}

static void take_number(Record *record, Field field, double value) {
    if (!isfinite(value)) { return; }
    record->value[field].number = value;
    record->have |= 1u << field;
}

static void take_text(Reader *r, Record *record, Field field, const char *text, size_t length) {
    record->value[field].text = keep_text(r, text, length);
    record->have |= 1u << field;
}

// A number in the list of a box.
static void take_box_number(Reader *r, Record *record, double value) {
    if (r->depth % 2 || record->bbox_count < 0) { return; }
    if (record->bbox_count < 4) { record->bbox[record->bbox_count] = value; }
    record->bbox_count++;
}

// yajl has seen the character that ends the number, so strtod stops there too.
static int on_number(void *context, const char *text, size_t length) {
    Reader *r = context;
    Field field;
    if (r->section == IN_NOTHING || !need_object_list(r, r->depth > 2)) { return 1; }
    double value = strtod(text, NULL);
    if (in_segmentation(r)) {
        segmentation_number(r, value);
        return 1;
    }
    Record *record = record_here(r, &field);
    if (!record) { return 1; }
    int64_t id;
    Type type = fields[field].type;
    if (type == TYPE_ID && coco_id_of_number(text, length, &id)) { take_id(record, field, id); }
    if (type == TYPE_NUMBER) { take_number(record, field, value); }
    if (type == TYPE_BOX) { take_box_number(r, record, value); }
    if (type == TYPE_LIST) { wrong(r, field, "a list"); }
    if (field == NAME) { take_text(r, record, field, text, length); }
    return 1;
}

static int on_boolean(void *context, int value) {
    Reader *r = context;
    Field field;
    if (!need_object_list(r, r->depth > 2)) { return 1; }
    if (in_segmentation(r)) {
        if (!in_other_field(r)) { wrong(r, SEGMENTATION, "numbers, not true or false"); }
        return 1;
    }
    Record *record = record_here(r, &field);
    if (!record) { return 1; }
    Type type = fields[field].type;
    if (type == TYPE_NUMBER) { take_number(record, field, value); }
    if (type == TYPE_BOX) { record->bbox_count = -1; }
    if (type == TYPE_LIST) { wrong(r, field, "a list"); }
    return 1;
}

static int on_null(void *context) {
    Reader *r = context;
    Field field;
    if (!need_object_list(r, r->depth > 2)) { return 1; }
    if (in_segmentation(r) && !(r->in_map[4] && r->depth == 4)) {
        if (!in_other_field(r)) { wrong(r, SEGMENTATION, "numbers, not null"); }
        return 1;
    }
    Record *record = record_here(r, &field);
    if (record && field == BBOX && r->depth % 2 == 0) { record->bbox_count = -1; }
    return 1; // elsewhere null counts as missing
}

// The text of a segmentation: the compressed run-length code.
static void segmentation_text(Reader *r, const char *text, size_t length) {
    if (in_other_field(r)) { return; }
    if (r->depth != 4 || !r->in_map[4]) {
        wrong(r, SEGMENTATION, "numbers, not a string");
        return;
    }
    if (r->key[4] == SIZE) { wrong(r, SIZE, "height and width"); }
    if (r->key[4] != COUNTS) { return; }
    int count;
    int32_t *runs = rle_from_text(text, length, &count);
    if (!runs) {
        wrong(r, COUNTS, "an undamaged compressed run-length code");
        return;
    }
    for (int i = 0; i < count; i++) {
        GROW(r->values, r->value_count);
        r->values[r->value_count++] = runs[i];
    }
    free(runs);
}

static void take_quoted_number(Record *record, Field field, const char *text, size_t length) {
    char copy[64], *end;
    snprintf(copy, sizeof copy, "%.*s", (int)(length < 63 ? length : 63), text);
    double value = strtod(copy, &end);
    if (end != copy && !*end && length < 63) { take_number(record, field, value); }
}

static int on_string(void *context, const unsigned char *bytes, size_t length) {
    Reader *r = context;
    Field field;
    const char *text = (const char *)bytes;
    if (!need_object_list(r, r->depth > 2)) { return 1; }
    if (in_segmentation(r)) {
        segmentation_text(r, text, length);
        return 1;
    }
    Record *record = record_here(r, &field);
    if (!record) { return 1; }
    Type type = fields[field].type;
    if (type == TYPE_ID && length) {
        take_id(record, field, coco_id_of_text(text, length));
        if (field == ID) { record->id_name = keep_text(r, text, length); }
    }
    if (type == TYPE_NUMBER) { take_quoted_number(record, field, text, length); }
    if (type == TYPE_TEXT) { take_text(r, record, field, text, length); }
    if (type == TYPE_BOX) { record->bbox_count = -1; }
    if (type == TYPE_LIST) { wrong(r, field, "a list"); }
    return 1;
}

static void need(Reader *r, const Record *record, Field field, const char *expected) {
    if (!(record->have >> field & 1)) { wrong(r, field, expected); }
}

static void end_category(Reader *r) {
    const Record *a = &r->record[0];
    const char *name = a->value[NAME].text;
    if (name) { name = text_trim((char *)name); } // keep_text's own copy
    need(r, a, ID, "an id");
    if (!name || !*name) { wrong(r, NAME, "a name that is not empty"); }
    if (a->problem) {
        leave_out(r, a);
        return;
    }
    GROW(r->coco.categories, r->coco.category_count);
    bool thing = !(a->have >> ISTHING & 1) || a->value[ISTHING].number != 0;
    r->coco.categories[r->coco.category_count++] = (Category){a->value[ID].id, name, thing};
}

// The last two parts of a URL, as detectron2's load_lvis_json takes them: ".../train2017/000000000009.jpg". NULL: none,
// or they lead out of a folder.
static const char *name_of_url(const char *url) {
    const char *from = url + strlen(url);
    for (int slashes = 0; from > url; from--) {
        slashes += from[-1] == '/';
        if (slashes == 2) { break; }
    }
    return *from && strncmp(from, "../", 3) != 0 ? from : NULL;
}

static bool whole_side(double side) { return side >= 1 && side <= 32768 && side == floor(side); }

static void end_image(Reader *r) {
    const Record *a = &r->record[0];
    const char *name = a->value[FILE_NAME].text, *url = a->value[COCO_URL].text;
    const char *url_name = url ? name_of_url(url) : NULL;
    if (!name || !*name) { name = url_name; }
    need(r, a, ID, "an id");
    if (!name) { wrong(r, FILE_NAME, "a string"); }
    for (Field f = WIDTH; f <= HEIGHT; f++) {
        if (!whole_side(a->value[f].number)) { wrong(r, f, "an integer from 1 to 32768"); }
    }
    if (a->problem) {
        leave_out(r, a);
        return;
    }
    GROW(r->coco.pictures, r->coco.picture_count);
    r->coco.pictures[r->coco.picture_count++] = (Picture){.id = a->value[ID].id,
                                                          .id_name = a->id_name,
                                                          .width = (int)a->value[WIDTH].number,
                                                          .height = (int)a->value[HEIGHT].number,
                                                          .file_name = name,
                                                          .url_name = url_name};
}

static int32_t *pool_take(Reader *r, size_t count) {
    while (r->coco.pool_size + count > r->pool_room) {
        r->pool_room = r->pool_room * 3 / 2 + 1024;
        r->coco.pool = xrealloc(r->coco.pool, r->pool_room * sizeof(int32_t));
    }
    r->coco.pool_size += count;
    return r->coco.pool + r->coco.pool_size - count;
}

static void leave_segment(Reader *r, const char *kind) {
    Record *a = current(r);
    if (!a->problem) { a->problem = kind; }
}

// Whether the runs are a mask.
static bool check_rle(Reader *r) {
    double sum = 0;
    bool whole = true;
    for (int i = 0; i < r->value_count; i++) {
        sum += r->values[i];
        whole &= r->values[i] >= 0 && r->values[i] <= INT32_MAX && r->values[i] == floor(r->values[i]);
    }
    if (r->size_count != 2 || !whole_side(r->size[0]) || !whole_side(r->size[1])) {
        wrong(r, SIZE, "height and width");
    } else if (!r->value_count) {
        leave_segment(r, no_mask);
    } else if (!whole) {
        wrong(r, COUNTS, "non-negative integers");
    } else if (sum != r->size[0] * r->size[1]) {
        wrong(r, COUNTS, "runs that add up to height x width");
    }
    return !current(r)->problem;
}

// Pool: height, width, number of runs, runs.
static void pack_rle(Reader *r, Segment *s) {
    int32_t *out = pool_take(r, 3 + (size_t)r->value_count);
    s->form = SEGMENT_RLE;
    *out++ = (int32_t)r->size[0];
    *out++ = (int32_t)r->size[1];
    *out++ = r->value_count;
    for (int i = 0; i < r->value_count; i++) { *out++ = (int32_t)r->values[i]; }
}

// Whether a ring of n numbers is a polygon: as in detectron2's load_coco_json, the others of an annotation are left
// out.
static bool is_ring(int n) { return n >= 6 && n % 2 == 0; }

// Moves the polygons together. Returns whether there is one.
static bool check_polygons(Reader *r) {
    int rings = 0, values = 0, from = 0, empty = 0;
    for (int p = 0; p < r->length_count; p++) {
        int n = r->lengths[p];
        empty += n == 0;
        if (is_ring(n)) {
            memmove(r->values + values, r->values + from, (size_t)n * sizeof *r->values);
            r->lengths[rings++] = n;
            values += n;
        }
        from += n;
    }
    bool some = rings < r->length_count && empty < r->length_count;
    if (!rings) { leave_segment(r, some ? no_ring : no_mask); }
    if (rings && some && !current(r)->problem) {
        Record note = *current(r);
        note.problem = bad_ring;
        leave_out(r, &note);
    }
    r->length_count = rings;
    r->value_count = values;
    return !current(r)->problem;
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
        if (s->exact) {
            memcpy(out, value, (size_t)n * sizeof(double));
        } else {
            for (int i = 0; i < n; i++) { out[i] = (int32_t)rint(value[i] * 100); }
        }
        value += n;
        out += words * (size_t)n;
    }
}

// A segment that has no mask yet. area and bbox stay 0 where the file has none: coco_derive computes them.
static Segment *add_segment(Reader *r, const Record *a) {
    Coco *c = &r->coco;
    bool has_id = a->have >> ID & 1;
    const char *name = has_id ? a->id_name : name_of(r, a);
    if (!has_id) { name = keep_text(r, name, strlen(name)); }
    GROW(c->segments, c->segment_count);
    GROW(r->links.segments, c->segment_count);
    r->links.segments[c->segment_count] =
        (Link){.picture = a->value[IMAGE_ID].id, .category = a->value[CATEGORY_ID].id, .problem = a->problem};
    Segment *s = &c->segments[c->segment_count++];
    *s = (Segment){.id = has_id ? a->value[ID].id : -r->number,
                   .id_name = name,
                   .area = a->value[AREA].number,
                   .crowd = a->value[ISCROWD].number != 0,
                   .form = SEGMENT_NO_MASK,
                   .data = c->pool_size};
    if (a->bbox_count == 4) { memcpy(s->bbox, a->bbox, sizeof s->bbox); }
    return s;
}

static void end_instance(Reader *r) {
    Record *a = &r->record[0];
    const unsigned placed = 1u << IMAGE_ID | 1u << CATEGORY_ID;
    if ((a->have & placed) != placed) { a->problem = NULL; } // of the mask: it does not matter
    need(r, a, IMAGE_ID, "an id");
    need(r, a, CATEGORY_ID, "an id");
    if (!(a->have >> SEGMENTATION & 1)) { leave_segment(r, no_mask); }
    bool right = !a->problem && (r->is_rle ? check_rle(r) : check_polygons(r));
    if (!right) { leave_out(r, a); }
    Segment *s = add_segment(r, a);
    if (right) { (r->is_rle ? pack_rle : pack_polygons)(r, s); }
}

static void end_panoptic_segment(Reader *r) {
    const Record *a = &r->record[1];
    need(r, a, CATEGORY_ID, "an id");
    need(r, a, ID, "an id");
    Segment *s = add_segment(r, a);
    if (!a->problem) { s->form = SEGMENT_PANOPTIC; }
}

// The segments may come before their picture's id in the file. Without a PNG they have no masks.
static void end_panoptic(Reader *r) {
    const Record *a = &r->record[0];
    int first = r->first_segment, end = r->coco.segment_count;
    need(r, a, IMAGE_ID, "an id");
    need(r, a, FILE_NAME, "a string");
    need(r, a, SEGMENTS_INFO, "a list");
    if (a->problem) { leave_out(r, a); }
    if (!(a->have >> IMAGE_ID & 1)) { r->coco.segment_count = end = first; }
    for (int i = first; i < end; i++) {
        r->links.segments[i].picture = a->value[IMAGE_ID].id;
        if (a->problem) { r->coco.segments[i].form = SEGMENT_NO_MASK; }
    }
    if (a->problem) { return; }
    GROW(r->links.files, r->links.file_count);
    r->links.files[r->links.file_count++] =
        (IdFile){a->value[IMAGE_ID].id, a->value[FILE_NAME].text, r->number, first, end};
}

static int on_map_start(void *context) {
    Reader *r = context;
    if (++r->depth < DEEP) {
        r->in_map[r->depth] = true;
        r->key[r->depth] = OTHER;
    }
    if (r->section == IN_NOTHING) { return 1; }
    if (r->depth == 2) { die("%s: field \"%s\": expected a list of objects", r->path, section_names[r->section]); }
    if (r->depth == 3) {
        r->record[0] = (Record){0};
        r->number++;
        r->first_segment = r->coco.segment_count;
        r->value_count = r->length_count = r->size_count = 0;
    } else if (r->depth == 4 && r->key[3] == SEGMENTATION) {
        r->record[0].have |= 1u << SEGMENTATION;
        r->is_rle = true;
    } else if (r->depth == 5 && in_segments(r)) {
        r->record[1] = (Record){0};
    }
    return 1;
}

static int on_map_end(void *context) {
    Reader *r = context;
    if (r->depth == 5 && in_segments(r)) { end_panoptic_segment(r); }
    if (r->depth-- != 3) { return 1; }
    switch (r->section) {
    case IN_CATEGORIES:
        end_category(r);
        break;
    case IN_IMAGES:
        end_image(r);
        break;
    case IN_ANNOTATIONS:
        r->annotations++;
        (r->coco.panoptic ? end_panoptic : end_instance)(r);
        break;
    default:
        break;
    }
    return 1;
}

// A key given twice: the last value counts, as in Python.
static void forget(Reader *r, Field f) {
    if (f == COUNTS || f == SEGMENTATION) { r->value_count = r->length_count = 0; }
    if (f == SIZE || f == SEGMENTATION) { r->size_count = 0; }
    if (f == SEGMENTS_INFO) { r->coco.segment_count = r->first_segment; }
    if (f == OTHER) { return; }
    Record *a = current(r);
    a->have &= ~(1u << f);
    memset(&a->value[f], 0, sizeof a->value[f]);
    if (f == ID) { a->id_name = NULL; }
    if (f == BBOX) { a->bbox_count = 0; }
    bool inside = f == SEGMENTATION && (a->wrong == SIZE || a->wrong == COUNTS);
    if (a->problem && (a->wrong == f || inside)) {
        a->problem = NULL;
        *a->why = 0;
    }
}

// Likewise a list of the file.
static void forget_section(Reader *r) {
    Coco *c = &r->coco;
    if (r->section == IN_CATEGORIES) { c->category_count = 0; }
    if (r->section == IN_IMAGES) {
        c->picture_count = 0;
        c->federated = false;
    }
    if (r->section != IN_ANNOTATIONS) { return; }
    c->segment_count = r->links.file_count = 0;
    c->pool_size = 0;
    r->annotations = 0;
}

// The object that has the current key: a bit, or 0 if none of its keys matters.
static unsigned object_here(const Reader *r) {
    if (r->depth == 5 && in_segments(r)) { return SEGMENT; }
    if (r->depth == 4 && r->key[3] == SEGMENTATION) { return MASK; }
    if (r->depth != 3) { return 0; }
    return r->section == IN_CATEGORIES ? CATEGORY
           : r->section == IN_IMAGES   ? IMAGE
           : r->coco.panoptic          ? PANOPTIC
                                       : INSTANCE;
}

static Field find_field(const unsigned char *name, size_t length, unsigned object) {
    Field f = 0;
    while (f < FIELDS && !(fields[f].objects & object && strlen(fields[f].name) == length &&
                           memcmp(fields[f].name, name, length) == 0)) {
        f++;
    }
    return f;
}

// Fields of LVIS's pictures: only some classes are annotated wherever they are.
static bool says_federated(const unsigned char *name, size_t length) {
    static const char *const names[] = {"neg_category_ids", "not_exhaustive_category_ids"};
    bool same = false;
    for (int i = 0; i < 2; i++) { same |= strlen(names[i]) == length && memcmp(names[i], name, length) == 0; }
    return same;
}

static int on_key(void *context, const unsigned char *text, size_t length) {
    Reader *r = context;
    if (r->depth == 1) {
        r->section = IN_NOTHING;
        r->number = 0;
        for (Section s = IN_CATEGORIES; s <= IN_ANNOTATIONS; s++) {
            bool same = strlen(section_names[s]) == length && memcmp(section_names[s], text, length) == 0;
            if (!same) { continue; }
            r->section = s;
            if (r->seen >> s & 1) { forget_section(r); }
            r->seen |= 1u << s;
        }
    }
    if (r->section == IN_NOTHING || r->depth >= DEEP) { return 1; }
    unsigned object = object_here(r);
    r->key[r->depth] = find_field(text, length, object);
    r->coco.federated |= object == IMAGE && says_federated(text, length);
    forget(r, r->key[r->depth]);
    return 1;
}

static int on_array_start(void *context) {
    Reader *r = context;
    if (++r->depth < DEEP) {
        r->in_map[r->depth] = false;
        r->key[r->depth] = r->key[r->depth - 1];
    }
    if (r->section == IN_NOTHING || r->depth >= DEEP) { return 1; }
    if (r->depth == 3) { need_object_list(r, false); } // a list among them
    if (r->depth < 4) { return 1; }
    if (in_segmentation(r) && r->depth == 4) { r->is_rle = false; }
    if (in_segmentation(r) && r->depth == 5 && !r->in_map[4]) {
        GROW(r->lengths, r->length_count);
        r->lengths[r->length_count++] = 0;
    }
    Field f = r->key[3];
    if (r->depth == 4 && (f == SEGMENTATION || f == SEGMENTS_INFO)) { r->record[0].have |= 1u << f; }
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

enum { BLOCK = 1 << 16, LONGEST = 16 };

// The next piece of the file as plain JSON; it ends at no letter, so that no name as NaN is cut. Returns its size.
static size_t read_piece(Reader *r, FILE *file, char *raw, char *plain, size_t *before, JsonString *state) {
    size_t n = fread(raw, 1, BLOCK, file);
    for (int c; n && n < BLOCK + LONGEST && isalpha((unsigned char)raw[n - 1]) && (c = getc(file)) != EOF;) {
        raw[n++] = (char)c;
    }
    size_t begin = *before == 0 ? text_begin(r->path, raw, n) : 0;
    *before += n;
    return json_plain(plain, raw + begin, n - begin, state);
}

static void parse_file(Reader *r) {
    FILE *file = fopen(r->path, "rb");
    if (!file) { die("%s: cannot be opened: %s", r->path, strerror(errno)); }
    char *raw = xmalloc(BLOCK + LONGEST), *plain = xmalloc(2 * (BLOCK + LONGEST));
    unsigned char *text = (unsigned char *)plain;
    JsonString state = {0};
    yajl_handle parser = yajl_alloc(&callbacks, NULL, r);
    size_t before = 0; // bytes of the file
    yajl_status status = yajl_status_ok;
    struct stat info = {0};
    fstat(fileno(file), &info);
    Progress progress = progress_work("reading", (long long)info.st_size);
    progress_phase(&progress, "%s", r->path);
    for (size_t n; status == yajl_status_ok && (n = read_piece(r, file, raw, plain, &before, &state)) > 0;) {
        status = yajl_parse(parser, text, n);
        progress.done = (long long)before;
        progress_update(&progress, progress.done);
        if (status != yajl_status_ok) { before += yajl_get_bytes_consumed(parser) - n; }
    }
    progress_end(&progress, progress.done);
    if (ferror(file)) { die("%s: cannot be read: %s", r->path, strerror(errno)); }
    bool whole = status == yajl_status_ok;
    if (whole) { status = yajl_complete_parse(parser); }
    if (status != yajl_status_ok) {
        char *reason = (char *)yajl_get_error(parser, 0, text, 0);
        reason[strcspn(reason, "\n")] = 0;
        die("%s: is not valid JSON: %s at byte %zu%s", r->path, reason, before, whole ? ", where the file ends" : "");
    }
    yajl_free(parser);
    free(plain);
    free(raw);
    fclose(file);
    for (Section s = IN_CATEGORIES; s <= IN_ANNOTATIONS; s++) {
        if (!(r->seen >> s & 1)) { die("%s: field \"%s\" is missing: expected a list", r->path, section_names[s]); }
    }
}

static void check_counts(const Reader *r) {
    const Coco *c = &r->coco;
    if (!c->category_count && left_out_any(c->left_out)) {
        die("%s: none of its categories can be used: %s", r->path, left_out_text(c->left_out));
    }
    if (!c->category_count) { die("%s: field \"categories\" is empty: expected at least one class", r->path); }
    if (!c->picture_count && left_out_any(c->left_out)) {
        die("%s: none of its pictures can be used: %s", r->path, left_out_text(c->left_out));
    }
}

Coco coco_read(const char *path, bool panoptic) {
    Reader *r = xcalloc(1, sizeof *r);
    r->path = path;
    r->coco.panoptic = panoptic;
    r->coco.path = xstrdup(path);
    r->coco.left_out = left_out_new();
    r->coco.computed = left_out_new();
    r->coco.texts_left_out = left_out_new();
    parse_file(r);
    coco_link(&r->coco, &r->links);
    check_counts(r);
    Coco coco = r->coco;
    coco.annotated = r->annotations > 0;
    if (!panoptic) { coco_derive(&coco); }
    coco.pool = xrealloc(coco.pool, (coco.pool_size + 1) * sizeof *coco.pool);
    free(r->links.segments);
    free(r->links.files);
    free(r->values);
    free(r->lengths);
    free(r);
    return coco;
}
