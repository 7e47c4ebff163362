// Signals. SIGHUP, SIGINT, SIGTERM and SIGUSR1 end a command in one sentence (of ranks after SIGTERM only rank 0) with
// exit code 128 + signal, and leave nothing half-written. In a long loop the first one only asks the loop to come to an
// end; the second ends at once. SIGPIPE and SIGXFSZ are errors of the write that causes them instead; they do not count
// as the first.
#pragma once
// Starts the thread that waits for signals. Called by main, before there are other threads: they inherit the mask.
void interrupt_start(void);
// From now on a loop asks interrupt_signal. `said` is written to stderr when the first signal comes ("saving a
// checkpoint before leaving"). NULL: the loop is over, and the next signal ends the command at once.
void interrupt_install(const char *said);
// All is said and kept: from now on a signal ends the process without a word. mpirun sends one to the other ranks as
// soon as one has ended with an error.
void interrupt_over(void);
// 0, or the signal that asks the loop to end. SIGPIPE if nobody reads standard output any more.
int interrupt_signal(void);
// The exit code of a loop that this signal has ended: 128 + signal, or 0. After SIGPIPE it is 1, with a sentence that
// also says what is kept.
int interrupt_code(int signal, const char *kept);
// The command writes nothing but standard output: when nobody reads that any more, SIGPIPE ends it without a word, as
// other programs (unless whoever started it ignores SIGPIPE).
void interrupt_listing(void);
