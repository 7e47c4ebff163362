// Ranks that meet over TCP on this machine, each a process. Without arguments: the tests; with arguments, one rank for
// tests/cli/test_comm.sh:
//     test_rendezvous work           exchanges until it is killed, as RANK and WORLD_SIZE say
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "tests/dies.h"
#include "util/error.h"
#include "kernels/runtime/launch.h"
#include "util/progress.h"
#include "kernels/runtime/rendezvous.h"

enum { MAX_WORLD = 8 };

// ---- Ranks as processes --------------------------------------------------------------------------------------------

typedef struct {
    pid_t process;
    int output; // stderr
    int code;   // exit code, -1: killed by a signal
    double seconds;
    char said[2048];
} Rank;

typedef void (*RankMain)(int rank, int world, int port);

static Rank start_rank(RankMain body, int rank, int world, int port) {
    Rank r = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    r.process = fork();
    if (r.process == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], 2);
        close(ends[0]), close(ends[1]);
        body(rank, world, port);
        _exit(0);
    }
    close(ends[1]);
    r.output = ends[0];
    return r;
}

static void finish_rank(Rank *r, double since) {
    r->code = child_result(r->process, r->output, r->said, sizeof r->said);
    r->seconds = now_seconds() - since;
}

// All ranks from start to end; ranks' codes and sentences are in `ranks`.
static void run_ranks(Rank *ranks, RankMain body, int world, int port) {
    double since = now_seconds();
    for (int r = 0; r < world; r++) { ranks[r] = start_rank(body, r, world, port); }
    for (int r = 0; r < world; r++) { finish_rank(&ranks[r], since); }
    for (int r = 0; r < world; r++) {
        printf("  rank %d, %.1f s, exit %d: %s", r, ranks[r].seconds, ranks[r].code,
               *ranks[r].said ? ranks[r].said : "(nothing)\n");
    }
}

static void assert_said(const Rank *r, const char *sentence) {
    assert_int_equal(r->code, 1);
    if (!strstr(r->said, sentence)) { fail_msg("expected \"%s\" in: %s", sentence, r->said); }
    assert_true(strchr(r->said, '\n') == r->said + strlen(r->said) - 1);
}

static int socket_at(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in local = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)&local, sizeof local), 0);
    return fd;
}

static bool has_ipv6(void) {
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 local = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&local, sizeof local) == 0;
    if (fd >= 0) { close(fd); }
    return bound;
}

static bool is_known(const char *name) {
    struct addrinfo *list = NULL;
    bool known = getaddrinfo(name, NULL, NULL, &list) == 0;
    if (known) { freeaddrinfo(list); }
    return known;
}

static int free_port(void) {
    int fd = socket_at(0);
    struct sockaddr_in local;
    socklen_t size = sizeof local;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&local, &size), 0);
    close(fd);
    return ntohs(local.sin_port);
}

// ---- Meeting and exchanging ----------------------------------------------------------------------------------------

static void exchange(Rendezvous *meeting, int rank, int world, size_t bytes) {
    unsigned char *mine = xmalloc(bytes), *all = xmalloc(bytes * (size_t)world);
    for (size_t i = 0; i < bytes; i++) { mine[i] = (unsigned char)(i * 7 + (size_t)rank * 11); }
    rendezvous_all_gather(meeting, all, mine, bytes);
    for (size_t i = 0; i < bytes * (size_t)world; i++) {
        if (all[i] != (unsigned char)(i % bytes * 7 + i / bytes * 11)) { die("element %zu is wrong", i); }
    }
    free(mine), free(all);
}

static void meet_and_exchange(int rank, int world, int port) {
    Rendezvous *meeting = rendezvous_open("localhost", port, rank, world, "open sesame", 30);
    const size_t sizes[] = {0, 1, 100, 100000, 3 << 20};
    for (int i = 0; i < 5; i++) { exchange(meeting, rank, world, sizes[i]); }
    for (int i = 0; i < 100; i++) { exchange(meeting, rank, world, 8); }
    rendezvous_close(meeting);
}

