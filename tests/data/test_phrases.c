// Captions and phrases: every form of an entry is read, a bad one is left out and no more; tables of texts; what synth
// says about made-up scenes; and which phrase a sample gets.
#include "data/phrases.h"
#include "data/sample.h"
#include "data/synth_text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

static const char instances[] =
    "{\"images\": [{\"id\": 20, \"file_name\": \"b.png\", \"width\": 60, \"height\": 40},\n"
    "  {\"id\": 10, \"file_name\": \"a.png\", \"width\": 40, \"height\": 40}],\n"
    " \"categories\": [{\"id\": 3, \"name\": \"dog\"}, {\"id\": 1, \"name\": \"cat\"}],\n"
    " \"annotations\": [\n"
    "  {\"id\": 7, \"image_id\": 20, \"category_id\": 3, \"bbox\": [2, 2, 10, 10], \"area\": 100,\n"
    "   \"segmentation\": [[2, 2, 12, 2, 12, 12, 2, 12]]},\n"
    "  {\"id\": 8, \"image_id\": 20, \"category_id\": 1, \"bbox\": [20, 2, 10, 10], \"area\": 100,\n"
    "   \"segmentation\": [[20, 2, 30, 2, 30, 12, 20, 12]]},\n"
    "  {\"id\": 9, \"image_id\": 20, \"category_id\": 3, \"bbox\": [48, 2, 10, 10], \"area\": 100,\n"
    "   \"segmentation\": [[48, 2, 58, 2, 58, 12, 48, 12]]}]}\n";

static Coco open_scene(void) { return coco_read(write_text("instances_x.json", instances), false); }

static Phrases read_refs(const Coco *coco, const char *text) {
    write_text("refs_x.json", text);
    return phrases_open(coco, false);
}

static void entries(void **state) {
    (void)state;
    Coco coco = open_scene();
    Phrases p =
        read_refs(&coco, "[{\"image_id\": 20, \"ann_id\": 8, \"sentences\": [\" the cat\\n\", {\"sent\": \"it\"}, "
                         "{\"raw\": \"that\"}, {\"tokens\": []}]},\n"
                         " {\"image_id\": 10, \"ann_id\": [], \"sentences\": [\"a bird\"], \"kind\": null},\n"
                         " {\"image_id\": 20, \"ann_id\": [9, 7], \"sentences\": [\"dogs\"], \"kind\": \"plural\"},\n"
                         " {\"image_id\": 20, \"ann_id\": [8, 7], \"sentences\": [\"it\"]},\n"
                         " {\"image_id\": 20, \"ann_id\": -1, \"sentences\": [\"no one\"]},\n"
                         " {\"image_id\": 20, \"no_target\": true, \"sentences\": [\"no one\"]}]");
    assert_int_equal(p.count, 8);
    assert_true(p.left_out == 1 && p.entries == 6);
    assert_true(p.first[0] == 0 && p.first[1] == 7 && p.first[2] == 8);
    static const char *const texts[] = {"the cat", "it", "that", "dogs", "it", "no one", "no one", "a bird"};
    static const char *const kinds[] = {"phrase", "phrase", "phrase", "plural", "phrase", "absent", "absent", "absent"};
    static const int counts[] = {1, 1, 1, 2, 2, 0, 0, 0}, categories[] = {1, 1, 1, 0, -1, -1, -1, -1};
    for (int i = 0; i < 8; i++) {
        assert_string_equal(p.phrases[i].text, texts[i]);
        assert_string_equal(p.kinds[p.phrases[i].kind], kinds[i]);
        assert_int_equal(p.phrases[i].count, counts[i]);
        assert_int_equal(p.phrases[i].category, categories[i]);
    }
    assert_true(coco.segments[p.objects[p.phrases[3].first]].id == 9);
    assert_int_equal(p.texts.count, 6);
    phrases_free(&p);
    coco_free(&coco);
}

