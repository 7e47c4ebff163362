// Matrix products with cuBLASLt: without TF32; the only epilogue is the bias.
#include "kernels/gemm_plans.cuh"
#include <algorithm>

extern "C" {
#include "util/error.h"
}

void free_plan(const Plan &plan) {
    CHECK_CUBLAS(cublasLtMatmulDescDestroy(plan.desc));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.a));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.b));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.d));
}

static void free_cache(GemmCache *cache) {
    for (auto &entry : cache->plans) { free_plan(entry.second); }
    delete cache;
}

GemmCache *cache_of(const Device *dev) {
    GemmCache *&cache = dev->internals->gemm;
    if (!cache) {
        cache = new GemmCache();
        dev->internals->free_gemm = free_cache;
    }
    return cache;
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

char *text_of(const Product &p) {
    return xprintf("%c%c %d x %d x %d, leading %d %d %d%s%s", p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m,
                   p.n, p.k, p.lda, p.ldb, p.ldd, p.bias ? ", bias" : "", p.float_out ? ", to fp32" : "");
}

static const uint32_t ALIGNMENT = 16; // bytes: all that kernels.h guarantees

// What an algorithm must keep to: the workspace, the alignment, and that parts of a sum over k are added in fp32.
static cublasLtMatmulPreference_t make_preference() {
    cublasLtMatmulPreference_t preference;
    CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                      &LT_WORKSPACE, sizeof LT_WORKSPACE));
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t value;
    } limits[] = {{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ALIGNMENT},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, ALIGNMENT},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, ALIGNMENT},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, ALIGNMENT}};
    for (const auto &[attribute, value] : limits) {
        CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    }
    return preference;
}

// Always as many are requested, since a shorter list need not be the beginning of a longer one. cuBLASLt may look at
// the address of the bias: one of the least alignment, which is never read, stands for it.
Offers offers_for(const Plan &plan, const Product &p, Device *dev) {
    const cublasLtMatmulPreference_t preference = make_preference();
    if (p.bias) { set_bias(plan, (const void *)(uintptr_t)ALIGNMENT); }
    Offers offers(ALGORITHMS);
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(dev->internals->lt, plan.desc, plan.a, plan.b, plan.d,
                                                                 plan.d, preference, ALGORITHMS, offers.data(), &found);
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    offers.resize(status == CUBLAS_STATUS_SUCCESS ? found : 0);
    const auto fails = [](const auto &offer) { return offer.state != CUBLAS_STATUS_SUCCESS; };
    offers.erase(std::remove_if(offers.begin(), offers.end(), fails), offers.end());
    if (offers.empty()) {
        die("cuBLASLt offers no algorithm for the product %s (%s)", text_of(p), cublasLtGetStatusString(status));
    }
    return offers;
}

Plan make_plan(const Product &p) {
    const cudaDataType_t out = p.float_out ? CUDA_R_32F : TYPE_X;
    const int rows_a = p.transpose_a ? p.k : p.m, cols_a = p.transpose_a ? p.m : p.k;
    const int rows_b = p.transpose_b ? p.n : p.k, cols_b = p.transpose_b ? p.k : p.n;
    Plan plan;
    plan.desc = make_desc(p);
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.a, TYPE_X, rows_a, cols_a, p.lda));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.b, TYPE_X, rows_b, cols_b, p.ldb));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.d, out, p.m, p.n, p.ldd));
    return plan;
}

// Another card than that of rank 0, which chose, may offer fewer algorithms: then the first.
static Plan *plan_for(const Product &p, Device *dev) {
    GemmCache *cache = cache_of(dev);
    auto found = cache->plans.find(p);
    if (found != cache->plans.end()) { return &found->second; }
    const auto chosen = cache->choices.find(p);
    const size_t choice = chosen == cache->choices.end() ? 0 : chosen->second;
    Plan plan = make_plan(p);
    const Offers offers = offers_for(plan, p, dev);
    plan.algo = offers[choice < offers.size() ? choice : 0].algo;
    return &(cache->plans[p] = plan);
}

cublasStatus_t queue(const Plan &plan, void *D, const void *A, const void *B, const void *C, float alpha, float beta,
                     void *workspace, Device *dev) {
    return cublasLtMatmul(dev->internals->lt, plan.desc, &alpha, A, plan.a, B, plan.b, &beta, C, plan.d, D, plan.d,
                          &plan.algo, workspace, LT_WORKSPACE, dev->internals->compute);
}

void set_bias(const Plan &plan, const void *bias) {
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
}

void product(void *D, const floatX *A, const floatX *B, const void *C, const floatX *bias, float alpha, float beta,
             const Product &p, void *workspace, Device *dev) {
    Plan *plan = plan_for(p, dev);
    if (p.bias) { set_bias(*plan, bias); }
    CHECK_CUBLAS(queue(*plan, D, A, B, C ? C : D, alpha, beta, workspace, dev));
}
