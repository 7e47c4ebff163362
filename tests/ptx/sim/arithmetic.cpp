// The straight instructions of a warp: moves, integers, predicates, comparisons. floats.cpp has the others.
#include "launch.h"
#include "number.h"
#include "operands.h"
#include <algorithm>
#include <type_traits>

namespace sim {

// ---- Operands -------------------------------------------------------------------------------------------------------

u64 Launch::special(const Operand &o, int lane) const {
    const u32 t = (u32)(warp->index * WARP + lane);
    const u32 thread[3] = {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
    switch (o.special) {
    case Special::THREAD:
        return thread[o.axis];
    case Special::BLOCK:
        return block->index[o.axis];
    case Special::BLOCK_SIZE:
        return block_size[o.axis];
    default:
        return grid[o.axis];
    }
}

Launch::Source::Source(const Launch &launch, const Operand &o) {
    if (o.kind == Operand::REGISTER) {
        values = launch.slot(o.slot);
    } else if (o.kind == Operand::SPECIAL) {
        for (int lane = 0; lane < WARP; lane++) { own[lane] = launch.special(o, lane); }
        values = own;
    } else if (o.kind == Operand::IMMEDIATE) {
        own[0] = o.value;
        values = own;
        stride = 0;
    } else {
        launch.unsupported(*launch.current);
    }
}

u64 *Launch::destination(const Operand &o) const {
    if (o.kind != Operand::REGISTER) { unsupported(*current); }
    return &warp->registers[(size_t)o.slot * WARP];
}

void Launch::execute(const Instruction &i, u32 lanes) {
    switch (i.op) {
    case Op::LD:
        load(i, lanes);
        break;
    case Op::ST:
        store(i, lanes);
        break;
    case Op::ATOM_ADD:
        atomic_add(i, lanes);
        break;
    case Op::CP_ASYNC:
        start_copies(i, lanes);
        break;
    case Op::CP_COMMIT:
        commit_copies(lanes);
        break;
    case Op::CP_WAIT:
        wait_for_copies(i, lanes);
        break;
    case Op::MOV:
    case Op::CVTA:
        move(i, lanes);
        break;
    case Op::CVT:
        convert(i, lanes);
        break;
    case Op::SETP:
        compare(i, lanes);
        break;
    case Op::SELP:
        select(i, lanes);
        break;
    case Op::BFI:
    case Op::BFIND:
    case Op::BREV:
    case Op::PRMT:
        bits(i, lanes);
        break;
    default:
        if (i.type == Type::PRED) {
            predicates(i, lanes);
        } else if (i.type == Type::F32) {
            floats(i, lanes);
        } else if (i.type == Type::F64) {
            doubles(i, lanes);
        } else if (i.op == Op::MUL || i.op == Op::MAD) {
            multiply(i, lanes);
        } else {
            integers(i, lanes);
        }
    }
}

// ---- Moves ----------------------------------------------------------------------------------------------------------

void Launch::move(const Instruction &i, u32 lanes) {
    if (i.operands[0].kind == Operand::VECTOR) { return unpack(i, lanes); }
    if (i.operands[1].kind == Operand::VECTOR) { return pack(i, lanes); }
    const Source from(*this, i.operands[1]);
    u64 *to = destination(i.operands[0]);
    const u64 mask = mask_of(i.type);
    for_lanes(lanes, [&](int lane) { to[lane] = from[lane] & mask; });
}

// mov.b64 {%r1, %r2}, %rd1: the low part first
void Launch::unpack(const Instruction &i, u32 lanes) {
    const std::vector<Operand> &to = i.operands[0].of;
    const int width = 8 * bytes_of(i.type) / (int)to.size();
    const Source from(*this, i.operands[1]);
    u64 values[WARP]; // the source may be among the destinations
    for_lanes(lanes, [&](int lane) { values[lane] = from[lane]; });
    for (size_t n = 0; n < to.size(); n++) {
        u64 *part = destination(to[n]);
        for_lanes(lanes, [&](int lane) { part[lane] = values[lane] >> n * (size_t)width & ~0ull >> (64 - width); });
    }
}

void Launch::pack(const Instruction &i, u32 lanes) {
    const std::vector<Operand> &from = i.operands[1].of;
    const int width = 8 * bytes_of(i.type) / (int)from.size();
    u64 values[WARP] = {};
    for (size_t n = 0; n < from.size(); n++) {
        const Source part(*this, from[n]);
        for_lanes(lanes, [&](int lane) { values[lane] |= (part[lane] & ~0ull >> (64 - width)) << n * (size_t)width; });
    }
    u64 *to = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) { to[lane] = values[lane]; });
}