// Each of these alone leaves only the good entry.
static void bad_entries(void **state) {
    (void)state;
    static const char *const bad[] = {
        "5",
        "[]",
        "null",
        "\"text\"",
        "{}",
        "{\"image_id\": \"x20\", \"ann_id\": 7, \"sentences\": [\"x\"]}",
        "{\"image_id\": 2.5, \"ann_id\": 7, \"sentences\": [\"x\"]}",
        "{\"image_id\": 21, \"ann_id\": 7, \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": \"x7\", \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": [7, null], \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": [7, 7], \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": [7, -1], \"sentences\": [\"x\"]}",
        "{\"image_id\": 10, \"ann_id\": 7, \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": 99999999999999, \"sentences\": [\"x\"]}",
        "{\"image_id\": 20, \"ann_id\": 7}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": \"x\"}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [[\"x\"]]}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [{\"sent\": 5}]}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [\" \\t\\n\"]}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [\"x\"], \"kind\": 3}",
        "{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [\"x\"], \"kind\": \"\"}",
    };
    Coco coco = open_scene();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = xprintf("{\"refs\": [%s, {\"image_id\": 20, \"ann_id\": 9, \"sentences\": [\"good\"]}]}", bad[i]);
        Phrases p = read_refs(&coco, text);
        assert_true(p.count == 1 && p.left_out == 1 && !strcmp(p.phrases[0].text, "good") && p.phrases[0].count == 1);
        assert_true(coco.segments[p.objects[p.phrases[0].first]].id == 9);
        assert_int_equal(left_out_count(coco.texts_left_out, "entries or texts of refs"), i + 1);
        phrases_free(&p);
        free(text);
    }
    assert_dies("refs_x.json: none of its 0 entries can be used", read_refs(&coco, "[]"));
    assert_dies("refs_x.json: expected a list, or an object with the list \"refs\"",
                read_refs(&coco, "{\"refs\": {}}"));
    assert_dies("refs_x.json: is not valid JSON", read_refs(&coco, "[{\"image_id\": 20,"));
    assert_dies("captions_x.json: does not exist, expected beside", phrases_open(&coco, true));
    coco_free(&coco);
}

// Ids in all forms that the annotations may have (coco_id_of_number, coco_id_of_text).
static void ids(void **state) {
    (void)state;
    static const char *const image_ids[] = {"9.0",
                                            "\"9\"",
                                            "18446744073709551614",
                                            "\"18446744073709551614\"",
                                            "9223372036854775808",
                                            "\"6565196475424199681\"",
                                            "\"a\""};
    for (size_t i = 0; i < sizeof image_ids / sizeof *image_ids; i++) {
        char *text =
            xprintf("{\"images\": [{\"id\": %s, \"file_name\": \"a\", \"width\": 40, \"height\": 40}], "
                    "\"categories\": [{\"id\": 1, \"name\": \"cat\"}], \"annotations\": [{\"id\": %s, \"image_id\": "
                    "%s, \"category_id\": 1, \"segmentation\": [[2, 2, 12, 2, 12, 12]]}]}",
                    image_ids[i], image_ids[i], image_ids[i]);
        Coco coco = coco_read(write_text("instances_x.json", text), false);
        char *refs =
            xprintf("[{\"image_id\": %s, \"ann_id\": [%s], \"sentences\": [\"x\"]}]", image_ids[i], image_ids[i]);
        Phrases p = read_refs(&coco, refs);
        assert_true(p.count == 1 && p.left_out == 0);
        phrases_free(&p);
        coco_free(&coco);
        free(refs);
        free(text);
    }
}

