// JSON files. Small files are read as a tree (yajl_tree); the lookups die with a sentence that names the file, the
// field and the expected value. data/coco_json.c streams the huge annotation files itself, with yajl_parse. yajl_gen
// writes.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <yajl/yajl_gen.h>
#include <yajl/yajl_tree.h>

typedef struct {
    char *path; // named in every message
    yajl_val root;
} Json;

Json json_read(const char *path);     // dies if it cannot be read or parsed, or is no object
Json json_read_any(const char *path); // likewise, but it may be a list
// The tree of a text; NULL and a reason where it is not valid JSON, or nested more than 500 deep.
yajl_val json_parse(const char *text, char *reason, size_t size);
void json_free(Json *json);

// What Python's json module writes, as plain JSON: NaN becomes null, Infinity 1e999, which overflows to infinity. A
// text may come in pieces that end at no letter; the state between them begins with {0}. out: 2 * size bytes. Returns
// its size.
typedef struct {
    bool inside, escape; // a string; after a backslash in it
} JsonString;
size_t json_plain(char *out, const char *text, size_t size, JsonString *state);

// The value at a field of an object, or NULL where the field is missing or null. Of a field given twice the last
// counts.
yajl_val json_find(yajl_val object, const char *field);

// The value at a path of fields, such as "seen.floors.centre_box.miou", under an object: NULL, NaN or "" where there is
// none of that kind. Numbers that are not finite are NaN.
yajl_val json_at(yajl_val object, const char *path);
double json_number_at(yajl_val object, const char *path);
const char *json_string_at(yajl_val object, const char *path);

// Values of the root object's fields. A missing or null field gives `fallback`; a field of the wrong type, an integer
// outside of [low, high] or a number that is not finite dies.
long long json_integer(const Json *json, const char *field, long long fallback, long long low, long long high);
double json_number(const Json *json, const char *field, double fallback);
bool json_boolean(const Json *json, const char *field, bool fallback);
const char *json_string(const Json *json, const char *field, const char *fallback); // lives as long as the tree
// The index of a string's value in the NULL-terminated list of names; dies, and lists them, if it is none of them.
int json_choice(const Json *json, const char *field, const char *const *names, int fallback);
// Fill values[0..capacity) and return the count, or -1 if the field is missing or null. Die if the list is longer, or
// if an entry is of another type or outside of [low, high]. A single integer counts as a list of one.
int json_integers(const Json *json, const char *field, int *values, int capacity, int low, int high);
int json_strings(const Json *json, const char *field, const char **values, int capacity);

yajl_gen json_writer(void); // a generator that indents with two spaces
// Writes the generator's buffer to path (atomically) with a final newline and frees the generator.
void json_write(yajl_gen gen, const char *path);
bool json_try_write(yajl_gen gen, const char *path); // false, with errno: it cannot be written
yajl_val json_written(yajl_gen gen);                 // the tree of what a generator holds, as a reader of it gets it
// Shorthands for generators: a key with what begins under it, or with a value. key NULL: in a list, or at the root.
void json_open_map(yajl_gen gen, const char *key);
void json_open_list(yajl_gen gen, const char *key);
void json_key(yajl_gen gen, const char *key);
void json_put_string(yajl_gen gen, const char *key, const char *value); // value NULL writes null
void json_put_integer(yajl_gen gen, const char *key, long long value);
void json_put_number(yajl_gen gen, const char *key, double value); // shortest exact form, 1 as 1.0; NaN: null
void json_put_boolean(yajl_gen gen, const char *key, bool value);
void json_put_integers(yajl_gen gen, const char *key, const int *values, int count);
void json_put_strings(yajl_gen gen, const char *key, const char *const *values, int count);
