/*
 * Streams against their header, on both backends: two of them over a socket, or one against a bare
 * descriptor that misbehaves. Each struct is freed in CLOSED, so that whatever touches it later is
 * found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/stream/stream.h"
#include "tests/unit/turns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUARD_MS    60000
#define BULK_BYTES  turns(3u << 20, 60000)
#define FULL_BYTES  turns(3u << 20, 300000) /* more than a socket holds */
#define EVENT_COUNT (STREAM_EVENT_CLOSED + 1)

static char directory[64], certificate[96], key[96];
static struct tls_policy *server_policy, *client_policy, *strict_policy;
static struct io *io;
static struct io_op guard;

/* ---- one end ---- */

struct end;
static struct end *a, *b; /* NULL once closed: their memory is gone */

typedef void end_fn(struct end *e, enum stream_event event);

/* What is seen of an end outlives it. */
struct seen {
    uint32_t events[EVENT_COUNT];
    uint8_t bytes[256]; /* the first that came */
    size_t count;       /* of all */
    bool in_order;      /* they are the pattern, from its start */
    enum err err;
    enum tls_failure tls_failure;
    bool closed;
};

struct end {
    struct stream stream;
    struct seen *seen; /* borrowed */
    end_fn *fn;        /* after the standard behaviour; NULL: none */
    size_t use_max;    /* of each DATA */
    bool reads;        /* asks for more, inside DATA */
    bool closes;       /* on ENDED */
    bool busy;         /* inside a call of ours: none may come in now */
    uint8_t chunk[5000];
    size_t to_write, written, writing;
};

static uint8_t pattern(size_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) * 7 + (at >> 16));
}

static void take_data(struct end *e)
{
    struct stream *s = &e->stream;
    size_t used = s->data.len < e->use_max ? s->data.len : e->use_max;
    assert_true(s->data.len > 0);
    for (size_t at = 0; at < used; at++, e->seen->count++) {
        if (e->seen->count < sizeof e->seen->bytes) {
            e->seen->bytes[e->seen->count] = s->data.data[at];
        }
        e->seen->in_order = e->seen->in_order && s->data.data[at] == pattern(e->seen->count);
    }
    s->used = used;
}

/* The next part of the pattern. */
static void write_more(struct end *e)
{
    if (e->written == e->to_write || !stream_writable(&e->stream)) {
        return;
    }
    e->writing = e->to_write - e->written;
    e->writing = e->writing < sizeof e->chunk ? e->writing : sizeof e->chunk;
    for (size_t at = 0; at < e->writing; at++) {
        e->chunk[at] = pattern(e->written + at);
    }
    stream_write(&e->stream, slice_of(e->chunk, e->writing));
}

static void on_stream(struct stream *s, enum stream_event event)
{
    struct end *e = (struct end *)(void *)((char *)s - offsetof(struct end, stream));
    assert_false(e->busy);
    e->seen->events[event]++;
    assert_int_equal(e->seen->events[STREAM_EVENT_CLOSED], event == STREAM_EVENT_CLOSED);
    switch (event) {
    case STREAM_EVENT_DATA:
        take_data(e);
        if (e->reads) {
            e->busy = true;
            stream_read(s);
            e->busy = false;
        }
        break;
    case STREAM_EVENT_SENT:
        e->written += e->writing;
        e->writing = 0;
        write_more(e);
        break;
    case STREAM_EVENT_SECURE:
        break;
    case STREAM_EVENT_ENDED:
        e->seen->err = s->err;
        e->seen->tls_failure = s->tls_failure;
        break;
    case STREAM_EVENT_CLOSED:
    default:
        e->seen->closed = true;
    }
    if (e->fn != NULL) {
        e->fn(e, event);
    }
    if (event == STREAM_EVENT_ENDED && e->closes) {
        stream_close(s, false);
    }
    if (event == STREAM_EVENT_CLOSED) {
        a = e == a ? NULL : a;
        b = e == b ? NULL : b;
        free(e);
    }
}

static struct end *end_new(struct seen *seen)
{
    struct end *e = calloc(1, sizeof *e);
    assert_non_null(e);
    *seen = (struct seen){.in_order = true};
    e->seen = seen;
    e->use_max = SIZE_MAX;
    e->reads = true;
    e->closes = true;
    stream_init(&e->stream, io, on_stream);
    return e;
}

