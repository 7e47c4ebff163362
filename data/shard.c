// Reading a shard: opening checks everything about it; latents and masks are read sample by sample. Only the files that
// were used last stay open: memory and open files do not grow with the number of shards.
#include "data/shard.h"
#include "data/h5.h"
#include "data/h5_check.h"
#include "data/h5_text.h"
#include "data/shard_info.h"
#include "data/texts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/half.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

// HDF5's formats from before version 1.8 have no checksums, and libhdf5 reads outside of its memory where such a file
// is damaged. So only files with a superblock of version 2 or 3, as encode writes them, reach it.
static void want_checksums(const char *path) {
    unsigned char head[9] = {0};
    FILE *file = fopen(path, "rb");
    if (!file) { die("%s: cannot be opened: %s", path, strerror(errno)); }
    bool whole = fread(head, 1, sizeof head, file) == sizeof head && memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0;
    fclose(file);
    if (!whole) { die("%s: is not an intact HDF5 file, expected a shard of `cocogold encode`", path); }
    if (head[8] < 2) {
        die("%s: is in HDF5's old format, which has no checksums: expected the one that encode writes (convert it with "
            "`h5repack --low=2 --high=2` or h5py's libver=\"v110\")",
            path);
    }
}

static hid_t open_file(const char *path) {
    if (!file_exists(path)) { die("%s: does not exist", path); }
    want_checksums(path);
    h5_check(path);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_cache(access, 0, 1, 0, 0); // a chunk is read once: no cache of chunks
    h5_without_locks(access);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (file < 0) { h5_die(path, "is not an intact HDF5 file, expected a shard of `cocogold encode`"); }
    H5Pclose(access);
    return file;
}

#define ANY H5S_UNLIMITED // in an expected shape: any size

static void shape_text(int rank, const hsize_t *dims, char text[128]) {
    int used = snprintf(text, 128, "(");
    for (int i = 0; i < rank && used < 96; i++) {
        char size[24] = "any";
        if (dims[i] != ANY) { snprintf(size, sizeof size, "%llu", (unsigned long long)dims[i]); }
        used += snprintf(text + used, 128 - (size_t)used, "%s%s", i ? ", " : "", size);
    }
    snprintf(text + used, 128 - (size_t)used, ")");
}

// Dies if a dataset claims more values than its stored bytes can hold (deflate reaches 1 : 1032).
static void want_stored(const char *path, const char *name, hid_t dataset) {
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    double values = (double)H5Sget_simple_extent_npoints(space), stored = (double)H5Dget_storage_size(dataset);
    if (!(values >= 0 && values * (double)H5Tget_size(type) <= 1032 * stored)) {
        die("%s: dataset \"%s\" has %.0f values, but %.0f stored bytes: the file is damaged", path, name, values,
            stored);
    }
    H5Sclose(space);
    H5Tclose(type);
}

static void want_chunks(const char *path, const char *name, hid_t dataset, hsize_t row, hsize_t rows) {
    if (h5_chunks_fit(dataset, row, rows)) { return; }
    die("%s: dataset \"%s\" has a chunk of the wrong size: the file is damaged", path, name);
}

// Opens a dataset of the file itself: links and datasets with values of other files would lead past want_checksums.
static hid_t open_own(const char *path, hid_t file, const char *name) {
    H5L_info_t link;
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) { die("%s: dataset \"%s\" is missing", path, name); }
    if (H5Lget_info(file, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD) {
        die("%s: dataset \"%s\" is a link, expected a dataset of this file", path, name);
    }
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) { h5_die(path, "dataset \"%s\" cannot be opened", name); }
    hid_t made = H5Dget_create_plist(dataset);
    bool own = made >= 0 && H5Pget_layout(made) != H5D_VIRTUAL && H5Pget_external_count(made) <= 0;
    if (!own) { die("%s: dataset \"%s\" has values of other files, expected its own", path, name); }
    H5Pclose(made);
    return dataset;
}

