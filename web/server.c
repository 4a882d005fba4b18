/*
 * The HTTP server. See server.h.
 *
 * A connection reads a head, perhaps waits for the daemon, writes the answer, and begins again;
 * each state has a function that takes one step and says whether to go on at once.
 */
#include "web/server.h"

#include "daemon/base/num.h"
#include "web/ask.h"
#include "web/http.h"
#include "web/route.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define IN_BYTES         (HTTP_HEAD_BYTES_MAX + 64) /* the scan refuses before this is full */
#define STEPS_MAX        64  /* of one connection before the others have their turn */
#define ACCEPTS_MAX      32  /* likewise */
#define ACCEPT_PAUSE_MS  200 /* when there are no descriptors or no memory */
#define LINGER_BYTES_MAX (1u << 20)
#define REFUSALS_LOGGED  10 /* in a second; more are counted */
#define FIXED_POLLS      2  /* signals, listener */

_Static_assert(WEB_CALLS_MAX < CONTROL_CONNECTIONS_MAX, "others can still ask the daemon");

enum state {
    STATE_READING,   /* no request is being answered; part of one may be in `in` */
    STATE_ASKING,    /* the daemon has been asked */
    STATE_WRITING,   /* head and answer are being sent */
    STATE_LINGERING, /* all is said; what the client still sends is thrown away, so that it can
                        read our last words before it hears of the close */
    STATE_CLOSED,    /* to be removed */
    STATE_COUNT
};

struct connection {
    enum state state;
    int fd;
    uint64_t since_ms, deadline_ms; /* of the state */
    bool ready;                     /* go on without waiting for the socket */
    struct sockaddr_storage local, peer;
    struct http_scan scan;
    uint8_t in[IN_BYTES];
    size_t in_len;
    struct ask ask;
    const struct route *route;
    bool body_wanted; /* not HEAD */
    bool persistent;
    struct answer answer;
    uint8_t head[ANSWER_HEAD_BYTES_MAX];
    size_t head_len, sent, lingered;
};

enum daemon_state { DAEMON_UNKNOWN, DAEMON_UP, DAEMON_DOWN };

struct server {
    const struct server_with *with;
    uint64_t now_ms; /* monotonic, of this round */
    uint32_t count, calls;
    size_t bodies_bytes; /* owned by answers */
    uint64_t accept_after_ms;
    enum daemon_state daemon;
    uint64_t refusals_second;
    uint32_t refusals, refusals_dropped;
    struct connection *connections[WEB_CONNECTIONS_MAX]; /* owned; the first count */
    struct pollfd polls[FIXED_POLLS + WEB_CONNECTIONS_MAX];
};

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- what is logged ---- */

static void log_put_peer(struct log_line *line, const struct sockaddr_storage *peer)
{
    char text[NI_MAXHOST];
    if (getnameinfo((const struct sockaddr *)peer, sizeof *peer, text, sizeof text, NULL, 0,
                    NI_NUMERICHOST) != 0) {
        (void)snprintf(text, sizeof text, "unknown");
    }
    log_put_word(line, "client", text);
}

/* A hostile client must not be able to fill the log. */
static bool refusal_is_logged(struct server *s)
{
    uint64_t second = s->now_ms / 1000;
    if (second != s->refusals_second) {
        s->refusals_second = second;
        s->refusals = 0;
    }
    if (s->refusals == REFUSALS_LOGGED) {
        s->refusals_dropped++;
        return false;
    }
    s->refusals++;
    return true;
}

static void log_refusal(struct server *s, const struct connection *c, uint16_t status,
                        const char *sentence)
{
    struct log_line line;
    if (!refusal_is_logged(s)) {
        return;
    }
    log_begin(&line, s->with->log, LOG_NOTICE, "request-refused");
    log_put_peer(&line, &c->peer);
    log_put_u64(&line, "status", status);
    if (s->refusals_dropped > 0) {
        log_put_u64(&line, "not-logged", s->refusals_dropped);
        s->refusals_dropped = 0;
    }
    log_put_text(&line, "reason", slice_from_str(sentence));
    log_end(&line);
}

static void log_daemon(struct server *s, enum daemon_state state, const char *reason)
{
    struct log_line line;
    if (s->daemon == state) {
        return;
    }
    s->daemon = state;
    bool up = state == DAEMON_UP;
    log_begin(&line, s->with->log, up ? LOG_NOTICE : LOG_WARNING,
              up ? "daemon-answers" : "daemon-lost");
    if (!up) {
        log_put_text(&line, "reason", slice_from_str(reason));
    }
    log_end(&line);
}

/* ---- from state to state ---- */

static void enter(struct server *s, struct connection *c, enum state state, uint64_t ms_max)
{
    c->state = state;
    c->since_ms = s->now_ms;
    c->deadline_ms = s->now_ms + ms_max;
}

