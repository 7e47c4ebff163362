// For tests of what a user reads when a file is damaged: runs a function in a child process and checks that it dies
// with exit code 1 and one sentence that holds the given words.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "util/error.h"
#include "util/file.h"

static inline void assert_dies(void (*function)(const char *path), const char *path, const char *words) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        function(path);
        _exit(0); // not dead
    }
    close(ends[1]);
    char said[4096] = "";
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, sizeof said - 1 - n)) > 0;) { n += (size_t)got; }
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    said[n] = 0;
    char *end = strchr(said, '\n');
    bool right = WIFEXITED(status) && WEXITSTATUS(status) == 1 && strncmp(said, "cocogold: ", 10) == 0 && end &&
                 !end[1] && strstr(said, words);
    if (!right) { print_error("status %x, expected \"%s\" in: %s\n", (unsigned)status, words, said); }
    assert_true(right);
}

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