static void captions(void **state) {
    (void)state;
    Coco coco = open_scene();
    write_text("captions_x.json",
               "{\"annotations\": [{\"image_id\": 10, \"id\": 1, \"caption\": \"A dog.\\n\"}, {\"image_id\": 20, "
               "\"caption\": \"Two\"}, {\"image_id\": 10, \"caption\": \"caf\xc3\xa9\"}, {\"image_id\": 10}]}");
    Phrases p = phrases_open(&coco, true);
    assert_true(p.captions && p.count == 3 && p.left_out == 1 && p.kind_count == 0);
    assert_string_equal(p.phrases[1].text, "A dog.");
    assert_string_equal(p.phrases[2].text, "caf\xc3\xa9");
    assert_dies("captions_x.json: expected an object with the list \"annotations\"",
                (write_text("captions_x.json", "[]"), phrases_open(&coco, true)));
    phrases_free(&p);
    coco_free(&coco);
}

static void tables(void **state) {
    (void)state;
    TextTable t = {0};
    char text[16];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 5000; i++) {
            snprintf(text, sizeof text, "text %d", i * 7);
            assert_int_equal(text_table_add(&t, text), i);
        }
    }
    assert_true(t.count == 5000 && !strcmp(t.texts[4999], "text 34993"));
    text_table_free(&t);
    assert_null(text_problem("caf\xc3\xa9 \xf0\x9f\x98\x80"));
    assert_string_equal(text_problem("\xc3"), "is not valid UTF-8");
    assert_string_equal(text_problem("a\xed\xa0\x80"), "is not valid UTF-8"); // a surrogate
    assert_string_equal(text_problem("\xc0\x80"), "is not valid UTF-8");      // overlong
}

// Kinds are drawn equally often, however many phrases they have; all objects are valid in the crop; the pass matters.
static void draws(void **state) {
    (void)state;
    Coco coco = open_scene();
    Phrases p = read_refs(
        &coco, "[{\"image_id\": 20, \"ann_id\": 7, \"sentences\": [\"a\", \"b\", \"c\"], \"kind\": \"many\"},\n"
               " {\"image_id\": 20, \"ann_id\": [8, 9], \"sentences\": [\"right\"], \"kind\": \"two\"},\n"
               " {\"image_id\": 20, \"ann_id\": [7, 9], \"sentences\": [\"far\"], \"kind\": \"wide\"},\n"
               " {\"image_id\": 20, \"ann_id\": [], \"sentences\": [\"none\"]}]");
    bool allowed[] = {true, true};
    SampleOptions o = {.allowed = allowed, .seed = 3, .resolution = 40, .phrases = &p};
    int count[4] = {0}, dropped = 0;
    enum { N = 4000 };
    for (uint32_t pass = 0; pass < N; pass++) {
        Sample s;
        SampleReason reason = sample_plan(&coco, &o, 0, pass, &s);
        count[s.kind]++;
        dropped += reason == SAMPLE_CUT_OFF;
        assert_int_equal(reason, s.kind == 2 ? SAMPLE_CUT_OFF : SAMPLE_OK); // 7 and 9 do not fit into one crop
        if (reason == SAMPLE_OK) {
            sample_render_mask(&coco, &o, &s);
            double cells = 0;
            for (int i = 0; i < 1600; i++) { cells += s.mask[i]; }
            assert_true(s.kind == 3 ? cells == 0 && s.absent : s.kind == 1 ? cells >= 150 : cells >= 75);
            assert_int_equal(s.category, s.kind == 0 ? 0 : -1);
            if (s.kind == 1) { assert_true(s.x >= 16); }
        }
        sample_free(&s);
    }
    printf("  kinds drawn %d %d %d %d times, %d cut off\n", count[0], count[1], count[2], count[3], dropped);
    for (int k = 0; k < 4; k++) { assert_in_range(count[k], 900, 1100); }
    allowed[1] = false; // no cat
    for (uint32_t pass = 0; pass < 50; pass++) {
        Sample s;
        sample_plan(&coco, &o, 0, pass, &s);
        assert_true(s.kind != 1);
        sample_free(&s);
    }
    Sample s;
    assert_int_equal(sample_plan(&coco, &o, 1, 0, &s), SAMPLE_NO_TEXT);
    sample_free(&s);
    phrases_free(&p);
    coco_free(&coco);
}

