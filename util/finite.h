// Numbers that are no numbers: NaN and infinity.
#pragma once
#include "util/host_device.h"
#include <stddef.h>

// The index of the first value that is not finite, or n. As fast as memory: it looks at the exponents of many at once.
static inline size_t first_not_finite(const float *values, size_t n) {
    enum { BLOCK = 4096 };
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t end = n - at < BLOCK ? n : at + BLOCK;
        uint32_t found = 0;
        for (size_t i = at; i < end; i++) { found |= (float_bits(values[i]) & 0x7f800000) == 0x7f800000; }
        for (size_t i = at; found && i < end; i++) {
            if ((float_bits(values[i]) & 0x7f800000) == 0x7f800000) { return i; }
        }
    }
    return n;
}
