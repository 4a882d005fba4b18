/*
 * Sessions of clients against ingress.h: the real loop and real sockets, and a queue thread that is
 * a mailbox which the case answers itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/ingress/ingress.h"
#include "daemon/proto/smtp_server.h"
#include "schema/record.h"
#include "tests/unit/turns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUARD_MS    60000
#define PIECE_BYTES 65520

struct fixture {
    struct config *config;
    struct io *io;
    struct io_op wake, guard, tick;
    struct mailbox self, queue;
    int queue_fd, listen_fd, client_fd;
    struct sockaddr_in address;
    struct flow_ids ids;
    struct ingress_shared *shared;
    struct log log;
    struct metrics metrics;
    struct ingress *ingress;
    struct flow_msg *asked; /* what the queue thread was sent and has not answered */
    char said[65536];       /* by the server */
    size_t said_len;
    uint32_t batches;
    bool (*done)(struct fixture *f);
    const char *expected;
    bool hung_up;         /* nothing more will be said */
    uint32_t closed_told; /* lines of the log about a connection's end */
};

static void log_line_came(void *ctx, enum log_level level, struct slice line)
{
    struct fixture *f = ctx;
    (void)level;
    f->closed_told += memmem(line.data, line.len, "client-closed", 13) != NULL;
}

static void guard_fired(struct io_op *op)
{
    struct fixture *f = IO_OWNER(op, struct fixture, guard);
    (void)fprintf(stderr, "the case hangs; said: %.*s\n", (int)f->said_len, f->said);
    abort();
}

static void ticked(struct io_op *op)
{
    (void)op;
}

static void woken(struct io_op *op)
{
    struct fixture *f = IO_OWNER(op, struct fixture, wake);
    for (struct flow_msg *msg = mailbox_take_all(&f->self); msg != NULL;) {
        struct flow_msg *next = msg->next;
        ingress_intake_back(FLOW_FROM(msg, struct flow_intake));
        msg = next;
    }
}

static void after_batch(void *ctx)
{
    struct fixture *f = ctx;
    f->batches++;
    if (f->asked == NULL) {
        f->asked = mailbox_take_all(&f->queue);
    }
    if (f->done(f)) {
        io_stop(f->io);
    } else if (!io_pending(&f->tick)) {
        /* The case's own side is looked at. */
        io_timer(f->io, &f->tick, io_now_ms(f->io) + turns(1, 5));
    }
}

static void run_until(struct fixture *f, bool (*done)(struct fixture *f))
{
    f->done = done;
    io_timer(f->io, &f->guard, io_now_ms(f->io) + GUARD_MS);
    io_timer(f->io, &f->tick, io_now_ms(f->io));
    io_run(f->io);
    io_cancel(f->io, &f->guard);
    io_cancel(f->io, &f->tick);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->config = calloc(1, sizeof *f->config);
    f->shared = calloc(1, sizeof *f->shared);
    assert_true(f->config != NULL && f->shared != NULL);
    struct io_config io_config = {.backend = IO_BACKEND_AUTO};
    struct io_about about;
    assert_int_equal(io_new(&f->io, &io_config, &about), ERR_OK);
    f->guard.fn = guard_fired;
    f->tick.fn = ticked;
    f->wake.fn = woken;
    int bell = io_wake_start(f->io, &f->wake);
    assert_true(bell >= 0);
    mailbox_init(&f->self, bell);
    f->queue_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    mailbox_init(&f->queue, f->queue_fd);
    io_set_after_batch(f->io, after_batch, f);
    f->config->allow.private_networks = true;
    snprintf(f->config->hostname, sizeof f->config->hostname, "relay.example");
    snprintf(f->config->domain, sizeof f->config->domain, "office.example");
    f->config->max_size = 10u << 20;
    f->config->connections_max = 10;
    f->config->connections_per_client = 5;
    f->config->idle_ms_max = 300000;
    f->log = (struct log){.write = log_line_came, .ctx = f, .level = LOG_DEBUG};
    f->client_fd = -1;
    *state = f;
    return 0;
}

