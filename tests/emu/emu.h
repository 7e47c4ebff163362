// CUDA threads on a CPU: the scheduler behind the stand-in headers of this folder. Every thread of a block is a fiber
// (Boost.Context); barriers, shuffles, votes and warp matrix instructions are true rendezvous of these fibers; the
// blocks of a launch are spread over the cores. Whatever a GPU would answer with a hang or with silent nonsense ends
// the program here, with the kernel's name.
//
// Environment:
//   EMU_ORDER=ascending|descending|random[:SEED]  order of blocks, and of threads between two rendezvous; descending: a
//                         warp goes as far as it can before the next one, else all warps go in step
//   EMU_SM=80|86|89|90|120   card: compute capability and limit of shared memory (default 89, the smallest: 99 KB)
//   EMU_DELAY=lazy|random[:SEED]|eager            when queued operations run (stream.cpp)
//   EMU_GPU=no-driver|full|..., EMU_TAKEN=BYTES   a card that cannot be used, or whose memory others hold (card.cpp)
//   EMU_PROTECT=0            leaves device memory open to host code, which else traps
//   EMU_BITS=FILE            appends a hash of every device allocation when it is freed: equal files, equal bits
//   EMU_REPORT=1|FILE        at exit, which __global__ functions ran and how often: on stderr, or appended to FILE
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <memory>
#include <string> // these before __noinline__ is a macro: libstdc++ uses the word in attributes

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct CUstream_st; // cudaStream_t

namespace emu {

struct Thread;

// What a kernel sees of the thread and block that run at the moment on this core. Set by the scheduler at each switch.
struct Current {
    uint3 thread, block, block_dim, grid_dim;
    Thread *self;
    unsigned char *dynamic_shared;
};
extern __thread Current current;

// Ends the program with "emu: kernel NAME, block (x, y, z), thread (x, y, z): <sentence>"; outside of kernels without
// the place.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Runs body once per thread of the grid and returns when all are done. `name` identifies the kernel in errors and in
// the report; `function` is its address, for cudaFuncSetAttribute.
void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body);
void set_shared_limit(const void *function, size_t bytes); // cudaFuncAttributeMaxDynamicSharedMemorySize
size_t shared_limit_of_card();                             // opt-in shared memory per block
int compute_capability();                                  // 89 for 8.9
const char *last_kernel();                                 // the latest launch

// __syncthreads at file:line: all threads of the block, all at the same line. Returns how many had predicate != 0.
int barrier(const char *file, int line, int predicate = 0);

// A rendezvous of the lanes in mask. When the last of them arrives, combine sees every lane's input and fills every
// lane's output. Lanes that meet must call the same op.
typedef void (*Combine)(unsigned mask, const void *const in[32], void *const out[32]);
void warp_meet(const char *op, unsigned mask, const void *in, void *out, Combine combine);
unsigned lane_id();

// cp.async: 16, 8 or 4 bytes to shared memory, landing (zeros after the first source_bytes) at the wait and not before:
// until then the destination holds NaN.
void copy_async(void *shared, const void *global, int bytes, int source_bytes);
void copy_async_commit();
void copy_async_wait(int groups_in_flight); // all but the last `groups_in_flight` groups have landed
void check_shared(const void *address, size_t bytes, size_t alignment, const char *op); // inside dynamic shared memory

bool is_device_memory(const void *address);

// The launch of kernels/cuda_common.cuh: stream order, capture and delay are decided in stream.cpp.
void enqueue(CUstream_st *stream, std::function<void()> operation);

template <auto Kernel> const char *kernel_name() { return __PRETTY_FUNCTION__; }

template <auto Kernel, class... Args>
void launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st *stream, Args... args) {
    enqueue(stream, [=] {
        run_grid(kernel_name<Kernel>(), (const void *)Kernel, grid, block, shared_bytes, [=] { Kernel(args...); });
    });
}

} // namespace emu
