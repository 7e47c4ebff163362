// The choice of cuBLASLt's algorithms by time, and its file. The emulation's cuBLASLt offers as many algorithms as
// EMU_LT says, of which one is fast; on a GPU only what does not depend on times is checked.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kernels/runtime/algorithms.h"
#include "tests/kernels/check.h"
#include "tests/dies.h"
#include "util/file.h"

#define PLAN_POINTER ((void *)(uintptr_t)256)
enum { N = 24, IC = 40, OC = 56 };

static Comm alone = {.world = 1};
static char cache[] = "/tmp/cocogold-algorithms-XXXXXX";

#ifndef BACKEND_cpu
static int check_open_in_cache(void **state) {
    assert_non_null(mkdtemp(cache));
    setenv("XDG_CACHE_HOME", cache, 1);
    return check_open(state);
}

static int check_close_and_remove(void **state) {
    int code = check_close(state);
    remove_tree(cache);
    return code;
}

// Notes the three products of a linear layer with its gradients.
static void note(void) {
    algorithms_note(&check_dev, true);
    check_dev.plan_only = true;
    for (int twice = 0; twice < 2; twice++) { // noted once
        linear_forward(NULL, NULL, NULL, PLAN_POINTER, NULL, N, IC, OC, &check_dev);
        linear_backward(PLAN_POINTER, PLAN_POINTER, NULL, NULL, NULL, NULL, NULL, 0, N, IC, OC, &check_dev);
    }
    check_dev.plan_only = false;
    algorithms_note(&check_dev, false);
    linear_forward(NULL, NULL, NULL, NULL, NULL, 1, 0, 0, &(Device){.plan_only = true, .scope = ""}); // notes nothing
    assert_int_equal(algorithms_noted(&check_dev), 3);
}

// What algorithms_tune writes to stdout and stderr, to be freed.
static char *tune(void) {
    char *path = xprintf("%s/said", cache);
    fflush(stdout), fflush(stderr);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), out = dup(1), err = dup(2);
    dup2(file, 1), dup2(file, 2);
    algorithms_tune(&check_dev, &alone);
    fflush(stdout), fflush(stderr);
    dup2(out, 1), dup2(err, 2);
    close(file), close(out), close(err);
    char *said = read_file(path, NULL);
    free(path);
    return said;
}

static void expect_said(const char *words) {
    char *said = tune();
    if (!strstr(said, words)) { fail_msg("expected \"%s\" in: %s", words, said); }
    free(said);
}

static void test_names(void **state) {
    (void)state;
    note();
    const char *products[] = {"TN 56 x 24 x 40, leading 40 40 56, bias", "NN 40 x 24 x 56, leading 40 56 40",
                              "NT 40 x 56 x 24, leading 40 56 40, to fp32"};
    for (int i = 0; i < 3; i++) {
        char *product = algorithms_product(&check_dev, i);
        assert_string_equal(product, products[i]);
        free(product);
    }
    char *machine = algorithms_machine(&check_dev);
    assert_non_null(strstr(machine, "cuBLASLt "));
    assert_non_null(strstr(machine, sizeof(floatX) == 2 ? ", bf16" : ", fp32"));
    free(machine);
    assert_string_equal(algorithms_chosen(&check_dev), "first");
}

#ifdef BACKEND_emu
static char *path_now(void) {
    char *machine = algorithms_machine(&check_dev), *path = algorithms_path(machine);
    free(machine);
    return path;
}

static void write_text(const char *path, const char *text) { atomic_write(path, text, strlen(text)); }

// A product without an algorithm, and one whose only algorithm cannot be used.
static void test_no_algorithm(void **state) {
    (void)state;
    Tensor x = tensor_random((size_t)N * IC, 1, 1, false), weight = tensor_random((size_t)OC * IC, 1, 2, false);
    Tensor out = tensor_poisoned((size_t)N * OC, false);
    const char *offers[] = {"0:0", "1:0:0"};
    for (int i = 0; i < 2; i++) {
        assert_dies("cuBLASLt offers no algorithm for the product TN 56 x 24 x 40, leading 40 40 56 (CUBLAS_STATUS_",
                    setenv("EMU_LT", offers[i], 1),
                    linear_forward(out.x, x.x, weight.x, NULL, NULL, N, IC, OC, &check_dev));
    }
    tensor_free(&x), tensor_free(&weight), tensor_free(&out);
}

// The gradient of a linear layer's weights, which is fp32: other orders of its sums give other bits.
static double *gradient(const Tensor *dout, const Tensor *inp) {
    Tensor dweight = tensor_poisoned((size_t)OC * IC, true);
    linear_backward(NULL, dweight.f, NULL, dout->x, inp->x, NULL, NULL, 0, N, IC, OC, &check_dev);
    double *values = tensor_values(&dweight);
    tensor_free(&dweight);
    return values;
}

