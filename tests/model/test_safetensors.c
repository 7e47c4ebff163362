#include "scratch.h"
#include "model/safetensors.h"
#include "util/half.h"

// ---- Round trips ---------------------------------------------------------------------------------------------------

enum { N = 5000 };

// A file with this header and these bytes of data.
static void write_bytes(const char *path, const char *header, const void *data, size_t size) {
    uint64_t length = strlen(header);
    char *bytes = xmalloc(8 + length + size);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memcpy(bytes + 8 + length, data, size);
    atomic_write(path, bytes, 8 + length + size);
    free(bytes);
}

static void write_raw(const char *path, const char *header, size_t size) {
    static const char zeros[64];
    assert_true(size <= sizeof zeros);
    write_bytes(path, header, zeros, size);
}

static void write_example(const char *path) {
    float values[N];
    for (int i = 0; i < N; i++) { values[i] = (float)(i - 2000) / 7; }
    SafetensorsWriter *w = safetensors_writer(path);
    safetensors_declare(w, "b.weight", 3, (int64_t[]){10, 20, 25});
    safetensors_declare(w, "empty", 2, (int64_t[]){0, 4});
    safetensors_declare(w, "a \"quoted\" é", 1, (int64_t[]){N});
    safetensors_declare(w, "scalar", 0, NULL);
    safetensors_write(w, values, N - 3); // pieces need not end where tensors do
    safetensors_write(w, values + N - 3, 3);
    safetensors_write(w, values, N);
    safetensors_write(w, values + 1, 1);
    assert_false(file_exists(path)); // only when it is complete
    safetensors_finish(w);
}

static void test_round_trip(void **state) {
    (void)state;
    char *path = scratch_path("example.safetensors");
    write_example(path);
    size_t size;
    char *bytes = read_file(path, &size);
    uint64_t header;
    memcpy(&header, bytes, 8);
    assert_int_equal(header % 8, 0);
    assert_int_equal(size, 8 + header + N * 8 + 4);
    assert_non_null(strstr(bytes + 8, "{\"__metadata__\":{\"format\":\"pt\"}"));

    Safetensors file = safetensors_open(path);
    assert_int_equal(file.count, 4);
    const Tensor *b = safetensors_find(&file, "b.weight"), *a = safetensors_find(&file, "a \"quoted\" é");
    assert_null(safetensors_find(&file, "b"));
    assert_int_equal(b->ndim, 3);
    assert_int_equal(b->shape[2], 25);
    assert_int_equal(safetensors_find(&file, "empty")->count, 0);
    assert_int_equal(safetensors_find(&file, "scalar")->count, 1);
    static float wide[N], quoted[N];
    tensor_to_float(b, 0, N, wide);
    tensor_to_float(a, 0, N, quoted);
    for (int i = 0; i < N; i++) { assert_true(wide[i] == (float)(i - 2000) / 7 && quoted[i] == wide[i]); }
    float piece[2];
    tensor_to_float(b, 7, 2, piece);
    assert_true(piece[0] == wide[7] && piece[1] == wide[8]);
    safetensors_close(&file);
    free(bytes);
}

static void test_types(void **state) {
    (void)state;
    char *path = scratch_path("types.safetensors");
    struct {
        int64_t ids[3];
        uint16_t half[N], brain[N];
    } data = {.ids = {-1, 49407, 1LL << 40}};
    for (int i = 0; i < N; i++) {
        data.half[i] = float_to_half((float)(i - 2000) / 7);
        data.brain[i] = float_to_bfloat16((float)(i - 2000) / 7);
    }
    write_bytes(path,
                "{\"a\":{\"dtype\":\"F16\",\"shape\":[5000],\"data_offsets\":[24,10024]},"
                "\"c\":{\"dtype\":\"BF16\",\"shape\":[5000],\"data_offsets\":[10024,20024]},"
                "\"ids\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]}}",
                &data, sizeof data);
    Safetensors file = safetensors_open(path);
    static float half[N], brain[N];
    int64_t ids[3];
    tensor_to_float(safetensors_find(&file, "a"), 0, N, half);
    tensor_to_float(safetensors_find(&file, "c"), 0, N, brain);
    tensor_to_int64(safetensors_find(&file, "ids"), 0, 3, ids);
    for (int i = 0; i < N; i++) {
        assert_true(half[i] == half_to_float(data.half[i]) && brain[i] == bfloat16_to_float(data.brain[i]));
    }
    assert_true(ids[0] == -1 && ids[1] == 49407 && ids[2] == 1LL << 40);
    safetensors_close(&file);
}

