/*
 * A line with a round trip: what comes in at one port goes out to another, later.
 *
 *   delay PORT TO_PORT ONE_WAY_MS
 *
 * Each direction of each connection is a queue of bytes that leave ONE_WAY_MS after they came; the
 * rate is not limited otherwise. A new connection reaches the other side three times later, as its
 * three-way handshake would. Bounded: SESSIONS_MAX connections; of each direction QUEUE_BYTES, and
 * MARKS_MAX arrivals, are under way; beyond that it stops reading. Ends with SIGTERM.
 */
#include "daemon/base/num.h"
#include "daemon/base/slice.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SESSIONS_MAX 64
#define QUEUE_BYTES  (4u << 20)
#define MARKS_MAX    8192u
#define EVENTS_MAX   128
#define HANDSHAKE    3u /* one ways until the server knows of a connection */

/* Bytes that came at once; none of them: the end of the stream. */
struct mark {
    uint64_t due_ns;
    uint32_t bytes;
};

/* From one socket to the other. */
struct way {
    int from, to;
    bool ended;      /* the end of the stream was read: nothing more comes */
    bool closed;     /* and was passed on */
    bool blocked;    /* the receiving socket takes nothing just now */
    uint64_t head;   /* bytes that ever came */
    uint64_t tail;   /* bytes that ever left */
    uint64_t marked; /* marks that ever came */
    uint64_t passed; /* marks that ever left */
    struct mark marks[MARKS_MAX];
    uint8_t queue[QUEUE_BYTES];
};

enum session_state {
    SESSION_FREE,    /* the slot is free */
    SESSION_GREETED, /* accepted; the other side is connected to at connect_ns */
    SESSION_OPEN,    /* bytes pass */
};

struct session {
    enum session_state state;
    uint64_t connect_ns;
    struct way *there, *back;
};

static struct session sessions[SESSIONS_MAX];
static uint64_t one_way_ns;
static uint16_t to_port;
static int epoll;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void session_end(struct session *s)
{
    close(s->there->from);
    if (s->state == SESSION_OPEN) {
        close(s->there->to);
    }
    free(s->there);
    free(s->back);
    *s = (struct session){.state = SESSION_FREE};
}

/* ---- one way ---- */

/* At most two stretches of the ring, from the position on. */
static int stretches(struct way *w, struct iovec *to, uint64_t position, size_t bytes)
{
    size_t at = position % QUEUE_BYTES, first = bytes;
    if (first > QUEUE_BYTES - at) {
        first = QUEUE_BYTES - at;
    }
    to[0] = (struct iovec){.iov_base = w->queue + at, .iov_len = first};
    to[1] = (struct iovec){.iov_base = w->queue, .iov_len = bytes - first};
    return bytes > first ? 2 : 1;
}

