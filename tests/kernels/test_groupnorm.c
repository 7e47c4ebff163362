#include "tests/kernels/check.h"

typedef struct {
    int B, HW, C, G;
    bool silu;
    double offset; // mean of the input: large against its deviation of 1 to provoke cancellation
} Shape;

static const Shape shapes[] = {
    {1, 1, 20, 2, false, 0.5},   {3, 1, 40, 4, true, 0.5},     {2, 35, 30, 3, true, 0.5},
    {1, 9, 60, 2, false, 0.5},   {2, 64, 320, 32, true, 0.5},  {1, 65, 640, 32, true, 0.5},
    {2, 17, 960, 32, true, 0.5}, {1, 9001, 10, 1, false, 0.5}, {2, 1000, 96, 32, true, 0.5},
    {4, 257, 33, 11, true, 1},   {1, 66000, 32, 4, true, 1},   {2, 500, 64, 8, false, 100},
    {2, 131, 1920, 32, true, 1}, {1, 4097, 128, 32, true, 50}, {3, 300, 8, 1, false, 1},
};

// The tensors of one case.
typedef struct {
    Tensor x, weight, bias, mean, rstd;
} Case;

static Case make_case(Shape s, uint32_t id) {
    Case k = {.weight = tensor_random(s.C, 1, id + 1, false), .bias = tensor_random(s.C, 1, id + 2, false)};
    size_t n = (size_t)s.B * s.HW * s.C;
    float *values = xmalloc(n * sizeof *values);
    Random random = random_begin(99, PHILOX_INIT, id, 0);
    for (size_t i = 0; i < n; i++) { values[i] = (float)(s.offset + random_normal(&random)); }
    k.x = tensor_of(values, n, false);
    k.mean = tensor_poisoned(s.B * s.G, true);
    k.rstd = tensor_poisoned(s.B * s.G, true);
    free(values);
    return k;
}

static void free_case(Case *k) {
    tensor_free(&k->x);
    tensor_free(&k->weight);
    tensor_free(&k->bias);
    tensor_free(&k->mean);
    tensor_free(&k->rstd);
}

// out again, from the statistics that forward saved.
static void check_recomputed(const Case *k, Shape s, bool with_bias, const Tensor *first, const double *mean,
                             const double *rstd) {
    Tensor out = tensor_poisoned(k->x.n, false);
    double *expected = doubles(k->x.n);
    reference_groupnorm_recompute(expected, k->x.host, k->weight.host, with_bias ? k->bias.host : NULL, mean, rstd, s.B,
                                  s.HW, s.C, s.G, s.silu);
    groupnorm_recompute(out.x, k->x.x, k->weight.x, with_bias ? k->bias.x : NULL, k->mean.f, k->rstd.f, s.B, s.HW, s.C,
                        s.G, s.silu, &check_dev);
    check_equal("recomputed", &out, first);
    check_and_free("recomputed", &out, expected, TOLERANCE_FORWARD);
}

static void check_forward(Shape s, float eps, bool with_bias, bool in_place) {
    Case k = make_case(s, 10);
    size_t n = k.x.n, groups = s.B * s.G;
    double *out = doubles(n), *mean = doubles(groups), *rstd = doubles(groups);
    reference_groupnorm_forward(out, mean, rstd, k.x.host, k.weight.host, with_bias ? k.bias.host : NULL, s.B, s.HW,
                                s.C, s.G, eps, s.silu);
    Tensor o = in_place ? tensor_copy(&k.x) : tensor_poisoned(n, false);
    groupnorm_forward(o.x, k.mean.f, k.rstd.f, in_place ? o.x : k.x.x, k.weight.x, with_bias ? k.bias.x : NULL, s.B,
                      s.HW, s.C, s.G, eps, s.silu, &check_dev);
    if (!in_place) { check_recomputed(&k, s, with_bias, &o, mean, rstd); }
    check_and_free("out", &o, out, TOLERANCE_FORWARD);
    check_tensor("mean", &k.mean, mean, 1e-5);
    check_tensor("rstd", &k.rstd, rstd, 1e-5);
    free(mean);
    free(rstd);
    free_case(&k);
}

static void test_forward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        Shape s = shapes[i];
        printf("  forward B %d HW %d C %d G %d silu %d offset %g\n", s.B, s.HW, s.C, s.G, s.silu, s.offset);
        check_forward(s, i % 2 ? 1e-5f : 1e-6f, i % 3 != 0, i % 2 == 0);
    }
}

// A constant input has variance 0: eps alone decides; eps must be inside the root.
static void test_constant_input(void **state) {
    (void)state;
    enum { B = 1, HW = 12, C = 20, G = 2 };
    float values[HW * C];
    for (int i = 0; i < HW * C; i++) { values[i] = 3; }
    Tensor x = tensor_of(values, HW * C, false), weight = tensor_random(C, 1, 1, false);
    Tensor bias = tensor_random(C, 1, 2, false), out = tensor_poisoned(HW * C, false);
    Tensor mean = tensor_poisoned(G, true), rstd = tensor_poisoned(G, true);
    groupnorm_forward(out.x, mean.f, rstd.f, x.x, weight.x, bias.x, B, HW, C, G, 1e-4f, false, &check_dev);
    double reference[HW * C], r[G] = {100, 100};
    for (int i = 0; i < HW * C; i++) { reference[i] = bias.host[i % C]; }
    check_tensor("out", &out, reference, TOLERANCE_FORWARD);
    check_tensor("rstd", &rstd, r, 1e-5);
    Tensor *all[] = {&x, &weight, &bias, &out, &mean, &rstd};
    for (int i = 0; i < 6; i++) { tensor_free(all[i]); }
}

