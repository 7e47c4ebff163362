// Every other rank has two connections to rank 0: one for exchanges, and one that stays silent until a rank has ended.
// If a process dies, the operating system closes both; if a machine fails, its keep-alive packets are not answered.
//
// A connection begins with a handshake, in which both sides show that they know the secret without sending it:
//
//     rank 0 -> rank: Greeting, with a random number
//     rank -> rank 0: Hello, with its own number; the proof is HMAC-SHA256(secret, both numbers, who it is)
//     rank 0 -> rank: Reply; the proof is HMAC-SHA256(secret, both numbers, the answer)
//
// Rank 0 shakes hands with all connections at the same time and hangs up on those that are slow or wrong.
#include "kernels/runtime/rendezvous.h"
#include "util/error.h"
#include "util/progress.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXCHANGE, WATCH, LINKS };
enum { REPLY_SECONDS = 5, RETRY_MILLISECONDS = 200, RESOLVE_SECONDS = 30, SENTENCE = 256 };
enum { NUMBER = 16, PROOF = 32, LISTENERS = 8, VISITORS = 64 };
static const uint64_t MAGIC = 0x32676f63636f63; // "coccog2"

typedef struct {
    char host[64];
    int32_t process;
} Peer;

typedef struct {
    uint64_t magic;
    unsigned char number[NUMBER];
} Greeting;

typedef struct {
    uint64_t magic;
    uint32_t link, rank, world, process;
    unsigned char number[NUMBER], proof[PROOF];
} Hello;

typedef struct {
    uint64_t magic;
    char refusal[SENTENCE]; // "": welcome
    unsigned char proof[PROOF];
} Reply;

// A connection to rank 0 before it is known whose it is.
typedef struct {
    int fd;
    double deadline;
    Greeting greeting;
    Hello hello;
    size_t received; // bytes of `hello`
} Visitor;

struct Rendezvous {
    int rank, world;
    char place[320]; // "address:port"
    const char *secret;
    double deadline;       // of an exchange; INFINITY once all have met
    int (*sockets)[LINKS]; // on rank 0: one row for each rank (-1 for itself); on the others: one row, to rank 0
    Peer *peers;           // (world), set once all have met
    pthread_t watcher;
    int wake[2]; // pipe that ends the watcher
    atomic_bool closing;
};

// ---- Sockets -------------------------------------------------------------------------------------------------------

static int time_left(double deadline) { // in milliseconds; -1: without end
    double left = (deadline - now_seconds()) * 1e3;
    return isinf(deadline) ? -1 : left > 0 ? (int)left + 1 : 0;
}

// Waits until the socket is ready; false if it is not before the deadline.
static bool wait_for(int fd, short events, double deadline) {
    struct pollfd wait = {.fd = fd, .events = events};
    int ready;
    while ((ready = poll(&wait, 1, time_left(deadline))) < 0 && errno == EINTR) {}
    return ready > 0;
}

// Writes or reads all bytes; false if the connection is closed, or not done before the deadline.
static bool send_all(int fd, const void *data, size_t bytes, double deadline) {
    for (const char *p = data; bytes;) {
        if (!wait_for(fd, POLLOUT, deadline)) { return false; }
        ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) { continue; }
        if (n <= 0) { return false; }
        p += n, bytes -= (size_t)n;
    }
    return true;
}

static bool receive_all(int fd, void *data, size_t bytes, double deadline) {
    for (char *p = data; bytes;) {
        if (!wait_for(fd, POLLIN, deadline)) { return false; }
        ssize_t n = recv(fd, p, bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) { continue; }
        if (n <= 0) { return false; }
        p += n, bytes -= (size_t)n;
    }
    return true;
}

static void set_option(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof value); // may fail: none of the options is essential
}

// Options of a connection. The failure of a machine is noticed after 10 + 4 * 5 seconds.
static void set_connected(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
}

// Retries, since a name may be unknown for a while after the machines have started. "localhost" is always known (RFC
// 6761), even if the system has no /etc/hosts.
static struct addrinfo *resolve(const char *address, int port, double seconds) {
    const double deadline = now_seconds() + (seconds < RESOLVE_SECONDS ? seconds : RESOLVE_SECONDS);
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    for (;;) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
        int error = getaddrinfo(address, service, &hints, &list);
        if (error == 0) { return list; }
        if (strcasecmp(address, "localhost") == 0 && getaddrinfo("127.0.0.1", service, &hints, &list) == 0) {
            return list;
        }
        if (time_left(deadline) == 0) {
            die("the address of rank 0, %s, is unknown: %s", address,
                error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
        }
        poll(NULL, 0, RETRY_MILLISECONDS);
    }
}

