#include "data/sample.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

enum { DOG, CAT, BALL, CATEGORIES };

// A data set in memory with polygons that are rectangles.
typedef struct {
    Coco coco;
    Category categories[CATEGORIES];
    Picture picture;
    Segment segments[16];
    int32_t pool[16 * 10];
} Set;

static Set *set_new(int width, int height) {
    Set *s = xcalloc(1, sizeof *s);
    s->categories[DOG] = (Category){1, "dog", true};
    s->categories[CAT] = (Category){2, "cat", true};
    s->categories[BALL] = (Category){3, "ball", true};
    s->picture = (Picture){.id = 42, .width = width, .height = height, .file_name = "picture.png"};
    s->coco = (Coco){.path = "test", .pictures_folder = folder, .category_count = CATEGORIES, .picture_count = 1};
    s->coco.categories = s->categories;
    s->coco.pictures = &s->picture;
    s->coco.segments = s->segments;
    s->coco.pool = s->pool;
    return s;
}

static void add(Set *s, int category, int x, int y, int w, int h, int crowd) {
    int i = s->picture.count++;
    s->segments[i] = (Segment){.id = i, .bbox = {x, y, w, h}, .area = w * h, .category = category};
    s->segments[i].crowd = (uint8_t)crowd;
    s->segments[i].data = (size_t)i * 10;
    const int32_t polygon[10] = {
        1, 8, 100 * x, 100 * y, 100 * (x + w), 100 * y, 100 * (x + w), 100 * (y + h), 100 * x, 100 * (y + h)};
    memcpy(s->pool + i * 10, polygon, sizeof polygon);
}

static SampleOptions everything(void) {
    static const bool all[CATEGORIES] = {true, true, true};
    return (SampleOptions){.allowed = all, .seed = 1, .resolution = 50, .minimum_side = 1};
}

static SampleReason reason_of(const Set *set, const SampleOptions *o) {
    Sample s;
    SampleReason reason = sample_plan(&set->coco, o, 0, 0, &s);
    sample_free(&s);
    printf("  %s\n", sample_reason_names[reason]);
    return reason;
}

static void test_reasons(void **state) {
    (void)state;
    static const bool only_cat[CATEGORIES] = {false, true, false};
    SampleOptions o = everything(), cat = o;
    cat.allowed = only_cat;
    Set *s = set_new(100, 80);
    assert_int_equal(reason_of(s, &o), SAMPLE_UNLABELLED);
    add(s, DOG, 10, 10, 20, 20, 0);
    assert_int_equal(reason_of(s, &o), SAMPLE_OK);
    assert_int_equal(reason_of(s, &cat), SAMPLE_NO_CLASS);
    add(s, CAT, 40, 10, 20, 20, 1);
    assert_int_equal(reason_of(s, &cat), SAMPLE_ONLY_CROWD);
    SampleOptions without_cat = o, without_ball = o;
    without_cat.excluded = only_cat; // a crowd of them counts too
    assert_int_equal(reason_of(s, &without_cat), SAMPLE_EXCLUDED);
    without_ball.excluded = (const bool[CATEGORIES]){[BALL] = true};
    assert_int_equal(reason_of(s, &without_ball), SAMPLE_OK);
    s->segments[1].crowd = 0;
    s->segments[1].form = SEGMENT_NO_MASK; // nor can it be asked for, but it is there
    assert_int_equal(reason_of(s, &cat), SAMPLE_ONLY_CROWD);
    assert_int_equal(reason_of(s, &without_cat), SAMPLE_EXCLUDED);
    o.minimum_side = 80;
    assert_int_equal(reason_of(s, &o), SAMPLE_OK);
    o.minimum_side = 81;
    assert_int_equal(reason_of(s, &o), SAMPLE_TOO_SMALL);
    free(s);
    s = set_new(1000, 20); // a thing that no square can hold for three quarters, nor cover 15 % of it
    add(s, CAT, 0, 0, 1000, 2, 0);
    assert_int_equal(reason_of(s, &cat), SAMPLE_CUT_OFF);
    free(s);
}

