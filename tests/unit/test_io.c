/*
 * The io seam on every backend and on every older way of doing things that this kernel can be made
 * to play. Each case runs once per row of variants.
 */
#include "daemon/io/io.h"
#include "daemon/io/io_backend.h"
#include "tests/unit/turns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define GUARD_MS 120000 /* a case that takes longer hangs */

struct variant {
    const char *name;
    enum io_backend backend;
    uint32_t features;
};

static const struct variant variants[] = {
    {"poll", IO_BACKEND_POLL, IO_FEATURES_ALL},
    {"uring", IO_BACKEND_URING, IO_FEATURES_ALL},
    {"uring-coop", IO_BACKEND_URING, IO_FEATURES_ALL & ~(uint32_t)IO_FEATURE_DEFER_TASKRUN},
    {"uring-plain-setup", IO_BACKEND_URING,
     IO_FEATURE_RING | IO_FEATURE_BUFFER_RING | IO_FEATURE_MULTISHOT_ACCEPT},
    {"uring-polled-recv", IO_BACKEND_URING, IO_FEATURES_ALL & ~(uint32_t)IO_FEATURE_BUFFER_RING},
    {"uring-single-accept", IO_BACKEND_URING,
     IO_FEATURES_ALL & ~(uint32_t)IO_FEATURE_MULTISHOT_ACCEPT},
    {"uring-5.11", IO_BACKEND_URING, IO_FEATURE_RING},
};
#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

/* ---- helpers ---- */

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static size_t random_size(size_t max)
{
    return 1 + (size_t)(random_next() % max);
}

static struct io_op guard;

static void guard_fired(struct io_op *op)
{
    (void)op;
    (void)fprintf(stderr, "the case hangs\n");
    abort();
}

static struct io *loop_open_with(const struct variant *v, uint32_t buffer_bytes,
                                 uint32_t buffer_count)
{
    struct io *io = NULL;
    struct io_about about;
    struct io_config config = {.backend = v->backend,
                               .recv_buffer_bytes = buffer_bytes,
                               .recv_buffer_count = buffer_count};
    enum err err = io_new_with(&io, &config, v->features, &about);
    if (err == ERR_UNSUPPORTED) {
        print_message("skipped: %s\n", about.reason);
        skip();
    }
    assert_int_equal(err, ERR_OK);
    assert_int_equal(about.backend, v->backend);
    guard = (struct io_op){.fn = guard_fired};
    io_timer(io, &guard, io_now_ms(io) + GUARD_MS);
    return io;
}

static struct io *loop_open(void **state)
{
    return loop_open_with(*state, 0, 0);
}

static void loop_close(struct io *io)
{
    io_cancel(io, &guard);
    io_free(&io);
    assert_null(io);
}

/* An op of a test, with a record of its calls. */
struct probe {
    struct io_op op;
    struct io *io;
    int calls;
    int last_result;
    int stop_after; /* calls; 0: never */
    uint8_t byte;   /* the first one that arrived */
};

static void probe_called(struct io_op *op)
{
    struct probe *p = IO_OWNER(op, struct probe, op);
    p->calls++;
    p->last_result = op->result;
    if (op->data.len > 0) {
        p->byte = op->data.data[0];
    }
    if (p->calls == p->stop_after) {
        io_stop(p->io);
    }
}

static struct probe probe_of(struct io *io, int stop_after)
{
    return (struct probe){.op = {.fn = probe_called}, .io = io, .stop_after = stop_after};
}

/* Runs until everything that is on its way has had its chance: a few rounds of an expired timer. */
static int settle_rounds;

static void settle_called(struct io_op *op)
{
    struct probe *p = IO_OWNER(op, struct probe, op);
    if (--settle_rounds > 0) {
        io_timer(p->io, op, io_now_ms(p->io));
    } else {
        io_stop(p->io);
    }
}

static void settle(struct io *io)
{
    struct probe p = {.op = {.fn = settle_called}, .io = io};
    settle_rounds = 10;
    io_timer(io, &p.op, io_now_ms(io));
    while (settle_rounds > 0) { /* others may stop the loop before */
        io_run(io);
    }
}

static void socket_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static int tcp_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    return fd;
}

static int tcp_bind(struct sockaddr_in *out_address)
{
    int fd = tcp_socket();
    *out_address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(*out_address);
    assert_int_equal(bind(fd, (struct sockaddr *)out_address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)out_address, &len), 0);
    return fd;
}

static int tcp_listen(struct sockaddr_in *out_address, int backlog)
{
    int fd = tcp_bind(out_address);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

/* A connected pair over loopback. */
static void tcp_pair(int fds[2])
{
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 1);
    fds[0] = tcp_socket();
    assert_true(connect(fds[0], (struct sockaddr *)&address, sizeof(address)) == 0 ||
                errno == EINPROGRESS);
    do {
        fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fds[1] < 0 && (errno == EAGAIN || errno == EINTR));
    assert_true(fds[1] >= 0);
    close(listener);
}

static void write_bytes(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* Closes through the loop and waits for it. */
static void close_now(struct io *io, int fd)
{
    struct probe p = probe_of(io, 1);
    io_close(io, &p.op, fd);
    assert_int_equal(p.calls, 0);
    io_run(io);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last_result, 0);
}

/* Room for many descriptors, or a skip. */
static void need_descriptors(rlim_t count)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < count) {
        limit.rlim_cur = count;
        if (limit.rlim_max < count || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            skip();
        }
    }
}

/* ---- echo ---- */

#define ECHO_BYTES   turns(50u << 20, 1u << 20)
#define ECHO_PIECE   65536u
#define PATTERN_STEP 251u /* a prime: a piece that is lost or doubled shows */

static uint8_t pattern[ECHO_PIECE + PATTERN_STEP];

static void pattern_fill(void)
{
    for (size_t index = 0; index < sizeof(pattern); index++) {
        pattern[index] = (uint8_t)(index % PATTERN_STEP);
    }
}

struct echo_server {
    struct io *io;
    int fd;
    struct io_op recv, send, close;
    uint8_t held[ECHO_PIECE];
    size_t held_bytes, sent_bytes;
    bool closed;
};

static void echo_server_send(struct echo_server *s)
{
    io_send(s->io, &s->send, s->fd,
            slice_of(s->held + s->sent_bytes, s->held_bytes - s->sent_bytes));
}

static void echo_server_sent(struct io_op *op)
{
    struct echo_server *s = IO_OWNER(op, struct echo_server, send);
    assert_in_range(op->result, 1, s->held_bytes - s->sent_bytes);
    s->sent_bytes += (size_t)op->result;
    if (s->sent_bytes < s->held_bytes) {
        echo_server_send(s);
    } else {
        io_recv(s->io, &s->recv, s->fd);
    }
}

static void echo_server_closed(struct io_op *op)
{
    struct echo_server *s = IO_OWNER(op, struct echo_server, close);
    assert_int_equal(op->result, 0);
    s->closed = true;
}