// Whether all of the addresses are seen on this machine only.
static bool only_here(const struct addrinfo *list) {
    for (; list; list = list->ai_next) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)list->ai_addr;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)list->ai_addr;
        if (list->ai_family == AF_INET ? ntohl(v4->sin_addr.s_addr) >> 24 != 127
                                       : !IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr)) {
            return false;
        }
    }
    return true;
}

// Names other than localhost can stand for another address on another machine; numbers ("::1", "127.1") cannot.
static bool is_name(const char *address) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST}, *list = NULL;
    bool number = getaddrinfo(address, NULL, &hints, &list) == 0;
    if (number) { freeaddrinfo(list); }
    return !number && strcasecmp(address, "localhost") != 0;
}

// Without a secret, whoever reaches the address can take part, and rank 0 can be anyone's program. All ranks refuse
// that, unless only users of this machine can.
static void want_secret(const Rendezvous *meeting, const char *address, int port, double seconds) {
    static const char set[] = "set COCOGOLD_SECRET to the same text for all ranks";
    if (*meeting->secret) { return; }
    struct addrinfo *list = resolve(address, port, seconds);
    bool here = only_here(list) && !is_name(address);
    freeaddrinfo(list);
    if (!here) {
        die("the ranks have no secret, so that anyone who reaches %s could take part: %s", meeting->place, set);
    }
    if (meeting->rank == 0) {
        warn("the ranks have no secret, so that every user of this machine can take part: %s", set);
    }
}

// ---- Proofs --------------------------------------------------------------------------------------------------------

static void draw_number(unsigned char number[NUMBER]) {
    if (getrandom(number, NUMBER, 0) != NUMBER) { die("the system gives no random numbers: %s", strerror(errno)); }
}

// What only those can compute who know the secret: of a Hello, or of rank 0's answer to it.
static void prove(const Rendezvous *meeting, const Greeting *greeting, const Hello *hello, const char *answer,
                  unsigned char proof[PROOF]) {
    struct {
        uint64_t by_rank_0;
        Greeting greeting;
        Hello hello;
        char answer[SENTENCE];
    } all = {answer != NULL, *greeting, *hello, ""};
    memset(all.hello.proof, 0, PROOF);
    if (answer) { memcpy(all.answer, answer, SENTENCE); }
    const char *secret = meeting->secret;
    if (!HMAC(EVP_sha256(), secret, (int)strlen(secret), (unsigned char *)&all, sizeof all, proof, NULL)) {
        die("OpenSSL cannot compute HMAC-SHA256");
    }
}

// ---- Rank 0 --------------------------------------------------------------------------------------------------------

// What rank 0 needs until all have met.
typedef struct {
    Rendezvous *meeting;
    int listeners[LISTENERS], listener_count, visitor_count;
    Visitor visitors[VISITORS];
    char refused[SENTENCE]; // why the last connection was, "": none
} Door;

// Returns a socket that listens at one address, or -1 with errno.
static int listen_at(const struct addrinfo *at) {
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) { return -1; }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) { return fd; }
    int reason = errno;
    close(fd);
    errno = reason;
    return -1;
}

// Listens at those addresses of `list` that this machine has.
static void listen_at_all(Door *door, const struct addrinfo *list) {
    int reason = 0;
    for (; list && door->listener_count < LISTENERS && reason != EADDRINUSE; list = list->ai_next) {
        int fd = listen_at(list);
        if (fd < 0) { reason = errno; }
        if (fd >= 0) { door->listeners[door->listener_count++] = fd; }
    }
    if (door->listener_count && reason != EADDRINUSE) { return; }
    die("rank 0 cannot listen at %s: %s%s", door->meeting->place, strerror(reason),
        reason == EADDRINUSE      ? "; set MASTER_PORT to a free port"
        : reason == EADDRNOTAVAIL ? "; MASTER_ADDR has to be an address of rank 0's machine"
                                  : "");
}

