// A temporary folder for the files of a test, and texts to put there.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tests/dies.h"
#include "util/error.h"
#include "util/file.h"

// Remembers the folder to remove at this process's exit (not at that of the children which die).
static inline const char *scratch_folder(const char *set) {
    static const char *folder;
    static pid_t owner;
    if (set) {
        folder = set;
        owner = getpid();
    }
    return owner == getpid() ? folder : NULL;
}

static inline void remove_scratch(void) {
    if (scratch_folder(NULL)) { remove_tree(scratch_folder(NULL)); }
}

// Texts that a test makes on the way live as long as the program.
static inline char *kept(char *text) {
    static char **texts;
    static size_t count;
    texts = xrealloc(texts, (count + 1) * sizeof *texts);
    return texts[count++] = text;
}

// A fresh folder that is removed at exit, and a file in it.
static inline char *scratch_path(const char *name) {
    static char *folder;
    if (!folder) {
        const char *base = getenv("TMPDIR");
        folder = xprintf("%s/cocogold-test-XXXXXX", base ? base : "/tmp");
        assert_non_null(mkdtemp(folder));
        scratch_folder(folder);
        atexit(remove_scratch);
    }
    return kept(xprintf("%s/%s", folder, name));
}

static inline void write_text(const char *path, const char *text) { atomic_write(path, text, strlen(text)); }

// The text with the first `old` replaced; it must be there.
static inline char *replaced(const char *text, const char *old, const char *new) {
    const char *at = strstr(text, old);
    assert_non_null(at);
    return kept(xprintf("%.*s%s%s", (int)(at - text), text, new, at + strlen(old)));
}
