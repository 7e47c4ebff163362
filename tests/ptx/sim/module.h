// A module of PTX as the simulator runs it: kernels, instructions, operands. parse.cpp makes it from the text that nvcc
// writes; opcodes.cpp has the table of all instructions that the simulator knows.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace sim {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

enum { WARP = 32 };

// A fault that ends a launch, or text that the simulator does not understand.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The untyped .b8 to .b64 are the unsigned types.
enum class Type : u8 { NONE, PRED, U8, S8, U16, S16, U32, S32, U64, S64, F32, F64, BF16, BF16X2 };
int bytes_of(Type type);
inline bool is_float(Type type) { return type >= Type::F32; }
inline bool is_signed(Type type) {
    return type == Type::S8 || type == Type::S16 || type == Type::S32 || type == Type::S64;
}

enum class Space : u8 { NONE, PARAM, SHARED, GLOBAL };
enum class Rounding : u8 { NEAREST, TO_ZERO, DOWN, UP, TO_INTEGER, TO_ZERO_INTEGER };
enum class Compare : u8 { NONE, EQ, NE, LT, LE, GT, GE };

// MAD: also fma. BAR: a barrier of the block. Straight instructions come first, then those that change the program
// counter, then those for which the lanes of a warp wait for each other.
enum class Op : u8 {
    MOV,
    LD,
    ST,
    CVT,
    CVTA,
    ADD,
    SUB,
    MUL,
    MAD,
    DIV,
    REM,
    MIN,
    MAX,
    ABS,
    NEG,
    AND,
    OR,
    XOR,
    NOT,
    SHL,
    SHR,
    BFI,
    BFIND,
    BREV,
    PRMT,
    SETP,
    SELP,
    RCP,
    SQRT,
    EX2,
    LG2,
    ATOM_ADD,
    CP_ASYNC,
    CP_COMMIT,
    CP_WAIT,
    BRA,
    RET,
    BAR,
    BAR_WARP,
    SHFL,
    VOTE,
    LDMATRIX,
    MMA
};
inline bool is_control(Op op) { return op >= Op::BRA && op <= Op::BAR; }
inline bool is_warp_synchronous(Op op) { return op >= Op::BAR_WARP; }

// Special registers: an axis 0..2 (x, y, z) of one of these.
enum class Special : u8 { THREAD, BLOCK_SIZE, BLOCK, GRID_SIZE };

struct Operand {
    enum Kind : u8 { REGISTER, SPECIAL, IMMEDIATE, ADDRESS, VECTOR, LABEL };
    Kind kind = IMMEDIATE;
    int slot = -1;           // REGISTER; ADDRESS: of the base, or -1
    int second = -1;         // the register after '|', or -1
    u64 value = 0;           // IMMEDIATE; ADDRESS: offset
    bool dynamic = false;    // value counts from the start of dynamic shared memory
    bool narrow = false;     // ADDRESS: the base has 32 bits
    Special special = {};    // SPECIAL
    int axis = 0;            // SPECIAL
    std::string label;       // LABEL
    std::vector<Operand> of; // VECTOR
};

struct Instruction {
    Op op = Op::RET;
    Type type = Type::NONE, from = Type::NONE; // in the order written; from: the source of cvt
    Space space = Space::NONE;
    Rounding rounding = Rounding::NEAREST;
    Compare compare = Compare::NONE;
    bool or_unordered = false;            // setp: also true if an operand is NaN
    u8 vector = 1;                        // elements of a load or store; matrices of ldmatrix
    bool saturate = false, flush = false; // .sat, .ftz
    bool wide = false, high = false;      // mul, mad
    bool transposed = false;              // ldmatrix
    bool past_l1 = false;                 // .cg, .acquire: L1 does not keep what is loaded
    bool butterfly = false;               // shfl.bfly, else shfl.idx
    bool any = false;                     // bar.red.or, else bar.sync
    int guard = -1;                       // register slot of its predicate, or -1
    bool guard_negated = false;
    int target = -1; // bra
    std::vector<Operand> operands;
    std::string text;                        // for messages
    int line = 0, file = 0, source_line = 0; // of the PTX; of the CUDA source (nvcc -lineinfo), or 0
};

struct Extent {
    u32 offset, size;
};

struct Kernel {
    std::string name;
    std::vector<Extent> parameters;
    u32 parameter_bytes = 0;
    std::vector<Extent> shared;             // static variables, those of the module included
    u32 shared_end = 0, dynamic_offset = 0; // where static shared memory ends and dynamic begins
    int first = 0, slots = 0;               // its first instruction; its number of registers
    u32 static_shared_bytes() const;
};

struct Module {
    std::vector<Instruction> code;
    std::map<std::string, Kernel> kernels;
    std::map<int, std::string> files; // names of the CUDA sources
};

// Throws Error if the text has anything that the simulator does not know.
std::unique_ptr<Module> parse_module(const std::string &text);

// Sets op, types and modifiers from a name such as "cvt.rn.bf16.f32"; false if it is unknown.
bool decode_name(const std::string &name, Instruction *instruction);
Type type_named(const std::string &name); // Type::NONE if there is no such type

} // namespace sim
