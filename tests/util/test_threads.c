// threads.h: the number of threads follows what other programs leave of the cores, unless the user has set it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <omp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "util/threads.h"

enum { MOST = 64 };

// As many busy processes as threads.
static int start_busy(pid_t busy[MOST]) {
    int count = omp_get_max_threads() < MOST ? omp_get_max_threads() : MOST;
    for (int i = 0; i < count; i++) {
        if ((busy[i] = fork()) == 0) {
            for (volatile unsigned n = 0;; n++) {}
        }
    }
    return count;
}

// threads_adapt's choice after two seconds of waiting, in a process of its own: it remembers.
static int adapted(void) {
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 11; i++) {
            threads_adapt();
            usleep(200000);
        }
        _exit(omp_get_max_threads() > 255 ? 255 : omp_get_max_threads());
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_adapt(void **state) {
    (void)state;
    int most = omp_get_max_threads();
    pid_t busy[MOST];
    int count = start_busy(busy);
    unsetenv("OMP_NUM_THREADS");
    int free_choice = adapted();
    setenv("OMP_NUM_THREADS", "7", 1); // read by OpenMP at its start only
    int users_choice = adapted();
    for (int i = 0; i < count; i++) { kill(busy[i], SIGKILL), waitpid(busy[i], NULL, 0); }
    printf("    %d threads; beside %d busy processes %d, set by the user %d\n", most, count, free_choice, users_choice);
    assert_int_equal(users_choice, most);
    assert_in_range(free_choice, 1, most);
    if (most > 1 && most <= MOST) { assert_true(free_choice < most); }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adapt)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