static struct end *end_open(struct seen *seen, int fd)
{
    struct end *e = end_new(seen);
    stream_open(&e->stream, fd);
    return e;
}

/* ---- the loop ---- */

static bool (*done)(void);
static struct seen a_seen, b_seen;

static struct end *live(struct end *e)
{
    assert_non_null(e);
    return e;
}

static void close_now(struct end *e, bool gracefully)
{
    assert_int_not_equal(live(e)->stream.state, STREAM_STATE_CLOSING);
    e->busy = true;
    stream_close(&e->stream, gracefully);
    e->busy = false;
}

static bool a_closed(void)
{
    return a_seen.closed;
}

static bool both_closed(void)
{
    return a_seen.closed && b_seen.closed;
}

static void nothing(struct io_op *op)
{
    (void)op;
}

static struct io_op pause_op = {.fn = nothing};

static bool paused(void)
{
    return !io_pending(&pause_op);
}

static void after_batch(void *ctx)
{
    (void)ctx;
    /* With both closed nothing more will happen, but that time goes by. */
    if (done() || (done != paused && both_closed())) {
        io_stop(io);
    }
}

static void guard_fired(struct io_op *op)
{
    (void)op;
    (void)fprintf(stderr, "the case hangs\n");
    abort();
}

static void run_until(bool (*condition)(void))
{
    done = condition;
    if (!condition()) {
        io_timer(io, &guard, io_now_ms(io) + GUARD_MS);
        io_run(io);
        io_cancel(io, &guard);
        assert_true(condition());
    }
}

/* Some rounds of the loop: whatever is ready happens. */
static void run_rounds(size_t rounds)
{
    for (size_t round = 0; round < rounds; round++) {
        io_timer(io, &pause_op, io_now_ms(io) + 2);
        run_until(paused);
    }
}

static void run_a_while(void)
{
    run_rounds(5);
}

static bool loop_open(enum io_backend backend)
{
    struct io_config config = {.backend = backend};
    struct io_about about;
    if (io_new(&io, &config, &about) != ERR_OK) {
        return false; /* this box offers no io_uring */
    }
    guard.fn = guard_fired;
    a_seen = b_seen = (struct seen){.closed = true};
    io_set_after_batch(io, after_batch, NULL);
    return true;
}

/* Both sides of one TCP connection over loopback. */
static void tcp_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)(void *)&address, len), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)(void *)&address, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)(void *)&address, len), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fds[1] >= 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    close(listener);
}

static void unix_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static void both_open(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    b = end_open(&b_seen, fds[1]);
}

static void put(int fd, const char *text)
{
    size_t len = strlen(text);
    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
}

static bool both_secure(void)
{
    return a_seen.events[STREAM_EVENT_SECURE] == 1 && b_seen.events[STREAM_EVENT_SECURE] == 1;
}

/* a is the client. */
static void both_secured(void)
{
    both_open();
    assert_int_equal(stream_secure(&b->stream, server_policy, ""), ERR_OK);
    assert_int_equal(stream_secure(&a->stream, client_policy, "relay.example.jp"), ERR_OK);
    run_until(both_secure);
}

static void close_both(void)
{
    if (!a_seen.closed && a->stream.state < STREAM_STATE_ENDED) {
        close_now(a, false);
    }
    run_until(a_closed);
    if (!b_seen.closed && b->stream.state < STREAM_STATE_ENDED) {
        close_now(b, false);
    }
    run_until(both_closed);
}

/* ---- plain and inside TLS ---- */

