// linear: products by cuBLASLt, with the bias in the epilogue and residuals and weight gradients by beta = 1.
//
// cuBLASLt is column-major: a row-major (R, C) matrix is its (C x R) with leading dimension C, so that
// out (N, OC) = inp weight^T is asked for as out^T = weight inp^T, and so on.
#include "kernels/cuda_common.cuh"
#include <map>
#include <tuple>

extern "C" {
#include "util/error.h"
}

static const size_t LT_WORKSPACE = (size_t)32 << 20; // what cuBLASLt likes to have from Hopper on

// D (m x n, column-major) = op(A) op(B) + beta C + bias (m).
struct Product {
    bool transpose_a, transpose_b;
    int m, n, k;
    bool bias, float_out; // D and C are float instead of floatX
    bool operator<(const Product &o) const {
        return std::tie(transpose_a, transpose_b, m, n, k, bias, float_out) <
               std::tie(o.transpose_a, o.transpose_b, o.m, o.n, o.k, o.bias, o.float_out);
    }
};

// Descriptors and the algorithm that cuBLASLt's heuristic chose for a shape.
struct Plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct LinearCache {
    std::map<Product, Plan> plans;
};

void linear_cache_free(LinearCache *cache) {
    if (!cache) { return; }
    for (auto &entry : cache->plans) {
        CHECK_CUBLAS(cublasLtMatmulDescDestroy(entry.second.desc));
        CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(entry.second.a));
        CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(entry.second.b));
        CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(entry.second.d));
    }
    delete cache;
}

static const cudaDataType_t TYPE_X = sizeof(floatX) == 2 ? CUDA_R_16BF : CUDA_R_32F;

static cublasLtMatmulDesc_t make_desc(const Product &p) {
    cublasLtMatmulDesc_t desc;
    CHECK_CUBLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a));
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b));
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    return desc;
}

static void choose_algorithm(Plan *plan, const Product &p, Device *dev) {
    cublasLtMatmulPreference_t preference;
    CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                      &LT_WORKSPACE, sizeof LT_WORKSPACE));
    const uint32_t alignment = 16; // kernels.h promises no more
    const cublasLtMatmulPreferenceAttributes_t attributes[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (cublasLtMatmulPreferenceAttributes_t attribute : attributes) {
        CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment));
    }
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    CHECK_CUBLAS(cublasLtMatmulAlgoGetHeuristic(dev->internals->lt, plan->desc, plan->a, plan->b, plan->d, plan->d,
                                                preference, 1, &result, &found));
    if (!found) { die("cuBLASLt knows no algorithm for a product of %d x %d x %d", p.m, p.n, p.k); }
    plan->algo = result.algo;
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
}

static Plan *plan_for(const Product &p, Device *dev) {
    LinearCache *&cache = dev->internals->linear;
    if (!cache) { cache = new LinearCache(); }
    auto found = cache->plans.find(p);
    if (found != cache->plans.end()) { return &found->second; }
    const cudaDataType_t out = p.float_out ? CUDA_R_32F : TYPE_X;
    const int rows_a = p.transpose_a ? p.k : p.m, cols_a = p.transpose_a ? p.m : p.k;
    const int rows_b = p.transpose_b ? p.n : p.k, cols_b = p.transpose_b ? p.k : p.n;
    Plan plan;
    plan.desc = make_desc(p);
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.a, TYPE_X, rows_a, cols_a, rows_a));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.b, TYPE_X, rows_b, cols_b, rows_b));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.d, out, p.m, p.n, p.m));
    choose_algorithm(&plan, p, dev);
    return &(cache->plans[p] = plan);
}