// Listens at the address that was given, and no other. But a host's own name often is 127.0.1.1 on the host itself,
// where the other machines cannot reach it: then at all addresses.
static void open_door(Door *door, const char *address, int port, double seconds) {
    struct addrinfo *list = resolve(address, port, seconds);
    if (only_here(list) && is_name(address)) {
        freeaddrinfo(list);
        int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        list = resolve(probe < 0 ? "0.0.0.0" : "::", port, seconds);
        if (probe >= 0) { close(probe); }
    }
    listen_at_all(door, list);
    freeaddrinfo(list);
}

static void forget(Door *door, Visitor *visitor) { *visitor = door->visitors[--door->visitor_count]; }

static void hang_up(Door *door, Visitor *visitor) {
    close(visitor->fd);
    forget(door, visitor);
}

static void hang_up_on_oldest(Door *door) {
    Visitor *oldest = door->visitors;
    for (int i = 1; i < door->visitor_count; i++) {
        if (door->visitors[i].deadline < oldest->deadline) { oldest = &door->visitors[i]; }
    }
    hang_up(door, oldest);
}

static void greet(Door *door, int listener) {
    if (door->visitor_count == VISITORS) { hang_up_on_oldest(door); }
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE)) { // make room for the next attempt
        door->visitor_count ? hang_up_on_oldest(door) : (void)poll(NULL, 0, RETRY_MILLISECONDS);
    }
    if (fd < 0) { return; }
    set_connected(fd);
    Visitor *new = &door->visitors[door->visitor_count++];
    *new = (Visitor){.fd = fd, .deadline = now_seconds() + REPLY_SECONDS, .greeting.magic = MAGIC};
    draw_number(new->greeting.number);
    if (!send_all(fd, &new->greeting, sizeof new->greeting, 0)) { hang_up(door, new); }
}

