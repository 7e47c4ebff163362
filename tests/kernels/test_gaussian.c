#include "tests/kernels/check.h"

static double clamped(double logvar) { return fmin(fmax(logvar, -30), 20); }
static double sample_of(double mean, double logvar, double noise) { return mean + exp(clamped(logvar) / 2) * noise; }
static double kl_of(double mean, double logvar) {
    return 0.5 * (mean * mean + exp(clamped(logvar)) - 1 - clamped(logvar));
}

// What gaussian_backward differentiates, for one element.
static double objective(double mean, double logvar, double noise, double dz, double kl_scale) {
    return dz * sample_of(mean, logvar, noise) + kl_scale * kl_of(mean, logvar);
}

static double slope(int variable, double mean, double logvar, double noise, double dz, double kl_scale) {
    double h = 1e-3, f[4];
    const int steps[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        double d = steps[i] * h;
        f[i] = objective(mean + (variable == 0 ? d : 0), logvar + (variable == 1 ? d : 0), noise, dz, kl_scale);
    }
    return (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h);
}

typedef enum { TAME, WILD, WILD_LOW } Range;

// mean ~ N(0, 1), log-variance ~ N(-1, 1); wild: every fifth beyond the clamp, on both sides or below only.
static Tensor random_moments(int N, int L, Range range) {
    size_t n = (size_t)N * 2 * L;
    float *values = xmalloc(n * sizeof *values);
    Random random = random_begin(17, PHILOX_INIT, 0, 0);
    for (size_t i = 0; i < n; i++) {
        bool logvar = i % (2 * L) >= (size_t)L;
        values[i] = random_normal(&random) - (logvar ? 1 : 0);
        if (range != TAME && logvar && i % 5 == 0) { values[i] = range == WILD_LOW || i % 2 ? -35 : 25; }
    }
    Tensor t = tensor_of(values, n, false);
    free(values);
    return t;
}

static void check_case(int N, int L, bool with_noise, bool with_dz, float kl_scale, Range range) {
    printf("  N %d L %d noise %d dz %d kl %g range %d\n", N, L, with_noise, with_dz, kl_scale, range);
    size_t n = (size_t)N * L;
    Tensor moments = random_moments(N, L, range), noise = tensor_random(n, 1, 2, true), z = tensor_poisoned(n, false);
    Tensor dz = tensor_random(n, 1, 3, false), dmoments = tensor_poisoned(2 * n, false);
    double *rz = doubles(n), *rd = doubles(2 * n);
    for (size_t i = 0; i < n; i++) {
        size_t at = i / L * 2 * L + i % L;
        double mean = moments.host[at], logvar = moments.host[at + L], e = with_noise ? noise.host[i] : 0;
        rz[i] = sample_of(mean, logvar, e);
        rd[at] = slope(0, mean, logvar, e, with_dz ? dz.host[i] : 0, kl_scale);
        rd[at + L] = slope(1, mean, logvar, e, with_dz ? dz.host[i] : 0, kl_scale);
    }
    gaussian_forward(z.x, moments.x, with_noise ? noise.f : NULL, N, L, &check_dev);
    gaussian_backward(dmoments.x, with_dz ? dz.x : NULL, moments.x, with_noise ? noise.f : NULL, kl_scale, N, L,
                      &check_dev);
    check_and_free("z", &z, rz, TOLERANCE_FORWARD);
    check_and_free("dmoments", &dmoments, rd, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&moments, &noise, &dz};
    for (int i = 0; i < 3; i++) tensor_free(rest[i]);
}

static void test_sample_and_gradient(void **state) {
    (void)state;
    check_case(1, 1, true, true, 0.1f, TAME);
    check_case(7, 4, true, true, 0, TAME);
    check_case(7, 4, false, true, 0.5f, TAME);
    check_case(33, 4, true, false, 1e-3f, TAME);
    check_case(5000, 4, true, true, 1e-2f, TAME);
    check_case(100, 3, true, true, 0, WILD);
    check_case(100, 4, true, true, 1e-6f, WILD);
    check_case(40, 4, true, true, 1, WILD_LOW);
}

static void test_kl(void **state) {
    (void)state;
    const int shapes[][3] = {{1, 1, 1}, {2, 6, 4}, {3, 9000, 4}, {5, 35, 3}};
    for (int k = 0; k < 4; k++) {
        int B = shapes[k][0], N = shapes[k][1], L = shapes[k][2];
        Tensor moments = random_moments(N, L, k == 3 ? WILD : TAME), kl = tensor_poisoned(B, true);
        double *reference = doubles(B);
        for (int i = 0; i < N * L; i++) {
            size_t at = (size_t)i / L * 2 * L + i % L;
            reference[i / L / (N / B)] += kl_of(moments.host[at], moments.host[at + L]);
        }
        gaussian_kl(kl.f, moments.x, B, N, L, &check_dev);
        check_and_free("kl", &kl, reference, TOLERANCE_FORWARD);
        tensor_free(&moments);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sample_and_gradient), cmocka_unit_test(test_kl)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
