/*
 * The epoll backend, for kernels and containers without io_uring.
 *
 * Level-triggered: a descriptor is registered for what its pending ops wait for, and stays so from
 * one op to the next; epoll_ctl is called only when that has changed by the time the loop waits. A
 * send is tried at once, since it nearly always goes through; receives and accepts wait for epoll.
 * Whatever ends at once is completed later, so functions are called from the loop only.
 *
 * An entry per descriptor number is kept for good, in blocks that are allocated when a number is
 * first used. A number that comes back (accept, connect) is forgotten first, in case its
 * predecessor was closed behind our back; and a registration carries a generation, so that an event
 * of the predecessor that was fetched already does not reach its successor.
 */
#include "daemon/io/io_backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_MAX         256
#define ACCEPT_BURST_MAX   64 /* connections taken from one listener in an iteration */
#define BLOCK_ENTRIES      1024
#define BLOCKS_MAX         1024
#define NO_FD              (-1)
#define READABLE           (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)
#define WRITABLE           (EPOLLOUT | EPOLLHUP | EPOLLERR)
#define REGISTERED_NOTHING 0u

struct entry {
    struct io_op *in;    /* recv, accept, or a bell; borrowed until it ends */
    struct io_op *out;   /* send, connect; borrowed until it ends */
    uint32_t registered; /* events epoll knows of; 0: the descriptor is not in it */
    uint32_t generation;
    int next_dirty;
    bool dirty; /* in the list of those whose registration may have to change */
};

struct poller {
    int epoll_fd;
    int first_dirty;
    uint8_t *buffer; /* owned; lent to one recv after the other */
    uint32_t buffer_bytes;
    struct epoll_event events[EVENTS_MAX];
    struct entry *blocks[BLOCKS_MAX]; /* owned */
};

/* ---- entries ---- */

/* NULL when there is no memory, or the number is out of bounds. */
static struct entry *entry_get(struct poller *p, int fd)
{
    if (fd < 0 || fd >= BLOCKS_MAX * BLOCK_ENTRIES) {
        return NULL;
    }
    struct entry **block = &p->blocks[fd / BLOCK_ENTRIES];
    if (*block == NULL) {
        *block = calloc(BLOCK_ENTRIES, sizeof(**block));
    }
    return *block == NULL ? NULL : &(*block)[fd % BLOCK_ENTRIES];
}

static void entry_touch(struct poller *p, struct entry *entry, int fd)
{
    if (!entry->dirty) {
        entry->dirty = true;
        entry->next_dirty = p->first_dirty;
        p->first_dirty = fd;
    }
}

