// The choice of cuBLASLt's algorithms on the device (kernels/runtime/algorithms.h).
#include "kernels/gemm_plans.cuh"
#include <algorithm>
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "util/error.h"
}

void note_product(const Product &p, Device *dev) {
    if (!dev->internals || !dev->internals->gemm || !dev->internals->gemm->noting) { return; }
    std::vector<Product> &noted = dev->internals->gemm->noted;
    const auto same = [&](const Product &other) { return key(other) == key(p); };
    if (std::none_of(noted.begin(), noted.end(), same)) { noted.push_back(p); }
}

void algorithms_note(Device *dev, bool noting) { cache_of(dev)->noting = noting; }
int algorithms_noted(const Device *dev) { return (int)cache_of(dev)->noted.size(); }

// The driver's version, as its module shows it: "550.54.14". Containers show it too.
static void driver_version(char *text, size_t size) {
    char line[256] = "";
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    snprintf(text, size, "unknown");
    if (!file) { return; }
    if (fgets(line, sizeof line, file)) {
        for (char *rest = NULL, *word = strtok_r(line, " \t\n", &rest); word; word = strtok_r(NULL, " \t\n", &rest)) {
            if (*word >= '0' && *word <= '9' && strchr(word, '.')) {
                snprintf(text, size, "%s", word);
                break;
            }
        }
    }
    fclose(file);
}

char *algorithms_machine(const Device *dev) {
    char driver[64];
    int cuda = 0;
    driver_version(driver, sizeof driver);
    CHECK_CUDA(cudaDriverGetVersion(&cuda));
    return xprintf("%s, driver %s, CUDA %d.%d, cuBLASLt %zu, %s", device_name(dev), driver, cuda / 1000,
                   cuda % 1000 / 10, cublasLtGetVersion(), sizeof(floatX) == 2 ? "bf16" : "fp32");
}

char *algorithms_product(const Device *dev, int product) { return text_of(cache_of(dev)->noted[product]); }

void algorithms_choose(Device *dev, int product, int choice) {
    GemmCache *cache = cache_of(dev);
    const Product &p = cache->noted[product];
    cache->choices.erase(p);
    if (choice) { cache->choices[p] = choice; }
    const auto plan = cache->plans.find(p); // of another choice
    if (plan == cache->plans.end()) { return; }
    device_sync(dev);
    free_plan(plan->second);
    cache->plans.erase(plan);
}

const char *algorithms_chosen(const Device *dev) {
    GemmCache *cache = cache_of(dev);
    unsigned long long hash = 14695981039346656037u; // FNV-1a
    for (const auto &[p, choice] : cache->choices) {
        char *text = text_of(p);
        for (const char *c = text; *c; c++) { hash = (hash ^ (unsigned char)*c) * 1099511628211u; }
        hash = (hash ^ (unsigned)choice) * 1099511628211u;
        free(text);
    }
    snprintf(cache->chosen, sizeof cache->chosen, cache->choices.empty() ? "first" : "tuned %016llx", hash);
    return cache->chosen;
}

// Memory for the timing of one product: numbers in [-1, 1), since zeros take less power, and a buffer that is
// overwritten before each run so that nothing is in the L2 cache.
struct Timing {
    void *a, *b, *c, *bias, *workspace, *flush; // NULL: too little memory
    size_t flush_bytes;
};

static void fill(Device *dev, void *to, size_t bytes) {
    enum { COUNT = 1 << 16 };
    floatX *numbers = (floatX *)device_alloc_pinned(dev, COUNT * sizeof *numbers);
    unsigned state = 1;
    for (int i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        const float x = (float)(state >> 8) / (1 << 23) - 1;
        unsigned bits;
        memcpy(&bits, &x, sizeof bits);
        const unsigned short high = (unsigned short)(bits >> 16); // bf16, by truncation
        memcpy(numbers + i, sizeof(floatX) == 2 ? (const void *)&high : (const void *)&x, sizeof(floatX));
    }
    for (size_t at = 0; at < bytes; at += COUNT * sizeof *numbers) {
        device_copy(dev, (char *)to + at, numbers, std::min(bytes - at, COUNT * sizeof *numbers), false);
    }
    device_sync(dev);
    device_free_pinned(dev, numbers);
}

