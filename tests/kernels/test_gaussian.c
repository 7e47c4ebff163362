#include "tests/kernels/check.h"

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
    double *rz = found_in(&z), *rd = found_in(&dmoments), *given = with_noise ? noise.host : NULL;
    reference_gaussian_forward(rz, moments.host, given, N, L);
    reference_gaussian_backward(rd, with_dz ? dz.host : NULL, moments.host, given, kl_scale, N, L);
    gaussian_forward(z.x, moments.x, with_noise ? noise.f : NULL, N, L, &check_dev);
    gaussian_backward(dmoments.x, with_dz ? dz.x : NULL, moments.x, with_noise ? noise.f : NULL, kl_scale, N, L,
                      &check_dev);
    check_and_free("z", &z, rz, TOLERANCE_FORWARD);
    check_and_free("dmoments", &dmoments, rd, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&moments, &noise, &dz};
    for (int i = 0; i < 3; i++) { tensor_free(rest[i]); }
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
        double *reference = found_in(&kl);
        reference_gaussian_kl(reference, moments.host, B, N, L);
        gaussian_kl(kl.f, moments.x, B, N, L, &check_dev);
        check_and_free("kl", &kl, reference, TOLERANCE_FORWARD);
        tensor_free(&moments);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sample_and_gradient), cmocka_unit_test(test_kl)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
