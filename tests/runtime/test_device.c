// device.h: memory, copies, events, plan-only mode, the trace and the peaks.
#include <sys/resource.h>
#include "tests/kernels/check.h"
#include "kernels/peaks.h"
#include "tests/dies.h"

static void test_memory(void **state) {
    (void)state;
    size_t free_bytes = 0, total_bytes = 0;
    device_memory(&check_dev, &free_bytes, &total_bytes);
    printf("    %s: %.2f of %.2f GB free\n", device_name(&check_dev), free_bytes * 1e-9, total_bytes * 1e-9);
    assert_true(free_bytes > 0 && free_bytes <= total_bytes);
    unsigned char *a = device_alloc(&check_dev, 1000), *b = device_alloc(&check_dev, 1000);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    unsigned char *host = device_alloc_pinned(&check_dev, 1000), *back = device_alloc_pinned(&check_dev, 1000);
    for (int i = 0; i < 1000; i++) { host[i] = (unsigned char)(i * 7); }
    DeviceEvent *event = device_event_create(&check_dev);
    device_copy(&check_dev, a, host, 1000, true);
    device_event_record(&check_dev, event, true);
    device_event_wait(&check_dev, event, false);
    device_copy(&check_dev, b, a, 1000, false);
    device_fill(&check_dev, b, 0, 10);
    device_copy(&check_dev, back, b, 1000, false);
    device_event_record(&check_dev, event, false);
    device_event_sync(event);
    DeviceEvent *later = device_event_create(&check_dev);
    device_event_record(&check_dev, later, false);
    device_event_sync(later);
    double seconds = device_event_seconds(event, later);
    printf("    %.2g s between two events\n", seconds);
    assert_true(seconds >= 0 && seconds < 5);
    device_event_destroy(later);
    for (int i = 0; i < 1000; i++) { assert_int_equal(back[i], i < 10 ? 0 : host[i]); }
    device_event_destroy(event);
    device_free(&check_dev, a), device_free(&check_dev, b);
    device_free_pinned(&check_dev, host), device_free_pinned(&check_dev, back);
}

// On the CPU ranks share the memory: each has its part.
static void test_sharers(void **state) {
    (void)state;
#ifdef BACKEND_cpu
    size_t left, all, part_left, part;
    Device dev = check_dev;
    device_memory(&dev, &left, &all);
    dev.sharers = (MemorySharers){4, 4};
    device_memory(&dev, &part_left, &part);
    printf("    %zu of %zu for each of four ranks\n", part_left, part);
    assert_true(part == all / 4 && part_left <= part);
#else
    skip();
#endif
}

static void test_trace(void **state) {
    (void)state;
    Trace trace = {0};
    Device dev = check_dev;
    dev.plan_only = true;
    dev.trace = &trace;
    device_scope(&dev, "forward");
    linear_forward(NULL, NULL, NULL, NULL, NULL, 1000, 64, 32, &dev); // plan-only: pointers are not touched
    linear_forward(NULL, NULL, NULL, NULL, NULL, 1000, 64, 32, &dev);
    device_scope(&dev, "backward");
    linear_forward(NULL, NULL, NULL, NULL, NULL, 10, 64, 32, &dev);
    Conv2d conv = {1, 4, 4, 8, 16, 3, 1, 1, 1};
    conv2d_forward(NULL, NULL, NULL, NULL, NULL, NULL, conv, &dev);
    assert_int_equal(trace.count, 3);
    assert_string_equal(trace.rows[0].name, "linear_forward");
    assert_string_equal(trace.rows[0].scope, "forward");
    assert_true(trace.rows[0].flops == 2 * 2.0 * 1000 * 64 * 32);
    assert_true(trace.rows[0].bytes == 2 * sizeof(floatX) * (1000.0 * 64 + 64 * 32 + 1000 * 32));
    assert_true(trace.rows[1].flops == 2.0 * 10 * 64 * 32);
    assert_true(trace.rows[2].flops == 2.0 * 100 * 8 * 16); // 10 x 10 of the 12 x 12 products meet pixels
    assert_true(trace.rows[0].unit == UNIT_GEMM && trace.rows[2].unit == (sizeof(floatX) == 2 ? UNIT_MMA : UNIT_GEMM));
    assert_true(trace.flops == trace.rows[0].flops + trace.rows[1].flops + trace.rows[2].flops);
    Peaks peaks = {{1e9, 1e9, 1e9}, 1e9};
    double least = 0;
    for (int i = 0; i < trace.count; i++) { least += 1e-9 * fmax(trace.rows[i].flops, trace.rows[i].bytes); }
    assert_true(fabs(trace_least_seconds(&trace, &peaks) - least) < 1e-9 * least);
    trace_clear(&trace);
    assert_true(trace.count == 0 && trace.flops == 0 && trace.bytes == 0);
    trace_free(&trace);
}

