// Every version of the kernel lab is right, at its small shape and at odd ones.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "bench/lab.h"

static const struct {
    const char *layer;
    int size[MAX_SIZES];
} odd_shapes[] = {
    {"conv2d", {2, 7, 5, 8, 70, 3, 2}},
    {"conv2d", {1, 6, 9, 3, 4, 3, 1}},
    {"conv2d", {3, 5, 5, 24, 8, 1, 1}},
    {"attention", {2, 3, 33, 77, 24, 0}},
    {"attention", {1, 1, 45, 45, 160, 1}},
    {"attention", {1, 2, 1, 3, 8, 0}},
    {"groupnorm", {1, 33, 30, 3, 0}},
    {"groupnorm", {3, 5, 320, 32, 1}},
    {"groupnorm", {2, 1, 14, 7, 1}},
    {"groupnorm_backward", {1, 33, 30, 3, 0}},
    {"groupnorm_backward", {3, 5, 320, 32, 1}},
    {"groupnorm_backward", {2, 1, 28, 4, 1}},
    {"groupnorm_backward", {1, 3, 2560, 10, 1}},
    {"layernorm", {3, 33}},
    {"layernorm", {9, 1280}},
    {"layernorm", {1, 1296}},
    {"adam", {1}},
    {"adam", {513}},
    {"adam", {2049}},
};

static void check_shape(Bench *b, const LabLayer *layer, const int *size) {
    int last = lab_last(layer);
    for (int version = lab_has_steps() ? 1 : last; version <= last; version++) {
        LabResult r = lab_run(b, layer, version, size, false);
        printf("    %s %d at %d,%d,%d,...: relative error %.1e (at most %.0e)\n", layer->layer, version, size[0],
               size[1], size[2], r.error, lab_tolerance());
        assert_true(r.error <= lab_tolerance());
    }
}

static void test_versions(void **state) {
    (void)state;
    Device dev;
    device_open(&dev, 0);
    Bench b;
    bench_open(&b, 1, &dev);
    for (const LabLayer *layer = lab_layers; layer->layer; layer++) {
        assert_true(lab_last(layer) >= 4); // three steps and the kernel
        check_shape(&b, layer, layer->small);
        for (size_t i = 0; i < sizeof odd_shapes / sizeof *odd_shapes; i++) {
            if (strcmp(odd_shapes[i].layer, layer->layer) == 0) { check_shape(&b, layer, odd_shapes[i].size); }
        }
    }
    bench_close(&b);
    device_close(&dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_versions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
