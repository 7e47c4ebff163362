// Ctrl-C, SIGTERM and SIGUSR1 in a long run: the first asks the loop to come to an end, the second ends at once.
#pragma once
// `said` is written to stderr when the first one comes ("saving a checkpoint before leaving").
void interrupt_install(const char *said);
int interrupt_signal(void); // 0, or the signal that asked; the program then exits with 128 + signal
