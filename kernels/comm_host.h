// The processes behind comm.c and comm.cu: how they find each other and exchange small things, over MPI or TCP. Only
// these two include it.
#pragma once
#include <stdbool.h>
#include "kernels/comm.h"
#include "util/rendezvous.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int rank, world;
    Rendezvous *meeting; // NULL: MPI
} CommHost;

// Collective, world > 1. use_mpi: the data goes over MPI too, else MPI serves only where mpirun has started us. From
// here on exit() before comm_host_close ends this process at once and with it the other ranks.
void comm_host_open(CommHost *host, const Launch *launch, bool use_mpi);
void comm_host_close(CommHost *host);
// all (world, bytes) = what every rank passes as mine (bytes).
void comm_host_all_gather(CommHost *host, void *all, const void *mine, size_t bytes);

// Dies with a sentence unless all ranks are at the same function with the same size and root.
void comm_host_check(Comm *comm, const char *function, size_t size, int root);

// What the backends implement for comm_host.c: the host's side of a communicator that is about to wait for other ranks.
CommHost *comm_host(Comm *comm);

#ifdef __cplusplus
}
#endif
