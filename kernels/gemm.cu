// Matrix products with cuBLASLt: without TF32; the only epilogue is the bias.
#include "kernels/gemm.cuh"
#include <map>
#include <tuple>

extern "C" {
#include "util/error.h"
}

static auto key(const Product &p) {
    return std::tie(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.lda, p.ldb, p.ldd, p.bias, p.float_out);
}
static bool operator<(const Product &a, const Product &b) { return key(a) < key(b); }

// Descriptors and the algorithm that cuBLASLt's heuristic chose for a shape.
struct Plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct GemmCache {
    std::map<Product, Plan> plans;
};

static void free_cache(GemmCache *cache) {
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
    const uint32_t alignment = 16; // all that kernels.h guarantees
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
    if (!found) { die("cuBLASLt has no algorithm for a product of %d x %d x %d", p.m, p.n, p.k); }
    plan->algo = result.algo;
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
}

static Plan *plan_for(const Product &p, Device *dev) {
    GemmCache *&cache = dev->internals->gemm;
    if (!cache) {
        cache = new GemmCache();
        dev->internals->free_gemm = free_cache;
    }
    auto found = cache->plans.find(p);
    if (found != cache->plans.end()) { return &found->second; }
    const cudaDataType_t out = p.float_out ? CUDA_R_32F : TYPE_X;
    const int rows_a = p.transpose_a ? p.k : p.m, cols_a = p.transpose_a ? p.m : p.k;
    const int rows_b = p.transpose_b ? p.n : p.k, cols_b = p.transpose_b ? p.k : p.n;
    Plan plan;
    plan.desc = make_desc(p);
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.a, TYPE_X, rows_a, cols_a, p.lda));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.b, TYPE_X, rows_b, cols_b, p.ldb));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.d, out, p.m, p.n, p.ldd));
    choose_algorithm(&plan, p, dev);
    return &(cache->plans[p] = plan);
}

void product(void *D, const floatX *A, const floatX *B, const void *C, const floatX *bias, float alpha, float beta,
             const Product &p, void *workspace, Device *dev) {
    Plan *plan = plan_for(p, dev);
    if (p.bias) {
        CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    CHECK_CUBLAS(cublasLtMatmul(dev->internals->lt, plan->desc, &alpha, A, plan->a, B, plan->b, &beta, C ? C : D,
                                plan->d, D, plan->d, &plan->algo, workspace, LT_WORKSPACE, dev->internals->compute));
}
