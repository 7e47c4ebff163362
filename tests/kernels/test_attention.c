// attention against float64 with the whole matrix of probabilities, from packed and from separate tensors.
#include "tests/kernels/check.h"

typedef struct {
    int B, NH, Tq, Tk, HS;
    bool causal, packed; // packed: q, k, v in one (B, T, 3 NH HS)
    double scale;        // of q: large values make the softmax sharp
} Case;

// Tensors of one case. With `packed`, q holds all three.
typedef struct {
    Attention a;
    Tensor q, k, v, dq, dk, dv;
    floatX *kx, *vx, *dkx, *dvx;
} Inputs;

static Inputs make_inputs(const Case *c) {
    int C = c->NH * c->HS;
    Inputs in = {.a = {c->B, c->NH, c->Tq, c->Tk, c->HS, C, C, C, C, c->causal}};
    if (c->packed) {
        in.a.q_stride = in.a.k_stride = in.a.v_stride = 3 * C;
        in.q = tensor_random((size_t)c->B * c->Tq * 3 * C, c->scale, 1, false);
        in.dq = tensor_poisoned(in.q.n, false);
        in.kx = in.q.x + C, in.vx = in.q.x + 2 * C, in.dkx = in.dq.x + C, in.dvx = in.dq.x + 2 * C;
        return in;
    }
    in.q = tensor_random((size_t)c->B * c->Tq * C, c->scale, 1, false);
    in.k = tensor_random((size_t)c->B * c->Tk * C, 1, 2, false);
    in.v = tensor_random((size_t)c->B * c->Tk * C, 1, 3, false);
    in.dq = tensor_poisoned(in.q.n, false), in.dk = tensor_poisoned(in.k.n, false);
    in.dv = tensor_poisoned(in.v.n, false);
    in.kx = in.k.x, in.vx = in.v.x, in.dkx = in.dk.x, in.dvx = in.dv.x;
    return in;
}

// The reference's view: doubles at the same places.
typedef struct {
    const double *q, *k, *v, *dout;
    double *out, *lse, *dq, *dk, *dv;
} Reference;