// Each rule at its threshold: the crop of a square picture is the picture, so boxes may hang over its border.
static void test_validity(void **state) {
    (void)state;
    static const struct {
        double box[4];
        bool valid;
    } cases[] = {{{90, 10, 10, 10}, true},    {{92.5, 10, 10, 10}, true},  {{92.6, 10, 10, 10}, false},
                 {{-2.5, 10, 10, 10}, true},  {{-2.6, 10, 10, 10}, false}, {{85, 0, 1000, 100}, true},
                 {{86, 0, 1000, 100}, false}, {{10, 10, 0, 10}, false},    {{200, 200, 10, 10}, false}};
    SampleOptions o = everything();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Set *s = set_new(100, 100);
        add(s, DOG, 1, 1, 1, 1, 0);
        memcpy(s->segments[0].bbox, cases[i].box, sizeof cases[i].box);
        Sample sample;
        bool valid = sample_plan(&s->coco, &o, 0, 0, &sample) == SAMPLE_OK;
        printf("box %g %g %g %g in a crop of 100 x 100: %s\n", cases[i].box[0], cases[i].box[1], cases[i].box[2],
               cases[i].box[3], valid ? "valid" : "not valid");
        assert_int_equal(valid, cases[i].valid);
        sample_free(&sample);
        free(s);
    }
}

// Areas 1, 2 and 100 times 16 have weights 1, 2 and round(1 + 6.64) = 8.
static void test_weights(void **state) {
    (void)state;
    Set *s = set_new(100, 100);
    add(s, DOG, 0, 0, 4, 4, 0);
    add(s, CAT, 10, 10, 8, 4, 0);
    add(s, BALL, 40, 40, 40, 40, 0);
    SampleOptions o = everything();
    int count[CATEGORIES] = {0}, n = 20000;
    for (int pass = 0; pass < n; pass++) {
        Sample sample;
        assert_int_equal(sample_plan(&s->coco, &o, 0, (uint32_t)pass, &sample), SAMPLE_OK);
        count[sample.category]++;
        sample_free(&sample);
    }
    const double expected[CATEGORIES] = {1 / 11.0, 2 / 11.0, 8 / 11.0};
    for (int c = 0; c < CATEGORIES; c++) {
        double share = (double)count[c] / n, sigma = sqrt(expected[c] * (1 - expected[c]) / n);
        printf("share %.4f, expected %.4f (%.1f sigma)\n", share, expected[c], (share - expected[c]) / sigma);
        assert_true(fabs(share - expected[c]) < 4 * sigma);
    }
    free(s);
}

static void write_picture(int width, int height) {
    Image image = image_new(width, height, 3);
    for (int i = 0; i < width * height; i++) {
        image.pixels[3 * i] = (uint8_t)(i % width), image.pixels[3 * i + 1] = 50;
    }
    image_save(&image, in_folder("picture.png"));
    image_free(&image);
}

