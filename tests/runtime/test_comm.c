// Communication between ranks. Without arguments: what every rank must see, on as many ranks as it was started on.
// test_comm SCENARIO [RANK]: something goes wrong in rank RANK (tests/cli/test_comm.sh).
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kernels/runtime/comm.h"
#include "kernels/kernels.h"
#include "util/error.h"
#include "util/progress.h"

enum { MARGIN = 67 };
static Device dev;
static Comm comm;
static uint64_t seed;

// Stands for CUDA's exit handler, which waits for a device that waits for other ranks.
static bool library_waits;
static void wait_for_ever(void) {
    for (;;) { pause(); }
}

static int setup(void **state) {
    (void)state;
    Launch launch = launch_detect();
    comm_meet(&comm, &launch);
    device_open(&dev, device_of_rank(launch.local_rank));
    if (library_waits) { atexit(wait_for_ever); }
    comm_open(&comm, &dev);
    seed = (uint64_t)(now_seconds() * 1e9);
    comm_host_broadcast(&comm, &seed, sizeof seed, 0);
    printf("rank %d of %d, %s, seed %llu\n", comm.rank, comm.world, launch_name(launch.kind), (unsigned long long)seed);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    comm_close(&comm);
    device_close(&dev);
    return 0;
}

// ---- Buffers -------------------------------------------------------------------------------------------------------

// Element i of what rank r holds: every rank can compute every rank's.
static float value(int r, size_t i) {
    uint64_t x = seed + (uint64_t)r * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 31) * 0x94d049bb133111ebu;
    x ^= x >> 29;
    return (float)(int32_t)x * 1e-6f;
}

static float sum_of_values(size_t i) {
    double sum = 0;
    for (int r = 0; r < comm.world; r++) { sum += value(r, i); }
    return (float)sum;
}

// Floats on the device with a margin that must stay as it is, and a page-locked mirror of them.
typedef struct {
    size_t n;
    float *device, *host; // without the margins
} Buffer;

static Buffer buffer_new(size_t n) {
    const size_t bytes = (n + 2 * MARGIN) * sizeof(float);
    Buffer b = {n, device_alloc(&dev, bytes), device_alloc_pinned(&dev, bytes)};
    b.device += MARGIN, b.host += MARGIN;
    for (size_t i = 0; i < n + 2 * MARGIN; i++) { b.host[(long)i - MARGIN] = -12345; }
    return b;
}

// Queued, not waited for.
static void buffer_upload(Buffer *b) {
    device_copy(&dev, b->device - MARGIN, b->host - MARGIN, (b->n + 2 * MARGIN) * sizeof(float), false);
}

static void buffer_fill(Buffer *b) {
    for (size_t i = 0; i < b->n; i++) { b->host[i] = value(comm.rank, i); }
    buffer_upload(b);
}

static void buffer_download(Buffer *b) {
    device_copy(&dev, b->host - MARGIN, b->device - MARGIN, (b->n + 2 * MARGIN) * sizeof(float), false);
    device_sync(&dev);
    for (int i = 0; i < MARGIN; i++) {
        assert_true(b->host[-1 - i] == -12345);
        assert_true(b->host[b->n + (size_t)i] == -12345);
    }
}

static void buffer_free(Buffer *b) {
    device_free(&dev, b->device - MARGIN);
    device_free_pinned(&dev, b->host - MARGIN);
}

// On the CPU and under emulation sums have a fixed order; NCCL's depends on its algorithm.
static void assert_sum(float got, float expected) {
#ifdef BACKEND_cuda
    assert_true(got - expected <= 1e-3f && expected - got <= 1e-3f); // values are up to 2e3
#else
    assert_true(got == expected);
#endif
}

static const size_t sizes[] = {1, 2, 3, 7, 1000, 65537, (1 << 20) + 13};
enum { SIZES = sizeof sizes / sizeof *sizes };

// ---- What every rank must see --------------------------------------------------------------------------------------

static void test_all_reduce(void **state) {
    (void)state;
    for (int k = 0; k < SIZES; k++) {
        Buffer b = buffer_new(sizes[k]);
        buffer_fill(&b);
        comm_all_reduce_sum(&comm, b.device, b.n);
        comm_wait(&comm);
        buffer_download(&b);
        for (size_t i = 0; i < b.n; i++) { assert_sum(b.host[i], sum_of_values(i)); }
        buffer_free(&b);
    }
}

