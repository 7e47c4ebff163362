#include "util/csv.h"
#include "util/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_trim(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {{"sky", "sky"},
                 {" pot hole \r\n", "pot hole"},
                 {"\xef\xbb\xbfsky", "sky"},
                 {"\xc2\xa0\xe3\x80\x80 a\xe2\x80\x8b", "a"},
                 {"\xef\xbb\xbf \xef\xbb\xbf", ""},
                 {"", ""},
                 {"Gr\xc3\xb6\xc3\x9f"
                  "e",
                  "Gr\xc3\xb6\xc3\x9f"
                  "e"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *trimmed = text_trimmed(cases[i].text);
        assert_string_equal(trimmed, cases[i].expected);
        free(trimmed);
    }
}

static void test_ends_with(void **state) {
    (void)state;
    assert_true(text_ends_with("model.json", ".json") && text_ends_with(".json", ".json") && text_ends_with("", ""));
    assert_false(text_ends_with("json", ".json") || text_ends_with("model.jsonl", ".json"));
}

static void test_shown(void **state) {
    (void)state;
    char *shown = text_shown("a\x1b[2J\n\tb\x7f \xc2\x9b m \xc3\xbc");
    assert_string_equal(shown, "a\\x1b[2J\\n\\tb\\x7f \\x9b m \xc3\xbc");
    free(shown);
    shown = text_shown("a\xe2\x80\xae"
                       "b\xe2\x81\xa9 \xe2\x80\x93");
    assert_string_equal(shown, "a\\u202eb\\u2069 \xe2\x80\x93");
    free(shown);
}

static void test_csv(void **state) {
    (void)state;
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    csv_put_text(out, "24\" monitor, new");
    fclose(out);
    assert_string_equal(text, "\"24\"\" monitor, new\"");
    free(text);
}

static void test_hash(void **state) {
    (void)state;
    assert_true(text_hash("red circle", 10) == hash_more(hash_more(HASH_BEGIN, "red ", 4), "circle", 6));
    assert_true(text_hash("", 0) == 0x14650fb0739d0383 && text_hash("a", 1) != text_hash("b", 1));
}

// Different texts have different names, all of which are one part of a path.
static void test_file_names(void **state) {
    (void)state;
    char *plain = text_file_name("red circle"), *same[2];
    assert_string_equal(plain, "red_circle");
    free(plain);
    char *words = calloc(1, 400), *more = calloc(1, 400);
    memset(words, 'x', 300), memset(more, 'x', 301);
    const char *const texts[] = {"a b", "a_b", "a/b", "a\\b", "a:b", "..", ".", "", "../x", "a\nb", words, more, "_ b"};
    enum { TEXTS = sizeof texts / sizeof *texts };
    for (int i = 0; i < TEXTS; i++) {
        for (int k = 0; k < TEXTS; k++) {
            same[0] = text_file_name(texts[i]), same[1] = text_file_name(texts[k]);
            assert_int_equal(strcmp(same[0], same[1]) == 0, i == k);
            assert_true(strlen(same[0]) > 1 && strlen(same[0]) < 128 && !strpbrk(same[0], "/\\:\n") && *same[0] != '.');
            free(same[0]), free(same[1]);
        }
    }
    free(words), free(more);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trim),  cmocka_unit_test(test_ends_with),
                                       cmocka_unit_test(test_shown), cmocka_unit_test(test_csv),
                                       cmocka_unit_test(test_hash),  cmocka_unit_test(test_file_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
