// Tests of the emulation: its results, and that each of its checks catches a planted fault. A fault ends the program,
// so each one runs in a child process, whose message is checked.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
#undef fail // cmocka's macro; emu::fail is another function
}
#include "cublasLt.h"
#include "cuda_bf16.h"
#include "emu_ptx.h"
#include "runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <string>
#include <vector>

#define dynamic_shared emu::current.dynamic_shared

static void synchronize() { assert_int_equal(cudaDeviceSynchronize(), cudaSuccess); }

template <class T> static T *device_array(size_t n) {
    T *p;
    assert_int_equal(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    return p;
}

// Runs `fault` in a child process, which must exit with code 1 and print `expected`.
static void expect_failure(void (*fault)(), const char *expected) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        emu::catch_faults();
        alarm(60);
        fault();
        _exit(0);
    }
    close(pipes[1]);
    char message[4096] = "";
    ssize_t length = 0, got;
    while ((got = read(pipes[0], message + length, sizeof message - 1 - length)) > 0) { length += got; }
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    printf("    %s", message[0] ? message : "(no message)\n");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    assert_non_null(strstr(message, expected));
}

// ---- Results -------------------------------------------------------------------------------------------------------

static void sum_kernel(float *out, const float *x, int n) {
    __shared__ float partial[32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = i < n ? x[i] : 0;
    for (int bits = 16; bits > 0; bits /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, bits); }
    if (threadIdx.x % 32 == 0) { partial[threadIdx.x / 32] = sum; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned w = 1; w < blockDim.x / 32; w++) { sum += partial[w]; }
        out[blockIdx.x] = sum;
    }
}

static void test_reduction_in_every_order(void **) {
    emu::DeviceAccess open;
    enum { N = 1000, THREADS = 128, BLOCKS = (N + THREADS - 1) / THREADS };
    float *x = device_array<float>(N), *out = device_array<float>(BLOCKS), first[BLOCKS];
    for (int i = 0; i < N; i++) { x[i] = sinf((float)i); }
    const char *orders[] = {"ascending", "descending", "random:1", "random:2"};
    for (int o = 0; o < 4; o++) {
        setenv("EMU_ORDER", orders[o], 1);
        emu::launch<sum_kernel>(BLOCKS, THREADS, 0, nullptr, out, x, (int)N);
        synchronize();
        if (o == 0) { memcpy(first, out, sizeof first); }
        assert_memory_equal(first, out, sizeof first);
    }
    unsetenv("EMU_ORDER");
    double sum = 0, reference = 0;
    for (float f : first) { sum += f; }
    for (int i = 0; i < N; i++) { reference += x[i]; }
    assert_true(fabs(sum - reference) < 1e-4);
    synchronize();
    cudaFree(x), cudaFree(out);
}

static void shuffle_kernel(int *out) {
    const int lane = threadIdx.x;
    out[lane] = __shfl_sync(0xffffffffu, lane, 5, 8);            // lane 5 of each group of 8
    out[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3, 16);   // own value for the first three of 16
    out[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 16); // own value for the last three
    out[96 + lane] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
    if (lane % 2) { // divergent halves, each with its own mask
        out[128 + lane] = __shfl_xor_sync(0xaaaaaaaau, lane, 2);
    } else {
        out[128 + lane] = __shfl_xor_sync(0x55555555u, 100 + lane, 4);
    }
    out[160 + lane] = __syncthreads_count(lane < 7);
}

static void test_warp_operations(void **) {
    emu::DeviceAccess open;
    int *out = device_array<int>(192);
    emu::launch<shuffle_kernel>(1, 32, 0, nullptr, out);
    synchronize();
    for (int lane = 0; lane < 32; lane++) {
        assert_int_equal(out[lane], lane / 8 * 8 + 5);
        assert_int_equal(out[32 + lane], lane % 16 < 3 ? lane : lane - 3);
        assert_int_equal(out[64 + lane], lane % 16 > 12 ? lane : lane + 3);
        assert_int_equal(out[96 + lane], 0x49249249);
        assert_int_equal(out[128 + lane], lane % 2 ? lane ^ 2 : 100 + (lane ^ 4));
        assert_int_equal(out[160 + lane], 7);
    }
    cudaFree(out);
}

// D = A B^T for whole numbers: A (16, 16) by ldmatrix, B (8 keys, 16) by ldmatrix, and the same B transposed in memory
// by ldmatrix.trans.
static void mma_kernel(float *d, float *d_trans, const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                       const __nv_bfloat16 *b_trans) {
    __nv_bfloat16 *A = (__nv_bfloat16 *)dynamic_shared, *B = A + 256, *BT = B + 256;
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) { A[i] = a[i], B[i] = b[i], BT[i] = b_trans[i]; }
    __syncwarp();
    unsigned fa[4], fb[4];
    float x[4] = {0, 0, 0, 0}, y[4] = {0, 0, 0, 0};
    ldmatrix_x4(fa, A + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x4(fb, B + (lane / 16 * 8 + lane % 8) * 16 + lane / 8 % 2 * 8);
    mma_m16n8k16(x, fa, fb);
    ldmatrix_x4_trans(fb, BT + lane % 16 * 16 + lane / 16 * 8);
    mma_m16n8k16(y, fa, fb);
    for (int i = 0; i < 4; i++) {
        const int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        d[at] = x[i], d_trans[at] = y[i];
    }
}

