// An NVIDIA GPU as a device: two streams, a cuBLASLt handle, one workspace, graphs.
#include "kernels/cuda_common.cuh"
#include "kernels/gemm.cuh"
#include "kernels/ptx.cuh"
#ifdef __CUDACC__
#include <nvtx3/nvToolsExt.h>
#else // a range in a profiler's time line: there is none
#define nvtxRangePushA(name) ((void)(name))
#define nvtxRangePop() ((void)0)
#endif
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "util/error.h"
}

struct DeviceEvent {
    cudaEvent_t event;
};

struct DeviceGraph {
    cudaGraphExec_t exec;
};

void cuda_check(cudaError_t error, const char *what, const char *file, int line) {
    if (error != cudaSuccess) { die("%s:%d: %s failed: %s", file, line, what, cudaGetErrorString(error)); }
}

void cublas_check(cublasStatus_t status, const char *what, const char *file, int line) {
    if (status != CUBLAS_STATUS_SUCCESS) {
        die("%s:%d: %s failed: %s", file, line, what, cublasLtGetStatusString(status));
    }
}

// ---- What keeps a program from using a GPU, each in one sentence ---------------------------------------------------

#ifndef BUILT_FOR // "sm_80 sm_89": the architectures that cuda.mk has machine code made for
#define BUILT_FOR "other cards"
#endif

struct Version { // 12040 is 12.4
    int major, minor;
    explicit Version(int number) : major(number / 1000), minor(number % 1000 / 10) {}
};

// The newest CUDA that the driver knows; 0.0 without a driver.
static Version driver_version() {
    int number = 0;
    CHECK_CUDA(cudaDriverGetVersion(&number));
    return Version(number);
}

int gpu_count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) { return count; }
    const char *hidden = getenv("CUDA_VISIBLE_DEVICES"), *why = cudaGetErrorString(error);
    const Version driver = driver_version(), toolkit(CUDART_VERSION);
    if (error == cudaErrorInsufficientDriver && driver.major > 0) {
        die("no NVIDIA GPU can be used here: the driver is for CUDA %d.%d, this program for CUDA %d.%d: install "
            "a newer driver, or make again with CUDA %d.%d or older",
            driver.major, driver.minor, toolkit.major, toolkit.minor, driver.major, driver.minor);
    }
    if (error == cudaErrorInsufficientDriver) { why = "no NVIDIA driver is installed"; }
    if (error == cudaErrorNoDevice) {
        why = hidden ? "the driver finds none in CUDA_VISIBLE_DEVICES" : "the driver finds none";
    }
    die("no NVIDIA GPU can be used here: %s; make BACKEND=cpu builds for this machine", why);
}

// Whether a kernel of this program can run on the card: its machine code, or the driver makes some of the PTX.
static void check_code(const cudaDeviceProp &prop, const void *kernel) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    const Version driver = driver_version(), toolkit(CUDART_VERSION);
    if (error == cudaErrorUnsupportedPtxVersion) {
        die("%s is sm_%d%d, this program has machine code for " BUILT_FOR
            ", and the driver (for CUDA %d.%d) does not know its PTX (of CUDA %d.%d): install a newer driver, or make "
            "again with CUDA_ARCHS=%d%d",
            prop.name, prop.major, prop.minor, driver.major, driver.minor, toolkit.major, toolkit.minor, prop.major,
            prop.minor);
    }
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        die("%s is sm_%d%d, this program was built for " BUILT_FOR ": make again with CUDA_ARCHS=%d%d", prop.name,
            prop.major, prop.minor, prop.major, prop.minor);
    }
    CHECK_CUDA(error);
}

// Opening takes a few hundred MB.
static void check_opened(const cudaDeviceProp &prop, int index, cudaError_t error) {
    if (error == cudaErrorMemoryAllocation) {
        die("GPU %d (%s, %.1f GB) has too little memory free even to be opened: other processes hold it "
            "(nvidia-smi lists them)",
            index, prop.name, 1e-9 * prop.totalGlobalMem);
    }
    if (error == cudaErrorDevicesUnavailable) {
        die("GPU %d (%s) serves another process alone (its compute mode is exclusive, or it is being reset)", index,
            prop.name);
    }
    CHECK_CUDA(error);
}

