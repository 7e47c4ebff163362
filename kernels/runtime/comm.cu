// Communication between ranks on GPUs, over NCCL, on a separate stream. Without nccl.h (HAVE_NCCL, comm.mk) there is
// only one rank.
#include "kernels/runtime/comm_host.h"
#include "kernels/runtime/cuda.cuh"
#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

extern "C" {
#include "util/error.h"
}

const bool comm_needs_mpi = false;

#ifdef HAVE_NCCL
#include <nccl.h>

const char *const comm_lacks = NULL;

struct CommInternals {
    Device *dev;
    ncclComm_t nccl;
    cudaStream_t stream;
    cudaEvent_t computed, communicated;
    pthread_t watcher;
    pthread_mutex_t mutex;
    pthread_cond_t closing_changed;
    bool closing;
};

static void nccl_check(ncclResult_t result, ncclComm_t nccl, const char *what, const char *file, int line) {
    if (result == ncclSuccess) { return; }
    const char *more = ncclGetLastError(nccl);
    die("%s:%d: %s failed: %s%s%s", file, line, what, ncclGetErrorString(result), more && *more ? ": " : "",
        more ? more : "");
}
#define CHECK_NCCL(call) nccl_check((call), in->nccl, #call, __FILE__, __LINE__)

// ---- Open and close ------------------------------------------------------------------------------------------------

// If the network fails, NCCL's kernels wait forever; only ncclCommGetAsyncError reports the error.
static void *watch_nccl(void *argument) {
    CommInternals *in = (CommInternals *)argument;
    pthread_mutex_lock(&in->mutex);
    while (!in->closing) {
        ncclResult_t state = ncclSuccess;
        ncclCommGetAsyncError(in->nccl, &state);
        if (state != ncclSuccess && state != ncclInProgress) {
            leave_now(1, "communication between the GPUs failed: %s: %s", ncclGetErrorString(state),
                      ncclGetLastError(in->nccl));
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&in->closing_changed, &in->mutex, &until);
    }
    pthread_mutex_unlock(&in->mutex);
    return NULL;
}

// The watcher blocks all signals: the main thread handles them.
static void start_watcher(CommInternals *in) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_init(&in->mutex, NULL);
    pthread_cond_init(&in->closing_changed, NULL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&in->watcher, NULL, watch_nccl, in)) { die("cannot start the thread that watches NCCL"); }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop_watcher(CommInternals *in) {
    pthread_mutex_lock(&in->mutex);
    in->closing = true;
    pthread_cond_signal(&in->closing_changed);
    pthread_mutex_unlock(&in->mutex);
    pthread_join(in->watcher, NULL);
}

// NCCL connects the ranks, with buffers of several hundred MB, at the first collective of each kind, small and large.
// That is here, so that device_memory then shows what is left for training.
static void connect_ranks(Comm *comm) {
    enum { FLOATS = 1 << 22 };
    CommInternals *in = comm->internals;
    float *buffer = (float *)device_alloc(in->dev, FLOATS * sizeof *buffer);
    device_fill(in->dev, buffer, 0, FLOATS * sizeof *buffer);
    for (const size_t count : {(size_t)1024, (size_t)FLOATS}) {
        comm_all_reduce_sum(comm, buffer, count);
        comm_reduce_sum(comm, buffer, count, 0);
        comm_all_gather(comm, buffer, count / comm->world * sizeof *buffer);
        comm_broadcast(comm, buffer, count * sizeof *buffer, 0);
    }
    CHECK_CUDA(cudaStreamSynchronize(in->stream));
    device_free(in->dev, buffer);
}

void comm_open(Comm *comm, Device *dev) {
    if (comm->world == 1) { return; }
    CommInternals *in = comm->internals = (CommInternals *)xcalloc(1, sizeof *in);
    in->dev = dev;
    ncclUniqueId id = {};
    if (comm->rank == 0) { CHECK_NCCL(ncclGetUniqueId(&id)); }
    comm_host_broadcast(comm, &id, sizeof id, 0);
    CHECK_NCCL(ncclCommInitRank(&in->nccl, comm->world, id, comm->rank));
    int least, greatest; // communication gets priority over compute kernels that fill the GPU
    CHECK_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CHECK_CUDA(cudaStreamCreateWithPriority(&in->stream, cudaStreamNonBlocking, greatest));
    CHECK_CUDA(cudaEventCreateWithFlags(&in->computed, cudaEventDisableTiming));
    CHECK_CUDA(cudaEventCreateWithFlags(&in->communicated, cudaEventDisableTiming));
    start_watcher(in);
    connect_ranks(comm);
    comm_host_leave_first();
}

