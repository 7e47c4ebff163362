// Texts in HDF5. They are written with a fixed length (the longest of a list), because HDF5 does not checksum texts of
// variable length; h5py returns them as bytes. All that h5py writes is read: ASCII or UTF-8, fixed or variable length.
// Between h5_enter and h5_leave.
#pragma once
#include "data/h5.h"
#include <stddef.h>

hid_t h5_text_type(size_t length); // UTF-8 of `length` bytes, padded with zeros; 0 counts as 1. To be closed.
// The texts one after another, each padded with zeros to the longest, whose length is *length. To be freed.
char *h5_text_pack(const char *const *texts, size_t count, size_t *length);
// Reads the texts of an open attribute or dataset of `count` texts. The caller frees the texts and the list. NULL: HDF5
// cannot read them.
char **h5_text_read(hid_t object, size_t count);
