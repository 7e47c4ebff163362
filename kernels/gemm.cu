// Matrix products with cuBLASLt: without TF32; the only epilogue is the bias.
#include "kernels/gemm.cuh"
#include "kernels/runtime/algorithms.h"
#include <algorithm>
#include <assert.h>
#include <map>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <tuple>
#include <vector>

extern "C" {
#include "util/error.h"
}

static auto key(const Product &p) {
    return std::tie(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.lda, p.ldb, p.ldd, p.bias, p.float_out);
}
static bool operator<(const Product &a, const Product &b) { return key(a) < key(b); }

// Descriptors and the algorithm for a shape.
struct Plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

struct GemmCache {
    std::map<Product, Plan> plans;
    bool noting;
    std::vector<Product> noted;
    std::map<Product, int> choices; // where it is not the first
    char chosen[24];                // algorithms_chosen
};

static void free_plan(const Plan &plan) {
    CHECK_CUBLAS(cublasLtMatmulDescDestroy(plan.desc));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.a));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.b));
    CHECK_CUBLAS(cublasLtMatrixLayoutDestroy(plan.d));
}

static void free_cache(GemmCache *cache) {
    for (auto &entry : cache->plans) { free_plan(entry.second); }
    delete cache;
}

static GemmCache *cache_of(const Device *dev) {
    GemmCache *&cache = dev->internals->gemm;
    if (!cache) {
        cache = new GemmCache();
        dev->internals->free_gemm = free_cache;
    }
    return cache;
}

static const cudaDataType_t TYPE_X = sizeof(floatX) == 2 ? CUDA_R_16BF : CUDA_R_32F;

static cublasLtMatmulDesc_t make_desc(const Product &p) {
    cublasLtMatmulDesc_t desc;
    CHECK_CUBLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a));
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b));
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    return desc;
}

static char *text_of(const Product &p) {
    return xprintf("%c%c %d x %d x %d, leading %d %d %d%s%s", p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m,
                   p.n, p.k, p.lda, p.ldb, p.ldd, p.bias ? ", bias" : "", p.float_out ? ", to fp32" : "");
}

// What an algorithm must keep to: the workspace, the alignment, and that parts of a sum over k are added in fp32.
static cublasLtMatmulPreference_t make_preference() {
    cublasLtMatmulPreference_t preference;
    CHECK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                      &LT_WORKSPACE, sizeof LT_WORKSPACE));
    const uint32_t alignment = 16; // all that kernels.h guarantees
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t value;
    } limits[] = {{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment}};
    for (const auto &[attribute, value] : limits) {
        CHECK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    }
    return preference;
}

typedef std::vector<cublasLtMatmulHeuristicResult_t> Offers;

// The algorithms that the heuristic offers, at most ALGORITHMS and at least one. Always as many are requested, since a
// shorter list need not be the beginning of a longer one.
static Offers offers_for(const Plan &plan, const Product &p, Device *dev) {
    const cublasLtMatmulPreference_t preference = make_preference();
    Offers offers(ALGORITHMS);
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(dev->internals->lt, plan.desc, plan.a, plan.b, plan.d,
                                                                 plan.d, preference, ALGORITHMS, offers.data(), &found);
    CHECK_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    offers.resize(status == CUBLAS_STATUS_SUCCESS ? found : 0);
    const auto fails = [](const auto &offer) { return offer.state != CUBLAS_STATUS_SUCCESS; };
    offers.erase(std::remove_if(offers.begin(), offers.end(), fails), offers.end());
    if (offers.empty()) {
        die("cuBLASLt offers no algorithm for the product %s (%s)", text_of(p), cublasLtGetStatusString(status));
    }
    return offers;
}

// Without its algorithm.
static Plan make_plan(const Product &p) {
    const cudaDataType_t out = p.float_out ? CUDA_R_32F : TYPE_X;
    const int rows_a = p.transpose_a ? p.k : p.m, cols_a = p.transpose_a ? p.m : p.k;
    const int rows_b = p.transpose_b ? p.n : p.k, cols_b = p.transpose_b ? p.k : p.n;
    Plan plan;
    plan.desc = make_desc(p);
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.a, TYPE_X, rows_a, cols_a, p.lda));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.b, TYPE_X, rows_b, cols_b, p.ldb));
    CHECK_CUBLAS(cublasLtMatrixLayoutCreate(&plan.d, out, p.m, p.n, p.ldd));
    return plan;
}

