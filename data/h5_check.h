// libhdf5 trusts the metadata of a file whose checksums are right, and reads and writes outside of its memory where it
// is forged. So only files reach it whose metadata is what it writes itself for shards.
#pragma once
#include <hdf5.h>
#include <stdbool.h>

// Dies with a sentence unless the file's root group, its attributes and its datasets are laid out like that: groups and
// attributes as HDF5 1.8 and later store them, datasets of integers, IEEE floats and texts, in one piece or in chunks
// along the first axis, without filters other than Fletcher-32.
void h5_check(const char *path);
// Whether the stored chunks that hold these rows of a dataset have the right size. Call it before they are read.
bool h5_chunks_fit(hid_t dataset, hsize_t row, hsize_t rows);
