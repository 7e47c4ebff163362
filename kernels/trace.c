// The trace of launches: what kernels report to device_launch, the same for every backend.
#include <stdlib.h>
#include <string.h>
#include "kernels/device.h"
#include "util/error.h"
#include "util/progress.h"

// Whether a launch of these bytes and FLOPs belongs to the row: launches of the same call report the same numbers.
static bool same_size(const TraceRow *row, double bytes, double flops) {
    return row->bytes / row->launches == bytes && row->flops / row->launches == flops;
}

// The row of this name and scope, and size if rows are told apart by it; a new one if there is none.
static TraceRow *trace_row(Trace *trace, const char *name, const char *scope, double bytes, double flops) {
    for (int i = 0; i < trace->count; i++) {
        TraceRow *row = trace->rows + i;
        if (strcmp(row->name, name) == 0 && strcmp(row->scope, scope) == 0 &&
            (!trace->by_size || same_size(row, bytes, flops))) {
            trace->current = i;
            return row;
        }
    }
    if (trace->count == trace->capacity) {
        trace->capacity = trace->capacity ? 2 * trace->capacity : 64;
        trace->rows = xrealloc(trace->rows, trace->capacity * sizeof *trace->rows);
    }
    trace->rows[trace->count] = (TraceRow){.name = name, .scope = scope};
    trace->current = trace->count;
    return trace->rows + trace->count++;
}

void trace_stop(Device *dev) {
    Trace *trace = dev->trace;
    if (trace->since > 0) {
        device_sync(dev);
        trace->rows[trace->current].seconds += now_seconds() - trace->since;
    }
    trace->since = 0;
}

bool device_launch(Device *dev, const char *name, double bytes, double flops) {
    if (dev->trace) {
        bool timed = dev->trace->timed && !dev->plan_only;
        if (timed) { trace_stop(dev); }
        TraceRow *row = trace_row(dev->trace, name, dev->scope ? dev->scope : "", bytes, flops);
        if (timed) { dev->trace->since = now_seconds(); }
        row->launches++;
        row->bytes += bytes;
        row->flops += flops;
        dev->trace->bytes += bytes;
        dev->trace->flops += flops;
    }
    return !dev->plan_only;
}

void device_launch_grid(Device *dev, int blocks, int threads, int shared_bytes) {
    if (!dev->trace) { return; }
    TraceRow *row = dev->trace->rows + dev->trace->current;
    row->blocks = blocks, row->threads = threads, row->shared_bytes = shared_bytes;
}

void trace_clear(Trace *trace) {
    trace->count = 0;
    trace->since = 0;
    trace->bytes = trace->flops = 0;
}

void trace_free(Trace *trace) {
    free(trace->rows);
    *trace = (Trace){0};
}

double trace_least_seconds(const Trace *trace, const Peaks *peaks) {
    double seconds = 0;
    for (int i = 0; i < trace->count; i++) {
        const TraceRow *row = trace->rows + i;
        bool gemm = strncmp(row->name, "linear", 6) == 0 || strncmp(row->name, "conv2d", 6) == 0;
        double compute = row->flops / (gemm ? peaks->gemm_flops_per_s : peaks->flops_per_s);
        double memory = row->bytes / peaks->bytes_per_s;
        seconds += compute > memory ? compute : memory;
    }
    return seconds;
}
