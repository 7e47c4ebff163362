// Ways to ask: templates and files of synonyms.
#include "eval/texts.h"
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

static int parse(TextWay *ways, const char *format) {
    char list[256];
    snprintf(list, sizeof list, format, path);
    return text_ways_parse(ways, list, "--text-table", classes, 3);
}

static void templates_and_synonyms(void **state) {
    (void)state;
    write_file("# comment\n\n cat : kitten ,tom\nkite: glider\nteddy bear: plush toy\n");
    TextWay ways[MAX_TEXT_WAYS];
    int count = parse(ways, "a photo of a {}|@%s|{}!");
    assert_int_equal(count, 4);
    const char *const expected[4][3] = {{"a photo of a cat", "a photo of a dog", "a photo of a teddy bear"},
                                        {"kitten", "dog", "plush toy"},
                                        {"tom", "dog", "teddy bear"},
                                        {"cat!", "dog!", "teddy bear!"}};
    const bool has[4][3] = {{true, true, true}, {true, false, true}, {true, false, false}, {true, true, true}};
    for (int k = 0; k < count; k++) {
        for (int c = 0; c < 3; c++) {
            assert_string_equal(ways[k].text[c], expected[k][c]);
            assert_int_equal(ways[k].has[c], has[k][c]);
        }
        printf("%s: %s, %s, %s\n", ways[k].label, ways[k].text[0], ways[k].text[1], ways[k].text[2]);
        text_way_free(&ways[k], 3);
    }
}

static void mistakes(void **state) {
    (void)state;
    TextWay ways[MAX_TEXT_WAYS];
    assert_dies("expected a template with {}", parse(ways, "a cat"));
    assert_dies("cannot be opened", parse(ways, "@/no/such/file"));
    write_file("cat kitten\n");
    assert_dies("line 1: expected \"class:", parse(ways, "@%s"));
    write_file("kite: glider\n");
    assert_dies("has no synonym", parse(ways, "@%s"));
    assert_dies("more than 12", parse(ways, "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}"));
}

int main(void) {
    if (close(mkstemp(path)) != 0) { return 1; }
    const struct CMUnitTest tests[] = {cmocka_unit_test(templates_and_synonyms), cmocka_unit_test(mistakes)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
