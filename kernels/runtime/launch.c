#include "kernels/runtime/launch.h"
#include "util/error.h"
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *launch_name(LaunchKind kind) {
    static const char *names[] = {"alone", "mpirun", "torchrun's variables", "Slurm"};
    return names[kind];
}

static const char *variable(const char *name) {
    const char *value = name ? getenv(name) : NULL;
    return value && *value ? value : NULL;
}

// The variable's value; it must be set and lie in [low, high].
static int number(const char *name, int low, int high, const char *starter) {
    const char *text = variable(name);
    if (!text) { die("started by %s, but the environment variable %s is not set", starter, name); }
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < low || value > high) {
        die("environment variable %s is \"%s\", expected a number from %d to %d", name, text, low, high);
    }
    return (int)value;
}

static Launch numbered(LaunchKind kind, const char *rank, const char *world, const char *local) {
    const char *starter = launch_name(kind);
    Launch launch = {.kind = kind, .world = number(world, 1, INT_MAX, starter)};
    launch.rank = number(rank, 0, launch.world - 1, starter);
    bool needed = launch.world > 1 || variable(local);
    launch.local_rank = needed ? number(local, 0, launch.world - 1, starter) : 0;
    return launch;
}

static void set_address(Launch *launch, const char *address, int length, int port) {
    if (length >= (int)sizeof launch->address) { die("the address of rank 0 is too long: %.*s", length, address); }
    snprintf(launch->address, sizeof launch->address, "%.*s", length, address);
    launch->port = port;
}

// MASTER_ADDR and MASTER_PORT. If torchrun uses that port itself (TORCHELASTIC_USE_AGENT_STORE), rank 0 takes the next
// one.
static void read_master(Launch *launch) {
    if (!variable("MASTER_ADDR")) {
        die("started by %s, but the environment variable MASTER_ADDR is not set", launch_name(launch->kind));
    }
    int port = number("MASTER_PORT", 1, 65534, launch_name(launch->kind));
    const char *agent = variable("TORCHELASTIC_USE_AGENT_STORE");
    if (agent && strcmp(agent, "True") == 0) { port++; }
    set_address(launch, variable("MASTER_ADDR"), (int)strlen(variable("MASTER_ADDR")), port);
}

// Writes the first host of a list such as "node[003-010,12],login1" to `host` ("node003"); returns its length.
static int first_host(const char *list, char host[256]) {
    size_t prefix = strcspn(list, "[,");
    if (list[prefix] != '[') { return snprintf(host, 256, "%.*s", (int)prefix, list); }
    const char *digits = list + prefix + 1;
    const char *close = strchr(digits, ']');
    const char *rest = close ? close + 1 : "";
    return snprintf(host, 256, "%.*s%.*s%.*s", (int)prefix, list, (int)strcspn(digits, "-,]"), digits,
                    (int)strcspn(rest, "[,"), rest);
}

// Rank 0 runs on the first host of the step. The port is computed from the job and step numbers, so that two runs on
// one machine use different ports. MASTER_ADDR and MASTER_PORT override both.
static void read_slurm_address(Launch *launch) {
    const char *job = variable("SLURM_JOB_ID"), *step = variable("SLURM_STEP_ID");
    int port = 20000 + (int)((strtoul(job ? job : "0", NULL, 10) + 97 * strtoul(step ? step : "0", NULL, 10)) % 10000);
    if (variable("MASTER_PORT")) { port = number("MASTER_PORT", 1, 65535, "Slurm"); }
    const char *list = variable("SLURM_STEP_NODELIST");
    if (!list) { list = variable("SLURM_JOB_NODELIST"); }
    if (!list) { list = variable("SLURM_LAUNCH_NODE_IPADDR"); }
    if (variable("MASTER_ADDR")) { list = variable("MASTER_ADDR"); }
    if (!list) { die("started by Slurm, but neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST is set"); }
    char host[256];
    int length = first_host(list, host);
    set_address(launch, host, length, port);
}

// Whether this process is a task of srun. A batch script also has SLURM_PROCID = 0, but its step has no number, or one
// of the reserved numbers at the end of 32 bits.
static bool slurm_task(void) {
    const char *step = variable("SLURM_STEP_ID");
    if (!step) { step = variable("SLURM_STEPID"); }
    if (!variable("SLURM_PROCID")) { return false; }
    return step ? strtoull(step, NULL, 10) < 0xfffffff0u : !variable("SLURM_JOB_ID");
}

static Launch from_torchrun(void) {
    Launch launch = numbered(LAUNCH_TORCHRUN, "RANK", "WORLD_SIZE", "LOCAL_RANK");
    if (variable("OMPI_COMM_WORLD_SIZE")) {
        Launch mpi =
            numbered(LAUNCH_MPIRUN, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK");
        if (mpi.world != launch.world || mpi.rank != launch.rank) {
            die("started by mpirun as rank %d of %d, but RANK and WORLD_SIZE say rank %d of %d: unset one of them",
                mpi.rank, mpi.world, launch.rank, launch.world);
        }
    }
    if (launch.world > 1) { read_master(&launch); }
    return launch;
}

static const char *read_secret(void) {
    static const char *const names[] = {"COCOGOLD_SECRET", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PMIX_NAMESPACE",
                                        "PMI_JOBID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = variable(names[i]);
        if (value && strcmp(value, "none") != 0) { return value; }
    }
    return "";
}

static Launch detect(void) {
    if (variable("RANK") || variable("WORLD_SIZE")) { return from_torchrun(); }
    if (variable("OMPI_COMM_WORLD_SIZE")) {
        Launch launch =
            numbered(LAUNCH_MPIRUN, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK");
        if (variable("MASTER_ADDR") && variable("MASTER_PORT")) { read_master(&launch); }
        return launch;
    }
    if (slurm_task()) {
        const char *tasks = variable("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
        Launch launch = numbered(LAUNCH_SLURM, "SLURM_PROCID", tasks, "SLURM_LOCALID");
        if (launch.world > 1) { read_slurm_address(&launch); }
        return launch;
    }
    if (variable("PMI_SIZE")) { return numbered(LAUNCH_MPIRUN, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"); }
    return (Launch){.kind = LAUNCH_ALONE, .world = 1};
}

Launch launch_detect(void) {
    Launch launch = detect();
    launch.secret = read_secret();
    return launch;
}

void launch_want_alone(const char *command) {
    Launch launch = launch_detect();
    if (launch.world == 1) { return; }
    die("%s runs as one process, but was started by %s as one of %d ranks: start it without a launcher", command,
        launch_name(launch.kind), launch.world);
}
