#include "model/safetensors.h"
#include "util/error.h"
#include "util/file.h"
#include "util/finite.h"
#include "util/half.h"
#include "util/json.h"
#include "util/map_guard.h"
#include "util/text.h"
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct SafetensorsMap {
    char *path;
    unsigned char *bytes;
    size_t size;
    size_t data; // where the tensors' bytes begin
};

enum { LARGEST_HEADER = 100000000 }; // as in the reference implementation

static const struct {
    const char *name;
    int size;
} dtypes[] = {[DTYPE_F64] = {"F64", 8}, [DTYPE_F32] = {"F32", 4},  [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},
              [DTYPE_I64] = {"I64", 8}, [DTYPE_I32] = {"I32", 4},  [DTYPE_I16] = {"I16", 2}, [DTYPE_I8] = {"I8", 1},
              [DTYPE_U8] = {"U8", 1},   [DTYPE_BOOL] = {"BOOL", 1}};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

// ---- Reading -------------------------------------------------------------------------------------------------------

static struct SafetensorsMap map_file(const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat s;
    if (fd < 0 || fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        die("%s: cannot be opened, expected a safetensors file", path);
    }
    struct SafetensorsMap map = {.path = xstrdup(path), .size = (size_t)s.st_size};
    if (map.size < 8) { die("%s: is %zu bytes long, too short for a safetensors file", path, map.size); }
    map.bytes = mmap(NULL, map.size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map.bytes == MAP_FAILED) { die("%s: cannot be mapped into memory", path); }
    close(fd);
    map_guard();
    return map;
}

// The header as JSON; sets map->data.
static yajl_val read_header(struct SafetensorsMap *map) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) { length = length << 8 | map->bytes[i]; }
    if (length > LARGEST_HEADER) {
        die("%s: begins with a header length of %llu, so it is not a safetensors file", map->path,
            (unsigned long long)length);
    }
    if (length > map->size - 8) {
        die("%s: is cut off: its header should be %llu bytes long, but only %zu bytes follow the length", map->path,
            (unsigned long long)length, map->size - 8);
    }
    char *text = xmalloc(length + 1), reason[256];
    memcpy(text, map->bytes + 8, length);
    text[length] = 0;
    yajl_val header = memchr(text, 0, length) ? NULL : json_parse(text, reason, sizeof reason);
    free(text);
    if (!header || !YAJL_IS_OBJECT(header)) { die("%s: its safetensors header is not a JSON object", map->path); }
    map->data = 8 + length;
    return header;
}

static DType parse_dtype(const struct SafetensorsMap *map, const char *name, yajl_val entry) {
    yajl_val value = json_find(entry, "dtype");
    const char *dtype = YAJL_GET_STRING(value);
    if (!dtype) { die("%s: tensor \"%s\" has no \"dtype\"", map->path, name); }
    for (int i = 0; i < DTYPES; i++) {
        if (strcmp(dtype, dtypes[i].name) == 0) { return (DType)i; }
    }
    die("%s: tensor \"%s\" has the unsupported dtype \"%s\"", map->path, name, dtype);
}

static void parse_shape(const struct SafetensorsMap *map, Tensor *tensor, yajl_val entry) {
    yajl_val value = json_find(entry, "shape");
    if (!value || !YAJL_IS_ARRAY(value) || YAJL_GET_ARRAY(value)->len > TENSOR_MAX_DIMS) {
        die("%s: tensor \"%s\" needs a \"shape\" of at most %d numbers", map->path, tensor->name, TENSOR_MAX_DIMS);
    }
    tensor->ndim = (int)YAJL_GET_ARRAY(value)->len;
    tensor->count = 1;
    for (int i = 0; i < tensor->ndim; i++) {
        yajl_val side = YAJL_GET_ARRAY(value)->values[i];
        if (!YAJL_IS_INTEGER(side) || YAJL_GET_INTEGER(side) < 0) {
            die("%s: tensor \"%s\" has a shape that is not made of non-negative integers", map->path, tensor->name);
        }
        tensor->shape[i] = YAJL_GET_INTEGER(side);
        if (__builtin_mul_overflow(tensor->count, tensor->shape[i], &tensor->count) || tensor->count > INT64_MAX / 8) {
            die("%s: tensor \"%s\" has a shape that is too large", map->path, tensor->name);
        }
    }
}

