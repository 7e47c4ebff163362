// Folds: the last step of the gradients of biases and of norms' weights. A backward kernel writes partial sums, one row
// per chunk of its input, and a fold adds the rows. Hundreds of folds of a few microseconds each are a backward pass's
// smallest launches. Between folds_begin and folds_end they are put off and done many at a time, from a table; the sums
// are the same to the bit. On the CPU there is nothing to put off.
#pragma once
#include "kernels/runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of memory for a long table beside `saved` bytes of activations: 1/64 of them, from 1 to 16 MB; 0: none is
// needed.
size_t folds_bytes(size_t saved);
// From here on, gradients of parameters that the kernels' partial sums give are not complete until folds_flush or
// folds_end. `memory` holds the partial sums; when it is full, what is in it is folded. Each gradient may be written
// only once in between. Nothing nests.
void folds_begin(Device *dev, void *memory, size_t bytes);
void folds_flush(Device *dev);
void folds_end(Device *dev);

#ifdef __cplusplus
}
#endif