static void product(void *D, const floatX *A, const floatX *B, const void *C, const floatX *bias, float beta,
                    const Product &p, Device *dev) {
    Plan *plan = plan_for(p, dev);
    if (p.bias) {
        CHECK_CUBLAS(
            cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    const float one = 1;
    CHECK_CUBLAS(cublasLtMatmul(dev->internals->lt, plan->desc, &one, A, plan->a, B, plan->b, &beta, C ? C : D, plan->d,
                                D, plan->d, &plan->algo, device_workspace(dev, LT_WORKSPACE), LT_WORKSPACE,
                                dev->internals->compute));
}

void linear_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *residual,
                    int N, int IC, int OC, Device *dev) {
    const double n = N, ic = IC, oc = OC;
    const bool run =
        device_launch(dev, "linear_forward",
                      sizeof(floatX) * (n * ic + ic * oc + n * oc * (residual ? 2 : 1) + (bias ? oc : 0)), 2 * n * ic * oc);
    device_workspace(dev, LT_WORKSPACE);
    if (!run) { return; }
    const Product p = {true, false, OC, N, IC, bias != NULL, false};
    product(out, weight, inp, residual, bias, residual ? 1.0f : 0.0f, p, dev);
}

// partial (chunks, C): sums of the rows of each chunk.
template <int V>
static __global__ void __launch_bounds__(256) column_sums(float *partial, const floatX *inp, int N, int C, int rows) {
    const int tile = blockIdx.y * blockDim.x * V, c = tile + threadIdx.x * V;
    const int last = min((int)(blockIdx.x + 1) * rows, N);
    float sum[V] = {};
    if (c < C) {
        for (int row = blockIdx.x * rows + threadIdx.y; row < last; row += blockDim.y) {
            float x[V];
            load(x, inp + (size_t)row * C + c);
#pragma unroll
            for (int i = 0; i < V; i++) { sum[i] += x[i]; }
        }
    }
    sum_rows_of_block(partial + (size_t)blockIdx.x * C, sum, (float *)dynamic_shared, tile, C);
}

// dbias (C) = column sums of inp (N, C) + beta dbias.
static void column_sum(float *dbias, const floatX *inp, float beta, int N, int C, float *partial, Device *dev) {
    const Cut cut = cut_rows(N, C, 1);
    const size_t shared = sizeof(float) * cut.x * cut.y * cut.V;
    if (cut.V == 1) {
        launch<column_sums<1>>(dev, cut.grid(1), cut.block(), shared, partial, inp, N, C, cut.rows);
    } else {
        launch<column_sums<VEC>>(dev, cut.grid(1), cut.block(), shared, partial, inp, N, C, cut.rows);
    }
    fold_rows(dbias, partial, cut.chunks, C, C, beta, dev);
}

void linear_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                     const floatX *weight, const floatX *dresidual, float beta, int N, int IC, int OC, Device *dev) {
    const double n = N, ic = IC, oc = OC, again = beta != 0 ? 2 : 1;
    double bytes = sizeof(floatX) * n * oc, flops = 0;
    if (dinp) { bytes += sizeof(floatX) * (n * ic * (dresidual ? 2 : 1) + ic * oc), flops += 2 * n * ic * oc; }
    if (dweight) { bytes += sizeof(floatX) * n * ic + sizeof(float) * ic * oc * again, flops += 2 * n * ic * oc; }
    if (dbias) { bytes += sizeof(float) * oc * again, flops += n * oc; }
    const bool run = device_launch(dev, "linear_backward", bytes, flops);
    const size_t sums = dbias ? sizeof(float) * cut_rows(N, OC, 1).chunks * OC : 0;
    float *partial = (float *)device_workspace(dev, sums > LT_WORKSPACE ? sums : LT_WORKSPACE);
    if (!run) { return; }
    if (dinp) {
        const Product p = {false, false, IC, N, OC, false, false};
        product(dinp, weight, dout, dresidual, NULL, dresidual ? 1.0f : 0.0f, p, dev);
    }
    if (dweight) {
        const Product p = {false, true, IC, OC, N, false, true};
        product(dweight, inp, dout, dweight, NULL, beta, p, dev);
    }
    if (dbias) { column_sum(dbias, dout, beta, N, OC, partial, dev); }
}
