// Mask extraction and opening: against a slow reference, and by properties.
#include "eval/frame.h"
#include "eval/extraction.h"
#include "util/philox.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// Erosion or dilation by the definition: over the 3x3 neighbours inside the picture.
static void slow_morphology(uint8_t *out, const uint8_t *in, int H, int W, bool dilate) {
    for (int y = 0; y < H; y++) {
        for (int x = 0; x < W; x++) {
            int any = 0, all = 1;
            for (int v = y - 1; v <= y + 1; v++) {
                for (int u = x - 1; u <= x + 1; u++) {
                    if (v < 0 || u < 0 || v >= H || u >= W) { continue; }
                    any |= in[v * W + u];
                    all &= in[v * W + u];
                }
            }
            out[y * W + x] = (uint8_t)(dilate ? any : all);
        }
    }
}

static void random_mask(uint8_t *mask, int n, uint64_t id, double density) {
    Random r = random_begin(3, PHILOX_INIT, 0, id);
    for (int i = 0; i < n; i++) { mask[i] = random_uniform(&r) < density; }
}

static void opening_equals_the_definition(void **state) {
    (void)state;
    static const int sizes[][2] = {{1, 1}, {1, 7}, {9, 1}, {2, 2}, {3, 3}, {5, 8}, {17, 33}, {64, 64}};
    int compared = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        for (int trial = 0; trial < 20; trial++) {
            int H = sizes[k][0], W = sizes[k][1], n = H * W;
            uint8_t mask[n], eroded[n], opened[n];
            random_mask(mask, n, k * 100 + trial, 0.5 + trial * 0.024);
            slow_morphology(eroded, mask, H, W, false);
            slow_morphology(opened, eroded, H, W, true);
            mask_opening(mask, H, W);
            assert_memory_equal(mask, opened, n);
            compared += n;
        }
    }
    printf("opening: %d pixels equal to the definition\n", compared);
}

static void opening_shrinks_and_repeats_to_nothing_new(void **state) {
    (void)state;
    enum { H = 40, W = 50 };
    uint8_t before[H * W], once[H * W], twice[H * W];
    for (int trial = 0; trial < 10; trial++) {
        random_mask(before, H * W, trial, 0.85);
        memcpy(once, before, sizeof once);
        mask_opening(once, H, W);
        memcpy(twice, once, sizeof twice);
        mask_opening(twice, H, W);
        for (int i = 0; i < H * W; i++) { assert_true(once[i] <= before[i]); }
        assert_memory_equal(once, twice, sizeof once);
    }
    memset(before, 1, sizeof before); // a full mask and a 3x3 square stay, a line of two goes
    mask_opening(before, H, W);
    for (int i = 0; i < H * W; i++) { assert_int_equal(before[i], 1); }
    memset(before, 0, sizeof before);
    for (int y = 10; y < 13; y++) { memset(before + y * W + 20, 1, 3); }
    memset(before + 30 * W, 1, W);
    memset(before + 31 * W, 1, W);
    mask_opening(before, H, W);
    int kept = 0;
    for (int i = 0; i < H * W; i++) { kept += before[i]; }
    assert_int_equal(kept, 9);
}

static int marked(const MaskRule *rule, float prediction, float input) {
    float p[3] = {prediction, prediction, prediction}, in[3] = {input, input, input};
    uint8_t mask;
    MaskRule r = *rule;
    r.opening = false;
    mask_extract(&mask, p, in, 1, 1, &r);
    return mask;
}

static void compare_is_not_fooled_by_a_white_sky(void **state) {
    (void)state;
    MaskRule white = mask_rule_default(MASK_WHITENESS), compare = mask_rule_default(MASK_COMPARE);
    assert_int_equal(marked(&white, 0.95f, 0.95f), 1);   // a white sky fools the original filter
    assert_int_equal(marked(&compare, 0.95f, 0.95f), 0); // and not the comparison,
    assert_int_equal(marked(&compare, 0.93f, 0.88f), 0); // even where it is reproduced a little brighter
    assert_int_equal(marked(&compare, 0.95f, 0.40f), 1);
    assert_int_equal(marked(&compare, 0.99f, 0.85f), 1); // a light object, painted
    assert_int_equal(marked(&compare, 0.55f, 0.40f), 0); // changed, but not to white
    for (int i = 0; i <= 100; i++) {
        assert_int_equal(marked(&compare, (float)i / 100, (float)i / 100), 0); // nothing changed, nothing marked
    }
}

