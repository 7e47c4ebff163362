// The weights of one module, between its folder in a model directory and the flat buffer of its parameters.
#pragma once
#include "model/params.h"
#include "model/safetensors.h"
#include "util/file.h"

// The path of the file that weights_read reads in `folder`; dies if there is none.
Path weights_path(const char *folder);
// The tensor of each slice (params->count, to be freed), found by the names that weights_read accepts. Dies if a tensor
// is missing, has another shape, or belongs to no slice.
const Tensor **weights_match(const Params *params, const Safetensors *file);
// SHA-256 of that file; if it is an index, of the concatenated digests of the shards in the order of their names.
void weights_digest(const char *folder, char hex[65]);

// One module's weights: finds diffusion_pytorch_model.safetensors / model.safetensors, .fp16., or the sharded index in
// `folder`, checks that every slice exists with its shape (old VAE attention names and missing "text_model." prefixes
// are accepted, position_ids is ignored) and fills the flat host array (params->total floats, padding zero).
void weights_read(const Params *params, const char *folder, float *flat);
// What weights are loaded for. To read: on a CPU they stay in the file, which is mapped (model/mapped.h).
typedef enum { WEIGHTS_READ, WEIGHTS_WRITE } WeightsUse;
// Makes the weights of `folder` available on the device.
void weights_load(Params *params, const char *folder, WeightsUse use, Device *dev);
// Writes `flat` (host, flat order) as F32 into the file `path` in PyTorch's layouts. Several Params (VAE
// encoder and decoder) may go into one file.
void weights_write(const Params *const *params, const float *const *flats, int count, const char *path);

// Declares all slices of a model, or one under another name, for a caller that writes them one after the other.
void weights_declare(SafetensorsWriter *w, const Params *params);
void weights_declare_slice(SafetensorsWriter *w, const char *name, const ParamSlice *slice);
