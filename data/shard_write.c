// Writing a shard. HDF5's core driver builds the file in memory and writes it at once, so that a full disk leaves none.
#include "data/h5.h"
#include "data/h5_text.h"
#include "data/shard.h"
#include "data/shard_info.h"
#include "data/texts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/half.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ShardWriter {
    char *path;
    ShardInfo info;
    size_t samples, dropped;
    size_t latent_size, mask_size; // values, bytes of one sample
    uint16_t *latents[LATENTS];    // fp16; NULL: not asked for
    uint8_t *mask;
    int16_t *class_index;
    int64_t *image_id;
    int32_t *crop;
    float *area;
    int32_t *text;   // NULL: no texts
    uint8_t *kind;   // NULL: no kinds
    TextTable table; // of `text`
    int64_t *dropped_image;
    uint8_t *dropped_reason;
};

ShardWriter *shard_begin(const char *path, const ShardInfo *info) {
    ShardWriter *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    w->info = shard_info_copy(info);
    w->latent_size = (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    w->mask_size = (size_t)info->resolution * (size_t)((info->resolution + 7) / 8);
    return w;
}

static void grow(ShardWriter *w) {
    size_t n = w->samples;
    for (int i = 0; i < LATENTS; i++) {
        if (shard_has_latent(&w->info, i)) {
            w->latents[i] = xgrow(w->latents[i], n, w->latent_size * sizeof(uint16_t));
        }
    }
    if (w->info.targets) { w->mask = xgrow(w->mask, n, w->mask_size); }
    w->crop = xgrow(w->crop, n, 3 * sizeof *w->crop);
    GROW(w->class_index, n);
    GROW(w->image_id, n);
    GROW(w->area, n);
    if (shard_has_texts(&w->info)) { GROW(w->text, n); }
    if (w->info.kind_count) { GROW(w->kind, n); }
}

static void to_half(const ShardWriter *w, const char *name, int64_t image_id, const float *from, uint16_t *to) {
    for (size_t i = 0; i < w->latent_size; i++) {
        to[i] = float_to_half(from[i]);
        if (!isfinite(half_to_float(to[i]))) {
            die("%s: \"%s\" of picture %lld has the value %g, which fp16 cannot hold: is the VAE intact?", w->path,
                name, (long long)image_id, (double)from[i]);
        }
    }
}

void shard_add(ShardWriter *w, const ShardSample *s) {
    grow(w);
    size_t n = w->samples++;
    for (int i = 0; i < LATENTS; i++) {
        if (!shard_has_latent(&w->info, i)) { continue; }
        assert(s->latents[i]);
        to_half(w, latent_names[i], s->image_id, s->latents[i], w->latents[i] + n * w->latent_size);
    }
    if (w->mask) { memcpy(w->mask + n * w->mask_size, s->mask, w->mask_size); }
    w->class_index[n] = (int16_t)s->class_index;
    w->image_id[n] = s->image_id;
    memcpy(w->crop + 3 * n, s->crop, sizeof s->crop);
    w->area[n] = s->area;
    if (w->text) {
        assert(s->text && !text_problem(s->text));
        w->text[n] = text_table_add(&w->table, s->text);
    }
    if (w->kind) { w->kind[n] = (uint8_t)s->kind; }
}

void shard_drop(ShardWriter *w, int64_t image_id, int reason) {
    GROW(w->dropped_image, w->dropped);
    GROW(w->dropped_reason, w->dropped);
    w->dropped_image[w->dropped] = image_id;
    w->dropped_reason[w->dropped++] = (uint8_t)reason;
}

// A dataset of `rank` axes in chunks of `rows` along the first one, each with a Fletcher-32 checksum.
static void put(const ShardWriter *w, hid_t file, const char *name, hid_t type, int rank, const hsize_t *dims,
                hsize_t rows, const void *values) {
    hsize_t most[4], chunk[4];
    memcpy(most, dims, (size_t)rank * sizeof *most);
    memcpy(chunk, dims, (size_t)rank * sizeof *chunk);
    most[0] = H5S_UNLIMITED; // a chunk may then be larger than the dataset, which may be empty
    chunk[0] = rows > 0 ? rows : 1;
    hid_t space = H5Screate_simple(rank, dims, most), properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, rank, chunk);
    H5Pset_fletcher32(properties);
    H5Pset_obj_track_times(properties, 0);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (dataset < 0 || (dims[0] && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)) {
        h5_die(w->path, "dataset \"%s\" cannot be created", name);
    }
    H5Dclose(dataset);
    H5Pclose(properties);
    H5Sclose(space);
}