// Buckets of any size give the same bits, and leave alone what lies between them.
static void test_buckets(void **state) {
    (void)state;
    Buffer b = buffer_new(30011);
    buffer_fill(&b);
    size_t begin[] = {20000, 9999, 500, 3}, end[] = {30011, 20000, 9999, 300};
    for (int k = 0; k < 4; k++) { comm_all_reduce_sum(&comm, b.device + begin[k], end[k] - begin[k]); }
    comm_wait(&comm);
    buffer_download(&b);
    for (size_t i = 0; i < b.n; i++) {
        bool summed = i >= 500 || (i >= 3 && i < 300);
        assert_sum(b.host[i], summed ? sum_of_values(i) : value(comm.rank, i));
    }
    buffer_free(&b);
}

static void test_reduce(void **state) {
    (void)state;
    for (int k = 0; k < SIZES; k++) {
        const int root = k % comm.world;
        Buffer b = buffer_new(sizes[k]);
        buffer_fill(&b);
        comm_reduce_sum(&comm, b.device, b.n, root);
        comm_wait(&comm);
        buffer_download(&b);
        for (size_t i = 0; i < b.n && comm.rank == root; i++) { assert_sum(b.host[i], sum_of_values(i)); }
        buffer_free(&b);
    }
}

// Bytes: rows need not be whole floats.
static void test_all_gather(void **state) {
    (void)state;
    for (int k = 0; k < SIZES; k++) {
        const size_t bytes = sizes[k] + 1, world = (size_t)comm.world;
        Buffer b = buffer_new((bytes * world + 3) / 4);
        unsigned char *host = (unsigned char *)b.host;
        for (size_t i = 0; i < bytes; i++) {
            host[(size_t)comm.rank * bytes + i] = (unsigned char)(7 * i + 31 * (size_t)comm.rank + seed);
        }
        buffer_upload(&b);
        comm_all_gather(&comm, b.device, bytes);
        comm_wait(&comm);
        buffer_download(&b);
        for (size_t i = 0; i < bytes * world; i++) {
            assert_int_equal(host[i], (unsigned char)(7 * (i % bytes) + 31 * (i / bytes) + seed));
        }
        buffer_free(&b);
    }
}

static void test_broadcast(void **state) {
    (void)state;
    for (int k = 0; k < SIZES; k++) {
        const int root = (k + 1) % comm.world;
        Buffer b = buffer_new(sizes[k]);
        buffer_fill(&b);
        comm_broadcast(&comm, b.device, b.n * sizeof(float), root);
        comm_wait(&comm);
        buffer_download(&b);
        for (size_t i = 0; i < b.n; i++) { assert_true(b.host[i] == value(root, i)); }
        buffer_free(&b);
    }
}

// The compute stream goes on beside a sum, and sees it after comm_wait without help from the host.
static void test_stream_order(void **state) {
    (void)state;
    Buffer b = buffer_new(5000), other = buffer_new(5000);
    buffer_fill(&b);
    comm_all_reduce_sum(&comm, b.device, b.n / 2);
    device_fill(&dev, other.device, 0, other.n * sizeof(float));
    device_copy(&dev, b.device + b.n / 2, other.device, b.n / 2 * sizeof(float),
                false); // the rest of b is free for use
    comm_wait(&comm);
    device_copy(&dev, other.device, b.device, b.n * sizeof(float), false);
    device_fill(&dev, b.device, 0, b.n * sizeof(float));
    comm_all_reduce_sum(&comm, other.device, other.n);
    comm_wait(&comm);
    device_copy(&dev, other.host, other.device, other.n * sizeof(float), false);
    device_sync(&dev);
    for (size_t i = 0; i < b.n; i++) {
        double expected = i < b.n / 2 ? (double)comm.world * sum_of_values(i) : 0;
        assert_sum(other.host[i], (float)expected);
    }
    buffer_free(&b);
    buffer_free(&other);
}

