// Shards: what is written is read back; every kind of damage is a sentence; a full disk leaves nothing behind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "data/h5.h"
#include "data/h5_text.h"
#include "data/shard.h"
#include "data/texts.h"
#include "tests/data/shards.h"
#include "tests/dies.h"
#include "tests/fuzz/h5_sums.h"
#include "util/text.h"
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

enum { COUNT = 5 };
static char *folder, *good;

// Without fsync: thousands of files are written here.
static void write_plain(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void fresh(const char *path) {
    size_t size;
    char *bytes = read_file(good, &size);
    write_plain(path, bytes, size);
    free(bytes);
}

static void round_trip(void **state) {
    (void)state;
    ShardInfo info = test_info(1, 0);
    ShardFile shard = shard_open(good);
    char a[128], b[128];
    assert_null(shard_info_difference(&info, &shard.info, true, a, b));
    assert_int_equal(shard.samples, COUNT);
    assert_int_equal(shard.dropped, 2);
    assert_true(shard.dropped_image[1] == 99999999999 && shard.dropped_reason[1] == 5);
    double error = 0;
    for (int i = COUNT - 1; i >= 0; i--) {
        TestArrays want, have;
        ShardSample w = test_sample(i, &info, &want),
                    h = {.latents = {have.image, have.overlay, have.only_mask}, .mask = have.mask};
        shard_read(&shard, i, &h);
        for (int k = 0; k < 5 * 6 * 4; k++) {
            error += fabs((double)want.image[k] - have.image[k]) + fabs((double)want.overlay[k] - have.overlay[k]) +
                     fabs((double)want.only_mask[k] - have.only_mask[k]);
        }
        assert_memory_equal(want.mask, have.mask, sizeof want.mask);
        assert_memory_equal(w.crop, h.crop, sizeof w.crop);
        assert_true(w.class_index == h.class_index && w.image_id == h.image_id && w.area == h.area);
    }
    printf("  %d samples read back: sum of absolute errors of the latents %g\n", COUNT, error);
    assert_true(error == 0);
    shard_close(&shard);
    shard_info_free(&info);
}

static void other_classes_drawn(void **state) {
    (void)state;
    ShardInfo one = test_info(1, 0), other = test_info(1, 0);
    char a[128], b[128];
    assert_null(shard_info_difference(&one, &other, true, a, b));
    one.sampled[0] = 1;
    other.sampled[0] = CLASS_EXCLUDED;
    assert_string_equal(shard_info_difference(&one, &other, true, a, b), "drawn");
    char *sentence = xprintf("%s, %s", a, b),
         *expected = xprintf("1 for \"%s\", 2 for \"%s\"", *one.classes, *one.classes);
    assert_string_equal(sentence, expected);
    free(sentence);
    free(expected);
    shard_info_free(&one);
    shard_info_free(&other);
}

static void equal_bytes_and_empty(void **state) {
    (void)state;
    ShardInfo info = test_info(1, 0);
    char *path = xprintf("%s/again.h5", folder);
    sleep(1); // no time of day gets into the file
    test_shard(path, &info, 0, COUNT);
    size_t size[2];
    char *bytes[2] = {read_file(good, &size[0]), read_file(path, &size[1])};
    printf("  two writings of one shard: %zu and %zu bytes\n", size[0], size[1]);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    test_shard(path, &info, 0, 0); // every picture was dropped
    ShardFile empty = shard_open(path);
    assert_int_equal(empty.samples, 0);
    assert_int_equal(empty.dropped, 2);
    shard_close(&empty);
    shard_info_free(&info);
    free(bytes[0]);
    free(bytes[1]);
    free(path);
}

// Half precision rounds to nearest; what it cannot hold is refused.
static void half_precision(void **state) {
    (void)state;
    ShardInfo info = test_info(1, 0);
    TestArrays arrays;
    ShardSample s = test_sample(0, &info, &arrays);
    char *path = xprintf("%s/half.h5", folder);
    arrays.image[0] = 0.1f;
    arrays.image[1] = 6e-8f; // subnormal
    ShardWriter *writer = shard_begin(path, &info);
    shard_add(writer, &s);
    shard_commit(writer);
    ShardFile shard = shard_open(path);
    shard_read(&shard, 0, &s);
    printf("  0.1 -> %.9g, 6e-8 -> %.9g\n", (double)arrays.image[0], (double)arrays.image[1]);
    assert_true(arrays.image[0] == 0.0999755859375f && arrays.image[1] == 5.9604644775390625e-8f);
    shard_close(&shard);
    arrays.overlay[3] = 70000;
    assert_dies("fp16 cannot hold", shard_add(shard_begin(path, &info), &s));
    arrays.overlay[3] = NAN;
    assert_dies("fp16 cannot hold", shard_add(shard_begin(path, &info), &s));
    shard_info_free(&info);
    free(path);
}

static void truncated(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_file(good, &size), *path = xprintf("%s/cut.h5", folder);
    const size_t lengths[] = {0, 1, 7, 8, 40, 48, 100, 511, 1000, size / 4, size / 2, size - 1000, size - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_plain(path, bytes, lengths[i]);
        assert_dies("cut.h5: is not an intact HDF5 file", shard_open(path));
    }
    write_plain(path, "<html>not found</html>", 22);
    assert_dies("is not an intact HDF5 file", shard_open(path));
    assert_dies("no.h5: does not exist", shard_open("no.h5"));
    free(bytes);
    free(path);
}

// A digest of everything that can be read from a shard.
static uint64_t digest(const char *path) {
    ShardFile shard = shard_open(path);
    uint64_t hash = HASH_BEGIN;
    for (int i = 0; i < shard.samples; i++) {
        TestArrays a = {0};
        ShardSample s = {.latents = {a.image, a.overlay, a.only_mask}, .mask = a.mask};
        shard_read(&shard, i, &s);
        hash = hash_more(hash, &a, sizeof a);
        hash = (hash ^ (uint64_t)(s.class_index + s.image_id + s.crop[0] + s.crop[1] + s.crop[2])) * 1099511628211u;
        hash = (hash ^ (uint64_t)(s.area * 4096)) * 1099511628211u;
    }
    ShardInfo info = test_info(1, 0);
    char x[128], y[128];
    if (shard_info_difference(&info, &shard.info, true, x, y)) { hash = 0; }
    shard_info_free(&info);
    shard_close(&shard);
    return hash;
}

// Any flipped byte is either noticed or in a part of the file that carries nothing.
static void flipped_bytes(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_file(good, &size), *path = xprintf("%s/flip.h5", folder), text[2048];
    uint64_t expected = digest(good);
    int noticed = 0, checksum = 0, harmless = 0;
    for (size_t at = 0; at < size; at += 23) {
        bytes[at] = (char)(bytes[at] ^ 0x40);
        write_plain(path, bytes, size);
        bytes[at] = (char)(bytes[at] ^ 0x40);
        int code;
        run_in_child(code, text, sizeof text, _exit(digest(path) == expected ? 0 : 2));
        if (code != 0 && code != 1) { fail_msg("byte %zu flipped: exit %d %s", at, code, text); }
        noticed += code == 1;
        checksum += strstr(text, "Fletcher32") || strstr(text, "filter returned failure"); // HDF5 1.14 names no filter
        harmless += code == 0;
    }
    printf("  %d flipped bytes noticed (%d by a chunk's checksum), %d in unused parts\n", noticed, checksum, harmless);
    assert_true(checksum > 50);
    free(bytes);
    free(path);
}

// The same with right checksums, as in a file that is made to deceive: libhdf5 alone ends in some of these with a
// crash.
static void forged_bytes(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_file(good, &size), *copy = xmalloc(size), *path = xprintf("%s/forged.h5", folder), text[2048];
    int codes[3] = {0}, layout = 0;
    memcpy(copy, bytes, size);
    h5_repair_sums((uint8_t *)copy, size);
    assert_memory_equal(copy, bytes, size); // the sums are HDF5's
    for (size_t at = 8; at < size; at += 7) {
        memcpy(copy, bytes, size);
        copy[at] = (char)(copy[at] ^ (at % 3 ? 0xff : 0x01));
        h5_repair_sums((uint8_t *)copy, size);
        write_plain(path, copy, size);
        int code;
        run_in_child(code, text, sizeof text, alarm(20), _exit(digest(path) != 0 ? 0 : 2));
        if (code < 0 || code > 2) { fail_msg("byte %zu forged: exit %d %s", at, code, text); }
        codes[code]++;
        layout += strstr(text, "is not an intact HDF5 file, expected a shard of `cocogold encode` (") != NULL;
    }
    printf("  forged bytes: %d refused, %d of them for the layout, %d read as other values\n", codes[1], layout,
           codes[0] + codes[2]);
    assert_true(layout > 100);
    free(bytes);
    free(copy);
    free(path);
}

static void put_number(char *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) { at[i] = (char)(value >> 8 * i); }
}

