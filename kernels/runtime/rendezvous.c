// Every other rank has two connections to rank 0: one for exchanges, and one that stays silent until a rank has ended.
// If a process dies, the operating system closes both; if a machine fails, its keep-alive packets are not answered.
#include "kernels/runtime/rendezvous.h"
#include "util/error.h"
#include "util/progress.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXCHANGE, WATCH, LINKS };
enum { REPLY_MILLISECONDS = 5000, RETRY_MILLISECONDS = 200, RESOLVE_SECONDS = 30, SENTENCE = 256 };
static const uint64_t MAGIC = 0x31676f63636f63; // "coccog1"

typedef struct {
    char host[64];
    int32_t process;
} Peer;

typedef struct {
    uint64_t magic;
    uint32_t link, rank, world, process;
} Hello;

typedef struct {
    uint64_t magic;
    char refusal[SENTENCE]; // "": welcome
} Reply;

struct Rendezvous {
    int rank, world;
    char place[320];       // "address:port"
    int (*sockets)[LINKS]; // on rank 0: one row for each rank (-1 for itself); on the others: one row, to rank 0
    Peer *peers;           // (world), set once all have met
    pthread_t watcher;
    int wake[2]; // pipe that ends the watcher
    atomic_bool closing;
};

// ---- Sockets -------------------------------------------------------------------------------------------------------

// Writes or reads all bytes; false if the connection is closed or the socket's time limit is exceeded.
static bool send_all(int fd, const void *data, size_t bytes) {
    for (const char *p = data; bytes;) {
        ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { return false; }
        p += n, bytes -= (size_t)n;
    }
    return true;
}

static bool receive_all(int fd, void *data, size_t bytes) {
    for (char *p = data; bytes;) {
        ssize_t n = recv(fd, p, bytes, 0);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { return false; }
        p += n, bytes -= (size_t)n;
    }
    return true;
}

static void set_option(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof value); // may fail: none of the options is essential
}

static void set_time_limit(int fd, int milliseconds) { // 0: none
    struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

// Options of a connection. The failure of a machine is noticed after 10 + 4 * 5 seconds.
static void set_connected(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
    set_time_limit(fd, REPLY_MILLISECONDS);
}

static int time_left(double deadline) { // in milliseconds
    double left = (deadline - now_seconds()) * 1e3;
    return left > 0 ? (int)left : 0;
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
        if (strcmp(address, "localhost") == 0 && getaddrinfo("127.0.0.1", service, &hints, &list) == 0) { return list; }
        if (time_left(deadline) == 0) {
            die("the address of rank 0, %s, is unknown: %s", address,
                error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
        }
        poll(NULL, 0, RETRY_MILLISECONDS);
    }
}

// ---- Rank 0 --------------------------------------------------------------------------------------------------------

static bool is_loopback(const char *address) {
    return strcmp(address, "localhost") == 0 || strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}

// Listens on all addresses of the machine, since a host's name often resolves to 127.0.1.1 on the host itself. If
// `address` is a loopback address, listens on that one only.
static int listen_at(const Rendezvous *meeting, const char *address, int port, double seconds) {
    struct addrinfo *list = resolve(address, port, seconds);
    const bool loopback = is_loopback(address);
    const struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    const struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const struct sockaddr *at = loopback ? list->ai_addr : (const struct sockaddr *)&any;
    socklen_t length = loopback ? list->ai_addrlen : sizeof any;
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 && !loopback) { // without IPv6
        at = (const struct sockaddr *)&any4, length = sizeof any4;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    const int code = bind(fd, at, length);
    freeaddrinfo(list);
    if (code || listen(fd, 2 * meeting->world)) {
        die("rank 0 cannot listen at %s: %s%s", meeting->place, strerror(errno),
            errno == EADDRINUSE ? "; set MASTER_PORT to a free port" : "");
    }
    return fd;
}

// A rank that gets no answer in time closes the connection and tries again.
static bool has_hung_up(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

// Reads the rank of a new connection and answers. Connections of other programs are closed.
static void welcome(Rendezvous *meeting, int fd) {
    Hello hello;
    Reply reply = {.magic = MAGIC};
    set_connected(fd);
    if (!receive_all(fd, &hello, sizeof hello) || hello.magic != MAGIC || hello.link >= LINKS) {
        close(fd);
        return;
    }
    if ((int)hello.world != meeting->world) {
        snprintf(reply.refusal, SENTENCE, "rank 0 was started as one of %d ranks, rank %u as one of %u", meeting->world,
                 hello.rank, hello.world);
    } else if (hello.rank == 0 || hello.rank >= hello.world) {
        snprintf(reply.refusal, SENTENCE, "two processes were started as rank %u", hello.rank);
    } else {
        int *place = &meeting->sockets[hello.rank][hello.link];
        if (*place >= 0 && !has_hung_up(*place)) {
            snprintf(reply.refusal, SENTENCE, "two processes were started as rank %u", hello.rank);
        } else {
            if (*place >= 0) { close(*place); }
            *place = fd;
        }
    }
    send_all(fd, &reply, sizeof reply); // if this fails, the exchange that follows fails too
    if (*reply.refusal) { die("%s", reply.refusal); }
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
    int listener = listen_at(meeting, address, port, seconds);
    char names[128];
    int missing;
    while ((missing = count_missing(meeting, names, sizeof names))) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};
        int left = time_left(deadline);
        if (left == 0) {
            die("%d of %d ranks did not connect to %s within %.0f s: rank%s %s", missing, meeting->world,
                meeting->place, seconds, missing == 1 ? "" : "s", names);
        }
        if (poll(&wait, 1, left) <= 0) { continue; }
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) { welcome(meeting, fd); }
    }
    close(listener);
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
    if (error == 0) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        return fd;
    }
    close(fd);
    errno = error;
    return -1;
}