static void late_rank_0(int rank, int world, int port) {
    if (rank == 0) { sleep(2); }
    meet_and_exchange(rank, world, port);
}

static void test_exchange(void **state) {
    (void)state;
    for (int world = 2; world <= MAX_WORLD; world *= 2) {
        Rank ranks[MAX_WORLD];
        run_ranks(ranks, world == 4 ? late_rank_0 : meet_and_exchange, world, free_port());
        for (int r = 0; r < world; r++) {
            assert_int_equal(ranks[r].code, 0);
            assert_string_equal(ranks[r].said, "");
        }
    }
}

// ---- Connections of others -----------------------------------------------------------------------------------------

static struct sockaddr_in local(int last, int port) { // 127.0.0.LAST
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + (in_addr_t)last)};
}

// Connects as soon as somebody listens.
static int visit(int last, int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = local(last, port);
    while (connect(fd, (struct sockaddr *)&to, sizeof to)) { usleep(10000); }
    return fd;
}

static void finish_ranks(Rank *ranks, int count, double since) {
    for (int r = 0; r < count; r++) {
        finish_rank(&ranks[r], since);
        printf("  rank %d, %.1f s, exit %d: %s\n", r, ranks[r].seconds, ranks[r].code, ranks[r].said);
        assert_int_equal(ranks[r].code, 0);
    }
}

// More strangers than rank 0 can open files for: some say nonsense, most say nothing.
static void few_files(int rank, int world, int port) {
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){32, 32});
    meet_and_exchange(rank, world, port);
}

