// What is wrong with a kernel, and where: faults, which end it, and findings, among them races in shared memory.
#include "launch.h"

namespace sim {

enum { FINDINGS = 200 };

std::string Launch::place(int lane) const {
    const u32 t = (u32)(warp->index * WARP + lane);
    char text[256];
    snprintf(text, sizeof text, " at PTX line %d \"%.120s\" block (%u,%u,%u) thread (%u,%u,%u)", current->line,
             current->text.c_str(), block->index[0], block->index[1], block->index[2], t % block_size.x,
             t / block_size.x % block_size.y, t / block_size.x / block_size.y);
    return text;
}

void Launch::fail(const std::string &what, int lane) const { throw Error(what + place(lane)); }

void Launch::unsupported(const Instruction &i) const {
    throw Error("PTX line " + std::to_string(i.line) + ": the simulator does not know this form of " + i.text);
}

// One of each kind and instruction.
void Launch::find(const char *kind, const std::string &what, int lane) {
    if (found.size() < FINDINGS && found.insert(kind + std::to_string(current->line)).second) {
        result->findings += what + place(lane) + "\n";
    }
}

// Whether a thread's access at a clock of its warp comes before what a lane of this warp does now: it is the same
// thread, or a synchronization lies between.
bool Launch::ordered(u16 thread, u32 clock, int lane) const {
    const int other = thread / WARP;
    if (other == warp->index) { return thread % WARP == lane || clock < warp->clock; }
    return clock <= warp->seen[other];
}

void Launch::check_race(u64 offset, bool write, int lane) {
    const Shadow &s = block->shadow[offset];
    const char *what = nullptr;
    u16 other = 0;
    if (s.written && !ordered(s.writer, s.write_clock, lane)) {
        what = write ? " written here and written without a barrier between by thread "
                     : " read here and written without a barrier between by thread ";
        other = s.writer;
    }
    for (int n = 0; n < 2 && write && !what && s.read[n]; n++) {
        const Readers &r = s.readers[n];
        for (u16 thread : {r.first, r.other}) {
            if (ordered(thread, r.clock, lane)) { continue; }
            what = " written here and read without a barrier between by thread ";
            other = thread;
        }
    }
    if (what) { find("race", "race: shared offset " + std::to_string(offset) + what + std::to_string(other), lane); }
}

// Checks an access to shared memory, byte by byte, and remembers it.
void Launch::touch_shared(u64 offset, int bytes, bool write, int lane) {
    const u16 me = (u16)(warp->index * WARP + lane);
    for (u64 at = offset; at < offset + (u64)bytes; at++) {
        Shadow &s = block->shadow[at];
        if (s.copying) {
            find("flight",
                 "shared offset " + std::to_string(offset) + (write ? " written" : " read") +
                     " while a cp.async of thread " + std::to_string(s.writer) + " to it is under way",
                 lane);
        }
        if (!write && !s.written) {
            find("unwritten", "read of shared memory that nobody wrote (offset " + std::to_string(offset) + ")", lane);
        }
        check_race(at, write, lane);
        if (write) {
            s = Shadow();
            s.written = true;
            s.writer = me;
            s.write_clock = warp->clock;
        } else {
            const bool second = s.read[0] && s.readers[0].first / WARP != warp->index;
            Readers &r = s.readers[second];
            if (!s.read[second] || r.first / WARP != warp->index || r.clock != warp->clock) {
                r = {warp->clock, me, me};
            } else if (me != r.first) {
                r.other = me;
            }
            s.read[second] = true;
        }
    }
}

} // namespace sim
