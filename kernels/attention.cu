// attention in tiles with an online softmax (Rabe & Staats 2021; Dao et al. 2022): no T x T matrix is stored; backward
// recomputes each tile of probabilities from lse.
//
// Forward: a block owns 128 queries (64 or 32 for large heads and in fp32) and loops over tiles of keys.
//
// Backward: a block owns as many keys and loops over tiles of queries, with every matrix of scores transposed. It sums
// dk and dv in registers and adds its part of dq to a sum in memory, after the block of the previous keys has added its
// part. This needs five products, and every sum has a fixed order, hence the same bits in every run. With few keys and
// many queries (cross-attention), several blocks share the queries of the same keys; their dk and dv are added in
// order. Heads larger than 160 (the VAE's single head of all channels) use cuBLASLt and a matrix of scores in the
// workspace (attention_large.cuh). All accesses are 16 bytes wide: if the head size or a stride is not a multiple of 8,
// the kernels work on copies in the workspace with padded heads (attention_padded.cuh).
#include "kernels/attention_large.cuh"
#include "kernels/attention_padded.cuh"
#include "kernels/attention_tiles.cuh"
#include <limits.h>

// The first element of token t, head h, sample b.
template <class T> __device__ static inline T *token(T *x, int b, int t, int h, int T_, int stride, int HS) {
    return x + ((size_t)b * T_ + t) * stride + (size_t)h * HS;
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// Sets the scores of keys that a query does not see to -inf. query, key: those of s[0][0][0]. In backward s is
// transposed, (keys, queries).
template <bool TRANSPOSED, int M, int N>
__device__ static inline void mask_scores(float (&s)[M][N][4], const Attention &a, int query, int key) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = m * 16 + i / 2 * 8, column = n * 8 + i % 2;
                const int k = key + (TRANSPOSED ? row : column), q = query + (TRANSPOSED ? column : row);
                if (k >= a.Tk || (a.causal && k > q)) { s[m][n][i] = -INFINITY; }
            }
        }
    }
}

// Turns a tile of scores into probabilities relative to the running maximum of their row, and rescales the earlier
// sums. top and sum belong to this lane's rows; sum covers only this lane's columns.
template <int D, int M, int N>
__device__ static inline void online_softmax(float (&s)[M][N][4], float (&out)[M][D / 8][4], float (&top)[M][2],
                                             float (&sum)[M][2], float scale_log2) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float best = top[m][r];
#pragma unroll
            for (int n = 0; n < N; n++) { best = fmaxf(best, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1])); }
            best = row_max(best);
            const float old =
                exp2_fast((top[m][r] - best) * scale_log2); // 0 at the first tile, where every query sees key 0
            const float base = best * scale_log2;
            float added = 0;
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    added += s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale_log2, -base));
                }
            }
            sum[m][r] = sum[m][r] * old + added;
            top[m][r] = best;
#pragma unroll
            for (int d = 0; d < D / 8; d++) { out[m][d][2 * r] *= old, out[m][d][2 * r + 1] *= old; }
        }
    }
}

// Writes the block's output out / sum, and lse. Overwrites `tile`, which held the block's queries.
template <int D>
__device__ static inline void store_forward(floatX *out, float *lse, floatX *tile,
                                            const float (&o)[Tiles<D>::M][D / 8][4], const float (&top)[Tiles<D>::M][2],
                                            const float (&sum)[Tiles<D>::M][2], const Attention &a, float scale) {
    typedef Tiles<D> T;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * T::rows, row0 = threadIdx.x / 32 * 16 * T::M;
    const int lane = threadIdx.x % 32;
    float *to = lse + ((size_t)b * a.NH + h) * a.Tq;
    float inverse[T::M][2];
#pragma unroll
    for (int m = 0; m < T::M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float total = row_sum(sum[m][r]);
            const int query = first + row0 + m * 16 + r * 8 + lane / 4;
            inverse[m][r] = 1 / total;
            if (lane % 4 == 0 && query < a.Tq) { to[query] = top[m][r] * scale + logf(total); }
        }
    }
    __syncwarp(); // the warp's queries have been read
    put<D>(tile, row0, 0, o, inverse);
    __syncthreads();
    store_tile<D, T::rows>(token(out, b, 0, h, a.Tq, a.out_stride, a.HS), a.out_stride, first, a.Tq, a.HS, tile);
}

