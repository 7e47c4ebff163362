// The attributes of a shard, from one table: written, read, compared.
#include "data/shard_info.h"
#include "data/h5_text.h"
#include "util/error.h"
#include "util/text.h"
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TEXT, INT, INT3, LONG, DOUBLE, TARGETS } Kind;

typedef struct {
    const char *name;
    Kind kind;
    size_t offset, size;
    bool agrees; // has one value in a whole folder
} Attribute;

#define ATTRIBUTE(name, kind, agrees)                                                                                  \
    { #name, kind, offsetof(ShardInfo, name), sizeof(((ShardInfo *)0)->name), agrees }
static const Attribute attributes[] = {
    ATTRIBUTE(split, TEXT, true),      ATTRIBUTE(source, TEXT, true),
    ATTRIBUTE(vae_sha256, TEXT, true), ATTRIBUTE(annotations_sha256, TEXT, true),
    ATTRIBUTE(precision, TEXT, true),  ATTRIBUTE(version, TEXT, true),
    ATTRIBUTE(resolution, INT, true),  ATTRIBUTE(color, INT3, true),
    ATTRIBUTE(alpha, DOUBLE, true),    ATTRIBUTE(outline, DOUBLE, true),
    ATTRIBUTE(absent, DOUBLE, true),   ATTRIBUTE(min_side, INT, true),
    ATTRIBUTE(passes, INT, true),      ATTRIBUTE(shards, INT, true),
    ATTRIBUTE(seed, LONG, true),       ATTRIBUTE(targets, TARGETS, true),
    ATTRIBUTE(pass, INT, false),       ATTRIBUTE(first_picture, LONG, false),
    ATTRIBUTE(pictures, LONG, false),
};
enum { ATTRIBUTES = sizeof attributes / sizeof *attributes };

const char *const target_names[] = {"overlay", "mask", NULL};
static const char *const target_sets[] = {"none", "overlay", "mask", "overlay,mask"}; // by TARGET_ bits

const char *const latent_names[LATENTS] = {"image_latent", "target_overlay", "target_mask"};

bool shard_has_latent(const ShardInfo *info, int latent) { return latent == LATENT_IMAGE || info->targets & latent; }

PaintText shard_paint(const ShardInfo *info, int target) {
    PaintText paint = {""};
    const int *c = info->color;
    if (target == TARGET_OVERLAY) {
        snprintf(paint.text, sizeof paint.text, "--color %d,%d,%d --alpha %.9g --outline %.9g", c[0], c[1], c[2],
                 info->alpha, info->outline);
    } else if (target == TARGET_MASK) {
        snprintf(paint.text, sizeof paint.text, "--outline %.9g", info->outline);
    }
    return paint;
}

void shard_info_classes(ShardInfo *info, int count, const char *const *names) {
    info->class_count = count;
    info->classes = xcalloc((size_t)count, sizeof *info->classes);
    info->sampled = xcalloc((size_t)count, 1);
    for (int i = 0; i < count; i++) { info->classes[i] = text_trimmed(names[i]); }
}

void shard_info_kinds(ShardInfo *info, int count, const char *const *names) {
    info->kind_count = count;
    info->kinds = count ? xcalloc((size_t)count, sizeof *info->kinds) : NULL;
    for (int i = 0; i < count; i++) { info->kinds[i] = xstrdup(names[i]); }
}

bool shard_has_texts(const ShardInfo *info) { return info->text_source[0] != 0; }

ShardInfo shard_info_copy(const ShardInfo *info) {
    ShardInfo copy = *info;
    shard_info_classes(&copy, info->class_count, (const char *const *)info->classes);
    memcpy(copy.sampled, info->sampled, (size_t)info->class_count);
    shard_info_kinds(&copy, info->kind_count, (const char *const *)info->kinds);
    return copy;
}

void shard_info_free(ShardInfo *info) {
    for (int i = 0; i < info->class_count; i++) { free(info->classes[i]); }
    for (int i = 0; i < info->kind_count; i++) { free(info->kinds[i]); }
    free(info->classes);
    free(info->kinds);
    free(info->sampled);
    *info = (ShardInfo){0};
}

static void attribute_text(const ShardInfo *info, const Attribute *a, char text[128]) {
    const void *field = (const char *)info + a->offset;
    const int *ints = field;
    switch (a->kind) {
    case TEXT:
        snprintf(text, 128, "\"%s\"", (const char *)field);
        break;
    case INT:
        snprintf(text, 128, "%d", *ints);
        break;
    case INT3:
        snprintf(text, 128, "%d,%d,%d", ints[0], ints[1], ints[2]);
        break;
    case LONG:
        snprintf(text, 128, "%lld", *(const long long *)field);
        break;
    case DOUBLE:
        snprintf(text, 128, "%.9g", *(const double *)field);
        break;
    case TARGETS:
        snprintf(text, 128, "\"%s\"", target_sets[*ints & 3]);
        break;
    }
}

static bool names_differ(char *const *a, int a_count, char *const *b, int b_count, char a_text[128], char b_text[128]) {
    snprintf(a_text, 128, "%d names", a_count);
    snprintf(b_text, 128, "%d names", b_count);
    if (a_count != b_count) { return true; }
    for (int i = 0; i < a_count; i++) {
        snprintf(a_text, 128, "\"%s\" at %d", a[i], i);
        snprintf(b_text, 128, "\"%s\" at %d", b[i], i);
        if (strcmp(a[i], b[i]) != 0) { return true; }
    }
    return false;
}

static bool drawn_differ(const ShardInfo *a, const ShardInfo *b, char a_text[128], char b_text[128]) {
    for (int i = 0; i < a->class_count; i++) {
        snprintf(a_text, 128, "%d for \"%s\"", a->sampled[i], a->classes[i]);
        snprintf(b_text, 128, "%d for \"%s\"", b->sampled[i], a->classes[i]);
        if (a->sampled[i] != b->sampled[i]) { return true; }
    }
    return false;
}

const char *shard_info_difference(const ShardInfo *a, const ShardInfo *b, bool same, char a_text[128],
                                  char b_text[128]) {
    for (int i = 0; i < ATTRIBUTES; i++) {
        if (!attributes[i].agrees && !same) { continue; }
        attribute_text(a, &attributes[i], a_text);
        attribute_text(b, &attributes[i], b_text);
        if (strcmp(a_text, b_text) != 0) { return attributes[i].name; }
    }
    if (names_differ(a->classes, a->class_count, b->classes, b->class_count, a_text, b_text)) { return "classes"; }
    if (drawn_differ(a, b, a_text, b_text)) { return "drawn"; }
    snprintf(a_text, 128, "\"%s\"", a->text_source);
    snprintf(b_text, 128, "\"%s\"", b->text_source);
    if (strcmp(a_text, b_text) != 0) { return "text_source"; }
    snprintf(a_text, 128, "\"%s\"", a->texts_sha256);
    snprintf(b_text, 128, "\"%s\"", b->texts_sha256);
    if (strcmp(a_text, b_text) != 0) { return "texts_sha256"; }
    if (names_differ(a->kinds, a->kind_count, b->kinds, b->kind_count, a_text, b_text)) { return "kinds"; }
    snprintf(a_text, 128, "(%d, %d, %d)", a->height, a->width, a->channels);
    snprintf(b_text, 128, "(%d, %d, %d)", b->height, b->width, b->channels);
    return strcmp(a_text, b_text) != 0 ? "shape of the latents" : NULL;
}

static void put(hid_t file, const char *name, hid_t stored, hid_t given, int count, const void *values) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count ? H5Screate_simple(1, dims, NULL) : H5Screate(H5S_SCALAR); // count 0: one value, no list
    hid_t attribute = H5Acreate2(file, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, given, values) < 0) { h5_die(name, "this attribute cannot be written"); }
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_texts(hid_t file, const char *name, int count, const char *const *texts) {
    size_t length;
    char *padded = h5_text_pack(texts, count ? (size_t)count : 1, &length);
    hid_t type = h5_text_type(length);
    put(file, name, type, type, count, padded);
    H5Tclose(type);
    free(padded);
}

