// Loads, stores, atomics and cp.async, each with the bounds, the alignment and the races of its accesses checked.
#include "launch.h"
#include "profile.h"
#include <algorithm>
#include <cstring>

namespace sim {

// ---- Addresses ------------------------------------------------------------------------------------------------------

u64 Launch::address(const Operand &o, int lane) const {
    if (o.slot < 0) { return o.value; }
    const u64 a = slot(o.slot)[lane] + o.value;
    return o.narrow ? (u32)a : a;
}

static std::string hexadecimal(u64 value) {
    char text[32];
    snprintf(text, sizeof text, "0x%llx", (unsigned long long)value);
    return text;
}

u8 *Launch::shared_memory(u64 offset, int bytes, bool write, int lane) {
    const u64 last = offset + (u64)bytes - 1;
    if (offset >= shared_bytes || last >= shared_bytes || !in_variable[offset] || !in_variable[last]) {
        fail("shared access out of bounds: offset " + hexadecimal(offset) + ", " + std::to_string(bytes) + " bytes",
             lane);
    }
    if (options.races) { touch_shared(offset, bytes, write, lane); }
    return &block->shared[offset];
}

u8 *Launch::global_memory(u64 a, int bytes, bool write, int lane) {
    const u64 end = a + (u64)bytes;
    if (a >= last_range.begin && end <= last_range.end) { return (u8 *)(uintptr_t)a; }
    auto after = std::upper_bound(ranges.begin(), ranges.end(), a, [](u64 v, const Range &r) { return v < r.begin; });
    if (after == ranges.begin() || end > (--after)->end) {
        std::string where;
        if (after != ranges.end() && after->begin <= a) {
            where = " (" + std::to_string((s64)(end - after->end)) + " bytes past the end of a buffer of " +
                    std::to_string(after->end - after->begin) + " bytes)";
        }
        fail(std::string("global ") + (write ? "write" : "read") + " out of bounds: " + hexadecimal(a) + where, lane);
    }
    last_range = *after;
    return (u8 *)(uintptr_t)a;
}

u8 *Launch::memory(Space space, u64 a, int bytes, bool write, int lane, bool aligned) {
    if (aligned && a % (u64)bytes) {
        fail("misaligned access of " + std::to_string(bytes) + " bytes at " + hexadecimal(a), lane);
    }
    if (space == Space::SHARED) { return shared_memory(a, bytes, write, lane); }
    if (space == Space::GLOBAL) { return global_memory(a, bytes, write, lane); }
    if (a + (u64)bytes > parameters.size()) { fail("kernel parameter access out of bounds", lane); }
    return &parameters[a];
}

// ---- Loads and stores -----------------------------------------------------------------------------------------------

// The elements of an operand that may be one register or a vector of them.
static const Operand *elements(const Operand &o) { return o.kind == Operand::VECTOR ? o.of.data() : &o; }

static u64 read_element(const u8 *p, Type type) {
    u64 value = 0;
    memcpy(&value, p, (size_t)bytes_of(type));
    switch (type) {
    case Type::S8:
        return (u64)(s8)value;
    case Type::S16:
        return (u64)(s16)value;
    case Type::S32:
        return (u64)(s32)value;
    default:
        return value;
    }
}

void Launch::load(const Instruction &i, u32 lanes) {
    const Operand *to = elements(i.operands[0]);
    const int size = bytes_of(i.type);
    u64 *values[4];
    for (int n = 0; n < i.vector; n++) { values[n] = destination(to[n]); }
    for_lanes(lanes, [&](int lane) {
        const u8 *p = memory(i.space, address(i.operands[1], lane), size * i.vector, false, lane);
        for (int n = 0; n < i.vector; n++) { values[n][lane] = read_element(p + n * size, i.type); }
    });
}

void Launch::store(const Instruction &i, u32 lanes) {
    const Operand *from = elements(i.operands[1]);
    const int size = bytes_of(i.type);
    u8 *to[WARP];
    for_lanes(lanes,
              [&](int lane) { to[lane] = memory(i.space, address(i.operands[0], lane), size * i.vector, true, lane); });
    for (int n = 0; n < i.vector; n++) {
        const Source values(*this, from[n]);
        for_lanes(lanes, [&](int lane) {
            const u64 value = values[lane];
            memcpy(to[lane] + n * size, &value, (size_t)size);
        });
    }
}

// atom.global.add.u32
void Launch::atomic_add(const Instruction &i, u32 lanes) {
    const Source addend(*this, i.operands[2]);
    u64 *before = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) {
        u8 *p = memory(Space::GLOBAL, address(i.operands[1], lane), sizeof(u32), true, lane);
        u32 value;
        memcpy(&value, p, sizeof value);
        before[lane] = value;
        value += (u32)addend[lane];
        memcpy(p, &value, sizeof value);
    });
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

