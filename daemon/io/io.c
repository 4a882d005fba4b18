/*
 * The part of the io seam that is the same on every backend: the loop, starting and cancelling,
 * timers, bells, and the choice of the backend.
 *
 * An iteration calls functions in this order: what the backend completed, what was completed
 * without it (io->done), timers that are due, the after-batch function. A timer that is started
 * from a function for an instant that has passed fires in the next iteration, so an iteration ends.
 *
 * Not here: system calls on the owners' descriptors. Those are the drivers'.
 */
#include "daemon/io/io.h"

#include "daemon/io/io_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- clock ---- */

static uint64_t clock_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void io_tick(struct io *io)
{
    io->now_ms = clock_ms();
}

uint64_t io_now_ms(const struct io *io)
{
    return io->now_ms;
}

/* ---- the timer heap ---- */

static void heap_place(struct io *io, uint32_t index, struct io_timer_slot slot)
{
    io->timers[index] = slot;
    slot.op->heap_index = index;
}

static void heap_sift_up(struct io *io, uint32_t index, struct io_timer_slot slot)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (io->timers[parent].deadline_ms <= slot.deadline_ms) {
            break;
        }
        heap_place(io, index, io->timers[parent]);
        index = parent;
    }
    heap_place(io, index, slot);
}

static void heap_sift_down(struct io *io, uint32_t index, struct io_timer_slot slot)
{
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= io->timer_count) {
            break;
        }
        if (child + 1 < io->timer_count &&
            io->timers[child + 1].deadline_ms < io->timers[child].deadline_ms) {
            child++;
        }
        if (slot.deadline_ms <= io->timers[child].deadline_ms) {
            break;
        }
        heap_place(io, index, io->timers[child]);
        index = child;
    }
    heap_place(io, index, slot);
}

static void heap_insert(struct io *io, struct io_op *op, uint64_t deadline_ms)
{
    CHECK(io->timer_count < IO_TIMERS_MAX);
    op->deadline_ms = deadline_ms;
    op->place = IO_PLACE_HEAP;
    heap_sift_up(io, io->timer_count++, (struct io_timer_slot){deadline_ms, op});
}

static void heap_remove(struct io *io, struct io_op *op)
{
    uint32_t index = op->heap_index;
    CHECK(index < io->timer_count && io->timers[index].op == op);
    struct io_timer_slot last = io->timers[--io->timer_count];
    op->place = IO_PLACE_NONE;
    if (last.op == op) {
        return;
    }
    if (index > 0 && last.deadline_ms < io->timers[(index - 1) / 2].deadline_ms) {
        heap_sift_up(io, index, last);
    } else {
        heap_sift_down(io, index, last);
    }
}

/* From the heap or from the list of those that are due. */
static void heap_leave(struct io *io, struct io_op *op)
{
    if (op->place == IO_PLACE_HEAP) {
        heap_remove(io, op);
    } else {
        CHECK(op->place == IO_PLACE_EXPIRED);
        io_list_remove(&io->expired, op);
    }
}

/* ---- completions ---- */

/* Bells are the loop's own and do not count as pending. */
static void count_pending(struct io *io, const struct io_op *op, int change)
{
    if (op->kind != IO_KIND_WAKE && op->kind != IO_KIND_TIMER) {
        io->pending += (uint32_t)change;
    }
}

void io_complete(struct io *io, struct io_op *op, int32_t result, struct slice data)
{
    count_pending(io, op, -1);
    op->kind = IO_KIND_NONE;
    op->place = IO_PLACE_NONE;
    op->cancelled = false;
    op->polled = false;
    op->result = result;
    op->data = data;
    op->more = false;
    op->fn(op);
}

void io_complete_later(struct io *io, struct io_op *op, int32_t result)
{
    op->result = result;
    io_list_push(&io->done, op, IO_PLACE_DONE);
}

void io_restart(struct io *io, struct io_op *op, bool polled)
{
    if (op->cancelled) {
        io_complete_later(io, op, -ECANCELED);
        return;
    }
    op->polled = polled;
    io_list_push(&io->started, op, IO_PLACE_STARTED);
}