// How a number is stored, its type in memory, and the count (0: one value, no list).
typedef struct {
    hid_t stored, native;
    H5T_class_t class;
    int count;
} NumberType;

static NumberType number_type(Kind kind) {
    switch (kind) {
    case LONG:
        return (NumberType){H5T_STD_I64LE, H5T_NATIVE_LLONG, H5T_INTEGER, 0};
    case DOUBLE:
        return (NumberType){H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, H5T_FLOAT, 0};
    default:
        return (NumberType){H5T_STD_I32LE, H5T_NATIVE_INT, H5T_INTEGER, kind == INT3 ? 3 : 0};
    }
}

static bool is_text(const Attribute *a) { return a->kind == TEXT || a->kind == TARGETS; }

void shard_info_write(const ShardInfo *info, hid_t file) {
    for (int i = 0; i < ATTRIBUTES; i++) {
        const Attribute *a = &attributes[i];
        const void *field = (const char *)info + a->offset;
        if (is_text(a)) {
            const char *text = a->kind == TARGETS ? target_sets[info->targets & 3] : field;
            put_texts(file, a->name, 0, &text);
        } else {
            NumberType type = number_type(a->kind);
            put(file, a->name, type.stored, type.native, type.count, field);
        }
    }
    put_texts(file, "classes", info->class_count, (const char *const *)info->classes);
    put(file, "drawn", H5T_STD_U8LE, H5T_NATIVE_UINT8, info->class_count, info->sampled);
    if (shard_has_texts(info)) {
        const char *source = info->text_source, *digest = info->texts_sha256;
        put_texts(file, "text_source", 0, &source);
        if (*digest) { put_texts(file, "texts_sha256", 0, &digest); }
    }
    if (info->kind_count) { put_texts(file, "kinds", info->kind_count, (const char *const *)info->kinds); }
}

