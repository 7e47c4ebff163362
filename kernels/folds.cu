// folds: one launch for a table of them. The table is the kernel's argument, so that a captured graph keeps it; the
// blocks of all folds are numbered one after the other, and each block looks up its fold.
#include "kernels/cuda_common.cuh"
#include "kernels/folds.h"
#include <algorithm>

enum {
    FOLD_X = 8, // a block: columns (of 4 or 1 elements) by rows
    FOLD_Y = 32,
    FOLD_WARPS = FOLD_X * FOLD_Y / 32,
    TABLE = 80,      // folds of a launch: arguments of a kernel are 4 KB at most
    LEAST = 1 << 20, // bytes of partial sums that wait
    MOST = 16 << 20,
    ALIGNMENT = 256
};

// first (C) = sum over rows of partial (rows, stride)[:, :C] + beta first; second (C) the same of [:, C:2C].
struct Fold {
    float *first, *second; // may be NULL
    const float *partial;
    int rows, stride, C, first_block;
    float beta;
    // Gradients of parameters are aligned to 16 bytes.
    __host__ __device__ bool fours() const { return C % 4 == 0 && stride % 4 == 0; }
    __host__ __device__ int tiles() const { return ceil_div(C, (fours() ? 4 : 1) * (int)FOLD_X); }
};

template <int N> struct FoldTable {
    Fold folds[N];
    int count;
};
static_assert(sizeof(FoldTable<TABLE>) <= 4096, "the table is an argument");

// Tiles of `first` come before those of `second`.
template <int W> __device__ static inline void fold_tile(const Fold &fold, int tile) {
    __shared__ float4 memory[FOLD_WARPS * FOLD_X * W / 4];
    float *scratch = (float *)memory;
    const int half = tile / fold.tiles(), c = (tile % fold.tiles() * FOLD_X + threadIdx.x) * W;
    const int thread = threadIdx.y * FOLD_X + threadIdx.x;
    float *grad = half ? fold.second : fold.first, sum[W] = {};
    if (!grad) { return; }
    for (int row = threadIdx.y; row < fold.rows && c < fold.C; row += FOLD_Y) {
        float x[W];
        load_words(x, fold.partial + (size_t)row * fold.stride + half * fold.C + c);
#pragma unroll
        for (int i = 0; i < W; i++) { sum[i] += x[i]; }
    }
    rows_to_scratch(scratch, sum);
    __syncthreads();
    if (thread < FOLD_X && c < fold.C) {
        column_sums_of(sum, scratch, threadIdx.x * W, FOLD_X * W);
        if (fold.beta != 0) {
            float old[W];
            load_words(old, grad + c);
#pragma unroll
            for (int i = 0; i < W; i++) { sum[i] += fold.beta * old[i]; }
        }
        store_words(grad + c, sum);
    }
}

template <int N> static __global__ void __launch_bounds__(FOLD_X *FOLD_Y) fold_kernel(const FoldTable<N> table) {
    int low = 0, high = N == 1 ? 0 : table.count - 1; // the last fold that begins at this block or before it
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (table.folds[middle].first_block <= (int)blockIdx.x) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const Fold fold = table.folds[low];
    const int tile = blockIdx.x - fold.first_block;
    fold.fours() ? fold_tile<4>(fold, tile) : fold_tile<1>(fold, tile);
}

// What waits.
struct Folds {
    FoldTable<TABLE> table;
    char *memory;
    size_t size, used;
    int blocks;
};

size_t folds_bytes(size_t saved) {
    return std::min((size_t)MOST, std::max((size_t)LEAST, saved / 64 / ALIGNMENT * ALIGNMENT));
}

void folds_begin(Device *dev, void *memory, size_t bytes) {
    if (dev->plan_only) { return; }
    dev->folds = new Folds();
    dev->folds->memory = (char *)memory;
    dev->folds->size = bytes;
}

void folds_flush(Device *dev) {
    Folds *f = dev->folds;
    if (!f) { return; }
    if (f->table.count) { launch<fold_kernel<TABLE>>(dev, f->blocks, dim3(FOLD_X, FOLD_Y), 0, f->table); }
    f->table.count = f->blocks = 0;
    f->used = 0;
}

void folds_end(Device *dev) {
    folds_flush(dev);
    delete dev->folds;
    dev->folds = NULL;
}

float *partial_sums(void *workspace, size_t bytes, Device *dev) {
    Folds *f = dev->folds;
    bytes = ceil_div(bytes, (size_t)ALIGNMENT) * ALIGNMENT;
    if (!f || bytes > f->size) { return (float *)workspace; }
    if (f->used + bytes > f->size || f->table.count == TABLE) { folds_flush(dev); }
    float *partial = (float *)(f->memory + f->used);
    f->used += bytes;
    return partial;
}

static bool waits(const Folds *f, const float *partial) {
    return f && (const char *)partial >= f->memory && (const char *)partial < f->memory + f->size;
}

void fold_rows(float *first, float *second, const float *partial, int rows, int stride, int C, float beta,
               Device *dev) {
    if (!first && !second) { return; }
    Folds *f = dev->folds;
    Fold fold = {first, second, partial, rows, stride, C, 0, beta};
    const int blocks = fold.tiles() * (second ? 2 : 1);
    if (!waits(f, partial)) {
        launch<fold_kernel<1>>(dev, blocks, dim3(FOLD_X, FOLD_Y), 0, FoldTable<1>{{fold}, 1});
        return;
    }
    fold.first_block = f->blocks;
    f->table.folds[f->table.count++] = fold;
    f->blocks += blocks;
}
