#include "data/texts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// The slot that holds a text or would hold it.
static size_t slot_of(const TextTable *t, const char *text) {
    size_t at = (size_t)text_hash(text, strlen(text)) & (t->slot_count - 1);
    while (t->slots[at] && strcmp(t->texts[t->slots[at] - 1], text) != 0) { at = (at + 1) & (t->slot_count - 1); }
    return at;
}

// Keeps at least half of the slots free.
static void make_room(TextTable *t) {
    if (2 * ((size_t)t->count + 1) <= t->slot_count) { return; }
    t->slot_count = t->slot_count ? 2 * t->slot_count : 128;
    free(t->slots);
    t->slots = xcalloc(t->slot_count, sizeof *t->slots);
    for (int i = 0; i < t->count; i++) { t->slots[slot_of(t, t->texts[i])] = i + 1; }
}

int text_table_add(TextTable *t, const char *text) {
    if (t->count > INT_MAX / 4) { die("more than %d distinct texts are too many", INT_MAX / 4); }
    make_room(t);
    size_t slot = slot_of(t, text);
    if (!t->slots[slot]) {
        GROW(t->texts, t->count);
        t->texts[t->count++] = xstrdup(text);
        t->slots[slot] = t->count;
    }
    return t->slots[slot] - 1;
}

void text_table_add_lines(TextTable *t, const char *path, const char *what) {
    size_t size;
    char *text = read_file(path, &size), *rest = text + text_begin(path, text, size);
    bool any = false;
    for (char *line; (line = strsep(&rest, "\n"));) {
        line = text_trim(line);
        if (*line) { text_table_add(t, line); }
        any |= *line != 0;
    }
    if (!any) { die("%s: is empty, expected %s, one a line", path, what); }
    free(text);
}

void text_table_free(TextTable *t) {
    for (int i = 0; i < t->count; i++) { free(t->texts[i]); }
    free(t->texts);
    free(t->slots);
    *t = (TextTable){0};
}

const char *text_problem(const char *text) {
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    if (strlen(text) > TEXT_BYTES) { return "has more than 4096 bytes"; }
    for (utf8proc_int32_t code; *p;) {
        utf8proc_ssize_t length = utf8proc_iterate(p, -1, &code);
        if (length <= 0) { return "is not valid UTF-8"; }
        p += length;
    }
    return NULL;
}
