// Runs a piece of code in a child process and checks that it dies with one sentence: exit code 1, and stderr is one
// line "cocogold: ..." that contains `text`. CUDA does not work in the child of a process that has opened a GPU: what
// the child does on one must come before that.
//
//     assert_dies("dataset \"mask\" is missing", shard_open(path));
//
// Include after cmocka.h.
#pragma once
#include "util/error.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// In the parent: waits for the child and returns its exit code (-1: killed by a signal); its stderr goes to text.
static inline int child_result(pid_t child, int from, char *text, size_t size) {
    size_t used = 0;
    for (ssize_t n; used + 1 < size && (n = read(from, text + used, size - 1 - used)) > 0;) { used += (size_t)n; }
    text[used] = 0;
    close(from);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// What exit() does in the child: nothing of what the parent registered, such as CUDA's end.
static inline void leave_child(int code, void *unused) {
    (void)unused;
    cleanup_now();
    fflush(stdout);
    _exit(code);
}

#define run_in_child(code, text, size, ...)                                                                            \
    do {                                                                                                               \
        int ends_[2];                                                                                                  \
        assert_int_equal(pipe(ends_), 0);                                                                              \
        fflush(stdout);                                                                                                \
        pid_t child_ = fork();                                                                                         \
        if (child_ == 0) {                                                                                             \
            signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test in the child */               \
            signal(SIGABRT, SIG_DFL);                                                                                  \
            dup2(ends_[1], 2);                                                                                         \
            close(ends_[0]);                                                                                           \
            on_exit(leave_child, NULL);                                                                                \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        close(ends_[1]);                                                                                               \
        code = child_result(child_, ends_[0], text, size);                                                             \
    } while (0)

#define assert_dies(expected, ...)                                                                                     \
    do {                                                                                                               \
        char said_[2048];                                                                                              \
        int code_;                                                                                                     \
        run_in_child(code_, said_, sizeof said_, __VA_ARGS__);                                                         \
        printf("  exit %d: %s", code_, *said_ ? said_ : "(nothing)\n");                                                \
        assert_int_equal(code_, 1);                                                                                    \
        assert_true(strncmp(said_, "cocogold: ", 10) == 0 && strchr(said_, '\n') == said_ + strlen(said_) - 1);        \
        if (!strstr(said_, expected)) { fail_msg("expected \"%s\" in: %s", expected, said_); }                         \
    } while (0)
