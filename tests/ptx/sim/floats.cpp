// Floats and conversions. Approximate functions are computed exactly and rounded once.
#include "launch.h"
#include "number.h"
#include "operands.h"
#include <algorithm>
#include <limits>

namespace sim {

// ---- Floats ---------------------------------------------------------------------------------------------------------

// A NaN loses, and -0 is less than 0.
template <class T> static T lesser(T a, T b) {
    if (std::isnan(a) || std::isnan(b)) { return std::isnan(a) ? b : a; }
    if (a == b) { return std::signbit(a) ? a : b; }
    return std::min(a, b);
}
template <class T> static T greater(T a, T b) { return -lesser(-a, -b); }

void Launch::floats(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, operand_or_zero(i, 2)), z(*this, operand_or_zero(i, 3));
    u64 *to = destination(i.operands[0]);
    auto each = [&](auto f) {
        for_lanes(lanes,
                  [&](int lane) { to[lane] = bits_of(f(float_of(x[lane]), float_of(y[lane]), float_of(z[lane]))); });
    };
    auto function = [&](double (*f)(double)) {
        each([&](float a, float, float) {
            const float value = (float)f((double)(i.flush ? flush_denormal(a) : a));
            return i.flush ? flush_denormal(value) : value;
        });
    };
    const RoundingScope scope(i.rounding);
    switch (i.op) {
    case Op::ADD:
        each([](float a, float b, float) { return a + b; });
        break;
    case Op::SUB:
        each([](float a, float b, float) { return a - b; });
        break;
    case Op::MUL:
        each([](float a, float b, float) { return a * b; });
        break;
    case Op::MAD:
        each([](float a, float b, float c) { return std::fma(a, b, c); });
        break;
    case Op::DIV:
        each([](float a, float b, float) { return a / b; });
        break;
    case Op::MIN:
        each([](float a, float b, float) { return lesser(a, b); });
        break;
    case Op::MAX:
        each([](float a, float b, float) { return greater(a, b); });
        break;
    case Op::RCP:
        each([](float a, float, float) { return 1 / a; });
        break;
    case Op::SQRT:
        each([](float a, float, float) { return std::sqrt(a); });
        break;
    case Op::EX2:
        function([](double a) { return std::exp2(a); });
        break;
    case Op::LG2:
        function([](double a) { return std::log2(a); });
        break;
    case Op::NEG:
        for_lanes(lanes, [&](int lane) { to[lane] = (u32)x[lane] ^ 1u << 31; });
        break;
    case Op::ABS:
        for_lanes(lanes, [&](int lane) { to[lane] = (u32)x[lane] & ~(1u << 31); });
        break;
    default:
        unsupported(i);
    }
}

void Launch::doubles(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, operand_or_zero(i, 2)), z(*this, operand_or_zero(i, 3));
    u64 *to = destination(i.operands[0]);
    auto each = [&](auto f) {
        for_lanes(lanes,
                  [&](int lane) { to[lane] = bits_of(f(double_of(x[lane]), double_of(y[lane]), double_of(z[lane]))); });
    };
    const RoundingScope scope(i.rounding);
    switch (i.op) {
    case Op::ADD:
        each([](double a, double b, double) { return a + b; });
        break;
    case Op::SUB:
        each([](double a, double b, double) { return a - b; });
        break;
    case Op::MUL:
        each([](double a, double b, double) { return a * b; });
        break;
    case Op::MAD:
        each([](double a, double b, double c) { return std::fma(a, b, c); });
        break;
    case Op::DIV:
        each([](double a, double b, double) { return a / b; });
        break;
    case Op::MIN:
        each([](double a, double b, double) { return lesser(a, b); });
        break;
    case Op::MAX:
        each([](double a, double b, double) { return greater(a, b); });
        break;
    case Op::RCP:
        each([](double a, double, double) { return 1 / a; });
        break;
    case Op::SQRT:
        each([](double a, double, double) { return std::sqrt(a); });
        break;
    case Op::NEG:
        for_lanes(lanes, [&](int lane) { to[lane] = x[lane] ^ 1ull << 63; });
        break;
    case Op::ABS:
        for_lanes(lanes, [&](int lane) { to[lane] = x[lane] & ~(1ull << 63); });
        break;
    default:
        unsupported(i);
    }
}

// ---- Conversions ----------------------------------------------------------------------------------------------------

static u64 bits_as(Type type, double value) {
    switch (type) {
    case Type::F32:
        return bits_of((float)value);
    case Type::F64:
        return bits_of(value);
    default:
        return bf16_of((float)value);
    }
}

void Launch::convert(const Instruction &i, u32 lanes) {
    if (is_float(i.from)) { return convert_from_float(i, lanes); }
    const Source from(*this, i.operands[1]);
    u64 *to = destination(i.operands[0]);
    with_integer(i.from, [&](auto zero) {
        using S = decltype(zero);
        if (i.type == Type::F32) {
            for_lanes(lanes, [&](int lane) { to[lane] = bits_of((float)(S)from[lane]); });
        } else if (i.type == Type::F64) {
            for_lanes(lanes, [&](int lane) { to[lane] = bits_of((double)(S)from[lane]); });
        } else if (is_float(i.type) || i.saturate) {
            unsupported(i);
        } else {
            with_integer(i.type, [&](auto other) {
                for_lanes(lanes, [&](int lane) { to[lane] = (u64)(decltype(other))(S)from[lane]; });
            });
        }
    });
}

// The nearest number of type T; NaN becomes 0, or the least number of 64 bits.
template <class T> static u64 integer_of(double value) {
    if (std::isnan(value)) { return sizeof(T) == 8 ? 1ull << 63 : 0; }
    if (value <= (double)std::numeric_limits<T>::min()) { return (u64)std::numeric_limits<T>::min(); }
    if (value >= (double)std::numeric_limits<T>::max()) { return (u64)std::numeric_limits<T>::max(); }
    return (u64)(T)value;
}

void Launch::convert_from_float(const Instruction &i, u32 lanes) {
    const Source from(*this, i.operands[1]), second(*this, operand_or_zero(i, 2));
    u64 *to = destination(i.operands[0]);
    auto rounded = [&](u64 bits) {
        double value = value_of(i.from, bits);
        if (i.rounding == Rounding::TO_INTEGER) { value = std::nearbyint(value); }
        if (i.rounding == Rounding::TO_ZERO_INTEGER) { value = std::trunc(value); }
        if (i.saturate) { value = std::isnan(value) ? 0 : std::min(1.0, std::max(0.0, value)); }
        return value;
    };
    if (i.from != Type::F32 && i.from != Type::F64) { unsupported(i); }
    if (i.type == Type::BF16X2) { // the first source is the upper half
        for_lanes(lanes, [&](int lane) {
            to[lane] = (u64)bf16_of(float_of(from[lane])) << 16 | bf16_of(float_of(second[lane]));
        });
    } else if (is_float(i.type)) {
        if (i.type == Type::BF16 && i.from == Type::F64) { unsupported(i); } // it would round twice
        for_lanes(lanes, [&](int lane) { to[lane] = bits_as(i.type, rounded(from[lane])); });
    } else {
        with_integer(i.type, [&](auto zero) {
            for_lanes(lanes, [&](int lane) { to[lane] = integer_of<decltype(zero)>(rounded(from[lane])); });
        });
    }
}

} // namespace sim
