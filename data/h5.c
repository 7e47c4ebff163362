#include "data/h5.h"
#include "util/error.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static hid_t half;

// The layout of binary16: sign bit 15, 5 bits of exponent from bit 10, 10 bits of mantissa, bias 15.
static hid_t make_half(void) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    return type;
}

void h5_enter(void) {
    pthread_mutex_lock(&lock);
    static bool started = false;
    if (!started) {
        started = true;
        H5dont_atexit(); // nothing is pending at exit, and another thread may still be inside HDF5
        H5open();
        half = make_half();
    }
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); // thread-safe builds have a stack of errors per thread
}

void h5_leave(void) { pthread_mutex_unlock(&lock); }

void h5_without_locks(hid_t access) {
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(access, 0, 1);
#else
    (void)access;
#endif
}

hid_t h5_half(void) { return half; }

// The innermost error. A system error ("..., error message = 'No space left on device', ...") is cut to its message.
static herr_t keep_innermost(unsigned n, const H5E_error2_t *error, void *text) {
    if (n > 0 || !error->desc) { return 0; }
    const char *system = strstr(error->desc, "error message = '");
    const char *from = system ? strchr(system, '\'') + 1 : error->desc;
    snprintf(text, 256, "%.*s", (int)strcspn(from, system ? "'\n" : "\n"), from);
    return 0;
}

void h5_die(const char *path, const char *format, ...) {
    char reason[256] = "HDF5 gives no reason", sentence[512];
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, reason);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    die("%s: %s (%s)", path, sentence, reason);
}
