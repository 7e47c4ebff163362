#include "util/file.h"
#include "util/error.h"
#include "util/progress.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode);
}

bool folder_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

bool folder_empty(const char *path) {
    DIR *folder = opendir(path);
    int entries = 0;
    while (folder && readdir(folder)) { entries++; }
    if (folder) { closedir(folder); }
    return entries <= 2; // . and ..
}

Path path_of(const char *format, ...) {
    Path path;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path.text, sizeof path.text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof path.text) { die("%s...: is too long for a path", path.text); }
    return path;
}

char *read_file(const char *path, size_t *size) {
    if (folder_exists(path)) { die("%s: is a folder, expected a file", path); }
    FILE *f = fopen(path, "rb");
    if (!f) { die("%s: cannot be opened: %s", path, strerror(errno)); }
    fseek(f, 0, SEEK_END);
    long length = ftell(f);
    rewind(f);
    if (length < 0) { die("%s: cannot be read: %s", path, strerror(errno)); }
    char *text = xmalloc((size_t)length + 1);
    if (fread(text, 1, (size_t)length, f) != (size_t)length) { die("%s: cannot be read: %s", path, strerror(errno)); }
    fclose(f);
    text[length] = 0;
    if (size) { *size = (size_t)length; }
    return text;
}

// The first folder of the path that cannot be made, to be freed, with errno; NULL: all are there.
static char *first_not_made(const char *path) {
    char *copy = xstrdup(path);
    for (char *p = copy + (*copy == '/');; p++) {
        if (*p != '/' && *p != 0) { continue; }
        char end = *p;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) { return copy; }
        *p = end;
        if (!end) { break; }
    }
    free(copy);
    return NULL;
}

static void want_name(const char *path) {
    if (!*path) { die("the path of a folder to write to is empty: expected a name"); }
}

void make_folders(const char *path) {
    want_name(path);
    char *failed = first_not_made(path);
    if (failed) { die("%s: cannot be created: %s", failed, strerror(errno)); }
    if (!folder_exists(path)) { die("%s: exists and is not a folder", path); }
}

bool try_make_folders(const char *path) {
    char *failed = first_not_made(path);
    free(failed); // keeps errno (POSIX 2024, and glibc before it)
    return !failed && access(path, W_OK) == 0;
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *place) {
    (void)s, (void)kind, (void)place;
    remove(path);
    return 0;
}

enum { OPEN_FOLDERS = 16 }; // at most, while a tree is walked

void remove_tree(const char *path) { nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS); }

// Some file systems (FUSE, SMB, ...) have no fsync for folders: their renames are as safe as they can be.
static bool no_sync(int fd) {
    int reason = errno;
    struct stat s;
    return (reason == EINVAL || reason == ENOSYS || reason == ENOTSUP) && fstat(fd, &s) == 0 && S_ISDIR(s.st_mode);
}

static void sync_path(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0 || (fsync(fd) != 0 && !no_sync(fd))) { die("%s: cannot be written to disk: %s", path, strerror(errno)); }
    close(fd);
}

static int sync_entry(const char *path, const struct stat *s, int kind, struct FTW *place) {
    (void)s, (void)kind, (void)place;
    sync_path(path);
    return 0;
}

Path file_place(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) { return path_of("%s", ""); }
    return path_of("%llu/%llu", (unsigned long long)s.st_dev, (unsigned long long)s.st_ino);
}

// The folder that a path lies in, with a slash at its end; "." for a bare name.
Path folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return path_of("%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
}

static void sync_parent(const char *path) { sync_path(folder_of(path).text); }

// PATH.cocogold-KIND-HOST-PID: no name that a user would give. The caller frees it.
static char *name_beside(const char *path, const char *kind, long pid) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return xprintf("%s.cocogold-%s-%s-%ld", path, kind, host, pid);
}

// Containers use the same ids again: this process's own is that of an earlier one.
static bool ended(long pid) { return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH); }

static const char *find_last(const char *text, const char *part) {
    const char *found = NULL;
    while ((text = strstr(text, part))) { found = text++; }
    return found;
}

