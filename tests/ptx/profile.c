// profile LAYER NUMBERS [FUNCTION]: runs each function of a layer once (or only FUNCTION), with the sizes of `cocogold
// bench LAYER --shape NUMBERS`, and prints the launches of the trace. Built with BACKEND=ptx and run with
// SIM_PROFILE, the simulator counts the work of these kernels; no others are launched.
//
// It runs the bench's layers (bench/bench_kernels.c) with the same calls, on tensors filled by the host.
#include "bench/bench.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *wanted; // function; NULL: all

static void upload(Device *dev, void *to, const void *from, size_t bytes) {
    device_copy(dev, to, from, bytes, false);
    device_sync(dev);
}

static void *keep(Bench *b, void *pointer) {
    if (b->tensor_count == b->tensor_capacity) {
        b->tensor_capacity += 32;
        b->tensors = xrealloc(b->tensors, (size_t)b->tensor_capacity * sizeof *b->tensors);
    }
    return b->tensors[b->tensor_count++] = pointer;
}

// Uniform in [-1, 1).
static float *uniform(size_t n) {
    float *values = xmalloc(n * sizeof *values);
    Random random = random_begin(1, PHILOX_INIT, (uint32_t)n, 0);
    for (size_t i = 0; i < n; i++) { values[i] = 2 * (float)random_below(&random, 1 << 24) / (1 << 24) - 1; }
    return values;
}

float *bench_floats(Bench *b, size_t n) {
    float *values = uniform(n), *out = keep(b, device_alloc(b->dev, n * sizeof *out));
    upload(b->dev, out, values, n * sizeof *out);
    free(values);
    return out;
}

// Converts to bf16 by truncation: the values do not matter.
floatX *bench_tensor(Bench *b, size_t n) {
    if (sizeof(floatX) == sizeof(float)) { return (floatX *)bench_floats(b, n); }
    float *values = uniform(n);
    uint16_t *narrow = xmalloc(n * sizeof *narrow);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        narrow[i] = (uint16_t)(bits >> 16);
    }
    floatX *out = keep(b, device_alloc(b->dev, n * sizeof *out));
    upload(b->dev, out, narrow, n * sizeof *out);
    free(narrow);
    free(values);
    return out;
}

int *bench_ids(Bench *b, size_t n, int below) {
    int *ids = xmalloc(n * sizeof *ids), *out = keep(b, device_alloc(b->dev, n * sizeof *out));
    Random random = random_begin(1, PHILOX_INIT, 0, 0);
    for (size_t i = 0; i < n; i++) { ids[i] = (int)random_below(&random, (uint32_t)below); }
    upload(b->dev, out, ids, n * sizeof *out);
    free(ids);
    return out;
}

// Two rounds: a plan, which reports name, bytes, FLOPs and workspace, and the call.
void bench_start(Bench *b) {
    trace_clear(&b->trace);
    b->dev->trace = &b->trace;
    b->dev->plan_only = true;
    b->run = 0;
}

bool bench_next(Bench *b) {
    if (b->run++ == 0) { return true; }
    const TraceRow *row = b->trace.rows;
    if (b->run == 2 && !(wanted && strcmp(wanted, row->name) != 0)) {
        printf("{\"function\": \"%s\", \"bytes\": %.17g, \"flops\": %.17g, \"unit\": \"%s\"}\n", row->name, row->bytes,
               row->flops, unit_name(row->unit));
        fflush(stdout);
        device_reserve_workspace(b->dev, b->dev->workspace_needed);
        b->dev->plan_only = false;
        b->dev->trace = NULL;
        return true;
    }
    device_sync(b->dev);
    b->dev->plan_only = false;
    b->dev->trace = NULL;
    return false;
}

// Runs one of the two halves of conv2d_backward.
static void run_conv2d_part(Bench *b, const int *s, bool weights) {
    Conv2d c = {.B = s[0], .H = s[1], .W = s[2], .IC = s[3], .OC = s[4], .K = s[5], .stride = s[6]};
    c.pad_before = c.pad_after = c.K / 2;
    size_t in = (size_t)c.B * c.H * c.W * c.IC, filter = (size_t)c.OC * c.K * c.K * c.IC;
    size_t out = (size_t)c.B * conv2d_out(&c, c.H) * conv2d_out(&c, c.W) * c.OC;
    floatX *dout = bench_tensor(b, out), *inp = bench_tensor(b, in), *weight = bench_tensor(b, filter);
    floatX *dinp = weights ? NULL : bench_tensor(b, in);
    float *dweight = weights ? bench_floats(b, filter) : NULL, *dbias = weights ? bench_floats(b, (size_t)c.OC) : NULL;
    for (bench_start(b); bench_next(b);) {
        conv2d_backward(dinp, dweight, dbias, NULL, dout, inp, weight, NULL, 0, c, b->dev);
    }
}
static void run_conv2d_dgrad(Bench *b, const int *s) { run_conv2d_part(b, s, false); }
static void run_conv2d_wgrad(Bench *b, const int *s) { run_conv2d_part(b, s, true); }

static const BenchLayer parts[] = {{.name = "conv2d_dgrad", .sizes = "B,H,W,IC,OC,K,stride", .run = run_conv2d_dgrad},
                                   {.name = "conv2d_wgrad", .sizes = "B,H,W,IC,OC,K,stride", .run = run_conv2d_wgrad},
                                   {0}};

static const BenchLayer *find_layer(const char *name) {
    const BenchLayer *tables[] = {bench_layers, parts};
    for (int i = 0; i < 2; i++) {
        for (const BenchLayer *layer = tables[i]; layer->name; layer++) {
            if (strcmp(layer->name, name) == 0) { return layer; }
        }
    }
    die("profile %s: bench/bench_kernels.c has no such layer", name);
}

int main(int argc, char **argv) {
    if (argc < 3) { die("usage: profile LAYER NUMBERS [FUNCTION], for example: profile groupnorm 2,4096,320,32,1"); }
    const BenchLayer *layer = find_layer(argv[1]);
    int size[MAX_SIZES] = {0}, count = 0, expected = 1;
    for (const char *p = layer->sizes; *p; p++) { expected += *p == ','; }
    for (char *p = argv[2], *end; *p && count < MAX_SIZES; p = *end ? end + 1 : end) {
        size[count++] = (int)strtol(p, &end, 10);
        if (end == p) { die("%s: expected the numbers %s", argv[2], layer->sizes); }
    }
    if (count != expected) { die("%s: expected the numbers %s", argv[2], layer->sizes); }
    wanted = argc > 3 ? argv[3] : NULL;
    Device dev;
    device_open(&dev, 0);
    Bench b = {.dev = &dev};
    StepScalars scalars = {.seed = 1, .lr = 1e-4f, .bias1 = 0.1f, .bias2 = 0.001f, .ema_decay = 0.99f, .grad_scale = 1};
    b.scalars = device_alloc(&dev, sizeof scalars);
    upload(&dev, b.scalars, &scalars, sizeof scalars);
    layer->run(&b, size);
    for (int i = 0; i < b.tensor_count; i++) { device_free(&dev, b.tensors[i]); }
    device_free(&dev, b.scalars);
    trace_free(&b.trace);
    free(b.tensors);
    device_close(&dev);
    return 0;
}
