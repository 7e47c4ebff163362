// Texts in CSV files: quotes and commas inside, empty fields.
#include "util/csv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void expect(const char *line, int count, const char *const *fields) {
    char copy[128], *rest = copy;
    snprintf(copy, sizeof copy, "%s", line);
    for (int i = 0; i < count; i++) {
        assert_non_null(rest);
        assert_string_equal(csv_take_field(&rest), fields[i]);
    }
    assert_null(rest);
}

static void fields(void **state) {
    (void)state;
    expect("1,person,0.5", 3, (const char *const[]){"1", "person", "0.5"});
    expect("\"a, \"\"b\"\"\",2,\"\"", 3, (const char *const[]){"a, \"b\"", "2", ""});
    expect("\"\"\"\"", 1, (const char *const[]){"\""});
    expect(",", 2, (const char *const[]){"", ""});
    expect("\"cut", 1, (const char *const[]){"cut"});
    expect("", 1, (const char *const[]){""});
}

// What is written is read again.
static void there_and_back(void **state) {
    (void)state;
    static const char *const texts[] = {"person", "", "\"", "a \"b\", c", ",\"\",", "“ü”"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *line = NULL;
        size_t size;
        FILE *stream = open_memstream(&line, &size);
        csv_put_text(stream, texts[i]);
        fputs(",7", stream);
        fclose(stream);
        expect(line, 2, (const char *const[]){texts[i], "7"});
        free(line);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fields), cmocka_unit_test(there_and_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