static bool expired(const struct server *s, const struct connection *c)
{
    return s->now_ms >= c->deadline_ms;
}

static bool must_wait(ssize_t result)
{
    return result < 0 && (errno == EAGAIN || errno == EINTR);
}

static bool shut(struct connection *c)
{
    c->state = STATE_CLOSED;
    return false;
}

/* Begins to send c->answer; a body that is more than all may hold together is not sent. */
static bool begin_writing(struct server *s, struct connection *c)
{
    size_t owned = c->answer.owned == NULL ? 0 : c->answer.body.len;
    if (owned > WEB_BODIES_BYTES_MAX - s->bodies_bytes) {
        answer_deinit(&c->answer);
        answer_static(&c->answer, 503, "text/plain; charset=utf-8",
                      SLICE("too many answers wait to be taken; try again in a moment\n"));
        owned = 0;
    }
    s->bodies_bytes += owned;
    struct buf head;
    buf_init(&head, c->head, sizeof c->head);
    answer_head_put(&head, &c->answer, c->persistent, (uint64_t)time(NULL));
    c->head_len = head.len;
    c->sent = 0;
    enter(s, c, STATE_WRITING, WEB_WRITE_MS_MAX);
    return true;
}

static void drop_answer(struct server *s, struct connection *c)
{
    s->bodies_bytes -= c->answer.owned == NULL ? 0 : c->answer.body.len;
    answer_deinit(&c->answer);
}

/* The request is not well formed or not for us: an answer, and the end. */
static bool refuse(struct server *s, struct connection *c, const struct http_refusal *why,
                   const char *code, const char *hint)
{
    struct trouble trouble;
    log_refusal(s, c, why->status, why->sentence);
    trouble_set(&trouble, why->status, code, why->sentence, hint);
    answer_trouble(&c->answer, ANSWER_FORM_TEXT, &trouble);
    return begin_writing(s, c);
}

static void finish(struct server *s, struct connection *c, const json_t *result,
                   const struct trouble *trouble)
{
    route_finish(c->route, result, trouble, &c->answer);
    (void)begin_writing(s, c);
}

static bool begin_asking(struct server *s, struct connection *c, const struct route_plan *plan)
{
    struct trouble trouble;
    c->route = plan->route;
    if (s->calls == WEB_CALLS_MAX) {
        trouble_set(&trouble, 503, "busy", "too many ask at once; the daemon answers slowly",
                    "try again in a moment");
        finish(s, c, NULL, &trouble);
    } else if (ask_begin(&c->ask, s->with->socket_path, plan->command, plan->args, s->now_ms,
                         &trouble)) {
        s->calls++;
        enter(s, c, STATE_ASKING, ASK_MS_MAX);
    } else {
        if (trouble.status == 503) {
            log_daemon(s, DAEMON_DOWN, trouble.message);
        }
        finish(s, c, NULL, &trouble);
    }
    json_decref(plan->args);
    return true;
}

/* Whether we do what it wants, and are who it thinks we are. */
static bool judge(const struct server *s, const struct connection *c,
                  const struct http_request *request, struct http_refusal *out_refusal,
                  const char **out_hint)
{
    *out_hint = "";
    if (!access_allowed(s->with->access, request->host, &c->local)) {
        *out_refusal = (struct http_refusal){421, "this page does not go by that name"};
        *out_hint = "open it by this box's address or name, or start tasuki-web with --host NAME";
        return false;
    }
    if (request->method == HTTP_METHOD_UNKNOWN) {
        *out_refusal = (struct http_refusal){501, "that method is not known here"};
        return false;
    }
    if (request->method == HTTP_METHOD_OTHER) {
        *out_refusal = (struct http_refusal){405, "this page only shows: use GET or HEAD"};
        return false;
    }
    return true;
}

/* c->in holds a whole head. */
static bool take_request(struct server *s, struct connection *c)
{
    struct http_request request;
    struct http_refusal refusal;
    const char *hint = "";
    struct slice head = slice_of(c->in + c->scan.begin, c->scan.at - c->scan.begin);
    c->persistent = false;
    c->body_wanted = true;
    if (!http_request_parse(&request, head, &refusal)) {
        return refuse(s, c, &refusal, "bad-request", hint);
    }
    c->body_wanted = request.method != HTTP_METHOD_HEAD;
    if (!judge(s, c, &request, &refusal, &hint)) {
        return refuse(s, c, &refusal, "not-permitted", hint);
    }
    c->persistent = request.persistent;
    struct route_plan plan;
    enum route_step step = route_begin(&plan, &request);
    if (step == ROUTE_STEP_ASK) {
        return begin_asking(s, c, &plan);
    }
    c->answer = plan.answer;
    return begin_writing(s, c);
}