static void begin(struct fixture *f)
{
    socklen_t len = sizeof f->address;
    f->address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    f->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(f->listen_fd, (struct sockaddr *)(void *)&f->address, len), 0);
    assert_int_equal(getsockname(f->listen_fd, (struct sockaddr *)(void *)&f->address, &len), 0);
    int small = (int)turns(0, 4096); /* so that a few rounds fill it; 0: as it is */
    if (small > 0) {
        (void)setsockopt(f->listen_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    }
    assert_int_equal(listen(f->listen_fd, 16), 0);
    struct ingress_config config = {
        .config = f->config,
        .io = f->io,
        .queue = &f->queue,
        .self = &f->self,
        .ids = &f->ids,
        .shared = f->shared,
        .log = &f->log,
        .metrics = &f->metrics,
        .piece_bytes = PIECE_BYTES,
        .listen_fds = &f->listen_fd,
        .listen_count = 1,
    };
    assert_int_equal(ingress_new(&f->ingress, &config), ERR_OK);
    ingress_listen(f->ingress);
    f->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(f->client_fd, (struct sockaddr *)(void *)&f->address, len), 0);
    assert_int_equal(fcntl(f->client_fd, F_SETFL, O_NONBLOCK), 0);
}

static bool is_asked(struct fixture *f)
{
    return f->asked != NULL;
}

static void answer(struct fixture *f, enum err result)
{
    struct flow_msg *msg = f->asked;
    assert_non_null(msg);
    f->asked = msg->next;
    FLOW_FROM(msg, struct flow_intake)->result = result;
    mailbox_send(msg->reply_to, msg);
}

static bool is_empty(struct fixture *f)
{
    while (f->asked != NULL) {
        answer(f, ERR_OK);
    }
    return ingress_is_empty(f->ingress);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close(f->client_fd);
    ingress_shutdown(f->ingress);
    ingress_abort(f->ingress);
    run_until(f, is_empty);
    ingress_free(&f->ingress);
    assert_int_equal(atomic_load(&f->shared->connections), 0);
    io_wake_stop(f->io, &f->wake);
    io_free(&f->io);
    close(f->listen_fd);
    close(f->queue_fd);
    free(f->config);
    free(f->shared);
    free(f);
    return 0;
}

static void put(struct fixture *f, const char *text)
{
    size_t len = strlen(text);
    assert_int_equal(send(f->client_fd, text, len, MSG_NOSIGNAL), len);
}

static bool is_said(struct fixture *f)
{
    ssize_t len =
        recv(f->client_fd, f->said + f->said_len, sizeof f->said - 1 - f->said_len, MSG_DONTWAIT);
    f->said_len += len > 0 ? (size_t)len : 0;
    f->said[f->said_len] = '\0';
    f->hung_up = len == 0 || (len < 0 && errno != EAGAIN);
    return f->hung_up || strstr(f->said, f->expected) != NULL;
}

static void expect(struct fixture *f, const char *text)
{
    f->expected = text;
    run_until(f, is_said);
    assert_non_null(strstr(f->said, text));
    f->said_len = 0;
}

static struct flow_intake *intake(struct fixture *f, enum flow_intake_step step)
{
    run_until(f, is_asked);
    struct flow_intake *i = FLOW_FROM(f->asked, struct flow_intake);
    assert_int_equal(i->step, step);
    return i;
}

static void to_content(struct fixture *f)
{
    expect(f, "220 ");
    put(f, "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n");
    expect(f, "354 ");
}

static void test_250_only_after_the_commit(void **state)
{
    struct fixture *f = *state;
    begin(f);
    to_content(f);
    put(f, "Subject: x\r\n\r\nhello\r\n.\r\nNOOP\r\n");
    struct flow_intake *i = intake(f, FLOW_INTAKE_COMMIT);
    assert_int_equal(i->recipient_count, 1);
    assert_int_equal(i->body_bytes, i->piece.len);
    f->expected = "2";
    assert_false(is_said(f));
    answer(f, ERR_OK);
    expect(f, " queued\r\n250 ");
    assert_int_equal(metric_get(&f->metrics, METRIC_ACCEPTED), 1);
}

static void assert_text(struct slice got, const char *expected)
{
    assert_true(slice_equal(got, slice_from_str(expected)));
}

/* What a client asks about reports is on disk as it came; and the next mail knows nothing of it.
 * RFC 3461 4. */