// cp.async.cg.shared.global [to], [from], 16 [, bytes to read, the rest is zero]
void Launch::start_copies(const Instruction &i, u32 lanes) {
    const u8 bytes = (u8)i.operands[2].value;
    u64 from[WARP], to[WARP];
    u32 reading = 0;
    for_lanes(lanes, [&](int lane) {
        Copy copy = {address(i.operands[0], lane), address(i.operands[1], lane), bytes, bytes, &i};
        if (i.operands.size() > 3) { copy.read = (u8)std::min<u32>((u32)Source(*this, i.operands[3])[lane], bytes); }
        if (copy.from % bytes) { fail("misaligned source of cp.async", lane); }
        memory(Space::SHARED, copy.to, bytes, true, lane);
        for (u32 n = 0; n < bytes && options.races; n++) { block->shadow[copy.to + n].copying = true; }
        if (copy.read) {
            memory(Space::GLOBAL, copy.from, copy.read, false, lane, false);
            reading |= 1u << lane;
        }
        from[lane] = copy.from;
        to[lane] = copy.to;
        warp->copies[lane].push_back(copy);
    });
    if (!profiler) { return; }
    profiler->access(i, block->linear, Space::SHARED, STORE, lanes, to, bytes);
    if (reading) { profiler->access(i, block->linear, Space::GLOBAL, LOAD, reading, from, bytes); }
}

void Launch::commit_copies(u32 lanes) {
    for_lanes(lanes, [&](int lane) {
        u32 committed = 0;
        for (u32 n : warp->groups[lane]) { committed += n; }
        warp->groups[lane].push_back((u32)warp->copies[lane].size() - committed);
    });
}

// cp.async.wait_group N: all groups but the last N land.
void Launch::wait_for_copies(const Instruction &i, u32 lanes) {
    for_lanes(lanes, [&](int lane) {
        std::vector<Copy> &copies = warp->copies[lane];
        std::vector<u32> &groups = warp->groups[lane];
        while (groups.size() > i.operands[0].value) {
            for (u32 n = 0; n < groups[0]; n++) { land(copies[n], lane); }
            copies.erase(copies.begin(), copies.begin() + groups[0]);
            groups.erase(groups.begin());
        }
    });
}

void Launch::land(const Copy &copy, int lane) {
    const Instruction *const keep = current;
    current = copy.instruction; // for messages
    u8 data[16] = {};
    if (copy.read) { memcpy(data, memory(Space::GLOBAL, copy.from, copy.read, false, lane, false), copy.read); }
    for (u32 n = 0; n < copy.bytes && options.races; n++) { block->shadow[copy.to + n].copying = false; }
    memcpy(memory(Space::SHARED, copy.to, copy.bytes, true, lane), data, copy.bytes);
    current = keep;
}

// ---- For the profiler -----------------------------------------------------------------------------------------------

// Counts the accesses of an instruction; start_copies counts its own.
void Launch::profile_access(const Instruction &i, u32 lanes) {
    Direction direction = LOAD;
    int bytes = bytes_of(i.type) * i.vector, at = 1;
    switch (i.op) {
    case Op::LD:
        break;
    case Op::LDMATRIX:
        bytes = 16;
        break; // a lane's address is that of a row
    case Op::ATOM_ADD:
        direction = ATOMIC;
        break;
    case Op::ST:
        direction = STORE;
        at = 0;
        break;
    default:
        return;
    }
    if (i.space == Space::PARAM) { return; }
    u64 addresses[WARP];
    for_lanes(lanes, [&](int lane) { addresses[lane] = address(i.operands[(size_t)at], lane); });
    profiler->access(i, block->linear, i.space, direction, lanes, addresses, bytes);
}

} // namespace sim
