// Benchmarks. The function of a layer makes its tensors and runs its kernels in loops that measure themselves:
//
//     floatX *out = bench_tensor(b, n), *inp = bench_tensor(b, n);
//     for (bench_start(b); bench_next(b);) { silu_forward(out, inp, n, b->dev); }
//
// Name, bytes and FLOPs of what runs come from the trace (device.h). A result is the median of several runs after a
// warm-up; a run has as many calls as fill a few milliseconds, or on a GPU one call with cold caches.
#pragma once
#include "kernels/kernels.h"
#include "model/arena.h"

enum { MAX_SIZES = 8, MAX_SHAPES = 24, MAX_RUNS = 1001 };

// One function at one shape.
typedef struct {
    const char *layer, *sizes, *model; // from its BenchLayer; the model with this shape, or "given"
    int size[MAX_SIZES];
    TraceRow row;              // of one call
    double seconds, low, high; // median, minimum and maximum time of a call over the runs
} BenchResult;

typedef struct {
    Device *dev;
    int runs;
    BenchResult *results;
    int count, capacity;
    BenchResult current; // layer, sizes and model of what runs now
    // the running loop
    int run, repeats, left; // run: from -3 (plan, warm-up, number of calls in a run) to runs
    double started, samples[MAX_RUNS];
    Trace trace;
    // tensors of the running layer
    void **tensors;
    int tensor_count, tensor_capacity;
    StepScalars *scalars; // on the device
    // of a GPU (else NULL): what is overwritten before a run to empty the L2 cache, and the events around it
    void *flush;
    size_t flushed;
    DeviceEvent *begun, *ended;
} Bench;

typedef struct {
    const char *name;  // on the command line
    const char *sizes; // names of its sizes, "B,HW,C,G": the order of --shape's numbers
    void (*run)(Bench *b, const int *size);
    struct {
        const char *model; // mini, sd2, vae (SD's), clip: where this shape comes from; sd2-64: SD2's step at 64x64
                           // latents and batch 2 (--shapes sd2-64 only). NULL ends the list
        int size[MAX_SIZES];
    } shapes[MAX_SHAPES];
    bool of_parameters; // its first size counts parameters, not samples or rows: --batch leaves it
} BenchLayer;

extern const BenchLayer bench_layers[]; // bench_kernels.c: the one table of layers and shapes; ends with name NULL

void bench_open(Bench *b, int runs, Device *dev);
void bench_close(Bench *b);
// Device memory; it lives until the layer's function returns. Random normal values, or those of the host.
floatX *bench_tensor(Bench *b, size_t n);
float *bench_floats(Bench *b, size_t n);
void *bench_upload(Bench *b, const void *from, size_t bytes);
int *bench_ids(Bench *b, size_t n, int below); // uniform in [0, below)
void bench_free_tensors(Bench *b);             // all of them; called by bench_layer
void bench_start(Bench *b);
bool bench_next(Bench *b);
// Runs a layer at one shape and adds its functions to the results.
void bench_layer(Bench *b, const BenchLayer *layer, const char *model, const int *size);

// A row's roofline time as a share of its measured time; 0 if the peaks were not measured.
double roofline_share(const TraceRow *row, double seconds, const Peaks *peaks);
// Such a share as " 87%", or "-" for 0.
const char *format_share(double share, char text[16]);
int count_sizes(const char *sizes); // 5 for "B,HW,C,G,silu"
// Their values as "16,256,32,8,1" into text.
const char *format_shape(const char *sizes, const int *size, char text[96]);
// Microseconds, GFLOP/s, GB/s and share of the roofline of a result, in columns.
void print_timing(const BenchResult *result, const Peaks *peaks);
void print_peaks(const Device *dev, const Peaks *peaks);

// ---- bench_step.c: a whole training step ---------------------------------------------------------------------------

typedef struct {
    char *preset;       // mini, sd1, sd2, quarter-sd2
    char *model;        // or a pipeline directory; only its configurations are read
    char *write_config; // the UNet's config.json, for other programs; NULL: not written
    char *recompute;
    int recompute_level;   // Recompute (model/unet.h)
    int batch, size, runs; // size: side of the latents; 0: the preset's default
    int tensors;           // plan: list the saved tensors
} StepOptions;

typedef struct {
    char *name;
    int B, size, tokens, threads, runs;
    size_t parameters;
    double seconds, mean, low, high; // of a step; the first is the median
    double loss;                     // mean loss of the last step
    double arena_bytes;              // of activations and gradients
    double peak_bytes;               // most memory of the process, or on a GPU what is taken of the card's
    Trace profile;                   // timed, over profile_steps steps
    int profile_steps;
} StepResult;

StepResult bench_step(const StepOptions *options, Device *dev);
double step_roofline_share(const StepResult *r, const Peaks *peaks); // as roofline_share
void step_result_print(const StepResult *r, const Peaks *peaks);
void step_result_free(StepResult *r);

// What the models of a preset launch and need, from a plan: it allocates nothing and runs nothing.
typedef struct {
    char *name;
    int B, size;             // micro-batch, side of the latents
    double parameters;       // of the UNet, padding included
    double arena, workspace; // bytes of activations and gradients, and of scratch
    double saved_bytes;      // peak of the activations that are saved for backward
    SavedTable saved;        // the tensors of that peak
    double vae_arena;        // of the VAE's encoder and decoder, the larger one
    Trace step, vae;         // rows by size: the training step of the UNet; VAE forward and backward
} StepPlan;

StepPlan bench_plan(const StepOptions *options);
void bench_plan_free(StepPlan *plan);