static void test_what_was_asked_about_reports_is_kept(void **state)
{
    struct fixture *f = *state;
    struct record_envelope envelope;
    struct record_rcpt rcpt;
    begin(f);
    expect(f, "220 ");
    put(f, "EHLO x\r\nMAIL FROM:<a@x.example> RET=HDRS ENVID=QQ+2B3\r\n"
           "RCPT TO:<b@x.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bc@x.example\r\n"
           "RCPT TO:<c@x.example> NOTIFY=NEVER\r\nRCPT TO:<root>\r\nDATA\r\n");
    expect(f, "354 ");
    put(f, "hello\r\n.\r\n");
    struct flow_intake *i = intake(f, FLOW_INTAKE_COMMIT);
    assert_int_equal(record_envelope_get(i->envelope, &envelope), ERR_OK);
    assert_int_equal(envelope.flags, RECORD_FLAG_RET_HDRS);
    assert_text(envelope.envid, "QQ+2B3");
    assert_text(envelope.sender, "a@x.example");
    assert_int_equal(envelope.recipient_count, 3);
    assert_true(record_rcpt_next(&envelope.recipients, &rcpt));
    assert_text(rcpt.path, "b@x.example");
    assert_int_equal(rcpt.notify, RECORD_NOTIFY_SUCCESS | RECORD_NOTIFY_DELAY);
    assert_text(rcpt.orcpt, "rfc822;b+2Bc@x.example");
    assert_true(record_rcpt_next(&envelope.recipients, &rcpt));
    assert_text(rcpt.path, "c@x.example");
    assert_int_equal(rcpt.notify, RECORD_NOTIFY_NEVER);
    assert_int_equal(rcpt.orcpt.len, 0);
    assert_true(record_rcpt_next(&envelope.recipients, &rcpt));
    assert_text(rcpt.path, "root@office.example");
    assert_int_equal(rcpt.notify, 0);
    answer(f, ERR_OK);
    expect(f, " queued\r\n");
    put(f, "MAIL FROM:<a@x.example> RET=FULL\r\nRSET\r\nMAIL FROM:<a@x.example>\r\n"
           "RCPT TO:<b@x.example>\r\nDATA\r\n");
    expect(f, "354 ");
    put(f, "hello\r\n.\r\n");
    i = intake(f, FLOW_INTAKE_COMMIT);
    assert_int_equal(record_envelope_get(i->envelope, &envelope), ERR_OK);
    assert_int_equal(envelope.flags, 0);
    assert_int_equal(envelope.envid.len, 0);
    answer(f, ERR_OK);
    expect(f, " queued\r\n");
}

/* The most that one mail may bring with it: its record is whole. */
static void test_the_longest_envelope_fits(void **state)
{
    struct fixture *f = *state;
    struct record_envelope envelope;
    struct record_rcpt rcpt;
    static char orcpt[SMTP_ORCPT_BYTES_MAX + 1];
    static char line[1024];
    const size_t recipients = turns(SMTP_RECIPIENTS_MAX, 30);
    memset(orcpt, 'x', SMTP_ORCPT_BYTES_MAX);
    memcpy(orcpt, "rfc822;", 7);
    begin(f);
    expect(f, "220 ");
    put(f, "EHLO x\r\nMAIL FROM:<a@x.example>\r\n");
    expect(f, "250 2.1.0 ");
    for (unsigned at = 0; at < recipients; at++) {
        bool with = at < SMTP_SERVER_ORCPTS_BYTES_MAX / SMTP_ORCPT_BYTES_MAX;
        snprintf(line, sizeof line, "RCPT TO:<r%u@x.example>%s%s\r\n", at, with ? " ORCPT=" : "",
                 with ? orcpt : "");
        put(f, line);
        expect(f, "250 2.1.5 ");
    }
    put(f, "DATA\r\n");
    expect(f, "354 ");
    put(f, "hello\r\n.\r\n");
    struct flow_intake *i = intake(f, FLOW_INTAKE_COMMIT);
    assert_int_equal(record_envelope_get(i->envelope, &envelope), ERR_OK);
    assert_int_equal(envelope.recipient_count, recipients);
    assert_true(record_rcpt_next(&envelope.recipients, &rcpt));
    assert_text(rcpt.orcpt, orcpt);
    answer(f, ERR_OK);
    expect(f, " queued\r\n");
}

static const struct {
    enum err err;
    const char *reply;
} refusals[] = {{ERR_FULL, "452 4.3.1 "}, {ERR_IO, "451 4.3.0 "}, {ERR_IN_DOUBT, "451 4.3.0 "}};

