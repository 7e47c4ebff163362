// linear: products with cuBLASLt, with the bias in the epilogue; residuals and weight gradients are added with beta
// = 1.
//
// cuBLASLt is column-major: a row-major (R, C) matrix is a column-major (C x R) matrix with leading dimension C. So
// out (N, OC) = inp weight^T is computed as out^T = weight inp^T, and so on.
#include "kernels/cuda_common.cuh"
#include "kernels/gemm.cuh"

void linear_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *residual,
                    int N, int IC, int OC, Device *dev) {
    const bool run = device_launch(dev, "linear_forward", linear_forward_cost(bias, residual, N, IC, OC));
    void *workspace = device_workspace(dev, LT_WORKSPACE);
    const Product p = {
        .transpose_a = true, .m = OC, .n = N, .k = IC, .lda = IC, .ldb = IC, .ldd = OC, .bias = bias != NULL};
    if (!run) {
        note_product(p, dev);
        return;
    }
    product(out, weight, inp, residual, bias, 1, residual ? 1 : 0, p, workspace, dev);
}

// partial (samples, chunks, C): sums of the rows of each chunk of inp (samples, N, C).
template <int V>
static __global__ void __launch_bounds__(256) column_sums(float *partial, const floatX *inp, int N, int C, int rows) {
    const int tile = blockIdx.y * blockDim.x * V, c = tile + threadIdx.x * V, sample = blockIdx.z;
    const int last = min((int)(blockIdx.x + 1) * rows, N);
    float sum[V] = {};
    if (c < C) {
        for (int row = blockIdx.x * rows + threadIdx.y; row < last; row += blockDim.y) {
            float x[V];
            load(x, inp + ((size_t)sample * N + row) * C + c);
#pragma unroll
            for (int i = 0; i < V; i++) { sum[i] += x[i]; }
        }
    }
    sum_rows_of_block(partial + ((size_t)sample * gridDim.x + blockIdx.x) * C, sum, (float *)dynamic_shared, tile, C);
}

size_t chunk_sums_size(int samples, int N, int C) {
    return sizeof(float) * samples * cut_rows(N, C, samples).chunks * C;
}

int chunk_sums(float *partial, const floatX *inp, int samples, int N, int C, Device *dev) {
    const Cut cut = cut_rows(N, C, samples);
    const size_t shared = sizeof(float) * cut.x * cut.y * cut.V;
    launch_one_of<column_sums<1>, column_sums<VEC>>(cut.V == 1, dev, cut.grid(samples), cut.block(), shared, partial,
                                                    inp, N, C, cut.rows);
    return cut.chunks;
}

void linear_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                     const floatX *weight, const floatX *dresidual, float beta, int N, int IC, int OC, Device *dev) {
    const bool run =
        device_launch(dev, "linear_backward", linear_backward_cost(dinp, dweight, dbias, dresidual, beta, N, IC, OC));
    const size_t sums = dbias ? chunk_sums_size(1, N, OC) : 0;
    void *workspace = device_workspace(dev, sums > LT_WORKSPACE ? sums : LT_WORKSPACE);
    const Product inputs = {.m = IC, .n = N, .k = OC, .lda = IC, .ldb = OC, .ldd = IC};
    const Product weights = {
        .transpose_b = true, .m = IC, .n = OC, .k = N, .lda = IC, .ldb = OC, .ldd = IC, .float_out = true};
    if (!run) {
        if (dinp) { note_product(inputs, dev); }
        if (dweight) { note_product(weights, dev); }
        return;
    }
    if (dinp) { product(dinp, weight, dout, dresidual, NULL, 1, dresidual ? 1 : 0, inputs, workspace, dev); }
    if (dweight) { product(dweight, inp, dout, dweight, NULL, 1, beta, weights, workspace, dev); }
    if (dbias) {
        float *partial = partial_sums(workspace, sums, dev);
        const int chunks = chunk_sums(partial, dout, 1, N, OC, dev);
        fold_rows(dbias, NULL, partial, chunks, OC, OC, beta, dev);
    }
}
