#include "model_test.h"

static Params small_params(void) {
    Params p = {0};
    size_t a = params_add(&p, LAYOUT_PLAIN, false, 2, (int[]){3, 5}, "layer.%d.to_q.weight", 0);
    size_t b = params_add(&p, LAYOUT_PLAIN, true, 2, (int[]){3, 5}, "layer.%d.to_k.weight", 0);
    size_t c = params_add(&p, LAYOUT_PLAIN, false, 1, (int[]){3}, "bias");
    size_t d = params_add(&p, LAYOUT_CONV, false, 4, (int[]){2, 3, 3, 3}, "conv.weight");
    assert_int_equal(a, 0);
    assert_int_equal(b, 15); // packed
    assert_int_equal(c, 64); // next group
    assert_int_equal(d, 128);
    params_finish(&p);
    assert_int_equal(p.total, 64 * 256);
    return p;
}

static void test_offsets(void **state) {
    (void)state;
    Params p = small_params();
    assert_string_equal(params_find(&p, "layer.0.to_k.weight")->name, "layer.0.to_k.weight");
    assert_null(params_find(&p, "layer.1.to_k.weight"));
    assert_int_equal(params_find(&p, "conv.weight")->count, 54);
    Device dev;
    device_open(&dev, 0);
    params_free(&p, &dev);
    device_close(&dev);
}

enum { ROWS = 3, COLUMNS = 5 };

// A matrix of two slices, between which another is listed.
static Params gathered_params(ParamGroup *group) {
    Params p = {0};
    params_add(&p, LAYOUT_PLAIN, false, 1, (int[]){7}, "first");
    *group = params_gather(&p, 2 * ROWS * COLUMNS);
    for (int i = 0; i < 2; i++) {
        params_add(&p, LAYOUT_PLAIN, false, 1, (int[]){11}, "layer.%d.norm", i);
        params_add_gathered(&p, group, 2, (int[]){ROWS, COLUMNS}, "layer.%d.proj", i);
    }
    params_finish(&p);
    return p;
}

static void test_gathered(void **state) {
    (void)state;
    ParamGroup group;
    Params p = gathered_params(&group);
    static const char *const names[] = {"first", "layer.0.norm", "layer.0.proj", "layer.1.norm", "layer.1.proj"};
    static const size_t offsets[] = {0, 128, 64, 192, 64 + ROWS * COLUMNS}, listed[] = {0, 64, 128, 192, 256};
    assert_int_equal(p.count, 5);
    for (int i = 0; i < p.count; i++) {
        const ParamSlice *s = &p.slices[i];
        assert_string_equal(s->name, names[i]);
        assert_int_equal(s->offset, offsets[i]);
        assert_int_equal(s->listed, listed[i]);
        assert_int_equal(s->packed, i == 4);
        assert_ptr_equal(params_at(&p, s->offset), s);
    }
    assert_true(group.next == group.end && p.total == 64 * 256 && p.listed == p.total);
    float *flat = xmalloc(p.total * sizeof *flat);
    memset(flat, 0xff, p.total * sizeof *flat);
    params_clear_padding(&p, flat);
    for (int i = 0; i < p.count; i++) {
        for (size_t k = 0; k < p.slices[i].count; k++) { flat[p.slices[i].offset + k] = 1; }
    }
    size_t ones = 0;
    for (size_t i = 0; i < p.total; i++) {
        assert_true(flat[i] == 0 || flat[i] == 1);
        ones += flat[i] == 1;
    }
    assert_int_equal(ones, 7 + 2 * 11 + 2 * ROWS * COLUMNS);
    free(flat);
    params_free(&p, NULL);
}

static void test_conv_layout(void **state) {
    (void)state;
    Params p = small_params();
    const ParamSlice *s = params_find(&p, "conv.weight");
    float torch[54], flat[54], back[54];
    for (int i = 0; i < 54; i++) { torch[i] = i; }
    slice_from_torch(s, flat, torch);
    for (int o = 0; o < 2; o++) {
        for (int i = 0; i < 3; i++) {
            for (int k = 0; k < 9; k++) {
                assert_float_equal(flat[(o * 9 + k) * 3 + i], torch[(o * 3 + i) * 9 + k], 0);
            }
        }
    }
    slice_to_torch(s, back, flat);
    assert_memory_equal(back, torch, sizeof torch);
    Device dev;
    device_open(&dev, 0);
    params_free(&p, &dev);
    device_close(&dev);
}

static void test_upload_download(void **state) {
    (void)state;
    Device dev;
    device_open(&dev, 0);
    Params p = small_params();
    params_alloc(&p, &dev);
    float *grads = params_alloc_grads(&p, &dev);
    float *flat = xmalloc(p.total * sizeof(float)), *back = xmalloc(p.total * sizeof(float));
    from_device(&dev, back, p.weights, p.total);
    for (size_t i = 0; i < p.total; i++) { assert_float_equal(back[i], 0, 0); }
    for (size_t i = 0; i < p.total; i++) {
        flat[i] = (float)(i % 251) - 125; // exact in bf16
    }
    params_upload(&p, flat, &dev);
    from_device(&dev, back, p.weights, p.total);
    assert_memory_equal(flat, back, p.total * sizeof(float));
    assert_ptr_equal(weight_at(&p, 128, &dev), p.weights + 128);
    assert_null(weight_at(&p, NO_PARAM, &dev));
    assert_ptr_equal(grad_at(&p, 64), grads + 64);
    device_free(&dev, grads);
    params_free(&p, &dev);
    device_close(&dev);
    free(flat), free(back);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_gathered),
        cmocka_unit_test(test_conv_layout),
        cmocka_unit_test(test_upload_download),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
