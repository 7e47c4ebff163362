// The CPU as a device: uses the host's memory, and everything is synchronous.
#include "kernels/runtime/algorithms.h"
#include "util/error.h"
#include "util/progress.h"
#ifdef __GLIBC__
#include <malloc.h>
#endif
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

int device_of_rank(int local_rank) { return local_rank; }

void device_open(Device *dev, int index) {
    (void)index;
    *dev = (Device){.host_memory = true, .scope = ""};
    dev->internals = xcalloc(1, sizeof *dev->internals);
#ifdef M_MMAP_THRESHOLD
    // Without this, glibc keeps large buffers that were freed: its thresholds grow to 32 and 64 MB.
    mallopt(M_MMAP_THRESHOLD, HUGE_PAGE);
    mallopt(M_TRIM_THRESHOLD, HUGE_PAGE);
#endif
    int threads = omp_get_max_threads();
    snprintf(dev->internals->name, sizeof dev->internals->name, "CPU, %d thread%s", threads, threads == 1 ? "" : "s");
}

void device_close(Device *dev) {
    device_free(dev, dev->workspace);
    free(dev->internals);
    *dev = (Device){0};
}

const char *device_name(const Device *dev) { return dev->internals->name; }

char *algorithms_machine(const Device *dev) {
    (void)dev;
    return NULL;
}

void algorithms_note(Device *dev, bool noting) { (void)dev, (void)noting; }

int algorithms_noted(const Device *dev) {
    (void)dev;
    return 0;
}

char *algorithms_product(const Device *dev, int product) {
    (void)dev, (void)product;
    return NULL;
}

int algorithms_time(Device *dev, int product, double seconds[ALGORITHMS]) {
    (void)dev, (void)product, (void)seconds;
    return 0;
}

void algorithms_choose(Device *dev, int product, int choice) { (void)dev, (void)product, (void)choice; }

const char *algorithms_chosen(const Device *dev) {
    (void)dev;
    return "";
}

size_t device_cache(const Device *dev) {
    (void)dev;
    return 0;
}

int device_processors(const Device *dev) {
    (void)dev;
    return 0;
}

size_t device_headroom(const Device *dev) {
    (void)dev;
    return 0;
}

void device_memory(Device *dev, size_t *free_bytes, size_t *total_bytes) {
    memory_available("", dev->sharers, free_bytes, total_bytes);
}

// Puts large buffers into huge pages: otherwise SD2's 13 GB of state cause 3.4 million page faults. The rest after the
// last whole huge page stays in small pages, of which only those in use take memory.
void *device_try_alloc(Device *dev, size_t bytes) {
    (void)dev;
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *pointer = rounded < bytes ? NULL : aligned_alloc(alignment, rounded ? rounded : alignment);
#ifdef MADV_HUGEPAGE
    if (pointer && alignment == HUGE_PAGE) {
        madvise(pointer, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    } // a hint: the kernel may ignore it
#endif
#ifdef DEBUG_GUARDS
    if (pointer) { memset(pointer, 0xff, rounded); } // NaN in every float type
#endif
    return pointer;
}

void *device_alloc(Device *dev, size_t bytes) {
    void *pointer = device_try_alloc(dev, bytes);
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

void device_range(Device *dev, const char *name) { (void)dev, (void)name; }
