// How the program was started, from environment variables as mpirun, torchrun and Slurm set them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/dies.h"
#include "kernels/runtime/launch.h"

// "NAME=value NAME=value ..." and nothing else of what launch_detect reads.
static void set_environment(const char *assignments) {
    clearenv();
    char *copy = strdup(assignments), *rest = NULL;
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(word, '=');
        *equals = 0;
        setenv(word, equals + 1, 1);
    }
    free(copy);
}

static void expect(const char *environment, LaunchKind kind, int rank, int world, int local_rank, const char *address,
                   int port) {
    set_environment(environment);
    Launch launch = launch_detect();
    printf("  %-100s %s %d/%d local %d %s:%d\n", environment, launch_name(launch.kind), launch.rank, launch.world,
           launch.local_rank, launch.address, launch.port);
    assert_int_equal(launch.kind, kind);
    assert_int_equal(launch.rank, rank);
    assert_int_equal(launch.world, world);
    assert_int_equal(launch.local_rank, local_rank);
    assert_string_equal(launch.address, address);
    assert_int_equal(launch.port, port);
}

static void refuse(const char *environment, const char *sentence) {
    assert_dies(sentence, set_environment(environment), launch_detect());
}

#define TORCH "MASTER_ADDR=node1 MASTER_PORT=29500 "
#define SLURM "SLURM_JOB_ID=70123 SLURM_STEP_ID=0 "

static void test_alone(void **state) {
    (void)state;
    expect("", LAUNCH_ALONE, 0, 1, 0, "", 0);
    expect("MASTER_ADDR=x MASTER_PORT=1 LOCAL_RANK=3", LAUNCH_ALONE, 0, 1, 0, "", 0);
}

static void expect_secret(const char *environment, const char *secret) {
    set_environment(environment);
    Launch launch = launch_detect();
    printf("  %-100s \"%s\"\n", environment, launch.secret);
    assert_string_equal(launch.secret, secret);
}

