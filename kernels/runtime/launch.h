// How the program was started: alone, or as one of several ranks by mpirun, torchrun or Slurm. This is read from
// environment variables only, before any device or network is used.
#pragma once

typedef enum { LAUNCH_ALONE, LAUNCH_MPIRUN, LAUNCH_TORCHRUN, LAUNCH_SLURM } LaunchKind;

typedef struct {
    LaunchKind kind;
    int rank, world;    // 0 <= rank < world
    int local_rank;     // rank within this machine
    char address[256];  // where rank 0 can be reached, "" under mpirun without MASTER_ADDR
    int port;           // 0 under mpirun without MASTER_PORT
    const char *secret; // what the ranks of a run have in common and others may not know, "": nothing
} Launch;

// Checks these variables, in this order:
//   RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT    torchrun, or set by hand; uses the next port if torchrun
//                                                             itself uses MASTER_PORT
//   OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK                  mpirun of Open MPI
//   SLURM_PROCID, SLURM_LOCALID, SLURM_STEP_NUM_TASKS         srun; address: first host of SLURM_STEP_NODELIST
//   PMI_RANK, PMI_SIZE, MPI_LOCALRANKID                       mpirun of MPICH
// If none of them is set, there is one rank. Dies with a sentence that names incomplete or contradictory variables.
// The secret is COCOGOLD_SECRET, or else a starter's name for the job: TORCHELASTIC_RUN_ID, SLURM_JOB_ID,
// PMIX_NAMESPACE or PMI_JOBID, the first that is set ("none", torchrun's default, is none).
Launch launch_detect(void);
// For a command that runs as one process: dies if it was started as one of several ranks.
void launch_want_alone(const char *command);
const char *launch_name(LaunchKind kind); // "mpirun", "torchrun's variables", ...