static void test_strangers(void **state) {
    (void)state;
    enum { STRANGERS = 200 };
    for (int limited = 0; limited < 2; limited++) {
        const int port = free_port();
        int strangers[STRANGERS];
        Rank ranks[2] = {start_rank(limited ? few_files : meet_and_exchange, 0, 2, port)};
        for (int i = 0; i < STRANGERS; i++) {
            strangers[i] = visit(1, port);
            if (i % 8 == 0) { send(strangers[i], "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 35, MSG_NOSIGNAL); }
        }
        double since = now_seconds();
        ranks[1] = start_rank(meet_and_exchange, 1, 2, port);
        finish_ranks(ranks, 2, since);
        assert_true(ranks[0].seconds < 3);
        for (int i = 0; i < STRANGERS; i++) { close(strangers[i]); }
    }
}

// One that begins like a rank, but sends a byte now and then, is hung up on; ranks that come meanwhile are served.
static void test_slow_stranger(void **state) {
    (void)state;
    const int port = free_port();
    Rank ranks[3] = {start_rank(meet_and_exchange, 0, 3, port)};
    int slow = visit(1, port);
    ranks[1] = start_rank(meet_and_exchange, 1, 3, port);
    double since = now_seconds(), greeting[3];
    assert_int_equal(recv(slow, greeting, sizeof greeting, MSG_WAITALL), sizeof greeting);
    int sent = 0;
    while (send(slow, (char *)greeting + sent % 8, 1, MSG_NOSIGNAL) == 1 && now_seconds() - since < 20) {
        usleep(250000);
        sent++;
    }
    double kept = now_seconds() - since;
    printf("  hung up on after %d bytes, %.1f s\n", sent, kept);
    assert_true(kept > 4 && kept < 8);
    ranks[2] = start_rank(meet_and_exchange, 2, 3, port);
    finish_ranks(ranks, 3, since);
    close(slow);
}

static void another_secret(int rank, int world, int port) {
    rendezvous_open("127.0.0.1", port, rank, world, "close sesame", 10);
}

static void alone(int rank, int world, int port) { rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 2); }

static void test_secrets(void **state) {
    (void)state;
    int port = free_port();
    Rank ranks[2] = {start_rank(meet_and_exchange, 0, 2, port)}, wrong = start_rank(another_secret, 1, 2, port);
    double since = now_seconds();
    finish_rank(&wrong, since);
    printf("  another secret: %s", wrong.said);
    assert_said(&wrong, "has another secret: set COCOGOLD_SECRET to the same text for all ranks");
    ranks[1] = start_rank(meet_and_exchange, 1, 2, port);
    finish_ranks(ranks, 2, since);

    port = free_port();
    ranks[0] = start_rank(alone, 0, 2, port), wrong = start_rank(another_secret, 1, 2, port);
    finish_rank(&wrong, since), finish_rank(&ranks[0], since);
    printf("  rank 0: %s", ranks[0].said);
    assert_said(&ranks[0], "within 2 s: rank 1; refused: the process that says it is rank 1 has another secret");
}

static const char *place_without;
static void without_secret(int rank, int world, int port) {
    rendezvous_close(rendezvous_open(place_without, port, rank, world, "", 10));
}

// Without a secret the ranks meet only where nobody but users of the machine can.
static void test_no_secret(void **state) {
    (void)state;
    static const char *const here[] = {"localhost", "LocalHost", "127.0.0.1", "127.1", "127.3.2.1", "::1"};
    static const char *const elsewhere[] = {"0.0.0.0", "::", "192.0.2.1", "2001:db8::1"};
    static char name[256];
    Rank ranks[2];
    for (int i = 0; i < 6; i++) {
        place_without = here[i];
        if (strchr(place_without, ':') && !has_ipv6()) { continue; }
        run_ranks(ranks, without_secret, 2, free_port());
        assert_int_equal(ranks[0].code, 0);
        assert_int_equal(ranks[1].code, 0);
        assert_non_null(strstr(ranks[0].said, "warning: the ranks have no secret, so that every user of this machine"));
        assert_string_equal(ranks[1].said, "");
    }
    gethostname(name, sizeof name - 1);
    for (int i = 0; i < 5; i++) {
        place_without = i < 4 ? elsewhere[i] : name;
        if (i == 4 && !is_known(name)) { continue; }
        run_ranks(ranks, without_secret, 2, free_port());
        for (int r = 0; r < 2; r++) {
            assert_said(&ranks[r], "the ranks have no secret, so that anyone who reaches ");
            assert_non_null(
                strstr(ranks[r].said, "could take part: set COCOGOLD_SECRET to the same text for all ranks"));
            assert_true(ranks[r].seconds < 6);
        }
    }
}

// Rank 0 listens where it was told to, and nowhere else.
static void at_second_address(int rank, int world, int port) {
    Rendezvous *meeting = rendezvous_open("127.0.0.2", port, rank, world, "open sesame", 30);
    rendezvous_close(meeting);
}

static void test_address(void **state) {
    (void)state;
    const int port = free_port();
    Rank ranks[2] = {start_rank(at_second_address, 0, 2, port)};
    close(visit(2, port));
    struct sockaddr_in other = local(1, port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&other, sizeof other), -1);
    printf("  127.0.0.1: %s\n", strerror(errno));
    close(fd);
    double since = now_seconds();
    ranks[1] = start_rank(at_second_address, 1, 2, port);
    finish_ranks(ranks, 2, since);
}

// ---- What goes wrong -----------------------------------------------------------------------------------------------

static void only_0_and_2(int rank, int world, int port) {
    if (rank == 1 || rank == 3) { return; }
    rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 2);
}

static void test_missing_ranks(void **state) {
    (void)state;
    Rank ranks[4];
    const int port = free_port();
    run_ranks(ranks, only_0_and_2, 4, port);
    char sentence[128];
    snprintf(sentence, sizeof sentence, "2 of 4 ranks did not connect to 127.0.0.1:%d within 2 s: ranks 1, 3", port);
    assert_said(&ranks[0], sentence);
    assert_said(&ranks[2], "rank 0 ended while the ranks met at 127.0.0.1");
    assert_true(ranks[0].seconds < 6);
}

