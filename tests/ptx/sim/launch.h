// Runs a kernel: blocks of warps. The lanes of a warp have a program counter each; those at the lowest one go first, so
// that paths meet again where they join. Instructions for a whole warp (shuffles, mma) wait for the lanes they name.
#pragma once
#include "module.h"
#include <random>
#include <set>

namespace sim {

class Profiler;

struct Dim {
    u32 x, y, z;
    u64 count() const { return (u64)x * y * z; }
    u32 operator[](int axis) const { return axis == 0 ? x : axis == 1 ? y : z; }
};

struct Options {
    bool races = false; // report races in shared memory and reads of shared memory that nobody wrote
    u32 seed = 0;       // 0: blocks and warps in order; else random orders and time slices
    u32 resident = 1;   // blocks that run in turns
    u64 limit = 0;      // warp instructions after which the launch fails (0: none)
};

struct Result {
    std::string findings; // a line each: the launch went on
    u64 instructions = 0; // of warps
};

// Throws Error at a fault that ends the kernel, with what it found until then in *result. arguments: a pointer to each,
// as cudaLaunchKernel takes them. profiler: NULL, or counts the launch.
void launch(const Module &module, const Kernel &kernel, Dim grid, Dim block, size_t dynamic_shared,
            void *const *arguments, const Options &options, Profiler *profiler, Result *result);

// ---- Device memory: memory of the host that kernels may touch -------------------------------------------------------

struct Range {
    u64 begin, end;
};
void *device_allocate(size_t bytes);            // aligned to 256, filled with 0xff (NaN); NULL: there is no memory
bool device_free(void *p);                      // false: not allocated
bool device_holds(const void *p, size_t bytes); // one allocation has all of it
std::vector<Range> device_ranges();             // in order of address

// ---- The state of a launch ------------------------------------------------------------------------------------------

// Calls f for each lane in the mask.
template <class F> inline void for_lanes(u32 mask, F f) {
    if (mask == ~0u) {
        for (int lane = 0; lane < WARP; lane++) { f(lane); }
        return;
    }
    for (; mask; mask &= mask - 1) { f(__builtin_ctz(mask)); }
}

// A cp.async that has not landed: this happens when its thread waits for it, the latest moment allowed.
struct Copy {
    u64 to, from;
    u8 bytes, read; // the rest of bytes is zero
    const Instruction *instruction;
};

struct Warp {
    int index = 0;                              // in its block
    u32 alive = 0, at_barrier = 0, at_sync = 0; // lanes that have not ended; that wait for the block; for other lanes
    u32 predicates = 0;                         // of the lanes at bar.red
    int pc[WARP];
    int detours = 0;            // instructions while other lanes stood further on
    std::vector<u64> registers; // [slot][lane]
    std::vector<Copy> copies[WARP];
    std::vector<u32> groups[WARP]; // number of copies in each committed group
    // For races: this warp's clock, which each synchronization advances, and the clocks up to which it has seen the
    // others.
    u32 clock = 1, seen[WARP];
    u32 waiting() const { return at_barrier | at_sync; }
};

// The lanes of a warp that read a byte at one clock of it: the first, and the last other one, since a lane comes after
// its own access but not after those of others.
struct Readers {
    u32 clock;
    u16 first, other; // threads; the same one if only one lane has read
};

// Who touched a byte of shared memory last.
struct Shadow {
    u32 write_clock = 0;
    u16 writer = 0;                                      // a thread
    bool written = false, read[2] = {}, copying = false; // copying: a cp.async to it has not landed
    Readers readers[2] = {};                             // the second ones are of another warp
};

struct Block {
    u32 index[3], linear, threads;
    bool done = false;
    u32 arrived = 0; // threads at the barrier
    std::vector<Warp> warps;
    std::vector<u8> shared;
    std::vector<Shadow> shadow;
};

class Launch {
  public:
    Launch(const Module &module, const Kernel &kernel, Dim grid, Dim block_size, size_t dynamic_shared,
           void *const *arguments, const Options &options, Profiler *profiler, Result *result);
    void run();

  private:
    // The values of a source operand.
    class Source {
      public:
        Source(const Launch &launch, const Operand &o);
        Source(const Source &) = delete;
        u64 operator[](int lane) const { return values[lane * stride]; }

