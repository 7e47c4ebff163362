#include "tests/kernels/check.h"

static void *to_device(const void *values, size_t bytes) {
    void *pinned = device_alloc_pinned(&check_dev, bytes), *on_device = device_alloc(&check_dev, bytes);
    memcpy(pinned, values, bytes);
    device_copy(&check_dev, on_device, pinned, bytes, false);
    device_sync(&check_dev);
    device_free_pinned(&check_dev, pinned);
    return on_device;
}

static GradNorm run_grad_norm(const Tensor *grad, StepScalars s, GradNorm *keep) {
    StepScalars *scalars = to_device(&s, sizeof s);
    GradNorm *pinned = device_alloc_pinned(&check_dev, sizeof *pinned), result;
    grad_norm(keep, grad->f, grad->n, scalars, &check_dev);
    device_copy(&check_dev, pinned, keep, sizeof *pinned, false);
    device_sync(&check_dev);
    result = *pinned;
    device_free_pinned(&check_dev, pinned);
    device_free(&check_dev, scalars);
    return result;
}

static void test_grad_norm(void **state) {
    (void)state;
    const size_t sizes[] = {1, 17, 65536, 65537, 1000003};
    GradNorm *keep = device_alloc(&check_dev, sizeof *keep);
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 3; k++) {
            Tensor grad = tensor_random(sizes[i], k == 1 ? 1e-4 : 10, 1, true);
            float max_norm = k == 0 ? 0 : 1, scale = 0.25f;
            StepScalars s = {.grad_scale = scale, .max_norm = max_norm};
            GradNorm r = run_grad_norm(&grad, s, keep), expected;
            reference_grad_norm(&expected, grad.host, grad.n, &s);
            double norm = (double)r.norm / expected.norm - 1, factor = (double)r.factor / expected.factor - 1;
            printf("    n %zu: norm %.7g (%.1e off), factor %.7g (%.1e off)\n", grad.n, r.norm, norm, r.factor, factor);
            assert_true(r.finite == 1 && fabs(norm) < 1e-6 && fabs(factor) < 1e-6);
            tensor_free(&grad);
        }
    }
    device_free(&check_dev, keep);
}

// A single inf or NaN anywhere is not finite, nor a norm whose square overflows fp32, as Adam's second moment would;
// after clipping it is no trouble.
static void test_not_finite(void **state) {
    (void)state;
    enum { N = 70001 };
    GradNorm *keep = device_alloc(&check_dev, sizeof *keep);
    const struct {
        float value, max_norm;
        int finite;
    } cases[] = {{NAN, 1, 0},   {INFINITY, 1, 0}, {-INFINITY, 1, 0}, {NAN, 0, 0},  {INFINITY, 0, 0},
                 {1e30f, 1, 1}, {1e30f, 0, 0},    {1e22f, 0, 0},     {1e18f, 0, 1}};
    float *values = xcalloc(N, sizeof *values);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        values[69999] = cases[k].value;
        Tensor grad = tensor_of(values, N, true);
        StepScalars s = {.grad_scale = 1, .max_norm = cases[k].max_norm};
        GradNorm r = run_grad_norm(&grad, s, keep), expected;
        reference_grad_norm(&expected, grad.host, grad.n, &s);
        printf("    %g, clipped to %g: norm %g finite %d\n", cases[k].value, cases[k].max_norm, r.norm, r.finite);
        assert_int_equal(r.finite, cases[k].finite);
        assert_int_equal(expected.finite, cases[k].finite);
        tensor_free(&grad);
    }
    free(values);
    device_free(&check_dev, keep);
}

// Some steps of AdamW with clipping and EMA; one step has a NaN and must change nothing.
static void check_adam(size_t n, float weight_decay, float max_norm) {
    enum { STEPS = 6, BAD = 3 };
    const double beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, lr = 1e-2f, decay = 0.9f;
    Tensor master = tensor_random(n, 1, 1, true), m = tensor_random(n, 0, 0, true), v = tensor_random(n, 0, 0, true);
    Tensor ema = tensor_copy(&master), param = {.n = n, .x = (floatX *)master.f};
    if (sizeof(floatX) != sizeof(float)) { param = tensor_poisoned(n, false); }
    double *rm = found_in(&m), *rv = found_in(&v), *rp = found_in(&master), *re = found_in(&ema);
    GradNorm *result = device_alloc(&check_dev, sizeof *result);
    for (int step = 0, taken = 0; step < STEPS; step++) {
        Tensor grad = tensor_random(n, 1, 10 + step, true);
        taken += step != BAD;
        double bias1 = 1 - pow(beta1, taken), bias2 = 1 - pow(beta2, taken);
        if (step == BAD) {
            float *bad = xcalloc(n, sizeof *bad);
            bad[n - 1] = NAN;
            tensor_set(&grad, bad);
            free(bad);
        }
        StepScalars s = {.step = step,
                         .lr = (float)lr,
                         .bias1 = (float)bias1,
                         .bias2 = (float)bias2,
                         .ema_decay = (float)decay,
                         .grad_scale = 0.5f,
                         .max_norm = max_norm};
        GradNorm expected;
        reference_grad_norm(&expected, grad.host, n, &s);
        assert_int_equal(expected.finite, step != BAD);
        reference_adam_update(rp, rp, rm, rv, grad.host, &expected, beta1, beta2, eps, weight_decay, n, &s);
        reference_ema_update(re, rp, &expected, n, &s);
        StepScalars *scalars = to_device(&s, sizeof s);
        grad_norm(result, grad.f, n, scalars, &check_dev);
        adam_update(master.f, param.x, m.f, v.f, grad.f, result, (float)beta1, (float)beta2, (float)eps, weight_decay,
                    n, scalars, &check_dev);
        ema_update(ema.f, master.f, result, n, scalars, &check_dev);
        device_sync(&check_dev);
        device_free(&check_dev, scalars);
        tensor_free(&grad);
    }
    printf("  adam n %zu weight decay %g max norm %g\n", n, weight_decay, max_norm);
    if (param.x != (floatX *)master.f) { check_tensor("param", &param, rp, TOLERANCE_FORWARD); }
    check_tensor("master", &master, rp, 1e-6);
    check_and_free("m", &m, rm, 1e-5);
    check_and_free("v", &v, rv, 1e-5);
    check_and_free("ema", &ema, re, 1e-6);
    if (param.x != (floatX *)master.f) { tensor_free(&param); }
    tensor_free(&master);
    free(rp);
    device_free(&check_dev, result);
}

static void test_adam(void **state) {
    (void)state;
    check_adam(1, 0, 0);
    check_adam(33, 0.01f, 1);
    check_adam(1000, 0, 1);
    check_adam(100003, 0.1f, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grad_norm),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_adam),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