static __global__ void fma_loop(float *sink, float multiplier, float addend, int rounds);

void device_open(Device *dev, int index) {
    const int count = gpu_count();
    if (index < 0 || index >= count) { die("GPU %d is asked for, this machine has %d (0 is the first)", index, count); }
    cudaDeviceProp prop;
    CHECK_CUDA(cudaGetDeviceProperties(&prop, index));
    if (prop.major < 8) { die("%s is sm_%d%d, sm_80 or newer is needed", prop.name, prop.major, prop.minor); }
    check_opened(prop, index, cudaSetDevice(index));
    check_code(prop, (const void *)fma_loop);
    *dev = Device();
    dev->scope = "";
    DeviceInternals *in = dev->internals = (DeviceInternals *)xcalloc(1, sizeof *dev->internals);
    snprintf(in->name, sizeof in->name, "%.63s", prop.name);
    in->index = index;
    check_opened(prop, index, cudaStreamCreateWithFlags(&in->compute, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&in->copy, cudaStreamNonBlocking));
    CHECK_CUBLAS(cublasLtCreate(&in->lt));
    size_t free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes);
    in->taken = total_bytes - free_bytes;
}

void device_close(Device *dev) {
    DeviceInternals *in = dev->internals;
    device_sync(dev);
    device_free(dev, dev->workspace);
    gemm_cache_free(in->gemm);
    CHECK_CUBLAS(cublasLtDestroy(in->lt));
    CHECK_CUDA(cudaStreamDestroy(in->compute));
    CHECK_CUDA(cudaStreamDestroy(in->copy));
    free(in);
    *dev = Device();
}

const char *device_name(const Device *dev) { return dev->internals->name; }

void device_memory(Device *, size_t *free_bytes, size_t *total_bytes) {
    CHECK_CUDA(cudaMemGetInfo(free_bytes, total_bytes));
}

// NULL if there is no memory left.
static void *try_alloc(Device *dev, size_t bytes) {
    void *pointer = NULL;
    const cudaError_t error = cudaMalloc(&pointer, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); // or the next launch would be blamed
        return NULL;
    }
    CHECK_CUDA(error);
#ifdef DEBUG_GUARDS
    device_fill(dev, pointer, 0xff, bytes); // NaN in every float type
#endif
    (void)dev;
    return pointer;
}

void *device_alloc(Device *dev, size_t bytes) {
    void *pointer = try_alloc(dev, bytes);
    if (!pointer) {
        size_t free_bytes, total_bytes;
        device_memory(dev, &free_bytes, &total_bytes);
        die("%.3f GB of GPU memory are needed, %.3f of %.3f GB are free: %.3f GB were taken when this program opened "
            "the GPU, by CUDA itself and by other processes (nvidia-smi lists them)",
            1e-9 * bytes, 1e-9 * free_bytes, 1e-9 * total_bytes, 1e-9 * dev->internals->taken);
    }
    return pointer;
}

void device_free(Device *, void *pointer) { CHECK_CUDA(cudaFree(pointer)); }

void *device_alloc_pinned(Device *, size_t bytes) {
    void *pointer = NULL;
    if (cudaHostAlloc(&pointer, bytes ? bytes : 1, cudaHostAllocDefault) != cudaSuccess) {
        die("%.3f GB of page-locked memory are needed and not to be had", 1e-9 * bytes);
    }
    return pointer;
}

void device_free_pinned(Device *, void *pointer) { CHECK_CUDA(cudaFreeHost(pointer)); }

static cudaStream_t stream_of(Device *dev, bool on_copy_stream) {
    return on_copy_stream ? dev->internals->copy : dev->internals->compute;
}

void device_copy(Device *dev, void *to, const void *from, size_t bytes, bool on_copy_stream) {
    if (dev->plan_only || bytes == 0) { return; }
    CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(dev, on_copy_stream)));
}

void device_fill(Device *dev, void *to, int byte, size_t bytes) {
    if (dev->plan_only || bytes == 0) { return; }
    CHECK_CUDA(cudaMemsetAsync(to, byte, bytes, dev->internals->compute));
}

DeviceEvent *device_event_create(Device *) {
    DeviceEvent *event = (DeviceEvent *)xcalloc(1, sizeof *event);
    CHECK_CUDA(cudaEventCreateWithFlags(&event->event, cudaEventDefault));
    return event;
}

