// The optimizer's state divided among ranks (--zero 1), seen from one of them.
#include "tests/train/train_test.h"
#include "train/optimizer.h"
#include "util/error.h"
#include "util/philox.h"

enum { TOTAL = 3 * 64 * 256, RANKS = 4, RANK = 2, PART = TOTAL / RANKS };

static Device dev;
static TrainOptions options;
static floatX *weights;
static float *grads, *host;

static int begin(void **state) {
    (void)state;
    options = train_options_of("--zero", "1", "--ema-decay", "0.9");
    device_open(&dev, 0);
    weights = device_alloc(&dev, TOTAL * sizeof *weights);
    grads = device_alloc(&dev, TOTAL * sizeof *grads);
    host = xmalloc(TOTAL * sizeof *host);
    Random random = random_begin(7, PHILOX_INIT, 0, 0);
    for (int i = 0; i < TOTAL; i++) { host[i] = (float)random_below(&random, 200) - 100; } // exact in bf16 too
    device_copy(&dev, grads, host, TOTAL * sizeof *grads, false);
    cast_to_floatX(weights, grads, TOTAL, &dev);
    return 0;
}

static int end(void **state) {
    (void)state;
    device_free(&dev, weights), device_free(&dev, grads), free(host);
    device_close(&dev);
    return 0;
}

static void same_part(const float *array, const float *flat) {
    float *part = xmalloc(PART * sizeof *part);
    device_copy(&dev, part, array, PART * sizeof *part, false);
    device_sync(&dev);
    assert_memory_equal(part, flat + (size_t)RANK * PART, PART * sizeof *part);
    free(part);
}

// Masters and average begin with this rank's part of the weights; stored pieces of any size find their place.
static void test_part(void **state) {
    (void)state;
    Comm comm = {.rank = RANK, .world = RANKS};
    Optimizer p = optimizer_create(&options, &comm, weights, grads, TOTAL, &dev);
    assert_true(p.sharded && p.count == PART && p.first == (size_t)RANK * PART);
    same_part(p.master, host);
    same_part(p.ema, host);
    float *flat = xmalloc(TOTAL * sizeof *flat);
    for (int i = 0; i < TOTAL; i++) { flat[i] = (float)i; }
    Random random = random_begin(8, PHILOX_INIT, 0, 0);
    for (size_t at = 0, n; at < TOTAL; at += n) {
        n = 1 + random_below(&random, 9000);
        if (n > TOTAL - at) { n = TOTAL - at; }
        optimizer_store(&p, p.m, at, n, flat + at, &dev);
    }
    same_part(p.m, flat);
    free(flat);
    optimizer_destroy(&p, &dev);
}

static void test_sizes(void **state) {
    (void)state;
    Comm three = {.rank = 1, .world = 3}, five = {.world = 5}, many = {.world = RANKS}, most = {.world = 512};
    assert_int_equal(optimizer_part(&options, &alone, TOTAL), TOTAL);
    assert_int_equal(optimizer_part(&options, &three, TOTAL), TOTAL / 3);
    assert_dies("--zero 1: the 49152 parameters cannot be divided into 5", optimizer_part(&options, &five, TOTAL));
    assert_dies("--zero 1: expected at most 256 ranks, not 512", optimizer_part(&options, &most, 512 * 64));
    OptimizerBytes whole = optimizer_bytes(&options, TOTAL);
    OptimizerBytes part = optimizer_bytes(&options, optimizer_part(&options, &many, TOTAL));
    assert_int_equal(whole.masters, RANKS * part.masters);
    assert_int_equal(whole.moments, RANKS * part.moments);
    assert_int_equal(whole.average, RANKS * part.average);
    char *note = optimizer_note(&options, &many, TOTAL);
    printf("  %s\n", note);
    assert_non_null(strstr(note, "--zero 1 saves"));
    assert_null(optimizer_note(&options, &alone, TOTAL));
    options.zero = 0;
    assert_int_equal(optimizer_part(&options, &three, TOTAL), TOTAL);
    options.zero = 1;
    free(note);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_part), cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, begin, end);
}