// Opens a dataset of the given type, rank and shape. Where the shape is ANY, it gets the file's size.
static hid_t open_dataset(const char *path, hid_t file, const char *name, hid_t type, const char *type_name, int rank,
                          hsize_t *dims) {
    hid_t dataset = open_own(path, file, name);
    hid_t stored = H5Dget_type(dataset), space = H5Dget_space(dataset);
    if (H5Tequal(stored, type) <= 0) {
        die("%s: dataset \"%s\" has the wrong type, expected %s", path, name, type_name);
    }
    hsize_t found[H5S_MAX_RANK] = {0};
    int found_rank = H5Sget_simple_extent_dims(space, found, NULL);
    bool right = found_rank == rank;
    for (int i = 0; i < rank && right; i++) { right = dims[i] == ANY || dims[i] == found[i]; }
    if (!right) {
        char have[128], want[128];
        shape_text(found_rank < 0 ? 0 : found_rank, found, have);
        shape_text(rank, dims, want);
        die("%s: dataset \"%s\" has the shape %s, expected %s", path, name, have, want);
    }
    memcpy(dims, found, (size_t)rank * sizeof *dims);
    want_stored(path, name, dataset);
    H5Sclose(space);
    H5Tclose(stored);
    return dataset;
}

// Reads a whole dataset of one or two axes into fresh memory.
static void *read_all(const char *path, hid_t file, const char *name, hid_t type, const char *type_name, int rank,
                      hsize_t *dims) {
    hid_t dataset = open_dataset(path, file, name, type, type_name, rank, dims);
    size_t values = (size_t)dims[0] * (rank == 2 ? (size_t)dims[1] : 1);
    void *memory = xcalloc(values ? values : 1, H5Tget_size(type));
    want_chunks(path, name, dataset, 0, dims[0]);
    if (values && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, memory) < 0) {
        h5_die(path, "dataset \"%s\" cannot be read: the file is damaged", name);
    }
    H5Dclose(dataset);
    return memory;
}