static void echo_server_received(struct io_op *op)
{
    struct echo_server *s = IO_OWNER(op, struct echo_server, recv);
    assert_true(op->result >= 0);
    assert_int_equal(op->data.len, op->result);
    if (op->result == 0) {
        io_close(s->io, &s->close, s->fd);
        return;
    }
    assert_in_range(op->data.len, 1, sizeof(s->held));
    memcpy(s->held, op->data.data, op->data.len);
    s->held_bytes = op->data.len;
    s->sent_bytes = 0;
    echo_server_send(s);
}

static void echo_server_start(struct echo_server *s, struct io *io, int fd)
{
    s->io = io;
    s->fd = fd;
    s->closed = false;
    s->recv = (struct io_op){.fn = echo_server_received};
    s->send = (struct io_op){.fn = echo_server_sent};
    s->close = (struct io_op){.fn = echo_server_closed};
    io_recv(io, &s->recv, fd);
}

struct echo_client {
    struct io *io;
    int fd;
    struct io_op recv, send, close;
    size_t total_bytes, sent_bytes, received_bytes;
    uint32_t *open_count; /* the last one stops the loop */
};

static void echo_client_send(struct echo_client *c)
{
    size_t left = c->total_bytes - c->sent_bytes;
    size_t size = random_next() % 4 == 0 ? random_size(64) : random_size(ECHO_PIECE);
    io_send(c->io, &c->send, c->fd,
            slice_of(pattern + c->sent_bytes % PATTERN_STEP, left < size ? left : size));
}

static void echo_client_sent(struct io_op *op)
{
    struct echo_client *c = IO_OWNER(op, struct echo_client, send);
    assert_true(op->result >= 1);
    c->sent_bytes += (size_t)op->result;
    assert_true(c->sent_bytes <= c->total_bytes);
    if (c->sent_bytes < c->total_bytes) {
        echo_client_send(c);
    } else {
        assert_int_equal(shutdown(c->fd, SHUT_WR), 0);
    }
}

static void echo_client_closed(struct io_op *op)
{
    struct echo_client *c = IO_OWNER(op, struct echo_client, close);
    assert_int_equal(op->result, 0);
    if (--*c->open_count == 0) {
        io_stop(c->io);
    }
}

static void echo_client_received(struct io_op *op)
{
    struct echo_client *c = IO_OWNER(op, struct echo_client, recv);
    assert_true(op->result >= 0);
    if (op->result == 0) {
        assert_int_equal(c->received_bytes, c->total_bytes);
        io_close(c->io, &c->close, c->fd);
        return;
    }
    struct slice in = op->data;
    assert_int_equal(in.len, op->result);
    while (in.len > 0) {
        struct slice piece = slice_head(in, ECHO_PIECE);
        assert_memory_equal(piece.data, pattern + c->received_bytes % PATTERN_STEP, piece.len);
        c->received_bytes += piece.len;
        in = slice_tail(in, piece.len);
    }
    io_recv(c->io, &c->recv, c->fd);
}

static void echo_client_start(struct echo_client *c, struct io *io, int fd, size_t total_bytes,
                              uint32_t *open_count)
{
    *c = (struct echo_client){.io = io,
                              .fd = fd,
                              .total_bytes = total_bytes,
                              .open_count = open_count,
                              .recv = {.fn = echo_client_received},
                              .send = {.fn = echo_client_sent},
                              .close = {.fn = echo_client_closed}};
    io_recv(io, &c->recv, fd);
    echo_client_send(c);
}

static void echo_over(void **state, int fds[2])
{
    struct io *io = loop_open(state);
    static struct echo_server server;
    struct echo_client client;
    uint32_t open_count = 1;
    pattern_fill();
    echo_server_start(&server, io, fds[1]);
    echo_client_start(&client, io, fds[0], ECHO_BYTES, &open_count);
    io_run(io);
    assert_int_equal(client.received_bytes, ECHO_BYTES);
    assert_true(server.closed);
    loop_close(io);
}

static void echo_socketpair(void **state)
{
    int fds[2];
    socket_pair(fds);
    echo_over(state, fds);
}

static void echo_tcp(void **state)
{
    int fds[2];
    tcp_pair(fds);
    echo_over(state, fds);
}

/* ---- many connections ---- */

#define CROWD_MAX 200
#define CROWD     ((uint32_t)turns(CROWD_MAX, 140))

struct crowd_client {
    struct io_op connect;
    struct echo_client echo;
};

struct crowd {
    struct io *io;
    struct io_op accept;
    int accepted;
    int accept_ends;
    uint32_t open_count;
    struct echo_server servers[CROWD_MAX];
    struct crowd_client clients[CROWD_MAX];
};

static struct crowd crowd;

static void crowd_accepted(struct io_op *op)
{
    if (!op->more) {
        assert_int_equal(op->result, -ECANCELED);
        crowd.accept_ends++;
        io_stop(crowd.io);
        return;
    }
    assert_true(op->result >= 0);
    assert_true(crowd.accepted < CROWD_MAX);
    assert_true((fcntl(op->result, F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(op->result, F_GETFD) & FD_CLOEXEC) != 0);
    echo_server_start(&crowd.servers[crowd.accepted++], crowd.io, op->result);
}

static void crowd_connected(struct io_op *op)
{
    struct crowd_client *c = IO_OWNER(op, struct crowd_client, connect);
    assert_int_equal(op->result, 0);
    size_t bytes = turns(20000, 10);
    echo_client_start(&c->echo, crowd.io, op->fd, bytes + random_size(bytes), &crowd.open_count);
}

static void crowd_of_connections(void **state)
{
    need_descriptors(2 * CROWD + 64);
    struct sockaddr_in address;
    int listener = tcp_listen(&address, CROWD_MAX);
    pattern_fill();
    crowd.io = loop_open(state);
    crowd.accepted = 0;
    crowd.accept_ends = 0;
    crowd.open_count = CROWD;
    crowd.accept = (struct io_op){.fn = crowd_accepted};
    io_accept(crowd.io, &crowd.accept, listener);
    for (size_t index = 0; index < CROWD; index++) {
        struct crowd_client *c = &crowd.clients[index];
        c->connect = (struct io_op){.fn = crowd_connected};
        io_connect(crowd.io, &c->connect, tcp_socket(), (struct sockaddr *)&address,
                   sizeof(address));
    }
    io_run(crowd.io);
    assert_int_equal(crowd.accepted, CROWD);
    io_cancel(crowd.io, &crowd.accept);
    io_cancel(crowd.io, &crowd.accept);
    assert_int_equal(crowd.accept_ends, 0);
    io_run(crowd.io);
    assert_int_equal(crowd.accept_ends, 1);
    assert_false(io_pending(&crowd.accept));
    settle(crowd.io);
    assert_int_equal(crowd.accept_ends, 1);
    close_now(crowd.io, listener);
    loop_close(crowd.io);
}

/* ---- cancel ---- */

static void cancel_recv(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    socket_pair(fds);
    struct probe p = probe_of(io, 1);
    io_cancel(io, &p.op); /* not pending: nothing happens */
    io_recv(io, &p.op, fds[0]);
    io_cancel(io, &p.op); /* before the loop has seen it */
    io_cancel(io, &p.op);
    assert_int_equal(p.calls, 0);
    io_run(io);
    assert_int_equal(p.last_result, -ECANCELED);

    p = probe_of(io, 1);
    io_recv(io, &p.op, fds[0]);
    settle(io);
    assert_int_equal(p.calls, 0);
    assert_true(io_pending(&p.op));
    io_cancel(io, &p.op); /* with the kernel */
    io_cancel(io, &p.op);
    assert_int_equal(p.calls, 0);
    io_run(io);
    assert_int_equal(p.last_result, -ECANCELED);
    settle(io);
    assert_int_equal(p.calls, 1);
    assert_false(io_pending(&p.op));

    p = probe_of(io, 1); /* and the descriptor is as before */
    write_bytes(fds[1], "x");
    io_recv(io, &p.op, fds[0]);
    io_run(io);
    assert_int_equal(p.last_result, 1);
    assert_int_equal(p.byte, 'x');
    close_now(io, fds[0]);
    close(fds[1]);
    loop_close(io);
}

static void cancel_send(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    socket_pair(fds);
    static uint8_t bytes[4096];
    while (write(fds[0], bytes, sizeof(bytes)) > 0) {
    }
    assert_int_equal(errno, EAGAIN);
    struct probe p = probe_of(io, 1);
    io_send(io, &p.op, fds[0], slice_of(bytes, sizeof(bytes)));
    settle(io);
    assert_int_equal(p.calls, 0);
    io_cancel(io, &p.op);
    io_run(io);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last_result, -ECANCELED);
    close_now(io, fds[0]);
    close(fds[1]);
    loop_close(io);
}