// Checks that the tensor's bytes lie in the file, and that their number matches its shape.
static void parse_offsets(const struct SafetensorsMap *map, Tensor *tensor, yajl_val entry) {
    yajl_val value = json_find(entry, "data_offsets");
    yajl_val *pair =
        value && YAJL_IS_ARRAY(value) && YAJL_GET_ARRAY(value)->len == 2 ? YAJL_GET_ARRAY(value)->values : NULL;
    if (!pair || !YAJL_IS_INTEGER(pair[0]) || !YAJL_IS_INTEGER(pair[1])) {
        die("%s: tensor \"%s\" needs \"data_offsets\" of two integers", map->path, tensor->name);
    }
    long long begin = YAJL_GET_INTEGER(pair[0]), end = YAJL_GET_INTEGER(pair[1]);
    long long room = (long long)(map->size - map->data), expected = tensor->count * dtypes[tensor->dtype].size;
    if (begin < 0 || end < begin || end > room) {
        die("%s: tensor \"%s\" lies at bytes %lld to %lld, but the file holds %lld bytes of data (is it cut off?)",
            map->path, tensor->name, begin, end, room);
    }
    if (end - begin != expected) {
        die("%s: tensor \"%s\" has %lld bytes, but its shape and dtype need %lld", map->path, tensor->name, end - begin,
            expected);
    }
    tensor->data = map->bytes + map->data + begin;
}

static Tensor parse_tensor(const struct SafetensorsMap *map, const char *name, yajl_val entry) {
    Tensor tensor = {.name = xstrdup(name), .path = map->path};
    if (!YAJL_IS_OBJECT(entry)) { die("%s: tensor \"%s\" is not described by a JSON object", map->path, name); }
    tensor.dtype = parse_dtype(map, name, entry);
    parse_shape(map, &tensor, entry);
    parse_offsets(map, &tensor, entry);
    return tensor;
}

static int64_t tensor_bytes(const Tensor *tensor) { return tensor->count * dtypes[tensor->dtype].size; }

static int by_address(const void *a, const void *b) {
    const Tensor *x = a, *y = b;
    if (x->data != y->data) { return (const char *)x->data < (const char *)y->data ? -1 : 1; }
    return (tensor_bytes(x) > tensor_bytes(y)) - (tensor_bytes(x) < tensor_bytes(y)); // empty ones first
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

// The format requires that every byte of data belongs to exactly one tensor.
static void check_coverage(const struct SafetensorsMap *map, Tensor *tensors, int count) {
    qsort(tensors, (size_t)count, sizeof *tensors, by_address);
    const unsigned char *reached = map->bytes + map->data;
    for (int i = 0; i < count; i++) {
        if ((const unsigned char *)tensors[i].data < reached) {
            die("%s: tensors \"%s\" and \"%s\" overlap", map->path, tensors[i - 1].name, tensors[i].name);
        }
        if ((const unsigned char *)tensors[i].data > reached) {
            die("%s: bytes before tensor \"%s\" belong to no tensor", map->path, tensors[i].name);
        }
        reached += tensor_bytes(&tensors[i]);
    }
    if (reached != map->bytes + map->size) {
        die("%s: there are %zu bytes after the last tensor", map->path, (size_t)(map->bytes + map->size - reached));
    }
}

static void add_file(Safetensors *file, const char *path) {
    file->maps = xrealloc(file->maps, (size_t)(file->map_count + 1) * sizeof *file->maps);
    struct SafetensorsMap *map = &file->maps[file->map_count++];
    *map = map_file(path);
    yajl_val header = read_header(map);
    size_t entries = YAJL_GET_OBJECT(header)->len;
    file->tensors = xrealloc(file->tensors, ((size_t)file->count + entries) * sizeof *file->tensors);
    Tensor *first = file->tensors + file->count;
    int count = 0;
    for (size_t i = 0; i < entries; i++) {
        const char *name = YAJL_GET_OBJECT(header)->keys[i];
        if (strcmp(name, "__metadata__") == 0) { continue; }
        first[count++] = parse_tensor(map, name, YAJL_GET_OBJECT(header)->values[i]);
    }
    check_coverage(map, first, count);
    file->count += count;
    yajl_tree_free(header);
}

static void sort_by_name(Safetensors *file) {
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    for (int i = 1; i < file->count; i++) {
        if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0) {
            die("%s: tensor \"%s\" appears twice", file->path, file->tensors[i].name);
        }
    }
}

static bool has_map(const Safetensors *file, const char *path) {
    for (int i = 0; i < file->map_count; i++) {
        if (strcmp(file->maps[i].path, path) == 0) { return true; }
    }
    return false;
}

