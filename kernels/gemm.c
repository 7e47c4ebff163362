// Faster than the plain loops (reference_linear_forward) by three things:
// - A tile of the result, MR rows by two vectors of columns, is summed in registers. A number that is loaded serves a
//   row or a column of the tile instead of one product, and no sum waits for another.
// - Right matrices are packed into panels of NR columns, so that the inner loop reads memory in order. A part of a
//   panel (CHUNK rows) stays in L1 while tiles pass by.
// - While a tile is computed, memory is asked for what the next one reads and writes, and few rows are written at a
//   time, so that the processor's own prefetching follows them: in a training step, nothing is in the caches.
// - Tiles are shared among threads. A sum over many rows is cut into segments whose number depends on the sizes
//   alone, and added up in their order: the same bits for any number of threads.
#include "kernels/gemm.h"
#include <assert.h>
#include <omp.h>
#include <string.h>

typedef float Vec4 __attribute__((vector_size(16), aligned(4), may_alias));

enum {
    CHUNK = VEC < 16 ? 384 : 256, // rows of a packed panel that stay in L1 (at most 32 KB) while all tiles use them
    ITEMS = 2                     // pieces of a product for each thread, at least; the bits do not depend on them
};

static inline int max(int a, int b) { return a > b ? a : b; }

#define BODY ALWAYS_INLINE void

BODY prefetch_to_write(const float *c, ptrdiff_t stride, int rows, int n) {
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < n; j += CACHE_LINE) { __builtin_prefetch(c + i * stride + j, 1); }
    }
}

// ---- Tiles in registers --------------------------------------------------------------------------------------------

// The bodies are expanded once per (rows, vecs), so that the accumulators are kept in registers.
#define UNROLL _Pragma("GCC unroll 16")

BODY load_tile(Vec acc[TALL][2], const float *init, const float *bias, ptrdiff_t stride, const int rows,
               const int vecs) {
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vecs; j++) {
        acc[i][j] = init ? vec_load(init + i * stride + j * VEC) : (Vec){0};
        if (bias) { acc[i][j] += vec_load(bias + j * VEC); }
    }
}

BODY store_tile(float *c, Vec acc[TALL][2], ptrdiff_t stride, const int rows, const int vecs) {
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vecs; j++)
        vec_store(c + i * stride + j * VEC, acc[i][j]);
}

BODY rows_body(float *c, const float *init, const float *bias, ptrdiff_t stride, const float *const *a, int a_tap,
               int k_first, const float *b, ptrdiff_t b_step, int taps, int K, const int rows, const int vecs) {
    Vec acc[TALL][2];
    load_tile(acc, init, bias, stride, rows, vecs);
    for (int t = 0; t < taps; t++, a += a_tap) {
        if (!a[0]) {
            b += K * b_step;
            continue;
        }
        const float *row[MR];
        UNROLL for (int i = 0; i < rows; i++) row[i] = a[i] + k_first;
        for (ptrdiff_t k = 0; k < K; k++, b += b_step) {
            Vec bv[2];
            UNROLL for (int j = 0; j < vecs; j++) bv[j] = vec_load(b + j * VEC);
            UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vecs; j++) acc[i][j] += row[i][k] * bv[j];
        }
    }
    store_tile(c, acc, stride, rows, vecs);
}

BODY columns_body(float *c, const float *init, ptrdiff_t stride, const float *a, const int *row_offset, const float *b,
                  ptrdiff_t b_step, int K, const int rows, const int vecs) {
    Vec acc[TALL][2];
    load_tile(acc, init, NULL, stride, rows, vecs);
    for (ptrdiff_t k = 0; k < K; k++, b += b_step) {
        const float *column = a + row_offset[k];
        Vec bv[2];
        UNROLL for (int j = 0; j < vecs; j++) bv[j] = vec_load(b + j * VEC);
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vecs; j++) acc[i][j] += column[i] * bv[j];
    }
    store_tile(c, acc, stride, rows, vecs);
}

