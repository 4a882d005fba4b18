/*
 * Takes mail and throws it away: an upstream that announces PIPELINING and CHUNKING and does as
 * little as smtp-sink does.
 *
 *   sink PORT COUNTER
 *
 * COUNTER is a file of 8 bytes, little-endian, in which the messages taken are counted while it
 * runs. Every command is accepted and no order of commands is asked for: this is no judge. Ends
 * with SIGTERM.
 */
#include "daemon/base/num.h"
#include "daemon/base/slice.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SESSIONS_MAX 1024
#define IN_BYTES     65536
#define OUT_BYTES    65536
#define REPLY_BYTES  256 /* the longest reply, and some room */
#define EVENTS_MAX   64

enum session_state {
    SESSION_COMMAND, /* a command line is next */
    SESSION_CONTENT, /* content is next, up to a line with a dot */
    SESSION_PIECE,   /* piece_left bytes of BDAT are next */
    SESSION_ENDING,  /* QUIT was answered: what is left goes out, then it closes */
};

struct session {
    int fd;
    enum session_state state;
    bool fresh;       /* CONTENT: nothing of it was seen yet */
    bool piece_last;  /* PIECE: the message ends with it */
    bool output_full; /* no room for a reply, or the peer does not read: only writing is awaited */
    uint64_t piece_left;
    size_t in_bytes, out_bytes;
    uint8_t in[IN_BYTES];
    uint8_t out[OUT_BYTES];
};

static uint64_t *counter;
static unsigned session_count;

static void say(struct session *s, const char *text)
{
    size_t bytes = strlen(text);
    memcpy(s->out + s->out_bytes, text, bytes);
    s->out_bytes += bytes;
}

static void taken(struct session *s)
{
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELEASE);
    say(s, "250 2.0.0 taken\r\n");
}

static bool is_verb(const uint8_t *line, size_t bytes, const char *verb)
{
    return bytes >= 4 && strncasecmp((const char *)line, verb, 4) == 0;
}

/* BDAT SP size [SP LAST]: RFC 3030 2. */
static void piece_begins(struct session *s, const uint8_t *line, size_t bytes)
{
    size_t at = 5;
    s->piece_left = 0;
    while (at < bytes && line[at] >= '0' && line[at] <= '9' && s->piece_left < UINT32_MAX) {
        s->piece_left = s->piece_left * 10 + (uint64_t)(line[at++] - '0');
    }
    s->piece_last = bytes - at >= 5 && strncasecmp((const char *)line + at, " LAST", 5) == 0;
    s->state = SESSION_PIECE;
}

static void command(struct session *s, const uint8_t *line, size_t bytes)
{
    if (is_verb(line, bytes, "BDAT") && bytes > 5) {
        piece_begins(s, line, bytes);
    } else if (is_verb(line, bytes, "DATA")) {
        s->state = SESSION_CONTENT;
        s->fresh = true;
        say(s, "354 go\r\n");
    } else if (is_verb(line, bytes, "EHLO")) {
        say(s, "250-sink.test\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-PIPELINING\r\n"
               "250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n");
    } else if (is_verb(line, bytes, "QUIT")) {
        s->state = SESSION_ENDING;
        say(s, "221 2.0.0 bye\r\n");
    } else {
        say(s, "250 2.0.0 ok\r\n");
    }
}

/* ---- each uses up some of the input, and says how much; 0: more has to come ---- */

static size_t eat_command(struct session *s, const uint8_t *in, size_t bytes)
{
    const uint8_t *end = memchr(in, '\n', bytes);
    if (end == NULL) {
        return bytes < IN_BYTES ? 0 : bytes; /* a line that long is no command */
    }
    command(s, in, (size_t)(end - in));
    return (size_t)(end - in) + 1;
}

static size_t eat_content(struct session *s, const uint8_t *in, size_t bytes)
{
    if (s->fresh && bytes < 3) {
        return 0;
    }
    bool at_once = s->fresh && memcmp(in, ".\r\n", 3) == 0;
    s->fresh = false;
    const uint8_t *end = at_once ? NULL : memmem(in, bytes, "\r\n.\r\n", 5);
    if (!at_once && end == NULL) {
        return bytes > 4 ? bytes - 4 : 0;
    }
    s->state = SESSION_COMMAND;
    taken(s);
    return at_once ? 3 : (size_t)(end - in) + 5;
}

