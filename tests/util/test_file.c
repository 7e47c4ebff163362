// file.h: what a killed process leaves under a temporary name is removed by the next writer of the same path.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "util/error.h"
#include "util/file.h"

// A process id that is in use no more.
static long ended_process(void) {
    pid_t child = fork();
    if (child == 0) { _exit(0); }
    assert_int_equal(waitpid(child, NULL, 0), child);
    return (long)child;
}

static void test_leftovers(void **state) {
    const char *folder = *state;
    char *path = xprintf("%s/shard.h5", folder), host[256] = "";
    gethostname(host, sizeof host - 1);
    long ended = ended_process(), running = (long)getppid();
    struct {
        char *name;
        bool file, stays;
    } beside[] = {
        {xprintf("%s.tmp-%s-%ld", path, host, ended), true, false},
        {xprintf("%s.old-%s-%ld", path, host, ended), false, false},
        {xprintf("%s.tmp-%s-%ld", path, host, running), true, true}, // another process writes it now
        {xprintf("%s.tmp-%s-x-%ld", path, host, ended), true, true}, // it may still run on another host
        {xprintf("%s.old-x%s-%ld", path, host, ended), false, true},
        {xprintf("%s.tmp-%ld", path, ended), true, true},
        {xprintf("%s.tmp-%s-", path, host), true, true},
        {xprintf("%s.tmp-%s-%ldx", path, host, ended), true, true},
        {xprintf("%s/other.h5.tmp-%s-%ld", folder, host, ended), true, true},
    };
    size_t count = sizeof beside / sizeof *beside;
    atomic_write(path, "whole", 5);
    for (size_t i = 0; i < count; i++) {
        if (beside[i].file) {
            atomic_write(beside[i].name, "x", 1);
        } else {
            char *inside = xprintf("%s/inside", beside[i].name);
            make_folders(inside);
            free(inside);
        }
    }
    char *name = temporary_name(path), *expected = xprintf("%s.tmp-%s-%ld", path, host, (long)getpid());
    assert_string_equal(name, expected);
    make_folders(name); // as a folder: the leftovers of what is replaced go too
    remove_tree(path);
    commit_rename(name, path);
    assert_true(folder_exists(path));
    for (size_t i = 0; i < count; i++) {
        bool there = file_exists(beside[i].name) || folder_exists(beside[i].name);
        if (there != beside[i].stays) { fail_msg("%s: %s", beside[i].name, there ? "is still there" : "is gone"); }
        free(beside[i].name);
    }
    free(name);
    free(expected);
    free(path);
}

static int make_folder(void **state) {
    char *folder = xstrdup("/tmp/cocogold-file-XXXXXX");
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static int remove_folder(void **state) {
    remove_tree(*state);
    free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_leftovers)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
