#include "data/classes.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <stdlib.h>
#include <string.h>

const char *const default_classes[DEFAULT_CLASS_COUNT] = {"car",     "dining table", "chair",  "train", "airplane",
                                                          "giraffe", "clock",        "toilet", "bed",   "bird",
                                                          "truck",   "cat",          "horse",  "dog"};

// The names to choose from.
typedef struct {
    const char *where; // file or folder, for messages
    int count;
    const char *const *names;
    const Coco *coco; // says which classes are things; NULL: all are
} Names;

static int find(const Names *n, const char *name) { // n->count: it is not there
    int i = 0;
    while (i < n->count && strcmp(n->names[i], name) != 0) { i++; }
    return i;
}

static void choose(const Names *n, bool *flags, const char *name, const char *from, const char *instead) {
    int i = find(n, name);
    if (i == n->count) {
        die("%s: class \"%s\" is not among the %d categories of %s%s", from, name, n->count, n->where, instead);
    }
    flags[i] = true;
}

// Names separated by one of `separators`. Names are trimmed; empty ones are skipped.
static void choose_each(const Names *n, bool *flags, char *text, const char *separators, const char *from) {
    char *rest = NULL;
    for (char *name = strtok_r(text, separators, &rest); name; name = strtok_r(NULL, separators, &rest)) {
        name = text_trim(name);
        if (*name) { choose(n, flags, name, from, ""); }
    }
}

static bool *parse(const Names *n, const char *option, const char *text, int *count) {
    bool *flags = xcalloc((size_t)n->count + 1, sizeof *flags);
    if (strcmp(text, "default14") == 0) {
        char *from = xprintf("%s default14", option);
        for (int i = 0; i < DEFAULT_CLASS_COUNT; i++) {
            choose(n, flags, default_classes[i], from, ": expected all, or a LIST of its names");
        }
        free(from);
    } else if (strcmp(text, "all") == 0 || strcmp(text, "all-things") == 0) {
        bool things_only = text[3] != 0;
        for (int i = 0; i < n->count; i++) { flags[i] = !things_only || !n->coco || n->coco->categories[i].thing; }
    } else if (text[0] == '@') {
        size_t size;
        char *names = read_file(text + 1, &size);
        text_begin(text + 1, names, size); // dies if it is UTF-16; UTF-8's mark is trimmed with the blanks
        choose_each(n, flags, names, "\n", text + 1);
        free(names);
    } else {
        char *names = xstrdup(text);
        choose_each(n, flags, names, ",", option);
        free(names);
    }
    int chosen = 0;
    for (int i = 0; i < n->count; i++) { chosen += flags[i]; }
    if (!chosen) { die("%s %s: names no class, expected %s", option, text, CLASSES_HELP); }
    if (count) { *count = chosen; }
    return flags;
}

bool *classes_parse(const Coco *coco, const char *option, const char *text, int *count) {
    const char **names = coco_class_names(coco);
    bool *flags = parse(&(Names){coco->path, coco->category_count, names, coco}, option, text, count);
    free(names);
    return flags;
}

bool *classes_to_encode(const Coco *coco, const char *list, bool train, bool texts) {
    static const char option[] = "the default of --classes,";
    if (list) { return classes_parse(coco, "--classes", list, NULL); }
    if (texts || !train) { return classes_parse(coco, option, texts ? "all" : "all-things", NULL); }
    Path seen = path_of("@%s/classes/seen.txt", coco->folder);
    return classes_parse(coco, option, file_exists(seen.text + 1) ? seen.text : "default14", NULL);
}

bool *classes_of_names(char *const *names, int name_count, const char *where, const char *option, const char *text) {
    return parse(&(Names){where, name_count, (const char *const *)names, NULL}, option, text, NULL);
}