static void test_choice(void **state) {
    (void)state;
    Tensor inp = tensor_random((size_t)N * IC, 1, 1, false), dout = tensor_random((size_t)N * OC, 1, 2, false);
    const size_t bytes = (size_t)OC * IC * sizeof(double);
    char *path = path_now();
    unlink(path);
    double *first = gradient(&dout, &inp);

    setenv("EMU_LT", "3:1", 1);
    expect_said("3 sizes, 3 with another algorithm than cuBLASLt's first (tuned ");
    char *chosen = xstrdup(algorithms_chosen(&check_dev)), *text = read_file(path, NULL);
    assert_non_null(strstr(text, "\"choice\": 1"));
    assert_null(strstr(text, "\"choice\": 0"));
    double *tuned = gradient(&dout, &inp);
    assert_memory_not_equal(first, tuned, bytes); // the second one adds up two halves

    // The file keeps the choice, although another algorithm would be faster now.
    setenv("EMU_LT", "3:2", 1);
    expect_said("; 0 timed now");
    assert_string_equal(algorithms_chosen(&check_dev), chosen);

    // Without the file, or with a number of algorithms that is not the file's, they are timed again.
    unlink(path);
    expect_said("; 3 timed now");
    assert_string_not_equal(algorithms_chosen(&check_dev), chosen);
    setenv("EMU_LT", "2:0", 1);
    expect_said("3 sizes, 0 with another algorithm than cuBLASLt's first (first); 3 timed now");
    double *again = gradient(&dout, &inp);
    assert_memory_equal(first, again, bytes);

    // More than eight are not looked at.
    setenv("EMU_LT", "20:0", 1);
    expect_said("3 sizes, 0 with another");
    unsetenv("EMU_LT");
    free(first), free(tuned), free(again), free(chosen), free(text), free(path);
    tensor_free(&inp), tensor_free(&dout);
}

static void test_damage(void **state) {
    (void)state;
    setenv("EMU_LT", "2:1", 1);
    char *path = path_now(), *machine = algorithms_machine(&check_dev);
    unlink(path);
    free(tune());
    char *good = read_file(path, NULL), *texts[6];
    texts[0] = xstrdup(""), texts[1] = xstrdup("[1]"),
    texts[2] = xstrdup("{\"machine\": \"another\", \"products\": []}");
    texts[3] =
        xprintf("{\"machine\": \"%s\", \"products\": [{\"product\": \"x\", \"choice\": 2, \"offered\": 2}]}", machine);
    texts[4] = xprintf("{\"machine\": \"%s\", \"products\": [3]}", machine);
    texts[5] = xstrdup(good);
    texts[5][strlen(good) / 2] = 0;
    for (int i = 0; i < 6; i++) {
        write_text(path, texts[i]);
        char *said = tune(), *now = read_file(path, NULL);
        if (!strstr(said, "is damaged (") || !strstr(said, "; 3 timed now")) { fail_msg("text %d: %s", i, said); }
        assert_non_null(strstr(now, "\"choice\": 1")); // complete again
        assert_null(strstr(now, "another"));
        free(said), free(now), free(texts[i]);
    }
    // A product of another run stays in the file.
    char *text =
        xprintf("{\"machine\": \"%s\", \"products\": [{\"product\": \"x\", \"choice\": 1, \"offered\": 2}]}", machine);
    write_text(path, text);
    expect_said("; 3 timed now");
    char *now = read_file(path, NULL);
    assert_non_null(strstr(now, "\"product\": \"x\""));
    free(text), free(now);

    // A file that cannot be written, or a folder that cannot be made: a warning, and the choice holds for this run.
    unlink(path), mkdir(path, 0700);
    expect_said("the next run times the algorithms again");
    expect_said("3 sizes, 3 with another");
    char *file = xprintf("%s/file", cache);
    write_text(file, "");
    setenv("XDG_CACHE_HOME", file, 1);
    expect_said("the next run times the algorithms again");
    expect_said("3 sizes, 3 with another");
    setenv("XDG_CACHE_HOME", "relative", 1); // to be ignored, as XDG says
    setenv("HOME", "", 1);
    expect_said("neither XDG_CACHE_HOME nor HOME is set");
    setenv("XDG_CACHE_HOME", cache, 1);
    unsetenv("EMU_LT");
    free(good), free(path), free(machine), free(file);
}
#else
// Tuning twice gives the same choice.
static void test_choice(void **state) {
    (void)state;
    free(tune());
    char *chosen = xstrdup(algorithms_chosen(&check_dev));
    expect_said("; 0 timed now");
    assert_string_equal(algorithms_chosen(&check_dev), chosen);
    free(chosen);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
#ifdef BACKEND_emu
        cmocka_unit_test(test_no_algorithm),
#endif
        cmocka_unit_test(test_choice),
#ifdef BACKEND_emu
        cmocka_unit_test(test_damage),
#endif
    };
    return cmocka_run_group_tests(tests, check_open_in_cache, check_close_and_remove);
}
#else
static void test_nothing(void **state) {
    (void)state, (void)cache;
    assert_null(algorithms_machine(&check_dev));
    assert_string_equal(algorithms_chosen(&check_dev), "");
    algorithms_tune(&check_dev, &alone);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests(tests, check_open, check_close);
}
#endif
