// A correlation of n + 2 numbers with 3 gives n numbers: the middle of a product of polynomials, which can be evaluated
// at points, multiplied there, and interpolated. With the points 0, +-3/4, +-3/2 and infinity (Toom-Cook), 4 outputs
// take 6 products; along both axes, 4 x 4 outputs take 36. In matrices (Lavin & Gray), with (.) the product of
// elements:
//     out (4, 4) = A^T [ (G w G^T) (.) (B^T inp B) ] A,    inp (6, 6), w (3, 3)
// The sum over input channels is taken before A, so that each of the 36 positions is a matrix product: tiles by
// channels with channels by channels. The gradient of w is the adjoint: G^T [ (A dout A^T) (.) (B^T inp B), summed over
// tiles ] G. These points keep the error at about five times that of the direct sum; the textbook's 0, +-1, +-2 double
// it.
#include "kernels/winograd.h"
#include <assert.h>
#include <omp.h>
#include <string.h>

// A tile has OUT x OUT outputs and reads SIDE x SIDE inputs. PAD floats keep positions from sharing few sets of L1.
enum { OUT = 4, TAPS = 3, SIDE = OUT + TAPS - 1, POSITIONS = SIDE * SIDE, ALL_TAPS = TAPS * TAPS, PAD = VEC };

// The points +-P and +-Q, their powers, and the factors of the interpolation at 0, +-P and +-Q, which G carries.
#define P 0.75f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)
#define AT_0 (1 / (P2 * Q2))
#define AT_P (1 / (2 * P2 * (P2 - Q2)))
#define AT_Q (1 / (2 * Q2 * (Q2 - P2)))

// ---- Transforms of one line -----------------------------------------------------------------------------------------

#define LINE ALWAYS_INLINE void
#define UNROLL _Pragma("GCC unroll 36")

// A square is transformed along its columns and then along its rows. The results come in pairs that share terms, so
// the columns give two rows at a time, which are transformed and stored at once: few vectors are alive.
enum { PAIRS = 3 };
static const int FIRST_OF_PAIR[PAIRS] = {0, 1, 3}, SECOND_OF_PAIR[PAIRS] = {5, 2, 4};

// Rows FIRST_OF_PAIR and SECOND_OF_PAIR of B^T (6).
LINE input_pair(Vec *first, Vec *second, const Vec *d, const int pair) {
    if (pair == 0) {
        *first = P2 * Q2 * d[0] - (P2 + Q2) * d[2] + d[4];
        *second = P2 * Q2 * d[1] - (P2 + Q2) * d[3] + d[5];
        return;
    }
    const float root = pair == 1 ? P : Q, other = pair == 1 ? Q2 : P2;
    Vec even = d[4] - other * d[2], odd = root * (d[3] - other * d[1]);
    *first = even + odd, *second = even - odd;
}

// g (6) = G g (3)
LINE weight_line(Vec *g) {
    Vec g0 = g[0], g1 = g[1], g2 = g[2];
    Vec even_p = AT_P * (g0 + P2 * g2), odd_p = AT_P * P * g1;
    Vec even_q = AT_Q * (g0 + Q2 * g2), odd_q = AT_Q * Q * g1;
    g[0] = AT_0 * g0;
    g[1] = even_p + odd_p, g[2] = even_p - odd_p;
    g[3] = even_q + odd_q, g[4] = even_q - odd_q;
    g[5] = g2;
}

// Rows `half` and `half` + 2 of A^T (6).
LINE output_pair(Vec *first, Vec *second, const Vec *m, const int half) {
    if (half == 0) {
        Vec p = m[1] + m[2], q = m[3] + m[4];
        *first = m[0] + p + q, *second = P2 * p + Q2 * q;
    } else {
        Vec p = P * (m[1] - m[2]), q = Q * (m[3] - m[4]);
        *first = p + q, *second = P2 * p + Q2 * q + m[5];
    }
}

