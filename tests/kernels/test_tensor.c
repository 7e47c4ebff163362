#include "tests/kernels/check.h"

// Up-sampling, concatenation, sums and conversions.

static void check_upsample(int B, int H, int W, int C, int OH, int OW) {
    printf("  upsample B %d, %d x %d to %d x %d, C %d\n", B, H, W, OH, OW, C);
    size_t n = (size_t)B * H * W * C, m = (size_t)B * OH * OW * C;
    Tensor x = tensor_random(n, 1, 1, false), out = tensor_poisoned(m, false);
    Tensor dout = tensor_random(m, 1, 2, false), dinp = tensor_poisoned(n, false);
    double *y = found_in(&out), *dx = found_in(&dinp);
    reference_upsample_nearest_forward(y, x.host, B, H, W, C, OH, OW);
    reference_upsample_nearest_backward(dx, dout.host, B, H, W, C, OH, OW);
    upsample_nearest_forward(out.x, x.x, B, H, W, C, OH, OW, &check_dev);
    upsample_nearest_backward(dinp.x, dout.x, B, H, W, C, OH, OW, &check_dev);
    check_and_free("out", &out, y, 0);
    check_and_free("dinp", &dinp, dx, TOLERANCE_BACKWARD);
    tensor_free(&x);
    tensor_free(&dout);
}

static void test_upsample(void **state) {
    (void)state;
    check_upsample(1, 1, 1, 1, 1, 1);
    check_upsample(1, 1, 1, 10, 2, 2);
    check_upsample(2, 3, 5, 7, 6, 10);
    check_upsample(3, 4, 4, 32, 7, 8); // a UNet whose side is no multiple of its stride
    check_upsample(1, 5, 9, 20, 9, 17);
    check_upsample(2, 16, 16, 64, 32, 32);
    check_upsample(1, 3, 2, 5, 11, 7);
}

static void check_concat(int N, int CA, int CB) {
    printf("  concat N %d, %d | %d\n", N, CA, CB);
    size_t na = (size_t)N * CA, nb = (size_t)N * CB;
    Tensor a = tensor_random(na, 1, 1, false), b = tensor_random(nb, 1, 2, false);
    Tensor out = tensor_poisoned(na + nb, false), dout = tensor_random(na + nb, 1, 3, false);
    Tensor da = tensor_poisoned(na, false), db = tensor_poisoned(nb, false);
    double *y = found_in(&out), *ra = found_in(&da), *rb = found_in(&db);
    reference_concat_forward(y, a.host, b.host, N, CA, CB);
    reference_concat_backward(ra, rb, dout.host, N, CA, CB);
    concat_forward(out.x, a.x, b.x, N, CA, CB, &check_dev);
    concat_backward(da.x, NULL, dout.x, N, CA, CB, &check_dev);
    concat_backward(NULL, db.x, dout.x, N, CA, CB, &check_dev);
    check_and_free("out", &out, y, 0);
    check_tensor("da alone", &da, ra, 0);
    check_tensor("db alone", &db, rb, 0);
    Tensor da2 = tensor_poisoned(na, false), db2 = tensor_poisoned(nb, false);
    concat_backward(da2.x, db2.x, dout.x, N, CA, CB, &check_dev);
    check_and_free("da", &da2, ra, 0);
    check_and_free("db", &db2, rb, 0);
    Tensor *rest[] = {&a, &b, &dout, &da, &db};
    for (int i = 0; i < 5; i++) { tensor_free(rest[i]); }
}

static void test_concat(void **state) {
    (void)state;
    check_concat(1, 1, 1);
    check_concat(5, 4, 4);
    check_concat(33, 10, 30);
    check_concat(300, 64, 32);
    check_concat(7, 1280, 640);
}

static void test_add(void **state) {
    (void)state;
    const size_t sizes[] = {1, 13, 40000};
    for (int k = 0; k < 9; k++) {
        size_t n = sizes[k / 3];
        int alias = k % 3; // out is another tensor, a, b
        Tensor a = tensor_random(n, 1, 1, false), b = tensor_random(n, 1, 2, false);
        Tensor out = alias == 0 ? tensor_poisoned(n, false) : tensor_copy(alias == 1 ? &a : &b);
        double *y = doubles(n);
        reference_add_forward(y, a.host, b.host, n);
        add_forward(out.x, alias == 1 ? out.x : a.x, alias == 2 ? out.x : b.x, n, &check_dev);
        check_and_free("sum", &out, y, TOLERANCE_FORWARD);
        tensor_free(&a);
        tensor_free(&b);
    }
}

static void test_scale_shift(void **state) {
    (void)state;
    const size_t sizes[] = {1, 13, 40000};
    for (int k = 0; k < 6; k++) {
        size_t n = sizes[k / 2];
        Tensor x = tensor_random(n, 1, 1, false), out = k % 2 ? tensor_copy(&x) : tensor_poisoned(n, false);
        double *y = doubles(n);
        reference_scale_shift_forward(y, x.host, 0.18215f, -0.75f, n);
        scale_shift_forward(out.x, k % 2 ? out.x : x.x, 0.18215f, -0.75f, n, &check_dev);
        check_and_free("out", &out, y, TOLERANCE_FORWARD);
        tensor_free(&x);
    }
}

static void test_add_scaled(void **state) {
    (void)state;
    const size_t sizes[] = {1, 6, 40001};
    for (int k = 0; k < 3; k++) {
        size_t n = sizes[k];
        Tensor x = tensor_random(n, 1, 1, true), out = tensor_random(n, 1, 2, true);
        double *y = found_in(&out);
        reference_add_scaled(y, x.host, -0.3, n);
        add_scaled(out.f, x.f, -0.3f, n, &check_dev);
        check_and_free("out", &out, y, 1e-6);
        tensor_free(&x);
    }
}

static void test_casts(void **state) {
    (void)state;
    const size_t sizes[] = {1, 13, 100001};
    double rounding = sizeof(floatX) == 2 ? 0x1p-8 : 0;
    for (int k = 0; k < 3; k++) {
        size_t n = sizes[k];
        Tensor wide = tensor_random(n, 100, 1, true), narrow = tensor_poisoned(n, false),
               back = tensor_poisoned(n, true);
        cast_to_floatX(narrow.x, wide.f, n, &check_dev);
        cast_to_float(back.f, narrow.x, n, &check_dev);
        double *values = tensor_values(&back), worst = 0, *rn = found_in(&narrow), *rb = found_in(&back);
        for (size_t i = 0; i < n; i++) { worst = fmax(worst, fabs(values[i] - wide.host[i]) / fabs(wide.host[i])); }
        printf("    cast of %zu there and back: largest relative error %.1e\n", n, worst);
        assert_true(worst <= rounding);
        reference_cast_to_floatX(rn, wide.host, n);
        reference_cast_to_float(rb, rn, n);
        check_tensor("there", &narrow, rn, 0);
        check_tensor("back", &back, rb, 0);
        free(values), free(rn), free(rb);
        tensor_free(&wide);
        tensor_free(&narrow);
        tensor_free(&back);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_upsample),    cmocka_unit_test(test_concat),     cmocka_unit_test(test_add),
        cmocka_unit_test(test_scale_shift), cmocka_unit_test(test_add_scaled), cmocka_unit_test(test_casts),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
