// cuBLASLt's matrix product: D = alpha op(A) op(B) + beta C + bias, column-major, strided batches; fp32,
// or bf16 A and B with fp32 accumulation and bf16 or fp32 C and D. bias (rows of D) is added after the accumulation,
// before D is rounded.
//
// EMU_LT=COUNT:FASTEST[:FAILING]: the heuristic has COUNT algorithms (default 1:0) and offers the first one and the
// last ones of them, as many as are requested. All but number FASTEST take 3 ms longer; those with an odd number add up
// two halves of k, which gives other bits; the state of number FAILING is an error.
#include "cublasLt.h"
#include "cuda_bf16.h"

#include <stdlib.h>
#include <unistd.h>
#include <vector>

struct Algorithms {
    int count = 1, fastest = 0, failing = -1;
    Algorithms() {
        const char *text = getenv("EMU_LT");
        if (text) { sscanf(text, "%d:%d:%d", &count, &fastest, &failing); }
    }
};

struct cublasLtContext {
    int unused;
};
struct cublasLtDesc {
    cublasComputeType_t compute;
    cublasOperation_t transa = CUBLAS_OP_N, transb = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = nullptr;
    int bias_type = -1; // -1: the type of D
};
struct cublasLtLayout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batches = 1;
    int64_t batch_offset = 0;
};
struct cublasLtPreference {
    uint64_t workspace = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t align_a = 256, align_b = 256, align_c = 256, align_d = 256; // the defaults of the real library
};

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown status";
}
size_t cublasLtGetVersion() { return 10000; }
const char *cublasGetStatusString(cublasStatus_t status) { return cublasLtGetStatusString(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new cublasLtContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale) {
    if (scale != CUDA_R_32F) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    *desc = new cublasLtDesc{.compute = compute};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> static cublasStatus_t take(T *field, const void *value, size_t bytes) {
    if (!value || bytes != sizeof(T)) { return CUBLAS_STATUS_INVALID_VALUE; }
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&desc->transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&desc->transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return take(&desc->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows || !rows || !cols) { return CUBLAS_STATUS_INVALID_VALUE; }
    *layout = new cublasLtLayout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return take(&layout->batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return take(&layout->batch_offset, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new cublasLtPreference();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return take(&p->align_a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return take(&p->align_b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return take(&p->align_c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&p->align_d, value, bytes);
    }
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

// Checks that types, sizes and batches fit together, and that the product is computed in fp32.
static cublasStatus_t check_product(const cublasLtDesc *desc, const cublasLtLayout *a, const cublasLtLayout *b,
                                    const cublasLtLayout *c, const cublasLtLayout *d) {
    const uint64_t m = desc->transa == CUBLAS_OP_N ? a->rows : a->cols,
                   ka = desc->transa == CUBLAS_OP_N ? a->cols : a->rows;
    const uint64_t n = desc->transb == CUBLAS_OP_N ? b->cols : b->rows,
                   kb = desc->transb == CUBLAS_OP_N ? b->rows : b->cols;
    if (ka != kb || c->rows != m || c->cols != n || d->rows != m || d->cols != n) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a->batches != b->batches || a->batches != c->batches || a->batches != d->batches) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (a->type != b->type || c->type != d->type) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    if (a->type == CUDA_R_32F && d->type != CUDA_R_32F) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    if (desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a->type != CUDA_R_32F) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT && desc->epilogue != CUBLASLT_EPILOGUE_BIAS) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static bool misaligned(const void *p, size_t bytes) { return (uintptr_t)p % bytes != 0; }

static bool lacks_bias(const cublasLtDesc *desc) {
    return desc->epilogue == CUBLASLT_EPILOGUE_BIAS && (!desc->bias || misaligned(desc->bias, 16));
}

static uint64_t fingerprint_of(const cublasLtDesc *desc, const cublasLtLayout *const layouts[4]) {
    uint64_t hash = 1469598103934665603ull;
    auto mix = [&](uint64_t value) { hash = (hash ^ value) * 1099511628211ull; };
    mix(desc->compute), mix(desc->transa), mix(desc->transb), mix(desc->epilogue);
    for (int i = 0; i < 4; i++) {
        const cublasLtLayout *l = layouts[i];
        mix(l->type), mix(l->rows), mix(l->cols), mix(l->ld), mix(l->batches), mix(l->batch_offset);
    }
    return hash;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t p, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *returned) {
    if (!handle || requested < 1) { return CUBLAS_STATUS_INVALID_VALUE; }
    const cublasStatus_t status = check_product(desc, a, b, c, d);
    *returned = 0;
    if (status != CUBLAS_STATUS_SUCCESS) { return status; }
    // cuBLASLt may choose by the address of the bias: it must be there, although it is not read yet.
    if (lacks_bias(desc)) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (p->reductions != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) {
        emu::fail("a product may add up parts of its sums in another type than fp32");
    }
    const cublasLtLayout *layouts[4] = {a, b, c, d};
    const Algorithms algorithms;
    const int left_out = algorithms.count > requested ? algorithms.count - requested : 0;
    for (int i = 0; i < algorithms.count - left_out; i++) {
        const int index = i ? i + left_out : 0;
        results[i] = {};
        results[i].algo = {
            fingerprint_of(desc, layouts), p->align_a, p->align_b, p->align_c, p->align_d, p->workspace, index};
        results[i].workspaceSize = p->workspace;
        if (index == algorithms.failing) { results[i].state = CUBLAS_STATUS_NOT_SUPPORTED; }
        *returned = i + 1;
    }
    return *returned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static float element(const void *p, int type, size_t i) {
    return type == CUDA_R_32F ? ((const float *)p)[i] : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}

static void store(void *p, int type, size_t i, float value) {
    if (type == CUDA_R_32F) {
        ((float *)p)[i] = value;
    } else {
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(value);
    }
}

static std::vector<float> dense(const void *p, const cublasLtLayout &l, int batch) {
    std::vector<float> out(l.rows * l.cols);
    for (uint64_t col = 0; col < l.cols; col++) {
        for (uint64_t row = 0; row < l.rows; row++) {
            out[col * l.rows + row] = element(p, l.type, batch * l.batch_offset + col * l.ld + row);
        }
    }
    return out;
}

struct Matrix { // column-major
    const float *values;
    int ld;
    bool transposed;
    float at(int row, int col) const { return values[transposed ? (size_t)row * ld + col : (size_t)col * ld + row]; }
};

// out (m, n) = alpha a b + beta out, over the elements first .. of k. Each element is one sum in the order of k, in
// tiles of one size: its bits do not depend on m, n, the processor or the place in the matrix, as OpenBLAS's do.
static void multiply(float *out, float alpha, Matrix a, Matrix b, float beta, int m, int n, int first, int count) {
    enum { ROWS = 16, COLUMNS = 4 };
    std::vector<float> left((size_t)count * ROWS), right((size_t)count * COLUMNS);
    for (int row = 0; row < m; row += ROWS) {
        for (int i = 0; i < count * ROWS; i++) {
            left[i] = row + i % ROWS < m ? a.at(row + i % ROWS, first + i / ROWS) : 0;
        }
        for (int col = 0; col < n; col += COLUMNS) {
            float sum[COLUMNS][ROWS] = {};
            for (int i = 0; i < count * COLUMNS; i++) {
                right[i] = col + i % COLUMNS < n ? b.at(first + i / COLUMNS, col + i % COLUMNS) : 0;
            }
            for (int i = 0; i < count; i++) {
                for (int c = 0; c < COLUMNS; c++) {
                    for (int r = 0; r < ROWS; r++) { sum[c][r] += left[i * ROWS + r] * right[i * COLUMNS + c]; }
                }
            }
            for (int c = 0; c < COLUMNS && col + c < n; c++) {
                for (int r = 0; r < ROWS && row + r < m; r++) {
                    float *to = &out[(size_t)(col + c) * m + row + r];
                    *to = alpha * sum[c][r] + (beta != 0 ? beta * *to : 0);
                }
            }
        }
    }
}

static void product(const cublasLtDesc &desc, float alpha, const void *A, const cublasLtLayout &a, const void *B,
                    const cublasLtLayout &b, float beta, const void *C, const cublasLtLayout &c, void *D,
                    const cublasLtLayout &d, bool halves) {
    const int m = (int)d.rows, n = (int)d.cols, k = (int)(desc.transa == CUBLAS_OP_N ? a.cols : a.rows);
    for (int batch = 0; batch < d.batches; batch++) {
        const std::vector<float> left = dense(A, a, batch), right = dense(B, b, batch);
        std::vector<float> sum((size_t)m * n, 0.0f); // beta = 0 never reads C
        if (beta != 0) { sum = dense(C, c, batch); }
        auto add = [&](int first, int count, float kept) { // the elements first .. of k
            multiply(sum.data(), alpha, Matrix{left.data(), (int)a.rows, desc.transa != CUBLAS_OP_N},
                     Matrix{right.data(), (int)b.rows, desc.transb != CUBLAS_OP_N}, kept, m, n, first, count);
        };
        if (halves && k > 1) {
            add(0, k / 2, beta);
            add(k / 2, k - k / 2, 1);
        } else {
            add(0, k, beta);
        }
        for (int col = 0; col < n; col++) {
            for (int row = 0; row < m; row++) {
                float value = sum[(size_t)col * m + row];
                if (desc.epilogue == CUBLASLT_EPILOGUE_BIAS) {
                    value += element(desc.bias, desc.bias_type < 0 ? d.type : desc.bias_type, row);
                }
                store(D, d.type, batch * d.batch_offset + (size_t)col * d.ld + row, value);
            }
        }
    }
}

// Overwrites the workspace, as the real library does, so that tests notice if data is kept there or streams share it.
static void scribble(void *workspace, size_t bytes) { memset(workspace, 0xFF, bytes < 65536 ? bytes : 65536); }

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    if (!handle || !A || !B || !C || !D) { return CUBLAS_STATUS_INVALID_VALUE; }
    const cublasStatus_t status = check_product(desc, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) { return status; }
    const cublasLtLayout *layouts[4] = {a, b, c, d};
    if (algo && algo->fingerprint != fingerprint_of(desc, layouts)) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (algo && (misaligned(A, algo->align_a) || misaligned(B, algo->align_b) || misaligned(C, algo->align_c) ||
                 misaligned(D, algo->align_d) || algo->workspace > workspace_bytes)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (misaligned(workspace, 16) || lacks_bias(desc)) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (C == D && (c->ld != d->ld || c->batch_offset != d->batch_offset)) { return CUBLAS_STATUS_INVALID_VALUE; }
    const Algorithms algorithms;
    const int index = algo ? algo->index : 0;
    const bool slow = algorithms.count > 1 && index != algorithms.fastest;
    emu::enqueue(stream, [slow, halves = index % 2 == 1, desc = *desc, alpha = *(const float *)alpha,
                          beta = *(const float *)beta, A, a = *a, B, b = *b, C, c = *c, D, d = *d, workspace,
                          bytes = algo ? algo->workspace : workspace_bytes] {
        if (slow) { usleep(3000); }
        scribble(workspace, bytes);
        product(desc, alpha, A, a, B, b, beta, C, c, D, d, halves);
    });
    return CUBLAS_STATUS_SUCCESS;
}
