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
#include "train/unet_options.h"

// Options as after `cocogold train --model m --shards s --out o MORE...` (at most 16 more).
#define options_of(...) options_from((char *[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
static inline UNetOptions options_from(char **more) {
    char *arguments[32] = {"train", "--model", "m", "--shards", "s", "--out", "o"};
    int count = 7;
    while (*more) { arguments[count++] = *more++; }
    return unet_options_parse(count, arguments);
}

static Comm alone __attribute__((unused)) = {.world = 1}; // one rank

// ||a - b|| / ||b||
static inline double relative_error(const float *a, const float *b, size_t n) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(error / norm);
}
