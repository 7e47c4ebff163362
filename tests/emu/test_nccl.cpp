// Tests of NCCL's stand-in, under mpirun: values in every type, and errors.
//     test_nccl                values
//     test_nccl SCENARIO       rank 1 makes a different call than the others (tests/cli/test_comm.sh)
#include <nccl.h>
#define OMPI_SKIP_MPICXX
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

static int rank, world;
static ncclComm_t comm;
static cudaStream_t stream;

static void expect(bool condition, const char *what) {
    if (condition) { return; }
    printf("FAILED: %s\n", what);
    exit(2);
}
#define EXPECT(condition) expect(condition, #condition)

static uint16_t bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(bits >> 16); // exact for the small integers of this test
}

template <class T> static T *upload(const std::vector<T> &values) {
    T *p;
    EXPECT(cudaMalloc(&p, values.size() * sizeof(T)) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(p, values.data(), values.size() * sizeof(T), cudaMemcpyDefault, stream) == cudaSuccess);
    return p;
}

template <class T> static std::vector<T> download(const T *p, size_t n) {
    std::vector<T> values(n);
    EXPECT(cudaMemcpyAsync(values.data(), p, n * sizeof(T), cudaMemcpyDefault, stream) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    return values;
}

// All collectives on small integers, out of place and in place: everything is exact.
template <class T> static void test_values(ncclDataType_t type, T (*of)(int)) {
    const int n = 37, all = n * world, ranks = world * (world + 1) / 2; // the sum of rank + 1
    std::vector<T> mine(all), zero(all, of(0));
    for (int i = 0; i < all; i++) { mine[i] = of((rank + 1) * (i % 3)); }
    T *in = upload(mine), *out = upload(zero);
    EXPECT(ncclAllReduce(in, out, all, type, ncclSum, comm, stream) == ncclSuccess);
    std::vector<T> got = download(out, all);
    for (int i = 0; i < all; i++) { EXPECT(got[i] == of(ranks * (i % 3))); }
    EXPECT(ncclReduce(in, out, all, type, ncclSum, world - 1, comm, stream) == ncclSuccess);
    got = download(out, all);
    for (int i = 0; i < all && rank == world - 1; i++) { EXPECT(got[i] == of(ranks * (i % 3))); }
    EXPECT(ncclAllGather(in, out, n, type, comm, stream) == ncclSuccess);
    got = download(out, all);
    for (int i = 0; i < all; i++) { EXPECT(got[i] == of((i / n + 1) * (i % n % 3))); }
    EXPECT(ncclBroadcast(in, out, all, type, world - 1, comm, stream) == ncclSuccess);
    got = download(out, all);
    for (int i = 0; i < all; i++) { EXPECT(got[i] == of(world * (i % 3))); }
    EXPECT(ncclAllGather(in + rank * n, in, n, type, comm, stream) == ncclSuccess);
    got = download(in, all);
    for (int i = 0; i < all; i++) { EXPECT(got[i] == of((i / n + 1) * (i % 3))); }
    EXPECT(cudaFree(in) == cudaSuccess && cudaFree(out) == cudaSuccess);
}

static void test_arguments() {
    float *p = upload(std::vector<float>(16));
    EXPECT(ncclAllReduce(nullptr, p, 16, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclAllReduce(p, p, 16, ncclFloat32, ncclSum, nullptr, stream) == ncclInvalidArgument);
    EXPECT(ncclAllReduce(p, p, 16, (ncclDataType_t)77, ncclSum, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclBroadcast(p, p, 16, ncclFloat32, world, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclReduce(p, p, 16, ncclFloat32, ncclSum, -1, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclGroupEnd() == ncclInvalidUsage);
    EXPECT(ncclGroupStart() == ncclSuccess);
    EXPECT(ncclCommDestroy(comm) == ncclInvalidUsage);
    EXPECT(ncclGroupEnd() == ncclSuccess);
    EXPECT(cudaFree(p) == cudaSuccess);
}

static void go_wrong(const char *scenario) {
    const bool me = rank == 1;
    float *p = upload(std::vector<float>(64));
    if (!strcmp(scenario, "count")) {
        ncclAllReduce(p, p, me ? 31 : 32, ncclFloat32, ncclSum, comm, stream);
    } else if (!strcmp(scenario, "type")) {
        ncclAllReduce(p, p, 32, me ? ncclBfloat16 : ncclFloat32, ncclSum, comm, stream);
    } else if (!strcmp(scenario, "root")) {
        ncclBroadcast(p, p, 32, ncclFloat32, me, comm, stream);
    } else if (!strcmp(scenario, "order")) {
        for (int i = 0; i < 2; i++) {
            if (me == i) { ncclAllReduce(p, p, 32, ncclFloat32, ncclSum, comm, stream); }
            if (me != i) { ncclBroadcast(p, p, 32, ncclFloat32, 0, comm, stream); }
        }
    } else if (!strcmp(scenario, "overlap")) {
        ncclAllReduce(p, p + 1, 32, ncclFloat32, ncclSum, comm, stream);
    } else if (!strcmp(scenario, "destroy") && me) {
        ncclCommDestroy(comm);
    } else if (!strcmp(scenario, "destroy") || (!strcmp(scenario, "absent") && !me)) {
        ncclAllReduce(p, p, 32, ncclFloat32, ncclSum, comm, stream);
    }
    if (!strcmp(scenario, "absent") && me) { MPI_Barrier(MPI_COMM_WORLD); } // busy with something else
    cudaStreamSynchronize(stream);
}

int main(int argc, char **argv) {
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    const char *scenario = argc > 1 ? argv[1] : "";
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    if (strcmp(scenario, "id")) { MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD); }
    EXPECT(ncclCommInitRank(&comm, world + !strcmp(scenario, "world"), id, strcmp(scenario, "rank") ? rank : 0) ==
           ncclSuccess);
    EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    if (*scenario) {
        go_wrong(scenario);
        printf("no error was reported\n");
    } else {
        test_values<float>(ncclFloat32, [](int x) { return (float)x; });
        test_values<uint16_t>(ncclBfloat16, [](int x) { return bf16((float)x); });
        test_values<int8_t>(ncclInt8, [](int x) { return (int8_t)x; });
        test_arguments();
        printf("rank %d of %d: all as expected\n", rank, world);
    }
    EXPECT(ncclCommDestroy(comm) == ncclSuccess);
    MPI_Finalize();
    return 0;
}
