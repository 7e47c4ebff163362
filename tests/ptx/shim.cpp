// The functions that the emulation's cuBLASLt and NCCL call, for kernels that run in the simulator, where everything is
// synchronous. And the functions that the simulator's runtime lacks: CUDA graphs, which device.cu then does not use.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <functional>

struct CUstream_st;

namespace emu {

void enqueue(CUstream_st *, std::function<void()> operation) { operation(); }

[[noreturn]] void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

} // namespace emu

enum { NOT_SUPPORTED = 801 }; // cudaErrorNotSupported

extern "C" {
int cudaStreamBeginCapture(void) { return NOT_SUPPORTED; }
int cudaStreamEndCapture(void) { return NOT_SUPPORTED; }
int cudaGraphInstantiate(void) { return NOT_SUPPORTED; }
int cudaGraphLaunch(void) { return NOT_SUPPORTED; }
int cudaGraphDestroy(void) { return NOT_SUPPORTED; }
int cudaGraphExecDestroy(void) { return NOT_SUPPORTED; }
}
