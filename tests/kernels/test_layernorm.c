#include "tests/kernels/check.h"

typedef struct {
    int N, C;
    double offset;
} Shape;

static const Shape shapes[] = {{1, 1, 0.5},    {1, 10, 0.5},   {3, 20, 0.5},   {7, 33, 0.5},    {77, 128, 0.5},
                               {65, 320, 1},   {33, 1280, 1},  {1000, 64, 1},  {4097, 40, 0.5}, {50, 768, 100},
                               {6, 1024, 0.5}, {5, 1536, 0.5}, {3, 2049, 0.5}, {5000, 320, 0.5}};

static Tensor random_around(double offset, size_t n, uint32_t id) {
    float *values = xmalloc(n * sizeof *values);
    Random random = random_begin(98, PHILOX_INIT, id, 0);
    for (size_t i = 0; i < n; i++) { values[i] = (float)(offset + random_normal(&random)); }
    Tensor t = tensor_of(values, n, false);
    free(values);
    return t;
}

typedef enum { RESIDUAL_NONE, RESIDUAL_OTHER, RESIDUAL_IS_DINP, DINP_IS_DOUT } Residual;

static void check_shape(Shape s, bool with_bias, bool in_place, Residual how, float beta) {
    size_t n = (size_t)s.N * s.C;
    float eps = 1e-5f;
    Tensor x = random_around(s.offset, n, 1), weight = tensor_random(s.C, 1, 2, false);
    Tensor bias = tensor_random(s.C, 1, 3, false), mean = tensor_poisoned(s.N, true), rstd = tensor_poisoned(s.N, true);
    Tensor dout = tensor_random(n, 1, 4, false), residual = tensor_random(n, 1, 5, false);
    Tensor out = in_place ? tensor_copy(&x) : tensor_poisoned(n, false);
    Tensor dinp = how == RESIDUAL_IS_DINP ? tensor_copy(&residual)
                  : how == DINP_IS_DOUT   ? tensor_copy(&dout)
                                          : tensor_poisoned(n, false);
    Tensor dweight = beta == 0 ? tensor_poisoned(s.C, true) : tensor_random(s.C, 1, 6, true);
    Tensor dbias = beta == 0 ? tensor_poisoned(s.C, true) : tensor_random(s.C, 1, 7, true);
    double *y = doubles(n), *m = found_in(&mean), *r = found_in(&rstd), *dx = doubles(n), *dw = found_in(&dweight),
           *db = found_in(&dbias);
    reference_layernorm_forward(y, m, r, x.host, weight.host, with_bias ? bias.host : NULL, s.N, s.C, eps);
    reference_layernorm_backward(dx, dw, db, dout.host, x.host, weight.host, m, r,
                                 how == RESIDUAL_OTHER || how == RESIDUAL_IS_DINP ? residual.host : NULL, beta, s.N,
                                 s.C);
    layernorm_forward(out.x, mean.f, rstd.f, in_place ? out.x : x.x, weight.x, with_bias ? bias.x : NULL, s.N, s.C, eps,
                      &check_dev);
    layernorm_backward(dinp.x, dweight.f, dbias.f, how == DINP_IS_DOUT ? dinp.x : dout.x, x.x, weight.x, mean.f, rstd.f,
                       how == RESIDUAL_OTHER     ? residual.x
                       : how == RESIDUAL_IS_DINP ? dinp.x
                                                 : NULL,
                       beta, s.N, s.C, &check_dev);
    check_and_free("out", &out, y, TOLERANCE_FORWARD);
    check_and_free("mean", &mean, m, 1e-5);
    check_and_free("rstd", &rstd, r, 1e-5);
    check_and_free("dinp", &dinp, dx, TOLERANCE_BACKWARD);
    check_and_free("dweight", &dweight, dw, TOLERANCE_BACKWARD);
    check_and_free("dbias", &dbias, db, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&x, &weight, &bias, &dout, &residual};
    for (int i = 0; i < 5; i++) { tensor_free(rest[i]); }
}

static void test_shapes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        printf("  N %d C %d offset %g residual %zu beta %zu\n", shapes[i].N, shapes[i].C, shapes[i].offset, i % 4,
               i % 2);
        check_shape(shapes[i], i % 3 != 0, i % 2 == 0, (Residual)(i % 4), i % 2);
        check_shape(shapes[i], i % 3 == 0, i % 2 == 1, (Residual)((i + 2) % 4), (i + 1) % 2);
    }
}

