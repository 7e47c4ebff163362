// What the .cu files share with the device: its internals, errors and launches. Everything here also compiles with g++
// and the headers of tests/emu (BACKEND=emu); __CUDACC__ is defined by nvcc only.
#pragma once
#include "kernels/runtime/device.h"
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

struct DeviceInternals {
    char name[64];
    int index;
    cudaStream_t compute, copy;
    cublasLtHandle_t lt;
    struct GemmCache *gemm; // algorithms chosen so far (kernels/gemm.cu), and what frees them
    void (*free_gemm)(struct GemmCache *cache);
    size_t taken;  // bytes of the card that were in use when it was opened
    bool in_range; // an NVTX range is open
};

// Dies with file, line and the call if the call failed.
void cuda_check(cudaError_t error, const char *what, const char *file, int line);
void cublas_check(cublasStatus_t status, const char *what, const char *file, int line);
#define CHECK_CUDA(call) CHECK_CUDA_RESULT(call, #call)
#define CHECK_CUDA_RESULT(error, call) cuda_check((error), call, __FILE__, __LINE__) // of a call that was made before
#define CHECK_CUBLAS(call) cublas_check((call), #call, __FILE__, __LINE__)

// The most static shared memory of a kernel that also has dynamic shared memory, which begins at a multiple of 1 KB.
enum { STATIC_SHARED = 1 << 10 };

// launch<kernel>(dev, grid, block, shared_bytes, arguments...) on the compute stream, with so many bytes of dynamic
// shared memory. Requests more than 48 KB of both kinds together where needed.
template <auto Kernel, class... Args>
static inline void launch(Device *dev, dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
    const size_t usual = 48 << 10, least = usual + STATIC_SHARED; // a request must exceed what is usual
    if (shared_bytes + STATIC_SHARED > usual) {
        CHECK_CUDA(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)(shared_bytes > least ? shared_bytes : least)));
    }
#ifdef __CUDACC__
    Kernel<<<grid, block, shared_bytes, dev->internals->compute>>>(args...);
#else
    emu::launch<Kernel>(grid, block, shared_bytes, dev->internals->compute, args...);
#endif
    cuda_check(cudaGetLastError(), "a launch", __PRETTY_FUNCTION__, 0);
    device_launch_grid(dev, (int)(grid.x * grid.y * grid.z), (int)(block.x * block.y * block.z), (int)shared_bytes);
}

// Launches the kernel First or Second, which take the same arguments.
template <auto First, auto Second, class... Args>
static inline void launch_one_of(bool first, Device *dev, dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
    if (first) {
        launch<First>(dev, grid, block, shared_bytes, args...);
    } else {
        launch<Second>(dev, grid, block, shared_bytes, args...);
    }
}

// The block's dynamic shared memory.
#ifdef __CUDACC__
extern __shared__ __align__(1024) unsigned char dynamic_shared[];
#else
#define dynamic_shared emu::current.dynamic_shared
#endif
