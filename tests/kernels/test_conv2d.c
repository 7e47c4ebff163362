// conv2d against reference.c, on the same rounded inputs; exact on small whole numbers.
#include "kernels/conv2d_choice.h"
#include "tests/kernels/check.h"

typedef struct {
    Conv2d conv;
    bool bias, sample_bias, residual, integers;
    float beta;
} Case;

typedef struct {
    size_t inp, weight, out;
} Sizes;

static Sizes sizes(const Conv2d *c) {
    int OH = conv2d_out(c, c->H), OW = conv2d_out(c, c->W);
    return (Sizes){(size_t)c->B * c->H * c->W * c->IC, (size_t)c->OC * c->K * c->K * c->IC,
                   (size_t)c->B * OH * OW * c->OC};
}

static Tensor input(size_t n, uint32_t id, const Case *c, bool is_float) {
    return c->integers ? tensor_integers(n, 1, id, is_float) : tensor_random(n, 1, id, is_float);
}

// A sample's row of sample_bias and dsample_bias: the last OC columns of a matrix, all of them if it has OC.
static size_t first_column(const Conv2d *c) { return (size_t)(conv2d_sample_stride(c) - c->OC); }

static void check_forward(const Case *t, const Tensor *inp, const Tensor *weight) {
    const Conv2d *c = &t->conv;
    Sizes s = sizes(c);
    Tensor bias = input(c->OC, 3, t, false), sample_bias = input((size_t)c->B * conv2d_sample_stride(c), 4, t, false);
    Tensor residual = input(s.out, 5, t, false), out = tensor_poisoned(s.out, false);
    const floatX *b = t->bias ? bias.x : NULL, *sb = t->sample_bias ? sample_bias.x + first_column(c) : NULL;
    conv2d_forward(out.x, inp->x, weight->x, b, sb, t->residual ? residual.x : NULL, *c, &check_dev);
    double *reference = found_in(&out);
    reference_conv2d_forward(reference, inp->host, weight->host, t->bias ? bias.host : NULL,
                             t->sample_bias ? sample_bias.host + first_column(c) : NULL,
                             t->residual ? residual.host : NULL, *c);
    double tolerance = t->integers ? 0 : TOLERANCE_FORWARD;
    check_tensor("out", &out, reference, tolerance);
    if (t->residual) {
        conv2d_forward(residual.x, inp->x, weight->x, b, sb, residual.x, *c, &check_dev);
        check_tensor("out in place", &residual, reference, tolerance);
    }
    free(reference);
    tensor_free(&bias), tensor_free(&sample_bias), tensor_free(&residual), tensor_free(&out);
}

static void check_backward(const Case *t, const Tensor *inp, const Tensor *weight) {
    const Conv2d *c = &t->conv;
    Sizes s = sizes(c);
    Tensor dout = input(s.out, 6, t, false), dresidual = input(s.inp, 7, t, false);
    Tensor dinp = tensor_poisoned(s.inp, false), dsample_bias;
    size_t rows = (size_t)c->B * conv2d_sample_stride(c);
    dsample_bias = first_column(c) ? input(rows, 10, t, false) : tensor_poisoned(rows, false); // other columns stay
    Tensor dweight = t->beta ? input(s.weight, 8, t, true) : tensor_poisoned(s.weight, true);
    Tensor dbias = t->beta ? input(c->OC, 9, t, true) : tensor_poisoned(c->OC, true);
    conv2d_backward(dinp.x, dweight.f, t->bias ? dbias.f : NULL,
                    t->sample_bias ? dsample_bias.x + first_column(c) : NULL, dout.x, inp->x, weight->x,
                    t->residual ? dresidual.x : NULL, t->beta, *c, &check_dev);
    double *ri = found_in(&dinp), *rw = found_in(&dweight), *rb = found_in(&dbias), *rs = found_in(&dsample_bias);
    reference_conv2d_backward(ri, rw, rb, rs + first_column(c), dout.host, inp->host, weight->host,
                              t->residual ? dresidual.host : NULL, t->beta, *c);
    double tolerance = t->integers ? 0 : TOLERANCE_BACKWARD;
    check_tensor("dinp", &dinp, ri, tolerance);
    check_tensor("dweight", &dweight, rw, tolerance);
    if (t->bias) { check_tensor("dbias", &dbias, rb, tolerance); }
    if (t->sample_bias) { check_tensor("dsample_bias", &dsample_bias, rs, tolerance); }
    if (t->residual) {
        conv2d_backward(dresidual.x, NULL, NULL, NULL, dout.x, inp->x, weight->x, dresidual.x, 0, *c, &check_dev);
        check_tensor("dinp in place", &dresidual, ri, tolerance);
    }
    free(ri), free(rw), free(rb), free(rs);
    tensor_free(&dout), tensor_free(&dresidual), tensor_free(&dinp), tensor_free(&dsample_bias);
    tensor_free(&dweight), tensor_free(&dbias);
}

