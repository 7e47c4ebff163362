// Streams, events and graphs. Operations run in the order of their stream, but late: a stream runs only as far as an
// event, a blocking copy or a synchronisation requires, so that tests notice missing dependencies.
//
// EMU_DELAY=lazy          (default) nothing runs before it is required
//           random[:SEED] streams run ahead and stall at random, independently of each other
//           eager         everything runs at once
// Unordered branches of a graph run in random order (eager: as captured).
#include "runtime.h"

#include <stdlib.h>
#include <time.h>
#include <algorithm>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace emu;

// One record of an event.
struct Mark {
    CUstream_st *stream;
    bool done;
    double seconds;
};

struct Task {
    Operation run;
    std::shared_ptr<Mark> wait, signal; // runs after `wait` is done; then `signal` is done
    const void *host;                   // page-locked memory that a copy reads or writes
    size_t host_bytes;
};

struct Node {
    Operation run;
    std::vector<int> after; // earlier nodes
};

struct Capture {
    CUstream_st *origin;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool valid;
    std::vector<Node> nodes;
};

struct CUstream_st {
    std::deque<Task> tasks;
    bool runs_ahead, destroyed;
    std::shared_ptr<Capture> capture; // in which it takes part
    std::vector<int> tail;            // nodes that its next node follows
};

struct CUevent_st {
    std::shared_ptr<Mark> mark;       // its last record
    std::shared_ptr<Capture> capture; // not null: recorded while its stream was captured ...
    std::vector<int> tail;            // ... after these nodes
};

struct CUgraph_st {
    std::vector<Node> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<std::vector<Node>> nodes;
};

