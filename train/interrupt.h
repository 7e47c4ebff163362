// Ctrl-C, SIGTERM and SIGUSR1 in a long run: the first asks the loop to save and leave, the second ends at once.
#pragma once
void interrupt_install(void);
int interrupt_signal(void); // 0, or the signal that asked; the program then exits with 128 + signal
