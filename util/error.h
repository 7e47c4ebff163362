// How cocogold speaks of a user's mistake or a damaged file: one sentence on stderr, exit code 1, nothing half-written
// left behind. Programming errors use assert().
#pragma once
#include <stdbool.h>
#include <stddef.h>

// Prints "cocogold: <sentence>\n" to stderr, removes the files registered with cleanup_add, and exits with code 1.
// The sentence names the file, the field and what was expected.
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// For a thread that watches while others may hang: as die, but without what exit() would wait for.
void die_now(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// Whether the program is ending because of die().
bool error_died(void);

// From now on sentences begin with "cocogold: rank N: ", and die() waits three seconds for rank 0's on other ranks.
void error_set_rank(int rank);

// Prints "cocogold: warning: <sentence>\n" to stderr.
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Files (or, removed recursively, folders) under temporary names: removed if the program dies or exits before
// cleanup_remove(path) is called. Thread-safe; the path is copied.
void cleanup_add(const char *path);
void cleanup_remove(const char *path);
void cleanup_now(void); // removes them all; exit() does it by itself, _exit() does not

// malloc, calloc, realloc and strdup that die with a sentence when memory runs out.
void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t bytes);
void *xrealloc(void *pointer, size_t bytes);
char *xstrdup(const char *text);
// A freshly allocated formatted string, to be freed by the caller.
char *xprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
