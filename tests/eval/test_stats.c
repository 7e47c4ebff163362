// Rank correlation and bootstrap against cases that can be computed by hand and a slow reference.
#include "eval/stats.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#define near(a, b, tolerance)                                                                                          \
    do {                                                                                                               \
        printf("%s: %.9f, expected %.9f\n", #a, (double)(a), (double)(b));                                             \
        assert_true(fabs((a) - (b)) <= (tolerance));                                                                   \
    } while (0)

static void percentiles(void **state) {
    (void)state;
    double x[] = {5, 1, 4, 2, 3};
    near(percentile(x, 5, 0.5), 3, 0);
    near(percentile(x, 5, 0), 1, 0);
    near(percentile(x, 5, 0.1), 1.4, 1e-12);
    near(percentile(x, 5, 1), 5, 0);
}

static void rank_correlation(void **state) {
    (void)state;
    double x[] = {1, 2, 3, 4, 5}, y[] = {5, 6, 7, 8, 7}, flat[] = {2, 2, 2, 2, 2}, curved[] = {1, 8, 27, 64, 125};
    near(spearman(x, y, 5), 8.0 / sqrt(95.0), 1e-12); // ranks 1 2 3.5 5 3.5
    near(spearman(x, curved, 5), 1, 1e-12);
    double falling[] = {-1, -8, -27, -64, -125};
    near(spearman(x, falling, 5), -1, 1e-12);
    assert_true(isnan(spearman(x, flat, 5)));
    assert_true(isnan(spearman(x, y, 1)) && isnan(spearman(x, y, 0)));
}

// Of a large sample the interval is that of the normal approximation.
static void bootstrap(void **state) {
    (void)state;
    enum { N = 400 };
    double x[N], sum = 0, squares = 0;
    for (int i = 0; i < N; i++) {
        x[i] = sin(12.9898 * i) * 3 + i % 7;
        sum += x[i];
        squares += x[i] * x[i];
    }
    double mean = sum / N, error = sqrt((squares / N - mean * mean) / N);
    Interval found = bootstrap_mean(x, N, 4000, 7), again = bootstrap_mean(x, N, 4000, 7);
    near(found.value, mean, 1e-12);
    near(found.low, mean - 1.96 * error, 0.15 * error);
    near(found.high, mean + 1.96 * error, 0.15 * error);
    assert_true(found.low == again.low && found.high == again.high);
    x[0] = NAN;
    near(bootstrap_mean(x, 3, 10, 1).value, (x[1] + x[2]) / 2, 1e-12);
    assert_true(isnan(bootstrap_mean(x, 0, 10, 1).value) && isnan(bootstrap_mean(x + 1, 5, 0, 1).low));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(percentiles), cmocka_unit_test(rank_correlation),
                                       cmocka_unit_test(bootstrap)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
