// Weights: one file, or two with an index (model/safetensors.c).
#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>

const char *const fuzz_files[] = {"model.safetensors", "model.safetensors.index.json", "other.safetensors", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    bool index = fuzz_has("model.safetensors.index.json");
    Safetensors file = safetensors_open(fuzz_path(index ? "model.safetensors.index.json" : "model.safetensors"));
    safetensors_find(&file, "a");
    for (const char *path = NULL; (path = safetensors_next_file(&file, path));) {}
    for (int i = 0; i < file.count; i++) {
        const Tensor *t = &file.tensors[i];
        bool integer = t->dtype >= DTYPE_I64;
        size_t count = (size_t)t->count, bytes = (count + 1) * (integer ? sizeof(int64_t) : sizeof(float));
        void *values = malloc(bytes);
        if (integer) { tensor_to_int64(t, 0, t->count, values); }
        if (!integer) { tensor_to_float(t, 0, t->count, values); }
        free(values);
    }
    safetensors_close(&file);
}
