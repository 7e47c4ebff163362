#include "train/interrupt.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t received;

static void handler(int signal) {
    received = signal;
    static const char text[] = "\ncocogold: saving a checkpoint before leaving (again: leave at once)\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
}

void interrupt_install(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL); // mpirun and srun pass it on and leave us the time to save
}

int interrupt_signal(void) { return received; }
