// NCCL on top of MPI. The emulation and the simulator link this instead of NCCL.
#include "nccl.h"
#include "emu.h"

#define OMPI_SKIP_MPICXX // only the C interface is needed
#define MPICH_SKIP_MPICXX
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <algorithm>
#include <thread>
#include <vector>

using emu::fail;

// The call that a rank is about to make.
struct Call {
    char id[NCCL_UNIQUE_ID_BYTES]; // of the communicator
    char function[24];
    uint64_t number, count; // number: this rank's calls before this one
    int32_t type, op, root;
};

struct ncclComm {
    MPI_Comm mpi;
    int rank, world;
    Call call; // the latest one
    std::thread::id owner;
};

static int group_depth;
static bool own_mpi; // MPI was initialised here

static void check(int code, const char *what) {
    if (code != MPI_SUCCESS) { fail("%s failed", what); }
}

static double seconds_now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// ---- Agreement -----------------------------------------------------------------------------------------------------

// MPI_Allgather with a time limit.
static void gather_calls(ncclComm *comm, std::vector<Call> &calls) {
    const char *limit = getenv("EMU_NCCL_SECONDS");
    const double seconds = limit && *limit ? atof(limit) : 1800, until = seconds_now() + seconds;
    MPI_Request request;
    check(
        MPI_Iallgather(&comm->call, sizeof(Call), MPI_BYTE, calls.data(), sizeof(Call), MPI_BYTE, comm->mpi, &request),
        "MPI_Iallgather");
    for (int done = 0, tries = 0; !done; tries++) {
        check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (done) { break; }
        if (seconds_now() > until) {
            fail("rank %d waits in %s, call %llu, but not all of the %d ranks have called it within %.0f s", comm->rank,
                 comm->call.function, (unsigned long long)comm->call.number, comm->world, seconds);
        }
        if (tries > 100) { usleep(50); }
    }
}

// Checks that all ranks make the same call.
static void agree(ncclComm *comm, const Call &call) {
    const uint64_t number = comm->call.number + 1;
    char id[sizeof call.id];
    memcpy(id, comm->call.id, sizeof id);
    comm->call = call;
    comm->call.number = number;
    memcpy(comm->call.id, id, sizeof id);
    std::vector<Call> calls(comm->world);
    gather_calls(comm, calls);
    for (int r = 1; r < comm->world; r++) {
        const Call &a = calls[0], &b = calls[r];
        if (memcmp(&a, &b, sizeof a) == 0) { continue; }
        if (memcmp(a.id, b.id, sizeof a.id)) { fail("ranks 0 and %d have different unique ids", r); }
        fail("the ranks' collectives differ: rank 0, call %llu: %s of %llu, type %d, op %d, root %d; rank %d, call "
             "%llu: "
             "%s of %llu, type %d, op %d, root %d",
             (unsigned long long)a.number, a.function, (unsigned long long)a.count, a.type, a.op, a.root, r,
             (unsigned long long)b.number, b.function, (unsigned long long)b.count, b.type, b.op, b.root);
    }
}

static Call call_of(const char *function, size_t count, int type, int op, int root) {
    Call call = {};
    snprintf(call.function, sizeof call.function, "%s", function);
    call.count = count, call.type = type, call.op = op, call.root = root;
    return call;
}

// ---- Communicators -------------------------------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    *id = {};
    snprintf(id->internal, sizeof id->internal, "emu %d %.9f", (int)getpid(), seconds_now());
    return ncclSuccess;
}

static void start_mpi() {
    int ready, level;
    MPI_Initialized(&ready);
    if (ready) { return; }
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    own_mpi = true;
}

ncclResult_t ncclCommInitRank(ncclComm_t *result, int nranks, ncclUniqueId id, int rank) {
    if (!result || nranks < 1 || rank < 0 || rank >= nranks) { return ncclInvalidArgument; }
    start_mpi();
    ncclComm *comm = new ncclComm();
    int world;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (world != nranks) { fail("ncclCommInitRank for %d ranks, but mpirun has started %d", nranks, world); }
    check(MPI_Comm_split(MPI_COMM_WORLD, 0, rank, &comm->mpi), "MPI_Comm_split");
    MPI_Comm_rank(comm->mpi, &comm->rank);
    comm->world = nranks;
    if (comm->rank != rank) { fail("two processes call ncclCommInitRank as rank %d", std::min(comm->rank, rank)); }
    comm->owner = std::this_thread::get_id();
    memcpy(comm->call.id, id.internal, sizeof id.internal);
    agree(comm, call_of("ncclCommInitRank", nranks, 0, 0, 0));
    *result = comm;
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) { return ncclInvalidArgument; }
    if (group_depth) { return ncclInvalidUsage; }
    agree(comm, call_of("ncclCommDestroy", 0, 0, 0, 0));
    MPI_Comm_free(&comm->mpi);
    delete comm;
    if (own_mpi) { MPI_Finalize(); }
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    MPI_Abort(comm->mpi, 1);
    return ncclSuccess;
}