// An attribute whose bytes, values times size, are 3 * 2^64 more than the file has.
static void large_attribute(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_file(good, &size), *path = xprintf("%s/wide.h5", folder);
    char *name = memmem(bytes, size, "classes", 8);
    assert_non_null(name);
    Sums s = {(uint8_t *)bytes, size, 0};
    // The type's 8 bytes end with its size; length and largest length come behind 4 bytes of the shape.
    uint64_t at = (uint64_t)(name - bytes) + 8;
    assert_int_equal(sums_number(&s, at + 4, 4) * sums_number(&s, at + 12, 8), 48);
    put_number(bytes + at + 4, 196656, 4);
    for (int i = 12; i <= 20; i += 8) { put_number(bytes + at + i, 281406274007041, 8); }
    h5_repair_sums((uint8_t *)bytes, size);
    write_plain(path, bytes, size);
    assert_dies("(an attribute is damaged", digest(path));
    free(bytes);
    free(path);
}

// A chunk that is shorter than the dataset says.
static void short_chunk(void **state) {
    (void)state;
    size_t size;
    char *bytes = read_file(good, &size), *path = xprintf("%s/short.h5", folder);
    Sums s = {(uint8_t *)bytes, size, 0};
    int shortened = 0;
    for (size_t at = 0; at + 80 < size; at++) { // the first element of each array of chunks with 2 bytes of length
        uint64_t index = sums_number(&s, at + 60, 8);
        if (!sums_is(&s, at, "EAHD") || !sums_is(&s, index, "EAIB") || bytes[at + 6] != 14) { continue; }
        uint64_t length = sums_number(&s, index + 22, 2);
        if (length < 100) { continue; }
        bytes[index + 22] = 40, bytes[index + 23] = 0;
        shortened++;
    }
    h5_repair_sums((uint8_t *)bytes, size);
    write_plain(path, bytes, size);
    assert_true(shortened > 0);
    assert_dies("has a chunk of the wrong size: the file is damaged", digest(path));
    free(bytes);
    free(path);
}

