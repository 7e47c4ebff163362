// Weights that are only read, on the CPU: they stay in the model's file, which is mapped. Nothing is read before its
// first use. A tensor of F32 at an aligned address is used in place; others, and groups of matrices that kernels read
// as one but that are not neighbours in the file, are converted or copied once. Convolutions stay in PyTorch's order
// (Conv2d.torch_order). Values are checked when they are first used: a NaN dies with file and tensor.
//
// A file that is replaced by a rename, as all programs should, stays what it was. One that is cut off meanwhile ends
// the program with a sentence (util/map_guard.h); one that is overwritten in place changes the weights, as it does in
// PyTorch.
#pragma once
#include "model/params.h"
#include "model/safetensors.h"

typedef struct MappedWeights MappedWeights;

// Takes over the opened file and the tensors of the slices (weights_match). Dies if one has no float type.
MappedWeights *mapped_open(Safetensors file, const Tensor **tensors, const Params *params, Device *dev);
void mapped_close(MappedWeights *mapped);

// Bytes of the copies that are still to come, of weights that are not used in place; 0 if none are mapped.
size_t mapped_pending_bytes(const Params *params);
// params.h declares mapped_weight, for weight_at: the group of slices that begins at `offset`.
// A table (rows, C) of which only the `n` given rows are read and checked.
const floatX *mapped_rows(const Params *params, size_t offset, const int *rows, int n, int C);
