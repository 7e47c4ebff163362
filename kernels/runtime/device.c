// The CPU as a device: uses the host's memory, and everything is synchronous.
#include "kernels/runtime/device.h"
#include "kernels/gemm.h"
#include "util/error.h"
#include "util/progress.h"
#include <assert.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 256, HUGE_PAGE = 2 << 20 };

struct DeviceInternals {
    char name[64];
};

struct DeviceEvent {
    double recorded; // clock
};

void device_open(Device *dev, int index) {
    (void)index;
    *dev = (Device){.host_memory = true, .scope = ""};
    dev->internals = xcalloc(1, sizeof *dev->internals);
    int threads = omp_get_max_threads();
    snprintf(dev->internals->name, sizeof dev->internals->name, "CPU, %d thread%s", threads, threads == 1 ? "" : "s");
}

void device_close(Device *dev) {
    device_free(dev, dev->workspace);
    free(dev->internals);
    *dev = (Device){0};
}

const char *device_name(const Device *dev) { return dev->internals->name; }

// MemAvailable and MemTotal of /proc/meminfo; without that file, free and physical pages.
void device_memory(Device *dev, size_t *free_bytes, size_t *total_bytes) {
    (void)dev;
    size_t page = sysconf(_SC_PAGESIZE);
    *free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    *total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * page;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) { return; }
    char line[128];
    size_t kilobytes;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %zu", &kilobytes) == 1) { *free_bytes = kilobytes << 10; }
    }
    fclose(file);
}

// Puts large buffers into huge pages: otherwise SD2's 13 GB of state cause 3.4 million page faults. Returns NULL if
// memory runs out.
static void *try_alloc(size_t bytes) {
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *pointer = rounded < bytes ? NULL : aligned_alloc(alignment, rounded ? rounded : alignment);
#ifdef MADV_HUGEPAGE
    if (pointer && alignment == HUGE_PAGE) {
        madvise(pointer, rounded, MADV_HUGEPAGE);
    } // a hint: the kernel may ignore it
#endif
#ifdef DEBUG_GUARDS
    if (pointer) { memset(pointer, 0xff, rounded); } // NaN in every float type
#endif
    return pointer;
}

void *device_alloc(Device *dev, size_t bytes) {
    (void)dev;
    void *pointer = try_alloc(bytes);
    if (!pointer) { die("cannot allocate %.3f GB of memory", (double)bytes * 1e-9); }
    return pointer;
}

void device_free(Device *dev, void *pointer) {
    (void)dev;
    free(pointer);
}

void *device_alloc_pinned(Device *dev, size_t bytes) { return device_alloc(dev, bytes); }
void device_free_pinned(Device *dev, void *pointer) { device_free(dev, pointer); }

void device_copy(Device *dev, void *to, const void *from, size_t bytes, bool on_copy_stream) {
    (void)on_copy_stream;
    if (!dev->plan_only && bytes) { memmove(to, from, bytes); }
}

void device_fill(Device *dev, void *to, int byte, size_t bytes) {
    if (!dev->plan_only && bytes) { memset(to, byte, bytes); }
}

DeviceEvent *device_event_create(Device *dev) {
    (void)dev;
    return xcalloc(1, sizeof(DeviceEvent));
}

void device_event_destroy(DeviceEvent *event) { free(event); }

void device_event_record(Device *dev, DeviceEvent *event, bool on_copy_stream) {
    (void)dev, (void)on_copy_stream;
    event->recorded = now_seconds();
}

// Nothing to wait for: all work before a record is done when the record returns.
void device_event_wait(Device *dev, DeviceEvent *event, bool on_copy_stream) {
    (void)dev, (void)event, (void)on_copy_stream;
}
void device_event_sync(DeviceEvent *event) { (void)event; }
double device_event_seconds(const DeviceEvent *from, const DeviceEvent *to) { return to->recorded - from->recorded; }
void device_sync(Device *dev) { (void)dev; }