void Launch::select(const Instruction &i, u32 lanes) {
    const Source yes(*this, i.operands[1]), no(*this, i.operands[2]), predicate(*this, i.operands[3]);
    u64 *to = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) { to[lane] = predicate[lane] & 1 ? yes[lane] : no[lane]; });
}

// ---- Integers -------------------------------------------------------------------------------------------------------

void Launch::integers(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, operand_or_zero(i, 2));
    u64 *to = destination(i.operands[0]);
    with_integer(i.type, [&](auto zero) {
        using T = decltype(zero);
        using U = std::make_unsigned_t<T>;
        enum { BITS = 8 * sizeof(T) };
        auto each = [&](auto f) { for_lanes(lanes, [&](int lane) { to[lane] = (u64)(T)f((T)x[lane], (T)y[lane]); }); };
        auto shift = [&](auto f) { // the distance has 32 bits, whatever the type
            for_lanes(lanes, [&](int lane) { to[lane] = (u64)(T)f((T)x[lane], (u32)y[lane]); });
        };
        const bool overflows = std::is_signed<T>::value; // the least number by -1
        switch (i.op) {
        case Op::ADD:
            each([](T a, T b) { return (U)a + (U)b; });
            break;
        case Op::SUB:
            each([](T a, T b) { return (U)a - (U)b; });
            break;
        case Op::DIV:
            each([=](T a, T b) { return !b ? (T)-1 : overflows && b == (T)-1 ? (T)(0 - (U)a) : (T)(a / b); });
            break;
        case Op::REM:
            each([=](T a, T b) { return !b ? a : overflows && b == (T)-1 ? (T)0 : (T)(a % b); });
            break;
        case Op::MIN:
            each([](T a, T b) { return std::min(a, b); });
            break;
        case Op::MAX:
            each([](T a, T b) { return std::max(a, b); });
            break;
        case Op::ABS:
            each([](T a, T) { return a < (T)0 ? (T)(0 - (U)a) : a; });
            break;
        case Op::NEG:
            each([](T a, T) { return 0 - (U)a; });
            break;
        case Op::AND:
            each([](T a, T b) { return a & b; });
            break;
        case Op::OR:
            each([](T a, T b) { return a | b; });
            break;
        case Op::XOR:
            each([](T a, T b) { return a ^ b; });
            break;
        case Op::NOT:
            each([](T a, T) { return ~a; });
            break;
        case Op::SHL:
            shift([](T a, u32 n) { return n >= BITS ? (T)0 : (T)((U)a << n); });
            break;
        case Op::SHR:
            shift([](T a, u32 n) { return n >= BITS ? (T)(a < (T)0 ? -1 : 0) : (T)(a >> n); });
            break;
        default:
            unsupported(i);
        }
    });
}

// mul.lo, mul.hi, mul.wide, mad.lo
void Launch::multiply(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, i.operands[2]), z(*this, operand_or_zero(i, 3));
    u64 *to = destination(i.operands[0]);
    with_integer(i.type, [&](auto zero) {
        using T = decltype(zero);
        using Wide = std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>;
        for_lanes(lanes, [&](int lane) {
            const Wide product = (Wide)(T)x[lane] * (T)y[lane];
            if (i.wide) {
                to[lane] = sizeof(T) == 2 ? (u32)product : (u64)product;
            } else {
                to[lane] = (u64)(T)((i.high ? (u64)(product >> 8 * sizeof(T)) : (u64)product) + z[lane]);
            }
        });
    });
}

