// Runs a grid, one block per core at a time. The threads of a block start one after the other on one fiber. A thread
// that has to wait keeps the fiber, and the next thread starts on another one. A kernel without barriers needs only
// one.
#include "shared.h"

#include <boost/context/detail/fcontext.hpp>
#include <omp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emu {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

static const size_t stack_bytes = 64 << 10;
static const int poison_byte = 0xFF;

enum State { NEW, READY, AT_BARRIER, IN_WARP, DONE };

struct Copy {
    void *shared;
    unsigned char data[16];
    int bytes, group;
};

struct Fiber {
    fcontext_t context; // while the fiber does not run
};

struct Thread {
    State state;
    Fiber *fiber; // while it waits or runs
    uint3 index;
    unsigned rank;     // in the block; lane = rank % 32
    const char *place; // file of the barrier or name of the warp operation in which it waits
    int line;
    unsigned mask;
    const void *in;
    void *out;
    std::vector<Copy> copies; // cp.async in flight
    int copy_group;
};

// Lanes of a warp that wait for the other lanes in a warp operation.
struct Meeting {
    const char *op;
    unsigned mask, arrived;
};

struct Warp {
    unsigned lanes, left; // lanes that exist; lanes that have returned
    std::vector<Meeting> meetings;
};

// A core's data for running blocks, reused from block to block.
struct Worker {
    std::vector<Thread> threads; // of the block that runs
    std::vector<Warp> warps;
    std::vector<Fiber *> idle;
    std::vector<unsigned> order;
    unsigned started, left; // threads of `order` that have begun; threads that have returned
    unsigned next;          // index in `order` of the thread that is resumed next
    bool warps_ahead;       // a warp runs as far as it can before another one runs
    Thread *last;           // ran last
    Fiber scheduler;        // the core's own stack
    Fiber *running;
    unsigned arrived;
    int predicates, barrier_result;
    const char *barrier_file;
    int barrier_line;
    const std::function<void()> *body;
    DynamicShared shared;
    uint64_t random;
};

__thread Current current;
static __thread Worker *worker;
static const char *running = nullptr; // kernel of the launch in progress
static std::string latest = "none";

static struct Registry {
    std::mutex mutex;
    std::map<const void *, size_t> shared_limits;
    std::map<std::string, long> launches;
    ~Registry();
} registry;

// ---- Errors --------------------------------------------------------------------------------------------------------

// "const char *emu::kernel_name() [with auto Kernel = norm<8>]" -> "norm<8>"; clang says "[Kernel = &norm<8>]".
static std::string short_name(const char *pretty) {
    const char *begin = strstr(pretty, "Kernel = ");
    std::string name = begin ? begin + strlen("Kernel = ") : pretty;
    if (name[0] == '&') { name.erase(0, 1); }
    if (begin && !name.empty() && name.back() == ']') { name.pop_back(); }
    return name;
}

const char *last_kernel() { return latest.c_str(); }

void fail(const char *format, ...) {
    char sentence[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(sentence, sizeof sentence, format, list);
    va_end(list);
    fflush(stdout);
    if (running && current.self) {
        const uint3 b = current.block, t = current.self->index;
        fprintf(stderr, "emu: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", short_name(running).c_str(),
                b.x, b.y, b.z, t.x, t.y, t.z, sentence);
    } else if (running) {
        fprintf(stderr, "emu: kernel %s: %s\n", short_name(running).c_str(), sentence);
    } else {
        fprintf(stderr, "emu: %s\n", sentence);
    }
    fflush(stderr);
    _exit(1);
}

static void on_fault(int, siginfo_t *info, void *) {
    if (!running && is_device_memory(info->si_addr)) {
        fail("host code accesses device memory at address %p", info->si_addr);
    }
    fail("invalid access at address %p (outside of every allocation, or a fiber's stack overflowed)", info->si_addr);
}

static void on_trap(int, siginfo_t *, void *) { // ALIGNED in kernels/cuda.mk
    fail("misaligned access (the address is not a multiple of what the type needs)");
}

// The handler needs its own stack, since the fault may be a stack overflow of a fiber.
static void use_fault_stack() {
    stack_t alternative = {};
    alternative.ss_size = 64 << 10;
    alternative.ss_sp = malloc(alternative.ss_size);
    sigaltstack(&alternative, nullptr);
}

// Called again at each launch, since test libraries catch these signals too.
__attribute__((constructor)) void catch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    action.sa_sigaction = on_trap;
    sigaction(SIGILL, &action, nullptr);
    sigaction(SIGTRAP, &action, nullptr);
}

