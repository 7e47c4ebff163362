// The frame of all fuzz targets: an input becomes files in a folder in memory, and a call that dies returns here.
//
// The linker sends the program's calls of exit, malloc, fopen, ... to the functions __wrap_... below (fuzz.mk). The
// memory that a call has taken is kept in a table, so that it can be freed when the call dies. Libraries' own memory is
// not touched.
#include "tests/fuzz/fuzz.h"
#include "util/error.h"
#include "util/file.h"
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void __real_exit(int code) __attribute__((noreturn));
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *pointer, size_t bytes);
void __real_free(void *pointer);
char *__real_strdup(const char *text);
int __real_vasprintf(char **text, const char *format, va_list arguments);
FILE *__real_fopen(const char *path, const char *mode);
int __real_fclose(FILE *file);
void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);

static jmp_buf back;
static bool running; // inside fuzz_one
static char folder[256];

// ---- What the call has taken: a table of pointers with open addressing ---------------------------------------------

enum { FREE_MEMORY, CLOSE_FILE, UNLOCK };
typedef struct {
    void *pointer;
    int how;
} Taken;
static Taken *taken;
static size_t taken_room, taken_count;

static size_t place_of(const void *pointer) {
    size_t at = ((uintptr_t)pointer >> 4) * 0x9E3779B97F4A7C15u >> 20 & (taken_room - 1);
    while (taken[at].pointer && taken[at].pointer != pointer) { at = (at + 1) & (taken_room - 1); }
    return at;
}

static void *take(void *pointer, int how) {
    if (!running || !pointer) { return pointer; }
    if (2 * (taken_count + 1) > taken_room) {
        Taken *old = taken;
        size_t room = taken_room;
        taken_room = room ? 2 * room : 1024;
        taken = __real_calloc(taken_room, sizeof *taken);
        for (size_t i = 0; i < room; i++) {
            if (old[i].pointer) { taken[place_of(old[i].pointer)] = old[i]; }
        }
        __real_free(old);
    }
    size_t at = place_of(pointer);
    taken_count += !taken[at].pointer;
    taken[at] = (Taken){pointer, how};
    return pointer;
}

// Forgets a pointer; false: it is not in the table.
static bool give(const void *pointer) {
    if (!taken_count || !pointer) { return false; }
    size_t at = place_of(pointer);
    if (!taken[at].pointer) { return false; }
    taken[at].pointer = NULL;
    taken_count--;
    for (size_t i = (at + 1) & (taken_room - 1); taken[i].pointer; i = (i + 1) & (taken_room - 1)) { // close the gap
        Taken moved = taken[i];
        taken[i].pointer = NULL;
        taken[place_of(moved.pointer)] = moved;
    }
    return true;
}

static void give_all_back(void) {
    for (size_t i = 0; i < taken_room; i++) { // before the memory that they may lie in
        if (taken[i].pointer && taken[i].how == UNLOCK) { __real_pthread_mutex_unlock(taken[i].pointer); }
    }
    for (size_t i = 0; i < taken_room; i++) {
        if (!taken[i].pointer) { continue; }
        if (taken[i].how == CLOSE_FILE) { __real_fclose(taken[i].pointer); }
        if (taken[i].how == FREE_MEMORY) { __real_free(taken[i].pointer); }
        taken[i].pointer = NULL;
    }
    taken_count = 0;
}

// A call that returns has given everything back.
static void report_kept(void) {
    size_t i = 0;
    while (!taken[i].pointer) { i++; }
    static const char *const kinds[] = {"memory", "an open file", "a locked mutex"};
    dprintf(STDERR_FILENO, "ERROR: fuzz_one has returned without giving back %s\n", kinds[taken[i].how]);
    __asan_describe_address(taken[i].pointer);
    abort();
}

void *__wrap_malloc(size_t bytes) { return take(__real_malloc(bytes), FREE_MEMORY); }
void *__wrap_calloc(size_t count, size_t bytes) { return take(__real_calloc(count, bytes), FREE_MEMORY); }
char *__wrap_strdup(const char *text) { return take(__real_strdup(text), FREE_MEMORY); }
void __wrap_free(void *pointer) {
    give(pointer);
    __real_free(pointer);
}
// Memory from before the call stays: static lists that grow.
void *__wrap_realloc(void *pointer, size_t bytes) {
    bool mine = give(pointer) || !pointer;
    void *moved = __real_realloc(pointer, bytes);
    if (!moved && bytes) { return mine && pointer ? (take(pointer, FREE_MEMORY), NULL) : NULL; }
    return mine ? take(moved, FREE_MEMORY) : moved;
}
int __wrap_vasprintf(char **text, const char *format, va_list arguments) {
    int length = __real_vasprintf(text, format, arguments);
    if (length >= 0) { take(*text, FREE_MEMORY); }
    return length;
}
FILE *__wrap_fopen(const char *path, const char *mode) { return take(__real_fopen(path, mode), CLOSE_FILE); }
int __wrap_fclose(FILE *file) {
    give(file);
    return __real_fclose(file);
}
// A map of a file is memory with the file's bytes: a page would hide what is read behind the file's end.
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
    if (fd < 0) { return __real_mmap(address, size, protection, flags, fd, offset); }
    void *bytes = size ? __wrap_malloc(size) : NULL;
    return bytes && pread(fd, bytes, size, offset) == (ssize_t)size ? bytes : MAP_FAILED;
}
int __wrap_munmap(void *address, size_t size) {
    (void)size;
    __wrap_free(address);
    return 0;
}
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
    int code = __real_pthread_mutex_lock(mutex);
    take(mutex, UNLOCK);
    return code;
}
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex) {
    give(mutex);
    return __real_pthread_mutex_unlock(mutex);
}

