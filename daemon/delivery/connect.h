/*
 * One TCP connection to whichever address of a look-up answers first (RFC 8305).
 *
 * The addresses of one host are raced: families take turns, the next attempt begins
 * CONNECT_STAGGER_MS after the last, or at once when one has failed, and the first that connects is
 * the one; the others are closed. Hosts are not raced: a worse MX host is tried only once every
 * address of the better one has failed or had its time (RFC 5321 5.1). The time for all is shared
 * among the hosts, and within a host among its addresses, so that none that does not answer keeps
 * the last one from being tried.
 */
#ifndef TASUKI_DELIVERY_CONNECT_H
#define TASUKI_DELIVERY_CONNECT_H

#include "daemon/flow/flow.h"
#include "daemon/io/io.h"

#define CONNECT_AT_ONCE_MAX 3   /* sockets */
#define CONNECT_STAGGER_MS  250 /* RFC 8305 5, 8 */

struct connect;

enum connect_event {
    CONNECT_EVENT_TRYING, /* an attempt begins: at */
    CONNECT_EVENT_MISSED, /* it came to nothing: at, err. Others go on, or follow */
    CONNECT_EVENT_WON,    /* connected: at, and fd, which is the owner's from here on */
    CONNECT_EVENT_LOST,   /* none has: at and err are those of the last that was missed */
    CONNECT_EVENT_OVER,   /* after WON, LOST or connect_stop, once: nothing is pending any more, and
                             the struct is the owner's again */
};

typedef void connect_fn(struct connect *c, enum connect_event event);

/* Each value says what is true in it. */
enum connect_state {
    CONNECT_IDLE,   /* nothing is pending */
    CONNECT_TRYING, /* attempts go on; WON or LOST comes */
    CONNECT_ENDING, /* it is decided; what is left of the attempts is being closed */
};

struct connect_attempt {
    struct connect *owner;
    struct io_op connect, close;
    int fd;      /* -1: the place is free */
    uint32_t at; /* in the look-up */
    uint64_t until_ms;
    bool given_up; /* its time was over, and it is being taken back */
};

struct connect {
    struct io *io;  /* borrowed */
    connect_fn *fn; /* the owner's */
    enum connect_state state;
    uint32_t at; /* of the event: index in the look-up's addresses */
    int fd;
    enum err err;

    /* The rest is connect.c's. */
    const struct flow_lookup *lookup; /* borrowed until OVER */
    uint8_t order[FLOW_ADDRESSES_MAX];
    uint32_t next;        /* in order: the first that was not tried yet */
    uint32_t host_end;    /* in order: behind the last address of the host that is tried */
    uint64_t deadline_ms; /* of all */
    uint64_t host_deadline_ms, next_ms;
    struct io_op timer;
    struct connect_attempt attempts[CONNECT_AT_ONCE_MAX];
};

/*
 * The order in which addresses are tried, as indexes of the look-up: host by host as they came;
 * within a host preferred first (NULL: none, one of another host does not count), then families
 * by turns.
 */
void connect_order(const struct flow_lookup *lookup, const struct flow_address *preferred,
                   uint8_t order[FLOW_ADDRESSES_MAX]);

/*
 * Begins. Events come from the loop only, never from inside a call; the struct must not move until
 * OVER.
 *   lookup        at least one address; borrowed until OVER
 *   preferred     borrowed for the call; may be NULL
 *   deadline_ms   monotonic: LOST comes then, at the latest
 */
void connect_begin(struct connect *c, struct io *io, connect_fn *fn,
                   const struct flow_lookup *lookup, const struct flow_address *preferred,
                   uint64_t deadline_ms);

/* Neither WON nor LOST comes any more; OVER does, unless it came before. */
void connect_stop(struct connect *c);

static inline bool connect_is_over(const struct connect *c)
{
    return c->state == CONNECT_IDLE;
}

bool connect_addresses_equal(const struct flow_address *a, const struct flow_address *b);

#endif