// A rank that gets no answer in time closes the connection and tries again.
static bool has_hung_up(int fd) {
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

// Why a visitor that knows the secret cannot be the rank that it says it is; "" if it can.
static void find_contradiction(const Rendezvous *meeting, const Hello *hello, char text[SENTENCE]) {
    *text = 0;
    if ((int)hello->world != meeting->world) {
        snprintf(text, SENTENCE, "rank 0 was started as one of %d ranks, rank %u as one of %u", meeting->world,
                 hello->rank, hello->world);
        return;
    }
    bool twice = hello->rank == 0 || hello->rank >= hello->world;
    int present = twice ? -1 : meeting->sockets[hello->rank][hello->link];
    if (twice || (present >= 0 && !has_hung_up(present))) {
        snprintf(text, SENTENCE, "two processes were started as rank %u", hello->rank);
    }
}

// Answers a complete Hello: the visitor becomes a rank, or is hung up on.
static void answer(Door *door, Visitor *visitor) {
    Rendezvous *meeting = door->meeting;
    const Hello *hello = &visitor->hello;
    Reply reply = {.magic = MAGIC};
    unsigned char expected[PROOF];
    prove(meeting, &visitor->greeting, hello, NULL, expected);
    bool knows = CRYPTO_memcmp(expected, hello->proof, PROOF) == 0 && hello->link < LINKS;
    if (knows) {
        find_contradiction(meeting, hello, reply.refusal);
        prove(meeting, &visitor->greeting, hello, reply.refusal, reply.proof);
    } else {
        snprintf(reply.refusal, SENTENCE, "the process that says it is rank %u has another secret", hello->rank);
    }
    bool sent = send_all(visitor->fd, &reply, sizeof reply, 0);
    if (*reply.refusal) { memcpy(door->refused, reply.refusal, SENTENCE); }
    if (*reply.refusal || !sent) {
        hang_up(door, visitor);
        return;
    }
    int *place = &meeting->sockets[hello->rank][hello->link];
    if (*place >= 0) { close(*place); }
    *place = visitor->fd;
    forget(door, visitor);
}

// Takes what a visitor has sent so far.
static void hear(Door *door, Visitor *visitor) {
    Hello *hello = &visitor->hello;
    ssize_t n = recv(visitor->fd, (char *)hello + visitor->received, sizeof *hello - visitor->received, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) { return; }
    visitor->received += n > 0 ? (size_t)n : 0;
    if (n <= 0 || (visitor->received >= sizeof hello->magic && hello->magic != MAGIC)) {
        hang_up(door, visitor);
    } else if (visitor->received == sizeof *hello) {
        answer(door, visitor);
    }
}

// Waits until a connection is new, has sent something, or is too slow.
static void attend(Door *door, double deadline) {
    struct pollfd wait[LISTENERS + VISITORS], *visits = wait + door->listener_count;
    for (int i = 0; i < door->listener_count; i++) {
        wait[i] = (struct pollfd){.fd = door->listeners[i], .events = POLLIN};
    }
    for (int i = 0; i < door->visitor_count; i++) {
        visits[i] = (struct pollfd){.fd = door->visitors[i].fd, .events = POLLIN};
        deadline = fmin(deadline, door->visitors[i].deadline);
    }
    if (poll(wait, (nfds_t)(door->listener_count + door->visitor_count), time_left(deadline)) < 0) { return; }
    for (int i = door->visitor_count - 1; i >= 0; i--) { // backwards: the last one takes the place of one that leaves
        Visitor *visitor = &door->visitors[i];
        if (visitor->deadline <= now_seconds()) {
            hang_up(door, visitor);
        } else if (visits[i].revents) {
            hear(door, visitor);
        }
    }
    for (int i = 0; i < door->listener_count; i++) {
        if (wait[i].revents) { greet(door, door->listeners[i]); }
    }
}

static int count_missing(const Rendezvous *meeting, char *names, size_t size) {
    int missing = 0;
    *names = 0;
    for (int r = 1; r < meeting->world; r++) {
        if (meeting->sockets[r][EXCHANGE] >= 0 && meeting->sockets[r][WATCH] >= 0) { continue; }
        size_t used = strlen(names);
        if (missing++ < 8) {
            snprintf(names + used, size - used, "%s%d", used ? ", " : "", r);
        } else if (missing == 9) {
            snprintf(names + used, size - used, ", ...");
        }
    }
    return missing;
}

static void gather_ranks(Rendezvous *meeting, const char *address, int port, double seconds) {
    const double deadline = now_seconds() + seconds;
    Door *door = xcalloc(1, sizeof *door);
    door->meeting = meeting;
    open_door(door, address, port, seconds);
    char names[128];
    int missing;
    while ((missing = count_missing(meeting, names, sizeof names))) {
        if (time_left(deadline) == 0) {
            die("%d of %d ranks did not connect to %s within %.0f s: rank%s %s%s%s", missing, meeting->world,
                meeting->place, seconds, missing == 1 ? "" : "s", names, *door->refused ? "; refused: " : "",
                door->refused);
        }
        attend(door, deadline);
    }
    while (door->visitor_count) { hang_up(door, door->visitors); }
    for (int i = 0; i < door->listener_count; i++) { close(door->listeners[i]); }
    free(door);
}

// ---- The other ranks -----------------------------------------------------------------------------------------------

// Connects to one entry of the address within `milliseconds`. Returns -1 and sets errno on failure.
static int connect_to(const struct addrinfo *entry, int milliseconds) {
    int fd = socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) { return -1; }
    int error = connect(fd, entry->ai_addr, entry->ai_addrlen) ? errno : 0;
    if (error == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        socklen_t length = sizeof error;
        if (poll(&wait, 1, milliseconds) > 0) {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        } else {
            error = ETIMEDOUT;
        }
    }
    if (error == 0) { return fd; }
    close(fd);
    errno = error;
    return -1;
}

// Shows rank 0 who this is. False if there is no answer.
static bool shake_hands(const Rendezvous *meeting, int fd, int link, double deadline) {
    Hello hello = {MAGIC, (uint32_t)link, (uint32_t)meeting->rank, (uint32_t)meeting->world, (uint32_t)getpid()};
    Greeting greeting;
    Reply reply;
    unsigned char expected[PROOF];
    if (!receive_all(fd, &greeting, sizeof greeting, deadline)) { return false; }
    if (greeting.magic != MAGIC) { die("the program that listens at %s is not rank 0 of cocogold", meeting->place); }
    draw_number(hello.number);
    prove(meeting, &greeting, &hello, NULL, hello.proof);
    if (!send_all(fd, &hello, sizeof hello, deadline) || !receive_all(fd, &reply, sizeof reply, deadline)) {
        return false;
    }
    reply.refusal[SENTENCE - 1] = 0;
    prove(meeting, &greeting, &hello, reply.refusal, expected);
    if (CRYPTO_memcmp(expected, reply.proof, PROOF) != 0) {
        die("rank 0 at %s has another secret: set COCOGOLD_SECRET to the same text for all ranks", meeting->place);
    }
    if (*reply.refusal) { die("%s", reply.refusal); }
    return true;
}

