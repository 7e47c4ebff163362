#include "tests/kernels/check.h"

// StepScalars on the device.
static StepScalars *device_scalars(StepScalars s) {
    StepScalars *pinned = device_alloc_pinned(&check_dev, sizeof s), *on_device = device_alloc(&check_dev, sizeof s);
    *pinned = s;
    device_copy(&check_dev, on_device, pinned, sizeof s, false);
    device_sync(&check_dev);
    device_free_pinned(&check_dev, pinned);
    return on_device;
}

// Known answers published with Random123 1.14 (kat_vectors, philox4x32 10).
static void test_philox_known_answers(void **state) {
    (void)state;
    static const uint32_t known[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
         0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *k = known[i];
        Philox4 r = philox4x32(k[0], k[1], k[2], k[3], k[4], k[5]);
        printf("    %08x %08x %08x %08x\n", r.x[0], r.x[1], r.x[2], r.x[3]);
        assert_memory_equal(r.x, k + 6, 16);
    }
}

static void test_normal_mapping(void **state) {
    (void)state;
    const int shapes[][2] = {{1, 1}, {3, 5}, {2, 127}, {4, 1024}, {5, 4099}, {1, 9001}};
    for (int k = 0; k < 6; k++) {
        int B = shapes[k][0], n = shapes[k][1];
        StepScalars s = {.seed = 0x123456789abcdeull, .first_sample = k % 2 ? 0xfffffffeull : 41, .step = 7 + k};
        StepScalars *on_device = device_scalars(s);
        Tensor noise = tensor_poisoned((size_t)B * n, true);
        normal_noise(noise.f, B, n, PHILOX_NOISE, on_device, &check_dev);
        double *reference = found_in(&noise), *values = tensor_values(&noise), worst = 0;
        reference_normal_noise(reference, B, n, PHILOX_NOISE, &s);
        for (int i = 0; i < B * n; i++) { worst = fmax(worst, fabs(values[i] - reference[i])); }
        printf("    B %d n %d: largest difference %.1e\n", B, n, worst);
        assert_true(worst < 2e-6); // fp32 rounding of the angle times a radius of up to 5.8
        free(values);
        check_and_free("noise", &noise, reference, 1e-6);
        device_free(&check_dev, on_device);
    }
}

// A batch of four at sample 10 is two batches of two at 10 and 12; another step or stream is other noise.
static void test_noise_is_of_the_sample(void **state) {
    (void)state;
    enum { N = 1001 };
    Tensor all = tensor_poisoned(4 * N, true), part = tensor_poisoned(4 * N, true),
           other = tensor_poisoned(2 * N, true);
    for (int half = -1; half < 2; half++) {
        StepScalars *s = device_scalars((StepScalars){.seed = 5, .step = 3, .first_sample = half == 1 ? 12 : 10});
        if (half < 0) {
            normal_noise(all.f, 4, N, PHILOX_NOISE, s, &check_dev);
            normal_noise(other.f, 2, N, PHILOX_INFERENCE, s, &check_dev);
        } else {
            normal_noise(part.f + half * 2 * N, 2, N, PHILOX_NOISE, s, &check_dev);
        }
        device_sync(&check_dev);
        device_free(&check_dev, s);
    }
    check_equal("halves", &all, &part);
    double *a = tensor_values(&all), *b = tensor_values(&other), dot = 0, rows = 0;
    for (int i = 0; i < 2 * N; i++) { dot += a[i] * b[i] / (2 * N); }
    for (int i = 0; i < N; i++) { rows += a[i] * a[N + i] / N; }
    printf("    correlation of streams %.3f, of samples %.3f\n", dot, rows);
    assert_true(fabs(dot) < 0.1 && fabs(rows) < 0.1);
    free(a);
    free(b);
    tensor_free(&all);
    tensor_free(&part);
    tensor_free(&other);
}