template <int D>
static __global__ void __launch_bounds__(Tiles<D>::threads, 2)
    forward_tiles(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                  float scale) {
    typedef Tiles<D> T;
    constexpr int tile = T::inner * Layout<D>::pitch;
    floatX *Q = (floatX *)dynamic_shared, *K = Q + T::rows * Layout<D>::pitch, *V = K + T::stages * tile;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * T::rows, row0 = threadIdx.x / 32 * 16 * T::M;
    const int lane = threadIdx.x % 32, query = first + row0;
    const floatX *k0 = token(k, b, 0, h, a.Tk, a.k_stride, a.HS), *v0 = token(v, b, 0, h, a.Tk, a.v_stride, a.HS);
    const int keys = a.causal ? min(a.Tk, first + T::rows) : a.Tk, tiles = ceil_div(keys, T::inner);
    auto load_keys = [&](int j) {
        load_tile<D, T::inner>(K + j % T::stages * tile, k0, a.k_stride, j * T::inner, a.Tk, a.HS);
        load_tile<D, T::inner>(V + j % T::stages * tile, v0, a.v_stride, j * T::inner, a.Tk, a.HS);
        cp_async_commit();
    };
    load_tile<D, T::rows>(Q, token(q, b, 0, h, a.Tq, a.q_stride, a.HS), a.q_stride, first, a.Tq, a.HS);
    load_keys(0);
    Left<D, T::M, T::keep> left(Q, row0);
    float o[T::M][D / 8][4] = {}, top[T::M][2], sum[T::M][2];
#pragma unroll
    for (int m = 0; m < T::M; m++) { top[m][0] = top[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0; }
    for (int j = 0; j < tiles; j++) {
        if (T::stages == 1 && j > 0) {
            __syncthreads();
            load_keys(j);
        }
        cp_async_wait<0>();
        __syncthreads(); // tile j is loaded, and all threads have read tile j - 1
        if (T::stages == 2 && j + 1 < tiles) { load_keys(j + 1); }
        if (j == 0) { left.keep(); }
        if (a.causal && j * T::inner >= query + 16 * T::M) { continue; } // none of the warp's queries sees the tile
        float s[T::M][T::inner / 8][4];
        multiply_rows<D>(s, left, K + j % T::stages * tile);
        if ((j + 1) * T::inner > a.Tk || (a.causal && (j + 1) * T::inner > query)) {
            mask_scores<false>(s, a, query + lane / 4, j * T::inner + lane % 4 * 2);
        }
        online_softmax<D>(s, o, top, sum, scale * LOG2E);
        add_product<D>(o, s, V + j % T::stages * tile);
    }
    store_forward<D>(out, lse, Q, o, top, sum, a, scale);
}

// ---- Backward ------------------------------------------------------------------------------------------------------

// Backward's workspace: the data that its blocks pass to each other. Tiles are those of queries.
struct BackwardWorkspace {
    float2 *rows;                  // (B NH, tiles, inner): output_dots
    float *dq;                     // (B NH, tiles, units, M, unit_columns / 8, 32 lanes, 4): sums in the lanes' layout
    float *dk, *dv;                // (chunks, B NH, Tk, HS) if there is more than one chunk
    unsigned *parts;               // (B NH, tiles): number of key blocks that have added their part to dq
    unsigned *next_block;          // (1): number of the next block to start
    int tiles, key_blocks, chunks; // chunks: parts of the queries, one block each
    size_t bytes;
};

// The block's share of the work: the keys of block j, the queries of one chunk, one head. Blocks are numbered in the
// order in which they start. A block waits only for the block with the previous number, which is already running.
struct Share {
    int j, chunk, b, h, bh, begin, end; // tiles begin .. end - 1 of queries
};

// scratch: a word of shared memory that nobody writes before the next barrier.
template <int D>
__device__ static inline Share take_share(const BackwardWorkspace &ws, const Attention &a, unsigned *scratch) {
    if (threadIdx.x == 0) { *scratch = ws.key_blocks > 1 ? take_number(ws.next_block) : blockIdx.x; }
    __syncthreads();
    const int number = (int)*scratch, chunk = number / ws.key_blocks, bh = chunk / ws.chunks;
    Share x = {number % ws.key_blocks, chunk % ws.chunks, bh / a.NH, bh % a.NH, bh, 0, 0};
    x.begin = (int)((long long)ws.tiles * x.chunk / ws.chunks),
    x.end = (int)((long long)ws.tiles * (x.chunk + 1) / ws.chunks);
    if (a.causal) { x.begin = max(x.begin, x.j * Tiles<D>::rows / Tiles<D>::inner); }
    return x;
}

// A warp's keys with T::slice queries of the tile, from column `column` on: P^T = exp(K Q^T - lse), dv += P^T dout,
// dS^T = P^T (V dout^T - delta), dk += dS^T q. Writes dS^T to shared memory. key, query: the first ones; query is -1 if
// no key can be hidden.
template <int D>
__device__ static inline void add_slice(float (&grad_k)[Tiles<D>::M][D / 8][4], float (&grad_v)[Tiles<D>::M][D / 8][4],
                                        floatX *dS, const Left<D, Tiles<D>::M, Tiles<D>::keep> &left_k,
                                        const Left<D, Tiles<D>::M, Tiles<D>::keep_values> &left_v, const floatX *Q,
                                        const floatX *dO, const float2 *rows, int column, const Attention &a, int key,
                                        int query, float scale_log2) {
    typedef Tiles<D> T;
    constexpr int N = T::slice / 8, pitch = Layout<D>::pitch;
    const int lane = threadIdx.x % 32;
    float s[T::M][N][4], dp[T::M][N][4], delta[N][2], ones[T::M][2];
    multiply_rows<D>(s, left_k, Q + column * pitch);
    if (query >= 0) { mask_scores<true>(s, a, query + lane % 4 * 2, key + lane / 4); }
#pragma unroll
    for (int n = 0; n < N; n++) {
        const float4 two = *(const float4 *)(rows + column + n * 8 + lane % 4 * 2);
        delta[n][0] = two.y, delta[n][1] = two.w;
#pragma unroll
        for (int m = 0; m < T::M; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale_log2, -(i % 2 ? two.z : two.x)));
            }
        }
    }
    add_product<D>(grad_v, s, dO + column * pitch);
    multiply_rows<D>(dp, left_v, dO + column * pitch);
