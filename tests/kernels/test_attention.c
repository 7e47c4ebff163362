// attention against reference.c, from packed and from separate tensors.
#include "tests/kernels/check.h"

typedef struct {
    int B, NH, Tq, Tk, HS;
    bool causal, packed; // packed: q, k, v in one (B, T, 3 NH HS)
    double scale;        // of q: large values make the softmax sharp
    int gap;             // elements between the rows of every tensor, which nothing may write to
} Case;

// Tensors of one case. With `packed`, q holds all three.
typedef struct {
    Attention a;
    Tensor q, k, v, dq, dk, dv;
    floatX *kx, *vx, *dkx, *dvx;
} Inputs;

static Tensor output(size_t n, int gap) {
    return gap ? tensor_random(n, 0, 0, false) : tensor_poisoned(n, false); // a gap must stay zero
}

static Inputs make_inputs(const Case *c) {
    int C = c->NH * c->HS, row = C + c->gap, packed_row = 3 * C + c->gap;
    Inputs in = {.a = {c->B, c->NH, c->Tq, c->Tk, c->HS, row, row, row, row, c->causal}};
    if (c->packed) {
        in.a.q_stride = in.a.k_stride = in.a.v_stride = packed_row;
        in.q = tensor_random((size_t)c->B * c->Tq * packed_row, c->scale, 1, false);
        in.dq = output(in.q.n, c->gap);
        in.kx = in.q.x + C, in.vx = in.q.x + 2 * C, in.dkx = in.dq.x + C, in.dvx = in.dq.x + 2 * C;
        return in;
    }
    in.q = tensor_random((size_t)c->B * c->Tq * row, c->scale, 1, false);
    in.k = tensor_random((size_t)c->B * c->Tk * row, 1, 2, false);
    in.v = tensor_random((size_t)c->B * c->Tk * row, 1, 3, false);
    in.dq = output(in.q.n, c->gap), in.dk = output(in.k.n, c->gap);
    in.dv = output(in.v.n, c->gap);
    in.kx = in.k.x, in.vx = in.v.x, in.dkx = in.dk.x, in.dvx = in.dv.x;
    return in;
}

// The same gradients when only some are asked for.
static void check_alone(const Inputs *in, const Tensor *out, const Tensor *lse, const Tensor *dout, int gap) {
    Tensor alone = output(in->dq.n, gap);
    attention_backward(alone.x, NULL, NULL, dout->x, in->q.x, in->kx, in->vx, out->x, lse->f, in->a, &check_dev);
    check_and_free("dq alone", &alone, tensor_values(&in->dq), 0);
    Tensor dk = output(in->dk.n, gap), dv = output(in->dv.n, gap);
    attention_backward(NULL, dk.x, dv.x, dout->x, in->q.x, in->kx, in->vx, out->x, lse->f, in->a, &check_dev);
    check_and_free("dk without dq", &dk, tensor_values(&in->dk), 0);
    check_and_free("dv without dq", &dv, tensor_values(&in->dv), 0);
}

static void check_case(const Case *c) {
    printf("  B %d, heads %d, queries %d, keys %d, head size %d%s%s, scale %g, gap %d\n", c->B, c->NH, c->Tq, c->Tk,
           c->HS, c->causal ? ", causal" : "", c->packed ? ", packed" : "", c->scale, c->gap);
    Inputs in = make_inputs(c);
    int C = c->NH * c->HS;
    Tensor out = output((size_t)c->B * c->Tq * in.a.out_stride, c->gap);
    Tensor lse = tensor_poisoned((size_t)c->B * c->NH * c->Tq, true), dout = tensor_random(out.n, 1, 4, false);
    attention_forward(out.x, lse.f, in.q.x, in.kx, in.vx, in.a, &check_dev);
    attention_backward(in.dq.x, in.dkx, in.dvx, dout.x, in.q.x, in.kx, in.vx, out.x, lse.f, in.a, &check_dev);
    double *ro = found_in(&out), *rl = found_in(&lse), *dq = found_in(&in.dq), *dk = found_in(&in.dk);
    double *dv = found_in(&in.dv), *q = in.q.host;
    if (c->packed) {
        reference_attention_forward(ro, rl, q, q + C, q + 2 * C, in.a);
        reference_attention_backward(dq, dq + C, dq + 2 * C, dout.host, q, q + C, q + 2 * C, ro, rl, in.a);
    } else {
        reference_attention_forward(ro, rl, q, in.k.host, in.v.host, in.a);
        reference_attention_backward(dq, dk, dv, dout.host, q, in.k.host, in.v.host, ro, rl, in.a);
    }
    check_tensor("out", &out, ro, TOLERANCE_FORWARD);
    check_tensor("lse", &lse, rl, TOLERANCE_FORWARD);
    check_tensor(c->packed ? "dq, dk, dv" : "dq", &in.dq, dq, TOLERANCE_BACKWARD);
    if (!c->packed) {
        check_tensor("dk", &in.dk, dk, TOLERANCE_BACKWARD);
        check_tensor("dv", &in.dv, dv, TOLERANCE_BACKWARD);
        check_alone(&in, &out, &lse, &dout, c->gap);
        tensor_free(&in.k), tensor_free(&in.v), tensor_free(&in.dk), tensor_free(&in.dv);
    }
    free(ro), free(rl), free(dq), free(dk), free(dv);
    tensor_free(&in.q), tensor_free(&in.dq), tensor_free(&out), tensor_free(&lse), tensor_free(&dout);
}