Registry::~Registry() {
    const char *where = getenv("EMU_REPORT");
    if (!where || !*where || !strcmp(where, "0")) { return; }
    FILE *file = strcmp(where, "1") ? fopen(where, "a") : stderr;
    if (!file) { return; }
    for (auto &[name, count] : launches) { fprintf(file, "emu: %8ld launches of %s\n", count, name.c_str()); }
    if (file != stderr) { fclose(file); }
}

// ---- Limits of the card --------------------------------------------------------------------------------------------

int compute_capability() {
    const char *text = getenv("EMU_SM");
    return text && *text ? atoi(text) : 89;
}

size_t shared_limit_of_card() {
    switch (compute_capability()) {
    case 80:
        return 163 << 10;
    case 90:
        return 227 << 10;
    default:
        return 99 << 10;
    }
}

void set_shared_limit(const void *function, size_t bytes) {
    std::lock_guard<std::mutex> lock(registry.mutex);
    registry.shared_limits[function] = bytes;
}

static void check_launch(const void *function, dim3 grid, dim3 block, size_t shared_bytes) {
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (!threads || threads > 1024 || block.z > 64) {
        fail("a block of %u x %u x %u threads, the limit is 1024", block.x, block.y, block.z);
    }
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        fail("a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
    }
    const size_t fixed = static_shared_bytes(function), total = fixed + shared_bytes;
    if (total > shared_limit_of_card()) {
        fail("%zu bytes of shared memory, the card has %zu", total, shared_limit_of_card());
    }
    std::lock_guard<std::mutex> lock(registry.mutex);
    auto allowed = registry.shared_limits.find(function);
    if (total > (48 << 10) && (allowed == registry.shared_limits.end() || allowed->second < shared_bytes)) {
        fail("%zu bytes of dynamic shared memory and %zu of static without cudaFuncSetAttribute: more than 48 KB must "
             "be requested",
             shared_bytes, fixed);
    }
}

// ---- Switching -----------------------------------------------------------------------------------------------------

static void entered(Fiber *self, transfer_t from) {
    ((Fiber *)from.data)->context = from.fctx;
    worker->running = self;
}

static void switch_to(Fiber *to) {
    Fiber *self = worker->running;
    if (self == to) { return; }
    worker->running = to;
    entered(self, jump_fcontext(to->context, self));
}

static Fiber *idle_fiber(Worker *w);

// With warps_ahead: the next lane of the last thread's warp that can continue, once all its lanes have begun.
static Thread *lane_ahead(Worker *w) {
    if (!w->warps_ahead || !w->last) { return nullptr; }
    const unsigned first = w->last->rank / 32 * 32, lanes = std::min<size_t>(32, w->threads.size() - first);
    for (unsigned i = 0; i < lanes; i++) {
        if (w->threads[first + i].state == NEW) { return nullptr; }
    }
    for (unsigned i = 1; i <= lanes; i++) {
        Thread *t = &w->threads[first + (w->last->rank - first + lanes - i) % lanes];
        if (t->state == READY) { return t; }
    }
    return nullptr;
}

static Fiber *resume(Worker *w, Thread *t) {
    w->last = current.self = t;
    current.thread = t->index;
    return t->fiber;
}