#pragma unroll
    for (int m = 0; m < T::M; m++) {
        ones[m][0] = ones[m][1] = 1;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) { s[m][n][i] *= dp[m][n][i] - delta[n][i % 2]; }
        }
    }
    put<T::inner>(dS, left_k.first, column, s, ones);
    add_product<D>(grad_k, s, Q + column * pitch);
}

// Adds the tile's dq = dS K over the block's keys to the sum of the previous key blocks. The last key block writes the
// result to `tile` instead.
template <int D>
__device__ static inline void add_queries(float *sums, floatX *tile, const floatX *dS, const floatX *K, bool is_first,
                                          bool is_last, int depth, float scale) {
    typedef Tiles<D> T;
    constexpr int N = T::unit_columns / 8, height = 16 * T::M, floats = height * T::unit_columns;
    for (int unit = threadIdx.x / 32; unit < T::units; unit += T::warps) {
        const int row = unit % (T::inner / height) * height, column = unit / (T::inner / height) * T::unit_columns;
        float *mine = sums + unit * floats + threadIdx.x % 32 * 4;
        float x[T::M][N][4] = {}, scales[T::M][2];
        if (!is_first) {
#pragma unroll
            for (int i = 0; i < T::M * N; i++) { load_shared_by_blocks(x[i / N][i % N], mine + i * 128); }
        }
        add_transposed<T::inner, D, T::rows>(x, dS, row, K, column, depth);
        if (is_last) {
#pragma unroll
            for (int m = 0; m < T::M; m++) { scales[m][0] = scales[m][1] = scale; }
            put<D>(tile, row, column, x, scales);
        } else {
#pragma unroll
            for (int i = 0; i < T::M * N; i++) { store_words(mine + i * 128, x[i / N][i % N]); }
        }
    }
}

// Writes x (16 M rows of the block, D) to float rows of HS elements.
template <int D, int M>
__device__ static inline void store_partial(float *to, const float (&x)[M][D / 8][4], int rows, int HS) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = threadIdx.x / 32 * 16 * M + m * 16 + r * 8 + lane / 4;
#pragma unroll
            for (int d = 0; d < D / 8; d++) {
                if (row < rows && d * 8 < HS) {
                    const float two[2] = {x[m][d][2 * r], x[m][d][2 * r + 1]};
                    store_words(to + (size_t)row * HS + d * 8 + lane % 4 * 2, two);
                }
            }
        }
    }
}

