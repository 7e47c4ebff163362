// A recorded piece of work gives the same as the work itself, as often as it is launched, and reads what its inputs
// hold at that time.
#include "tests/kernels/check.h"
#include "kernels/peaks.h"

enum { N = 1000 };

static void work(floatX *out, const floatX *x, const floatX *y) {
    add_forward(out, x, y, N, &check_dev);
    scale_shift_forward(out, out, 2, 1, N, &check_dev);
}

static void check_out(const Tensor *out, const Tensor *x, const Tensor *y) {
    double reference[N];
    for (int i = 0; i < N; i++) { reference[i] = 2 * (x->host[i] + y->host[i]) + 1; }
    check_tensor("out", out, reference, 0); // whole numbers: exact
}

static void test_graph(void **state) {
    (void)state;
    Tensor x = tensor_integers(N, 9, 1, false), y = tensor_integers(N, 9, 2, false), out = tensor_poisoned(N, false);
    work(out.x, x.x, y.x); // on a GPU the first launch of a kernel loads it, which must not be recorded
    device_fill(&check_dev, out.x, 0xff, N * sizeof *out.x);
    device_sync(&check_dev);
    DeviceGraph *graph = NULL;
    bool recording = device_graph_begin(&check_dev);
    work(out.x, x.x, y.x);
    if (recording) {
        graph = device_graph_end(&check_dev);
        device_graph_launch(&check_dev, graph);
    }
    check_out(&out, &x, &y);
    Tensor other = tensor_integers(N, 9, 3, false);
    device_copy(&check_dev, x.x, other.x, N * sizeof *x.x, false);
    if (recording) {
        device_graph_launch(&check_dev, graph);
    } else {
        work(out.x, x.x, y.x);
    }
    check_out(&out, &other, &y);
    device_graph_destroy(graph);
    tensor_free(&x), tensor_free(&y), tensor_free(&out), tensor_free(&other);
}

static void test_grid_in_trace(void **state) {
    (void)state;
    Trace trace = {0};
    Tensor x = tensor_integers(N, 9, 1, false), out = tensor_poisoned(N, false);
    check_dev.trace = &trace;
    add_forward(out.x, x.x, x.x, N, &check_dev);
    check_dev.trace = NULL;
    assert_int_equal(trace.count, 1);
#ifdef BACKEND_cpu
    assert_int_equal(trace.rows[0].blocks, 0);
#else
    assert_true(trace.rows[0].blocks > 0 && trace.rows[0].threads >= 32);
#endif
    trace_free(&trace);
    tensor_free(&x), tensor_free(&out);
}

static void test_peaks(void **state) {
    (void)state;
    Peaks p = device_measure_peaks(&check_dev);
    assert_true(p.flops_per_s[UNIT_FP32] > 0 && p.flops_per_s[UNIT_GEMM] > 0 && p.bytes_per_s > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_graph), cmocka_unit_test(test_grid_in_trace),
                                       cmocka_unit_test(test_peaks)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
