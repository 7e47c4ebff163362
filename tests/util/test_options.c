// options.h: the command line that logs and reports quote gives the same arguments again in a shell.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/dies.h"
#include "util/options.h"

static void test_command(void **state) {
    (void)state;
    static const struct {
        char *argument;
        const char *shown;
    } cases[] = {{"--model", "--model"},
                 {"runs/a_b-1.5/model,x=@y:z+1", "runs/a_b-1.5/model,x=@y:z+1"},
                 {"", "''"},
                 {"a red circle", "'a red circle'"},
                 {"a dog's \"$HOME\" `id`", "'a dog'\\''s \"$HOME\" `id`'"},
                 {"fruit=apple;rm *\n|>", "'fruit=apple;rm *\n|>'"},
                 {"'", "''\\'''"},
                 {"B\xc3\xa4r", "'B\xc3\xa4r'"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *command = options_command(2, (char *[]){"eval", cases[i].argument});
        char *expected = xprintf("cocogold eval %s", cases[i].shown);
        assert_string_equal(command, expected);
        char *script = xprintf("cocogold() { printf %%s \"$2\"; }; %s", command), found[64] = "";
        FILE *shell = popen(script, "r");
        assert_non_null(shell);
        found[fread(found, 1, sizeof found - 1, shell)] = 0;
        assert_int_equal(pclose(shell), 0);
        assert_string_equal(found, cases[i].argument);
        free(script), free(expected), free(command);
    }
}

// The value of `--NAME TEXT`, an option of one of three kinds of numbers.
static int parsed(const char *name, const char *text) {
    int steps = -1;
    long long seed = -1;
    double rate = -1;
    const Option table[] = {{OPT_INT, "steps", &steps, "number of steps", "N"},
                            {OPT_LONG, "seed", &seed, "seed", "SEED"},
                            {OPT_DOUBLE, "rate", &rate, "rate", "X"},
                            OPTIONS_END};
    static const OptionsHelp help = {.about = "Counts.", .usage = "", .example = "--steps 1"};
    char *option = xprintf("--%s", name);
    options_parse(3, (char *[]){"count", option, (char *)text, NULL}, table, &help, 0);
    free(option);
    return strcmp(name, "rate") == 0 ? (int)rate : strcmp(name, "seed") == 0 ? (int)seed : steps;
}

// Integers are decimal: what C reads as octal or hexadecimal is refused.
static void test_decimal(void **state) {
    (void)state;
    assert_int_equal(parsed("steps", "10"), 10);
    assert_int_equal(parsed("steps", "0"), 0);
    assert_int_equal(parsed("seed", "-7"), -7);
    assert_int_equal(parsed("rate", "010"), 10);
    assert_int_equal(parsed("rate", "0.5e1"), 5);
    assert_dies("--steps 010: expected a decimal number without leading zeros", parsed("steps", "010"));
    assert_dies("--steps 0x10: expected a decimal number", parsed("steps", "0x10"));
    assert_dies("--seed -007: expected a decimal number", parsed("seed", "-007"));
    assert_dies("--steps 08: expected a decimal number without leading zeros", parsed("steps", "08"));
    assert_dies("010: expected a decimal number without leading zeros", parsed("steps", "\n010"));
    assert_dies("--steps 0a: invalid numeric value", parsed("steps", "0a"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_command), cmocka_unit_test(test_decimal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