// Rows FIRST_OF_PAIR and SECOND_OF_PAIR of A (4).
LINE output_gradient_pair(Vec *first, Vec *second, const Vec *y, const int pair) {
    if (pair == 0) {
        *first = y[0], *second = y[3];
        return;
    }
    const float root = pair == 1 ? P : Q;
    Vec even = y[0] + root * root * y[2], odd = root * (y[1] + root * root * y[3]);
    *first = even + odd, *second = even - odd;
}

// u (3) = G^T u (6)
LINE weight_gradient_line(Vec *u) {
    Vec even_p = AT_P * (u[1] + u[2]), odd_p = AT_P * P * (u[1] - u[2]);
    Vec even_q = AT_Q * (u[3] + u[4]), odd_q = AT_Q * Q * (u[3] - u[4]);
    u[0] = AT_0 * u[0] + even_p + even_q;
    u[1] = odd_p + odd_q;
    u[2] = P2 * even_p + Q2 * even_q + u[5];
}

// ---- Tiles ---------------------------------------------------------------------------------------------------------

typedef struct {
    int b, y, x; // sample, first row and column of out
} Tile;

static int tiles_along(int size) { return ceil_div(size, OUT); }
static int all_tiles(const Winograd *w) { return w->B * tiles_along(w->H) * tiles_along(w->W); }

static Tile tile_at(const Winograd *w, int index) {
    int rows = tiles_along(w->H), columns = tiles_along(w->W);
    return (Tile){index / (rows * columns), index / columns % rows * OUT, index % columns * OUT};
}

// A square of pixels, `row` and `column` floats apart; `whole` if it lies inside the image.
typedef struct {
    const float *at;
    ptrdiff_t row, column;
    bool whole;
} Square;

// The square of `side` from row y, column x on, in sample b of an image (B, H, W, C).
static Square square_at(const float *image, int b, int y, int x, int side, int H, int W, int C) {
    bool whole = y >= 0 && y + side <= H && x >= 0 && x + side <= W;
    return (Square){image + (((ptrdiff_t)b * H + y) * W + x) * C, (ptrdiff_t)W * C, C, whole};
}

// Copies a vector of channels from c on of the pixels that are inside the image; the others are 0.
static __attribute__((noinline)) Square copy_inside(Vec *copy, const Square *s, int c, int y, int x, int side, int H,
                                                    int W) {
    for (int i = 0; i < side; i++) {
        bool inside = (unsigned)(y + i) < (unsigned)H;
        for (int j = 0; j < side; j++) {
            copy[i * side + j] =
                inside && (unsigned)(x + j) < (unsigned)W ? vec_load(s->at + i * s->row + j * s->column + c) : (Vec){0};
        }
    }
    return (Square){(const float *)copy, side * VEC, VEC, true};
}

// v = column j of the square, from channel c on.
LINE load_column(Vec *v, const Square *s, int c, const int j, const int side) {
    UNROLL for (int i = 0; i < side; i++) v[i] = vec_load(s->at + i * s->row + j * s->column + c);
}

// Stores the two rows of a pair.
LINE store_rows(float *to, size_t step, const Vec out[2][SIDE], const int pair) {
    float *first = to + FIRST_OF_PAIR[pair] * SIDE * step, *second = to + SECOND_OF_PAIR[pair] * SIDE * step;
    UNROLL for (int j = 0; j < SIDE; j++) {
        vec_store(first + j * step, out[0][j]);
        vec_store(second + j * step, out[1][j]);
    }
}

// Where a transform puts its numbers: position p, channel c at p * position + c / NR * panel + c % NR. panel is NR if a
// tile's channels lie together.
typedef struct {
    size_t position, panel;
} Layout;

static float *place(float *to, Layout l, int channel) { return to + channel / NR * l.panel + channel % NR; }

LINE pair_of(Vec *first, Vec *second, const Vec *line, const int pair, const bool gradient) {
    gradient ? output_gradient_pair(first, second, line, pair) : input_pair(first, second, line, pair);
}