static void test_normal_moments(void **state) {
    (void)state;
    enum { B = 16, N = 65536 };
    StepScalars *s = device_scalars((StepScalars){.seed = 2024, .step = 1});
    Tensor noise = tensor_poisoned((size_t)B * N, true);
    normal_noise(noise.f, B, N, PHILOX_NOISE, s, &check_dev);
    double *x = tensor_values(&noise), m[5] = {0}, beyond[6] = {0}, neighbour = 0, count = (double)B * N;
    for (size_t i = 0; i < (size_t)B * N; i++) {
        for (int k = 1; k <= 4; k++) { m[k] += pow(x[i], k) / count; }
        for (int k = 1; k <= 5; k++) { beyond[k] += fabs(x[i]) > k; }
        if (i % 2) { neighbour += x[i] * x[i - 1] / (count / 2); }
    }
    printf("    mean %.5f variance %.5f skewness %.5f kurtosis %.5f, neighbours' correlation %.5f\n", m[1], m[2], m[3],
           m[4], neighbour);
    double deviation = 1 / sqrt(count); // tolerances of five standard errors
    assert_true(fabs(m[1]) < 5 * deviation && fabs(m[2] - 1) < 5 * sqrt(2) * deviation);
    assert_true(fabs(m[3]) < 5 * sqrt(15) * deviation && fabs(m[4] - 3) < 5 * sqrt(96) * deviation);
    assert_true(fabs(neighbour) < 8 * deviation);
    for (int k = 1; k <= 4; k++) {
        double expected = count * erfc(k / sqrt(2));
        printf("    beyond %d: %.0f of %.0f expected\n", k, beyond[k], expected);
        assert_true(fabs(beyond[k] - expected) < 5 * sqrt(expected));
    }
    assert_true(beyond[5] < 10);
    free(x);
    tensor_free(&noise);
    device_free(&check_dev, s);
}

static void check_multires(int B, int H, int W, int C, bool annealed) {
    enum { T = 1000 };
    size_t n = (size_t)H * W * C;
    StepScalars s = {.seed = 77, .step = 5, .first_sample = 100}, *on_device = device_scalars(s);
    float steps[8] = {999, 0, 500, 37, 800, 1, 998, 250};
    Tensor t = tensor_of(steps, B, true), noise = tensor_poisoned(B * n, true);
    double *reference = found_in(&noise);
    reference_normal_noise(reference, B, n, PHILOX_NOISE, &s);
    reference_multires_noise(reference, t.host, 0.9f, annealed, T, B, H, W, C, &s);
    normal_noise(noise.f, B, n, PHILOX_NOISE, on_device, &check_dev);
    multires_noise(noise.f, t.f, 0.9f, annealed, T, B, H, W, C, on_device, &check_dev);
    printf("  multires B %d %d x %d x %d annealed %d\n", B, H, W, C, annealed);
    double *values = tensor_values(&noise);
    for (int b = 0; b < B; b++) {
        double mean = 0, square = 0;
        for (size_t i = 0; i < n; i++) { mean += values[b * n + i] / n; }
        for (size_t i = 0; i < n; i++) { square += pow(values[b * n + i] - mean, 2) / (n - 1); }
        assert_true(fabs(sqrt(square) - 1) < 1e-5);
    }
    free(values);
    check_and_free("noise", &noise, reference, 1e-5);
    tensor_free(&t);
    device_free(&check_dev, on_device);
}

static void test_multires(void **state) {
    (void)state;
    check_multires(1, 1, 2, 4, false);
    check_multires(2, 2, 2, 4, true);
    check_multires(4, 16, 16, 4, true);
    check_multires(8, 32, 24, 4, true);
    check_multires(3, 64, 64, 4, false);
    check_multires(2, 33, 17, 3, false);
}

static void test_timesteps(void **state) {
    (void)state;
    enum { B = 20000, T = 1000 };
    const float probabilities[] = {0, 0.3f, 1};
    for (int k = 0; k < 3; k++) {
        StepScalars s = {.seed = 9, .step = 2, .first_sample = 50}, *on_device = device_scalars(s);
        Tensor t = tensor_poisoned(B, true);
        sample_timesteps(t.f, B, T, probabilities[k], on_device, &check_dev);
        double *values = tensor_values(&t), *expected = found_in(&t), last = 0, mean = 0, low = 0;
        reference_sample_timesteps(expected, B, T, probabilities[k], &s);
        for (int b = 0; b < B; b++) {
            assert_true(values[b] == expected[b]);
            last += values[b] == T - 1;
            low += values[b] == 0;
            mean += values[b] / B;
        }
        printf("    t_max_prob %g: share of the last step %.3f, mean %.1f\n", probabilities[k], last / B, mean);
        double share = probabilities[k] + (1 - probabilities[k]) / T;
        assert_true(fabs(last / B - share) < 5 * sqrt(share * (1 - share) / B) + 1e-9);
        assert_true(k != 0 || (fabs(mean - 499.5) < 15 && low > 0));
        free(values), free(expected);
        tensor_free(&t);
        device_free(&check_dev, on_device);
    }
}