// The elements of the left matrix are a_row and a_step apart. Four rows are found from one pointer.
BODY strided_body(float *c, const float *init, ptrdiff_t stride, const float *a, ptrdiff_t a_row, ptrdiff_t a_step,
                  const float *b, ptrdiff_t b_step, int K, const int rows, const int vecs) {
    Vec acc[TALL][2];
    load_tile(acc, init, NULL, stride, rows, vecs);
    const float *row[TALL / 4];
    UNROLL for (int i = 0; i < rows; i += 4) row[i / 4] = a + i * a_row;
    for (ptrdiff_t k = 0; k < K; k++, b += b_step) {
        Vec bv[2];
        UNROLL for (int j = 0; j < vecs; j++) bv[j] = vec_load(b + j * VEC);
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int j = 0; j < vecs; j++) acc[i][j] += row[i / 4][i % 4 * a_row] * bv[j];
        }
        UNROLL for (int i = 0; i < rows; i += 4) row[i / 4] += a_step;
    }
    store_tile(c, acc, stride, rows, vecs);
}

// Calls the expansion for the size of a tile. UP_TO prevents expansions that do not occur.
#define UP_TO(rows, most) ((rows) < (most) ? (rows) : (most))
#define EACH_ROWS(CALL, vecs, most)                                                                                    \
    if (rows == 1) { CALL(1, vecs); }                                                                                  \
    if (rows == 2) { CALL(2, vecs); }                                                                                  \
    if (rows == 3) { CALL(3, vecs); }                                                                                  \
    if (rows == 4) { CALL(4, vecs); }                                                                                  \
    if (rows == 5) { CALL(5, vecs); }                                                                                  \
    if (rows == 6) { CALL(6, vecs); }                                                                                  \
    if (rows == 7) { CALL(UP_TO(7, most), vecs); }                                                                     \
    if (rows == 8) { CALL(UP_TO(8, most), vecs); }
#define EACH_TALL(CALL)                                                                                                \
    if (rows == 9) { CALL(9, 1); }                                                                                     \
    if (rows == 10) { CALL(10, 1); }                                                                                   \
    if (rows == 11) { CALL(11, 1); }                                                                                   \
    if (rows == 12) { CALL(12, 1); }                                                                                   \
    if (rows == 13) { CALL(UP_TO(13, TALL), 1); }                                                                      \
    if (rows == 14) { CALL(UP_TO(14, TALL), 1); }                                                                      \
    if (rows == 15) { CALL(UP_TO(15, TALL), 1); }                                                                      \
    if (rows == 16) { CALL(UP_TO(16, TALL), 1); }
#define EACH_TILE(CALL, most)                                                                                          \
    if (n > VEC) {                                                                                                     \
        EACH_ROWS(CALL, 2, MR)                                                                                         \
    } else {                                                                                                           \
        EACH_ROWS(CALL, 1, most)                                                                                       \
    }

static void copy_tile(float *to, ptrdiff_t to_stride, const float *from, ptrdiff_t from_stride, int rows, int n) {
    for (int i = 0; i < rows; i++) { memcpy(to + i * to_stride, from + i * from_stride, n * sizeof *to); }
}

// tile (rows, NR) = from, columns beyond n 0.
static const float *padded_tile(float *tile, const float *from, ptrdiff_t stride, int rows, int n) {
    memset(tile, 0, (size_t)rows * NR * sizeof *tile);
    copy_tile(tile, NR, from, stride, rows, n);
    return tile;
}

void gemm_tile(float *c, const float *init, const float *bias, ptrdiff_t stride, const float *const *a, int a_tap,
               int k_first, const float *b, ptrdiff_t b_step, int taps, int K, int rows, int n) {
    float tile[MR * NR], padded_bias[NR];
    float *whole = c;
    ptrdiff_t c_stride = stride;
    if (n % VEC) { // use a separate tile with whole vectors
        if (init) { init = padded_tile(tile, init, stride, rows, n); }
        if (bias) { bias = padded_tile(padded_bias, bias, 0, 1, n); }
        c = tile;
        stride = NR;
    }
#define CALL(R, V) rows_body(c, init, bias, stride, a, a_tap, k_first, b, b_step, taps, K, R, V)
    EACH_TILE(CALL, MR)
#undef CALL
    if (c != whole) { copy_tile(whole, c_stride, tile, NR, rows, n); }
}

void gemm_tall_tile(float *c, const float *init, ptrdiff_t stride, const float *a, ptrdiff_t a_stride, const float *b,
                    ptrdiff_t b_step, int K) {
    strided_body(c, init, stride, a, a_stride, 1, b, b_step, K, TALL, 1);
}

