// The peaks of the CPU.
#include "kernels/peaks.h"
#include "kernels/gemm.h"
#include "util/progress.h"
#include <omp.h>

enum { STREAM_BYTES = 64 << 20, REPEATS = 5 };

// FLOP/s of independent chains of multiply-adds in registers; there are enough chains to hide the latency of two units.
static double measure_fma(void) {
    enum { CHAINS = 10, ROUNDS = 1 << 20 };
    int threads = omp_get_max_threads();
    double best = 1e30;
    volatile float sink = 0, multiplier = 0.999f, addend = 0.001f;
    for (int i = 0; i < REPEATS; i++) {
        double start = now_seconds();
#pragma omp parallel num_threads(threads)
        {
            Vec acc[CHAINS], m = (Vec){0} + multiplier, a = (Vec){0} + addend;
#pragma GCC unroll 16
            for (int j = 0; j < CHAINS; j++) { acc[j] = m * (float)j; }
            for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 16
                for (int j = 0; j < CHAINS; j++) { acc[j] = acc[j] * m + a; }
            }
            Vec sum = acc[0];
#pragma GCC unroll 16
            for (int j = 1; j < CHAINS; j++) { sum += acc[j]; }
            if (sum[0] == 12345.678f) { sink = sum[1]; }
        }
        double seconds = now_seconds() - start;
        if (seconds < best) { best = seconds; }
    }
    (void)sink;
    return 2.0 * VEC * CHAINS * ROUNDS * threads / best;
}

// The higher bandwidth of a = b and a = b + s c, in bytes per second, on arrays larger than the caches. The arrays lie
// in `memory`.
static double measure_stream(float *memory) {
    size_t n = STREAM_BYTES / sizeof(float);
    float *a = memory, *b = a + n, *c = b + n;
#pragma omp parallel for simd
    for (size_t i = 0; i < n; i++) { a[i] = 0, b[i] = 1, c[i] = 2; }
    double best = 0;
    for (int i = 0; i < 2 * REPEATS; i++) {
        bool triad = i % 2;
        double start = now_seconds();
        if (triad) {
#pragma omp parallel for simd
            for (size_t k = 0; k < n; k++) { a[k] = b[k] + 3.0f * c[k]; }
        } else {
#pragma omp parallel for simd
            for (size_t k = 0; k < n; k++) { a[k] = b[k]; }
        }
        double rate = (double)STREAM_BYTES * (triad ? 3 : 2) / (now_seconds() - start);
        if (rate > best) { best = rate; }
    }
    return best;
}

Peaks device_measure_peaks(Device *dev) {
    size_t bytes = 3 * (size_t)STREAM_BYTES, free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes);
    float *memory = bytes <= free_bytes / 2 ? device_try_alloc(dev, bytes) : NULL;
    Peaks peaks = {0};
    if (!memory) { return peaks; }
    peaks.flops_per_s[UNIT_FP32] = peaks.flops_per_s[UNIT_GEMM] = measure_fma(); // the same arithmetic units
    peaks.bytes_per_s = measure_stream(memory);
    device_free(dev, memory);
    return peaks;
}
