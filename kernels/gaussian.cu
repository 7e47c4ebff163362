// The VAE's diagonal Gaussian (Kingma & Welling 2013, arXiv 1312.6114).
#include "kernels/elementwise.cuh"
#include "kernels/formulas.h"

// V latents of moments (N, 2L): a thread reads V means or V log-variances, so that a warp reads whole sectors. It gets
// the other half from its neighbour if V = L, else from memory. All threads of a warp must take part.
template <int V> struct Latents {
    float mean[V], logvar[V];
    bool inside, second; // second: this thread has read log-variances
    size_t own, latent;  // offsets of its elements in moments and in (N, L)
    __device__ Latents(const floatX *moments, size_t n, int any_L) {
        const int L = V > 1 ? V : any_L;
        own = first_element(V);
        inside = own < 2 * n;
        const size_t at = inside ? own : 0;
        second = at % (2 * L) >= (size_t)L;
        latent = at / (2 * L) * L + at % L;
        float x[V], other[V];
        load_part(x, moments + at, V);
        if (V == 1) { load_part(other, moments + (second ? at - L : at + L), V); }
#pragma unroll
        for (int j = 0; j < V; j++) {
            if (V > 1) { other[j] = __shfl_xor_sync(0xffffffffu, x[j], 1); }
            mean[j] = second ? other[j] : x[j];
            logvar[j] = second ? x[j] : other[j];
        }
    }
};

__device__ static float deviation(float logvar) { return expf(0.5f * clamp_logvar(logvar)); }

template <int V>
static __global__ void __launch_bounds__(THREADS)
    sample_gaussian(floatX *z, const floatX *moments, const float *noise, size_t n, int L) {
    const Latents<V> k(moments, n, L);
    if (!k.inside || k.second) { return; }
    float e[V] = {};
    if (noise) { load_part(e, noise + k.latent, V); }
#pragma unroll
    for (int j = 0; j < V; j++) { e[j] = noise ? k.mean[j] + deviation(k.logvar[j]) * e[j] : k.mean[j]; }
    store_part(z + k.latent, e, V);
}

void gaussian_forward(floatX *z, const floatX *moments, const float *noise, int N, int L, Device *dev) {
    const size_t n = (size_t)N * L;
    if (!device_launch(dev, "gaussian_forward", gaussian_forward_cost(noise, N, L))) { return; }
    launch_one_of<sample_gaussian<4>, sample_gaussian<1>>(L == 4, dev, blocks_for(2 * n, L == 4 ? 4 : 1), THREADS, 0, z,
                                                          moments, noise, n, L);
}

// A thread writes the gradient of its own half.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    gaussian_gradient(floatX *dmoments, const floatX *dz, const floatX *moments, const float *noise, float kl_scale,
                      size_t n, int L) {
    const Latents<V> k(moments, n, L);
    if (!k.inside) { return; }
    float g[V] = {}, e[V] = {};
    if (dz) { load_part(g, dz + k.latent, V); }
    if (noise) { load_part(e, noise + k.latent, V); }
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float v = k.logvar[j], s = deviation(v);
        const float slope = kl_scale * 0.5f * (s * s - 1.0f) + (noise ? 0.5f * g[j] * e[j] * s : 0);
        const float of_logvar = v < LOGVAR_MIN || v > LOGVAR_MAX ? 0 : slope;
        g[j] = k.second ? of_logvar : g[j] + kl_scale * k.mean[j];
    }
    store_part(dmoments + k.own, g, V);
}

void gaussian_backward(floatX *dmoments, const floatX *dz, const floatX *moments, const float *noise, float kl_scale,
                       int N, int L, Device *dev) {
    const size_t n = (size_t)N * L;
    if (!device_launch(dev, "gaussian_backward", gaussian_backward_cost(dz, noise, N, L))) { return; }
    launch_one_of<gaussian_gradient<4>, gaussian_gradient<1>>(L == 4, dev, blocks_for(2 * n, L == 4 ? 4 : 1), THREADS,
                                                              0, dmoments, dz, moments, noise, kl_scale, n, L);
}

// partial (B, chunks) = sum of 2 KL over a chunk of a sample's n latents. Blocks (chunk, sample).
template <int V>
static __global__ void __launch_bounds__(THREADS) kl_of_chunk(double *partial, const floatX *moments, size_t n, int L) {
    __shared__ double scratch[32];
    const Latents<V> k(moments + blockIdx.y * 2 * n, n, L);
    double sum = 0;
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float v = clamp_logvar(k.logvar[j]), s = deviation(v);
        sum += (double)k.mean[j] * k.mean[j] + (double)s * s - 1.0 - v;
    }
    sum = block_sum(k.inside && !k.second ? sum : 0.0, scratch);
    if (threadIdx.x == 0) { partial[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = sum; }
}

void gaussian_kl(float *kl, const floatX *moments, int B, int N, int L, Device *dev) {
    const size_t n = (size_t)N * L, of_sample = n / B;
    const int V = L == 4 ? 4 : 1, chunks = blocks_for(2 * of_sample, V);
    const bool run = device_launch(dev, "gaussian_kl", gaussian_kl_cost(B, N, L));
    double *partial = (double *)device_workspace(dev, (size_t)B * chunks * sizeof(double));
    if (!run) { return; }
    launch_one_of<kl_of_chunk<4>, kl_of_chunk<1>>(V == 4, dev, dim3(chunks, B), THREADS, 0, partial, moments, of_sample,
                                                  L);
    fold_samples(kl, partial, B, chunks, 0.5, dev);
}