/* A listener whose queue is full does not answer, so the connect stays pending. */
static void cancel_connect(void **state)
{
    enum { FILLERS = 8 };
    struct io *io = loop_open(state);
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 0);
    int fillers[FILLERS];
    for (int index = 0; index < FILLERS; index++) {
        fillers[index] = tcp_socket();
        (void)connect(fillers[index], (struct sockaddr *)&address, sizeof(address));
    }
    struct probe p = probe_of(io, 1);
    int fd = tcp_socket();
    io_connect(io, &p.op, fd, (struct sockaddr *)&address, sizeof(address));
    settle(io);
    assert_int_equal(p.calls, 0);
    io_cancel(io, &p.op);
    io_run(io);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last_result, -ECANCELED);
    close_now(io, fd);
    for (int index = 0; index < FILLERS; index++) {
        close(fillers[index]);
    }
    close(listener);
    loop_close(io);
}

/* Two are ready in one batch; the first to be called cancels the other. */
struct rivals {
    struct io *io;
    struct io_op ops[2];
    int calls[2];
};

static struct rivals rivals;

static void rival_received(struct io_op *op)
{
    int self = op == &rivals.ops[0] ? 0 : 1;
    rivals.calls[self]++;
    assert_true(op->result == 1 || op->result == -ECANCELED);
    io_cancel(rivals.io, &rivals.ops[1 - self]);
    if (rivals.calls[0] + rivals.calls[1] == 2) {
        io_stop(rivals.io);
    }
}

static void cancel_of_the_other(void **state)
{
    struct io *io = loop_open(state);
    int pairs[2][2];
    socket_pair(pairs[0]);
    socket_pair(pairs[1]);
    for (size_t round = 0; round < turns(500, 8); round++) {
        rivals = (struct rivals){.io = io};
        for (int index = 0; index < 2; index++) {
            rivals.ops[index].fn = rival_received;
            io_recv(io, &rivals.ops[index], pairs[index][0]);
            write_bytes(pairs[index][1], "x");
        }
        io_run(io);
        settle(io);
        assert_int_equal(rivals.calls[0], 1);
        assert_int_equal(rivals.calls[1], 1);
        uint8_t rest[2];
        (void)!read(pairs[0][0], rest, sizeof(rest));
        (void)!read(pairs[1][0], rest, sizeof(rest));
    }
    for (int index = 0; index < 2; index++) {
        close_now(io, pairs[index][0]);
        close(pairs[index][1]);
    }
    loop_close(io);
}

/* A thread writes while the loop receives and cancels: every byte arrives once and in order, every
 * start has one call. */
#define RACE_BYTES turns(20000, 300)

struct race {
    struct io *io;
    int fd;
    struct io_op recv;
    struct io_op tick;
    uint32_t received;
    uint32_t starts, calls, cancels;
    size_t ticks; /* since the last bytes */
};

static void race_received(struct io_op *op)
{
    struct race *r = IO_OWNER(op, struct race, recv);
    r->calls++;
    assert_int_equal(r->calls, r->starts);
    if (op->result == -ECANCELED) {
        r->cancels++;
    } else {
        assert_true(op->result > 0);
        r->ticks = 0;
        for (size_t index = 0; index < op->data.len; index++) {
            assert_int_equal(op->data.data[index], r->received++ % PATTERN_STEP);
        }
    }
    if (r->received == RACE_BYTES) {
        io_cancel(r->io, &r->tick);
        io_stop(r->io);
        return;
    }
    r->starts++;
    io_recv(r->io, &r->recv, r->fd);
}

static void race_ticked(struct io_op *op)
{
    struct race *r = IO_OWNER(op, struct race, tick);
    if (random_next() % 3 == 0) { /* at times only, or none would reach the kernel */
        io_cancel(r->io, &r->recv);
        io_cancel(r->io, &r->recv);
    }
    bool waits = ++r->ticks > turns(SIZE_MAX, 20); /* for a writer that has no processor */
    io_timer(r->io, &r->tick, io_now_ms(r->io) + waits);
}

/* Varies its pace by counting: a yield would cost a whole time slice on a busy machine. */
static void *race_write(void *arg)
{
    struct pollfd out = {.fd = *(int *)arg, .events = POLLOUT};
    uint32_t seed = 1;
    for (uint32_t index = 0; index < RACE_BYTES; index++) {
        uint8_t byte = (uint8_t)(index % PATTERN_STEP);
        while (write(out.fd, &byte, 1) != 1) {
            (void)poll(&out, 1, -1);
        }
        seed = seed * 1664525u + 1013904223u;
        for (volatile uint32_t count = 0; count < seed >> 22; count++) {
        }
    }
    return NULL;
}

static void cancel_races_with_arrival(void **state)
{
    int fds[2];
    socket_pair(fds);
    struct race r = {.io = loop_open(state),
                     .fd = fds[0],
                     .recv = {.fn = race_received},
                     .tick = {.fn = race_ticked},
                     .starts = 1};
    io_recv(r.io, &r.recv, fds[0]);
    io_timer(r.io, &r.tick, io_now_ms(r.io));
    for (size_t round = 0; round < turns(0, 1); round++) {
        settle(r.io); /* a few bytes might all be there before the first cancel */
    }
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, race_write, &fds[1]), 0);
    io_run(r.io);
    pthread_join(writer, NULL);
    settle(r.io);
    assert_int_equal(r.received, RACE_BYTES);
    assert_int_equal(r.calls, r.starts);
    assert_true(r.cancels > 0);
    close_now(r.io, fds[0]);
    close(fds[1]);
    loop_close(r.io);
}

