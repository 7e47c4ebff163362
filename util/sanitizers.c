// Functions that the sanitizers' runtimes call (make DEBUG=1). Other builds contain none of this.
#include "util/error.h"
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1 // gcc's macro
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__lsan_default_suppressions(void);
int __lsan_is_turned_off(void);

// An allocation that is too large returns NULL, as without the sanitizer: the program prints its own error.
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

// Undefined behaviour ends the program, so that tests fail.
const char *__ubsan_default_options(void) { return "halt_on_error=1:print_stacktrace=1"; }

// Memory that lives until the process ends, by design.
const char *__lsan_default_suppressions(void) {
    return "leak:libfontconfig\n" // the configuration and patterns that cairo's fonts use
           "leak:libpopt\n";      // an option's value and the rest of the arguments (options_parse)
}

// Called at exit. Memory that is still allocated after die() is not a leak.
int __lsan_is_turned_off(void) { return error_died(); }
#endif
