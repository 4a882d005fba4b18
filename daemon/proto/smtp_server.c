/*
 * Input, events, answers and time.
 *
 * Each state has at most one consumer of input (consumers[]); feed runs it until an event was made,
 * the output is full, or the input is used. A step that can end in a reply only runs while the
 * output has room for one, so a reply always fits, and one that must wait stops the input instead.
 *
 * What a command does depends on the bytes alone, never on how they were cut: a line that lies
 * whole in the input is read there, one that arrived in parts is gathered in the line memory, and
 * both are judged by the same lengths.
 */
#include "daemon/base/num.h"
#include "daemon/proto/smtp_server_parts.h"

#define MECHANISMS_BYTES_MAX 256
#define CHALLENGE_BYTES_MAX  700
#define RATE_WINDOW_MS       60000u
#define TLS_HANDSHAKE_BYTE   0x16 /* RFC 8446 5.1: the first of a ClientHello */

/* The longest base64 text of RFC 4954 4, and CRLF. */
#define AUTH_LINE_BYTES_MAX (SMTP_AUTH_LINE_BYTES_MAX + 2)

/* greeting: host name, "220 ", " ESMTP "; hello: host name, mechanisms and the fixed lines */
_Static_assert(SMTP_DOMAIN_BYTES_MAX + MECHANISMS_BYTES_MAX + 256 <= SMTP_SERVER_REPLY_BYTES_MAX,
               "the reply to EHLO fits");
_Static_assert((CHALLENGE_BYTES_MAX + 2) / 3 * 4 + 8 <= SMTP_SERVER_REPLY_BYTES_MAX,
               "a challenge fits");
_Static_assert(2 * 512 <= SMTP_SERVER_REPLY_BYTES_MAX, "a reply and a 421 behind it fit");

size_t smtp_server_line_bytes(const struct smtp_server_limits *limits)
{
    return limits->auth_mechanisms == NULL
               ? limits->command_bytes_max
               : (size_t)u64_max(limits->command_bytes_max, AUTH_LINE_BYTES_MAX);
}

void smtp_server_init(struct smtp_server *s, const struct smtp_server_limits *limits,
                      uint8_t *line_memory, uint64_t now_ms)
{
    CHECK(strlen(limits->hostname) <= SMTP_DOMAIN_BYTES_MAX);
    CHECK(strlen(limits->software) <= SMTP_DOMAIN_BYTES_MAX);
    CHECK(limits->auth_mechanisms == NULL ||
          strlen(limits->auth_mechanisms) <= MECHANISMS_BYTES_MAX);
    CHECK(limits->command_bytes_max >= 64);
    /* Not *s = {...}: the output memory need not be touched for a session that only begins. */
    memset(s, 0, offsetof(struct smtp_server, output_memory));
    s->limits = limits;
    s->state = SMTP_SERVER_GREETING;
    s->now_ms = now_ms;
    s->waiting_since_ms = now_ms;
    s->rate_since_ms = now_ms;
    buf_init(&s->line, line_memory, smtp_server_line_bytes(limits));
    buf_init(&s->output, s->output_memory, sizeof s->output_memory);
}

/* ---- events ---- */

void smtp_server_tell(struct smtp_server *s, const struct smtp_server_event *event)
{
    CHECK(s->event_count < SMTP_SERVER_EVENTS_MAX);
    s->events[(s->event_first + s->event_count) % SMTP_SERVER_EVENTS_MAX] = *event;
    s->event_count++;
}

void smtp_server_tell_word(struct smtp_server *s, enum smtp_server_event_type type,
                           const char *word)
{
    struct smtp_server_event event = {.type = type, .text = slice_from_str(word)};
    smtp_server_tell(s, &event);
}

void smtp_server_ask(struct smtp_server *s, const struct smtp_server_event *event)
{
    smtp_server_tell(s, event);
    s->asked = event->type;
    s->state = SMTP_SERVER_ASKED;
}

bool smtp_server_next(struct smtp_server *s, struct smtp_server_event *out_event)
{
    if (s->event_count == 0) {
        return false;
    }
    *out_event = s->events[s->event_first];
    s->event_first = (uint8_t)((s->event_first + 1) % SMTP_SERVER_EVENTS_MAX);
    s->event_count--;
    return true;
}

void smtp_server_end_mail(struct smtp_server *s)
{
    s->transaction = SMTP_SERVER_HELLO;
    s->recipients = 0;
    s->recipients_over = 0;
    s->orcpt_bytes = 0;
    s->recipient_asked = false;
    s->smtputf8 = false;
    s->body_8bit = false;
}