template <int D, int M>
__device__ static inline void store_keys(floatX *grad, float *partial, floatX *tile, const float (&x)[M][D / 8][4],
                                         const BackwardWorkspace &ws, const Share &share, const Attention &a,
                                         int stride, float scale) {
    typedef Tiles<D> T;
    const int first = share.j * T::rows;
    if (ws.chunks > 1) {
        const size_t head = (size_t)share.chunk * a.B * a.NH + share.bh;
        store_partial<D>(partial + (head * a.Tk + first) * a.HS, x, a.Tk - first, a.HS);
    } else {
        float scales[M][2];
#pragma unroll
        for (int m = 0; m < M; m++) { scales[m][0] = scales[m][1] = scale; }
        put<D>(tile, threadIdx.x / 32 * 16 * M, 0, x, scales);
        __syncthreads();
        store_tile<D, T::rows>(token(grad, share.b, 0, share.h, a.Tk, stride, a.HS), stride, first, a.Tk, a.HS, tile);
    }
}

// The hand-over of dq between key blocks; for thread 0 between two barriers of its block.
__device__ static inline void publish_dq(unsigned *parts, int j) { store_release(parts, j + 1); }
__device__ static inline void wait_for_previous_keys(const unsigned *parts, int j) {
    while ((int)load_acquire(parts) < j) {}
}

