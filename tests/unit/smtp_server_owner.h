/*
 * An owner of an SMTP server machine for tests: answers events by a list, keeps content, and notes
 * one line for each event (see owner_note). Also the law_subject made of the two.
 *
 * Content is noted at its end only, so notes do not show how it was cut; content of a mail that was
 * abandoned is not noted at all.
 */
#ifndef TASUKI_TESTS_SMTP_SERVER_OWNER_H
#define TASUKI_TESTS_SMTP_SERVER_OWNER_H

#include "daemon/base/text.h"
#include "daemon/proto/smtp_server.h"
#include "tests/unit/laws.h"

#define OWNER_ANSWERS_MAX       1200
#define OWNER_CONTENT_SHOWN_MAX 400

struct owner_answer {
    enum { OWNER_ACCEPT, OWNER_REFUSE, OWNER_CHALLENGE } kind;
    uint16_t code;
    const char *enhanced;
    const char *text; /* NULL: the usual words */
};

struct owner {
    struct smtp_server s;
    struct smtp_server_limits limits;
    uint8_t *line_memory; /* owned, of its exact size */
    struct owner_answer
        answers[OWNER_ANSWERS_MAX]; /* to the n-th event that asks; all zeros: yes */
    size_t asked_count;
    const struct owner_answer *refuse_greeting; /* NULL: greet */
    uint64_t content_bytes;
    uint64_t content_hash; /* FNV-1a */
    uint8_t content_head[OWNER_CONTENT_SHOWN_MAX];
    struct buf *content_to; /* borrowed, may be NULL: the content of the last mail */
    unsigned committed;     /* mails accepted */
};

static inline struct smtp_server_limits owner_limits(void)
{
    return (struct smtp_server_limits){
        .hostname = "mail.example.jp",
        .software = "tasuki",
        .size_max = 1000000,
        .recipients_max = 100,
        .command_bytes_max = SMTP_COMMAND_BYTES_MAX,
        .errors_max = 20,
        .received_max = SMTP_RECEIVED_MAX,
        .idle_ms_max = 300000,
        .data_ms_max = 180000,
        .rate_bytes_min = 500,
        .pipelining = true,
    };
}

static inline void owner_begin(struct owner *o, uint64_t now_ms)
{
    free(o->line_memory);
    o->line_memory = malloc(smtp_server_line_bytes(&o->limits));
    LAW_REQUIRE(o->line_memory != NULL);
    smtp_server_init(&o->s, &o->limits, o->line_memory, now_ms);
    o->asked_count = 0;
    o->content_bytes = 0;
    o->committed = 0;
    if (o->refuse_greeting != NULL) {
        smtp_server_refuse_greeting(&o->s, o->refuse_greeting->code, o->refuse_greeting->enhanced,
                                    o->refuse_greeting->text);
    } else {
        smtp_server_greet(&o->s);
    }
}

static inline void owner_end(struct owner *o)
{
    free(o->line_memory);
    o->line_memory = NULL;
}

static inline void owner_keep_content(struct owner *o, struct slice piece)
{
    for (size_t index = 0; index < piece.len; index++) {
        if (o->content_bytes + index < sizeof o->content_head) {
            o->content_head[o->content_bytes + index] = piece.data[index];
        }
        o->content_hash = (o->content_hash ^ piece.data[index]) * UINT64_C(0x100000001b3);
    }
    o->content_bytes += piece.len;
    if (o->content_to != NULL) {
        buf_put(o->content_to, piece);
    }
}

static inline void owner_note_path(const struct smtp_server_event *event, struct buf *notes)
{
    buf_put_byte(notes, '<');
    text_put_escaped(notes, event->path.address);
    buf_put_byte(notes, '>');
    if (event->size_declared != 0) {
        buf_put_str(notes, " size=");
        buf_put_u64(notes, event->size_declared);
    }
    buf_put_str(notes, event->body_8bit ? " 8bit" : "");
    buf_put_str(notes, event->smtputf8 ? " utf8" : "");
}

