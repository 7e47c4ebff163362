// Small exchanges between the ranks' processes, independent of the device.
#include "kernels/runtime/comm_host.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef HAVE_MPI
#include <mpi.h>
#endif
#include "util/error.h"

enum { MEETING_SECONDS = 300 };

// ---- MPI -----------------------------------------------------------------------------------------------------------

#ifdef HAVE_MPI
void comm_check_mpi(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    if (code == MPI_SUCCESS) { return; }
    MPI_Error_string(code, text, &length);
    die("%s failed: %s", what, text);
}

// Whether srun provides what MPI needs to start: PMIx, PMI-1 or PMI-2 set these variables.
static bool srun_serves_mpi(void) { return getenv("PMIX_RANK") || getenv("PMI_RANK") || getenv("PMI_FD"); }

static void mpi_open(const Launch *launch) {
    int ready, level, rank, world;
    if (launch->kind == LAUNCH_SLURM && !srun_serves_mpi()) {
        die("started by srun without MPI: start with srun --mpi=pmix (srun --mpi=list lists what this Slurm supports)");
    }
    // A waiting rank yields its core, for runs with more ranks than cores or beside other programs. The user's value
    // has priority.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    MPI_Initialized(&ready);
    if (!ready) { comm_check_mpi(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread"); }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (world != launch->world || rank != launch->rank) {
        die("started by %s as rank %d of %d, but MPI says rank %d of %d: start with Open MPI's mpirun%s",
            launch_name(launch->kind), launch->rank, launch->world, rank, world,
            launch->kind == LAUNCH_SLURM ? ", or with srun --mpi=pmix" : "");
    }
}

static void mpi_close(void) {
    int over;
    MPI_Finalized(&over);
    if (!over) { comm_check_mpi(MPI_Finalize(), "MPI_Finalize"); }
}

static void mpi_all_gather(void *all, const void *mine, size_t bytes) {
    comm_check_mpi(MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD),
                   "MPI_Allgather");
}

static const bool have_mpi = true;
#else
static void mpi_open(const Launch *launch) { (void)launch; }
static void mpi_close(void) {}
static void mpi_all_gather(void *all, const void *mine, size_t bytes) { (void)all, (void)mine, (void)bytes; }
static const bool have_mpi = false;
#endif

// ---- Open and close ------------------------------------------------------------------------------------------------

static bool opened, over_mpi;

// Ends the process here: exit() would go on to wait for the device, the device for the other ranks, and they for this
// one. mpirun or the other ranks' rendezvous notices that this rank has ended.
static void leave(int code, void *argument) {
    (void)argument;
    if (!opened) { return; }
    opened = false;
    cleanup_now();
    fflush(stdout);
    _exit(code ? code : 1);
}

void comm_meet(Comm *comm, const Launch *launch) {
    *comm = (Comm){.rank = launch->rank, .world = launch->world, .local_rank = launch->local_rank};
    if (comm->world == 1) { return; }
    error_set_rank(launch->rank);
    if (comm_lacks) {
        die("started by %s as one of %d ranks, but this program was built for one rank, without %s, then rebuild",
            launch_name(launch->kind), launch->world, comm_lacks);
    }
    const bool meets =
        launch->kind != LAUNCH_MPIRUN || (!have_mpi && *launch->address); // else mpirun watches the ranks
    over_mpi = comm_needs_mpi || !meets;
    if (over_mpi && !have_mpi) {
        die("started by %s, but this program was built without MPI: set MASTER_ADDR and MASTER_PORT too, or start as "
            "torchrun does",
            launch_name(launch->kind));
    }
    comm->host = xcalloc(1, sizeof *comm->host);
    if (over_mpi) { mpi_open(launch); }
    if (meets) {
        comm->host->meeting = rendezvous_open(launch->address, launch->port, launch->rank, launch->world,
                                              launch->secret, MEETING_SECONDS);
    }
    opened = true;
    comm_host_leave_first();
}

void comm_host_leave_first(void) { on_exit(leave, NULL); } // the last handler is called first