// Takes NAME.cocogold-KIND-HOST-PID apart; false if the name of an entry is no such name.
static bool parse_temporary(const char *entry, TemporaryName *t) {
    *t = (TemporaryName){0};
    static const char tmp[] = ".cocogold-tmp-", old[] = ".cocogold-old-";
    const char *at = find_last(entry, tmp);
    t->old = !at;
    if (t->old) { at = find_last(entry, old); }
    const char *host = at ? at + strlen(tmp) : NULL, *dash = at ? strrchr(host, '-') : NULL;
    if (!dash || dash == host || at - entry >= (long)sizeof t->name) { return false; }
    if (!dash[1] || strspn(dash + 1, "0123456789") != strlen(dash + 1)) { return false; }
    t->process = atol(dash + 1);
    memcpy(t->name, entry, (size_t)(at - entry));
    snprintf(t->host, sizeof t->host, "%.*s", (int)(dash - host), host);
    return true;
}

void remove_temporaries_if(const char *folder, bool (*goes)(const TemporaryName *, const char *), const char *data) {
    DIR *entries = opendir(folder);
    for (struct dirent *e; entries && (e = readdir(entries));) {
        TemporaryName t;
        if (!parse_temporary(e->d_name, &t) || !goes(&t, data)) { continue; }
        Path leftover = path_of("%s/%s", folder, e->d_name), final = path_of("%s/%s", folder, t.name);
        if (t.old && access(final.text, F_OK) != 0) { // killed between the two renames
            rename(leftover.text, final.text);
        } else {
            remove_tree(leftover.text);
        }
    }
    if (entries) { closedir(entries); }
}

// Of this host's processes that no longer run: they were killed before they could rename or remove it. Whether a
// process of another host runs cannot be known here.
static bool left_behind(const TemporaryName *t) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return strcmp(t->host, host) == 0 && ended(t->process);
}

static bool left_for_name(const TemporaryName *t, const char *name) {
    return strcmp(t->name, name) == 0 && left_behind(t);
}

static bool left_for_any(const TemporaryName *t, const char *unused) {
    (void)unused;
    return !t->old && left_behind(t);
}

void remove_temporaries(const char *folder) { remove_temporaries_if(folder, left_for_any, NULL); }

static bool left_by_others(const TemporaryName *t, const char *unused) {
    return t->process != (long)getpid() && left_for_any(t, unused);
}

// A folder is looked through for the first of its files alone, not for each: there may be a million.
static void remove_temporaries_once(const char *folder) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static Path last;
    pthread_mutex_lock(&lock);
    if (strcmp(last.text, folder) != 0) {
        last = path_of("%s", folder);
        remove_temporaries_if(folder, left_by_others, NULL);
    }
    pthread_mutex_unlock(&lock);
}

static void want_writable(const char *folder, const char *path) {
    char *name = xprintf("%s/.cocogold", folder), *probe = name_beside(name, "tmp", (long)getpid());
    remove_temporaries(folder);
    int fd = open(probe, O_CREAT | O_EXCL | O_WRONLY, 0666);
    if (fd < 0 && errno != EEXIST) { die("%s: cannot be written: %s", path, strerror(errno)); }
    if (fd >= 0) { close(fd); }
    remove(probe);
    free(probe);
    free(name);
}

void want_folder(const char *path) {
    want_name(path);
    char *there = xprintf("%s/", path), *slash; // the slash leaves room for "."
    struct stat s;
    while (stat(there, &s) != 0) { // up to what is there
        if (errno != ENOENT && errno != ENOTDIR) { die("%s: cannot be created: %s", path, strerror(errno)); }
        slash = strrchr(there, '/');
        if (slash > there) {
            *slash = 0;
        } else {
            strcpy(there, slash ? "/" : ".");
        }
    }
    bool itself = strcmp(there, path) == 0;
    if (!S_ISDIR(s.st_mode) && itself) { die("%s: exists and is not a folder", path); }
    if (!S_ISDIR(s.st_mode)) { die("%s: cannot be created: %s is not a folder", path, there); }
    want_writable(there, path);
    free(there);
}

