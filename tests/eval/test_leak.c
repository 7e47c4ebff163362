// The evidence of objects whose difference is known, and what follows from it.
#include "eval/covariance.h"
#include "eval/leak.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define near(a, b, tolerance)                                                                                          \
    do {                                                                                                               \
        printf("%s: %.9f, expected %.9f\n", #a, (double)(a), (double)(b));                                             \
        assert_true(fabs((a) - (b)) <= (tolerance));                                                                   \
    } while (0)

enum { SIDE = 16, CELLS = 24 };
static const double a = 0.068, C = 6.15;

// An object of CELLS cells with contrast C in one channel, under white noise: a^2 C^2 n / 2 / (1 - a^2).
static void white_noise(void **state) {
    (void)state;
    float d[SIDE * SIDE] = {0};
    for (int i = 0; i < CELLS; i++) { d[i * 7 % (SIDE * SIDE)] = (float)C; }
    double *S = noise_covariance(SIDE, SIDE, 0, 256, 1), form;
    cholesky(S, SIDE * SIDE);
    inverse_forms(&form, S, d, SIDE * SIDE, 1);
    near(leak_nats(form, a), a * a * C * C * CELLS / 2 / (1 - a * a), 1e-6);
    near(leak_nats(form, 0), 0, 0);
    free(S);
}

// Nats to the error of the best observer: 0 knows nothing; means d = 2 apart (2 nats) err in Phi(-1).
static void error_rate(void **state) {
    (void)state;
    near(leak_error_rate(0), 0.5, 1e-12);
    near(leak_error_rate(2), 0.158655254, 1e-9);
    near(leak_error_rate(8), 0.022750132, 1e-9);
}

// object i: share of the picture and d' S^-1 d, the same for both representations but twice for the mask.
static LeakObject object(double share, double form) {
    LeakObject o = {.object_share = share};
    for (int k = 0; k < REPRESENTATIONS; k++) {
        o.of[k] = (Leak){.contrast = 1 + k, .on_background = {1, 4}, .on_object = {share, 1}};
        for (int noise = 0; noise < NOISES; noise++) { o.of[k].form[noise] = form * (1 + k) / (1 + noise); }
        o.of[k].reference = 16 * o.of[k].form[NOISE_RECIPE];
    }
    return o;
}

static void summaries(void **state) {
    (void)state;
    LeakObject objects[] = {object(0.01, 10), object(0.1, 100), object(0.12, 300), object(0.5, 1000)};
    double ratio = a * a / (1 - a * a) / 2;
    LeakSummary all = leak_summarize(objects, 4, REPRESENTED_OVERLAY, OBJECT_SIZES, SIDE, a, 100, 1);
    assert_int_equal(all.objects, 4);
    near(all.cells, 0.73 / 4 * SIDE * SIDE, 1e-9);
    near(all.median[NOISE_WHITE], 200 * ratio, 1e-12);
    near(all.mean[NOISE_RECIPE].value, 1410 / 8.0 * ratio, 1e-12);
    assert_true(all.mean[NOISE_WHITE].low < all.mean[NOISE_WHITE].value);
    near(all.zero_background, 0.25, 1e-12);
    near(all.zero_object, 0.73 / 4, 1e-12);
    LeakSummary medium = leak_summarize(objects, 4, REPRESENTED_MASK, OBJECT_MEDIUM, SIDE, a, 100, 1);
    assert_int_equal(medium.objects, 2);
    near(medium.median[NOISE_WHITE], 400 * ratio, 1e-12);
    near(medium.contrast.value, 2, 0);
    LeakSummary none = leak_summarize(objects, 1, REPRESENTED_MASK, OBJECT_LARGE, SIDE, a, 100, 1);
    assert_true(none.objects == 0 && isnan(none.median[NOISE_WHITE]) && isnan(none.contrast.value));
}

static void matched(void **state) {
    (void)state;
    LeakObject objects[] = {object(0.01, 10), object(0.1, 100), object(0.12, 300)};
    double odds = 16 * a * a / (1 - a * a), signal = leak_matched_signal(objects, 3, REPRESENTED_MASK, a);
    near(signal, sqrt(odds / (1 + odds)), 1e-12);
    near(leak_nats(objects[1].of[0].form[NOISE_RECIPE], signal), leak_nats(objects[1].of[0].reference, a), 1e-9);
    near(leak_reference_nats(objects, 3, REPRESENTED_OVERLAY, a), leak_nats(800, a), 1e-12);
    near(leak_reference_nats(objects, 3, REPRESENTATIONS, a), leak_nats((800 + 1600) / 2.0, a), 1e-9);
    for (int i = 0; i < 3; i++) { objects[i].of[REPRESENTED_MASK].reference = NAN; } // objects that change nothing
    assert_true(isnan(leak_matched_signal(objects, 3, REPRESENTED_MASK, a)));
    assert_true(isnan(leak_reference_nats(objects, 3, REPRESENTED_MASK, a)));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(white_noise), cmocka_unit_test(error_rate),
                                       cmocka_unit_test(summaries), cmocka_unit_test(matched)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