// A lock lasts until the process ends: here are none, as on some file systems.
bool __wrap_folder_lock(const char *path) {
    (void)path;
    return false;
}

// A user's mistake ends the call, not the process. Any other end is a finding of libFuzzer.
void __wrap_exit(int code) {
    if (!running || code != 1) { __real_exit(code); }
    cleanup_now();
    longjmp(back, 1);
}

// ---- Files ----------------------------------------------------------------------------------------------------------

const char *fuzz_path(const char *name) {
    static char paths[8][sizeof folder + 64];
    static int next;
    char *path = paths[next++ & 7];
    snprintf(path, sizeof paths[0], "%s%s%s", folder, *name ? "/" : "", name);
    return path;
}

enum { MOST_FILES = 64 };
static bool there[MOST_FILES];

static int file_number(const char *name, size_t length) {
    int i = 0;
    while (fuzz_files[i] && (strlen(fuzz_files[i]) != length || memcmp(fuzz_files[i], name, length) != 0)) { i++; }
    return i;
}

bool fuzz_has(const char *name) { return there[file_number(name, strlen(name))]; }

static void write_file(int number, const uint8_t *bytes, size_t size) {
    if (!fuzz_files[number]) { return; } // an unknown name
    const char *path = fuzz_path(fuzz_files[number]);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) { die("%s: cannot be written", path); }
    there[number] = true;
}

static const char mark[] = "=== ";
static const uint8_t *find_mark(const uint8_t *from, const uint8_t *end) {
    for (const uint8_t *p = from; (p = memmem(p, (size_t)(end - p), mark, 4)); p++) {
        if (p == from || p[-1] == '\n') { return p; }
    }
    return NULL;
}

static void write_files(const uint8_t *bytes, size_t size) {
    if (!fuzz_files[1]) {
        write_file(0, bytes, size);
        return;
    }
    for (int i = 0; fuzz_files[i]; i++) {
        if (there[i]) { unlink(fuzz_path(fuzz_files[i])); }
        there[i] = false;
    }
    const uint8_t *end = bytes + size, *next;
    for (const uint8_t *part = find_mark(bytes, end); part; part = next) {
        const uint8_t *name = part + 4, *line = memchr(name, '\n', (size_t)(end - name));
        if (!line) { return; }
        next = find_mark(line + 1, end);
        const uint8_t *last = next ? next - (next > line + 1) : end; // without the line break before a mark
        write_file(file_number((const char *)name, (size_t)(line - name)), line + 1, (size_t)(last - line - 1));
    }
}

// ---- libFuzzer's entries --------------------------------------------------------------------------------------------

static void remove_folder(void) { remove_tree(folder); }

static void make_folder(void) {
    const char *base = getenv("FUZZ_FOLDER");
    snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", base ? base : folder_exists("/dev/shm") ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder)) { die("%s: cannot be created", folder); }
    atexit(remove_folder);
    for (int i = 0; fuzz_files[i]; i++) { // the folders of names such as "noise/pairs.csv"
        const char *slash = strrchr(fuzz_files[i], '/'), *path = fuzz_path(fuzz_files[i]);
        if (slash) { make_folders(path_of("%.*s", (int)(strrchr(path, '/') - path), path).text); }
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    cleanup_add("/nonexistent"); // allocates its list now
    cleanup_remove("/nonexistent");
    make_folder();
    if (!getenv("FUZZ_SAY")) { // the program's own messages are shown on demand
        FILE *nothing = fopen("/dev/null", "w");
        stdout = stderr = nothing;
    }
    fuzz_begin();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    write_files(bytes, size);
    running = true;
    if (setjmp(back) == 0) {
        fuzz_one();
    } else {
        running = false;
        fuzz_died();
        give_all_back();
    }
    running = false;
    if (taken_count) { report_kept(); }
    if (taken_room > 1 << 12) { // a large table would make later calls slow
        __real_free(taken);
        taken = NULL;
        taken_room = 0;
    }
    return 0;
}