// Channels n0 .. n1 - 1 of a square from row y, column x on, transformed along its columns and rows.
LINE transform_square(float *to, Layout l, Square s, int y, int x, int H, int W, int n0, int n1, const int side,
                      const bool gradient) {
    for (int n = n0; n < n1; n += VEC) {
        Vec copy[POSITIONS];
        Square from = s.whole ? s : copy_inside(copy, &s, n, y, x, side, H, W);
        float *at = place(to, l, n - n0);
        UNROLL for (int pair = 0; pair < PAIRS; pair++) {
            Vec row[2][SIDE], out[2][SIDE];
            UNROLL for (int j = 0; j < side; j++) {
                Vec column[SIDE];
                load_column(column, &from, s.whole ? n : 0, j, side);
                pair_of(row[0] + j, row[1] + j, column, pair, gradient);
            }
            UNROLL for (int i = 0; i < 2; i++) {
                UNROLL for (int q = 0; q < PAIRS; q++)
                    pair_of(out[i] + FIRST_OF_PAIR[q], out[i] + SECOND_OF_PAIR[q], row[i], q, gradient);
            }
            store_rows(at, l.position, out, pair);
        }
    }
}

// B^T inp B of one tile.
static void transform_input(float *to, Layout l, const Winograd *w, Tile t) {
    int y = t.y - w->pad, x = t.x - w->pad;
    Square s = square_at(w->inp, t.b, y, x, SIDE, w->inp_H, w->inp_W, w->K);
    transform_square(to, l, s, y, x, w->inp_H, w->inp_W, 0, w->K, SIDE, false);
}

// A dout A^T of channels n0 .. n1 - 1 of one tile.
static void transform_output_gradient(float *to, Layout l, const float *dout, const Winograd *w, Tile t, int n0,
                                      int n1) {
    Square s = square_at(dout, t.b, t.y, t.x, OUT, w->H, w->W, w->N);
    transform_square(to, l, s, t.y, t.x, w->H, w->W, n0, n1, OUT, true);
}

// Stores `columns` of v in row i of a tile of out whose first pixel is at `at`, plus constant and init.
LINE store_row(const Winograd *w, const Vec *v, size_t at, Vec constant, const int i, const int columns) {
    UNROLL for (int j = 0; j < OUT; j++) {
        if (j >= columns) { break; }
        size_t to = at + ((size_t)i * w->W + j) * w->N;
        Vec sum = v[j] + constant;
        if (w->init) { sum += vec_load(w->init + to); }
        vec_store(w->out + to, sum);
    }
}

// Channels n0 .. n1 - 1 of out of one tile = A^T m A + bias + init, from m[position * step + channel - n0].
static void transform_output(const Winograd *w, Tile t, int n0, int n1, const float *m, size_t step) {
    int rows = min(OUT, w->H - t.y), columns = min(OUT, w->W - t.x);
    size_t first = (((size_t)t.b * w->H + t.y) * w->W + t.x) * w->N;
    const float *bias = w->bias ? w->bias + (w->bias_per_sample ? (size_t)t.b * w->N : 0) : NULL;
    for (int n = n0; n < n1; n += VEC) {
        Vec constant = bias ? vec_load(bias + n) : (Vec){0};
        Square from = {m + n - n0, SIDE * step, step, true};
        UNROLL for (int half = 0; half < 2; half++) {
            Vec row[2][SIDE], out[2][OUT];
            UNROLL for (int j = 0; j < SIDE; j++) {
                Vec column[SIDE];
                load_column(column, &from, 0, j, SIDE);
                output_pair(row[0] + j, row[1] + j, column, half);
            }
            UNROLL for (int i = 0; i < 2; i++) {
                output_pair(out[i], out[i] + 2, row[i], 0);
                output_pair(out[i] + 1, out[i] + 3, row[i], 1);
                if (half + 2 * i < rows) { store_row(w, out[i], first + n, constant, half + 2 * i, columns); }
            }
        }
    }
}

// ---- The weight -----------------------------------------------------------------------------------------------------

