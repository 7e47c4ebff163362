// The matrix product of cuBLASLt, column-major as in cuBLASLt.
#pragma once
#include "kernels/cuda_common.cuh"

// D (m x n) = alpha op(A) op(B) + beta C + bias (m), op(A) m x k, op(B) k x n; leading dimensions lda, ldb and ldd (of
// C and D). A, B and bias are floatX; the accumulation is in fp32.
struct Product {
    bool transpose_a, transpose_b;
    int m, n, k, lda, ldb, ldd;
    bool bias, float_out; // float_out: C and D are float instead of floatX
};

const size_t LT_WORKSPACE = (size_t)32 << 20; // bytes of a product's workspace, as cuBLASLt recommends for Hopper

// For functions in plan-only mode: notes the product that they would queue, if products are noted (algorithms.h).
void note_product(const Product &p, Device *dev);
// Queues a product. C may be D; with beta 0 it is not read and may be NULL. All pointers are aligned to 16 bytes. The
// descriptors and the algorithm, the heuristic's first or the one that algorithms_choose names, are cached per Product.
void product(void *D, const floatX *A, const floatX *B, const void *C, const floatX *bias, float alpha, float beta,
             const Product &p, void *workspace, Device *dev);