static void check_case(const Case *t) {
    const Conv2d *c = &t->conv;
    printf("  B %d, %dx%d, IC %d, OC %d, K %d, stride %d, pad %d %d%s%s%s%s, beta %g\n", c->B, c->H, c->W, c->IC, c->OC,
           c->K, c->stride, c->pad_before, c->pad_after, t->bias ? ", bias" : "", t->sample_bias ? ", sample bias" : "",
           t->residual ? ", residual" : "", t->integers ? ", integers" : "", t->beta);
    Sizes s = sizes(c);
    Tensor inp = input(s.inp, 1, t, false), weight = input(s.weight, 2, t, false);
    check_forward(t, &inp, &weight);
    check_backward(t, &inp, &weight);
    tensor_free(&inp), tensor_free(&weight);
}

static void test_shapes(void **state) {
    (void)state;
    const Case cases[] = {
        {{1, 1, 1, 1, 1, 3, 1, 1, 1}, true, false, true, false, 0},
        {{2, 16, 16, 32, 32, 3, 1, 1, 1}, true, true, true, false, 1},
        {{3, 8, 8, 64, 48, 3, 1, 1, 1}, true, true, false, false, 0},
        {{2, 7, 9, 13, 21, 3, 1, 1, 1}, true, false, true, false, 1},
        {{1, 32, 32, 3, 16, 3, 1, 1, 1}, true, false, false, false, 0},
        {{1, 32, 32, 16, 3, 3, 1, 1, 1}, true, false, false, false, 1},
        {{2, 16, 16, 8, 32, 3, 1, 1, 1}, true, false, false, false, 0},
        {{2, 16, 16, 32, 32, 3, 2, 1, 1}, true, true, true, false, 0},
        {{2, 15, 11, 20, 12, 3, 2, 1, 1}, true, false, true, false, 1},
        {{1, 16, 16, 16, 32, 3, 2, 0, 1}, true, false, false, false, 0},
        {{2, 9, 12, 24, 8, 3, 2, 0, 1}, false, false, true, false, 1},
        {{2, 4, 4, 400, 40, 3, 1, 1, 1}, true, true, true, false, 0},
        {{1, 6, 5, 40, 500, 3, 1, 1, 1}, true, false, false, false, 0},
        {{2, 9, 7, 24, 40, 1, 1, 0, 0}, true, false, true, false, 1},
        {{2, 9, 7, 24, 40, 1, 1, 0, 0}, true, true, true, false, 0},
        {{2, 9, 8, 24, 40, 1, 2, 0, 0}, true, true, true, false, 0},
        {{2, 2, 2, 16, 16, 3, 1, 1, 1}, true, true, true, false, 0},
        // Sample biases that are columns of a wider matrix, with rows that are aligned or not, sums split or not.
        {{3, 8, 8, 64, 48, 3, 1, 1, 1, false, 56}, true, true, true, false, 1},
        {{2, 7, 9, 16, 32, 3, 1, 1, 1, false, 35}, true, true, true, false, 0},
        {{2, 4, 4, 400, 40, 3, 1, 1, 1, false, 41}, true, true, false, false, 0},
        {{2, 9, 7, 24, 40, 1, 1, 0, 0, false, 44}, false, true, true, false, 1},
        {{3, 5, 4, 8, 13, 3, 2, 1, 1, false, 20}, true, true, true, false, 0},
        // Every width of a tile, more than one tile each way, sums split or not, rows that end within a tile.
        {{1, 13, 11, 160, 24, 3, 1, 1, 1}, true, false, true, false, 1},
        {{1, 13, 11, 24, 160, 3, 1, 1, 1}, true, true, true, false, 0},
        {{2, 5, 5, 128, 136, 3, 2, 1, 1}, true, true, true, false, 1},
        {{1, 3, 9, 72, 320, 3, 2, 0, 1}, true, false, true, false, 0},
        {{1, 17, 16, 3, 100, 3, 1, 1, 1}, true, false, false, false, 1},
        {{1, 4, 3, 250, 7, 3, 1, 1, 1}, true, true, true, false, 1},
        {{3, 1, 7, 5, 260, 3, 2, 1, 1}, true, true, true, false, 0},
        {{1, 5, 6, 96, 12, 3, 1, 0, 0}, true, false, true, false, 0},
        {{2, 7, 5, 6, 10, 1, 2, 0, 0}, true, true, false, false, 1},
        {{2, 46, 30, 9, 4, 3, 1, 1, 1}, true, true, true, false, 0},
        {{1, 24, 26, 8, 320, 3, 1, 1, 1}, true, false, true, false, 0},
        {{2, 26, 24, 160, 8, 3, 2, 1, 1}, true, false, true, false, 0},
        {{1, 41, 39, 8, 24, 3, 1, 1, 1}, true, false, false, false, 1},
        // Fast filtering on the CPU: tiles that end outside, half a panel of columns, many channels, chunks, groups.
        {{3, 11, 14, 48, 32, 3, 1, 1, 1}, true, true, true, false, 1},
        {{2, 9, 30, 64, 80, 3, 1, 0, 0}, true, false, true, false, 0},
        {{1, 21, 33, 16, 48, 3, 1, 2, 0}, false, true, false, false, 1},
#ifdef BACKEND_cpu
        {{6, 16, 12, 400, 32, 3, 1, 1, 1}, true, true, true, false, 1},
        {{1, 62, 250, 16, 16, 3, 1, 1, 1}, true, false, true, false, 0},
        {{2, 21, 33, 16, 16, 3, 1, 1, 1}, true, true, true, false, 1},     // one vector of channels, tiles left over
        {{3, 18, 19, 1296, 192, 3, 1, 1, 1}, true, true, false, false, 1}, // the weight in several groups
        {{2, 7, 10, 272, 304, 3, 1, 1, 1}, true, true, true, false, 1},    // few tiles
        {{1, 5, 6, 512, 144, 3, 1, 1, 1}, true, false, true, false, 0},
#endif
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
}

static void test_integers(void **state) {
    (void)state;
    const Case cases[] = {
        {{1, 5, 4, 8, 8, 3, 1, 1, 1}, true, true, true, true, 1},
        {{1, 6, 6, 8, 8, 3, 2, 1, 1}, true, true, true, true, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { check_case(cases + i); }
}

// The choice of blocks for cards that are not there: SMs, and shared memory of one.
static void test_choice(void **state) {
    (void)state;
    const ConvCard a100 = {108, 164 << 10}, h100 = {132, 228 << 10}, rtx4090 = {128, 100 << 10};
    // SD2's 64 x 64 latents with 320 channels, batch 2: 128 blocks of 128 x 160, or 104 of 160 x 160; then batch 16.
    assert_true(conv2d_tall(104, 128, a100));
    assert_false(conv2d_tall(104, 128, h100));
    assert_false(conv2d_tall(104, 128, rtx4090));
    assert_false(conv2d_tall(820, 1024, a100));
    const size_t wide = 73728 + 76, narrow = 49152 + 76; // bytes of a block, 128 x 160 and 128 x 64
    assert_false(conv2d_eight_warps(wide, a100));
    assert_false(conv2d_eight_warps(wide, h100));
    assert_true(conv2d_eight_warps(wide, rtx4090));
    assert_false(conv2d_eight_warps(narrow, rtx4090));
    assert_false(conv2d_eight_warps(49 << 10, rtx4090)); // with what a block reserves, exactly half of 100 KB
    assert_true(conv2d_eight_warps((49 << 10) + 1, rtx4090));
}

#ifndef BACKEND_cpu
// Cards that lead to different blocks give the same bits. The emulation and the simulator of PTX (tests/ptx/sim)
// pretend to be them; a GPU stays what it is.
static void test_cards(void **state) {
    (void)state;
    const struct {
        const char *sm, *shared, *processors;
    } cards[] = {{"80", "167936", "1"}, {"80", "167936", "4"}, {"89", "102400", "4"}}; // tall tiles, four warps, eight
    const Conv2d cases[] = {
        {1, 13, 11, 160, 160, 3, 1, 1, 1}, {2, 7, 9, 128, 128, 3, 2, 0, 1}, {2, 9, 8, 24, 129, 3, 1, 1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Conv2d *c = &cases[i];
        Sizes s = sizes(c);
        Tensor inp = tensor_random(s.inp, 1, 1, false), weight = tensor_random(s.weight, 1, 2, false);
        Tensor bias = tensor_random(c->OC, 1, 3, false), sample_bias = tensor_random((size_t)c->B * c->OC, 1, 4, false);
        Tensor residual = tensor_random(s.out, 1, 5, false), dout = tensor_random(s.out, 1, 6, false);
        double *first[3] = {0};
        for (size_t card = 0; card < sizeof cards / sizeof *cards; card++) {
            setenv("EMU_SM", cards[card].sm, 1), setenv("SIM_SHARED", cards[card].shared, 1);
            setenv("EMU_PROCESSORS", cards[card].processors, 1), setenv("SIM_PROCESSORS", cards[card].processors, 1);
            Tensor results[] = {tensor_poisoned(s.out, false), tensor_poisoned(s.inp, false),
                                tensor_poisoned(s.weight, true)};
            conv2d_forward(results[0].x, inp.x, weight.x, bias.x, sample_bias.x, residual.x, *c, &check_dev);
            conv2d_backward(results[1].x, results[2].f, NULL, NULL, dout.x, inp.x, weight.x, NULL, 0, *c, &check_dev);
            for (int k = 0; k < 3; k++) {
                double *values = tensor_values(&results[k]);
                if (!first[k]) { first[k] = values; }
                assert_memory_equal(first[k], values, results[k].n * sizeof *values);
                if (first[k] != values) { free(values); }
                tensor_free(&results[k]);
            }
        }
        unsetenv("EMU_SM"), unsetenv("EMU_PROCESSORS"), unsetenv("SIM_SHARED"), unsetenv("SIM_PROCESSORS");
        for (int k = 0; k < 3; k++) { free(first[k]); }
        tensor_free(&inp), tensor_free(&weight), tensor_free(&bias), tensor_free(&sample_bias), tensor_free(&residual);
        tensor_free(&dout);
    }
}
#endif

#ifdef BACKEND_cpu
// A sample has the same bits alone and among others, forward and in its gradient. The last three have many tiles in the
// batch and few alone.
static void test_batch(void **state) {
    (void)state;
    const Conv2d cases[] = {{3, 16, 16, 32, 48, 3, 1, 1, 1},   {3, 19, 26, 16, 16, 3, 1, 1, 1},
                            {5, 8, 8, 64, 64, 3, 1, 1, 1},     {4, 5, 4, 64, 64, 3, 1, 1, 1},
                            {6, 16, 16, 256, 272, 3, 1, 1, 1}, {5, 15, 13, 400, 192, 3, 1, 1, 1},
                            {5, 15, 13, 256, 160, 3, 1, 1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Conv2d all = cases[i], one = all;
        one.B = 1;
        Sizes s = sizes(&all), s1 = sizes(&one);
        Tensor inp = tensor_random(s.inp, 1, 1, false), weight = tensor_random(s.weight, 1, 2, false);
        Tensor dout = tensor_random(s.out, 1, 3, false), out = tensor_poisoned(s.out, false),
               dinp = tensor_poisoned(s.inp, false), alone = tensor_poisoned(s1.out, false),
               dalone = tensor_poisoned(s1.inp, false);
        conv2d_forward(out.x, inp.x, weight.x, NULL, NULL, NULL, all, &check_dev);
        conv2d_backward(dinp.x, NULL, NULL, NULL, dout.x, NULL, weight.x, NULL, 0, all, &check_dev);
        for (int b = 0; b < all.B; b++) {
            conv2d_forward(alone.x, inp.x + b * s1.inp, weight.x, NULL, NULL, NULL, one, &check_dev);
            conv2d_backward(dalone.x, NULL, NULL, NULL, dout.x + b * s1.out, NULL, weight.x, NULL, 0, one, &check_dev);
            assert_memory_equal(alone.x, out.x + b * s1.out, s1.out * sizeof(floatX));
            assert_memory_equal(dalone.x, dinp.x + b * s1.inp, s1.inp * sizeof(floatX));
        }
        printf("  %d samples of %dx%d, IC %d, OC %d: the same bits alone\n", all.B, all.H, all.W, all.IC, all.OC);
        tensor_free(&inp), tensor_free(&weight), tensor_free(&dout), tensor_free(&out), tensor_free(&dinp);
        tensor_free(&alone), tensor_free(&dalone);
    }
}

// A weight in PyTorch's order gives the same bits, forward and in the input's gradient.
static void test_torch_order(void **state) {
    (void)state;
    const Conv2d cases[] = {{2, 16, 16, 32, 48, 3, 1, 1, 1}, {1, 7, 9, 13, 21, 3, 1, 1, 1},
                            {2, 8, 8, 128, 144, 3, 1, 1, 1}, {1, 5, 7, 400, 128, 3, 1, 1, 1},
                            {1, 17, 16, 3, 100, 3, 2, 0, 1}, {1, 9, 7, 24, 40, 1, 1, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Conv2d c = cases[i];
        Sizes s = sizes(&c);
        Tensor inp = tensor_random(s.inp, 1, 1, false), weight = tensor_random(s.weight, 1, 2, false);
        Tensor dout = tensor_random(s.out, 1, 3, false), torch = tensor_poisoned(s.weight, false), results[4];
        for (int o = 0, taps = c.K * c.K; o < c.OC; o++) {
            for (int k = 0; k < c.IC * taps; k++) {
                torch.x[o * c.IC * taps + k] = weight.x[(o * taps + k % taps) * c.IC + k / taps];
            }
        }
        for (int k = 0; k < 2; k++) {
            c.torch_order = k == 1;
            const floatX *w = k ? torch.x : weight.x;
            results[k] = tensor_poisoned(s.out, false), results[2 + k] = tensor_poisoned(s.inp, false);
            conv2d_forward(results[k].x, inp.x, w, NULL, NULL, NULL, c, &check_dev);
            conv2d_backward(results[2 + k].x, NULL, NULL, NULL, dout.x, NULL, w, NULL, 0, c, &check_dev);
        }
        printf("  %dx%d, IC %d, OC %d, K %d, stride %d: the same bits\n", c.H, c.W, c.IC, c.OC, c.K, c.stride);
        assert_memory_equal(results[0].x, results[1].x, s.out * sizeof(floatX));
        assert_memory_equal(results[2].x, results[3].x, s.inp * sizeof(floatX));
        for (int k = 0; k < 4; k++) { tensor_free(&results[k]); }
        tensor_free(&inp), tensor_free(&weight), tensor_free(&dout), tensor_free(&torch);
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_integers),    cmocka_unit_test(test_choice),
#ifndef BACKEND_cpu
        cmocka_unit_test(test_cards),
#endif
#ifdef BACKEND_cpu
        cmocka_unit_test(test_batch),  cmocka_unit_test(test_torch_order),
#endif
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
