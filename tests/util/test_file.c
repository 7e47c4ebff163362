// file.h: what a killed process leaves under a temporary name is removed by the next writer of the same path; folders
// are replaced without a moment in between; nothing is written through a link that somebody has put in the place of a
// file.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/dies.h"
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
        {xprintf("%s.cocogold-tmp-%s-%ld", path, host, ended), true, false},
        {xprintf("%s.cocogold-old-%s-%ld", path, host, ended), false, false},
        {xprintf("%s.cocogold-tmp-%s-%ld", path, host, running), true, true}, // another process writes it now
        {xprintf("%s.cocogold-tmp-%s-x-%ld", path, host, ended), true, true}, // it may still run on another host
        {xprintf("%s.cocogold-old-x%s-%ld", path, host, ended), false, true},
        {xprintf("%s.cocogold-tmp-%ld", path, ended), true, true},
        {xprintf("%s.cocogold-tmp-%s-", path, host), true, true},
        {xprintf("%s.cocogold-tmp-%s-%ldx", path, host, ended), true, true},
        {xprintf("%s/other.h5.cocogold-tmp-%s-%ld", folder, host, ended), true, true},
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
    char *name = temporary_name(path), *expected = xprintf("%s.cocogold-tmp-%s-%ld", path, host, (long)getpid());
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

static void plant(const char *target, const char *link) {
    remove_tree(link);
    assert_int_equal(symlink(target, link), 0);
}

static bool is_link(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0 && S_ISLNK(s.st_mode);
}

static void test_links(void **state) {
    const char *folder = *state;
    char *victim = xprintf("%s/victim", folder), *path = xprintf("%s/out", folder), host[256] = "", *text;
    gethostname(host, sizeof host - 1);
    char *temporary = xprintf("%s.cocogold-tmp-%s-%ld", path, host, (long)getpid());
    atomic_write(victim, "whole", 5);
    const char *const targets[] = {victim, "missing"};
    for (int i = 0; i < 2; i++) {
        plant(targets[i], temporary); // replaced
        plant(targets[i], path);
        atomic_write(path, "new", 3);
        assert_false(is_link(path));
        plant(targets[i], path);
        assert_dies("out: cannot be written: File exists", create_file(path));
        assert_dies("out: cannot be written: it is a symbolic link", append_file(path));
    }
    plant(folder, temporary);
    char *name = temporary_folder(path);
    assert_string_equal(name, temporary);
    assert_true(folder_exists(name) && folder_empty(name) && !is_link(name));
    cleanup_remove(name);
    text = read_file(victim, NULL);
    printf("  behind the links: \"%s\"\n", text);
    assert_string_equal(text, "whole");
    assert_false(file_exists(path_of("%s/missing", folder).text));
    free(text), free(name), free(temporary), free(path), free(victim);
}

typedef struct {
    char *path; // looked for until `done`
    atomic_bool done;
    long looked, missing;
} Watch;

static void *look(void *data) {
    Watch *w = data;
    for (; !w->done; w->looked++) { w->missing += access(w->path, F_OK) != 0; }
    return NULL;
}

// While a folder is published again and again there is no moment without it.
static void test_no_gap(void **state) {
    char *path = xprintf("%s/model", (char *)*state), *number = xprintf("%s/number", path);
    Watch watch = {.path = number};
    pthread_t thread;
    enum { TIMES = 40 };
    for (int i = 0; i < TIMES; i++) {
        char *work = temporary_name(path), *file = xprintf("%s/number", work), *text = xprintf("%d", i);
        make_folders(work);
        atomic_write(file, text, strlen(text));
        commit_rename(work, path);
        assert_false(folder_exists(work));
        char *there = read_file(number, NULL);
        assert_string_equal(there, text);
        free(there), free(text), free(file), free(work);
        if (i == 0) { assert_int_equal(pthread_create(&thread, NULL, look, &watch), 0); }
    }
    watch.done = true;
    pthread_join(thread, NULL);
    char *other = xprintf("%s/other", (char *)*state);
    make_folders(other);
    bool can = renameat2(AT_FDCWD, other, AT_FDCWD, path, RENAME_EXCHANGE) == 0;
    printf("  replaced %d times: looked %ld times, missing %ld times%s\n", (int)TIMES, watch.looked, watch.missing,
           can ? "" : " (this file system cannot exchange names)");
    assert_true(!can || watch.missing == 0);
    free(other);
    free(path);
    free(number);
}