static void close_timing(Timing *timing, Device *dev) {
    for (void *p : {timing->a, timing->b, timing->c, timing->bias, timing->workspace, timing->flush}) {
        device_free(dev, p);
    }
}

static bool open_timing(Timing *timing, const Product &p, Device *dev) {
    const size_t a = (size_t)p.lda * (p.transpose_a ? p.m : p.k), b = (size_t)p.ldb * (p.transpose_b ? p.k : p.n);
    const size_t c = (size_t)p.ldd * p.n * (p.float_out ? sizeof(float) : sizeof(floatX));
    const struct {
        void **pointer;
        size_t bytes;
    } parts[] = {{&timing->a, a * sizeof(floatX)},
                 {&timing->b, b * sizeof(floatX)},
                 {&timing->c, c},
                 {&timing->bias, p.m * sizeof(floatX)}};
    *timing = Timing();
    timing->flush_bytes = 2 * device_cache(dev);
    timing->workspace = device_try_alloc(dev, LT_WORKSPACE);
    timing->flush = device_try_alloc(dev, timing->flush_bytes);
    bool enough = timing->workspace && timing->flush;
    for (const auto &part : parts) {
        *part.pointer = enough ? device_try_alloc(dev, part.bytes) : NULL;
        enough = *part.pointer != NULL;
        if (enough) { fill(dev, *part.pointer, part.bytes); }
    }
    if (!enough) { close_timing(timing, dev); }
    return enough;
}

// Seconds of one run with a cold L2 cache; INFINITY if the algorithm cannot be run.
static double time_once(const Plan &plan, const Product &p, const Timing &timing, DeviceEvent *events[2], Device *dev) {
    device_fill(dev, timing.flush, 0, timing.flush_bytes);
    device_event_record(dev, events[0], false);
    // Gradients of weights are added to what is there.
    if (queue(plan, timing.c, timing.a, timing.b, timing.c, 1, p.float_out ? 1 : 0, timing.workspace, dev) !=
        CUBLAS_STATUS_SUCCESS) {
        return INFINITY;
    }
    device_event_record(dev, events[1], false);
    device_event_sync(events[1]);
    return device_event_seconds(events[0], events[1]);
}

int algorithms_time(Device *dev, int product, double seconds[ALGORITHMS]) {
    enum { RUNS = 7 };
    assert(!dev->recording);
    const Product p = cache_of(dev)->noted[product];
    Plan plan = make_plan(p);
    const Offers offers = offers_for(plan, p, dev);
    int count = (int)offers.size();
    Timing timing;
    if (seconds && !open_timing(&timing, p, dev)) {
        count = 0;
    } else if (seconds) {
        DeviceEvent *events[] = {device_event_create(dev), device_event_create(dev)};
        double runs[ALGORITHMS][1 + RUNS]; // the first is a warm-up
        if (p.bias) { set_bias(plan, timing.bias); }
        for (int run = 0; run <= RUNS; run++) { // the algorithms in turns, so that clocks change for all
            for (int i = 0; i < count; i++) {
                plan.algo = offers[i].algo;
                runs[i][run] = time_once(plan, p, timing, events, dev);
            }
        }
        for (int i = 0; i < count; i++) {
            std::sort(runs[i] + 1, runs[i] + 1 + RUNS);
            seconds[i] = runs[i][1 + RUNS / 2];
        }
        device_event_destroy(events[0]), device_event_destroy(events[1]);
        close_timing(&timing, dev);
    }
    free_plan(plan);
    return count;
}