static void test_what_could_not_be_stored_is_said(void **state)
{
    struct fixture *f = *state;
    begin(f);
    expect(f, "220 ");
    for (size_t at = 0; at < sizeof refusals / sizeof refusals[0]; at++) {
        put(f, "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n");
        expect(f, "354 ");
        put(f, "hello\r\n.\r\n");
        (void)intake(f, FLOW_INTAKE_COMMIT);
        answer(f, refusals[at].err);
        expect(f, refusals[at].reply);
    }
}

static void put_much(struct fixture *f, size_t lines)
{
    static const char line[] =
        "0123456789012345678901234567890123456789012345678901234567890123456789"
        "012345678\r\n";
    for (size_t at = 0; at < lines; at++) {
        put(f, line);
    }
}

/* The client leaves in the middle: what is in the store is taken out again, then nothing is left.
 */
static void test_a_client_that_leaves_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    begin(f);
    to_content(f);
    put_much(f, 1000);
    (void)intake(f, FLOW_INTAKE_APPEND);
    shutdown(f->client_fd, SHUT_RDWR);
    answer(f, ERR_OK);
    (void)intake(f, FLOW_INTAKE_ABANDON);
    answer(f, ERR_OK);
}

/* A piece that failed: the rest is dropped, the end hears of it, and the next message is a new one.
 */
static void test_a_piece_that_failed_is_told_at_the_end(void **state)
{
    struct fixture *f = *state;
    begin(f);
    to_content(f);
    put_much(f, 1000);
    (void)intake(f, FLOW_INTAKE_APPEND);
    answer(f, ERR_FULL);
    put_much(f, 1000);
    put(f, ".\r\n");
    expect(f, "452 4.3.1 ");
    assert_null(f->asked); /* the queue thread has discarded it already */
    put(f, "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n");
    expect(f, "354 ");
    put(f, "hello\r\n.\r\n");
    (void)intake(f, FLOW_INTAKE_COMMIT);
    answer(f, ERR_OK);
    expect(f, " queued\r\n");
}

/* A sanitizer's malloc ends the program instead. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

/* Blocks of a piece's size, until there are no more. */
struct block {
    struct block *next;
    uint8_t rest[PIECE_BYTES - 64];
};

