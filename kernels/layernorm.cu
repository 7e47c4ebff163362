// Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over rows of C elements.
//
// A team of 8, 16 or 32 lanes holds a row in registers, so that every array is read once. Weight, bias and the
// statistics of a block's rows are staged in shared memory. Rows that no team can hold (C odd or above 1280) are
// handled by one warp each, which reads them several times, from the cache.
#include "kernels/cuda_common.cuh"

enum {
    WARPS = THREADS / 32,
    BLOCKS = 128,    // about one for each SM of a large card; each writes 2 C sums in backward
    MOST_TURNS = 128 // of a team; beyond, there are more blocks: the statistics of a block's rows take at most 32 KB
};

// Sums over the `lanes` lanes of a team, returned to each of them.
__device__ static inline float2 team_sum(float a, float b, int lanes) {
    for (int bits = lanes / 2; bits > 0; bits /= 2) {
        a += __shfl_xor_sync(0xffffffffu, a, bits);
        b += __shfl_xor_sync(0xffffffffu, b, bits);
    }
    return make_float2(a, b);
}

// How rows are cut: a lane holds `eights` times 8 elements of a row, namely vector k * lanes + lane for each k.
// lanes = 0: no team can hold a row.
struct Teams {
    int eights, lanes;
    int rows, blocks; // rows of a block
};

static Teams cut_teams(int N, int C) {
    Teams teams = {};
    for (int lanes = 32; C % VEC == 0 && lanes >= 8; lanes /= 2) {
        const int eights = ceil_div(C, 8 * lanes);
        if (eights <= 5 && (!teams.lanes || eights * lanes < teams.eights * teams.lanes)) {
            teams.eights = eights;
            teams.lanes = lanes;
        }
    }
    if (teams.lanes) {
        const int together = THREADS / teams.lanes;
        teams.rows = together * min(ceil_div(N, together * (int)BLOCKS), (int)MOST_TURNS);
        teams.blocks = ceil_div(N, teams.rows);
    }
    return teams;
}

// A thread's team and lane, and the block's rows.
struct RowPlace {
    int lane, team, together, first, last;
    __device__ RowPlace(int N, int lanes, int rows)
        : lane(threadIdx.x % lanes), team(threadIdx.x / lanes), together(THREADS / lanes), first(blockIdx.x * rows),
          last(min(first + rows, N)) {}
};

// Copies n elements (a multiple of VEC) to shared memory.
__device__ static inline void to_shared(floatX *to, const floatX *from, int n) {
    for (int c = threadIdx.x * VEC; c < n; c += THREADS * VEC) {
        floatX x[VEC];
        load_words(x, from + c);
        store_words(to + c, x);
    }
}

template <int K>
static __global__ void __launch_bounds__(THREADS, 2)
    forward_rows(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight, const floatX *bias,
                 int N, int C, float eps, int lanes, int rows) {
    floatX *weights = (floatX *)dynamic_shared, *biases = weights + C;
    float *means = (float *)(biases + C), *rstds = means + rows;
    const RowPlace at(N, lanes, rows);
    to_shared(weights, weight, C);
    if (bias) { to_shared(biases, bias, C); }
    __syncthreads();
    for (int first = at.first; first < at.last; first += at.together) {
        const int row = first + at.team, mine = row < at.last ? C : 0; // columns to handle
        const size_t start = (size_t)row * C;
        float x[K][VEC], sum = 0, correction = 0, square = 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * lanes + at.lane) * VEC;
            if (c < mine) {
                load(x[k], inp + start + c);
            } else {
#pragma unroll
                for (int i = 0; i < VEC; i++) { x[k][i] = 0; }
            }
#pragma unroll
            for (int i = 0; i < VEC; i++) { sum += x[k][i]; }
        }
        const float m = team_sum(sum, 0, lanes).x / C;