// One attempt to connect. Returns -1 and sets *problem on failure; another attempt may succeed.
static int try_link(Rendezvous *meeting, const struct addrinfo *list, int link, double deadline, const char **problem) {
    int fd = -1;
    for (const struct addrinfo *entry = list; entry && fd < 0; entry = entry->ai_next) {
        fd = connect_to(entry, time_left(fmin(deadline, now_seconds() + REPLY_SECONDS)));
        if (fd < 0) { *problem = strerror(errno); }
    }
    if (fd < 0) { return -1; }
    set_connected(fd);
    if (shake_hands(meeting, fd, link, fmin(deadline, now_seconds() + REPLY_SECONDS))) { return fd; }
    *problem = "the program that listens there does not answer like rank 0 of cocogold";
    close(fd);
    return -1;
}

static int link_to_rank_0(Rendezvous *meeting, const char *address, int port, int link, double seconds) {
    const double deadline = now_seconds() + seconds;
    const char *problem = "there was no time to try";
    int fd = -1;
    while (fd < 0 && time_left(deadline) > 0) {
        struct addrinfo *list = resolve(address, port, seconds); // each time: the address may change
        fd = try_link(meeting, list, link, deadline, &problem);
        freeaddrinfo(list);
        if (fd < 0) { poll(NULL, 0, RETRY_MILLISECONDS); }
    }
    if (fd < 0) { die("rank 0 cannot be reached at %s within %.0f s: %s", meeting->place, seconds, problem); }
    return fd;
}

// ---- Noticing that another rank has ended --------------------------------------------------------------------------

static void end_with(const Rendezvous *meeting, int rank) {
    const Peer *peer = &meeting->peers[rank];
    leave_now(1, "rank %d (%s, process %d) has ended before the others: this run ends", rank, peer->host,
              (int)peer->process);
}

// On rank 0: waits until a rank ends, tells the others, and ends this process.
static void watch_all(Rendezvous *meeting) {
    struct pollfd *wait = xcalloc((size_t)meeting->world, sizeof *wait);
    wait[0] = (struct pollfd){.fd = meeting->wake[0], .events = POLLIN};
    for (int r = 1; r < meeting->world; r++) {
        wait[r] = (struct pollfd){.fd = meeting->sockets[r][WATCH], .events = POLLIN};
    }
    int ended = 0;
    while (!ended && !meeting->closing) {
        if (poll(wait, (nfds_t)meeting->world, -1) < 0) { continue; }
        for (int r = meeting->world - 1; r > 0; r--) {
            if (wait[r].revents) { ended = r; }
        }
    }
    free(wait);
    if (meeting->closing) { return; }
    uint32_t message = htonl((uint32_t)ended);
    const double deadline = now_seconds() + REPLY_SECONDS;
    for (int r = 1; r < meeting->world; r++) {
        if (r != ended) { send_all(meeting->sockets[r][WATCH], &message, sizeof message, deadline); }
    }
    end_with(meeting, ended);
}

