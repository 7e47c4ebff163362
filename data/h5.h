// Helpers around libhdf5: its lock, the half type, and its errors as sentences.
#pragma once
#include <hdf5.h>

// libhdf5 may be built without thread safety: make every call between these two. No nesting.
void h5_enter(void);
void h5_leave(void);

// For H5Fopen and H5Fcreate: shards never change and have a name of their own until they are complete, so that no lock
// is needed; some network file systems cannot lock.
void h5_without_locks(hid_t access);

// IEEE 754 binary16, which HDF5 1.10 has no name for; h5py reads it as float16. Do not close it.
hid_t h5_half(void);

// Dies with "PATH: <sentence> (<HDF5's own innermost reason>)".
void h5_die(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
