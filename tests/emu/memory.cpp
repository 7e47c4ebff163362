// Device and page-locked memory between guard pages.
//
// Memory is filled with 0xFF (NaN in fp32 and bf16) and ends at an inaccessible page: accesses beyond it trap at once.
// Because of the alignment there may be up to 255 bytes of slack before that page. They hold a pattern (also NaN) that
// is checked when the memory is freed or the device is synchronised. Host code that accesses device memory traps, as on
// a machine with a GPU: its pages are accessible only while operations run (unless EMU_PROTECT=0).
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <map>
#include <vector>

namespace emu {

static const size_t alignment = 256;
static const unsigned char poison_byte = 0xFF;

struct Allocation {
    size_t bytes, mapped;
    unsigned char *mapping; // [guard page | pattern | bytes | pattern up to 256 | guard page]
};
typedef std::map<unsigned char *, Allocation> Allocations;

static Allocations device, pinned;
static size_t allocated;
static int accesses;

static size_t page() { return sysconf(_SC_PAGESIZE); }
static size_t round_up(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

size_t allocated_bytes() { return allocated; }

// ---- Guards --------------------------------------------------------------------------------------------------------

// 0xFFA5 as 16 bits, 0xFFA5FFA5 as 32: NaN either way.
static unsigned char pattern_at(const unsigned char *p) { return (uintptr_t)p % 2 ? 0xFF : 0xA5; }

static void fill_pattern(unsigned char *from, unsigned char *to) {
    for (; from < to; from++) { *from = pattern_at(from); }
}

static void check_pattern(const unsigned char *from, const unsigned char *to, const unsigned char *origin,
                          const char *where, size_t bytes) {
    for (const unsigned char *q = from; q < to; q++) {
        if (*q != pattern_at(q)) {
            fail("memory was written %zu bytes %s an allocation of %zu bytes; the last kernel was %s",
                 (size_t)(q < origin ? origin - q : q - origin), where, bytes, last_kernel());
        }
    }
}

static void check_guard(const unsigned char *p, const Allocation &a) {
    check_pattern(p + a.bytes, p + round_up(a.bytes), p + a.bytes, "beyond", a.bytes);
    check_pattern(a.mapping + page(), p, p, "before", a.bytes);
}

void check_all_guards() {
    for (auto &[p, a] : device) { check_guard(p, a); }
    for (auto &[p, a] : pinned) { check_guard(p, a); }
}

// ---- Access --------------------------------------------------------------------------------------------------------

static bool protecting() {
    static const char *text = getenv("EMU_PROTECT");
    return !text || strcmp(text, "0");
}

static void protect(const Allocation &a, int protection) {
    mprotect(a.mapping + page(), a.mapped - 2 * page(), protection);
}

DeviceAccess::DeviceAccess() {
    if (accesses++ == 0 && protecting()) {
        for (auto &entry : device) { protect(entry.second, PROT_READ | PROT_WRITE); }
    }
}

DeviceAccess::~DeviceAccess() {
    if (--accesses == 0 && protecting()) {
        for (auto &entry : device) { protect(entry.second, PROT_NONE); }
    }
}

static const Allocations::value_type *owner(const Allocations &all, const void *pointer) {
    const unsigned char *p = (const unsigned char *)pointer;
    auto after = all.upper_bound(const_cast<unsigned char *>(p));
    if (after == all.begin()) { return nullptr; }
    const auto &entry = *std::prev(after);
    return p < entry.second.mapping + entry.second.mapped ? &entry : nullptr;
}

Place place_of(const void *pointer, size_t bytes) {
    for (int i = 0; i < 2; i++) {
        const Allocations::value_type *found = owner(i ? pinned : device, pointer);
        if (!found) { continue; }
        const size_t offset = (const unsigned char *)pointer - found->first;
        if (offset > found->second.bytes || bytes > found->second.bytes - offset) {
            fail("access to %zu bytes at offset %zu of an allocation of %zu bytes", bytes, offset, found->second.bytes);
        }
        return i ? PINNED : DEVICE;
    }
    return PAGEABLE;
}

bool is_device_memory(const void *address) { return owner(device, address) != nullptr; }

// ---- Allocation ----------------------------------------------------------------------------------------------------

static unsigned char *map_guarded(Allocations &all, size_t bytes) {
    const size_t rounded = round_up(bytes), data = (rounded + page() - 1) / page() * page();
    const size_t mapped = data + 2 * page();
    void *mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) { return nullptr; }
    madvise(mapping, mapped, MADV_HUGEPAGE); // protecting single 4 KB pages takes a millisecond for 32 MB
    unsigned char *begin = (unsigned char *)mapping + page(), *p = begin + data - rounded;
    mprotect(mapping, page(), PROT_NONE);
    mprotect(begin + data, page(), PROT_NONE);
    fill_pattern(begin, p);
    memset(p, poison_byte, bytes);
    fill_pattern(p + bytes, p + rounded);
    all[p] = {bytes, mapped, (unsigned char *)mapping};
    return p;
}

static void unmap(Allocations &all, Allocations::iterator entry) {
    check_guard(entry->first, entry->second);
    munmap(entry->second.mapping, entry->second.mapped);
    all.erase(entry);
}

// Logs a hash of memory that is freed, to compare two runs.
static void log_bits(const unsigned char *p, size_t bytes) {
    static const char *name = getenv("EMU_BITS");
    static FILE *file = name && *name ? fopen(name, "a") : nullptr;
    if (!file) { return; }
    uint64_t hash = 1469598103934665603ull, word;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        memcpy(&word, p + i, 8);
        hash = (hash ^ word) * 1099511628211ull;
        hash ^= hash >> 29;
    }
    for (size_t i = bytes / 8 * 8; i < bytes; i++) { hash = (hash ^ p[i]) * 1099511628211ull; }
    fprintf(file, "%zu %016llx\n", bytes, (unsigned long long)hash);
}

} // namespace emu

