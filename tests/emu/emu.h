// CUDA threads on a CPU: the scheduler behind the stand-in headers of this folder. Every thread of a block is a fiber
// (Boost.Context); barriers, shuffles, votes and warp matrix instructions are real rendezvous of these fibers; the
// blocks of a launch are distributed over the cores. Errors that would make a GPU hang or silently compute wrong
// results end the program here, with the kernel's name.
//
// Environment:
//   EMU_ORDER=ascending|descending|random[:SEED]  order of blocks, and of threads between two rendezvous; descending: a
//                         warp runs as far as it can before the next one, otherwise all warps advance together
//   EMU_SM=80|86|89|90|120   card: compute capability and limit of shared memory (default 89, the smallest: 99 KB)
//   EMU_PROCESSORS=N         card: SMs (default 4)
//   EMU_DELAY=lazy|random[:SEED]|eager            when queued operations run (stream.cpp)
//   EMU_GPU=no-driver|full|..., EMU_TAKEN=BYTES   an unusable card, or memory used by other processes (card.cpp)
//   EMU_PROTECT=0            lets host code access device memory; by default it traps
//   EMU_BITS=FILE            appends a hash of every device allocation when it is freed: equal files mean equal bits
//   EMU_REPORT=1|FILE        at exit, lists how often each __global__ function ran: on stderr, or appended to FILE
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <memory>
#include <string> // before the macro __noinline__ is defined: libstdc++ uses this word in attributes

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

// The indices of the thread and block that currently run on this core. The scheduler sets them at each switch.
struct Current {
    uint3 thread, block, block_dim, grid_dim;
    Thread *self;
    unsigned char *dynamic_shared;
};
extern __thread Current current;

// Ends the program with "emu: kernel NAME, block (x, y, z), thread (x, y, z): <sentence>". Outside of kernels the block
// and thread are omitted.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Runs body once per thread of the grid and returns when all have ended. `name` identifies the kernel in errors and in
// the report; `function` is its address, for cudaFuncSetAttribute.
void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body);
void set_shared_limit(const void *function, size_t bytes); // cudaFuncAttributeMaxDynamicSharedMemorySize
size_t shared_limit_of_card();                             // opt-in shared memory per block
int compute_capability();                                  // 89 for 8.9
const char *last_kernel();                                 // the latest launch

// __syncthreads at file:line, for all threads of the block, which must be at the same line. Returns the number of
// threads with predicate != 0.
int barrier(const char *file, int line, int predicate = 0);

// A rendezvous of the lanes in mask. When the last of them arrives, combine reads every lane's input and fills every
// lane's output. All lanes must call the same op.
typedef void (*Combine)(unsigned mask, const void *const in[32], void *const out[32]);
void warp_meet(const char *op, unsigned mask, const void *in, void *out, Combine combine);
unsigned lane_id();

// cp.async: copies 16, 8 or 4 bytes to shared memory (zeros after the first source_bytes). The bytes arrive only at the
// wait; until then the destination holds NaN.
void copy_async(void *shared, const void *global, int bytes, int source_bytes);
void copy_async_commit();
void copy_async_wait(int groups_in_flight); // all but the last `groups_in_flight` groups arrive
void check_shared(const void *address, size_t bytes, size_t alignment, const char *op); // inside dynamic shared memory

bool is_device_memory(const void *address);

// The launch of kernels/runtime/cuda.cuh. stream.cpp implements stream order, capture and delay.
void enqueue(CUstream_st *stream, std::function<void()> operation);

template <auto Kernel> const char *kernel_name() { return __PRETTY_FUNCTION__; }

template <auto Kernel, class... Args>
void launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st *stream, Args... args) {
    enqueue(stream, [=] {
        run_grid(kernel_name<Kernel>(), (const void *)Kernel, grid, block, shared_bytes, [=] { Kernel(args...); });
    });
}

} // namespace emu