// A header of odd length puts data at odd addresses.
static void test_unaligned(void **state) {
    (void)state;
    char *path = scratch_path("odd.safetensors");
    const char *header = "{\"x\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[1,17]},"
                         "\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}} ";
    write_raw(path, header, 17);
    Safetensors file = safetensors_open(path);
    float out[2] = {1, 1};
    tensor_to_float(safetensors_find(&file, "x"), 0, 2, out);
    assert_true(out[0] == 0 && out[1] == 0);
    safetensors_close(&file);
}

static void test_shards(void **state) {
    (void)state;
    char *index = scratch_path("m.safetensors.index.json");
    write_raw(scratch_path("m-1.safetensors"), "{\"x\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    write_raw(scratch_path("m-2.safetensors"), "{\"y\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4);
    write_text(index, "{\"metadata\": {\"total_size\": 6},"
                      " \"weight_map\": {\"x\": \"m-1.safetensors\", \"y\": \"m-2.safetensors\"}}");
    Safetensors file = safetensors_open(index);
    assert_int_equal(file.count, 2);
    assert_non_null(strstr(safetensors_find(&file, "y")->path, "m-2.safetensors"));
    const char *first = safetensors_next_file(&file, NULL), *second = safetensors_next_file(&file, first);
    assert_true(strstr(first, "m-1") && strstr(second, "m-2") && !safetensors_next_file(&file, second));
    safetensors_close(&file);
}

// ---- Damage --------------------------------------------------------------------------------------------------------

static void open_it(const char *path) {
    Safetensors file = safetensors_open(path);
    safetensors_close(&file);
}

static void read_floats(const char *path) {
    Safetensors file = safetensors_open(path);
    float x;
    tensor_to_float(&file.tensors[0], 0, 1, &x);
}

static void read_integers(const char *path) {
    Safetensors file = safetensors_open(path);
    int64_t x;
    tensor_to_int64(&file.tensors[0], 0, 1, &x);
}

static void write_nowhere(const char *path) { safetensors_writer(path); }

#define ENTRY(dtype, shape, offsets)                                                                                   \
    "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_damaged_headers(void **state) {
    (void)state;
    static const struct {
        const char *header, *words;
        size_t data;
    } cases[] = {
        {"", "JSON", 0},
        {"[]", "JSON object", 0},
        {"{\"x\":", "JSON", 4},
        {"{\"x\":3}", "\"x\"", 4},
        {"{\"x\":{}}", "\"dtype\"", 4},
        {"{\"x\":{\"dtype\":7}}", "\"dtype\"", 4},
        {ENTRY("F8_E4M3", "[4]", "[0,4]"), "unsupported dtype \"F8_E4M3\"", 4},
        {ENTRY("F32", "[-1]", "[0,4]"), "shape", 4},
        {ENTRY("F32", "[1.5]", "[0,4]"), "shape", 4},
        {ENTRY("F32", "1", "[0,4]"), "shape", 4},
        {ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "shape", 4},
        {ENTRY("F32", "[4611686018427387904,4]", "[0,4]"), "too large", 4},
        {ENTRY("F32", "[1]", "[0]"), "data_offsets", 4},
        {ENTRY("F32", "[1]", "[0,\"4\"]"), "data_offsets", 4},
        {ENTRY("F32", "[1]", "[4,0]"), "bytes 4 to 0", 4},
        {ENTRY("F32", "[1]", "[-4,0]"), "bytes -4 to 0", 4},
        {ENTRY("F32", "[2]", "[0,8]"), "cut off", 4},
        {ENTRY("F32", "[1]", "[9223372036854775803,9223372036854775807]"), "cut off", 4},
        {ENTRY("F32", "[2]", "[0,4]"), "need 8", 4},
        {ENTRY("F16", "[2]", "[0,8]"), "need 4", 8},
        {ENTRY("F32", "[1]", "[4,8]"), "belong to no tensor", 8},
        {ENTRY("F32", "[1]", "[0,4]"), "after the last tensor", 5},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "overlap", 8},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "twice", 8},
    };
    char *path = scratch_path("damaged.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_raw(path, cases[i].header, cases[i].data);
        assert_dies("damaged.safetensors", open_it(path));
        assert_dies(cases[i].words, open_it(path));
    }
    print_message("%zu damaged headers refused\n", sizeof cases / sizeof *cases);
}

