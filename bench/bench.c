// The measuring loop and its tensors.
#include "bench/bench.h"
#include "eval/stats.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/progress.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// On the CPU a run repeats the call until it lasts this long, so that the clock costs less than 1%. On a GPU a run is
// one call between two events, after twice the L2 cache has been overwritten: several times, so that the GPU is busy
// until the host has queued the whole call.
static const double RUN_SECONDS = 0.01;
enum { FLUSHES = 4 };

static void *upload(const void *from, size_t bytes, Device *dev) {
    void *to = device_alloc(dev, bytes);
    device_copy(dev, to, from, bytes, false);
    device_sync(dev);
    return to;
}

void bench_open(Bench *b, int runs, Device *dev) {
    *b = (Bench){.dev = dev, .runs = runs};
    StepScalars s = {.seed = 1, .lr = 1e-4f, .bias1 = 0.1f, .bias2 = 0.001f, .ema_decay = 0.99f, .grad_scale = 1};
    b->scalars = upload(&s, sizeof s, dev);
    if (dev->host_memory) { return; }
    b->flushed = 2 * device_cache(dev);
    b->flush = device_alloc(dev, b->flushed);
    b->begun = device_event_create(dev), b->ended = device_event_create(dev);
}

void bench_close(Bench *b) {
    device_free(b->dev, b->scalars);
    device_free(b->dev, b->flush);
    device_event_destroy(b->begun), device_event_destroy(b->ended);
    trace_free(&b->trace);
    free(b->tensors);
    free(b->results);
}

static void *keep(Bench *b, void *pointer) {
    if (b->tensor_count == b->tensor_capacity) {
        b->tensor_capacity = b->tensor_capacity ? 2 * b->tensor_capacity : 32;
        b->tensors = xrealloc(b->tensors, (size_t)b->tensor_capacity * sizeof *b->tensors);
    }
    return b->tensors[b->tensor_count++] = pointer;
}

void *bench_upload(Bench *b, const void *from, size_t bytes) { return keep(b, upload(from, bytes, b->dev)); }

float *bench_floats(Bench *b, size_t n) {
    float *values = keep(b, device_alloc(b->dev, n * sizeof *values));
    normal_noise(values, 1, (int)n, PHILOX_NOISE, b->scalars, b->dev);
    return values;
}

floatX *bench_tensor(Bench *b, size_t n) {
    float *values = bench_floats(b, n);
    if (sizeof(floatX) == sizeof(float)) { return (floatX *)values; }
    floatX *narrow = keep(b, device_alloc(b->dev, n * sizeof *narrow));
    cast_to_floatX(narrow, values, n, b->dev);
    return narrow;
}

int *bench_ids(Bench *b, size_t n, int below) {
    int *host = xmalloc(n * sizeof *host);
    Random random = random_begin(1, PHILOX_INIT, 0, 0);
    for (size_t i = 0; i < n; i++) { host[i] = (int)random_below(&random, (uint32_t)below); }
    int *ids = bench_upload(b, host, n * sizeof *ids);
    free(host);
    return ids;
}

double roofline_share(const TraceRow *row, double seconds, const Peaks *peaks) {
    TraceRow copy = *row;
    Trace one = {.rows = &copy, .count = 1};
    return peaks->bytes_per_s > 0 ? trace_least_seconds(&one, peaks) / seconds : 0;
}

const char *format_share(double share, char text[16]) {
    if (share == 0) { return "-"; }
    snprintf(text, 16, "%.0f%%", 100 * share);
    return text;
}

int count_sizes(const char *sizes) {
    int count = 1;
    while ((sizes = strchr(sizes, ','))) { sizes++, count++; }
    return count;
}

const char *format_shape(const char *sizes, const int *size, char text[96]) {
    int used = 0;
    for (int i = 0; i < count_sizes(sizes); i++) {
        used += snprintf(text + used, 96 - (size_t)used, "%s%d", i ? "," : "", size[i]);
    }
    return text;
}

void print_timing(const BenchResult *r, const Peaks *peaks) {
    char share[16];
    printf(" %12.2f %9.1f %8.1f %8s", 1e6 * r->seconds, 1e-9 * r->row.flops / r->seconds,
           1e-9 * r->row.bytes / r->seconds, format_share(roofline_share(&r->row, r->seconds, peaks), share));
}

void print_peaks(const Device *dev, const Peaks *p) {
    if (p->bytes_per_s == 0) {
        printf("%s: not enough free memory to measure the peak rates\n", device_name(dev));
        return;
    }
    printf("%s: peak %.1f GFLOP/s (%.1f in GEMM", device_name(dev), 1e-9 * p->flops_per_s[UNIT_FP32],
           1e-9 * p->flops_per_s[UNIT_GEMM]);
    if (p->flops_per_s[UNIT_MMA] > 0) { printf(", %.1f in bf16 by mma.sync", 1e-9 * p->flops_per_s[UNIT_MMA]); }
    printf("), %.1f GB/s\n", 1e-9 * p->bytes_per_s);
}

void bench_start(Bench *b) {
    trace_clear(&b->trace);
    b->dev->trace = &b->trace;
    b->dev->plan_only = true; // the first call reports bytes, FLOPs and workspace
    b->run = -4, b->left = 0;
}

static void add_result(Bench *b) {
    if (b->count == b->capacity) {
        b->capacity = b->capacity ? 2 * b->capacity : 64;
        b->results = xrealloc(b->results, (size_t)b->capacity * sizeof *b->results);
    }
    BenchResult *r = &b->results[b->count++];
    *r = b->current;
    r->row = b->trace.rows[0];
    r->seconds = percentile(b->samples, b->runs, 0.5);
    r->low = b->samples[0], r->high = b->samples[b->runs - 1]; // sorted now
}

// Begins a run of calls.
static void begin_run(Bench *b) {
    b->left = b->run < 0 ? 0 : b->repeats - 1;
    if (b->begun && !b->dev->plan_only) {
        for (int i = 0; i < FLUSHES; i++) { device_fill(b->dev, b->flush, 0, b->flushed); }
        device_event_record(b->dev, b->begun, false);
    }
    b->started = now_seconds();
}

// Seconds of the run that ends here, the device's if it is a GPU.
static double end_run(Bench *b) {
    bool events = b->begun && b->run > -3; // until then nothing was recorded
    if (events) { device_event_record(b->dev, b->ended, false); }
    device_sync(b->dev);
    return events ? device_event_seconds(b->begun, b->ended) : now_seconds() - b->started;
}

bool bench_next(Bench *b) {
    if (b->left > 0) {
        b->left--;
        return true;
    }
    double seconds = end_run(b);
    if (b->run == -3) {
        b->dev->plan_only = false;
        b->dev->trace = NULL;
        device_reserve_workspace(b->dev, b->dev->workspace_needed);
    }
    if (b->run == -1) { b->repeats = b->begun ? 1 : (int)fmin(1e6, fmax(1, RUN_SECONDS / seconds)); }
    if (b->run >= 0) { b->samples[b->run] = seconds / b->repeats; }
    if (++b->run == b->runs) {
        add_result(b);
        return false;
    }
    begin_run(b);
    return true;
}

void bench_free_tensors(Bench *b) {
    for (int i = 0; i < b->tensor_count; i++) { device_free(b->dev, b->tensors[i]); }
    b->tensor_count = 0;
}

void bench_layer(Bench *b, const BenchLayer *layer, const char *model, const int *size) {
    b->current = (BenchResult){.layer = layer->name, .sizes = layer->sizes, .model = model};
    memcpy(b->current.size, size, sizeof b->current.size);
    layer->run(b, size);
    bench_free_tensors(b);
}
