// The memory of the simulated device: memory of the host, of which every allocation is known, so that accesses outside
// of all of them are found.
#include "launch.h"
#include <cstdlib>
#include <cstring>
#include <map>

namespace sim {

enum { ALIGNMENT = 256 }; // also the bytes between allocations

static std::map<u64, u64> &allocations() { // address and bytes
    static std::map<u64, u64> all;
    return all;
}

void *device_allocate(size_t bytes) {
    const size_t whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + 2 * ALIGNMENT;
    u8 *p = (u8 *)aligned_alloc(ALIGNMENT, whole);
    if (!p) { return nullptr; }
    memset(p, 0xff, whole);
    p += ALIGNMENT;
    allocations()[(u64)(uintptr_t)p] = bytes;
    return p;
}

bool device_free(void *p) {
    if (!allocations().erase((u64)(uintptr_t)p)) { return false; }
    free((u8 *)p - ALIGNMENT);
    return true;
}

bool device_holds(const void *p, size_t bytes) {
    const u64 a = (u64)(uintptr_t)p;
    auto after = allocations().upper_bound(a);
    if (after == allocations().begin()) { return false; }
    --after;
    return a + bytes <= after->first + after->second;
}

std::vector<Range> device_ranges() {
    std::vector<Range> ranges;
    for (const auto &[address, bytes] : allocations()) { ranges.push_back({address, address + bytes}); }
    return ranges;
}

} // namespace sim
