// Shared by the parts of the stand-in runtime: memory.cpp, stream.cpp, card.cpp.
#pragma once
#include "cuda_runtime.h"

#include <mutex>

namespace emu {

using Operation = std::function<void()>;

extern std::recursive_mutex runtime_mutex; // held by every function of the runtime, and while operations run
using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t result(cudaError_t error); // remembers a failure for cudaGetLastError
void catch_faults();                   // invalid accesses end the program with a sentence

// ---- memory.cpp ----------------------------------------------------------------------------------------------------

const size_t card_bytes = (size_t)8 << 30;
size_t taken_bytes(); // memory used by other processes
size_t allocated_bytes();

enum Place { PAGEABLE, PINNED, DEVICE };
// The allocation in which p lies. Fails if fewer than `bytes` bytes follow p in that allocation.
Place place_of(const void *p, size_t bytes);

// Device memory is accessible while an object of this type exists: during operations, but not to host code between
// them.
struct DeviceAccess {
    DeviceAccess();
    ~DeviceAccess();
};
void check_all_guards();

// ---- stream.cpp ----------------------------------------------------------------------------------------------------

void finish_everything();                         // runs all queued operations of all streams
bool host_memory_in_use(const void *p, size_t n); // by a queued copy
// Called by functions that are not allowed during a graph capture: true if this thread captures, which invalidates the
// capture.
bool forbidden_by_capture();

} // namespace emu