static void want_folder_of(const char *option, const char *path) {
    Path folder = folder_of(path);
    if (!folder_exists(folder.text)) { die("%s %s: %s is not a folder", option, path, folder.text); }
    want_writable(folder.text, path);
}

bool is_folder_name(const char *path) { return *path && path[strlen(path) - 1] == '/'; }

void want_prefix(const char *option, const char *prefix) {
    if (!*prefix) { die("%s: is empty, expected a prefix of files", option); }
    if (is_folder_name(prefix)) { make_folders(prefix); }
    want_folder_of(option, prefix);
}

Path prefixed(const char *prefix, const char *name) {
    return path_of("%s%s%s", prefix, is_folder_name(prefix) ? "" : "-", name);
}

void want_output(const char *option, const char *path) {
    if (!*path) { die("%s: is empty, expected a file", option); }
    if (folder_exists(path)) { die("%s %s: is a folder, expected a file", option, path); }
    want_folder_of(option, path);
}

char *temporary_name(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    remove_temporaries_if(folder_of(path).text, left_for_name, name);
    return name_beside(path, "tmp", (long)getpid());
}

// Exchanges the names of two folders. Where the system cannot do it in one step, the old one is put back if the second
// rename fails. Returns false, with errno, on failure.
static bool exchange(const char *temporary, const char *path) {
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0) { return true; }
    char *old = name_beside(path, "old", (long)getpid());
    bool done = rename(path, old) == 0;
    if (done && rename(temporary, path) != 0) {
        int reason = errno;
        done = false;
        rename(old, path);
        errno = reason;
    }
    if (done) { rename(old, temporary); }
    free(old);
    return done;
}

char *temporary_folder(const char *path) {
    char *name = temporary_name(path);
    make_folders(folder_of(path).text);
    cleanup_add(name);
    if (mkdir(name, 0777) != 0) { die("%s: cannot be created: %s", path, strerror(errno)); }
    return name;
}

void commit_rename(const char *temporary, const char *path) {
    nftw(temporary, sync_entry, OPEN_FOLDERS, FTW_DEPTH);
    cleanup_hold();
    bool done = folder_exists(path) ? exchange(temporary, path) : rename(temporary, path) == 0;
    int reason = errno;
    cleanup_release();
    if (!done) { die("%s: cannot be renamed to %s: %s", temporary, path, strerror(reason)); }
    sync_parent(path);
    remove_tree(temporary); // the old folder
}

static FILE *try_stream(const char *path, int flags, const char *mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | flags, 0666);
    return fd < 0 ? NULL : fdopen(fd, mode);
}

static void die_unwritable(const char *path) {
    die("%s: cannot be written: %s", path, errno == ELOOP ? "it is a symbolic link" : strerror(errno));
}

static FILE *open_stream(const char *path, int flags, const char *mode) {
    FILE *stream = try_stream(path, flags, mode);
    if (!stream) { die_unwritable(path); }
    return stream;
}

FILE *create_file(const char *path) { return open_stream(path, O_EXCL, "wb"); }
FILE *append_file(const char *path) { return open_stream(path, O_APPEND, "ab"); }

// The stream is NULL, with errno, if the file cannot be created.
static AtomicFile atomic_begin(const char *path) {
    AtomicFile file = {.path = xstrdup(path), .temporary = name_beside(path, "tmp", (long)getpid())};
    remove_temporaries_once(folder_of(path).text);
    remove_tree(file.temporary); // of an earlier process with this one's id
    cleanup_add(file.temporary);
    file.stream = try_stream(file.temporary, O_EXCL, "wb");
    return file;
}

AtomicFile atomic_open(const char *path) {
    AtomicFile file = atomic_begin(path);
    if (!file.stream) { die_unwritable(path); }
    return file;
}

// Flush, fsync, rename; false, with errno, if one fails.
static bool try_commit(AtomicFile *file) {
    bool failed = ferror(file->stream) != 0;
    failed |= fflush(file->stream) != 0 || fsync(fileno(file->stream)) != 0;
    int reason = errno;
    failed |= fclose(file->stream) != 0;
    if (!failed) {
        cleanup_hold();
        failed = rename(file->temporary, file->path) != 0;
        reason = errno;
        cleanup_release();
    }
    if (!failed) { sync_parent(file->path); }
    errno = reason;
    return !failed;
}

