// What is left out of a data set because it cannot be used: counted by kind, with all ids. The first of each kind are
// named at the end, all in the JSON beside a result. One bad annotation never decides over a whole file.
#pragma once
#include "util/json.h"
#include <stdbool.h>

typedef struct LeftOut LeftOut;

LeftOut *left_out_new(void);
void left_out_free(LeftOut *list);
// Adds one. kind: a constant as "annotations without a mask"; id: copied; why: a sentence that is printed with the
// first one, or NULL. Thread-safe.
void left_out_add(LeftOut *list, const char *kind, const char *id, const char *why);
// The same unless this id of this kind is there already: a picture may be met many times.
void left_out_once(LeftOut *list, const char *kind, const char *id, const char *why);
long long left_out_count(const LeftOut *list, const char *kind);
// Prints a warning "FILE: left out: 2 annotations without a mask (4, 17), ..." for what was added since the last call.
// verb: "left out".
void left_out_say(LeftOut *list, const char *path, const char *verb);
// The same text of all kinds, for the end of a sentence; the caller frees it.
char *left_out_text(LeftOut *list);
bool left_out_any(const LeftOut *list);
// "left_out": {"annotations without a mask": ["4", "17"], ...}; nothing where nothing was left out.
void left_out_put(const LeftOut *list, yajl_gen gen, const char *key);