void comm_close(Comm *comm) {
    CommInternals *in = comm->internals;
    if (in) {
        CHECK_CUDA(cudaStreamSynchronize(in->stream));
        comm_barrier(comm); // no rank may destroy its communicator while another still uses it
        stop_watcher(in);
        CHECK_NCCL(ncclCommDestroy(in->nccl));
        CHECK_CUDA(cudaEventDestroy(in->computed));
        CHECK_CUDA(cudaEventDestroy(in->communicated));
        CHECK_CUDA(cudaStreamDestroy(in->stream));
        comm_host_close(comm);
        free(in);
    }
    *comm = Comm();
    comm->world = 1;
}

// Dies if this rank's part of a collective has failed: the other ranks would wait forever.
void comm_before_waiting(Comm *comm) {
    CommInternals *in = comm->internals;
    if (!in || !in->nccl) { return; }
    ncclResult_t state = ncclSuccess;
    CHECK_NCCL(ncclCommGetAsyncError(in->nccl, &state));
    if (state != ncclInProgress) { nccl_check(state, in->nccl, "communication between GPUs", __FILE__, __LINE__); }
}

// ---- Collectives ---------------------------------------------------------------------------------------------------

// Returns whether there is something to do; if so, the communication stream waits for the work that the compute stream
// holds.
static bool begin(Comm *comm, size_t size) {
    CommInternals *in = comm->internals;
    if (comm->world == 1 || in->dev->plan_only || size == 0) { return false; }
    assert(!in->dev->recording);
    CHECK_CUDA(cudaEventRecord(in->computed, in->dev->internals->compute));
    CHECK_CUDA(cudaStreamWaitEvent(in->stream, in->computed, 0));
    return true;
}

void comm_all_reduce_sum(Comm *comm, float *buffer, size_t count) {
    CommInternals *in = comm->internals;
    if (!begin(comm, count)) { return; }
    CHECK_NCCL(ncclAllReduce(buffer, buffer, count, ncclFloat32, ncclSum, in->nccl, in->stream));
}

void comm_reduce_sum(Comm *comm, float *buffer, size_t count, int root) {
    CommInternals *in = comm->internals;
    if (!begin(comm, count)) { return; }
    CHECK_NCCL(ncclReduce(buffer, buffer, count, ncclFloat32, ncclSum, root, in->nccl, in->stream));
}

void comm_all_gather(Comm *comm, void *buffer, size_t bytes) {
    CommInternals *in = comm->internals;
    if (!begin(comm, bytes)) { return; }
    const char *own = (const char *)buffer + comm->rank * bytes;
    CHECK_NCCL(ncclAllGather(own, buffer, bytes, ncclInt8, in->nccl, in->stream));
}

void comm_broadcast(Comm *comm, void *buffer, size_t bytes, int root) {
    CommInternals *in = comm->internals;
    if (!begin(comm, bytes)) { return; }
    CHECK_NCCL(ncclBroadcast(buffer, buffer, bytes, ncclInt8, root, in->nccl, in->stream));
}

void comm_wait(Comm *comm) {
    CommInternals *in = comm->internals;
    if (comm->world == 1 || in->dev->plan_only) { return; }
    CHECK_CUDA(cudaEventRecord(in->communicated, in->stream));
    CHECK_CUDA(cudaStreamWaitEvent(in->dev->internals->compute, in->communicated, 0));
}

#else // without NCCL there is only one rank: comm_meet dies if there are more

const char *const comm_lacks = "NCCL: run ./setup.sh --cuda, or install nccl.h and libnccl.so.2 (the system's "
                               "package, or the wheel nvidia-nccl)";
void comm_before_waiting(Comm *) {}
void comm_open(Comm *, Device *) {}
void comm_close(Comm *) {}
void comm_wait(Comm *) {}
void comm_all_reduce_sum(Comm *, float *, size_t) {}
void comm_reduce_sum(Comm *, float *, size_t, int) {}
void comm_all_gather(Comm *, void *, size_t) {}
void comm_broadcast(Comm *, void *, size_t, int) {}

#endif