// A good file cut off after every one of its bytes, and with each byte of its header changed: an error or a good file,
// never a crash.
static void test_truncation(void **state) {
    (void)state;
    char *path = scratch_path("whole.safetensors"), *cut = scratch_path("cut.safetensors");
    write_raw(path, ENTRY("F32", "[3]", "[0,12]"), 12);
    size_t size;
    char *bytes = read_file(path, &size);
    for (size_t n = 0; n < size; n++) {
        atomic_write(cut, bytes, n);
        assert_dies("cut.safetensors", open_it(cut));
    }
    print_message("%zu truncations refused\n", size);
    bytes[3] = 1; // a header of 16 MB
    atomic_write(cut, bytes, size);
    assert_dies("cut off", open_it(cut));
    bytes[7] = 1;
    atomic_write(cut, bytes, size);
    assert_dies("not a safetensors file", open_it(cut));
    free(bytes);
}

static void test_damaged_index(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{}", "weight_map"},
        {"{\"weight_map\": 1}", "weight_map"},
        {"{\"weight_map\": {\"x\": 1}}", "weight_map"},
        {"{\"weight_map\": {\"x\": \"../m-1.safetensors\"}}", "weight_map"},
        {"{\"weight_map\": {\"x\": \"m-9.safetensors\"}}", "m-9.safetensors is missing"},
        {"{\"weight_map\": {\"z\": \"m-1.safetensors\"}}", "\"z\""},
        {"{\"weight_map\": {\"x\": \"m-2.safetensors\", \"y\": \"m-1.safetensors\"}}", "should be in"},
        {"{\"weight_map\": {\"x\": \"m-1.safetensors\", \"y\": \"m-3.safetensors\"}}", "twice"},
    };
    test_shards(NULL);
    write_raw(scratch_path("m-3.safetensors"), "{\"x\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    char *index = scratch_path("damaged.safetensors.index.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(index, cases[i][0]);
        assert_dies(cases[i][1], open_it(index));
    }
}

static void test_wrong_use(void **state) {
    (void)state;
    char *path = scratch_path("types.safetensors");
    assert_dies("nothing.safetensors", open_it(scratch_path("nothing.safetensors")));
    assert_dies("cannot be opened", open_it("/"));
    write_raw(path, ENTRY("I64", "[1]", "[0,8]"), 8);
    assert_dies("dtype I64", read_floats(path));
    write_raw(path, ENTRY("F32", "[1]", "[0,4]"), 4);
    assert_dies("dtype F32", read_integers(path));
    assert_dies("/nowhere/at/all.safetensors", write_nowhere("/nowhere/at/all.safetensors"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_types),           cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_shards),        cmocka_unit_test(test_damaged_headers), cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_damaged_index), cmocka_unit_test(test_wrong_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
