// A temporary folder for a test's files.
#pragma once
#include "util/error.h"
#include "util/file.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static inline int folder_begin(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cocogold-test-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static inline int folder_end(void **state) {
    (void)state;
    remove_tree(folder);
    return 0;
}

// "FOLDER/name", in one of eight buffers.
static inline const char *in_folder(const char *name) {
    static char paths[8][256];
    static int next;
    char *path = paths[next++ & 7];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline const char *write_text(const char *name, const char *text) {
    const char *path = in_folder(name);
    atomic_write(path, text, strlen(text));
    return path;
}
