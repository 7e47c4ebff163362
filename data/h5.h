// What shards need of libhdf5 besides its own calls: the lock, the half type, and its errors as sentences.
#pragma once
#include <hdf5.h>

// libhdf5 need not be built thread-safe: every call stands between these two. No nesting.
void h5_enter(void);
void h5_leave(void);

// IEEE 754 binary16, which HDF5 1.10 has no name for; h5py reads it as float16. Not to be closed.
hid_t h5_half(void);

// Dies with "PATH: <sentence> (<HDF5's own innermost reason>)".
void h5_die(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
