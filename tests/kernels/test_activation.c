#include "tests/kernels/check.h"
#ifdef BACKEND_cpu
#include "kernels/vecmath.h"
#endif

static const struct {
    const char *name;
    void (*forward)(floatX *, const floatX *, size_t, Device *);
    void (*backward)(floatX *, const floatX *, const floatX *, size_t, Device *);
    void (*reference_forward)(double *, const double *, size_t);
    void (*reference_backward)(double *, const double *, const double *, size_t);
} activations[] = {
    {"silu", silu_forward, silu_backward, reference_silu_forward, reference_silu_backward},
    {"gelu", gelu_forward, gelu_backward, reference_gelu_forward, reference_gelu_backward},
    {"quick_gelu", quick_gelu_forward, quick_gelu_backward, reference_quick_gelu_forward,
     reference_quick_gelu_backward},
};

static void check_activation(int which, size_t n, double scale, bool in_place) {
    Tensor x = tensor_random(n, scale, 1, false), dout = tensor_random(n, 1, 2, false);
    Tensor out = in_place ? tensor_copy(&x) : tensor_poisoned(n, false);
    Tensor dinp = in_place ? tensor_copy(&dout) : tensor_poisoned(n, false);
    double *y = doubles(n), *dx = doubles(n);
    activations[which].reference_forward(y, x.host, n);
    activations[which].reference_backward(dx, dout.host, x.host, n);
    activations[which].forward(out.x, in_place ? out.x : x.x, n, &check_dev);
    activations[which].backward(dinp.x, in_place ? dinp.x : dout.x, x.x, n, &check_dev);
    check_and_free("out", &out, y, TOLERANCE_FORWARD);
    check_and_free("dinp", &dinp, dx, TOLERANCE_BACKWARD);
    tensor_free(&x);
    tensor_free(&dout);
}

static void test_activations(void **state) {
    (void)state;
    const size_t sizes[] = {1, 7, 8, 33, 1000, 40001};
    for (int which = 0; which < (int)(sizeof activations / sizeof *activations); which++) {
        for (int i = 0; i < 6; i++) {
            printf("  %s of %zu\n", activations[which].name, sizes[i]);
            check_activation(which, sizes[i], i % 2 ? 3 : 1, i % 2);
        }
    }
}

// Far out the functions are 0 or x, and nothing overflows.
static void test_extremes(void **state) {
    (void)state;
    const float values[] = {-1e4f, -200, -100, -60, -12, 0, 12, 60, 100, 200, 1e4f};
    enum { N = sizeof values / sizeof *values };
    Tensor x = tensor_of(values, N, false), ones = tensor_copy(&x);
    float one[N];
    for (int i = 0; i < N; i++) { one[i] = 1; }
    tensor_set(&ones, one);
    for (int which = 0; which < (int)(sizeof activations / sizeof *activations); which++) {
        Tensor out = tensor_poisoned(N, false), dinp = tensor_poisoned(N, false);
        double y[N], dx[N];
        activations[which].reference_forward(y, x.host, N);
        activations[which].reference_backward(dx, ones.host, x.host, N);
        activations[which].forward(out.x, x.x, N, &check_dev);
        activations[which].backward(dinp.x, ones.x, x.x, N, &check_dev);
        check_tensor(activations[which].name, &out, y, TOLERANCE_FORWARD);
        check_tensor("dinp", &dinp, dx, TOLERANCE_BACKWARD);
        tensor_free(&out);
        tensor_free(&dinp);
    }
    tensor_free(&x);
    tensor_free(&ones);
}

// A NaN stays where it is and reaches nothing else.
static void test_nan(void **state) {
    (void)state;
    enum { N = 40 };
    float values[N];
    for (int i = 0; i < N; i++) { values[i] = i == 17 ? NAN : 0.1f * i; }
    Tensor x = tensor_of(values, N, false), dout = tensor_random(N, 1, 1, false);
    for (int which = 0; which < 4; which++) {
        bool gated = which == 3;
        Tensor out = tensor_poisoned(gated ? N / 2 : N, false), dinp = tensor_poisoned(N, false);
        if (gated) {
            geglu_forward(out.x, x.x, 1, N / 2, &check_dev);
            geglu_backward(dinp.x, NULL, dout.x, x.x, 1, N / 2, &check_dev);
        } else {
            activations[which].forward(out.x, x.x, N, &check_dev);
            activations[which].backward(dinp.x, dout.x, x.x, N, &check_dev);
        }
        double *y = tensor_values(&out), *dx = tensor_values(&dinp);
        for (size_t i = 0; i < out.n; i++) { assert_true(isnan(y[i]) == (i == 17)); }
        for (int i = 0; i < N; i++) { assert_true(isnan(dx[i]) == (i == 17 + (gated ? N / 2 : 0))); }
        free(y);
        free(dx);
        tensor_free(&out);
        tensor_free(&dinp);
    }
    tensor_free(&x);
    tensor_free(&dout);
}