// Sizes at which HDF5 stores attributes and lists of chunks in other ways.
static void large(void **state) {
    (void)state;
    enum { CLASSES = 1500, SAMPLES = 700 };
    char *path = xprintf("%s/large.h5", folder), *names[CLASSES];
    for (int i = 0; i < CLASSES; i++) { names[i] = xprintf("class %0*d", i % 50 + 1, i); }
    ShardInfo info = test_info(1, 0);
    ShardInfo many = info;
    shard_info_classes(&many, CLASSES, (const char *const *)names);
    test_shard(path, &many, 0, SAMPLES);
    ShardFile shard = shard_open(path);
    assert_int_equal(shard.info.class_count, CLASSES);
    for (int i = 0; i < CLASSES; i++) { assert_string_equal(shard.info.classes[i], names[i]); }
    for (int i = SAMPLES - 1; i >= 0; i -= 3) {
        TestArrays expected, have;
        test_sample(i, &info, &expected);
        shard_read(&shard, i, &(ShardSample){.latents = {have.image}, .mask = have.mask});
        assert_memory_equal(expected.image, have.image, sizeof have.image);
        assert_memory_equal(expected.mask, have.mask, sizeof have.mask);
    }
    shard_close(&shard);
    shard_info_free(&info);
    shard_info_free(&many);
    for (int i = 0; i < CLASSES; i++) { free(names[i]); }
    free(path);
}

// ---- well-formed HDF5 files that are no shards

