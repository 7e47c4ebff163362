// The instructions that the simulator knows, by their full names: opcode, modifiers and types.
#include "module.h"
#include <algorithm>
#include <sstream>

namespace sim {

namespace {

#define INTEGERS " b16 u16 s16 b32 u32 s32 b64 u64 s64"
#define MEMORY " v2 v4 b8 u8 s8 f32 f64" INTEGERS

// An instruction's name is `name` and then any of `words`.
struct Form {
    const char *name;
    Op op;
    const char *words;
};
const Form FORMS[] = {
    {"mov", Op::MOV, "pred f32 f64" INTEGERS},
    {"ld", Op::LD, "param global shared acquire gpu cg" MEMORY},
    {"st", Op::ST, "global shared release gpu wb" MEMORY},
    {"cvt", Op::CVT, "rn rni rzi sat f32 f64 bf16 bf16x2" INTEGERS},
    {"cvta.to.global", Op::CVTA, "u64"},
    {"add", Op::ADD, "rn rz rm rp f32 f64" INTEGERS},
    {"sub", Op::SUB, "rn rz rm rp f32 f64" INTEGERS},
    {"mul", Op::MUL, "lo hi wide rn rz rm rp f32 f64" INTEGERS},
    {"mad.lo", Op::MAD, INTEGERS},
    {"fma", Op::MAD, "rn rz rm rp f32 f64"},
    {"div", Op::DIV, "rn approx f32 f64" INTEGERS},
    {"rem", Op::REM, INTEGERS},
    {"min", Op::MIN, "f32 f64" INTEGERS},
    {"max", Op::MAX, "f32 f64" INTEGERS},
    {"abs", Op::ABS, "f32 f64" INTEGERS},
    {"neg", Op::NEG, "f32 f64" INTEGERS},
    {"and", Op::AND, "pred" INTEGERS},
    {"or", Op::OR, "pred" INTEGERS},
    {"xor", Op::XOR, "pred" INTEGERS},
    {"not", Op::NOT, "pred" INTEGERS},
    {"shl", Op::SHL, INTEGERS},
    {"shr", Op::SHR, INTEGERS},
    {"bfi", Op::BFI, "b32 b64"},
    {"bfind.shiftamt", Op::BFIND, "u32"},
    {"brev", Op::BREV, "b32"},
    {"prmt", Op::PRMT, "b32"},
    {"setp", Op::SETP, "eq ne lt le gt ge equ neu ltu leu gtu geu nan f32 f64" INTEGERS},
    {"selp", Op::SELP, "f32 f64" INTEGERS},
    {"rcp", Op::RCP, "rn f32 f64"},
    {"sqrt", Op::SQRT, "rn f32 f64"},
    {"ex2.approx", Op::EX2, "ftz f32"},
    {"lg2.approx", Op::LG2, "f32"},
    {"atom.global.add", Op::ATOM_ADD, "u32"},
    {"cp.async.cg.shared.global", Op::CP_ASYNC, ""},
    {"cp.async.commit_group", Op::CP_COMMIT, ""},
    {"cp.async.wait_group", Op::CP_WAIT, ""},
    {"bra", Op::BRA, "uni"},
    {"ret", Op::RET, ""},
    {"bar.sync", Op::BAR, ""},
    {"bar.red.or.pred", Op::BAR, ""},
    {"bar.warp.sync", Op::BAR_WARP, ""},
    {"shfl.sync", Op::SHFL, "bfly idx b32"},
    {"vote.sync.ballot.b32", Op::VOTE, ""},
    {"ldmatrix.sync.aligned.m8n8.x4", Op::LDMATRIX, "trans shared b16"},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", Op::MMA, ""},
};

// The form whose name is the longest beginning of `name`, or NULL.
const Form *form_of(const std::string &name) {
    const Form *found = nullptr;
    size_t longest = 0;
    for (const Form &form : FORMS) {
        const size_t n = std::string(form.name).size();
        if (n > longest && name.compare(0, n, form.name) == 0 && (name.size() == n || name[n] == '.')) {
            found = &form;
            longest = n;
        }
    }
    return found;
}

bool set_rounding(const std::string &word, Instruction *i) {
    static const std::map<std::string, Rounding> names = {
        {"rn", Rounding::NEAREST}, {"rz", Rounding::TO_ZERO},     {"rm", Rounding::DOWN},
        {"rp", Rounding::UP},      {"rni", Rounding::TO_INTEGER}, {"rzi", Rounding::TO_ZERO_INTEGER}};
    const auto found = names.find(word);
    if (found == names.end()) { return false; }
    i->rounding = found->second;
    return true;
}

bool set_compare(const std::string &word, Instruction *i) {
    static const std::map<std::string, Compare> names = {{"eq", Compare::EQ}, {"ne", Compare::NE}, {"lt", Compare::LT},
                                                         {"le", Compare::LE}, {"gt", Compare::GT}, {"ge", Compare::GE}};
    i->or_unordered = word == "nan" || (word.size() == 3 && word[2] == 'u');
    const auto found = names.find(word.substr(0, 2));
    if (word != "nan" && found == names.end()) { return false; }
    i->compare = word == "nan" ? Compare::NONE : found->second;
    return true;
}

bool set_space(const std::string &word, Instruction *i) {
    static const std::map<std::string, Space> names = {
        {"param", Space::PARAM}, {"shared", Space::SHARED}, {"global", Space::GLOBAL}};
    const auto found = names.find(word);
    if (found == names.end()) { return false; }
    i->space = found->second;
    return true;
}

// A word that the instruction's form allows. Some mean nothing here: approximate functions are computed exactly.
void set_word(const std::string &word, Instruction *i) {
    if (const Type type = type_named(word); type != Type::NONE) {
        (i->type == Type::NONE ? i->type : i->from) = type;
    } else if (i->op == Op::SETP) {
        set_compare(word, i);
    } else if (!set_rounding(word, i) && !set_space(word, i)) {
        if (word == "v2" || word == "v4") { i->vector = (u8)(word[1] - '0'); }
        i->saturate |= word == "sat";
        i->flush |= word == "ftz";
        i->wide |= word == "wide";
        i->high |= word == "hi";
        i->transposed |= word == "trans";
        i->butterfly |= word == "bfly";
        i->past_l1 |= word == "cg" || word == "acquire";
    }
}

} // namespace

Type type_named(const std::string &name) {
    static const std::map<std::string, Type> names = {
        {"pred", Type::PRED}, {"b8", Type::U8},        {"u8", Type::U8},   {"s8", Type::S8},   {"b16", Type::U16},
        {"u16", Type::U16},   {"s16", Type::S16},      {"b32", Type::U32}, {"u32", Type::U32}, {"s32", Type::S32},
        {"b64", Type::U64},   {"u64", Type::U64},      {"s64", Type::S64}, {"f32", Type::F32}, {"f64", Type::F64},
        {"bf16", Type::BF16}, {"bf16x2", Type::BF16X2}};
    const auto found = names.find(name);
    return found == names.end() ? Type::NONE : found->second;
}

int bytes_of(Type type) {
    switch (type) {
    case Type::NONE:
        return 0;
    case Type::PRED:
    case Type::U8:
    case Type::S8:
        return 1;
    case Type::U16:
    case Type::S16:
    case Type::BF16:
        return 2;
    case Type::U64:
    case Type::S64:
    case Type::F64:
        return 8;
    default:
        return 4;
    }
}

bool decode_name(const std::string &name, Instruction *i) {
    const Form *form = form_of(name);
    if (!form) { return false; }
    i->op = form->op;
    i->any = std::string(form->name) == "bar.red.or.pred";
    if (form->op == Op::CP_ASYNC) { i->past_l1 = true; }
    if (form->op == Op::LDMATRIX) { i->vector = 4; }
    if (form->op == Op::ATOM_ADD) { i->space = Space::GLOBAL; }
    std::vector<std::string> allowed;
    std::istringstream words(form->words);
    for (std::string word; words >> word;) { allowed.push_back(word); }
    std::istringstream rest(name.substr(std::string(form->name).size()));
    std::string word;
    std::getline(rest, word, '.'); // what is before the first dot: nothing
    while (std::getline(rest, word, '.')) {
        if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) { return false; }
        set_word(word, i);
    }
    return true;
}

} // namespace sim
