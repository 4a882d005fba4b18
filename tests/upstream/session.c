/*
 * Bytes between a stream and the SMTP machine, and the answers to its events: what the mode in
 * force says.
 *
 * Nothing is allocated for a message, unless it is kept. What a session holds back (stall, slow) is
 * its output; events are answered when they come.
 */
#include "tests/upstream/session.h"

#include "daemon/base/num.h"
#include "daemon/stream/stream.h"
#include "tests/upstream/keep.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#define HANDSHAKE_MS_MAX 30000

/* Each value says what is true in it. */
enum session_state {
    SESSION_SECURING, /* a TLS handshake is under way */
    SESSION_TALKING,  /* bytes pass */
    SESSION_HOLDING,  /* there is output, and it waits for its time */
    SESSION_CLOSING,  /* stream_close was called */
};

/* What an AUTH exchange waits for. */
enum login_step {
    LOGIN_PLAIN,    /* the one response of PLAIN */
    LOGIN_USER,     /* LOGIN: the name */
    LOGIN_PASSWORD, /* LOGIN: the password */
};

struct session {
    struct loop *loop;
    struct session *prev, *next;
    struct stream stream;
    struct smtp_server machine;
    enum session_state state;
    struct io_op idle; /* the machine's deadline, or the handshake's */
    uint64_t idle_ms;  /* what it is set to, while it is pending */
    struct io_op hold; /* HOLDING: until then */
    size_t sending_bytes;
    enum login_step login;
    bool login_user_known; /* LOGIN: the name was right */
    uint32_t recipients;   /* of the message under way */
    struct keep keep;
    uint8_t line_memory[]; /* smtp_server_line_bytes */
};

static void pump(struct session *s);

/* ---- the end ---- */

static void cut(struct session *s, bool gracefully)
{
    if (s->state != SESSION_CLOSING) {
        s->state = SESSION_CLOSING;
        stream_close(&s->stream, gracefully);
    }
}

static void session_free(struct session *s)
{
    struct loop *loop = s->loop;
    io_cancel(loop->io, &s->idle);
    io_cancel(loop->io, &s->hold);
    keep_abandon(&s->keep);
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        loop->sessions = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    loop->session_count--;
    counter_add(&loop->counters.sessions, (uint64_t)-1);
    free(s);
}

/* ---- the mode's part ---- */

/* Does what the mode in force does at this place of the dialogue. False: nothing, go on. */
static bool misbehave(struct session *s, unsigned at)
{
    const struct mode_row *mode = mode_row(&s->loop->upstream->mode);
    if (mode_does(mode, MODE_CUT, at)) {
        cut(s, false);
        return true;
    }
    if (mode_does(mode, MODE_REFUSE, at)) {
        smtp_server_refuse(&s->machine, mode->code, mode->enhanced, mode->text);
        return true;
    }
    return false;
}

/* ---- login ---- */

/* All bytes are looked at, wherever the first difference is. */
static bool same_secret(struct slice a, struct slice b)
{
    uint8_t difference = a.len != b.len;
    for (size_t index = 0; index < a.len && index < b.len; index++) {
        difference |= a.data[index] ^ b.data[index];
    }
    return difference == 0;
}

static bool is_user(const struct upstream *u, struct slice name)
{
    return same_secret(name, slice_from_str(u->user));
}

static bool is_password(const struct upstream *u, struct slice password)
{
    return same_secret(password, slice_of(u->password, u->password_bytes));
}

static void answer_login(struct session *s, bool good)
{
    struct counters *counters = &s->loop->counters;
    const struct mode_row *mode = mode_row(&s->loop->upstream->mode);
    bool in_the_mood = !mode_does(mode, MODE_REFUSE, MODE_AT_LOGIN);
    counter_add(good && in_the_mood ? &counters->logins : &counters->logins_refused, 1);
    if (!in_the_mood) {
        (void)misbehave(s, MODE_AT_LOGIN);
    } else if (good) {
        smtp_server_accept(&s->machine, NULL);
    } else {
        smtp_server_refuse(&s->machine, 535, "5.7.8", "the user name or the password is wrong");
    }
}

