// cuBLASLt and NCCL are loaded when they are first called, so that a program starts without them: they are larger than
// everything else together, and a machine has its own (the CUDA toolkit's, or PyTorch's wheels). This file defines the
// functions of theirs that the program calls. BACKEND=cuda alone has it: the other backends link stand-ins.
#include "kernels/runtime/cuda.cuh"
#include <dlfcn.h>
#include <stdio.h>
#ifdef HAVE_NCCL
#include <nccl.h>
#endif

extern "C" {
#include "util/error.h"
}

// A library that the dynamic linker finds (LD_LIBRARY_PATH, the system's list), or that was in this folder when the
// program was built; NULL if there is none.
static void *load(const char *library, const char *folder) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle) { return handle; }
    char path[4096];
    snprintf(path, sizeof path, "%s%s", folder, library);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

// That of the CUDA version that the program was built with, or of another one: the functions, numbers and structs that
// are used here are the same in CUDA 12 and 13.
static void *load_cublaslt() {
    for (const int major : {CUBLAS_VER_MAJOR, 13, 12}) {
        char name[32];
        snprintf(name, sizeof name, "libcublasLt.so.%d", major);
        void *handle = load(name, CUBLAS_FOLDER);
        if (handle) { return handle; }
    }
    die("libcublasLt.so.%d cannot be loaded: CUDA %d and PyTorch for it have it (that of CUDA 12 or 13 will do); name "
        "its folder in LD_LIBRARY_PATH",
        CUBLAS_VER_MAJOR, CUDART_VERSION / 1000);
}

static void *function_of(void *handle, const char *function) {
    void *found = dlsym(handle, function);
    if (!found) {
        die("the library that was loaded has no function %s: expected the one of CUDA %d", function,
            CUDART_VERSION / 1000);
    }
    return found;
}

#define FORWARD(handle, result, name, parameters, arguments)                                                           \
    extern "C" result name parameters {                                                                                \
        static const auto function = (decltype(&name))function_of(handle, #name);                                      \
        return function arguments;                                                                                     \
    }
#define LT(name, parameters, arguments) FORWARD(load_cublaslt(), cublasStatus_t, name, parameters, arguments)

FORWARD(load_cublaslt(), const char *, cublasLtGetStatusString, (cublasStatus_t status), (status))
FORWARD(load_cublaslt(), size_t, cublasLtGetVersion, (), ())
LT(cublasLtCreate, (cublasLtHandle_t * lt), (lt))
LT(cublasLtDestroy, (cublasLtHandle_t lt), (lt))
LT(cublasLtMatmulDescCreate, (cublasLtMatmulDesc_t * desc, cublasComputeType_t compute, cudaDataType_t scale),
   (desc, compute, scale))
LT(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t desc), (desc))
LT(cublasLtMatmulDescSetAttribute,
   (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes),
   (desc, attribute, value, bytes))
LT(cublasLtMatrixLayoutCreate,
   (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading),
   (layout, type, rows, columns, leading))
LT(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
LT(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), (preference))
LT(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
LT(cublasLtMatmulPreferenceSetAttribute,
   (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
    size_t bytes),
   (preference, attribute, value, bytes))
LT(cublasLtMatmulAlgoGetHeuristic,
   (cublasLtHandle_t lt, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
    cublasLtMatmulHeuristicResult_t *results, int *found),
   (lt, desc, a, b, c, d, preference, wanted, results, found))
LT(cublasLtMatmul,
   (cublasLtHandle_t lt, cublasLtMatmulDesc_t desc, const void *alpha, const void *A, cublasLtMatrixLayout_t a,
    const void *B, cublasLtMatrixLayout_t b, const void *beta, const void *C, cublasLtMatrixLayout_t c, void *D,
    cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes, cudaStream_t stream),
   (lt, desc, alpha, A, a, B, b, beta, C, c, D, d, algo, workspace, bytes, stream))

#ifdef HAVE_NCCL
static void *load_nccl() {
    void *handle = load("libnccl.so.2", NCCL_FOLDER);
    if (!handle) { die("libnccl.so.2 cannot be loaded: PyTorch has it; name its folder in LD_LIBRARY_PATH"); }
    return handle;
}

#define NCCL(name, parameters, arguments) FORWARD(load_nccl(), ncclResult_t, name, parameters, arguments)

FORWARD(load_nccl(), const char *, ncclGetErrorString, (ncclResult_t result), (result))
FORWARD(load_nccl(), const char *, ncclGetLastError, (ncclComm_t comm), (comm))
NCCL(ncclGetUniqueId, (ncclUniqueId * id), (id))
NCCL(ncclCommInitRank, (ncclComm_t * comm, int world, ncclUniqueId id, int rank), (comm, world, id, rank))
NCCL(ncclCommDestroy, (ncclComm_t comm), (comm))
NCCL(ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t *state), (comm, state))
NCCL(ncclAllReduce,
     (const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
      cudaStream_t stream),
     (from, to, count, type, op, comm, stream))
NCCL(ncclReduce,
     (const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root, ncclComm_t comm,
      cudaStream_t stream),
     (from, to, count, type, op, root, comm, stream))
NCCL(ncclAllGather,
     (const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream),
     (from, to, count, type, comm, stream))
NCCL(ncclBroadcast,
     (const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream),
     (from, to, count, type, root, comm, stream))
#endif
