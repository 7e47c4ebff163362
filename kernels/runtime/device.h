// The device that runs the kernels, as host code sees it: memory, copies, events, graphs and the trace of launches.
// device.c (CPU, all synchronous) and device.cu implement it; trace.c and workspace.c are the same for both. Failures
// die with a sentence.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "util/memory.h"

#if defined(PRECISION_bf16) && defined(__cplusplus)
#include <cuda_bf16.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

// floatX: the type of activations and of the weights that kernels read. PRECISION chooses it at build time.
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

// The unit that performs a function's FLOPs. It determines the peak that they are compared with.
typedef enum {
    UNIT_FP32, // multiply-adds in fp32
    UNIT_MMA,  // cocogold's kernels on tensor cores: bf16 by mma.sync, which on Hopper has 60% of wgmma's speed
    UNIT_GEMM, // matrix products by the GEMM library, in the type floatX
    UNITS
} Unit;
const char *unit_name(Unit unit); // "fp32", "mma", "gemm"

// The least work of one call of a function of kernels.h (kernels/cost.h).
typedef struct {
    double bytes, flops; // least traffic (each input and output once) and useful FLOPs (a multiply-add is 2)
    Unit unit;
} Cost;

// One row of the trace: the launches of one function and their cost.
typedef struct {
    const char *name;    // function of kernels.h
    const char *scope;   // "forward", "backward", ... as set by device_scope
    double bytes, flops; // sums over the launches
    Unit unit;
    int blocks, threads, shared_bytes; // CUDA's last launch of that function; 0 on the CPU
    int launches;
    double seconds; // timed trace only: time from these launches to the next ones
} TraceRow;

typedef struct {
    TraceRow *rows;
    int count, capacity;
    int current;         // row of the last launch
    double bytes, flops; // sums
    bool by_size;        // launches with different bytes or FLOPs get rows of their own: row / launches is one launch
    bool timed;          // every launch first waits for the device, which ends the time of the previous launch
    double since;        // start of the last launch; 0: none
} Trace;

// The peaks that a trace is compared with: measured by kernels/peaks.h or taken from a data sheet.
typedef struct {
    double flops_per_s[UNITS]; // UNIT_MMA: 0 on the CPU
    double bytes_per_s;        // memory; 0: not measured
} Peaks;

typedef struct Device {
    bool host_memory;          // the host can access the device's memory directly
    bool plan_only;            // kernels report to the trace but do not run; pointers may be NULL or invalid
    bool recording;            // a graph is being recorded
    MemorySharers sharers;     // ranks that share the host's memory as devices (comm_open)
    Trace *trace;              // NULL: not traced
    struct Progress *progress; // NULL; else every launch adds its work (util/progress.h)
    const char *scope;
    void *workspace; // scratch memory of the compute stream: valid within one kernel function
    size_t workspace_size;
    size_t workspace_needed; // the largest request seen in plan-only mode
    struct Folds *folds;     // sums of gradients that kernels put off (kernels/folds.h); NULL: they put off none
    struct DeviceInternals *internals;
} Device;

typedef struct DeviceEvent DeviceEvent;
typedef struct DeviceGraph DeviceGraph;

// The index of the accelerator of this rank of the machine: its number, or 0 if the launcher shows each rank only its
// own accelerator.
int device_of_rank(int local_rank);
// Fills *dev for accelerator `index` (ignored on the CPU).
void device_open(Device *dev, int index);
void device_close(Device *dev);
const char *device_name(const Device *dev);                               // "CPU, 2 threads" or "NVIDIA H100 ..."
void device_memory(Device *dev, size_t *free_bytes, size_t *total_bytes); // on the CPU: this rank's part
size_t device_cache(const Device *dev);                                   // bytes of a GPU's L2 cache; 0 on the CPU
int device_processors(const Device *dev);                                 // a GPU's SMs; 0 on the CPU
// Memory that a plan must leave to CUDA on a GPU: for the kernels' code, which is loaded at their first launch, and for
// recorded graphs. 0 on the CPU.
size_t device_headroom(const Device *dev);

// Allocates device memory, aligned to 256 bytes. Dies if memory runs out. Debug builds, which are for the CPU, fill it
// with NaN.
void *device_alloc(Device *dev, size_t bytes);
void *device_try_alloc(Device *dev, size_t bytes); // NULL if memory runs out
void device_free(Device *dev, void *pointer);
// Host memory that asynchronous copies can use (page-locked on CUDA).
void *device_alloc_pinned(Device *dev, size_t bytes);
void device_free_pinned(Device *dev, void *pointer);

// Copies in any direction, on the compute stream (on_copy_stream = false) or on the copy stream. The copy is
// asynchronous only if host memory is pinned.
void device_copy(Device *dev, void *to, const void *from, size_t bytes, bool on_copy_stream);
void device_fill(Device *dev, void *to, int byte, size_t bytes); // memset on the compute stream

DeviceEvent *device_event_create(Device *dev);
void device_event_destroy(DeviceEvent *event);
void device_event_record(Device *dev, DeviceEvent *event, bool on_copy_stream);
void device_event_wait(Device *dev, DeviceEvent *event, bool on_copy_stream); // that stream waits for the event
void device_event_sync(DeviceEvent *event);                                   // the host waits for the event
// Seconds between two recorded events that have both been reached.
double device_event_seconds(const DeviceEvent *from, const DeviceEvent *to);
void device_sync(Device *dev); // the host waits for everything

// Between begin and end, work on the compute stream is recorded instead of run; each call of launch runs it. Sizes and
// addresses are fixed, contents are not. The workspace and cuBLASLt's algorithms must exist before: run the same work
// once without recording. On the CPU begin returns false and nothing is recorded.
bool device_graph_begin(Device *dev);
DeviceGraph *device_graph_end(Device *dev);
void device_graph_launch(Device *dev, DeviceGraph *graph);
void device_graph_destroy(DeviceGraph *graph);

// Reserves a workspace of at least `bytes` for kernels. Keeps the present one if it is large enough.
void device_reserve_workspace(Device *dev, size_t bytes);
// For kernels: scratch memory of `bytes`, valid until the function returns. In plan-only mode it only records the size.
// The workspace grows automatically, except while a graph is recorded: reserve it before.
void *device_workspace(Device *dev, size_t bytes);

// For kernels: reports one launch; returns whether the kernel should run. Every function of kernels.h begins with
//     if (!device_launch(dev, "add_forward", add_forward_cost(n))) { return; }
// or, if it needs scratch memory,
//     bool run = device_launch(dev, "grad_norm", grad_norm_cost(n));
//     double *partial = device_workspace(dev, bytes);
//     if (!run) { return; }
// so that a plan sees the workspace, and a timed trace counts its growth to this function and not to the one before.
bool device_launch(Device *dev, const char *name, Cost cost);
// For CUDA launchers, after device_launch: the grid of that function's latest __global__ launch.
void device_launch_grid(Device *dev, int blocks, int threads, int shared_bytes);
// Names the part of the step to which the following launches belong (a string literal; "" between parts).
void device_scope(Device *dev, const char *scope);
// For device_scope: on CUDA an NVTX range, which profilers show, until the next one ("": none).
void device_range(Device *dev, const char *name);

// Ends the timing of a timed trace's last launch.
void trace_stop(Device *dev);
void trace_clear(Trace *trace);
void trace_free(Trace *trace);

// The least time of the traced launches: sum over rows of max(bytes / bandwidth, flops / peak).
double trace_least_seconds(const Trace *trace, const Peaks *peaks);

#ifdef __cplusplus
}
#endif