namespace emu {

static const size_t longest_queue = 1024; // further launches wait for the device, as on a real one

std::recursive_mutex runtime_mutex;
static std::list<CUstream_st *> streams; // the latest first
static std::vector<std::shared_ptr<Capture>> captures;

// ---- Delay ---------------------------------------------------------------------------------------------------------

enum Delay { LAZY, RANDOM, EAGER };
static uint64_t random_state = 1;

static void seed_once(const char *text) {
    static std::string last;
    if (last == text) { return; }
    last = text;
    random_state = strtoull(text, nullptr, 10) * 2 + 1;
}

static Delay delay() {
    const char *text = getenv("EMU_DELAY");
    if (!text || !*text || !strcmp(text, "lazy")) { return LAZY; }
    if (!strcmp(text, "eager")) { return EAGER; }
    if (strncmp(text, "random", 6)) { fail("EMU_DELAY is \"%s\", expected lazy, random[:SEED] or eager", text); }
    seed_once(text[6] == ':' ? text + 7 : "0");
    return RANDOM;
}

static unsigned random_below(unsigned n) { // xorshift64*
    random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
    return (unsigned)((random_state * 0x2545F4914F6CDD1Dull >> 32) * n >> 32);
}

// ---- Queues --------------------------------------------------------------------------------------------------------

static double now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void run_until(const Mark &mark);

static void run_front(CUstream_st *stream) {
    if (stream->tasks.front().wait) { run_until(*stream->tasks.front().wait); }
    Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    if (task.run) { task.run(); }
    if (task.signal) { task.signal->done = true, task.signal->seconds = now(); }
}

static void run_until(const Mark &mark) {
    DeviceAccess access;
    while (!mark.done) { run_front(mark.stream); }
}

static void drain(CUstream_st *stream) {
    DeviceAccess access;
    while (!stream->tasks.empty()) { run_front(stream); }
}

static bool blocked(const CUstream_st *stream) {
    return stream->tasks.empty() || (stream->tasks.front().wait && !stream->tasks.front().wait->done);
}

// From time to time, a random selection of streams runs, each until it has to wait for another. Not at every call,
// since opening and closing the device's memory takes longer than a small kernel.
static void run_ahead() {
    if (random_below(8) != 0) { return; }
    DeviceAccess access;
    for (CUstream_st *stream : streams) {
        if (random_below(2) == 0) { stream->runs_ahead = !stream->runs_ahead; }
        while (stream->runs_ahead && !blocked(stream)) { run_front(stream); }
    }
}

static void forget_destroyed() {
    for (auto s = streams.begin(); s != streams.end();) {
        if ((*s)->destroyed && (*s)->tasks.empty()) {
            delete *s;
            s = streams.erase(s);
        } else {
            ++s;
        }
    }
}

void finish_everything() {
    for (CUstream_st *stream : streams) { drain(stream); }
    forget_destroyed();
}

bool host_memory_in_use(const void *p, size_t n) {
    const char *begin = (const char *)p, *end = begin + n;
    for (const CUstream_st *stream : streams) {
        for (const Task &task : stream->tasks) {
            if (task.host && (const char *)task.host < end && (const char *)task.host + task.host_bytes > begin) {
                return true;
            }
        }
    }
    return false;
}

// Replaces a null pointer by the default stream.
static CUstream_st *resolve(CUstream_st *stream) {
    static CUstream_st *null_stream = nullptr;
    if (stream) { return stream; }
    if (!null_stream) { streams.push_front(null_stream = new CUstream_st()); }
    return null_stream;
}

static void push(CUstream_st *stream, Task task) {
    stream->tasks.push_back(std::move(task));
    if (delay() == EAGER) {
        drain(stream);
    } else if (delay() == RANDOM) {
        run_ahead();
    }
    if (stream->tasks.size() > longest_queue) {
        DeviceAccess access;
        run_front(stream);
    }
}

// ---- Capture -------------------------------------------------------------------------------------------------------

bool forbidden_by_capture() {
    bool forbidden = false;
    for (auto &capture : captures) {
        if (capture->mode == cudaStreamCaptureModeRelaxed) { continue; }
        if (capture->mode == cudaStreamCaptureModeThreadLocal && capture->thread != std::this_thread::get_id()) {
            continue;
        }
        capture->valid = false;
        forbidden = true;
    }
    if (forbidden) { result(cudaErrorStreamCaptureUnsupported); }
    return forbidden;
}

// Whether the stream takes part in an invalidated capture; if so, records the error.
static bool capture_is_lost(const CUstream_st *stream) {
    if (!stream->capture || stream->capture->valid) { return false; }
    result(cudaErrorStreamCaptureInvalidated);
    return true;
}

static void submit(CUstream_st *stream, Task task) {
    if (capture_is_lost(stream)) { return; }
    if (!stream->capture) { return push(stream, std::move(task)); }
    stream->capture->nodes.push_back({std::move(task.run), stream->tail});
    stream->tail = {(int)stream->capture->nodes.size() - 1};
}

void enqueue(CUstream_st *stream, Operation operation) {
    Lock lock(runtime_mutex);
    submit(resolve(stream), {std::move(operation), nullptr, nullptr, nullptr, 0});
}

// The nodes that must run before, or are in, `tail`.
static std::vector<bool> ancestors(const std::vector<Node> &nodes, const std::vector<int> &tail) {
    std::vector<bool> found(nodes.size(), false);
    for (int i : tail) { found[i] = true; }
    for (int i = (int)nodes.size() - 1; i >= 0; i--) {
        if (found[i]) {
            for (int j : nodes[i].after) { found[j] = true; }
        }
    }
    return found;
}

static void run_graph(const std::vector<Node> &nodes) {
    std::vector<int> waiting(nodes.size());
    std::vector<std::vector<int>> followers(nodes.size());
    std::vector<int> ready;
    for (size_t i = 0; i < nodes.size(); i++) {
        waiting[i] = (int)nodes[i].after.size();
        for (int j : nodes[i].after) { followers[j].push_back((int)i); }
        if (!waiting[i]) { ready.push_back((int)i); }
    }
    while (!ready.empty()) {
        const size_t at = delay() == EAGER ? std::min_element(ready.begin(), ready.end()) - ready.begin()
                                           : random_below((unsigned)ready.size());
        const int i = ready[at];
        ready[at] = ready.back(), ready.pop_back();
        if (nodes[i].run) { nodes[i].run(); }
        for (int j : followers[i]) {
            if (--waiting[j] == 0) { ready.push_back(j); }
        }
    }
}

} // namespace emu