static void atomic_close(AtomicFile *file) {
    cleanup_remove(file->temporary);
    free(file->path);
    free(file->temporary);
    *file = (AtomicFile){0};
}

void atomic_commit(AtomicFile *file) {
    if (!try_commit(file)) { die("%s: cannot be written: %s", file->path, strerror(errno)); }
    atomic_close(file);
}

bool try_atomic_write(const char *path, const void *bytes, size_t size) {
    AtomicFile file = atomic_begin(path);
    if (file.stream) { fwrite(bytes, 1, size, file.stream); }
    bool done = file.stream && try_commit(&file);
    int reason = errno;
    if (!done) { unlink(file.temporary); }
    atomic_close(&file);
    errno = reason;
    return done;
}

void atomic_write(const char *path, const void *bytes, size_t size) {
    if (!try_atomic_write(path, bytes, size)) { die("%s: cannot be written: %s", path, strerror(errno)); }
}

static void copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb");
    if (!in) { die("%s: cannot be opened: %s", from, strerror(errno)); }
    AtomicFile out = atomic_open(to);
    static const size_t block = 1 << 20;
    char *buffer = xmalloc(block);
    for (size_t n; (n = fread(buffer, 1, block, in)) > 0;) { fwrite(buffer, 1, n, out.stream); }
    if (ferror(in)) { die("%s: cannot be read: %s", from, strerror(errno)); }
    fclose(in);
    free(buffer);
    atomic_commit(&out);
}

// If `from` is a symbolic link (as in download caches), links its target. Copies if hard links are not possible.
static void link_file(const char *from, const char *to) {
    unlink(to);
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) != 0) { copy_file(from, to); }
}

void link_tree(const char *from, const char *to) {
    make_folders(to);
    DIR *folder = opendir(from);
    if (!folder) { die("%s: cannot be opened: %s", from, strerror(errno)); }
    for (struct dirent *e; (e = readdir(folder));) {
        if (e->d_name[0] == '.') { continue; }
        Path source = path_of("%s/%s", from, e->d_name), target = path_of("%s/%s", to, e->d_name);
        (folder_exists(source.text) ? link_tree : link_file)(source.text, target.text);
    }
    closedir(folder);
}

bool path_inside(const char *path, const char *folder) {
    char *inner = realpath(path, NULL), *outer = realpath(folder, NULL);
    size_t length = outer ? strlen(outer) : 0;
    bool inside = inner && outer && strncmp(inner, outer, length) == 0 &&
                  (inner[length] == '/' || inner[length] == 0 || outer[length - 1] == '/');
    free(inner);
    free(outer);
    return inside;
}

bool sha256_try(const char *path, char hex[65]) {
    static const size_t block = 1 << 20;
    FILE *f = fopen(path, "rb");
    if (!f) { return false; }
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    unsigned char *buffer = xmalloc(block), digest[32];
    struct stat info = {0};
    fstat(fileno(f), &info);
    Progress progress = progress_work("digest", (long long)info.st_size);
    progress_phase(&progress, "%s", path);
    for (size_t n; (n = fread(buffer, 1, block, f)) > 0; progress_add(&progress, (long long)n)) {
        EVP_DigestUpdate(context, buffer, n);
    }
    progress_end(&progress, progress.done);
    bool failed = ferror(f) != 0;
    int reason = errno;
    EVP_DigestFinal_ex(context, digest, NULL);
    EVP_MD_CTX_free(context);
    fclose(f);
    free(buffer);
    for (int i = 0; i < 32; i++) { snprintf(hex + 2 * i, 3, "%02x", digest[i]); }
    errno = reason;
    return !failed;
}

void sha256_file(const char *path, char hex[65]) {
    if (!sha256_try(path, hex)) { die("%s: cannot be read: %s", path, strerror(errno)); }
}