static struct block *take_all_memory(struct rlimit *out_before)
{
    struct block *blocks = NULL;
    assert_int_equal(getrlimit(RLIMIT_AS, out_before), 0);
    const struct rlimit none = {.rlim_max = out_before->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    for (struct block *b = malloc(sizeof *b); b != NULL; b = malloc(sizeof *b)) {
        b->next = blocks;
        blocks = b;
    }
    return blocks;
}

static void give_all_memory(struct block *blocks, const struct rlimit *before)
{
    assert_int_equal(setrlimit(RLIMIT_AS, before), 0);
    while (blocks != NULL) {
        struct block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
}

/* The first that went wrong is what the client hears of, whatever else does until the end. */
static void test_the_first_failure_is_told(void **state)
{
    struct fixture *f = *state;
    begin(f);
    if (&__lsan_do_recoverable_leak_check != NULL) {
        skip();
    }
    to_content(f);
    put_much(f, 1000);
    (void)intake(f, FLOW_INTAKE_APPEND);
    answer(f, ERR_FULL);
    int first = f->client_fd;
    f->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(f->client_fd, (struct sockaddr *)(void *)&f->address, sizeof f->address), 0);
    to_content(f); /* has the buffer that the first one had */
    int second = f->client_fd;
    f->client_fd = first;
    struct rlimit before;
    struct block *blocks = take_all_memory(&before);
    put_much(f, 1000);
    put(f, ".\r\n");
    expect(f, "452 4.3.1 ");
    give_all_memory(blocks, &before);
    close(second);
}
#endif

static uint64_t until_ms;

static bool is_time(struct fixture *f)
{
    return io_now_ms(f->io) >= until_ms;
}

/* The loop goes on meanwhile. */
static void wait_ms(struct fixture *f, uint64_t ms)
{
    until_ms = io_now_ms(f->io) + ms;
    run_until(f, is_time);
}

/* A store that is slow is no fault of the client's: the time is not held against it. */
static void test_our_own_pause_times_nobody_out(void **state)
{
    struct fixture *f = *state;
    f->config->idle_ms_max = 150;
    begin(f);
    to_content(f);
    put_much(f, 2500); /* three pieces: reading stops until the first is stored */
    (void)intake(f, FLOW_INTAKE_APPEND);
    wait_ms(f, 400);
    f->expected = "421";
    assert_false(is_said(f));
    answer(f, ERR_OK);
    put(f, ".\r\n");
    for (;;) {
        run_until(f, is_asked);
        if (FLOW_FROM(f->asked, struct flow_intake)->step == FLOW_INTAKE_COMMIT) {
            break;
        }
        answer(f, ERR_OK);
    }
    answer(f, ERR_OK);
    expect(f, " queued\r\n");
}

static const struct {
    enum err result;
    const char *reply;
} late_answers[] = {{ERR_OK, " queued\r\n"}, {ERR_FULL, "452 4.3.1 "}};

/* However long a commit takes, the client hears what came of it, or it would send the message
 * again. */
static void test_a_commit_beyond_the_idle_timeout_is_answered(void **state)
{
    struct fixture *f = *state;
    f->config->idle_ms_max = turns(400, 100);
    begin(f);
    expect(f, "220 ");
    for (size_t at = 0; at < sizeof late_answers / sizeof late_answers[0]; at++) {
        put(f, "EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n");
        expect(f, "354 ");
        put(f, "hello\r\n.\r\n");
        (void)intake(f, FLOW_INTAKE_COMMIT);
        wait_ms(f, turns(500, 150));
        answer(f, late_answers[at].result);
        expect(f, late_answers[at].reply);
    }
    assert_int_equal(metric_get(&f->metrics, METRIC_CLIENT_TIMEOUTS), 0);
}

/* As many as are taken. */
static void put_noops(int fd, size_t count)
{
    static char noops[6 * 10000];
    assert_true(count <= sizeof noops / 6);
    for (size_t at = 0; at < count; at++) {
        memcpy(noops + 6 * at, "NOOP\r\n", 6);
    }
    (void)!send(fd, noops, 6 * count, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void assert_the_loop_rests(struct fixture *f)
{
    uint32_t before = f->batches;
    wait_ms(f, turns(300, 100));
    assert_in_range(f->batches - before, 1, 400); /* our own ticks, one a millisecond */
}

/* I34: commands without end from a client that never reads the replies. */
static void ask_without_reading(struct fixture *f)
{
    expect(f, "220 ");
    int small = 4096;
    (void)setsockopt(f->client_fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (size_t round = 0; round < turns(200, 14); round++) {
        put_noops(f->client_fd, 10000);
        wait_ms(f, 5);
    }
}

static void test_a_client_that_never_reads_costs_no_time(void **state)
{
    struct fixture *f = *state;
    begin(f);
    ask_without_reading(f);
    assert_the_loop_rests(f);
}

/* Likewise behind QUIT. How much the kernel takes of what nobody reads is not known here, so each
 * client asks for a little more than the one before, less than a session keeps: one of them meets
 * its end while its last words, and not much else, wait for room. */
static void test_last_words_that_are_not_read_cost_no_time(void **state)
{
    struct fixture *f = *state;
    static const char last[] = "QUIT\r\nNOOP\r\n";
    const int small = 4096;
    int fds[40];
    const size_t count = turns(sizeof fds / sizeof fds[0], 4);
    f->config->connections_max = f->config->connections_per_client = (uint32_t)count + 1;
    begin(f);
    (void)setsockopt(f->listen_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    for (size_t at = 0; at < count; at++) {
        fds[at] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        (void)setsockopt(fds[at], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        assert_int_equal(
            connect(fds[at], (struct sockaddr *)(void *)&f->address, sizeof f->address), 0);
        put_noops(fds[at], at * 50);
        assert_int_equal(send(fds[at], last, sizeof last - 1, MSG_NOSIGNAL), sizeof last - 1);
        wait_ms(f, 5);
    }
    assert_the_loop_rests(f);
    assert_in_range(f->closed_told, 1, turns(count - 1, count)); /* the last ones asked too much */
    for (size_t at = 0; at < count; at++) {
        close(fds[at]);
    }
}

static bool is_nobody_here(struct fixture *f)
{
    return metric_get(&f->metrics, METRIC_CLIENTS) == 0;
}

/* It was silent where reading was its turn. */
static void test_a_client_that_never_reads_is_counted_and_told_once(void **state)
{
    struct fixture *f = *state;
    f->config->idle_ms_max = turns(1000, 100);
    begin(f);
    ask_without_reading(f);
    run_until(f, is_nobody_here);
    assert_int_equal(metric_get(&f->metrics, METRIC_CLIENT_TIMEOUTS), 1);
    assert_int_equal(f->closed_told, 1);
}

/* A client that goes while our last words are on their way ended before. */
static void test_an_end_is_told_once(void **state)
{
    struct fixture *f = *state;
    begin(f);
    ask_without_reading(f);
    ingress_shutdown(f->ingress);
    assert_int_equal(f->closed_told, 1);
    close(f->client_fd);
    f->client_fd = -1;
    run_until(f, is_nobody_here);
    assert_int_equal(f->closed_told, 1);
}

/* Its memory and its timer are there until the store has answered: so is its place among those that
 * may be. */
static void test_a_session_counts_until_it_is_gone(void **state)
{
    struct fixture *f = *state;
    begin(f);
    to_content(f);
    put_much(f, 1000);
    (void)intake(f, FLOW_INTAKE_APPEND);
    shutdown(f->client_fd, SHUT_RDWR);
    wait_ms(f, 50);
    assert_int_equal(atomic_load(&f->shared->connections), 1);
    answer(f, ERR_OK);
    (void)intake(f, FLOW_INTAKE_ABANDON);
    assert_int_equal(atomic_load(&f->shared->connections), 1);
    answer(f, ERR_OK);
    run_until(f, is_nobody_here);
    assert_int_equal(atomic_load(&f->shared->connections), 0);
}

static void test_a_stranger_is_turned_away(void **state)
{
    struct fixture *f = *state;
    f->config->allow.private_networks = false;
    begin(f);
    expect(f, "554 5.7.1 ");
}

static void test_too_many_from_one_are_turned_away(void **state)
{
    struct fixture *f = *state;
    f->config->connections_per_client = 1;
    begin(f);
    expect(f, "220 ");
    int first = f->client_fd;
    f->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(f->client_fd, (struct sockaddr *)(void *)&f->address, sizeof f->address), 0);
    expect(f, "421 4.7.0 ");
    close(f->client_fd);
    f->client_fd = first;
    put(f, "NOOP\r\n");
    expect(f, "250 ");
}

static bool is_gone(struct fixture *f)
{
    uint8_t byte;
    return recv(f->client_fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/* I35: strangers are refused with a word each, up to a bound; beyond it they are not even kept. */
static void test_a_flood_of_strangers_is_bounded(void **state)
{
    struct fixture *f = *state;
    f->config->allow.private_networks = false;
    f->config->connections_max = 2;
    begin(f);
    expect(f, "554 5.7.1 ");
    int fds[4] = {f->client_fd};
    assert_int_equal(config_client_sessions_max(f->config), 4);
    for (size_t at = 1; at < 4; at++) {
        fds[at] = f->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(
            connect(f->client_fd, (struct sockaddr *)(void *)&f->address, sizeof f->address), 0);
        expect(f, "554 5.7.1 ");
    }
    f->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(f->client_fd, (struct sockaddr *)(void *)&f->address, sizeof f->address), 0);
    run_until(f, is_gone);
    for (size_t at = 0; at < 4; at++) {
        close(fds[at]);
    }
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_250_only_after_the_commit),
        CASE(test_what_was_asked_about_reports_is_kept),
        CASE(test_the_longest_envelope_fits),
        CASE(test_what_could_not_be_stored_is_said),
        CASE(test_a_client_that_leaves_leaves_nothing),
        CASE(test_a_piece_that_failed_is_told_at_the_end),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CASE(test_the_first_failure_is_told),
#endif
        CASE(test_our_own_pause_times_nobody_out),
        CASE(test_a_commit_beyond_the_idle_timeout_is_answered),
        CASE(test_a_client_that_never_reads_costs_no_time),
        CASE(test_last_words_that_are_not_read_cost_no_time),
        CASE(test_a_client_that_never_reads_is_counted_and_told_once),
        CASE(test_an_end_is_told_once),
        CASE(test_a_session_counts_until_it_is_gone),
        CASE(test_a_stranger_is_turned_away),
        CASE(test_too_many_from_one_are_turned_away),
        CASE(test_a_flood_of_strangers_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