/* What RFC 3461 adds, as it came. */
static inline void owner_note_dsn(const struct smtp_server_event *event, struct buf *notes)
{
    static const char *const rets[] = {"", " ret=full", " ret=hdrs"};
    static const char *const words[] = {"never", "success", "failure", "delay"};
    buf_put_str(notes, rets[event->ret]);
    buf_put_str(notes, event->notify != 0 ? " notify" : "");
    for (size_t index = 0; index < 4; index++) {
        if ((event->notify & 1u << index) != 0) {
            buf_put_byte(notes, (event->notify & ((1u << index) - 1)) == 0 ? '=' : ',');
            buf_put_str(notes, words[index]);
        }
    }
    if (event->envid.len > 0) {
        buf_put_str(notes, " envid=");
        text_put_escaped(notes, event->envid);
    }
    if (event->orcpt.len > 0) {
        buf_put_str(notes, " orcpt=");
        text_put_escaped(notes, event->orcpt);
    }
}

static inline void owner_note_response(const struct smtp_server_event *event, struct buf *notes)
{
    text_put_escaped(notes, event->text);
    if (event->has_response) {
        buf_put_str(notes, " \"");
        text_put_escaped(notes, event->response);
        buf_put_byte(notes, '"');
    }
}

static inline void owner_note_end(const struct owner *o, const struct smtp_server_event *event,
                                  struct buf *notes)
{
    LAW_REQUIRE(event->content_bytes == o->content_bytes);
    buf_put_u64(notes, o->content_bytes);
    if (o->content_bytes <= OWNER_CONTENT_SHOWN_MAX) {
        buf_put_str(notes, " \"");
        text_put_escaped(notes, slice_of(o->content_head, (size_t)o->content_bytes));
        buf_put_byte(notes, '"');
    } else {
        buf_put_str(notes, " hash=");
        buf_put_u64(notes, o->content_hash);
    }
}

/* "mail <a@b> size=5 8bit", "rcpt <c@d>", "end 3 \"a\\x0d\\x0a\"", "close quit", ... */
static inline void owner_note(const struct owner *o, const struct smtp_server_event *event,
                              struct buf *notes)
{
    static const char *const words[] = {
        [SMTP_SERVER_EVENT_HELLO] = "helo ",     [SMTP_SERVER_EVENT_MAIL] = "mail ",
        [SMTP_SERVER_EVENT_RCPT] = "rcpt ",      [SMTP_SERVER_EVENT_CONTENT_BEGIN] = "begin",
        [SMTP_SERVER_EVENT_CONTENT] = "",        [SMTP_SERVER_EVENT_CONTENT_END] = "end ",
        [SMTP_SERVER_EVENT_ABANDON] = "abandon", [SMTP_SERVER_EVENT_STARTTLS] = "starttls",
        [SMTP_SERVER_EVENT_AUTH] = "auth ",      [SMTP_SERVER_EVENT_AUTH_RESPONSE] = "response",
        [SMTP_SERVER_EVENT_ODD] = "odd ",        [SMTP_SERVER_EVENT_CLOSE] = "close ",
    };
    bool ehlo = event->type == SMTP_SERVER_EVENT_HELLO && event->esmtp;
    buf_put_str(notes, ehlo ? "ehlo " : words[event->type]);
    switch (event->type) {
    case SMTP_SERVER_EVENT_MAIL:
        LAW_REQUIRE(event->path_null == (event->path.address.len == 0));
        owner_note_path(event, notes);
        LAW_REQUIRE(event->notify == 0 && event->orcpt.len == 0);
        owner_note_dsn(event, notes);
        break;
    case SMTP_SERVER_EVENT_RCPT:
        owner_note_path(event, notes);
        LAW_REQUIRE(event->ret == SMTP_RET_NONE && event->envid.len == 0);
        LAW_REQUIRE((event->notify & SMTP_NOTIFY_NEVER) == 0 || event->notify == SMTP_NOTIFY_NEVER);
        LAW_REQUIRE(event->orcpt.len <= SMTP_ORCPT_BYTES_MAX);
        owner_note_dsn(event, notes);
        break;
    case SMTP_SERVER_EVENT_CONTENT_END:
        owner_note_end(o, event, notes);
        break;
    case SMTP_SERVER_EVENT_AUTH:
    case SMTP_SERVER_EVENT_AUTH_RESPONSE:
        owner_note_response(event, notes);
        break;
    case SMTP_SERVER_EVENT_HELLO:
    case SMTP_SERVER_EVENT_ODD:
    case SMTP_SERVER_EVENT_CLOSE:
        text_put_escaped(notes, event->text);
        break;
    case SMTP_SERVER_EVENT_CONTENT_BEGIN:
    case SMTP_SERVER_EVENT_CONTENT:
    case SMTP_SERVER_EVENT_ABANDON:
    case SMTP_SERVER_EVENT_STARTTLS:
        break;
    }
    buf_put_byte(notes, '\n');
}