// Opens an attribute of `count` values (0: one, no list; -1: a list of any length, which is returned in *length).
static hid_t find(const char *path, hid_t file, const char *name, H5T_class_t class, int count, int *length) {
    if (H5Aexists(file, name) <= 0) {
        die("%s: attribute \"%s\" is missing: not a shard of `cocogold encode`", path, name);
    }
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) { h5_die(path, "attribute \"%s\" cannot be opened", name); }
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    if (H5Tget_class(type) != class) {
        die("%s: attribute \"%s\" has the wrong type, expected %s", path, name,
            class == H5T_STRING  ? "text"
            : class == H5T_FLOAT ? "float"
                                 : "integer");
    }
    hsize_t dims[H5S_MAX_RANK] = {0};
    int rank = H5Sget_simple_extent_dims(space, dims, NULL);
    if (rank != (count != 0) || (count > 0 && dims[0] != (hsize_t)count) ||
        (count < 0 && (dims[0] < 1 || dims[0] > 32767))) {
        die("%s: attribute \"%s\" has the wrong number of values", path, name);
    }
    if (length) { *length = (int)dims[0]; }
    H5Sclose(space);
    H5Tclose(type);
    return attribute;
}

static void get(const char *path, hid_t file, const char *name, H5T_class_t class, hid_t given, int count,
                void *values) {
    hid_t attribute = find(path, file, name, class, count, NULL);
    if (H5Aread(attribute, given, values) < 0) { h5_die(path, "attribute \"%s\" cannot be read", name); }
    H5Aclose(attribute);
}

// The texts of an attribute. The caller frees the texts and the list. count as in find.
static char **get_texts(const char *path, hid_t file, const char *name, int count, int *found) {
    hid_t attribute = find(path, file, name, H5T_STRING, count, found);
    char **texts = h5_text_read(attribute, count ? (size_t)*found : 1);
    if (!texts) { h5_die(path, "attribute \"%s\" cannot be read", name); }
    H5Aclose(attribute);
    return texts;
}

static void get_text(const char *path, hid_t file, const Attribute *a, ShardInfo *info) {
    char **text = get_texts(path, file, a->name, 0, NULL);
    if (a->kind == TARGETS) {
        info->targets = 3;
        while (info->targets >= 0 && strcmp(*text, target_sets[info->targets]) != 0) { info->targets--; }
        if (info->targets < 0) {
            die("%s: attribute \"targets\" is \"%s\", expected none, overlay, mask or overlay,mask", path, *text);
        }
    } else {
        if (strlen(*text) >= a->size) { die("%s: attribute \"%s\" is too long", path, a->name); }
        strcpy((char *)info + a->offset, *text);
    }
    free(*text);
    free(text);
}

static void get_classes(const char *path, hid_t file, ShardInfo *info) {
    int count;
    char **names = get_texts(path, file, "classes", -1, &count);
    shard_info_classes(info, count, (const char *const *)names);
    for (int i = 0; i < count; i++) { free(names[i]); }
    free(names);
    get(path, file, "drawn", H5T_INTEGER, H5T_NATIVE_UINT8, count, info->sampled);
}

// What shards without texts or kinds lack.
static void get_optional(const char *path, hid_t file, ShardInfo *info) {
    if (H5Lexists(file, "text", H5P_DEFAULT) > 0) {
        static const Attribute optional[] = {ATTRIBUTE(text_source, TEXT, true), ATTRIBUTE(texts_sha256, TEXT, true)};
        snprintf(info->text_source, sizeof info->text_source, "given");
        for (int i = 0; i < 2; i++) {
            if (H5Aexists(file, optional[i].name) > 0) { get_text(path, file, &optional[i], info); }
        }
    }
    if (H5Lexists(file, "kind", H5P_DEFAULT) > 0) {
        info->kinds = get_texts(path, file, "kinds", -1, &info->kind_count);
        if (info->kind_count > 256) { die("%s: attribute \"kinds\" has more than 256 names", path); }
    }
}

ShardInfo shard_info_read(const char *path, hid_t file) {
    ShardInfo info = {0};
    for (int i = 0; i < ATTRIBUTES; i++) {
        const Attribute *a = &attributes[i];
        if (is_text(a)) {
            get_text(path, file, a, &info);
        } else {
            NumberType type = number_type(a->kind);
            void *field = (char *)&info + a->offset;
            get(path, file, a->name, type.class, type.native, type.count, field);
            if (a->kind == DOUBLE && !isfinite(*(double *)field)) {
                die("%s: attribute \"%s\" is not a finite number", path, a->name);
            }
        }
    }
    get_classes(path, file, &info);
    get_optional(path, file, &info);
    if (info.resolution < 1 || info.resolution > 1 << 15) {
        die("%s: attribute \"resolution\" is %d, expected 1 to 32768", path, info.resolution);
    }
    return info;
}