#pragma unroll
        for (int k = 0; k < K; k++) { // the mean of x - m corrects the rounding of m
            if ((k * lanes + at.lane) * VEC < mine) {
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    x[k][i] -= m;
                    correction += x[k][i];
                    square += x[k][i] * x[k][i];
                }
            }
        }
        const float2 moments = team_sum(correction, square, lanes);
        correction = moments.x / C;
        const float s = 1.0f / sqrtf(moments.y / C - correction * correction + eps);
        if (at.lane == 0 && mine) {
            means[row - at.first] = m + correction;
            rstds[row - at.first] = s;
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * lanes + at.lane) * VEC;
            if (c < mine) {
                float w[VEC], b[VEC] = {};
                load(w, weights + c);
                if (bias) { load(b, biases + c); }
#pragma unroll
                for (int i = 0; i < VEC; i++) { x[k][i] = (x[k][i] - correction) * s * w[i] + b[i]; }
                store(out + start + c, x[k]);
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < at.last - at.first; i += THREADS) {
        mean[at.first + i] = means[i];
        rstd[at.first + i] = rstds[i];
    }
}

// One warp per row, any C. Reads the row three times.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    forward_row(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight, const floatX *bias,
                int N, int C, float eps) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * V;
    if (row >= N) { return; }
    const floatX *x = inp + (size_t)row * C;
    float v[V], sum = 0, correction = 0, square = 0;
    for (int c = first; c < C; c += 32 * V) {
        load(v, x + c);
#pragma unroll
        for (int i = 0; i < V; i++) { sum += v[i]; }
    }
    const float m = warp_sum(sum) / C;
    for (int c = first; c < C; c += 32 * V) {
        load(v, x + c);
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float d = v[i] - m;
            correction += d;
            square += d * d;
        }
    }
    correction = warp_sum(correction) / C;
    const float s = 1.0f / sqrtf(warp_sum(square) / C - correction * correction + eps);
    if (threadIdx.x % 32 == 0) {
        mean[row] = m + correction;
        rstd[row] = s;
    }
    for (int c = first; c < C; c += 32 * V) {
        float w[V], b[V] = {};
        load(v, x + c);
        load(w, weight + c);
        if (bias) { load(b, bias + c); }
#pragma unroll
        for (int i = 0; i < V; i++) { v[i] = ((v[i] - m) - correction) * s * w[i] + b[i]; }
        store(out + (size_t)row * C + c, v);
    }
}

template <int EIGHTS>
static void forward_teams(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                          const floatX *bias, int N, int C, float eps, Teams teams, Device *dev) {
    launch<forward_rows<EIGHTS * 8 / VEC>>(dev, teams.blocks, THREADS,
                                           2 * C * sizeof(floatX) + 2 * teams.rows * sizeof(float), out, mean, rstd,
                                           inp, weight, bias, N, C, eps, teams.lanes, teams.rows);
}

void layernorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int N, int C, float eps, Device *dev) {
    static const decltype(&forward_teams<1>) variants[] = {forward_teams<1>, forward_teams<2>, forward_teams<3>,
                                                           forward_teams<4>, forward_teams<5>};
    if (!device_launch(dev, "layernorm_forward", layernorm_forward_cost(bias, N, C))) { return; }
    const Teams teams = cut_teams(N, C);
    if (teams.lanes) {
        variants[teams.eights - 1](out, mean, rstd, inp, weight, bias, N, C, eps, teams, dev);
    } else {
        launch_one_of<forward_row<1>, forward_row<VEC>>(C % VEC, dev, ceil_div(N, (int)WARPS), THREADS, 0, out, mean,
                                                        rstd, inp, weight, bias, N, C, eps);
    }
}

// Adds the lanes' values over the block's teams and writes the column sums to out (C). scratch: as many floats as the
// block's threads hold.
template <int K>
__device__ static inline void sum_teams(float *out, const float (&value)[K][VEC], float *scratch, RowPlace at,
                                        int lanes, int C) {
    const int width = K * lanes * VEC;
    __syncthreads(); // other threads may still use the scratch
#pragma unroll
    for (int k = 0; k < K; k++) {
        float *to = scratch + at.team * width + (k * lanes + at.lane) * VEC;
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
            *(float4 *)(to + i) = make_float4(value[k][i], value[k][i + 1], value[k][i + 2], value[k][i + 3]);
        }
    }
    __syncthreads();
    for (int c = threadIdx.x * 4; c < C; c += THREADS * 4) {
        float4 sum = *(const float4 *)(scratch + c);
        for (int team = 1; team < at.together; team++) {
            const float4 x = *(const float4 *)(scratch + team * width + c);
            sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
        }
        *(float4 *)(out + c) = sum;
    }
}