/* message = [authzid] NUL authcid NUL passwd, RFC 4616 2. Whom to act for is not asked here. */
static void judge_plain(struct session *s, struct slice message)
{
    const struct upstream *u = s->loop->upstream;
    struct slice rest = slice_tail(message, slice_find(message, 0) + 1);
    size_t end = slice_find(rest, 0);
    bool user_good = is_user(u, slice_head(rest, end));
    bool password_good = is_password(u, slice_tail(rest, end + 1));
    answer_login(s, user_good && password_good);
}

static void take_login_user(struct session *s, struct slice name)
{
    s->login_user_known = is_user(s->loop->upstream, name);
    s->login = LOGIN_PASSWORD;
    smtp_server_challenge(&s->machine, SLICE("Password:"));
}

static void login_response(struct session *s, struct slice response)
{
    switch (s->login) {
    case LOGIN_PLAIN:
        judge_plain(s, response);
        return;
    case LOGIN_USER:
        take_login_user(s, response);
        return;
    case LOGIN_PASSWORD: {
        bool password_good = is_password(s->loop->upstream, response);
        answer_login(s, password_good && s->login_user_known);
        return;
    }
    }
}

static void login_asked(struct session *s, const struct smtp_server_event *event)
{
    bool plain = slice_equal_nocase(event->text, SLICE("PLAIN"));
    s->login = plain ? LOGIN_PLAIN : LOGIN_USER;
    s->login_user_known = false;
    if (event->has_response) {
        login_response(s, event->response);
    } else {
        smtp_server_challenge(&s->machine, plain ? SLICE("") : SLICE("Username:"));
    }
}

/* ---- mail ---- */

static void keep_path(struct session *s, struct slice verb, struct slice address)
{
    keep_put(&s->keep, verb);
    keep_put(&s->keep, address);
    keep_put(&s->keep, SLICE(">\r\n"));
}

static void mail_asked(struct session *s, const struct smtp_server_event *event)
{
    const char *directory = s->loop->upstream->keep;
    if (misbehave(s, MODE_AT_SENDER)) {
        return;
    }
    s->recipients = 0;
    if (directory != NULL) {
        keep_begin(&s->keep, directory);
        keep_path(s, SLICE("MAIL FROM:<"), event->path.address);
    }
    smtp_server_accept(&s->machine, NULL);
}

static void rcpt_asked(struct session *s, const struct smtp_server_event *event)
{
    if (misbehave(s, MODE_AT_RCPT)) {
        return;
    }
    s->recipients++;
    keep_path(s, SLICE("RCPT TO:<"), event->path.address);
    smtp_server_accept(&s->machine, NULL);
}

static void content_begins(struct session *s)
{
    if (misbehave(s, MODE_AT_DATA)) {
        return;
    }
    keep_put(&s->keep, SLICE("\r\n"));
    smtp_server_accept(&s->machine, NULL);
}

static bool keep_it(struct session *s)
{
    struct upstream *u = s->loop->upstream;
    if (u->keep == NULL) {
        return true;
    }
    uint64_t number = atomic_fetch_add_explicit(&u->kept, 1, memory_order_relaxed) + 1;
    return keep_end(&s->keep, u->keep, number);
}

static void content_ended(struct session *s, uint64_t bytes)
{
    struct upstream *u = s->loop->upstream;
    struct counters *counters = &s->loop->counters;
    if (misbehave(s, MODE_AT_DOT)) {
        keep_abandon(&s->keep);
        return;
    }
    if (!keep_it(s)) {
        smtp_server_refuse(&s->machine, 452, "4.3.1", "the message could not be kept");
        return;
    }
    counter_add(&counters->recipients, s->recipients);
    counter_add(&counters->bytes, bytes);
    counter_add(&counters->messages, 1);
    if (u->verbose) {
        printf("message: %" PRIu64 " bytes for %u recipients, %s, %s\n", bytes, s->recipients,
               s->machine.authenticated ? "logged in" : "without a login",
               s->machine.tls ? stream_tls_description(&s->stream) : "no TLS");
    }
    if (mode_does(mode_row(&u->mode), MODE_TAKE, MODE_AT_DOT)) {
        cut(s, false);
        return;
    }
    smtp_server_accept(&s->machine, NULL);
}

/* ---- events ---- */

