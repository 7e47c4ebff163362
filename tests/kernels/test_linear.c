// linear against reference.c on the same rounded inputs, on odd and large shapes; exact on small whole numbers.
#include "tests/kernels/check.h"

typedef struct {
    int N, IC, OC;
    bool bias, residual, integers;
    float beta;
} Case;

static Tensor input(size_t n, uint32_t id, const Case *c, bool is_float) {
    return c->integers ? tensor_integers(n, 2, id, is_float) : tensor_random(n, 1, id, is_float);
}

static void check_forward(const Case *c, const Tensor *inp, const Tensor *weight) {
    Tensor bias = input(c->OC, 3, c, false), residual = input((size_t)c->N * c->OC, 4, c, false);
    Tensor out = tensor_poisoned((size_t)c->N * c->OC, false);
    linear_forward(out.x, inp->x, weight->x, c->bias ? bias.x : NULL, c->residual ? residual.x : NULL, c->N, c->IC,
                   c->OC, &check_dev);
    double *reference = found_in(&out);
    reference_linear_forward(reference, inp->host, weight->host, c->bias ? bias.host : NULL,
                             c->residual ? residual.host : NULL, c->N, c->IC, c->OC);
    check_tensor("out", &out, reference, c->integers ? 0 : TOLERANCE_FORWARD);
    if (c->residual) { // in place
        linear_forward(residual.x, inp->x, weight->x, c->bias ? bias.x : NULL, residual.x, c->N, c->IC, c->OC,
                       &check_dev);
        check_tensor("out in place", &residual, reference, c->integers ? 0 : TOLERANCE_FORWARD);
    }
    free(reference);
    tensor_free(&bias), tensor_free(&residual), tensor_free(&out);
}

static void check_backward(const Case *c, const Tensor *inp, const Tensor *weight) {
    Tensor dout = input((size_t)c->N * c->OC, 5, c, false), dresidual = input((size_t)c->N * c->IC, 6, c, false);
    Tensor dinp = tensor_poisoned((size_t)c->N * c->IC, false);
    Tensor dweight = c->beta ? input((size_t)c->OC * c->IC, 7, c, true) : tensor_poisoned((size_t)c->OC * c->IC, true);
    Tensor dbias = c->beta ? input(c->OC, 8, c, true) : tensor_poisoned(c->OC, true);
    linear_backward(dinp.x, dweight.f, c->bias ? dbias.f : NULL, dout.x, inp->x, weight->x,
                    c->residual ? dresidual.x : NULL, c->beta, c->N, c->IC, c->OC, &check_dev);
    double *ri = found_in(&dinp), *rw = found_in(&dweight), *rb = found_in(&dbias);
    reference_linear_backward(ri, rw, rb, dout.host, inp->host, weight->host, c->residual ? dresidual.host : NULL,
                              c->beta, c->N, c->IC, c->OC);
    double tolerance = c->integers ? 0 : TOLERANCE_BACKWARD;
    check_and_free("dinp", &dinp, ri, tolerance);
    check_and_free("dweight", &dweight, rw, tolerance);
    if (c->bias) {
        check_and_free("dbias", &dbias, rb, tolerance);
    } else {
        tensor_free(&dbias);
        free(rb);
    }
    if (c->residual) { // in place, the other gradients not asked for
        Tensor again = input((size_t)c->N * c->IC, 6, c, false);
        Tensor expected = tensor_poisoned(again.n, false);
        linear_backward(expected.x, NULL, NULL, dout.x, inp->x, weight->x, dresidual.x, 0, c->N, c->IC, c->OC,
                        &check_dev);
        linear_backward(again.x, NULL, NULL, dout.x, inp->x, weight->x, again.x, 0, c->N, c->IC, c->OC, &check_dev);
        check_and_free("dinp in place", &again, tensor_values(&expected), 0);
        tensor_free(&expected);
    }
    tensor_free(&dout), tensor_free(&dresidual);
}

static void check_case(const Case *c) {
    printf("  N %d, IC %d, OC %d%s%s%s, beta %g\n", c->N, c->IC, c->OC, c->bias ? ", bias" : "",
           c->residual ? ", residual" : "", c->integers ? ", integers" : "", c->beta);
    Tensor inp = input((size_t)c->N * c->IC, 1, c, false), weight = input((size_t)c->OC * c->IC, 2, c, false);
    check_forward(c, &inp, &weight);
    check_backward(c, &inp, &weight);
    tensor_free(&inp), tensor_free(&weight);
}

static void test_shapes(void **state) {
    (void)state;
    const Case cases[] = {
        {1, 1, 1, true, true, false, 0},
        {1, 8, 3, true, false, false, 1},
        {5, 7, 13, false, true, false, 1},
        {77, 64, 64, true, true, false, 0},
        {300, 32, 40, true, true, false, 1},
        {1000, 64, 96, false, false, false, 0},
        {16, 320, 1280, true, false, false, 0},
        {515, 129, 67, true, true, false, 1},
        {260, 1000, 24, true, true, false, 0},
        {2, 800, 72, false, false, false, 1},
        // The VAE's post_quant_conv and quant_conv: in bf16, rows of 8 and of 16 bytes.
        {260, 4, 4, true, true, false, 1},
        {260, 8, 8, true, false, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
    for (int OC = 8; OC <= 17; OC++) { check_case(&(Case){70, 7, OC, true, false, false, 1}); } // every tall tile
}

static void test_integers(void **state) {
    (void)state;
    const Case cases[] = {{9, 16, 24, true, true, true, 0}, {30, 12, 20, true, true, true, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_integers)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
