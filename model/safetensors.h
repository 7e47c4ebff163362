// Files of named tensors: https://github.com/huggingface/safetensors (8-byte header length, JSON header, raw bytes).
// Reading maps the file. A model may be one file, or shards with an index (model.safetensors.index.json).
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    DTYPE_F64,
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL
} DType;

enum { TENSOR_MAX_DIMS = 8 };

typedef struct {
    char *name;
    DType dtype;
    int ndim;
    int64_t shape[TENSOR_MAX_DIMS];
    int64_t count;    // elements
    const void *data; // in the mapped file
    const char *path; // of its file
} Tensor;

typedef struct {
    char *path; // of the file or the index
    Tensor *tensors;
    int count;
    struct SafetensorsMap *maps;
    int map_count;
} Safetensors;

// Opens a .safetensors file, or all the shards that a ....safetensors.index.json names. Every header is checked against
// the file's length: overlapping, out-of-range, wrongly sized or unknown entries are errors that name file and tensor.
Safetensors safetensors_open(const char *path);
void safetensors_close(Safetensors *file);
const Tensor *safetensors_find(const Safetensors *file, const char *name); // NULL if missing
// The path of the next mapped file after `last` (NULL: the first), in the order of their names; NULL at the end.
const char *safetensors_next_file(const Safetensors *file, const char *last);
// Elements [first, first + count) converted to float (any float type) or int64 (any integer type). Die on other types.
void tensor_to_float(const Tensor *tensor, int64_t first, int64_t count, float *out);
// Drops the pages of elements [first, first + count), if they are 1 MiB or more: else what was read counts as this
// process's memory until the file is closed. tensor_to_float does so with what it reads.
void tensor_drop_pages(const Tensor *tensor, int64_t first, int64_t count);
// Dies, naming file and tensor, if one of its values, converted to float, is NaN or infinite.
void tensor_want_finite(const Tensor *tensor, const float *values, size_t count);
void tensor_to_int64(const Tensor *tensor, int64_t first, int64_t count, int64_t *out);

// A file of F32 tensors being written: declare all tensors, then write their data in the declared order, as whole
// tensors or pieces, then finish. It gets its name only when complete (temporary name, fsync, rename).
typedef struct SafetensorsWriter SafetensorsWriter;
SafetensorsWriter *safetensors_writer(const char *path);
void safetensors_declare(SafetensorsWriter *w, const char *name, int ndim, const int64_t *shape);
void safetensors_write(SafetensorsWriter *w, const float *data, size_t count);
void safetensors_finish(SafetensorsWriter *w);