using namespace emu;

static size_t free_bytes() {
    const size_t held = allocated + taken_bytes();
    return held < card_bytes ? card_bytes - held : 0;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    Lock lock(runtime_mutex);
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    const size_t rounded = round_up(bytes);
    if (rounded < bytes || rounded > free_bytes()) { return result(cudaErrorMemoryAllocation); }
    unsigned char *p = map_guarded(device, bytes);
    if (!p) { return result(cudaErrorMemoryAllocation); }
    if (protecting() && !accesses) { protect(device[p], PROT_NONE); }
    allocated += rounded;
    *pointer = p;
    return cudaSuccess;
}

// Waits for all work, as the real function does.
cudaError_t cudaFree(void *pointer) {
    Lock lock(runtime_mutex);
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    if (!pointer) { return cudaSuccess; }
    finish_everything();
    auto found = device.find((unsigned char *)pointer);
    if (found == device.end()) { return result(cudaErrorInvalidValue); }
    if (protecting()) { protect(found->second, PROT_READ | PROT_WRITE); }
    log_bits(found->first, found->second.bytes);
    allocated -= round_up(found->second.bytes);
    unmap(device, found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
    Lock lock(runtime_mutex);
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    *pointer = map_guarded(pinned, bytes);
    return result(*pointer ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *pointer) {
    Lock lock(runtime_mutex);
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    if (!pointer) { return cudaSuccess; }
    auto found = pinned.find((unsigned char *)pointer);
    if (found == pinned.end()) { return result(cudaErrorInvalidValue); }
    if (host_memory_in_use(pointer, found->second.bytes)) {
        fail("page-locked memory is freed while a copy that uses it is still queued");
    }
    unmap(pinned, found);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    Lock lock(runtime_mutex);
    *total_bytes = card_bytes;
    *free_bytes = ::free_bytes();
    return cudaSuccess;
}