// to[position * step] = G w G^T of a vector of output channels, whose taps are tap_stride apart.
LINE transform_weight(float *to, size_t step, const float *taps, ptrdiff_t tap_stride) {
    Vec column[TAPS][SIDE];
    UNROLL for (int t = 0; t < ALL_TAPS; t++) { column[t % TAPS][t / TAPS] = vec_load(taps + t * tap_stride); }
    UNROLL for (int j = 0; j < TAPS; j++) weight_line(column[j]);
    UNROLL for (int i = 0; i < SIDE; i++) {
        Vec row[SIDE] = {column[0][i], column[1][i], column[2][i]};
        weight_line(row);
        UNROLL for (int j = 0; j < SIDE; j++) vec_store(to + (i * SIDE + j) * step, row[j]);
    }
}

// to[position * step] (VEC, NR) = G w G^T of input channels k .. k + VEC - 1 and the output channels from n0 on. One
// kind of channels must be contiguous in the weight, or else its taps, as in PyTorch's order. If it is not the output
// channels, the taps are transposed first: they are a quarter of the result.
static void pack_rows(float *to, size_t step, const Winograd *w, const GemmWeight *weight, int n0, int n, int k) {
    float copy[VEC * ALL_TAPS * NR] __attribute__((aligned(64)));
    const float *from = weight->w + k * weight->k_stride + n0 * weight->n_stride;
    ptrdiff_t k_stride = weight->k_stride, tap_stride = weight->tap_stride;
    if (weight->n_stride == ALL_TAPS) { // each row (n, taps)
        for (int i = 0; i < VEC; i++) {
            gemm_pack_transposed(copy + i * ALL_TAPS * NR, from + i * k_stride, ALL_TAPS, ALL_TAPS, n);
        }
        from = copy, k_stride = ALL_TAPS * NR, tap_stride = NR;
    } else if (k_stride == ALL_TAPS) { // (n, VEC, taps)
        gemm_pack_transposed(copy, from, weight->n_stride, VEC * ALL_TAPS, n);
        from = copy, k_stride = ALL_TAPS * NR, tap_stride = NR;
    } else if (k_stride == 1) { // each tap (n, VEC)
        for (int t = 0; t < ALL_TAPS; t++) {
            gemm_pack_transposed(copy + t * VEC * NR, from + t * tap_stride, weight->n_stride, VEC, n);
        }
        from = copy, k_stride = NR, tap_stride = VEC * NR;
    }
    if (w->flipped) { from += (ALL_TAPS - 1) * tap_stride, tap_stride = -tap_stride; }
    for (int i = 0; i < VEC; i++) {
        for (int j = 0; j < n; j += VEC) {
            transform_weight(to + i * NR + j, step, from + i * k_stride + j, tap_stride);
        }
    }
}

// ---- Sizes ----------------------------------------------------------------------------------------------------------

enum {
    MOST_TILES = 64,         // of a block
    ITEMS = 16,              // blocks that suffice for the threads
    ROWS_IN_L1 = 384,        // of a panel of the weight
    FEW_TILES = 64,          // so few share the transform of a weight that it must not go through memory ...
    FEW_GRADIENT_TILES = 32, // (for its gradient) ...
    FEW_FACTOR = 128,        // ... if it has so many elements for each tile
    FEW_ROWS = 4 * VEC       // its input channels that are transformed at a time
};

static bool are_few(const Winograd *w, int most) {
    int tiles = all_tiles(w);
    return tiles <= most && (long)w->K * w->N >= FEW_FACTOR * tiles;
}
static size_t position_floats(int tiles, int channels) { return (size_t)tiles * channels + PAD; }

// Compares numbers of multiply-adds for one sample, so that its bits do not depend on the others of its batch. Measured
// in these, the transforms of a tile's channel take 250, and so do those of a weight.
bool winograd_pays(const Winograd *w) {
    if (w->K % VEC || w->N % VEC) { return false; }
    double tiles = tiles_along(w->H) * tiles_along(w->W), products = (double)w->K * w->N;
    double fast = (POSITIONS * tiles + 250) * products + 250 * tiles * (w->K + w->N);
    return 1.1 * fast < (double)w->H * w->W * TAPS * TAPS * products;
}

// ---- The convolution ------------------------------------------------------------------------------------------------

