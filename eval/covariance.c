#include "eval/covariance.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t at(int row, int column, int n) { return (size_t)row * (size_t)n + (size_t)column; }
static int smaller(int a, int b) { return a < b ? a : b; }

// ---- the covariance ------------------------------------------------------------------------------------------------

// weight (h + 1, w + 1): the mean over draws of the sum of strength^(2 i) over the levels of that size. The sizes are
// computed in float, as in kernels/noise.c.
static double *level_weights(int h, int w, double strength, int draws, uint64_t seed) {
    double *weight = xcalloc(((size_t)h + 1) * ((size_t)w + 1), sizeof *weight);
    for (int draw = 0; draw < draws; draw++) {
        double variance = 1;
        for (int level = 1, lh = h, lw = w; level < 10 && lh > 1 && lw > 1; level++) {
            float r = 2 + 2 * philox_uniform(philox(seed, PHILOX_MULTIRES, 0, (uint64_t)draw, (uint32_t)level).x[0]);
            float power = 1;
            for (int i = 0; i < level; i++) { power *= r; }
            lh = (float)lh < power ? 1 : (int)((float)lh / power);
            lw = (float)lw < power ? 1 : (int)((float)lw / power);
            variance *= strength * strength;
            weight[at(lh, lw, w + 1)] += variance / draws;
        }
    }
    return weight;
}

// gram (size, size) = A A' with A (size, coarse) the bilinear enlargement of a line (torch's, align_corners = false).
static double *gram_of_line(int size, int coarse) {
    double *a = xcalloc((size_t)size * (size_t)coarse, sizeof *a);
    for (int i = 0; i < size; i++) {
        double x = fmax(0, (i + 0.5) * coarse / size - 0.5);
        int low = (int)x, high = smaller(low + 1, coarse - 1);
        a[at(i, low, coarse)] += 1 - (x - low);
        a[at(i, high, coarse)] += x - low;
    }
    double *gram = xcalloc((size_t)size * (size_t)size, sizeof *gram);
    for (int i = 0; i < size; i++) {
        for (int j = 0; j < size; j++) {
            for (int k = 0; k < coarse; k++) { gram[at(i, j, size)] += a[at(i, k, coarse)] * a[at(j, k, coarse)]; }
        }
    }
    free(a);
    return gram;
}

// S += weight kron(A_h A_h', A_w A_w') for one size of level.
static void add_level(double *S, int h, int w, int coarse_h, int coarse_w, double weight) {
    double *gram_h = gram_of_line(h, coarse_h), *gram_w = gram_of_line(w, coarse_w);
    int n = h * w;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) {
        const double *of_row = gram_w + at(i % w, 0, w);
        for (int y = 0; y < h; y++) {
            double factor = weight * gram_h[at(i / w, y, h)];
            if (factor == 0) { continue; }
            double *out = S + at(i, y * w, n);
            for (int x = 0; x < w; x++) { out[x] += factor * of_row[x]; }
        }
    }
    free(gram_h);
    free(gram_w);
}

double *noise_covariance(int h, int w, double strength, int draws, uint64_t seed) {
    int n = h * w;
    double *S = xcalloc((size_t)n * (size_t)n, sizeof *S), trace = 0;
    for (int i = 0; i < n; i++) { S[at(i, i, n)] = 2; }
    double *weight = level_weights(h, w, strength, draws, seed);
    for (int y = 1; y <= h; y++) {
        for (int x = 1; x <= w; x++) {
            if (weight[at(y, x, w + 1)] > 0) { add_level(S, h, w, y, x, weight[at(y, x, w + 1)]); }
        }
    }
    free(weight);
    for (int i = 0; i < n; i++) { trace += S[at(i, i, n)]; }
    double factor = n / trace;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) { S[at(i, j, n)] *= factor; }
    }
    return S;
}

// ---- Cholesky ------------------------------------------------------------------------------------------------------

// Columns are handled in tiles of TILE, which stay in registers; a block column of the factor has BLOCK columns.
enum { TILE = 32, BLOCK = 64 };

