// An NVIDIA GPU as a device: two streams, a cuBLASLt handle, one workspace, graphs.
#include "kernels/runtime/cuda.cuh"
#ifdef __CUDACC__
#include <nvtx3/nvToolsExt.h>
#else // without NVTX there are no profiler ranges
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

// ---- Reasons why a GPU cannot be used, one sentence each -----------------------------------------------------------

#ifndef BUILT_FOR // "sm_80 sm_89": the architectures with machine code, set by cuda.mk
#define BUILT_FOR "other cards"
#endif

struct Version { // 12040 is 12.4
    int major, minor;
    explicit Version(int number) : major(number / 1000), minor(number % 1000 / 10) {}
};

// The newest CUDA version that the driver supports; 0.0 without a driver.
static Version driver_version() {
    int number = 0;
    CHECK_CUDA(cudaDriverGetVersion(&number));
    return Version(number);
}

// The number of GPUs, at least one; dies with a sentence if none can be used.
static int gpu_count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) { return count; }
    const char *hidden = getenv("CUDA_VISIBLE_DEVICES"), *why = cudaGetErrorString(error);
    const Version driver = driver_version(), toolkit(CUDART_VERSION);
    if (error == cudaErrorInsufficientDriver && driver.major > 0) {
        die("no NVIDIA GPU can be used here: the driver is for CUDA %d.%d, but this program was built with CUDA "
            "%d.%d: install a newer driver, or rebuild with CUDA %d.%d or older",
            driver.major, driver.minor, toolkit.major, toolkit.minor, driver.major, driver.minor);
    }
    if (error == cudaErrorInsufficientDriver) { why = "no NVIDIA driver is installed"; }
    if (error == cudaErrorNoDevice) {
        why = hidden ? "the driver finds none in CUDA_VISIBLE_DEVICES" : "the driver finds none";
    }
    die("no NVIDIA GPU can be used here: %s; make BACKEND=cpu builds for this machine", why);
}

static __global__ void any_kernel() {} // never launched

// Opening a GPU takes a few hundred MB of its memory.
static void check_opened(const cudaDeviceProp &prop, int index, cudaError_t error, const char *call) {
    if (error == cudaErrorMemoryAllocation) {
        die("GPU %d (%s, %.1f GB) has too little free memory to be opened: other processes use it (nvidia-smi lists "
            "them)",
            index, prop.name, 1e-9 * prop.totalGlobalMem);
    }
    if (error == cudaErrorDevicesUnavailable) {
        die("GPU %d (%s) is not available: another process uses it exclusively, or it is being reset", index,
            prop.name);
    }
    CHECK_CUDA_RESULT(error, call);
}

// Dies unless the kernels can run on the card: from machine code, or from PTX that the driver compiles.
static void check_code(const cudaDeviceProp &prop, int index) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, (const void *)any_kernel);
    const Version driver = driver_version(), toolkit(CUDART_VERSION);
    if (error == cudaErrorUnsupportedPtxVersion) {
        die("%s is sm_%d%d, but this program has machine code for " BUILT_FOR
            " only, and the driver (for CUDA %d.%d) cannot compile its PTX (of CUDA %d.%d): install a newer driver, or "
            "rebuild with CUDA_ARCHS=%d%d",
            prop.name, prop.major, prop.minor, driver.major, driver.minor, toolkit.major, toolkit.minor, prop.major,
            prop.minor);
    }
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        die("%s is sm_%d%d, but this program was built for " BUILT_FOR ": rebuild with CUDA_ARCHS=%d%d", prop.name,
            prop.major, prop.minor, prop.major, prop.minor);
    }
    check_opened(prop, index, error, "cudaFuncGetAttributes");
}

int device_of_rank(int local_rank) { return gpu_count() == 1 ? 0 : local_rank; }

void device_open(Device *dev, int index) {
    const int count = gpu_count();
    if (index < 0 || index >= count) {
        die("GPU %d does not exist: this machine has %d (0 is the first)", index, count);
    }
    cudaDeviceProp prop;
    CHECK_CUDA(cudaGetDeviceProperties(&prop, index));
    if (prop.major < 8) { die("%s is sm_%d%d, expected sm_80 or newer", prop.name, prop.major, prop.minor); }
    check_opened(prop, index, cudaSetDevice(index), "cudaSetDevice");
    check_code(prop, index);
    *dev = Device();
    dev->scope = "";
    DeviceInternals *in = dev->internals = (DeviceInternals *)xcalloc(1, sizeof *dev->internals);
    snprintf(in->name, sizeof in->name, "%.63s", prop.name);
    in->index = index;
    check_opened(prop, index, cudaStreamCreateWithFlags(&in->compute, cudaStreamNonBlocking),
                 "cudaStreamCreateWithFlags");
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
    if (in->gemm) { in->free_gemm(in->gemm); }
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

static int attribute(const Device *dev, cudaDeviceAttr which) {
    int value = 0;
    CHECK_CUDA(cudaDeviceGetAttribute(&value, which, dev->internals->index));
    return value;
}

size_t device_cache(const Device *dev) { return (size_t)attribute(dev, cudaDevAttrL2CacheSize); }

int device_processors(const Device *dev) { return attribute(dev, cudaDevAttrMultiProcessorCount); }

size_t device_headroom(const Device *) { return 512000000; } // estimated generously

void *device_try_alloc(Device *, size_t bytes) {
    void *pointer = NULL;
    const cudaError_t error = cudaMalloc(&pointer, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); // clear the error, or the next launch would report it
        return NULL;
    }
    CHECK_CUDA_RESULT(error, "cudaMalloc");
    return pointer;
}

void *device_alloc(Device *dev, size_t bytes) {
    void *pointer = device_try_alloc(dev, bytes);
    if (!pointer) {
        size_t free_bytes, total_bytes;
        device_memory(dev, &free_bytes, &total_bytes);
        die("cannot allocate %.3f GB of GPU memory: %.3f of %.3f GB are free; %.3f GB were in use when this program "
            "opened the GPU, by CUDA itself and by other processes (nvidia-smi lists them)",
            1e-9 * bytes, 1e-9 * free_bytes, 1e-9 * total_bytes, 1e-9 * dev->internals->taken);
    }
    return pointer;
}

void device_free(Device *, void *pointer) { CHECK_CUDA(cudaFree(pointer)); }

void *device_alloc_pinned(Device *, size_t bytes) {
    void *pointer = NULL;
    const cudaError_t error = cudaHostAlloc(&pointer, bytes ? bytes : 1, cudaHostAllocDefault);
    if (error == cudaErrorMemoryAllocation) { die("cannot allocate %.3f GB of page-locked memory", 1e-9 * bytes); }
    CHECK_CUDA_RESULT(error, "cudaHostAlloc");
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
    CHECK_CUDA_RESULT(error, "cudaStreamBeginCapture");
    return dev->recording = true;
}

DeviceGraph *device_graph_end(Device *dev) {
    DeviceInternals *in = dev->internals;
    DeviceGraph *result = (DeviceGraph *)xcalloc(1, sizeof *result);
    cudaGraph_t graph;
    CHECK_CUDA(cudaStreamEndCapture(in->compute, &graph));
    dev->recording = false;
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

// A plan-only device has no ranges.
void device_range(Device *dev, const char *name) {
    DeviceInternals *in = dev->internals;
    if (dev->plan_only || !in) { return; }
    if (in->in_range) { nvtxRangePop(); }
    in->in_range = name[0] != 0;
    if (in->in_range) { nvtxRangePushA(name); }
}