// {"weight_map": {"tensor": "model-00001-of-00002.safetensors", ...}}
static void add_shards(Safetensors *file, const char *index_path) {
    Json index = json_read(index_path);
    yajl_val map = json_find(index.root, "weight_map");
    if (!map || !YAJL_IS_OBJECT(map)) { die("%s: field \"weight_map\" is missing or not an object", index_path); }
    const char *slash = strrchr(index_path, '/');
    int folder = slash ? (int)(slash + 1 - index_path) : 0;
    size_t entries = YAJL_GET_OBJECT(map)->len;
    char **shards = xcalloc(entries, sizeof *shards);
    for (size_t i = 0; i < entries; i++) {
        const char *name = YAJL_GET_OBJECT(map)->keys[i], *shard = YAJL_GET_STRING(YAJL_GET_OBJECT(map)->values[i]);
        if (!shard || strchr(shard, '/')) {
            die("%s: field \"weight_map\" must give a file name for \"%s\"", index_path, name);
        }
        shards[i] = xprintf("%.*s%s", folder, index_path, shard);
        if (!file_exists(shards[i])) { die("%s: the shard %s is missing", index_path, shards[i]); }
        if (!has_map(file, shards[i])) { add_file(file, shards[i]); }
    }
    sort_by_name(file);
    for (size_t i = 0; i < entries; i++) {
        const char *name = YAJL_GET_OBJECT(map)->keys[i];
        const Tensor *tensor = safetensors_find(file, name);
        if (!tensor || strcmp(tensor->path, shards[i]) != 0) {
            die("%s: tensor \"%s\" should be in %s, but is missing there", index_path, name, shards[i]);
        }
        free(shards[i]);
    }
    free(shards);
    json_free(&index);
}

Safetensors safetensors_open(const char *path) {
    Safetensors file = {.path = xstrdup(path)};
    if (text_ends_with(path, ".json")) {
        add_shards(&file, path);
    } else {
        add_file(&file, path);
        sort_by_name(&file);
    }
    return file;
}

void safetensors_close(Safetensors *file) {
    for (int i = 0; i < file->count; i++) { free(file->tensors[i].name); }
    for (int i = 0; i < file->map_count; i++) {
        munmap(file->maps[i].bytes, file->maps[i].size);
        free(file->maps[i].path);
    }
    free(file->tensors);
    free(file->maps);
    free(file->path);
    *file = (Safetensors){0};
}

const Tensor *safetensors_find(const Safetensors *file, const char *name) {
    if (file->count == 0) { return NULL; }
    Tensor key = {.name = (char *)name};
    return bsearch(&key, file->tensors, (size_t)file->count, sizeof key, by_name);
}

const char *safetensors_next_file(const Safetensors *file, const char *last) {
    const char *next = NULL;
    for (int i = 0; i < file->map_count; i++) {
        const char *path = file->maps[i].path;
        if ((!last || strcmp(path, last) > 0) && (!next || strcmp(path, next) < 0)) { next = path; }
    }
    return next;
}

void tensor_drop_pages(const Tensor *tensor, int64_t first, int64_t count) {
    const uintptr_t page = 4096, size = (uintptr_t)dtypes[tensor->dtype].size, data = (uintptr_t)tensor->data;
    uintptr_t begin = (data + (uintptr_t)first * size + page - 1) / page * page;
    uintptr_t end = (data + (uintptr_t)(first + count) * size) / page * page;
    if (end > begin && end - begin >= 1 << 20) { madvise((void *)begin, end - begin, MADV_DONTNEED); }
}

// In files with a header of odd length data is not aligned: elements are read with memcpy.
#define LOAD(type, i)                                                                                                  \
    ({                                                                                                                 \
        type value_;                                                                                                   \
        memcpy(&value_, data + (size_t)(i) * sizeof(type), sizeof(type));                                              \
        value_;                                                                                                        \
    })

void tensor_to_float(const Tensor *tensor, int64_t first, int64_t count, float *out) {
    assert(first >= 0 && count >= 0 && first + count <= tensor->count);
    const unsigned char *data = (const unsigned char *)tensor->data + first * dtypes[tensor->dtype].size;
    switch (tensor->dtype) {
    case DTYPE_F32:
        memcpy(out, data, (size_t)count * sizeof(float));
        break;
    case DTYPE_F64:
        for (int64_t i = 0; i < count; i++) { out[i] = (float)LOAD(double, i); }
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < count; i++) { out[i] = half_to_float(LOAD(uint16_t, i)); }
        break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) { out[i] = bfloat16_to_float(LOAD(uint16_t, i)); }
        break;
    default:
        die("%s: tensor \"%s\" is of dtype %s, expected F32, F16, BF16 or F64", tensor->path, tensor->name,
            dtypes[tensor->dtype].name);
    }
    tensor_drop_pages(tensor, first, count);
}

