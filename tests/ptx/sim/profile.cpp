// Counting. Memory is counted by sectors of 32 bytes; each remembers which block touched it last, so that it is known
// whether L1 may have it and whether the launch has read it before.
#include "profile.h"
#include <algorithm>
#include <cstring>
#include <cxxabi.h>
#include <unordered_map>

namespace sim {

// ---- Who touched which sector ---------------------------------------------------------------------------------------

namespace {

enum { SECTOR = 32, LINE = 128, PAGE_SECTORS = 2048, RECENT = 64 };

// Blocks are numbered through all launches; 0: none.
struct Page {
    u32 reader[PAGE_SECTORS], writer[PAGE_SECTORS];
};

class Sectors {
  public:
    // The stamp of the first of `blocks` new blocks.
    u32 begin(u64 blocks) {
        if (next + blocks > UINT32_MAX) {
            pages.clear();
            memset(recent, 0, sizeof recent);
            next = 1;
        }
        next += (u32)blocks;
        return next - (u32)blocks;
    }
    Page *page(u64 index) {
        const u64 n = index % RECENT;
        if (!recent[n] || recent_index[n] != index) {
            auto &entry = pages[index];
            if (!entry) { entry.reset(new Page()); }
            recent[n] = entry.get();
            recent_index[n] = index;
        }
        return recent[n];
    }

