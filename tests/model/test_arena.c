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

// Three layers save 3000, 2000 and 1000 bytes; their gradients are 100, 500 and 700 floats. Backward needs 512 bytes at
// the top. A tensor of a layer may not be overwritten before its own gradients are final.
static void pass_with_gradients(Arena *a, float *grads) {
    static const size_t saved[] = {3000, 2000, 1000}, first[] = {0, 100, 600};
    ArenaMark marks[3];
    char *tensors[3];
    for (int i = 0; i < 3; i++) {
        marks[i] = arena_mark(a);
        tensors[i] = arena_save_tensor(a, "tensor", 1, SHAPE(saved[i]));
        if (!a->measuring) { memset(tensors[i], i + 1, saved[i]); }
    }
    arena_grads_begin(a);
    size_t end = 1300;
    for (int i = 2; i >= 0; end = first[i--]) {
        ArenaMark mark = arena_mark(a);
        floatX *temporary = arena_push(a, 512 / sizeof *temporary);
        if (!a->measuring) {
            memset(temporary, 9, 512);
            for (size_t k = first[i]; k < end; k++) { grads[k] = (float)k; }
            for (size_t k = 0; k < saved[i]; k++) { assert_int_equal(tensors[i][k], i + 1); }
        }
        arena_release_top(a, mark);
        arena_release_bottom(a, marks[i]);
        assert_ptr_equal(arena_grads_final(a, grads + first[i]), grads + end);
    }
}

// 1300 gradients, 5200 bytes, take the place of what has been freed, above the 3000 bytes of the first layer's tensor.
static void test_gradients(void **state) {
    (void)state;
    Device plan = {.plan_only = true}, dev;
    device_open(&dev, 0);
    Arena measured = arena_measure(&plan);
    arena_plan_grads(&measured, (float *)1024, 1300);
    pass_with_gradients(&measured, (float *)1024);
    Arena real = arena_create_planned(&dev, &measured);
    assert_int_equal(real.size, arena_planned(&measured));
    print_message("    saved and temporary %zu, gradients 5200: %zu bytes together\n", measured.peak, real.size);
    assert_true(real.size >= 3000 + 5200 + 512 && real.size < measured.peak + 5200);
    if (dev.host_memory) {
        pass_with_gradients(&real, real.grads.first);
        for (int k = 0; k < 1300; k++) { assert_true(real.grads.first[k] == (float)k); }
    }
    Arena elsewhere = arena_measure(&plan);
    assert_null(arena_grads_final(&elsewhere, NULL));
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both_ends), cmocka_unit_test(test_gradients),
                                       cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
