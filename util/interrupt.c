#include "util/interrupt.h"
#include "util/error.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int received;
static _Atomic(const char *) loop_says;       // NULL: no loop asks for signals
static atomic_bool over;                      // all is said and kept
static void (*on_broken_pipe)(int) = SIG_DFL; // when the program was started

// Waits for signals instead of handling them, since what ending needs (locks, memory) is forbidden in a handler.
static void *watch(void *set) {
    bool asked = false; // received may be SIGPIPE, which does not come this way
    for (int signal; sigwait(set, &signal) == 0; asked = true) {
        const char *said = loop_says;
        // A rank's SIGTERM is mpirun's, when another rank has ended with an error, which that one names.
        bool named = !said && signal == SIGTERM && !error_first_rank();
        if (over || named) { leave_silently(128 + signal); }
        if (!said || asked) { leave_now(128 + signal, "ended by signal %d (%s)", signal, strsignal(signal)); }
        if (!received) { received = signal; }
        fprintf(stderr, "\ncocogold: %s (again: leave at once)\n", said);
    }
    return NULL;
}

static bool ignored(int signal) { // by nohup
    struct sigaction action;
    return sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

void interrupt_start(void) {
    static sigset_t set;
    pthread_t thread;
    sigemptyset(&set);
    if (!ignored(SIGHUP)) { sigaddset(&set, SIGHUP); }
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1); // mpirun and srun pass it on and leave us the time to save
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    on_broken_pipe = signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (pthread_create(&thread, NULL, watch, &set) != 0) { die("cannot start the thread that waits for signals"); }
    pthread_detach(thread);
}

void interrupt_listing(void) { signal(SIGPIPE, on_broken_pipe); }

void interrupt_install(const char *said) { loop_says = said; }

void interrupt_over(void) {
    fflush(stdout);
    over = true;
}

int interrupt_signal(void) {
    if (!received && loop_says && error_nobody_reads()) { received = SIGPIPE; }
    return received;
}

int interrupt_code(int signal, const char *kept) {
    return signal == SIGPIPE ? error_broken_pipe(kept) : signal ? 128 + signal : 0;
}