static inline void owner_answer(struct owner *o, enum smtp_server_event_type type)
{
    static const struct owner_answer yes = {.kind = OWNER_ACCEPT};
    const struct owner_answer *answer =
        o->asked_count < OWNER_ANSWERS_MAX ? &o->answers[o->asked_count] : &yes;
    o->asked_count++;
    switch (answer->kind) {
    case OWNER_ACCEPT:
        o->committed += type == SMTP_SERVER_EVENT_CONTENT_END ? 1 : 0;
        smtp_server_accept(&o->s, answer->text);
        break;
    case OWNER_REFUSE:
        smtp_server_refuse(&o->s, answer->code, answer->enhanced, answer->text);
        break;
    case OWNER_CHALLENGE:
        if (type == SMTP_SERVER_EVENT_AUTH || type == SMTP_SERVER_EVENT_AUTH_RESPONSE) {
            smtp_server_challenge(&o->s, slice_from_str(answer->text));
        } else {
            smtp_server_accept(&o->s, NULL);
        }
        break;
    }
}

static inline bool owner_step(struct owner *o, struct buf *notes)
{
    struct smtp_server_event event;
    if (!smtp_server_next(&o->s, &event)) {
        return false;
    }
    if (event.type == SMTP_SERVER_EVENT_CONTENT) {
        LAW_REQUIRE(event.text.len > 0);
        owner_keep_content(o, event.text);
        return true;
    }
    if (event.type == SMTP_SERVER_EVENT_CONTENT_BEGIN) {
        o->content_bytes = 0;
        o->content_hash = UINT64_C(0xcbf29ce484222325);
        if (o->content_to != NULL) {
            buf_reset(o->content_to);
        }
    }
    owner_note(o, &event, notes);
    if (o->s.state == SMTP_SERVER_ASKED && event.type == o->s.asked && o->s.event_count == 0) {
        owner_answer(o, event.type);
    }
    return true;
}

/* ---- as a law_subject ---- */

static inline void owner_law_reset(void *ctx, uint64_t now_ms)
{
    owner_begin(ctx, now_ms);
}

static inline size_t owner_law_feed(void *ctx, struct slice in, uint64_t now_ms)
{
    struct owner *o = ctx;
    return smtp_server_feed(&o->s, in, now_ms);
}

static inline bool owner_law_step(void *ctx, uint64_t now_ms, struct buf *notes)
{
    (void)now_ms;
    return owner_step(ctx, notes);
}

static inline struct slice owner_law_output(void *ctx)
{
    struct owner *o = ctx;
    return smtp_server_output(&o->s);
}

static inline void owner_law_output_done(void *ctx, size_t count, uint64_t now_ms)
{
    struct owner *o = ctx;
    (void)now_ms;
    smtp_server_output_done(&o->s, count);
}

static inline uint64_t owner_law_deadline_ms(void *ctx)
{
    struct owner *o = ctx;
    return smtp_server_deadline_ms(&o->s);
}

static inline void owner_law_expire(void *ctx, uint64_t now_ms)
{
    struct owner *o = ctx;
    smtp_server_expire(&o->s, now_ms);
}

static inline bool owner_law_uses_input(void *ctx)
{
    struct owner *o = ctx;
    return o->s.state != SMTP_SERVER_TLS && o->s.state != SMTP_SERVER_CLOSING;
}

static inline bool owner_law_is_closed(void *ctx)
{
    struct owner *o = ctx;
    return o->s.state == SMTP_SERVER_CLOSING;
}

static inline struct law_subject owner_law_subject(struct owner *o)
{
    return (struct law_subject){
        .name = "smtp_server",
        .ctx = o,
        .output_bytes_max = SMTP_SERVER_OUTPUT_BYTES,
        .reset = owner_law_reset,
        .feed = owner_law_feed,
        .step = owner_law_step,
        .output = owner_law_output,
        .output_done = owner_law_output_done,
        .deadline_ms = owner_law_deadline_ms,
        .expire = owner_law_expire,
        .uses_input = owner_law_uses_input,
        .is_closed = owner_law_is_closed,
    };
}

#endif
