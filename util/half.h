// The 16-bit floats of files, without the compiler's _Float16 (gcc has it on x86 from 12 on, clang from 15 on). half is
// IEEE 754 binary16: 1 bit of sign, 5 of exponent with bias 15, 10 of mantissa, converted bit for bit as numpy's astype
// does; bfloat16 is the upper half of a float. Both round to nearest, ties to even. Loops over these functions become
// SIMD code.
#pragma once
#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A NaN keeps its sign and the upper ten bits of its mantissa, of which the last is set where all would be 0.
static inline uint16_t float_to_half(float x) {
    uint32_t bits = float_bits(x), a = bits & 0x7fffffff, payload = a >> 13 & 0x3ff;
    uint32_t normal = (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13; // the exponent's bias from 127 to 15
    // The last bit of a subnormal half and that of 0.5 as a float are 2^-24: the addition rounds.
    uint32_t subnormal = float_bits(bits_float(a) + 0.5f) - float_bits(0.5f);
    uint32_t half = a < float_bits(0x1p-14f) ? subnormal : normal;
    half = a >= float_bits(65520.0f) ? 0x7c00 : half; // halfway to the next power of two, and beyond
    half = a > 0x7f800000 ? 0x7c00 | payload | (payload == 0) : half;
    return (uint16_t)((bits >> 16 & 0x8000) | half);
}

static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, a = (uint32_t)(half & 0x7fff) << 13;
    uint32_t scaled = float_bits(bits_float(a) * 0x1p112f); // the exponent's bias from 15 to 127, subnormals included
    return bits_float(sign | (a >= 0x7c00u << 13 ? a | 0x7f800000 : scaled));
}

// A NaN stays one: its mantissa's first bit is set.
static inline uint16_t float_to_bfloat16(float x) {
    uint32_t bits = float_bits(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) >> 16);
}

static inline float bfloat16_to_float(uint16_t bits) { return bits_float((uint32_t)bits << 16); }