/* What is added meanwhile has its turn in the next iteration. */
void io_run_done(struct io *io)
{
    struct io_list batch = io->done;
    io->done = (struct io_list){0};
    for (struct io_op *op = io_list_pop(&batch); op != NULL; op = io_list_pop(&batch)) {
        if (op->kind == IO_KIND_ACCEPT && !op->cancelled) {
            io_accept_ended(io, op,
                            op->result); /* it could not even wait; it may go on all the same */
        } else {
            io_complete(io, op, op->result, slice_of(NULL, 0));
        }
    }
}

static void run_timers(struct io *io)
{
    while (io->timer_count > 0 && io->timers[0].deadline_ms <= io->now_ms) {
        struct io_op *op = io->timers[0].op;
        heap_remove(io, op);
        io_list_push(&io->expired, op, IO_PLACE_EXPIRED);
    }
    for (struct io_op *op = io_list_pop(&io->expired); op != NULL; op = io_list_pop(&io->expired)) {
        if (op->kind == IO_KIND_TIMER) {
            io_complete(io, op, 0, slice_of(NULL, 0));
        } else {
            io_restart(io, op, false); /* an accept, or a bell, after its pause */
        }
    }
}

/* ---- accept ---- */

enum accept_verdict {
    ACCEPT_AGAIN, /* nothing is wrong with the listener */
    ACCEPT_PAUSE, /* a resource is short: trying again at once would spin */
    ACCEPT_FAIL,
};

/* accept(2), "Error handling": errors of the connection that would have been accepted come up here
 * and mean: take the next one. */
static enum accept_verdict accept_judge(int error)
{
    switch (error) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case ENONET:
    case EHOSTDOWN:
    case EHOSTUNREACH:
        return ACCEPT_AGAIN;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC: /* epoll's limit of watches */
    case EPERM:  /* a packet filter's rule */
        return ACCEPT_PAUSE;
    default:
        return ACCEPT_FAIL;
    }
}

void io_accept_deliver(struct io *io, struct io_op *op, int32_t result)
{
    (void)io;
    op->result = result;
    op->data = slice_of(NULL, 0);
    op->more = true;
    op->fn(op);
}

void io_accept_ended(struct io *io, struct io_op *op, int32_t result)
{
    if (result >= 0 && op->cancelled) {
        io_accept_deliver(io, op, result);
        io_complete(io, op, -ECANCELED, slice_of(NULL, 0));
        return;
    }
    /* The op is put where it goes on before fn is called, so that fn may cancel it there. */
    if (result >= 0) {
        io_restart(io, op, false);
        io_accept_deliver(io, op, result);
        return;
    }
    enum accept_verdict verdict = accept_judge(-result);
    if (op->cancelled || verdict == ACCEPT_AGAIN) {
        io_restart(io, op, result == -EAGAIN);
    } else if (verdict == ACCEPT_PAUSE) {
        heap_insert(io, op, io->now_ms + IO_PAUSE_MS);
        io_accept_deliver(io, op, result);
    } else {
        io_complete(io, op, result, slice_of(NULL, 0));
    }
}

/* ---- starting and cancelling ---- */

static void op_start(struct io *io, struct io_op *op, enum io_kind kind, int fd)
{
    CHECK(op->kind == IO_KIND_NONE);
    op->kind = kind;
    op->fd = fd;
    op->cancelled = false;
    op->polled = false;
    op->more = false;
    count_pending(io, op, 1);
    io_list_push(&io->started, op, IO_PLACE_STARTED);
}

void io_accept(struct io *io, struct io_op *op, int fd)
{
    op_start(io, op, IO_KIND_ACCEPT, fd);
}

void io_connect(struct io *io, struct io_op *op, int fd, const struct sockaddr *address,
                socklen_t address_len)
{
    CHECK(address_len <= sizeof(op->address));
    op_start(io, op, IO_KIND_CONNECT, fd);
    memcpy(&op->address, address, address_len);
    op->address_len = address_len;
}

void io_recv(struct io *io, struct io_op *op, int fd)
{
    op_start(io, op, IO_KIND_RECV, fd);
}

