// Exact counts of what launches do (instructions, FLOPs, sectors of global memory, wavefronts of shared memory), and
// the least times that they allow. README.md says what is counted and what is not modelled.
#pragma once
#include "launch.h"
#include <string>

namespace sim {

enum Direction : u8 { LOAD, STORE, ATOMIC, DIRECTIONS };

struct GlobalCounts {
    u64 requests = 0; // warp instructions
    u64 lanes = 0, bytes = 0;
    u64 used_bytes = 0; // distinct bytes of each request
    u64 sectors = 0;    // 32 bytes, distinct ones of each request
    u64 lines = 0;      // 128 bytes, distinct ones of each request; cp.async does not pass this unit
    u64 l2_sectors = 0; // those that L1 does not have
};
struct SharedCounts {
    u64 requests = 0, wavefronts = 0;
    u64 ideal = 0; // wavefronts without bank conflicts
};

struct Counters {
    u64 launches = 0, blocks = 0, threads = 0, warps = 0;
    u64 instructions = 0, lanes = 0;                         // of warps; active lanes of all of these
    u64 free = 0;                                            // instructions that seldom reach the machine code
    u64 fp32 = 0, fp64 = 0, mma = 0;                         // FLOPs
    u64 special = 0;                                         // results of the special function unit
    u64 fp32_issues = 0, fp64_issues = 0;                    // instructions of these units
    u64 unique_reads = 0, unique_writes = 0, reread_own = 0; // sectors of a launch; read only after it wrote them
    GlobalCounts global[DIRECTIONS];
    SharedCounts shared[DIRECTIONS];
    void add(const Counters &other);
    u64 dram_bytes() const { return 32 * (unique_reads - reread_own + unique_writes); }
};

// The accesses of one instruction of the text.
struct LineCounts {
    std::string text, source; // source: "file.cu:12", or empty
    int line = 0;
    u64 requests = 0, sectors = 0, ideal_sectors = 0, wavefronts = 0, ideal_wavefronts = 0;
};

// The least time of each unit of the GPU.
enum Unit { DRAM, L2, L1, ISSUE, TENSOR, FP32, FP64, SFU, UNITS };
struct Bound {
    double us[UNITS] = {};
    Unit slowest() const;
};
Bound bound_of(const Counters &launch);

struct KernelCounts {
    std::string shown, mangled; // the name for people
    Dim block = {};
    size_t dynamic_shared = 0;
    Counters total;
    Bound bound;                // summed over launches
    double us = 0;              // of the unit that is the slowest of each launch
    double slowest[UNITS] = {}; // us by that unit
    std::map<int, LineCounts> lines;
    Unit by() const;
};

// Counts one launch. Launch calls executed() and access(); finish() adds the launch to the counts of its kernel.
class Profiler {
  public:
    Profiler(const Module &module, const Kernel &kernel, Dim grid, Dim block, size_t dynamic_shared);
    void executed(const Instruction &i, u32 lanes, u32 active);
    // block: its number in the grid. bytes: of each lane. addresses: of the lanes in the mask.
    void access(const Instruction &i, u32 block, Space space, Direction direction, u32 lanes, const u64 *addresses,
                int bytes);
    void finish(u64 instructions);

  private:
    struct Record { // of one instruction
        u64 count = 0, lanes = 0;
        LineCounts accesses;
    };
    void global_access(const Instruction &i, u32 block, Direction direction, u32 lanes, const u64 *addresses,
                       int bytes);
    void shared_access(const Instruction &i, Direction direction, u32 lanes, const u64 *addresses, int bytes);
    void touch_sector(u64 sector, u32 block, bool past_l1, Direction direction);
    void count_work(const Instruction &i, const Record &record);
    Record &record_of(const Instruction &i) { return records[(size_t)(&i - module.code.data())]; }

    const Module &module;
    const Kernel &kernel;
    const Dim grid, block_size;
    const size_t dynamic_shared;
    u32 first_stamp; // of this launch's blocks
    Counters counters;
    std::vector<Record> records;
};

// Every kernel counted so far, by name.
std::map<std::string, KernelCounts> &profiled();
std::string profile_json();
std::string profile_table();

} // namespace sim
