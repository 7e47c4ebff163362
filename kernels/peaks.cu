// The peaks of a GPU.
#include "kernels/peaks.h"
#include "kernels/gemm.cuh"
#include "kernels/ptx.cuh"

enum { FMA_CHAINS = 8, FMA_ROUNDS = 4096, FMA_THREADS = 256, REPEATS = 5 };

// Independent chains of multiply-adds in registers, enough to hide the latency.
static __global__ void __launch_bounds__(FMA_THREADS)
    fma_loop(float *sink, float multiplier, float addend, int rounds) {
    float chain[FMA_CHAINS];
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) { chain[i] = (float)(threadIdx.x + i); }
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < FMA_CHAINS; i++) { chain[i] = chain[i] * multiplier + addend; }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < FMA_CHAINS; i++) { sum += chain[i]; }
    if (sum == 12345.678f) { *sink = sum; }
}

enum { MMA_CHAINS = 8, MMA_ROUNDS = 16384, MMA_FLOPS = 2 * 16 * 8 * 16 };

// Spread like random numbers: products of zeros would take less power, and the GPU would run at a higher clock.
__device__ static inline int scatter(unsigned i) { return (int)(i * 2654435761u); }
static __global__ void __launch_bounds__(FMA_THREADS) fill_uniform(floatX *out, unsigned n) {
    const unsigned i = blockIdx.x * FMA_THREADS + threadIdx.x;
    if (i < n) { out[i] = to_floatX((float)scatter(i) * 0x1p-31f); }
}

// Two bf16 numbers in [0.5, 1), or their negatives.
__device__ static inline unsigned bf16_pair(unsigned i) { return ((unsigned)scatter(i) & 0x807f807fu) | 0x3f003f00u; }

// The same with mma.sync in every warp.
static __global__ void __launch_bounds__(FMA_THREADS) mma_loop(float *sink, int rounds) {
    float d[MMA_CHAINS][4] = {};
    unsigned a[4], b[MMA_CHAINS][2];
#pragma unroll
    for (int i = 0; i < 4; i++) { a[i] = bf16_pair(threadIdx.x * 4 + i); }
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) { b[i][0] = bf16_pair(threadIdx.x + 17 * i), b[i][1] = bf16_pair(b[i][0]); }
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < MMA_CHAINS; i++) { mma_m16n8k16(d[i], a, b[i]); }
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < MMA_CHAINS; i++) { sum += d[i][0] + d[i][1] + d[i][2] + d[i][3]; }
    if (sum == 12345.678f) { *sink = sum; }
}

// The shortest of REPEATS runs of `work` on the compute stream, in seconds, after one warm-up run.
template <class Work> static double best_seconds(Device *dev, Work work) {
    cudaEvent_t begin, end;
    CHECK_CUDA(cudaEventCreateWithFlags(&begin, cudaEventDefault));
    CHECK_CUDA(cudaEventCreateWithFlags(&end, cudaEventDefault));
    double best = 1e30;
    for (int i = 0; i <= REPEATS; i++) {
        CHECK_CUDA(cudaEventRecord(begin, dev->internals->compute));
        work();
        CHECK_CUDA(cudaEventRecord(end, dev->internals->compute));
        CHECK_CUDA(cudaEventSynchronize(end));
        float milliseconds;
        CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
        if (i > 0 && milliseconds * 1e-3 < best) { best = milliseconds * 1e-3; }
    }
    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    return best;
}

// Memory for the measurements: the matrices and workspace of a product, or two arrays for copies.
struct PeakMemory {
    int n;         // side of the product's square matrices
    size_t stream; // bytes of one array of the copy
    size_t matrix() const { return (size_t)n * n * sizeof(floatX); }
    size_t bytes() const {
        const size_t product = 3 * matrix() + LT_WORKSPACE;
        return 2 * stream > product ? 2 * stream : product;
    }
};

static double measure_gemm(char *memory, PeakMemory size, Device *dev) {
    floatX *inp = (floatX *)memory, *weight = inp + (size_t)size.n * size.n, *out = weight + (size_t)size.n * size.n;
    const unsigned numbers = 2u * size.n * size.n;
    launch<fill_uniform>(dev, ceil_div(numbers, (unsigned)FMA_THREADS), FMA_THREADS, 0, inp, numbers);
    void *const workspace = dev->workspace; // replaced during the product
    const size_t workspace_size = dev->workspace_size;
    dev->workspace = memory + 3 * size.matrix(), dev->workspace_size = LT_WORKSPACE;
    const double seconds =
        best_seconds(dev, [&] { linear_forward(out, inp, weight, NULL, NULL, size.n, size.n, size.n, dev); });
    dev->workspace = workspace, dev->workspace_size = workspace_size;
    return 2.0 * size.n * size.n * size.n / seconds;
}

Peaks device_measure_peaks(Device *dev) {
    const int processors = device_processors(dev);
    const bool large = processors >= 16; // sizes for a GPU, or for its emulation
    PeakMemory size = {large ? 8192 : 256, (size_t)1 << (large ? 30 : 22)};
    size_t free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes); // leave half of it: CUDA loads code at the first launch
    if (size.bytes() > free_bytes / 2) {
        size = {size.n / 2, size.stream / 4};
    } // no smaller: results would mean little
    char *memory = size.bytes() <= free_bytes / 2 ? (char *)device_try_alloc(dev, size.bytes()) : NULL;
    Peaks peaks = {};
    if (!memory) { return peaks; }
    Trace *trace = dev->trace; // do not trace the measurements
    dev->trace = NULL;
    const int blocks = 8 * processors, threads = blocks * FMA_THREADS;
    const int fma_rounds = large ? FMA_ROUNDS * 16 : 16, mma_rounds = large ? MMA_ROUNDS : 4;
    peaks.flops_per_s[UNIT_GEMM] = measure_gemm(memory, size, dev);
    peaks.flops_per_s[UNIT_FP32] =
        2.0 * FMA_CHAINS * fma_rounds * threads / best_seconds(dev, [&] {
            launch<fma_loop>(dev, blocks, FMA_THREADS, 0, (float *)memory, 0.999f, 0.001f, fma_rounds);
        });
    peaks.flops_per_s[UNIT_MMA] = (double)MMA_FLOPS * MMA_CHAINS * mma_rounds * (threads / 32) / best_seconds(dev, [&] {
                                      launch<mma_loop>(dev, blocks, FMA_THREADS, 0, (float *)memory, mma_rounds);
                                  });
    peaks.bytes_per_s = 2.0 * size.stream /
                        best_seconds(dev, [&] { device_copy(dev, memory, memory + size.stream, size.stream, false); });
    dev->trace = trace;
    device_free(dev, memory);
    return peaks;
}
