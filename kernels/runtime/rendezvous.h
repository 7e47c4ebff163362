// Ranks that meet over TCP, for starts without MPI: rank 0 listens, the others connect. The connections stay open for
// small exchanges between hosts, and to notice within a minute when a rank has ended: then every rank prints
// "rank N (host, process P) has ended, ..." and ends with code 1, whatever its other threads are waiting for.
#pragma once
#include <stddef.h>

typedef struct Rendezvous Rendezvous;

// Collective. Waits up to `seconds` until all of `world` ranks have met at address:port. Dies with a sentence that
// names the address and who is missing; if the port is taken or the address unknown; if two processes have the same
// rank or were started for different numbers of ranks.
Rendezvous *rendezvous_open(const char *address, int port, int rank, int world, double seconds);
// Collective: all (world, bytes) = what every rank passes as mine (bytes). A rank that calls it with another size is a
// sentence for all of them. From one thread only.
void rendezvous_all_gather(Rendezvous *meeting, void *all, const void *mine, size_t bytes);
// Collective: from here on a rank may end without a sentence.
void rendezvous_close(Rendezvous *meeting);