static void test_shapes(void **state) {
    (void)state;
    const Case cases[] = {
        {1, 1, 1, 1, 8, false, false, 1, 0},     {2, 3, 64, 64, 16, false, true, 1, 0},
        {1, 2, 77, 77, 64, true, true, 1, 0},    {2, 2, 100, 77, 40, false, false, 1, 0},
        {1, 2, 65, 130, 80, false, false, 1, 0}, {1, 1, 70, 300, 160, false, false, 1, 0},
        {1, 1, 90, 90, 512, false, true, 1, 0},  {1, 1, 150, 150, 32, true, false, 1, 0},
        {3, 5, 17, 3, 24, false, false, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
}

// Several blocks of keys, of queries, and of queries that share keys.
static void test_blocks(void **state) {
    (void)state;
    const Case cases[] = {
        {1, 1, 300, 300, 64, true, true, 1, 0},
        {1, 2, 200, 390, 64, false, false, 1, 0},
        {2, 1, 260, 77, 64, false, false, 1, 0},
        {1, 1, 170, 170, 160, true, true, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
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

// Heads that are no multiple of 8, or whose rows are not: through padded copies on CUDA, which are the same for every
// mask, so that emulation needs one way of calling for each size.
static void test_odd_heads(void **state) {
    (void)state;
#ifdef BACKEND_cpu
    enum { WAYS = 4 };
#else
    enum { WAYS = 1 };
#endif
    const int sizes[] = {1, 3, 4, 5, 12, 20, 33, 77, 129, 163, 300, 511, 512};
    for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes) * WAYS; i++) {
        int HS = sizes[i / WAYS], way = (i / WAYS + i % WAYS) % 4, Tq = 5 + i % 7 * 2;
        bool causal = way % 2, packed = way / 2, same = causal || packed;
        check_case(&(Case){HS < 100 ? 2 : 1, HS < 100 ? 3 : 1, Tq, same ? Tq : Tq + 4, HS, causal, packed, 1, 0});
    }
    const Case cases[] = {
        {1, 2, 13, 7, 40, false, false, 1, 1},
        {2, 1, 7, 7, 64, true, true, 1, 4},
        {1, 3, 131, 70, 4, false, false, 1, 0},
        {1, 2, 139, 139, 20, true, true, 1, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
}

static void run_both(const Inputs *in, const Tensor *out, const Tensor *lse, const Tensor *dout, Device *dev) {
    attention_forward(out->x, lse->f, in->q.x, in->kx, in->vx, in->a, dev);
    attention_backward(in->dq.x, in->dkx, in->dvx, dout->x, in->q.x, in->kx, in->vx, out->x, lse->f, in->a, dev);
}

// A plan-only device tells the workspace that the same calls take.
static void test_plan(void **state) {
    (void)state;
    const int sizes[] = {5, 40, 163};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        enum { T = 9, NH = 2 };
        Inputs in = make_inputs(&(Case){1, NH, T, T, sizes[i], false, true, 1, 0});
        Tensor out = tensor_poisoned((size_t)T * in.a.out_stride, false), dout = tensor_random(out.n, 1, 4, false);
        Tensor lse = tensor_poisoned(NH * T, true);
        device_sync(&check_dev);
        Device plan = {.plan_only = true}, dev;
        device_open(&dev, 0);
        run_both(&in, &out, &lse, &dout, &plan);
        run_both(&in, &out, &lse, &dout, &dev);
        device_sync(&dev);
        printf("  head size %d: %zu bytes planned, %zu taken\n", sizes[i], plan.workspace_needed, dev.workspace_size);
        assert_int_equal(plan.workspace_needed, dev.workspace_size);
        device_close(&dev);
        tensor_free(&in.q), tensor_free(&in.dq), tensor_free(&out), tensor_free(&lse), tensor_free(&dout);
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
    check_case(&(Case){1, 2, 130, 140, 64, false, false, scale, 0});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_draws),  cmocka_unit_test(test_odd_heads),
                                       cmocka_unit_test(test_plan),   cmocka_unit_test(test_sharp)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