static void test_render(void **state) {
    (void)state;
    write_picture(140, 100);
    Set *s = set_new(140, 100);
    add(s, DOG, 50, 20, 20, 40, 0); // in every crop
    add(s, DOG, 60, 70, 10, 10, 0); // too
    add(s, DOG, 0, 0, 140, 10, 1);  // crowd: never painted
    add(s, DOG, 0, 90, 30, 10, 0);  // valid only in crops that begin at 7 or less
    add(s, DOG, 50, 20, 20, 10, 1); // crowd on top of a painted dog: painted
    SampleOptions o = everything();
    int painted_edge = 0;
    double sum = 0;
    for (int pass = 0; pass < 200; pass++) {
        Sample a, b;
        assert_int_equal(sample_make(&s->coco, &o, 0, (uint32_t)pass, &a), SAMPLE_OK);
        assert_int_equal(sample_make(&s->coco, &o, 0, (uint32_t)pass, &b), SAMPLE_OK);
        assert_int_equal(a.x, b.x); // a function of seed, pass and picture
        assert_memory_equal(a.rgb.pixels, b.rgb.pixels, 50 * 50 * 3);
        assert_true(a.side == 100 && a.y == 0 && a.x >= 0 && a.x <= 40);
        assert_int_equal(a.image_id, 42);
        sum += a.x;
        int mask = 0, unpainted = 0;
        uint8_t *rest = sample_unpainted(&s->coco, &o, &a);
        for (int i = 0; i < 2500; i++) {
            mask += a.mask[i];
            unpainted += rest[i];
            assert_true(!(a.mask[i] && rest[i]));
        }
        free(rest);
        assert_true(fabs(mask / 2500.0 - a.area) < 1e-6);
        bool edge = a.valid[3];
        painted_edge += edge;
        assert_int_equal(edge, a.x <= 7);
        assert_true(a.valid[0] && a.valid[1] && !a.valid[2]);
        int left = 30 - a.x > 0 ? (30 - a.x + 1) / 2 : 0; // half-pixel ties count as mask
        assert_int_equal(mask,
                         10 * 20 + 5 * 5 + (edge ? left * 5 : 0) + (a.x % 2 ? 20 + 5 : 0)); // odd: ties on both sides
        assert_int_equal(unpainted, 50 * 5 + (edge ? 0 : left * 5));
        assert_true(abs(a.rgb.pixels[3 * (25 * 50 + 25)] - (a.x + 50)) <= 1);
        sample_free(&a);
        sample_free(&b);
    }
    printf("mean crop start %.1f of 0..40; the box at the edge was painted %d times of 200\n", sum / 200, painted_edge);
    assert_true(fabs(sum / 200 - 20) < 4 && painted_edge > 15 && painted_edge < 65);
    free(s);
}

static void test_failures(void **state) {
    (void)state;
    Set *s = set_new(200, 100);
    add(s, DOG, 90, 20, 20, 40, 0);
    SampleOptions o = everything(), tiny = o;
    Sample a;
    write_picture(100, 100);
    assert_dies("picture.png: is 100 x 100 pixels, expected 200 x 100", sample_make(&s->coco, &o, 0, 0, &a));
    remove(in_folder("picture.png"));
    assert_dies("picture.png: cannot be opened", sample_make(&s->coco, &o, 0, 0, &a));
    o.skip_damaged = true;
    assert_int_equal(sample_make(&s->coco, &o, 0, 0, &a), SAMPLE_DAMAGED);
    sample_free(&a);
    write_picture(200, 100);
    tiny.resolution = 1; // 8 % of the only pixel
    assert_int_equal(sample_make(&s->coco, &tiny, 0, 0, &a), SAMPLE_EMPTY_MASK);
    sample_free(&a);
    free(s);
}

// crowd: whether what is present where it touches the crop is a crowd, or has no mask.
static void check_absent(bool crowd) {
    Set *s = set_new(200, 100);
    add(s, DOG, 90, 20, 20, 40, 0);
    add(s, BALL, 0, 0, 20, 20, crowd);
    if (!crowd) { s->segments[1].form = SEGMENT_NO_MASK; }
    SampleOptions o = everything();
    o.absent = 0.4;
    int absent = 0, ball = 0, n = 1000;
    for (int pass = 0; pass < n; pass++) {
        Sample a;
        assert_int_equal(sample_plan(&s->coco, &o, 0, (uint32_t)pass, &a), SAMPLE_OK);
        absent += a.absent;
        ball += a.category == BALL;
        assert_int_equal(a.absent, a.category != DOG);
        assert_true(a.category != BALL || a.x > 20);
        if (a.absent && pass < 50) {
            assert_int_equal(sample_render(&s->coco, &o, &a), SAMPLE_OK);
            for (int i = 0; i < 2500; i++) { assert_int_equal(a.mask[i], 0); }
            assert_true(a.area == 0);
        }
        sample_free(&a);
    }
    printf("absent %d of %d (0.4), ball %d\n", absent, n, ball);
    assert_true(abs(absent - 400) < 62 && ball > 100);
    free(s);
}

static void test_absent(void **state) {
    (void)state;
    write_picture(200, 100);
    check_absent(true);
    check_absent(false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reasons),  cmocka_unit_test(test_validity),
                                       cmocka_unit_test(test_weights),  cmocka_unit_test(test_render),
                                       cmocka_unit_test(test_failures), cmocka_unit_test(test_absent)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