// dx = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), with means over a row. sums (blocks, 2, C) of dy and of dy x^ over
// a block's rows (may be NULL).
template <int K>
static __global__ void __launch_bounds__(THREADS, 1)
    backward_rows(floatX *dinp, float *sums, const floatX *dout, const floatX *inp, const floatX *weight,
                  const float *mean, const float *rstd, const floatX *dresidual, int N, int C, int lanes, int rows) {
    floatX *weights = (floatX *)dynamic_shared;
    float *means = (float *)(weights + C), *rstds = means + rows, sum[K][VEC] = {}, dot[K][VEC] = {};
    const RowPlace at(N, lanes, rows);
    to_shared(weights, weight, C);
    for (int i = threadIdx.x; i < at.last - at.first; i += THREADS) {
        means[i] = mean[at.first + i];
        rstds[i] = rstd[at.first + i];
    }
    __syncthreads();
    for (int first = at.first; first < at.last; first += at.together) {
        const int row = first + at.team, mine = row < at.last ? C : 0; // columns to handle
        const size_t start = (size_t)row * C;
        const float m = mine ? means[row - at.first] : 0, s = mine ? rstds[row - at.first] : 0;
        floatX x[K][VEC], dy[K][VEC];
        float a = 0, b = 0;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * lanes + at.lane) * VEC;
            if (c < mine) {
                load_words(x[k], inp + start + c);
                load_words(dy[k], dout + start + c);
            } else {
                memset(x[k], 0, sizeof x[k]);
                memset(dy[k], 0, sizeof dy[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * lanes + at.lane) * VEC;
            if (c < mine) {
                float w[VEC];
                load(w, weights + c);
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    const float d = to_float(dy[k][i]), product = d * ((to_float(x[k][i]) - m) * s);
                    sum[k][i] += d;
                    dot[k][i] += product;
                    a += d * w[i];
                    b += product * w[i];
                }
            }
        }
        const float2 totals = team_sum(a, b, lanes);
        a = totals.x / C;
        b = totals.y / C;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int c = (k * lanes + at.lane) * VEC;
            if (dinp && c < mine) {
                float w[VEC], residual[VEC] = {};
                load(w, weights + c);
                if (dresidual) { load(residual, dresidual + start + c); }
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    const float xhat = (to_float(x[k][i]) - m) * s;
                    residual[i] += s * (to_float(dy[k][i]) * w[i] - a - xhat * b);
                }
                store(dinp + start + c, residual);
            }
        }
    }
    if (sums) {
        float *out = sums + (size_t)blockIdx.x * 2 * C;
        sum_teams(out, sum, (float *)dynamic_shared, at, lanes, C);
        sum_teams(out + C, dot, (float *)dynamic_shared, at, lanes, C);
    }
}

// Only dinp; one warp per row, any C. Reads the row twice.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    backward_row(floatX *dinp, const floatX *dout, const floatX *inp, const floatX *weight, const float *mean,
                 const float *rstd, const floatX *dresidual, int N, int C) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * V;
    if (row >= N) { return; }
    const size_t start = (size_t)row * C;
    const float m = mean[row], s = rstd[row];
    float x[V], dy[V], w[V], a = 0, b = 0;
    for (int c = first; c < C; c += 32 * V) {
        load(x, inp + start + c);
        load(dy, dout + start + c);
        load(w, weight + c);
#pragma unroll
        for (int i = 0; i < V; i++) {
            a += dy[i] * w[i];
            b += dy[i] * w[i] * ((x[i] - m) * s);
        }
    }
    a = warp_sum(a) / C;
    b = warp_sum(b) / C;
    for (int c = first; c < C; c += 32 * V) {
        float residual[V] = {};
        load(x, inp + start + c);
        load(dy, dout + start + c);
        load(w, weight + c);
        if (dresidual) { load(residual, dresidual + start + c); }
#pragma unroll
        for (int i = 0; i < V; i++) { residual[i] += s * (dy[i] * w[i] - a - (x[i] - m) * s * b); }
        store(dinp + start + c, residual);
    }
}