static void test_tensor_core_operations(void **) {
    emu::DeviceAccess open;
    __nv_bfloat16 *a = device_array<__nv_bfloat16>(256), *b = device_array<__nv_bfloat16>(256);
    __nv_bfloat16 *b_trans = device_array<__nv_bfloat16>(256);
    float *d = device_array<float>(128), *d_trans = device_array<float>(128);
    for (int i = 0; i < 256; i++) {
        a[i] = __float2bfloat16_rn((float)(i * 7 % 11 - 5)), b[i] = __float2bfloat16_rn((float)(i * 5 % 13 - 6));
    }
    for (int i = 0; i < 256; i++) { b_trans[i] = b[i % 16 * 16 + i / 16]; }
    emu::launch<mma_kernel>(1, 32, 768 * sizeof *a, nullptr, d, d_trans, a, b, b_trans);
    synchronize();
    for (int row = 0; row < 16; row++) {
        for (int col = 0; col < 8; col++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) {
                sum += __bfloat162float(a[row * 16 + k]) * __bfloat162float(b[col * 16 + k]);
            }
            assert_true(d[row * 8 + col] == sum && d_trans[row * 8 + col] == sum);
        }
    }
    cudaFree(a), cudaFree(b), cudaFree(b_trans), cudaFree(d), cudaFree(d_trans);
}

static void copy_kernel(float *out, const float *x, bool wait) {
    float *tile = (float *)dynamic_shared;
    cp_async_16(tile + threadIdx.x * 4, x + threadIdx.x * 4, threadIdx.x != 3);
    cp_async_commit();
    if (wait) { cp_async_wait<0>(); }
    const float4 v = *(float4 *)(tile + threadIdx.x * 4);
    *(float4 *)(out + threadIdx.x * 4) = v;
    cp_async_wait<0>();
}

static void test_asynchronous_copy(void **) {
    emu::DeviceAccess open;
    float *x = device_array<float>(128), *out = device_array<float>(128);
    for (int i = 0; i < 128; i++) { x[i] = (float)i; }
    emu::launch<copy_kernel>(1, 32, 512, nullptr, out, x, true);
    synchronize();
    for (int i = 0; i < 128; i++) { assert_true(out[i] == (i / 4 == 3 ? 0 : (float)i)); }
    emu::launch<copy_kernel>(1, 32, 512, nullptr, out, x, false); // read before the wait: NaN
    synchronize();
    for (int i = 0; i < 128; i++) { assert_true(isnan(out[i])); }
    cudaFree(x), cudaFree(out);
}

static void test_bf16_rounding(void **) {
    const float values[][2] = {{1.0f, 1.0f}, {1.00390625f, 1.0f}, {1.01171875f, 1.015625f}, {-3.14159f, -3.140625f}};
    for (auto &v : values) { assert_true(__bfloat162float(__float2bfloat16_rn(v[0])) == v[1]); }
    assert_true(isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
    assert_true(isinf(__bfloat162float(__float2bfloat16_rn(3.4e38f))));
}

// ---- Streams and graphs --------------------------------------------------------------------------------------------

static void fill(float *x, int n, float value) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) { x[i] = value; }
}
static void add_one(float *x, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) { x[i] += 1; }
}

enum { LENGTH = 64 };
static const char *const DELAYS[] = {"lazy", "eager", "random:1", "random:2", "random:3", "random:4", "random:5"};

struct TwoStreams {
    cudaStream_t a, b;
    cudaEvent_t event, back;
    float *x, *host; // on the device; page-locked
};

static TwoStreams two_streams() {
    TwoStreams s;
    cudaStreamCreateWithFlags(&s.a, cudaStreamNonBlocking), cudaStreamCreateWithFlags(&s.b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&s.event, cudaEventDefault), cudaEventCreateWithFlags(&s.back, cudaEventDefault);
    s.x = device_array<float>(LENGTH);
    assert_int_equal(cudaHostAlloc((void **)&s.host, LENGTH * sizeof(float), cudaHostAllocDefault), cudaSuccess);
    return s;
}

static void destroy(TwoStreams *s) {
    synchronize();
    cudaStreamDestroy(s->a), cudaStreamDestroy(s->b), cudaEventDestroy(s->event), cudaEventDestroy(s->back);
    cudaFree(s->x), cudaFreeHost(s->host);
    cudaGetLastError();
}

static const size_t BYTES = LENGTH * sizeof(float);

// Values written on stream a, copied to the host on stream b: with and without the wait between them.
static bool copied_in_time(bool wait) {
    TwoStreams s = two_streams();
    emu::launch<fill>(1, 32, 0, s.a, s.x, (int)LENGTH, 1.0f);
    emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH);
    cudaEventRecord(s.event, s.a);
    if (wait) { cudaStreamWaitEvent(s.b, s.event, 0); }
    cudaMemcpyAsync(s.host, s.x, BYTES, cudaMemcpyDeviceToHost, s.b);
    assert_int_equal(cudaStreamSynchronize(s.b), cudaSuccess);
    const bool good = s.host[0] == 2 && s.host[LENGTH - 1] == 2;
    destroy(&s);
    return good;
}

