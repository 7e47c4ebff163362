#include "util/threads.h"
#include "util/progress.h"
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <unistd.h>

// ---- How threads wait ----------------------------------------------------------------------------------------------

// Number of times that libgomp polls before it sleeps: 50 to 150 us, which covers most waits of a training step and is
// a small part of a time slice (bench/LOG.md). libomp counts in milliseconds, so there threads sleep at once.
#define SPINS "3000"

static bool user_decides(void) {
    static const char *names[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (getenv(names[i])) { return true; }
    }
    return false;
}

static bool under_valgrind(void) {
    const char *preloaded = getenv("LD_PRELOAD");
    return preloaded && strstr(preloaded, "/vgpreload_");
}

void threads_start(char **argv) {
    // The path that the kernel executed, so that the process keeps its name. The working directory has not changed.
    const char *path = (const char *)getauxval(AT_EXECFN);
    if (!path || user_decides() || under_valgrind()) { return; }
    if (setenv("GOMP_SPINCOUNT", SPINS, 0) == 0 && setenv("OMP_WAIT_POLICY", "passive", 0) == 0) { execv(path, argv); }
    // If execv fails, the threads spin: correct, but slower when other programs are busy.
}

// ---- How many threads ----------------------------------------------------------------------------------------------

// Seconds that this process's cores have been busy with any program since the machine started; -1 if unknown.
// /proc/stat has one line per core: user, nice, system, idle, iowait, irq, softirq, ... in ticks.
static double cores_busy(void) {
    cpu_set_t ours;
    FILE *file = fopen("/proc/stat", "r");
    if (!file || sched_getaffinity(0, sizeof ours, &ours) != 0) {
        if (file) { fclose(file); }
        return -1;
    }
    double ticks = 0;
    char line[512];
    while (fgets(line, sizeof line, file)) {
        int core;
        long long user, nice, system, idle, wait, irq, softirq;
        if (sscanf(line, "cpu%d %lld %lld %lld %lld %lld %lld %lld", &core, &user, &nice, &system, &idle, &wait, &irq,
                   &softirq) == 8 &&
            core < CPU_SETSIZE && CPU_ISSET(core, &ours)) {
            ticks += (double)(user + nice + system + irq + softirq);
        }
    }
    fclose(file);
    return ticks > 0 ? ticks / (double)sysconf(_SC_CLK_TCK) : -1;
}

static double own_busy(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

void threads_adapt(void) {
    static int most; // number of threads at the first call; 1 if the user has set it: then nothing is adapted
    static double looked, cores, own;
    if (most == 1) { return; }
    double now = now_seconds();
    if (looked > 0 && now < looked + 1) { return; }
    if (!most) { most = getenv("OMP_NUM_THREADS") ? 1 : omp_get_max_threads(); }
    double cores_now = cores_busy(), own_now = own_busy();
    if (looked > 0 && cores > 0 && cores_now > 0) {
        double others = (cores_now - cores - (own_now - own)) / (now - looked);
        long threads = lround(most - others);
        omp_set_num_threads((int)(threads < 1 ? 1 : threads > most ? most : threads));
    }
    looked = now, cores = cores_now, own = own_now;
}
