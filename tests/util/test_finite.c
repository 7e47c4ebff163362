// The search for values that are not finite: every place of blocks and their ends, every kind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include "util/finite.h"

static void test_places(void **state) {
    (void)state;
    enum { N = 9000 };
    static float values[N];
    const float finite[] = {0, -0.0f, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-45f}, bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    static const size_t sizes[] = {0, 1, 7, 4095, 4096, 4097, 8192, N};
    int searches = 0;
    for (size_t i = 0; i < N; i++) { values[i] = finite[i % 6]; }
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k];
        assert_int_equal(first_not_finite(values, n), n);
        for (size_t at = 0; at < n; at += at < 20 || at > n - 20 ? 1 : 61, searches++) {
            float kept = values[at], last = values[n - 1];
            values[n - 1] = bad[(at + 1) % 4];
            values[at] = bad[at % 4];
            assert_int_equal(first_not_finite(values, n), at);
            values[n - 1] = last;
            values[at] = kept;
        }
    }
    printf("  %d searches\n", searches);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
