// What host code knows of the machine that runs the kernels: memory, copies, events, graphs and the trace of launches.
// device.c (CPU: everything synchronous) and device.cu implement it, trace.c the trace. Failures die with a sentence.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(PRECISION_bf16) && defined(__cplusplus)
#include <cuda_bf16.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

// floatX: the type of activations and of the weights that kernels read, chosen by PRECISION at build time.
#if defined(PRECISION_bf16) && defined(BACKEND_cpu)
#error "the cpu backend is fp32"
#elif defined(PRECISION_bf16) && defined(__cplusplus)
typedef __nv_bfloat16 floatX;
#elif defined(PRECISION_bf16)
typedef struct {
    uint16_t bits;
} floatX; // opaque in C: converted by cast kernels only
#else
typedef float floatX;
#endif

// Who does a function's FLOPs, and with it what they are held against.
typedef enum {
    UNIT_FP32, // multiply-adds in fp32
    UNIT_MMA,  // own kernels on the tensor cores: bf16 by mma.sync, which on Hopper is 60% of what wgmma does
    UNIT_GEMM, // matrix products by the GEMM library, in the type floatX
    UNITS
} Unit;
const char *unit_name(Unit unit); // "fp32", "mma", "gemm"

// What a call of a function of kernels.h must move and do at least (kernels/cost.h).
typedef struct {
    double bytes, flops; // least traffic (each input and output once) and useful FLOPs (a multiply-add is 2)
    Unit unit;
} Cost;

// One row of the trace: launches of one function and what they cost.
typedef struct {
    const char *name;    // function of kernels.h
    const char *scope;   // "forward", "backward", ... as set by device_scope
    double bytes, flops; // sums over the launches
    Unit unit;
    int blocks, threads, shared_bytes; // CUDA's last launch of that function; 0 on the CPU
    int launches;
    double seconds; // of a timed trace: from these launches to the ones after them
} TraceRow;

typedef struct {
    TraceRow *rows;
    int count, capacity;
    int current;         // row of the last launch
    double bytes, flops; // sums
    bool by_size;        // launches of other bytes or FLOPs are other rows, so that rows / launches is each one's
    bool timed;          // every launch waits for the device, and what lies before it is the time of the launch before
    double since;        // when the last launch began; 0: none
} Trace;

// The ceilings that a trace is held against: measured by device_measure_peaks or taken from a data sheet.
typedef struct {
    double flops_per_s[UNITS]; // UNIT_MMA: 0 on the CPU
    double bytes_per_s;        // memory; 0: not measured
} Peaks;

typedef struct Device {
    bool host_memory; // the host reads and writes the device's memory as its own
    bool plan_only;   // kernels report to the trace and do not run; pointers may be NULL or made up
    Trace *trace;     // NULL: not traced
    const char *scope;
    void *workspace; // scratch memory of the compute stream: valid within one kernel function
    size_t workspace_size;
    size_t workspace_needed; // the largest request seen in plan-only mode
    struct DeviceInternals *internals;
} Device;

typedef struct DeviceEvent DeviceEvent;
typedef struct DeviceGraph DeviceGraph;

// Fills *dev for accelerator `index` (ignored on the CPU).
void device_open(Device *dev, int index);
void device_close(Device *dev);
const char *device_name(const Device *dev); // "CPU, 2 threads" or "NVIDIA H100 ..."
void device_memory(Device *dev, size_t *free_bytes, size_t *total_bytes);

// Memory of the device, aligned to 256 bytes. Debug builds fill it with NaN. Dies with the size if there is none left.
void *device_alloc(Device *dev, size_t bytes);
void device_free(Device *dev, void *pointer);
// Host memory that asynchronous copies can use (page-locked on CUDA).
void *device_alloc_pinned(Device *dev, size_t bytes);
void device_free_pinned(Device *dev, void *pointer);

// Copies on the compute stream (on_copy_stream = false) or on the copy stream. Host memory must be pinned to be
// asynchronous. Any direction.
void device_copy(Device *dev, void *to, const void *from, size_t bytes, bool on_copy_stream);
void device_fill(Device *dev, void *to, int byte, size_t bytes); // memset on the compute stream

DeviceEvent *device_event_create(Device *dev);
void device_event_destroy(DeviceEvent *event);
void device_event_record(Device *dev, DeviceEvent *event, bool on_copy_stream);
void device_event_wait(Device *dev, DeviceEvent *event, bool on_copy_stream); // that stream waits for the event
void device_event_sync(DeviceEvent *event);                                   // the host waits for the event
// Seconds between two records that both lie behind us.
double device_event_seconds(const DeviceEvent *from, const DeviceEvent *to);
void device_sync(Device *dev); // the host waits for everything

// What the compute stream is given between begin and end is not run but recorded; launch runs it, as often as it is
// called. Sizes and addresses are fixed, contents are not. The workspace and cuBLASLt's algorithms must be there
// before: run the same work once unrecorded. On the CPU begin returns false: nothing is recorded.
bool device_graph_begin(Device *dev);
DeviceGraph *device_graph_end(Device *dev);
void device_graph_launch(Device *dev, DeviceGraph *graph);
void device_graph_destroy(DeviceGraph *graph);

// Reserves the workspace for kernels: at least `bytes` (LAYER_workspace of the largest request). Keeps what it has if
// that is enough.
void device_reserve_workspace(Device *dev, size_t bytes);
// For kernels: scratch of `bytes`, valid until the function returns; notes the need in plan-only mode. Grows by itself,
// except while a graph is recorded: reserve before.
void *device_workspace(Device *dev, size_t bytes);

// For kernels: reports one launch; true if the kernel is to run. Every function of kernels.h begins with
//     if (!device_launch(dev, "groupnorm_forward", groupnorm_forward_cost(...))) return;
bool device_launch(Device *dev, const char *name, Cost cost);
// For CUDA launchers, after device_launch: the grid of that function's latest __global__ launch.
void device_launch_grid(Device *dev, int blocks, int threads, int shared_bytes);
// Names the part of the step that the following launches belong to (a string literal; "" between the parts). On CUDA it
// is an NVTX range too, which profilers show.
void device_scope(Device *dev, const char *scope);

// Ends the time of a timed trace's last launch.
void trace_stop(Device *dev);
void trace_clear(Trace *trace);
void trace_free(Trace *trace);

// Measures what this machine reaches at best: large GEMM, loops of multiply-adds and of mma.sync, copy of a large
// array. Takes about a second and memory of its own, which is free again afterwards: before the large allocations of a
// run. Where little is free the arrays are smaller; where too little is, all of the result is 0.
Peaks device_measure_peaks(Device *dev);
// The least time of a traced list of launches: sum over rows of max(bytes / rate, flops / rate).
double trace_least_seconds(const Trace *trace, const Peaks *peaks);

#ifdef __cplusplus
}
#endif
