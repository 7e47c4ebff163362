// Shared by the kernels of the CPU backend: when to use threads, and reductions that give the same bits for any number
// of threads. A reduction is cut into chunks of a fixed size; one thread sums a chunk in fp32 (or fp64), and the chunks
// are then added in order in fp64.
#pragma once
#include <stddef.h>

// With fewer elements than this, starting threads takes longer than it saves.
enum { PARALLEL_MIN = 16384 };

static inline size_t count_chunks(size_t n, size_t chunk) { return (n + chunk - 1) / chunk; }
static inline size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

// grad (C) = sum over rows of partial (rows, stride)[:, :C] + beta grad; fp64 sums in the order of the rows.
static inline void fold_rows(float *grad, const float *partial, size_t rows, size_t stride, int C, float beta) {
    enum { WIDTH = 32 };
#pragma omp parallel for schedule(static) if (rows * C >= PARALLEL_MIN)
    for (int first = 0; first < C; first += WIDTH) {
        double sum[WIDTH] = {0};
        int width = C - first < WIDTH ? C - first : WIDTH;
        for (size_t row = 0; row < rows; row++) {
            const float *p = partial + row * stride + first;
#pragma omp simd
            for (int c = 0; c < width; c++) { sum[c] += p[c]; }
        }
        for (int c = 0; c < width; c++) {
            grad[first + c] = (float)(beta == 0 ? sum[c] : sum[c] + (double)beta * grad[first + c]);
        }
    }
}
