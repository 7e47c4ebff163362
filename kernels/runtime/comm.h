// Communication between ranks, one process per device: comm.cu on NCCL, comm.c on MPI.
//
//     Launch launch = launch_detect();             // kernels/runtime/launch.h
//     comm_meet(&comm, &launch);                   // dies with a sentence if not all ranks arrive
//     device_open(&dev, comm_device_index(&comm)); // if a rank finds no device, all end
//     comm_open(&comm, &dev);
//     ... backward of a part ...
//     comm_all_reduce_sum(&comm, grads + begin, count); // starts when the work queued so far is done
//     ... backward of the next part, at the same time ...
//     comm_wait(&comm);                            // what is queued from here on sees the sums
//
// With one rank every function returns at once and nothing is initialised. Called from one thread only. Every rank must
// call the same functions with the same sizes in the same order. Sums have a fixed order for a given number of ranks:
// on the CPU (and under emulation) ((rank 0 + rank 1) + rank 2) + ..., in double, wherever a range begins and ends.
//
// When a rank dies or calls die(), all end within a minute, whatever they are waiting for, with exit code 1 and a
// sentence that names the rank: mpirun's, or ours where nobody else watches. Nothing half-written is left
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
    struct CommHost *host; // NULL: one rank
    struct CommInternals *internals;
} Comm;

// Collective. Waits up to 5 minutes until all processes have found each other: over MPI if mpirun has started them,
// else over TCP. From here on a rank that ends before comm_close ends all.
void comm_meet(Comm *comm, const Launch *launch);
// Which device this rank opens: the local rank, or 0 where the starter shows each rank its own GPU only.
int comm_device_index(const Comm *comm);
// Collective. dev stays open until after comm_close.
void comm_open(Comm *comm, Device *dev);
// Collective. Waits for all communication, on the device and between hosts.
void comm_close(Comm *comm);

// ---- On device memory: queued on the communication stream ----------------------------------------------------------

// Each waits for what the compute stream holds at the call, then runs beside it; comm_wait joins. They may be recorded
// in a device graph, if comm_wait is recorded before its end. All are in place. A plan-only device skips them.

// buffer (count) = sum over ranks.
void comm_all_reduce_sum(Comm *comm, float *buffer, size_t count);
// The same, but only `root` receives the sum; the buffer of the others is undefined afterwards. For buckets that lie
// within one rank's shard.
void comm_reduce_sum(Comm *comm, float *buffer, size_t count, int root);
// buffer (world, bytes): row r of every rank = row r of rank r. Any type.
void comm_all_gather(Comm *comm, void *buffer, size_t bytes);
// buffer of all ranks = buffer of root. Any type.
void comm_broadcast(Comm *comm, void *buffer, size_t bytes, int root);
// The compute stream waits for everything above.
void comm_wait(Comm *comm);

// ---- Between hosts: small, blocking, without the device ------------------------------------------------------------

void comm_host_broadcast(Comm *comm, void *data, size_t bytes, int root);
void comm_barrier(Comm *comm);

#ifdef __cplusplus
}
#endif
