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

// Quoted fields may hold line breaks; others end with the line.
static void lines(void **state) {
    (void)state;
    char text[] = "a,\"b\n\"\"\n\",1\n\nc\"\"\n", *rest = text;
    assert_string_equal(csv_take_line(&rest), "a,\"b\n\"\"\n\",1");
    assert_string_equal(csv_take_line(&rest), "");
    assert_string_equal(csv_take_line(&rest), "c\"\"");
    assert_string_equal(csv_take_line(&rest), "");
    assert_null(rest);
    assert_null(csv_take_line(&rest));
}

static char *written(const char *text) {
    char *line = NULL;
    size_t size;
    FILE *stream = open_memstream(&line, &size);
    csv_put_text(stream, text);
    fclose(stream);
    return line;
}

// A spreadsheet would run these texts.
static void formulas(void **state) {
    (void)state;
    static const char *const runs[] = {"=1+1",    "+1",  "-1",   "@SUM(1)", "\t=1",    "\r=1",
                                       "\n=1",    " =1", "  @a", "\uff1d1", "\uff0b1", "\uff0d1",
                                       "\uff201", "=",   "'=1",  "''-",     "' =1"};
    static const char *const harmless[] = {"", "a=1", "1-2", "person", "'", "'80s car", "it's -1", "\uff41", " "};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char *line = written(runs[i]);
        printf("  %s\n", line);
        assert_memory_equal(line, "\"'", 2);
        assert_memory_equal(line + 2, runs[i], strlen(runs[i]));
        free(line);
    }
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        char *line = written(harmless[i]);
        assert_memory_equal(line + 1, harmless[i], strlen(harmless[i]));
        free(line);
    }
    expect("'=1,-1,\"'80s\"", 3, (const char *const[]){"'=1", "-1", "'80s"}); // not in quotes: a number, or not ours
}

// What is written is read again.
static void there_and_back(void **state) {
    (void)state;
    static const char *const texts[] = {"person", "",  "\"", "a \"b\", c", ",\"\",", "“ü”",  "=1",    "'=1",    "''=1",
                                        " -",     "'", "'a", "\t",         "a\nb",   "\n\"", "=\"\"", "'\uff20"};
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(fields), cmocka_unit_test(lines), cmocka_unit_test(formulas),
                                       cmocka_unit_test(there_and_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