// Another card than that of rank 0, which chose, may offer fewer algorithms: then the first.
static Plan *plan_for(const Product &p, Device *dev) {
    GemmCache *cache = cache_of(dev);
    auto found = cache->plans.find(p);
    if (found != cache->plans.end()) { return &found->second; }
    const auto chosen = cache->choices.find(p);
    const size_t choice = chosen == cache->choices.end() ? 0 : chosen->second;
    Plan plan = make_plan(p);
    const Offers offers = offers_for(plan, p, dev);
    plan.algo = offers[choice < offers.size() ? choice : 0].algo;
    return &(cache->plans[p] = plan);
}

static cublasStatus_t queue(const Plan &plan, void *D, const void *A, const void *B, const void *C, float alpha,
                            float beta, void *workspace, Device *dev) {
    return cublasLtMatmul(dev->internals->lt, plan.desc, &alpha, A, plan.a, B, plan.b, &beta, C, plan.d, D, plan.d,
                          &plan.algo, workspace, LT_WORKSPACE, dev->internals->compute);
}

static void set_bias(const Plan &plan, const void *bias) {
    CHECK_CUBLAS(cublasLtMatmulDescSetAttribute(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
}

void product(void *D, const floatX *A, const floatX *B, const void *C, const floatX *bias, float alpha, float beta,
             const Product &p, void *workspace, Device *dev) {
    Plan *plan = plan_for(p, dev);
    if (p.bias) { set_bias(*plan, bias); }
    CHECK_CUBLAS(queue(*plan, D, A, B, C ? C : D, alpha, beta, workspace, dev));
}

// ---- The choice of algorithms (kernels/runtime/algorithms.h) -------------------------------------------------------

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
struct Bench {
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

static void close_bench(Bench *bench, Device *dev) {
    for (void *p : {bench->a, bench->b, bench->c, bench->bias, bench->workspace, bench->flush}) { device_free(dev, p); }
}

static bool open_bench(Bench *bench, const Product &p, Device *dev) {
    const size_t a = (size_t)p.lda * (p.transpose_a ? p.m : p.k), b = (size_t)p.ldb * (p.transpose_b ? p.k : p.n);
    const size_t c = (size_t)p.ldd * p.n * (p.float_out ? sizeof(float) : sizeof(floatX));
    const struct {
        void **pointer;
        size_t bytes;
    } parts[] = {{&bench->a, a * sizeof(floatX)},
                 {&bench->b, b * sizeof(floatX)},
                 {&bench->c, c},
                 {&bench->bias, p.m * sizeof(floatX)}};
    *bench = Bench();
    bench->flush_bytes = 2 * device_cache(dev);
    bench->workspace = device_try_alloc(dev, LT_WORKSPACE);
    bench->flush = device_try_alloc(dev, bench->flush_bytes);
    bool enough = bench->workspace && bench->flush;
    for (const auto &part : parts) {
        *part.pointer = enough ? device_try_alloc(dev, part.bytes) : NULL;
        enough = *part.pointer != NULL;
        if (enough) { fill(dev, *part.pointer, part.bytes); }
    }
    if (!enough) { close_bench(bench, dev); }
    return enough;
}

// Seconds of one run with a cold L2 cache; INFINITY if the algorithm cannot be run.
static double time_once(const Plan &plan, const Product &p, const Bench &bench, DeviceEvent *events[2], Device *dev) {
    device_fill(dev, bench.flush, 0, bench.flush_bytes);
    device_event_record(dev, events[0], false);
    // Gradients of weights are added to what is there.
    if (queue(plan, bench.c, bench.a, bench.b, bench.c, 1, p.float_out ? 1 : 0, bench.workspace, dev) !=
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
    Bench bench;
    if (seconds && !open_bench(&bench, p, dev)) {
        count = 0;
    } else if (seconds) {
        DeviceEvent *events[] = {device_event_create(dev), device_event_create(dev)};
        double runs[ALGORITHMS][1 + RUNS]; // the first is a warm-up
        if (p.bias) { set_bias(plan, bench.bias); }
        for (int run = 0; run <= RUNS; run++) { // the algorithms in turns, so that clocks change for all
            for (int i = 0; i < count; i++) {
                plan.algo = offers[i].algo;
                runs[i][run] = time_once(plan, p, bench, events, dev);
            }
        }
        for (int i = 0; i < count; i++) {
            std::sort(runs[i] + 1, runs[i] + 1 + RUNS);
            seconds[i] = runs[i][1 + RUNS / 2];
        }
        device_event_destroy(events[0]), device_event_destroy(events[1]);
        close_bench(&bench, dev);
    }
    free_plan(plan);
    return count;
}