void tensor_want_finite(const Tensor *tensor, const float *values, size_t count) {
    size_t at = first_not_finite(values, count);
    if (at < count) {
        die("%s: tensor \"%s\" holds the value %g, expected finite numbers", tensor->path, tensor->name,
            (double)values[at]);
    }
}

void tensor_to_int64(const Tensor *tensor, int64_t first, int64_t count, int64_t *out) {
    assert(first >= 0 && count >= 0 && first + count <= tensor->count);
    const unsigned char *data = (const unsigned char *)tensor->data + first * dtypes[tensor->dtype].size;
    for (int64_t i = 0; i < count; i++) {
        switch (tensor->dtype) {
        case DTYPE_I64:
            out[i] = LOAD(int64_t, i);
            break;
        case DTYPE_I32:
            out[i] = LOAD(int32_t, i);
            break;
        case DTYPE_I16:
            out[i] = LOAD(int16_t, i);
            break;
        case DTYPE_I8:
            out[i] = LOAD(int8_t, i);
            break;
        case DTYPE_U8:
        case DTYPE_BOOL:
            out[i] = data[i];
            break;
        default:
            die("%s: tensor \"%s\" is of dtype %s, expected integers", tensor->path, tensor->name,
                dtypes[tensor->dtype].name);
        }
    }
}

// ---- Writing -------------------------------------------------------------------------------------------------------

typedef struct {
    char *name;
    int ndim;
    int64_t shape[TENSOR_MAX_DIMS];
    uint64_t begin, end; // bytes from the start of the data
} Declared;

struct SafetensorsWriter {
    AtomicFile file;
    Declared *tensors;
    int count;
    uint64_t written; // bytes of data
    bool begun;       // the header is written
};

SafetensorsWriter *safetensors_writer(const char *path) {
    SafetensorsWriter *w = xcalloc(1, sizeof *w);
    w->file = atomic_open(path);
    return w;
}

void safetensors_declare(SafetensorsWriter *w, const char *name, int ndim, const int64_t *shape) {
    assert(!w->begun && ndim <= TENSOR_MAX_DIMS);
    w->tensors = xrealloc(w->tensors, (size_t)(w->count + 1) * sizeof *w->tensors);
    Declared *t = &w->tensors[w->count];
    *t = (Declared){.name = xstrdup(name), .ndim = ndim};
    t->begin = w->count ? w->tensors[w->count - 1].end : 0;
    uint64_t bytes = sizeof(float);
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        bytes *= (uint64_t)shape[i];
    }
    t->end = t->begin + bytes;
    w->count++;
}

static void put_declared(yajl_gen gen, const Declared *t) {
    json_open_map(gen, t->name);
    json_put_string(gen, "dtype", dtypes[DTYPE_F32].name);
    json_open_list(gen, "shape");
    for (int i = 0; i < t->ndim; i++) { yajl_gen_integer(gen, t->shape[i]); }
    yajl_gen_array_close(gen);
    json_open_list(gen, "data_offsets");
    yajl_gen_integer(gen, (long long)t->begin);
    yajl_gen_integer(gen, (long long)t->end);
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
}

// transformers refuses files whose metadata does not name a "format".
static void write_header(SafetensorsWriter *w) {
    yajl_gen gen = yajl_gen_alloc(NULL);
    yajl_gen_map_open(gen);
    json_open_map(gen, "__metadata__");
    json_put_string(gen, "format", "pt");
    yajl_gen_map_close(gen);
    for (int i = 0; i < w->count; i++) { put_declared(gen, &w->tensors[i]); }
    yajl_gen_map_close(gen);
    const unsigned char *text;
    size_t length;
    yajl_gen_get_buf(gen, &text, &length);
    size_t padded = (length + 7) / 8 * 8;
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) { prefix[i] = (unsigned char)(padded >> 8 * i); }
    fwrite(prefix, 1, sizeof prefix, w->file.stream);
    fwrite(text, 1, length, w->file.stream);
    fwrite("       ", 1, padded - length, w->file.stream);
    yajl_gen_free(gen);
    w->begun = true;
}

void safetensors_write(SafetensorsWriter *w, const float *data, size_t count) {
    if (!w->begun) { write_header(w); }
    if (count > 0) { fwrite(data, sizeof *data, count, w->file.stream); }
    w->written += count * sizeof *data;
}

void safetensors_finish(SafetensorsWriter *w) {
    if (!w->begun) { write_header(w); }
    assert(w->count == 0 || w->written == w->tensors[w->count - 1].end);
    atomic_commit(&w->file);
    for (int i = 0; i < w->count; i++) { free(w->tensors[i].name); }
    free(w->tensors);
    free(w);
}
