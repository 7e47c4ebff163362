// interrupt.h: the first signal asks a loop to end, the second ends the process; a broken pipe does not count as one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/dies.h"
#include "util/error.h"
#include "util/interrupt.h"

static void until(int signal) {
    for (int i = 0; i < 1000 && interrupt_signal() != signal; i++) { usleep(5000); }
}

static void begin_loop(bool broken) {
    int ends[2];
    if (broken && (pipe(ends) != 0 || dup2(ends[1], STDOUT_FILENO) < 0 || close(ends[0]) != 0)) { _exit(99); }
    interrupt_start();
    interrupt_install("saving");
}

// A loop that ends after `signals` signals, and the exit code and sentences of its process.
static void check(const char *name, bool broken, int signals, int expected, const char *said) {
    char text[512];
    int code;
    run_in_child(code, text, sizeof text, {
        begin_loop(broken);
        if (broken) { until(SIGPIPE); }
        for (int i = 0; i < signals; i++) {
            kill(getpid(), SIGTERM);
            if (!broken) { until(SIGTERM); }
            usleep(200000); // a broken pipe stays the reason: nothing to wait for
        }
        _exit(interrupt_code(interrupt_signal(), "all is kept"));
    });
    printf("  %s: exit %d: %s\n", name, code, text);
    assert_int_equal(code, expected);
    assert_string_equal(text, said);
}

static void test_signals(void **state) {
    (void)state;
    static const char asked[] = "\ncocogold: saving (again: leave at once)\n";
    static const char ended[] =
        "\ncocogold: saving (again: leave at once)\ncocogold: ended by signal 15 (Terminated)\n";
    static const char pipe_broke[] = "cocogold: standard output cannot be written: Broken pipe; all is kept\n";
    static const char both[] = "\ncocogold: saving (again: leave at once)\n"
                               "cocogold: standard output cannot be written: Broken pipe; all is kept\n";
    check("none", false, 0, 0, "");
    check("one", false, 1, 128 + SIGTERM, asked);
    check("two", false, 2, 128 + SIGTERM, ended);
    check("a broken pipe", true, 0, 1, pipe_broke);
    check("a broken pipe, then one", true, 1, 1, both);
    check("a broken pipe, then two", true, 2, 128 + SIGTERM, ended);
}

// After the loop: what was printed before is written, and nothing is said.
static void test_over(void **state) {
    (void)state;
    char text[512];
    int code;
    run_in_child(code, text, sizeof text, {
        if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0) { _exit(99); } // a file or pipe: printf keeps the text
        begin_loop(false);
        printf("the model is in run/model\n");
        interrupt_over();
        kill(getpid(), SIGTERM);
        for (;;) { pause(); }
    });
    printf("  exit %d: %s\n", code, text);
    assert_int_equal(code, 128 + SIGTERM);
    assert_string_equal(text, "the model is in run/model\n");
}

// Before the loop: rank 0 says it, and each rank what is not mpirun's SIGTERM.
static void test_ranks(void **state) {
    (void)state;
    static const struct {
        int rank, signal;
        const char *said;
    } cases[] = {{0, SIGTERM, "cocogold: rank 0: ended by signal 15 (Terminated)\n"},
                 {1, SIGTERM, ""},
                 {1, SIGINT, "cocogold: rank 1: ended by signal 2 (Interrupt)\n"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        int code;
        run_in_child(code, text, sizeof text, {
            error_set_rank(cases[i].rank);
            interrupt_start();
            kill(getpid(), cases[i].signal);
            for (;;) { pause(); }
        });
        assert_int_equal(code, 128 + cases[i].signal);
        assert_string_equal(text, cases[i].said);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_signals), cmocka_unit_test(test_over),
                                       cmocka_unit_test(test_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