void device_event_destroy(DeviceEvent *event) {
    if (!event) { return; }
    CHECK_CUDA(cudaEventDestroy(event->event));
    free(event);
}

void device_event_record(Device *dev, DeviceEvent *event, bool on_copy_stream) {
    CHECK_CUDA(cudaEventRecord(event->event, stream_of(dev, on_copy_stream)));
}

void device_event_wait(Device *dev, DeviceEvent *event, bool on_copy_stream) {
    CHECK_CUDA(cudaStreamWaitEvent(stream_of(dev, on_copy_stream), event->event, 0));
}

void device_event_sync(DeviceEvent *event) { CHECK_CUDA(cudaEventSynchronize(event->event)); }

double device_event_seconds(const DeviceEvent *from, const DeviceEvent *to) {
    float milliseconds;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, from->event, to->event));
    return 1e-3 * milliseconds;
}

void device_sync(Device *) { CHECK_CUDA(cudaDeviceSynchronize()); }

bool device_graph_begin(Device *dev) {
    DeviceInternals *in = dev->internals;
    const cudaError_t error = cudaStreamBeginCapture(in->compute, cudaStreamCaptureModeThreadLocal);
    if (error == cudaErrorNotSupported) { return false; } // a runtime without graphs (tests/ptx)
    CHECK_CUDA(error);
    return in->recording = true;
}

DeviceGraph *device_graph_end(Device *dev) {
    DeviceInternals *in = dev->internals;
    DeviceGraph *result = (DeviceGraph *)xcalloc(1, sizeof *result);
    cudaGraph_t graph;
    CHECK_CUDA(cudaStreamEndCapture(in->compute, &graph));
    in->recording = false;
    CHECK_CUDA(cudaGraphInstantiate(&result->exec, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
    return result;
}

void device_graph_launch(Device *dev, DeviceGraph *graph) {
    CHECK_CUDA(cudaGraphLaunch(graph->exec, dev->internals->compute));
}

void device_graph_destroy(DeviceGraph *graph) {
    if (!graph) { return; }
    CHECK_CUDA(cudaGraphExecDestroy(graph->exec));
    free(graph);
}

// The range lasts until the next scope. A plan-only device has nothing to show.
void device_scope(Device *dev, const char *scope) {
    dev->scope = scope;
    DeviceInternals *in = dev->internals;
    if (dev->plan_only || !in) { return; }
    if (in->in_range) { nvtxRangePop(); }
    in->in_range = scope[0] != 0;
    if (in->in_range) { nvtxRangePushA(scope); }
}

void device_reserve_workspace(Device *dev, size_t bytes) {
    if (dev->plan_only || bytes <= dev->workspace_size) { return; }
    if (dev->internals->recording) {
        die("a kernel needs %zu bytes of workspace while a graph is recorded and %zu are reserved", bytes,
            dev->workspace_size);
    }
    device_sync(dev); // earlier kernels may still use the old one
    device_free(dev, dev->workspace);
    dev->workspace = device_alloc(dev, bytes);
    dev->workspace_size = bytes;
}

void *device_workspace(Device *dev, size_t bytes) {
    if (dev->plan_only) {
        if (bytes > dev->workspace_needed) { dev->workspace_needed = bytes; }
        return NULL;
    }
    device_reserve_workspace(dev, bytes);
    return dev->workspace;
}

// ---- Sums that several kernels share -------------------------------------------------------------------------------

enum { FOLD_X = 8, FOLD_Y = 32 };

// Columns beyond C belong to `second` (NULL: they do not exist, or are not wanted).
template <int W>
static __global__ void __launch_bounds__(FOLD_X *FOLD_Y)
    fold_rows_kernel(float *first, float *second, const float *partial, int rows, int stride, int C, float beta) {
    __shared__ float4 memory[FOLD_Y * FOLD_X * W / 4];
    float *scratch = (float *)memory;
    float *grad = blockIdx.y == 0 ? first : second, sum[W] = {};
    const int tile = blockIdx.x * FOLD_X * W, c = tile + threadIdx.x * W, thread = threadIdx.y * FOLD_X + threadIdx.x;
    if (!grad) { return; }
    for (int row = threadIdx.y; row < rows && c < C; row += FOLD_Y) {
        float x[W];
        load_words(x, partial + (size_t)row * stride + blockIdx.y * C + c);
#pragma unroll
        for (int i = 0; i < W; i++) { sum[i] += x[i]; }
    }
    rows_to_scratch(scratch, sum);
    __syncthreads();
    if (thread < FOLD_X && c < C) {
        column_sums_of(sum, scratch, threadIdx.x * W, FOLD_X * W);
        if (beta != 0) {
            float old[W];
            load_words(old, grad + c);
#pragma unroll
            for (int i = 0; i < W; i++) { sum[i] += beta * old[i]; }
        }
        store_words(grad + c, sum);
    }
}

// Gradients of parameters are aligned to 16 bytes.
static void fold(float *first, float *second, const float *partial, int rows, int stride, int C, float beta,
                 Device *dev) {
    if (C % 4 == 0 && stride % 4 == 0) {
        launch<fold_rows_kernel<4>>(dev, dim3(ceil_div(C, 4 * FOLD_X), second ? 2 : 1), dim3(FOLD_X, FOLD_Y), 0, first,
                                    second, partial, rows, stride, C, beta);
    } else {
        launch<fold_rows_kernel<1>>(dev, dim3(ceil_div(C, (int)FOLD_X), second ? 2 : 1), dim3(FOLD_X, FOLD_Y), 0, first,
                                    second, partial, rows, stride, C, beta);
    }
}

void fold_rows(float *grad, const float *partial, int rows, int stride, int C, float beta, Device *dev) {
    fold(grad, NULL, partial, rows, stride, C, beta, dev);
}

void fold_row_pairs(float *first, float *second, const float *partial, int rows, int C, float beta, Device *dev) {
    if (first || second) { fold(first, second, partial, rows, 2 * C, C, beta, dev); }
}

// ---- Peaks ---------------------------------------------------------------------------------------------------------

enum { FMA_CHAINS = 8, FMA_ROUNDS = 4096, FMA_THREADS = 256, REPEATS = 5 };

// Independent chains of multiply-adds in registers: enough of them to cover the latency.
static __global__ void __launch_bounds__(FMA_THREADS)
    fma_loop(float *sink, float multiplier, float addend, int rounds) {
    float chain[FMA_CHAINS];
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) { chain[i] = (float)(threadIdx.x + i); }
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < FMA_CHAINS; i++) { chain[i] = chain[i] * multiplier + addend; }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) { sum += chain[i]; }
    if (sum == 12345.678f) { *sink = sum; }
}

