/*
 * See stream.h. Invariants: at most one receive and one send are pending; carry is only held while
 * no receive is pending; the owner's function is called from completions and from the kick alone;
 * CLOSED is told when no operation is pending.
 */
#include "daemon/stream/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PLAINTEXT_BYTES   16384 /* one TLS record */
#define PARTING_MS        2000
#define PARTING_BYTES_MAX 65536
#define HEARING_MS        1000

static void recv_done(struct io_op *op);
static void send_done(struct io_op *op);
static void close_done(struct io_op *op);
static void kicked(struct io_op *op);

void stream_init(struct stream *s, struct io *io, stream_fn *fn)
{
    *s = (struct stream){.io = io, .fn = fn, .fd = -1};
    s->recv.fn = recv_done;
    s->send.fn = send_done;
    s->close.fn = close_done;
    s->kick.fn = kicked;
}

/* Nothing more can be sent; what the peer has said before is heard. */
static bool is_hearing(const struct stream *s)
{
    return s->send_err != ERR_OK;
}

static void kick(struct stream *s)
{
    if (!io_pending(&s->kick) || is_hearing(s)) {
        io_timer(s->io, &s->kick, io_now_ms(s->io));
    }
}

static void carry_drop(struct stream *s)
{
    free(s->carry);
    s->carry = NULL;
    s->carry_bytes = 0;
}

/* ENDED is told from the kick, so that it never arrives inside an owner's call. */
static void end(struct stream *s, enum err err)
{
    if (s->state >= STREAM_STATE_ENDED) {
        return;
    }
    if (s->tls != NULL && tls_failure(s->tls) != TLS_FAILURE_NONE) {
        s->tls_failure = tls_failure(s->tls);
        snprintf(s->problem, sizeof s->problem, "%s", tls_problem(s->tls));
    }
    s->state = STREAM_STATE_ENDED;
    s->err = is_hearing(s) ? s->send_err : err;
    s->writing = slice_of(NULL, 0);
    s->write_active = false;
    kick(s);
}

void stream_open(struct stream *s, int fd)
{
    CHECK(s->state == STREAM_STATE_IDLE);
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails on unix sockets */
    s->fd = fd;
    s->state = STREAM_STATE_PLAIN;
}

static bool has_socket_io(const struct stream *s)
{
    return s->state == STREAM_STATE_PLAIN || s->state == STREAM_STATE_HANDSHAKE ||
           s->state == STREAM_STATE_SECURE;
}

static void want_recv(struct stream *s)
{
    if (!io_pending(&s->recv) && has_socket_io(s)) {
        io_recv(s->io, &s->recv, s->fd);
    }
}

/*
 * Sends what TLS wants sent, from a copy: what is received meanwhile may make TLS say more, and
 * then its buffer moves under the kernel. False when there is no memory.
 */
static bool send_sealed(struct stream *s)
{
    if (s->sealing.len == 0) {
        struct slice out = tls_output(s->tls);
        free(s->sealed);
        s->sealed = NULL;
        if (out.len == 0) {
            return true;
        }
        s->sealed = malloc(out.len);
        if (s->sealed == NULL) {
            return false;
        }
        memcpy(s->sealed, out.data, out.len);
        s->sealing = slice_of(s->sealed, out.len);
        tls_output_done(s->tls, out.len);
    }
    io_send(s->io, &s->send, s->fd, s->sealing);
    return true;
}

/* Moves what waits to be sent: ciphertext first, then the owner's bytes. */
static void pump_send(struct stream *s)
{
    if (io_pending(&s->send) || !has_socket_io(s) || is_hearing(s)) {
        return;
    }
    if (s->tls == NULL) {
        if (s->writing.len > 0) {
            io_send(s->io, &s->send, s->fd, s->writing);
        }
        return;
    }
    if (s->state == STREAM_STATE_SECURE && s->writing.len > 0) {
        s->writing = slice_tail(s->writing, tls_write(s->tls, s->writing));
        if (tls_state(s->tls) == TLS_FAILED) {
            end(s, ERR_IO);
            return;
        }
    }
    if (!send_sealed(s)) {
        end(s, ERR_NO_MEMORY);
    }
}

void stream_write(struct stream *s, struct slice bytes)
{
    CHECK(bytes.len > 0);
    if (s->state >= STREAM_STATE_ENDED) {
        return; /* ENDED is on its way */
    }
    CHECK(stream_writable(s));
    s->writing = bytes;
    s->write_active = true;
    pump_send(s);
}

void stream_read(struct stream *s)
{
    if (s->read_wanted || !has_socket_io(s)) {
        return;
    }
    s->read_wanted = true;
    if (s->giving) {
        return; /* whoever gives looks at it afterwards */
    }
    if (s->carry_bytes > 0 || s->tls != NULL) {
        kick(s); /* bytes may be here already */
    } else {
        want_recv(s);
    }
}

/* Gives bytes to the owner and keeps what it leaves. Returns false when the stream ended or closed
 * meanwhile. */
