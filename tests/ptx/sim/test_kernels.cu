// Tests of the simulator on CUDA kernels, compiled by nvcc and launched through runtime.cpp: their values, their
// counts, and what breaks in each mutant of a matrix product.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}
#undef fail // cmocka's macro; Launch::fail is another function
#include "tests/ptx/sim/profile.h"
#include <cuda_bf16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <functional>
#include <vector>

using bf16 = __nv_bfloat16;

template <class T> static T *on_device(const std::vector<T> &values) {
    T *p;
    assert_int_equal(cudaMalloc((void **)&p, values.size() * sizeof(T)), cudaSuccess);
    assert_int_equal(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
    return p;
}

template <class T> static std::vector<T> on_host(const T *p, size_t n) {
    std::vector<T> values(n);
    assert_int_equal(cudaMemcpy(values.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
}

static std::vector<float> waves(size_t n, float step) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; i++) { values[i] = sinf(step * (float)i); }
    return values;
}

static std::vector<bf16> narrow(const std::vector<float> &from) {
    std::vector<bf16> values(from.size());
    for (size_t i = 0; i < from.size(); i++) { values[i] = __float2bfloat16(from[i]); }
    return values;
}

// Runs `launch` in a child process with the race check and returns what it prints to stderr.
static std::string said_by(const std::function<void()> &launch) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        setenv("SIM_RACE", "1", 1);
        setenv("SIM_LIMIT", "100000000", 1);
        alarm(60);
        launch();
        _exit(cudaDeviceSynchronize() != cudaSuccess);
    }
    close(pipes[1]);
    std::string said;
    char text[512];
    for (ssize_t n; (n = read(pipes[0], text, sizeof text)) > 0;) { said.append(text, (size_t)n); }
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    return said;
}

// ---- Values ---------------------------------------------------------------------------------------------------------

__global__ void block_sums(float *out, const float *x, int n) {
    __shared__ float partial[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) { sum += x[i]; }
    for (int bits = 16; bits > 0; bits /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, bits); }
    if (threadIdx.x % 32 == 0) { partial[threadIdx.x / 32] = sum; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned w = 1; w < blockDim.x / 32; w++) { sum += partial[w]; }
        out[blockIdx.x] = sum;
    }
}

static void test_reduction(void **) {
    const std::vector<float> x = waves(50001, 0.1f);
    float *out = on_device(std::vector<float>(13)), *in = on_device(x);
    double expected = 0, got = 0;
    for (float v : x) { expected += v; }
    block_sums<<<13, 192>>>(out, in, (int)x.size());
    for (float v : on_host(out, 13)) { got += v; }
    printf("    sum %.7f, expected %.7f\n", got, expected);
    assert_true(fabs(got - expected) < 1e-3);
}

// silu in bf16, eight elements per thread.
__global__ void silu(bf16 *y, const bf16 *x) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    uint4 word = ((const uint4 *)x)[i];
    __nv_bfloat162 *pairs = (__nv_bfloat162 *)&word;
    for (int k = 0; k < 4; k++) {
        const float2 v = __bfloat1622float2(pairs[k]);
        pairs[k] = __floats2bfloat162_rn(v.x / (1 + __expf(-v.x)), v.y / (1 + __expf(-v.y)));
    }
    ((uint4 *)y)[i] = word;
}

static void test_bf16(void **) {
    enum { N = 4096 };
    const std::vector<bf16> x = narrow(waves(N, 0.37f));
    bf16 *in = on_device(x), *out = on_device(std::vector<bf16>(N));
    silu<<<N / 8 / 128, 128>>>(out, in);
    const std::vector<bf16> y = on_host(out, N);
    float worst = 0;
    for (int i = 0; i < N; i++) {
        const float v = __bfloat162float(x[(size_t)i]), expected = v / (1 + expf(-v));
        worst = fmaxf(worst, fabsf(__bfloat162float(y[(size_t)i]) - expected) / (fabsf(expected) + 1e-6f));
    }
    printf("    largest relative error %.5f, that of a rounding 0.00390625\n", worst);
    assert_true(worst <= 0.00391f);
}

// ---- A matrix product and its mutants -------------------------------------------------------------------------------

// What is wrong with the product; NOTHING: it is right.
enum Fault {
    NOTHING,
    NO_BARRIER_BEFORE,
    NO_BARRIER_AFTER,
    NO_WAIT,
    PAST_GLOBAL,
    PAST_SHARED,
    MISALIGNED,
    UNWRITTEN,
    DIVERGENT,
    DEADLOCK
};

