// What the sanitizers' runtimes ask a program that is built with them (make DEBUG=1); nothing in other builds.
#include "util/error.h"
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1 // gcc's word for it
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__lsan_default_suppressions(void);
int __lsan_is_turned_off(void);

// An allocation that is too large fails as it does without the sanitizer: the program has a sentence for it.
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

// Undefined behaviour ends the program: a test must see it.
const char *__ubsan_default_options(void) { return "halt_on_error=1:print_stacktrace=1"; }

// What lives until the process ends, by design.
const char *__lsan_default_suppressions(void) {
    return "leak:libfontconfig\n" // the configuration and patterns that cairo's fonts use
           "leak:libpopt\n";      // an option's value and the rest of the arguments (options_parse)
}

// Asked at exit: what a program holds that dies of a user's mistake is no leak.
int __lsan_is_turned_off(void) { return error_died(); }
#endif
