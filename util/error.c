#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char **pending; // files under temporary names
static size_t pending_count;
static int rank = -1;            // -1: there is only one
static volatile bool died, said; // said: the sentence for exit code 1 has been printed
static atomic_bool leaving;      // leave_now ends the process: the other threads say nothing more
static atomic_int dying;         // the thread in die(), before which no other may say something; 0: none

// Other threads may still write into a folder while it is removed: until their next cleanup_hold or die().
static void remove_pending(void) {
    for (size_t i = 0; i < pending_count; i++) {
        int tries = 100;
        do { remove_tree(pending[i]); } while (access(pending[i], F_OK) == 0 && --tries && usleep(10000) == 0);
    }
    pending_count = 0;
}

void cleanup_hold(void) { pthread_mutex_lock(&lock); }
void cleanup_release(void) { pthread_mutex_unlock(&lock); }

void cleanup_now(void) {
    cleanup_hold();
    remove_pending();
    cleanup_release();
}

void cleanup_add(const char *path) {
    pthread_mutex_lock(&lock);
    static bool registered = false;
    if (!registered) { atexit(cleanup_now); }
    registered = true;
    pending = xrealloc(pending, (pending_count + 1) * sizeof *pending);
    pending[pending_count++] = xstrdup(path);
    pthread_mutex_unlock(&lock);
}

void cleanup_remove(const char *path) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < pending_count; i++) {
        if (strcmp(pending[i], path) == 0) {
            free(pending[i]);
            pending[i] = pending[--pending_count];
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

// Prints the line with a single call, since other ranks may write to the same terminal.
static void say(const char *prefix, const char *format, va_list arguments) {
    char *text = NULL, place[32] = "";
    char *shown = text_shown(vasprintf(&text, format, arguments) < 0 ? format : text); // names may come from files
    if (rank >= 0) { snprintf(place, sizeof place, "rank %d: ", rank); }
    fflush(stdout);
    fprintf(stderr, "cocogold: %s%s%s\n", place, prefix, shown);
    free(shown);
    free(text);
}

static void wait_if_leaving(void) {
    while (leaving) { pause(); }
}

// Returns in the first thread that calls it, however often. exit() may take from the others what they are using, a GPU
// for example, and only one thread may call it: they stop here.
static void die_alone(void) {
    int nobody = 0;
    if (atomic_compare_exchange_strong(&dying, &nobody, gettid()) || nobody == gettid()) { return; }
    for (;;) { pause(); }
}

// An error that all ranks share should be printed once, by rank 0. The other ranks wait; mpirun ends them meanwhile.
void die(const char *format, ...) {
    if (rank > 0) { sleep(3); }
    wait_if_leaving();
    die_alone();
    va_list arguments;
    va_start(arguments, format);
    say("", format, arguments);
    va_end(arguments);
    died = said = true;
    exit(1);
}

// Returns in the first thread that calls it.
static void leave_alone(void) {
    if (atomic_exchange(&leaving, true)) { wait_if_leaving(); }
}

static _Noreturn void end_now(int code) {
    cleanup_hold(); // for good: nothing is renamed any more
    remove_pending();
    _exit(code);
}

void leave_silently(int code) {
    leave_alone();
    end_now(code);
}

void leave_now(int code, const char *format, ...) {
    leave_alone();
    va_list arguments;
    va_start(arguments, format);
    say("", format, arguments);
    va_end(arguments);
    end_now(code);
}

void complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say("", format, arguments);
    va_end(arguments);
    said = true;
}

bool error_died(void) { return died; }

// Registered first, so that it runs after all other functions of atexit.
static void check_stdout(void) {
    bool failed = ferror(stdout) != 0;
    errno = 0;
    failed |= fflush(stdout) != 0;
    if (!failed) { return; }
    int reason = errno ? errno : error_nobody_reads() ? EPIPE : EIO; // of an earlier write it is not known
    if (!said) { fprintf(stderr, "cocogold: standard output cannot be written: %s\n", strerror(reason)); }
    _exit(1);
}

// A terminal that is gone does not count: without SIGHUP the command shall go on.
bool error_nobody_reads(void) {
    struct stat s;
    struct pollfd out = {.fd = STDOUT_FILENO};
    return poll(&out, 1, 0) == 1 && out.revents & POLLERR && fstat(out.fd, &s) == 0 &&
           (S_ISFIFO(s.st_mode) || S_ISSOCK(s.st_mode));
}

int error_broken_pipe(const char *kept) {
    if (error_first_rank()) { complain("standard output cannot be written: Broken pipe; %s", kept); }
    return 1;
}

void error_begin(void) {
    int fd;
    while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO) {}
    if (fd >= 0) { close(fd); }
    atexit(check_stdout);
}

void error_set_rank(int new_rank) { rank = new_rank; }
bool error_first_rank(void) { return rank <= 0; }

void warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say("warning: ", format, arguments);
    va_end(arguments);
}

static void *or_die(void *pointer, size_t bytes) {
    if (!pointer) { die("out of memory: cannot allocate %zu bytes on the host", bytes); }
    return pointer;
}

void *xmalloc(size_t bytes) { return or_die(malloc(bytes ? bytes : 1), bytes); }
void *xcalloc(size_t count, size_t bytes) {
    return or_die(calloc(count ? count : 1, bytes ? bytes : 1), count * bytes);
}
void *xrealloc(void *pointer, size_t bytes) { return or_die(realloc(pointer, bytes ? bytes : 1), bytes); }
void *xgrow(void *array, size_t count, size_t bytes) {
    bool full = (count & (count - 1)) == 0;
    return full ? xrealloc(array, (count ? 2 * count : 1) * bytes) : array;
}
char *xstrdup(const char *text) { return or_die(strdup(text), strlen(text) + 1); }

char *xprintf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return or_die(length < 0 ? NULL : text, 0);
}
