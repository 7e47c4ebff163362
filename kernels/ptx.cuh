// PTX instructions without a CUDA C++ function, one small function each. Under emulation, C versions with the lane
// mapping of the PTX ISA replace them (tests/emu/emu_ptx.h).
#pragma once
#ifndef __CUDACC__
#include "emu_ptx.h"
#else

// An address within shared memory: 32 bits, so that sums and exclusive ors are one instruction.
typedef unsigned SharedAddress;
__device__ static inline SharedAddress shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// d (16 x 8, fp32) += a (16 x 16, bf16, row) b (16 x 8, bf16, column). Lane l holds
//     of d: rows l/4 and l/4 + 8, columns 2 (l%4) and 2 (l%4) + 1
//     of a: the same rows, columns 2 (l%4) + {0, 1} and 2 (l%4) + {8, 9}
//     of b: rows 2 (l%4) + {0, 1} and 2 (l%4) + {8, 9}, column l/4.
__device__ static inline void mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l%8 of matrix l/8 (16 bytes, aligned)
// and receives, of each matrix, the elements 2 (l%4) + {0, 1} of row l/4 (transposed: of column l/4).
__device__ static inline void ldmatrix_x4(unsigned r[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ static inline void ldmatrix_x4(unsigned r[4], const void *row) { ldmatrix_x4(r, shared_address(row)); }
__device__ static inline void ldmatrix_x4_trans(unsigned r[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ static inline void ldmatrix_x4_trans(unsigned r[4], const void *row) {
    ldmatrix_x4_trans(r, shared_address(row));
}

// Copies 16 bytes from global to shared memory without using registers; writes zeros if not in_range (global is then
// not read).
__device__ static inline void cp_async_16(SharedAddress shared, const void *global, bool in_range) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(in_range ? 16 : 0)
                 : "memory");
}
__device__ static inline void cp_async_16(void *shared, const void *global, bool in_range) {
    cp_async_16(shared_address(shared), global, in_range);
}
// The same if `exists`, else nothing. An instruction with a predicate, where an `if` could become a branch.
__device__ static inline void cp_async_16_if(bool exists, void *shared, const void *global, bool in_range) {
    asm volatile("{ .reg .pred exists;\n"
                 "setp.ne.u32 exists, %3, 0;\n"
                 "@exists cp.async.cg.shared.global [%0], [%1], 16, %2; }" ::"r"(shared_address(shared)),
                 "l"(global), "r"(in_range ? 16 : 0), "r"((unsigned)exists)
                 : "memory");
}
__device__ static inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the last N groups of this thread's copies are complete.
template <int N> __device__ static inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 2^x with an error of 2 units in the last place; results below 2^-126 are 0.
__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Synchronisation between blocks. A thread whose load_acquire returns the value of a store_release sees everything that
// was written before the store by the storing thread, or by threads that reached a barrier with it. So do threads that
// reach a barrier with the loading thread afterwards.
__device__ static inline unsigned load_acquire(const unsigned *p) {
    unsigned x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
__device__ static inline void store_release(unsigned *p, unsigned x) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
__device__ static inline unsigned take_number(unsigned *next) { return atomicAdd(next, 1u); }
// Loads 16 bytes from L2, since another SM may have written them after this one cached them.
__device__ static inline void load_shared_by_blocks(float x[4], const float *p) {
    const float4 v = __ldcg((const float4 *)p);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

#endif