// m (tiles, n), rows m_step apart, = init + K numbers of v's rows (tiles, v_step) times a panel of the weight (K, NR).
static void multiply(float *m, int m_step, bool init, const float *v, int v_step, const float *panel, int tiles, int K,
                     int n) {
    int tall = n <= VEC ? tiles - tiles % TALL : 0, groups = tile_count(tiles - tall);
    for (int i = 0; i < tall; i += TALL) {
        float *to = m + (size_t)i * m_step;
        gemm_tall_tile(to, init ? to : NULL, m_step, v + (size_t)i * v_step, v_step, panel, NR, K);
    }
    for (int g = 0; g < groups; g++) {
        int first = tall + tile_first(g, groups, tiles - tall),
            rows = tall + tile_first(g + 1, groups, tiles - tall) - first;
        const float *row[MR];
        for (int i = 0; i < rows; i++) { row[i] = v + (size_t)(first + i) * v_step; }
        float *to = m + (size_t)first * m_step;
        gemm_tile(to, init ? to : NULL, NULL, m_step, row, MR, 0, panel, NR, 1, K, rows, n);
    }
}

// With many tiles, the weight is transformed first. Each thread then takes blocks of tiles through all steps, in arrays
// of its own that stay in L2.

// Panels that are packed at a time: all, or as many as stay in L3, so that large weights do not go through memory. The
// input of a tile is transformed again for each such group, which costs little beside two panels' products.
static int group_panels(const Winograd *w) {
    int all = ceil_div(w->N, NR), fit = (16 << 20) / (POSITIONS * w->K * NR * (int)sizeof(float));
    return min(all, fit > 2 ? fit : 2);
}

static size_t weight_step(const Winograd *w) { return position_floats(group_panels(w) * NR, w->K); }
static size_t weight_floats(const Winograd *w) { return POSITIONS * weight_step(w); }

// Many tiles, to use what is read of the weight often, but no more than L2 holds, and enough blocks for all threads.
static int block_tiles(const Winograd *w) {
    int tiles = MOST_TILES, channels = w->K + group_panels(w) * NR;
    while (tiles > 2 * MR && (tiles * channels > 8192 || ceil_div(all_tiles(w), tiles) < ITEMS)) { tiles /= 2; }
    return tiles;
}

static size_t block_floats(const Winograd *w) {
    int tiles = block_tiles(w);
    return POSITIONS * (position_floats(tiles, w->K) + position_floats(tiles, group_panels(w) * NR));
}

// Columns n0 .. n1 - 1 of some tiles; weight (position, panel of the group, K, NR); v holds block_floats.
static void convolve_block(const Winograd *w, int first, int tiles, int n0, int n1, const float *weight, float *v) {
    int K = w->K, N = n1 - n0, parts = ceil_div(K, ROWS_IN_L1);
    Layout input = {position_floats(tiles, K), NR};
    size_t m_step = position_floats(tiles, N);
    float *m = v + POSITIONS * input.position;
    for (int i = 0; i < tiles; i++) { transform_input(v + i * K, input, w, tile_at(w, first + i)); }
    for (int p = 0; p < POSITIONS; p++, weight += weight_step(w)) {
        for (int n = 0; n < N; n += NR) {
            for (int part = 0; part < parts; part++) {
                int k0 = (long)K * part / parts, k1 = (long)K * (part + 1) / parts;
                multiply(m + p * m_step + n, N, part > 0, v + p * input.position + k0, K,
                         weight + (size_t)n * K + (size_t)k0 * NR, tiles, k1 - k0, min(NR, N - n));
            }
        }
    }
    for (int i = 0; i < tiles; i++) { transform_output(w, tile_at(w, first + i), n0, n1, m + i * N, m_step); }
}