// The distinct texts, of any length and kind that h5py writes.
static void read_texts(ShardFile *s, hid_t file) {
    hsize_t n = (hsize_t)s->samples, count = 0;
    s->text = read_all(s->path, file, "text", H5T_STD_I32LE, "int32", 1, &n);
    hid_t dataset = open_own(s->path, file, "texts");
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    if (H5Tget_class(type) != H5T_STRING) { die("%s: dataset \"texts\" has the wrong type, expected text", s->path); }
    if (H5Sget_simple_extent_ndims(space) != 1) { die("%s: dataset \"texts\": expected a list", s->path); }
    H5Sget_simple_extent_dims(space, &count, NULL);
    size_t bytes = H5Tget_size(type);
    if (bytes > TEXT_BYTES || count > INT_MAX / 4) {
        die("%s: dataset \"texts\" has %llu texts of %zu bytes, expected at most %d of %d", s->path,
            (unsigned long long)count, bytes, INT_MAX / 4, TEXT_BYTES);
    }
    want_stored(s->path, "texts", dataset);
    want_chunks(s->path, "texts", dataset, 0, count);
    s->text_count = (int)count;
    s->texts = h5_text_read(dataset, (size_t)count);
    if (!s->texts) { h5_die(s->path, "dataset \"texts\" cannot be read: the file is damaged"); }
    for (int i = 0; i < s->text_count; i++) {
        const char *problem = text_problem(s->texts[i]);
        if (problem) { die("%s: dataset \"texts\": text %d %s", s->path, i, problem); }
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(dataset);
}

static void check_index(const ShardFile *s, const char *name, long long sample, int value, int low, int count) {
    if (value >= low && value < count) { return; }
    die("%s: dataset \"%s\" has %d at sample %lld, expected %d to %d", s->path, name, value, sample, low, count - 1);
}

static void read_table(ShardFile *s, hid_t file) {
    hsize_t n = ANY, crop[2] = {ANY, 3}, d = ANY;
    s->class_index = read_all(s->path, file, "class", H5T_STD_I16LE, "int16", 1, &n);
    crop[0] = n;
    s->samples = (long long)n;
    s->image_id = read_all(s->path, file, "image_id", H5T_STD_I64LE, "int64", 1, (hsize_t[]){n});
    s->crop = read_all(s->path, file, "crop", H5T_STD_I32LE, "int32", 2, crop);
    s->area = read_all(s->path, file, "area", H5T_IEEE_F32LE, "float32", 1, (hsize_t[]){n});
    s->dropped_image = read_all(s->path, file, "dropped_image", H5T_STD_I64LE, "int64", 1, &d);
    s->dropped_reason = read_all(s->path, file, "dropped_reason", H5T_STD_U8LE, "uint8", 1, (hsize_t[]){d});
    s->dropped = (long long)d;
    if (shard_has_texts(&s->info)) { read_texts(s, file); }
    if (s->info.kind_count) { s->kind = read_all(s->path, file, "kind", H5T_STD_U8LE, "uint8", 1, (hsize_t[]){n}); }
    for (long long i = 0; i < s->samples; i++) {
        check_index(s, "class", i, s->class_index[i], s->text ? -1 : 0, s->info.class_count);
        if (s->text) { check_index(s, "text", i, s->text[i], 0, s->text_count); }
        if (s->kind) { check_index(s, "kind", i, s->kind[i], 0, s->info.kind_count); }
        if (!(s->area[i] >= 0 && s->area[i] <= 1)) {
            die("%s: dataset \"area\" has %g at sample %lld, expected 0 to 1", s->path, (double)s->area[i], i);
        }
    }
}

// ---- Open files ----------------------------------------------------------------------------------------------------

enum { MOST_OPEN = 256 }; // HDF5 takes 0.65 MB for each
enum { MASK = LATENTS, DATASETS };

typedef struct {
    const char *path;               // of the ShardFile; NULL: free
    uint64_t used;                  // the number of its last use
    hid_t file, datasets[DATASETS]; // 0: not open
} Handles;

static Handles handles[MOST_OPEN]; // of all shards; used between h5_enter and h5_leave
static uint64_t uses;

static void close_handles(Handles *h) {
    for (int i = 0; i < DATASETS; i++) {
        if (h->datasets[i]) { H5Dclose(h->datasets[i]); }
    }
    if (h->file) { H5Fclose(h->file); }
    *h = (Handles){0};
}

// At most half of the files that the process may have open.
static int most_open(void) {
    struct rlimit limit;
    bool few = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 2 * MOST_OPEN;
    return few ? (int)limit.rlim_cur / 2 : MOST_OPEN;
}

static struct timespec time_of(const char *path) {
    struct stat file;
    return stat(path, &file) == 0 ? file.st_mtim : (struct timespec){0};
}

// Opens a shard's file in a free place, or in that of the file whose last use is longest ago.
static Handles *open_handles(const ShardFile *s) {
    Handles *place = handles;
    for (Handles *h = handles, *end = handles + most_open(); h < end; h++) {
        if (h->used < place->used) { place = h; }
    }
    close_handles(place);
    place->file = open_file(s->path);
    place->path = s->path;
    struct timespec now = time_of(s->path);
    if (now.tv_sec != s->written.tv_sec || now.tv_nsec != s->written.tv_nsec) {
        die("%s: was written again while this program read it", s->path);
    }
    return place;
}

static Handles *handles_of(const ShardFile *s) {
    Handles *h = handles, *end = handles + MOST_OPEN;
    while (h < end && h->path != s->path) { h++; }
    if (h == end) { h = open_handles(s); }
    h->used = ++uses;
    return h;
}

// The shape of a dataset of samples; returns its rank. Sizes of the latents that are not known yet are ANY.
static int shape_of(const ShardFile *s, int which, hsize_t shape[4]) {
    const ShardInfo *info = &s->info;
    shape[0] = (hsize_t)s->samples;
    if (which == MASK) {
        shape[1] = (hsize_t)info->resolution;
        shape[2] = (shape[1] + 7) / 8;
        return 3;
    }
    const int sizes[3] = {info->height, info->width, info->channels};
    for (int i = 0; i < 3; i++) { shape[i + 1] = sizes[i] ? (hsize_t)sizes[i] : ANY; }
    return 4;
}

static const char *name_of(int which) { return which == MASK ? "mask" : latent_names[which]; }
static bool has_dataset(const ShardInfo *info, int which) {
    return which == MASK ? info->targets != 0 : shard_has_latent(info, which);
}

// A dataset of samples, opened where it is not; gets its shape and rank.
static hid_t dataset_of(const ShardFile *s, int which, hsize_t shape[4], int *rank) {
    if (!has_dataset(&s->info, which)) {
        die("%s: dataset \"%s\" was not encoded (see encode --targets)", s->path, name_of(which));
    }
    *rank = shape_of(s, which, shape);
    Handles *h = handles_of(s);
    if (!h->datasets[which]) {
        hid_t type = which == MASK ? H5T_STD_U8LE : h5_half();
        h->datasets[which] =
            open_dataset(s->path, h->file, name_of(which), type, which == MASK ? "uint8" : "float16", *rank, shape);
    }
    return h->datasets[which];
}

// ---- Samples -------------------------------------------------------------------------------------------------------

static void set_size(ShardFile *s, const hsize_t shape[4]) {
    for (int i = 1; i < 4; i++) {
        if (shape[i] < 1 || shape[i] > 32768) {
            die("%s: dataset \"%s\" has a side of %llu, expected 1 to 32768", s->path, latent_names[LATENT_IMAGE],
                (unsigned long long)shape[i]);
        }
    }
    s->info.height = (int)shape[1], s->info.width = (int)shape[2], s->info.channels = (int)shape[3];
}

ShardFile shard_open(const char *path) {
    h5_enter();
    ShardFile s = {.path = xstrdup(path), .written = time_of(path)};
    const hid_t file = handles_of(&s)->file;
    s.info = shard_info_read(path, file);
    read_table(&s, file);
    for (int which = 0; which < DATASETS; which++) {
        hsize_t shape[4];
        int rank;
        if (!has_dataset(&s.info, which)) { continue; }
        dataset_of(&s, which, shape, &rank);
        if (which == LATENT_IMAGE) { set_size(&s, shape); } // the other latents have the same
    }
    h5_leave();
    return s;
}

// One sample's row of a dataset in the stored type.
static void read_row(const ShardFile *s, int which, long long sample, void *into) {
    hsize_t start[4] = {(hsize_t)sample}, count[4];
    int rank;
    hid_t dataset = dataset_of(s, which, count, &rank);
    count[0] = 1;
    want_chunks(s->path, name_of(which), dataset, start[0], 1);
    hid_t space = H5Dget_space(dataset), memory = H5Screate_simple(rank, count, NULL);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL);
    if (H5Dread(dataset, which == MASK ? H5T_STD_U8LE : h5_half(), memory, space, H5P_DEFAULT, into) < 0) {
        h5_die(s->path, "dataset \"%s\" cannot be read at sample %lld: the file is damaged", name_of(which), sample);
    }
    H5Sclose(memory);
    H5Sclose(space);
}

