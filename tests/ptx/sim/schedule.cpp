// The order of a launch: blocks, warps, lanes, barriers, and the end of each.
#include "launch.h"
#include "profile.h"
#include <algorithm>
#include <climits>
#include <numeric>

namespace sim {

enum {
    SLICE = 5000,       // instructions of a warp's turn in order
    RANDOM_SLICE = 200, // at most, in random order
    PATIENCE = 4096     // detours after which lanes may be waiting for lanes further on
};
const u64 POISON = ~0ull; // of registers that nothing wrote

void launch(const Module &module, const Kernel &kernel, Dim grid, Dim block, size_t dynamic_shared,
            void *const *arguments, const Options &options, Profiler *profiler, Result *result) {
    Launch(module, kernel, grid, block, dynamic_shared, arguments, options, profiler, result).run();
}

Launch::Launch(const Module &m, const Kernel &k, Dim g, Dim b, size_t dynamic_shared, void *const *arguments,
               const Options &o, Profiler *counting, Result *r)
    : module(m), kernel(k), grid(g), block_size(b), options(o), profiler(counting), result(r),
      parameters(k.parameter_bytes),
      shared_bytes(dynamic_shared ? k.dynamic_offset + (u32)dynamic_shared : k.shared_end), in_variable(shared_bytes),
      ranges(device_ranges()), random(o.seed) {
    for (size_t i = 0; i < k.parameters.size(); i++) {
        const u8 *from = (const u8 *)arguments[i];
        std::copy(from, from + k.parameters[i].size, &parameters[k.parameters[i].offset]);
    }
    for (const Extent &e : k.shared) { std::fill_n(in_variable.begin() + e.offset, e.size, true); }
    if (dynamic_shared) { std::fill(in_variable.begin() + k.dynamic_offset, in_variable.end(), true); }
}

// ---- Blocks ---------------------------------------------------------------------------------------------------------

void Launch::run() {
    std::vector<u32> order(grid.count());
    std::iota(order.begin(), order.end(), 0);
    if (options.seed) { std::shuffle(order.begin(), order.end(), random); }
    std::vector<Block> blocks(std::min<size_t>(std::max<u32>(1, options.resident), order.size()));
    size_t next = 0, live = blocks.size();
    for (Block &b : blocks) { start(b, order[next++]); }
    while (live) {
        bool progress = false;
        for (Block &b : blocks) {
            if (b.done) { continue; }
            progress |= turn(b);
            if (std::any_of(b.warps.begin(), b.warps.end(), [](const Warp &w) { return w.alive; })) { continue; }
            progress = true;
            if (next < order.size()) {
                start(b, order[next++]);
            } else {
                b.done = true;
                live--;
            }
        }
        if (!progress) {
            deadlock(*std::find_if(blocks.begin(), blocks.end(), [](const Block &b) { return !b.done; }));
        }
    }
}

void Launch::start(Block &b, u32 linear) {
    b.linear = linear;
    b.index[0] = linear % grid.x;
    b.index[1] = linear / grid.x % grid.y;
    b.index[2] = linear / grid.x / grid.y;
    b.threads = (u32)block_size.count();
    b.arrived = 0;
    b.shared.assign(shared_bytes, 0xff);
    if (options.races) { b.shadow.assign(shared_bytes, Shadow()); }
    b.warps.resize((b.threads + WARP - 1) / WARP);
    for (size_t n = 0; n < b.warps.size(); n++) {
        Warp &w = b.warps[n];
        std::vector<u64> registers = std::move(w.registers); // reused: it is large
        registers.assign((size_t)kernel.slots * WARP, POISON);
        const u32 threads = std::min<u32>(WARP, b.threads - (u32)n * WARP);
        w = Warp();
        w.registers = std::move(registers);
        w.index = (int)n;
        w.alive = threads == WARP ? ~0u : (1u << threads) - 1;
        std::fill_n(w.pc, WARP, kernel.first);
        std::fill_n(w.seen, WARP, 0);
        w.seen[n] = w.clock;
    }
}

// Each warp of the block runs for a while. False if none could.
bool Launch::turn(Block &b) {
    block = &b;
    std::vector<int> order(b.warps.size());
    std::iota(order.begin(), order.end(), 0);
    if (options.seed) { std::shuffle(order.begin(), order.end(), random); }
    bool progress = false;
    for (int n : order) {
        Warp &w = b.warps[(size_t)n];
        if (!w.alive) { continue; }
        long slice = SLICE;
        if (options.seed) { slice = 1 + (long)(random() % RANDOM_SLICE); }
        progress |= run_warp(w, slice);
    }
    return progress;
}

// ---- Warps ----------------------------------------------------------------------------------------------------------

bool Launch::run_warp(Warp &w, long slice) {
    warp = &w;
    bool progress = false;
    while (slice > 0) {
        const u32 ready = w.alive & ~w.waiting();
        if (!ready) { break; }
        progress = true;
        slice = run_group(choose(ready), slice);
        if (w.at_sync && !(w.alive & ~w.waiting())) { wake_survivors(w); }
    }
    return progress;
}

// The lanes at the lowest program counter. They may be spinning until lanes further on do something: then those go.
Launch::Group Launch::choose(u32 ready) {
    const bool patient = warp->detours <= PATIENCE;
    Group group = {0, patient ? INT_MAX : -1, INT_MAX};
    if (!patient) { warp->detours = 0; }
    for_lanes(ready, [&](int lane) {
        group.pc = patient ? std::min(group.pc, warp->pc[lane]) : std::max(group.pc, warp->pc[lane]);
    });
    for_lanes(ready, [&](int lane) {
        if (warp->pc[lane] == group.pc) {
            group.lanes |= 1u << lane;
        } else if (patient) {
            group.next = std::min(group.next, warp->pc[lane]);
        }
    });
    return group;
}

// Until the lanes part, wait, reach the next group's program counter, or have used the slice, whose rest is returned.
long Launch::run_group(Group group, long slice) {
    int pc = group.pc;
    const u32 lanes = group.lanes;
    for (;;) {
        const Instruction &i = module.code[(size_t)pc];
        current = &i;
        const u32 active = i.guard < 0 ? lanes : guarded(i, lanes);
        slice--;
        result->instructions++;
        if (group.next != INT_MAX) { warp->detours++; }
        if (profiler || options.limit) { watch(i, lanes, active); }
        bool parted = false;
        if (!active) {
            pc++;
        } else if (is_control(i.op)) {
            parted = control(i, lanes, active, &pc);
        } else if (is_warp_synchronous(i.op)) {
            parted = synchronous(i, lanes, active, &pc);
        } else {
            execute(i, active);
            pc++;
        }
        if (parted) { return slice; }
        if (pc >= group.next || slice <= 0) {
            set_pc(lanes, pc);
            return slice;
        }
    }
}

// The lanes whose predicate lets them execute the instruction.
u32 Launch::guarded(const Instruction &i, u32 lanes) const {
    const u64 *predicate = slot(i.guard);
    u32 active = 0;
    for_lanes(lanes, [&](int lane) {
        if ((predicate[lane] & 1) != (u64)i.guard_negated) { active |= 1u << lane; }
    });
    return active;
}

void Launch::set_pc(u32 lanes, int pc) {
    for_lanes(lanes, [&](int lane) { warp->pc[lane] = pc; });
}

// True: the lanes no longer have one program counter, and theirs are set.
bool Launch::control(const Instruction &i, u32 lanes, u32 active, int *pc) {
    if (i.op == Op::BRA && active == lanes) {
        *pc = i.target;
        return false;
    }
    set_pc(lanes & ~active, *pc + 1);
    if (i.op == Op::BRA) {
        set_pc(active, i.target);
    } else if (i.op == Op::RET) {
        end_lanes(active);
    } else {
        set_pc(active, *pc);
        arrive(i, active);
    }
    return true;
}

// Runs the instruction for those lanes whose named partners have all arrived; the others wait. True as for control().
bool Launch::synchronous(const Instruction &i, u32 lanes, u32 active, int *pc) {
    u32 here = active, ready = 0;
    for_lanes(warp->at_sync, [&](int lane) {
        if (warp->pc[lane] == *pc) { here |= 1u << lane; }
    });
    for_lanes(here, [&](int lane) {
        const u32 members = member_mask(i, lane);
        if (!(members >> lane & 1)) { fail("a lane that its own member mask does not name", lane); }
        if ((here & members & warp->alive) == (members & warp->alive)) { ready |= 1u << lane; }
    });
    if (ready == lanes && here == lanes) {
        run_members(i, ready);
        ++*pc;
        return false;
    }
    set_pc(lanes & ~active, *pc + 1);
    set_pc(active, *pc);
    if (ready) {
        run_members(i, ready);
        set_pc(ready, *pc + 1);
    }
    warp->at_sync = (warp->at_sync | active) & ~ready;
    return true;
}

// The lanes that the instruction names. Matrix instructions name all.
u32 Launch::member_mask(const Instruction &i, int lane) const {
    if (i.op == Op::MMA || i.op == Op::LDMATRIX) { return ~0u; }
    return (u32)Source(*this, i.operands.back())[lane];
}

// Lanes with different masks run apart.
void Launch::run_members(const Instruction &i, u32 ready) {
    while (ready) {
        const int first = __builtin_ctz(ready);
        const u32 mask = member_mask(i, first);
        u32 members = 0;
        for_lanes(ready, [&](int lane) {
            if (member_mask(i, lane) == mask) { members |= 1u << lane; }
        });
        if ((i.op == Op::MMA || i.op == Op::LDMATRIX) && members != ~0u) {
            fail("matrix instruction without all 32 lanes", first);
        }
        exchange(i, members);
        ready &= ~members;
    }
}

// Lanes wait for lanes that have ended since: they try again.
void Launch::wake_survivors(Warp &w) {
    for (u32 todo = w.at_sync; todo;) {
        const int first = __builtin_ctz(todo);
        u32 here = 0;
        for_lanes(todo, [&](int lane) {
            if (w.pc[lane] == w.pc[first]) { here |= 1u << lane; }
        });
        todo &= ~here;
        const u32 members = member_mask(module.code[(size_t)w.pc[first]], first) & w.alive;
        if ((here & members) == members) { w.at_sync &= ~here; }
    }
}

void Launch::end_lanes(u32 lanes) {
    for_lanes(lanes, [&](int lane) {
        if (warp->copies[lane].empty()) { return; }
        find("copies", "thread ends with cp.async copies it never waited for", lane);
        warp->copies[lane].clear();
        warp->groups[lane].clear();
    });
    warp->alive &= ~lanes;
    release_barrier();
}

// ---- The block's barrier --------------------------------------------------------------------------------------------

void Launch::arrive(const Instruction &i, u32 lanes) {
    block->arrived += (u32)__builtin_popcount(lanes);
    warp->at_barrier |= lanes;
    if (i.any) {
        const Source predicate(*this, i.operands.back());
        for_lanes(lanes, [&](int lane) {
            warp->predicates = (warp->predicates & ~(1u << lane)) | (u32)(predicate[lane] & 1) << lane;
        });
    }
    release_barrier();
}

// If all threads that have not ended are there.
void Launch::release_barrier() {
    u32 live = 0;
    for (const Warp &w : block->warps) { live += (u32)__builtin_popcount(w.alive); }
    if (!block->arrived || block->arrived < live) { return; }
    bool any = false;
    u32 seen[WARP] = {};
    for (const Warp &w : block->warps) {
        any |= (w.predicates & w.at_barrier) != 0;
        for (int n = 0; n < WARP && w.at_barrier; n++) { seen[n] = std::max(seen[n], w.seen[n]); }
    }
    Warp *const keep = warp;
    const Instruction *const keep_current = current;
    for (Warp &w : block->warps) {
        if (w.at_barrier) { release(w, any, seen); }
    }
    warp = keep;
    current = keep_current;
    block->arrived = 0;
}

void Launch::release(Warp &w, bool any, const u32 *seen) {
    warp = &w;
    const u32 gone = block->threads - block->arrived;
    for_lanes(w.at_barrier, [&](int lane) {
        current = &module.code[(size_t)w.pc[lane]];
        if (options.races && gone) { // it works on current devices; the manual does not define it
            find("gone", "barrier of the whole block although " + std::to_string(gone) + " of its threads have ended",
                 lane);
        }
        if (current->any) { destination(current->operands[0])[lane] = any; }
        w.pc[lane]++;
    });
    w.at_barrier = w.predicates = 0;
    for (int n = 0; n < WARP; n++) { w.seen[n] = std::max(w.seen[n], seen[n]); }
    w.seen[w.index] = ++w.clock;
}

// ---- Ends -----------------------------------------------------------------------------------------------------------

void Launch::deadlock(const Block &b) const {
    std::string text = "deadlock in block (" + std::to_string(b.index[0]) + "," + std::to_string(b.index[1]) + "," +
                       std::to_string(b.index[2]) + "):";
    int lines = 0;
    for (const Warp &w : b.warps) {
        std::map<int, u32> places;
        for_lanes(w.alive, [&](int lane) { places[w.pc[lane]] |= 1u << lane; });
        for (const auto &[pc, lanes] : places) {
            if (++lines > 12) { throw Error(text); }
            const Instruction &i = module.code[(size_t)pc];
            char line[200];
            snprintf(line, sizeof line, "\n  warp %d lanes %08x wait at PTX line %d \"%.80s\"", w.index, lanes, i.line,
                     i.text.c_str());
            text += line;
        }
    }
    throw Error(text);
}

// What is not needed in an ordinary run: the limit, and counting.
void Launch::watch(const Instruction &i, u32 lanes, u32 active) {
    if (options.limit && result->instructions > options.limit) {
        fail("no end after " + std::to_string(options.limit) + " warp instructions", __builtin_ctz(lanes));
    }
    if (!profiler) { return; }
    profiler->executed(i, lanes, active);
    if (active && !is_warp_synchronous(i.op)) { profile_access(i, active); }
}

} // namespace sim
