// Shared memory of a block: the dynamic part, and the arrays that kernels declare with __shared__. Both are filled with
// NaN when a block begins, and lie between guards.
#pragma once
#include "emu.h"

namespace emu {

// Ends at an inaccessible page, up to the slack of an alignment to 128 bytes. The slack, and the 128 bytes before the
// memory, hold a pattern.
struct DynamicShared {
    unsigned char *base = nullptr, *end = nullptr;
    size_t bytes = 0;
    unsigned char *prepare(size_t bytes);
    void check() const;
};

// __shared__ arrays are thread-local (a block stays on its core). The program's symbol table gives their addresses and
// sizes.
void static_shared_poison();
void static_shared_check();
size_t static_shared_bytes(const void *function); // of a kernel

} // namespace emu
