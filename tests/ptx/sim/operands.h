// What the arithmetic of integers and of floats shares.
#pragma once
#include "module.h"

namespace sim {

// A source that an instruction need not have: 0.
inline const Operand &operand_or_zero(const Instruction &i, size_t n) {
    static const Operand zero;
    return n < i.operands.size() ? i.operands[n] : zero;
}

inline u64 mask_of(Type type) { return type == Type::PRED ? 1 : ~0ull >> (64 - 8 * bytes_of(type)); }

// Calls f with a 0 of the C++ type of a PTX integer type.
template <class F> inline void with_integer(Type type, F f) {
    switch (type) {
    case Type::U8:
        f(u8());
        break;
    case Type::S8:
        f(s8());
        break;
    case Type::U16:
        f(u16());
        break;
    case Type::S16:
        f(s16());
        break;
    case Type::U32:
        f(u32());
        break;
    case Type::S32:
        f(s32());
        break;
    case Type::U64:
        f(u64());
        break;
    default:
        f(s64());
        break;
    }
}

} // namespace sim