bool emuNcclOwner(ncclComm_t comm) { return comm->owner == std::this_thread::get_id(); }

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    default:
        return "unhandled error";
    }
}
const char *ncclGetLastError(ncclComm_t) { return ""; }

// Calls inside a group are queued one by one: with one communicator only the stream order matters.
ncclResult_t ncclGroupStart() {
    group_depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) { return ncclInvalidUsage; }
    group_depth--;
    return ncclSuccess;
}

// ---- Sums ----------------------------------------------------------------------------------------------------------

static size_t size_of(int type) { return type == ncclFloat32 ? 4 : type == ncclBfloat16 ? 2 : 1; }

static float load(const char *p, int type) {
    if (type == ncclInt8) { return *p; }
    uint32_t bits = 0;
    memcpy((char *)&bits + (type == ncclBfloat16 ? 2 : 0), p, size_t(type == ncclBfloat16 ? 2 : 4));
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static void store(char *p, double sum, int type) {
    const float x = (float)sum;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (type == ncclBfloat16 && x == x) { bits += 0x7fff + (bits >> 16 & 1); } // to nearest even
    const int8_t byte = type == ncclInt8 ? (int8_t)x : 0;
    if (type == ncclInt8) { memcpy(p, &byte, 1); }
    if (type != ncclInt8) { memcpy(p, (char *)&bits + (type == ncclBfloat16 ? 2 : 0), size_of(type)); }
}

// to (n) = ((rows[0] + rows[1]) + rows[2]) + ..., rows (world, n)
static void sum_rows(char *to, const std::vector<char> &rows, int world, size_t n, int type) {
    const size_t size = size_of(type);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (int r = 0; r < world; r++) { sum += load(&rows[(r * n + i) * size], type); }
        store(to + i * size, sum, type);
    }
}

enum { PIECE = 1 << 18 }; // elements of one rank at a time

// recv (count) = sum over ranks of send + rank * stride: row r of `send` goes to rank r.
static void reduce_scatter(ncclComm *comm, const char *send, size_t stride, char *recv, size_t count, int type) {
    const size_t size = size_of(type), world = comm->world;
    for (size_t from = 0; from < count; from += PIECE) {
        const size_t n = std::min<size_t>(PIECE, count - from), bytes = n * size;
        std::vector<char> mine(world * bytes), rows(world * bytes);
        for (size_t r = 0; r < world; r++) { memcpy(&mine[r * bytes], send + (r * stride + from) * size, bytes); }
        check(MPI_Alltoall(mine.data(), (int)bytes, MPI_BYTE, rows.data(), (int)bytes, MPI_BYTE, comm->mpi),
              "MPI_Alltoall");
        sum_rows(recv + from * size, rows, comm->world, n, type);
    }
}

// recv (world, count) = send (count) of all ranks
static void all_gather(ncclComm *comm, const char *send, char *recv, size_t count, int type) {
    const size_t size = size_of(type), world = comm->world;
    for (size_t from = 0; from < count; from += PIECE) {
        const size_t bytes = std::min<size_t>(PIECE, count - from) * size;
        std::vector<char> mine(send + from * size, send + from * size + bytes), rows(world * bytes);
        check(MPI_Allgather(mine.data(), (int)bytes, MPI_BYTE, rows.data(), (int)bytes, MPI_BYTE, comm->mpi),
              "MPI_Allgather");
        for (size_t r = 0; r < world; r++) { memcpy(recv + (r * count + from) * size, &rows[r * bytes], bytes); }
    }
}

// Each rank sums one part of a piece, padded to equal parts.
static void all_reduce(ncclComm *comm, const char *send, char *recv, size_t count, int type) {
    const size_t size = size_of(type), world = comm->world;
    for (size_t from = 0; from < count; from += PIECE * world) {
        const size_t n = std::min<size_t>(PIECE * world, count - from), share = (n + world - 1) / world;
        std::vector<char> padded(world * share * size), part(share * size), whole(world * share * size);
        memcpy(padded.data(), send + from * size, n * size);
        reduce_scatter(comm, padded.data(), share, part.data(), share, type);
        all_gather(comm, part.data(), whole.data(), share, type);
        memcpy(recv + from * size, whole.data(), n * size);
    }
}