static hid_t reopen(const char *path) {
    h5_enter();
    return H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
}

static void finish(hid_t file) {
    H5Fclose(file);
    h5_leave();
}

static void missing_parts(void **state) {
    (void)state;
    static const char *const datasets[] = {"image_latent",  "target_overlay", "target_mask", "mask",
                                           "class",         "image_id",       "crop",        "area",
                                           "dropped_image", "dropped_reason"};
    static const char *const attributes[] = {"classes", "drawn", "vae_sha256", "resolution", "color", "alpha",
                                             "outline", "seed",  "precision",  "version",    "pass",  "targets"};
    char *path = xprintf("%s/missing.h5", folder), text[128];
    for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++) {
        fresh(path);
        hid_t file = reopen(path);
        H5Ldelete(file, datasets[i], H5P_DEFAULT);
        finish(file);
        snprintf(text, sizeof text, "dataset \"%s\" is missing", datasets[i]);
        assert_dies(text, shard_open(path));
    }
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        fresh(path);
        hid_t file = reopen(path);
        H5Adelete(file, attributes[i]);
        finish(file);
        snprintf(text, sizeof text, "attribute \"%s\" is missing", attributes[i]);
        assert_dies(text, shard_open(path));
    }
    free(path);
}

static void replace_dataset(const char *path, const char *name, hid_t type, int rank, const hsize_t *dims) {
    fresh(path);
    hid_t file = reopen(path);
    H5Ldelete(file, name, H5P_DEFAULT);
    hid_t space = H5Screate_simple(rank, dims, NULL);
    H5Dclose(H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    finish(file);
}

static void replace_attribute(const char *path, const char *name, hid_t type, int count, const void *values) {
    fresh(path);
    hid_t file = reopen(path);
    H5Adelete(file, name);
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count ? H5Screate_simple(1, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, values);
    H5Aclose(attribute);
    finish(file);
}

static void wrong_parts(void **state) {
    (void)state;
    char *path = xprintf("%s/wrong.h5", folder);
    replace_dataset(path, "mask", H5T_STD_U8LE, 3, (hsize_t[]){COUNT, 20, 4});
    assert_dies("dataset \"mask\" has the shape (5, 20, 4), expected (5, 20, 3)", shard_open(path));
    replace_dataset(path, "target_mask", H5T_STD_U16LE, 4, (hsize_t[]){COUNT, 5, 6, 4});
    assert_dies("dataset \"target_mask\" has the wrong type, expected float16", shard_open(path));
    replace_dataset(path, "image_latent", H5T_STD_U8LE, 2, (hsize_t[]){COUNT, 5});
    assert_dies("dataset \"image_latent\" has the wrong type", shard_open(path));
    replace_dataset(path, "crop", H5T_STD_I32LE, 2, (hsize_t[]){COUNT + 1, 3});
    assert_dies("dataset \"crop\" has the shape (6, 3), expected (5, 3)", shard_open(path));
    replace_dataset(path, "image_id", H5T_STD_I64LE, 2, (hsize_t[]){COUNT, 1});
    assert_dies("dataset \"image_id\" has the shape (5, 1), expected (5)", shard_open(path));
    int zero = 0, many[2] = {1, 2};
    replace_attribute(path, "resolution", H5T_NATIVE_INT, 0, &zero);
    assert_dies("attribute \"resolution\" is 0", shard_open(path));
    replace_attribute(path, "color", H5T_NATIVE_INT, 2, many);
    assert_dies("attribute \"color\" has the wrong number of values", shard_open(path));
    const double nan = NAN;
    replace_attribute(path, "absent", H5T_NATIVE_DOUBLE, 0, &nan);
    assert_dies("attribute \"absent\" is not a finite number", shard_open(path));
    replace_attribute(path, "alpha", H5T_NATIVE_INT, 0, &zero);
    assert_dies("attribute \"alpha\" has the wrong type, expected float", shard_open(path));
    replace_attribute(path, "classes", H5T_NATIVE_INT, 2, many);
    assert_dies("attribute \"classes\" has the wrong type, expected text", shard_open(path));
    replace_attribute(path, "drawn", H5T_NATIVE_INT, 2, many);
    assert_dies("attribute \"drawn\" has the wrong number of values", shard_open(path));
    free(path);
}

static herr_t copy_attribute(hid_t from, const char *name, const H5A_info_t *info, void *to) {
    void *values = xmalloc(info->data_size);
    hid_t have = H5Aopen(from, name, H5P_DEFAULT), type = H5Aget_type(have);
    hid_t copy = H5Acreate2(*(hid_t *)to, name, type, H5Aget_space(have), H5P_DEFAULT, H5P_DEFAULT);
    herr_t result = H5Aread(have, type, values) < 0 || H5Awrite(copy, type, values) < 0 ? -1 : 0;
    free(values);
    return result;
}

static herr_t copy_dataset(hid_t from, const char *name, const H5L_info_t *info, void *to) {
    (void)info;
    return H5Ocopy(from, name, *(hid_t *)to, name, H5P_DEFAULT, H5P_DEFAULT);
}

// Copies as h5repack makes them: the root group says how it would store more links.
static void copies(void **state) {
    (void)state;
    char *path = xprintf("%s/copy.h5", folder);
    for (int kind = 0; kind < 4; kind++) {
        h5_enter();
        hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG); // with what the copies leave open
        if (kind & 1) { H5Pset_link_phase_change(creation, 0, 0); }
        if (kind & 2) { H5Pset_est_link_info(creation, 100, 30); }
        hid_t from = H5Fopen(good, H5F_ACC_RDONLY, access), to = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
        assert_true(H5Literate(from, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, copy_dataset, &to) >= 0);
        assert_true(H5Aiterate2(from, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, copy_attribute, &to) >= 0);
        H5Fclose(from);
        finish(to);
        assert_true(digest(path) == digest(good));
    }
    free(path);
}