      private:
        const u64 *values;
        int stride = 1;
        u64 own[WARP];
    };
    // Lanes that run together: their program counter, and the lowest one of the lanes that do not.
    struct Group {
        u32 lanes;
        int pc, next;
    };

    // schedule.cpp
    void start(Block &b, u32 linear);
    bool turn(Block &b);
    bool run_warp(Warp &w, long slice);
    Group choose(u32 ready);
    long run_group(Group group, long slice);
    u32 guarded(const Instruction &i, u32 lanes) const;
    void set_pc(u32 lanes, int pc);
    bool control(const Instruction &i, u32 lanes, u32 active, int *pc);
    bool synchronous(const Instruction &i, u32 lanes, u32 active, int *pc);
    u32 member_mask(const Instruction &i, int lane) const;
    void run_members(const Instruction &i, u32 ready);
    void wake_survivors(Warp &w);
    void end_lanes(u32 lanes);
    void arrive(const Instruction &i, u32 lanes);
    void release_barrier();
    void release(Warp &w, bool any, const u32 *seen);
    [[noreturn]] void deadlock(const Block &b) const;
    void watch(const Instruction &i, u32 lanes, u32 active);

    // faults.cpp
    std::string place(int lane) const;
    [[noreturn]] void fail(const std::string &what, int lane) const;
    void find(const char *kind, const std::string &what, int lane);
    [[noreturn]] void unsupported(const Instruction &i) const;
    bool ordered(u16 thread, u32 clock, int lane) const;
    void check_race(u64 offset, bool write, int lane);
    void touch_shared(u64 offset, int bytes, bool write, int lane);

    // memory.cpp
    u64 address(const Operand &o, int lane) const;
    u8 *shared_memory(u64 offset, int bytes, bool write, int lane);
    u8 *global_memory(u64 a, int bytes, bool write, int lane);
    u8 *memory(Space space, u64 a, int bytes, bool write, int lane, bool aligned = true);
    void load(const Instruction &i, u32 lanes);
    void store(const Instruction &i, u32 lanes);
    void atomic_add(const Instruction &i, u32 lanes);
    void start_copies(const Instruction &i, u32 lanes);
    void commit_copies(u32 lanes);
    void wait_for_copies(const Instruction &i, u32 lanes);
    void land(const Copy &copy, int lane);
    void profile_access(const Instruction &i, u32 lanes);

    // arithmetic.cpp, floats.cpp
    void execute(const Instruction &i, u32 lanes);
    void move(const Instruction &i, u32 lanes);
    void unpack(const Instruction &i, u32 lanes);
    void pack(const Instruction &i, u32 lanes);
    void integers(const Instruction &i, u32 lanes);
    void multiply(const Instruction &i, u32 lanes);
    void predicates(const Instruction &i, u32 lanes);
    void floats(const Instruction &i, u32 lanes);
    void doubles(const Instruction &i, u32 lanes);
    void bits(const Instruction &i, u32 lanes);
    void convert(const Instruction &i, u32 lanes);
    void convert_from_float(const Instruction &i, u32 lanes);
    void compare(const Instruction &i, u32 lanes);
    void select(const Instruction &i, u32 lanes);

    // exchange.cpp
    void exchange(const Instruction &i, u32 lanes);
    void shuffle(const Instruction &i, u32 lanes);
    void vote(const Instruction &i, u32 lanes);
    void load_matrices(const Instruction &i);
    void multiply_matrices(const Instruction &i);

    u64 special(const Operand &o, int lane) const;
    u64 *destination(const Operand &o) const;
    const u64 *slot(int n) const { return &warp->registers[(size_t)n * WARP]; }

    const Module &module;
    const Kernel &kernel;
    const Dim grid, block_size;
    const Options &options;
    Profiler *const profiler;
    Result *const result;
    std::vector<u8> parameters;
    u32 shared_bytes;
    std::vector<bool> in_variable; // bytes of shared memory that belong to one
    const std::vector<Range> ranges;
    Range last_range = {1, 0};
    std::mt19937 random;
    std::set<std::string> found;
    Block *block = nullptr; // what runs at present
    Warp *warp = nullptr;
    const Instruction *current = nullptr;
};

} // namespace sim
