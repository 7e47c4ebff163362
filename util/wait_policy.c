#include "util/wait_policy.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

// libgomp looks so many times before it sleeps, about 25 us: as long as one thread mostly waits for the other, and a
// hundredth of a time slice (bench/LOG.md). libomp counts in milliseconds: it sleeps at once.
#define SPINS "1000"

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

void wait_policy_set_default(char **argv) {
    // The path that the kernel executed, so that the process keeps its name. The working directory is still the same.
    const char *path = (const char *)getauxval(AT_EXECFN);
    if (!path || user_decides() || under_valgrind()) { return; }
    if (setenv("GOMP_SPINCOUNT", SPINS, 0) == 0 && setenv("OMP_WAIT_POLICY", "passive", 0) == 0) { execv(path, argv); }
    // Without a second start the threads spin: slower beside other programs, not wrong.
}
