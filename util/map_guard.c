#include "util/map_guard.h"
#include "util/error.h"
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// The path of the file that is mapped at this address (man 5 proc_pid_maps); false: none.
static bool mapped_path(uintptr_t address, char path[4096]) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096 + 128];
    bool found = false;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        *path = 0;
        found = sscanf(line, "%lx-%lx %*s %*s %*s %*s %4095[^\n]", &begin, &end, path) >= 2 && address >= begin &&
                address < end;
    }
    if (maps) { fclose(maps); }
    return found && *path == '/';
}

// Called in the thread that reads the page. It holds no lock: maps are read by loops over numbers.
static void lost_page(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    char path[4096];
    if (mapped_path((uintptr_t)info->si_addr, path)) {
        leave_now(1, "%s: cannot be read any more: it was cut off while it was in use, or its disk fails", path);
    }
    signal(signal_number, SIG_DFL); // the instruction runs again
}

void map_guard(void) {
    struct sigaction action = {.sa_sigaction = lost_page, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
