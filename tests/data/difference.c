// Not a test itself: how far two results lie apart, as ||a - b|| / ||b||.
//     difference A.png B.png               two pictures
//     difference A.h5 B.h5 DATASET         two data sets of shards
#include "data/image.h"
#include "util/error.h"
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t n;
    float *x;
} Values;

static Values read_picture(const char *path) {
    Image image = image_load(path, 3);
    Values v = {.n = (size_t)image.width * image.height * 3};
    v.x = xmalloc(v.n * sizeof *v.x);
    for (size_t i = 0; i < v.n; i++) { v.x[i] = image.pixels[i]; }
    image_free(&image);
    return v;
}

static Values read_dataset(const char *path, const char *name) {
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = file < 0 ? -1 : H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) { die("%s: has no dataset \"%s\"", path, name); }
    hid_t space = H5Dget_space(set);
    Values v = {.n = (size_t)H5Sget_simple_extent_npoints(space)};
    v.x = xmalloc(v.n * sizeof *v.x);
    if (H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v.x) < 0) { die("%s: cannot be read", path); }
    H5Sclose(space), H5Dclose(set), H5Fclose(file);
    return v;
}

int main(int argc, char **argv) {
    if (argc < 3) { die("usage: difference A B [DATASET]"); }
    Values v[2];
    for (int i = 0; i < 2; i++) { v[i] = argc > 3 ? read_dataset(argv[1 + i], argv[3]) : read_picture(argv[1 + i]); }
    if (v[0].n != v[1].n) { die("%s and %s differ in size", argv[1], argv[2]); }
    double difference = 0, norm = 0;
    for (size_t i = 0; i < v[0].n; i++) {
        difference += pow((double)v[0].x[i] - v[1].x[i], 2), norm += (double)v[1].x[i] * v[1].x[i];
    }
    printf("%.3e\n", sqrt(difference / (norm > 0 ? norm : 1)));
    free(v[0].x), free(v[1].x);
    return 0;
}
