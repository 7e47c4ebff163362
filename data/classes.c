#include "data/classes.h"
#include "util/error.h"
#include "util/file.h"
#include <stdlib.h>
#include <string.h>

const char *const default_classes[DEFAULT_CLASS_COUNT] = {"car",     "dining table", "chair",  "train", "airplane",
                                                          "giraffe", "clock",        "toilet", "bed",   "bird",
                                                          "truck",   "cat",          "horse",  "dog"};

static void choose(const Coco *coco, bool *allowed, const char *name, const char *from) {
    int category = coco_find_category(coco, name);
    if (category < 0) {
        die("%s: class \"%s\" is none of the %d categories of %s", from, name, coco->category_count, coco->path);
    }
    allowed[category] = true;
}

// Names separated by one of `separators`, with blanks around them removed; empty ones are skipped.
static void choose_each(const Coco *coco, bool *allowed, char *text, const char *separators, const char *from) {
    char *rest = NULL;
    for (char *name = strtok_r(text, separators, &rest); name; name = strtok_r(NULL, separators, &rest)) {
        name += strspn(name, " \t\r");
        size_t length = strlen(name);
        while (length && strchr(" \t\r", name[length - 1])) { name[--length] = 0; }
        if (length) { choose(coco, allowed, name, from); }
    }
}

bool *classes_parse(const Coco *coco, const char *text, int *count) {
    bool *allowed = xcalloc((size_t)coco->category_count, sizeof *allowed);
    if (strcmp(text, "default14") == 0) {
        for (int i = 0; i < DEFAULT_CLASS_COUNT; i++) {
            choose(coco, allowed, default_classes[i], "--classes default14");
        }
    } else if (strcmp(text, "all") == 0 || strcmp(text, "all-things") == 0) {
        bool things_only = text[3] != 0;
        for (int i = 0; i < coco->category_count; i++) { allowed[i] = coco->categories[i].thing || !things_only; }
    } else if (text[0] == '@') {
        char *names = read_file(text + 1, NULL);
        choose_each(coco, allowed, names, "\n", text + 1);
        free(names);
    } else {
        char *names = xstrdup(text);
        choose_each(coco, allowed, names, ",", "--classes");
        free(names);
    }
    int chosen = 0;
    for (int i = 0; i < coco->category_count; i++) { chosen += allowed[i]; }
    if (!chosen) { die("--classes %s: names no class, expected %s", text, CLASSES_HELP); }
    if (count) { *count = chosen; }
    return allowed;
}
