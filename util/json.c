#include "util/json.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// Python's json module writes what is not valid JSON: NaN, and -Infinity (diffusers does it in schedulers:
// "lambda_min_clipped": -Infinity).
size_t json_plain(char *out, const char *text, size_t size, JsonString *state) {
    static const char *const names[] = {"NaN", "Infinity"}, *const plain[] = {"null", "1e999"};
    char *to = out;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (state->inside) {
            state->inside = c != '"' || state->escape;
            state->escape = c == '\\' && !state->escape;
        } else if (c == 'N' || c == 'I') {
            int k = c == 'I';
            size_t length = strlen(names[k]);
            if (length <= size - i && memcmp(text + i, names[k], length) == 0) {
                to += sprintf(to, "%s", plain[k]);
                i += length - 1;
                continue;
            }
        } else {
            state->inside = c == '"';
        }
        *to++ = c;
    }
    return (size_t)(to - out);
}

enum { DEEPEST = 500 }; // yajl_tree_free calls itself for every level

static bool too_deep(const char *text) {
    bool inside = false;
    int depth = 0;
    for (; *text && depth <= DEEPEST; text++) {
        if (inside && *text == '\\' && text[1]) {
            text++;
        } else if (*text == '"') {
            inside = !inside;
        } else if (!inside) {
            depth += (*text == '[' || *text == '{') - (*text == ']' || *text == '}');
        }
    }
    return depth > DEEPEST;
}

yajl_val json_parse(const char *text, char *reason, size_t size) {
    if (!too_deep(text)) { return yajl_tree_parse(text, reason, size); }
    snprintf(reason, size, "its lists and objects are nested too deeply");
    return NULL;
}

Json json_read_any(const char *path) {
    size_t size;
    char *text = read_file(path, &size), *plain = xmalloc(2 * size + 1), reason[512];
    size_t begin = text_begin(path, text, size);
    plain[json_plain(plain, text + begin, size - begin, &(JsonString){0})] = 0;
    Json json = {.path = xstrdup(path), .root = json_parse(plain, reason, sizeof reason)};
    free(plain);
    free(text);
    if (!json.root) {
        reason[strcspn(reason, "\n")] = 0;
        die("%s: is not valid JSON (%s)", path, *reason ? reason : "it is empty or cut off");
    }
    return json;
}

Json json_read(const char *path) {
    Json json = json_read_any(path);
    if (!YAJL_IS_OBJECT(json.root)) { die("%s: is JSON, but no object", path); }
    return json;
}

void json_free(Json *json) {
    yajl_tree_free(json->root);
    free(json->path);
    *json = (Json){0};
}

yajl_val json_find(yajl_val object, const char *field) {
    size_t i = YAJL_IS_OBJECT(object) ? YAJL_GET_OBJECT(object)->len : 0;
    while (i > 0 && strcmp(YAJL_GET_OBJECT(object)->keys[i - 1], field) != 0) { i--; }
    yajl_val value = i > 0 ? YAJL_GET_OBJECT(object)->values[i - 1] : NULL;
    return value && !YAJL_IS_NULL(value) ? value : NULL;
}

yajl_val json_at(yajl_val value, const char *path) {
    char field[64];
    while (value && *path) {
        size_t length = strcspn(path, ".");
        snprintf(field, sizeof field, "%.*s", (int)length, path);
        value = json_find(value, field);
        path += length + (path[length] == '.');
    }
    return value;
}

double json_number_at(yajl_val object, const char *path) {
    yajl_val value = json_at(object, path);
    double number = value && YAJL_IS_NUMBER(value) ? strtod(YAJL_GET_NUMBER(value), NULL) : NAN;
    return isfinite(number) ? number : NAN;
}

const char *json_string_at(yajl_val object, const char *path) {
    yajl_val value = json_at(object, path);
    return value && YAJL_IS_STRING(value) ? YAJL_GET_STRING(value) : "";
}

static long long integer_in(const Json *json, const char *field, yajl_val value, long long low, long long high) {
    long long number = YAJL_GET_INTEGER(value);
    if (number < low || number > high) {
        die("%s: field \"%s\" has %lld, expected %lld to %lld", json->path, field, number, low, high);
    }
    return number;
}

long long json_integer(const Json *json, const char *field, long long fallback, long long low, long long high) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return fallback; }
    if (!YAJL_IS_INTEGER(value)) { die("%s: field \"%s\" is not an integer", json->path, field); }
    return integer_in(json, field, value, low, high);
}

double json_number(const Json *json, const char *field, double fallback) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return fallback; }
    double number = YAJL_IS_NUMBER(value) ? strtod(YAJL_GET_NUMBER(value), NULL) : NAN;
    if (!isfinite(number)) { die("%s: field \"%s\" is not a finite number", json->path, field); }
    return number;
}

bool json_boolean(const Json *json, const char *field, bool fallback) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return fallback; }
    if (!YAJL_IS_TRUE(value) && !YAJL_IS_FALSE(value)) {
        die("%s: field \"%s\" is not true or false", json->path, field);
    }
    return YAJL_IS_TRUE(value);
}

const char *json_string(const Json *json, const char *field, const char *fallback) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return fallback; }
    if (!YAJL_IS_STRING(value)) { die("%s: field \"%s\" is not a string", json->path, field); }
    return YAJL_GET_STRING(value);
}