/* The loop itself sends and cancels the receiver in one batch. */
static void cancel_races_with_own_send(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    tcp_pair(fds);
    uint32_t sent = 0;
    uint32_t received = 0;
    for (size_t round = 0; round < turns(2000, 8); round++) {
        struct probe in = probe_of(io, 1);
        struct probe out = probe_of(io, 0);
        io_recv(io, &in.op, fds[0]);
        if (random_next() % 2 == 0) {
            settle(io); /* already with the kernel */
        }
        if (in.calls == 0) {
            io_send(io, &out.op, fds[1], SLICE("y"));
            sent++;
            io_cancel(io, &in.op);
            io_run(io);
        }
        assert_int_equal(in.calls, 1);
        assert_true(in.last_result > 0 || in.last_result == -ECANCELED);
        received += in.last_result > 0 ? (uint32_t)in.last_result : 0;
        settle(io);
        assert_false(io_pending(&out.op));
        assert_int_equal(in.calls, 1);
    }
    while (received < sent) {
        struct probe in = probe_of(io, 1);
        io_recv(io, &in.op, fds[0]);
        io_run(io);
        assert_true(in.last_result > 0);
        received += (uint32_t)in.last_result;
    }
    assert_int_equal(received, sent);
    close_now(io, fds[0]);
    close_now(io, fds[1]);
    loop_close(io);
}

/* ---- timers ---- */

#define TIMERS 1000

struct timer_test {
    struct io *io;
    struct {
        struct io_op op;
        int calls;
    } rows[TIMERS];
    uint64_t last_deadline_ms;
    int fired;
};

static struct timer_test timer_test;

static size_t timer_index(const struct io_op *op)
{
    return (size_t)((const char *)op - (const char *)&timer_test.rows[0].op) /
           sizeof(timer_test.rows[0]);
}

static void timer_fired(struct io_op *op)
{
    timer_test.fired++;
    timer_test.rows[timer_index(op)].calls++;
    assert_int_equal(op->result, 0);
    assert_false(io_pending(op));
    assert_true(io_now_ms(timer_test.io) >= op->deadline_ms);
    assert_true(op->deadline_ms >= timer_test.last_deadline_ms);
    timer_test.last_deadline_ms = op->deadline_ms;
}

static void timer_stops(struct io_op *op)
{
    timer_fired(op);
    io_stop(timer_test.io);
}

static void timers_fire_in_order(void **state)
{
    struct io *io = loop_open(state);
    timer_test = (struct timer_test){.io = io};
    uint64_t now_ms = io_now_ms(io);
    for (size_t index = 0; index < TIMERS; index++) {
        timer_test.rows[index].op.fn = timer_fired;
        io_timer(io, &timer_test.rows[index].op, now_ms + random_next() % 60);
    }
    for (size_t index = 0; index < TIMERS; index += 3) { /* moved, to and fro */
        io_timer(io, &timer_test.rows[index].op, now_ms + random_next() % 60);
    }
    int cancelled = 0;
    for (size_t index = 1; index < TIMERS; index += 5) {
        io_cancel(io, &timer_test.rows[index].op);
        io_cancel(io, &timer_test.rows[index].op);
        assert_false(io_pending(&timer_test.rows[index].op));
        cancelled++;
    }
    timer_test.rows[0].op.fn = timer_stops; /* the last of all */
    io_timer(io, &timer_test.rows[0].op, now_ms + 61);
    io_run(io);
    assert_int_equal(timer_test.fired, TIMERS - cancelled);
    for (size_t index = 0; index < TIMERS; index++) {
        assert_int_equal(timer_test.rows[index].calls, index % 5 == 1 ? 0 : 1);
    }
    loop_close(io);
}

/* All are due in the same batch; 0 cancels 1, moves 2, and starts itself for an instant that has
 * passed; the last stops the loop. */
static void timer_meddles(struct io_op *op)
{
    (void)op;
    struct io *io = timer_test.io;
    timer_test.rows[0].calls++;
    io_cancel(io, &timer_test.rows[1].op);
    assert_false(io_pending(&timer_test.rows[1].op));
    if (timer_test.rows[0].calls == 1) {
        assert_true(io_pending(&timer_test.rows[2].op));
        io_timer(io, &timer_test.rows[2].op, io_now_ms(io) + turns(5, 1));
    }
    io_timer(io, &timer_test.rows[0].op, io_now_ms(io));
}

static void timers_in_one_batch(void **state)
{
    struct io *io = loop_open(state);
    timer_test = (struct timer_test){.io = io};
    for (size_t index = 0; index < 4; index++) {
        timer_test.rows[index].op.fn = timer_fired;
        io_timer(io, &timer_test.rows[index].op, index);
    }
    timer_test.rows[0].op.fn = timer_meddles;
    timer_test.rows[2].op.fn = timer_stops;
    io_run(io);
    assert_true(timer_test.rows[0].calls >= 2);
    assert_int_equal(timer_test.rows[1].calls, 0);
    assert_int_equal(timer_test.rows[2].calls, 1);
    assert_int_equal(timer_test.rows[3].calls, 1);
    io_cancel(io, &timer_test.rows[0].op);
    loop_close(io);
}

/* ---- wake ---- */

#define RINGERS          4
#define RINGS_PER_RINGER turns(25000, 20)

struct bell {
    struct io *io;
    struct io_op wake;
    int fd;
    atomic_uint rings;
    unsigned seen;
    int calls;
};

static void *ring_often(void *arg)
{
    struct bell *b = arg;
    for (unsigned index = 0; index < RINGS_PER_RINGER; index++) {
        atomic_fetch_add(&b->rings, 1);
        io_wake_ring(b->fd);
    }
    return NULL;
}

static void bell_rang(struct io_op *op)
{
    struct bell *b = IO_OWNER(op, struct bell, wake);
    assert_true(op->more);
    assert_int_equal(op->result, 0);
    b->calls++;
    b->seen = atomic_load(&b->rings);
    if (b->seen == RINGERS * RINGS_PER_RINGER) {
        io_stop(b->io);
    }
}

static void wake_from_threads(void **state)
{
    struct bell b = {.io = loop_open(state), .wake = {.fn = bell_rang}};
    b.fd = io_wake_start(b.io, &b.wake);
    assert_true(b.fd >= 0);
    assert_true(io_pending(&b.wake));
    pthread_t threads[RINGERS];
    for (size_t index = 0; index < RINGERS; index++) {
        assert_int_equal(pthread_create(&threads[index], NULL, ring_often, &b), 0);
    }
    io_run(b.io);
    for (size_t index = 0; index < RINGERS; index++) {
        pthread_join(threads[index], NULL);
    }
    assert_int_equal(b.seen, RINGERS * RINGS_PER_RINGER);
    settle(b.io);
    int calls = b.calls;
    settle(b.io); /* nobody rings any more */
    assert_int_equal(b.calls, calls);
    io_wake_ring(b.fd); /* stopped before the loop looks: no call */
    io_wake_stop(b.io, &b.wake);
    io_wake_stop(b.io, &b.wake);
    assert_false(io_pending(&b.wake));
    settle(b.io);
    assert_int_equal(b.calls, calls);
    assert_int_equal(fcntl(b.fd, F_GETFD), -1);
    b.fd = io_wake_start(b.io, &b.wake); /* again, and left to io_free */
    assert_true(b.fd >= 0);
    loop_close(b.io);
    assert_int_equal(fcntl(b.fd, F_GETFD), -1);
}

