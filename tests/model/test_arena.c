#include "model_test.h"

// The same calls on both kinds of arena: the measured peak is the real one.
static size_t use(Arena *a) {
    ArenaMark start = arena_mark(a);
    floatX *kept = arena_save(a, "kept", 1000);
    assert_int_equal((uintptr_t)kept % 256, 0);
    ArenaMark inner = arena_mark(a);
    floatX *t1 = arena_push(a, 77);
    floatX *t2 = arena_push(a, 3);
    assert_int_equal((uintptr_t)t1 % 256, 0);
    assert_true(t2 < t1); // a stack from the top
    arena_save_float(a, "floats", 5);
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

// What a plan saves, in order, with the launches that lay before.
static void test_table(void **state) {
    (void)state;
    Trace trace = {.count = 0};
    Device plan = {.plan_only = true, .trace = &trace};
    SavedTable table = {.layer = "conv_in.weight"};
    Arena a = arena_measure(&plan);
    a.table = &table;
    ArenaMark start = arena_mark(&a);
    arena_save_tensor(&a, "norm1.mean", sizeof(float), SHAPE(2, 32));
    device_scope(&plan, "forward");
    add_forward(NULL, NULL, NULL, 1, &plan);
    for (int i = 0; i < 2; i++) { arena_save(&a, "more", 100); }
    arena_push(&a, 5);
    device_scope(&plan, "backward");
    add_forward(NULL, NULL, NULL, 1, &plan);
    arena_release(&a, start);
    assert_int_equal(table.count, 3);
    const SavedTensor *t = table.tensors;
    assert_string_equal(t[0].name, "norm1.mean");
    assert_int_equal(t[0].shape.size[1], 32);
    assert_in_range(t[0].bytes, 256, 512); // with a guard zone behind it in debug builds
    assert_string_equal(t[1].name, "more");
    assert_string_equal(t[2].name, "more#2");
    assert_int_equal(t[0].saved.launches, 0);
    assert_int_equal(t[2].saved.launches, 1);
    assert_string_equal(t[2].saved.scope, "forward");
    assert_int_equal(t[2].freed.launches, 2);
    assert_string_equal(t[2].reader, "conv_in");
    assert_int_equal(t[0].bytes + t[1].bytes + t[2].bytes, a.most_saved);
    free(table.tensors);
    trace_free(&trace);
    arena_destroy(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_ends), cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
