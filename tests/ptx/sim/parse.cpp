// The text of a PTX module -> Module. Understands what nvcc writes for kernels without calls, local memory and module
// variables, and inline assembly with its own scopes and registers.
#include "module.h"
#include <algorithm>
#include <cctype>
#include <cstring>
#include <unordered_map>

namespace sim {

u32 Kernel::static_shared_bytes() const {
    u32 bytes = 0;
    for (const Extent &e : shared) { bytes += e.size; }
    return bytes;
}

namespace {

enum { SHARED_ALIGNMENT = 16, SHARED_GAP = 64, DYNAMIC_ALIGNMENT = 128 };

u32 round_up(u32 n, u32 to) { return (n + to - 1) / to * to; }
bool starts_name(char c) { return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%'; }
bool continues_name(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$'; }

// A name of the text that stands for a number: a register's slot, or a variable's offset.
struct Register {
    int slot, bytes;
};
struct Variable {
    u32 offset, size;
    bool dynamic; // dynamic shared memory
};

// Comments become spaces, so that lines keep their numbers.
std::string without_comments(std::string text) {
    for (size_t i = 0; i + 1 < text.size(); i++) {
        if (text[i] == '"') {
            for (i++; i < text.size() && text[i] != '"'; i++) {}
        } else if (text[i] == '/' && text[i + 1] == '/') {
            for (; i < text.size() && text[i] != '\n'; i++) { text[i] = ' '; }
        }
    }
    return text;
}

class Parser {
  public:
    Parser(const std::string &source, Module &result) : text(without_comments(source)), module(result) {
        p = text.c_str();
    }
    void run();

  private:
    struct Scope {
        std::unordered_map<std::string, Register> registers;
        std::unordered_map<std::string, Variable> variables;
    };

    // ---- Text
    [[noreturn]] void fail(const std::string &what) const;
    void skip_spaces();
    void skip_line();
    void skip_past(char c);
    void skip_block();
    bool peek(char c);
    bool eat(char c);
    void need(char c);
    std::string name();
    std::string directive();
    bool number(u64 *value);
    u64 integer();

    // ---- Declarations
    void file_name();
    void register_declaration();
    Variable sized(u32 *alignment);
    void shared_declaration();
    void parameters();
    void kernel_declaration();
    void body();
    bool body_directive();
    bool label();
    void finish_kernel();

    // ---- Statements
    const Register *find_register(const std::string &what) const;
    const Variable *find_variable(const std::string &what) const;
    void operand_name(Operand *o);
    void address(Operand *o);
    Operand operand();
    void guard(Instruction *i);
    void opcode(Instruction *i);
    void statement();

    const std::string text;
    const char *p;
    int line = 1, file = 0, source_line = 0;
    Module &module;
    Kernel *kernel = nullptr;     // whose body is read
    std::vector<Scope> scopes{1}; // of the module, the kernel, its blocks
    u32 module_shared_end = 0;
    std::vector<Extent> module_shared;
    std::unordered_map<std::string, int> labels;
    std::unordered_map<std::string, Instruction> decoded; // by name
};

// ---- Text -----------------------------------------------------------------------------------------------------------

void Parser::fail(const std::string &what) const {
    throw Error("PTX line " + std::to_string(line) + ": " + what + ", before \"" + std::string(p, strcspn(p, "\n")) +
                "\"");
}

void Parser::skip_spaces() {
    for (; isspace((unsigned char)*p); p++) { line += *p == '\n'; }
}

void Parser::skip_line() {
    while (*p && *p != '\n') { p++; }
}

void Parser::skip_past(char c) {
    for (; *p && *p != c; p++) { line += *p == '\n'; }
    if (*p) { p++; }
}

void Parser::skip_block() {
    skip_past('{');
    skip_past('}');
}

bool Parser::peek(char c) {
    skip_spaces();
    return *p == c;
}

bool Parser::eat(char c) {
    if (!peek(c)) { return false; }
    p++;
    return true;
}

void Parser::need(char c) {
    if (!eat(c)) { fail(std::string("expected '") + c + "'"); }
}

// Special registers have a dot in their names: %tid.x.
std::string Parser::name() {
    skip_spaces();
    if (!starts_name(*p)) { fail("expected a name"); }
    const char *begin = p++;
    while (continues_name(*p) || (*begin == '%' && *p == '.' && continues_name(p[1]))) { p++; }
    return std::string(begin, p);
}

std::string Parser::directive() {
    need('.');
    return name();
}

// A number as bits: 12, -3, 0x1F, 0f3F800000 (float), 0d3FF0000000000000 (double). False if there is none.
bool Parser::number(u64 *value) {
    skip_spaces();
    const bool negative = *p == '-';
    const char *digits = p + negative;
    if (!isdigit((unsigned char)*digits)) { return false; }
    const bool bits = *digits == '0' && digits[1] && strchr("fFdD", digits[1]);
    char *end;
    *value = strtoull(digits + (bits ? 2 : 0), &end, bits ? 16 : 0);
    if (negative) { *value = 0 - *value; }
    p = end + (*end == 'U');
    return true;
}

u64 Parser::integer() {
    u64 value;
    if (!number(&value)) { fail("expected a number"); }
    return value;
}

// ---- Declarations ---------------------------------------------------------------------------------------------------

// .file 1 "/folder/name.cu": the name without its folder.
void Parser::file_name() {
    const int index = (int)integer();
    const char *begin = p;
    skip_line();
    std::string path(begin, p);
    path = path.substr(0, path.rfind('"'));
    module.files[index] = path.substr(path.find_last_of("/\"") + 1);
}

// .reg .b32 %r<9>, %temp;
void Parser::register_declaration() {
    const std::string what = directive();
    const Type type = type_named(what);
    if (type == Type::NONE) { fail("registers of type ." + what); }
    do {
        const std::string stem = name();
        int count = 0;
        const bool many = eat('<');
        if (many) {
            count = (int)integer();
            need('>');
        }
        for (int i = 0; i < (many ? count : 1); i++) {
            scopes.back().registers[many ? stem + std::to_string(i) : stem] = {kernel->slots++, bytes_of(type)};
        }
    } while (eat(','));
    need(';');
}

// What follows ".shared" or ".param" up to the name: .align N .ptr .type. Returns the size of one element.
Variable Parser::sized(u32 *alignment) {
    Variable v = {0, 0, false};
    for (*alignment = 1; peek('.');) {
        const std::string word = directive();
        if (word == "align") {
            *alignment = std::max(*alignment, (u32)integer());
        } else if (const Type type = type_named(word); type != Type::NONE) {
            v.size = (u32)bytes_of(type);
            *alignment = std::max(*alignment, v.size);
        } else if (word != "ptr" && word != "global" && word != "shared") {
            fail("variable ." + word);
        }
    }
    if (!v.size) { fail("expected a type"); }
    return v;
}

// [.extern] .shared .align 16 .b8 name[SIZE]; dynamic shared memory has no size.
void Parser::shared_declaration() {
    u32 alignment;
    Variable v = sized(&alignment);
    const std::string what = name();
    if (eat('[')) {
        v.dynamic = peek(']');
        if (!v.dynamic) { v.size *= (u32)integer(); }
        need(']');
    }
    need(';');
    if (!v.dynamic) {
        u32 &end = kernel ? kernel->shared_end : module_shared_end;
        v.offset = round_up(end, std::max<u32>(alignment, SHARED_ALIGNMENT));
        end = v.offset + v.size + SHARED_GAP; // an access past the end is out of bounds
        (kernel ? kernel->shared : module_shared).push_back({v.offset, v.size});
    }
    scopes.back().variables[what] = v;
}

void Parser::parameters() {
    if (!eat('(') || eat(')')) { return; }
    do {
        if (directive() != "param") { fail("expected .param"); }
        u32 alignment;
        Variable v = sized(&alignment);
        const std::string what = name();
        if (eat('[')) {
            v.size *= (u32)integer();
            need(']');
        }
        v.offset = round_up(kernel->parameter_bytes, alignment);
        kernel->parameter_bytes = v.offset + v.size;
        kernel->parameters.push_back({v.offset, v.size});
        scopes.back().variables[what] = v;
    } while (eat(','));
    need(')');
}

void Parser::kernel_declaration() {
    const std::string what = name();
    kernel = &module.kernels[what];
    kernel->name = what;
    kernel->first = (int)module.code.size();
    kernel->shared = module_shared;
    kernel->shared_end = module_shared_end;
    labels.clear();
    file = source_line = 0;
    scopes.emplace_back();
    parameters();
    while (peek('.')) { // .maxntid 128, 1, 1
        directive();
        do { integer(); } while (eat(','));
    }
    need('{');
    body();
    finish_kernel();
    scopes.pop_back();
    kernel = nullptr;
}

void Parser::body() {
    scopes.emplace_back();
    for (size_t outside = scopes.size() - 1; scopes.size() > outside;) {
        if (eat('{')) {
            scopes.emplace_back();
        } else if (eat('}')) {
            scopes.pop_back();
        } else if (!eat(';') && !body_directive() && !label()) {
            statement();
        }
    }
}

bool Parser::body_directive() {
    if (!peek('.')) { return false; }
    const std::string what = directive();
    if (what == "reg") {
        register_declaration();
    } else if (what == "shared") {
        shared_declaration();
    } else if (what == "loc") {
        file = (int)integer();
        source_line = (int)integer();
        skip_line();
    } else if (what == "pragma") {
        skip_past(';');
    } else {
        fail("a kernel with ." + what);
    }
    return true;
}

bool Parser::label() {
    skip_spaces();
    const char *begin = p;
    if (starts_name(*p)) {
        const std::string what = name();
        if (eat(':')) {
            labels[what] = (int)module.code.size();
            return true;
        }
    }
    p = begin;
    return false;
}

// What is known only at the end: where labels are and where dynamic shared memory begins.
void Parser::finish_kernel() {
    Instruction end;
    end.text = "(end of " + kernel->name + ")";
    end.line = line;
    module.code.push_back(end);
    kernel->dynamic_offset = round_up(kernel->shared_end, DYNAMIC_ALIGNMENT);
    for (size_t n = (size_t)kernel->first; n < module.code.size(); n++) {
        Instruction &i = module.code[n];
        if (i.op == Op::BRA) {
            const auto found = labels.find(i.operands.at(0).label);
            if (found == labels.end()) { throw Error("PTX line " + std::to_string(i.line) + ": unknown label"); }
            i.target = found->second;
        }
        for (Operand &o : i.operands) {
            if (o.dynamic) { o.value += kernel->dynamic_offset; }
        }
    }
}

void Parser::run() {
    for (;;) {
        skip_spaces();
        if (!*p) { return; }
        const std::string what = directive();
        if (what == "entry") {
            kernel_declaration();
        } else if (what == "shared") {
            shared_declaration();
        } else if (what == "file") {
            file_name();
        } else if (what == "section") { // for debuggers
            skip_block();
        } else if (what == "version" || what == "target" || what == "address_size") {
            skip_line();
        } else if (what != "visible" && what != "weak" && what != "extern") {
            fail("a module with ." + what);
        }
    }
}

// ---- Statements -----------------------------------------------------------------------------------------------------

const Register *Parser::find_register(const std::string &what) const {
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
        const auto found = scope->registers.find(what);
        if (found != scope->registers.end()) { return &found->second; }
    }
    return nullptr;
}

const Variable *Parser::find_variable(const std::string &what) const {
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
        const auto found = scope->variables.find(what);
        if (found != scope->variables.end()) { return &found->second; }
    }
    return nullptr;
}

// A register, a special register, a variable's address or a label.
void Parser::operand_name(Operand *o) {
    static const std::map<std::string, Special> specials = {{"%tid", Special::THREAD},
                                                            {"%ntid", Special::BLOCK_SIZE},
                                                            {"%ctaid", Special::BLOCK},
                                                            {"%nctaid", Special::GRID_SIZE}};
    const std::string what = name();
    const size_t dot = what.find('.');
    const auto special = specials.find(what.substr(0, dot));
    if (const Register *r = find_register(what)) {
        o->kind = Operand::REGISTER;
        o->slot = r->slot;
        o->narrow = r->bytes == 4;
    } else if (special != specials.end() && dot != std::string::npos) {
        o->kind = Operand::SPECIAL;
        o->special = special->second;
        o->axis = what.back() - 'x';
    } else if (const Variable *v = find_variable(what)) {
        o->kind = Operand::IMMEDIATE;
        o->value = v->offset;
        o->dynamic = v->dynamic;
    } else if (what[0] == '%') {
        fail("register " + what);
    } else {
        o->kind = Operand::LABEL;
        o->label = what;
    }
}

// [register + offset], [variable + offset], after '['.
void Parser::address(Operand *o) {
    operand_name(o);
    if (o->kind != Operand::REGISTER && o->kind != Operand::IMMEDIATE) { fail("address"); }
    o->kind = Operand::ADDRESS;
    if (eat('+') || peek('-')) { o->value += integer(); }
    need(']');
}

Operand Parser::operand() {
    Operand o;
    if (eat('{')) {
        o.kind = Operand::VECTOR;
        do { o.of.push_back(operand()); } while (eat(','));
        need('}');
    } else if (eat('[')) {
        address(&o);
    } else if (!number(&o.value)) {
        operand_name(&o);
        if (o.kind == Operand::IMMEDIATE && eat('+')) { o.value += integer(); }
        if (eat('|')) { o.second = operand().slot; }
    }
    return o;
}

// @%p3 or @!%p3
void Parser::guard(Instruction *i) {
    if (!eat('@')) { return; }
    i->guard_negated = eat('!');
    const Register *predicate = find_register(name());
    if (!predicate) { fail("guard"); }
    i->guard = predicate->slot;
}

void Parser::opcode(Instruction *i) {
    skip_spaces();
    const char *begin = p;
    while (continues_name(*p) || *p == '.') { p++; }
    const std::string what(begin, p);
    const auto known = decoded.find(what);
    if (known != decoded.end()) {
        *i = known->second;
    } else if (decode_name(what, i)) {
        decoded[what] = *i;
    } else {
        throw Error("PTX line " + std::to_string(line) + ": the simulator does not know " + what +
                    " (tests/ptx/sim/opcodes.cpp)");
    }
}

void Parser::statement() {
    skip_spaces();
    const char *begin = p;
    const int first_line = line;
    Instruction guarded, i;
    guard(&guarded);
    opcode(&i);
    i.guard = guarded.guard;
    i.guard_negated = guarded.guard_negated;
    i.line = first_line;
    i.file = file;
    i.source_line = source_line;
    if (!peek(';')) {
        do { i.operands.push_back(operand()); } while (eat(','));
    }
    i.text = std::string(begin, p);
    std::replace(i.text.begin(), i.text.end(), '\n', ' ');
    std::replace(i.text.begin(), i.text.end(), '\t', ' ');
    need(';');
    if (i.op == Op::BAR && i.operands.at(i.any).value != 0) { fail("a barrier other than 0"); }
    if (i.op == Op::BAR && i.operands.size() != (i.any ? 3u : 1u)) { fail("a barrier of some threads"); }
    module.code.push_back(std::move(i));
}

} // namespace

std::unique_ptr<Module> parse_module(const std::string &text) {
    auto module = std::make_unique<Module>();
    Parser(text, *module).run();
    return module;
}

} // namespace sim