static void bell_stops_itself(struct io_op *op)
{
    struct bell *b = IO_OWNER(op, struct bell, wake);
    b->calls++;
    io_wake_ring(b->fd);
    io_wake_stop(b->io, op);
}

static void wake_stopped_inside(void **state)
{
    struct bell b = {.io = loop_open(state), .wake = {.fn = bell_stops_itself}};
    b.fd = io_wake_start(b.io, &b.wake);
    io_wake_ring(b.fd);
    settle(b.io);
    assert_int_equal(b.calls, 1);
    loop_close(b.io);
}

/* ---- accept out of descriptors ---- */

#define LATE_CLIENTS 5

struct starved {
    struct io *io;
    struct io_op accept;
    int accepted, errors, ends;
    bool cancel_on_error;
    int stop_at_errors, stop_at_accepted;
    int fds[LATE_CLIENTS];
};

static void starved_accepted(struct io_op *op)
{
    struct starved *s = IO_OWNER(op, struct starved, accept);
    if (!op->more) {
        assert_int_equal(op->result, -ECANCELED);
        s->ends++;
        io_stop(s->io);
    } else if (op->result < 0) {
        assert_int_equal(op->result, -EMFILE);
        s->errors++;
        if (s->cancel_on_error) {
            io_cancel(s->io, op);
        } else if (s->errors == s->stop_at_errors) {
            io_stop(s->io);
        }
    } else {
        assert_true(s->accepted < LATE_CLIENTS);
        s->fds[s->accepted++] = op->result;
        if (s->accepted == s->stop_at_accepted) {
            io_stop(s->io);
        }
    }
}

/* No descriptor is left below the new limit. Returns the old one. */
static struct rlimit exhaust_descriptors(void)
{
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int lowest_free = dup(0);
    assert_true(lowest_free >= 0);
    close(lowest_free);
    struct rlimit low = {.rlim_cur = (rlim_t)lowest_free, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    return old;
}

static void accept_without_descriptors(void **state)
{
    struct starved s = {.io = loop_open(state),
                        .accept = {.fn = starved_accepted},
                        .stop_at_errors = 4,
                        .stop_at_accepted = LATE_CLIENTS};
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 16);
    int clients[LATE_CLIENTS];
    for (int index = 0; index < LATE_CLIENTS; index++) {
        clients[index] = tcp_socket();
        assert_true(connect(clients[index], (struct sockaddr *)&address, sizeof(address)) == 0 ||
                    errno == EINPROGRESS);
    }
    struct rlimit old = exhaust_descriptors();
    uint64_t began_ms = io_now_ms(s.io);
    uint64_t before = s.io->iterations;
    io_accept(s.io, &s.accept, listener);
    io_run(s.io);
    uint64_t iterations = s.io->iterations - before;
    uint64_t took_ms = io_now_ms(s.io) - began_ms;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(s.errors, 4);
    assert_int_equal(s.accepted, 0);
    assert_true(iterations <= 16); /* a few for each of the errors */
    assert_true(took_ms >= 3 * IO_PAUSE_MS - 3);

    s.stop_at_errors = 0;
    io_run(s.io); /* recovers by itself */
    assert_int_equal(s.accepted, LATE_CLIENTS);
    io_cancel(s.io, &s.accept);
    io_run(s.io);
    assert_int_equal(s.ends, 1);
    for (int index = 0; index < LATE_CLIENTS; index++) {
        close(s.fds[index]);
        close(clients[index]);
    }
    close_now(s.io, listener);
    loop_close(s.io);
}

/* Cancelled while it pauses. */
static void accept_cancelled_in_pause(void **state)
{
    struct starved s = {
        .io = loop_open(state), .accept = {.fn = starved_accepted}, .cancel_on_error = true};
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 16);
    int client = tcp_socket();
    (void)connect(client, (struct sockaddr *)&address, sizeof(address));
    struct rlimit old = exhaust_descriptors();
    io_accept(s.io, &s.accept, listener);
    io_run(s.io);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(s.errors, 1);
    assert_int_equal(s.ends, 1);
    settle(s.io);
    assert_int_equal(s.ends, 1);
    close(client);
    close_now(s.io, listener);
    loop_close(s.io);
}

static void accept_cancels_itself(struct io_op *op)
{
    struct starved *s = IO_OWNER(op, struct starved, accept);
    if (!op->more) {
        assert_int_equal(op->result, -ECANCELED);
        s->ends++;
        io_stop(s->io);
        return;
    }
    assert_true(op->result >= 0);
    close(op->result);
    s->accepted++;
    io_cancel(s->io, op);
}

static void accept_cancelled_inside(void **state)
{
    struct starved s = {.io = loop_open(state), .accept = {.fn = accept_cancels_itself}};
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 16);
    int clients[LATE_CLIENTS];
    for (int index = 0; index < LATE_CLIENTS; index++) {
        clients[index] = tcp_socket();
        (void)connect(clients[index], (struct sockaddr *)&address, sizeof(address));
    }
    io_accept(s.io, &s.accept, listener);
    io_run(s.io);
    assert_true(s.accepted >= 1);
    assert_int_equal(s.ends, 1);
    for (int index = 0; index < LATE_CLIENTS; index++) {
        close(clients[index]);
    }
    close_now(s.io, listener);
    loop_close(s.io);
}

struct bouncer {
    struct starved starved;
    struct io_op recv;
};

static void bouncer_received(struct io_op *op)
{
    struct bouncer *b = IO_OWNER(op, struct bouncer, recv);
    io_cancel(b->starved.io, &b->starved.accept);
}

/* A connection and the reason to cancel come in one batch, the reason first. Whatever is accepted
 * is handed over, and the last call is -ECANCELED all the same. */
static void accept_cancelled_as_one_arrives(void **state)
{
    struct bouncer b = {.starved = {.io = loop_open(state), .accept = {.fn = starved_accepted}},
                        .recv = {.fn = bouncer_received}};
    struct io *io = b.starved.io;
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 16);
    int fds[2];
    socket_pair(fds);
    io_recv(io, &b.recv, fds[0]);
    io_accept(io, &b.starved.accept, listener);
    settle(io);
    write_bytes(fds[1], "x");
    int client = tcp_socket();
    (void)connect(client, (struct sockaddr *)&address, sizeof(address));
    io_run(io);
    assert_int_equal(b.starved.ends, 1);
    assert_in_range(b.starved.accepted, 0, 1);
    for (int index = 0; index < b.starved.accepted; index++) {
        close(b.starved.fds[index]);
    }
    close_now(io, listener);
    close_now(io, fds[0]);
    close(fds[1]);
    close(client);
    loop_close(io);
}

/* A socket that does not listen: one call, the last. */
static void accept_on_the_wrong_socket(void **state)
{
    struct io *io = loop_open(state);
    struct sockaddr_in address;
    int fd = tcp_bind(&address);
    struct probe p = probe_of(io, 1);
    io_accept(io, &p.op, fd);
    io_run(io);
    settle(io);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last_result, -EINVAL);
    assert_false(p.op.more);
    close_now(io, fd);
    loop_close(io);
}