// The fiber that runs next: while there are new threads, a fiber that starts them; then the next thread that can
// continue in this round through the order, or the scheduler for another round.
static Fiber *next_fiber(Worker *w) {
    if (Thread *t = lane_ahead(w)) { return resume(w, t); }
    if (w->started < w->threads.size()) { return idle_fiber(w); }
    while (w->next < w->order.size()) {
        Thread *t = &w->threads[w->order[w->next++]];
        if (t->state == READY) { return resume(w, t); }
    }
    current.self = nullptr;
    return &w->scheduler;
}

static void yield() { switch_to(next_fiber(worker)); }

static void run_thread(Worker *w, Thread *t) {
    w->last = current.self = t;
    current.thread = t->index;
    (*w->body)();
    if (!t->copies.empty()) { fail("the thread ends with cp.async copies in flight that nothing waited for"); }
    t->state = DONE;
    w->left++;
    w->warps[t->rank / 32].left |= 1u << t->rank % 32;
}

// Starts threads in order until none is left. If a thread waits, it keeps this fiber, and another fiber continues with
// the next threads. The fiber is idle when its last thread has returned.
static void fiber_main(transfer_t from) {
    Worker *w = worker;
    Fiber *self = w->running;
    entered(self, from);
    for (;;) {
        while (w->started < w->threads.size() && !lane_ahead(w)) {
            Thread *t = &w->threads[w->order[w->started++]];
            t->state = READY, t->fiber = self;
            run_thread(w, t);
        }
        w->idle.push_back(self);
        yield();
    }
}

static Fiber *new_fiber() {
    const size_t page = sysconf(_SC_PAGESIZE);
    void *memory = mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) { fail("cannot allocate the threads' stacks"); }
    mprotect(memory, page, PROT_NONE);
    Fiber *f = new Fiber();
    f->context = make_fcontext((unsigned char *)memory + page + stack_bytes, stack_bytes, fiber_main);
    return f;
}

static Fiber *idle_fiber(Worker *w) {
    if (w->idle.empty()) { return new_fiber(); }
    Fiber *f = w->idle.back();
    w->idle.pop_back();
    return f;
}

static uint64_t next_random(uint64_t *state) { // xorshift64*
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Dull;
}

enum Order { ASCENDING, DESCENDING, RANDOM };
static Order thread_order(uint64_t *seed) {
    const char *text = getenv("EMU_ORDER");
    *seed = 1;
    if (!text || !*text || !strcmp(text, "ascending")) { return ASCENDING; }
    if (!strcmp(text, "descending")) { return DESCENDING; }
    if (strncmp(text, "random", 6)) {
        fail("EMU_ORDER is \"%s\", expected ascending, descending or random[:SEED]", text);
    }
    if (text[6] == ':') { *seed = strtoull(text + 7, nullptr, 10) * 2 + 1; }
    return RANDOM;
}

static void arrange(std::vector<unsigned> &order, unsigned n, Order kind, uint64_t *random) {
    order.resize(n);
    for (unsigned i = 0; i < n; i++) { order[i] = kind == DESCENDING ? n - 1 - i : i; }
    if (kind == RANDOM) {
        for (unsigned i = n; i > 1; i--) { std::swap(order[i - 1], order[next_random(random) % i]); }
    }
}

// No thread can continue: reports which threads wait where.
[[noreturn]] static void report_deadlock(Worker *w) {
    int at_barrier = 0, in_warp = 0;
    const Thread *waiting = nullptr, *warp = nullptr;
    for (const Thread &t : w->threads) {
        if (t.state == AT_BARRIER) { at_barrier++, waiting = &t; }
        if (t.state == IN_WARP) { in_warp++, warp = &t; }
    }
    if (warp) {
        current.self = const_cast<Thread *>(warp);
        fail("%s with mask 0x%08x never completes: %d threads wait in warp operations, %d at a barrier, %u have left",
             warp->place, warp->mask, in_warp, at_barrier, w->left);
    }
    fail("barrier divergence: %d of %zu threads wait at %s:%d, %u have left", at_barrier, w->threads.size(),
         waiting->place, waiting->line, w->left);
}

