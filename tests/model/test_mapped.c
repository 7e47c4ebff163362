// Weights in a mapped file against a copy of the same file: the same bits, whatever the file's types, order and
// offsets.
#include "scratch.h"
#include "model/mapped.h"
#include "model/unet.h"
#include "model/vae.h"
#include "model/weights.h"
#include "tests/model/model_test.h"
#include "util/half.h"
#include <fcntl.h>
#include <sys/stat.h>

#define FOLDER "tests/fixtures/"

static Device dev;

// ---- A file of four slices: a matrix, a group of two that kernels read as one, a convolution ------------------------

enum { ROWS = 24, COLUMNS = 40, IC = 16, OC = 8 };

static Params example_params(void) {
    Params p = {0};
    params_add(&p, LAYOUT_PLAIN, false, 2, (int[]){ROWS, COLUMNS}, "table");
    params_add(&p, LAYOUT_PLAIN, false, 2, (int[]){ROWS, COLUMNS}, "to_k");
    params_add(&p, LAYOUT_PLAIN, true, 2, (int[]){ROWS, COLUMNS}, "to_v");
    params_add(&p, LAYOUT_CONV, false, 4, (int[]){OC, IC, 3, 3}, "conv");
    params_finish(&p);
    return p;
}

typedef struct {
    const char *name;
    DType dtype;
    const char *order[4];
    int shift; // bytes of another tensor before the data
} FileKind;

static size_t element_size(DType dtype) { return dtype == DTYPE_F32 ? 4 : 2; }

static void put_value(FILE *file, DType dtype, float value) {
    uint16_t half = dtype == DTYPE_F16 ? float_to_half(value) : float_to_bfloat16(value);
    fwrite(dtype == DTYPE_F32 ? (const void *)&value : &half, element_size(dtype), 1, file);
}

// Writes FOLDER/model.safetensors; value `broken` of the third tensor in the file is NaN (-1: none). Returns the
// folder.
static char *write_file(const Params *p, const FileKind *kind, int broken) {
    char *folder = scratch_path(kind->name), *path = kept(xprintf("%s/model.safetensors", folder));
    make_folders(folder);
    static const char *const dtypes[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
    char *header =
        kept(xprintf("{\"x.embeddings.position_ids\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}",
                     kind->shift, kind->shift));
    size_t at = (size_t)kind->shift;
    for (int i = 0; i < 4; i++) {
        const ParamSlice *s = params_find(p, kind->order[i]);
        char *shape = kept(s->ndim == 2 ? xprintf("%d,%d", s->shape[0], s->shape[1])
                                        : xprintf("%d,%d,%d,%d", s->shape[0], s->shape[1], s->shape[2], s->shape[3]));
        size_t end = at + s->count * element_size(kind->dtype);
        header = kept(xprintf("%s,\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", header, s->name,
                              dtypes[kind->dtype], shape, at, end));
        at = end;
    }
    header = kept(xprintf("%s}%*s", header, (int)(7 - strlen(header) % 8), ""));
    uint64_t length = strlen(header);
    assert_int_equal(length % 8, 0);
    unlink(path);
    FILE *file = create_file(path);
    fwrite(&length, 8, 1, file);
    fwrite(header, 1, length, file);
    for (int i = 0; i < kind->shift; i++) { fputc(0, file); }
    for (int i = 0; i < 4; i++) {
        size_t count = params_find(p, kind->order[i])->count;
        float *values = random_floats(count, (uint64_t)i + 1);
        for (size_t k = 0; k < count; k++) {
            put_value(file, kind->dtype, i == 2 && (int)k == broken ? NAN : values[k]);
        }
        free(values);
    }
    fclose(file);
    return folder;
}

static const FileKind kinds[] = {{"F32-in-place", DTYPE_F32, {"table", "to_k", "to_v", "conv"}, 0},
                                 {"F32-sorted-as-diffusers-does", DTYPE_F32, {"conv", "to_k", "table", "to_v"}, 0},
                                 {"F32-at-odd-addresses", DTYPE_F32, {"table", "to_k", "to_v", "conv"}, 3},
                                 {"F16", DTYPE_F16, {"table", "to_k", "to_v", "conv"}, 0},
                                 {"BF16", DTYPE_BF16, {"conv", "to_v", "to_k", "table"}, 1}};
enum { KINDS = sizeof kinds / sizeof *kinds };

// Whether the address lies in a map of this file.
static bool is_in_file(const void *address, const char *path) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096], *real = realpath(path, NULL);
    bool found = false;
    for (unsigned long begin, end; fgets(line, sizeof line, maps);) {
        bool here =
            sscanf(line, "%lx-%lx", &begin, &end) == 2 && (uintptr_t)address >= begin && (uintptr_t)address < end;
        found |= here && strstr(line, real);
    }
    fclose(maps);
    free(real);
    return found;
}

