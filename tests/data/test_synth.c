// Scenes: pure functions of (seed, split, index), held-out classes in validation only, annotations that fit the pixels.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "data/synth_text.h"
#include "tests/data/shards.h"
#include "tests/dies.h"
#include <omp.h>

static const SynthOptions plain = {
    .width = 64, .height = 64, .train = 9, .val = 5, .seed = 3, .object_size = 1, .frequent_share = 0.26, .colors = 6};

// Boxes and areas recomputed from the labels.
static void check_annotations(const SynthScene *s) {
    for (int k = 0; k < s->count; k++) {
        int x0 = s->width, y0 = s->height, x1 = -1, y1 = -1, area = 0;
        for (int i = 0; i < s->width * s->height; i++) {
            if (s->label[i] != k + 1) { continue; }
            int x = i % s->width, y = i / s->width;
            area++;
            x0 = x < x0 ? x : x0;
            y0 = y < y0 ? y : y0;
            x1 = x > x1 ? x : x1;
            y1 = y > y1 ? y : y1;
        }
        const SynthObject *o = &s->objects[k];
        assert_int_equal(area, o->area);
        assert_true(o->x == x0 && o->y == y0 && o->x + o->width == x1 + 1 && o->y + o->height == y1 + 1);
        assert_true(area >= 24);
    }
}

static void distribution(void **state) {
    (void)state;
    for (int held_out = 0; held_out < 2; held_out++) {
        int objects = 0, persons = 0, unseen = 0, bright = 0, classes[SYNTH_CLASSES] = {0};
        enum { SCENES = 600 };
        for (int i = 0; i < SCENES; i++) {
            SynthScene s = synth_draw(&plain, held_out, i);
            check_annotations(&s);
            assert_in_range(s.count, 1, SYNTH_OBJECTS);
            for (int k = 0; k < s.count; k++) {
                int c = s.objects[k].class_index;
                objects++;
                persons += c == 0;
                unseen += synth_held_out(c);
                classes[c]++;
            }
            int white = 0;
            for (int k = 0; k < 64 * 64; k++) {
                white += s.rgb[3 * k] > 195 && s.rgb[3 * k + 1] > 195 && s.rgb[3 * k + 2] > 195;
            }
            bright += white > 200;
            synth_free(&s);
        }
        printf("  %s: %d objects in %d scenes, %.0f%% persons, %.0f%% held out, %.0f%% with near-white areas\n",
               held_out ? "val" : "train", objects, (int)SCENES, 100.0 * persons / objects, 100.0 * unseen / objects,
               100.0 * bright / SCENES);
        assert_in_range(objects, 2.3 * SCENES, 2.6 * SCENES);
        assert_in_range(persons, 0.20 * objects, 0.30 * objects);
        assert_in_range(bright, 0.12 * SCENES, 0.28 * SCENES);
        for (int c = 0; c < SYNTH_CLASSES; c++) {
            assert_int_equal(classes[c] > 0, c < synth_classes(&plain) && (held_out || !synth_held_out(c)));
        }
        if (held_out) { assert_in_range(unseen, 0.12 * objects, 0.28 * objects); }
    }
}

// Ten colours: all classes occur, in pictures and in texts.
static void colors(void **state) {
    (void)state;
    SynthOptions ten = plain;
    ten.colors = SYNTH_COLORS;
    bool classes[SYNTH_CLASSES] = {0}, said = false;
    for (int i = 0; i < 600; i++) {
        SynthScene s = synth_draw(&ten, true, i);
        SynthPhrase phrases[SYNTH_PHRASES];
        int count = synth_phrases(&ten, s.objects, s.count, true, i, phrases);
        for (int k = 0; k < s.count; k++) { classes[s.objects[k].class_index] = true; }
        for (int k = 0; k < count; k++) { said |= strcmp(phrases[k].text, "the black one") == 0; }
        synth_free(&s);
    }
    for (int c = 0; c < SYNTH_CLASSES; c++) { assert_true(classes[c]); }
    assert_true(said);
}

