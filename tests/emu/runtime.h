// What the parts of the stand-in runtime share: memory.cpp, stream.cpp, card.cpp.
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
size_t taken_bytes(); // by other processes
size_t allocated_bytes();

enum Place { PAGEABLE, PINNED, DEVICE };
// Where p lies. Fails if it lies in an allocation that has less than `bytes` from there on.
Place place_of(const void *p, size_t bytes);

// Device memory is accessible while one of these lives: during operations, never to host code between them.
struct DeviceAccess {
    DeviceAccess();
    ~DeviceAccess();
};
void check_all_guards();

// ---- stream.cpp ----------------------------------------------------------------------------------------------------

void finish_everything();                         // runs what is queued on all streams
bool host_memory_in_use(const void *p, size_t n); // by a copy that is queued
// True if the call is one that a graph capture of this thread does not allow; the capture is lost then.
bool forbidden_by_capture();

} // namespace emu