static size_t eat_piece(struct session *s, size_t bytes)
{
    size_t used = (size_t)u64_min(s->piece_left, bytes);
    s->piece_left -= used;
    if (s->piece_left == 0) {
        s->state = SESSION_COMMAND;
        if (s->piece_last) {
            taken(s);
        } else {
            say(s, "250 2.0.0 more\r\n");
        }
    }
    return used;
}

static size_t eat(struct session *s, const uint8_t *in, size_t bytes)
{
    switch (s->state) {
    case SESSION_COMMAND:
        return eat_command(s, in, bytes);
    case SESSION_CONTENT:
        return eat_content(s, in, bytes);
    case SESSION_PIECE:
        return eat_piece(s, bytes);
    case SESSION_ENDING:
        break;
    }
    return 0;
}

/* Uses up what it can of the input, until there is no room for another reply. */
static void digest(struct session *s)
{
    size_t at = 0;
    while (s->state != SESSION_ENDING && OUT_BYTES - s->out_bytes >= REPLY_BYTES) {
        /* A piece of no bytes ends without input. */
        if (at == s->in_bytes && !(s->state == SESSION_PIECE && s->piece_left == 0)) {
            break;
        }
        enum session_state before = s->state;
        size_t used = eat(s, s->in + at, s->in_bytes - at);
        at += used;
        if (used == 0 && s->state == before) {
            break;
        }
    }
    memmove(s->in, s->in + at, s->in_bytes - at);
    s->in_bytes -= at;
}

/* ---- sockets ---- */

/* False: the peer is gone. */
static bool flush(struct session *s)
{
    while (s->out_bytes > 0) {
        ssize_t sent = send(s->fd, s->out, s->out_bytes, MSG_NOSIGNAL);
        if (sent < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        memmove(s->out, s->out + sent, s->out_bytes - (size_t)sent);
        s->out_bytes -= (size_t)sent;
    }
    return true;
}

/* Reads once, answers. False: the session is over. */
static bool serve(struct session *s, uint32_t events)
{
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && s->in_bytes < IN_BYTES) {
        ssize_t got = recv(s->fd, s->in + s->in_bytes, IN_BYTES - s->in_bytes, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return false;
        }
        s->in_bytes += got > 0 ? (size_t)got : 0;
    }
    size_t before;
    do {
        before = s->in_bytes;
        digest(s);
        if (!flush(s)) {
            return false;
        }
    } while (s->in_bytes != before && s->in_bytes > 0 && s->out_bytes == 0);
    s->output_full = s->out_bytes > 0;
    return s->state != SESSION_ENDING || s->output_full;
}

static void session_end(struct session *s)
{
    close(s->fd);
    free(s);
    session_count--;
}

static void watch(int epoll, int how, struct session *s)
{
    struct epoll_event event = {.events = s->output_full ? EPOLLOUT : EPOLLIN, .data.ptr = s};
    epoll_ctl(epoll, how, s->fd, &event);
}

static void take(int epoll, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct session *s = fd >= 0 && session_count < SESSIONS_MAX ? calloc(1, sizeof *s) : NULL;
    if (s == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    s->fd = fd;
    session_count++;
    say(s, "220 sink.test ESMTP\r\n");
    if (!flush(s)) {
        session_end(s);
        return;
    }
    watch(epoll, EPOLL_CTL_ADD, s);
}

static int listen_on(uint64_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1000) != 0) {
        perror("bench sink: listen");
        exit(1);
    }
    return fd;
}

static uint64_t *counter_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    void *memory = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(uint64_t)) == 0) {
        memory = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (memory == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
    return memory;
}

int main(int argc, char **argv)
{
    uint64_t port = 0;
    if (argc != 3 || !u64_parse(slice_from_str(argv[1]), &port) || port == 0 || port > 65535) {
        fprintf(stderr, "usage: sink PORT COUNTER\n");
        return 64;
    }
    counter = counter_open(argv[2]);
    int listener = listen_on(port), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS_MAX] = {{.events = EPOLLIN, .data.ptr = NULL}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int at = 0; at < count; at++) {
            struct session *s = events[at].data.ptr;
            if (s == NULL) {
                take(epoll, listener);
                continue;
            }
            bool was_full = s->output_full;
            if (!serve(s, events[at].events)) {
                session_end(s);
            } else if (s->output_full != was_full) {
                watch(epoll, EPOLL_CTL_MOD, s);
            }
        }
    }
}
