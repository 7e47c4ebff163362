// Metrics on cases that can be computed by hand, the bootstrap, and what is asked for.
#include "eval/metrics.h"
#include "eval/pairs.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define near(a, b)                                                                                                     \
    do {                                                                                                               \
        printf("%s: %.9f, expected %.9f\n", #a, (double)(a), (double)(b));                                             \
        assert_true(fabs((a) - (b)) < 1e-12);                                                                          \
    } while (0)

static PairScore made_up(int64_t image, int class_index, double intersection, double union_, double predicted,
                         double valid) {
    PairScore s = {.image_id = image, .class_index = class_index, .intersection = intersection, .union_ = union_};
    s.predicted = predicted;
    s.truth = union_ - predicted + intersection;
    s.valid = valid;
    s.object_share = s.truth / valid;
    return s;
}

static void one_pair(void **state) {
    (void)state;
    uint8_t mask[] = {1, 1, 1, 0, 0, 1, 0, 0}, truth[] = {1, 1, 0, 0, 1, 1, 0, 0}, ignore[] = {0, 0, 0, 0, 0, 1, 0, 0};
    PairScore s = pair_score(mask, truth, NULL, 8);
    near(pair_iou(&s), 3.0 / 5);
    near(s.object_share, 0.5);
    s = pair_score(mask, truth, ignore, 8);
    near(pair_iou(&s), 2.0 / 4);
    near(s.valid, 7);
    memset(mask, 0, sizeof mask);
    s = pair_score(mask, truth, ignore, 8);
    near(pair_iou(&s), 0);
    assert_true(pair_empty(&s) && !pair_full(&s));
    memset(truth, 0, sizeof truth);
    s = pair_score(mask, truth, NULL, 8);
    near(pair_iou(&s), 1); // empty against empty
    memset(mask, 1, sizeof mask);
    s = pair_score(mask, truth, NULL, 8);
    near(pair_iou(&s), 0);
    assert_true(pair_full(&s));
}

static void means_by_hand(void **state) {
    (void)state;
    // class 0: IoU 1/2 and 3/4, together 5/8; class 2: an empty prediction; class 1: asked for where it is absent
    PairScore scores[] = {made_up(7, 0, 2, 4, 3, 100), made_up(8, 0, 3, 4, 4, 100), made_up(7, 2, 0, 40, 0, 100),
                          made_up(9, 1, 0, 10, 10, 100)};
    scores[3].absent = true;
    Summary s = summarize(scores, 4, NULL, 3, 0, 0);
    assert_int_equal(s.pairs, 3);
    assert_int_equal(s.classes, 2);
    near(s.giou, (0.5 + 0.75 + 0) / 3);
    near(s.ciou, 5.0 / 48);
    near(s.miou, (5.0 / 8 + 0) / 2);
    near(s.class_giou, (0.625 + 0) / 2);
    near(s.iou_bin, (5.0 / 48 + (300.0 - 48) / (300.0 - 5)) / 2);
    near(s.precision_at[0], 1.0 / 3); // IoU > .5, not >=
    near(s.precision_at[2], 1.0 / 3);
    near(s.precision_at[3], 0);
    near(s.empty, 1.0 / 3);
    near(s.full, 0);
    assert_int_equal(s.pairs_of_size[OBJECT_MEDIUM], 2);
    near(s.giou_of_size[OBJECT_MEDIUM], 0.625);
    near(s.giou_of_size[OBJECT_LARGE], 0);
    assert_true(isnan(s.giou_of_size[OBJECT_SMALL]) && isnan(s.miou_low));
    bool keep[] = {false, true, false, true};
    s = summarize(scores, 4, keep, 3, 0, 0);
    near(s.miou, 0.75);
    bool none[] = {false, false, false, false};
    s = summarize(scores, 4, none, 3, 100, 0);
    assert_true(s.pairs == 0 && isnan(s.miou) && isnan(s.giou) && isnan(s.ciou) && isnan(s.miou_low));
    AbsentSummary a = summarize_absent(scores, 4, NULL);
    assert_int_equal(a.pairs, 1);
    near(a.empty, 0);
    near(a.false_area, 0.1);
}

static void harmonic(void **state) {
    (void)state;
    near(harmonic_mean(0.6, 0.3), 0.4);
    near(harmonic_mean(0, 0), 0);
    near(harmonic_mean(0.5, 0), 0);
    assert_true(isnan(harmonic_mean(0.5, NAN)));
}

static void bootstrap_is_deterministic_and_sane(void **state) {
    (void)state;
    enum { N = 400 };
    PairScore scores[N];
    for (int i = 0; i < N; i++) { // two pairs of each picture, IoU (i mod 10) / 10
        scores[i] = made_up(i / 2, i % 2, i % 10, 10, 10, 100);
    }
    Summary a = summarize(scores, N, NULL, 2, 500, 11), b = summarize(scores, N, NULL, 2, 500, 11);
    Summary c = summarize(scores, N, NULL, 2, 500, 12);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.giou_low != c.giou_low || a.giou_high != c.giou_high);
    assert_true(a.miou_low < a.miou && a.miou < a.miou_high);
    // the standard error of the mean over 200 pictures whose mean IoU is (2k + 0.5) / 10, k uniform in 0..4
    double sigma = 0.2 * sqrt(2.0) / sqrt(200);
    printf("giou %.4f in [%.4f, %.4f]; half-width over 1.96 sigma: %.3f\n", a.giou, a.giou_low, a.giou_high,
           (a.giou_high - a.giou_low) / 2 / (1.96 * sigma));
    assert_true(fabs((a.giou_high - a.giou_low) / 2 / (1.96 * sigma) - 1) < 0.15);
    // the order of the pairs does not matter
    PairScore reversed[N];
    for (int i = 0; i < N; i++) { reversed[i] = scores[N - 1 - i]; }
    Summary r = summarize(reversed, N, NULL, 2, 500, 11);
    near(r.miou_low, a.miou_low);
    near(r.giou_high, a.giou_high);
}

// A crowd of cats, a dog without a mask and a ball: only the ball is asked for, and only the bird is absent.
static void pairs_of_annotations(void **state) {
    (void)state;
    enum { CLASSES = 4 };
    Category categories[CLASSES] = {{1, "cat", true}, {2, "dog", true}, {3, "ball", true}, {4, "bird", true}};
    Segment segments[] = {{.category = 0, .crowd = 1}, {.category = 1, .form = SEGMENT_NO_MASK}, {.category = 2}};
    Picture picture = {.id = 1, .width = 8, .height = 8, .count = 3};
    Coco coco = {.category_count = CLASSES, .categories = categories, .picture_count = 1, .pictures = &picture};
    coco.segments = segments;
    PairOptions options = {.absent = 1, .seed = 1};
    int count;
    Pair *pairs = pairs_of_coco(&coco, &options, &count);
    assert_int_equal(count, 2);
    assert_true(pairs[0].category == 2 && !pairs[0].absent && pairs[1].category == 3 && pairs[1].absent);
    free(pairs);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_pair), cmocka_unit_test(means_by_hand),
                                       cmocka_unit_test(harmonic), cmocka_unit_test(pairs_of_annotations),
                                       cmocka_unit_test(bootstrap_is_deterministic_and_sane)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
