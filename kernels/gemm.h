// The CPU's matrix products for small and narrow shapes, used by linear.c, conv2d.c and attention.c. A tile of the
// result is held in registers. Rows of the left matrix are found through pointers, so that a convolution copies no
// patches (Dukhan 2019, "The Indirect Convolution Algorithm"). The right matrix is packed into panels of NR columns.
#pragma once
#include "kernels/runtime/device.h"
#include <stdbool.h>
#include <stddef.h>

// VEC: floats of a vector register. MR: rows of a tile; with two vectors per row, the accumulators fill the registers.
#if defined(__AVX512F__)
enum { VEC = 16, MR = 8 };
#elif defined(__AVX__)
enum { VEC = 8, MR = 6 };
#else
enum { VEC = 4, MR = 6 };
#endif
enum { NR = 2 * VEC, TALL = 2 * MR, MAX_TAPS = 9 }; // TALL: rows of a tile of one vector of columns

typedef float Vec __attribute__((vector_size(4 * VEC), aligned(4), may_alias));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

static inline Vec vec_load(const float *p) { return *(const Vec *)p; }
static inline void vec_store(float *p, Vec v) { *(Vec *)p = v; }

enum { CACHE_LINE = 16 }; // floats
// Asks for n floats ahead of their use. (gcc 12 drops calls of functions that only prefetch, unless they are inlined.)
ALWAYS_INLINE void prefetch(const float *row, int n) {
    for (int i = 0; i < n; i += CACHE_LINE) { __builtin_prefetch(row + i); }
}

// c (rows, n) = init + bias + sum over t < taps, k < K of a[t * a_tap + row][k] b[(t K + k) b_step + column].
// 1 <= rows <= MR, 1 <= n <= NR. init has c's stride and may be c, or NULL for 0; bias (n) may be NULL. A tap whose
// first pointer is NULL is skipped. b is read in whole vectors: ceil(n / VEC) per row.
void gemm_tile(float *c, const float *init, const float *bias, ptrdiff_t c_stride, const float *const *a, int a_tap,
               int k_first, const float *b, ptrdiff_t b_step, int taps, int K, int rows, int n);

// c (TALL, VEC) = init + a (TALL, K) b (K, VEC); rows are c_stride, a_stride and b_step apart. init as above.
void gemm_tall_tile(float *c, const float *init, ptrdiff_t c_stride, const float *a, ptrdiff_t a_stride, const float *b,
                    ptrdiff_t b_step, int K);

// c (rows, n) = init + sum over k < K of a[row_offset[k] + row] b[k b_step + column]: a is transposed. rows may be TALL
// if n <= VEC.
void gemm_tile_columns(float *c, const float *init, ptrdiff_t c_stride, const float *a, const int *row_offset,
                       const float *b, ptrdiff_t b_step, int K, int rows, int n);

// c (M, n) = init + sum over k < K of a[row a_row + k a_step] b[k b_step + column]: any number of tiles, one below the
// other. 1 <= n <= NR. init as above.
void gemm_strip(float *c, const float *init, ptrdiff_t c_stride, const float *a, ptrdiff_t a_row, ptrdiff_t a_step,
                const float *b, ptrdiff_t b_step, int K, int M, int n);

// The right matrix of a product: element (t, k, n) at w[t tap_stride + k k_stride + n n_stride]; k_stride or n_stride
// is 1.
typedef struct {
    const float *w;
    ptrdiff_t tap_stride, k_stride, n_stride;
    int taps, K, N;
} GemmWeight;

// One tile of rows of a product, with the pointers to its left rows.
typedef struct {
    float *c;
    const float *init, *bias; // as for gemm_tile, at the first column
    ptrdiff_t stride;         // between rows of c and of init
    int rows;
    const float *a[MAX_TAPS][MR];
} GemmTile;

// Fills tile number `index` of a product.
typedef void GemmFill(GemmTile *tile, int index, const void *context);
// Computes all tiles of c = init + bias + a weight in parallel; `rows` is the number of rows of all tiles. scratch
// holds gemm_scratch floats for the packed weight (0 if each panel is used by one thread only, which packs it on the
// fly).
size_t gemm_scratch(int rows, const GemmWeight *weight);
void gemm_tiles(int tiles, int rows, const GemmWeight *weight, GemmFill *fill, const void *context, float *scratch);

// Lists those of the rows first .. end - 1 for which columns n0 .. n0 + n - 1 of the right matrix are not all zero.
// Writes their distances from row `first`, times `scale`, to offset, and returns their number. *b and *b_step are set
// to the right matrix's rows, which are copied to panel (rows + 1, NR) or used in place. Columns up to the next
// multiple of VEC must be readable.
typedef int GemmGather(int *offset, int scale, float *panel, const float **b, ptrdiff_t *b_step, int first, int end,
                       int n0, int n, const void *context);
// The GemmGather of a matrix in memory.
typedef struct {
    const float *b; // (rows, N)
    int N;
} GemmRows;
int gemm_gather_rows(int *offset, int scale, float *panel, const float **b, ptrdiff_t *b_step, int first, int end,
                     int n0, int n, const void *rows);
// OUTER_CHUNK: most rows gathered at once. DIRECT_STEP: rows are used in place if they are at most so many floats
// apart.
enum { OUTER_CHUNK = 128, DIRECT_STEP = 2 * NR };
// c (M, N) = beta c + a^T b: a (rows, M), b (rows, N) gathered `chunk` rows at a time; beta is 0 or 1. The order of the
// sums depends only on the sizes. scratch holds gemm_outer_scratch floats.
size_t gemm_outer_scratch(int rows, int M, int N, int chunk);
void gemm_outer(float *c, const float *a, float beta, int rows, int M, int N, int chunk, GemmGather *gather,
                const void *context, float *scratch);
// The same by the calling thread alone, with b (rows, N) in memory.
void gemm_outer_serial(float *c, const float *a, float beta, int rows, int M, int N, const float *b);

// out (n) = beta out + sum over the rows of inp (rows, n). Parallel, in fixed chunks and a fixed order. scratch holds
// column_sum_scratch floats.
size_t column_sum_scratch(int rows, int n);
void column_sum(float *out, const float *inp, float beta, int rows, int n, float *scratch);

// panel (K, NR) = n columns of from (K rows, `stride` apart); up to the next multiple of VEC they are 0.
void gemm_copy_columns(float *panel, const float *from, ptrdiff_t stride, int K, int n);
// to (K, n) = the transpose of from (n, K); rows are to_stride and `stride` apart.
void gemm_transpose(float *to, ptrdiff_t to_stride, const float *from, ptrdiff_t stride, int K, int n);
// panel (K, NR) = the transpose of from (n, K), rows `stride` apart; columns beyond n are 0.
void gemm_pack_transposed(float *panel, const float *from, ptrdiff_t stride, int K, int n);

// Cuts N rows into ceil(N / MR) tiles of nearly equal height: the first row of tile i; i = tiles gives N.
static inline int tile_first(int i, int tiles, int N) {
    int small = N / tiles, larger = N % tiles;
    return i * small + (i < larger ? i : larger);
}
static inline int tile_count(int N) { return ceil_div(N, MR); }
