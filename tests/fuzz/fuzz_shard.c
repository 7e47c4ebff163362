// A shard whose attributes and datasets have other types, shapes and values than encode writes (data/shard.c,
// data/shard_info.c, data/h5_text.c). The input is a list of changes to an intact one, which libhdf5 makes, so that all
// checksums are right: which object, type, rank, length, bytes of a value, number of bytes, bytes.
#include "tests/data/shards.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/shard_use.h"

const char *const fuzz_files[] = {"changes", NULL};

static const char *const attributes[] = {"split",     "source",        "vae_sha256",   "annotations_sha256",
                                         "precision", "version",       "resolution",   "color",
                                         "alpha",     "outline",       "absent",       "min_side",
                                         "passes",    "shards",        "seed",         "targets",
                                         "pass",      "first_picture", "pictures",     "classes",
                                         "drawn",     "text_source",   "texts_sha256", "kinds"};
static const char *const datasets[] = {"class",          "image_id",    "crop",  "area", "dropped_image",
                                       "dropped_reason", "text",        "texts", "kind", "image_latent",
                                       "target_overlay", "target_mask", "mask"};
enum { ATTRIBUTES = sizeof attributes / sizeof *attributes, DATASETS = sizeof datasets / sizeof *datasets };
enum { HEAD = 6, ROOM = 1 << 16 };
static char *intact;
static size_t intact_size;

void fuzz_begin(void) {
    ShardInfo info = test_info(1, 0);
    strcpy(info.text_source, "phrases");
    shard_info_kinds(&info, 2, test_kinds);
    const char *path = fuzz_path("train-00000.h5");
    test_shard(path, &info, 0, 3);
    shard_info_free(&info);
    intact = read_file(path, &intact_size);
}

void fuzz_died(void) { h5_close_all(); }

static hid_t type_of(int kind, size_t size) {
    static const hid_t *const integers[] = {&H5T_STD_U8LE_g, &H5T_STD_I16LE_g, &H5T_STD_I32LE_g, &H5T_STD_I64LE_g};
    hid_t type;
    switch (kind % 5) {
    case 0:
        return H5Tcopy(*integers[size % 4]);
    case 1:
        return H5Tcopy(size % 3 == 0 ? H5T_IEEE_F64LE_g : size % 3 == 1 ? H5T_IEEE_F32LE_g : h5_half());
    case 2:
        type = H5Tcopy(H5T_C_S1_g);
        H5Tset_size(type, size ? size : 1);
        return type;
    case 3:
        type = H5Tcopy(H5T_C_S1_g);
        H5Tset_size(type, H5T_VARIABLE);
        return type;
    default:
        return H5Tcreate(H5T_OPAQUE, size ? size : 1);
    }
}

// Replaces one object by what the head says, or removes it.
static void change(hid_t file, const uint8_t *head, const uint8_t *values, size_t count) {
    static uint8_t memory[ROOM];
    static char *texts[ROOM / sizeof(char *)];
    int which = head[0] % (ATTRIBUTES + DATASETS);
    bool attribute = which < ATTRIBUTES;
    const char *name = attribute ? attributes[which] : datasets[which - ATTRIBUTES];
    if (attribute && H5Aexists(file, name) > 0) { H5Adelete(file, name); }
    if (!attribute && H5Lexists(file, name, H5P_DEFAULT) > 0) { H5Ldelete(file, name, H5P_DEFAULT); }
    if (head[1] % 8 == 7) { return; }
    hid_t type = type_of(head[1] % 8, head[4]);
    hsize_t dims[4] = {head[3] % 16, head[3] / 16, 6, 4};
    int rank = head[2] % 6;
    hid_t space = rank == 0   ? H5Screate(H5S_SCALAR)
                  : rank == 5 ? H5Screate(H5S_NULL)
                              : H5Screate_simple(rank, dims, NULL);
    memset(memory, 0, sizeof memory);
    memcpy(memory, values, count);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) { texts[i] = i % 2 ? (char *)memory : NULL; }
    const void *from = H5Tis_variable_str(type) > 0 ? (void *)texts : (void *)memory;
    hid_t object = H5Sget_simple_extent_npoints(space) * (hssize_t)H5Tget_size(type) > ROOM ? -1
                   : attribute ? H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT)
                               : H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (object >= 0 && attribute) { H5Awrite(object, type, from); }
    if (object >= 0 && !attribute) { H5Dwrite(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, from); }
    if (object >= 0) { attribute ? H5Aclose(object) : H5Dclose(object); }
    H5Sclose(space);
    H5Tclose(type);
}

void fuzz_one(void) {
    size_t size;
    uint8_t *input = (uint8_t *)read_file(fuzz_path("changes"), &size);
    const char *path = fuzz_path("train-00000.h5");
    FILE *copy = fopen(path, "wb");
    fwrite(intact, 1, intact_size, copy);
    fclose(copy);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    for (size_t at = 0; at + HEAD <= size;) {
        size_t count = input[at + 5] < size - at - HEAD ? input[at + 5] : size - at - HEAD;
        change(file, input + at, input + at + HEAD, count);
        at += HEAD + count;
    }
    H5Fclose(file);
    free(input);
    use_shards(fuzz_path(""));
}
