// Conversion of the 16-bit floats in files, without the compiler's _Float16 (which on x86 needs gcc 12 or clang 15).
// half is IEEE 754 binary16: 1 sign bit, 5 exponent bits with bias 15, 10 mantissa bits; the conversion gives the same
// bits as numpy's astype. bfloat16 is the upper half of a float. Both round to nearest, ties to even. Compilers turn
// loops over these functions into SIMD code.
#pragma once
#include "util/host_device.h"

// A NaN keeps its sign and the upper ten bits of its mantissa; if these are all 0, the last one is set.
static inline uint16_t float_to_half(float x) {
    uint32_t bits = float_bits(x), a = bits & 0x7fffffff, payload = a >> 13 & 0x3ff;
    uint32_t normal = (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13; // the exponent's bias from 127 to 15
    // The last bit is 2^-24 both in a subnormal half and in the float 0.5, so the addition rounds as needed.
    uint32_t subnormal = float_bits(bits_float(a) + 0.5f) - float_bits(0.5f);
    uint32_t half = a < float_bits(0x1p-14f) ? subnormal : normal;
    half = a >= float_bits(65520.0f) ? 0x7c00 : half; // halfway from the largest half to the next power of two
    half = a > 0x7f800000 ? 0x7c00 | payload | (payload == 0) : half;
    return (uint16_t)((bits >> 16 & 0x8000) | half);
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, a = (uint32_t)(half & 0x7fff) << 13;
    uint32_t scaled = float_bits(bits_float(a) * 0x1p112f); // the exponent's bias from 15 to 127, subnormals included
    return bits_float(sign | (a >= 0x7c00u << 13 ? a | 0x7f800000 : scaled));
}

// Sets the first mantissa bit of a NaN, so that it remains a NaN.
static inline uint16_t float_to_bfloat16(float x) {
    uint32_t bits = float_bits(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) >> 16);
}

static inline float bfloat16_to_float(uint16_t bits) { return bits_float((uint32_t)bits << 16); }