static void handle(struct session *s, const struct smtp_server_event *event)
{
    switch (event->type) {
    case SMTP_SERVER_EVENT_MAIL:
        mail_asked(s, event);
        return;
    case SMTP_SERVER_EVENT_RCPT:
        rcpt_asked(s, event);
        return;
    case SMTP_SERVER_EVENT_CONTENT_BEGIN:
        content_begins(s);
        return;
    case SMTP_SERVER_EVENT_CONTENT:
        keep_put(&s->keep, event->text);
        return;
    case SMTP_SERVER_EVENT_CONTENT_END:
        content_ended(s, event->content_bytes);
        return;
    case SMTP_SERVER_EVENT_ABANDON:
        keep_abandon(&s->keep);
        return;
    case SMTP_SERVER_EVENT_STARTTLS:
        smtp_server_accept(&s->machine, NULL);
        return;
    case SMTP_SERVER_EVENT_AUTH:
        login_asked(s, event);
        return;
    case SMTP_SERVER_EVENT_AUTH_RESPONSE:
        login_response(s, event->response);
        return;
    case SMTP_SERVER_EVENT_HELLO:
    case SMTP_SERVER_EVENT_ODD:
    case SMTP_SERVER_EVENT_CLOSE:
    default:
        return;
    }
}

static void pull_events(struct session *s)
{
    struct smtp_server_event event;
    while (s->state != SESSION_CLOSING && smtp_server_next(&s->machine, &event)) {
        handle(s, &event);
    }
}

/* ---- bytes ---- */

static bool stalls(const struct session *s)
{
    return mode_row(&s->loop->upstream->mode)->action == MODE_STALL;
}

static uint64_t deadline_of(const struct session *s)
{
    return s->state == SESSION_SECURING ? s->idle_ms : smtp_server_deadline_ms(&s->machine);
}

static void arm_idle(struct session *s)
{
    uint64_t deadline_ms = deadline_of(s);
    if (deadline_ms != UINT64_MAX && (!io_pending(&s->idle) || deadline_ms < s->idle_ms)) {
        s->idle_ms = deadline_ms;
        io_timer(s->loop->io, &s->idle, deadline_ms);
    }
}

static void secure(struct session *s)
{
    s->state = SESSION_SECURING;
    s->idle_ms = io_now_ms(s->loop->io) + HANDSHAKE_MS_MAX;
    io_timer(s->loop->io, &s->idle, s->idle_ms);
    if (stream_secure(&s->stream, s->loop->upstream->policy, "") != ERR_OK) {
        cut(s, false);
    }
}

static void send_output(struct session *s)
{
    struct slice out = smtp_server_output(&s->machine);
    s->sending_bytes = out.len;
    stream_write(&s->stream, out);
}

/* Sends what there is, asks for more where more can be used, ends where all was said. */
static void pump(struct session *s)
{
    pull_events(s);
    if (s->state != SESSION_TALKING || stalls(s)) {
        return;
    }
    if (smtp_server_output(&s->machine).len > 0) {
        const struct mode_row *mode = mode_row(&s->loop->upstream->mode);
        if (stream_writable(&s->stream) && mode->action == MODE_DELAY) {
            s->state = SESSION_HOLDING;
            io_timer(s->loop->io, &s->hold,
                     io_now_ms(s->loop->io) + mode_delay_ms(&s->loop->upstream->mode));
            return;
        }
        if (stream_writable(&s->stream)) {
            send_output(s);
        }
    } else if (s->machine.state == SMTP_SERVER_TLS) {
        secure(s);
        return;
    } else if (s->machine.state == SMTP_SERVER_CLOSING) {
        cut(s, true);
        return;
    }
    stream_read(&s->stream);
    arm_idle(s);
}

static void held_long_enough(struct io_op *op)
{
    struct session *s = IO_OWNER(op, struct session, hold);
    if (s->state == SESSION_HOLDING) {
        s->state = SESSION_TALKING;
        if (stream_writable(&s->stream) && !stalls(s)) {
            send_output(s);
        }
        pump(s);
    }
}