// ---- scenes in words

static bool says(const SynthPhrase *phrases, int count, const char *text) {
    for (int i = 0; i < count; i++) {
        if (phrases[i].kind != PHRASE_ABSENT && strcmp(phrases[i].text, text) == 0) { return true; }
    }
    return false;
}

enum { RED_CIRCLE = 1, BLUE_CIRCLE = 9, BLUE_SQUARE = 10 };

// The margins: centres 8 pixels apart of 64, areas with a ratio of 1.2.
static void margins(void **state) {
    (void)state;
    SynthOptions o = {.width = 64, .height = 64, .seed = 1, .frequent_share = 0.26, .colors = 6};
    static SynthPhrase p[SYNTH_PHRASES];
    SynthObject scene[] = {{RED_CIRCLE, 10, 10, 10, 10, 120}, {BLUE_SQUARE, 18, 40, 10, 10, 90}};
    int n = synth_phrases(&o, scene, 2, true, 0, p);
    assert_true(says(p, n, "the red circle left of the blue square") &&
                says(p, n, "the red circle above the blue square"));
    assert_true(says(p, n, "the circle") && says(p, n, "the red one") && !says(p, n, "the largest circle"));
    scene[1].x = 17; // 7 pixels
    n = synth_phrases(&o, scene, 2, true, 0, p);
    assert_false(says(p, n, "the red circle left of the blue square"));
    assert_true(says(p, n, "the blue square below the red circle"));
    SynthObject circles[] = {
        {RED_CIRCLE, 0, 0, 10, 10, 100}, {BLUE_CIRCLE, 40, 0, 10, 10, 120}, {BLUE_SQUARE, 20, 30, 10, 10, 500}};
    n = synth_phrases(&o, circles, 3, true, 0, p);
    assert_true(says(p, n, "the largest circle") && says(p, n, "the smallest circle") && says(p, n, "all circles"));
    assert_true(says(p, n, "all blue shapes") && says(p, n, "the circle left of the blue square"));
    assert_false(says(p, n, "the circle") || says(p, n, "the blue one") ||
                 says(p, n, "the circle above the blue square"));
    circles[1].area = 119;
    n = synth_phrases(&o, circles, 3, true, 0, p);
    assert_false(says(p, n, "the largest circle") || says(p, n, "the smallest circle"));
    char caption[256];
    synth_caption(circles, 3, true, caption);
    assert_string_equal(caption, "a blue square, a blue circle, and a red circle");
}

// No scene of three objects says more than there is room for.
static void room(void **state) {
    (void)state;
    SynthOptions o = {.width = 64, .height = 64, .seed = 1, .frequent_share = 0.26, .colors = 6};
    static SynthPhrase p[SYNTH_PHRASES];
    int most = 0;
    for (int a = 0; a < SYNTH_CLASSES; a++) {
        for (int b = 0; b < SYNTH_CLASSES; b++) {
            for (int c = 0; c < SYNTH_CLASSES; c++) {
                SynthObject scene[] = {{a, 0, 0, 10, 10, 100}, {b, 20, 20, 10, 10, 150}, {c, 40, 40, 10, 10, 300}};
                int n = synth_phrases(&o, scene, 3, true, a, p);
                most = n > most ? n : most;
            }
        }
    }
    printf("  at most %d phrases of a scene\n", most);
    assert_true(most < SYNTH_PHRASES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries), cmocka_unit_test(bad_entries), cmocka_unit_test(ids),     cmocka_unit_test(captions),
        cmocka_unit_test(tables),  cmocka_unit_test(draws),       cmocka_unit_test(margins), cmocka_unit_test(room)};
    return cmocka_run_group_tests_name("data/phrases", tests, folder_begin, folder_end);
}
