// Stand-in for the CUDA runtime's header, for g++: the parts of CUDA C++ and of the runtime that cocogold uses.
#pragma once
#include "emu.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

// ---- CUDA C++ ------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
// __shared__ arrays are thread-local, since a block stays on its core, and follow a guard (shared.cpp).
#define EMU_JOIN_(a, b) a##b
#define EMU_JOIN(a, b) EMU_JOIN_(a, b)
#define __shared__                                                                                                     \
    static thread_local unsigned char EMU_JOIN(emu_shared_guard, __COUNTER__)[64] __attribute__((used));               \
    static thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (emu::current.thread)
#define blockIdx (emu::current.block)
#define blockDim (emu::current.block_dim)
#define gridDim (emu::current.grid_dim)
static const int warpSize = 32;

struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define __syncthreads() ((void)emu::barrier(__FILE__, __LINE__))
#define __syncthreads_count(p) emu::barrier(__FILE__, __LINE__, p)
#define __syncthreads_or(p) (emu::barrier(__FILE__, __LINE__, p) != 0)
#define __syncthreads_and(p) (emu::barrier(__FILE__, __LINE__, !(p)) == 0)
static inline void __threadfence() { __sync_synchronize(); }
static inline void __threadfence_block() {}

template <class T> static inline T __ldg(const T *p) { return *p; }
#define __expf expf // macros, since glibc has functions of these names
#define __logf logf
#define sinpif(x) ((float)sin(M_PI * (x)))
#define cospif(x) ((float)cos(M_PI * (x)))
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline unsigned __float_as_uint(float x) {
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)a < (T)b ? (T)a : (T)b;
}
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)a > (T)b ? (T)a : (T)b;
}

// ---- Warp operations -----------------------------------------------------------------------------------------------

namespace emu {

struct Shuffle {
    uint64_t value;
    int source; // lane within the segment of `width` lanes, or -1: own value
};

static inline void combine_shuffle(unsigned mask, const void *const in[32], void *const out[32]) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) { continue; }
        const Shuffle *own = (const Shuffle *)in[i];
        if (own->source < 0) {
            *(uint64_t *)out[i] = own->value;
        } else {
            if (!(mask >> own->source & 1)) {
                fail("lane %d shuffles from lane %d, which does not take part", i, own->source);
            }
            *(uint64_t *)out[i] = ((const Shuffle *)in[own->source])->value;
        }
    }
}

template <class T> static inline T shuffle(const char *op, unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    Shuffle in = {0, source};
    uint64_t out;
    memcpy(&in.value, &value, sizeof(T));
    warp_meet(op, mask, &in, &out, combine_shuffle);
    memcpy(&value, &out, sizeof(T));
    return value;
}

static inline void combine_ballot(unsigned mask, const void *const in[32], void *const out[32]) {
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) {
        if (mask >> i & 1) { votes |= (unsigned)(*(const int *)in[i] != 0) << i; }
    }
    for (int i = 0; i < 32; i++) {
        if (mask >> i & 1) { *(unsigned *)out[i] = votes; }
    }
}

static inline unsigned ballot(const char *op, unsigned mask, int predicate) {
    unsigned votes;
    warp_meet(op, mask, &predicate, &votes, combine_ballot);
    return votes;
}

} // namespace emu

template <class T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    const int base = emu::lane_id() & ~(width - 1);
    return emu::shuffle("__shfl_sync", mask, value, base + (lane & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = emu::lane_id(), source = lane ^ bits;
    return emu::shuffle("__shfl_xor_sync", mask, value, source / width > lane / width ? -1 : source);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int lane = emu::lane_id(), source = lane + delta;
    return emu::shuffle("__shfl_down_sync", mask, value, source / width != lane / width ? -1 : source);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int lane = emu::lane_id(), source = lane - (int)delta;
    return emu::shuffle("__shfl_up_sync", mask, value, source < (lane & ~(width - 1)) ? -1 : source);
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return emu::ballot("__ballot_sync", mask, p); }
static inline int __any_sync(unsigned mask, int p) { return emu::ballot("__any_sync", mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return emu::ballot("__all_sync", mask, !p) == 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { (void)emu::ballot("__syncwarp", mask, 0); }

// ---- The runtime (memory.cpp, stream.cpp, card.cpp) ----------------------------------------------------------------

#define CUDART_VERSION 12040

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorNotReady = 600,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureMerge = 902,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorCapturedEvent = 907,
    cudaErrorStreamCaptureWrongThread = 908,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0 };

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount;
};

struct cudaFuncAttributes {
    int binaryVersion, ptxVersion;
};

const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int index);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMalloc(void **pointer, size_t bytes);
template <class T> static inline cudaError_t cudaMalloc(T **pointer, size_t bytes) {
    return cudaMalloc((void **)pointer, bytes);
}
cudaError_t cudaFree(void *pointer);
cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *pointer);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
// Priorities have no effect here; values outside the range are clamped, as in the real runtime.
static inline cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaFuncSetAttribute_(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function);
template <class F> static inline cudaError_t cudaFuncSetAttribute(F *function, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute_((const void *)function, attribute, value);
}