int json_choice(const Json *json, const char *field, const char *const *names, int fallback) {
    const char *value = json_string(json, field, names[fallback]);
    char list[256] = "";
    for (int i = 0; names[i]; i++) {
        if (strcmp(value, names[i]) == 0) { return i; }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    die("%s: field \"%s\" is \"%s\", expected one of %s", json->path, field, value, list);
}

// Number of entries of a list of `what`, for which there are at most `capacity` places.
static int list_length(const Json *json, const char *field, yajl_val value, const char *what, int capacity) {
    if (!YAJL_IS_ARRAY(value)) { die("%s: field \"%s\" is not a list of %s", json->path, field, what); }
    size_t count = YAJL_GET_ARRAY(value)->len;
    if (count > (size_t)capacity) {
        die("%s: field \"%s\" has %zu entries, at most %d are supported", json->path, field, count, capacity);
    }
    return (int)count;
}

int json_integers(const Json *json, const char *field, int *values, int capacity, int low, int high) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return -1; }
    if (YAJL_IS_INTEGER(value)) {
        values[0] = (int)integer_in(json, field, value, low, high);
        return 1;
    }
    int count = list_length(json, field, value, "integers", capacity);
    for (int i = 0; i < count; i++) {
        yajl_val entry = YAJL_GET_ARRAY(value)->values[i];
        if (!YAJL_IS_INTEGER(entry)) { die("%s: field \"%s\" is not a list of integers", json->path, field); }
        values[i] = (int)integer_in(json, field, entry, low, high);
    }
    return count;
}

int json_strings(const Json *json, const char *field, const char **values, int capacity) {
    yajl_val value = json_find(json->root, field);
    if (!value) { return -1; }
    int count = list_length(json, field, value, "strings", capacity);
    for (int i = 0; i < count; i++) {
        yajl_val entry = YAJL_GET_ARRAY(value)->values[i];
        if (!YAJL_IS_STRING(entry)) { die("%s: field \"%s\" is not a list of strings", json->path, field); }
        values[i] = YAJL_GET_STRING(entry);
    }
    return count;
}

yajl_gen json_writer(void) {
    yajl_gen gen = yajl_gen_alloc(NULL);
    if (!gen) { die("out of memory: cannot allocate a JSON writer"); }
    yajl_gen_config(gen, yajl_gen_beautify, 1);
    yajl_gen_config(gen, yajl_gen_indent_string, "  ");
    return gen;
}

yajl_val json_written(yajl_gen gen) {
    const unsigned char *text;
    size_t size;
    yajl_gen_get_buf(gen, &text, &size);
    return yajl_tree_parse((const char *)text, NULL, 0);
}

bool json_try_write(yajl_gen gen, const char *path) {
    const unsigned char *text;
    size_t size;
    yajl_gen_get_buf(gen, &text, &size);
    bool written = try_atomic_write(path, text, size);
    yajl_gen_free(gen);
    return written;
}

void json_write(yajl_gen gen, const char *path) {
    if (!json_try_write(gen, path)) { die("%s: cannot be written: %s", path, strerror(errno)); }
}

// Bytes that are no UTF-8, e.g. of a path on the command line, become U+FFFD, because no reader takes them.
static void put_text(yajl_gen gen, const char *text) {
    char *valid = xmalloc(3 * strlen(text) + 1), *to = valid;
    for (utf8proc_int32_t code; *text;) {
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &code);
        memcpy(to, length > 0 ? text : "\xEF\xBF\xBD", length > 0 ? (size_t)length : 3);
        to += length > 0 ? length : 3;
        text += length > 0 ? length : 1;
    }
    yajl_gen_string(gen, (const unsigned char *)valid, (size_t)(to - valid));
    free(valid);
}

void json_key(yajl_gen gen, const char *key) {
    if (key) { put_text(gen, key); }
}

void json_open_map(yajl_gen gen, const char *key) {
    json_key(gen, key);
    yajl_gen_map_open(gen);
}

void json_open_list(yajl_gen gen, const char *key) {
    json_key(gen, key);
    yajl_gen_array_open(gen);
}

void json_put_string(yajl_gen gen, const char *key, const char *value) {
    json_key(gen, key);
    if (value) {
        put_text(gen, value);
    } else {
        yajl_gen_null(gen);
    }
}

void json_put_integer(yajl_gen gen, const char *key, long long value) {
    json_key(gen, key);
    yajl_gen_integer(gen, value);
}

void json_put_number(yajl_gen gen, const char *key, double value) {
    json_key(gen, key);
    if (!isfinite(value)) {
        yajl_gen_null(gen);
        return;
    }
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) { break; }
    }
    if (!strpbrk(text, ".e")) { strcat(text, ".0"); } // for readers that distinguish floats from integers
    yajl_gen_number(gen, text, strlen(text));
}

void json_put_boolean(yajl_gen gen, const char *key, bool value) {
    json_key(gen, key);
    yajl_gen_bool(gen, value);
}

void json_put_integers(yajl_gen gen, const char *key, const int *values, int count) {
    json_open_list(gen, key);
    for (int i = 0; i < count; i++) { yajl_gen_integer(gen, values[i]); }
    yajl_gen_array_close(gen);
}

void json_put_strings(yajl_gen gen, const char *key, const char *const *values, int count) {
    json_open_list(gen, key);
    for (int i = 0; i < count; i++) { put_text(gen, values[i]); }
    yajl_gen_array_close(gen);
}