// HDF5's old format has no checksums. It is refused before libhdf5 sees it, whatever is in it.
static void old_format(void **state) {
    (void)state;
    char *path = xprintf("%s/old.h5", folder);
    h5_enter();
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    finish(file);
    assert_dies("is in HDF5's old format, which has no checksums", shard_open(path));
    const char begin[] = "\x89HDF\r\n\x1a\n\0"; // of version 0, then nothing
    write_plain(path, begin, sizeof begin - 1);
    assert_dies("is in HDF5's old format", shard_open(path));
    write_plain(path, begin, 7);
    assert_dies("is not an intact HDF5 file", shard_open(path));
    free(path);
}

// What lies in other files, which may be in the old format, is not followed.
static void other_files(void **state) {
    (void)state;
    char *path = xprintf("%s/links.h5", folder), *other = xprintf("%s/other.h5", folder);
    fresh(other);
    for (int kind = 0; kind < 4; kind++) {
        fresh(path);
        hid_t file = reopen(path), properties = H5Pcreate(H5P_DATASET_CREATE);
        hsize_t count = COUNT;
        hid_t space = H5Screate_simple(1, &count, NULL);
        H5Ldelete(file, "class", H5P_DEFAULT);
        if (kind == 0) { H5Lcreate_external("other.h5", "/class", file, "class", H5P_DEFAULT, H5P_DEFAULT); }
        if (kind == 1) { H5Lcreate_soft("/image_id", file, "class", H5P_DEFAULT, H5P_DEFAULT); }
        if (kind == 2) { H5Pset_virtual(properties, space, other, "/class", space); }
        if (kind == 3) { H5Pset_external(properties, other, 0, COUNT * sizeof(int16_t)); }
        if (kind > 1) {
            H5Dclose(H5Dcreate2(file, "class", H5T_STD_I16LE, space, H5P_DEFAULT, properties, H5P_DEFAULT));
        }
        finish(file);
        assert_dies(kind < 2 ? "dataset \"class\" is a link" : "dataset \"class\" has values of other files",
                    shard_open(path));
    }
    free(path);
    free(other);
}