static void test_null_gradients_and_threads(void **state) {
    (void)state;
    enum { N = 701, C = 72 };
    Tensor x = random_around(0.5, N * C, 30), weight = tensor_random(C, 1, 31, false);
    Tensor dout = tensor_random(N * C, 1, 32, false), out = tensor_poisoned(N * C, false);
    Tensor mean = tensor_poisoned(N, true), rstd = tensor_poisoned(N, true), got[2][3];
    for (int run = 0; run < 2; run++) {
        bool all = run == 0;
        check_threads(all ? 1 : 3);
        got[run][0] = tensor_poisoned(N * C, false);
        got[run][1] = tensor_poisoned(C, true);
        got[run][2] = tensor_poisoned(C, true);
        layernorm_forward(out.x, mean.f, rstd.f, x.x, weight.x, NULL, N, C, 1e-5f, &check_dev);
        for (int only = 0; only < (all ? 1 : 3); only++) {
            layernorm_backward(all || only == 0 ? got[run][0].x : NULL, all || only == 1 ? got[run][1].f : NULL,
                               all || only == 2 ? got[run][2].f : NULL, dout.x, x.x, weight.x, mean.f, rstd.f, NULL, 0,
                               N, C, &check_dev);
        }
    }
    check_equal("dinp", &got[0][0], &got[1][0]);
    check_equal("dweight", &got[0][1], &got[1][1]);
    check_equal("dbias", &got[0][2], &got[1][2]);
    for (int i = 0; i < 6; i++) { tensor_free(&got[i / 3][i % 3]); }
    Tensor *rest[] = {&x, &weight, &dout, &out, &mean, &rstd};
    for (int i = 0; i < 6; i++) { tensor_free(rest[i]); }
}

// few, `times` times: a power of two.
static Tensor repeated(const Tensor *few, size_t times) {
    Tensor many = tensor_new(few->n * times, few->f != NULL);
    char *to = many.x ? (char *)many.x : (char *)many.f;
    size_t element = many.x ? sizeof *many.x : sizeof *many.f;
    device_copy(&check_dev, to, few->x ? (void *)few->x : (void *)few->f, few->n * element, false);
    for (size_t n = few->n; n < many.n; n *= 2) { device_copy(&check_dev, to + n * element, to, n * element, false); }
    return many;
}

// So many rows that a block which held the statistics of its share, one in 128 of them, would exceed 99 KB of shared
// memory. They repeat a few rows. Only backward, which takes seconds under emulation: forward cuts the rows alike.
static void test_many_rows(void **state) {
    (void)state;
    enum { C = 8, ROWS = 850, TIMES = 2048 };
    size_t n = ROWS * C, all = n * TIMES;
    Tensor x = random_around(0.5, n, 40), dout = tensor_random(n, 1, 41, false);
    Tensor mean = tensor_poisoned(ROWS, true), rstd = tensor_poisoned(ROWS, true);
    Tensor weight = tensor_random(C, 1, 42, false), dweight = tensor_poisoned(C, true),
           dbias = tensor_poisoned(C, true);
    Tensor dinp = tensor_poisoned(n, false), many_dinp = tensor_poisoned(all, false);
    double *y = doubles(n), *dw = doubles(C), *db = doubles(C), *m = doubles(ROWS), *r = doubles(ROWS);
    layernorm_forward(dinp.x, mean.f, rstd.f, x.x, weight.x, NULL, ROWS, C, 1e-5f, &check_dev);
    layernorm_backward(dinp.x, NULL, NULL, dout.x, x.x, weight.x, mean.f, rstd.f, NULL, 0, ROWS, C, &check_dev);
    Tensor many_x = repeated(&x, TIMES), many_dout = repeated(&dout, TIMES);
    Tensor many_mean = repeated(&mean, TIMES), many_rstd = repeated(&rstd, TIMES);
    layernorm_backward(many_dinp.x, dweight.f, dbias.f, many_dout.x, many_x.x, weight.x, many_mean.f, many_rstd.f, NULL,
                       0, ROWS * TIMES, C, &check_dev);
    Tensor last = {.n = n, .x = many_dinp.x + all - n};
    check_equal("dinp", &last, &dinp);
    reference_layernorm_forward(y, m, r, x.host, weight.host, NULL, ROWS, C, 1e-5f);
    reference_layernorm_backward(y, dw, db, dout.host, x.host, weight.host, m, r, NULL, 0, ROWS, C);
    for (int c = 0; c < C; c++) { dw[c] *= TIMES, db[c] *= TIMES; }
    check_and_free("dweight", &dweight, dw, TOLERANCE_BACKWARD);
    check_and_free("dbias", &dbias, db, TOLERANCE_BACKWARD);
    free(y), free(m), free(r);
    Tensor *rest[] = {&x, &dout, &mean, &rstd, &weight, &dinp, &many_dinp, &many_x, &many_dout, &many_mean, &many_rstd};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) { tensor_free(rest[i]); }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_null_gradients_and_threads),
        cmocka_unit_test(test_many_rows),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