// C = A B^T: A is (M, K), B (N, K), row-major bf16; blocks of 64 x 64 by 32 of K, four warps of 32 x 32, two buffers
// that cp.async fills. Rows of a tile are 80 bytes apart, so that ldmatrix has no conflicts.
enum { TILE = 64, DEPTH = 32, PITCH = DEPTH + 8, THREADS = 128 };

__device__ static unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ static void copy_16(bf16 *to, const bf16 *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

__device__ static void load_four(unsigned *fragment, const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ static void multiply_add(float *c, const unsigned *a, const unsigned *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 64 rows of 32 elements: two pieces of 16 bytes per thread.
template <Fault F> __device__ static void load_tile(bf16 *tile, const bf16 *matrix, int row, int k, int K) {
    for (int piece = threadIdx.x; piece < TILE * DEPTH / 8; piece += THREADS) {
        const int r = piece / 4, c = piece % 4 * 8;
        if (F == UNWRITTEN && r == 5) { continue; }
        const bf16 *from =
            matrix + (size_t)(row + r + (F == PAST_GLOBAL ? 1 : 0)) * K + k + c + (F == MISALIGNED ? 4 : 0);
        copy_16(tile + r * PITCH + c + (F == PAST_SHARED ? TILE * PITCH : 0), from);
    }
}

template <Fault F>
__global__ void __launch_bounds__(THREADS) product(float *C, const bf16 *A, const bf16 *B, int N, int K) {
    __shared__ __align__(16) bf16 a_tiles[2][TILE * PITCH];
    __shared__ __align__(16) bf16 b_tiles[2][TILE * PITCH];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;
    const int row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    float sums[2][4][4] = {};
    auto load = [&](int k) {
        load_tile<F>(a_tiles[k / DEPTH % 2], A, row, k, K);
        load_tile<NOTHING>(b_tiles[k / DEPTH % 2], B, column, k, K);
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    load(0);
    for (int k = 0; k < K; k += DEPTH) {
        if (k + DEPTH < K) { load(k + DEPTH); }
        if (F == NO_WAIT) {
        } else if (k + DEPTH < K) {
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        if (F == DEADLOCK && lane < 16) {
            __syncwarp();
        } else if (F != NO_BARRIER_BEFORE) {
            __syncthreads();
        }
        const bf16 *a_tile = a_tiles[k / DEPTH % 2], *b_tile = b_tiles[k / DEPTH % 2];
        for (int step = 0; step < DEPTH; step += 16) {
            unsigned a[2][4], b[2][4];
            for (int i = 0; i < 2; i++) {
                load_four(a[i], a_tile + (m + 16 * i + lane % 16) * PITCH + step + lane / 16 * 8);
                load_four(b[i], b_tile + (n + 16 * i + lane / 16 * 8 + lane % 8) * PITCH + step + lane / 8 % 2 * 8);
            }
            for (int i = 0; i < 2; i++) {
                for (int j = 0; j < 4; j++) {
                    if (F != DIVERGENT || lane != 7) { multiply_add(sums[i][j], a[i], b[j / 2] + j % 2 * 2); }
                }
            }
        }
        if (F != NO_BARRIER_AFTER) { __syncthreads(); }
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++) {
            for (int e = 0; e < 4; e++) {
                const int r = row + m + 16 * i + lane / 4 + e / 2 * 8, c = column + n + 8 * j + lane % 4 * 2 + e % 2;
                C[(size_t)r * N + c] = sums[i][j][e];
            }
        }
    }
}

enum { M = 128, N = 64, K = 96 };
struct Product {
    std::vector<bf16> a = narrow(waves(M * K, 0.3f)), b = narrow(waves(N * K, 0.7f));
    bf16 *A = on_device(a), *B = on_device(b);
    float *C = on_device(std::vector<float>(M * N));
    template <Fault F> void run() { product<F><<<dim3(N / TILE, M / TILE), THREADS>>>(C, A, B, N, K); }
};

static void test_product(void **) {
    Product p;
    assert_string_equal(said_by([&] { p.run<NOTHING>(); }).c_str(), "");
    p.run<NOTHING>();
    const std::vector<float> c = on_host(p.C, M * N);
    double worst = 0;
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) {
                sum += (double)__bfloat162float(p.a[(size_t)(m * K + k)]) *
                       (double)__bfloat162float(p.b[(size_t)(n * K + k)]);
            }
            worst = fmax(worst, fabs(sum - (double)c[(size_t)(m * N + n)]));
        }
    }
    printf("    largest error %.2g\n", worst);
    assert_true(worst < 1e-5);
}

template <Fault F> static void expect(const char *what, const char *expected) {
    Product p;
    const std::string said = said_by([&] { p.run<F>(); });
    printf("    %s: %.140s\n", what, said.substr(0, said.find('\n')).c_str());
    assert_non_null(strstr(said.c_str(), expected));
}

static void test_mutants(void **) {
    expect<NO_BARRIER_BEFORE>("no barrier before the tiles are read", "race: shared offset");
    expect<NO_BARRIER_AFTER>("no barrier before the tiles are overwritten", "written here and read without a barrier");
    expect<NO_WAIT>("no wait for cp.async", "while a cp.async of thread");
    expect<PAST_GLOBAL>("a row past the end of A", "global read out of bounds");
    expect<PAST_SHARED>("a tile past the end of shared memory", "shared access out of bounds");
    expect<MISALIGNED>("8 bytes off", "misaligned source of cp.async");
    expect<UNWRITTEN>("a row that is not loaded", "read of shared memory that nobody wrote");
    expect<DIVERGENT>("mma without lane 7, a deadlock", "\"mma.sync");
    expect<DEADLOCK>("half a warp at another barrier, a deadlock", "\"bar.warp.sync");
}

// ---- Blocks that wait for each other --------------------------------------------------------------------------------

// Blocks take numbers as they start, and each waits for the one before it: sums in order, without floats' atomics.
__global__ void in_order(float *sum, unsigned *ticket, unsigned *turn) {
    const unsigned mine = atomicAdd(ticket, 1);
    unsigned now;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(now)
                     : "l"(__cvta_generic_to_global(turn))
                     : "memory");
    } while (now != mine);
    *sum = *sum * 2 + (float)mine;
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(turn)), "r"(mine + 1) : "memory");
}

