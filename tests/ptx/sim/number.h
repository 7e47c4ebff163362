// Numbers in registers: the bits of floats, bf16, and the rounding of the host's arithmetic.
#pragma once
#include "module.h"
#include <cfenv>
#include <cmath>
#include <cstring>

namespace sim {

inline float float_of(u64 bits) {
    const u32 low = (u32)bits;
    float f;
    memcpy(&f, &low, sizeof f);
    return f;
}

// The GPU's arithmetic makes only this NaN.
inline u64 bits_of(float f) {
    if (std::isnan(f)) { return 0x7fffffff; }
    u32 bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

inline double double_of(u64 bits) {
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

inline u64 bits_of(double d) {
    u64 bits;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}

inline double value_of(Type type, u64 bits) { return type == Type::F64 ? double_of(bits) : (double)float_of(bits); }

inline float float_of_bf16(u64 bits) { return float_of((bits & 0xffff) << 16); }

inline u16 bf16_of(float f) {
    if (std::isnan(f)) { return 0x7fff; }
    const u32 bits = (u32)bits_of(f);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float flush_denormal(float f) { return std::fpclassify(f) == FP_SUBNORMAL ? std::copysign(0.f, f) : f; }

// Sets the host's rounding while it lives. This file's users are compiled with -frounding-math.
class RoundingScope {
  public:
    explicit RoundingScope(Rounding r) {
        const int mode = r == Rounding::TO_ZERO ? FE_TOWARDZERO
                         : r == Rounding::DOWN  ? FE_DOWNWARD
                         : r == Rounding::UP    ? FE_UPWARD
                                                : FE_TONEAREST;
        if (mode == FE_TONEAREST) { return; }
        changed = true;
        fesetround(mode);
    }
    ~RoundingScope() {
        if (changed) { fesetround(FE_TONEAREST); }
    }

  private:
    bool changed = false;
};

} // namespace sim
