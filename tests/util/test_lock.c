// One process per folder: the second one is told who holds it, and whoever dies holds it no more.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include "tests/data/folder.h"
#include "tests/dies.h"
#include "util/lock.h"

// A process that holds the folder.
static pid_t holder(void) {
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        folder_lock(folder);
        (void)!write(ready[1], "x", 1);
        for (;;) { pause(); }
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static void test_lock(void **state) {
    (void)state;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < 2; i++) { // a killed one leaves its file, but not its lock
        pid_t child = holder();
        char *expected = xprintf(": process %ld on %s writes here now", (long)child, host);
        assert_dies(expected, folder_lock(folder));
        free(expected);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_true(file_exists(in_folder(".lock")));
    }
    pid_t child = fork();
    if (child == 0) { exit(folder_lock(folder) && file_exists(in_folder(".lock")) ? 0 : 1); }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    printf("  taken after two killed ones: exit %d, file left: %d\n", WEXITSTATUS(status),
           file_exists(in_folder(".lock")));
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0 && !file_exists(in_folder(".lock")));
    assert_dies("/none/.lock: cannot be opened", folder_lock(in_folder("none")));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lock)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