static Worker *this_worker() {
    if (!worker) {
        worker = new Worker(); // lives as long as its thread: fibers are never unwound
        worker->running = &worker->scheduler;
        use_fault_stack();
    }
    return worker;
}

static void prepare_threads(Worker *w, dim3 block, Order order) {
    const unsigned n = block.x * block.y * block.z;
    if (w->threads.size() != n) {
        w->threads.resize(n);
        w->warps.resize((n + 31) / 32);
    }
    for (unsigned i = 0; i < n; i++) {
        Thread *t = &w->threads[i];
        t->state = NEW, t->rank = i, t->copy_group = 0;
        t->index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    }
    for (unsigned i = 0; i < w->warps.size(); i++) {
        const unsigned lanes = n - i * 32;
        w->warps[i].lanes = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        w->warps[i].left = 0;
    }
    arrange(w->order, n, order, &w->random);
    w->warps_ahead = order == DESCENDING, w->last = nullptr;
    w->started = w->left = w->arrived = 0;
}

static void run_block(Worker *w, dim3 block, size_t shared_bytes, Order order, const std::function<void()> &body) {
    prepare_threads(w, block, order);
    current.dynamic_shared = w->shared.prepare(shared_bytes);
    static_shared_poison();
    w->body = &body;
    w->next = w->order.size(); // the first round starts the threads
    while (w->left < w->threads.size()) {
        Fiber *next = next_fiber(w);
        if (next == &w->scheduler) { report_deadlock(w); }
        switch_to(next);
        if (order == RANDOM) { arrange(w->order, w->threads.size(), order, &w->random); }
        w->next = 0;
    }
    current.self = nullptr;
    w->shared.check();
    static_shared_check();
}

void run_grid(const char *name, const void *function, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body) {
    running = name;
    catch_faults();
    check_launch(function, grid, block, shared_bytes);
    {
        std::lock_guard<std::mutex> lock(registry.mutex);
        latest = short_name(name);
        registry.launches[latest]++;
    }
    uint64_t seed;
    const Order order = thread_order(&seed);
    std::vector<unsigned> blocks;
    uint64_t random = seed;
    arrange(blocks, grid.x * grid.y * grid.z, order, &random);
#pragma omp parallel for schedule(dynamic) if (blocks.size() > 1)
    for (size_t i = 0; i < blocks.size(); i++) {
        Worker *w = this_worker();
        const unsigned b = blocks[i];
        current.block_dim = {block.x, block.y, block.z}, current.grid_dim = {grid.x, grid.y, grid.z};
        current.block = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        w->random = (seed + 0x9E3779B97F4A7C15ull * (b + 1)) | 1;
        run_block(w, block, shared_bytes, order, body);
    }
    running = nullptr;
}

// ---- Rendezvous ----------------------------------------------------------------------------------------------------

int barrier(const char *file, int line, int predicate) {
    Worker *w = worker;
    Thread *self = current.self;
    if (w->arrived == 0) { w->barrier_file = file, w->barrier_line = line, w->predicates = 0; }
    if (w->barrier_line != line || strcmp(w->barrier_file, file)) {
        fail("barrier divergence: this thread waits at %s:%d, others at %s:%d", file, line, w->barrier_file,
             w->barrier_line);
    }
    w->predicates += predicate != 0;
    if (++w->arrived == w->threads.size()) {
        w->arrived = 0;
        w->barrier_result = w->predicates;
        for (Thread &t : w->threads) { t.state = READY; }
        // The last thread to arrive is queued like the others, so that EMU_ORDER decides the order after the barrier.
    } else {
        self->state = AT_BARRIER, self->place = file, self->line = line;
    }
    yield();
    return w->barrier_result;
}