static void send_buffer_small(const struct end *e)
{
    int small = 4096;
    (void)setsockopt(e->stream.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
}

static bool bulk_came(void)
{
    return a_seen.count >= BULK_BYTES && b_seen.count >= BULK_BYTES;
}

static void bulk(size_t a_use, size_t b_use)
{
    struct end *ends[2] = {a, b};
    a->use_max = a_use;
    b->use_max = b_use;
    for (size_t at = 0; at < 2; at++) {
        send_buffer_small(ends[at]); /* so that sends stay pending while much is received */
        ends[at]->to_write = BULK_BYTES;
        write_more(ends[at]);
        stream_read(&ends[at]->stream);
    }
    run_until(bulk_came);
    assert_true(a_seen.in_order && b_seen.in_order);
    assert_int_equal(a_seen.count, BULK_BYTES);
    assert_int_equal(b_seen.count, BULK_BYTES);
}

static void case_plain_both_ways(void)
{
    both_open();
    bulk(SIZE_MAX, SIZE_MAX);
    close_both();
}

static void case_plain_partly_used(void)
{
    both_open();
    bulk(7001, 1024);
    close_both();
}

static void case_tls_both_ways(void)
{
    both_secured();
    assert_int_equal(strncmp(stream_tls_description(&a->stream), "TLSv1.", 6), 0);
    bulk(SIZE_MAX, SIZE_MAX);
    close_both();
}

static void case_tls_partly_used(void)
{
    both_secured();
    bulk(5000, 999);
    close_both();
}

static bool a_has_ten(void)
{
    return a_seen.count == 10;
}

static bool a_has_some(void)
{
    return a_seen.count > 0;
}

/* What was not used stays, and comes again only when it is asked for. */
static void case_nothing_comes_unasked(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    a->reads = false;
    a->use_max = 4;
    put(fds[1], "0123456789");
    run_a_while();
    assert_int_equal(a_seen.events[STREAM_EVENT_DATA], 0);
    stream_read(&live(a)->stream);
    stream_read(&live(a)->stream); /* once is enough */
    run_until(a_has_some);
    run_a_while();
    assert_int_equal(a_seen.events[STREAM_EVENT_DATA], 1);
    assert_int_equal(a_seen.count, 4);
    stream_read(&live(a)->stream);
    assert_int_equal(a_seen.events[STREAM_EVENT_DATA], 1); /* never inside our own call */
    run_a_while();
    assert_int_equal(a_seen.count, 8);
    stream_read(&live(a)->stream);
    run_until(a_has_ten);
    assert_memory_equal(a_seen.bytes, "0123456789", 10);
    close_now(a, false);
    run_until(a_closed);
    close(fds[1]);
}

/* Using nothing, and asking again, is a step of its own each time: others have their turn. */
static void case_unused_is_offered_again(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    a->use_max = 0;
    put(fds[1], "0123456789");
    stream_read(&live(a)->stream);
    run_rounds(turns(5, 1));
    assert_true(a_seen.events[STREAM_EVENT_DATA] > 1);
    live(a)->use_max = SIZE_MAX;
    run_until(a_has_ten);
    assert_memory_equal(a_seen.bytes, "0123456789", 10);
    close_now(a, false);
    run_until(a_closed);
    close(fds[1]);
}

/* ---- STARTTLS ---- */

static bool b_came;

static void starts_tls_in_data(struct end *e, enum stream_event event)
{
    if (event == STREAM_EVENT_DATA && !b_came) {
        b_came = true;
        e->fn = NULL;
        assert_int_equal(stream_secure(&e->stream, server_policy, ""), ERR_OK);
    }
}

static void starts_tls_when_sent(struct end *e, enum stream_event event)
{
    if (event == STREAM_EVENT_SENT && !b_came) {
        b_came = true;
        e->fn = NULL;
        assert_int_equal(stream_secure(&e->stream, server_policy, ""), ERR_OK);
    }
}

static bool b_began(void)
{
    return b_came;
}

static bool b_has_ten_more(void)
{
    return b_seen.count == 20;
}

/* RFC 3207 4.2: what was said in the clear counts for nothing inside. */
static void inject(end_fn *fn, bool answers)
{
    int fds[2];
    unix_pair(fds);
    b = end_open(&b_seen, fds[1]);
    b_came = false;
    b->fn = fn;
    b->use_max = 10; /* "STARTTLS\r\n" */
    b->reads = !answers;
    put(fds[0], "STARTTLS\r\nEVIL AND MORE OF IT\r\n");
    stream_read(&live(b)->stream);
    if (answers) {
        run_a_while();
        stream_write(&live(b)->stream, SLICE("220 go\r\n"));
    }
    run_until(b_began);
    if (answers) {
        char reply[8];
        assert_int_equal(recv(fds[0], reply, sizeof reply, 0), 8);
    }
    a = end_open(&a_seen, fds[0]);
    assert_int_equal(stream_secure(&a->stream, client_policy, "relay.example.jp"), ERR_OK);
    run_until(both_secure);
    stream_write(&live(a)->stream, SLICE("EHLO abcd\n"));
    stream_read(&live(b)->stream);
    run_until(b_has_ten_more);
    assert_memory_equal(b_seen.bytes, "STARTTLS\r\nEHLO abcd\n", 20);
    close_both();
}

static void case_starttls_in_data_voids_the_rest(void)
{
    inject(starts_tls_in_data, false);
}

static void case_starttls_when_sent_voids_the_rest(void)
{
    inject(starts_tls_when_sent, true);
}

static void case_untrusted_is_told(void)
{
    both_open();
    assert_int_equal(stream_secure(&b->stream, server_policy, ""), ERR_OK);
    assert_int_equal(stream_secure(&a->stream, strict_policy, "relay.example.jp"), ERR_OK);
    run_until(both_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.tls_failure, TLS_FAILURE_UNTRUSTED);
    assert_int_equal(a_seen.events[STREAM_EVENT_SECURE], 0);
}

static void case_garbage_is_no_handshake(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    assert_int_equal(stream_secure(&a->stream, client_policy, "relay.example.jp"), ERR_OK);
    put(fds[1], "250 hello, this is no TLS at all\r\n");
    run_until(a_closed);
    assert_int_equal(a_seen.tls_failure, TLS_FAILURE_HANDSHAKE);
    close(fds[1]);
}

static void case_peer_goes_in_the_handshake(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    assert_int_equal(stream_secure(&a->stream, client_policy, "relay.example.jp"), ERR_OK);
    run_a_while();
    close(fds[1]);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.events[STREAM_EVENT_SECURE], 0);
}

