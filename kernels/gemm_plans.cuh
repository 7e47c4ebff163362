// What gemm.cu keeps for each product, for gemm_algorithms.cu, which times its algorithms and chooses.
#pragma once
#include "kernels/gemm.cuh"
#include "kernels/runtime/algorithms.h"
#include <map>
#include <tuple>
#include <vector>

inline auto key(const Product &p) {
    return std::tie(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.lda, p.ldb, p.ldd, p.bias, p.float_out);
}
inline bool operator<(const Product &a, const Product &b) { return key(a) < key(b); }

// Descriptors and the algorithm for a shape.
struct Plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct GemmCache {
    std::map<Product, Plan> plans;
    bool noting;
    std::vector<Product> noted;
    std::map<Product, int> choices; // where it is not the first
    char chosen[24];                // algorithms_chosen
};

GemmCache *cache_of(const Device *dev);
char *text_of(const Product &p); // to be freed

Plan make_plan(const Product &p); // without its algorithm
void free_plan(const Plan &plan);
void set_bias(const Plan &plan, const void *bias);
// The algorithms that the heuristic offers, at most ALGORITHMS and at least one.
typedef std::vector<cublasLtMatmulHeuristicResult_t> Offers;
Offers offers_for(const Plan &plan, const Product &p, Device *dev);
cublasStatus_t queue(const Plan &plan, void *D, const void *A, const void *B, const void *C, float alpha, float beta,
                     void *workspace, Device *dev);
