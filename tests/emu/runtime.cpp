// The CUDA runtime's functions on the CPU: device memory between guard pages, streams, events, graphs.
//
// Device memory is poisoned with 0xFF (NaN in fp32 and bf16) and ends at an inaccessible page: reads and writes beyond
// trap at once. The alignment leaves up to 255 bytes of slack before that page, which hold a pattern that is checked
// when the memory is freed or a stream is synchronised.
#include "cuda_runtime.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <map>
#include <mutex>
#include <set>
#include <vector>

using Operation = std::function<void()>;

struct CUstream_st {
    bool capturing = false;
    std::vector<Operation> captured;
};
struct CUevent_st {
    bool recorded = false;
    double seconds = 0;
};
struct CUgraph_st {
    std::vector<Operation> operations;
};
struct CUgraphExec_st {
    std::vector<Operation> operations;
};

static const size_t alignment = 256;
static const unsigned char guard_byte = 0xA5;
static const size_t card_bytes = (size_t)8 << 30;

struct Allocation {
    size_t bytes, mapped;
    unsigned char *mapping;
};

static std::mutex mutex;
static std::map<unsigned char *, Allocation> allocations;
static std::set<void *> pinned;
static size_t allocated;
static cudaError_t last_error = cudaSuccess;

static cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

// ---- Stream order --------------------------------------------------------------------------------------------------

namespace emu {

// The one place through which work reaches a stream: recorded while a graph is captured, else done at once. Delayed
// execution belongs here: a queue per stream, emptied as far as an event or a synchronisation demands.
void enqueue(CUstream_st *stream, Operation operation) {
    if (stream && stream->capturing)
        stream->captured.push_back(std::move(operation));
    else
        operation();
}

} // namespace emu

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new CUstream_st();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
    return result(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (!stream || stream->capturing) return result(cudaErrorIllegalState);
    stream->capturing = true;
    stream->captured.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    if (!stream || !stream->capturing) return result(cudaErrorIllegalState);
    stream->capturing = false;
    *graph = new CUgraph_st{std::move(stream->captured)};
    stream->captured.clear();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (Operation &operation : exec->operations) emu::enqueue(stream, operation);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}

static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    emu::enqueue(stream, [=] { event->recorded = true, event->seconds = now(); });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return result(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    if (!begin->recorded || !end->recorded) return result(cudaErrorInvalidResourceHandle);
    *milliseconds = 1e3 * (end->seconds - begin->seconds);
    return cudaSuccess;
}

// ---- Memory --------------------------------------------------------------------------------------------------------

static size_t round_up(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

static void check_pattern(const unsigned char *from, const unsigned char *to, const unsigned char *origin,
                          const char *where, size_t bytes) {
    for (const unsigned char *q = from; q < to; q++) {
        if (*q != guard_byte) {
            emu::fail("memory was written %zu bytes %s an allocation of %zu bytes; the last kernel was %s",
                      (size_t)(q < origin ? origin - q : q - origin), where, bytes, emu::last_kernel());
        }
    }
}

static void check_guard(const unsigned char *p, const Allocation &a) {
    check_pattern(p + a.bytes, p + round_up(a.bytes), p + a.bytes, "beyond", a.bytes);
    check_pattern(a.mapping + sysconf(_SC_PAGESIZE), p, p, "before", a.bytes);
}

// For the comparison of two runs: a hash of what is freed.
static void log_bits(const unsigned char *p, size_t bytes) {
    static const char *name = getenv("EMU_BITS");
    static FILE *file = name && *name ? fopen(name, "a") : nullptr;
    if (!file) return;
    uint64_t hash = 1469598103934665603ull, word;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        memcpy(&word, p + i, 8);
        hash = (hash ^ word) * 1099511628211ull;
        hash ^= hash >> 29;
    }
    for (size_t i = bytes / 8 * 8; i < bytes; i++) hash = (hash ^ p[i]) * 1099511628211ull;
    fprintf(file, "%zu %016llx\n", bytes, (unsigned long long)hash);
}

static void check_all_guards() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &[p, allocation] : allocations) check_guard(p, allocation);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream && stream->capturing) return result(cudaErrorIllegalState);
    check_all_guards();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    check_all_guards();
    return cudaSuccess;
}

// [guard page | pattern | bytes | pattern up to 256 | guard page]
cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE), rounded = round_up(bytes);
    std::lock_guard<std::mutex> lock(mutex);
    if (rounded < bytes || rounded > card_bytes - allocated) return result(cudaErrorMemoryAllocation);
    const size_t data = (rounded + page - 1) / page * page, mapped = data + 2 * page;
    void *mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return result(cudaErrorMemoryAllocation);
    unsigned char *begin = (unsigned char *)mapping + page, *p = begin + data - rounded;
    mprotect(mapping, page, PROT_NONE);
    mprotect(begin + data, page, PROT_NONE);
    memset(begin, guard_byte, p - begin);
    memset(p, 0xFF, bytes);
    memset(p + bytes, guard_byte, rounded - bytes);
    allocations[p] = {bytes, mapped, (unsigned char *)mapping};
    allocated += rounded;
    *pointer = p;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
    if (!pointer) return cudaSuccess;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = allocations.find((unsigned char *)pointer);
    if (found == allocations.end()) return result(cudaErrorInvalidValue);
    check_guard(found->first, found->second);
    log_bits(found->first, found->second.bytes);
    allocated -= round_up(found->second.bytes);
    munmap(found->second.mapping, found->second.mapped);
    allocations.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
    *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096 + 4096);
    if (!*pointer) return result(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> lock(mutex);
    pinned.insert(*pointer);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer) {
    std::lock_guard<std::mutex> lock(mutex);
    if (pointer && !pinned.erase(pointer)) return result(cudaErrorInvalidValue);
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    emu::enqueue(stream, [=] { memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream) {
    emu::enqueue(stream, [=] { memset(to, byte, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    *total_bytes = card_bytes;
    *free_bytes = card_bytes - allocated;
    return cudaSuccess;
}

// ---- The card ------------------------------------------------------------------------------------------------------

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    case cudaErrorIllegalState:
        return "the operation cannot be performed in the present state";
    default:
        return "unknown error";
    }
}

cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) { return result(index == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int index) {
    if (index != 0) return result(cudaErrorInvalidDevice);
    *prop = {};
    prop->major = emu::compute_capability() / 10;
    prop->minor = emu::compute_capability() % 10;
    snprintf(prop->name, sizeof prop->name, "emulated sm_%d", emu::compute_capability());
    prop->totalGlobalMem = card_bytes;
    prop->sharedMemPerBlockOptin = emu::shared_limit_of_card();
    prop->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index) {
    if (index != 0) return result(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = emu::compute_capability() / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = emu::compute_capability() % 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)emu::shared_limit_of_card();
        break;
    }
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute_(const void *function, cudaFuncAttribute, int value) {
    if (value < 0 || (size_t)value > emu::shared_limit_of_card()) return result(cudaErrorInvalidValue);
    emu::set_shared_limit(function, value);
    return cudaSuccess;
}