static const char *prediction_names[] = {"epsilon", "v", "sample"};

// x0 -> noisy and target -> back; abar = 0 (zero terminal SNR) and nearly 1 included.
static void check_add_noise(Prediction prediction, int B, int n) {
    printf("  add_noise, %s, B %d n %d\n", prediction_names[prediction], B, n);
    size_t count = (size_t)B * n;
    const float abar_values[4] = {0.9991f, 0.5f, 0.01f, 0}, steps[8] = {0, 1, 2, 0, 2, 1, 1, 0};
    float t_values[8];
    for (int b = 0; b < 8; b++) { t_values[b] = b == 3 && prediction != PREDICT_EPSILON ? 3 : steps[b]; }
    Tensor abar = tensor_of(abar_values, 4, true), t = tensor_of(t_values, B, true);
    Tensor x0 = tensor_random(count, 1, 1, true), noise = tensor_random(count, 1, 2, true);
    Tensor noisy = tensor_poisoned(count, false), target = tensor_poisoned(count, true);
    Tensor again = tensor_poisoned(count, false), model_out = tensor_random(count, 1, 3, false);
    Tensor back = tensor_poisoned(count, true), noisy_float = tensor_random(count, 1, 4, true);
    Tensor dout = tensor_random(count, 1, 5, false), dx0 = tensor_random(count, 1, 6, false);
    double *rn = found_in(&noisy), *rt = found_in(&target), *rx = found_in(&back), *rd = found_in(&dout);
    reference_add_noise_forward(rn, rt, x0.host, noise.host, t.host, abar.host, prediction, B, n);
    reference_predict_x0(rx, model_out.host, noisy_float.host, t.host, abar.host, prediction, B, n);
    reference_predict_x0_backward(rd, dx0.host, t.host, abar.host, prediction, 0.7, B, n);
    add_noise_forward(noisy.x, target.f, x0.f, noise.f, t.f, abar.f, prediction, B, n, &check_dev);
    add_noise_forward(again.x, NULL, x0.f, noise.f, t.f, abar.f, prediction, B, n, &check_dev);
    predict_x0(back.f, model_out.x, noisy_float.f, t.f, abar.f, prediction, B, n, &check_dev);
    predict_x0_backward(dout.x, dx0.x, t.f, abar.f, prediction, 0.7f, B, n, &check_dev);
    check_equal("no target", &noisy, &again);
    check_and_free("noisy", &noisy, rn, TOLERANCE_FORWARD);
    check_and_free("target", &target, rt, 1e-5);
    check_and_free("x0", &back, rx, 1e-5);
    check_and_free("dmodel_out", &dout, rd, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&abar, &t, &x0, &noise, &again, &model_out, &noisy_float, &dx0};
    for (int i = 0; i < 8; i++) { tensor_free(rest[i]); }
}

static void test_add_noise(void **state) {
    (void)state;
    for (Prediction p = PREDICT_EPSILON; p <= PREDICT_SAMPLE; p++) {
        check_add_noise(p, 1, 1);
        check_add_noise(p, 8, 33);
        check_add_noise(p, 5, 4096);
    }
}

static void check_ddim(Prediction prediction, float abar_t, float abar_prev, int B, int n) {
    size_t count = (size_t)B * n;
    Tensor x = tensor_random(count, 1, 1, true), out = tensor_random(count, 1, 2, false);
    double *reference = found_in(&x);
    reference_ddim_step(reference, out.host, abar_t, abar_prev, prediction, B, n);
    ddim_step(x.f, out.x, abar_t, abar_prev, prediction, B, n, &check_dev);
    printf("  ddim %s abar %g -> %g\n", prediction_names[prediction], abar_t, abar_prev);
    check_and_free("x", &x, reference, 1e-5);
    tensor_free(&out);
}

static void test_ddim(void **state) {
    (void)state;
    for (Prediction p = PREDICT_EPSILON; p <= PREDICT_SAMPLE; p++) {
        check_ddim(p, 0.05f, 0.5f, 1, 7);
        check_ddim(p, 0.5f, 1, 3, 1000);
        check_ddim(p, p == PREDICT_EPSILON ? 0.004f : 0, 0.3f, 2, 9001);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_normal_mapping),
        cmocka_unit_test(test_noise_is_of_the_sample),
        cmocka_unit_test(test_normal_moments),
        cmocka_unit_test(test_multires),
        cmocka_unit_test(test_timesteps),
        cmocka_unit_test(test_add_noise),
        cmocka_unit_test(test_ddim),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
