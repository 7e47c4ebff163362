// Reads a folder of shards as training does, and gives HDF5's handles back where that dies.
#pragma once
#include "data/h5.h"
#include "data/loader.h"
#include <stdlib.h>

// Handles of these kinds have running numbers; a new one before and after a call shows which the call has opened.
enum { H5_KINDS = 3 };
static inline void h5_probe(hid_t ids[H5_KINDS]) {
    ids[0] = H5Screate(H5S_SCALAR);
    ids[1] = H5Tcopy(H5T_NATIVE_INT);
    ids[2] = H5Pcreate(H5P_FILE_ACCESS);
    H5Sclose(ids[0]);
    H5Tclose(ids[1]);
    H5Pclose(ids[2]);
}

static hid_t h5_before[H5_KINDS];

static inline void h5_close_all(void) {
    hid_t open[256], after[H5_KINDS];
    for (ssize_t n; (n = H5Fget_obj_ids(H5F_OBJ_ALL, H5F_OBJ_ALL, 256, open)) > 0;) {
        for (ssize_t i = 0; i < n; i++) {
            while (H5Iis_valid(open[i]) > 0 && H5Idec_ref(open[i]) > 0) {}
        }
    }
    h5_probe(after);
    for (int k = 0; k < H5_KINDS; k++) {
        for (hid_t id = h5_before[k] + 1; id < after[k]; id++) {
            while (H5Iis_valid(id) > 0 && H5Idec_ref(id) > 0) {}
        }
    }
}

enum { MOST_VALUES = 1 << 16 };

static inline void use_shards(const char *folder) {
    h5_probe(h5_before);
    ShardSet set = shards_open(folder, "train");
    LoaderOptions options = {.target = set.info.targets & -set.info.targets, .seed = 1, .world = 1, .rows = 1};
    double values = (double)set.info.height * set.info.width * set.info.channels;
    double bytes = (double)set.info.resolution * ((set.info.resolution + 7) / 8);
    if (set.samples > 0 && values <= MOST_VALUES && bytes <= MOST_VALUES) {
        size_t latent = (size_t)values * sizeof(float);
        int text;
        int64_t position;
        LoaderBatch batch = {malloc(latent), options.target ? malloc(latent) : NULL, NULL, &position, &text};
        batch.mask = set.info.targets ? malloc((size_t)bytes) : NULL;
        Loader *loader = loader_open(&set, &options);
        for (int i = 0; i < 4; i++) { loader_read(loader, i, &batch); }
        loader_close(loader);
        free(batch.image_latent);
        free(batch.target_latent);
        free(batch.mask);
    }
    free(shards_classes(&set, "--classes", "all"));
    shards_close(&set);
}
