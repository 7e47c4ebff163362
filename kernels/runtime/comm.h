// Communication between ranks, one process per device: comm.cu on NCCL, comm.c on MPI.
//
//     Launch launch = launch_detect();                      // kernels/runtime/launch.h
//     comm_meet(&comm, &launch);                            // dies with a sentence if not all ranks arrive
//     device_open(&dev, device_of_rank(launch.local_rank)); // if one rank finds no device, all ranks end
//     comm_open(&comm, &dev);
//     ... backward of a part ...
//     comm_all_reduce_sum(&comm, grads + begin, count); // starts when the work queued so far is done
//     ... backward of the next part, at the same time ...
//     comm_wait(&comm);                            // work queued after this sees the sums
//
// With one rank every function returns at once and nothing is initialised. Call them from one thread only. Every rank
// must call the same functions with the same sizes in the same order. Sums have a fixed order for a given number of
// ranks: on the CPU (and under emulation) ((rank 0 + rank 1) + rank 2) + ..., in double, wherever a range begins.
//
// When a rank is killed or calls die(), all ranks end within a minute with exit code 1, whatever they are waiting for.
// A sentence names the rank; mpirun prints it, or cocogold if mpirun is not used. No incomplete files are left
// (util/error.h).
#pragma once
#include "kernels/runtime/device.h"
#include "kernels/runtime/launch.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Comm {
    int rank, world, local_rank;
    struct CommHost *host; // NULL if there is only one rank
    struct CommInternals *internals;
} Comm;

// Collective. Waits up to 5 minutes until all processes have found each other: over MPI if mpirun has started them,
// else over TCP. After this, a rank that ends before comm_close ends all ranks.
void comm_meet(Comm *comm, const Launch *launch);
// Collective. dev stays open until after comm_close.
void comm_open(Comm *comm, Device *dev);
// Collective. Waits for all communication, on the device and between hosts.
void comm_close(Comm *comm);

// ---- On device memory: queued on the communication stream ----------------------------------------------------------

// Each waits for the work that the compute stream holds at the call, then runs concurrently with later work; comm_wait
// joins the streams. Not while a graph is recorded: they are called between graphs. All work in place. A plan-only
// device skips them.

// buffer (count) = sum over ranks.
void comm_all_reduce_sum(Comm *comm, float *buffer, size_t count);
// The same, but only `root` receives the sum; the buffer of the others is undefined afterwards. For buckets that lie
// within one rank's shard.
void comm_reduce_sum(Comm *comm, float *buffer, size_t count, int root);
// buffer (world, bytes): row r of every rank = row r of rank r. Any type.
void comm_all_gather(Comm *comm, void *buffer, size_t bytes);
// buffer of all ranks = buffer of root. Any type.
void comm_broadcast(Comm *comm, void *buffer, size_t bytes, int root);
// Makes the compute stream wait for all communication queued so far.
void comm_wait(Comm *comm);

// ---- Between hosts: small, blocking, without the device ------------------------------------------------------------

void comm_host_broadcast(Comm *comm, void *data, size_t bytes, int root);
void comm_barrier(Comm *comm);

#ifdef __cplusplus
}
#endif