static void convolve_many(const Winograd *w, const GemmWeight *weight, float *packed) {
    float *blocks = packed + weight_floats(w);
    int tiles = all_tiles(w), block = block_tiles(w), columns = group_panels(w) * NR;
#pragma omp parallel
    for (int n0 = 0; n0 < w->N; n0 += columns) {
        int n1 = min(n0 + columns, w->N);
#pragma omp for collapse(2)
        for (int n = n0; n < n1; n += NR) {
            for (int k = 0; k < w->K; k += VEC) {
                pack_rows(packed + (size_t)(n - n0) * w->K + (size_t)k * NR, weight_step(w), w, weight, n,
                          min(NR, n1 - n), k);
            }
        }
        float *own = blocks + omp_get_thread_num() * block_floats(w);
#pragma omp for schedule(dynamic)
        for (int first = 0; first < tiles; first += block) {
            convolve_block(w, first, min(block, tiles - first), n0, n1, packed, own);
        }
    }
}

// With few tiles, a thread takes some output channels for all of them, and transforms their weight piece by piece in
// L2. While a piece is multiplied, memory is asked for the next one.

static size_t panel_floats(void) {
    return POSITIONS * (position_floats(FEW_ROWS, NR) + position_floats(FEW_TILES, NR));
}

// Prefetches part p of POSITIONS of what pack_rows reads of FEW_ROWS input channels from k0 on.
LINE prefetch_rows(const Winograd *w, const GemmWeight *weight, int n0, int n, int k0, int p) {
    int rows = min(FEW_ROWS, w->K - k0);
    bool near_n = weight->n_stride <= ALL_TAPS;
    int runs = (near_n ? rows : n) * ALL_TAPS, length = near_n ? n : rows;
    ptrdiff_t step = near_n ? weight->k_stride : weight->n_stride;
    ptrdiff_t tap = weight->tap_stride == 1 ? length : weight->tap_stride;
    const float *from = weight->w + k0 * weight->k_stride + n0 * weight->n_stride;
    for (int run = runs * p / POSITIONS; run < runs * (p + 1) / POSITIONS; run++) {
        const float *at = from + run / ALL_TAPS * step + run % ALL_TAPS * tap;
        for (int i = 0; i < length; i += CACHE_LINE) { __builtin_prefetch(at + i, 0, 2); }
    }
}

// Output channels n0 .. n1 - 1; v: the transformed input; own: panel_floats.
static void convolve_channels(const Winograd *w, const GemmWeight *weight, int n0, int n1, const float *v, Layout input,
                              float *own) {
    int tiles = all_tiles(w);
    size_t u_step = position_floats(FEW_ROWS, NR), m_step = position_floats(tiles, NR);
    float *u = own, *m = own + POSITIONS * u_step;
    for (int n = n0; n < n1; n += NR) {
        int columns = min(NR, n1 - n);
        for (int k0 = 0; k0 < w->K; k0 += FEW_ROWS) {
            int rows = min(FEW_ROWS, w->K - k0);
            bool last = k0 + rows == w->K;
            int next_n = last ? n + NR : n, next_k = last ? 0 : k0 + rows;
            for (int k = 0; k < rows; k += VEC) { pack_rows(u + k * NR, u_step, w, weight, n, columns, k0 + k); }
            for (int p = 0; p < POSITIONS; p++) {
                if (next_n < n1) { prefetch_rows(w, weight, next_n, min(NR, n1 - next_n), next_k, p); }
                multiply(m + p * m_step, NR, k0 > 0, v + p * input.position + k0, w->K, u + p * u_step, tiles, rows,
                         columns);
            }
        }
        for (int i = 0; i < tiles; i++) { transform_output(w, tile_at(w, i), n, n + columns, m + i * NR, m_step); }
    }
}

static void convolve_few(const Winograd *w, const GemmWeight *weight, float *v) {
    int tiles = all_tiles(w);
    Layout input = {position_floats(tiles, w->K), NR};
    float *panels = v + POSITIONS * input.position;
#pragma omp parallel
    {
#pragma omp for
        for (int i = 0; i < tiles; i++) { transform_input(v + i * w->K, input, w, tile_at(w, i)); }
        int thread = omp_get_thread_num(), threads = omp_get_num_threads(), vectors = w->N / VEC;
        convolve_channels(w, weight, vectors * thread / threads * VEC, vectors * (thread + 1) / threads * VEC, v, input,
                          panels + thread * panel_floats());
    }
}

