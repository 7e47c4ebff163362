// Folds that are put off give the same bits as folds at once: more of them than a table holds, in memory that fills up
// or is too small, in a graph.
#include "tests/kernels/check.h"
#include "kernels/folds.h"

// Four layers a round, whose gradients lie one after the other: 120 folds. Odd sizes have no 128-bit accesses.
enum { ROUNDS = 30, B = 2, SIDE = 4, GROUPS = 4, ROWS = B * SIDE * SIDE, MOST = 48, INPUTS = ROWS * MOST };

static Tensor inp, dout, weight, mean, rstd, dinp;
static size_t total;

static int channels(int round) { return (int[]){48, 40, 36, 20}[round % 4]; }

// Every second norm has only one of the two gradients.
static void all_layers(float *grads, float beta) {
    float *g = grads;
    for (int round = 0; round < ROUNDS; round++) {
        int C = channels(round), odd = C - 3;
        linear_backward(NULL, NULL, g, dout.x, NULL, NULL, NULL, beta, ROWS, 8, odd, &check_dev);
        g += (odd + 3) / 4 * 4;
        float *dweight = round % 2 ? g : NULL;
        layernorm_backward(dinp.x, dweight, g + C, dout.x, inp.x, weight.x, mean.f, rstd.f, NULL, beta, ROWS, C,
                           &check_dev);
        g += 2 * C;
        groupnorm_backward(dinp.x, g, round % 2 ? NULL : g + C, dout.x, inp.x, weight.x, weight.x, mean.f, rstd.f, NULL,
                           beta, B, SIDE * SIDE, C, GROUPS, true, &check_dev);
        g += 2 * C;
        Conv2d conv = {B, SIDE, SIDE, 8, C, 3, 1, 1, 1};
        conv2d_backward(NULL, NULL, g, NULL, dout.x, NULL, NULL, NULL, beta, conv, &check_dev);
        g += C;
    }
    total = (size_t)(g - grads);
}

static int begin(void **state) {
    if (check_open(state)) { return 1; }
    inp = tensor_random(INPUTS, 1, 1, false), dout = tensor_random(INPUTS, 1, 2, false);
    weight = tensor_random(MOST, 1, 3, false), dinp = tensor_poisoned(INPUTS, false);
    mean = tensor_random(ROWS, 1, 4, true), rstd = tensor_random(ROWS, 1, 5, true);
    return 0;
}

static int end(void **state) {
    tensor_free(&inp), tensor_free(&dout), tensor_free(&weight), tensor_free(&mean), tensor_free(&rstd);
    tensor_free(&dinp);
    return check_close(state);
}

enum { GRADS = ROUNDS * 6 * MOST };

// Two micro-steps.
static Tensor at_once(void) {
    Tensor grads = tensor_integers(GRADS, 9, 6, true);
    all_layers(grads.f, 0);
    all_layers(grads.f, 1);
    assert_true(total <= GRADS);
    return grads;
}

static void test_memory(void **state) {
    (void)state;
    Tensor expected = at_once();
    const size_t sizes[] = {1 << 20, 20000, 2000, 256}; // enough, full several times, too small for some, for most
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Tensor grads = tensor_integers(GRADS, 9, 6, true);
        void *memory = device_alloc(&check_dev, sizes[i]);
        for (int k = 0; k < 2; k++) {
            folds_begin(&check_dev, memory, sizes[i]);
            all_layers(grads.f, (float)k);
            folds_end(&check_dev);
        }
        check_equal("gradients", &grads, &expected);
        device_sync(&check_dev);
        device_free(&check_dev, memory);
        tensor_free(&grads);
    }
    tensor_free(&expected);
}

static void test_graph(void **state) {
    (void)state;
    Tensor expected = at_once(), grads = tensor_integers(GRADS, 9, 6, true); // the workspace is there
    void *memory = device_alloc(&check_dev, 1 << 20);
    all_layers(grads.f, 0);
    device_sync(&check_dev);
    bool recording = device_graph_begin(&check_dev);
    folds_begin(&check_dev, memory, 1 << 20);
    all_layers(grads.f, 1);
    folds_end(&check_dev);
    if (recording) {
        DeviceGraph *graph = device_graph_end(&check_dev);
        device_graph_launch(&check_dev, graph);
        device_sync(&check_dev);
        device_graph_destroy(graph);
    }
    check_equal("gradients", &grads, &expected);
    device_free(&check_dev, memory);
    tensor_free(&grads), tensor_free(&expected);
}

// With too little put off there would be nothing to test.
static void test_launches(void **state) {
    (void)state;
#ifndef BACKEND_cpu
    Tensor grads = tensor_integers(GRADS, 9, 6, true), before = tensor_copy(&grads);
    void *memory = device_alloc(&check_dev, 1 << 20);
    folds_begin(&check_dev, memory, 1 << 20);
    linear_backward(NULL, NULL, grads.f, dout.x, NULL, NULL, NULL, 0, ROWS, 8, MOST, &check_dev);
    check_equal("not yet folded", &grads, &before);
    folds_flush(&check_dev);
    double *values = tensor_values(&grads);
    assert_true(values[0] != before.host[0]);
    folds_end(&check_dev);
    free(values);
    device_free(&check_dev, memory);
    tensor_free(&grads), tensor_free(&before);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory), cmocka_unit_test(test_graph),
                                       cmocka_unit_test(test_launches)};
    return cmocka_run_group_tests(tests, begin, end);
}
