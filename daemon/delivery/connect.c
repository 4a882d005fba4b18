/*
 * See connect.h. Invariants: at most CONNECT_AT_ONCE_MAX sockets; attempts under way are all of one
 * host; a socket is closed only when no connect is pending on it; OVER is the last that is done
 * with the struct.
 */
#include "daemon/delivery/connect.h"

#include "daemon/base/num.h"

#include <errno.h>

/* ---- the order ---- */

bool connect_addresses_equal(const struct flow_address *a, const struct flow_address *b)
{
    return a->len == b->len && memcmp(&a->address, &b->address, a->len) == 0;
}

/* Behind the last address of the host that the one at `from` belongs to. */
static uint32_t host_end(const struct flow_lookup *lookup, uint32_t from)
{
    uint32_t end = from + 1;
    while (end < lookup->count && strcmp(lookup->names[end], lookup->names[from]) == 0) {
        end++;
    }
    return end;
}

/* The first of from..end that is not taken, of that family; end when there is none. */
static uint32_t first_left(const struct flow_lookup *lookup, const bool *taken, uint32_t from,
                           uint32_t end, sa_family_t family)
{
    while (from < end && (taken[from] || lookup->addresses[from].address.ss_family != family)) {
        from++;
    }
    return from;
}

static sa_family_t other_family(sa_family_t family)
{
    return family == AF_INET ? AF_INET6 : AF_INET;
}

static void order_host(const struct flow_lookup *lookup, const struct flow_address *preferred,
                       uint32_t from, uint32_t end, uint8_t *order)
{
    bool taken[FLOW_ADDRESSES_MAX] = {false};
    uint32_t first = from;
    for (uint32_t at = from; preferred != NULL && at < end; at++) {
        if (connect_addresses_equal(&lookup->addresses[at], preferred)) {
            first = at;
            break;
        }
    }
    sa_family_t family = lookup->addresses[first].address.ss_family;
    for (uint32_t place = from; place < end; place++) {
        uint32_t at = place == from ? first : first_left(lookup, taken, from, end, family);
        if (at == end) {
            at = first_left(lookup, taken, from, end, other_family(family));
        }
        taken[at] = true;
        order[place] = (uint8_t)at;
        family = other_family(lookup->addresses[at].address.ss_family);
    }
}

void connect_order(const struct flow_lookup *lookup, const struct flow_address *preferred,
                   uint8_t order[FLOW_ADDRESSES_MAX])
{
    CHECK(lookup->count <= FLOW_ADDRESSES_MAX);
    for (uint32_t from = 0; from < lookup->count;) {
        uint32_t end = host_end(lookup, from);
        order_host(lookup, preferred, from, end, order);
        from = end;
    }
}

/* ---- attempts ---- */

static bool is_under_way(const struct connect_attempt *a)
{
    return io_pending(&a->connect) && !a->given_up;
}

static uint32_t under_way(const struct connect *c)
{
    uint32_t count = 0;
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        count += is_under_way(&c->attempts[place]);
    }
    return count;
}

static struct connect_attempt *free_place(struct connect *c)
{
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        if (c->attempts[place].fd < 0) {
            return &c->attempts[place];
        }
    }
    return NULL;
}

static void missed(struct connect *c, uint32_t at, enum err err)
{
    c->at = at;
    c->err = err;
    c->next_ms = io_now_ms(c->io); /* nobody waits for the one that has failed */
    c->fn(c, CONNECT_EVENT_MISSED);
}

static void start(struct connect *c, struct connect_attempt *a, uint32_t at, uint64_t until_ms)
{
    const struct flow_address *address = &c->lookup->addresses[at];
    c->at = at;
    c->fn(c, CONNECT_EVENT_TRYING);
    if (c->state != CONNECT_TRYING) {
        return;
    }
    a->fd = socket(address->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (a->fd < 0) {
        missed(c, at, err_from_errno(errno));
        return;
    }
    int one = 1;
    (void)setsockopt(a->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    a->at = at;
    a->until_ms = until_ms;
    a->given_up = false;
    c->next_ms = io_now_ms(c->io) + CONNECT_STAGGER_MS;
    io_connect(c->io, &a->connect, a->fd, (const struct sockaddr *)(const void *)&address->address,
               address->len);
}

/* ---- time ---- */

static uint64_t time_left(uint64_t deadline_ms, uint64_t now_ms)
{
    return deadline_ms > now_ms ? deadline_ms - now_ms : 0;
}

static void begin_host(struct connect *c, uint64_t now_ms)
{
    uint32_t hosts = 0;
    for (uint32_t at = c->next; at < c->lookup->count; at = host_end(c->lookup, at)) {
        hosts++;
    }
    c->host_end = host_end(c->lookup, c->next);
    c->host_deadline_ms = now_ms + time_left(c->deadline_ms, now_ms) / hosts;
    c->next_ms = now_ms;
}

/* Until when an attempt that begins now may go on: its share of what the host has left. */
static uint64_t attempt_until(const struct connect *c, uint64_t now_ms)
{
    uint64_t left_ms = time_left(c->host_deadline_ms, now_ms);
    uint32_t addresses = c->host_end - c->next;
    return now_ms + u64_min(left_ms, left_ms * CONNECT_AT_ONCE_MAX / addresses);
}

static void give_up_late(struct connect *c, uint64_t now_ms)
{
    for (size_t place = 0; c->state == CONNECT_TRYING && place < CONNECT_AT_ONCE_MAX; place++) {
        struct connect_attempt *a = &c->attempts[place];
        if (is_under_way(a) && now_ms >= a->until_ms) {
            a->given_up = true;
            io_cancel(c->io, &a->connect);
            missed(c, a->at, ERR_TIMEOUT);
        }
    }
}

static void arm_timer(struct connect *c)
{
    uint64_t wake_ms = UINT64_MAX;
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        if (is_under_way(&c->attempts[place])) {
            wake_ms = u64_min(wake_ms, c->attempts[place].until_ms);
        }
    }
    if (c->next < c->host_end && free_place(c) != NULL) {
        wake_ms = u64_min(wake_ms, c->next_ms);
    }
    if (wake_ms != UINT64_MAX) {
        io_timer(c->io, &c->timer, wake_ms);
    }
}

/* ---- the race ---- */

/* It is decided: whatever is still under way is closed. */
static void decide(struct connect *c)
{
    c->state = CONNECT_ENDING;
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        io_cancel(c->io, &c->attempts[place].connect);
    }
    io_timer(c->io, &c->timer, io_now_ms(c->io));
}