size_t winograd_scratch(const Winograd *w) {
    size_t threads = omp_get_max_threads();
    if (are_few(w, FEW_TILES)) { return POSITIONS * position_floats(all_tiles(w), w->K) + threads * panel_floats(); }
    return weight_floats(w) + threads * block_floats(w);
}

void winograd_convolve(const Winograd *w, const GemmWeight *weight, float *scratch) {
    (are_few(w, FEW_TILES) ? convolve_few : convolve_many)(w, weight, scratch);
}

// ---- The gradient of the weight -------------------------------------------------------------------------------------

// dweight (3, 3, K) of one output channel and a vector of input channels = beta dweight + G^T u G, positions of u
// `step` apart.
LINE fold_vector(float *dweight, const float *u, size_t step, float beta, int K) {
    Vec row[TAPS][SIDE];
    UNROLL for (int j = 0; j < SIDE; j++) {
        Vec column[SIDE];
        UNROLL for (int i = 0; i < SIDE; i++) column[i] = vec_load(u + (i * SIDE + j) * step);
        weight_gradient_line(column);
        UNROLL for (int i = 0; i < TAPS; i++) row[i][j] = column[i];
    }
    UNROLL for (int i = 0; i < TAPS; i++) {
        weight_gradient_line(row[i]);
        UNROLL for (int j = 0; j < TAPS; j++) {
            float *to = dweight + (size_t)(i * TAPS + j) * K;
            if (beta != 0) { row[i][j] += vec_load(to); }
            vec_store(to, row[i][j]);
        }
    }
}

// With many tiles, the threads share the transforms of a chunk of tiles, then the products of the positions, at last
// the output channels.

// Output channels whose gradients are summed at a time: all, or as many as take 32 MB.
static int group_channels(const Winograd *w) {
    int fit = (32 << 20) / (POSITIONS * w->K * (int)sizeof(float)) / VEC * VEC;
    return min(w->N, fit > 4 * VEC ? fit : 4 * VEC);
}

// Tiles that are transformed before they are multiplied: as many as stay in the threads' L2 (1 MB each, 4 MB in all),
// but enough for long sums.
static int chunk_tiles(const Winograd *w) {
    enum { LEAST = OUTER_CHUNK / 2 };
    int most = (min(omp_get_max_threads(), 4) << 18) / (POSITIONS * (w->K + group_channels(w))) / LEAST * LEAST;
    int chunks = ceil_div(all_tiles(w), most > LEAST ? most : LEAST);
    return min(all_tiles(w), ceil_div(ceil_div(all_tiles(w), chunks), LEAST) * LEAST);
}

static size_t chunk_floats(const Winograd *w, int tiles) {
    return POSITIONS * (position_floats(tiles, w->K) + position_floats(tiles, group_channels(w)));
}

// For output channels n0 .. n1 - 1, from `chunk` tiles at a time; called by all threads together.
static void gradient_of_channels(float *dweight, const float *dout, float beta, const Winograd *w, int n0, int n1,
                                 int chunk, float *scratch) {
    float *v = scratch, *u = v + chunk_floats(w, chunk);
    int tiles = all_tiles(w), K = w->K, N = n1 - n0;
    Layout input = {position_floats(chunk, K), NR}, output = {position_floats(chunk, N), NR};
    size_t u_step = position_floats(N, K);
    float *y = v + POSITIONS * input.position;
    for (int first = 0; first < tiles; first += chunk) {
        int count = min(chunk, tiles - first);
#pragma omp for
        for (int i = 0; i < count; i++) {
            transform_input(v + (size_t)i * K, input, w, tile_at(w, first + i));
            transform_output_gradient(y + (size_t)i * N, output, dout, w, tile_at(w, first + i), n0, n1);
        }
#pragma omp for schedule(dynamic)
        for (int p = 0; p < POSITIONS; p++) {
            gemm_outer_serial(u + p * u_step, y + p * output.position, first > 0, count, N, K, v + p * input.position);
        }
    }
#pragma omp for
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k += VEC) {
            fold_vector(dweight + (size_t)(n0 + n) * ALL_TAPS * K + k, u + (size_t)n * K + k, u_step, beta, K);
        }
    }
}