enum { MMA_CHAINS = 8, MMA_ROUNDS = 16384, MMA_FLOPS = 2 * 16 * 8 * 16 };

// Uniform in [-1, 1), and as different as random numbers: zeros would take less power, and so leave a higher clock.
__device__ static inline int scatter(unsigned i) { return (int)(i * 2654435761u); }
static __global__ void __launch_bounds__(FMA_THREADS) fill_uniform(floatX *out, unsigned n) {
    const unsigned i = blockIdx.x * FMA_THREADS + threadIdx.x;
    if (i < n) { out[i] = to_floatX((float)scatter(i) * 0x1p-31f); }
}

// Two bf16 numbers in [0.5, 1), or their negatives.
__device__ static inline unsigned bf16_pair(unsigned i) { return ((unsigned)scatter(i) & 0x807f807fu) | 0x3f003f00u; }

// The same with mma.sync, by every warp.
static __global__ void __launch_bounds__(FMA_THREADS) mma_loop(float *sink, int rounds) {
    float d[MMA_CHAINS][4] = {};
    unsigned a[4], b[MMA_CHAINS][2];
#pragma unroll
    for (int i = 0; i < 4; i++) { a[i] = bf16_pair(threadIdx.x * 4 + i); }
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) { b[i][0] = bf16_pair(threadIdx.x + 17 * i), b[i][1] = bf16_pair(b[i][0]); }
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < MMA_CHAINS; i++) { mma_m16n8k16(d[i], a, b[i]); }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) { sum += d[i][0] + d[i][1] + d[i][2] + d[i][3]; }
    if (sum == 12345.678f) { *sink = sum; }
}