static bool give(struct stream *s, struct slice bytes)
{
    s->read_wanted = false;
    s->data = bytes;
    s->used = 0;
    uint8_t *old_carry = s->carry;
    s->carry = NULL;
    s->carry_bytes = 0;
    s->giving = true;
    s->fn(s, STREAM_EVENT_DATA);
    s->giving = false;
    bool alive = has_socket_io(s);
    CHECK(s->used <= bytes.len);
    /* A STARTTLS in between has voided what is left: RFC 3207 6. */
    if (alive && s->used < bytes.len && s->state != STREAM_STATE_HANDSHAKE) {
        struct slice rest = slice_tail(bytes, s->used);
        s->carry = malloc(rest.len);
        if (s->carry == NULL) {
            end(s, ERR_NO_MEMORY);
            alive = false;
        } else {
            memcpy(s->carry, rest.data, rest.len);
            s->carry_bytes = rest.len;
        }
    }
    s->data = slice_of(NULL, 0);
    free(old_carry);
    return alive;
}

static void handshake_moved(struct stream *s)
{
    switch (tls_state(s->tls)) {
    case TLS_OPEN:
        s->state = STREAM_STATE_SECURE;
        pump_send(s); /* the last flight, before the owner's first bytes */
        s->fn(s, STREAM_EVENT_SECURE);
        return;
    case TLS_FAILED:
        pump_send(s); /* the alert */
        end(s, ERR_IO);
        return;
    case TLS_PEER_DONE:
        end(s, ERR_CLOSED);
        return;
    case TLS_HANDSHAKING:
    default:
        pump_send(s);
        want_recv(s);
    }
}

/* Everything that can be given to the owner now is; then, if more is wanted, more is received. */
static void pump_data(struct stream *s)
{
    if (s->state == STREAM_STATE_HANDSHAKE) {
        handshake_moved(s);
    }
    if (s->read_wanted && s->carry_bytes > 0 && has_socket_io(s)) {
        if (!give(s, slice_of(s->carry, s->carry_bytes))) {
            return;
        }
        if (s->read_wanted && s->carry_bytes > 0) {
            kick(s); /* the owner took a part and wants more of it */
            return;
        }
    }
    uint8_t plaintext[PLAINTEXT_BYTES];
    while (s->state == STREAM_STATE_SECURE && s->read_wanted && s->carry_bytes == 0) {
        size_t len = tls_read(s->tls, plaintext, sizeof plaintext);
        if (len == 0) {
            break;
        }
        if (!give(s, slice_of(plaintext, len))) {
            return;
        }
    }
    if (s->state == STREAM_STATE_SECURE) {
        pump_send(s); /* key updates, alerts */
        if (tls_state(s->tls) == TLS_FAILED) {
            end(s, ERR_IO);
            return;
        }
        if (s->read_wanted && tls_state(s->tls) == TLS_PEER_DONE) {
            end(s, ERR_CLOSED);
            return;
        }
    }
    if (s->read_wanted && s->carry_bytes == 0) {
        want_recv(s);
    } else if (s->read_wanted) {
        kick(s); /* the owner took a part of what was inside, and wants more of it */
    }
}

static void finish_close(struct stream *s)
{
    if (io_pending(&s->recv) || io_pending(&s->send) || io_pending(&s->close)) {
        return;
    }
    if (io_pending(&s->kick)) {
        io_cancel(s->io, &s->kick);
    }
    if (s->fd >= 0) {
        int fd = s->fd;
        s->fd = -1;
        io_close(s->io, &s->close, fd);
        return;
    }
    tls_free(&s->tls);
    free(s->sealed);
    s->sealed = NULL;
    carry_drop(s);
    s->state = STREAM_STATE_IDLE;
    s->fn(s, STREAM_EVENT_CLOSED);
}

static void start_closing(struct stream *s)
{
    s->state = STREAM_STATE_CLOSING;
    io_cancel(s->io, &s->recv);
    io_cancel(s->io, &s->send);
    io_timer(s->io, &s->kick, io_now_ms(s->io));
}

/* PARTING: our last bytes first, then an end of our side, then the peer's end or the clock. */
static void parting_step(struct stream *s)
{
    if (io_pending(&s->send)) {
        return;
    }
    if (s->tls != NULL) {
        (void)send_sealed(s);
        if (io_pending(&s->send)) {
            return;
        }
    }
    (void)shutdown(s->fd, SHUT_WR);
    if (!io_pending(&s->recv)) {
        io_recv(s->io, &s->recv, s->fd);
    }
}

static void recv_done(struct io_op *op)
{
    struct stream *s = IO_OWNER(op, struct stream, recv);
    switch (s->state) {
    case STREAM_STATE_CLOSING:
        finish_close(s);
        return;
    case STREAM_STATE_PARTING:
        s->used += op->result > 0 ? (size_t)op->result : 0;
        if (op->result <= 0 || s->used > PARTING_BYTES_MAX) {
            start_closing(s);
        } else {
            io_recv(s->io, &s->recv, s->fd);
        }
        return;
    case STREAM_STATE_ENDED:
    case STREAM_STATE_IDLE:
        return;
    case STREAM_STATE_PLAIN:
    case STREAM_STATE_HANDSHAKE:
    case STREAM_STATE_SECURE:
    default:
        break;
    }
    if (op->result < 0) {
        end(s, err_from_errno(-op->result));
        return;
    }
    if (s->tls == NULL) {
        if (op->result == 0) {
            end(s, ERR_CLOSED);
        } else if (give(s, op->data)) {
            pump_data(s);
        }
        return;
    }
    if (op->result == 0) {
        tls_feed_end(s->tls);
    } else {
        tls_feed(s->tls, op->data);
    }
    pump_data(s);
}

