// How the processes of comm.c and comm.cu find each other and exchange small data, over MPI or TCP. Only these two
// files include this header.
#pragma once
#include "kernels/runtime/comm.h"
#include "kernels/runtime/rendezvous.h"
#include "util/memory.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CommHost {
    Rendezvous *meeting; // NULL: mpirun watches the ranks, which exchange data over MPI
};

// From now on a rank that ends does so before the exit handlers that libraries have registered so far: they may wait
// for the device. For comm_open, after the device's libraries have been started.
void comm_host_leave_first(void);
// Waits until all ranks have called this, then ends MPI or closes the connections.
void comm_host_close(Comm *comm);
// Collective. The ranks on this machine, and those of them in this rank's control group, this one included.
MemorySharers comm_host_sharers(Comm *comm);
// Dies with a sentence unless all ranks are in the same function with the same size and root.
void comm_host_check(Comm *comm, const char *function, size_t size, int root);
// Dies unless a call of MPI was successful. Only in builds with MPI.
void comm_check_mpi(int code, const char *what);

// Defined by comm.c and comm.cu. comm_needs_mpi: data goes over MPI, however the program was started. comm_lacks: the
// library that this build lacks for more than one rank and how to install it; NULL if it lacks nothing.
extern const bool comm_needs_mpi;
extern const char *const comm_lacks;
void comm_before_waiting(Comm *comm); // called before waiting for other processes

#ifdef __cplusplus
}
#endif