// Who may use which memory when. Key block j, tile i of queries; Q, dO and rows have one or two stages, dS has one. The
// barriers have letters in the code.
//
//     take_share     the block's number passes through dS
//     K, V           cp.async; A: they are there. As many of their fragments as fit go to registers
//     tile i         B, one stage only: all have used tile i - 1, whose memory tile i then overwrites
//                    wait, C: tile i is there. All have used Q, dO, rows and dS of tile i - 1 and written their part
//                    of its dq: thread 0 publishes that (parts[i - 1] = j + 1). Two stages: load tile i + 1
//       add_slice    reads Q, dO, rows; each warp writes the rows of its keys in dS
//                    thread 0 waits until block j - 1 has published dq of tile i (parts[i] = j)
//                    D: dS is complete, nobody reads Q any more, and every thread sees the dq of block j - 1
//       add_queries  reads dS and K; adds to dq in memory, or in the last key block writes the result over Q
//                    E, last key block only: Q holds dq of tile i, which is stored. It is read until the next barrier
//     end            F: all have used K, V and dS; thread 0 publishes dq of the last tile
//       store_keys   dk goes through the memory of K, dv through that of V
template <int D>
static __global__ void __launch_bounds__(Tiles<D>::threads, Tiles<D>::small ? 2 : 1)
    backward_tiles(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                   const floatX *v, BackwardWorkspace ws, Attention a, float scale) {
    typedef Tiles<D> T;
    constexpr int own = T::rows * Layout<D>::pitch, tile = T::inner * Layout<D>::pitch;
    floatX *K = (floatX *)dynamic_shared, *V = K + own, *Q = V + own, *dO = Q + T::stages * tile;
    floatX *dS = dO + T::stages * tile; // (rows, inner)
    float2 *rows = (float2 *)(dS + T::rows * Layout<T::inner>::pitch);
    const Share x = take_share<D>(ws, a, (unsigned *)dS);
    const int first = x.j * T::rows, row0 = threadIdx.x / 32 * 16 * T::M, key = first + row0;
    const floatX *q0 = token(q, x.b, 0, x.h, a.Tq, a.q_stride, a.HS);
    const floatX *d0 = token(dout, x.b, 0, x.h, a.Tq, a.out_stride, a.HS);
    unsigned *parts = ws.parts + (size_t)x.bh * ws.tiles;
    auto load_queries = [&](int i) {
        const int stage = (unsigned)i % T::stages;
        load_tile<D, T::inner>(Q + stage * tile, q0, a.q_stride, i * T::inner, a.Tq, a.HS);
        load_tile<D, T::inner>(dO + stage * tile, d0, a.out_stride, i * T::inner, a.Tq, a.HS);
        if (threadIdx.x < T::inner / 2) {
            cp_async_16(rows + stage * T::inner + 2 * threadIdx.x,
                        ws.rows + ((size_t)x.bh * ws.tiles + i) * T::inner + 2 * threadIdx.x, true);
        }
    };
    load_tile<D, T::rows>(K, token(k, x.b, 0, x.h, a.Tk, a.k_stride, a.HS), a.k_stride, first, a.Tk, a.HS);
    load_tile<D, T::rows>(V, token(v, x.b, 0, x.h, a.Tk, a.v_stride, a.HS), a.v_stride, first, a.Tk, a.HS);
    cp_async_commit();
    if (x.begin < x.end) { load_queries(x.begin); }
    cp_async_commit();
    Left<D, T::M, T::keep> left_k(K, row0);
    Left<D, T::M, T::keep_values> left_v(V, row0);
    cp_async_wait<1>();
    __syncthreads(); // A
    left_k.keep(), left_v.keep();
    float grad_k[T::M][D / 8][4] = {}, grad_v[T::M][D / 8][4] = {};
    for (int i = x.begin; i < x.end; i++) {
        if (T::stages == 1 && i > x.begin) {
            __syncthreads(); // B
            load_queries(i);
            cp_async_commit();
        }
        cp_async_wait<0>();
        __syncthreads(); // C
        if (dq && threadIdx.x == 0 && i > x.begin) { publish_dq(parts + i - 1, x.j); }
        if (T::stages == 2 && i + 1 < x.end) {
            load_queries(i + 1);
            cp_async_commit();
        }
        floatX *q_then_dq = Q + i % T::stages * tile;
        if (key < a.Tk) { // otherwise none of the warp's keys exists
            const bool edge = first + T::rows > a.Tk || (a.causal && i * T::inner < first + T::rows);
#pragma unroll 1
            for (int c = 0; c < T::inner; c += T::slice) {
                add_slice<D>(grad_k, grad_v, dS, left_k, left_v, q_then_dq, dO + i % T::stages * tile,
                             rows + i % T::stages * T::inner, c, a, key, edge ? i * T::inner + c : -1, scale * LOG2E);
            }
        }
        if (!dq) { continue; }
        if (threadIdx.x == 0) { wait_for_previous_keys(parts + i, x.j); }
        __syncthreads(); // D
        const bool is_last = x.j + 1 == (a.causal ? min(ws.key_blocks, i * T::inner / T::rows + 1) : ws.key_blocks);
        add_queries<D>(ws.dq + ((size_t)x.bh * ws.tiles + i) * T::inner * D, q_then_dq, dS, K, x.j == 0, is_last,
                       min(T::rows, a.Tk - first), scale);
        if (is_last) {
            __syncthreads(); // E
            store_tile<D, T::inner>(token(dq, x.b, 0, x.h, a.Tq, a.q_stride, a.HS), a.q_stride, i * T::inner, a.Tq,
                                    a.HS, q_then_dq);
        }
    }
    cp_async_wait<0>(); // needed even if there was no tile
    __syncthreads();    // F
    if (dq && threadIdx.x == 0 && x.begin < x.end) { publish_dq(parts + x.end - 1, x.j); }
    if (dk) { store_keys<D>(dk, ws.dk, K, grad_k, ws, x, a, a.k_stride, scale); }
    if (dv) { store_keys<D>(dv, ws.dv, V, grad_v, ws, x, a, a.v_stride, 1); }
}

// grad = scale * sum over chunks of partial (chunks, B NH, Tk, HS), VEC elements per thread.
static __global__ void __launch_bounds__(256, 4)
    fold_chunks(floatX *grad, const float *partial, int chunks, Attention a, int stride, float scale) {
    const int pieces = a.HS / VEC, n = a.B * a.NH * a.Tk * pieces, i = blockIdx.x * 256 + threadIdx.x;
    if (i >= n) { return; }
    const int d = i % pieces * VEC, key = i / pieces % a.Tk, bh = i / pieces / a.Tk;
    float sum[VEC] = {};
    for (int chunk = 0; chunk < chunks; chunk++) {
#pragma unroll
        for (int part = 0; part < VEC; part += 4) {
            float x[4];
            load_words(x, partial + ((size_t)chunk * n + i) * VEC + part);
#pragma unroll
            for (int e = 0; e < 4; e++) { sum[part + e] += x[e]; }
        }
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) { sum[e] *= scale; }
    store(token(grad, bh / a.NH, key, bh % a.NH, a.Tk, stride, a.HS) + d, sum);
}