// Compares every slice with the copy's, in PyTorch's order.
static void compare_slices(const Params *mapped, const Params *copy, const char *path, int expected_in_place) {
    int in_place = 0;
    for (int i = 0; i < mapped->count; i++) {
        const ParamSlice *s = &mapped->slices[i], *first = s;
        while (first->packed) { first--; }
        const float *values = (const float *)weight_at(mapped, first->offset, &dev) + (s->offset - first->offset);
        float *wanted = xmalloc(s->count * sizeof *wanted);
        slice_to_torch(s, wanted, (const float *)copy->weights + s->offset);
        assert_memory_equal(values, wanted, s->count * sizeof *wanted);
        in_place += is_in_file(values, path);
        free(wanted);
    }
    printf("  %s: %d of %d slices in place, the same bits\n", path, in_place, mapped->count);
    if (expected_in_place >= 0) { assert_int_equal(in_place, expected_in_place); }
}

static void test_kinds(void **state) {
    (void)state;
    enum { MATRIX = ROWS * COLUMNS, ALL = 3 * MATRIX + OC * IC * 9 };
    static const int in_place[KINDS] = {4, 2, 0, 0, 0}, pending[KINDS] = {0, 2 * MATRIX, ALL, ALL, ALL};
    for (int k = 0; k < KINDS; k++) {
        Params mapped = example_params(), copy = example_params();
        char *folder = write_file(&mapped, &kinds[k], -1), *path = kept(xprintf("%s/model.safetensors", folder));
        assert_int_equal(chmod(path, 0400), 0); // for users other than root: nothing is written
        assert_int_equal(chmod(folder, 0500), 0);
        weights_load(&mapped, folder, WEIGHTS_READ, &dev);
        weights_load(&copy, folder, WEIGHTS_WRITE, &dev);
        assert_null(mapped.weights);
        assert_int_equal(mapped_pending_bytes(&mapped), pending[k] * sizeof(float));
        compare_slices(&mapped, &copy, path, in_place[k]);
        assert_int_equal(mapped_pending_bytes(&mapped), 0);
        assert_int_equal(mapped_pending_bytes(&copy), 0);
        int rows[] = {3, 3, ROWS - 1};
        const float *table = (const float *)mapped_rows(&mapped, 0, rows, 3, COLUMNS);
        for (int i = 0; i < 3; i++) {
            size_t at = (size_t)rows[i] * COLUMNS;
            assert_memory_equal(table + at, (const float *)copy.weights + at, COLUMNS * sizeof(float));
        }
        assert_int_equal(chmod(folder, 0700), 0);
        params_free(&mapped, &dev);
        params_free(&copy, &dev);
    }
}

// ---- What is wrong with a file -------------------------------------------------------------------------------------

static void use_all(const char *folder) {
    Params p = example_params();
    weights_load(&p, folder, WEIGHTS_READ, &dev);
    for (int i = 0; i < p.count; i++) {
        if (!p.slices[i].packed) { weight_at(&p, p.slices[i].offset, &dev); }
    }
}

static void test_not_finite(void **state) {
    (void)state;
    Params p = example_params();
    for (int k = 0; k < KINDS; k++) {
        char *folder = write_file(&p, &kinds[k], 100);
        assert_dies(kept(xprintf("tensor \"%s\" holds the value nan", kinds[k].order[2])), use_all(folder));
    }
    params_free(&p, &dev);
}

// Rows that are not used may hold anything.
static void test_rows_that_are_used(void **state) {
    (void)state;
    Params p = example_params();
    FileKind kind = {"rows", DTYPE_F32, {"to_k", "to_v", "table", "conv"}, 0};
    char *folder = write_file(&p, &kind, 5 * COLUMNS + 1);
    weights_load(&p, folder, WEIGHTS_READ, &dev);
    mapped_rows(&p, 0, (int[]){4, 6}, 2, COLUMNS);
    assert_dies("tensor \"table\" holds the value nan", mapped_rows(&p, 0, (int[]){4, 5}, 2, COLUMNS));
    params_free(&p, &dev);
}

static void cut(const char *folder, off_t size) {
    assert_int_equal(truncate(kept(xprintf("%s/model.safetensors", folder)), size), 0);
}

static void cut_while_mapped(const char *folder) {
    Params p = example_params();
    weights_load(&p, folder, WEIGHTS_READ, &dev);
    cut(folder, 4096);
    weight_at(&p, p.slices[3].offset, &dev);
}

static void replace_while_mapped(const char *folder, const Params *copy) {
    Params p = example_params();
    weights_load(&p, folder, WEIGHTS_READ, &dev);
    char *path = kept(xprintf("%s/model.safetensors", folder));
    atomic_write(path, "no model", 8);
    const float *table = (const float *)weight_at(&p, 0, &dev);
    assert_memory_equal(table, copy->weights, ROWS * COLUMNS * sizeof(float));
    params_free(&p, &dev);
}

static void test_files_that_change(void **state) {
    (void)state;
    Params p = example_params();
    char *folder = write_file(&p, &kinds[0], -1);
    assert_dies("model.safetensors: cannot be read any more: it was cut off while it was in use",
                cut_while_mapped(folder));
    assert_dies("(is it cut off?)", use_all(folder));
    folder = write_file(&p, &kinds[0], -1);
    weights_load(&p, folder, WEIGHTS_WRITE, &dev);
    replace_while_mapped(folder, &p);
    params_free(&p, &dev);
}

