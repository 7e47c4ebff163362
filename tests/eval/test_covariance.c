// The covariance of multi-resolution noise against its definition with explicit matrices and against many samples of
// the kernel; Cholesky's factor and the quadratic forms against plain loops; the size of a full latent in time.
#include "eval/covariance.h"
#include "kernels/kernels.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/progress.h"
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static double largest_error(const double *a, const double *b, size_t n) {
    double error = 0;
    for (size_t i = 0; i < n; i++) { error = fmax(error, fabs(a[i] - b[i])); }
    return error;
}

// How much of coarse cell (ly, lx) the fine cell (y, x) has: a tent over the coarse centres, clamped at the border.
static double tent(int i, int size, int k, int coarse) {
    double x = fmin(coarse - 1, fmax(0, (i + 0.5) * coarse / size - 0.5));
    return fmax(0, 1 - fabs(x - k));
}

static void add_level(double *S, int h, int w, int lh, int lw, double weight) {
    int n = h * w, m = lh * lw;
    double *U = xcalloc((size_t)(n * m), sizeof *U);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < m; k++) { U[i * m + k] = tent(i / w, h, k / lw, lh) * tent(i % w, w, k % lw, lw); }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            for (int k = 0; k < m; k++) { S[i * n + j] += weight * U[i * m + k] * U[j * m + k]; }
        }
    }
    free(U);
}

static void explicit_covariance(double *S, int h, int w, double strength, int draws, uint64_t seed) {
    int n = h * w;
    memset(S, 0, (size_t)(n * n) * sizeof *S);
    for (int draw = 0; draw < draws; draw++) {
        int lh = h, lw = w;
        for (int level = 1; level < 10 && lh > 1 && lw > 1; level++) {
            double r = 2 + 2 * (double)philox_uniform(philox(seed, PHILOX_MULTIRES, 0, draw, level).x[0]);
            lh = (int)fmax(1, floor(lh / pow(r, level))), lw = (int)fmax(1, floor(lw / pow(r, level)));
            add_level(S, h, w, lh, lw, pow(strength, 2 * level) / draws);
        }
    }
    double trace = 0;
    for (int i = 0; i < n; i++) { trace += S[i * n + i] += 2; }
    for (int i = 0; i < n * n; i++) { S[i] *= n / trace; }
}

static void definition(void **state) {
    (void)state;
    static const struct {
        int h, w, draws;
        double strength;
    } cases[] = {{6, 5, 7, 0.9}, {16, 16, 20, 0.9}, {9, 12, 5, 0.4}, {4, 4, 1, 1}, {3, 3, 3, 0}, {1, 1, 2, 0.9}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int h = cases[c].h, w = cases[c].w, n = h * w;
        double *expected = xmalloc((size_t)(n * n) * sizeof *expected);
        explicit_covariance(expected, h, w, cases[c].strength, cases[c].draws, 31);
        double *S = noise_covariance(h, w, cases[c].strength, cases[c].draws, 31);
        double error = largest_error(S, expected, (size_t)(n * n));
        printf("%d x %d, strength %g: largest difference %.1e\n", h, w, cases[c].strength, error);
        assert_true(error < 1e-12);
        free(S);
        free(expected);
    }
}

// The kernel's noise divides every sample by its own deviation, which costs a few percent (eval/covariance.h).
static void samples(void **state) {
    (void)state;
    enum { SIDE = 8, N = SIDE * SIDE, C = 4, SAMPLES = 20000 };
    Device *dev = *state;
    float *noise = xmalloc((size_t)SAMPLES * N * C * sizeof *noise);
    float *timesteps = xcalloc(SAMPLES, sizeof *timesteps);
    StepScalars s = {.seed = 5};
    normal_noise(noise, SAMPLES, N * C, PHILOX_NOISE, &s, dev);
    multires_noise(noise, timesteps, 0.9f, false, 1000, SAMPLES, SIDE, SIDE, C, &s, dev);
    double *found = xcalloc(N * N, sizeof *found), trace = 0;
    for (int sample = 0; sample < SAMPLES * C; sample++) {
        const float *x = noise + (size_t)(sample / C) * N * C + sample % C;
        for (int i = 0; i < N; i++) {
            for (int j = 0; j < N; j++) { found[i * N + j] += (double)x[i * C] * x[j * C] / (SAMPLES * C); }
        }
    }
    double *S = noise_covariance(SIDE, SIDE, 0.9, 256, 5), square = 0, all = 0;
    for (int i = 0; i < N; i++) { trace += found[i * N + i]; }
    for (int i = 0; i < N * N; i++) {
        square += pow(found[i] * N / trace - S[i], 2);
        all += S[i] * S[i];
    }
    printf("%d samples of the kernel: mean variance %.3f, relative error of the covariance %.3f; neighbours %.3f, "
           "expected %.3f\n",
           SAMPLES, trace / N, sqrt(square / all), found[1] * N / trace, S[1]);
    assert_true(fabs(trace / N - 1) < 0.1 && sqrt(square / all) < 0.1);
    free(S);
    free(found);
    free(timesteps);
    free(noise);
}

