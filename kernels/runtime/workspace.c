// The workspace of the kernels. Shared by all backends.
#include "kernels/runtime/device.h"
#include "util/error.h"

void device_reserve_workspace(Device *dev, size_t bytes) {
    if (dev->plan_only || bytes <= dev->workspace_size) { return; }
    if (dev->recording) {
        die("a kernel needs %zu bytes of workspace while a graph is recorded, but only %zu are reserved", bytes,
            dev->workspace_size);
    }
    device_sync(dev); // earlier kernels may still use the old one
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