static void no_rank_0(int rank, int world, int port) {
    if (rank) { rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 2); }
}

static void test_no_rank_0(void **state) {
    (void)state;
    Rank ranks[2];
    const int port = free_port();
    run_ranks(ranks, no_rank_0, 2, port);
    char sentence[128];
    snprintf(sentence, sizeof sentence, "rank 0 cannot be reached at 127.0.0.1:%d within 2 s: Connection refused",
             port);
    assert_said(&ranks[1], sentence);
}

static void wrong_address(int rank, int world, int port) {
    rendezvous_open("no-such-host.invalid", port, rank, world, "open sesame", 1);
}

static void unreachable_address(int rank, int world, int port) { // TEST-NET-1 of RFC 5737
    if (rank) { rendezvous_open("192.0.2.1", port, rank, world, "open sesame", 2); }
}

static void not_our_address(int rank, int world, int port) {
    if (rank == 0) { rendezvous_open("192.0.2.1", port, rank, world, "open sesame", 2); }
}

static void test_wrong_address(void **state) {
    (void)state;
    Rank ranks[2];
    run_ranks(ranks, wrong_address, 2, 29500);
    assert_said(&ranks[1], "the address of rank 0, no-such-host.invalid, is unknown: ");
    run_ranks(ranks, unreachable_address, 2, 29500);
    assert_said(&ranks[1], "rank 0 cannot be reached at 192.0.2.1:29500 within 2 s: ");
    assert_true(ranks[1].seconds < 6);
    run_ranks(ranks, not_our_address, 2, 29500);
    assert_non_null(strstr(ranks[0].said, "; MASTER_ADDR has to be an address of rank 0's machine"));
}

static void only_0(int rank, int world, int port) {
    if (rank == 0) { rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 5); }
}

static void test_port_in_use(void **state) {
    (void)state;
    Rank ranks[2];
    int fd = socket_at(0);
    struct sockaddr_in local;
    socklen_t size = sizeof local;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&local, &size), 0);
    assert_int_equal(listen(fd, 1), 0);
    run_ranks(ranks, only_0, 2, ntohs(local.sin_port));
    assert_said(&ranks[0], "Address already in use; set MASTER_PORT to a free port");
    close(fd);
}

// Something else listens where rank 0 should.
static void test_wrong_listener(void **state) {
    (void)state;
    int fd = socket_at(0);
    struct sockaddr_in local;
    socklen_t size = sizeof local;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&local, &size), 0);
    assert_int_equal(listen(fd, 1), 0);
    Rank rank = start_rank(no_rank_0, 1, 2, ntohs(local.sin_port));
    double since = now_seconds();
    int client = accept(fd, NULL, NULL);
    char answer[400] = "HTTP/1.0 400 Bad Request\r\n\r\n";
    assert_int_equal(send(client, answer, sizeof answer, 0), sizeof answer);
    finish_rank(&rank, since);
    printf("  exit %d: %s", rank.code, rank.said);
    assert_said(&rank, "is not rank 0 of cocogold");
    close(client), close(fd);
}

static void same_rank_twice(int rank, int world, int port) {
    rendezvous_open("127.0.0.1", port, rank == 2 ? 1 : rank, world, "open sesame", 3);
}

static void other_world(int rank, int world, int port) {
    rendezvous_open("127.0.0.1", port, rank, rank == 2 ? 7 : world, "open sesame", 3);
}

static void test_contradictions(void **state) {
    (void)state;
    Rank ranks[3];
    run_ranks(ranks, same_rank_twice, 3, free_port());
    assert_said(&ranks[0], "rank 2; refused: two processes were started as rank 1");
    assert_true(strstr(ranks[1].said, "two processes were started as rank 1") ||
                strstr(ranks[2].said, "two processes were started as rank 1"));
    run_ranks(ranks, other_world, 3, free_port());
    assert_said(&ranks[0], "rank 2; refused: rank 0 was started as one of 3 ranks, rank 2 as one of 7");
    assert_said(&ranks[2], "rank 0 was started as one of 3 ranks, rank 2 as one of 7");
}

