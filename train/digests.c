#include "train/digests.h"
#include "util/error.h"
#include "util/file.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *path; // in the folder
    char hex[65];
    int failed; // errno; 0: none
} Digest;

typedef struct {
    Digest *rows;
    int count;
} Digests;

static void add_row(Digests *d, const char *path) {
    GROW(d->rows, d->count);
    d->rows[d->count++] = (Digest){.path = xstrdup(path)};
}

// Adds the files in FOLDER/INSIDE ("": the folder itself; else with a slash at its end).
static void add_files(Digests *d, const char *folder, const char *inside, const char *except) {
    DIR *entries = opendir(path_of("%s/%s", folder, inside).text);
    if (!entries) { die("%s/%s: cannot be opened: %s", folder, inside, strerror(errno)); }
    for (struct dirent *e; (e = readdir(entries));) {
        Path path = path_of("%s%s", inside, e->d_name);
        if (e->d_name[0] == '.' || strcmp(path.text, except) == 0) { continue; }
        if (folder_exists(path_of("%s/%s", folder, path.text).text)) {
            add_files(d, folder, path_of("%s/", path.text).text, except);
        } else if (strcmp(path.text, "segmentation.json") != 0) {
            add_row(d, path.text);
        }
    }
    closedir(entries);
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const Digest *)a)->path, ((const Digest *)b)->path);
}

static void compute(const Digests *d, const char *folder) {
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < d->count; i++) {
        Digest *row = &d->rows[i];
        row->failed = sha256_try(path_of("%s/%s", folder, row->path).text, row->hex) ? 0 : errno;
    }
}

static void free_rows(Digests *d) {
    for (int i = 0; i < d->count; i++) { free(d->rows[i].path); }
    free(d->rows);
}

void digests_write(const char *folder, const char *name) {
    Digests d = {0};
    add_files(&d, folder, "", name);
    qsort(d.rows, (size_t)d.count, sizeof *d.rows, by_path);
    compute(&d, folder);
    AtomicFile file = atomic_open(path_of("%s/%s", folder, name).text);
    for (int i = 0; i < d.count; i++) {
        const Digest *row = &d.rows[i];
        if (row->failed) { die("%s/%s: cannot be read: %s", folder, row->path, strerror(row->failed)); }
        fprintf(file.stream, "%s  %s\n", row->hex, row->path);
    }
    atomic_commit(&file);
    free_rows(&d);
}

// The rows of a list; false if it is not one. Their digests are those of the list.
static bool parse(Digests *d, char *text) {
    size_t size = strlen(text);
    if (!size || text[size - 1] != '\n') { return false; }
    text[size - 1] = 0;
    for (char *line; (line = strsep(&text, "\n"));) {
        if (strspn(line, "0123456789abcdef") != 64 || strncmp(line + 64, "  ", 2) != 0 || !line[66]) { return false; }
        add_row(d, line + 66);
        memcpy(d->rows[d->count - 1].hex, line, 64);
    }
    return true;
}

// A file of weights that the list does not have, which was cut, or NULL.
static char *unlisted(const Digests *listed, const char *folder, const char *name) {
    Digests present = {0};
    char *wrong = NULL;
    add_files(&present, folder, "", name);
    for (int i = 0; i < present.count && !wrong; i++) {
        const char *path = present.rows[i].path, *end = strrchr(path, '.');
        bool found = !end || strcmp(end, ".safetensors") != 0;
        for (int j = 0; j < listed->count && !found; j++) { found = strcmp(path, listed->rows[j].path) == 0; }
        if (!found) { wrong = xprintf("%s is not in %s", path, name); }
    }
    free_rows(&present);
    return wrong;
}

static char *compare(const Digests *listed, const char *folder, const char *name) {
    Digests now = {0};
    char *wrong = NULL;
    for (int i = 0; i < listed->count; i++) { add_row(&now, listed->rows[i].path); }
    compute(&now, folder);
    for (int i = 0; i < now.count && !wrong; i++) {
        const Digest *row = &now.rows[i];
        if (row->failed) {
            wrong = xprintf("%s cannot be read: %s", row->path, strerror(row->failed));
        } else if (strcmp(row->hex, listed->rows[i].hex) != 0) {
            wrong = xprintf("%s does not have the SHA-256 that is in %s", row->path, name);
        }
    }
    free_rows(&now);
    return wrong ? wrong : unlisted(listed, folder, name);
}

char *digests_check(const char *folder, const char *name) {
    Path path = path_of("%s/%s", folder, name);
    if (!file_exists(path.text)) { return xprintf("%s is missing", name); }
    Digests listed = {0};
    char *text = read_file(path.text, NULL);
    char *wrong = parse(&listed, text) ? compare(&listed, folder, name) : xprintf("%s is no list of digests", name);
    free_rows(&listed);
    free(text);
    return wrong;
}