// The best of REPEATS runs of `work` on the compute stream, in seconds, after one to warm up.
template <class Work> static double best_seconds(Device *dev, Work work) {
    cudaEvent_t begin, end;
    CHECK_CUDA(cudaEventCreateWithFlags(&begin, cudaEventDefault));
    CHECK_CUDA(cudaEventCreateWithFlags(&end, cudaEventDefault));
    double best = 1e30;
    for (int i = 0; i <= REPEATS; i++) {
        CHECK_CUDA(cudaEventRecord(begin, dev->internals->compute));
        work();
        CHECK_CUDA(cudaEventRecord(end, dev->internals->compute));
        CHECK_CUDA(cudaEventSynchronize(end));
        float milliseconds;
        CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
        if (i > 0 && milliseconds * 1e-3 < best) { best = milliseconds * 1e-3; }
    }
    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    return best;
}

// Memory of the measurements: a product's matrices and workspace, or two arrays to copy between.
struct PeakMemory {
    int n;         // the product's sides
    size_t stream; // bytes of an array
    size_t matrix() const { return (size_t)n * n * sizeof(floatX); }
    size_t bytes() const {
        const size_t product = 3 * matrix() + LT_WORKSPACE;
        return 2 * stream > product ? 2 * stream : product;
    }
};

static double measure_gemm(char *memory, PeakMemory size, Device *dev) {
    floatX *inp = (floatX *)memory, *weight = inp + (size_t)size.n * size.n, *out = weight + (size_t)size.n * size.n;
    const unsigned numbers = 2u * size.n * size.n;
    launch<fill_uniform>(dev, ceil_div(numbers, (unsigned)FMA_THREADS), FMA_THREADS, 0, inp, numbers);
    void *const workspace = dev->workspace; // the product uses ours
    const size_t workspace_size = dev->workspace_size;
    dev->workspace = memory + 3 * size.matrix(), dev->workspace_size = LT_WORKSPACE;
    const double seconds =
        best_seconds(dev, [&] { linear_forward(out, inp, weight, NULL, NULL, size.n, size.n, size.n, dev); });
    dev->workspace = workspace, dev->workspace_size = workspace_size;
    return 2.0 * size.n * size.n * size.n / seconds;
}

Peaks device_measure_peaks(Device *dev) {
    int processors;
    CHECK_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, dev->internals->index));
    const bool large = processors >= 16; // sizes for a GPU, or for its emulation
    PeakMemory size = {large ? 8192 : 256, (size_t)1 << (large ? 30 : 22)};
    size_t free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes); // half of it is left for what CUDA loads at a first launch
    if (size.bytes() > free_bytes / 2) { size = {size.n / 2, size.stream / 4}; } // smaller ones would say too little
    char *memory = size.bytes() <= free_bytes / 2 ? (char *)try_alloc(dev, size.bytes()) : NULL;
    Peaks peaks = {};
    if (!memory) { return peaks; }
    Trace *trace = dev->trace; // measuring is no part of anybody's step
    dev->trace = NULL;
    const int blocks = 8 * processors, threads = blocks * FMA_THREADS;
    const int fma_rounds = large ? FMA_ROUNDS * 16 : 16, mma_rounds = large ? MMA_ROUNDS : 4;
    peaks.flops_per_s[UNIT_GEMM] = measure_gemm(memory, size, dev);
    peaks.flops_per_s[UNIT_FP32] =
        2.0 * FMA_CHAINS * fma_rounds * threads / best_seconds(dev, [&] {
            launch<fma_loop>(dev, blocks, FMA_THREADS, 0, (float *)memory, 0.999f, 0.001f, fma_rounds);
        });
    peaks.flops_per_s[UNIT_MMA] = (double)MMA_FLOPS * MMA_CHAINS * mma_rounds * (threads / 32) / best_seconds(dev, [&] {
                                      launch<mma_loop>(dev, blocks, FMA_THREADS, 0, (float *)memory, mma_rounds);
                                  });
    peaks.bytes_per_s = 2.0 * size.stream /
                        best_seconds(dev, [&] { device_copy(dev, memory, memory + size.stream, size.stream, false); });
    dev->trace = trace;
    device_free(dev, memory);
    return peaks;
}