// With few tiles, a thread takes a panel of input channels and a group of a panel's output channels through both steps:
// its products stay in L1 until they are folded. The channels of a panel lie together, (tile, NR), so that a product's
// matrices are read in order.

enum { GROUPS = (NR + MR - 1) / MR };

static Layout panels_of(const Winograd *w, int channels) {
    size_t panel = (size_t)all_tiles(w) * NR + PAD;
    return (Layout){ceil_div(channels, NR) * panel, panel};
}

// dweight of `rows` output channels and K input channels; v and y start at these. Each product asks for a part of
// dweight, so that it is there at the end.
static void gradient_of_tile(float *dweight, float beta, const Winograd *w, const float *v, const float *y, int rows,
                             int K) {
    int tiles = all_tiles(w), offset[FEW_GRADIENT_TILES], lines = rows * ALL_TAPS;
    size_t v_step = panels_of(w, w->K).position, y_step = panels_of(w, w->N).position;
    float u[POSITIONS * MR * NR] __attribute__((aligned(64)));
    for (int t = 0; t < tiles; t++) { offset[t] = t * NR; }
    for (int p = 0; p < POSITIONS; p++) {
        for (int i = lines * p / POSITIONS; i < lines * (p + 1) / POSITIONS; i++) {
            for (int k = 0; k < K; k += CACHE_LINE) { __builtin_prefetch(dweight + (size_t)i * w->K + k, 1); }
        }
        gemm_tile_columns(u + p * MR * NR, NULL, NR, y + p * y_step, offset, v + p * v_step, NR, tiles, rows, K);
    }
    for (int n = 0; n < rows; n++) {
        float *to = dweight + (size_t)n * ALL_TAPS * w->K;
        for (int k = 0; k < K; k += VEC) { fold_vector(to + k, u + n * NR + k, MR * NR, beta, w->K); }
    }
}

static void gradient_of_few(float *dweight, const float *dout, float beta, const Winograd *w, float *v) {
    Layout input = panels_of(w, w->K), output = panels_of(w, w->N);
    float *y = v + POSITIONS * input.position;
#pragma omp parallel
    {
#pragma omp for
        for (int i = 0; i < all_tiles(w); i++) {
            transform_input(v + i * NR, input, w, tile_at(w, i));
            transform_output_gradient(y + i * NR, output, dout, w, tile_at(w, i), 0, w->N);
        }
#pragma omp for collapse(3)
        for (int n = 0; n < w->N; n += NR) {
            for (int k = 0; k < w->K; k += NR) {
                for (int g = 0; g < GROUPS; g++) {
                    int N = min(NR, w->N - n), first = tile_first(g, GROUPS, N);
                    gradient_of_tile(dweight + (size_t)(n + first) * ALL_TAPS * w->K + k, beta, w,
                                     v + k / NR * input.panel, y + n / NR * output.panel + first,
                                     tile_first(g + 1, GROUPS, N) - first, min(NR, w->K - k));
                }
            }
        }
    }
}

size_t winograd_gradient_scratch(const Winograd *w) {
    if (!are_few(w, FEW_GRADIENT_TILES)) {
        return chunk_floats(w, chunk_tiles(w)) + POSITIONS * position_floats(group_channels(w), w->K);
    }
    return POSITIONS * (panels_of(w, w->K).position + panels_of(w, w->N).position);
}

void winograd_weight_gradient(float *dweight, const float *dout, float beta, const Winograd *w, float *scratch) {
    assert(beta == 0 || beta == 1);
    if (are_few(w, FEW_GRADIENT_TILES)) {
        gradient_of_few(dweight, dout, beta, w, scratch);
        return;
    }
    int group = group_channels(w), chunk = chunk_tiles(w);
#pragma omp parallel
    for (int n0 = 0; n0 < w->N; n0 += group) {
        gradient_of_channels(dweight, dout, beta, w, n0, min(n0 + group, w->N), chunk, scratch);
    }
}
