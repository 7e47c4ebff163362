// How threads of OpenMP wait for their next parallel loop: asleep, or spinning on a core that another program may need.
#pragma once

// Called first in main. The OpenMP runtimes (gcc's and clang's) spin for milliseconds before they sleep, unless the
// environment says otherwise when they are loaded, before main. So this sets OMP_WAIT_POLICY=passive, with
// GOMP_SPINCOUNT for a last look of some microseconds, and executes the program again, once: same process, arguments,
// open files and signals. Nothing happens if the user has set OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME or
// KMP_LIBRARY, or under valgrind, which does not follow.
void wait_policy_set_default(char **argv);