// The first half times gelu of the second.
static void test_geglu(void **state) {
    (void)state;
    const int shapes[][2] = {{1, 1}, {1, 13}, {5, 7}, {64, 160}, {77, 33}, {300, 512}};
    for (int i = 0; i < 6; i++) {
        int N = shapes[i][0], H = shapes[i][1];
        size_t n = (size_t)N * H;
        printf("  geglu N %d H %d\n", N, H);
        Tensor x = tensor_random(2 * n, 1.5, 1, false), dout = tensor_random(n, 1, 2, false);
        Tensor out = tensor_poisoned(n, false), dinp = tensor_poisoned(2 * n, false);
        Tensor again = tensor_copy(&dout), alone = tensor_poisoned(2 * n, false);
        double *y = doubles(n), *dx = doubles(2 * n), *y2 = doubles(n), *dx2 = doubles(2 * n);
        reference_geglu_forward(y, x.host, N, H);
        reference_geglu_backward(dx, y2, dout.host, x.host, N, H);
        memcpy(dx2, dx, 2 * n * sizeof *dx);
        geglu_forward(out.x, x.x, N, H, &check_dev);
        geglu_backward(dinp.x, again.x, again.x, x.x, N, H, &check_dev);
        geglu_backward(alone.x, NULL, dout.x, x.x, N, H, &check_dev);
        check_and_free("out", &out, y, TOLERANCE_FORWARD);
        check_and_free("out of backward, over dout", &again, y2, TOLERANCE_FORWARD);
        check_and_free("dinp", &dinp, dx, TOLERANCE_BACKWARD);
        check_and_free("dinp alone", &alone, dx2, TOLERANCE_BACKWARD);
        tensor_free(&x);
        tensor_free(&dout);
    }
}

#ifdef BACKEND_cpu
// Error in units of the last place of the fp32 number next to the reference.
static double ulps(float value, double reference) {
    float size = (float)fmax(fabs(reference), 1.17549435e-38);
    return fabs(value - reference) / ((double)nextafterf(size, INFINITY) - size);
}

// The errors that kernels/vecmath.h states.
static void test_vecmath(void **state) {
    (void)state;
    double exp_error = 0, log_error = 0, sincos_error = 0, sigmoid_error = 0, right = 0, left = 0;
    for (double at = -100; at < 100; at += 1.003e-4) {
        float x = (float)at, sine, cosine, density;
        if (x > -87.3f && x < 88.7f) { exp_error = fmax(exp_error, ulps(fast_expf(x), exp((double)x))); }
        assert_true(fast_expf_softmax(x) == (x < -87 ? 0 : fast_expf(x)) || x > 87);
        if (fabsf(x) < 80) { sigmoid_error = fmax(sigmoid_error, ulps(fast_sigmoidf(x), 1 / (1 + exp(-(double)x)))); }
        fast_sincosf(x, &sine, &cosine);
        sincos_error = fmax(sincos_error, fmax(fabs(sine - sin((double)x)), fabs(cosine - cos((double)x))));
        double cdf = 0.5 * erfc(-x / sqrt(2)), value = fast_normal_cdf(x, &density);
        if (x >= 0) { right = fmax(right, ulps((float)value, cdf)); }
        if (x < 0 && x > -12.9f) { left = fmax(left, fabs(value / cdf - 1)); }
    }
    for (int32_t bits = 0x00800000; bits < 0x7f7ff000; bits += 1709) {
        float x = bits_float((uint32_t)bits);
        if (x != 1) { log_error = fmax(log_error, ulps(fast_logf(x), log((double)x))); }
    }
    printf("    exp %.2f ulp, log %.2f ulp, sigmoid %.2f ulp, sin and cos %.2e, Phi %.2f ulp, left tail %.1e\n",
           exp_error, log_error, sigmoid_error, sincos_error, right, left);
    assert_true(exp_error < 1.5 && log_error < 1.5 && sigmoid_error < 3 && sincos_error < 1e-7 && right < 3.1);
    assert_true(left < 5e-6);
    assert_true(fast_expf(-INFINITY) == 0 && fast_expf(INFINITY) == INFINITY && isnan(fast_expf(NAN)));
    assert_true(fast_expf_softmax(-INFINITY) == 0 && isnan(fast_expf_softmax(NAN)));
    assert_true(fast_expf(0) == 1 && fast_logf(1) == 0);
    assert_true(fabs(fast_expf(-100) - exp(-100)) < 1.5e-45); // subnormal
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_nan),         cmocka_unit_test(test_geglu),
#ifdef BACKEND_cpu
        cmocka_unit_test(test_vecmath),
#endif
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