// Two colours, which a scene may both show: texts name no other.
static void few_colors(void **state) {
    (void)state;
    SynthOptions two = plain;
    two.colors = 2;
    int both = 0;
    for (int i = 0; i < 200; i++) {
        SynthScene s = synth_draw(&two, false, i);
        SynthPhrase phrases[SYNTH_PHRASES];
        bool shown[2] = {0};
        for (int k = 0; k < s.count; k++) {
            int c = s.objects[k].class_index;
            if (c > 0) { shown[(c - 1) / SYNTH_SHAPES] = true; }
        }
        both += shown[0] && shown[1];
        int count = synth_phrases(&two, s.objects, s.count, false, i, phrases);
        for (int k = 0; k < count; k++) {
            const char *text = phrases[k].text, *word = strchr(text, ' ') + 1, *rest = strchr(word, ' ');
            if (!rest || (strcmp(rest, " shapes") != 0 && strcmp(rest, " one") != 0)) { continue; }
            assert_true(strncmp(word, "red ", 4) == 0 || strncmp(word, "green ", 6) == 0);
        }
        synth_free(&s);
    }
    assert_true(both > 20);
}

static void purity(void **state) {
    (void)state;
    SynthOptions more = plain, other = plain;
    more.train = 1000;
    other.seed = 4;
    SynthScene a = synth_draw(&plain, false, 7), b = synth_draw(&more, false, 7), c = synth_draw(&plain, true, 7),
               d = synth_draw(&other, false, 7);
    assert_memory_equal(a.rgb, b.rgb, 3 * 64 * 64);
    assert_memory_equal(a.label, b.label, 64 * 64);
    assert_true(memcmp(a.rgb, c.rgb, 3 * 64 * 64) != 0 && memcmp(a.rgb, d.rgb, 3 * 64 * 64) != 0);
    synth_free(&a);
    synth_free(&b);
    synth_free(&c);
    synth_free(&d);
    SynthOptions wide = plain;
    wide.width = 160, wide.height = 96;
    for (int i = 0; i < 20; i++) {
        a = synth_draw(&wide, true, i);
        check_annotations(&a);
        synth_free(&a);
    }
}

static void compare_file(const char *a, const char *b, const char *name) {
    char *path[2] = {xprintf("%s/%s", a, name), xprintf("%s/%s", b, name)}, hex[2][65];
    for (int i = 0; i < 2; i++) {
        sha256_file(path[i], hex[i]);
        free(path[i]);
    }
    assert_string_equal(hex[0], hex[1]);
}

// The folder is the same for any number of threads; it is left alone when it is there, and nothing else is replaced.
static void folders(void **state) {
    (void)state;
    char *folder = test_folder(), *one = xprintf("%s/one", folder), *two = xprintf("%s/two/", folder);
    omp_set_num_threads(1);
    synth_write(one, &plain);
    omp_set_num_threads(3);
    synth_write(two, &plain);
    static const char *const files[] = {"annotations/instances_train.json",
                                        "annotations/instances_val.json",
                                        "annotations/panoptic_train.json",
                                        "annotations/panoptic_val.json",
                                        "annotations/panoptic_train/000000000009.png",
                                        "train/000000000009.png",
                                        "val/000001000005.png",
                                        "annotations/captions_val.json",
                                        "annotations/refs_train.json",
                                        "classes/seen.txt",
                                        "classes/unseen.txt",
                                        "synth.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) { compare_file(one, two, files[i]); }
    synth_write(one, &plain); // there already
    SynthOptions other = plain;
    other.seed = 8;
    assert_dies("synth.json: field \"seed\" is 3, but 8 is asked for", synth_write(one, &other));
    other = plain;
    other.colors = 10;
    assert_dies("synth.json: field \"colors\" is 6, but 10 is asked for", synth_write(one, &other));
    assert_dies("exists and is not a folder", synth_write(folder, &plain));
    assert_dies("cannot be created", synth_write("/proc/scenes", &plain));
    remove_tree(folder);
    free(one);
    free(two);
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(distribution), cmocka_unit_test(colors),
                                       cmocka_unit_test(few_colors), cmocka_unit_test(purity),
                                       cmocka_unit_test(folders)};
    return cmocka_run_group_tests_name("data/synth", tests, NULL, NULL);
}