// Fills a buffer twice and reads it on the other stream in between: without a wait for the reader, the second fill may
// come too early.
static bool overwritten_in_time(bool wait) {
    TwoStreams s = two_streams();
    emu::launch<fill>(1, 32, 0, s.a, s.x, (int)LENGTH, 1.0f);
    cudaEventRecord(s.event, s.a), cudaStreamWaitEvent(s.b, s.event, 0);
    cudaMemcpyAsync(s.host, s.x, BYTES, cudaMemcpyDeviceToHost, s.b);
    cudaEventRecord(s.back, s.b);
    if (wait) { cudaStreamWaitEvent(s.a, s.back, 0); }
    for (int i = 0; i < 50; i++) { emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH); }
    cudaStreamSynchronize(s.a);
    cudaStreamSynchronize(s.b);
    const bool good = s.host[0] == 1;
    destroy(&s);
    return good;
}

static void test_event_waits(void **) {
    int late = 0, early = 0;
    for (const char *delay : DELAYS) {
        setenv("EMU_DELAY", delay, 1);
        assert_true(copied_in_time(true) && overwritten_in_time(true));
        late += !copied_in_time(false), early += !overwritten_in_time(false);
    }
    unsetenv("EMU_DELAY");
    printf("    without the wait: noticed with %d and %d of %zu delays\n", late, early, sizeof DELAYS / sizeof *DELAYS);
    assert_false(copied_in_time(false) || overwritten_in_time(false)); // both are noticed by default
    assert_true(late > 2 && early > 2);
}

static void test_host_memory(void **) {
    TwoStreams s = two_streams();
    float pageable[LENGTH], out[LENGTH];
    for (int i = 0; i < LENGTH; i++) { pageable[i] = s.host[i] = 1; }
    cudaMemcpyAsync(s.x, pageable, BYTES, cudaMemcpyHostToDevice, s.a);
    pageable[0] = 2;                                               // too late to be seen
    cudaMemcpyAsync(out, s.x, BYTES, cudaMemcpyDeviceToHost, s.a); // blocks
    assert_true(out[0] == 1);
    cudaMemcpyAsync(s.x, s.host, BYTES, cudaMemcpyHostToDevice, s.a);
    s.host[0] = 2; // overwritten too early: the copy reads this
    cudaMemcpyAsync(out, s.x, BYTES, cudaMemcpyDeviceToHost, s.a);
    assert_true(out[0] == 2);
    cudaMemcpyAsync(s.host, s.x, BYTES, cudaMemcpyDeviceToHost, s.a);
    s.host[0] = 3;
    assert_true(s.host[0] == 3); // nothing has arrived yet
    cudaStreamSynchronize(s.a);
    assert_true(s.host[0] == 2);
    assert_int_equal(cudaMemcpyAsync(s.x, out, BYTES, cudaMemcpyDeviceToHost, s.a), cudaErrorInvalidValue);
    destroy(&s);
}

static void test_polling(void **) {
    TwoStreams s = two_streams();
    for (int i = 0; i < 3; i++) { emu::launch<fill>(1, 32, 0, s.a, s.x, (int)LENGTH, 1.0f); }
    cudaEventRecord(s.event, s.a);
    assert_int_equal(cudaEventQuery(s.event), cudaErrorNotReady);
    int polls = 1;
    while (cudaEventQuery(s.event) == cudaErrorNotReady) { polls++; }
    assert_int_equal(polls, 4);
    assert_int_equal(cudaStreamQuery(s.a), cudaSuccess);
    destroy(&s);
}

// y = (x + 1) on stream a, and z = (x + 1) on stream b in the same graph; joined in x.
static cudaError_t capture_fork(const TwoStreams &s, float *y, bool fork, bool join, cudaGraph_t *graph) {
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal);
    emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH);
    cudaEventRecord(s.event, s.a);
    if (fork) { cudaStreamWaitEvent(s.b, s.event, 0); }
    cudaMemcpyAsync(y, s.x, BYTES, cudaMemcpyDeviceToDevice, fork ? s.b : s.a);
    if (fork) { cudaEventRecord(s.back, s.b); }
    if (join) { cudaStreamWaitEvent(s.a, s.back, 0); }
    emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH);
    return cudaStreamEndCapture(s.a, graph);
}

static void test_graph(void **) {
    TwoStreams s = two_streams();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *y = device_array<float>(LENGTH), out[LENGTH];
    for (const char *delay : DELAYS) {
        setenv("EMU_DELAY", delay, 1);
        emu::launch<fill>(1, 32, 0, s.a, s.x, (int)LENGTH, 0.0f);
        assert_int_equal(capture_fork(s, y, true, true, &graph), cudaSuccess);
        cudaGraphInstantiate(&exec, graph, 0);
        cudaMemcpyAsync(out, s.x, BYTES, cudaMemcpyDeviceToHost, s.a);
        assert_true(out[0] == 0); // recorded, not run
        for (int turn = 1; turn <= 3; turn++) {
            cudaGraphLaunch(exec, s.a);
            cudaMemcpyAsync(out, y, BYTES, cudaMemcpyDeviceToHost, s.a);
            assert_true(out[5] == 2 * turn - 1);
        }
        cudaGraphDestroy(graph), cudaGraphLaunch(exec, s.a), cudaGraphExecDestroy(exec);
    }
    unsetenv("EMU_DELAY");
    cudaFree(y);
    destroy(&s);
}