bool device_graph_begin(Device *dev) {
    (void)dev;
    return false;
}
DeviceGraph *device_graph_end(Device *dev) {
    (void)dev;
    return NULL;
}
void device_graph_launch(Device *dev, DeviceGraph *graph) { (void)dev, (void)graph; }
void device_graph_destroy(DeviceGraph *graph) { (void)graph; }

void device_scope(Device *dev, const char *scope) { dev->scope = scope; }

void device_reserve_workspace(Device *dev, size_t bytes) {
    if (dev->plan_only || bytes <= dev->workspace_size) { return; }
    device_free(dev, dev->workspace);
    dev->workspace = device_alloc(dev, bytes);
    dev->workspace_size = bytes;
}

void *device_workspace(Device *dev, size_t bytes) {
    if (dev->plan_only) {
        if (bytes > dev->workspace_needed) { dev->workspace_needed = bytes; }
        return NULL;
    }
    device_reserve_workspace(dev, bytes);
    return dev->workspace;
}

// ---- Peaks ---------------------------------------------------------------------------------------------------------

enum { STREAM_BYTES = 64 << 20, REPEATS = 5 };

// FLOP/s of independent chains of multiply-adds in registers; there are enough chains to hide the latency of two units.
static double measure_fma(void) {
    enum { CHAINS = 10, ROUNDS = 1 << 20 };
    int threads = omp_get_max_threads();
    double best = 1e30;
    volatile float sink = 0, multiplier = 0.999f, addend = 0.001f;
    for (int i = 0; i < REPEATS; i++) {
        double start = now_seconds();
#pragma omp parallel num_threads(threads)
        {
            Vec acc[CHAINS], m = (Vec){0} + multiplier, a = (Vec){0} + addend;
#pragma GCC unroll 16
            for (int j = 0; j < CHAINS; j++) { acc[j] = m * (float)j; }
            for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
                for (int j = 0; j < CHAINS; j++) { acc[j] = acc[j] * m + a; }
            }
            Vec sum = acc[0];
#pragma GCC unroll 16
            for (int j = 1; j < CHAINS; j++) { sum += acc[j]; }
            if (sum[0] == 12345.678f) { sink = sum[1]; }
        }
        double seconds = now_seconds() - start;
        if (seconds < best) { best = seconds; }
    }
    (void)sink;
    return 2.0 * VEC * CHAINS * ROUNDS * threads / best;
}

// The higher bandwidth of a = b and a = b + s c, in bytes per second, on arrays larger than the caches. The arrays lie
// in `memory`.
static double measure_stream(float *memory) {
    size_t n = STREAM_BYTES / sizeof(float);
    float *a = memory, *b = a + n, *c = b + n;
#pragma omp parallel for simd
    for (size_t i = 0; i < n; i++) { a[i] = 0, b[i] = 1, c[i] = 2; }
    double best = 0;
    for (int i = 0; i < 2 * REPEATS; i++) {
        bool triad = i % 2;
        double start = now_seconds();
        if (triad) {
#pragma omp parallel for simd
            for (size_t k = 0; k < n; k++) { a[k] = b[k] + 3.0f * c[k]; }
        } else {
#pragma omp parallel for simd
            for (size_t k = 0; k < n; k++) { a[k] = b[k]; }
        }
        double rate = (double)STREAM_BYTES * (triad ? 3 : 2) / (now_seconds() - start);
        if (rate > best) { best = rate; }
    }
    return best;
}

Peaks device_measure_peaks(Device *dev) {
    size_t bytes = 3 * (size_t)STREAM_BYTES, free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes);
    float *memory = bytes <= free_bytes / 2 ? try_alloc(bytes) : NULL;
    Peaks peaks = {0};
    if (!memory) { return peaks; }
    peaks.flops_per_s[UNIT_FP32] = peaks.flops_per_s[UNIT_GEMM] = measure_fma(); // the same arithmetic units
    peaks.bytes_per_s = measure_stream(memory);
    device_free(dev, memory);
    return peaks;
}