static void factor(void **state) {
    (void)state;
    static const int sides[] = {1, 5, 8, 10, 13};
    for (size_t c = 0; c < sizeof sides / sizeof *sides; c++) {
        enum { ROWS = 37 };
        int n = sides[c] * sides[c];
        double *S = noise_covariance(sides[c], sides[c], 0.9, 16, 1), *plain = xcalloc((size_t)(n * n), sizeof *plain);
        float *rows = xmalloc((size_t)(n * ROWS) * sizeof *rows);
        Random r = random_begin(1, 99, 0, 0);
        for (int i = 0; i < n * ROWS; i++) { rows[i] = random_normal(&r); }
        double error = 0, forms[ROWS], x[13 * 13];
        for (int i = 0; i < n; i++) {
            for (int j = 0; j <= i; j++) {
                double sum = S[i * n + j];
                for (int k = 0; k < j; k++) { sum -= plain[i * n + k] * plain[j * n + k]; }
                plain[i * n + j] = i == j ? sqrt(sum) : sum / plain[j * n + j];
            }
        }
        cholesky(S, n);
        for (int i = 0; i < n; i++) { error = fmax(error, largest_error(S + i * n, plain + i * n, (size_t)i + 1)); }
        inverse_forms(forms, S, rows, n, ROWS);
        double form_error = 0;
        for (int row = 0; row < ROWS; row++) {
            double sum = 0;
            for (int i = 0; i < n; i++) {
                x[i] = rows[row * n + i];
                for (int k = 0; k < i; k++) { x[i] -= plain[i * n + k] * x[k]; }
                x[i] /= plain[i * n + i];
                sum += x[i] * x[i];
            }
            form_error = fmax(form_error, fabs(forms[row] / sum - 1));
        }
        printf("n = %d: factor %.1e, forms %.1e\n", n, error, form_error);
        assert_true(error < 1e-12 && form_error < 1e-12);
        free(S);
        free(plain);
        free(rows);
    }
}

#ifdef DEBUG_GUARDS
enum { FULL = 20 }; // sanitizers are slow
#else
enum { FULL = 64 };
#endif

// The latents of 512 px, and the same bits from one thread and from several.
static void full_size(void **state) {
    (void)state;
    enum { SIDE = 20, N = SIDE * SIDE };
    double *one = noise_covariance(SIDE, SIDE, 0.9, 64, 1), *many = noise_covariance(SIDE, SIDE, 0.9, 64, 1);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    cholesky(one, N);
    omp_set_num_threads(3);
    cholesky(many, N);
    assert_memory_equal(one, many, (size_t)N * N * sizeof *one);
    omp_set_num_threads(threads);
    free(one);
    free(many);
    double started = now_seconds();
    double *S = noise_covariance(FULL, FULL, 0.9, 256, 1), built = now_seconds();
    cholesky(S, FULL * FULL);
    printf("%d x %d: covariance in %.2f s, factor in %.2f s\n", FULL, FULL, built - started, now_seconds() - built);
    free(S);
}

static int open_device(void **state) {
    static Device dev;
    device_open(&dev, 0);
    *state = &dev;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(definition), cmocka_unit_test(samples),
                                       cmocka_unit_test(factor), cmocka_unit_test(full_size)};
    return cmocka_run_group_tests(tests, open_device, NULL);
}