// Sizes that a file claims, and does not hold.
static void claimed_sizes(void **state) {
    (void)state;
    char *path = xprintf("%s/claims.h5", folder);
    fresh(path);
    hid_t file = reopen(path), properties = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t many = 1000000000000, chunk = 1000, most = H5S_UNLIMITED;
    hid_t space = H5Screate_simple(1, &many, &most);
    H5Pset_chunk(properties, 1, &chunk);
    H5Ldelete(file, "class", H5P_DEFAULT);
    H5Dclose(H5Dcreate2(file, "class", H5T_STD_I16LE, space, H5P_DEFAULT, properties, H5P_DEFAULT));
    finish(file);
    assert_dies("dataset \"class\" has 1000000000000 values, but 0 stored bytes", shard_open(path));
    free(path);
}

// ---- texts

// A shard with texts and kinds; captions have neither targets nor masks.
static void write_texts(const char *path, int targets) {
    ShardInfo info = test_info(1, 0);
    snprintf(info.text_source, sizeof info.text_source, targets ? "phrases" : "captions");
    info.targets = targets;
    if (targets) { shard_info_kinds(&info, 2, test_kinds); }
    test_shard(path, &info, 0, COUNT);
    shard_info_free(&info);
}

static void texts_round_trip(void **state) {
    (void)state;
    char *path = xprintf("%s/texts.h5", folder);
    for (int targets = 0; targets <= 2; targets += 2) {
        write_texts(path, targets);
        ShardFile shard = shard_open(path);
        assert_int_equal(shard.text_count, TEST_TEXTS);
        assert_int_equal(shard.info.kind_count, targets ? 2 : 0);
        for (int i = 0; i < COUNT; i++) {
            TestArrays a;
            ShardSample s = {.latents = {a.image}};
            shard_read(&shard, i, &s);
            assert_string_equal(s.text, test_texts[i % TEST_TEXTS]);
            assert_int_equal(s.text_index, i % TEST_TEXTS);
            assert_int_equal(s.kind, targets ? i % 2 : 0);
            if (!targets) {
                assert_dies("dataset \"mask\" was not encoded", shard_read(&shard, i, &(ShardSample){.mask = a.mask}));
            }
        }
        shard_close(&shard);
    }
    free(path);
}

// Replaces a dataset of a shard with texts by one of these values.
static void replace_values(const char *path, const char *name, hid_t type, hsize_t count, const void *values) {
    write_texts(path, TARGET_MASK);
    hid_t file = reopen(path);
    H5Ldelete(file, name, H5P_DEFAULT);
    if (values) {
        hid_t space = H5Screate_simple(1, &count, NULL);
        hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
        H5Dclose(dataset);
    }
    finish(file);
}

// Texts of variable length in chunks.
static void chunked_texts(void **state) {
    (void)state;
    char *path = xprintf("%s/chunks.h5", folder);
    write_texts(path, TARGET_MASK);
    hid_t file = reopen(path), properties = H5Pcreate(H5P_DATASET_CREATE), type = h5_text_type(1);
    hsize_t count = 3, most = H5S_UNLIMITED;
    H5Ldelete(file, "texts", H5P_DEFAULT);
    H5Tset_size(type, H5T_VARIABLE);
    H5Pset_chunk(properties, 1, &count);
    hid_t space = H5Screate_simple(1, &count, &most);
    H5Dclose(H5Dcreate2(file, "texts", type, space, H5P_DEFAULT, properties, H5P_DEFAULT));
    finish(file);
    assert_dies("dataset \"texts\" has chunks and texts of variable length, expected no chunks", shard_open(path));
    free(path);
}