static void test_order(void **) {
    for (const char *seed : {"0", "1", "2"}) {
        setenv("SIM_SEED", seed, 1);
        setenv("SIM_RESIDENT", "4", 1);
        float *sum = on_device(std::vector<float>(1));
        unsigned *numbers = on_device(std::vector<unsigned>(2));
        in_order<<<10, 1>>>(sum, numbers, numbers + 1);
        const float got = on_host(sum, 1)[0];
        printf("    schedule %s: %g\n", seed, got);
        assert_true(got == 1013); // 0, 1, 4, 11, ...
    }
    unsetenv("SIM_SEED");
    unsetenv("SIM_RESIDENT");
}

// ---- The runtime ----------------------------------------------------------------------------------------------------

__global__ void use_dynamic(float *out) {
    extern __shared__ float values[];
    values[threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

static void test_limits(void **) {
    float *out = on_device(std::vector<float>(64));
    use_dynamic<<<1, 64, 60000>>>(out);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration); // more than 48 KB have to be asked for
    assert_int_equal(cudaFuncSetAttribute(use_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000),
                     cudaSuccess);
    use_dynamic<<<1, 64, 60000>>>(out);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_true(on_host(out, 64)[0] == 63);
    use_dynamic<<<1, 2048, 0>>>(out);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    assert_int_equal(cudaMemcpy(out, on_host(out, 64).data(), 65 * sizeof *out, cudaMemcpyHostToDevice),
                     cudaErrorInvalidValue);
    cudaGetLastError();
    // After a fault nothing works any more, as on a device.
    const std::string said = said_by([&] {
        use_dynamic<<<1, 128, 512>>>(out);
        fprintf(stderr, "%d %d\n", (int)cudaDeviceSynchronize(), (int)cudaFree(nullptr));
    });
    printf("    %.140s\n", said.c_str());
    assert_non_null(strstr(said.c_str(), "global write out of bounds"));
    assert_non_null(strstr(said.c_str(), "700 700"));
}

// ---- Counts ---------------------------------------------------------------------------------------------------------

// Three ways to transpose 512 x 512 floats: `direct` stores a column per warp, an eighth of each sector; `through<0>`
// has 32 lanes on one bank, `through<1>` not.
enum { SIDE = 512 };
__global__ void direct(float *y, const float *x) {
    const int i = blockIdx.x * 32 + threadIdx.x, j = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8) { y[i * SIDE + j + k] = x[(j + k) * SIDE + i]; }
}
template <int PAD> __global__ void through(float *y, const float *x) {
    __shared__ float tile[32][32 + PAD];
    const int tx = threadIdx.x, ty = threadIdx.y, bx = blockIdx.x * 32, by = blockIdx.y * 32;
    for (int k = 0; k < 32; k += 8) { tile[ty + k][tx] = x[(by + ty + k) * SIDE + bx + tx]; }
    __syncthreads();
    for (int k = 0; k < 32; k += 8) { y[(bx + ty + k) * SIDE + by + tx] = tile[tx][ty + k]; }
}