static double dot(const double *x, const double *y, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static void reference_query(const Reference *r, const Attention *a, int b, int h, int t, double *p, double *dp) {
    size_t at_q = ((size_t)b * a->Tq + t) * a->q_stride + h * a->HS;
    size_t at_out = ((size_t)b * a->Tq + t) * a->out_stride + h * a->HS;
    const double *k = r->k + (size_t)b * a->Tk * a->k_stride + h * a->HS;
    const double *v = r->v + (size_t)b * a->Tk * a->v_stride + h * a->HS;
    double *dk = r->dk + (size_t)b * a->Tk * a->k_stride + h * a->HS;
    double *dv = r->dv + (size_t)b * a->Tk * a->v_stride + h * a->HS;
    int Tk = a->causal ? t + 1 : a->Tk;
    double top = -INFINITY, sum = 0, scale = 1 / sqrt(a->HS), delta = 0;
    for (int s = 0; s < Tk; s++) {
        p[s] = scale * dot(r->q + at_q, k + (size_t)s * a->k_stride, a->HS);
        top = fmax(top, p[s]);
    }
    for (int s = 0; s < Tk; s++) sum += p[s] = exp(p[s] - top);
    r->lse[((size_t)b * a->NH + h) * a->Tq + t] = top + log(sum);
    for (int s = 0; s < Tk; s++) {
        p[s] /= sum;
        dp[s] = dot(r->dout + at_out, v + (size_t)s * a->v_stride, a->HS);
        delta += p[s] * dp[s];
        for (int i = 0; i < a->HS; i++) {
            r->out[at_out + i] += p[s] * v[(size_t)s * a->v_stride + i];
            dv[(size_t)s * a->v_stride + i] += p[s] * r->dout[at_out + i];
        }
    }
    for (int s = 0; s < Tk; s++) {
        double ds = p[s] * (dp[s] - delta) * scale;
        for (int i = 0; i < a->HS; i++) {
            r->dq[at_q + i] += ds * k[(size_t)s * a->k_stride + i];
            dk[(size_t)s * a->k_stride + i] += ds * r->q[at_q + i];
        }
    }
}

static void reference_attention(const Reference *r, const Attention *a) {
    double *p = doubles(a->Tk), *dp = doubles(a->Tk);
    for (int i = 0; i < a->B * a->NH * a->Tq; i++) {
        reference_query(r, a, i / a->Tq / a->NH, i / a->Tq % a->NH, i % a->Tq, p, dp);
    }
    free(p), free(dp);
}

// The same gradients when only some are asked for.
static void check_alone(const Inputs *in, const Tensor *out, const Tensor *lse, const Tensor *dout) {
    Tensor alone = tensor_poisoned(in->dq.n, false);
    attention_backward(alone.x, NULL, NULL, dout->x, in->q.x, in->kx, in->vx, out->x, lse->f, in->a, &check_dev);
    check_and_free("dq alone", &alone, tensor_values(&in->dq), 0);
    Tensor dk = tensor_poisoned(in->dk.n, false), dv = tensor_poisoned(in->dv.n, false);
    attention_backward(NULL, dk.x, dv.x, dout->x, in->q.x, in->kx, in->vx, out->x, lse->f, in->a, &check_dev);
    check_and_free("dk without dq", &dk, tensor_values(&in->dk), 0);
    check_and_free("dv without dq", &dv, tensor_values(&in->dv), 0);
}

static void check_case(const Case *c) {
    printf("  B %d, heads %d, queries %d, keys %d, head size %d%s%s, scale %g\n", c->B, c->NH, c->Tq, c->Tk, c->HS,
           c->causal ? ", causal" : "", c->packed ? ", packed" : "", c->scale);
    Inputs in = make_inputs(c);
    int C = c->NH * c->HS;
    Tensor out = tensor_poisoned((size_t)c->B * c->Tq * C, false);
    Tensor lse = tensor_poisoned((size_t)c->B * c->NH * c->Tq, true), dout = tensor_random(out.n, 1, 4, false);
    attention_forward(out.x, lse.f, in.q.x, in.kx, in.vx, in.a, &check_dev);
    attention_backward(in.dq.x, in.dkx, in.dvx, dout.x, in.q.x, in.kx, in.vx, out.x, lse.f, in.a, &check_dev);
    double *dq = doubles(in.q.n), *dk = doubles(in.k.n), *dv = doubles(in.v.n);
    Reference r = {.q = in.q.host, .k = in.k.host, .v = in.v.host, .dout = dout.host};
    r.out = doubles(out.n), r.lse = doubles(lse.n), r.dq = dq, r.dk = dk, r.dv = dv;
    if (c->packed) { r.k = r.q + C, r.v = r.q + 2 * C, r.dk = dq + C, r.dv = dq + 2 * C; }
    reference_attention(&r, &in.a);
    check_tensor("out", &out, r.out, TOLERANCE_FORWARD);
    check_tensor("lse", &lse, r.lse, TOLERANCE_FORWARD);
    check_tensor(c->packed ? "dq, dk, dv" : "dq", &in.dq, dq, TOLERANCE_BACKWARD);
    if (!c->packed) {
        check_tensor("dk", &in.dk, dk, TOLERANCE_BACKWARD);
        check_tensor("dv", &in.dv, dv, TOLERANCE_BACKWARD);
        check_alone(&in, &out, &lse, &dout);
        tensor_free(&in.k), tensor_free(&in.v), tensor_free(&in.dk), tensor_free(&in.dv);
    }
    free(r.out), free(r.lse), free(dq), free(dk), free(dv);
    tensor_free(&in.q), tensor_free(&in.dq), tensor_free(&out), tensor_free(&lse), tensor_free(&dout);
}

static void test_shapes(void **state) {
    (void)state;
    const Case cases[] = {
        {1, 1, 1, 1, 8, false, false, 1},     {2, 3, 64, 64, 16, false, true, 1},
        {1, 2, 77, 77, 64, true, true, 1},    {2, 2, 100, 77, 40, false, false, 1},
        {1, 2, 65, 130, 80, false, false, 1}, {1, 1, 70, 300, 160, false, false, 1},
        {1, 1, 90, 90, 512, false, true, 1},  {1, 1, 150, 150, 32, true, false, 1},
        {3, 5, 17, 3, 24, false, false, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(cases + i);
}

// Several blocks of keys, of queries, and of queries that share keys.
static void test_blocks(void **state) {
    (void)state;
    const Case cases[] = {
        {1, 1, 300, 300, 64, true, true, 1},
        {1, 2, 200, 390, 64, false, false, 1},
        {2, 1, 260, 77, 64, false, false, 1},
        {1, 1, 170, 170, 160, true, true, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(cases + i);
}

// Head sizes of every kernel, lengths as they come.
static void test_draws(void **state) {
    (void)state;
    Random random = random_begin(77, PHILOX_INIT, 0, 0);
    for (int HS = 16; HS <= 160; HS += 16) {
        Case c = {.B = 1 + (int)random_below(&random, 2), .NH = 1 + (int)random_below(&random, 2), .scale = 1};
        c.HS = HS - 8 * (int)random_below(&random, 2);
        c.Tq = 1 + (int)random_below(&random, 140), c.Tk = 1 + (int)random_below(&random, 140);
        c.causal = random_below(&random, 3) == 0, c.packed = random_below(&random, 2);
        if (c.causal || c.packed) { c.Tk = c.Tq; }
        check_case(&c);
    }
}

// Scores of several hundreds: the running maximum must keep exp from overflowing.
static void test_sharp(void **state) {
    (void)state;
#ifdef PRECISION_bf16
    const double scale = 4;
#else
    const double scale = 20;
#endif
    check_case(&(Case){1, 2, 130, 140, 64, false, false, scale});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_draws), cmocka_unit_test(test_sharp)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