static void put_table(const ShardWriter *w, hid_t file) {
    hsize_t n = w->samples, count = (hsize_t)w->table.count;
    size_t length;
    char *padded = h5_text_pack((const char *const *)w->table.texts, (size_t)count, &length);
    hid_t type = h5_text_type(length);
    put(w, file, "text", H5T_STD_I32LE, 1, &n, n, w->text);
    put(w, file, "texts", type, 1, &count, count, padded);
    H5Tclose(type);
    free(padded);
}

static void put_all(const ShardWriter *w, hid_t file) {
    const ShardInfo *info = &w->info;
    hsize_t n = w->samples, d = w->dropped;
    hsize_t latent[4] = {n, (hsize_t)info->height, (hsize_t)info->width, (hsize_t)info->channels};
    hsize_t mask[3] = {n, (hsize_t)info->resolution, (hsize_t)((info->resolution + 7) / 8)}, crop[2] = {n, 3};
    for (int i = 0; i < LATENTS; i++) {
        if (shard_has_latent(info, i)) { put(w, file, latent_names[i], h5_half(), 4, latent, 1, w->latents[i]); }
    }
    if (info->targets) { put(w, file, "mask", H5T_STD_U8LE, 3, mask, 1, w->mask); }
    put(w, file, "class", H5T_STD_I16LE, 1, &n, n, w->class_index);
    put(w, file, "image_id", H5T_STD_I64LE, 1, &n, n, w->image_id);
    put(w, file, "crop", H5T_STD_I32LE, 2, crop, n, w->crop);
    put(w, file, "area", H5T_IEEE_F32LE, 1, &n, n, w->area);
    put(w, file, "dropped_image", H5T_STD_I64LE, 1, &d, d, w->dropped_image);
    put(w, file, "dropped_reason", H5T_STD_U8LE, 1, &d, d, w->dropped_reason);
    if (shard_has_texts(info)) { put_table(w, file); }
    if (info->kind_count) { put(w, file, "kind", H5T_STD_U8LE, 1, &n, n, w->kind); }
    shard_info_write(info, file);
}

// Builds the file in memory; only H5Fclose writes to disk.
static void write_file(const ShardWriter *w, const char *temporary) {
    h5_enter();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_core(access, 1 << 20, 1);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110); // the format that checksums its metadata
    h5_without_locks(access);
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_obj_track_times(creation, 0); // equal runs give equal bytes
    hid_t file = H5Fcreate(temporary, H5F_ACC_EXCL, creation, access);
    if (file < 0) { h5_die(w->path, "cannot be written"); }
    put_all(w, file);
    if (H5Fclose(file) < 0) { h5_die(w->path, "cannot be written"); }
    H5Pclose(creation);
    H5Pclose(access);
    h5_leave();
}

void shard_abandon(ShardWriter *w) {
    for (int i = 0; i < LATENTS; i++) { free(w->latents[i]); }
    free(w->mask);
    free(w->class_index);
    free(w->image_id);
    free(w->crop);
    free(w->area);
    free(w->text);
    free(w->kind);
    text_table_free(&w->table);
    free(w->dropped_image);
    free(w->dropped_reason);
    shard_info_free(&w->info);
    free(w->path);
    free(w);
}

void shard_commit(ShardWriter *w) {
    char *temporary = temporary_name(w->path);
    cleanup_add(temporary);
    write_file(w, temporary);
    commit_rename(temporary, w->path);
    cleanup_remove(temporary);
    free(temporary);
    shard_abandon(w);
}
