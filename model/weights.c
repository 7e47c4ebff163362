#include "model/weights.h"
#include "model/mapped.h"
#include "util/error.h"
#include "util/finite.h"
#include "util/progress.h"
#include "util/text.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

// ---- Files ---------------------------------------------------------------------------------------------------------

// diffusers and transformers name weight files differently; half-precision files have other names again.
static const char *const weight_files[] = {"diffusion_pytorch_model.safetensors",
                                           "model.safetensors",
                                           "diffusion_pytorch_model.safetensors.index.json",
                                           "model.safetensors.index.json",
                                           "diffusion_pytorch_model.fp16.safetensors",
                                           "model.fp16.safetensors",
                                           "diffusion_pytorch_model.safetensors.index.fp16.json",
                                           "model.safetensors.index.fp16.json",
                                           "diffusion_pytorch_model.fp16.safetensors.index.json",
                                           "model.fp16.safetensors.index.json"};
static const char *const pickled_files[] = {"diffusion_pytorch_model.bin", "pytorch_model.bin",
                                            "diffusion_pytorch_model.fp16.bin", "pytorch_model.fp16.bin"};
enum { WEIGHT_FILES = sizeof weight_files / sizeof *weight_files, PICKLED_FILES = 4 };

Path weights_path(const char *folder) {
    for (int i = 0; i < WEIGHT_FILES; i++) {
        Path path = path_of("%s/%s", folder, weight_files[i]);
        if (file_exists(path.text)) { return path; }
    }
    for (int i = 0; i < PICKLED_FILES; i++) {
        Path path = path_of("%s/%s", folder, pickled_files[i]);
        if (file_exists(path.text)) {
            die("%s: weights in pickled form cannot be read, convert them to %s", path.text,
                weight_files[strncmp(pickled_files[i], "diff", 4) != 0]);
        }
    }
    die("%s: holds no weights, expected %s or %s", folder, weight_files[0], weight_files[1]);
}

void weights_digest(const char *folder, char hex[65]) {
    Path path = weights_path(folder);
    if (!text_ends_with(path.text, ".json")) {
        sha256_file(path.text, hex);
        return;
    }
    Safetensors file = safetensors_open(path.text); // checks that all shards exist
    char *all = xcalloc((size_t)file.map_count + 1, 64), *end = all;
    for (const char *shard = NULL; (shard = safetensors_next_file(&file, shard)); end += 64) {
        sha256_file(shard, hex);
        memcpy(end, hex, 64);
    }
    unsigned char digest[32];
    EVP_Digest(all, (size_t)(end - all), digest, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 32; i++) { snprintf(hex + 2 * i, 3, "%02x", digest[i]); }
    safetensors_close(&file);
    free(all);
}

// ---- Names ---------------------------------------------------------------------------------------------------------

