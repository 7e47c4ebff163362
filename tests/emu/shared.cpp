#include "shared.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <map>
#include <string>
#include <vector>

namespace emu {

// ---- Dynamic -------------------------------------------------------------------------------------------------------

static const size_t shared_alignment = 128, most_shared = 228 << 10;
static const int poison_byte = 0xFF, guard_byte = 0xA5;

unsigned char *DynamicShared::prepare(size_t n) {
    if (!base) {
        const size_t page = sysconf(_SC_PAGESIZE);
        void *mapping = mmap(nullptr, most_shared + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED) { fail("cannot allocate shared memory"); }
        end = (unsigned char *)mapping + most_shared;
        mprotect(end, page, PROT_NONE);
    }
    bytes = n;
    base = end - (n + shared_alignment - 1) / shared_alignment * shared_alignment;
    memset(base - shared_alignment, guard_byte, shared_alignment);
    memset(base, poison_byte, bytes);
    memset(base + bytes, guard_byte, end - base - bytes);
    return base;
}

void DynamicShared::check() const {
    for (const unsigned char *p = base + bytes; p < end; p++) {
        if (*p != guard_byte) {
            fail("the block wrote %zu bytes beyond its %zu bytes of dynamic shared memory", p - base - bytes, bytes);
        }
    }
    for (const unsigned char *p = base - shared_alignment; p < base; p++) {
        if (*p != guard_byte) { fail("the block wrote %zu bytes before its dynamic shared memory", base - p); }
    }
}

// ---- Static --------------------------------------------------------------------------------------------------------

struct Variable {
    std::string name; // mangled
    size_t offset, bytes;
    bool guard; // a guard that __shared__ puts before each array
};

struct Program {
    std::vector<Variable> variables;
    size_t offset_of_current;
    std::map<size_t, std::string> functions; // by address
    size_t address_of_lane_id;
};

static void take_symbol(Program *program, const Elf64_Sym &symbol, const char *name) {
    if (ELF64_ST_TYPE(symbol.st_info) == STT_TLS) {
        if (!strcmp(name, "_ZN3emu7currentE")) { program->offset_of_current = symbol.st_value; }
        if (!strncmp(name, "_ZZ", 3)) { // local in a C++ function: only kernels have these
            program->variables.push_back(
                {name, symbol.st_value, symbol.st_size, strstr(name, "emu_shared_guard") != nullptr});
        }
    } else if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value) {
        if (!strcmp(name, "_ZN3emu7lane_idEv")) { program->address_of_lane_id = symbol.st_value; }
        program->functions[symbol.st_value] = name;
    }
}

static Program read_program() {
    const int file = open("/proc/self/exe", O_RDONLY);
    struct stat info;
    if (file < 0 || fstat(file, &info)) { fail("cannot read /proc/self/exe"); }
    const char *image = (const char *)mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    Program program = {};
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) { continue; }
        const Elf64_Sym *symbols = (const Elf64_Sym *)(image + sections[i].sh_offset);
        const char *names = image + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
            take_symbol(&program, symbols[s], names + symbols[s].st_name);
        }
    }
    munmap((void *)image, info.st_size);
    if (!program.address_of_lane_id) { fail("the program is stripped: cannot find its __shared__ arrays"); }
    return program;
}

static const Program &program() {
    static const Program read = read_program();
    return read;
}

static unsigned char *address_of(const Variable &v) {
    return (unsigned char *)&current - program().offset_of_current + v.offset;
}

void static_shared_poison() {
    for (const Variable &v : program().variables) {
        memset(address_of(v), v.guard ? guard_byte : poison_byte, v.bytes);
    }
}

// The variables that end just before the guard or begin just after it.
static std::string neighbours(const Variable &guard) {
    const Variable *before = nullptr, *after = nullptr;
    for (const Variable &v : program().variables) {
        if (v.guard) { continue; }
        if (v.offset < guard.offset && (!before || v.offset > before->offset)) { before = &v; }
        if (v.offset > guard.offset && (!after || v.offset < after->offset)) { after = &v; }
    }
    std::string text;
    for (const Variable *v : {before, after}) {
        if (!v) { continue; }
        char *name = abi::__cxa_demangle(v->name.c_str(), nullptr, nullptr, nullptr);
        text += (text.empty() ? "" : " or before ") + std::string(name ? name : v->name.c_str());
        free(name);
    }
    return text;
}

void static_shared_check() {
    for (const Variable &v : program().variables) {
        if (!v.guard) { continue; }
        const unsigned char *p = address_of(v);
        for (size_t i = 0; i < v.bytes; i++) {
            if (p[i] != guard_byte) { fail("the block wrote beyond its __shared__ array: %s", neighbours(v).c_str()); }
        }
    }
}

size_t static_shared_bytes(const void *function) {
    const size_t address = (size_t)function - (size_t)lane_id + program().address_of_lane_id;
    auto found = program().functions.find(address);
    if (found == program().functions.end()) { return 0; }
    const std::string prefix = "_ZZ" + found->second.substr(2) + "E";
    size_t bytes = 0;
    for (const Variable &v : program().variables) {
        if (!v.guard && v.name.compare(0, prefix.size(), prefix) == 0) { bytes += v.bytes; }
    }
    return bytes;
}

} // namespace emu
