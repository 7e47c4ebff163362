// The trace of launches, which kernels report to device_launch. Shared by all backends.
#include "kernels/runtime/device.h"
#include "util/error.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Whether a launch of this cost belongs to the row, given that all launches of a row cost the same.
static bool same_size(const TraceRow *row, Cost cost) {
    return row->bytes / row->launches == cost.bytes && row->flops / row->launches == cost.flops;
}

// The row with this name, scope and unit (and size, with by_size); a new one if there is none.
static TraceRow *trace_row(Trace *trace, const char *name, const char *scope, Cost cost) {
    for (int i = 0; i < trace->count; i++) {
        TraceRow *row = trace->rows + i;
        if (strcmp(row->name, name) == 0 && strcmp(row->scope, scope) == 0 && row->unit == cost.unit &&
            (!trace->by_size || same_size(row, cost))) {
            trace->current = i;
            return row;
        }
    }
    if (trace->count == trace->capacity) {
        trace->capacity = trace->capacity ? 2 * trace->capacity : 64;
        trace->rows = xrealloc(trace->rows, trace->capacity * sizeof *trace->rows);
    }
    trace->rows[trace->count] = (TraceRow){.name = name, .scope = scope, .unit = cost.unit};
    trace->current = trace->count;
    return trace->rows + trace->count++;
}

const char *unit_name(Unit unit) {
    static const char *const names[UNITS] = {"fp32", "mma", "gemm"};
    return names[unit];
}

void device_scope(Device *dev, const char *scope) {
    dev->scope = scope;
    device_range(dev, scope);
}

void trace_stop(Device *dev) {
    Trace *trace = dev->trace;
    if (trace->since > 0) {
        device_sync(dev);
        trace->rows[trace->current].seconds += now_seconds() - trace->since;
    }
    trace->since = 0;
}

// In units of 1000 FLOPs. A byte takes as long as ten of them, about as on CPUs; enough to tell how far a model is.
static long long work_of(Cost cost) { return (long long)(fmax(cost.flops, 10 * cost.bytes) / 1000); }

bool device_launch(Device *dev, const char *name, Cost cost) {
    if (dev->trace) {
        bool timed = dev->trace->timed && !dev->plan_only;
        if (timed) { trace_stop(dev); }
        TraceRow *row = trace_row(dev->trace, name, dev->scope ? dev->scope : "", cost);
        if (timed) { dev->trace->since = now_seconds(); }
        row->launches++;
        row->bytes += cost.bytes;
        row->flops += cost.flops;
        dev->trace->bytes += cost.bytes;
        dev->trace->flops += cost.flops;
    }
    if (dev->progress) { progress_add(dev->progress, work_of(cost)); }
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
        double compute = row->flops / peaks->flops_per_s[row->unit];
        double memory = row->bytes / peaks->bytes_per_s;
        seconds += compute > memory ? compute : memory;
    }
    return seconds;
}