// What each row is held against: products by the library, own tensor-core kernels, all others.
static void test_units(void **state) {
    (void)state;
    enum { B = 2, HW = 64, C = 512 };
    Trace trace = {0};
    Device dev = check_dev;
    dev.plan_only = true;
    dev.trace = &trace;
    Attention small = {B, C / 64, HW, HW, 64, C, C, C, C, false}, large = {B, 1, HW, HW, C, C, C, C, C, false};
    Conv2d conv = {B, 8, 8, C, C, 3, 1, 1, 1}, one = {B, 8, 8, C, C, 1, 1, 0, 0};
    linear_forward(NULL, NULL, NULL, NULL, NULL, B * HW, C, C, &dev);
    conv2d_forward(NULL, NULL, NULL, NULL, NULL, NULL, one, &dev); // a linear layer
    conv2d_forward(NULL, NULL, NULL, NULL, NULL, NULL, conv, &dev);
    attention_forward(NULL, NULL, NULL, NULL, NULL, small, &dev);
    attention_forward(NULL, NULL, NULL, NULL, NULL, large, &dev);
    gelu_forward(NULL, NULL, B * HW * C, &dev);
    const double product = 2.0 * B * HW * C * C, taps = (22.0 / 24) * (22.0 / 24) * 9; // 22 of 24 meet the 8 pixels
    const double scores = 2 * 2.0 * B * HW * HW * C, gelu = 5.0 * B * HW * C;
    double least = 2 * product / 1000, rest = scores + scores + gelu;
#ifdef PRECISION_bf16
    least += taps * product / 100 + scores / 100 + scores / 1000, rest = gelu;
    assert_int_equal(trace.count, 5); // attention of both kinds
#else
    least += taps * product / 1000;
    assert_int_equal(trace.count, 4);
#endif
    least += rest / 10;
    Peaks peaks = {{[UNIT_FP32] = 10, [UNIT_MMA] = 100, [UNIT_GEMM] = 1000}, 1e30};
    printf("    %.6g s, expected %.6g\n", trace_least_seconds(&trace, &peaks), least);
    assert_true(fabs(trace_least_seconds(&trace, &peaks) - least) < 1e-9 * least);
    peaks.bytes_per_s = 1e-3; // bound by memory
    assert_true(fabs(trace_least_seconds(&trace, &peaks) - trace.bytes / 1e-3) < 1e-9 * trace.bytes / 1e-3);
    trace_free(&trace);
}

static void test_workspace(void **state) {
    (void)state;
    Device plan = check_dev;
    plan.plan_only = true;
    plan.workspace_needed = 0;
    device_workspace(&plan, 5000);
    device_workspace(&plan, 3000);
    assert_int_equal(plan.workspace_needed, 5000);
    device_reserve_workspace(&check_dev, 100000);
    void *first = device_workspace(&check_dev, 100000);
    assert_non_null(first);
    device_reserve_workspace(&check_dev, 10);
    assert_ptr_equal(first, device_workspace(&check_dev, 100));
}

static void test_peaks(void **state) {
    (void)state;
    size_t before, after, total_bytes;
    void *workspace = check_dev.workspace;
    device_measure_peaks(&check_dev); // CUDA loads code at the first launches, which takes memory
    device_memory(&check_dev, &before, &total_bytes);
    Peaks p = device_measure_peaks(&check_dev);
    device_memory(&check_dev, &after, &total_bytes);
    printf("    fp32 %.1f GFLOP/s, mma.sync %.1f, GEMM %.1f, memory %.1f GB/s\n", p.flops_per_s[UNIT_FP32] * 1e-9,
           p.flops_per_s[UNIT_MMA] * 1e-9, p.flops_per_s[UNIT_GEMM] * 1e-9, p.bytes_per_s * 1e-9);
    assert_true(p.flops_per_s[UNIT_FP32] > 0 && p.flops_per_s[UNIT_GEMM] > 0 && p.bytes_per_s > 0);
    assert_ptr_equal(check_dev.workspace, workspace);
#ifndef BACKEND_cpu // whose memory others use too
    assert_true(p.flops_per_s[UNIT_MMA] > 0);
#ifdef BACKEND_cuda
    assert_true(before <= after + ((size_t)256 << 20)); // so do others a GPU's; the measurement takes 512 MB or more
#else
    assert_true(before == after);
#endif
#endif
}