// Unordered branches of a graph: the wait for the reader on stream b comes after the write.
static void test_graph_race(void **) {
    TwoStreams s = two_streams();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float *y = device_array<float>(LENGTH), out[LENGTH];
    int wrong = 0;
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal);
    emu::launch<fill>(1, 32, 0, s.a, s.x, (int)LENGTH, 0.0f);
    cudaEventRecord(s.event, s.a), cudaStreamWaitEvent(s.b, s.event, 0);
    cudaMemcpyAsync(y, s.x, BYTES, cudaMemcpyDeviceToDevice, s.b);
    cudaEventRecord(s.back, s.b);
    emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH);
    cudaStreamWaitEvent(s.a, s.back, 0);
    assert_int_equal(cudaStreamEndCapture(s.a, &graph), cudaSuccess);
    cudaGraphInstantiate(&exec, graph, 0);
    for (int turn = 0; turn < 20; turn++) {
        cudaGraphLaunch(exec, s.a);
        cudaMemcpyAsync(out, y, BYTES, cudaMemcpyDeviceToHost, s.a);
        wrong += out[0] != 0;
    }
    printf("    noticed in %d of 20 launches\n", wrong);
    assert_true(wrong > 0);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaFree(y);
    destroy(&s);
}

static cudaError_t end_capture(cudaStream_t stream) {
    cudaGraph_t graph;
    const cudaError_t error = cudaStreamEndCapture(stream, &graph);
    cudaGraphDestroy(graph);
    cudaGetLastError();
    return error;
}

static void test_capture_refusals(void **) {
    TwoStreams s = two_streams();
    cudaGraph_t graph;
    void *p;
    float *y = device_array<float>(LENGTH);
    assert_int_equal(capture_fork(s, y, true, false, &graph), cudaErrorStreamCaptureUnjoined);
    struct {
        const char *name;
        std::function<cudaError_t()> call;
        cudaError_t expected;
    } calls[] = {
        {"cudaMalloc", [&] { return cudaMalloc(&p, 4); }, cudaErrorStreamCaptureUnsupported},
        {"cudaFree", [&] { return cudaFree(y); }, cudaErrorStreamCaptureUnsupported},
        {"cudaHostAlloc", [&] { return cudaHostAlloc(&p, 4, 0); }, cudaErrorStreamCaptureUnsupported},
        {"cudaStreamSynchronize", [&] { return cudaStreamSynchronize(s.a); }, cudaErrorStreamCaptureUnsupported},
        {"cudaStreamQuery", [&] { return cudaStreamQuery(s.a); }, cudaErrorStreamCaptureUnsupported},
        {"cudaDeviceSynchronize", [&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported},
        {"a wait for an event that is not captured", [&] { return cudaStreamWaitEvent(s.a, s.back, 0); },
         cudaErrorStreamCaptureIsolation},
    };
    for (auto &c : calls) {
        cudaEventRecord(s.back, s.b);
        cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal);
        printf("    %s\n", c.name);
        assert_int_equal(c.call(), c.expected);
        emu::launch<add_one>(1, 32, 0, s.a, s.x, (int)LENGTH);
        assert_int_equal(cudaGetLastError(), cudaErrorStreamCaptureInvalidated);
        assert_int_equal(end_capture(s.a), cudaErrorStreamCaptureInvalidated);
    }
    cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(s.event, s.a), cudaStreamWaitEvent(s.b, s.event, 0);
    assert_int_equal(end_capture(s.b), cudaErrorStreamCaptureUnmatched);
    assert_int_equal(end_capture(s.a), cudaSuccess);
    assert_int_equal(cudaEventSynchronize(s.event), cudaErrorCapturedEvent);
    assert_int_equal(cudaStreamWaitEvent(s.b, s.event, 0), cudaErrorCapturedEvent);
    cudaFree(y);
    destroy(&s);
}

// ---- cuBLASLt ------------------------------------------------------------------------------------------------------

struct Matmul {
    bool transpose_a, transpose_b, bias, half, float_out;
    int m, n, k, lda, ldb, ldd, batches;
    float alpha, beta;
};

// Element i of an array of D's and C's type.
static float value(const void *p, bool half, size_t i) {
    return half ? __bfloat162float(((const __nv_bfloat16 *)p)[i]) : ((const float *)p)[i];
}
static void set_value(void *p, bool half, size_t i, float x) {
    if (half) {
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(x);
    } else {
        ((float *)p)[i] = x;
    }
}

