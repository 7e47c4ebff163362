#include "model_test.h"

// The same calls on both kinds of arena: the measured peak is the real one.
static size_t use(Arena *a) {
    ArenaMark start = arena_mark(a);
    floatX *kept = arena_save(a, 1000);
    assert_int_equal((uintptr_t)kept % 256, 0);
    ArenaMark inner = arena_mark(a);
    floatX *t1 = arena_push(a, 77);
    float *t2 = arena_push_float(a, 3);
    assert_int_equal((uintptr_t)t1 % 256, 0);
    assert_true((char *)t2 < (char *)t1); // a stack from the top
    arena_save_float(a, 5);
    arena_release_top(a, inner);
    assert_int_equal(a->top, inner.top);
    assert_true(a->bottom > inner.bottom);
    arena_release_bottom(a, inner);
    assert_int_equal(a->bottom, inner.bottom);
    floatX *again = arena_push(a, 77);
    assert_ptr_equal(again, t1);
    arena_release(a, start);
    assert_int_equal(a->bottom, 0);
    assert_int_equal(a->top, 0);
    return a->peak;
}

static void test_both_ends(void **state) {
    (void)state;
    Device plan = {.plan_only = true}, dev;
    device_open(&dev, 0);
    Arena measured = arena_measure(&plan);
    size_t peak = use(&measured);
    Arena real = arena_create(&dev, peak);
    assert_int_equal(real.size, peak);
    assert_int_equal(use(&real), peak);
    print_message("    peak %zu bytes in both\n", peak);
    arena_destroy(&real);
    arena_destroy(&measured);
    device_close(&dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_ends)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
