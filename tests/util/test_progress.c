// What progress prints into a pipe, with the clock moved by hand.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "tests/dies.h"
#include "util/error.h"
#include "util/progress.h"

// `seconds` pass.
static void wait_for(Progress *p, double seconds) { p->started -= seconds, p->printed -= seconds; }

static void quick(void) {
    Progress p = progress_work("loading", 10);
    progress_add(&p, 5);
    wait_for(&p, 1.5);
    progress_add(&p, 5);
    progress_end(&p, p.done);
}

static void slow(void) {
    Progress p = progress_work("segment", 100);
    progress_phase(&p, "step %d of %d", 1, 2);
    wait_for(&p, 3);
    progress_add(&p, 25);
    wait_for(&p, 5); // too early for another line
    progress_add(&p, 25);
    progress_phase(&p, "decode");
    wait_for(&p, 12);
    progress_add(&p, 30);
    progress_end(&p, p.done);
}

static void on_another_rank(void) {
    error_set_rank(1);
    slow();
}

static void test_work(void **state) {
    (void)state;
    char said[1024];
    int code;
    run_in_child(code, said, sizeof said, quick());
    printf("quick: \"%s\"\n", said);
    assert_true(code == 0 && !*said);
    run_in_child(code, said, sizeof said, on_another_rank());
    printf("another rank: \"%s\"\n", said);
    assert_true(code == 0 && !*said);
    run_in_child(code, said, sizeof said, slow());
    printf("slow:\n%s", said);
    assert_string_equal(said, "segment: step 1 of 2  25%  0:09 left\n"
                              "segment: decode  80%  0:05 left\n"
                              "segment  in 0:20\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_work)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