static void test_secret(void **state) {
    (void)state;
    expect_secret("", "");
    expect_secret(TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2", "");
    expect_secret(TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 TORCHELASTIC_RUN_ID=none", "");
    expect_secret(TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 TORCHELASTIC_RUN_ID=5f2c", "5f2c");
    expect_secret(TORCH SLURM "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 TORCHELASTIC_RUN_ID=none", "70123");
    expect_secret(SLURM "SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=a", "70123");
    expect_secret("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 PMIX_NAMESPACE=12", "12");
    expect_secret("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 PMI_JOBID=34", "34");
    expect_secret(TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 COCOGOLD_SECRET= TORCHELASTIC_RUN_ID=", "");
    expect_secret(SLURM "COCOGOLD_SECRET=word TORCHELASTIC_RUN_ID=5f2c", "word");
}

static void test_torchrun(void **state) {
    (void)state;
    expect(TORCH "RANK=5 LOCAL_RANK=1 WORLD_SIZE=8", LAUNCH_TORCHRUN, 5, 8, 1, "node1", 29500);
    expect(TORCH "RANK=5 LOCAL_RANK=1 WORLD_SIZE=8 TORCHELASTIC_USE_AGENT_STORE=True", LAUNCH_TORCHRUN, 5, 8, 1,
           "node1", 29501);
    expect(TORCH "RANK=5 LOCAL_RANK=1 WORLD_SIZE=8 TORCHELASTIC_USE_AGENT_STORE=False", LAUNCH_TORCHRUN, 5, 8, 1,
           "node1", 29500);
    expect("RANK=0 WORLD_SIZE=1", LAUNCH_TORCHRUN, 0, 1, 0, "", 0);
    expect(TORCH SLURM "RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1", LAUNCH_TORCHRUN, 1, 2,
           1, "node1", 29500); // torchrun as a task of Slurm
    refuse(TORCH "RANK=1 LOCAL_RANK=1", "WORLD_SIZE is not set");
    refuse(TORCH "LOCAL_RANK=1 WORLD_SIZE=2", "RANK is not set");
    refuse(TORCH "RANK=1 WORLD_SIZE=2", "LOCAL_RANK is not set");
    refuse("RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 MASTER_PORT=1", "MASTER_ADDR is not set");
    refuse("RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 MASTER_ADDR=x", "MASTER_PORT is not set");
    refuse("RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=70000", "MASTER_PORT is \"70000\"");
    refuse(TORCH "RANK=2 LOCAL_RANK=1 WORLD_SIZE=2", "RANK is \"2\", expected a number from 0 to 1");
    refuse(TORCH "RANK=one LOCAL_RANK=1 WORLD_SIZE=2", "RANK is \"one\"");
    refuse(TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=0", "WORLD_SIZE is \"0\"");
}

static void test_mpirun(void **state) {
    (void)state;
#define MPI "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 "
    expect(MPI, LAUNCH_MPIRUN, 3, 4, 1, "", 0);
    expect(MPI TORCH, LAUNCH_MPIRUN, 3, 4, 1, "node1", 29500);
    expect(MPI TORCH "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4", LAUNCH_TORCHRUN, 3, 4, 1, "node1", 29500);
    expect(MPI SLURM "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0", LAUNCH_MPIRUN, 3, 4, 1, "", 0);
    expect("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1", LAUNCH_MPIRUN, 1, 2, 1, "", 0);
    refuse(MPI TORCH "RANK=2 LOCAL_RANK=1 WORLD_SIZE=4", "as rank 3 of 4, but RANK and WORLD_SIZE say rank 2 of 4");
    refuse(MPI TORCH "RANK=0 LOCAL_RANK=0 WORLD_SIZE=1", "say rank 0 of 1");
    refuse("OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_RANK is not set");
    refuse("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_LOCAL_RANK is not set");
}

static void test_slurm(void **state) {
    (void)state;
#define TASK SLURM "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=0 "
    const int port = 20123;
    expect(TASK "SLURM_STEP_NODELIST=node[003-010,12],login1", LAUNCH_SLURM, 2, 4, 0, "node003", port);
    expect(TASK "SLURM_STEP_NODELIST=gpu7,gpu9", LAUNCH_SLURM, 2, 4, 0, "gpu7", port);
    expect(TASK "SLURM_STEP_NODELIST=rack[2,4]-gpu", LAUNCH_SLURM, 2, 4, 0, "rack2-gpu", port);
    expect(TASK "SLURM_JOB_NODELIST=gpu7", LAUNCH_SLURM, 2, 4, 0, "gpu7", port);
    expect(TASK "SLURM_LAUNCH_NODE_IPADDR=10.1.2.3", LAUNCH_SLURM, 2, 4, 0, "10.1.2.3", port);
    expect(TASK TORCH "SLURM_STEP_NODELIST=gpu7", LAUNCH_SLURM, 2, 4, 0, "node1", 29500);
    expect("SLURM_JOB_ID=70123 SLURM_STEP_ID=2 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 "
           "SLURM_STEP_NODELIST=gpu7",
           LAUNCH_SLURM, 0, 2, 0, "gpu7", port + 2 * 97);
    expect(TASK "MASTER_PORT=1234 SLURM_STEP_NODELIST=gpu7", LAUNCH_SLURM, 2, 4, 0, "gpu7", 1234);
    expect("SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 SLURM_LAUNCH_NODE_IPADDR=10.1.2.3", LAUNCH_SLURM, 1, 2, 1,
           "10.1.2.3", 20000);
    // A batch script is no task, whatever its job has.
    expect("SLURM_JOB_ID=70123 SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", LAUNCH_ALONE, 0, 1, 0, "", 0);
    expect("SLURM_JOB_ID=70123 SLURM_STEP_ID=4294967291 SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", LAUNCH_ALONE, 0,
           1, 0, "", 0);
    refuse(SLURM "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4", "SLURM_LOCALID is not set");
    refuse(SLURM "SLURM_PROCID=2 SLURM_LOCALID=0", "SLURM_NTASKS is not set");
    refuse(TASK, "neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),  cmocka_unit_test(test_secret), cmocka_unit_test(test_torchrun),
        cmocka_unit_test(test_mpirun), cmocka_unit_test(test_slurm),
    };
    return cmocka_run_group_tests_name("launch", tests, NULL, NULL);
}