void smtp_server_abandon_mail(struct smtp_server *s)
{
    if (s->transaction > SMTP_SERVER_HELLO) {
        struct smtp_server_event event = {.type = SMTP_SERVER_EVENT_ABANDON};
        smtp_server_tell(s, &event);
        smtp_server_end_mail(s);
    }
}

void smtp_server_ready(struct smtp_server *s)
{
    if (s->shutting_down && s->state == SMTP_SERVER_COMMAND) {
        smtp_server_close(s, SMTP_SERVER_REPLY_STOPPING, "stopping");
    }
}

/* ---- lines ---- */

/* Index behind the first CRLF, whose CR may be the last byte held, or 0. A lone LF ends nothing. */
static size_t find_line_end(const struct buf *held, struct slice in)
{
    size_t at = 0;
    for (;;) {
        at += slice_find(slice_tail(in, at), '\n');
        if (at >= in.len) {
            return 0;
        }
        bool after_cr =
            at > 0 ? in.data[at - 1] == '\r' : held->len > 0 && held->data[held->len - 1] == '\r';
        at++;
        if (after_cr) {
            return at;
        }
    }
}

/* Is this line, as far as it is known, AUTH and a response? Lines shorter than its name are not too
 * long anyway. */
static bool is_auth_line(const struct smtp_server *s, struct slice in)
{
    uint8_t head[5];
    struct buf to;
    buf_init(&to, head, sizeof head);
    buf_put(&to, slice_head(buf_slice(&s->line), sizeof head));
    buf_put(&to, slice_head(in, buf_room(&to)));
    return s->state == SMTP_SERVER_AUTH_LINE ||
           (s->limits->auth_mechanisms != NULL &&
            slice_equal_nocase(buf_slice(&to), SLICE("AUTH ")));
}

static void run_line(struct smtp_server *s, struct slice line)
{
    s->waiting_since_ms = s->now_ms;
    line.len -= strlen("\r\n");
    if (s->state == SMTP_SERVER_AUTH_LINE) {
        smtp_server_run_auth_response(s, line);
    } else {
        smtp_server_run_command(s, line);
    }
}

/* The head of a line is in the line memory and in piece, and is longer than any line may be. */
static void begin_long_line(struct smtp_server *s, struct slice piece, bool is_auth)
{
    s->refusal = is_auth ? SMTP_SERVER_REPLY_AUTH_TOO_LONG : SMTP_SERVER_REPLY_LINE_TOO_LONG;
    s->discarded_bytes = s->line.len + piece.len;
    s->state = SMTP_SERVER_LONG_LINE;
    buf_reset(&s->line);
    buf_put_byte(&s->line, piece.data[piece.len - 1]); /* it may be the CR of CRLF */
}

static size_t take_line(struct smtp_server *s, struct slice in)
{
    if (s->line.len == 0) {
        s->waiting_since_ms = s->now_ms;
        if (in.data[0] == TLS_HANDSHAKE_BYTE && s->state == SMTP_SERVER_COMMAND) {
            smtp_server_close(s, SMTP_SERVER_REPLY_TLS_HELLO, "tls-hello");
            return 1;
        }
    }
    bool is_auth = is_auth_line(s, in);
    size_t room = (is_auth ? AUTH_LINE_BYTES_MAX : s->limits->command_bytes_max) - s->line.len;
    struct slice window = slice_head(in, room);
    size_t end = find_line_end(&s->line, window);
    if (end == 0 && window.len == room) {
        begin_long_line(s, window, is_auth);
        return window.len;
    }
    if (end > 0 && s->line.len == 0) {
        run_line(s, slice_head(window, end));
        return end;
    }
    size_t used = end > 0 ? end : window.len;
    buf_put(&s->line, slice_head(window, used));
    CHECK(!s->line.overflow);
    if (end > 0) {
        struct slice line = buf_slice(&s->line);
        buf_reset(&s->line); /* the bytes stay until the next feed */
        run_line(s, line);
    }
    return used;
}

