// Measures the peaks with which traces are compared.
#pragma once
#include "kernels/runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// A large GEMM, loops of multiply-adds and of mma.sync, and the copy of a large array. Takes about a second and
// allocates memory, which it frees again: call it before the large allocations of a run. If little memory is free it
// uses smaller arrays; if too little is free it returns zeros.
Peaks device_measure_peaks(Device *dev);

#ifdef __cplusplus
}
#endif
