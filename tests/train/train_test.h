// What the tests of training share: cmocka, options as the command line gives them, comparisons.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "tests/dies.h"
#include "kernels/runtime/comm.h"
#include "util/error.h"
#include "train/step.h"
#include "train/unet_options.h"

// Options as after `cocogold train --model m --shards s --out o MORE...` (at most 16 more). The table of the copy, and
// of all copies before it, points to the latest options.
#define options_of(...) options_from((char *[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
#define train_options_of(...) options_of(__VA_ARGS__).diffusion.train
static inline UNetOptions options_from(char **more) {
    static UNetOptions options;
    char *arguments[32] = {"train", "--model", "m", "--shards", "s", "--out", "o"};
    int count = 7;
    while (*more) { arguments[count++] = *more++; }
    unet_options_parse(&options, count, arguments);
    return options;
}

static Comm alone __attribute__((unused)) = {.world = 1}; // one rank

// Memory of a planned micro-step and of its models' gradients, which lie in the arena or in `own`.
typedef struct {
    Arena arena;
    size_t planned, total; // bytes of the arena; gradients
    float *own;            // NULL: in the arena
} StepMemory;

// The arena is full of NaN. Gradients outside are 0.
static inline StepMemory step_memory(MicroStep *micro_step, void *model, Params *const *params, int count, bool inside,
                                     Device *dev) {
    StepMemory m = {.total = 0};
    for (int i = 0; i < count; i++) { m.total += params[i]->total; }
    params_set_grads(params, count, PLAN_POINTER);
    Arena plan = micro_step_plan(micro_step, model, inside ? m.total : 0, dev);
    m.planned = arena_planned(&plan);
    m.arena = arena_create_planned(dev, &plan);
    device_fill(dev, m.arena.base, 0xff, m.arena.size);
    if (!inside) {
        m.own = device_alloc(dev, m.total * sizeof *m.own);
        device_fill(dev, m.own, 0, m.total * sizeof *m.own);
    }
    params_set_grads(params, count, inside ? m.arena.grads.first : m.own);
    return m;
}

// Frees it and returns the gradients on the host, to be freed.
static inline float *step_memory_end(StepMemory *m, Device *dev) {
    float *grads = xmalloc(m->total * sizeof *grads);
    device_copy(dev, grads, m->own ? m->own : m->arena.grads.first, m->total * sizeof *grads, false);
    device_sync(dev);
    if (m->own) { device_free(dev, m->own); }
    arena_destroy(&m->arena);
    return grads;
}

// ||a - b|| / ||b||
static inline double relative_error(const float *a, const float *b, size_t n) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(error / norm);
}