static bool read_timed_out(struct server *s, struct connection *c)
{
    static const struct http_refusal slow = {408, "the request took too long to arrive"};
    if (c->in_len == 0) {
        return shut(c); /* an idle connection ends without words */
    }
    c->persistent = false;
    c->body_wanted = true;
    return refuse(s, c, &slow, "timed-out", "");
}

static bool go_reading(struct server *s, struct connection *c)
{
    struct http_refusal refusal;
    switch (http_scan_feed(&c->scan, slice_of(c->in, c->in_len), &refusal)) {
    case HTTP_STEP_WHOLE:
        return take_request(s, c);
    case HTTP_STEP_REFUSED:
        c->persistent = false;
        c->body_wanted = true;
        return refuse(s, c, &refusal, "bad-request", "");
    case HTTP_STEP_MORE:
        break;
    }
    if (expired(s, c)) {
        return read_timed_out(s, c);
    }
    CHECK(c->in_len < sizeof c->in);
    ssize_t got = recv(c->fd, c->in + c->in_len, sizeof c->in - c->in_len, MSG_DONTWAIT);
    if (must_wait(got)) {
        return false;
    }
    if (got <= 0) {
        return shut(c);
    }
    if (c->in_len == 0) {
        c->deadline_ms = s->now_ms + WEB_HEAD_MS_MAX;
    }
    c->in_len += (size_t)got;
    return true;
}

static bool go_asking(struct server *s, struct connection *c)
{
    struct trouble trouble;
    json_t *result = NULL;
    enum ask_step step = ask_go(&c->ask, s->now_ms, &result, &trouble);
    if (step == ASK_STEP_WAIT) {
        return c->ask.state == ASK_STATE_SENDING;
    }
    s->calls--;
    bool down = step == ASK_STEP_FAILED && (strcmp(trouble.code, "unreachable") == 0 ||
                                            strcmp(trouble.code, "timed-out") == 0 ||
                                            strcmp(trouble.code, "not-understood") == 0);
    log_daemon(s, down ? DAEMON_DOWN : DAEMON_UP, down ? trouble.message : "");
    finish(s, c, result, &trouble);
    json_decref(result);
    return true;
}

static bool finish_writing(struct server *s, struct connection *c)
{
    drop_answer(s, c);
    if (!c->persistent) {
        (void)shutdown(c->fd, SHUT_WR);
        c->lingered = 0;
        enter(s, c, STATE_LINGERING, WEB_LINGER_MS_MAX);
        return true;
    }
    c->in_len -= c->scan.at;
    memmove(c->in, c->in + c->scan.at, c->in_len);
    c->scan = (struct http_scan){0};
    enter(s, c, STATE_READING, c->in_len > 0 ? WEB_HEAD_MS_MAX : WEB_IDLE_MS_MAX);
    return true;
}

static bool go_writing(struct server *s, struct connection *c)
{
    size_t body_len = c->body_wanted ? c->answer.body.len : 0;
    if (c->sent == c->head_len + body_len) {
        return finish_writing(s, c);
    }
    if (expired(s, c)) {
        return shut(c);
    }
    bool in_head = c->sent < c->head_len;
    struct slice piece = in_head ? slice_of(c->head + c->sent, c->head_len - c->sent)
                                 : slice_tail(c->answer.body, c->sent - c->head_len);
    int more = in_head && body_len > 0 ? MSG_MORE : 0;
    ssize_t sent = send(c->fd, piece.data, piece.len, MSG_DONTWAIT | MSG_NOSIGNAL | more);
    if (must_wait(sent)) {
        return false;
    }
    if (sent < 0) {
        return shut(c);
    }
    c->sent += (size_t)sent;
    return true;
}

static bool go_lingering(struct server *s, struct connection *c)
{
    uint8_t thrown_away[4096];
    ssize_t got = recv(c->fd, thrown_away, sizeof thrown_away, MSG_DONTWAIT);
    if (must_wait(got) && !expired(s, c)) {
        return false;
    }
    c->lingered += got > 0 ? (size_t)got : 0;
    if (got <= 0 || c->lingered > LINGER_BYTES_MAX || expired(s, c)) {
        return shut(c);
    }
    return true;
}

static void go(struct server *s, struct connection *c)
{
    static bool (*const steps[STATE_COUNT])(struct server *, struct connection *) = {
        [STATE_READING] = go_reading,
        [STATE_ASKING] = go_asking,
        [STATE_WRITING] = go_writing,
        [STATE_LINGERING] = go_lingering,
    };
    c->ready = false;
    for (uint32_t count = 0; c->state != STATE_CLOSED && steps[c->state](s, c); count++) {
        if (count == STEPS_MAX) {
            c->ready = true;
            return;
        }
    }
}