/* ---- ends ---- */

static void closes_when_sent(struct end *e, enum stream_event event)
{
    if (event == STREAM_EVENT_SENT && e->written == e->to_write) {
        close_now(e, true);
    }
}

static void last_words(void)
{
    a->to_write = BULK_BYTES;
    a->fn = closes_when_sent;
    write_more(a);
    stream_read(&live(b)->stream);
    run_until(both_closed);
    assert_int_equal(b_seen.count, BULK_BYTES);
    assert_true(b_seen.in_order);
    assert_int_equal(b_seen.err, ERR_CLOSED);
    assert_int_equal(b_seen.tls_failure, TLS_FAILURE_NONE);
}

static void case_last_words_arrive(void)
{
    both_open();
    last_words();
}

static void case_last_words_arrive_in_tls(void)
{
    both_secured();
    last_words();
}

static void case_tls_cut_off_is_no_end(void)
{
    both_secured();
    stream_read(&live(b)->stream);
    close_now(a, false);
    run_until(both_closed);
    assert_int_equal(b_seen.tls_failure, TLS_FAILURE_TRUNCATED);
}

static void case_peer_ends(void)
{
    int fds[2];
    tcp_pair(fds);
    a = end_open(&a_seen, fds[0]);
    stream_read(&live(a)->stream);
    put(fds[1], "0123456789");
    close(fds[1]);
    run_until(a_closed);
    assert_int_equal(a_seen.count, 10);
    assert_int_equal(a_seen.err, ERR_CLOSED);
}

static void case_peer_resets(void)
{
    int fds[2];
    struct linger at_once = {.l_onoff = 1};
    tcp_pair(fds);
    a = end_open(&a_seen, fds[0]);
    stream_read(&live(a)->stream);
    assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    run_a_while();
    close(fds[1]);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.err, ERR_RESET);
}

/* Found when writing, while nothing is read. */
static void case_peer_is_gone_when_writing(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    close(fds[1]);
    a->to_write = BULK_BYTES;
    write_more(a);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.events[STREAM_EVENT_SENT], 0);
}

/* ---- the last word before the end, of a peer that takes nothing more ---- */

#define LAST_WORD "552 too big\r\n"

static int hanging_fd = -1; /* of the peer, until it has hung up */

/* With bytes unread, so that a reset follows the word. */
static void hang_up(void)
{
    uint8_t some[1000];
    assert_true(recv(hanging_fd, some, sizeof some, 0) > 0);
    put(hanging_fd, LAST_WORD);
    close(hanging_fd);
    hanging_fd = -1;
}

static void hang_up_in_tls(void)
{
    struct tls *tls = live(b)->stream.tls;
    assert_int_equal(tls_write(tls, SLICE(LAST_WORD)), strlen(LAST_WORD));
    struct slice out = tls_output(tls);
    assert_int_equal(send(hanging_fd, out.data, out.len, MSG_NOSIGNAL), out.len);
    tls_output_done(tls, out.len);
    assert_int_equal(shutdown(hanging_fd, SHUT_RDWR), 0);
    hanging_fd = -1;
}