// ---- Streams -------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    Lock lock(runtime_mutex);
    if (flags != cudaStreamNonBlocking) { fail("streams that wait for the null stream are not emulated"); }
    streams.push_front(*stream = new CUstream_st());
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    Lock lock(runtime_mutex);
    if (!stream || stream->destroyed) { return result(cudaErrorInvalidResourceHandle); }
    if (stream->capture) { stream->capture->valid = false; }
    stream->destroyed = true; // its queued operations still run
    forget_destroyed();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    Lock lock(runtime_mutex);
    stream = resolve(stream);
    if (stream->capture) { stream->capture->valid = false; }
    if (stream->capture || forbidden_by_capture()) { return result(cudaErrorStreamCaptureUnsupported); }
    DeviceAccess access;
    drain(stream);
    check_all_guards();
    return cudaSuccess;
}

// Polling makes progress: one operation each time.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    Lock lock(runtime_mutex);
    stream = resolve(stream);
    if (stream->capture) { stream->capture->valid = false; }
    if (stream->capture || forbidden_by_capture()) { return result(cudaErrorStreamCaptureUnsupported); }
    if (stream->tasks.empty()) { return cudaSuccess; }
    DeviceAccess access;
    run_front(stream);
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
    Lock lock(runtime_mutex);
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    DeviceAccess access;
    finish_everything();
    check_all_guards();
    return cudaSuccess;
}

// ---- Copies --------------------------------------------------------------------------------------------------------

static bool fits(Place place, bool device) { return (place == DEVICE) == device; }

static bool kind_fits(cudaMemcpyKind kind, Place to, Place from) {
    if (kind == cudaMemcpyDefault) { return true; }
    return fits(to, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
           fits(from, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
}

// Memory that is not page-locked is read immediately, and written before the call returns.
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    Lock lock(runtime_mutex);
    const Place to_place = place_of(to, bytes), from_place = place_of(from, bytes);
    stream = resolve(stream);
    if (!kind_fits(kind, to_place, from_place)) { return result(cudaErrorInvalidValue); }
    if (capture_is_lost(stream)) { return cudaErrorStreamCaptureInvalidated; }
    if (stream->capture && (to_place == PAGEABLE || from_place == PAGEABLE)) {
        fail("a copy of memory that is not page-locked is captured: each launch of the graph would use it again");
    }
    if (to_place != DEVICE && from_place != DEVICE && !stream->capture) {
        drain(stream);
        memmove(to, from, bytes);
        return cudaSuccess;
    }
    Task task = {nullptr, nullptr, nullptr, to_place == PINNED ? to : from_place == PINNED ? from : nullptr, bytes};
    if (from_place == PAGEABLE) {
        auto staged = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        task.run = [=] { memcpy(to, staged->data(), bytes); };
    } else {
        task.run = [=] { memmove(to, from, bytes); };
    }
    submit(stream, std::move(task));
    if (to_place == PAGEABLE) { drain(stream); }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream) {
    Lock lock(runtime_mutex);
    if (place_of(to, bytes) == PAGEABLE) { return result(cudaErrorInvalidValue); }
    stream = resolve(stream);
    if (capture_is_lost(stream)) { return cudaErrorStreamCaptureInvalidated; }
    submit(stream, {[=] { memset(to, byte, bytes); }, nullptr, nullptr, nullptr, 0});
    return cudaSuccess;
}

// ---- Events --------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    Lock lock(runtime_mutex);
    if (!event) { return result(cudaErrorInvalidResourceHandle); }
    stream = resolve(stream);
    if (capture_is_lost(stream)) { return cudaErrorStreamCaptureInvalidated; }
    event->capture = stream->capture;
    event->tail = stream->tail;
    event->mark = nullptr;
    if (stream->capture) { return cudaSuccess; }
    event->mark = std::make_shared<Mark>(Mark{stream, false, 0});
    push(stream, {nullptr, nullptr, event->mark, nullptr, 0});
    return cudaSuccess;
}

