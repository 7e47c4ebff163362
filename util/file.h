// Files and paths. Everything that is written appears whole or not at all: temporary name, fsync, rename.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

bool file_exists(const char *path);   // a regular file (or a link to one)
bool folder_exists(const char *path); // a folder (or a link to one)

// The whole file in memory, followed by a zero byte; *size (may be NULL) gets its length. Dies if it cannot be read.
char *read_file(const char *path, size_t *size);

// mkdir -p. Dies if it cannot be done.
void make_folders(const char *path);

// rm -rf; a path that does not exist is no error. Never follows symbolic links.
void remove_tree(const char *path);

// A file being written under a temporary name beside its final one.
typedef struct {
    FILE *stream;
    char *path, *temporary;
} AtomicFile;
AtomicFile atomic_open(const char *path); // dies if the folder is missing or not writable
void atomic_commit(AtomicFile *file);     // flush, fsync, rename; dies (disk full, ...) and removes the temporary
void atomic_write(const char *path, const void *bytes, size_t size); // the three steps at once

// PATH.tmp-PID, to be freed: what PATH is called until it is complete. Removes what killed processes left of theirs.
char *temporary_name(const char *path);

// Flushes a finished file or folder to disk and gives it its final name, replacing what was there. A folder that is
// already at `path` is moved away first and removed afterwards. Dies on failure.
void commit_rename(const char *temporary, const char *path);

// SHA-256 of a file's bytes as 64 hexadecimal digits. Dies if it cannot be read.
void sha256_file(const char *path, char hex[65]);