static size_t take_long_line(struct smtp_server *s, struct slice in)
{
    size_t room = (size_t)(SMTP_SERVER_LINE_DISCARD_BYTES_MAX - s->discarded_bytes);
    struct slice window = slice_head(in, room);
    size_t end = find_line_end(&s->line, window);
    if (end > 0) {
        s->state = SMTP_SERVER_COMMAND;
        s->waiting_since_ms = s->now_ms;
        buf_reset(&s->line);
        smtp_server_reply(s, s->refusal);
        return end;
    }
    s->discarded_bytes += window.len;
    s->line.data[0] = window.data[window.len - 1];
    if (window.len == room) {
        smtp_server_close(s, SMTP_SERVER_REPLY_ENDLESS_LINE, "endless-line");
    }
    return window.len;
}

/* ---- time ---- */

static bool is_content_state(const struct smtp_server *s)
{
    return s->state == SMTP_SERVER_CONTENT || s->state == SMTP_SERVER_CHUNK ||
           s->state == SMTP_SERVER_DISCARD;
}

static uint64_t rate_bytes_needed(const struct smtp_server *s)
{
    return (uint64_t)s->limits->rate_bytes_min * (RATE_WINDOW_MS / 1000);
}

void smtp_server_resumed(struct smtp_server *s, uint64_t now_ms)
{
    s->now_ms = now_ms;
    s->waiting_since_ms = now_ms;
    s->rate_since_ms = now_ms;
    s->rate_bytes = 0;
    s->clock_stale = false;
}

static uint64_t later(uint64_t since_ms, uint64_t span_ms)
{
    return since_ms > UINT64_MAX - span_ms ? UINT64_MAX : since_ms + span_ms;
}

/* A window that has its bytes already is followed by one that may bring none. */
static uint64_t rate_deadline_ms(const struct smtp_server *s)
{
    uint64_t needed = rate_bytes_needed(s);
    if (needed == 0) {
        return UINT64_MAX;
    }
    return later(s->rate_since_ms, s->rate_bytes < needed ? RATE_WINDOW_MS : 2 * RATE_WINDOW_MS);
}

uint64_t smtp_server_deadline_ms(const struct smtp_server *s)
{
    switch (s->state) {
    case SMTP_SERVER_COMMAND:
    case SMTP_SERVER_AUTH_LINE:
    case SMTP_SERVER_LONG_LINE:
        return later(s->waiting_since_ms, s->limits->idle_ms_max);
    case SMTP_SERVER_CONTENT:
    case SMTP_SERVER_CHUNK:
    case SMTP_SERVER_DISCARD:
        return u64_min(later(s->waiting_since_ms, s->limits->data_ms_max), rate_deadline_ms(s));
    case SMTP_SERVER_GREETING:
    case SMTP_SERVER_ASKED:
    case SMTP_SERVER_TLS:
    case SMTP_SERVER_CLOSING:
        break;
    }
    return UINT64_MAX;
}

/* A device that ends its lines in LF alone waits for ever, and somebody wonders why. */
static const char *why_expired(const struct smtp_server *s, uint64_t now_ms)
{
    struct slice held = buf_slice(&s->line);
    if (is_content_state(s)) {
        return now_ms >= rate_deadline_ms(s) ? "slow" : "idle";
    }
    return slice_find(held, '\n') < held.len ? "bare-lf" : "idle";
}

void smtp_server_expire(struct smtp_server *s, uint64_t now_ms)
{
    if (s->clock_stale) {
        smtp_server_resumed(s, now_ms);
    }
    s->now_ms = now_ms;
    uint64_t deadline_ms = smtp_server_deadline_ms(s);
    if (deadline_ms != UINT64_MAX && now_ms >= deadline_ms) {
        smtp_server_close(s, SMTP_SERVER_REPLY_TIMEOUT, why_expired(s, now_ms));
    }
}

/* Before input is used. A command has to be whole in time, so bytes of a line do not count; bytes
 * of content do. */
static void note_input(struct smtp_server *s, uint64_t now_ms)
{
    if (s->clock_stale) {
        smtp_server_resumed(s, now_ms);
    }
    s->now_ms = now_ms;
    if (!is_content_state(s)) {
        return;
    }
    s->waiting_since_ms = now_ms;
    if (now_ms < later(s->rate_since_ms, RATE_WINDOW_MS)) {
        return;
    }
    if (now_ms >= rate_deadline_ms(s)) {
        smtp_server_close(s, SMTP_SERVER_REPLY_TIMEOUT, "slow");
    }
    s->rate_since_ms = now_ms;
    s->rate_bytes = 0;
}

/* ---- input and output ---- */

typedef size_t take_fn(struct smtp_server *s, struct slice in);