// During a capture: the stream joins the event's capture.
static cudaError_t join_capture(CUstream_st *stream, const CUevent_st *event) {
    if (!event->capture->valid) { return result(cudaErrorStreamCaptureInvalidated); }
    if (std::find(captures.begin(), captures.end(), event->capture) == captures.end()) {
        return result(cudaErrorCapturedEvent);
    }
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->valid = event->capture->valid = false;
        return result(cudaErrorStreamCaptureMerge);
    }
    if (!stream->capture) { stream->capture = event->capture, stream->tail.clear(); }
    for (int node : event->tail) {
        if (std::find(stream->tail.begin(), stream->tail.end(), node) == stream->tail.end()) {
            stream->tail.push_back(node);
        }
    }
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    Lock lock(runtime_mutex);
    if (!event) { return result(cudaErrorInvalidResourceHandle); }
    stream = resolve(stream);
    if (capture_is_lost(stream)) { return cudaErrorStreamCaptureInvalidated; }
    if (event->capture) { return join_capture(stream, event); }
    if (!event->mark) {
        return cudaSuccess; // never recorded
    }
    if (stream->capture) {
        stream->capture->valid = false;
        return result(cudaErrorStreamCaptureIsolation);
    }
    push(stream, {nullptr, event->mark, nullptr, nullptr, 0});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    Lock lock(runtime_mutex);
    if (!event) { return result(cudaErrorInvalidResourceHandle); }
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    if (event->capture) { return result(cudaErrorCapturedEvent); }
    if (event->mark) { run_until(*event->mark); }
    return cudaSuccess;
}

// Polling makes progress: one operation each time.
cudaError_t cudaEventQuery(cudaEvent_t event) {
    Lock lock(runtime_mutex);
    if (!event) { return result(cudaErrorInvalidResourceHandle); }
    if (forbidden_by_capture()) { return cudaErrorStreamCaptureUnsupported; }
    if (event->capture) { return result(cudaErrorCapturedEvent); }
    if (!event->mark || event->mark->done) { return cudaSuccess; }
    DeviceAccess access;
    run_front(event->mark->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    Lock lock(runtime_mutex);
    if (!begin || !end || !begin->mark || !end->mark) { return result(cudaErrorInvalidResourceHandle); }
    if (!begin->mark->done || !end->mark->done) { return cudaErrorNotReady; }
    *milliseconds = (float)(1e3 * (end->mark->seconds - begin->mark->seconds));
    return cudaSuccess;
}

// ---- Graphs --------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    Lock lock(runtime_mutex);
    if (!stream) { return result(cudaErrorStreamCaptureUnsupported); }
    if (stream->capture) { return result(cudaErrorIllegalState); }
    stream->capture = std::make_shared<Capture>(Capture{stream, mode, std::this_thread::get_id(), true, {}});
    stream->tail.clear();
    captures.push_back(stream->capture);
    return cudaSuccess;
}

// Ends when every branch has come back to the stream in which the capture began.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    Lock lock(runtime_mutex);
    *graph = nullptr;
    if (!stream || !stream->capture) { return result(cudaErrorIllegalState); }
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream) { return result(cudaErrorStreamCaptureUnmatched); }
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
        return result(cudaErrorStreamCaptureWrongThread);
    }
    const std::vector<bool> joined = ancestors(capture->nodes, stream->tail);
    bool complete = true;
    for (CUstream_st *s : streams) {
        if (s->capture != capture) { continue; }
        for (int node : s->tail) { complete &= joined[node]; }
        s->capture = nullptr, s->tail.clear();
    }
    captures.erase(std::find(captures.begin(), captures.end(), capture));
    if (!capture->valid) { return result(cudaErrorStreamCaptureInvalidated); }
    capture->valid = complete;
    if (!complete) { return result(cudaErrorStreamCaptureUnjoined); }
    *graph = new CUgraph_st{std::move(capture->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    Lock lock(runtime_mutex);
    if (!graph) { return result(cudaErrorInvalidValue); }
    *exec = new CUgraphExec_st{std::make_shared<std::vector<Node>>(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    Lock lock(runtime_mutex);
    stream = resolve(stream);
    if (stream->capture) { fail("a graph inside a graph is not emulated"); }
    push(stream, {[nodes = exec->nodes] { run_graph(*nodes); }, nullptr, nullptr, nullptr, 0});
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