/* Reads what is there, as far as there is room. False: the connection is broken. */
static bool way_fill(struct way *w, uint64_t now)
{
    while (!w->ended && w->head - w->tail < QUEUE_BYTES && w->marked - w->passed < MARKS_MAX) {
        struct iovec room[2];
        int count = stretches(w, room, w->head, QUEUE_BYTES - (size_t)(w->head - w->tail));
        ssize_t got = readv(w->from, room, count);
        if (got < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        w->ended = got == 0;
        w->head += (uint64_t)got;
        w->marks[w->marked++ % MARKS_MAX] =
            (struct mark){.due_ns = now + one_way_ns, .bytes = (uint32_t)got};
    }
    return true;
}

/* The marks that are due: their bytes; *end when the end of the stream is among them. */
static size_t due_bytes(const struct way *w, uint64_t now, bool *end)
{
    size_t bytes = 0;
    *end = false;
    for (uint64_t at = w->passed; at < w->marked; at++) {
        const struct mark *mark = &w->marks[at % MARKS_MAX];
        if (mark->due_ns > now) {
            break;
        }
        bytes += mark->bytes;
        *end = mark->bytes == 0;
    }
    return bytes;
}

/* So many bytes have left: marks that are used up go. */
static void way_advance(struct way *w, size_t bytes)
{
    w->tail += bytes;
    while (bytes > 0) {
        struct mark *mark = &w->marks[w->passed % MARKS_MAX];
        size_t used = bytes < mark->bytes ? bytes : mark->bytes;
        mark->bytes -= (uint32_t)used;
        bytes -= used;
        w->passed += mark->bytes == 0;
    }
}

/* Sends what is due. False: the connection is broken. */
static bool way_drain(struct way *w, uint64_t now)
{
    bool end;
    size_t bytes = due_bytes(w, now, &end);
    w->blocked = false;
    while (bytes > 0) {
        struct iovec part[2];
        struct msghdr message = {.msg_iov = part};
        message.msg_iovlen = (size_t)stretches(w, part, w->tail, bytes);
        ssize_t sent = sendmsg(w->to, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            w->blocked = errno == EAGAIN;
            return w->blocked || errno == EINTR;
        }
        way_advance(w, (size_t)sent);
        bytes -= (size_t)sent;
    }
    if (end) {
        w->passed = w->marked;
        w->closed = true;
        shutdown(w->to, SHUT_WR);
    }
    return true;
}

static uint64_t way_next(const struct way *w)
{
    bool waits = w->passed < w->marked && !w->blocked;
    return waits ? w->marks[w->passed % MARKS_MAX].due_ns : UINT64_MAX;
}

/* ---- sessions ---- */

static void watch(struct session *s, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void take(int listener, uint64_t now)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct session *s = sessions;
        while (s < sessions + SESSIONS_MAX && s->state != SESSION_FREE) {
            s++;
        }
        struct way *there = calloc(1, sizeof *there), *back = calloc(1, sizeof *back);
        if (s == sessions + SESSIONS_MAX || there == NULL || back == NULL) {
            free(there);
            free(back);
            close(fd);
            continue;
        }
        there->from = back->to = fd;
        *s = (struct session){.state = SESSION_GREETED,
                              .connect_ns = now + HANDSHAKE * one_way_ns,
                              .there = there,
                              .back = back};
        watch(s, fd);
    }
}

/* Connects to the other side, on this machine: that is done at once. */
static bool session_connect(struct session *s)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(to_port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        close(fd);
        return false;
    }
    s->there->to = s->back->from = fd;
    s->state = SESSION_OPEN;
    watch(s, fd);
    return true;
}

/* Does all that can be done now; *next is brought forward to when there is more. */
static void session_turn(struct session *s, uint64_t now, uint64_t *next)
{
    bool well = true;
    if (s->state == SESSION_GREETED && now >= s->connect_ns) {
        well = session_connect(s);
    }
    if (well && s->state == SESSION_GREETED) {
        *next = u64_min(*next, s->connect_ns);
        return;
    }
    well = well && way_fill(s->there, now) && way_drain(s->there, now) && way_fill(s->back, now) &&
           way_drain(s->back, now) && way_fill(s->there, now) && way_fill(s->back, now);
    if (!well || (s->there->closed && s->back->closed)) {
        session_end(s);
        return;
    }
    *next = u64_min(*next, u64_min(way_next(s->there), way_next(s->back)));
}

static int listen_on(uint16_t port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1000) != 0) {
        perror("delay: listen");
        exit(1);
    }
    return fd;
}

static void wait_until(uint64_t next)
{
    struct epoll_event events[EVENTS_MAX];
    uint64_t now = now_ns(), left = next > now ? next - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
                               .tv_nsec = (long)(left % 1000000000u)};
    epoll_pwait2(epoll, events, EVENTS_MAX, next == UINT64_MAX ? NULL : &timeout, NULL);
}

int main(int argc, char **argv)
{
    uint64_t port = 0, to = 0, ms = 0;
    if (argc != 4 || !u64_parse(slice_from_str(argv[1]), &port) ||
        !u64_parse(slice_from_str(argv[2]), &to) || !u64_parse(slice_from_str(argv[3]), &ms) ||
        port > 65535 || to > 65535 || ms > 10000) {
        fprintf(stderr, "usage: delay PORT TO_PORT ONE_WAY_MS\n");
        return 64;
    }
    to_port = (uint16_t)to;
    one_way_ns = ms * 1000000u;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on((uint16_t)port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        uint64_t now = now_ns(), next = UINT64_MAX;
        take(listener, now);
        for (size_t at = 0; at < SESSIONS_MAX; at++) {
            if (sessions[at].state != SESSION_FREE) {
                session_turn(&sessions[at], now, &next);
            }
        }
        wait_until(next);
    }
}