void gemm_tile_columns(float *c, const float *init, ptrdiff_t stride, const float *a, const int *row_offset,
                       const float *b, ptrdiff_t b_step, int K, int rows, int n) {
    float tile[TALL * NR], *whole = c;
    ptrdiff_t c_stride = stride;
    if (n % VEC) {
        if (init) { init = padded_tile(tile, init, stride, rows, n); }
        c = tile;
        stride = NR;
    }
#define CALL(R, V) columns_body(c, init, stride, a, row_offset, b, b_step, K, R, V)
    EACH_TILE(CALL, TALL)
    EACH_TALL(CALL)
#undef CALL
    if (c != whole) { copy_tile(whole, c_stride, tile, NR, rows, n); }
}

void gemm_strip(float *c, const float *init, ptrdiff_t c_stride, const float *a, ptrdiff_t a_row, ptrdiff_t a_step,
                const float *b, ptrdiff_t b_step, int K, int M, int n) {
    float tile[TALL * NR];
    int tiles = ceil_div(M, n > VEC ? MR : TALL);
    ptrdiff_t stride = n % VEC ? NR : c_stride;
    for (int i = 0; i < tiles; i++) {
        int first = tile_first(i, tiles, M), rows = tile_first(i + 1, tiles, M) - first;
        float *whole = c + first * c_stride, *to = n % VEC ? tile : whole;
        const float *from = init ? init + first * c_stride : NULL, *left = a + first * a_row;
        if (from && n % VEC) { from = padded_tile(tile, from, c_stride, rows, n); }
#define CALL(R, V) strided_body(to, from, stride, left, a_row, a_step, b, b_step, K, R, V)
        EACH_TILE(CALL, TALL)
        EACH_TALL(CALL)
#undef CALL
        if (to != whole) { copy_tile(whole, c_stride, tile, NR, rows, n); }
    }
}

// ---- Packing -------------------------------------------------------------------------------------------------------

// The first two (low) or last two (high) elements of two vectors, interleaved; and halves of two vectors. Compilers
// turn each into one instruction. (__builtin_shuffle exists only in gcc, __builtin_shufflevector not in gcc 11.)
static inline Vec4 low_pairs(Vec4 a, Vec4 b) { return (Vec4){a[0], b[0], a[1], b[1]}; }
static inline Vec4 high_pairs(Vec4 a, Vec4 b) { return (Vec4){a[2], b[2], a[3], b[3]}; }
static inline Vec4 low_halves(Vec4 a, Vec4 b) { return (Vec4){a[0], a[1], b[0], b[1]}; }
static inline Vec4 high_halves(Vec4 a, Vec4 b) { return (Vec4){a[2], a[3], b[2], b[3]}; }

// to (K, 4) = the transpose of from (4, K).
static inline void transpose4(float *to, ptrdiff_t to_stride, const float *from, ptrdiff_t stride, int K) {
    int k = 0;
    for (; k + 4 <= K; k += 4, to += 4 * to_stride) {
        Vec4 r0 = *(const Vec4 *)(from + k), r1 = *(const Vec4 *)(from + stride + k),
             r2 = *(const Vec4 *)(from + 2 * stride + k), r3 = *(const Vec4 *)(from + 3 * stride + k);
        Vec4 s0 = low_pairs(r0, r1), s1 = high_pairs(r0, r1), s2 = low_pairs(r2, r3), s3 = high_pairs(r2, r3);
        *(Vec4 *)to = low_halves(s0, s2);
        *(Vec4 *)(to + to_stride) = high_halves(s0, s2);
        *(Vec4 *)(to + 2 * to_stride) = low_halves(s1, s3);
        *(Vec4 *)(to + 3 * to_stride) = high_halves(s1, s3);
    }
    for (; k < K; k++, to += to_stride) {
        for (int n = 0; n < 4; n++) { to[n] = from[n * stride + k]; }
    }
}

// ahead: prefetches the rows that are read next.
BODY transpose(float *to, ptrdiff_t to_stride, const float *from, ptrdiff_t stride, int K, int n, const bool ahead) {
    int j = 0;
    for (; j + 4 <= n; j += 4) {
        for (int i = j + 4; ahead && i < min(j + 8, n); i++) { prefetch(from + i * stride, K); }
        transpose4(to + j, to_stride, from + j * stride, stride, K);
    }
    for (; j < n; j++) {
        for (int k = 0; k < K; k++) { to[k * to_stride + j] = from[j * stride + k]; }
    }
}

void gemm_transpose(float *to, ptrdiff_t to_stride, const float *from, ptrdiff_t stride, int K, int n) {
    transpose(to, to_stride, from, stride, K, n, false);
}

