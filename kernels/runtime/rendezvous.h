// Connects the ranks over TCP when they were started without MPI: rank 0 listens, the others connect. The connections
// stay open for small exchanges, and to notice within a minute that a rank has ended: then every rank prints
// "rank N (host, process P) has ended ..." and exits with code 1, whatever its other threads are waiting for.
#pragma once
#include <stddef.h>

typedef struct Rendezvous Rendezvous;

// Collective. Waits up to `seconds` until all `world` ranks have connected at address:port. All must have the same
// secret (any text), which stays valid; it is not sent. None ("") is allowed at localhost and loopback addresses, with
// a warning; elsewhere all ranks die with a sentence. Rank 0 listens at this address only. It hangs up on connections
// that are slow or do not show the secret, and on ranks that are there already or were started for another number of
// ranks, which die with a sentence. Dies with a sentence if ranks are missing (it names them and the address, and why a
// connection was refused), or if the port is in use or the address unknown.
Rendezvous *rendezvous_open(const char *address, int port, int rank, int world, const char *secret, double seconds);
// Collective: all (world, bytes) = mine (bytes) of every rank. If the ranks pass different sizes, all of them die with
// a sentence. Call it from one thread only.
void rendezvous_all_gather(Rendezvous *meeting, void *all, const void *mine, size_t bytes);
// Collective: afterwards a rank may end without ending the others.
void rendezvous_close(Rendezvous *meeting);