// On the others: waits until rank 0 reports that a rank has ended, or ends itself; then ends this process.
static void watch_rank_0(Rendezvous *meeting) {
    const int fd = meeting->sockets[0][WATCH];
    struct pollfd wait[2] = {{.fd = meeting->wake[0], .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    while (!wait[1].revents && !meeting->closing) { poll(wait, 2, -1); }
    uint32_t ended = 0;
    if (!meeting->closing) {
        if (!receive_all(fd, &ended, sizeof ended, now_seconds() + REPLY_SECONDS)) { ended = 0; }
        ended = ntohl(ended);
        end_with(meeting, ended < (uint32_t)meeting->world ? (int)ended : 0);
    }
}

static void *watch(void *argument) {
    Rendezvous *meeting = argument;
    meeting->rank == 0 ? watch_all(meeting) : watch_rank_0(meeting);
    return NULL;
}

// The watcher blocks all signals: the main thread handles them.
static void start_watcher(Rendezvous *meeting) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pipe2(meeting->wake, O_CLOEXEC) || pthread_create(&meeting->watcher, NULL, watch, meeting)) {
        die("cannot start the thread that watches the other ranks: %s", strerror(errno));
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// ---- Exchanges -----------------------------------------------------------------------------------------------------

// A failed exchange means that a rank has ended. Waits for the watcher, which knows the rank and ends the process.
static void broken(Rendezvous *meeting, int rank) {
    if (!meeting->watcher) { die("rank %d ended while the ranks met at %s", rank, meeting->place); }
    poll(NULL, 0, REPLY_SECONDS * 1000);
    die("the connection to rank %d was lost", rank);
}

static void exchange_as_rank_0(Rendezvous *meeting, char *all, const void *mine, size_t bytes) {
    memcpy(all, mine, bytes);
    for (int r = 1; r < meeting->world; r++) {
        uint64_t size;
        const int fd = meeting->sockets[r][EXCHANGE];
        if (!receive_all(fd, &size, sizeof size, meeting->deadline)) { broken(meeting, r); }
        if (size != bytes) {
            die("rank %d exchanges %zu bytes, but rank 0 exchanges %zu: the ranks' calls differ", r, (size_t)size,
                bytes);
        }
        if (!receive_all(fd, all + (size_t)r * bytes, bytes, meeting->deadline)) { broken(meeting, r); }
    }
    for (int r = 1; r < meeting->world; r++) {
        if (!send_all(meeting->sockets[r][EXCHANGE], all, (size_t)meeting->world * bytes, meeting->deadline)) {
            broken(meeting, r);
        }
    }
}

void rendezvous_all_gather(Rendezvous *meeting, void *all, const void *mine, size_t bytes) {
    if (meeting->rank == 0) {
        exchange_as_rank_0(meeting, all, mine, bytes);
        return;
    }
    const int fd = meeting->sockets[0][EXCHANGE];
    const uint64_t size = bytes;
    if (!send_all(fd, &size, sizeof size, meeting->deadline) || !send_all(fd, mine, bytes, meeting->deadline) ||
        !receive_all(fd, all, (size_t)meeting->world * bytes, meeting->deadline)) {
        broken(meeting, 0);
    }
}

// ---- Open and close ------------------------------------------------------------------------------------------------

// Exchanges the host and process id of every rank. From then on there is no time limit: a silent rank is only busy.
static void introduce(Rendezvous *meeting) {
    Peer me = {.process = (int32_t)getpid()};
    gethostname(me.host, sizeof me.host - 1);
    meeting->peers = xcalloc((size_t)meeting->world, sizeof *meeting->peers);
    rendezvous_all_gather(meeting, meeting->peers, &me, sizeof me);
    meeting->deadline = INFINITY;
}

Rendezvous *rendezvous_open(const char *address, int port, int rank, int world, const char *secret, double seconds) {
    Rendezvous *meeting = xcalloc(1, sizeof *meeting);
    meeting->rank = rank, meeting->world = world;
    meeting->secret = secret;
    meeting->deadline = now_seconds() + 2 * seconds; // rank 0 may come late, and then another rank
    snprintf(meeting->place, sizeof meeting->place, "%s:%d", address, port);
    want_secret(meeting, address, port, seconds);
    const int rows = rank == 0 ? world : 1;
    meeting->sockets = xcalloc((size_t)rows, sizeof *meeting->sockets);
    memset(meeting->sockets, 0xff, (size_t)rows * sizeof *meeting->sockets); // -1: not connected
    if (rank == 0) {
        gather_ranks(meeting, address, port, seconds);
    } else {
        for (int link = 0; link < LINKS; link++) {
            meeting->sockets[0][link] = link_to_rank_0(meeting, address, port, link, seconds);
        }
    }
    introduce(meeting);
    start_watcher(meeting);
    return meeting;
}

void rendezvous_close(Rendezvous *meeting) {
    char nothing = 0, *all = xmalloc((size_t)meeting->world);
    rendezvous_all_gather(meeting, all, &nothing, 1); // all ranks have called this
    meeting->closing = true;
    rendezvous_all_gather(meeting, all, &nothing, 1); // all ranks know it: now a rank may end
    free(all);
    while (write(meeting->wake[1], &nothing, 1) < 0 && errno == EINTR) {}
    pthread_join(meeting->watcher, NULL);
    for (int r = 0; r < (meeting->rank == 0 ? meeting->world : 1); r++) {
        for (int link = 0; link < LINKS; link++) {
            if (meeting->sockets[r][link] >= 0) { close(meeting->sockets[r][link]); }
        }
    }
    close(meeting->wake[0]), close(meeting->wake[1]);
    free(meeting->sockets), free(meeting->peers), free(meeting);
}
