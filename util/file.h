// Files and paths. A file appears complete or not at all: it is written under a temporary name, flushed to disk with
// fsync, then renamed.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

bool file_exists(const char *path);   // a regular file (or a link to one)
bool folder_exists(const char *path); // a folder (or a link to one)
bool folder_empty(const char *path);  // a folder without entries, or no folder

// A path, built with printf's format: path_of("%s/config.json", folder).text. Dies if it is longer than any file's.
typedef struct {
    char text[4096];
} Path;
Path path_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The whole file in memory, followed by a zero byte; *size (may be NULL) gets its length. Dies if it cannot be read.
char *read_file(const char *path, size_t *size);

// mkdir -p. Dies on failure.
void make_folders(const char *path);
bool try_make_folders(const char *path); // false, with errno: it cannot be made, or files in it cannot
Path file_place(const char *path);       // the same for all names of a file: device and inode; "" if there is none
Path folder_of(const char *path);        // that a file lies in, with a slash at the end; "." for a bare name

// For the start of a command, so that an output that cannot be written is found before the work. They die as writing
// would, and write nothing that stays.
void want_folder(const char *path);                     // it can be made, and files in it
void want_output(const char *option, const char *path); // the folder of an option's file is there; PATH is no folder

// An option's prefix of files: PREFIX-NAME. One that ends with a slash is a folder: PREFIXNAME.
bool is_folder_name(const char *path);
void want_prefix(const char *option, const char *prefix); // the folder of its files is there; one with a slash is made
Path prefixed(const char *prefix, const char *name);

// rm -rf; a missing path is not an error. Never follows symbolic links.
void remove_tree(const char *path);

// For writing. Neither follows a symbolic link as the last part of PATH, and both die with a sentence.
FILE *create_file(const char *path); // a new file: dies if the name is taken
FILE *append_file(const char *path); // a new file, or the end of one

// A file that is being written under a temporary name, in the folder of its final name.
typedef struct {
    FILE *stream;
    char *path, *temporary;
} AtomicFile;
// Dies if the folder is missing or not writable. The first of this process's files in a row that lie in one folder also
// removes the temporary files there that killed processes of this host left behind.
AtomicFile atomic_open(const char *path);
void atomic_commit(AtomicFile *file); // flush, fsync, rename; on failure (disk full, ...) dies and removes the file
void atomic_write(const char *path, const void *bytes, size_t size);     // the three steps at once
bool try_atomic_write(const char *path, const void *bytes, size_t size); // false, with errno: PATH is as it was

// The temporary name of PATH until it is complete: PATH.cocogold-tmp-HOST-PID. The caller frees it. Also removes the
// temporary files that killed processes of this host left behind for the same PATH, and what has this name. Create the
// file exclusively: in a shared folder somebody may put a link there.
char *temporary_name(const char *path);
// The same as a new, empty folder, with the folders above it; registered with cleanup_add.
char *temporary_folder(const char *path);
// Removes everything under such names in the folder, for any PATH, that killed processes of this host left behind. For
// the start of a command: this process must not write there yet. The want_ functions above call it.
void remove_temporaries(const char *folder);

// Such a name in its parts: NAME.cocogold-tmp-HOST-PID, or NAME.cocogold-old-HOST-PID of a folder that commit_rename
// was replacing.
typedef struct {
    char name[256], host[256];
    long process;
    bool old;
} TemporaryName;
// Removes everything in the folder under those names that `goes` accepts; `data` is its second argument. An old folder
// gets its name back instead if nothing has taken that.
void remove_temporaries_if(const char *folder, bool (*goes)(const TemporaryName *, const char *data), const char *data);

// Hard-links the files of a folder into another one, which it makes; copies those that cannot be linked.
void link_tree(const char *from, const char *to);

// Flushes a finished file or folder to disk and renames it to `path`. An existing file is replaced; an existing folder
// exchanges its name with it and is then removed: there is no moment without it where the system has renameat2. Dies on
// failure; then the existing one stays.
void commit_rename(const char *temporary, const char *path);

// True if the path is the folder or lies in it, links resolved. False if one of them does not exist.
bool path_inside(const char *path, const char *folder);

// SHA-256 of a file's bytes as 64 hexadecimal digits. Returns false, with errno, if it cannot be read.
bool sha256_try(const char *path, char hex[65]);
// The same; dies if it cannot be read.
void sha256_file(const char *path, char hex[65]);