// ---- Heads of up to D elements, in tiles ---------------------------------------------------------------------------

static size_t forward_bytes(const Attention &) { return 0; }

template <int D>
static void forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, const Attention &a,
                    float scale, void *, Device *dev) {
    typedef Tiles<D> T;
    const size_t shared = sizeof(floatX) * Layout<D>::pitch * (T::rows + 2 * T::stages * T::inner);
    launch<forward_tiles<D>>(dev, dim3(ceil_div(a.Tq, T::rows), a.NH, a.B), T::threads, shared, out, lse, q, k, v, a,
                             scale);
}

// Lays out the workspace. The cut depends only on the sizes, so that sums have the same bits on every card. The queries
// are cut into chunks only if there are at most 64 blocks, and then to at most 128 blocks, since the sums of the chunks
// cost memory traffic.
template <int D> static BackwardWorkspace backward_workspace(void *workspace, const Attention &a) {
    typedef Tiles<D> T;
    BackwardWorkspace ws = {};
    ws.tiles = ceil_div(a.Tq, T::inner), ws.key_blocks = ceil_div(a.Tk, T::rows);
    const int heads = a.B * a.NH;
    ws.chunks = max(1, min(ws.tiles, 128 / (heads * ws.key_blocks)));
    const size_t partial = ws.chunks > 1 ? sizeof(float) * ws.chunks * heads * a.Tk * a.HS : 0;
    const size_t sums = ws.key_blocks > 1 ? sizeof(float) * heads * ws.tiles * T::inner * D : 0;
    Pieces pieces = {(char *)workspace, 0};
    ws.rows = (float2 *)pieces.take(sizeof(float2) * heads * ws.tiles * T::inner);
    ws.dq = (float *)pieces.take(sums);
    ws.dk = (float *)pieces.take(partial), ws.dv = (float *)pieces.take(partial);
    ws.parts = (unsigned *)pieces.take(sizeof(unsigned) * (heads * ws.tiles + 1));
    ws.next_block = ws.parts + heads * ws.tiles;
    ws.bytes = pieces.bytes;
    return ws;
}

template <int D> static size_t backward_bytes(const Attention &a) { return backward_workspace<D>(NULL, a).bytes; }

template <int D>
static void backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                     const floatX *v, const floatX *out, const float *lse, const Attention &a, float scale,
                     void *workspace, Device *dev) {
    typedef Tiles<D> T;
    const BackwardWorkspace ws = backward_workspace<D>(workspace, a);
    const int padded = ws.tiles * T::inner, heads = a.B * a.NH;
    launch<output_dots>(dev, dim3(ceil_div(padded, 64), heads), 256, 0, ws.rows, ws.parts,
                        (unsigned)(heads * ws.tiles + 1), dout, out, lse, a, padded);
    const size_t shared = sizeof(floatX) * (Layout<D>::pitch * (2 * T::rows + 2 * T::stages * T::inner) +
                                            T::rows * Layout<T::inner>::pitch) +
                          sizeof(float2) * T::stages * T::inner;
    launch<backward_tiles<D>>(dev, heads * ws.chunks * ws.key_blocks, T::threads, shared, dq, dk, dv, dout, q, k, v, ws,
                              a, scale);
    if (ws.chunks == 1) { return; }
    const int blocks = ceil_div(heads * a.Tk * (a.HS / VEC), 256);
    if (dk) { launch<fold_chunks>(dev, blocks, 256, 0, dk, ws.dk, ws.chunks, a, a.k_stride, scale); }
    if (dv) { launch<fold_chunks>(dev, blocks, 256, 0, dv, ws.dv, ws.chunks, a, a.v_stride, 1.0f); }
}

// ---- Choice of the variant -----------------------------------------------------------------------------------------

// The function for heads of up to `largest` elements, and the bytes of workspace that it needs.
template <class F> struct Variant {
    int largest;
    F *run;
    size_t (*bytes)(const Attention &a);
};
typedef Variant<decltype(forward_large)> ForwardVariant;
typedef Variant<decltype(backward_large)> BackwardVariant;