static void half_transparent_colours_and_luminance(void **state) {
    (void)state;
    MaskRule red = mask_rule_default(MASK_COMPARE);
    red.color[1] = red.color[2] = 0;
    red.alpha = 0.5f;
    red.tolerance = 0.1f;
    red.opening = false;
    float input[3] = {0.2f, 0.6f, 0.4f}, painted[3] = {0.6f, 0.3f, 0.2f}, opaque[3] = {1, 0, 0};
    uint8_t mask;
    mask_extract(&mask, painted, input, 1, 1, &red);
    assert_int_equal(mask, 1);
    mask_extract(&mask, opaque, input, 1, 1, &red);
    assert_int_equal(mask, 0);
    MaskRule luminance = mask_rule_default(MASK_LUMINANCE);
    assert_int_equal(marked(&luminance, 0.51f, 0), 1);
    assert_int_equal(marked(&luminance, 0.49f, 1), 0);
}

static void frames_lead_there_and_back(void **state) {
    (void)state;
    static const int sizes[][2] = {{64, 64}, {640, 480}, {333, 500}, {500, 20}, {1, 300}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int width = sizes[k][0], height = sizes[k][1], n = width * height, wrong = 0;
        Frame f = frame_pad(width, height, 128);
        assert_true(f.x >= 0 && f.y >= 0 && f.x + f.w <= f.W && f.y + f.h <= f.H);
        assert_int_equal(f.w > f.h ? f.w : f.h, 128);
        uint8_t *mask = calloc(n, 1), *back = malloc(n), model[128 * 128];
        for (int y = height / 4; y < height - height / 4; y++) {
            for (int x = width / 4; x < width - width / 4; x++) { mask[y * width + x] = 1; }
        }
        frame_mask(&f, mask, model);
        frame_restore_mask(&f, model, back);
        for (int i = 0; i < n; i++) { wrong += mask[i] != back[i]; }
        printf("frame %dx%d: %.2f%% of the pixels differ after the way there and back\n", width, height,
               100.0 * wrong / n);
        // at most half a pixel of the model along the border of the mask
        double scale = (width > height ? width : height) / 128.0;
        assert_true(wrong <= 0.5 * (width + height) * (scale > 1 ? scale : 1));
        free(mask);
        free(back);
    }
    Frame f = frame_aspect(640, 480, 512, 64);
    assert_int_equal(f.W, 512);
    assert_int_equal(f.H, 384);
    f = frame_aspect(1000, 10, 64, 4);
    assert_int_equal(f.H, 4);
}

static void certainty_is_half_between_paint_and_picture(void **state) {
    (void)state;
    enum { N = 5 };
    float prediction[N][3], input[N][3], certainty[N];
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < 3; c++) {
            input[i][c] = 0.2f;
            prediction[i][c] = 0.2f + 0.2f * (float)i; // from the picture to white
        }
    }
    static const struct {
        MaskMethod method;
        float expected[N];
    } cases[] = {{MASK_COMPARE, {0, 0.25f, 0.5f, 0.75f, 1}},
                 {MASK_WHITENESS, {0.2f, 0.4f, 0.6f, 0.8f, 1}},
                 {MASK_LUMINANCE, {0.2f, 0.4f, 0.6f, 0.8f, 1}}};
    for (int k = 0; k < 3; k++) {
        MaskRule rule = mask_rule_default(cases[k].method);
        mask_certainty(certainty, *prediction, *input, 1, N, &rule);
        printf("%s:", mask_method_names[cases[k].method]);
        for (int i = 0; i < N; i++) {
            printf(" %.3f", certainty[i]);
            assert_float_equal(certainty[i], cases[k].expected[i], 1e-6);
        }
        printf("\n");
    }
    MaskRule rule = mask_rule_default(MASK_COMPARE);
    prediction[0][0] = prediction[0][1] = prediction[0][2] = input[0][0] = input[0][1] = input[0][2] = 1;
    mask_certainty(certainty, *prediction, *input, 1, 1, &rule); // a white picture that stays white
    assert_float_equal(certainty[0], 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(opening_equals_the_definition),
                                       cmocka_unit_test(opening_shrinks_and_repeats_to_nothing_new),
                                       cmocka_unit_test(compare_is_not_fooled_by_a_white_sky),
                                       cmocka_unit_test(half_transparent_colours_and_luminance),
                                       cmocka_unit_test(frames_lead_there_and_back),
                                       cmocka_unit_test(certainty_is_half_between_paint_and_picture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