static void wrong_texts(void **state) {
    (void)state;
    char *path = xprintf("%s/wrong.h5", folder);
    const int32_t index[] = {0, 1, 3, 0, 1}, negative[] = {0, 1, 2, -1, 0};
    const uint8_t kind[] = {0, 1, 2, 0, 1};
    const int16_t class_index[] = {-1, 1, 2, -2, 1}, no_class[] = {-1, 1, 2, 3, -1};
    replace_values(path, "text", H5T_NATIVE_INT32, COUNT, index);
    assert_dies("wrong.h5: dataset \"text\" has 3 at sample 2, expected 0 to 2", shard_open(path));
    replace_values(path, "text", H5T_NATIVE_INT32, COUNT, negative);
    assert_dies("dataset \"text\" has -1 at sample 3", shard_open(path));
    replace_values(path, "text", H5T_NATIVE_INT32, 4, index);
    assert_dies("dataset \"text\" has the shape (4), expected (5)", shard_open(path));
    replace_values(path, "kind", H5T_NATIVE_UINT8, COUNT, kind);
    assert_dies("dataset \"kind\" has 2 at sample 2, expected 0 to 1", shard_open(path));
    replace_values(path, "class", H5T_NATIVE_INT16, COUNT, class_index);
    assert_dies("dataset \"class\" has -2 at sample 3, expected -1 to 3", shard_open(path));
    replace_values(path, "class", H5T_NATIVE_INT16, COUNT, no_class);
    ShardFile shard = shard_open(path);
    assert_int_equal(shard.class_index[4], -1);
    shard_close(&shard);
    replace_values(path, "texts", H5T_NATIVE_INT32, 3, index);
    assert_dies("dataset \"texts\" has the wrong type, expected text", shard_open(path));
    replace_values(path, "texts", H5T_NATIVE_INT32, 3, NULL);
    assert_dies("dataset \"texts\" is missing", shard_open(path));
    h5_enter();
    hid_t four = h5_text_type(4), long_type = h5_text_type(100000), variable = h5_text_type(1);
    H5Tset_size(variable, H5T_VARIABLE);
    h5_leave();
    replace_values(path, "texts", four, 3, "good\xc3\x28 abad ");
    assert_dies("dataset \"texts\": text 1 is not valid UTF-8", shard_open(path));
    char *huge = xcalloc(3, 100000);
    replace_values(path, "texts", long_type, 3, huge);
    assert_dies("dataset \"texts\" has 3 texts of 100000 bytes", shard_open(path));
    memset(huge, 'x', TEXT_BYTES + 1);
    replace_values(path, "texts", variable, 3, (const char *[]){"a", huge, "b"});
    assert_dies("text 1 has more than 4096 bytes", shard_open(path));
    huge[TEXT_BYTES] = 0;
    replace_values(path, "texts", variable, 3, (const char *[]){"a", huge, ""});
    shard = shard_open(path);
    assert_true(!strcmp(shard.texts[1], huge) && !strcmp(shard.texts[2], ""));
    shard_close(&shard);
    free(huge);
    free(path);
}

// A limit on file sizes stands for a full disk: the write fails, a sentence says so, and nothing stays behind.
static void fill_disk(const char *path, const ShardInfo *info) {
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {5000, 5000};
    setrlimit(RLIMIT_FSIZE, &limit);
    test_shard(path, info, 0, COUNT);
}

static void full_disk(void **state) {
    (void)state;
    ShardInfo info = test_info(1, 0);
    char *place = xprintf("%s/full", folder), *path = xprintf("%s/x.h5", place);
    make_folders(place);
    assert_dies("x.h5: cannot be written", fill_disk(path, &info));
    assert_int_equal(rmdir(place), 0); // empty
    assert_dies("cannot be written", test_shard("/nowhere/x.h5", &info, 0, 1));
    shard_info_free(&info);
    free(path);
    free(place);
}

int main(void) {
    folder = test_folder();
    good = xprintf("%s/good.h5", folder);
    ShardInfo info = test_info(1, 0);
    test_shard(good, &info, 0, COUNT);
    shard_info_free(&info);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),      cmocka_unit_test(equal_bytes_and_empty),
        cmocka_unit_test(half_precision),  cmocka_unit_test(truncated),
        cmocka_unit_test(forged_bytes),    cmocka_unit_test(short_chunk),
        cmocka_unit_test(large_attribute), cmocka_unit_test(large),
        cmocka_unit_test(flipped_bytes),   cmocka_unit_test(missing_parts),
        cmocka_unit_test(wrong_parts),     cmocka_unit_test(texts_round_trip),
        cmocka_unit_test(wrong_texts),     cmocka_unit_test(chunked_texts),
        cmocka_unit_test(full_disk),       cmocka_unit_test(old_format),
        cmocka_unit_test(copies),          cmocka_unit_test(claimed_sizes),
        cmocka_unit_test(other_files),     cmocka_unit_test(other_classes_drawn),
    };
    int failures = cmocka_run_group_tests_name("data/shard", tests, NULL, NULL);
    remove_tree(folder);
    return failures;
}