static const ForwardVariant forwards[] = {
    {32, forward<32>, forward_bytes},
    {48, forward<48>, forward_bytes},
    {64, forward<64>, forward_bytes},
    {80, forward<80>, forward_bytes},
    {96, forward<96>, forward_bytes},
    {128, forward<128>, forward_bytes},
    {ATTENTION_TILED, forward<ATTENTION_TILED>, forward_bytes},
    {INT_MAX, forward_large, forward_large_bytes},
};
static const BackwardVariant backwards[] = {
    {32, backward<32>, backward_bytes<32>},
    {48, backward<48>, backward_bytes<48>},
    {64, backward<64>, backward_bytes<64>},
    {80, backward<80>, backward_bytes<80>},
    {96, backward<96>, backward_bytes<96>},
    {128, backward<128>, backward_bytes<128>},
#ifdef PRECISION_bf16 // fp32 has no registers for the sums of more columns
    {ATTENTION_TILED, backward<ATTENTION_TILED>, backward_bytes<ATTENTION_TILED>},
#endif
    {INT_MAX, backward_large, backward_large_bytes},
};

template <class T> static const T &variant_for(const T *list, int HS) {
    while (HS > list->largest) { list++; }
    return *list;
}

// ---- Heads and rows of any size, through aligned copies ------------------------------------------------------------

static size_t forward_padded_bytes(const Attention &a) {
    return copies_in(NULL, a, false).bytes + variant_for(forwards, padded_sizes(a).HS).bytes(padded_sizes(a));
}

static void forward_padded(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                           const Attention &a, float scale, void *workspace, Device *dev) {
    const Copies c = copies_in(workspace, a, false);
    pad(c.q, q, a.q_stride, a.Tq, a, dev);
    pad(c.k, k, a.k_stride, a.Tk, a, dev);
    pad(c.v, v, a.v_stride, a.Tk, a, dev);
    variant_for(forwards, padded_sizes(a).HS).run(c.out, lse, c.q, c.k, c.v, padded_sizes(a), scale, c.workspace, dev);
    cut(out, c.out, a.out_stride, a.Tq, a, dev);
}

static size_t backward_padded_bytes(const Attention &a) {
    return copies_in(NULL, a, true).bytes + variant_for(backwards, padded_sizes(a).HS).bytes(padded_sizes(a));
}

static void backward_padded(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                            const floatX *v, const floatX *out, const float *lse, const Attention &a, float scale,
                            void *workspace, Device *dev) {
    const Copies c = copies_in(workspace, a, true);
    pad(c.q, q, a.q_stride, a.Tq, a, dev);
    pad(c.k, k, a.k_stride, a.Tk, a, dev);
    pad(c.v, v, a.v_stride, a.Tk, a, dev);
    pad(c.out, out, a.out_stride, a.Tq, a, dev);
    pad(c.dout, dout, a.out_stride, a.Tq, a, dev);
    variant_for(backwards, padded_sizes(a).HS)
        .run(dq ? c.dq : NULL, dk ? c.dk : NULL, dv ? c.dv : NULL, c.dout, c.q, c.k, c.v, c.out, lse, padded_sizes(a),
             scale, c.workspace, dev);
    cut(dq, c.dq, a.q_stride, a.Tq, a, dev);
    cut(dk, c.dk, a.k_stride, a.Tk, a, dev);
    cut(dv, c.dv, a.v_stride, a.Tk, a, dev);
}

// ---- The functions of kernels.h ------------------------------------------------------------------------------------

static float scale_of(const Attention &a) { return 1.0f / sqrtf((float)a.HS); }

void attention_forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                       Device *dev) {
    const bool run = device_launch(dev, "attention_forward", attention_forward_cost(a));
    const ForwardVariant variant =
        is_aligned(a) ? variant_for(forwards, a.HS) : ForwardVariant{INT_MAX, forward_padded, forward_padded_bytes};
    void *workspace = device_workspace(dev, variant.bytes(a));
    if (run) { variant.run(out, lse, q, k, v, a, scale_of(a), workspace, dev); }
}

void attention_backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                        const floatX *v, const floatX *out, const float *lse, Attention a, Device *dev) {
    const bool run = device_launch(dev, "attention_backward", attention_backward_cost(dq, dk, dv, a));
    const BackwardVariant variant =
        is_aligned(a) ? variant_for(backwards, a.HS) : BackwardVariant{INT_MAX, backward_padded, backward_padded_bytes};
    void *workspace = device_workspace(dev, variant.bytes(a));
    if (run) { variant.run(dq, dk, dv, dout, q, k, v, out, lse, a, scale_of(a), workspace, dev); }
}
