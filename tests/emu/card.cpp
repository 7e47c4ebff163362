// The emulated card and the error texts of the stand-in runtime.
//
// EMU_GPU simulates a GPU that cannot be used: no-driver, old-driver (for CUDA 12.2), none, full (no memory even for a
// context), full-code (none for the program's code), exclusive (another process uses it), no-code (the program has no
// code for this card) or old-ptx (the driver cannot compile the program's PTX). EMU_TAKEN is the memory that other
// processes use, in bytes.
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>

using namespace emu;

static cudaError_t last_error = cudaSuccess;

cudaError_t emu::result(cudaError_t error) {
    if (error != cudaSuccess) { last_error = error; }
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorDevicesUnavailable:
        return "CUDA-capable device(s) is/are busy or unavailable";
    case cudaErrorInvalidDeviceFunction:
        return "invalid device function";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    case cudaErrorUnsupportedPtxVersion:
        return "the provided PTX was compiled with an unsupported toolchain.";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    case cudaErrorIllegalState:
        return "the operation cannot be performed in the present state";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureMerge:
        return "operation would result in a merge of separate capture sequences";
    case cudaErrorStreamCaptureUnmatched:
        return "capture was not ended in the same stream as it began";
    case cudaErrorStreamCaptureUnjoined:
        return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent:
        return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureWrongThread:
        return "attempt to terminate a thread-local capture sequence from another thread";
    default:
        return "unknown error";
    }
}

cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

static bool gpu_is(const char *what) {
    const char *text = getenv("EMU_GPU");
    return text && !strcmp(text, what);
}

size_t emu::taken_bytes() {
    const char *text = getenv("EMU_TAKEN");
    return text && *text ? strtoull(text, nullptr, 10) : 0;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = gpu_is("no-driver") ? 0 : gpu_is("old-driver") ? 12020 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    if (gpu_is("no-driver") || gpu_is("old-driver")) { return result(cudaErrorInsufficientDriver); }
    if (gpu_is("none")) { return result(cudaErrorNoDevice); }
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    if (gpu_is("full")) { return result(cudaErrorMemoryAllocation); }
    if (gpu_is("exclusive")) { return result(cudaErrorDevicesUnavailable); }
    return result(index == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

static int processors() {
    const char *text = getenv("EMU_PROCESSORS");
    return text && *text ? atoi(text) : 4;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int index) {
    if (index != 0) { return result(cudaErrorInvalidDevice); }
    *prop = {};
    prop->major = emu::compute_capability() / 10;
    prop->minor = emu::compute_capability() % 10;
    snprintf(prop->name, sizeof prop->name, "emulated sm_%d", emu::compute_capability());
    prop->totalGlobalMem = card_bytes;
    prop->sharedMemPerBlockOptin = emu::shared_limit_of_card();
    prop->multiProcessorCount = processors();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index) {
    if (index != 0) { return result(cudaErrorInvalidDevice); }
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = processors();
        break;
    case cudaDevAttrL2CacheSize:
        *value = 4096; // small: benchmarks overwrite it before each call
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = emu::compute_capability() / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = emu::compute_capability() % 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)emu::shared_limit_of_card() + 1024; // each block reserves 1 KB
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)emu::shared_limit_of_card();
        break;
    }
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
    if (gpu_is("full-code")) { return result(cudaErrorMemoryAllocation); }
    if (gpu_is("no-code")) { return result(cudaErrorNoKernelImageForDevice); }
    if (gpu_is("old-ptx")) { return result(cudaErrorUnsupportedPtxVersion); }
    *attributes = {emu::compute_capability(), 80};
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute_(const void *function, cudaFuncAttribute, int value) {
    if (value < 0 || (size_t)value > emu::shared_limit_of_card()) { return result(cudaErrorInvalidValue); }
    emu::set_shared_limit(function, value);
    return cudaSuccess;
}