// What killed processes left in a folder goes with the first file that is written there, for any name; the folder is
// not looked through for each file.
static void test_leftovers_once(void **state) {
    char *folder = xprintf("%s/many", (char *)*state), host[256] = "";
    gethostname(host, sizeof host - 1);
    long ended = ended_process();
    Path killed = path_of("%s/a.cocogold-tmp-%s-%ld", folder, host, ended),
         running = path_of("%s/b.cocogold-tmp-%s-%ld", folder, host, (long)getppid()),
         own = path_of("%s/c.cocogold-tmp-%s-%ld", folder, host, (long)getpid());
    make_folders(folder);
    fclose(create_file(killed.text));
    fclose(create_file(running.text));
    fclose(create_file(own.text)); // of another thread
    atomic_write(path_of("%s/1", folder).text, "x", 1);
    assert_true(!file_exists(killed.text) && file_exists(running.text) && file_exists(own.text));
    fclose(create_file(killed.text));
    atomic_write(path_of("%s/2", folder).text, "x", 1);
    assert_true(file_exists(killed.text));
    atomic_write(path_of("%s/c", folder).text, "x", 1); // of an earlier process with this one's id
    assert_false(file_exists(own.text));
    atomic_write(path_of("%s/file", (char *)*state).text, "x", 1);
    atomic_write(path_of("%s/3", folder).text, "x", 1); // after another folder
    assert_false(file_exists(killed.text));
    free(folder);
}

static void test_inside(void **state) {
    const char *folder = *state;
    Path inner = path_of("%s/in/inner", folder), beside = path_of("%s/in2", folder), outer = path_of("%s/in", folder);
    make_folders(inner.text);
    make_folders(beside.text);
    assert_true(path_inside(inner.text, outer.text) && path_inside(outer.text, outer.text) &&
                path_inside(path_of("%s/../in/", beside.text).text, outer.text) && path_inside(outer.text, "/"));
    assert_false(path_inside(outer.text, inner.text) || path_inside(beside.text, outer.text) ||
                 path_inside(path_of("%s/none", outer.text).text, outer.text));
}

static void test_names(void **state) {
    const char *folder = *state;
    assert_string_equal(prefixed("a/b", "0.png").text, "a/b-0.png");
    assert_string_equal(prefixed("a/b/", "0.png").text, "a/b/0.png");
    assert_string_equal(prefixed("", "0.png").text, "-0.png");
    want_prefix("--out", path_of("%s/new/", folder).text);
    assert_true(folder_exists(path_of("%s/new", folder).text));
    assert_dies("--out", want_prefix("--out", path_of("%s/none/x", folder).text));
    // a file in the way
    Path file = path_of("%s/taken", folder), below = path_of("%s/taken/x/y", folder);
    atomic_write(file.text, "x", 1);
    assert_dies("taken: exists and is not a folder", want_folder(file.text));
    assert_dies("taken/x/y: cannot be created: ", want_folder(below.text));
    assert_dies("taken is not a folder", want_folder(below.text));
    // of no bytes
    assert_dies("is empty", want_folder(""));
    assert_dies("is empty", make_folders(""));
    assert_dies("--out: is empty", want_output("--out", ""));
    assert_dies("--out: is empty", want_prefix("--out", ""));
    char *empty = strdup(""); // so that a sanitizer sees what is read behind it
    assert_false(try_make_folders(empty));
    free(empty);
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

// What does not fit: the old file stays, and nothing is left beside it.
static void test_full(void **state) {
    Path folder = path_of("%s/full", (const char *)*state), path = path_of("%s/file", folder.text);
    struct rlimit old, none;
    make_folders(folder.text);
    atomic_write(path.text, "old", 3);
    getrlimit(RLIMIT_FSIZE, &old);
    none = (struct rlimit){0, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &none);
    bool written = try_atomic_write(path.text, "new", 3);
    int reason = errno;
    setrlimit(RLIMIT_FSIZE, &old);
    assert_false(written);
    assert_int_equal(reason, EFBIG);
    char *text = read_file(path.text, NULL);
    assert_string_equal(text, "old");
    free(text);
    assert_true(try_atomic_write(path.text, "new", 3));
    assert_false(try_atomic_write(folder.text, "new", 3));
    remove_tree(path.text);
    assert_true(folder_empty(folder.text));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_leftovers), cmocka_unit_test(test_no_gap),
                                       cmocka_unit_test(test_inside),    cmocka_unit_test(test_links),
                                       cmocka_unit_test(test_names),     cmocka_unit_test(test_leftovers_once),
                                       cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