/* The peer does it between two sends of ours. */
static void writes_behind_the_last_word(struct end *e, enum stream_event event)
{
    if (event == STREAM_EVENT_SENT && hanging_fd >= 0) {
        if (b_seen.closed) {
            hang_up();
        } else {
            hang_up_in_tls();
        }
        e->to_write += sizeof e->chunk;
        write_more(e);
    }
}

static bool cannot_send(void)
{
    return !stream_can_send(&live(a)->stream);
}

static void write_to(int peer)
{
    hanging_fd = peer;
    stream_hear_out(&live(a)->stream);
    a->fn = writes_behind_the_last_word;
    a->to_write = sizeof a->chunk;
    write_more(a);
}

static void open_to_be_hung_up(void)
{
    int fds[2];
    tcp_pair(fds);
    a = end_open(&a_seen, fds[0]);
    write_to(fds[1]);
}

static void check_last_word(void)
{
    run_until(a_closed);
    assert_int_equal(a_seen.count, strlen(LAST_WORD));
    assert_memory_equal(a_seen.bytes, LAST_WORD, a_seen.count);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.events[STREAM_EVENT_SENT], 1);
}

static void case_last_word_is_heard(void)
{
    open_to_be_hung_up();
    stream_read(&live(a)->stream);
    check_last_word();
}

static void case_last_word_is_heard_in_tls(void)
{
    both_secured();
    stream_read(&live(a)->stream);
    write_to(b->stream.fd);
    check_last_word();
    close_both();
}

/* The owner was busy with other things when the send failed. */
static void case_last_word_is_heard_when_asked_for_later(void)
{
    open_to_be_hung_up();
    run_until(cannot_send);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 0);
    stream_read(&live(a)->stream);
    check_last_word();
}

static void case_last_word_is_not_waited_for_for_ever(void)
{
    open_to_be_hung_up();
    run_until(a_closed);
    assert_int_equal(a_seen.count, 0);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_not_equal(a_seen.err, ERR_OK);
}

static void case_close_instead_of_the_last_word(void)
{
    open_to_be_hung_up();
    run_until(cannot_send);
    close_now(a, true);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 0);
}

/* Writable from the first moment, but not before it has a socket. */
static void case_given_a_socket(void)
{
    int fds[2];
    char end[1];
    a = end_new(&a_seen);
    assert_false(stream_writable(&a->stream));
    tcp_pair(fds);
    stream_open(&a->stream, fds[0]);
    assert_true(stream_writable(&a->stream));
    close_now(a, true);
    run_a_while();
    assert_int_equal(recv(fds[1], end, sizeof end, 0), 0);
    close(fds[1]);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 0);
}

/* What connect says. */
static int connect_nowhere(int fd)
{
    struct sockaddr_in nowhere = {.sin_family = AF_INET,
                                  .sin_port = htons(1),
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    return connect(fd, (struct sockaddr *)(void *)&nowhere, sizeof nowhere) == 0 ? 0 : errno;
}

/* A connection that came to nothing is an end like any other. */
static void case_given_an_unconnected_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int refused = connect_nowhere(fd);
    assert_true(refused == ECONNREFUSED || refused == EINPROGRESS);
    a = end_open(&a_seen, fd);
    a->to_write = 10;
    write_more(a);
    run_until(a_closed);
    assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
    assert_int_equal(a_seen.events[STREAM_EVENT_SENT], 0);
    assert_int_not_equal(a_seen.err, ERR_OK);
}

/* ---- closing in every state ---- */

enum where {
    IDLE,
    FRESH,
    READING,
    CARRYING,
    WRITING,
    SHAKING,
    SECURED,
    SECURED_WRITING,
    FAILED_UNTOLD,
    PARTING,
    WHERE_COUNT
};

static int peer_fd = -1;

static void reach_secured(void)
{
    both_secured();
    b->closes = true;
    stream_read(&live(b)->stream);
}