static void read_latent(const ShardFile *s, int latent, long long sample, float *into) {
    size_t size = (size_t)s->info.height * (size_t)s->info.width * (size_t)s->info.channels;
    uint16_t *half = xmalloc(size * sizeof *half);
    read_row(s, latent, sample, half);
    for (size_t i = 0; i < size; i++) { into[i] = half_to_float(half[i]); }
    free(half);
}

void shard_read(const ShardFile *s, long long sample, ShardSample *into) {
    h5_enter();
    for (int i = 0; i < LATENTS; i++) {
        if (into->latents[i]) { read_latent(s, i, sample, into->latents[i]); }
    }
    if (into->mask) { read_row(s, MASK, sample, into->mask); }
    h5_leave();
    into->class_index = s->class_index[sample];
    into->image_id = s->image_id[sample];
    memcpy(into->crop, s->crop + 3 * sample, sizeof into->crop);
    into->area = s->area[sample];
    into->text_index = s->text ? s->text[sample] : s->class_index[sample];
    into->text = s->text ? s->texts[into->text_index] : s->info.classes[into->text_index];
    into->kind = s->kind ? s->kind[sample] : 0;
}

void shard_close(ShardFile *s) {
    h5_enter();
    for (Handles *h = handles; h < handles + MOST_OPEN; h++) {
        if (h->path == s->path) { close_handles(h); }
    }
    h5_leave();
    free(s->class_index);
    free(s->image_id);
    free(s->crop);
    free(s->area);
    for (int i = 0; i < s->text_count; i++) { free(s->texts[i]); }
    free(s->texts);
    free(s->text);
    free(s->kind);
    free(s->dropped_image);
    free(s->dropped_reason);
    shard_info_free(&s->info);
    free(s->path);
    *s = (ShardFile){0};
}
