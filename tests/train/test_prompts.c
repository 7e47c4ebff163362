// In which words a sample is asked for: every set that has a name for its class, equally often, whatever the batch.
#include "train/prompts.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

static void draws(void **state) {
    (void)state;
    enum { CLASSES = 3, N = 6000 };
    bool all[CLASSES] = {true, true, true}, some[CLASSES] = {true, false, true};
    Prompts p = {.sets = {{.has = all}, {.has = some}, {.has = all}}, .count = 3, .texts = CLASSES, .seed = 5};
    int count[CLASSES][3] = {{0}};
    for (int64_t i = 0; i < N; i++) {
        int c = (int)(i % CLASSES), row, again[2];
        prompts_draw(&p, &row, &c, &i, 1);
        assert_int_equal(row % CLASSES, c);
        count[c][row / CLASSES]++;
        prompts_draw(&p, again, (const int[]){0, c}, (const int64_t[]){i + 1, i}, 2);
        assert_int_equal(again[1], row);
    }
    for (int c = 0; c < CLASSES; c++) {
        printf("class %d: %d %d %d times\n", c, count[c][0], count[c][1], count[c][2]);
        for (int k = 0; k < 3; k++) {
            int expected = c == 1 ? (k == 1 ? 0 : 1000) : 667;
            assert_in_range(count[c][k], expected ? expected - 100 : 0, expected ? expected + 100 : 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
