// How threads of OpenMP share the machine with other programs. No result depends on it, nor on the number of threads.
#pragma once

// Called first in main. The OpenMP runtimes (gcc's and clang's) spin for milliseconds before they sleep, unless the
// environment says otherwise when they are loaded, before main. So this sets OMP_WAIT_POLICY=passive, with
// GOMP_SPINCOUNT for a short last look, and executes the program again, once: same process, arguments, open files and
// signals. Nothing happens if the user has set OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME or KMP_LIBRARY, or under
// valgrind, which does not follow.
void threads_start(char **argv);

// Called in long loops, once a step or a batch: every second, sets the number of threads of the loops that follow to
// the cores that other programs leave idle, at least one. A parallel loop ends when its last thread does, so that two
// threads of which one has half a core take longer than one thread. Nothing happens if the user has set
// OMP_NUM_THREADS.
void threads_adapt(void);