static void data_came(struct session *s)
{
    struct slice in = s->stream.data;
    if (s->state != SESSION_TALKING || stalls(s)) {
        s->stream.used = 0;
        return;
    }
    while (in.len > 0 && s->state == SESSION_TALKING) {
        size_t used = smtp_server_feed(&s->machine, in, io_now_ms(s->loop->io));
        pull_events(s);
        in = slice_tail(in, used);
        if (used == 0) {
            break;
        }
    }
    s->stream.used = s->stream.data.len - in.len;
    pump(s);
}

/* ---- the beginning ---- */

static void greet(struct session *s)
{
    const struct mode_row *mode = mode_row(&s->loop->upstream->mode);
    if (mode_does(mode, MODE_REFUSE, MODE_AT_GREETING)) {
        smtp_server_refuse_greeting(&s->machine, mode->code, mode->enhanced, mode->text);
    } else {
        smtp_server_greet(&s->machine);
    }
}

static void secured(struct session *s)
{
    s->state = SESSION_TALKING;
    if (s->machine.state == SMTP_SERVER_GREETING) { /* TLS from the first byte */
        s->machine.tls = true;
        greet(s);
    } else {
        smtp_server_tls_started(&s->machine, io_now_ms(s->loop->io));
    }
    pump(s);
}

static void on_stream(struct stream *stream, enum stream_event event)
{
    struct session *s = IO_OWNER(stream, struct session, stream);
    switch (event) {
    case STREAM_EVENT_DATA:
        data_came(s);
        return;
    case STREAM_EVENT_SENT:
        smtp_server_output_done(&s->machine, s->sending_bytes);
        pump(s);
        return;
    case STREAM_EVENT_SECURE:
        secured(s);
        return;
    case STREAM_EVENT_ENDED:
        if (s->loop->upstream->verbose && s->stream.problem[0] != '\0') {
            printf("TLS failed: %s\n", s->stream.problem);
        }
        cut(s, false);
        return;
    case STREAM_EVENT_CLOSED:
        session_free(s);
        return;
    default:
        return;
    }
}

static void on_idle(struct io_op *op)
{
    struct session *s = IO_OWNER(op, struct session, idle);
    uint64_t now_ms = io_now_ms(s->loop->io);
    if (s->state == SESSION_CLOSING) {
        return;
    }
    if (stalls(s)) {
        s->idle_ms = now_ms + UPSTREAM_IDLE_MS_MAX; /* this silence is ours */
        io_timer(s->loop->io, &s->idle, s->idle_ms);
        return;
    }
    if (now_ms >= deadline_of(s)) {
        if (s->state == SESSION_SECURING || smtp_server_output(&s->machine).len > 0) {
            cut(s, false);
            return;
        }
        smtp_server_expire(&s->machine, now_ms);
        pump(s);
    }
    if (s->state != SESSION_CLOSING) {
        arm_idle(s);
    }
}

void session_start(struct loop *loop, int fd)
{
    struct upstream *u = loop->upstream;
    struct session *s = NULL;
    if (loop->session_count < SESSIONS_MAX) {
        s = calloc(1, sizeof *s + smtp_server_line_bytes(&u->limits));
    }
    if (s == NULL) {
        close(fd);
        return;
    }
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    s->loop = loop;
    s->next = loop->sessions;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    loop->sessions = s;
    loop->session_count++;
    counter_add(&loop->counters.sessions, 1);
    counter_add(&loop->counters.connections, 1);
    s->idle.fn = on_idle;
    s->hold.fn = held_long_enough;
    s->state = SESSION_TALKING;
    smtp_server_init(&s->machine, &u->limits, s->line_memory, io_now_ms(loop->io));
    stream_init(&s->stream, loop->io, on_stream);
    stream_open(&s->stream, fd);
    if (u->tls_on_connect) {
        secure(s);
    } else {
        greet(s);
        pump(s);
    }
}

void session_mode_changed(struct loop *loop)
{
    bool hangs_up = mode_row(&loop->upstream->mode)->hangs_up;
    for (struct session *s = loop->sessions; s != NULL;) {
        struct session *next = s->next;
        if (hangs_up && s->state != SESSION_CLOSING) {
            smtp_server_shutdown(&s->machine);
        }
        pump(s);
        s = next;
    }
}

void session_cut_all(struct loop *loop)
{
    for (struct session *s = loop->sessions; s != NULL;) {
        struct session *next = s->next;
        cut(s, false);
        s = next;
    }
}
