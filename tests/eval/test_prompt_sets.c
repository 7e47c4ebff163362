// Ways to ask: templates and files of synonyms.
#include "eval/prompt_sets.h"
#include "util/file.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/dies.h"

static const char *const classes[] = {"cat", "dog", "teddy bear"};
static char path[] = "/tmp/cocogold-texts-XXXXXX";

static void write_file(const char *text) { atomic_write(path, text, strlen(text)); }

static int parse(PromptSet *sets, const char *format) {
    char list[256];
    snprintf(list, sizeof list, format, path);
    return prompt_sets_parse(sets, list, "--text-table", classes, 3);
}

static void templates_and_synonyms(void **state) {
    (void)state;
    write_file("# comment\n\n cat : kitten ,tom\nkite: glider\nteddy bear: plush toy\n");
    PromptSet sets[MAX_PROMPT_SETS];
    int count = parse(sets, "a photo of a {}|@%s|{}!");
    assert_int_equal(count, 4);
    const char *const expected[4][3] = {{"a photo of a cat", "a photo of a dog", "a photo of a teddy bear"},
                                        {"kitten", "dog", "plush toy"},
                                        {"tom", "dog", "teddy bear"},
                                        {"cat!", "dog!", "teddy bear!"}};
    const bool has[4][3] = {{true, true, true}, {true, false, true}, {true, false, false}, {true, true, true}};
    for (int k = 0; k < count; k++) {
        for (int c = 0; c < 3; c++) {
            assert_string_equal(sets[k].text[c], expected[k][c]);
            assert_int_equal(sets[k].has[c], has[k][c]);
        }
        printf("%s: %s, %s, %s\n", sets[k].label, sets[k].text[0], sets[k].text[1], sets[k].text[2]);
        prompt_set_free(&sets[k], 3);
    }
}

static void underscores(void **state) {
    (void)state;
    const char *names[] = {"alarm_clock", "bow_(weapon)", "floor-wood"};
    const char *expected[] = {"a_photo of alarm clock_", "a_photo of bow (weapon)_", "a_photo of floor-wood_"};
    for (int i = 0; i < 3; i++) {
        char *prompt = prompt_fill("a_photo of {}_", names[i]);
        assert_string_equal(prompt, expected[i]);
        free(prompt);
    }
}

static void mistakes(void **state) {
    (void)state;
    PromptSet sets[MAX_PROMPT_SETS];
    assert_dies("expected a template with {}", parse(sets, "a cat"));
    assert_dies("cannot be opened", parse(sets, "@/no/such/file"));
    write_file("cat kitten\n");
    assert_dies("line 1: expected \"class:", parse(sets, "@%s"));
    write_file("kite: glider\n");
    assert_dies("has no synonym", parse(sets, "@%s"));
    assert_dies("more than 12", parse(sets, "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}"));
}

int main(void) {
    if (close(mkstemp(path)) != 0) { return 1; }
    const struct CMUnitTest tests[] = {cmocka_unit_test(templates_and_synonyms), cmocka_unit_test(underscores),
                                       cmocka_unit_test(mistakes)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
