// folds on the CPU: every backward function folds its own sums.
#include "kernels/folds.h"

size_t folds_bytes(size_t saved) { return (void)saved, 0; }
void folds_begin(Device *dev, void *memory, size_t bytes) { (void)dev, (void)memory, (void)bytes; }
void folds_flush(Device *dev) { (void)dev; }
void folds_end(Device *dev) { (void)dev; }