/*
 * A peer that hangs up with bytes of ours unread resets the connection behind its last words, and
 * they are still in the socket when the send fails. The receive that comes to their end then ends
 * the stream, at once as a rule; the clock does where nobody reads, or only the send has failed.
 */
static void send_failed(struct stream *s, enum err err)
{
    if (s->state == STREAM_STATE_PARTING) {
        start_closing(s);
    } else if (!s->hears_out) {
        end(s, err);
    } else if (has_socket_io(s)) {
        s->send_err = err;
        s->hearing_until_ms = io_now_ms(s->io) + HEARING_MS;
        kick(s);
    }
}

static void send_done(struct io_op *op)
{
    struct stream *s = IO_OWNER(op, struct stream, send);
    if (s->state == STREAM_STATE_CLOSING) {
        finish_close(s);
        return;
    }
    if (op->result < 0) {
        send_failed(s, err_from_errno(-op->result));
        return;
    }
    size_t sent = (size_t)op->result;
    if (s->sealing.len > 0) {
        s->sealing = slice_tail(s->sealing, sent);
    } else {
        s->writing = slice_tail(s->writing, sent);
    }
    if (s->state == STREAM_STATE_PARTING) {
        parting_step(s);
        return;
    }
    if (s->state != STREAM_STATE_PLAIN && s->state != STREAM_STATE_SECURE) {
        pump_send(s);
        if (s->state == STREAM_STATE_HANDSHAKE) {
            kick(s); /* a flight that had waited for room may have ended it */
        }
        return;
    }
    pump_send(s);
    if (s->write_active && s->writing.len == 0 && !io_pending(&s->send)) {
        s->write_active = false;
        s->fn(s, STREAM_EVENT_SENT);
    }
}

static void close_done(struct io_op *op)
{
    finish_close(IO_OWNER(op, struct stream, close));
}

/* The last words have their time and no more. */
static void hear_on(struct stream *s)
{
    if (!has_socket_io(s) || !is_hearing(s) || io_pending(&s->kick)) {
        return;
    }
    if (io_now_ms(s->io) >= s->hearing_until_ms) {
        end(s, s->send_err);
    } else {
        io_timer(s->io, &s->kick, s->hearing_until_ms);
    }
}

static void kicked(struct io_op *op)
{
    struct stream *s = IO_OWNER(op, struct stream, kick);
    switch (s->state) {
    case STREAM_STATE_CLOSING:
        finish_close(s);
        return;
    case STREAM_STATE_PARTING:
        start_closing(s); /* the peer had its time */
        return;
    case STREAM_STATE_ENDED:
        if (!s->ended_told) {
            s->ended_told = true;
            s->fn(s, STREAM_EVENT_ENDED);
        }
        return;
    case STREAM_STATE_PLAIN:
    case STREAM_STATE_HANDSHAKE:
    case STREAM_STATE_SECURE:
        pump_data(s);
        hear_on(s);
        return;
    case STREAM_STATE_IDLE:
    default:
        return;
    }
}

enum err stream_secure(struct stream *s, struct tls_policy *policy, const char *server_name)
{
    CHECK(s->state == STREAM_STATE_PLAIN && s->tls == NULL && stream_writable(s));
    enum err err = tls_new(&s->tls, policy, server_name);
    if (err != ERR_OK) {
        return err;
    }
    carry_drop(s);
    s->state = STREAM_STATE_HANDSHAKE;
    /* An empty feed makes the client say hello. */
    tls_feed(s->tls, slice_of(NULL, 0));
    pump_send(s);
    kick(s); /* a handshake that failed at once is told, too */
    return ERR_OK;
}

const char *stream_tls_description(const struct stream *s)
{
    return s->tls != NULL && s->state == STREAM_STATE_SECURE ? tls_describe(s->tls) : "";
}

bool stream_tls_resumed(const struct stream *s)
{
    return s->tls != NULL && s->state == STREAM_STATE_SECURE && tls_resumed(s->tls);
}

void stream_close(struct stream *s, bool gracefully)
{
    CHECK(s->state != STREAM_STATE_CLOSING);
    bool can_part = gracefully && !is_hearing(s) &&
                    (s->state == STREAM_STATE_PLAIN || s->state == STREAM_STATE_SECURE);
    carry_drop(s);
    s->read_wanted = false;
    s->writing = slice_of(NULL, 0);
    if (!can_part) {
        start_closing(s);
        return;
    }
    s->state = STREAM_STATE_PARTING;
    s->used = 0;
    if (s->tls != NULL) {
        tls_shutdown(s->tls);
    }
    io_timer(s->io, &s->kick, io_now_ms(s->io) + PARTING_MS);
    parting_step(s);
}
