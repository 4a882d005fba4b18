/*
 * What the backends of the io seam share. For daemon/io and its tests only.
 *
 * io.c owns what is the same for all of them: starting and cancelling, the timers, bells,
 * completions that wait for their turn, and the loop. A backend (struct io_driver) does one thing:
 * take the started ops, wait once, and complete what has ended. Invariants:
 *
 * - An op is in exactly one place (enum io_place), and each list below has one place as its own.
 * - Starting an op only links it into io->started; the driver looks at it in its next turn. So an
 * op that is cancelled before that never reaches the kernel, and a full submission queue is no
 * error.
 * - io_complete is called once for each start; after it the op's memory belongs to its owner.
 */
#ifndef TASUKI_IO_IO_BACKEND_H
#define TASUKI_IO_IO_BACKEND_H

#include "daemon/io/io.h"

#define IO_RECV_BUFFER_BYTES 32768u
#define IO_RECV_BUFFER_COUNT 32u
#define IO_PAUSE_MS          100u       /* of an accept, or a bell, for which a resource is short */
#define IO_SEND_BYTES_MAX    (1u << 30) /* in one call; a longer one is sent short */

/* What a kernel may offer. Tests take bits away to get the older ways of doing things. */
enum io_feature {
    IO_FEATURE_RING = 1 << 0,             /* io_uring itself; Linux 5.11 */
    IO_FEATURE_COOP_TASKRUN = 1 << 1,     /* 5.19 */
    IO_FEATURE_DEFER_TASKRUN = 1 << 2,    /* with SINGLE_ISSUER; 6.1 */
    IO_FEATURE_BUFFER_RING = 1 << 3,      /* provided buffers in mapped memory; 5.19 */
    IO_FEATURE_MULTISHOT_ACCEPT = 1 << 4, /* 5.19 */
};
#define IO_FEATURES_ALL ((1u << 5) - 1)

enum io_place {
    IO_PLACE_NONE,          /* with its owner */
    IO_PLACE_STARTED,       /* in io->started */
    IO_PLACE_PARKED,        /* with the kernel, or waiting for epoll */
    IO_PLACE_CANCEL_QUEUED, /* io_uring: parked, and in the list of cancels to be submitted */
    IO_PLACE_CANCEL_SENT,   /* io_uring: parked, and its cancel is with the kernel too */
    IO_PLACE_CANCEL_LAST,   /* io_uring: has ended, but its cancel is still with the kernel */
    IO_PLACE_DONE,          /* in io->done with its result */
    IO_PLACE_HEAP,          /* in the timer heap: a timer, or an accept or a bell that pauses */
    IO_PLACE_EXPIRED,       /* in io->expired: left the heap in this batch */
};

struct io_list {
    struct io_op *first, *last;
};

struct io_timer_slot {
    uint64_t deadline_ms; /* a copy, so that the heap is sorted without touching the ops */
    struct io_op *op;
};

struct io_wake {
    struct io_op op;     /* what the driver sees: waits until fd is readable, again and again */
    struct io *io;       /* borrowed: outlives its bells */
    struct io_op *owner; /* NULL once stopped */
    struct io_wake *next;
};

struct io {
    const struct io_driver *driver;
    void *state; /* the driver's, owned */
    uint64_t now_ms;
    bool stopping;
    uint32_t pending;    /* ops with the driver or in done; no timers, no bells */
    uint64_t iterations; /* for tests: a loop that spins shows here */
    struct io_list started;
    struct io_list done;
    struct io_list expired;
    struct io_timer_slot *timers; /* binary heap, IO_TIMERS_MAX slots, owned */
    uint32_t timer_count;
    struct io_wake *wakes; /* owned */
    void (*after_batch)(void *ctx);
    void *after_batch_ctx;
};

struct io_driver {
    enum io_backend backend;

    /*
     * Sets io->state and about->features. features: bits of enum io_feature it may use.
     * Returns 0 or -errno; *out_step then names the call that failed, static storage.
     */
    int (*open)(struct io *io, const struct io_config *config, uint32_t features,
                struct io_about *about, const char **out_step);
    void (*close)(struct io *io);

    /* One iteration: takes io->started, waits up to timeout_ms (-1: for ever), calls io_tick, and
     * completes what has ended. */
    void (*turn)(struct io *io, int64_t timeout_ms);

    /* op is parked and already marked as cancelled. */
    void (*cancel)(struct io *io, struct io_op *op);
};

extern const struct io_driver io_uring_driver;
extern const struct io_driver io_poll_driver;

/* io_new with only these features offered. */
MUST_CHECK enum err io_new_with(struct io **out_io, const struct io_config *config,
                                uint32_t features, struct io_about *about);

/*
 * Why there is no io_uring, in words, with a closing 0.
 *   error     -errno of step
 *   step      the call that failed
 *   disabled  kernel.io_uring_disabled, or -1 when there is no such setting
 *   fallback  epoll is used instead
 */
void io_uring_reason(char *text, size_t cap, int error, const char *step, int disabled,
                     bool fallback);

static inline void io_list_push(struct io_list *list, struct io_op *op, enum io_place place)
{
    op->place = (uint8_t)place;
    op->next = NULL;
    op->prev = list->last;
    if (list->last == NULL) {
        list->first = op;
    } else {
        list->last->next = op;
    }
    list->last = op;
}

static inline void io_list_remove(struct io_list *list, struct io_op *op)
{
    if (op->prev == NULL) {
        list->first = op->next;
    } else {
        op->prev->next = op->next;
    }
    if (op->next == NULL) {
        list->last = op->prev;
    } else {
        op->next->prev = op->prev;
    }
    op->prev = NULL;
    op->next = NULL;
    op->place = IO_PLACE_NONE;
}

static inline struct io_op *io_list_pop(struct io_list *list)
{
    struct io_op *op = list->first;
    if (op != NULL) {
        io_list_remove(list, op);
    }
    return op;
}

/* For the drivers. */

/* Reads the clock for this iteration. */
void io_tick(struct io *io);

/* Calls the functions of what is done already (io->done), as it stands. */
void io_run_done(struct io *io);

/* The op, in no list, has ended: calls its function. data is for recv only. */
void io_complete(struct io *io, struct io_op *op, int32_t result, struct slice data);

/* The same, but its function is called at the end of this or the next iteration. */
void io_complete_later(struct io *io, struct io_op *op, int32_t result);

/* The op, in no list, goes back to io->started: it was interrupted, or goes on. polled: wait for
 * readiness first. A cancelled op ends instead. */
void io_restart(struct io *io, struct io_op *op, bool polled);

/* A new descriptor; the op stays where it is. */
void io_accept_deliver(struct io *io, struct io_op *op, int32_t result);

/* What an accept that has left the kernel brought, a descriptor or -errno: delivers it, and
 * restarts, pauses or ends the op. */
void io_accept_ended(struct io *io, struct io_op *op, int32_t result);

/*
 * A receive buffer is readable for its borrower until fn returns. AddressSanitizer is told, so that
 * a later look at it is found.
 */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define IO_BUFFER_LEND(data, bytes) ASAN_UNPOISON_MEMORY_REGION((data), (bytes))
#define IO_BUFFER_TAKE(data, bytes) ASAN_POISON_MEMORY_REGION((data), (bytes))
#else
#define IO_BUFFER_LEND(data, bytes) ((void)(data), (void)(bytes))
#define IO_BUFFER_TAKE(data, bytes) ((void)(data), (void)(bytes))
#endif

#endif