/* ---- the other side goes away ---- */

static void peer_closes(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    tcp_pair(fds);
    struct probe p = probe_of(io, 1);
    io_recv(io, &p.op, fds[0]);
    settle(io);
    write_bytes(fds[1], "z");
    close(fds[1]);
    io_run(io);
    assert_int_equal(p.last_result, 1);
    for (int round = 0; round < 2; round++) { /* the end stays the end */
        p = probe_of(io, 1);
        io_recv(io, &p.op, fds[0]);
        io_run(io);
        assert_int_equal(p.last_result, 0);
        assert_int_equal(p.op.data.len, 0);
    }
    close_now(io, fds[0]);
    loop_close(io);
}

static void peer_resets(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    tcp_pair(fds);
    struct probe in = probe_of(io, 1);
    io_recv(io, &in.op, fds[0]);
    settle(io);
    struct linger linger = {.l_onoff = 1};
    assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    close(fds[1]);
    io_run(io);
    assert_int_equal(in.last_result, -ECONNRESET);
    struct probe out = probe_of(io, 1); /* and no SIGPIPE */
    io_send(io, &out.op, fds[0], SLICE("late"));
    io_run(io);
    assert_int_equal(out.last_result, -EPIPE);
    close_now(io, fds[0]);
    loop_close(io);
}

/* A sender that waits for room hears of it too. */
static void peer_closes_on_a_blocked_sender(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    socket_pair(fds);
    static uint8_t bytes[4096];
    while (write(fds[0], bytes, sizeof(bytes)) > 0) {
    }
    struct probe out = probe_of(io, 1);
    io_send(io, &out.op, fds[0], slice_of(bytes, sizeof(bytes)));
    settle(io);
    assert_int_equal(out.calls, 0);
    close(fds[1]);
    io_run(io);
    assert_true(out.last_result == -EPIPE || out.last_result == -ECONNRESET);
    close_now(io, fds[0]);
    loop_close(io);
}

struct dialler {
    struct io *io;
    struct io_op connect;
    struct sockaddr_in closed_address, open_address;
    int refused;
    int fd;
    bool connected;
};

/* Refused: the descriptor is closed behind the loop's back, and its number comes back at once. */
static void dialler_called(struct io_op *op)
{
    struct dialler *d = IO_OWNER(op, struct dialler, connect);
    if (d->refused < 3) {
        assert_int_equal(op->result, -ECONNREFUSED);
        d->refused++;
        close(d->fd);
        int fd = tcp_socket();
        assert_int_equal(fd, d->fd);
        const struct sockaddr_in *to = d->refused < 3 ? &d->closed_address : &d->open_address;
        io_connect(d->io, op, fd, (const struct sockaddr *)to, sizeof(*to));
        return;
    }
    assert_int_equal(op->result, 0);
    d->connected = true;
    io_stop(d->io);
}

static void connect_refused(void **state)
{
    struct dialler d = {.io = loop_open(state), .connect = {.fn = dialler_called}};
    int reserved = tcp_bind(&d.closed_address); /* bound, not listening: nobody else's port */
    int listener = tcp_listen(&d.open_address, 1);
    d.fd = tcp_socket();
    io_connect(d.io, &d.connect, d.fd, (struct sockaddr *)&d.closed_address,
               sizeof(d.closed_address));
    io_run(d.io);
    assert_int_equal(d.refused, 3);
    assert_true(d.connected);
    struct probe in = probe_of(d.io, 1); /* it is a working connection */
    int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(peer >= 0);
    io_recv(d.io, &in.op, d.fd);
    write_bytes(peer, "q");
    io_run(d.io);
    assert_int_equal(in.byte, 'q');
    close_now(d.io, d.fd);
    close(peer);
    close(listener);
    close(reserved);
    loop_close(d.io);
}

/* ---- descriptor numbers come back ---- */

#define REUSE_ROUNDS ((int)turns(500, 30))

struct reuse {
    struct io *io;
    int fds[2];
    struct io_op recv, close;
    int rounds, same_number;
};

static void reuse_begin(struct reuse *r)
{
    char byte = (char)r->rounds;
    int before = r->fds[0];
    socket_pair(r->fds);
    r->same_number += before == r->fds[0];
    io_recv(r->io, &r->recv, r->fds[0]);
    assert_int_equal(write(r->fds[1], &byte, 1), 1);
}

static void reuse_received(struct io_op *op)
{
    struct reuse *r = IO_OWNER(op, struct reuse, recv);
    assert_int_equal(op->result, 1);
    assert_int_equal(op->data.data[0], (uint8_t)r->rounds);
    close(r->fds[1]);
    io_close(r->io, &r->close, r->fds[0]);
}

static void reuse_closed(struct io_op *op)
{
    struct reuse *r = IO_OWNER(op, struct reuse, close);
    assert_int_equal(op->result, 0);
    if (++r->rounds == REUSE_ROUNDS) {
        io_stop(r->io);
    } else {
        reuse_begin(r);
    }
}

static void numbers_reused_after_close(void **state)
{
    struct reuse r = {.io = loop_open(state),
                      .fds = {-1, -1},
                      .recv = {.fn = reuse_received},
                      .close = {.fn = reuse_closed}};
    reuse_begin(&r);
    io_run(r.io);
    assert_true(r.same_number > REUSE_ROUNDS / 2);
    loop_close(r.io);
}

struct shared {
    struct io *io;
    struct io_op recv, close;
    int fd;
};

static void shared_closed(struct io_op *op)
{
    io_stop(IO_OWNER(op, struct shared, close)->io);
}

static void shared_received(struct io_op *op)
{
    struct shared *s = IO_OWNER(op, struct shared, recv);
    io_close(s->io, &s->close, s->fd);
}

/* A child may hold a copy for a moment: what arrives on it does not keep the loop busy. */
static void closed_while_shared(void **state)
{
    struct shared s = {
        .io = loop_open(state), .recv = {.fn = shared_received}, .close = {.fn = shared_closed}};
    int fds[2];
    socket_pair(fds);
    s.fd = fds[0];
    int copy = dup(fds[0]);
    assert_true(copy >= 0);
    io_recv(s.io, &s.recv, s.fd);
    write_bytes(fds[1], "x");
    io_run(s.io);
    write_bytes(fds[1], "y");
    struct probe p = probe_of(s.io, 1);
    uint64_t before = s.io->iterations;
    io_timer(s.io, &p.op, io_now_ms(s.io) + 20);
    io_run(s.io);
    assert_in_range(s.io->iterations - before, 1, 5);
    close(copy);
    close(fds[1]);
    loop_close(s.io);
}

static void closed_descriptor(void **state)
{
    struct io *io = loop_open(state);
    int fds[2];
    socket_pair(fds);
    close(fds[0]);
    struct probe p = probe_of(io, 1);
    io_recv(io, &p.op, fds[0]);
    io_run(io);
    assert_int_equal(p.last_result, -EBADF);
    p = probe_of(io, 1);
    io_send(io, &p.op, fds[0], SLICE("x"));
    io_run(io);
    assert_int_equal(p.last_result, -EBADF);
    p = probe_of(io, 1);
    io_close(io, &p.op, fds[0]);
    io_run(io);
    assert_int_equal(p.last_result, -EBADF);
    close(fds[1]);
    loop_close(io);
}

