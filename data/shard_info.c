// The attributes of a shard, from one table: written, read, compared.
#include "data/shard_info.h"
#include "util/error.h"
#include <stddef.h>
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

static const char *const target_names[] = {"", "overlay", "mask", "overlay,mask"}; // by TARGET_ bits

const char *const latent_names[LATENTS] = {"image_latent", "target_overlay", "target_mask"};

bool shard_has_latent(const ShardInfo *info, int latent) { return latent == LATENT_IMAGE || info->targets & latent; }

void shard_info_classes(ShardInfo *info, int count, const char *const *names) {
    info->class_count = count;
    info->classes = xcalloc((size_t)count, sizeof *info->classes);
    info->trained = xcalloc((size_t)count, 1);
    info->sampled = xcalloc((size_t)count, 1);
    for (int i = 0; i < count; i++) { info->classes[i] = xstrdup(names[i]); }
}

ShardInfo shard_info_copy(const ShardInfo *info) {
    ShardInfo copy = *info;
    shard_info_classes(&copy, info->class_count, (const char *const *)info->classes);
    memcpy(copy.trained, info->trained, (size_t)info->class_count);
    memcpy(copy.sampled, info->sampled, (size_t)info->class_count);
    return copy;
}

void shard_info_free(ShardInfo *info) {
    for (int i = 0; i < info->class_count; i++) { free(info->classes[i]); }
    free(info->classes);
    free(info->trained);
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
        snprintf(text, 128, "\"%s\"", target_names[*ints & 3]);
        break;
    }
}

static bool classes_differ(const ShardInfo *a, const ShardInfo *b, char a_text[128], char b_text[128]) {
    snprintf(a_text, 128, "%d names", a->class_count);
    snprintf(b_text, 128, "%d names", b->class_count);
    if (a->class_count != b->class_count) { return true; }
    for (int i = 0; i < a->class_count; i++) {
        snprintf(a_text, 128, "\"%s\" at %d", a->classes[i], i);
        snprintf(b_text, 128, "\"%s\" at %d", b->classes[i], i);
        if (strcmp(a->classes[i], b->classes[i]) != 0) { return true; }
    }
    return false;
}

static bool flags_differ(const ShardInfo *a, const uint8_t *a_flags, const uint8_t *b_flags, char a_text[128],
                         char b_text[128]) {
    for (int i = 0; i < a->class_count; i++) {
        snprintf(a_text, 128, "%d for \"%s\"", a_flags[i], a->classes[i]);
        snprintf(b_text, 128, "%d for \"%s\"", b_flags[i], a->classes[i]);
        if (a_flags[i] != b_flags[i]) { return true; }
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
    if (classes_differ(a, b, a_text, b_text)) { return "classes"; }
    if (flags_differ(a, a->trained, b->trained, a_text, b_text)) { return "trained"; }
    if (flags_differ(a, a->sampled, b->sampled, a_text, b_text)) { return "drawn"; }
    snprintf(a_text, 128, "(%d, %d, %d)", a->height, a->width, a->channels);
    snprintf(b_text, 128, "(%d, %d, %d)", b->height, b->width, b->channels);
    return strcmp(a_text, b_text) != 0 ? "shape of the latents" : NULL;
}

// Texts have a fixed length (the longest of a list), because HDF5 does not checksum texts of variable length with the
// metadata. h5py returns them as bytes.
static hid_t text_type(size_t length) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, length ? length : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
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
    size_t length = 1, all = count ? (size_t)count : 1;
    for (size_t i = 0; i < all; i++) { length = strlen(texts[i]) > length ? strlen(texts[i]) : length; }
    char *padded = xcalloc(all, length);
    for (size_t i = 0; i < all; i++) { memcpy(padded + i * length, texts[i], strlen(texts[i])); }
    hid_t type = text_type(length);
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
            const char *text = a->kind == TARGETS ? target_names[info->targets & 3] : field;
            put_texts(file, a->name, 0, &text);
        } else {
            NumberType type = number_type(a->kind);
            put(file, a->name, type.stored, type.native, type.count, field);
        }
    }
    put_texts(file, "classes", info->class_count, (const char *const *)info->classes);
    put(file, "trained", H5T_STD_U8LE, H5T_NATIVE_UINT8, info->class_count, info->trained);
    put(file, "drawn", H5T_STD_U8LE, H5T_NATIVE_UINT8, info->class_count, info->sampled);
}

// Opens an attribute of `count` values (0: one, no list; -1: a list of any length, which is returned in *length).
static hid_t find(const char *path, hid_t file, const char *name, H5T_class_t class, int count, int *length) {
    if (H5Aexists(file, name) <= 0) {
        die("%s: attribute \"%s\" is missing: not a shard of `cocogold encode`", path, name);
    }
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) { h5_die(path, "attribute \"%s\" cannot be opened", name); }
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    bool right = H5Tget_class(type) == class && (class != H5T_STRING || H5Tis_variable_str(type) == 0);
    if (!right) {
        die("%s: attribute \"%s\" has the wrong type, expected %s", path, name,
            class == H5T_STRING  ? "text of fixed length"
            : class == H5T_FLOAT ? "float"
                                 : "integer");
    }
    hsize_t dims[H5S_MAX_RANK] = {0};
    int rank = H5Sget_simple_extent_dims(space, dims, NULL);
    if (rank != (count != 0) || (count > 0 && (int)dims[0] != count) ||
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

// The texts of an attribute, each ended by a zero byte. The caller frees the texts and the list. count as in find.
static char **get_texts(const char *path, hid_t file, const char *name, int count, int *found) {
    hid_t attribute = find(path, file, name, H5T_STRING, count, found);
    hid_t stored = H5Aget_type(attribute);
    size_t length = H5Tget_size(stored), all = count ? (size_t)*found : 1;
    hid_t type = text_type(length);
    char *padded = xmalloc(all * length), **texts = xcalloc(all, sizeof *texts);
    if (H5Aread(attribute, type, padded) < 0) { h5_die(path, "attribute \"%s\" cannot be read", name); }
    for (size_t i = 0; i < all; i++) { texts[i] = xprintf("%.*s", (int)length, padded + i * length); }
    free(padded);
    H5Tclose(type);
    H5Tclose(stored);
    H5Aclose(attribute);
    return texts;
}

static void get_text(const char *path, hid_t file, const Attribute *a, ShardInfo *info) {
    char **text = get_texts(path, file, a->name, 0, NULL);
    if (a->kind == TARGETS) {
        info->targets = 3;
        while (info->targets && strcmp(*text, target_names[info->targets]) != 0) { info->targets--; }
        if (!info->targets) {
            die("%s: attribute \"targets\" is \"%s\", expected overlay, mask or overlay,mask", path, *text);
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
    get(path, file, "trained", H5T_INTEGER, H5T_NATIVE_UINT8, count, info->trained);
    get(path, file, "drawn", H5T_INTEGER, H5T_NATIVE_UINT8, count, info->sampled);
}

ShardInfo shard_info_read(const char *path, hid_t file) {
    ShardInfo info = {0};
    for (int i = 0; i < ATTRIBUTES; i++) {
        const Attribute *a = &attributes[i];
        if (is_text(a)) {
            get_text(path, file, a, &info);
        } else {
            NumberType type = number_type(a->kind);
            get(path, file, a->name, type.class, type.native, type.count, (char *)&info + a->offset);
        }
    }
    get_classes(path, file, &info);
    if (info.resolution < 1 || info.resolution > 1 << 15) {
        die("%s: attribute \"resolution\" is %d, expected 1 to 32768", path, info.resolution);
    }
    return info;
}
