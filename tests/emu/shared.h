// Shared memory of a block: the dynamic part, and the arrays that kernels declare with __shared__. Both are poisoned
// when a block begins and stand between guards.
#pragma once
#include "emu.h"

namespace emu {

// Ends at an inaccessible page but for what an alignment of 128 bytes leaves; that, and 128 bytes before, hold a
// pattern.
struct DynamicShared {
    unsigned char *base = nullptr, *end = nullptr;
    size_t bytes = 0;
    unsigned char *prepare(size_t bytes);
    void check() const;
};

// __shared__ arrays are thread-local (a block never leaves its core). Where they lie and how large they are stands in
// the symbol table of the program.
void static_shared_poison();
void static_shared_check();
size_t static_shared_bytes(const void *function); // of a kernel

} // namespace emu
