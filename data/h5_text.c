#include "data/h5_text.h"
#include "util/error.h"
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

hid_t h5_text_type(size_t length) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, length ? length : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

char *h5_text_pack(const char *const *texts, size_t count, size_t *length) {
    *length = 1;
    for (size_t i = 0; i < count; i++) { *length = strlen(texts[i]) > *length ? strlen(texts[i]) : *length; }
    char *padded = xcalloc(count ? count : 1, *length);
    for (size_t i = 0; i < count; i++) { memcpy(padded + i * *length, texts[i], strlen(texts[i])); }
    return padded;
}

static bool read_values(hid_t object, hid_t type, void *values) {
    return H5Iget_type(object) == H5I_ATTR ? H5Aread(object, type, values) >= 0
                                           : H5Dread(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
}

// A text of variable length is a pointer in memory, NULL for an empty one.
static bool read_variable(hid_t object, hid_t type, size_t count, char **texts) {
    char **read = xcalloc(count ? count : 1, sizeof *read);
    bool right = !count || read_values(object, type, read);
    for (size_t i = 0; i < count && right; i++) { texts[i] = xstrdup(read[i] ? read[i] : ""); }
    hsize_t all = count;
    hid_t space = H5Screate_simple(1, &all, NULL);
    if (right && count) { H5Dvlen_reclaim(type, space, H5P_DEFAULT, read); }
    H5Sclose(space);
    free(read);
    return right;
}

static bool read_fixed(hid_t object, hid_t type, size_t count, char **texts) {
    size_t length = H5Tget_size(type);
    if (length > INT_MAX / 32768) { return false; } // an attribute has at most 32767 texts
    char *padded = xmalloc(count ? count * length : 1);
    bool right = !count || read_values(object, type, padded);
    for (size_t i = 0; i < count && right; i++) { texts[i] = xprintf("%.*s", (int)length, padded + i * length); }
    free(padded);
    return right;
}

char **h5_text_read(hid_t object, size_t count) {
    hid_t stored = H5Iget_type(object) == H5I_ATTR ? H5Aget_type(object) : H5Dget_type(object);
    bool variable = H5Tis_variable_str(stored) > 0;
    hid_t type = h5_text_type(H5Tget_size(stored));
    if (variable) { H5Tset_size(type, H5T_VARIABLE); }
    H5Tset_cset(type, H5Tget_cset(stored)); // HDF5 converts no character sets; ASCII is UTF-8
    char **texts = xcalloc(count ? count : 1, sizeof *texts);
    bool right = variable ? read_variable(object, type, count, texts) : read_fixed(object, type, count, texts);
    H5Tclose(type);
    H5Tclose(stored);
    if (right) { return texts; }
    free(texts);
    return NULL;
}