void io_send(struct io *io, struct io_op *op, int fd, struct slice bytes)
{
    CHECK(bytes.len > 0);
    op_start(io, op, IO_KIND_SEND, fd);
    op->send_data = bytes.data;
    op->send_bytes = bytes.len < IO_SEND_BYTES_MAX ? bytes.len : IO_SEND_BYTES_MAX;
}

void io_close(struct io *io, struct io_op *op, int fd)
{
    op_start(io, op, IO_KIND_CLOSE, fd);
}

void io_timer(struct io *io, struct io_op *op, uint64_t deadline_ms)
{
    if (op->kind == IO_KIND_TIMER) {
        heap_leave(io, op);
    } else {
        CHECK(op->kind == IO_KIND_NONE);
        op->kind = IO_KIND_TIMER;
    }
    op->fd = -1;
    op->cancelled = false;
    heap_insert(io, op, deadline_ms);
}

static void timer_cancel(struct io *io, struct io_op *op)
{
    heap_leave(io, op);
    op->kind = IO_KIND_NONE;
}

static void op_cancel(struct io *io, struct io_op *op)
{
    op->cancelled = true;
    switch ((enum io_place)op->place) {
    case IO_PLACE_STARTED:
        io_list_remove(&io->started, op);
        io_complete_later(io, op, -ECANCELED);
        break;
    case IO_PLACE_HEAP:
    case IO_PLACE_EXPIRED:
        heap_leave(io, op);
        io_complete_later(io, op, -ECANCELED);
        break;
    case IO_PLACE_PARKED:
        io->driver->cancel(io, op);
        break;
    case IO_PLACE_DONE: /* its result stands */
    case IO_PLACE_NONE:
    case IO_PLACE_CANCEL_QUEUED:
    case IO_PLACE_CANCEL_SENT:
    case IO_PLACE_CANCEL_LAST:
        break;
    }
}

void io_cancel(struct io *io, struct io_op *op)
{
    switch (op->kind) {
    case IO_KIND_TIMER:
        timer_cancel(io, op);
        break;
    case IO_KIND_ACCEPT:
    case IO_KIND_CONNECT:
    case IO_KIND_RECV:
    case IO_KIND_SEND:
        if (!op->cancelled) {
            op_cancel(io, op);
        }
        break;
    case IO_KIND_NONE:
    case IO_KIND_WAKE:  /* io_wake_stop ends it */
    case IO_KIND_CLOSE: /* half a close is of no use to anybody */
        break;
    }
}

/* ---- bells ---- */

static void wake_unlink(struct io *io, struct io_wake *wake)
{
    struct io_wake **at = &io->wakes;
    while (*at != wake) {
        at = &(*at)->next;
    }
    *at = wake->next;
}

static void wake_free(struct io_wake *wake)
{
    close(wake->op.fd);
    free(wake);
}

static struct io_wake *wake_find(const struct io *io, const struct io_op *owner)
{
    struct io_wake *wake = io->wakes;
    while (wake != NULL && wake->owner != owner) {
        wake = wake->next;
    }
    return wake;
}

/* A stopped bell is let go here, once the driver holds it no more. */
static void wake_completed(struct io_op *op)
{
    struct io_wake *wake = IO_OWNER(op, struct io_wake, op);
    struct io_op *owner = wake->owner;
    if (owner == NULL) {
        wake_unlink(wake->io, wake);
        wake_free(wake);
        return;
    }
    if (op->result < 0) {
        op->kind = IO_KIND_WAKE; /* the kernel is short of memory: at once again would spin */
        heap_insert(wake->io, op, wake->io->now_ms + IO_PAUSE_MS);
        return;
    }
    uint64_t rings;
    ssize_t got = read(op->fd, &rings, sizeof(rings));
    op_start(wake->io, op, IO_KIND_WAKE, op->fd);
    if (got == (ssize_t)sizeof(rings)) {
        owner->result = 0;
        owner->more = true;
        owner->fn(owner);
    }
}