// A run that fits does not die of the measurement.
static void test_peaks_without_memory(void **state) {
    (void)state;
    assert_true((device_headroom(&check_dev) > 0) == !check_dev.host_memory);
#if defined(BACKEND_emu)
    size_t free_bytes, total_bytes;
    const size_t left[] = {67600000, 60000000}; // smaller arrays, none
    for (int i = 0; i < 2; i++) {
        char taken[32];
        device_memory(&check_dev, &free_bytes, &total_bytes);
        snprintf(taken, sizeof taken, "%zu", free_bytes - left[i]);
        setenv("EMU_TAKEN", taken, 1);
        Peaks p = device_measure_peaks(&check_dev);
        unsetenv("EMU_TAKEN");
        assert_true((p.bytes_per_s > 0) == (i == 0) && (p.flops_per_s[UNIT_GEMM] > 0) == (i == 0));
    }
#elif defined(BACKEND_cpu) && !defined(DEBUG_GUARDS)
    char said[256];
    int code;
    run_in_child(code, said, sizeof said, {
        setrlimit(RLIMIT_AS, &(struct rlimit){64 << 20, 64 << 20}); // less than the process has
        _exit(device_measure_peaks(&check_dev).bytes_per_s != 0);
    });
    assert_int_equal(code, 0);
#else
    skip();
#endif
}

// Each of them is one sentence with what the user needs to know. Each child opens the device itself.
static void test_errors(void **state) {
    (void)state;
    __attribute__((unused)) Device dev;
#ifndef DEBUG_GUARDS // AddressSanitizer adds a line of its own
    char needed[64];
    snprintf(needed, sizeof needed, "cannot allocate %.3f GB of ", 1e-9 * ((size_t)1 << 50));
    assert_dies(needed, device_open(&dev, 0), device_alloc(&dev, (size_t)1 << 50));
#endif
#ifdef BACKEND_emu
    static const char *const errors[][2] = {
        {"no-driver", "no NVIDIA GPU can be used here: no NVIDIA driver is installed; make BACKEND=cpu builds"},
        {"old-driver",
         "the driver is for CUDA 12.2, but this program was built with CUDA 12.4: install a newer driver"},
        {"none", "no NVIDIA GPU can be used here: the driver finds none; make BACKEND=cpu builds for this machine"},
        {"full", "GPU 0 (emulated sm_89, 8.6 GB) has too little free memory to be opened: other processes use it"},
        {"full-code", "GPU 0 (emulated sm_89, 8.6 GB) has too little free memory to be opened: other processes use it"},
        {"exclusive", "GPU 0 (emulated sm_89) is not available: another process uses it exclusively"},
        {"no-code", "emulated sm_89 is sm_89, but this program was built for "},
        {"old-ptx",
         "the driver (for CUDA 12.4) cannot compile its PTX (of CUDA 12.4): install a newer driver, or rebuild with "
         "CUDA_ARCHS=89"}};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        assert_dies(errors[i][1], setenv("EMU_GPU", errors[i][0], 1), unsetenv("CUDA_VISIBLE_DEVICES"),
                    device_open(&dev, 0));
    }
    assert_dies("the driver finds none in CUDA_VISIBLE_DEVICES;", setenv("EMU_GPU", "none", 1),
                setenv("CUDA_VISIBLE_DEVICES", "7", 1), device_open(&dev, 0));
    assert_dies("GPU 1 does not exist: this machine has 1", device_open(&dev, 1));
    assert_dies("cannot allocate 5.000 GB of GPU memory: 1.590 of 8.590 GB are free; 7.000 GB were in use when this "
                "program opened the GPU, by CUDA itself and by other processes (nvidia-smi lists them)",
                setenv("EMU_TAKEN", "7000000000", 1), device_open(&dev, 0), device_alloc(&dev, 5000000000));
    // Whatever else goes wrong is named with its call: here nothing may be allocated while a graph is recorded.
    assert_dies("cudaMalloc failed: operation not permitted when stream is capturing", device_open(&dev, 0),
                device_graph_begin(&dev), device_alloc(&dev, 8));
    assert_dies("cudaHostAlloc failed: operation not permitted when stream is capturing", device_open(&dev, 0),
                device_graph_begin(&dev), device_alloc_pinned(&dev, 8));
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),  cmocka_unit_test_setup(test_memory, check_open),
        cmocka_unit_test(test_sharers), cmocka_unit_test(test_trace),
        cmocka_unit_test(test_units),   cmocka_unit_test(test_workspace),
        cmocka_unit_test(test_peaks),   cmocka_unit_test_teardown(test_peaks_without_memory, check_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