static void reach(enum where where)
{
    int fds[2];
    b_seen = (struct seen){.closed = true};
    if (where == SECURED || where == SECURED_WRITING) {
        reach_secured();
    } else {
        unix_pair(fds);
        peer_fd = fds[1];
        a = end_new(&a_seen);
        if (where > IDLE) {
            stream_open(&a->stream, fds[0]);
        } else {
            close(fds[0]);
        }
    }
    switch (where) {
    case READING:
        stream_read(&live(a)->stream);
        return;
    case CARRYING:
        a->use_max = 1;
        a->reads = false;
        put(peer_fd, "0123456789");
        stream_read(&live(a)->stream);
        run_until(a_has_some);
        stream_read(&live(a)->stream);
        return;
    case WRITING:
    case SECURED_WRITING:
        if (turns(0, 1) == 1) {
            send_buffer_small(a);
        }
        a->to_write = FULL_BYTES;
        write_more(a);
        if (where == WRITING) {
            run_a_while(); /* the socket is full, nobody reads */
        }
        return;
    case SHAKING:
        assert_int_equal(stream_secure(&a->stream, client_policy, "x.example"), ERR_OK);
        return;
    case FAILED_UNTOLD:
        a->closes = false;
        stream_read(&live(a)->stream);
        close(peer_fd);
        peer_fd = -1;
        run_a_while();
        assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], 1);
        return;
    case PARTING:
        close_now(a, true);
        return;
    case IDLE:
    case FRESH:
    case SECURED:
    case WHERE_COUNT:
    default:
        return;
    }
}

static void case_close_everywhere(void)
{
    for (int where = 0; where < WHERE_COUNT; where++) {
        for (int way = 0; way < 4; way++) {
            reach((enum where)where);
            uint32_t ended = a_seen.events[STREAM_EVENT_ENDED];
            if (way >= 2) {
                run_rounds(turns(5, 1)); /* not at once */
                if (a_seen.closed) {
                    goto next;
                }
                ended = a_seen.events[STREAM_EVENT_ENDED];
            }
            close_now(a, way % 2 == 0);
            if (peer_fd >= 0) {
                close(peer_fd); /* else the last look takes its two seconds */
            }
            peer_fd = -1;
            run_until(a_closed);
            assert_int_equal(a_seen.events[STREAM_EVENT_CLOSED], 1);
            assert_int_equal(a_seen.events[STREAM_EVENT_ENDED], ended);
        next:
            if (peer_fd >= 0) {
                close(peer_fd);
            }
            peer_fd = -1;
            run_until(both_closed);
        }
    }
}

/* A peer that says nothing and never goes is not waited for. */
static void case_parting_has_an_end(void)
{
    int fds[2];
    unix_pair(fds);
    a = end_open(&a_seen, fds[0]);
    close_now(a, true);
    uint64_t began_ms = io_now_ms(io);
    run_until(a_closed);
    assert_true(io_now_ms(io) - began_ms >= 1900);
    close(fds[1]);
}

static enum stream_event closing_event;
static bool closing_gracefully;

static void closes_inside(struct end *e, enum stream_event event)
{
    if (event == closing_event) {
        e->closes = false;
        e->fn = NULL;
        close_now(e, closing_gracefully);
    }
}

static void case_close_inside_every_event(void)
{
    static const enum stream_event events[] = {STREAM_EVENT_DATA, STREAM_EVENT_SENT,
                                               STREAM_EVENT_SECURE, STREAM_EVENT_ENDED};
    for (size_t at = 0; at < sizeof events / sizeof events[0] * 2; at++) {
        closing_event = events[at / 2];
        closing_gracefully = at % 2 == 0;
        for (int secure = closing_event == STREAM_EVENT_SECURE; secure < 2; secure++) {
            both_open();
            a->fn = closes_inside;
            a->use_max = turns(3, 600); /* and something is left over */
            if (secure == 1) {
                assert_int_equal(stream_secure(&b->stream, server_policy, ""), ERR_OK);
                assert_int_equal(stream_secure(&a->stream, client_policy, "relay.example.jp"),
                                 ERR_OK);
            }
            run_a_while();
            if (!a_seen.closed && closing_event != STREAM_EVENT_SECURE) {
                live(b)->to_write = turns(100000, 6000);
                write_more(b);
                a->to_write = turns(100000, 6000);
                write_more(a);
                stream_read(&live(a)->stream);
                if (closing_event == STREAM_EVENT_ENDED) {
                    run_a_while();
                    close_now(b, false);
                }
            }
            if (!b_seen.closed && b->stream.state != STREAM_STATE_CLOSING) {
                stream_read(&live(b)->stream);
            }
            run_until(both_closed);
            assert_int_equal(a_seen.events[closing_event], 1);
        }
    }
}