/* ---- connections come and go ---- */

static void remove_at(struct server *s, uint32_t index)
{
    struct connection *c = s->connections[index];
    if (c->ask.state != ASK_STATE_NONE) {
        ask_end(&c->ask);
        s->calls--;
    }
    drop_answer(s, c);
    (void)close(c->fd);
    free(c);
    s->count--;
    s->connections[index] = s->connections[s->count];
}

static void remove_closed(struct server *s)
{
    for (uint32_t index = s->count; index > 0; index--) {
        if (s->connections[index - 1]->state == STATE_CLOSED) {
            remove_at(s, index - 1);
        }
    }
}

/* The place of whoever has kept us waiting longest; false when all are being answered. */
static bool make_room(struct server *s)
{
    uint32_t oldest = s->count;
    for (uint32_t index = 0; index < s->count; index++) {
        const struct connection *c = s->connections[index];
        if ((c->state == STATE_READING || c->state == STATE_LINGERING) &&
            (oldest == s->count || c->since_ms < s->connections[oldest]->since_ms)) {
            oldest = index;
        }
    }
    if (oldest == s->count) {
        return false;
    }
    remove_at(s, oldest);
    return true;
}

static void add(struct server *s, int fd, const struct sockaddr_storage *peer)
{
    struct connection *c = NULL;
    if (s->count < WEB_CONNECTIONS_MAX || make_room(s)) {
        c = calloc(1, sizeof *c);
    }
    socklen_t len = sizeof c->local;
    if (c == NULL || getsockname(fd, (struct sockaddr *)&c->local, &len) != 0) {
        (void)close(fd);
        free(c);
        return;
    }
    c->fd = fd;
    c->peer = *peer;
    c->ready = true;
    enter(s, c, STATE_READING, WEB_HEAD_MS_MAX);
    s->connections[s->count++] = c;
}

static void accept_some(struct server *s)
{
    for (uint32_t count = 0; count < ACCEPTS_MAX; count++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd = accept4(s->with->listen_fd, (struct sockaddr *)&peer, &len,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            add(s, fd, &peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            s->accept_after_ms = s->now_ms + ACCEPT_PAUSE_MS;
        }
        return;
    }
}

/* ---- the loop ---- */

static struct pollfd poll_of(const struct connection *c)
{
    if (c->state == STATE_ASKING) {
        return (struct pollfd){.fd = c->ask.fd, .events = ask_events(&c->ask)};
    }
    return (struct pollfd){.fd = c->fd, .events = c->state == STATE_WRITING ? POLLOUT : POLLIN};
}

/* Fills in s->polls; how long to wait at most. */
static int prepare(struct server *s)
{
    uint64_t wake_ms = s->now_ms + 60000;
    bool paused = s->now_ms < s->accept_after_ms;
    s->polls[0] = (struct pollfd){.fd = s->with->signal_fd, .events = POLLIN};
    s->polls[1] = (struct pollfd){.fd = paused ? -1 : s->with->listen_fd, .events = POLLIN};
    if (paused) {
        wake_ms = u64_min(wake_ms, s->accept_after_ms);
    }
    for (uint32_t index = 0; index < s->count; index++) {
        const struct connection *c = s->connections[index];
        s->polls[FIXED_POLLS + index] = poll_of(c);
        wake_ms = u64_min(wake_ms, c->ready ? s->now_ms : c->deadline_ms);
    }
    return wake_ms <= s->now_ms ? 0 : (int)(wake_ms - s->now_ms);
}

static void round_of(struct server *s, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        struct connection *c = s->connections[index];
        if (c->ready || s->polls[FIXED_POLLS + index].revents != 0 || expired(s, c)) {
            go(s, c);
        }
    }
    remove_closed(s);
    if (s->polls[1].revents != 0) {
        accept_some(s);
    }
}

static int signal_number(int fd)
{
    struct signalfd_siginfo info;
    CHECK(read(fd, &info, sizeof info) == (ssize_t)sizeof info);
    return (int)info.ssi_signo;
}

int server_run(const struct server_with *with)
{
    struct server *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->with = with;
    for (;;) {
        s->now_ms = monotonic_ms();
        int timeout_ms = prepare(s);
        uint32_t count = s->count;
        int ready = poll(s->polls, FIXED_POLLS + count, timeout_ms);
        CHECK(ready >= 0 || errno == EINTR || errno == ENOMEM);
        s->now_ms = monotonic_ms();
        if (ready >= 0 && s->polls[0].revents != 0) {
            break;
        }
        if (ready >= 0) {
            round_of(s, count);
        }
    }
    while (s->count > 0) {
        remove_at(s, s->count - 1);
    }
    free(s);
    return signal_number(with->signal_fd);
}