// The single attention block of a VAE's encoder and decoder was named differently until 2023.
static const char *const attention_names[][2] = {
    {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
static const char clip_prefix[] = "text_model.";

static bool starts_with(const char *text, const char *start) { return strncmp(text, start, strlen(start)) == 0; }

// The tensor with an older form of its name, or NULL.
static const Tensor *find_alias(const Safetensors *file, const char *name) {
    if (starts_with(name, clip_prefix)) { return safetensors_find(file, name + strlen(clip_prefix)); }
    for (int i = 0; i < 4; i++) {
        const char *at = strstr(name, attention_names[i][0]);
        if (!at || !strstr(name, "mid_block.attentions.0.")) { continue; }
        char *old =
            xprintf("%.*s%s%s", (int)(at - name), name, attention_names[i][1], at + strlen(attention_names[i][0]));
        const Tensor *tensor = safetensors_find(file, old);
        free(old);
        return tensor;
    }
    return NULL;
}

static const Tensor *weights_find(const Safetensors *file, const char *name) {
    const Tensor *tensor = safetensors_find(file, name);
    return tensor ? tensor : find_alias(file, name);
}

// The VAE's file holds encoder and decoder, which are two models here. position_ids (0, 1, 2, ...) is not needed.
static bool belongs_elsewhere(const Params *params, const char *name) {
    bool encoder = params->count && starts_with(params->slices[0].name, "encoder.conv_in");
    bool decoder = params_find(params, "decoder.conv_in.weight") != NULL;
    if (encoder && !decoder && (starts_with(name, "decoder.") || starts_with(name, "post_quant_conv."))) {
        return true;
    }
    if (decoder && !encoder && (starts_with(name, "encoder.") || starts_with(name, "quant_conv."))) { return true; }
    const char *ids = strstr(name, "embeddings.position_ids");
    return ids && strcmp(ids, "embeddings.position_ids") == 0;
}

// ---- Reading -------------------------------------------------------------------------------------------------------

// For the last sentence of the program: nothing is freed.
static char *shape_text(int ndim, const int64_t *shape) {
    char *text = xstrdup("");
    for (int i = 0; i < ndim; i++) { text = xprintf("%s%s%lld", text, i ? ", " : "", (long long)shape[i]); }
    return xprintf("(%s)", text);
}

// Equal, ignoring axes of size 1 at the end: 1x1 convolutions and linear layers hold the same numbers.
static bool same_shape(const Tensor *tensor, const ParamSlice *slice) {
    int most = tensor->ndim > slice->ndim ? tensor->ndim : slice->ndim;
    for (int i = 0; i < most; i++) {
        int64_t a = i < tensor->ndim ? tensor->shape[i] : 1, b = i < slice->ndim ? slice->shape[i] : 1;
        if (a != b) { return false; }
    }
    return true;
}

static const Tensor *find_checked(const Safetensors *file, const ParamSlice *slice) {
    const Tensor *tensor = weights_find(file, slice->name);
    if (!tensor) {
        die("%s: tensor \"%s\" is missing, but the module's config.json needs it", file->path, slice->name);
    }
    if (!same_shape(tensor, slice)) {
        int64_t wanted[4];
        for (int i = 0; i < slice->ndim; i++) { wanted[i] = slice->shape[i]; }
        die("%s: tensor \"%s\" has the shape %s, but the module's config.json needs %s", tensor->path, tensor->name,
            shape_text(tensor->ndim, tensor->shape), shape_text(slice->ndim, wanted));
    }
    return tensor;
}

// Dies if the file holds a tensor that belongs to no slice.
static void check_extras(const Safetensors *file, const Params *params, const bool *used) {
    for (int i = 0; i < file->count; i++) {
        if (!used[i] && !belongs_elsewhere(params, file->tensors[i].name)) {
            die("%s: tensor \"%s\" is not expected by the module's config.json", file->tensors[i].path,
                file->tensors[i].name);
        }
    }
}

const Tensor **weights_match(const Params *params, const Safetensors *file) {
    const Tensor **tensors = xmalloc((size_t)params->count * sizeof *tensors);
    bool *used = xcalloc((size_t)file->count, sizeof *used);
    for (int i = 0; i < params->count; i++) {
        tensors[i] = find_checked(file, &params->slices[i]);
        used[tensors[i] - file->tensors] = true;
    }
    check_extras(file, params, used);
    free(used);
    return tensors;
}

enum { PIECE = 1 << 20 }; // floats transposed at a time, so that the file's pages can be dropped

// Reads a slice and converts it from PyTorch's order, some output channels at a time.
static void read_slice(const ParamSlice *slice, const Tensor *tensor, float *flat) {
    if (slice->layout == LAYOUT_PLAIN) {
        tensor_to_float(tensor, 0, tensor->count, flat);
        return;
    }
    size_t row = slice->count / (size_t)slice->shape[0];
    int rows = row < PIECE ? (int)(PIECE / row) : 1;
    float *torch_order = xmalloc((size_t)rows * row * sizeof *torch_order);
    for (int first = 0; first < slice->shape[0]; first += rows) {
        ParamSlice part = *slice;
        part.shape[0] = first + rows < slice->shape[0] ? rows : slice->shape[0] - first;
        part.count = (size_t)part.shape[0] * row;
        tensor_to_float(tensor, (int64_t)((size_t)first * row), (int64_t)part.count, torch_order);
        slice_from_torch(&part, flat + (size_t)first * row, torch_order);
    }
    free(torch_order);
}

void weights_read(const Params *params, const char *folder, float *flat) {
    Safetensors file = safetensors_open(weights_path(folder).text);
    const Tensor **tensors = weights_match(params, &file);
    // Dies on a wrong type here, not in a thread.
    for (int i = 0; i < params->count; i++) { tensor_to_float(tensors[i], 0, 0, flat); }
    params_clear_padding(params, flat);
    Progress progress = progress_work("loading", (long long)params->total);
    progress_phase(&progress, "%s", folder);
    int first = params->count; // of the slices that are not finite
#pragma omp parallel for schedule(dynamic) reduction(min : first)
    for (int i = 0; i < params->count; i++) {
        const ParamSlice *slice = &params->slices[i];
        read_slice(slice, tensors[i], flat + slice->offset);
        if (first_not_finite(flat + slice->offset, slice->count) < slice->count && i < first) { first = i; }
#pragma omp critical(loading)
        progress_add(&progress, (long long)slice->count);
    }
    progress_end(&progress, progress.done);
    if (first < params->count) {
        tensor_want_finite(tensors[first], flat + params->slices[first].offset, params->slices[first].count);
    }
    safetensors_close(&file);
    free(tensors);
}

// Before memory is taken that only config.json asks for.
static void check_file(const Params *params, const char *folder) {
    Safetensors file = safetensors_open(weights_path(folder).text);
    free(weights_match(params, &file));
    safetensors_close(&file);
}

// If host and device share memory and the types are equal, weights are mapped, or else read in place: a second copy of
// SD2's UNet would take 3.5 GB.
void weights_load(Params *params, const char *folder, WeightsUse use, Device *dev) {
    bool shared = dev->host_memory && sizeof(floatX) == sizeof(float);
    if (shared && use == WEIGHTS_READ) {
        Safetensors file = safetensors_open(weights_path(folder).text);
        params->mapped = mapped_open(file, weights_match(params, &file), params, dev);
        return;
    }
    check_file(params, folder);
    params_alloc(params, dev);
    if (shared) {
        weights_read(params, folder, (float *)params->weights);
        return;
    }
    float *flat = xmalloc(params->total * sizeof *flat);
    weights_read(params, folder, flat);
    params_upload(params, flat, dev);
    free(flat);
}

// ---- Writing -------------------------------------------------------------------------------------------------------

void weights_declare_slice(SafetensorsWriter *w, const char *name, const ParamSlice *slice) {
    int64_t shape[4];
    for (int k = 0; k < slice->ndim; k++) { shape[k] = slice->shape[k]; }
    safetensors_declare(w, name, slice->ndim, shape);
}

void weights_declare(SafetensorsWriter *w, const Params *params) {
    for (int i = 0; i < params->count; i++) { weights_declare_slice(w, params->slices[i].name, &params->slices[i]); }
}

void weights_write(const Params *const *params, const float *const *flats, int count, const char *path) {
    SafetensorsWriter *w = safetensors_writer(path);
    for (int m = 0; m < count; m++) { weights_declare(w, params[m]); }
    for (int m = 0; m < count; m++) {
        for (int i = 0; i < params[m]->count; i++) {
            const ParamSlice *slice = &params[m]->slices[i];
            float *torch_order = xmalloc(slice->count * sizeof *torch_order);
            slice_to_torch(slice, torch_order, flats[m] + slice->offset);
            safetensors_write(w, torch_order, slice->count);
            free(torch_order);
        }
    }
    safetensors_finish(w);
}