/* ---- a certificate ---- */

static void make_certificate(void)
{
    snprintf(directory, sizeof directory, "/tmp/test_stream.XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(certificate, sizeof certificate, "%s/c.pem", directory);
    snprintf(key, sizeof key, "%s/c.key", directory);
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    assert_true(pair != NULL && x != NULL);
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -86400);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                               (const unsigned char *)"relay.example.jp", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_set_pubkey(x, pair);
    assert_true(X509_sign(x, pair, EVP_sha256()) > 0);
    FILE *file = fopen(certificate, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, x), 1);
    fclose(file);
    file = fopen(key, "we");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, pair, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    X509_free(x);
    EVP_PKEY_free(pair);
}

static int setup(void **state)
{
    (void)state;
    char problem[256];
    assert_int_equal(tls_library_init(), ERR_OK);
    make_certificate();
    struct tls_server_config server = {.certificate_file = certificate, .key_file = key};
    struct tls_client_config client = {.verify = TLS_VERIFY_NONE};
    struct tls_client_config strict = {.verify = TLS_VERIFY_FULL};
    assert_int_equal(tls_server_policy_new(&server_policy, &server, problem), ERR_OK);
    assert_int_equal(tls_client_policy_new(&client_policy, &client, problem), ERR_OK);
    assert_int_equal(tls_client_policy_new(&strict_policy, &strict, problem), ERR_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tls_policy_free(&server_policy);
    tls_policy_free(&client_policy);
    tls_policy_free(&strict_policy);
    tls_library_deinit();
    unlink(certificate);
    unlink(key);
    return rmdir(directory);
}

/* ---- all of it, on each backend ---- */

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
#define ROW(name)                                                                                  \
    {                                                                                              \
#name, case_##name                                                                         \
    }
    ROW(plain_both_ways),
    ROW(plain_partly_used),
    ROW(tls_both_ways),
    ROW(tls_partly_used),
    ROW(nothing_comes_unasked),
    ROW(unused_is_offered_again),
    ROW(starttls_in_data_voids_the_rest),
    ROW(starttls_when_sent_voids_the_rest),
    ROW(untrusted_is_told),
    ROW(garbage_is_no_handshake),
    ROW(peer_goes_in_the_handshake),
    ROW(last_words_arrive),
    ROW(last_words_arrive_in_tls),
    ROW(tls_cut_off_is_no_end),
    ROW(peer_ends),
    ROW(peer_resets),
    ROW(peer_is_gone_when_writing),
    ROW(last_word_is_heard),
    ROW(last_word_is_heard_in_tls),
    ROW(last_word_is_heard_when_asked_for_later),
    ROW(last_word_is_not_waited_for_for_ever),
    ROW(close_instead_of_the_last_word),
    ROW(given_a_socket),
    ROW(given_an_unconnected_socket),
    ROW(close_everywhere),
    ROW(parting_has_an_end),
    ROW(close_inside_every_event),
#undef ROW
};
#define CASES (sizeof cases / sizeof cases[0])

static const struct {
    const char *name;
    enum io_backend backend;
} backends[] = {{"poll", IO_BACKEND_POLL}, {"uring", IO_BACKEND_URING}};
#define BACKENDS (sizeof backends / sizeof backends[0])

struct run {
    size_t at;
    enum io_backend backend;
};

static void run_case(void **state)
{
    const struct run *r = *state;
    if (!loop_open(r->backend)) {
        skip();
    }
    cases[r->at].run();
    io_free(&io); /* checks that nothing is pending */
}

int main(void)
{
    static char names[BACKENDS * CASES][64];
    static struct run runs[BACKENDS * CASES];
    static struct CMUnitTest tests[BACKENDS * CASES];
    for (size_t at = 0; at < BACKENDS * CASES; at++) {
        runs[at] = (struct run){at % CASES, backends[at / CASES].backend};
        snprintf(names[at], sizeof names[at], "%s/%s", backends[at / CASES].name,
                 cases[at % CASES].name);
        tests[at] = (struct CMUnitTest){names[at], run_case, NULL, NULL, &runs[at]};
    }
    return _cmocka_run_group_tests("stream", tests, BACKENDS * CASES, setup, teardown);
}