static void test_host(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes < 5000; bytes = 3 * bytes + 1) {
        for (int root = 0; root < comm.world; root++) {
            unsigned char data[5000];
            for (size_t i = 0; i < bytes; i++) { data[i] = (unsigned char)(i * 3 + (size_t)comm.rank); }
            comm_host_broadcast(&comm, data, bytes, root);
            for (size_t i = 0; i < bytes; i++) { assert_int_equal(data[i], (unsigned char)(i * 3 + (size_t)root)); }
        }
    }
    comm_barrier(&comm);
}

// Ranks that are behind on the device do not hold up others for ever: rank 0 waits for its device while the others wait
// for rank 0.
static void test_unequal_waits(void **state) {
    (void)state;
    Buffer b = buffer_new(100);
    for (int turn = 0; turn < 3; turn++) {
        buffer_fill(&b);
        comm_all_reduce_sum(&comm, b.device, b.n);
        comm_wait(&comm);
        if (comm.rank == turn % comm.world) { device_sync(&dev); }
        comm_barrier(&comm);
    }
    buffer_download(&b);
    buffer_free(&b);
}

static void test_plan_only(void **state) {
    (void)state;
    dev.plan_only = true;
    comm_all_reduce_sum(&comm, NULL, 10);
    comm_all_gather(&comm, NULL, 10);
    comm_wait(&comm);
    dev.plan_only = false;
}

// ---- What goes wrong -----------------------------------------------------------------------------------------------

static void work_for_ever(Buffer *b, bool between_hosts) {
    for (;;) {
        if (between_hosts) {
            comm_barrier(&comm);
        } else {
            comm_all_reduce_sum(&comm, b->device, b->n);
            comm_wait(&comm);
            device_sync(&dev);
        }
    }
}

static void go_wrong(const char *scenario, bool me) {
    Buffer b = buffer_new(1000);
    buffer_fill(&b);
    comm_all_reduce_sum(&comm, b.device, b.n);
    if (strcmp(scenario, "count") == 0) {
        comm_all_reduce_sum(&comm, b.device, me ? 999 : 1000);
    } else if (strcmp(scenario, "order") == 0 && me) {
        comm_broadcast(&comm, b.device, 4000, 0);
    } else if (strcmp(scenario, "order") == 0) {
        comm_all_reduce_sum(&comm, b.device, 1000);
    } else if (strcmp(scenario, "root") == 0) {
        comm_reduce_sum(&comm, b.device, 1000, me ? 1 : 0);
    } else if (strcmp(scenario, "fewer") == 0 && me) {
        return; // and closes
    } else if (strcmp(scenario, "fewer") == 0) {
        comm_all_reduce_sum(&comm, b.device, 1000);
    } else if (strcmp(scenario, "host") == 0 && me) {
        comm_host_broadcast(&comm, &b, sizeof b, 0);
    } else if (strcmp(scenario, "host") == 0) {
        comm_barrier(&comm);
    } else if (strncmp(scenario, "die", 3) == 0 && me) {
        cleanup_add("half-written");
        fclose(fopen("half-written", "w"));
        die("data.h5: is damaged");
    } else if (strcmp(scenario, "kill") == 0 && me) {
        sleep(1); // the others wait already
        kill(getpid(), SIGKILL);
    } else if (strcmp(scenario, "kill-host") == 0 && me) {
        sleep(1);
        kill(getpid(), SIGKILL);
    }
    comm_wait(&comm);
    device_sync(&dev);
    if (strncmp(scenario, "die", 3) == 0 || strncmp(scenario, "kill", 4) == 0) {
        work_for_ever(&b, strcmp(scenario, "kill-host") == 0);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) {
        library_waits = strcmp(argv[1], "die-library") == 0;
        setup(NULL);
        go_wrong(argv[1], comm.rank == (argc > 2 ? atoi(argv[2]) : 0));
        teardown(NULL);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_reduce), cmocka_unit_test(test_buckets),       cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_all_gather), cmocka_unit_test(test_broadcast),     cmocka_unit_test(test_stream_order),
        cmocka_unit_test(test_host),       cmocka_unit_test(test_unequal_waits), cmocka_unit_test(test_plan_only),
    };
    return cmocka_run_group_tests_name("comm", tests, setup, teardown);
}