/* ---- the loop ---- */

static int batches;

static void batch_ended(void *ctx)
{
    (void)ctx;
    batches++;
}

/* Two timers due at once are one batch; io_stop lets both be called, and the loop runs again. */
static void stop_after_the_batch(void **state)
{
    struct io *io = loop_open(state);
    batches = 0;
    io_set_after_batch(io, batch_ended, NULL);
    struct probe first = probe_of(io, 1);
    struct probe second = probe_of(io, 0);
    io_timer(io, &first.op, 0);
    io_timer(io, &second.op, 1);
    io_run(io);
    assert_int_equal(first.calls, 1);
    assert_int_equal(second.calls, 1);
    assert_int_equal(batches, 1);
    io_timer(io, &first.op, 0);
    first.stop_after = 2;
    io_run(io);
    assert_int_equal(first.calls, 2);
    assert_int_equal(batches, 2);
    loop_close(io);
}

/* ---- running out of the loop's own things ---- */

#define THIRSTY_MAX   64
#define THIRSTY       turns(THIRSTY_MAX, 8)
#define THIRSTY_BYTES 1000

struct drinker {
    struct io *io;
    struct io_op recv;
    int fds[2];
    size_t received;
    int *thirsty;
};

static void drinker_received(struct io_op *op)
{
    struct drinker *d = IO_OWNER(op, struct drinker, recv);
    assert_in_range(op->result, 1, 64);
    for (size_t index = 0; index < op->data.len; index++) {
        assert_int_equal(op->data.data[index], d->received++ % PATTERN_STEP);
    }
    if (d->received < THIRSTY_BYTES) {
        io_recv(d->io, op, d->fds[0]);
    } else if (--*d->thirsty == 0) {
        io_stop(d->io);
    }
}

/* Two buffers of 64 bytes for 64 sockets that are all ready; and idle ones hold none. */
static void more_ready_than_buffers(void **state)
{
    struct io *io = loop_open_with(*state, 64, 2);
    static struct drinker drinkers[THIRSTY_MAX];
    int thirsty = (int)THIRSTY;
    pattern_fill();
    for (size_t index = 0; index < THIRSTY; index++) {
        struct drinker *d = &drinkers[index];
        *d = (struct drinker){.io = io, .recv = {.fn = drinker_received}, .thirsty = &thirsty};
        socket_pair(d->fds);
        io_recv(io, &d->recv, d->fds[0]);
        if (index % 2 == 0) { /* ready before the loop sees it */
            assert_int_equal(write(d->fds[1], pattern, THIRSTY_BYTES), THIRSTY_BYTES);
        }
    }
    settle(io);
    for (size_t index = 1; index < THIRSTY; index += 2) { /* idle until now */
        assert_int_equal(drinkers[index].received, 0);
        assert_int_equal(write(drinkers[index].fds[1], pattern, THIRSTY_BYTES), THIRSTY_BYTES);
    }
    if (thirsty > 0) {
        io_run(io);
    }
    for (size_t index = 0; index < THIRSTY; index++) {
        assert_int_equal(drinkers[index].received, THIRSTY_BYTES);
        close_now(io, drinkers[index].fds[0]);
        close(drinkers[index].fds[1]);
    }
    loop_close(io);
}

/* More starts in a batch than the submission queue holds, more ends than the completion queue. */
#define FLOOD_MAX 3000
#define FLOOD     turns(FLOOD_MAX, 1100) /* still more than either */

struct flood {
    struct io *io;
    struct {
        struct io_op op;
        int calls;
    } rows[FLOOD_MAX];
    int left;
};

static struct flood flood;

static void flood_closed(struct io_op *op)
{
    size_t index = (size_t)((char *)op - (char *)&flood.rows[0].op) / sizeof(flood.rows[0]);
    assert_int_equal(op->result, 0);
    flood.rows[index].calls++;
    if (--flood.left == 0) {
        io_stop(flood.io);
    }
}

static void more_ends_than_the_queue_holds(void **state)
{
    need_descriptors(FLOOD + 64);
    flood = (struct flood){.io = loop_open(state), .left = (int)FLOOD};
    for (size_t index = 0; index < FLOOD; index++) {
        int fd = dup(0);
        assert_true(fd >= 0);
        flood.rows[index].op.fn = flood_closed;
        io_close(flood.io, &flood.rows[index].op, fd);
    }
    io_run(flood.io);
    settle(flood.io);
    for (size_t index = 0; index < FLOOD; index++) {
        assert_int_equal(flood.rows[index].calls, 1);
    }
    loop_close(flood.io);
}

/* Many pending receives, cancelled all at once. */
static void flood_cancelled(struct io_op *op)
{
    size_t index = (size_t)((char *)op - (char *)&flood.rows[0].op) / sizeof(flood.rows[0]);
    assert_int_equal(op->result, -ECANCELED);
    flood.rows[index].calls++;
    if (--flood.left == 0) {
        io_stop(flood.io);
    }
}

static void many_cancels_at_once(void **state)
{
    const size_t many = turns(FLOOD_MAX / 2, 300);
    need_descriptors(FLOOD + 64);
    flood = (struct flood){.io = loop_open(state), .left = (int)many};
    static int fds[FLOOD_MAX / 2][2];
    for (size_t index = 0; index < many; index++) {
        socket_pair(fds[index]);
        flood.rows[index].op.fn = flood_cancelled;
        io_recv(flood.io, &flood.rows[index].op, fds[index][0]);
    }
    settle(flood.io);
    for (size_t index = 0; index < many; index++) {
        io_cancel(flood.io, &flood.rows[index].op);
    }
    io_run(flood.io);
    settle(flood.io);
    for (size_t index = 0; index < many; index++) {
        assert_int_equal(flood.rows[index].calls, 1);
        close(fds[index][0]);
        close(fds[index][1]);
    }
    loop_close(flood.io);
}

/* ---- choice of the backend, once ---- */

static void without_a_ring(void **state)
{
    (void)state;
    struct io *io = NULL;
    struct io_about about;
    const uint32_t no_ring = IO_FEATURES_ALL & ~(uint32_t)IO_FEATURE_RING;
    struct io_config config = {.backend = IO_BACKEND_AUTO};
    assert_int_equal(io_new_with(&io, &config, no_ring, &about), ERR_OK);
    assert_int_equal(about.backend, IO_BACKEND_POLL);
    assert_non_null(strstr(about.reason, "io_uring_setup: ENOSYS"));
    assert_non_null(strstr(about.reason, "epoll is used"));
    io_free(&io);
    io_free(&io); /* NULL is accepted */

    config.backend = IO_BACKEND_URING;
    assert_int_equal(io_new_with(&io, &config, no_ring, &about), ERR_UNSUPPORTED);
    assert_null(io);
    assert_non_null(strstr(about.reason, "io_uring_setup: ENOSYS"));
    assert_null(strstr(about.reason, "epoll"));

    config.backend = IO_BACKEND_POLL;
    assert_int_equal(io_new(&io, &config, &about), ERR_OK);
    assert_string_equal(about.reason, "epoll was asked for");
    io_free(&io);
}