// ---- Memory --------------------------------------------------------------------------------------------------------

static long resident_kb(void) {
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_int_equal(fscanf(file, "%ld %ld", &total, &resident), 2);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE) / 1024;
}

enum { WIDTH = 1024 };

// The weights of a file with one table (rows, WIDTH), which is a hole: zeros.
static Params open_table(const char *name, const char *dtype, int size, int rows) {
    const char *folder = scratch_path(name), *path = kept(xprintf("%s/model.safetensors", folder));
    make_folders(folder);
    int bytes = rows * WIDTH * size;
    char *header =
        xprintf("%-120s", kept(xprintf("{\"table\":{\"dtype\":\"%s\",\"shape\":[%d,%d],\"data_offsets\":[0,%d]}}",
                                       dtype, rows, WIDTH, bytes))); // blanks: the data are aligned
    uint64_t length = strlen(header);
    FILE *file = create_file(path);
    fwrite(&length, 8, 1, file);
    fwrite(header, 1, length, file);
    fclose(file);
    assert_int_equal(truncate(path, (off_t)(8 + length) + bytes), 0);
    Params p = {0};
    params_add(&p, LAYOUT_PLAIN, false, 2, (int[]){rows, WIDTH}, "table");
    params_finish(&p);
    weights_load(&p, folder, WEIGHTS_READ, &dev);
    free(header);
    return p;
}

// Of a table of 256 MB three rows of 4 kB are used.
static void test_memory(void **state) {
    (void)state;
    enum { ROWS_OF_256MB = 65536 };
    Params p = open_table("big", "F32", 4, ROWS_OF_256MB);
    long before = resident_kb();
    mapped_rows(&p, 0, (int[]){0, ROWS_OF_256MB / 2, ROWS_OF_256MB - 1}, 3, WIDTH);
    long grown = resident_kb() - before;
    printf("  three rows of a table of 262144 kB: %ld kB more\n", grown);
    assert_true(grown < 26214); // a tenth: the kernel maps what lies around a page too
    params_free(&p, &dev);
}

// What was converted does not stay in memory twice.
static void test_converted_memory(void **state) {
    (void)state;
    Params p = open_table("half", "F16", 2, 16384);
    long before = resident_kb();
    weight_at(&p, 0, &dev);
    long grown = resident_kb() - before;
    printf("  32768 kB of F16 to 65536 kB of floats: %ld kB more\n", grown);
    assert_true(grown < 65536 + 16384);
    params_free(&p, &dev);
}

// ---- Whole models, as diffusers writes them ------------------------------------------------------------------------

static void compare_unet(const char *folder) {
    UNetConfig config = unet_config_read(path_of("%s/config.json", folder).text);
    int B = 2, H = 8, W = 8, T = 7;
    size_t n = (size_t)(B * H * W * config.in_channels), m = (size_t)(B * H * W * config.out_channels);
    float *sample = random_floats(n, 1), *context = random_floats((size_t)(B * T * config.cross_attention_dim), 2);
    float timesteps[] = {3, 700}, *out[2];
    for (int k = 0; k < 2; k++) {
        UNet unet = unet_create(&config);
        Device plan = {.plan_only = true};
        weights_load(&unet.params, folder, k ? WEIGHTS_READ : WEIGHTS_WRITE, &dev);
        Arena arena = arena_create(&dev, unet_plan(&unet, B, H, W, T, false, &plan));
        out[k] = xmalloc(m * sizeof **out);
        unet_forward(&unet, &arena, (floatX *)out[k], (floatX *)sample, timesteps, (floatX *)context, B, H, W, T, false,
                     &dev);
        arena_destroy(&arena);
        unet_destroy(&unet, &dev);
    }
    printf("  %s: %zu outputs have the same bits\n", folder, m);
    assert_memory_equal(out[0], out[1], m * sizeof **out);
    free(out[0]), free(out[1]), free(sample), free(context);
}

static void test_models(void **state) {
    (void)state;
    compare_unet(FOLDER "unet-sd1");
    compare_unet(FOLDER "unet-sd2");
    VAEConfig config = vae_config_read(FOLDER "vae/config.json");
    VAEHalf mapped = vae_decoder_create(&config), copy = vae_decoder_create(&config);
    weights_load(&mapped.params, FOLDER "vae", WEIGHTS_READ, &dev);
    weights_load(&copy.params, FOLDER "vae", WEIGHTS_WRITE, &dev);
    compare_slices(&mapped.params, &copy.params, weights_path(FOLDER "vae").text, -1);
    vae_destroy(&mapped, &dev);
    vae_destroy(&copy, &dev);
}

static int open_device(void **state) {
    (void)state;
    device_open(&dev, 0);
    return 0;
}

static int close_device(void **state) {
    (void)state;
    device_close(&dev);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_rows_that_are_used),
        cmocka_unit_test(test_files_that_change),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_converted_memory),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
