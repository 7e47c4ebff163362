#include "tests/kernels/check.h"

static int *device_ints(const int *values, size_t n) {
    int *ids = device_alloc(&check_dev, n * sizeof *ids), *pinned = device_alloc_pinned(&check_dev, n * sizeof *ids);
    memcpy(pinned, values, n * sizeof *ids);
    device_copy(&check_dev, ids, pinned, n * sizeof *ids, false);
    device_sync(&check_dev);
    device_free_pinned(&check_dev, pinned);
    return ids;
}

static void check_embedding(int B, int T, int C, int V, int positions, float beta) {
    printf("  B %d T %d C %d V %d positions %d beta %g\n", B, T, C, V, positions, beta);
    size_t n = (size_t)B * T * C, nv = (size_t)V * C, np = (size_t)positions * C;
    int *values = xmalloc((size_t)B * T * sizeof *values);
    Random random = random_begin(7, PHILOX_INIT, 0, 0);
    for (int i = 0; i < B * T; i++) {
        values[i] = i % 3 == 0 ? V - 1 : (int)random_below(&random, V); // repeats
    }
    int *ids = device_ints(values, (size_t)B * T);
    Tensor token = tensor_random(nv, 1, 1, false), position = tensor_random(np, 1, 2, false);
    Tensor out = tensor_poisoned(n, false), dout = tensor_random(n, 1, 3, false);
    Tensor dtoken = beta == 0 ? tensor_poisoned(nv, true) : tensor_random(nv, 1, 4, true);
    Tensor dposition = beta == 0 ? tensor_poisoned(np, true) : tensor_random(np, 1, 5, true);
    double *y = found_in(&out), *dt = found_in(&dtoken), *dp = found_in(&dposition);
    reference_embedding_forward(y, values, token.host, position.host, B, T, C, V);
    reference_embedding_backward(dt, dp, dout.host, values, beta, B, T, C, V, positions);
    embedding_forward(out.x, ids, token.x, position.x, B, T, C, V, &check_dev);
    embedding_backward(dtoken.f, NULL, dout.x, ids, beta, B, T, C, V, positions, &check_dev);
    embedding_backward(NULL, dposition.f, dout.x, ids, beta, B, T, C, V, positions, &check_dev);
    check_and_free("out", &out, y, TOLERANCE_FORWARD);
    check_tensor("dtoken", &dtoken, dt, TOLERANCE_BACKWARD);
    check_tensor("dposition", &dposition, dp, TOLERANCE_BACKWARD);
    embedding_backward(dtoken.f, dposition.f, dout.x, ids, 1, B, T, C, V, positions, &check_dev); // once more
    reference_embedding_backward(dt, dp, dout.host, values, 1, B, T, C, V, positions);
    check_and_free("dtoken", &dtoken, dt, TOLERANCE_BACKWARD);
    check_and_free("dposition", &dposition, dp, TOLERANCE_BACKWARD);
    tensor_free(&token);
    tensor_free(&position);
    tensor_free(&dout);
    device_free(&check_dev, ids);
    free(values);
}

static void test_embedding(void **state) {
    (void)state;
    check_embedding(1, 1, 1, 1, 1, 0);
    check_embedding(1, 5, 10, 3, 9, 1);
    check_embedding(2, 77, 64, 100, 77, 0);
    check_embedding(3, 16, 33, 50, 20, 1);
    check_embedding(4, 77, 130, 500, 80, 0);
    check_embedding(2, 77, 768, 300, 77, 1);
    check_embedding(7, 77, 132, 40, 90, 0);
}

// Against the exact formula: the angle is rounded to fp32, which is worth up to 6e-5 at t = 999.
static void test_timestep_embedding(void **state) {
    (void)state;
    const int shapes[][2] = {{1, 2}, {5, 32}, {3, 320}, {7, 50}, {2, 1}, {3, 15}};
    for (int k = 0; k < 12; k++) {
        int B = shapes[k / 2][0], C = shapes[k / 2][1];
        bool flip = k % 2 == 0;
        double freq_shift = C > 2 && k % 4 >= 2 ? 1 : 0;
        float steps[7] = {999, 0, 1, 500, 37, 250.5f, 998};
        Tensor t = tensor_of(steps, B, true), out = tensor_poisoned((size_t)B * C, false);
        double *y = found_in(&out), small = 0;
        reference_timestep_embedding_forward(y, t.host, B, C, flip, freq_shift);
        timestep_embedding_forward(out.x, t.f, B, C, flip, (float)freq_shift, &check_dev);
        printf("  timesteps B %d C %d flip %d shift %g\n", B, C, flip, freq_shift);
        double *values = tensor_values(&out);
        for (int i = 0; i < B * C; i++) { small = fmax(small, fabs(values[i] - y[i])); }
        free(values);
        printf("    largest difference %.1e\n", small);
        assert_true(small < (TOLERANCE_FORWARD > 1e-3 ? 4e-3 : 1e-4));
        check_and_free("out", &out, y, fmax(TOLERANCE_FORWARD, 5e-5));
        tensor_free(&t);
    }
}

// diffusers' get_timestep_embedding([999., 123.], 8, flip_sin_to_cos=True, downscale_freq_shift=0) in float32.
static void test_timestep_embedding_of_diffusers(void **state) {
    (void)state;
    static const double expected[2][8] = {
        {0.999649823, 0.807455063, -0.844469786, 0.541143537, -0.0264607519, -0.589929104, -0.535603166, 0.840930223},
        {-0.887968898, 0.964732409, 0.334237725, 0.992445052, -0.459903479, -0.263232529, 0.94248879, 0.122690082},
    };
    const float steps[2] = {999, 123};
    Tensor t = tensor_of(steps, 2, true), out = tensor_poisoned(16, false);
    timestep_embedding_forward(out.x, t.f, 2, 8, true, 0, &check_dev);
    check_tensor("out", &out, expected[0], TOLERANCE_FORWARD > 1e-3 ? TOLERANCE_FORWARD : 1e-6);
    tensor_free(&t);
    tensor_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_timestep_embedding),
        cmocka_unit_test(test_timestep_embedding_of_diffusers),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
