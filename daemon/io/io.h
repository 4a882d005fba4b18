/*
 * The io seam: one completion loop, owned by one thread.
 *
 * An operation lives in its owner's struct as a struct io_op and belongs to the loop from the call
 * that starts it until its function is called with more == false. Until then its memory, and every
 * byte it was given to send, stays where it is. Functions are called from io_run only, never from
 * inside the call that started the operation, so an owner never re-enters itself. An op may be
 * started again from its own function.
 *
 * Backends: io_uring.c and io_poll.c here, tests/sim/io_sim.c for the simulator. Chosen once, by
 * io_new.
 */
#ifndef TASUKI_IO_IO_H
#define TASUKI_IO_IO_H

#include "daemon/base/check.h"
#include "daemon/base/err.h"
#include "daemon/base/slice.h"

#include <stddef.h>
#include <sys/socket.h>

/* Timers that may be pending in one loop, with the accepts and bells that pause; one more aborts,
 * so owners see to it that there are none (daemon/worker.c). Memory is touched as it is used. */
#define IO_TIMERS_MAX (1u << 19)

struct io;
struct io_op;

typedef void io_fn(struct io_op *op);

enum io_kind {
    IO_KIND_NONE, /* not started */
    IO_KIND_ACCEPT,
    IO_KIND_CONNECT,
    IO_KIND_RECV,
    IO_KIND_SEND,
    IO_KIND_TIMER,
    IO_KIND_WAKE,
    IO_KIND_CLOSE,
};

struct io_op {
    io_fn *fn;         /* set by the owner before the start */
    int32_t result;    /* accept: the new descriptor; recv, send: bytes; otherwise 0; or -errno */
    struct slice data; /* recv: what arrived, borrowed until fn returns */
    bool more;         /* accept, wake: the operation goes on, further calls follow */

    /* The backend's, not to be touched by the owner. */
    enum io_kind kind;
    bool cancelled;
    bool polled;   /* io_uring: waits for readiness instead of doing the operation */
    bool drained;  /* io_uring: the last recv left nothing behind, so the next one has to wait */
    uint8_t place; /* enum io_place: which list or heap holds it */
    int fd;
    const void *send_data;
    size_t send_bytes;
    uint64_t deadline_ms;
    uint32_t heap_index; /* timers: place in the heap */
    struct io_op *prev, *next;
    struct sockaddr_storage address; /* connect */
    socklen_t address_len;
};

/* The owner's struct from its op. */
#define IO_OWNER(op, type, member) ((type *)(void *)((char *)(op)-offsetof(type, member)))

enum io_backend { IO_BACKEND_AUTO, IO_BACKEND_URING, IO_BACKEND_POLL };

struct io_config {
    enum io_backend backend;
    uint32_t recv_buffer_bytes; /* each; 0: 32 KiB */
    uint32_t recv_buffer_count; /* power of two; 0: 32. A loop's receive memory is bytes * count,
                                   for any number of fds */
};

struct io_about {
    enum io_backend backend; /* what runs: URING or POLL */
    char reason[160];   /* why, in words for the admin: "the kernel offers it", "io_uring_setup:
                           EPERM, ..." */
    char features[160]; /* uring: what is used, for example "single-issuer defer-taskrun
                           provided-buffers" */
};

/*
 * Opens a loop for the calling thread.
 * Errors: ERR_UNSUPPORTED when backend is URING and the kernel or a filter forbids it;
 * ERR_NO_MEMORY; ERR_LIMIT (no descriptors). AUTO falls back to epoll instead and says why in
 * *about. about is filled on failure too.
 */
MUST_CHECK enum err io_new(struct io **out_io, const struct io_config *config,
                           struct io_about *about);

/* Every op must have completed. Sets *io to NULL; accepts NULL. */
void io_free(struct io **io);

/* Runs until io_stop. One iteration: submit what was started, wait for at least one completion,
 * call its functions. */
void io_run(struct io *io);

/* From a function of this loop: io_run returns after the current batch. */
void io_stop(struct io *io);

/* Milliseconds of CLOCK_MONOTONIC, read once an iteration. */
uint64_t io_now_ms(const struct io *io);

/* A function called once at the end of each batch of completions, before the loop waits again (for
 * flushing what the batch collected). One per loop. */
void io_set_after_batch(struct io *io, void (*fn)(void *ctx), void *ctx);

/*
 * Accepts connections on a listening socket until cancelled or failed: fn is called for each, with
 * more == true; the last call has more == false and a negative result. On EMFILE, ENFILE, ENOBUFS,
 * ENOMEM the backend reports the error with more == true and tries again by itself after 100 ms,
 * without spinning. New descriptors are non-blocking and close-on-exec.
 */
void io_accept(struct io *io, struct io_op *op, int fd);

/* address is copied. fd is a fresh non-blocking stream socket. */
void io_connect(struct io *io, struct io_op *op, int fd, const struct sockaddr *address,
                socklen_t address_len);

/*
 * Receives once, into a buffer of the loop: op->data is valid until fn returns. result 0 and no
 * data: the peer ended the stream. An idle connection with a pending io_recv holds no buffer.
 */
void io_recv(struct io *io, struct io_op *op, int fd);

/* Sends once; result may be short, 1..len. bytes stay valid and unchanged until fn is called. len
 * >= 1. No SIGPIPE. */
void io_send(struct io *io, struct io_op *op, int fd, struct slice bytes);

/* Fires once when io_now_ms reaches deadline_ms. Starting a pending timer op again moves it. */
void io_timer(struct io *io, struct io_op *op, uint64_t deadline_ms);

/* Closes fd; no other op may be pending on it. */
void io_close(struct io *io, struct io_op *op, int fd);

/*
 * Asks a pending op to end; its function is still called, later, with -ECANCELED or with what it
 * had achieved by then. A pending timer ends without a call of its function, at once. No effect on
 * an op that is not pending.
 */
void io_cancel(struct io *io, struct io_op *op);

/* Started and not yet completed. */
static inline bool io_pending(const struct io_op *op)
{
    return op->kind != IO_KIND_NONE;
}

/*
 * A bell that any thread may ring: op's function is called on this loop, at least once after the
 * last ring, with more == true. io_wake_start returns the descriptor to ring, or -errno;
 * io_wake_stop ends it (fn is not called again).
 */
MUST_CHECK int io_wake_start(struct io *io, struct io_op *op);
void io_wake_stop(struct io *io, struct io_op *op);

/* From any thread; never blocks. */
void io_wake_ring(int wake_fd);

#endif