static cublasStatus_t run_matmul(const Matmul &t, void *A, void *B, void *C, void *D, void *bias, uint32_t alignment) {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found;
    const cublasOperation_t ops[2] = {t.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                      t.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N};
    const cublasLtEpilogue_t epilogue = t.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t in = t.half ? CUDA_R_16BF : CUDA_R_32F,
                         out = t.half && !t.float_out ? CUDA_R_16BF : CUDA_R_32F;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, ops, sizeof *ops);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, ops + 1, sizeof *ops);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (t.bias) { cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias); }
    const int cols_a = t.transpose_a ? t.m : t.k, cols_b = t.transpose_b ? t.k : t.n;
    if (cublasLtMatrixLayoutCreate(&a, in, t.transpose_a ? t.k : t.m, cols_a, t.lda) != CUBLAS_STATUS_SUCCESS) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    cublasLtMatrixLayoutCreate(&b, in, t.transpose_b ? t.n : t.k, cols_b, t.ldb);
    cublasLtMatrixLayoutCreate(&d, out, t.m, t.n, t.ldd);
    cublasLtMatrixLayout_t layouts[] = {a, b, d};
    const int64_t offsets[] = {(int64_t)t.lda * cols_a, (int64_t)t.ldb * cols_b, (int64_t)t.ldd * t.n};
    for (int i = 0; i < 3; i++) {
        cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &t.batches, sizeof t.batches);
        cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, offsets + i,
                                         sizeof *offsets);
    }
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                         sizeof reductions);
    for (int i = 0; i < 4; i++) {
        const auto attribute = (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i);
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment);
    }
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 1, &result, &found);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            cublasLtMatmul(handle, desc, &t.alpha, A, a, B, b, &t.beta, C, d, D, d, &result.algo, nullptr, 0, nullptr);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(a), cublasLtMatrixLayoutDestroy(b), cublasLtMatrixLayoutDestroy(d);
    cublasLtMatmulDescDestroy(desc), cublasLtDestroy(handle);
    return status;
}

// Whole numbers: exact in every type.
static void check_matmul(const Matmul &t) {
    emu::DeviceAccess open;
    const bool half_out = t.half && !t.float_out;
    const size_t cols_a = t.transpose_a ? t.m : t.k, cols_b = t.transpose_b ? t.k : t.n;
    const size_t na = t.lda * cols_a, nb = t.ldb * cols_b, nd = (size_t)t.ldd * t.n;
    float *A = device_array<float>(na * t.batches), *B = device_array<float>(nb * t.batches);
    float *C = device_array<float>(nd * t.batches), *D = device_array<float>(nd * t.batches),
          *bias = device_array<float>(t.m);
    for (size_t i = 0; i < na * t.batches; i++) { set_value(A, t.half, i, (float)(i * 7 % 5) - 2); }
    for (size_t i = 0; i < nb * t.batches; i++) { set_value(B, t.half, i, (float)(i * 3 % 7) - 3); }
    for (int i = 0; i < t.m; i++) { set_value(bias, half_out, i, (float)(i % 4)); }
    if (t.beta != 0) {
        for (size_t i = 0; i < nd * t.batches; i++) { set_value(C, half_out, i, (float)(i % 3)); }
    }
    assert_int_equal(run_matmul(t, A, B, C, D, bias, 16), CUBLAS_STATUS_SUCCESS);
    synchronize();
    for (int batch = 0; batch < t.batches; batch++) {
        for (int col = 0; col < t.n; col++) {
            for (int row = 0; row < t.m; row++) {
                float sum = 0;
                for (int k = 0; k < t.k; k++) {
                    const size_t ia = t.transpose_a ? (size_t)row * t.lda + k : (size_t)k * t.lda + row;
                    const size_t ib = t.transpose_b ? (size_t)k * t.ldb + col : (size_t)col * t.ldb + k;
                    sum += value(A, t.half, batch * na + ia) * value(B, t.half, batch * nb + ib);
                }
                const size_t at = batch * nd + (size_t)col * t.ldd + row;
                sum = t.alpha * sum + (t.bias ? value(bias, half_out, row) : 0);
                if (t.beta != 0) { sum += t.beta * value(C, half_out, at); }
                assert_true(value(D, half_out, at) == sum);
            }
        }
    }
    synchronize();
    cudaFree(A), cudaFree(B), cudaFree(C), cudaFree(D), cudaFree(bias);
}

static void test_matmul(void **) {
    for (int bits = 0; bits < 32; bits++) {
        const bool ta = bits & 1, tb = bits & 2, half = bits & 8;
        const int m = 6, n = 5, k = 7;
        check_matmul({ta, tb, (bits & 4) != 0, half, half && (bits & 16), m, n, k, (ta ? k : m) + 2, (tb ? n : k) + 1,
                      m + 2, bits & 16 ? 3 : 1, 2, bits & 1 ? 1.0f : 0.0f});
    }
}

// A (m x 8) B (k x 8) into D (8 x n): the sizes fit only for 8, 8, 8.
static cublasStatus_t run_matmul_of_sizes(int m, int n, int k) {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found;
    cublasLtCreate(&handle), cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, m, 8, m), cublasLtMatrixLayoutCreate(&b, CUDA_R_32F, k, 8, k);
    cublasLtMatrixLayoutCreate(&d, CUDA_R_32F, 8, n, 8);
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 1, &result, &found);
    cublasLtMatrixLayoutDestroy(a), cublasLtMatrixLayoutDestroy(b), cublasLtMatrixLayoutDestroy(d);
    cublasLtMatmulDescDestroy(desc), cublasLtMatmulPreferenceDestroy(preference), cublasLtDestroy(handle);
    return status;
}