// x (TILE) -= sum_k a[k] rows[k] for rows (count, TILE).
static void subtract_rows(double *x, const double *a, const double *rows, int count) {
    double sum[TILE] = {0};
    for (int k = 0; k < count; k++) {
#pragma omp simd
        for (int c = 0; c < TILE; c++) { sum[c] += a[k] * rows[(size_t)k * TILE + (size_t)c]; }
    }
    for (int c = 0; c < TILE; c++) { x[c] -= sum[c]; }
}

// The factor of the block on the diagonal, rows and columns first..end-1.
static void factor_diagonal(double *matrix, int n, int first, int end) {
    for (int i = first; i < end; i++) {
        double *row = matrix + at(i, 0, n);
        for (int j = first; j <= i; j++) {
            const double *other = matrix + at(j, 0, n);
            double sum = row[j];
            for (int k = first; k < j; k++) { sum -= row[k] * other[k]; }
            if (i == j && !(sum > 0)) { die("covariance: row %d of %d is not positive definite", i, n); }
            row[j] = i == j ? sqrt(sum) : sum / other[j];
        }
    }
}

// The factor's columns first..end-1 in the rows below the diagonal block, and the same in tiles (tiles, BLOCK, TILE):
// packed[tile][k][c] = matrix[end + tile TILE + c][first + k].
static void solve_below(double *matrix, double *packed, int n, int first, int end) {
#pragma omp parallel for schedule(static)
    for (int i = end; i < n; i++) {
        double *row = matrix + at(i, 0, n), *to = packed + at((i - end) / TILE, 0, BLOCK * TILE) + (i - end) % TILE;
        for (int j = first; j < end; j++) {
            const double *other = matrix + at(j, 0, n);
            double sum = row[j];
            for (int k = first; k < j; k++) { sum -= row[k] * other[k]; }
            row[j] = sum / other[j];
            to[(size_t)(j - first) * TILE] = row[j];
        }
    }
}

// What is right of and below the block column: matrix[i][j] -= sum_k L[i][k] L[j][k] for j <= i (and up to the end of
// i's tile, which is above the diagonal and not used).
static void update_rest(double *matrix, const double *packed, int n, int first, int end) {
#pragma omp parallel for schedule(dynamic, 16)
    for (int i = end; i < n; i++) {
        double *row = matrix + at(i, 0, n);
        for (int j = end; j <= i; j += TILE) {
            double x[TILE] = {0};
            int width = smaller(TILE, i + 1 - j);
            memcpy(x, row + j, (size_t)width * sizeof *x);
            subtract_rows(x, row + first, packed + at((j - end) / TILE, 0, BLOCK * TILE), end - first);
            memcpy(row + j, x, (size_t)width * sizeof *x);
        }
    }
}

void cholesky(double *matrix, int n) {
    double *packed = xcalloc(((size_t)n + TILE) * BLOCK, sizeof *packed);
    for (int first = 0; first < n; first += BLOCK) {
        int end = smaller(n, first + BLOCK);
        factor_diagonal(matrix, n, first, end);
        solve_below(matrix, packed, n, first, end);
        update_rest(matrix, packed, n, first, end);
    }
    free(packed);
}

// Solves L x = b for TILE right-hand sides side by side: x (n, TILE) holds b on entry.
static void solve_tile(double *x, const double *L, int n) {
    for (int i = 0; i < n; i++) {
        double *row = x + at(i, 0, TILE), inverse = 1 / L[at(i, i, n)];
        subtract_rows(row, L + at(i, 0, n), x, i);
        for (int c = 0; c < TILE; c++) { row[c] *= inverse; }
    }
}

void inverse_forms(double *out, const double *L, const float *rows, int n, int count) {
    int tiles = (count + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic, 1)
    for (int tile = 0; tile < tiles; tile++) {
        double *x = xcalloc((size_t)n * TILE, sizeof *x);
        int first = tile * TILE, width = smaller(TILE, count - first);
        for (int c = 0; c < width; c++) {
            for (int i = 0; i < n; i++) { x[at(i, c, TILE)] = rows[at(first + c, i, n)]; }
        }
        solve_tile(x, L, n);
        for (int c = 0; c < width; c++) {
            double sum = 0;
            for (int i = 0; i < n; i++) { sum += x[at(i, c, TILE)] * x[at(i, c, TILE)]; }
            out[first + c] = sum;
        }
        free(x);
    }
}
