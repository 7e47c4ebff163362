// cocogold.json: what a model was taught to draw, and the target that eval paints accordingly.
#include "data/paint.h"
#include "data/shard.h"
#include "eval/dataset.h"
#include "eval/settings.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

static ModelSettings read_back(void) {
    ModelSettings s;
    assert_true(settings_read(&s, in_folder("")));
    return s;
}

static void written_and_read(void **state) {
    (void)state;
    ModelSettings s = settings_default();
    s.target = TARGET_MASK, s.color[1] = 7, s.alpha = 0.5, s.outline = 4.5, s.steps = 3, s.resolution = 64;
    s.text_template = xstrdup("a {}");
    settings_add(&s.train_class_count, &s.train_classes, 1, (const char *const[]){"cat"});
    settings_add(&s.all_class_count, &s.all_classes, 2, (const char *const[]){"cat", "dog"});
    settings_write(&s, in_folder(""));
    ModelSettings r = read_back();
    assert_true(r.target == TARGET_MASK && r.color[1] == 7 && r.alpha == 0.5 && r.outline == 4.5);
    assert_true(r.steps == 3 && r.resolution == 64 && r.train_class_count == 1 && r.all_class_count == 2);
    assert_string_equal(r.text_template, "a {}");
    assert_true(settings_is_trained(&r, "cat") && !settings_is_trained(&r, "dog"));
    settings_free(&r);
    settings_free(&s);
}

// Without some fields, and with what nobody writes.
static void outline_of_files(void **state) {
    (void)state;
    write_text("cocogold.json", "{\"target\": \"overlay\", \"alpha\": 1}");
    ModelSettings s = read_back();
    assert_true(s.outline == 0 && s.target == TARGET_OVERLAY && s.train_class_count == 0);
    settings_free(&s);
    write_text("cocogold.json", "{\"outline\": 65}");
    assert_dies("cocogold.json: outline is 65: expected a value from 0 to 64", read_back());
}

// A second training adds to what the first one saw.
static void names_are_added(void **state) {
    (void)state;
    int count = 0;
    char **names = NULL;
    settings_add(&count, &names, 2, (const char *const[]){"cat", "dog"});
    settings_add(&count, &names, 3, (const char *const[]){"kite", " dog ", "ant"});
    settings_add(&count, &names, 0, NULL);
    const char *const expected[] = {"cat", "dog", "kite", "ant"};
    assert_int_equal(count, 4);
    for (int i = 0; i < count; i++) {
        assert_string_equal(names[i], expected[i]);
        free(names[i]);
    }
    free(names);
}

// The target of a whole picture is that of training: with its outline, whose width is given at 512 pixels.
static void target_has_the_outline(void **state) {
    (void)state;
    enum { SIDE = 32, PIXELS = SIDE * SIDE };
    static float black[3 * PIXELS], painted[3 * PIXELS];
    static uint8_t mask[PIXELS];
    for (int i = 0; i < 3 * PIXELS; i++) { black[i] = -1; }
    mask[16 * SIDE + 16] = 1;
    DatasetItem item = {.frame = frame_pad(SIDE, SIDE, SIDE), .pixels = black, .truth = mask};
    for (int target = TARGET_OVERLAY; target <= TARGET_MASK; target++) {
        for (int grown = 0; grown < 2; grown++) {
            ModelSettings s = settings_default();
            s.target = target;
            s.outline = grown ? 32 : 0; // 1 pixel on each side
            dataset_target(&item, &s, painted);
            int count = 0;
            for (int i = 0; i < PIXELS; i++) { count += painted[3 * i] > 0; }
            printf("%s, outline %g: %d pixels\n", target_names[target - TARGET_OVERLAY], s.outline, count);
            assert_int_equal(count, grown ? 5 : 1);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_and_read), cmocka_unit_test(outline_of_files),
                                       cmocka_unit_test(names_are_added), cmocka_unit_test(target_has_the_outline)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