// Columns from n on of panel (K, NR) become 0. (Leftovers may be denormal numbers, with which products are slow.)
static void zero_columns(float *panel, int K, int n) {
    for (int k = 0; n < NR && k < K; k++) { memset(panel + k * NR + n, 0, (NR - n) * sizeof *panel); }
}

void gemm_copy_columns(float *to, const float *from, ptrdiff_t stride, int K, int n) {
    for (int k = 0; k < K; k++) {
        if (n == NR) {
            vec_store(to + k * NR, vec_load(from + k * stride));
            vec_store(to + k * NR + VEC, vec_load(from + k * stride + VEC));
        } else if (n == VEC) {
            vec_store(to + k * NR, vec_load(from + k * stride));
        } else {
            memcpy(to + k * NR, from + k * stride, n * sizeof *to);
        }
    }
    if (n % VEC) { zero_columns(to, K, n); }
}

void gemm_pack_transposed(float *to, const float *from, ptrdiff_t stride, int K, int n) {
    gemm_transpose(to, NR, from, stride, K, n);
    zero_columns(to, K, n);
}

// Packs taps [t0, t1), rows [k0, k1) of a panel of the weight, from column n0 on.
static void pack_panel(float *to, const GemmWeight *w, int n0, int t0, int t1, int k0, int k1) {
    int n = min(NR, w->N - n0), K = k1 - k0;
    for (int t = t0; t < t1; t++, to += (size_t)K * NR) {
        const float *from = w->w + t * w->tap_stride + k0 * w->k_stride + n0 * w->n_stride;
        if (w->k_stride == 1) {
            transpose(to, NR, from, w->n_stride, K, n, true);
            zero_columns(to, K, n);
        } else if (n == NR) {
            for (int k = 0; k < K; k++) { memcpy(to + k * NR, from + k * w->k_stride, NR * sizeof *to); }
        } else {
            for (int k = 0; k < K; k++) {
                for (int j = 0; j < NR; j++) { to[k * NR + j] = j < n ? from[k * w->k_stride + j * w->n_stride] : 0; }
            }
        }
    }
}

// ---- The whole product ---------------------------------------------------------------------------------------------

enum {
    FEW_ROWS = 256,          // up to so many rows, all tiles are one block
    BLOCK = 8,               // else tiles of a block: rows that are written at the same time
    SMALL_BLOCK = 4,         // the same if the whole weight stays in L2 ...
    SMALL_WEIGHT = 256 << 10 // ... with up to so many floats
};

static int chunk_taps(const GemmWeight *w) { return w->K >= CHUNK ? 1 : min(w->taps, CHUNK / w->K); }
static int chunk_parts(const GemmWeight *w) { return ceil_div(w->K, CHUNK); }
static int panels(const GemmWeight *w) { return ceil_div(w->N, NR); }

size_t gemm_scratch(int rows, const GemmWeight *w) {
    return rows <= FEW_ROWS ? 0 : (size_t)panels(w) * NR * w->taps * w->K;
}

// Prefetches K floats from k0 on of the rows of one tap.
BODY prefetch_rows(const GemmTile *tile, int tap, int k0, int K) {
    for (int i = 0; i < tile->rows && tile->a[tap][0]; i++) { prefetch(tile->a[tap][i] + k0, K); }
}

// One panel of columns for some tiles. packed: the whole panel; if NULL, the panel is packed here, chunk by chunk.
// new_rows: the tiles' left rows were not read for another panel yet.
static void panel_product(const GemmTile *tiles, int count, const GemmWeight *w, int panel, const float *packed,
                          bool new_rows) {
    float local[CHUNK * NR] __attribute__((aligned(64)));
    int step = chunk_taps(w), parts = chunk_parts(w), n0 = panel * NR, n = min(NR, w->N - n0);
    for (int t = 0; t < w->taps; t += step) {
        int t1 = min(t + step, w->taps);
        for (int part = 0; part < parts; part++) {
            int k0 = (long)w->K * part / parts, k1 = (long)w->K * (part + 1) / parts;
            const float *b = packed ? packed + ((size_t)t * w->K + k0) * NR : local;
            if (!packed) { pack_panel(local, w, n0, t, t1, k0, k1); }
            bool first = t == 0 && part == 0;
            for (int i = 0; i < count; i++) {
                const GemmTile *tile = tiles + i;
                float *c = tile->c + n0;
                const float *init = first ? (tile->init ? tile->init + n0 : NULL) : c;
                const float *bias = first && tile->bias ? tile->bias + n0 : NULL;
                if (i + 1 < count && new_rows) { prefetch_rows(tile + 1, t, k0, k1 - k0); }
                if (i + 1 < count && first) { prefetch_to_write(tile[1].c + n0, tile[1].stride, tile[1].rows, n); }
                gemm_tile(c, init, bias, tile->stride, tile->a[t], MR, k0, b, NR, t1 - t, k1 - k0, tile->rows, n);
            }
        }
    }
}