typedef enum { RESIDUAL_NONE, RESIDUAL_OTHER, RESIDUAL_IS_DINP, DINP_IS_DOUT } Residual;

static void check_backward(Shape s, bool with_bias, Residual how, float beta) {
    Case k = make_case(s, 20);
    size_t n = k.x.n;
    float eps = 1e-5f;
    Tensor dout = tensor_random(n, 1, 30, false), residual = tensor_random(n, 1, 31, false);
    Tensor dweight = beta == 0 ? tensor_poisoned(s.C, true) : tensor_random(s.C, 1, 32, true);
    Tensor dbias = beta == 0 ? tensor_poisoned(s.C, true) : tensor_random(s.C, 1, 33, true);
    double *rx = doubles(n), *rw = found_in(&dweight), *rb = found_in(&dbias);
    double *ro = doubles(n), *mean = found_in(&k.mean), *rstd = found_in(&k.rstd);
    const double *with = with_bias ? k.bias.host : NULL;
    reference_groupnorm_forward(ro, mean, rstd, k.x.host, k.weight.host, with, s.B, s.HW, s.C, s.G, eps, s.silu);
    reference_groupnorm_backward(rx, rw, rb, dout.host, k.x.host, k.weight.host, with, mean, rstd,
                                 how == RESIDUAL_OTHER || how == RESIDUAL_IS_DINP ? residual.host : NULL, beta, s.B,
                                 s.HW, s.C, s.G, s.silu);
    Tensor out = tensor_poisoned(n, false);
    Tensor dinp = how == RESIDUAL_IS_DINP ? tensor_copy(&residual)
                  : how == DINP_IS_DOUT   ? tensor_copy(&dout)
                                          : tensor_poisoned(n, false);
    floatX *bias = with_bias ? k.bias.x : NULL;
    groupnorm_forward(out.x, k.mean.f, k.rstd.f, k.x.x, k.weight.x, bias, s.B, s.HW, s.C, s.G, eps, s.silu, &check_dev);
    groupnorm_backward(dinp.x, dweight.f, dbias.f, how == DINP_IS_DOUT ? dinp.x : dout.x, k.x.x, k.weight.x, bias,
                       k.mean.f, k.rstd.f,
                       how == RESIDUAL_OTHER     ? residual.x
                       : how == RESIDUAL_IS_DINP ? dinp.x
                                                 : NULL,
                       beta, s.B, s.HW, s.C, s.G, s.silu, &check_dev);
    check_and_free("dinp", &dinp, rx, TOLERANCE_BACKWARD);
    check_and_free("dweight", &dweight, rw, TOLERANCE_BACKWARD);
    check_and_free("dbias", &dbias, rb, TOLERANCE_BACKWARD);
    free(ro), free(mean), free(rstd);
    tensor_free(&out);
    tensor_free(&dout);
    tensor_free(&residual);
    free_case(&k);
}

static void test_backward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        Shape s = shapes[i];
        printf("  backward B %d HW %d C %d G %d silu %d residual %zu beta %zu\n", s.B, s.HW, s.C, s.G, s.silu, i % 4,
               i % 2);
        check_backward(s, i % 3 != 0, (Residual)(i % 4), i % 2);
        check_backward(s, i % 3 != 1, (Residual)((i + 1) % 4), (i / 2) % 2);
    }
}

// Each gradient alone gives what all together give; and the bits do not depend on the number of threads.
static void test_null_gradients_and_threads(void **state) {
    (void)state;
    Shape s = {3, 700, 40, 4, true, 0.5};
    Case k = make_case(s, 60);
    size_t n = k.x.n;
    Tensor dout = tensor_random(n, 1, 61, false), out = tensor_poisoned(n, false);
    Tensor got[2][3];
    for (int run = 0; run < 2; run++) {
        check_threads(run == 0 ? 1 : 3);
        got[run][0] = tensor_poisoned(n, false);
        got[run][1] = tensor_poisoned(s.C, true);
        got[run][2] = tensor_poisoned(s.C, true);
        groupnorm_forward(out.x, k.mean.f, k.rstd.f, k.x.x, k.weight.x, k.bias.x, s.B, s.HW, s.C, s.G, 1e-5f, s.silu,
                          &check_dev);
        for (int only = 0; only < (run == 0 ? 1 : 3); only++) {
            bool all = run == 0;
            groupnorm_backward(all || only == 0 ? got[run][0].x : NULL, all || only == 1 ? got[run][1].f : NULL,
                               all || only == 2 ? got[run][2].f : NULL, dout.x, k.x.x, k.weight.x, k.bias.x, k.mean.f,
                               k.rstd.f, NULL, 0, s.B, s.HW, s.C, s.G, s.silu, &check_dev);
        }
    }
    check_equal("dinp", &got[0][0], &got[1][0]);
    check_equal("dweight", &got[0][1], &got[1][1]);
    check_equal("dbias", &got[0][2], &got[1][2]);
    for (int i = 0; i < 6; i++) { tensor_free(&got[i / 3][i % 3]); }
    tensor_free(&dout);
    tensor_free(&out);
    free_case(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_constant_input),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_null_gradients_and_threads),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
