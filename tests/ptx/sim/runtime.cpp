// A CUDA runtime on the simulator: the functions of libcudart that cocogold calls, with the names and types of NVIDIA's
// headers. A program that nvcc built with -arch=compute_80 --no-compress links it instead of libcudart. Everything is
// synchronous: streams and events do nothing, and CUDA graphs are refused, which device.cu then does not use.
#include "launch.h"
#include "profile.h"
#include <cuda_runtime_api.h>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace {

using namespace sim;

enum {
    STATIC_SHARED_LIMIT = 48 << 10,
    SHARED_LIMIT = 163 << 10, // of sm_80
    RESERVED = 1 << 10,       // of an SM's shared memory, by each block
    PROCESSORS = 4,
    L2_BYTES = 4 << 20
};
const size_t DEVICE_BYTES = (size_t)16 << 30;

struct Function {
    Module *module; // NULL: its PTX could not be read
    std::string name;
    int dynamic_limit = STATIC_SHARED_LIMIT;
};
struct Configuration { // of a launch <<<grid, block, shared, stream>>>
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
struct Event {
    double seconds;
};

std::unordered_map<const void *, Function> &functions() { // by the address of the host's stub
    static std::unordered_map<const void *, Function> all;
    return all;
}
std::vector<Configuration> &configurations() {
    static std::vector<Configuration> stack;
    return stack;
}

cudaError_t last = cudaSuccess, sticky = cudaSuccess; // sticky: after a fault nothing works any more
size_t used_bytes = 0;
std::unordered_map<void *, size_t> sizes;

cudaError_t status(cudaError_t error) {
    if (sticky) { error = sticky; }
    if (error) { last = error; }
    return error;
}

// A variable of the environment that holds a number.
long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- The program's PTX ----------------------------------------------------------------------------------------------

template <class T> T read(const u8 *p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

// A fat binary: a header (its size at 6, that of what follows at 8), then an entry for each architecture. An entry: its
// kind, the size of its header at 4, that of its payload at 8.
std::string ptx_of(const u8 *fat_binary) {
    enum { PTX = 1 };
    const u8 *p = fat_binary + read<u16>(fat_binary + 6), *end = p + read<u64>(fat_binary + 8);
    while (p < end) {
        const u8 *payload = p + read<u32>(p + 4);
        if (read<u16>(p) == PTX) {
            if (!strchr("./\n", *payload)) { throw Error("compressed PTX: build with nvcc --no-compress"); }
            return std::string((const char *)payload);
        }
        p = payload + read<u64>(p + 8);
    }
    throw Error("no PTX in this program: build with nvcc -arch=compute_80");
}

// wrapper: what nvcc registers; the address of the fat binary is at 8.
Module *load(const u8 *wrapper) {
    try {
        return parse_module(ptx_of(read<const u8 *>(wrapper + 8))).release();
    } catch (const Error &error) {
        fprintf(stderr, "simulator: %s\n", error.what());
        return nullptr;
    }
}

// ---- Launches -------------------------------------------------------------------------------------------------------

// SIM_PROFILE=1 prints a table at the end of the process; SIM_PROFILE=FILE writes JSON.
struct AtExit {
    const char *where = getenv("SIM_PROFILE");
    AtExit() { profiled(); } // which must live longer than this
    ~AtExit() {
        if (!where || profiled().empty()) { return; }
        if (strcmp(where, "1") == 0) {
            fputs(profile_table().c_str(), stderr);
            return;
        }
        FILE *file = fopen(where, "w");
        if (!file || fputs(profile_json().c_str(), file) < 0 || fclose(file) != 0) {
            fprintf(stderr, "simulator: %s: cannot be written\n", where);
        }
    }
};

bool acceptable(const Function &f, const Kernel &kernel, dim3 grid, dim3 block, size_t shared) {
    const size_t static_shared = kernel.static_shared_bytes();
    const size_t limit =
        f.dynamic_limit > STATIC_SHARED_LIMIT ? (size_t)f.dynamic_limit + static_shared : (size_t)STATIC_SHARED_LIMIT;
    const u64 threads = (u64)block.x * block.y * block.z, blocks = (u64)grid.x * grid.y * grid.z;
    if (threads && threads <= 1024 && block.z <= 64 && blocks && grid.y <= 65535 && grid.z <= 65535 &&
        shared + static_shared <= limit) {
        return true;
    }
    fprintf(stderr, "simulator: launch of %s refused: grid (%u,%u,%u) block (%u,%u,%u) shared %zu of %zu bytes\n",
            f.name.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared + static_shared, limit);
    return false;
}

cudaError_t error_of(const std::string &message) {
    if (message.find("misaligned") == 0) { return cudaErrorMisalignedAddress; }
    if (message.find("deadlock") == 0 || message.find("no end") == 0) { return cudaErrorLaunchTimeout; }
    return cudaErrorIllegalAddress;
}

void simulate(const Function &f, const Kernel &kernel, Dim grid, Dim block, size_t shared, void **arguments) {
    static AtExit at_exit;
    Options options;
    options.races = setting("SIM_RACE", 0) != 0;
    options.seed = (u32)setting("SIM_SEED", 0);
    options.resident = (u32)setting("SIM_RESIDENT", 1);
    options.limit = (u64)setting("SIM_LIMIT", 0);
    std::unique_ptr<Profiler> profiler;
    if (at_exit.where) { profiler = std::make_unique<Profiler>(*f.module, kernel, grid, block, shared); }
    Result result;
    std::string fault;
    const double started = now();
    try {
        launch(*f.module, kernel, grid, block, shared, arguments, options, profiler.get(), &result);
        if (profiler) { profiler->finish(result.instructions); }
    } catch (const Error &error) { fault = error.what(); }
    if (!result.findings.empty()) { fprintf(stderr, "simulator: %s: %s", f.name.c_str(), result.findings.c_str()); }
    if (setting("SIM_TRACE", 0)) {
        fprintf(stderr, "simulator: %s grid (%u,%u,%u) block (%u,%u,%u) shared %zu: %llu warp instructions, %.3f s\n",
                f.name.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                (unsigned long long)result.instructions, now() - started);
    }
    if (fault.empty()) { return; }
    fprintf(stderr, "simulator: %s failed: %s\n", f.name.c_str(), fault.c_str());
    last = sticky = error_of(fault);
}

// As on a device, a fault shows at the next call.
cudaError_t run(const void *stub, dim3 grid, dim3 block, void **arguments, size_t shared) {
    if (sticky) { return sticky; }
    const auto found = functions().find(stub);
    if (found == functions().end()) { return status(cudaErrorInvalidDeviceFunction); }
    const Function &f = found->second;
    if (!f.module) { return status(cudaErrorNoKernelImageForDevice); }
    const auto kernel = f.module->kernels.find(f.name);
    if (kernel == f.module->kernels.end()) { return status(cudaErrorInvalidDeviceFunction); }
    if (!acceptable(f, kernel->second, grid, block, shared)) { return status(cudaErrorInvalidConfiguration); }
    simulate(f, kernel->second, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared, arguments);
    return cudaSuccess;
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

cudaError_t allocate(void **p, size_t bytes) {
    *p = nullptr;
    if (sticky || !bytes) { return status(cudaSuccess); }
    *p = device_allocate(bytes);
    if (!*p) { return status(cudaErrorMemoryAllocation); }
    sizes[*p] = bytes;
    used_bytes += bytes;
    return cudaSuccess;
}

cudaError_t release(void *p) {
    if (!p) { return status(cudaSuccess); }
    if (!device_free(p)) { return status(cudaErrorInvalidValue); }
    used_bytes -= sizes[p];
    return status(cudaSuccess);
}

cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (sticky || !bytes) { return status(cudaSuccess); }
    const bool into = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool out_of = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if ((into && !device_holds(to, bytes)) || (out_of && !device_holds(from, bytes))) {
        fprintf(stderr, "simulator: cudaMemcpy of %zu bytes: not within an allocation\n", bytes);
        return status(cudaErrorInvalidValue);
    }
    memmove(to, from, bytes);
    return cudaSuccess;
}

} // namespace

extern "C" {

// ---- What nvcc's code for the host calls ----------------------------------------------------------------------------

void **__cudaRegisterFatBinary(void *wrapper) { return (void **)load((const u8 *)wrapper); }
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **module, const char *stub, char *, const char *name, int, uint3 *, uint3 *, dim3 *,
                            dim3 *, int *) {
    functions()[stub] = {(Module *)module, name};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    configurations().push_back({grid, block, shared, stream});
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    const Configuration c = configurations().back();
    configurations().pop_back();
    *grid = c.grid;
    *block = c.block;
    *shared = c.shared;
    *(cudaStream_t *)stream = c.stream;
    return cudaSuccess;
}
// nvcc 12 launches by cudaLaunchKernel, nvcc 13 by __cudaLaunchKernel; the handle is the stub.
cudaError_t cudaLaunchKernel(const void *stub, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t) {
    return run(stub, grid, block, arguments, shared);
}
cudaError_t __cudaGetKernel(void **handle, const void *stub) {
    *handle = (void *)stub;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(void *handle, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t) {
    return run(handle, grid, block, arguments, shared);
}
cudaError_t cudaFuncSetAttribute(const void *stub, cudaFuncAttribute attribute, int value) {
    const auto found = functions().find(stub);
    if (found == functions().end()) { return status(cudaErrorInvalidDeviceFunction); }
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value > SHARED_LIMIT) { return status(cudaErrorInvalidValue); }
        found->second.dynamic_limit = value;
    }
    return status(cudaSuccess);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *stub) {
    *attributes = cudaFuncAttributes();
    return status(functions().count(stub) ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void **p, size_t bytes) { return allocate(p, bytes); }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { return allocate(p, bytes); }
cudaError_t cudaFree(void *p) { return release(p); }
cudaError_t cudaFreeHost(void *p) { return release(p); }
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return copy(to, from, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return copy(to, from, bytes, kind);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    if (bytes && !device_holds(p, bytes)) { return status(cudaErrorInvalidValue); }
    memset(p, value, bytes);
    return status(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all) {
    *all = DEVICE_BYTES;
    *free_bytes = DEVICE_BYTES - used_bytes;
    return status(cudaSuccess);
}

// ---- Streams, events, graphs ----------------------------------------------------------------------------------------

cudaError_t cudaDeviceSynchronize(void) { return status(cudaSuccess); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return status(cudaSuccess); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = (cudaStream_t)malloc(1);
    return status(cudaSuccess);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return status(cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return status(cudaSuccess); }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = *greatest = 0;
    return status(cudaSuccess);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = (cudaEvent_t) new Event();
    return status(cudaSuccess);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete (Event *)event;
    return status(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    ((Event *)event)->seconds = now();
    return status(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return status(cudaSuccess); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    *ms = (float)(1e3 * (((Event *)end)->seconds - ((Event *)begin)->seconds));
    return status(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return cudaErrorNotSupported; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *) { return cudaErrorNotSupported; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, unsigned long long) {
    return status(cudaErrorNotSupported);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaErrorNotSupported; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaErrorNotSupported; }

// ---- The device -----------------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = sticky ? sticky : last;
    last = cudaSuccess;
    return error;
}
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorMisalignedAddress:
        return "misaligned address";
    case cudaErrorLaunchTimeout:
        return "the launch timed out and was terminated";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    default:
        return "an error of the simulated CUDA runtime";
    }
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return status(cudaSuccess);
}
cudaError_t cudaSetDevice(int index) { return status(index ? cudaErrorInvalidDevice : cudaSuccess); }
cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return status(cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *device, int) {
    *device = cudaDeviceProp();
    strcpy(device->name, "PTX simulator");
    device->major = 8;
    device->minor = 0;
    device->totalGlobalMem = DEVICE_BYTES;
    device->sharedMemPerBlockOptin = SHARED_LIMIT;
    device->multiProcessorCount = (int)setting("SIM_PROCESSORS", PROCESSORS);
    device->l2CacheSize = L2_BYTES;
    return status(cudaSuccess);
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = (int)setting("SIM_PROCESSORS", PROCESSORS);
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)setting("SIM_SHARED", SHARED_LIMIT + RESERVED);
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = SHARED_LIMIT;
        break;
    case cudaDevAttrL2CacheSize:
        *value = L2_BYTES;
        break;
    default:
        return status(cudaErrorInvalidValue);
    }
    return status(cudaSuccess);
}
}