void gemm_tiles(int tiles, int rows, const GemmWeight *w, GemmFill *fill, const void *context, float *scratch) {
    size_t panel_floats = (size_t)w->taps * w->K * NR;
    int count = panels(w);
    bool few = rows <= FEW_ROWS, small = count * panel_floats <= SMALL_WEIGHT;
    int block = few ? tiles : small ? SMALL_BLOCK : BLOCK, blocks = ceil_div(tiles, block);
    int groups = few ? count : min(count, ceil_div(ITEMS * omp_get_max_threads(), blocks));
#pragma omp parallel
    {
        if (!few) {
#pragma omp for collapse(2)
            for (int p = 0; p < count; p++) {
                for (int t = 0; t < w->taps; t++) {
                    pack_panel(scratch + p * panel_floats + (size_t)t * w->K * NR, w, p * NR, t, t + 1, 0, w->K);
                }
            }
        }
        GemmTile local[block];
        int filled = -1;
#pragma omp for collapse(2) schedule(dynamic)
        for (int b = 0; b < blocks; b++) {
            for (int g = 0; g < groups; g++) {
                int first = b * block, n = min(block, tiles - first);
                for (int i = 0; filled != b && i < n; i++) { fill(local + i, first + i, context); }
                filled = b;
                int p0 = (long)count * g / groups, p1 = (long)count * (g + 1) / groups;
                for (int p = p0; p < p1; p++) {
                    panel_product(local, n, w, p, few ? NULL : scratch + p * panel_floats, p == p0);
                }
            }
        }
    }
}

// ---- Products of columns -------------------------------------------------------------------------------------------

enum {
    OUTER_SEGMENTS = 16, // most segments of rows
    OUTER_TILES = 32,    // most tiles of rows of a piece: its data of a chunk stays in L2
    PACK_COLUMNS = 48,   // packing pays from this many columns of the left matrix on (fewer: a chunk stays in L1)
    PACK_PANELS = 2,     // least number of panels that share the packed columns
    PACK_ROWS = 8,       // rows packed at a time
    OUTER_PANELS = 6,    // most panels of a piece, except for small results
    SMALL = 1 << 16,     // a result of up to so many elements is summed from segments of rows ...
    SEGMENT_ROWS = 256,  // ... of at least this length
    // Of a packed tile: tiles start in different sets of L1.
    TILE_FLOATS = OUTER_CHUNK * MR + CACHE_LINE,
};

// A product cut into pieces: segments of rows (each with its own result), groups of panels, groups of tiles.
typedef struct {
    int segments, columns, groups;
} Cut;

// The number of tiles of rows of the result; they are tall if they have one vector of columns.
static int outer_tiles(int M, int N) { return ceil_div(M, N <= VEC ? TALL : MR); }

static Cut cut_outer(int rows, int M, int N, int chunk) {
    int tiles = outer_tiles(M, N), panels = ceil_div(N, NR);
    if (tiles <= OUTER_TILES && (long)M * N <= SMALL && rows >= 2 * SEGMENT_ROWS) {
        return (Cut){min(OUTER_SEGMENTS, ceil_div(rows, max(SEGMENT_ROWS, chunk))), 1, 1};
    }
    int columns = ceil_div(panels, OUTER_PANELS);
    int items = ITEMS * omp_get_max_threads();
    return (Cut){1, columns, min(tiles, max(ceil_div(tiles, OUTER_TILES), ceil_div(items, columns)))};
}

size_t gemm_outer_scratch(int rows, int M, int N, int chunk) {
    Cut cut = cut_outer(rows, M, N, chunk);
    return cut.segments > 1 ? (size_t)cut.segments * M * N : 0;
}

