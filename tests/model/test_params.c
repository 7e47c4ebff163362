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
    params_alloc(&p, true, &dev);
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
    assert_ptr_equal(grad_at(&p, 64), p.grads + 64);
    params_free(&p, &dev);
    device_close(&dev);
    free(flat), free(back);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_conv_layout),
        cmocka_unit_test(test_upload_download),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