int io_wake_start(struct io *io, struct io_op *op)
{
    CHECK(op->kind == IO_KIND_NONE);
    struct io_wake *wake = calloc(1, sizeof(*wake));
    if (wake == NULL) {
        return -ENOMEM;
    }
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        free(wake);
        return -error;
    }
    *wake =
        (struct io_wake){.op = {.fn = wake_completed}, .io = io, .owner = op, .next = io->wakes};
    io->wakes = wake;
    op->kind = IO_KIND_WAKE;
    op->place = IO_PLACE_NONE;
    op->fd = fd;
    op_start(io, &wake->op, IO_KIND_WAKE, fd);
    return fd;
}

void io_wake_stop(struct io *io, struct io_op *op)
{
    struct io_wake *wake = op->kind == IO_KIND_WAKE ? wake_find(io, op) : NULL;
    if (wake == NULL) {
        return;
    }
    wake->owner = NULL;
    op->kind = IO_KIND_NONE;
    op->more = false;
    op_cancel(io, &wake->op);
}

void io_wake_ring(int wake_fd)
{
    const uint64_t one = 1;
    /* EAGAIN means that the counter is full, so the bell is ringing already. */
    while (write(wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* ---- the loop ---- */

static int64_t next_timeout_ms(const struct io *io)
{
    if (io->done.first != NULL) {
        return 0;
    }
    if (io->timer_count == 0) {
        return -1;
    }
    /* Not io->now_ms: the batch took its time. */
    uint64_t now_ms = clock_ms();
    uint64_t deadline_ms = io->timers[0].deadline_ms;
    if (deadline_ms <= now_ms) {
        return 0;
    }
    uint64_t wait_ms = deadline_ms - now_ms;
    return wait_ms < INT32_MAX ? (int64_t)wait_ms : INT32_MAX;
}

void io_run(struct io *io)
{
    io->stopping = false;
    while (!io->stopping) {
        io->iterations++;
        io->driver->turn(io, next_timeout_ms(io));
        io_run_done(io);
        run_timers(io);
        if (io->after_batch != NULL) {
            io->after_batch(io->after_batch_ctx);
        }
    }
}

void io_stop(struct io *io)
{
    io->stopping = true;
}

void io_set_after_batch(struct io *io, void (*fn)(void *ctx), void *ctx)
{
    io->after_batch = fn;
    io->after_batch_ctx = ctx;
}

/* ---- opening ---- */

static const char *errno_name(int number)
{
    switch (number) {
    case EPERM:
        return "EPERM";
    case EACCES:
        return "EACCES";
    case ENOSYS:
        return "ENOSYS";
    case EOPNOTSUPP:
        return "EOPNOTSUPP";
    case EINVAL:
        return "EINVAL";
    case ENOMEM:
        return "ENOMEM";
    case EMFILE:
        return "EMFILE";
    case ENFILE:
        return "ENFILE";
    default:
        return "unexpected error";
    }
}

static const char *uring_cause(int error, int disabled)
{
    switch (error) {
    case EPERM:
    case EACCES:
        return disabled == 2 ? "io_uring is switched off (sysctl kernel.io_uring_disabled=2)"
               : disabled == 1
                   ? "only kernel.io_uring_group may use io_uring (kernel.io_uring_disabled=1)"
                   : "this kernel or container forbids io_uring";
    case ENOSYS:
        return "this kernel or container has no io_uring";
    case EOPNOTSUPP:
    case EINVAL:
        return "this kernel's io_uring is older than Linux 5.11";
    case ENOMEM:
        return "too little memory may be locked for io_uring (ulimit -l)";
    case EMFILE:
    case ENFILE:
        return "no descriptor is left for io_uring";
    default:
        return "io_uring does not work here";
    }
}

void io_uring_reason(char *text, size_t cap, int error, const char *step, int disabled,
                     bool fallback)
{
    (void)snprintf(text, cap, "%s (%s: %s)%s", uring_cause(-error, disabled), step,
                   errno_name(-error), fallback ? "; epoll is used" : "");
}

/* Linux 6.6; -1 without it. */
static int uring_disabled(void)
{
    char digit = 0;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t got = read(fd, &digit, 1);
    close(fd);
    return got == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}

static void about_say(struct io_about *about, enum io_backend backend, const char *reason)
{
    about->backend = backend;
    (void)snprintf(about->reason, sizeof(about->reason), "%s", reason);
}

static enum err open_error(int error)
{
    enum err err = err_from_errno(-error);
    return err == ERR_NO_MEMORY || err == ERR_LIMIT ? err : ERR_UNSUPPORTED;
}

static int open_driver(struct io *io, const struct io_driver *driver,
                       const struct io_config *config, uint32_t features, struct io_about *about,
                       const char **out_step)
{
    io->driver = driver;
    about->features[0] = 0;
    return driver->open(io, config, features, about, out_step);
}

static enum err open_poll(struct io *io, const struct io_config *config, struct io_about *about)
{
    const char *step = "";
    int error = open_driver(io, &io_poll_driver, config, 0, about, &step);
    if (error < 0) {
        (void)snprintf(about->reason, sizeof(about->reason), "epoll does not work here (%s: %s)",
                       step, errno_name(-error));
        return open_error(error);
    }
    about->backend = IO_BACKEND_POLL;
    return ERR_OK;
}

static enum err open_backend(struct io *io, const struct io_config *config, uint32_t features,
                             struct io_about *about)
{
    if (config->backend == IO_BACKEND_POLL) {
        about_say(about, IO_BACKEND_POLL, "epoll was asked for");
        return open_poll(io, config, about);
    }
    bool fallback = config->backend == IO_BACKEND_AUTO;
    const char *step = "";
    int error = open_driver(io, &io_uring_driver, config, features, about, &step);
    if (error == 0) {
        about_say(about, IO_BACKEND_URING, fallback ? "the kernel offers it" : "it was asked for");
        return ERR_OK;
    }
    about->backend = IO_BACKEND_URING;
    io_uring_reason(about->reason, sizeof(about->reason), error, step, uring_disabled(), fallback);
    return fallback ? open_poll(io, config, about) : open_error(error);
}

static struct io_config config_complete(const struct io_config *config)
{
    struct io_config whole = *config;
    if (whole.recv_buffer_bytes == 0) {
        whole.recv_buffer_bytes = IO_RECV_BUFFER_BYTES;
    }
    if (whole.recv_buffer_count == 0) {
        whole.recv_buffer_count = IO_RECV_BUFFER_COUNT;
    }
    uint32_t count = whole.recv_buffer_count;
    CHECK((count & (count - 1)) == 0 && count <= 32768);
    CHECK(whole.recv_buffer_bytes <= INT32_MAX);
    return whole;
}

enum err io_new_with(struct io **out_io, const struct io_config *config, uint32_t features,
                     struct io_about *about)
{
    struct io_config whole = config_complete(config);
    *about = (struct io_about){.backend = config->backend};
    struct io *io = calloc(1, sizeof(*io));
    void *timers = mmap(NULL, IO_TIMERS_MAX * sizeof(struct io_timer_slot), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    enum err err = ERR_NO_MEMORY;
    if (io == NULL || timers == MAP_FAILED) {
        about_say(about, config->backend, "out of memory");
        goto out;
    }
    io->timers = timers;
    err = open_backend(io, &whole, features, about);
    if (err == ERR_OK) {
        io_tick(io);
        *out_io = io;
        return ERR_OK;
    }
out:
    if (timers != MAP_FAILED) {
        munmap(timers, IO_TIMERS_MAX * sizeof(struct io_timer_slot));
    }
    free(io);
    return err;
}

enum err io_new(struct io **out_io, const struct io_config *config, struct io_about *about)
{
    return io_new_with(out_io, config, IO_FEATURES_ALL, about);
}

void io_free(struct io **io)
{
    struct io *gone = *io;
    if (gone == NULL) {
        return;
    }
    CHECK(gone->pending == 0);
    gone->driver->close(gone);
    while (gone->wakes != NULL) {
        struct io_wake *wake = gone->wakes;
        gone->wakes = wake->next;
        wake_free(wake);
    }
    munmap(gone->timers, IO_TIMERS_MAX * sizeof(struct io_timer_slot));
    free(gone);
    *io = NULL;
}
