// How OpenMP threads share the machine with other programs. Results do not depend on any of this, nor on the number of
// threads.
#pragma once

// Called first in main. The OpenMP runtimes of gcc and clang spin for milliseconds before they sleep, unless the
// environment says otherwise; they read it when they are loaded, before main. Therefore this sets
// OMP_WAIT_POLICY=passive, with a GOMP_SPINCOUNT for a short spin, and executes the program once more: in the same
// process, with the same arguments, open files and signals. It does nothing if the user has set OMP_WAIT_POLICY,
// GOMP_SPINCOUNT, KMP_BLOCKTIME or KMP_LIBRARY, or under valgrind, which does not follow execv.
void threads_start(char **argv);

// Called in long loops, once per step or batch. At most once a second it sets the number of threads of the following
// loops to the number of cores that other programs leave idle, at least one. A parallel loop ends when its last thread
// ends, so two threads that share one core with another program take longer than one thread. Does nothing if the user
// has set OMP_NUM_THREADS.
void threads_adapt(void);