unsigned lane_id() { return current.self->rank % 32; }

static Meeting *join_meeting(Warp *warp, const char *op, unsigned mask, unsigned lane) {
    Meeting *found = nullptr;
    for (Meeting &m : warp->meetings) {
        if (m.mask == mask && (m.op == op || !strcmp(m.op, op))) {
            found = &m;
        } else if ((m.mask >> lane & 1) && (m.arrived & mask)) {
            fail("%s with mask 0x%08x, but lane %d waits in %s with mask 0x%08x", op, mask,
                 __builtin_ctz(m.arrived & mask), m.op, m.mask);
        }
    }
    if (!found) {
        warp->meetings.push_back({op, mask, 0});
        found = &warp->meetings.back();
    }
    found->arrived |= 1u << lane;
    return found;
}

void warp_meet(const char *op, unsigned mask, const void *in, void *out, Combine combine) {
    Worker *w = worker;
    Thread *self = current.self;
    const unsigned lane = self->rank % 32;
    Warp *warp = &w->warps[self->rank / 32];
    if (!(mask >> lane & 1)) { fail("%s with mask 0x%08x, which does not name the calling lane %u", op, mask, lane); }
    if (mask & ~warp->lanes) {
        fail("%s with mask 0x%08x names lane %d, which does not exist", op, mask, __builtin_ctz(mask & ~warp->lanes));
    }
    if (mask & warp->left) {
        fail("%s with mask 0x%08x names lane %d, which has left the kernel", op, mask,
             __builtin_ctz(mask & warp->left));
    }
    self->place = op, self->mask = mask, self->in = in, self->out = out;
    Meeting *meeting = join_meeting(warp, op, mask, lane);
    if (meeting->arrived != mask) {
        self->state = IN_WARP;
        yield();
        return;
    }
    warp->meetings.erase(warp->meetings.begin() + (meeting - warp->meetings.data()));
    const void *inputs[32] = {};
    void *outputs[32] = {};
    Thread *lanes = &w->threads[self->rank - lane];
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        inputs[i] = lanes[i].in, outputs[i] = lanes[i].out;
        lanes[i].state = READY;
    }
    combine(mask, inputs, outputs);
}

// ---- cp.async ------------------------------------------------------------------------------------------------------

void check_shared(const void *address, size_t bytes, size_t alignment, const char *op) {
    const unsigned char *p = (const unsigned char *)address;
    const DynamicShared *s = &worker->shared;
    if (p < s->base || p + bytes > s->base + s->bytes) {
        fail("%s outside of the block's %zu bytes of dynamic shared memory", op, s->bytes);
    }
    if ((uintptr_t)p % alignment) { fail("%s at an address that is not a multiple of %zu", op, alignment); }
}

void copy_async(void *shared, const void *global, int bytes, int source_bytes) {
    if (bytes != 4 && bytes != 8 && bytes != 16) { fail("cp.async of %d bytes", bytes); }
    if (source_bytes < 0 || source_bytes > bytes) {
        fail("cp.async of %d bytes from a source of %d", bytes, source_bytes);
    }
    check_shared(shared, bytes, bytes, "cp.async");
    if ((uintptr_t)global % bytes) { fail("cp.async from an address that is not a multiple of %d", bytes); }
    Copy copy = {shared, {}, bytes, current.self->copy_group};
    memcpy(copy.data, global, source_bytes);
    memset(shared, poison_byte, bytes);
    current.self->copies.push_back(copy);
}

void copy_async_commit() { current.self->copy_group++; }

void copy_async_wait(int groups_in_flight) {
    Thread *self = current.self;
    const int landed = self->copy_group - groups_in_flight;
    size_t kept = 0;
    for (Copy &copy : self->copies) {
        if (copy.group < landed) {
            memcpy(copy.shared, copy.data, copy.bytes);
        } else {
            self->copies[kept++] = copy;
        }
    }
    self->copies.resize(kept);
}

} // namespace emu