static const sim::KernelCounts &counts_of(const char *name) {
    for (const auto &[key, kernel] : sim::profiled()) {
        if (kernel.shown == name) { return kernel; }
    }
    printf("    %s was not counted\n", name);
    exit(1);
}

static void check_transpose(const char *name, uint64_t stored_sectors, uint64_t wavefronts, sim::Unit by) {
    const sim::KernelCounts &k = counts_of(name);
    const sim::Counters &c = k.total;
    const uint64_t accesses = SIDE * SIDE / 32, bytes = SIDE * SIDE * sizeof(float);
    const uint64_t shared = c.shared[sim::LOAD].wavefronts + c.shared[sim::STORE].wavefronts;
    printf("    %s: %zu warps, %zu stores in %zu sectors, %zu wavefronts, %zu bytes of DRAM\n", name, (size_t)c.warps,
           (size_t)c.global[sim::STORE].requests, (size_t)c.global[sim::STORE].sectors, (size_t)shared,
           (size_t)c.dram_bytes());
    assert_int_equal(c.warps, SIDE / 32 * SIDE / 32 * 8);
    assert_int_equal(c.lanes, 32 * c.instructions);
    assert_int_equal(c.global[sim::LOAD].requests, accesses);
    assert_int_equal(c.global[sim::LOAD].sectors, 4 * accesses);
    assert_int_equal(c.global[sim::LOAD].l2_sectors, 4 * accesses);
    assert_int_equal(c.global[sim::STORE].requests, accesses);
    assert_int_equal(c.global[sim::STORE].sectors, stored_sectors);
    assert_int_equal(c.global[sim::STORE].used_bytes, bytes);
    assert_int_equal(shared, wavefronts);
    assert_int_equal(c.dram_bytes(), 2 * bytes);
    assert_int_equal(k.by(), by);
}

static void test_counts(void **) {
    float *x = on_device(waves(SIDE * SIDE, 0.1f)), *y = on_device(std::vector<float>(SIDE * SIDE));
    const dim3 grid(SIDE / 32, SIDE / 32), block(32, 8);
    direct<<<grid, block>>>(y, x);
    through<0><<<grid, block>>>(y, x);
    through<1><<<grid, block>>>(y, x);
    const uint64_t accesses = SIDE * SIDE / 32;
    check_transpose("direct", 32 * accesses, 0, sim::L1);
    check_transpose("through<0>", 4 * accesses, accesses + 32 * accesses, sim::L1);
    check_transpose("through<1>", 4 * accesses, 2 * accesses, sim::DRAM);
    const std::string table = sim::profile_table(), json = sim::profile_json();
    puts(table.c_str());
    assert_non_null(strstr(table.c_str(), "test_kernels.cu:"));
    assert_non_null(strstr(table.c_str(), "wavefronts 65.5k/2048"));
    assert_non_null(strstr(json.c_str(), "\"name\": \"through<0>\""));
}

static void test_counts_of_product(void **) {
    sim::profiled().clear();
    Product p;
    p.run<NOTHING>();
    const sim::Counters &c = counts_of("product<(Fault)0>").total;
    const uint64_t copies = 2 * M / TILE * N / TILE * K / DEPTH * 2 * (THREADS / 32);
    printf("    %zu FLOPs, %zu ldmatrix and cp.async, conflicts: %zu wavefronts of %zu\n", (size_t)c.mma,
           (size_t)(c.shared[sim::LOAD].requests + c.shared[sim::STORE].requests),
           (size_t)c.shared[sim::LOAD].wavefronts, (size_t)c.shared[sim::LOAD].ideal);
    assert_int_equal(c.mma, 2ull * M * N * K);
    assert_int_equal(c.shared[sim::LOAD].requests, M / TILE * N / TILE * K / 16 * 4 * (THREADS / 32));
    assert_int_equal(c.shared[sim::LOAD].wavefronts, 4 * c.shared[sim::LOAD].requests);
    assert_int_equal(c.shared[sim::STORE].requests, copies);
    assert_int_equal(c.global[sim::LOAD].requests, copies);
    assert_int_equal(c.unique_reads, (M + N) * K * 2 / 32);
    assert_int_equal(c.global[sim::LOAD].l2_sectors, (M + N * M / TILE) * K * 2 / 32); // cp.async.cg passes L1
}

int main() {
    setenv("SIM_PROFILE", "/dev/null", 1);
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_reduction), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_product),   cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_order),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_counts_of_product),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