  private:
    std::unordered_map<u64, std::unique_ptr<Page>> pages;
    Page *recent[RECENT] = {};
    u64 recent_index[RECENT];
    u32 next = 1;
} sectors;

// What one access touches: keys with a mask each. A lane's 16 bytes are in at most two sectors.
struct SmallSet {
    u64 keys[2 * WARP];
    u32 masks[2 * WARP];
    int count = 0;
    u32 &mask(u64 key) {
        int n = count - 1;
        while (n >= 0 && keys[n] != key) { n--; }
        if (n < 0) {
            n = count++;
            keys[n] = key;
            masks[n] = 0;
        }
        return masks[n];
    }
};

// Without return type, parameters and unnamed namespaces: "void forward<3>(float *, int)" becomes "forward<3>".
std::string readable(const std::string &mangled) {
    int status;
    char *demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    std::string name = demangled ? demangled : mangled;
    free(demangled);
    for (size_t at; (at = name.find("(anonymous namespace)::")) != std::string::npos;) { name.erase(at, 23); }
    size_t begin = 0, end = name.size();
    int depth = 0;
    for (size_t n = 0; n < end; n++) {
        depth += (name[n] == '<') - (name[n] == '>');
        if (depth) { continue; }
        if (name[n] == '(') { end = n; }
        if (name[n] == ' ') { begin = n + 1; }
    }
    return name.substr(begin, end - begin);
}

} // namespace

void Counters::add(const Counters &other) {
    static_assert(std::is_trivially_copyable<Counters>::value && sizeof(Counters) % sizeof(u64) == 0, "u64 only");
    u64 *to = (u64 *)this;
    const u64 *from = (const u64 *)&other;
    for (size_t n = 0; n < sizeof *this / sizeof *to; n++) { to[n] += from[n]; }
}

std::map<std::string, KernelCounts> &profiled() {
    static std::map<std::string, KernelCounts> kernels;
    return kernels;
}

// ---- Accesses -------------------------------------------------------------------------------------------------------

Profiler::Profiler(const Module &m, const Kernel &k, Dim g, Dim b, size_t bytes)
    : module(m), kernel(k), grid(g), block_size(b), dynamic_shared(bytes), first_stamp(sectors.begin(g.count())),
      records(m.code.size()) {}

void Profiler::executed(const Instruction &i, u32 lanes, u32 active) {
    Record &record = record_of(i);
    record.count++;
    record.lanes += (u64)__builtin_popcount(active);
    counters.lanes += (u64)__builtin_popcount(lanes);
}

void Profiler::access(const Instruction &i, u32 block, Space space, Direction direction, u32 lanes,
                      const u64 *addresses, int bytes) {
    record_of(i).accesses.requests++;
    if (space == Space::SHARED) {
        shared_access(i, direction, lanes, addresses, bytes);
    } else {
        global_access(i, block, direction, lanes, addresses, bytes);
    }
}

void Profiler::global_access(const Instruction &i, u32 block, Direction direction, u32 lanes, const u64 *addresses,
                             int bytes) {
    SmallSet used, lines; // sectors with a mask of their bytes; lines of 128 bytes
    for_lanes(lanes, [&](int lane) {
        for (u64 at = addresses[lane], end = at + (u64)bytes; at < end;) {
            const u64 first = at % SECTOR, length = std::min<u64>(end - at, SECTOR - first);
            used.mask(at / SECTOR) |= (u32)(~0ull >> (64 - length) << first);
            lines.mask(at / LINE) = 1;
            at += length;
        }
    });
    u64 used_bytes = 0;
    for (int n = 0; n < used.count; n++) {
        used_bytes += (u64)__builtin_popcount(used.masks[n]);
        touch_sector(used.keys[n], block, i.past_l1 || direction != LOAD, direction);
    }
    GlobalCounts &g = counters.global[direction];
    g.requests++;
    g.lanes += (u64)__builtin_popcount(lanes);
    g.bytes += (u64)bytes * (u64)__builtin_popcount(lanes);
    g.used_bytes += used_bytes;
    g.sectors += (u64)used.count;
    if (i.op != Op::CP_ASYNC) { g.lines += (u64)lines.count; }
    record_of(i).accesses.sectors += (u64)used.count;
    record_of(i).accesses.ideal_sectors += (used_bytes + SECTOR - 1) / SECTOR;
}

void Profiler::touch_sector(u64 sector, u32 block, bool past_l1, Direction direction) {
    Page *page = sectors.page(sector / PAGE_SECTORS);
    u32 &reader = page->reader[sector % PAGE_SECTORS], &writer = page->writer[sector % PAGE_SECTORS];
    const u32 stamp = first_stamp + block;
    GlobalCounts &g = counters.global[direction];
    if (direction != STORE) {
        counters.unique_reads += reader < first_stamp;
        counters.reread_own += reader < first_stamp && writer >= first_stamp;
        g.l2_sectors += past_l1 || reader != stamp;
        reader = stamp;
    }
    if (direction != LOAD) {
        counters.unique_writes += writer < first_stamp;
        g.l2_sectors += direction == STORE;
        writer = stamp;
    }
}

// 32 banks of 4 bytes. A wavefront is at most 128 bytes: 32 lanes of 4 bytes, 16 of 8, or 8 of 16; lanes on one word
// share it.
void Profiler::shared_access(const Instruction &i, Direction direction, u32 lanes, const u64 *addresses, int bytes) {
    const int together = bytes <= 4 ? WARP : 128 / bytes, words = std::max(1, bytes / 4);
    u64 wavefronts = 0, ideal = 0;
    for (int first = 0; first < WARP; first += together) {
        const u32 phase = together == WARP ? lanes : lanes >> first & ((1u << together) - 1);
        if (!phase) { continue; }
        u32 distinct[32][32];
        u8 count[32] = {}, most = 1;
        for_lanes(phase, [&](int lane) {
            for (int n = 0; n < words; n++) {
                const u32 word = (u32)(addresses[first + lane] / 4) + (u32)n, bank = word % 32;
                u32 *end = distinct[bank] + count[bank];
                if (std::find(distinct[bank], end, word) != end) { continue; }
                *end = word;
                most = std::max(most, ++count[bank]);
            }
        });
        wavefronts += most;
        ideal++;
    }
    SharedCounts &s = counters.shared[direction];
    s.requests++;
    s.wavefronts += wavefronts;
    s.ideal += ideal;
    record_of(i).accesses.wavefronts += wavefronts;
    record_of(i).accesses.ideal_wavefronts += ideal;
}

// ---- The end of a launch --------------------------------------------------------------------------------------------

void Profiler::count_work(const Instruction &i, const Record &record) {
    const bool sum = i.op == Op::ADD || i.op == Op::SUB || i.op == Op::MUL || i.op == Op::MAD;
    const bool function = i.op == Op::RCP || i.op == Op::SQRT || i.op == Op::EX2 || i.op == Op::LG2 || i.op == Op::DIV;
    const bool compared = i.op == Op::MIN || i.op == Op::MAX || i.op == Op::ABS || i.op == Op::NEG;
    const u64 flops = sum ? (i.op == Op::MAD ? 2 : 1) * record.lanes : 0;
    if (i.type == Type::F32) {
        counters.fp32 += flops;
        counters.fp32_issues += sum ? record.count : 0;
        counters.special += function ? record.lanes : 0;
    }
    if (i.type == Type::F64 && (sum || function || compared)) {
        counters.fp64 += flops;
        counters.fp64_issues += record.count;
    }
    if (i.op == Op::MMA) { counters.mma += 2 * 16 * 8 * 16 * record.lanes / WARP; }
    if (i.op == Op::MOV || i.op == Op::CVTA || (i.op == Op::LD && i.space == Space::PARAM)) {
        counters.free += record.count;
    }
}

static void add_line(LineCounts *to, const LineCounts &from) {
    to->requests += from.requests;
    to->sectors += from.sectors;
    to->ideal_sectors += from.ideal_sectors;
    to->wavefronts += from.wavefronts;
    to->ideal_wavefronts += from.ideal_wavefronts;
}

void Profiler::finish(u64 instructions) {
    counters.launches = 1;
    counters.blocks = grid.count();
    counters.threads = block_size.count() * counters.blocks;
    counters.warps = (block_size.count() + WARP - 1) / WARP * counters.blocks;
    counters.instructions = instructions;
    const std::string shown = readable(kernel.name);
    KernelCounts &counts = profiled()[shown + "|" + kernel.name];
    counts.shown = shown;
    counts.mangled = kernel.name;
    counts.block = block_size;
    counts.dynamic_shared = dynamic_shared;
    for (size_t n = 0; n < records.size(); n++) {
        const Instruction &i = module.code[n];
        if (records[n].count) { count_work(i, records[n]); }
        if (!records[n].accesses.requests) { continue; }
        LineCounts &line = counts.lines[(int)n];
        line.text = i.text;
        line.line = i.line;
        const auto file = module.files.find(i.file);
        if (i.source_line && file != module.files.end()) {
            line.source = file->second + ":" + std::to_string(i.source_line);
        }
        add_line(&line, records[n].accesses);
    }
    counts.total.add(counters);
    const Bound bound = bound_of(counters);
    for (int n = 0; n < UNITS; n++) { counts.bound.us[n] += bound.us[n]; }
    counts.us += bound.us[bound.slowest()];
    counts.slowest[bound.slowest()] += bound.us[bound.slowest()];
}

} // namespace sim