/* NULL: the state uses no input. */
static take_fn *const consumers[] = {
    [SMTP_SERVER_GREETING] = NULL,
    [SMTP_SERVER_COMMAND] = take_line,
    [SMTP_SERVER_ASKED] = NULL,
    [SMTP_SERVER_CONTENT] = smtp_server_take_content,
    [SMTP_SERVER_CHUNK] = smtp_server_take_chunk,
    [SMTP_SERVER_DISCARD] = smtp_server_take_discarded,
    [SMTP_SERVER_LONG_LINE] = take_long_line,
    [SMTP_SERVER_AUTH_LINE] = take_line,
    [SMTP_SERVER_TLS] = NULL,
    [SMTP_SERVER_CLOSING] = NULL,
};

size_t smtp_server_feed(struct smtp_server *s, struct slice in, uint64_t now_ms)
{
    size_t used = 0;
    if (in.len > 0 && consumers[s->state] != NULL && s->event_count == 0) {
        note_input(s, now_ms);
    }
    while (used < in.len && consumers[s->state] != NULL && s->event_count == 0 &&
           buf_room(&s->output) >= SMTP_SERVER_REPLY_BYTES_MAX) {
        bool content = is_content_state(s);
        size_t step = consumers[s->state](s, slice_tail(in, used));
        s->rate_bytes += content ? step : 0;
        used += step;
    }
    return used;
}

struct slice smtp_server_output(const struct smtp_server *s)
{
    return buf_slice(&s->output);
}

void smtp_server_output_done(struct smtp_server *s, size_t count)
{
    buf_consume(&s->output, count);
}

/* ---- the owner's moves ---- */

void smtp_server_greet(struct smtp_server *s)
{
    CHECK(s->state == SMTP_SERVER_GREETING);
    s->clock_stale = true;
    s->state = SMTP_SERVER_COMMAND;
    if (s->shutting_down) {
        smtp_server_ready(s);
        return;
    }
    smtp_server_say_greeting(s);
}

void smtp_server_refuse_greeting(struct smtp_server *s, uint16_t code, const char *enhanced,
                                 const char *text)
{
    CHECK(s->state == SMTP_SERVER_GREETING && (code == 421 || code == 554));
    smtp_server_say(s, code, enhanced, text);
    s->state = SMTP_SERVER_CLOSING;
    smtp_server_tell_word(s, SMTP_SERVER_EVENT_CLOSE, "refused");
}

void smtp_server_tls_started(struct smtp_server *s, uint64_t now_ms)
{
    CHECK(s->state == SMTP_SERVER_TLS && s->output.len == 0);
    s->tls = true;
    s->esmtp = false;
    s->authenticated = false;
    smtp_server_end_mail(s);
    s->transaction = SMTP_SERVER_NO_HELLO;
    buf_reset(&s->line);
    s->state = SMTP_SERVER_COMMAND;
    smtp_server_resumed(s, now_ms);
    smtp_server_ready(s);
}

void smtp_server_shutdown(struct smtp_server *s)
{
    s->shutting_down = true;
    if (s->state == SMTP_SERVER_AUTH_LINE || s->state == SMTP_SERVER_LONG_LINE) {
        s->state = SMTP_SERVER_COMMAND;
    }
    smtp_server_ready(s);
}

/* ---- answers ---- */

static void accept_mail(struct smtp_server *s, const char *text)
{
    s->transaction = SMTP_SERVER_MAIL;
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_SENDER_OK, text);
}

static void accept_rcpt(struct smtp_server *s, const char *text)
{
    s->transaction = SMTP_SERVER_RCPT;
    s->recipients++;
    s->orcpt_bytes += s->orcpt_asked;
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_RECIPIENT_OK, text);
}

static void accept_begin(struct smtp_server *s, const char *text)
{
    if (s->decoder.chunked) {
        s->transaction = SMTP_SERVER_CHUNKS;
        smtp_server_begin_chunk(s);
        return;
    }
    s->state = SMTP_SERVER_CONTENT;
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_GO_AHEAD, text);
}

static void refuse_begin(struct smtp_server *s)
{
    smtp_server_end_mail(s);
    if (s->decoder.chunked) {
        smtp_server_discard_chunk(s, SMTP_SERVER_REPLY_NONE);
    }
}

static void accept_end(struct smtp_server *s, const char *text)
{
    smtp_server_end_mail(s);
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_QUEUED, text);
}

static void accept_starttls(struct smtp_server *s, const char *text)
{
    s->state = SMTP_SERVER_TLS;
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_TLS_OK, text);
}