// sums (chunks, 2, C) of dy and of dy x^ over chunks of rows, any C.
template <int V>
static __global__ void __launch_bounds__(256)
    column_sums(float *sums, const floatX *dout, const floatX *inp, const float *mean, const float *rstd, int N, int C,
                int rows) {
    const int tile = blockIdx.y * blockDim.x * V, c = tile + threadIdx.x * V;
    const int last = min((int)(blockIdx.x + 1) * rows, N);
    float sum[V] = {}, dot[V] = {};
    for (int row = blockIdx.x * rows + threadIdx.y; row < last && c < C; row += blockDim.y) {
        float x[V], dy[V];
        load(x, inp + (size_t)row * C + c);
        load(dy, dout + (size_t)row * C + c);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum[i] += dy[i];
            dot[i] += dy[i] * ((x[i] - mean[row]) * rstd[row]);
        }
    }
    float *out = sums + (size_t)blockIdx.x * 2 * C;
    sum_rows_of_block(out, sum, (float *)dynamic_shared, tile, C);
    sum_rows_of_block(out + C, dot, (float *)dynamic_shared, tile, C);
}

template <int EIGHTS>
static void backward_teams(floatX *dinp, float *sums, const floatX *dout, const floatX *inp, const floatX *weight,
                           const float *mean, const float *rstd, const floatX *dresidual, int N, int C, Teams teams,
                           Device *dev) {
    const size_t scratch = sums ? sizeof(float) * THREADS * EIGHTS * 8 : 0;
    const size_t inputs = C * sizeof(floatX) + 2 * teams.rows * sizeof(float);
    launch<backward_rows<EIGHTS * 8 / VEC>>(dev, teams.blocks, THREADS, inputs > scratch ? inputs : scratch, dinp, sums,
                                            dout, inp, weight, mean, rstd, dresidual, N, C, teams.lanes, teams.rows);
}

// The sums are computed first, since dinp may be dout.
template <int V>
static void backward_any(floatX *dinp, float *sums, const floatX *dout, const floatX *inp, const floatX *weight,
                         const float *mean, const float *rstd, const floatX *dresidual, int N, int C, Cut cut,
                         Device *dev) {
    if (sums) {
        launch<column_sums<V>>(dev, cut.grid(1), cut.block(), sizeof(float) * cut.x * cut.y * V, sums, dout, inp, mean,
                               rstd, N, C, cut.rows);
    }
    if (dinp) {
        launch<backward_row<V>>(dev, ceil_div(N, (int)WARPS), THREADS, 0, dinp, dout, inp, weight, mean, rstd,
                                dresidual, N, C);
    }
}

void layernorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const float *mean, const float *rstd, const floatX *dresidual, float beta,
                        int N, int C, Device *dev) {
    static const decltype(&backward_teams<1>) variants[] = {backward_teams<1>, backward_teams<2>, backward_teams<3>,
                                                            backward_teams<4>, backward_teams<5>};
    const Teams teams = cut_teams(N, C);
    const Cut cut = cut_rows(N, C, 1);
    const int parts = teams.lanes ? teams.blocks : cut.chunks;
    const bool run =
        device_launch(dev, "layernorm_backward", layernorm_backward_cost(dinp, dweight, dbias, dresidual, beta, N, C));
    float *sums = (float *)device_workspace(dev, sizeof(float) * parts * 2 * C);
    if (!run) { return; }
    sums = dweight || dbias ? partial_sums(sums, sizeof(float) * parts * 2 * C, dev) : NULL;
    if (teams.lanes) {
        variants[teams.eights - 1](dinp, sums, dout, inp, weight, mean, rstd, dresidual, N, C, teams, dev);
    } else {
        auto *any = cut.V == 1 ? backward_any<1> : backward_any<VEC>;
        any(dinp, sums, dout, inp, weight, mean, rstd, dresidual, N, C, cut, dev);
    }
    fold_rows(dbias, dweight, sums, parts, 2 * C, C, beta, dev);
}