static void reduce(ncclComm *comm, const char *send, char *recv, size_t count, int type, int root) {
    const size_t size = size_of(type), world = comm->rank == root ? comm->world : 0;
    for (size_t from = 0; from < count; from += PIECE) {
        const size_t n = std::min<size_t>(PIECE, count - from), bytes = n * size;
        std::vector<char> mine(send + from * size, send + from * size + bytes), rows(world * bytes);
        check(MPI_Gather(mine.data(), (int)bytes, MPI_BYTE, rows.data(), (int)bytes, MPI_BYTE, root, comm->mpi),
              "MPI_Gather");
        if (world) { sum_rows(recv + from * size, rows, comm->world, n, type); }
    }
}

static void broadcast(ncclComm *comm, const char *send, char *recv, size_t count, int type, int root) {
    const size_t size = size_of(type);
    for (size_t from = 0; from < count; from += PIECE) {
        const size_t bytes = std::min<size_t>(PIECE, count - from) * size;
        std::vector<char> piece(bytes);
        if (comm->rank == root) { memcpy(piece.data(), send + from * size, bytes); }
        check(MPI_Bcast(piece.data(), (int)bytes, MPI_BYTE, root, comm->mpi), "MPI_Bcast");
        if (comm->rank != root || send != recv) { memcpy(recv + from * size, piece.data(), bytes); }
    }
}

// ---- Collectives ---------------------------------------------------------------------------------------------------

// Errors that NCCL returns immediately.
static ncclResult_t check_arguments(const ncclComm *comm, const void *send, const void *recv, int type, int op,
                                    int root) {
    if (!comm || !send || !recv) { return ncclInvalidArgument; }
    if (type != ncclInt8 && type != ncclFloat32 && type != ncclBfloat16) { return ncclInvalidArgument; }
    if (op != ncclSum || root < 0 || root >= comm->world) { return ncclInvalidArgument; }
    return ncclSuccess;
}

// Buffers may be the same (in place); any other overlap gives wrong results, which NCCL does not notice.
static void check_overlap(const char *function, const void *send, size_t send_bytes, const void *recv,
                          size_t recv_bytes, const void *send_in_place, const void *recv_in_place) {
    const char *s = (const char *)send, *r = (const char *)recv;
    if (s + send_bytes <= r || r + recv_bytes <= s) { return; }
    if (send != send_in_place || recv != recv_in_place) {
        fail("%s: the buffers overlap, but the call is not in place", function);
    }
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    if (ncclResult_t bad = check_arguments(comm, send, recv, type, op, 0)) { return bad; }
    check_overlap("ncclAllReduce", send, count * size_of(type), recv, count * size_of(type), recv, recv);
    emu::enqueue(stream, [=] {
        agree(comm, call_of("ncclAllReduce", count, type, op, 0));
        all_reduce(comm, (const char *)send, (char *)recv, count, type);
    });
    return ncclSuccess;
}

ncclResult_t ncclReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    if (ncclResult_t bad = check_arguments(comm, send, recv, type, op, root)) { return bad; }
    check_overlap("ncclReduce", send, count * size_of(type), recv, count * size_of(type), recv, recv);
    emu::enqueue(stream, [=] {
        agree(comm, call_of("ncclReduce", count, type, op, root));
        reduce(comm, (const char *)send, (char *)recv, count, type, root);
    });
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    if (ncclResult_t bad = check_arguments(comm, send, recv, type, ncclSum, 0)) { return bad; }
    const size_t bytes = count * size_of(type);
    check_overlap("ncclAllGather", send, bytes, recv, comm->world * bytes, (char *)recv + comm->rank * bytes, recv);
    emu::enqueue(stream, [=] {
        agree(comm, call_of("ncclAllGather", count, type, 0, 0));
        all_gather(comm, (const char *)send, (char *)recv, count, type);
    });
    return ncclSuccess;
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    if (ncclResult_t bad = check_arguments(comm, send, recv, type, ncclSum, root)) { return bad; }
    check_overlap("ncclBroadcast", send, count * size_of(type), recv, count * size_of(type), recv, recv);
    emu::enqueue(stream, [=] {
        agree(comm, call_of("ncclBroadcast", count, type, 0, root));
        broadcast(comm, (const char *)send, (char *)recv, count, type, root);
    });
    return ncclSuccess;
}