// to: for each tile t0 .. t1 - 1, its columns of a (rows, M) as (rows, MR), TILE_FLOATS apart. PACK_ROWS rows at a
// time, so that whole cache lines are read and written.
static void pack_columns(float *to, const float *a, int rows, int M, int tiles, int t0, int t1) {
    for (int k0 = 0; k0 < rows; k0 += PACK_ROWS) {
        int k1 = min(k0 + PACK_ROWS, rows);
        for (int t = t0; t < t1; t++) {
            int m = tile_first(t, tiles, M), n = tile_first(t + 1, tiles, M) - m;
            float *tile = to + (size_t)(t - t0) * TILE_FLOATS;
            const float *from = a + m;
            if (n == MR) {
                for (int k = k0; k < k1; k++) { memcpy(tile + k * MR, from + (size_t)k * M, MR * sizeof *to); }
                continue;
            }
            for (int k = k0; k < k1; k++) {
                for (int i = 0; i < n; i++) { tile[k * MR + i] = from[(size_t)k * M + i]; }
            }
        }
    }
}

typedef struct {
    float *c;
    const float *a;
    float beta;
    int rows, M, N, chunk;
    GemmGather *gather;
    const void *context;
} Outer;

// Rows of a matrix (rows, N), used in place where vectors stay inside and rows do not share few L1 sets.
int gemm_gather_rows(int *offset, int scale, float *panel, const float **b, ptrdiff_t *b_step, int first, int end,
                     int n0, int n, const void *context) {
    const GemmRows *rows = context;
    for (int i = 0; i < end - first; i++) { offset[i] = i * scale; }
    *b = rows->b + (size_t)first * rows->N + n0;
    *b_step = rows->N;
    if (n % VEC || rows->N > DIRECT_STEP) {
        gemm_copy_columns(panel, *b, rows->N, end - first, n);
        *b = panel;
        *b_step = NR;
    }
    return end - first;
}

// Prefetches part `step` of `steps` of the rows of a (rows, stride): n columns.
BODY prefetch_part(const float *a, ptrdiff_t stride, int rows, int n, int step, int steps) {
    int end = (long)rows * (step + 1) / steps;
    for (int k = (long)rows * step / steps; k < end; k++) { prefetch(a + k * stride, n); }
}

// Rows first .. end - 1, panels p0 .. p1 - 1 of columns, tiles t0 .. t1 - 1 of rows of c.
static void outer_piece(const Outer *o, float *c, float beta, int first, int end, int p0, int p1, int t0, int t1) {
    float panel[(OUTER_CHUNK + 1) * NR] __attribute__((aligned(64)));
    float packed[OUTER_TILES * TILE_FLOATS] __attribute__((aligned(64)));
    int offset[OUTER_CHUNK], M = o->M, N = o->N, tiles = outer_tiles(M, N), steps = (p1 - p0) * (t1 - t0);
    int m0 = tile_first(t0, tiles, M), columns = tile_first(t1, tiles, M) - m0;
    bool pack = M >= PACK_COLUMNS && p1 - p0 >= PACK_PANELS;
    for (int row = first; row < end; row += o->chunk) {
        int rows = min(end - row, o->chunk), next_rows = min(end - row - rows, o->chunk), step = 0;
        const float *a = o->a + (size_t)row * M, *next = a + (size_t)rows * M + m0;
        if (pack) { pack_columns(packed, a, rows, M, tiles, t0, t1); }
        for (int p = p0; p < p1; p++) {
            const float *b;
            ptrdiff_t b_step;
            int n0 = p * NR, n = min(NR, N - n0);
            int K = o->gather(offset, pack ? MR : M, panel, &b, &b_step, row, row + rows, n0, n, o->context);
            for (int t = t0; t < t1; t++) {
                int m = tile_first(t, tiles, M), height = tile_first(t + 1, tiles, M) - m;
                float *to = c + (size_t)m * N + n0;
                prefetch_part(next, M, next_rows, columns, step++, steps);
                if (row == first && t + 1 < t1) { prefetch_to_write(to + (size_t)height * N, N, height, n); }
                gemm_tile_columns(to, row == first && beta == 0 ? NULL : to, N,
                                  pack ? packed + (t - t0) * TILE_FLOATS : a + m, offset, b, b_step, K, height, n);
            }
        }
    }
}