static void reasons_in_words(void **state)
{
    (void)state;
    static const struct {
        int error;
        const char *step;
        int disabled;
        bool fallback;
        const char *text;
    } rows[] = {
        {-EPERM, "io_uring_setup", 0, true,
         "this kernel or container forbids io_uring (io_uring_setup: EPERM); epoll is used"},
        {-EPERM, "io_uring_setup", -1, false,
         "this kernel or container forbids io_uring (io_uring_setup: EPERM)"},
        {-EPERM, "io_uring_setup", 2, true,
         "io_uring is switched off (sysctl kernel.io_uring_disabled=2) (io_uring_setup: EPERM); "
         "epoll is used"},
        {-EPERM, "io_uring_setup", 1, true,
         "only kernel.io_uring_group may use io_uring (kernel.io_uring_disabled=1) "
         "(io_uring_setup: EPERM); epoll is used"},
        {-ENOSYS, "io_uring_setup", -1, true,
         "this kernel or container has no io_uring (io_uring_setup: ENOSYS); epoll is used"},
        {-ENOMEM, "io_uring_setup", -1, true,
         "too little memory may be locked for io_uring (ulimit -l) (io_uring_setup: ENOMEM); "
         "epoll is used"},
        {-EINVAL, "io_uring_setup", -1, false,
         "this kernel's io_uring is older than Linux 5.11 (io_uring_setup: EINVAL)"},
    };
    for (size_t index = 0; index < sizeof(rows) / sizeof(rows[0]); index++) {
        char text[sizeof(((struct io_about *)NULL)->reason)];
        io_uring_reason(text, sizeof(text), rows[index].error, rows[index].step,
                        rows[index].disabled, rows[index].fallback);
        assert_string_equal(text, rows[index].text);
    }
}

/* In a child: a filter like a container's, then AUTO and URING. The exit status counts what held.
 */
static int under_a_filter(int refused_call)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)refused_call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof(program) / sizeof(program[0]), .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0) {
        return 77;
    }
    struct io *io = NULL;
    struct io_about about;
    struct io_config config = {.backend = IO_BACKEND_AUTO};
    if (io_new(&io, &config, &about) != ERR_OK || about.backend != IO_BACKEND_POLL) {
        return 1;
    }
    if (strstr(about.reason, ": EPERM); epoll is used") == NULL || about.features[0] != 0) {
        return 2;
    }
    struct probe p = probe_of(io, 1);
    io_timer(io, &p.op, io_now_ms(io) + 1);
    io_run(io);
    io_free(&io);
    if (p.calls != 1) {
        return 3;
    }
    config.backend = IO_BACKEND_URING;
    if (io_new(&io, &config, &about) != ERR_UNSUPPORTED || io != NULL) {
        return 4;
    }
    return 0;
}

static void filter_forbids(int refused_call)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(under_a_filter(refused_call));
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void filter_forbids_setup(void **state)
{
    (void)state;
    filter_forbids(SYS_io_uring_setup);
}

static void filter_forbids_enter(void **state)
{
    (void)state;
    filter_forbids(SYS_io_uring_enter);
}

/* What a variant says it uses is what it was allowed to. */
static void features_are_told(void **state)
{
    const struct variant *v = *state;
    struct io *io = NULL;
    struct io_about about;
    struct io_config config = {.backend = v->backend};
    enum err err = io_new_with(&io, &config, v->features, &about);
    if (err == ERR_UNSUPPORTED) {
        skip();
    }
    assert_int_equal(err, ERR_OK);
    print_message("%s: %s; %s\n", v->name, about.reason, about.features);
    static const struct {
        uint32_t bit;
        const char *word;
    } words[] = {
        {IO_FEATURE_DEFER_TASKRUN, "defer-taskrun"},
        {IO_FEATURE_COOP_TASKRUN, "coop-taskrun"},
        {IO_FEATURE_BUFFER_RING, "provided-buffers"},
        {IO_FEATURE_MULTISHOT_ACCEPT, "multishot-accept"},
    };
    for (size_t index = 0; index < sizeof(words) / sizeof(words[0]); index++) {
        if ((v->features & words[index].bit) == 0) {
            assert_null(strstr(about.features, words[index].word));
        }
    }
    io_free(&io);
}

/* ---- the table ---- */

struct test_case {
    const char *name;
    CMUnitTestFunction fn;
};

#define CASE(fn)                                                                                   \
    {                                                                                              \
#fn, fn                                                                                    \
    }

static const struct test_case cases[] = {
    CASE(features_are_told),
    CASE(echo_socketpair),
    CASE(echo_tcp),
    CASE(crowd_of_connections),
    CASE(cancel_recv),
    CASE(cancel_send),
    CASE(cancel_connect),
    CASE(cancel_of_the_other),
    CASE(cancel_races_with_arrival),
    CASE(cancel_races_with_own_send),
    CASE(timers_fire_in_order),
    CASE(timers_in_one_batch),
    CASE(wake_from_threads),
    CASE(wake_stopped_inside),
    CASE(accept_without_descriptors),
    CASE(accept_cancelled_in_pause),
    CASE(accept_cancelled_inside),
    CASE(accept_cancelled_as_one_arrives),
    CASE(accept_on_the_wrong_socket),
    CASE(peer_closes),
    CASE(peer_resets),
    CASE(peer_closes_on_a_blocked_sender),
    CASE(connect_refused),
    CASE(numbers_reused_after_close),
    CASE(closed_while_shared),
    CASE(closed_descriptor),
    CASE(stop_after_the_batch),
    CASE(more_ready_than_buffers),
    CASE(more_ends_than_the_queue_holds),
    CASE(many_cancels_at_once),
};

static const struct test_case cases_once[] = {
    CASE(without_a_ring),
    CASE(reasons_in_words),
    CASE(filter_forbids_setup),
    CASE(filter_forbids_enter),
};

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
#define TESTS_MAX   (COUNT(cases) * VARIANTS + COUNT(cases_once))

int main(int argc, char **argv)
{
    static char names[TESTS_MAX][96];
    static struct CMUnitTest tests[TESTS_MAX];
    static struct variant states[VARIANTS];
    size_t count = 0;
    memcpy(states, variants, sizeof(states));
    for (size_t index = 0; index < COUNT(cases_once); index++) {
        tests[count++] =
            (struct CMUnitTest){cases_once[index].name, cases_once[index].fn, NULL, NULL, NULL};
    }
    for (size_t v = 0; v < VARIANTS; v++) {
        for (size_t index = 0; index < COUNT(cases); index++) {
            (void)snprintf(names[count], sizeof(names[count]), "%s/%s", states[v].name,
                           cases[index].name);
            tests[count] =
                (struct CMUnitTest){names[count], cases[index].fn, NULL, NULL, &states[v]};
            count++;
        }
    }
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]); /* for example 'poll/' followed by a star */
    }
    return _cmocka_run_group_tests("io", tests, count, NULL, NULL);
}
