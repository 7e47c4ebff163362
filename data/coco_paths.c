#include "data/coco_paths.h"
#include "util/error.h"
#include "util/file.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

// "/a/b", "C:/a/b" and "//server/a".
static bool is_absolute(const char *name) {
    return name[0] == '/' || (isalpha((unsigned char)name[0]) && name[1] == ':' && name[2] == '/');
}

// Whether a name is of another machine or place unless it is a file here: absolute, a URL, or of a folder above.
static bool is_foreign(const char *name) {
    return is_absolute(name) || strstr(name, "://") || strncmp(name, "../", 3) == 0;
}

static bool has_parent(const char *name) {
    for (const char *at = name; (at = strstr(at, "..")); at += 2) {
        if ((at == name || at[-1] == '/') && (at[2] == '/' || !at[2])) { return true; }
    }
    return false;
}

// What follows "SPLIT/" at the start of a name, also with or without the year that COCO's splits have; NULL: no split,
// or a path that leads out of it.
static const char *after_split(const Coco *coco, const char *name) {
    static const char year[] = "2017";
    size_t length = strlen(coco->split), bare = length;
    if (length > 4 && strcmp(coco->split + length - 4, year) == 0) { bare -= 4; }
    if (strncmp(name, coco->split, bare) != 0) { return NULL; }
    name += bare;
    if (strncmp(name, year, 4) == 0) { name += 4; }
    return *name == '/' && name[1] && !has_parent(name) ? name + 1 : NULL;
}

// Takes a path that is a file, and frees any other.
static bool take(char **found, char *path) {
    if (!*found && file_exists(path)) {
        *found = path;
        return true;
    }
    free(path);
    return *found != NULL;
}

static bool look_for(const Coco *coco, const char *name, char **found) {
    take(found, xprintf("%s/%s", coco->pictures_folder, name));
    if (*found || !coco->folder) { return *found; }
    if (is_absolute(name)) { take(found, xstrdup(name)); }
    const char *rest = after_split(coco, name);
    if (rest) { take(found, xprintf("%s/%s", coco->pictures_folder, rest)); }
    take(found, xprintf("%s/%s", coco->folder, name));
    return take(found, xprintf("%s/images/%s", coco->folder, name));
}

static char *with_slashes(const char *name) {
    char *copy = xstrdup(name);
    for (char *c = copy; *c; c++) {
        if (*c == '\\') { *c = '/'; }
    }
    return copy;
}

// NULL: no try is a file.
static char *find_picture(const Coco *coco, const Picture *p) {
    enum { ID_AND_ENDING = 16 }; // of "COCO_train2014_000000391895.jpg": the whole name since 2017
    const char *name = p->file_name;
    size_t length = strlen(name);
    char *found = NULL, *slashes = strchr(name, '\\') ? with_slashes(name) : NULL;
    if (!look_for(coco, name, &found) && slashes) { look_for(coco, slashes, &found); }
    if (!found && p->url_name) { look_for(coco, p->url_name, &found); }
    if (!found && length > ID_AND_ENDING && strncmp(name, "COCO_", 5) == 0 && !strchr(name, '/')) {
        take(&found, xprintf("%s/%s", coco->pictures_folder, name + length - ID_AND_ENDING));
    }
    free(slashes);
    return found;
}

char *coco_picture_path(const Coco *coco, int picture) {
    const Picture *p = &coco->pictures[picture];
    char *found = find_picture(coco, p);
    if (found) { return found; }
    return p->file_name[0] == '/' ? xstrdup(p->file_name) : xprintf("%s/%s", coco->pictures_folder, p->file_name);
}

static bool look_for_ids(const Coco *coco, const char *name, char **found) {
    take(found, xprintf("%s/%s", coco->ids_folder, name));
    return *found || take(found, xprintf("%s/../%s", coco->ids_folder, name));
}

char *coco_ids_path(const Coco *coco, int picture) {
    const char *name = coco->pictures[picture].ids_name;
    char *found = NULL, *slashes = strchr(name, '\\') ? with_slashes(name) : NULL;
    if (!look_for_ids(coco, name, &found) && slashes) { look_for_ids(coco, slashes, &found); }
    free(slashes);
    return found ? found : xprintf("%s/%s", coco->ids_folder, name);
}

// ---- names of another machine

static const char *last_part(const char *name) {
    const char *slash = strrchr(name, '/'), *back = strrchr(name, '\\');
    const char *last = slash > back ? slash : back;
    return last ? last + 1 : name;
}

// The part of a name after the last folder with the split's name; NULL if there is none.
static const char *below_split(const Coco *coco, const char *name) {
    const char *found = NULL;
    for (const char *at = name; (at = strchr(at, '/'));) {
        const char *rest = after_split(coco, ++at);
        if (rest) { found = rest; }
    }
    return found;
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static const char **sorted_last_parts(const Coco *coco) {
    const char **sorted = xcalloc((size_t)coco->picture_count, sizeof *sorted);
    for (int i = 0; i < coco->picture_count; i++) { sorted[i] = last_part(coco->pictures[i].file_name); }
    qsort(sorted, (size_t)coco->picture_count, sizeof *sorted, by_text);
    return sorted;
}

// How many pictures have this last part.
static int count_last(const char **sorted, int count, const char *last) {
    const char **at = bsearch(&last, sorted, (size_t)count, sizeof *sorted, by_text);
    int same = at != NULL;
    for (const char **b = at; b && b > sorted && strcmp(b[-1], last) == 0; b--) { same++; }
    for (const char **b = at; b && b + 1 < sorted + count && strcmp(b[1], last) == 0; b++) { same++; }
    return same;
}

// Cuts the front off a picture's name if a picture has the rest. slashes: the name with slashes.
static bool cut(const Coco *coco, Picture *p, const char *slashes, const char *rest) {
    char *path = xprintf("%s/%s", coco->pictures_folder, rest);
    bool is_file = file_exists(path);
    if (is_file) { p->file_name += rest - slashes; }
    free(path);
    return is_file;
}

void coco_place_foreign(Coco *coco) {
    const char **sorted = NULL;
    for (int i = 0; i < coco->picture_count; i++) {
        Picture *p = &coco->pictures[i];
        char *slashes = with_slashes(p->file_name), *found = NULL;
        if (is_foreign(slashes) && !(found = find_picture(coco, p))) {
            if (!sorted) { sorted = sorted_last_parts(coco); }
            const char *rest = below_split(coco, slashes), *last = last_part(slashes);
            bool placed = rest && cut(coco, p, slashes, rest);
            if (!placed && count_last(sorted, coco->picture_count, last) == 1) { cut(coco, p, slashes, last); }
        }
        free(found);
        free(slashes);
    }
    free(sorted);
}
