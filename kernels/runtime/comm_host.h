// The processes behind comm.c and comm.cu: how they find each other and exchange small things, over MPI or TCP. Only
// these two include it.
#pragma once
#include "kernels/runtime/comm.h"
#include "kernels/runtime/rendezvous.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CommHost {
    Rendezvous *meeting; // NULL: mpirun watches, and the hosts exchange over MPI
};

// Waits until all ranks are here, then leaves MPI or hangs up.
void comm_host_close(Comm *comm);
// Dies with a sentence unless all ranks are at the same function with the same size and root.
void comm_host_check(Comm *comm, const char *function, size_t size, int root);

// What the backends tell comm_host.c. comm_needs_mpi: the data goes over MPI, however we were started. comm_lacks: what
// this build lacks for more than one rank and how to get it, NULL if nothing.
extern const bool comm_needs_mpi;
extern const char *const comm_lacks;
void comm_before_waiting(Comm *comm); // for other processes

#ifdef __cplusplus
}
#endif
