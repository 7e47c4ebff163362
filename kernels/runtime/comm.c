// Communication between ranks on the CPU, over MPI. Every function is synchronous. Sums are computed here, not by MPI,
// so that their order does not depend on where a range begins.
#include "kernels/runtime/comm_host.h"
#include "util/error.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const bool comm_needs_mpi = true;
#ifdef HAVE_MPI
const char *const comm_lacks = NULL;
#else
const char *const comm_lacks = "MPI: install Open MPI's headers (setup.sh does)";
#endif
void comm_before_waiting(Comm *comm) { (void)comm; }

#ifdef HAVE_MPI
#include <mpi.h>

// Ranges are sent in pieces of at most this many bytes per rank, which limits the scratch memory and MPI's int counts.
enum { PIECE = 1 << 20, PIECE_FLOATS = PIECE / sizeof(float) };

struct CommInternals {
    Device *dev;
    float *scratch;        // (world, PIECE bytes): data received from the other ranks
    MPI_Request *requests; // (2 * world)
};

void comm_open(Comm *comm, Device *dev) {
    if (comm->world == 1) { return; }
    struct CommInternals *in = comm->internals = xcalloc(1, sizeof *in);
    in->dev = dev;
    dev->sharers = comm_host_sharers(comm);
    in->scratch = xmalloc((size_t)comm->world * PIECE);
    in->requests = xcalloc(2 * (size_t)comm->world, sizeof *in->requests);
}

void comm_close(Comm *comm) {
    struct CommInternals *in = comm->internals;
    if (in) {
        comm_host_close(comm);
        free(in->scratch), free(in->requests), free(in);
    }
    *comm = (Comm){.world = 1};
}

void comm_wait(Comm *comm) { (void)comm; }

// Returns whether there is something to do. First checks that all ranks make the same call.
static bool begin(Comm *comm, const char *function, size_t size, int root) {
    if (comm->world == 1 || comm->internals->dev->plan_only) { return false; }
    comm_host_check(comm, function, size, root);
    return size > 0;
}

// ---- Pieces --------------------------------------------------------------------------------------------------------

// One row of bytes per rank: row r begins at base + r * stride and has `share` bytes; the rows together end at `total`.
typedef struct {
    char *base;
    size_t stride, share, total;
} Rows;

static char *row_of(const Rows *rows, int r) { return rows->base + (size_t)r * rows->stride; }
static int length_of(const Rows *rows, int r) {
    const size_t first = (size_t)r * rows->share;
    const size_t left = first < rows->total ? rows->total - first : 0;
    return (int)(left < rows->share ? left : rows->share);
}

// Exchanges a row with every other rank. to_owners: row r goes to rank r, and what this rank receives, the others'
// versions of its own row, goes to scratch (world, share). Otherwise its own row goes to all others, where it replaces
// that row.
static void exchange_rows(Comm *comm, const Rows *rows, bool to_owners) {
    struct CommInternals *in = comm->internals;
    int count = 0;
    for (int r = 0; r < comm->world; r++) {
        if (r == comm->rank) { continue; }
        const int sent = to_owners ? r : comm->rank, received = to_owners ? comm->rank : r;
        char *to = to_owners ? (char *)in->scratch + (size_t)r * rows->share : row_of(rows, r);
        comm_check_mpi(MPI_Irecv(to, length_of(rows, received), MPI_BYTE, r, 0, MPI_COMM_WORLD, &in->requests[count++]),
                       "MPI_Irecv");
        comm_check_mpi(MPI_Isend(row_of(rows, sent), length_of(rows, sent), MPI_BYTE, r, 0, MPI_COMM_WORLD,
                                 &in->requests[count++]),
                       "MPI_Isend");
    }
    comm_check_mpi(MPI_Waitall(count, in->requests, MPI_STATUSES_IGNORE), "MPI_Waitall");
}

// own (n) = ((rank 0's + rank 1's) + ...), where this rank's part is in own and the others' in scratch (world, stride).
static void sum_in_order(Comm *comm, float *own, size_t stride, int n) {
    const float *scratch = comm->internals->scratch;
#pragma omp parallel for
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int r = 0; r < comm->world; r++) { sum += r == comm->rank ? own[i] : scratch[(size_t)r * stride + i]; }
        own[i] = (float)sum;
    }
}

// Replaces this rank's row by its sum over all ranks.
static void sum_rows(Comm *comm, const Rows *rows) {
    exchange_rows(comm, rows, true);
    sum_in_order(comm, (float *)row_of(rows, comm->rank), rows->share / sizeof(float),
                 length_of(rows, comm->rank) / (int)sizeof(float));
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// ---- Collectives ---------------------------------------------------------------------------------------------------

// Each rank sums one part of a piece and sends it to all others.
void comm_all_reduce_sum(Comm *comm, float *buffer, size_t count) {
    if (!begin(comm, "comm_all_reduce_sum", count, 0)) { return; }
    const size_t world = (size_t)comm->world, step = world * PIECE_FLOATS;
    for (size_t from = 0; from < count; from += step) {
        const size_t total = smaller(count - from, step), share = (total + world - 1) / world;
        Rows rows = {(char *)(buffer + from), share * sizeof(float), share * sizeof(float), total * sizeof(float)};
        sum_rows(comm, &rows);
        exchange_rows(comm, &rows, false);
    }
}

void comm_reduce_sum(Comm *comm, float *buffer, size_t count, int root) {
    if (!begin(comm, "comm_reduce_sum", count, root)) { return; }
    for (size_t from = 0; from < count; from += PIECE_FLOATS) {
        const int n = (int)smaller(count - from, PIECE_FLOATS);
        comm_check_mpi(
            MPI_Gather(buffer + from, n, MPI_FLOAT, comm->internals->scratch, n, MPI_FLOAT, root, MPI_COMM_WORLD),
            "MPI_Gather");
        if (comm->rank == root) { sum_in_order(comm, buffer + from, (size_t)n, n); }
    }
}

void comm_all_gather(Comm *comm, void *buffer, size_t bytes) {
    if (!begin(comm, "comm_all_gather", bytes, 0)) { return; }
    for (size_t from = 0; from < bytes; from += PIECE) {
        const size_t share = smaller(bytes - from, PIECE);
        Rows rows = {(char *)buffer + from, bytes, share, share * (size_t)comm->world};
        exchange_rows(comm, &rows, false);
    }
}

void comm_broadcast(Comm *comm, void *buffer, size_t bytes, int root) {
    if (!begin(comm, "comm_broadcast", bytes, root)) { return; }
    for (size_t from = 0; from < bytes; from += PIECE) {
        comm_check_mpi(
            MPI_Bcast((char *)buffer + from, (int)smaller(bytes - from, PIECE), MPI_BYTE, root, MPI_COMM_WORLD),
            "MPI_Bcast");
    }
}

#else // without MPI there is only one rank: comm_meet dies if there are more

void comm_open(Comm *comm, Device *dev) { (void)comm, (void)dev; }
void comm_close(Comm *comm) { (void)comm; }
void comm_wait(Comm *comm) { (void)comm; }
void comm_all_reduce_sum(Comm *comm, float *buffer, size_t count) { (void)comm, (void)buffer, (void)count; }
void comm_reduce_sum(Comm *comm, float *buffer, size_t count, int root) {
    (void)comm, (void)buffer, (void)count, (void)root;
}
void comm_all_gather(Comm *comm, void *buffer, size_t bytes) { (void)comm, (void)buffer, (void)bytes; }
void comm_broadcast(Comm *comm, void *buffer, size_t bytes, int root) {
    (void)comm, (void)buffer, (void)bytes, (void)root;
}

#endif
