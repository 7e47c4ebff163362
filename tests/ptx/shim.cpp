// The functions that the emulation's cuBLASLt and NCCL call, for kernels that run in the simulator, where everything is
// synchronous.
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