static void entry_forget(struct poller *p, int fd)
{
    struct entry *entry = entry_get(p, fd);
    if (entry == NULL || entry->registered == REGISTERED_NOTHING) {
        return;
    }
    CHECK(entry->in == NULL && entry->out == NULL);
    (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* ENOENT: it was gone already */
    entry->registered = REGISTERED_NOTHING;
}

static int entry_register(struct poller *p, struct entry *entry, int fd, uint32_t wanted)
{
    int what = EPOLL_CTL_MOD;
    if (wanted == REGISTERED_NOTHING) {
        what = EPOLL_CTL_DEL;
    } else if (entry->registered == REGISTERED_NOTHING) {
        what = EPOLL_CTL_ADD;
        entry->generation++;
    }
    struct epoll_event event = {.events = wanted,
                                .data.u64 = (uint64_t)entry->generation << 32 | (uint32_t)fd};
    int error = epoll_ctl(p->epoll_fd, what, fd, &event) == 0 ? 0 : errno;
    if (error == EEXIST && what == EPOLL_CTL_ADD) {
        error = epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0 ? 0 : errno;
    } else if (error == ENOENT && what == EPOLL_CTL_MOD) {
        error = epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
    }
    if (error == 0 || what == EPOLL_CTL_DEL) {
        entry->registered = wanted; /* a DEL fails only when there is nothing to remove */
        return 0;
    }
    return -error;
}

static void entry_fail(struct io *io, struct entry *entry, int error)
{
    struct io_op *ops[] = {entry->in, entry->out};
    entry->in = NULL;
    entry->out = NULL;
    entry->registered = REGISTERED_NOTHING;
    for (size_t index = 0; index < sizeof(ops) / sizeof(ops[0]); index++) {
        if (ops[index] != NULL) {
            io_complete_later(io, ops[index], error);
        }
    }
}

/* Tells epoll what is waited for now. */
static void register_dirty(struct io *io)
{
    struct poller *p = io->state;
    while (p->first_dirty != NO_FD) {
        int fd = p->first_dirty;
        struct entry *entry = entry_get(p, fd);
        CHECK(entry != NULL);
        p->first_dirty = entry->next_dirty;
        entry->dirty = false;
        uint32_t wanted = (entry->in != NULL ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : 0u) |
                          (entry->out != NULL ? (uint32_t)EPOLLOUT : 0u);
        if (wanted == entry->registered) {
            continue;
        }
        int error = entry_register(p, entry, fd, wanted);
        if (error < 0) {
            entry_fail(io, entry, error);
        }
    }
}

/* ---- ops ---- */

static void park(struct io *io, struct io_op *op)
{
    struct poller *p = io->state;
    struct entry *entry = entry_get(p, op->fd);
    if (entry == NULL) {
        io_complete_later(io, op, op->fd < 0 ? -EBADF : -ENOMEM);
        return;
    }
    bool writes = op->kind == IO_KIND_SEND || op->kind == IO_KIND_CONNECT;
    struct io_op **slot = writes ? &entry->out : &entry->in;
    CHECK(*slot == NULL); /* at most one of each direction */
    *slot = op;
    op->place = IO_PLACE_PARKED;
    entry_touch(p, entry, op->fd);
}

static void unpark(struct io *io, struct io_op *op)
{
    struct poller *p = io->state;
    struct entry *entry = entry_get(p, op->fd);
    CHECK(entry != NULL);
    if (entry->in == op) {
        entry->in = NULL;
    } else {
        CHECK(entry->out == op);
        entry->out = NULL;
    }
    op->place = IO_PLACE_NONE;
    entry_touch(p, entry, op->fd);
}

static void poll_cancel(struct io *io, struct io_op *op)
{
    unpark(io, op);
    io_complete_later(io, op, -ECANCELED);
}

static int send_try(const struct io_op *op)
{
    ssize_t sent;
    do {
        sent = send(op->fd, op->send_data, op->send_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : (int)sent;
}

static void start_send(struct io *io, struct io_op *op)
{
    int result = send_try(op);
    if (result == -EAGAIN) {
        park(io, op);
    } else {
        io_complete_later(io, op, result);
    }
}

static void start_connect(struct io *io, struct io_op *op)
{
    entry_forget(io->state, op->fd);
    const struct sockaddr *address = (const struct sockaddr *)(const void *)&op->address;
    int error = connect(op->fd, address, op->address_len) == 0 ? 0 : errno;
    if (error == EINPROGRESS || error == EINTR) {
        park(io, op);
    } else {
        io_complete_later(io, op, -error);
    }
}

static void start_close(struct io *io, struct io_op *op)
{
    entry_forget(io->state, op->fd);
    io_complete_later(io, op, close(op->fd) == 0 || errno == EINTR ? 0 : -errno);
}

static void start(struct io *io, struct io_op *op)
{
    switch (op->kind) {
    case IO_KIND_ACCEPT:
    case IO_KIND_RECV:
    case IO_KIND_WAKE:
        park(io, op);
        break;
    case IO_KIND_SEND:
        start_send(io, op);
        break;
    case IO_KIND_CONNECT:
        start_connect(io, op);
        break;
    case IO_KIND_CLOSE:
        start_close(io, op);
        break;
    case IO_KIND_NONE:
    case IO_KIND_TIMER:
        CHECK(false);
    }
}

static void recv_ready(struct io *io, struct io_op *op)
{
    struct poller *p = io->state;
    IO_BUFFER_LEND(p->buffer, p->buffer_bytes);
    ssize_t got = recv(op->fd, p->buffer, p->buffer_bytes, MSG_DONTWAIT);
    int error = errno;
    if (got < 0 && (error == EAGAIN || error == EINTR)) {
        return;
    }
    unpark(io, op);
    IO_BUFFER_TAKE(p->buffer, p->buffer_bytes);
    if (got <= 0) {
        io_complete(io, op, got < 0 ? -error : 0, slice_of(NULL, 0));
        return;
    }
    IO_BUFFER_LEND(p->buffer, (size_t)got);
    io_complete(io, op, (int32_t)got, slice_of(p->buffer, (size_t)got));
    IO_BUFFER_TAKE(p->buffer, p->buffer_bytes);
}

/* The op stays parked from one connection to the next; its function may cancel it. */
static void accept_ready(struct io *io, struct io_op *op)
{
    for (int count = 0; count < ACCEPT_BURST_MAX && !op->cancelled; count++) {
        int fd = accept4(op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno == EAGAIN) {
            return;
        }
        if (fd < 0) {
            int error = errno;
            unpark(io, op);
            io_accept_ended(io, op, -error);
            return;
        }
        entry_forget(io->state, fd);
        io_accept_deliver(io, op, fd);
    }
}

static void send_ready(struct io *io, struct io_op *op)
{
    int result = send_try(op);
    if (result != -EAGAIN) {
        unpark(io, op);
        io_complete(io, op, result, slice_of(NULL, 0));
    }
}

static void connect_ready(struct io *io, struct io_op *op)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        error = errno;
    }
    unpark(io, op);
    io_complete(io, op, -error, slice_of(NULL, 0));
}

static void ready(struct io *io, struct io_op *op)
{
    switch (op->kind) {
    case IO_KIND_ACCEPT:
        accept_ready(io, op);
        break;
    case IO_KIND_RECV:
        recv_ready(io, op);
        break;
    case IO_KIND_WAKE:
        unpark(io, op);
        io_complete(io, op, 0, slice_of(NULL, 0));
        break;
    case IO_KIND_SEND:
        send_ready(io, op);
        break;
    case IO_KIND_CONNECT:
        connect_ready(io, op);
        break;
    case IO_KIND_NONE:
    case IO_KIND_TIMER:
    case IO_KIND_CLOSE:
        CHECK(false);
    }
}

/* Functions called for one direction may close, reopen or cancel: each look is a fresh one. */
static void take_event(struct io *io, const struct epoll_event *event)
{
    struct poller *p = io->state;
    int fd = (int)(uint32_t)event->data.u64;
    uint32_t generation = (uint32_t)(event->data.u64 >> 32);
    struct entry *entry = entry_get(p, fd);
    CHECK(entry != NULL);
    if ((event->events & (uint32_t)READABLE) != 0 && entry->generation == generation &&
        entry->registered != REGISTERED_NOTHING && entry->in != NULL) {
        ready(io, entry->in);
    }
    if ((event->events & (uint32_t)WRITABLE) != 0 && entry->generation == generation &&
        entry->registered != REGISTERED_NOTHING && entry->out != NULL) {
        ready(io, entry->out);
    }
}

static void poll_turn(struct io *io, int64_t timeout_ms)
{
    struct poller *p = io->state;
    for (struct io_op *op = io_list_pop(&io->started); op != NULL; op = io_list_pop(&io->started)) {
        start(io, op);
    }
    register_dirty(io);
    bool done = io->done.first != NULL;
    int count = epoll_wait(p->epoll_fd, p->events, EVENTS_MAX, done ? 0 : (int)timeout_ms);
    CHECK(count >= 0 || errno == EINTR);
    io_tick(io);
    /* What was sent comes before what was answered to it: a peer on the same box is that fast. */
    io_run_done(io);
    for (int index = 0; index < count; index++) {
        take_event(io, &p->events[index]);
    }
}

/* ---- opening ---- */

static int poll_open(struct io *io, const struct io_config *config, uint32_t features,
                     struct io_about *about, const char **out_step)
{
    (void)features;
    (void)about;
    struct poller *p = calloc(1, sizeof(*p));
    uint8_t *buffer = malloc(config->recv_buffer_bytes);
    *out_step = "malloc";
    int error = -ENOMEM;
    if (p == NULL || buffer == NULL) {
        goto out;
    }
    *out_step = "epoll_create1";
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll_fd < 0) {
        error = -errno;
        goto out;
    }
    p->first_dirty = NO_FD;
    p->buffer = buffer;
    p->buffer_bytes = config->recv_buffer_bytes;
    IO_BUFFER_TAKE(buffer, p->buffer_bytes);
    io->state = p;
    return 0;
out:
    free(buffer);
    free(p);
    return error;
}

static void poll_close(struct io *io)
{
    struct poller *p = io->state;
    close(p->epoll_fd);
    for (size_t index = 0; index < BLOCKS_MAX; index++) {
        free(p->blocks[index]);
    }
    IO_BUFFER_LEND(p->buffer, p->buffer_bytes);
    free(p->buffer);
    free(p);
    io->state = NULL;
}

const struct io_driver io_poll_driver = {
    .backend = IO_BACKEND_POLL,
    .open = poll_open,
    .close = poll_close,
    .turn = poll_turn,
    .cancel = poll_cancel,
};