static void accept_auth(struct smtp_server *s, const char *text)
{
    s->authenticated = true;
    smtp_server_reply_text(s, SMTP_SERVER_REPLY_AUTH_OK, text);
}

/* What the owner's yes and no do to each asked event, after the reply for a no. */
static const struct answer {
    void (*accept)(struct smtp_server *s, const char *text);
    void (*refuse)(struct smtp_server *s); /* NULL: nothing more */
    bool refusal_counts;                   /* a no is an error of the peer's */
} answers[] = {
    [SMTP_SERVER_EVENT_MAIL] = {accept_mail, NULL, false},
    [SMTP_SERVER_EVENT_RCPT] = {accept_rcpt, NULL, false},
    [SMTP_SERVER_EVENT_CONTENT_BEGIN] = {accept_begin, refuse_begin, false},
    [SMTP_SERVER_EVENT_CONTENT_END] = {accept_end, smtp_server_end_mail, false},
    [SMTP_SERVER_EVENT_STARTTLS] = {accept_starttls, NULL, false},
    [SMTP_SERVER_EVENT_AUTH] = {accept_auth, NULL, true},
    [SMTP_SERVER_EVENT_AUTH_RESPONSE] = {accept_auth, NULL, true},
};

static bool asked_auth(const struct smtp_server *s)
{
    return s->asked == SMTP_SERVER_EVENT_AUTH || s->asked == SMTP_SERVER_EVENT_AUTH_RESPONSE;
}

static const struct answer *begin_answer(struct smtp_server *s)
{
    CHECK(s->state == SMTP_SERVER_ASKED && s->event_count == 0);
    s->state = SMTP_SERVER_COMMAND;
    s->clock_stale = true;
    if (asked_auth(s)) {
        explicit_bzero(s->line.data, s->line.cap); /* it held a password */
    }
    return &answers[s->asked];
}

void smtp_server_accept(struct smtp_server *s, const char *text)
{
    begin_answer(s)->accept(s, text);
    smtp_server_ready(s);
}

void smtp_server_refuse(struct smtp_server *s, uint16_t code, const char *enhanced,
                        const char *text)
{
    CHECK(code >= 400 && code <= 599);
    const struct answer *answer = begin_answer(s);
    if (answer->refusal_counts && !smtp_server_count_error(s)) {
        smtp_server_close(s, SMTP_SERVER_REPLY_TOO_MANY_ERRORS, "too-many-errors");
        return;
    }
    const char *usual = code < 500 ? "not now, try again later" : "refused";
    smtp_server_say(s, code, enhanced, text != NULL ? text : usual);
    if (code == 421) {
        s->state = SMTP_SERVER_CLOSING;
        smtp_server_tell_word(s, SMTP_SERVER_EVENT_CLOSE, "refused");
        return;
    }
    if (answer->refuse != NULL) {
        answer->refuse(s);
    }
    smtp_server_ready(s);
}

void smtp_server_challenge(struct smtp_server *s, struct slice challenge)
{
    CHECK(asked_auth(s));
    begin_answer(s);
    if (challenge.len > CHALLENGE_BYTES_MAX) {
        smtp_server_reply(s, SMTP_SERVER_REPLY_AUTH_CHALLENGE);
    } else {
        s->state = SMTP_SERVER_AUTH_LINE;
        smtp_server_say_challenge(s, challenge);
    }
    if (s->shutting_down) {
        smtp_server_shutdown(s);
    }
}

/* ---- for status lists ---- */

const char *smtp_server_state_word(const struct smtp_server *s)
{
    switch (s->state) {
    case SMTP_SERVER_GREETING:
        return "greeting";
    case SMTP_SERVER_ASKED:
        return s->asked == SMTP_SERVER_EVENT_CONTENT_END ? "committing" : "deciding";
    case SMTP_SERVER_CONTENT:
    case SMTP_SERVER_CHUNK:
        return "content";
    case SMTP_SERVER_DISCARD:
        return "refusing";
    case SMTP_SERVER_AUTH_LINE:
        return "login";
    case SMTP_SERVER_TLS:
        return "tls";
    case SMTP_SERVER_CLOSING:
        return "closing";
    case SMTP_SERVER_COMMAND:
    case SMTP_SERVER_LONG_LINE:
        break;
    }
    return s->transaction == SMTP_SERVER_NO_HELLO ? "connected"
           : s->transaction == SMTP_SERVER_HELLO  ? "idle"
                                                  : "mail";
}