void Launch::predicates(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, operand_or_zero(i, 2));
    u64 *to = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) {
        const u64 a = x[lane] & 1, b = y[lane] & 1;
        to[lane] = i.op == Op::NOT ? !a : i.op == Op::AND ? a & b : i.op == Op::OR ? a | b : a ^ b;
    });
}

// prmt: each byte of the result is chosen among eight; bit 3 of the choice repeats its sign.
static u32 permute(u32 low, u32 high, u32 choices) {
    const u64 both = low | (u64)high << 32;
    u32 out = 0;
    for (int n = 0; n < 4; n++) {
        const u32 choice = choices >> 4 * n & 15;
        u8 byte = (u8)(both >> 8 * (choice & 7));
        if (choice & 8) { byte = byte & 0x80 ? 0xff : 0; }
        out |= (u32)byte << 8 * n;
    }
    return out;
}

static u32 reversed(u32 a) {
    u32 out = 0;
    for (int n = 0; n < 32; n++) { out |= (a >> n & 1) << (31 - n); }
    return out;
}

// Bits `at` to `at + count - 1` of `into` are replaced by the lowest ones of `from`.
static u64 insert_bits(u64 from, u64 into, u32 at, u32 count, u32 width) {
    at &= 255;
    count = std::min(count & 255, at < width ? width - at : 0);
    if (!count) { return into; }
    const u64 field = ~0ull >> (64 - count) << at;
    return (into & ~field) | (from << at & field);
}

void Launch::bits(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, operand_or_zero(i, 2)), z(*this, operand_or_zero(i, 3));
    const Source w(*this, operand_or_zero(i, 4));
    u64 *to = destination(i.operands[0]);
    const u32 width = 8 * (u32)bytes_of(i.type);
    for_lanes(lanes, [&](int lane) {
        const u64 a = x[lane] & mask_of(i.type), b = y[lane] & mask_of(i.type);
        switch (i.op) {
        case Op::BFI:
            to[lane] = insert_bits(a, b, (u32)z[lane], (u32)w[lane], width);
            break;
        case Op::BFIND:
            to[lane] = a ? (u64)__builtin_clz((u32)a) : 0xffffffff;
            break; // by how much to shift it left
        case Op::BREV:
            to[lane] = reversed((u32)a);
            break;
        default:
            to[lane] = permute((u32)a, (u32)b, (u32)z[lane]);
            break;
        }
    });
}

// ---- Comparisons ----------------------------------------------------------------------------------------------------

void Launch::compare(const Instruction &i, u32 lanes) {
    const Source x(*this, i.operands[1]), y(*this, i.operands[2]);
    u64 *to = destination(i.operands[0]);
    auto each = [&](auto value_of_bits) {
        auto all = [&](auto f) {
            for_lanes(lanes, [&](int lane) { to[lane] = f(value_of_bits(x[lane]), value_of_bits(y[lane])); });
        };
        switch (i.compare) {
        case Compare::EQ:
            all([](auto a, auto b) { return a == b; });
            break;
        case Compare::NE:
            all([](auto a, auto b) { return a < b || a > b; });
            break; // false for a NaN
        case Compare::LT:
            all([](auto a, auto b) { return a < b; });
            break;
        case Compare::LE:
            all([](auto a, auto b) { return a <= b; });
            break;
        case Compare::GT:
            all([](auto a, auto b) { return a > b; });
            break;
        case Compare::GE:
            all([](auto a, auto b) { return a >= b; });
            break;
        case Compare::NONE:
            all([](auto, auto) { return false; });
            break;
        }
    };
    if (i.operands[0].second >= 0) { unsupported(i); }
    if (!is_float(i.type)) {
        with_integer(i.type, [&](auto zero) { each([](u64 bits) { return (decltype(zero))bits; }); });
        return;
    }
    each([&](u64 bits) { return value_of(i.type, bits); });
    if (!i.or_unordered) { return; }
    for_lanes(lanes, [&](int lane) {
        to[lane] |= std::isnan(value_of(i.type, x[lane])) || std::isnan(value_of(i.type, y[lane]));
    });
}

} // namespace sim
