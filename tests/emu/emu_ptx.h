// The instructions of kernels/ptx.cuh in C, with the lane mappings of the PTX ISA (sections "Matrix fragments for
// mma.m16n8k16 with floating point type", "ldmatrix", "Data movement: cp.async").
#pragma once
#include "cuda_bf16.h"

namespace emu {

static inline float bf16_low(unsigned pair) { return __uint_as_float(pair << 16); }
static inline float bf16_high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

struct MmaIn {
    float c[4];
    unsigned a[4], b[2];
};

static inline void combine_mma_m16n8k16(unsigned, const void *const in[32], void *const out[32]) {
    float A[16][16], B[16][8]; // A is row-major, B is k x n
    for (int lane = 0; lane < 32; lane++) {
        const MmaIn *m = (const MmaIn *)in[lane];
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            const int row = group + (i & 1) * 8, col = pair + (i >> 1) * 8;
            A[row][col] = bf16_low(m->a[i]), A[row][col + 1] = bf16_high(m->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            B[pair + i * 8][group] = bf16_low(m->b[i]), B[pair + i * 8 + 1][group] = bf16_high(m->b[i]);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const MmaIn *m = (const MmaIn *)in[lane];
        float *d = (float *)out[lane];
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + (i >> 1) * 8, col = lane % 4 * 2 + (i & 1);
            float sum = m->c[i];
            for (int k = 0; k < 16; k++) { sum += A[row][k] * B[k][col]; }
            d[i] = sum;
        }
    }
}

struct LdmatrixIn {
    const void *row; // 16 bytes; lane l passes row l % 8 of matrix l / 8
    bool transposed;
};

static inline void combine_ldmatrix_x4(unsigned, const void *const in[32], void *const out[32]) {
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 32; lane++) {
        memcpy(matrix[lane / 8][lane % 8], ((const LdmatrixIn *)in[lane])->row, 16);
    }
    const bool transposed = ((const LdmatrixIn *)in[0])->transposed;
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4, col = lane % 4 * 2;
            const uint16_t low = transposed ? matrix[i][col][row] : matrix[i][row][col];
            const uint16_t high = transposed ? matrix[i][col + 1][row] : matrix[i][row][col + 1];
            ((unsigned *)out[lane])[i] = low | (unsigned)high << 16;
        }
    }
}

static inline void ldmatrix(const char *op, unsigned r[4], const void *row, bool transposed) {
    check_shared(row, 16, 16, op);
    const LdmatrixIn in = {row, transposed};
    warp_meet(op, 0xffffffffu, &in, r, combine_ldmatrix_x4);
}

} // namespace emu

static inline void mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2]) {
    const emu::MmaIn in = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    emu::warp_meet("mma.sync", 0xffffffffu, &in, d, emu::combine_mma_m16n8k16);
}
typedef uintptr_t SharedAddress;
static inline SharedAddress shared_address(const void *p) { return (uintptr_t)p; }
static inline void ldmatrix_x4(unsigned r[4], const void *row) { emu::ldmatrix("ldmatrix", r, row, false); }
static inline void ldmatrix_x4_trans(unsigned r[4], const void *row) { emu::ldmatrix("ldmatrix.trans", r, row, true); }
static inline void ldmatrix_x4(unsigned r[4], SharedAddress row) { ldmatrix_x4(r, (const void *)row); }
static inline void ldmatrix_x4_trans(unsigned r[4], SharedAddress row) { ldmatrix_x4_trans(r, (const void *)row); }
static inline void cp_async_16(void *shared, const void *global, bool in_range) {
    emu::copy_async(shared, global, 16, in_range ? 16 : 0);
}
static inline void cp_async_16(SharedAddress shared, const void *global, bool in_range) {
    cp_async_16((void *)shared, global, in_range);
}
static inline void cp_async_16_if(bool exists, void *shared, const void *global, bool in_range) {
    if (exists) { cp_async_16(shared, global, in_range); }
}
static inline void cp_async_commit() { emu::copy_async_commit(); }
template <int N> static inline void cp_async_wait() { emu::copy_async_wait(N); }
static inline float exp2_fast(float x) { return exp2f(x); }
static inline unsigned load_acquire(const unsigned *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release(unsigned *p, unsigned x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }
static inline unsigned take_number(unsigned *next) { return __atomic_fetch_add(next, 1u, __ATOMIC_ACQ_REL); }
static inline void load_shared_by_blocks(float x[4], const float *p) { memcpy(x, p, 16); }
