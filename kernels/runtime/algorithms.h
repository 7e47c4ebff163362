// The algorithm of each matrix product that cuBLASLt computes. By default it is the first one that cuBLASLt's heuristic
// offers. With algorithms_tune it is the fastest of the first eight, timed on this card and kept in a file for each
// card, driver, version of cuBLASLt and precision:
//
//     $XDG_CACHE_HOME/cocogold/algorithms-MACHINE.json      ($HOME/.cache where XDG_CACHE_HOME is not set)
//
// Algorithms may add up in different orders, so the choice is part of what determines the bits of a result. Rank 0
// reads or makes it, and all ranks take it. The CPU has nothing to choose.
#pragma once
#include "kernels/runtime/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ALGORITHMS = 8 }; // looked at for a product

// ---- The device (kernels/gemm_algorithms.cu; device.c) --------------------------------------------------------------

// What times are valid for, such as "NVIDIA A100-SXM4-40GB, driver 550.54.14, CUDA 12.4, cuBLASLt 120402, bf16", to be
// freed; NULL: there is nothing to choose from.
char *algorithms_machine(const Device *dev);
// While noting, functions in plan-only mode note the products that they would compute, each size once. Their numbers
// are in the order of their first notes: the same on every rank that plans the same work.
void algorithms_note(Device *dev, bool noting);
int algorithms_noted(const Device *dev);
char *algorithms_product(const Device *dev, int product); // sizes, layouts and epilogue, to be freed
// Seconds of each algorithm that the heuristic offers for a product; INFINITY: it cannot be run. Returns how many are
// offered; 0 if there is too little memory. seconds NULL: only the number. Not while a graph is recorded.
int algorithms_time(Device *dev, int product, double seconds[ALGORITHMS]);
// The product's number among those offered. Before its first run.
void algorithms_choose(Device *dev, int product, int choice);
// What the choices are, for logs and checkpoints: "" (the CPU), "first", or "tuned " and a hash of all that are not the
// first. Equal texts on one machine: the same algorithms.
const char *algorithms_chosen(const Device *dev);

// ---- Choice and file -----------------------------------------------------------------------------------------------

// Chooses for all products noted so far, prints a line, and writes the file if a product was timed. A product that is
// in the file is not timed again. Collective. A damaged file, one that cannot be written, or a CPU gives a warning.
void algorithms_tune(Device *dev, Comm *comm);
// The file for a machine, to be freed; NULL if neither XDG_CACHE_HOME nor HOME is set.
char *algorithms_path(const char *machine);

#ifdef __cplusplus
}
#endif