void comm_host_close(Comm *comm) {
    comm_host_check(comm, "comm_close", 0, 0);
    if (comm->host->meeting) { rendezvous_close(comm->host->meeting); }
    opened = false;
    if (over_mpi) { mpi_close(); }
    free(comm->host);
}

static void all_gather(Comm *comm, void *all, const void *mine, size_t bytes) {
    if (comm->host->meeting) {
        rendezvous_all_gather(comm->host->meeting, all, mine, bytes);
    } else {
        mpi_all_gather(all, mine, bytes);
    }
}

// ---- The host's functions of comm.h --------------------------------------------------------------------------------

// Exchanges are sent in packets of one size, with a header that identifies the call: ranks that make different calls
// die with a sentence instead of waiting for each other.
enum { PAYLOAD = 960 };
typedef struct {
    char function[24];
    uint64_t size;
    int32_t root, unused;
} Header;
typedef struct {
    Header header;
    unsigned char payload[PAYLOAD];
} Packet;

static void check_packets(const Packet *packets, int world) {
    const Header *a = &packets[0].header;
    for (int r = 1; r < world; r++) {
        const Header *b = &packets[r].header;
        if (memcmp(a, b, sizeof *a) == 0) { continue; }
        die("the ranks' calls differ: rank 0 is in %s (size %zu, root %d), rank %d in %s (size %zu, root %d)",
            a->function, (size_t)a->size, a->root, r, b->function, (size_t)b->size, b->root);
    }
}

// all (world, bytes) = mine (bytes) of every rank. All ranks must be in the same function with the same size and root.
static void exchange(Comm *comm, const char *function, size_t size, int root, void *all, const void *mine,
                     size_t bytes) {
    Packet packet = {.header = {.size = size, .root = root}};
    snprintf(packet.header.function, sizeof packet.header.function, "%s", function);
    Packet *packets = xmalloc((size_t)comm->world * sizeof packet);
    size_t done = 0;
    comm_before_waiting(comm);
    do {
        const size_t part = bytes - done < PAYLOAD ? bytes - done : PAYLOAD;
        memcpy(packet.payload, (const char *)mine + done, part);
        all_gather(comm, packets, &packet, sizeof packet);
        check_packets(packets, comm->world);
        for (int r = 0; r < comm->world; r++) {
            memcpy((char *)all + (size_t)r * bytes + done, packets[r].payload, part);
        }
        done += part;
    } while (done < bytes);
    free(packets);
}

void comm_host_check(Comm *comm, const char *function, size_t size, int root) {
    char nothing = 0;
    exchange(comm, function, size, root, &nothing, &nothing, 0);
}

// What the processes of a machine have in common, in containers too: a number that its kernel drew when it started.
static void name_machine(char name[64]) {
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!file || !fgets(name, 64, file)) { gethostname(name, 63); }
    if (file) { fclose(file); }
}

MemorySharers comm_host_sharers(Comm *comm) {
    struct {
        char machine[64], group[64];
    } me = {0}, *all = xmalloc((size_t)comm->world * sizeof me);
    MemorySharers count = {0};
    name_machine(me.machine);
    memory_group("", me.group);
    exchange(comm, "comm_host_sharers", sizeof me, 0, all, &me, sizeof me);
    for (int r = 0; r < comm->world; r++) {
        bool here = strcmp(all[r].machine, me.machine) == 0;
        count.machine += here;
        count.group += here && strcmp(all[r].group, me.group) == 0;
    }
    free(all);
    return count;
}

void comm_host_broadcast(Comm *comm, void *data, size_t bytes, int root) {
    if (comm->world == 1) { return; }
    char *all = xmalloc((size_t)comm->world * bytes);
    exchange(comm, "comm_host_broadcast", bytes, root, all, data, bytes);
    memcpy(data, all + (size_t)root * bytes, bytes);
    free(all);
}

void comm_barrier(Comm *comm) {
    if (comm->world > 1) { comm_host_check(comm, "comm_barrier", 0, 0); }
}
