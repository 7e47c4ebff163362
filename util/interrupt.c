#include "util/interrupt.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t received;
static char message[160];

static void handler(int signal) {
    received = signal;
    (void)!write(STDERR_FILENO, message, strlen(message));
}

void interrupt_install(const char *said) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    snprintf(message, sizeof message, "\ncocogold: %s (again: leave at once)\n", said);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL); // mpirun and srun pass it on and leave us the time to save
}

int interrupt_signal(void) { return received; }