static void end_when_done(struct connect *c)
{
    if (io_pending(&c->timer)) {
        return;
    }
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        if (c->attempts[place].fd >= 0) {
            return;
        }
    }
    c->state = CONNECT_IDLE;
    c->fn(c, CONNECT_EVENT_OVER);
}

/* Begins what may begin now. The owner may have stopped it within each event. */
static void go_on(struct connect *c)
{
    uint64_t now_ms = io_now_ms(c->io);
    give_up_late(c, now_ms);
    while (c->state == CONNECT_TRYING && c->next < c->lookup->count) {
        if (c->next == c->host_end) {
            if (under_way(c) > 0) {
                break; /* the better host has its time */
            }
            begin_host(c, now_ms);
        }
        if (now_ms >= c->host_deadline_ms) {
            c->next = c->host_end; /* no time is left for the others */
            continue;
        }
        struct connect_attempt *a = free_place(c);
        if (a == NULL || now_ms < c->next_ms) {
            break;
        }
        uint64_t until_ms = attempt_until(c, now_ms);
        start(c, a, c->order[c->next++], until_ms);
    }
    if (c->state != CONNECT_TRYING) {
        return;
    }
    if (c->next == c->lookup->count && under_way(c) == 0) {
        decide(c);
        c->fn(c, CONNECT_EVENT_LOST);
        return;
    }
    arm_timer(c);
}

static void connect_done(struct io_op *op)
{
    struct connect_attempt *a = IO_OWNER(op, struct connect_attempt, connect);
    struct connect *c = a->owner;
    if (c->state == CONNECT_TRYING && op->result >= 0) {
        c->at = a->at;
        c->fd = a->fd;
        a->fd = -1;
        decide(c);
        c->fn(c, CONNECT_EVENT_WON);
        return;
    }
    io_close(c->io, &a->close, a->fd);
    if (c->state == CONNECT_TRYING && !a->given_up) {
        missed(c, a->at, err_from_errno(-op->result));
        if (c->state == CONNECT_TRYING) {
            go_on(c);
        }
    }
}

static void close_done(struct io_op *op)
{
    struct connect_attempt *a = IO_OWNER(op, struct connect_attempt, close);
    a->fd = -1;
    if (a->owner->state == CONNECT_TRYING) {
        go_on(a->owner);
    } else {
        end_when_done(a->owner);
    }
}

static void on_timer(struct io_op *op)
{
    struct connect *c = IO_OWNER(op, struct connect, timer);
    if (c->state == CONNECT_TRYING) {
        go_on(c);
    } else {
        end_when_done(c);
    }
}

void connect_begin(struct connect *c, struct io *io, connect_fn *fn,
                   const struct flow_lookup *lookup, const struct flow_address *preferred,
                   uint64_t deadline_ms)
{
    CHECK(lookup->count > 0);
    *c = (struct connect){
        .io = io,
        .fn = fn,
        .state = CONNECT_TRYING,
        .fd = -1,
        .err = ERR_TIMEOUT, /* where not one could be tried in time */
        .lookup = lookup,
        .deadline_ms = deadline_ms,
        .timer.fn = on_timer,
    };
    connect_order(lookup, preferred, c->order);
    for (size_t place = 0; place < CONNECT_AT_ONCE_MAX; place++) {
        c->attempts[place] = (struct connect_attempt){
            .owner = c, .fd = -1, .connect.fn = connect_done, .close.fn = close_done};
    }
    io_timer(io, &c->timer, io_now_ms(io));
}

void connect_stop(struct connect *c)
{
    if (c->state == CONNECT_TRYING) {
        decide(c);
    }
}
