// Token, position and timestep embeddings.
#include "kernels/elementwise.cuh"

enum { WARPS = THREADS / 32 };

// The vector of V columns that a thread handles, in rows of C.
template <int V> struct Vector {
    int row, c;
    __device__ explicit Vector(int C) {
        const size_t i = first_element(V);
        row = (int)(i / C);
        c = (int)(i % C);
    }
};

template <int V>
static __global__ void __launch_bounds__(THREADS) add_tables(floatX *out, const int *ids, const floatX *token_weight,
                                                             const floatX *position_weight, int rows, int T, int C) {
    const Vector<V> at(C);
    if (at.row >= rows) { return; }
    float token[V], position[V];
    load(token, token_weight + (size_t)ids[at.row] * C + at.c);
    load(position, position_weight + (size_t)(at.row % T) * C + at.c);
#pragma unroll
    for (int i = 0; i < V; i++) { token[i] += position[i]; }
    store(out + (size_t)at.row * C + at.c, token);
}

void embedding_forward(floatX *out, const int *ids, const floatX *token_weight, const floatX *position_weight, int B,
                       int T, int C, int, Device *dev) {
    const size_t rows = (size_t)B * T;
    if (!device_launch(dev, "embedding_forward", embedding_forward_cost(B, T, C))) { return; }
    launch_one_of<add_tables<1>, add_tables<VEC>>(C % VEC, dev, blocks_for(rows * C, C % VEC ? 1 : VEC), THREADS, 0,
                                                  out, ids, token_weight, position_weight, (int)rows, T, C);
}

// grad[:V] = sum + beta grad.
template <int V> __device__ static inline void add_to(float *grad, const float (&sum)[V], float beta) {
    float x[V] = {};
    if (beta != 0) { load_words(x, grad); }
#pragma unroll
    for (int i = 0; i < V; i++) { x[i] = sum[i] + beta * x[i]; }
    store_words(grad, x);
}

// Sums the rows of dout (rows, C) that have the same id as row blockIdx.x, and adds them to that token's row. Only the
// block of the id's first row does so. Each warp handles every eighth batch of 32 rows.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    token_gradient(float *dtoken, const floatX *dout, const int *ids, float beta, int rows, int C) {
    __shared__ float sums[WARPS][32 * V];
    const int first = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, id = ids[first];
    const int c = (blockIdx.y * 32 + lane) * V;
    int earlier = 0;
    for (int row = threadIdx.x; row < first; row += THREADS) { earlier |= ids[row] == id; }
    if (__syncthreads_or(earlier)) { return; }
    float sum[V] = {};
    for (int batch = first + warp * 32; batch < rows; batch += THREADS) {
        unsigned found = __ballot_sync(0xffffffffu, batch + lane < rows && ids[batch + lane] == id);
        for (; found; found &= found - 1) {
            const int row = batch + __ffs(found) - 1;
            if (c < C) {
                float dy[V];
                load(dy, dout + (size_t)row * C + c);
#pragma unroll
                for (int i = 0; i < V; i++) { sum[i] += dy[i]; }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) { sums[warp][i * 32 + lane] = sum[i]; }
    __syncthreads();
    if (warp == 0 && c < C) {
        for (int w = 1; w < WARPS; w++) {
#pragma unroll
            for (int i = 0; i < V; i++) { sum[i] += sums[w][i * 32 + lane]; }
        }
        add_to(dtoken + (size_t)id * C + c, sum, beta);
    }
}

// dposition[t] = sum over the samples of dout[:, t] + beta dposition[t]; beyond T nothing is added.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    position_gradient(float *dposition, const floatX *dout, float beta, int B, int T, int C, int positions) {
    const Vector<V> at(C);
    if (at.row >= positions) { return; }
    float sum[V] = {};
    for (int b = 0; b < B && at.row < T; b++) {
        float dy[V];
        load(dy, dout + ((size_t)b * T + at.row) * C + at.c);
#pragma unroll
        for (int i = 0; i < V; i++) { sum[i] += dy[i]; }
    }
    add_to(dposition + (size_t)at.row * C + at.c, sum, beta);
}

template <int V>
static void backward(float *dtoken, float *dposition, const floatX *dout, const int *ids, float beta, int B, int T,
                     int C, int table, int positions, Device *dev) {
    if (dtoken) {
        if (beta == 0) { device_fill(dev, dtoken, 0, sizeof(float) * table * C); }
        launch<token_gradient<V>>(dev, dim3(B * T, ceil_div(C, 32 * V)), THREADS, 0, dtoken, dout, ids, beta, B * T, C);
    }
    if (dposition) {
        const int written = beta == 0 ? positions : T; // the other rows keep their values
        launch<position_gradient<V>>(dev, blocks_for((size_t)written * C, V), THREADS, 0, dposition, dout, beta, B, T,
                                     C, written);
    }
}

void embedding_backward(float *dtoken, float *dposition, const floatX *dout, const int *ids, float beta, int B, int T,
                        int C, int V, int positions, Device *dev) {
    if (!device_launch(dev, "embedding_backward",
                       embedding_backward_cost(dtoken, dposition, beta, B, T, C, V, positions))) {
        return;
    }
    auto *variant = C % 4 ? backward<1> : backward<4>; // with 4, the gradients' accesses are whole sectors
    variant(dtoken, dposition, dout, ids, beta, B, T, C, V, positions, dev);
}

// The angle is rounded to fp32 where diffusers rounds it, and reduced to half turns in fp64: sinf of a large angle
// would take a slow path through local memory.
static __global__ void __launch_bounds__(THREADS)
    sinusoids(floatX *out, const float *timesteps, int B, int C, bool flip_sin_to_cos, float freq_shift) {
    const int half = C / 2, width = half + C % 2, i = blockIdx.x * THREADS + threadIdx.x, b = i / width, k = i % width;
    if (b >= B) { return; }
    if (k == half) {
        out[(size_t)b * C + C - 1] = to_floatX(0);
        return;
    }
    const float exponent = -9.21034037f * (float)k / ((float)half - freq_shift); // ln(10000)
    const float angle = timesteps[b] * (float)exp((double)exponent);
    const double turns = angle * 0.31830988618379067154; // halves: 1 / pi
    const float phase = (float)(turns - 2 * rint(turns / 2));
    floatX *sine = out + (size_t)b * C + k, *cosine = sine + half;
    *(flip_sin_to_cos ? cosine : sine) = to_floatX(sinpif(phase));
    *(flip_sin_to_cos ? sine : cosine) = to_floatX(cospif(phase));
}

void timestep_embedding_forward(floatX *out, const float *timesteps, int B, int C, bool flip_sin_to_cos,
                                float freq_shift, Device *dev) {
    const int half = C / 2;
    if (!device_launch(dev, "timestep_embedding_forward", timestep_embedding_forward_cost(B, C))) { return; }
    launch<sinusoids>(dev, blocks_for((size_t)B * (half + C % 2), 1), THREADS, 0, out, timesteps, B, C, flip_sin_to_cos,
                      freq_shift);
}