// Data in the workspace is overwritten.
static void test_matmul_workspace(void **) {
    emu::DeviceAccess open;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a;
    float *x = device_array<float>(16), *workspace = device_array<float>(64), one = 1, zero = 0;
    for (int i = 0; i < 16; i++) { x[i] = 1; }
    workspace[0] = workspace[63] = 1;
    cublasLtCreate(&handle), cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 4, 4, 4);
    assert_int_equal(
        cublasLtMatmul(handle, desc, &one, x, a, x, a, &zero, x, a, x, a, nullptr, workspace, 256, nullptr),
        CUBLAS_STATUS_SUCCESS);
    synchronize();
    assert_true(x[5] == 4 && isnan(workspace[0]) && isnan(workspace[63]));
    cublasLtMatrixLayoutDestroy(a), cublasLtMatmulDescDestroy(desc), cublasLtDestroy(handle);
    cudaFree(x), cudaFree(workspace);
}

static void test_matmul_refusals(void **) {
    emu::DeviceAccess open;
    const Matmul good = {true, false, false, true, false, 8, 8, 8, 8, 8, 8, 1, 1, 0};
    __nv_bfloat16 *p = device_array<__nv_bfloat16>(1024);
    memset(p, 0, 2048);
    assert_int_equal(run_matmul(good, p, p + 64, p + 128, p + 128, nullptr, 16), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(run_matmul(good, p + 4, p + 64, p + 128, p + 128, nullptr, 16), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(run_matmul(good, p, p + 65, p + 128, p + 128, nullptr, 16), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(run_matmul(good, p + 8, p + 64, p + 128, p + 128, nullptr, 256), CUBLAS_STATUS_INVALID_VALUE);
    Matmul biased = good;
    biased.bias = true;
    assert_int_equal(run_matmul(biased, p, p + 64, p + 128, p + 128, nullptr, 16), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(run_matmul(biased, p, p + 64, p + 128, p + 128, p + 1, 16), CUBLAS_STATUS_INVALID_VALUE);
    Matmul wrong = good;
    wrong.lda = 7; // fewer than its rows
    assert_int_equal(run_matmul(wrong, p, p + 64, p + 128, p + 128, nullptr, 16), CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(run_matmul_of_sizes(8, 8, 7), CUBLAS_STATUS_INVALID_VALUE); // op(A) 8 x 8, op(B) 7 x 8
    assert_int_equal(run_matmul_of_sizes(8, 9, 8), CUBLAS_STATUS_INVALID_VALUE); // D 8 x 9
    cublasLtMatrixLayout_t layout;
    assert_int_equal(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 8, 8, 7), CUBLAS_STATUS_INVALID_VALUE);
    cudaFree(p);
}

// ---- Planted faults ------------------------------------------------------------------------------------------------

static void divergent_barrier(int) {
    if (threadIdx.x < 20) { __syncthreads(); }
}
static void two_barriers(int) {
    if (threadIdx.x < 20) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
static void wrong_mask(int) { __shfl_sync(0x0000ffffu, 1, 0); }
static void lane_that_left(int) {
    if (threadIdx.x == 7) { return; }
    __syncwarp();
}
static void partial_warp(int) { __syncwarp(); }
static void mixed_operations(int) {
    if (threadIdx.x % 2) {
        __syncwarp();
    } else {
        __shfl_sync(0xffffffffu, 1, 0);
    }
}
static void absent_source(int) {
    if (threadIdx.x < 16) { __shfl_sync(0xffffu, 1, 20); }
}
static void partial_mma(int) {
    float d[4] = {};
    unsigned a[4] = {}, b[2] = {};
    if (threadIdx.x != 9) { mma_m16n8k16(d, a, b); }
}
static void shared_overrun(int bytes) { dynamic_shared[bytes] = 1; }
static void ldmatrix_outside(int bytes) {
    unsigned r[4];
    ldmatrix_x4(r, dynamic_shared + bytes);
}
static void copy_not_waited_for(const float *x) { cp_async_16((float *)dynamic_shared + threadIdx.x * 4, x, true); }
static void write_at(float *x, long i) { x[i] = 1; }
static void read_at(float *out, const float *x, long i) { out[0] = x[i]; }
static void last_writer(float *out, int) { // a race: every thread writes the same place
    __shared__ float place;
    place = (float)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = place;
}
static void missing_barrier(float *out, int) {
    __shared__ float x[64];
    x[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = x[63 - threadIdx.x];
}
static void static_overrun(int i) {
    __shared__ float x[8];
    float *p = x;
    asm volatile("" : "+r"(p)); // hide it from the compiler
    p[i] = 1;
}
static void static_poison(float *out, int write) {
    __shared__ float x[32];
    if (write) { x[threadIdx.x] = 1; }
    out[threadIdx.x] = x[threadIdx.x];
}
static void large_static(int) {
    __shared__ float x[10 << 10];
    x[threadIdx.x] = 1;
    asm volatile("" ::"r"(x) : "memory");
}
static void nothing(int) {}

static void test_barrier_divergence(void **) {
    expect_failure(
        [] {
            emu::launch<divergent_barrier>(1, 64, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "kernel divergent_barrier");
    expect_failure(
        [] {
            emu::launch<divergent_barrier>(1, 64, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "barrier divergence: 20 of 64");
    expect_failure(
        [] {
            emu::launch<two_barriers>(1, 64, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "barrier divergence: this thread waits at");
}

static void test_warp_faults(void **) {
    expect_failure(
        [] {
            emu::launch<wrong_mask>(1, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "does not name the calling lane 16");
    expect_failure(
        [] {
            emu::launch<lane_that_left>(1, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "lane 7, which has left");
    expect_failure(
        [] {
            emu::launch<partial_warp>(1, 40, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "names lane 8, which does not exist");
    expect_failure(
        [] {
            emu::launch<mixed_operations>(1, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "but lane");
    expect_failure(
        [] {
            emu::launch<absent_source>(1, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "shuffles from lane 20, which does not take part");
    expect_failure(
        [] {
            emu::launch<partial_mma>(1, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "lane 9");
}

static void test_shared_memory_faults(void **) {
    expect_failure(
        [] {
            emu::launch<shared_overrun>(1, 1, 100, nullptr, 100);
            cudaDeviceSynchronize();
        },
        "wrote 0 bytes beyond its 100 bytes");
    expect_failure(
        [] {
            emu::launch<ldmatrix_outside>(1, 32, 512, nullptr, 512);
            cudaDeviceSynchronize();
        },
        "ldmatrix outside of the block's 512");
    expect_failure(
        [] {
            emu::launch<ldmatrix_outside>(1, 32, 512, nullptr, 8);
            cudaDeviceSynchronize();
        },
        "not a multiple of 16");
    expect_failure(
        [] {
            emu::launch<nothing>(1, 32, 50 << 10, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "without cudaFuncSetAttribute");
    expect_failure(
        [] {
            emu::launch<nothing>(1, 32, 100 << 10, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "the card has 101376");
    expect_failure(
        [] {
            emu::launch<copy_not_waited_for>(1, 32, 512, nullptr, device_array<float>(4));
            cudaDeviceSynchronize();
        },
        "in flight");
    assert_int_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
}

static void test_static_shared_memory(void **) {
    expect_failure(
        [] {
            emu::launch<static_overrun>(1, 1, 0, nullptr, 8);
            cudaDeviceSynchronize();
        },
        "beyond its __shared__ array: static_overrun(int)::x");
    expect_failure(
        [] {
            emu::launch<static_overrun>(1, 1, 0, nullptr, 20);
            cudaDeviceSynchronize();
        },
        "kernel static_overrun");
    expect_failure(
        [] {
            emu::launch<large_static>(1, 32, 60 << 10, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "102400 bytes of shared memory, the card has 101376");
    expect_failure(
        [] {
            emu::launch<large_static>(1, 32, 9 << 10, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "9216 bytes of dynamic shared memory and 40960 of static without cudaFuncSetAttribute");
    emu::DeviceAccess open;
    float *out = device_array<float>(32);
    for (int write = 1; write >= 0; write--) { // no data of the previous block is left
        emu::launch<static_poison>(1, 32, 0, nullptr, out, write);
        synchronize();
        for (int i = 0; i < 32; i++) { assert_true(write ? out[i] == 1 : isnan(out[i])); }
    }
    cudaFree(out);
}

// A race gives different bits, or NaN, in a different order of threads.
static void test_races(void **) {
    emu::DeviceAccess open;
    float *out = device_array<float>(64), first[64];
    int differ = 0;
    for (const char *order : {"ascending", "descending", "random:1"}) {
        setenv("EMU_ORDER", order, 1);
        emu::launch<last_writer>(1, 64, 0, nullptr, out, 0);
        synchronize();
        if (!strcmp(order, "ascending")) { memcpy(first, out, sizeof first); }
        differ += memcmp(first, out, sizeof first) != 0;
        emu::launch<missing_barrier>(1, 64, 0, nullptr, out, 0);
        synchronize();
        int missing = 0;
        for (int i = 0; i < 64; i++) { missing += isnan(out[i]); }
        assert_true(missing >= 16);
    }
    unsetenv("EMU_ORDER");
    assert_int_equal(differ, 2);
    cudaFree(out);
}

static void test_shared_memory_granted(void **) {
    expect_failure( // the launch passes; the child then fails on purpose
        [] {
            cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 << 10);
            emu::launch<nothing>(1, 32, 99 << 10, nullptr, 0);
            cudaDeviceSynchronize();
            emu::fail("the launch passed");
        },
        "the launch passed");
}

static void test_launch_limits(void **) {
    expect_failure(
        [] {
            emu::launch<nothing>(1, dim3(64, 32), 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "the limit is 1024");
    expect_failure(
        [] {
            emu::launch<nothing>(dim3(1, 70000), 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "a grid of 1 x 70000 x 1");
    expect_failure(
        [] {
            emu::launch<nothing>(0, 32, 0, nullptr, 0);
            cudaDeviceSynchronize();
        },
        "a grid of 0 x 1 x 1");
}

static void copy_four_from(float *out, const float *x, long i) { *(float4 *)out = *(const float4 *)(x + i); }

static void test_misaligned(void **) {
    emu::DeviceAccess open;
    float *x = device_array<float>(16);
    for (int i = 0; i < 16; i++) { x[i] = (float)i; }
    emu::launch<copy_four_from>(1, 1, 0, nullptr, x, x, 8L);
    synchronize();
    assert_true(x[0] == 8 && x[3] == 11);
    cudaFree(x);
    expect_failure(
        [] {
            emu::launch<copy_four_from>(1, 1, 0, nullptr, device_array<float>(16), device_array<float>(16), 6L);
            cudaDeviceSynchronize();
        },
        "kernel copy_four_from, block (0, 0, 0), thread (0, 0, 0): misaligned access");
    expect_failure(
        [] {
            emu::launch<copy_four_from>(1, 1, 0, nullptr, device_array<float>(16) + 1, device_array<float>(16), 4L);
            cudaDeviceSynchronize();
        },
        "misaligned access");
}

static void test_memory_faults(void **) {
    emu::DeviceAccess open;
    float *x = device_array<float>(10);
    for (int i = 0; i < 10; i++) { assert_true(isnan(x[i])); } // poisoned
    cudaFree(x);
    expect_failure(
        [] {
            emu::launch<write_at>(1, 1, 0, nullptr, device_array<float>(64), 64L);
            cudaDeviceSynchronize();
        },
        "invalid access");
    expect_failure(
        [] {
            emu::launch<write_at>(1, 1, 0, nullptr, device_array<float>(64), 1000000L);
            cudaDeviceSynchronize();
        },
        "kernel write_at");
    expect_failure( // in the alignment's slack: noticed at the next synchronisation
        [] {
            emu::launch<write_at>(1, 1, 0, nullptr, device_array<float>(10), 10L);
            cudaDeviceSynchronize();
        },
        "written 0 bytes beyond an allocation of 40 bytes; the last kernel was write_at");
    expect_failure(
        [] {
            float *p = device_array<float>(10);
            emu::launch<write_at>(1, 1, 0, nullptr, p, -1L);
            cudaFree(p);
        },
        "before an allocation of 40 bytes");
    x = device_array<float>(10);
    emu::launch<read_at>(1, 1, 0, nullptr, x, x, 11L); // the slack is NaN
    synchronize();
    assert_true(isnan(x[0]));
    cudaFree(x);
    void *big;
    assert_int_equal(cudaMalloc(&big, (size_t)1 << 40), cudaErrorMemoryAllocation);
    assert_int_equal(cudaFree(&big), cudaErrorInvalidValue);
    cudaGetLastError();
}

static void test_host_faults(void **) {
    expect_failure([] { device_array<float>(10)[3] = 1; }, "host code accesses device memory");
    expect_failure(
        [] {
            TwoStreams s = two_streams();
            cudaMemcpyAsync(s.x, s.host, BYTES, cudaMemcpyHostToDevice, s.a);
            cudaFreeHost(s.host);
        },
        "freed while a copy that uses it is still queued");
    expect_failure([] { cudaMemsetAsync(device_array<float>(10), 0, 44, nullptr); },
                   "44 bytes at offset 0 of an allocation of 40 bytes");
    expect_failure(
        [] {
            TwoStreams s = two_streams();
            float host[LENGTH] = {};
            cudaStreamBeginCapture(s.a, cudaStreamCaptureModeThreadLocal);
            cudaMemcpyAsync(s.x, host, BYTES, cudaMemcpyHostToDevice, s.a);
        },
        "not page-locked is captured");
    expect_failure(
        [] {
            TwoStreams s = two_streams();
            s.host[LENGTH] = 1;
            cudaDeviceSynchronize();
        },
        "invalid access");
}

int main() {
    // Faults come first, so that children are forked before this process has threads.
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barrier_divergence),
        cmocka_unit_test(test_warp_faults),
        cmocka_unit_test(test_shared_memory_faults),
        cmocka_unit_test(test_static_shared_memory),
        cmocka_unit_test(test_shared_memory_granted),
        cmocka_unit_test(test_launch_limits),
        cmocka_unit_test(test_memory_faults),
        cmocka_unit_test(test_misaligned),
        cmocka_unit_test(test_host_faults),
        cmocka_unit_test(test_races),
        cmocka_unit_test(test_bf16_rounding),
        cmocka_unit_test(test_reduction_in_every_order),
        cmocka_unit_test(test_warp_operations),
        cmocka_unit_test(test_tensor_core_operations),
        cmocka_unit_test(test_asynchronous_copy),
        cmocka_unit_test(test_event_waits),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_polling),
        cmocka_unit_test(test_graph),
        cmocka_unit_test(test_graph_race),
        cmocka_unit_test(test_capture_refusals),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_workspace),
        cmocka_unit_test(test_matmul_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