// One attempt to connect. Returns -1 and sets *problem on failure; another attempt may succeed.
static int try_link(Rendezvous *meeting, const struct addrinfo *list, int link, int milliseconds,
                    const char **problem) {
    int fd = -1;
    for (const struct addrinfo *entry = list; entry && fd < 0; entry = entry->ai_next) {
        fd = connect_to(entry, milliseconds < REPLY_MILLISECONDS ? milliseconds : REPLY_MILLISECONDS);
        if (fd < 0) { *problem = strerror(errno); }
    }
    if (fd < 0) { return -1; }
    set_connected(fd);
    Hello hello = {MAGIC, (uint32_t)link, (uint32_t)meeting->rank, (uint32_t)meeting->world, (uint32_t)getpid()};
    Reply reply;
    if (!send_all(fd, &hello, sizeof hello) || !receive_all(fd, &reply, sizeof reply)) {
        *problem = "the program that listens there does not answer like rank 0 of cocogold";
        close(fd);
        return -1;
    }
    if (reply.magic != MAGIC) { die("the program that listens at %s is not rank 0 of cocogold", meeting->place); }
    reply.refusal[SENTENCE - 1] = 0;
    if (*reply.refusal) { die("%s", reply.refusal); }
    return fd;
}

static int link_to_rank_0(Rendezvous *meeting, const char *address, int port, int link, double seconds) {
    const double deadline = now_seconds() + seconds;
    const char *problem = "there was no time to try";
    int fd = -1;
    while (fd < 0 && time_left(deadline) > 0) {
        struct addrinfo *list = resolve(address, port, seconds); // each time: the address may change
        fd = try_link(meeting, list, link, time_left(deadline), &problem);
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
    for (int r = 1; r < meeting->world; r++) {
        if (r != ended) { send_all(meeting->sockets[r][WATCH], &message, sizeof message); }
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
        if (!receive_all(fd, &ended, sizeof ended)) { ended = 0; }
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
    poll(NULL, 0, REPLY_MILLISECONDS);
    die("the connection to rank %d was lost", rank);
}

static void exchange_as_rank_0(Rendezvous *meeting, char *all, const void *mine, size_t bytes) {
    memcpy(all, mine, bytes);
    for (int r = 1; r < meeting->world; r++) {
        uint64_t size;
        const int fd = meeting->sockets[r][EXCHANGE];
        if (!receive_all(fd, &size, sizeof size)) { broken(meeting, r); }
        if (size != bytes) {
            die("rank %d exchanges %zu bytes, but rank 0 exchanges %zu: the ranks' calls differ", r, (size_t)size,
                bytes);
        }
        if (!receive_all(fd, all + (size_t)r * bytes, bytes)) { broken(meeting, r); }
    }
    for (int r = 1; r < meeting->world; r++) {
        if (!send_all(meeting->sockets[r][EXCHANGE], all, (size_t)meeting->world * bytes)) { broken(meeting, r); }
    }
}

void rendezvous_all_gather(Rendezvous *meeting, void *all, const void *mine, size_t bytes) {
    if (meeting->rank == 0) {
        exchange_as_rank_0(meeting, all, mine, bytes);
        return;
    }
    const int fd = meeting->sockets[0][EXCHANGE];
    const uint64_t size = bytes;
    if (!send_all(fd, &size, sizeof size) || !send_all(fd, mine, bytes) ||
        !receive_all(fd, all, (size_t)meeting->world * bytes)) {
        broken(meeting, 0);
    }
}

// ---- Open and close ------------------------------------------------------------------------------------------------

// Exchanges the host and process id of every rank. From now on there is no time limit: a silent rank is only busy.
static void introduce(Rendezvous *meeting) {
    Peer me = {.process = (int32_t)getpid()};
    gethostname(me.host, sizeof me.host - 1);
    meeting->peers = xcalloc((size_t)meeting->world, sizeof *meeting->peers);
    for (int r = 0; r < (meeting->rank == 0 ? meeting->world : 1); r++) {
        for (int link = 0; link < LINKS; link++) {
            if (meeting->sockets[r][link] >= 0) { set_time_limit(meeting->sockets[r][link], 0); }
        }
    }
    rendezvous_all_gather(meeting, meeting->peers, &me, sizeof me);
}

Rendezvous *rendezvous_open(const char *address, int port, int rank, int world, double seconds) {
    Rendezvous *meeting = xcalloc(1, sizeof *meeting);
    meeting->rank = rank, meeting->world = world;
    snprintf(meeting->place, sizeof meeting->place, "%s:%d", address, port);
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