// c = beta c + the results of the segments, added in order.
static void sum_segments(float *c, const float *partial, float beta, int segments, size_t n) {
    size_t whole = n - n % VEC;
#pragma omp parallel for
    for (size_t i = 0; i < whole; i += VEC) {
        Vec sum = vec_load(partial + i);
        if (beta != 0) { sum += vec_load(c + i); }
        for (int s = 1; s < segments; s++) { sum += vec_load(partial + s * n + i); }
        vec_store(c + i, sum);
    }
    for (size_t i = whole; i < n; i++) {
        float sum = beta != 0 ? c[i] + partial[i] : partial[i];
        for (int s = 1; s < segments; s++) { sum += partial[s * n + i]; }
        c[i] = sum;
    }
}

void gemm_outer(float *c, const float *a, float beta, int rows, int M, int N, int chunk, GemmGather *gather,
                const void *context, float *scratch) {
    assert((beta == 0 || beta == 1) && chunk <= OUTER_CHUNK);
    Cut cut = cut_outer(rows, M, N, chunk);
    Outer o = {c, a, beta, rows, M, N, chunk, gather, context};
    int tiles = outer_tiles(M, N), panels = ceil_div(N, NR), chunks = ceil_div(rows, chunk);
    bool split = cut.segments > 1;
#pragma omp parallel for collapse(3) schedule(dynamic)
    for (int s = 0; s < cut.segments; s++) {
        for (int i = 0; i < cut.columns; i++) {
            for (int j = 0; j < cut.groups; j++) {
                int first = (long)chunks * s / cut.segments * chunk,
                    end = (long)chunks * (s + 1) / cut.segments * chunk;
                outer_piece(&o, split ? scratch + (size_t)s * M * N : c, split ? 0 : beta, first, min(rows, end),
                            (long)panels * i / cut.columns, (long)panels * (i + 1) / cut.columns,
                            (long)tiles * j / cut.groups, (long)tiles * (j + 1) / cut.groups);
            }
        }
    }
    if (split) { sum_segments(c, scratch, beta, cut.segments, (size_t)M * N); }
}

void gemm_outer_serial(float *c, const float *a, float beta, int rows, int M, int N, const float *b) {
    GemmRows columns = {b, N};
    Outer o = {c, a, beta, rows, M, N, OUTER_CHUNK, gemm_gather_rows, &columns};
    int tiles = outer_tiles(M, N), panels = ceil_div(N, NR);
    for (int p = 0; p < panels; p += OUTER_PANELS) {
        for (int t = 0; t < tiles; t += OUTER_TILES) {
            outer_piece(&o, c, beta, 0, rows, p, min(p + OUTER_PANELS, panels), t, min(t + OUTER_TILES, tiles));
        }
    }
}

// ---- Sums of columns -----------------------------------------------------------------------------------------------

enum { SUM_CHUNK = 256 }; // rows

size_t column_sum_scratch(int rows, int n) { return (size_t)ceil_div(rows, SUM_CHUNK) * n; }

void column_sum(float *out, const float *inp, float beta, int rows, int n, float *scratch) {
    int chunks = ceil_div(rows, SUM_CHUNK);
#pragma omp parallel for if (chunks > 4)
    for (int c = 0; c < chunks; c++) {
        int first = c * SUM_CHUNK, end = min(rows, first + SUM_CHUNK), i = 0;
        float *to = scratch + (size_t)c * n;
        for (; i + 2 * NR <= n; i += 2 * NR) {
            Vec sum[4] = {0};
            for (int r = first; r < end; r++) {
                for (int j = 0; j < 4; j++) { sum[j] += vec_load(inp + (size_t)r * n + i + j * VEC); }
            }
            for (int j = 0; j < 4; j++) { vec_store(to + i + j * VEC, sum[j]); }
        }
        for (; i + VEC <= n; i += VEC) {
            Vec sum[4] = {0};
            int r = first;
            for (; r + 4 <= end; r += 4) {
                for (int j = 0; j < 4; j++) { sum[j] += vec_load(inp + (size_t)(r + j) * n + i); }
            }
            for (; r < end; r++) { sum[0] += vec_load(inp + (size_t)r * n + i); }
            vec_store(to + i, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
        for (; i < n; i++) {
            to[i] = 0;
            for (int r = first; r < end; r++) { to[i] += inp[(size_t)r * n + i]; }
        }
    }
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int c = 0; c < chunks; c++) { sum += scratch[(size_t)c * n + i]; }
        out[i] = (float)(sum + (beta != 0 ? (double)beta * out[i] : 0));
    }
}
