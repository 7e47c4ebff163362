// Attention's backward adds the parts of dq in a fixed order, for which its blocks wait for each other. It must end,
// with the same bits, whatever else occupies the card: here a second stream runs products, convolutions and copies of
// random sizes, so that the number of blocks that fit beside them changes all the time. RESIDENCY_RUNS=1000
// (bench/gpu_check.sh) takes a larger shape, whose blocks do not all fit at once: an SM of no card holds more than two.
#include "tests/kernels/check.h"

enum { ROWS = 4096, WIDTH = 64, BLOCKS_OF_SM = 2, KEYS_OF_BLOCK = 128 }; // a block has at most so many keys

// The second stream's work: a share of these tensors at a time.
typedef struct {
    Device dev;
    floatX *out, *inp, *weight;
} Other;

static Other other_open(int rows) {
    Other o = {0};
    device_open(&o.dev, 0);
    size_t bytes = (size_t)rows * WIDTH * sizeof(floatX);
    floatX **all[] = {&o.out, &o.inp, &o.weight};
    for (int i = 0; i < 3; i++) {
        *all[i] = device_alloc(&o.dev, bytes);
        device_fill(&o.dev, *all[i], 0, bytes);
    }
    return o;
}

static void other_close(Other *o) {
    device_free(&o->dev, o->out), device_free(&o->dev, o->inp), device_free(&o->dev, o->weight);
    device_close(&o->dev);
}

static void other_work(Other *o, int rows, Random *random) {
    int n = 1 + (int)random_below(random, (uint32_t)rows), side = 8;
    switch (random_below(random, 3)) {
    case 0:
        linear_forward(o->out, o->inp, o->weight, o->weight, NULL, n, WIDTH, WIDTH, &o->dev);
        break;
    case 1:
        add_forward(o->out, o->inp, o->weight, (size_t)n * WIDTH, &o->dev);
        break;
    default: {
        Conv2d c = {.B = 1 + n / (side * side), .H = side, .W = side, .IC = 16, .OC = 16, .K = 3, .stride = 1};
        c.pad_before = c.pad_after = 1;
        conv2d_forward(o->out, o->inp, o->weight, o->weight, NULL, NULL, c, &o->dev);
    }
    }
}

static void test_residency(void **state) {
    (void)state;
    const char *wanted = getenv("RESIDENCY_RUNS");
    int runs = wanted ? atoi(wanted) : 3, rows = wanted ? ROWS : 64, T = wanted ? 1024 : 130, HS = 64;
    int fit = BLOCKS_OF_SM * device_processors(&check_dev), NH = wanted ? 4 * fit / (T / KEYS_OF_BLOCK) + 1 : 2;
    int C = NH * HS;
    Attention a = {1, NH, T, T, HS, 3 * C, 3 * C, 3 * C, C, false};
    size_t n = (size_t)T * 3 * C, bytes = n * sizeof(floatX);
    Tensor qkv = tensor_random(n, 1, 1, false), dqkv = tensor_poisoned(n, false);
    Tensor out = tensor_poisoned((size_t)T * C, false), lse = tensor_poisoned((size_t)T * NH, true);
    Tensor dout = tensor_random(out.n, 1, 2, false);
    attention_forward(out.x, lse.f, qkv.x, qkv.x + C, qkv.x + 2 * C, a, &check_dev);
    char *first = device_alloc_pinned(&check_dev, bytes), *again = device_alloc_pinned(&check_dev, bytes);
    Other other = other_open(rows + 64);
    Random random = random_begin(1, PHILOX_INIT, 3, 0);
    Trace trace = {0};
    int differ = 0;
    for (int run = 0; run <= runs; run++) { // the first one alone
        for (int i = run ? 1 + (int)random_below(&random, 4) : 0; i; i--) { other_work(&other, rows, &random); }
        device_fill(&check_dev, dqkv.x, 0xff, bytes);
        check_dev.trace = &trace;
        attention_backward(dqkv.x, dqkv.x + C, dqkv.x + 2 * C, dout.x, qkv.x, qkv.x + C, qkv.x + 2 * C, out.x, lse.f, a,
                           &check_dev);
        check_dev.trace = NULL;
        for (int i = run ? (int)random_below(&random, 4) : 0; i; i--) { other_work(&other, rows, &random); }
        device_copy(&check_dev, run ? again : first, dqkv.x, bytes, false);
        device_sync(&check_dev);
        differ += run && memcmp(first, again, bytes) != 0;
    }
    printf("    %d runs beside a second stream, %d differ from the first\n", runs, differ);
    assert_int_equal(differ, 0);
    if (wanted) { assert_true(trace.rows[0].blocks >= 4 * fit); }
    trace_free(&trace);
    double *values = tensor_values(&dqkv);
    for (size_t i = 0; i < n; i++) { assert_true(isfinite(values[i])); }
    free(values);
    device_free_pinned(&check_dev, first), device_free_pinned(&check_dev, again);
    other_close(&other);
    tensor_free(&qkv), tensor_free(&dqkv), tensor_free(&out), tensor_free(&lse), tensor_free(&dout);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_residency)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
