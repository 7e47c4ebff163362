// JSON from files: keys given twice, numbers out of range or not finite, containers of another type, depth.
#include "util/json.h"
#include "tests/data/folder.h"
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/dies.h"

static Json read_text(const char *text) { return json_read_any(write_text("x.json", text)); }

static void last_key_counts(void **state) {
    (void)state;
    Json json = read_text("{\"a\": 1, \"b\": {\"c\": 5, \"c\": 6}, \"a\": 2, \"n\": 3, \"n\": null}");
    assert_int_equal(json_integer(&json, "a", 0, 0, 9), 2);
    assert_true(json_number_at(json.root, "b.c") == 6);
    assert_int_equal(json_integer(&json, "n", 7, 0, 9), 7);
    json_free(&json);
}

static void ranges(void **state) {
    (void)state;
    Json json = read_text("{\"one\": 4294967297, \"list\": [1, 4294967297], \"huge\": 123456789012345678901, "
                          "\"inf\": 1e999, \"minus\": -Infinity, \"tiny\": 1e-320, \"big\": 1e300}");
    int values[2];
    assert_dies("\"one\" has 4294967297, expected 1 to 100", json_integer(&json, "one", 1, 1, 100));
    assert_dies("\"list\" has 4294967297, expected 0 to 2147483647",
                json_integers(&json, "list", values, 2, 0, INT_MAX));
    assert_dies("\"huge\" is not an integer", json_integer(&json, "huge", 1, LLONG_MIN, LLONG_MAX));
    assert_dies("\"inf\" is not a finite number", json_number(&json, "inf", 0));
    assert_dies("\"minus\" is not a finite number", json_number(&json, "minus", 0));
    assert_true(isnan(json_number_at(json.root, "inf")) && isnan(json_number_at(json.root, "inf.x")));
    assert_true(json_number(&json, "tiny", 0) == 1e-320 && json_number(&json, "big", 0) == 1e300);
    assert_true(json_integer(&json, "one", 1, 0, LLONG_MAX) == 4294967297);
    json_free(&json);
}

static void choices(void **state) {
    (void)state;
    static const char *const names[] = {"red", "green", "blue", NULL};
    Json json = read_text("{\"one\": \"blue\", \"other\": \"pink\"}");
    assert_int_equal(json_choice(&json, "one", names, 0), 2);
    assert_int_equal(json_choice(&json, "none", names, 1), 1);
    assert_dies("x.json: field \"other\" is \"pink\", expected one of red, green, blue",
                json_choice(&json, "other", names, 0));
    json_free(&json);
}

static void other_containers(void **state) {
    (void)state;
    static const char *const texts[] = {"[1, 2]", "7", "\"a\"", "null", "{\"a\": [{\"b\": 1}]}", "{\"a\": {}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Json json = read_text(texts[i]);
        printf("%s\n", texts[i]);
        assert_null(json_at(json.root, "a.b"));
        assert_true(isnan(json_number_at(json.root, "a.b")));
        assert_string_equal(json_string_at(json.root, "a"), "");
        json_free(&json);
        if (texts[i][0] != '{') { assert_dies("is JSON, but no object", json_read(write_text("x.json", texts[i]))); }
    }
}

static char *nested(int depth) {
    char *text = xmalloc(2 * (size_t)depth + 1);
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    text[2 * depth] = 0;
    return text;
}

static void depth(void **state) {
    (void)state;
    char *right = nested(500), *deep = nested(1000000), *quoted = xprintf("[\"\\\"%s\"]", deep);
    Json json = read_text(right);
    json_free(&json);
    json = read_text(quoted); // brackets in a text
    json_free(&json);
    assert_dies("nested too deeply", read_text(deep));
    free(right);
    free(deep);
    free(quoted);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(last_key_counts), cmocka_unit_test(ranges),
                                       cmocka_unit_test(choices), cmocka_unit_test(other_containers),
                                       cmocka_unit_test(depth)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