static void different_sizes(int rank, int world, int port) {
    Rendezvous *meeting = rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 10);
    exchange(meeting, rank, world, rank == 1 ? 99 : 100);
}

static void test_different_sizes(void **state) {
    (void)state;
    Rank ranks[3];
    run_ranks(ranks, different_sizes, 3, free_port());
    assert_said(&ranks[0], "rank 1 exchanges 99 bytes, but rank 0 exchanges 100");
    for (int r = 1; r < 3; r++) { assert_said(&ranks[r], "rank 0 ("); }
}

// ---- A rank that ends ----------------------------------------------------------------------------------------------

static int ending; // which
static bool by_sentence, computing;

// The others are in an exchange, or do not communicate at all.
static void one_ends(int rank, int world, int port) {
    error_set_rank(rank);
    Rendezvous *meeting = rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 10);
    exchange(meeting, rank, world, 100);
    if (rank == ending) {
        usleep(300000);
        if (by_sentence) { die("data.h5: is damaged"); }
        kill(getpid(), SIGKILL);
    }
    cleanup_add("rendezvous-half-written");
    FILE *file = fopen("rendezvous-half-written", "w");
    fclose(file);
    while (computing) { sleep(60); }
    for (;;) { exchange(meeting, rank, world, 100); }
}

static void test_rank_ends(void **state) {
    (void)state;
    for (int trial = 0; trial < 12; trial++) {
        Rank ranks[4];
        ending = trial % 3 == 0 ? 0 : trial % 3 == 1 ? 1 : 3;
        computing = trial / 3 % 2, by_sentence = trial / 9;
        run_ranks(ranks, one_ends, 4, free_port());
        char sentence[128];
        snprintf(sentence, sizeof sentence, "process %d) has ended before the others", (int)ranks[ending].process);
        for (int r = 0; r < 4; r++) {
            if (r != ending) { assert_said(&ranks[r], sentence); }
            assert_true(ranks[r].seconds < 10);
        }
        if (by_sentence) { assert_said(&ranks[ending], "data.h5: is damaged"); }
        assert_int_not_equal(access("rendezvous-half-written", F_OK), 0);
    }
}

// A rank may do other things for long without being taken for dead; and ranks may end at once after the close.
static void slow_rank(int rank, int world, int port) {
    Rendezvous *meeting = rendezvous_open("127.0.0.1", port, rank, world, "open sesame", 10);
    if (rank == 1) { sleep(7); }
    exchange(meeting, rank, world, 100);
    rendezvous_close(meeting);
    if (rank == 0) { usleep(200000); }
}

static void test_slow_rank(void **state) {
    (void)state;
    Rank ranks[3];
    run_ranks(ranks, slow_rank, 3, free_port());
    for (int r = 0; r < 3; r++) { assert_int_equal(ranks[r].code, 0); }
}

static void work(void) {
    Launch launch = launch_detect();
    error_set_rank(launch.rank);
    Rendezvous *meeting = rendezvous_open(launch.address, launch.port, launch.rank, launch.world, launch.secret, 30);
    printf("rank %d of %d has met the others at %s:%d\n", launch.rank, launch.world, launch.address, launch.port);
    fflush(stdout);
    for (;;) {
        exchange(meeting, launch.rank, launch.world, 100);
        usleep(10000);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "work") == 0) { work(); }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_slow_stranger),   cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_no_secret),       cmocka_unit_test(test_address),
        cmocka_unit_test(test_missing_ranks),   cmocka_unit_test(test_no_rank_0),
        cmocka_unit_test(test_wrong_address),   cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_wrong_listener),  cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_different_sizes), cmocka_unit_test(test_rank_ends),
        cmocka_unit_test(test_slow_rank),
    };
    return cmocka_run_group_tests_name("rendezvous", tests, NULL, NULL);
}
