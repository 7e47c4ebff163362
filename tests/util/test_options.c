// options.h: the command line that logs and reports quote gives the same arguments again in a shell.
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "util/error.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_command)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
