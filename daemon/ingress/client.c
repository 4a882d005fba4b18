/*
 * One client's connection: bytes between its stream and the SMTP machine, decisions on the
 * machine's events, content into pieces, and pieces to the queue thread.
 *
 * Invariants: at most one intake of a session is away; while it is, its piece and the envelope are
 * not touched. No input is fed whose content might not fit into the pieces at hand. The session is
 * freed when its stream is closed and no intake is away.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/base/when.h"
#include "daemon/flow/clock.h"
#include "daemon/ingress/ingress_internal.h"
#include "daemon/proto/mail_header.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define HELO_BYTES_MAX     128
#define LAST_WORDS_MS_MAX  10000
#define SUBJECT_BYTES_MAX  128
#define RECEIVED_BYTES_MAX 1024
/* Content can grow while it is decoded (a bare LF becomes CRLF) and some bytes may have been held
 * back. */
#define FEED_BYTES_MIN  1024
#define HELD_BACK_BYTES 16
/* Of an encoded recipient, beside its texts. */
#define RCPT_FIXED_BYTES_MAX 8

/* What a client asks about reports is kept as it came. */
_Static_assert(SMTP_ENVID_BYTES_MAX <= RECORD_ENVID_BYTES_MAX, "an ENVID that was taken is kept");
_Static_assert(SMTP_ORCPT_BYTES_MAX <= RECORD_ORCPT_BYTES_MAX, "an ORCPT that was taken is kept");
_Static_assert(SMTP_NOTIFY_NEVER == RECORD_NOTIFY_NEVER &&
                   SMTP_NOTIFY_SUCCESS == RECORD_NOTIFY_SUCCESS &&
                   SMTP_NOTIFY_FAILURE == RECORD_NOTIFY_FAILURE &&
                   SMTP_NOTIFY_DELAY == RECORD_NOTIFY_DELAY,
               "NOTIFY is the same on disk");

/* Where the message in hand stands, towards the queue thread. Each value says what is true in it.
 */
enum client_mail {
    MAIL_NONE,     /* no content yet; the envelope may be filling */
    MAIL_CONTENT,  /* content is coming in */
    MAIL_ENDING,   /* the end was seen: the last piece goes with COMMIT, once the intake is here */
    MAIL_DECIDING, /* COMMIT is away */
    MAIL_VOID,     /* abandoned: what was appended is to be discarded, once the intake is here */
};

struct client {
    struct ingress *in;
    struct client *prev, *next;
    struct stream stream;
    struct smtp_server machine;
    struct io_op timer;
    uint64_t last_words_ms;  /* CLOSING: until then they must have been taken; 0 before */
    uint64_t timer_ms;       /* what it is set to, while it is pending */
    size_t sending_len;      /* of the machine's output, with the stream */
    uint32_t client_place;   /* in the shared table */
    bool closing;            /* stream_close was called */
    bool closed;             /* the stream is gone */
    uint32_t refusals_noted; /* of the machine's */
    bool paused;             /* nothing is read until the queue thread has answered */

    char client[INET6_ADDRSTRLEN];
    uint8_t helo_bytes[HELO_BYTES_MAX];
    size_t helo_len;
    uint32_t messages; /* taken on this connection */

    /* the transaction */
    enum client_mail mail;
    struct buf envelope; /* owned memory: sender, then the encoded recipients; encoded behind them
                            for COMMIT */
    size_t sender_len;
    uint8_t envid_bytes[SMTP_ENVID_BYTES_MAX];
    size_t envid_len;
    uint32_t recipient_count;
    uint16_t flags;
    struct msg_id id;
    uint64_t body_bytes;
    uint32_t body_crc;
    uint32_t piece_count;  /* sent away so far */
    bool appended;         /* something of this message is in the store */
    enum err append_err;   /* the first that went wrong */
    struct piece *filling; /* owned */
    struct piece *full;    /* owned: waits for the intake to be here */
    struct piece *away;    /* owned; lent to the queue thread */
    bool subject_known;
    uint8_t subject_bytes[SUBJECT_BYTES_MAX];
    size_t subject_len;
    bool intake_away;
    struct flow_intake intake;

    uint8_t line_memory[]; /* smtp_server_line_bytes */
};

static void pump(struct client *s);
static void intake_step(struct client *s);
static void answer_end(struct client *s, enum err result);

struct client *client_next(struct client *s)
{
    return s->next;
}

static void put_id(struct buf *to, const struct client *s)
{
    msg_id_put_text(to, &s->id);
}

/* ---- the life of a session ---- */

static void count_out(struct client *s)
{
    struct ingress_shared *shared = s->in->with.shared;
    atomic_fetch_sub_explicit(&shared->connections, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&shared->by_client[s->client_place], 1, memory_order_relaxed);
    metric_add(s->in->with.metrics, METRIC_CLIENTS, (uint64_t)-1);
}

static void client_free_when_done(struct client *s)
{
    if (!s->closed || s->intake_away) {
        return;
    }
    if (s->mail != MAIL_NONE && s->appended) {
        s->mail = MAIL_VOID;
        intake_step(s); /* what is in the store goes first */
        return;
    }
    struct ingress *in = s->in;
    if (io_pending(&s->timer)) {
        io_cancel(in->with.io, &s->timer);
    }
    piece_put(in, &s->filling);
    piece_put(in, &s->full);
    CHECK(s->away == NULL);
    free(s->envelope.data);
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        in->sessions = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    in->session_count--;
    count_out(s); /* not before: what a slow store keeps here has a bound, too */
    free(s);
}

static void client_close(struct client *s, bool gracefully)
{
    if (!s->closing) {
        s->closing = true;
        stream_close(&s->stream, gracefully);
    }
}

void client_shutdown(struct client *s)
{
    if (!s->closing) {
        smtp_server_shutdown(&s->machine);
        pump(s);
    }
}

void client_abort(struct client *s)
{
    client_close(s, false);
}

/* ---- the message in hand ---- */

static void mail_reset(struct client *s)
{
    s->mail = MAIL_NONE;
    s->recipient_count = 0;
    s->sender_len = 0;
    s->envid_len = 0;
    s->flags = 0;
    s->body_bytes = 0;
    s->body_crc = 0;
    s->piece_count = 0;
    s->appended = false;
    s->append_err = ERR_OK;
    s->subject_known = false;
    s->subject_len = 0;
    buf_reset(&s->envelope);
    piece_put(s->in, &s->filling);
    piece_put(s->in, &s->full);
}

/* Room for count more bytes in the envelope; it doubles, up to what recipients_max paths and
 * SMTP_SERVER_ORCPTS_BYTES_MAX can take, and their record behind them. */
static bool envelope_grow(struct client *s, size_t count)
{
    if (buf_room(&s->envelope) >= count) {
        return true;
    }
    size_t cap = s->envelope.cap == 0 ? 1024 : s->envelope.cap * 2;
    while (cap - s->envelope.len < count) {
        cap *= 2;
    }
    uint8_t *bigger = realloc(s->envelope.data, cap);
    if (bigger == NULL) {
        return false;
    }
    s->envelope.data = bigger;
    s->envelope.cap = cap;
    return true;
}

static void note_subject(struct client *s, const struct piece *first)
{
    if (s->subject_known) {
        return;
    }
    s->subject_known = true;
    struct buf subject;
    buf_init(&subject, s->subject_bytes, sizeof s->subject_bytes);
    if (mail_header_find(slice_of(first->bytes, first->len), SLICE("Subject"), &subject)) {
        s->subject_len = subject.len;
    }
}

static void send_intake(struct client *s, enum flow_intake_step step, struct slice piece)
{
    struct flow_intake *intake = &s->intake;
    intake->msg.kind = FLOW_INTAKE;
    intake->msg.reply_to = s->in->with.self;
    intake->step = step;
    intake->id = s->id;
    intake->piece_index = s->piece_count;
    intake->piece = piece;
    intake->body_bytes = s->body_bytes;
    intake->recipient_count = s->recipient_count;
    intake->envelope = slice_of(NULL, 0);
    intake->sender = slice_of(NULL, 0);
    s->intake_away = true;
    s->piece_count += piece.len > 0;
}

static bool send_commit(struct client *s, struct slice piece)
{
    /* The recipients are encoded already; what else there is has a bound. */
    size_t encoded_max = record_envelope_bytes_max(0) + s->envelope.len;
    if (!envelope_grow(s, encoded_max)) {
        return false;
    }
    send_intake(s, FLOW_INTAKE_COMMIT, piece);
    struct slice parts = buf_slice(&s->envelope);
    struct record_envelope envelope = {
        .arrived_ms = flow_wall_ms(),
        .body_bytes = s->body_bytes,
        .chunk_count = s->piece_count,
        .body_crc = s->body_crc,
        .recipient_count = s->recipient_count,
        .flags = s->flags,
        .client = slice_from_str(s->client),
        .helo = slice_of(s->helo_bytes, s->helo_len),
        .subject = slice_of(s->subject_bytes, s->subject_len),
        .sender = slice_head(parts, s->sender_len),
        .envid = slice_of(s->envid_bytes, s->envid_len),
        .recipients = slice_tail(parts, s->sender_len),
    };
    struct buf encoded;
    buf_init(&encoded, s->envelope.data + s->envelope.len, buf_room(&s->envelope));
    record_envelope_put(&encoded, &envelope);
    CHECK(!encoded.overflow);
    s->intake.envelope = buf_slice(&encoded);
    s->intake.sender = envelope.sender;
    mailbox_send(s->in->with.queue, &s->intake.msg);
    return true;
}

/* The next thing to tell the queue thread, if the intake is here. */
static void intake_step(struct client *s)
{
    if (s->intake_away) {
        return;
    }
    if (s->mail == MAIL_VOID) {
        if (s->appended) {
            s->appended = false;
            send_intake(s, FLOW_INTAKE_ABANDON, slice_of(NULL, 0));
            mailbox_send(s->in->with.queue, &s->intake.msg);
        } else {
            mail_reset(s);
        }
        return;
    }
    if (s->append_err != ERR_OK) {
        piece_put(s->in,
                  &s->full); /* the end will be answered with it; until then content is dropped */
    }
    if (s->full != NULL && (s->mail == MAIL_CONTENT || s->mail == MAIL_ENDING)) {
        note_subject(s, s->full);
        s->away = s->full;
        s->full = NULL;
        s->appended = true;
        send_intake(s, FLOW_INTAKE_APPEND, slice_of(s->away->bytes, s->away->len));
        mailbox_send(s->in->with.queue, &s->intake.msg);
        return;
    }
    if (s->mail != MAIL_ENDING) {
        return;
    }
    enum err err = s->append_err;
    if (err == ERR_OK) {
        note_subject(s, s->filling);
        s->away = s->filling;
        s->filling = NULL;
        s->mail = MAIL_DECIDING;
        if (send_commit(s, slice_of(s->away->bytes, s->away->len))) {
            return;
        }
        s->filling = s->away;
        s->away = NULL;
        err = ERR_NO_MEMORY;
    }
    /* It cannot be committed: the client hears why, and what is in the store already goes. */
    if (!s->closing) {
        answer_end(s, err);
    }
    s->mail = MAIL_VOID;
    intake_step(s);
}

static void log_accepted(struct client *s)
{
    struct slice parts = buf_slice(&s->envelope);
    struct slice recipients = slice_tail(parts, s->sender_len);
    struct slice first = slice_of(NULL, 0);
    (void)!record_recipient_next(&recipients, &first);
    struct log_line line;
    event_begin(&line, s->in->with.log, EVENT_ACCEPTED);
    event_put_id(&line, &s->id);
    log_put_word(&line, "client", s->client);
    log_put_u64(&line, "bytes", s->body_bytes);
    log_put_u64(&line, "recipients", s->recipient_count);
    log_put_text(&line, "from", slice_head(parts, s->sender_len));
    log_put_text(&line, "to", first);
    log_end(&line);
}

static void answer_end(struct client *s, enum err result)
{
    struct metrics *m = s->in->with.metrics;
    if (result == ERR_OK) {
        char text[64];
        struct buf words;
        buf_init(&words, text, sizeof text - 1);
        put_id(&words, s);
        buf_put_str(&words, " queued");
        text[words.len] = '\0';
        s->messages++;
        metric_add(m, METRIC_ACCEPTED, 1);
        metric_add(m, METRIC_ACCEPTED_BYTES, s->body_bytes);
        log_accepted(s);
        smtp_server_accept(&s->machine, text);
    } else if (result == ERR_FULL) {
        metric_add(m, METRIC_REJECTED_FULL, 1);
        smtp_server_refuse(&s->machine, 452, "4.3.1", "the queue is full; try again later");
    } else {
        smtp_server_refuse(&s->machine, 451, "4.3.0",
                           "the message could not be stored; try again later");
    }
}

static void append_failed(struct client *s, enum err err)
{
    if (s->append_err == ERR_OK) {
        s->append_err = err;
    }
}

void ingress_intake_back(struct flow_intake *intake)
{
    struct client *s = (struct client *)(void *)((char *)intake - offsetof(struct client, intake));
    s->intake_away = false;
    piece_put(s->in, &s->away);
    if (intake->result != ERR_OK) {
        append_failed(s, intake->result);
        s->appended = false; /* the queue thread has discarded it */
    }
    if (s->closing && (s->mail == MAIL_CONTENT || s->mail == MAIL_ENDING)) {
        s->mail = MAIL_VOID;
    }
    if (s->mail == MAIL_DECIDING && intake->step == FLOW_INTAKE_COMMIT) {
        bool committed = intake->result == ERR_OK;
        if (!s->closed && !s->closing) {
            answer_end(s, intake->result);
        } else if (committed) {
            log_accepted(s); /* the client left without hearing it; it may send it again */
        }
        s->appended = false;
        mail_reset(s);
    } else {
        intake_step(s);
    }
    if (s->closed) {
        client_free_when_done(s);
    } else if (!s->closing) {
        pump(s);
    }
}

/* ---- content ---- */

/* How many bytes of input may be fed so that all content they make has a place. */
static size_t content_room(const struct client *s)
{
    if (s->filling == NULL || s->mail != MAIL_CONTENT) {
        return SIZE_MAX;
    }
    size_t room = s->in->with.piece_bytes - s->filling->len;
    if (s->full == NULL) {
        room += s->in->with.piece_bytes;
    }
    size_t input = room / 2 > HELD_BACK_BYTES ? room / 2 - HELD_BACK_BYTES : 0;
    return input < FEED_BYTES_MIN ? 0 : input;
}

/* What follows a failure is dropped: the end is answered with it. */
static void add_content(struct client *s, struct slice bytes)
{
    if (s->mail != MAIL_CONTENT || s->append_err != ERR_OK) {
        return;
    }
    s->body_bytes += bytes.len;
    s->body_crc = crc32c(s->body_crc, bytes);
    while (bytes.len > 0) {
        struct piece *p = s->filling;
        size_t count = size_min(bytes.len, s->in->with.piece_bytes - p->len);
        memcpy(p->bytes + p->len, bytes.data, count);
        p->len += count;
        bytes = slice_tail(bytes, count);
        if (p->len < s->in->with.piece_bytes || bytes.len == 0) {
            continue;
        }
        CHECK(s->full == NULL);
        struct piece *fresh = piece_get(s->in);
        if (fresh == NULL) {
            append_failed(s, ERR_NO_MEMORY);
            p->len = 0;
            return;
        }
        s->full = p;
        s->filling = fresh;
        intake_step(s);
    }
}

/* What may stand in a Received line of what a client called itself; the rest is shown as "_". */
static void put_helo(struct buf *to, struct slice helo)
{
    if (helo.len == 0) {
        buf_put_str(to, "unknown");
    }
    for (size_t index = 0; index < helo.len; index++) {
        uint8_t c = helo.data[index];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']';
        buf_put_byte(to, plain ? c : '_');
    }
}

/* The trace line of RFC 5321 4.4. */
static void put_received(struct client *s, struct buf *to)
{
    buf_put_str(to, "Received: from ");
    put_helo(to, slice_of(s->helo_bytes, s->helo_len));
    buf_put_str(to, strchr(s->client, ':') != NULL ? " ([IPv6:" : " ([");
    buf_put_str(to, s->client);
    buf_put_str(to, "])\r\n\tby ");
    buf_put_str(to, s->in->with.config->hostname);
    buf_put_str(to, s->machine.esmtp ? " (tasuki) with ESMTP id " : " (tasuki) with SMTP id ");
    put_id(to, s);
    buf_put_str(to, ";\r\n\t");
    when_put_rfc5322(to, flow_wall_ms());
    buf_put_str(to, "\r\n");
}

static void begin_content(struct client *s)
{
    s->filling = piece_get(s->in);
    if (s->filling == NULL) {
        smtp_server_refuse(&s->machine, 451, "4.3.0", "out of memory; try again later");
        return;
    }
    s->mail = MAIL_CONTENT;
    s->id = flow_ids_next(s->in->with.ids, flow_wall_ms());
    uint8_t memory[RECEIVED_BYTES_MAX];
    struct buf received;
    buf_init(&received, memory, sizeof memory);
    put_received(s, &received);
    CHECK(!received.overflow);
    add_content(s, buf_slice(&received));
    smtp_server_accept(&s->machine, NULL);
}

/* ---- events ---- */

/* The machine's refusals since the last look, as one line: a client that errs a hundred times in
 * one packet is one event. */
static void note_refusals(struct client *s, struct slice about)
{
    uint32_t count = s->machine.refusals - s->refusals_noted;
    if (count == 0) {
        return;
    }
    s->refusals_noted = s->machine.refusals;
    metric_add(s->in->with.metrics, METRIC_REJECTED, count);
    struct log_line line;
    event_begin(&line, s->in->with.log, EVENT_REJECTED);
    log_put_word(&line, "client", s->client);
    log_put_u64(&line, "code", s->machine.refusal_code);
    log_put_u64(&line, "count", count);
    log_put_text(&line, "reply", slice_from_str(s->machine.refusal_text));
    log_put_text(&line, "about", about);
    log_end(&line);
}

static void refuse(struct client *s, uint16_t code, const char *enhanced, const char *text,
                   struct slice about)
{
    smtp_server_refuse(&s->machine, code, enhanced, text);
    note_refusals(s, about);
}

static void mail_asked(struct client *s, const struct smtp_server_event *event)
{
    CHECK(s->mail == MAIL_NONE);
    mail_reset(s);
    if (!envelope_grow(s, SMTP_PATH_BYTES_MAX + SMTP_DOMAIN_BYTES_MAX + 1)) {
        refuse(s, 451, "4.3.0", "out of memory; try again later", event->path.address);
        return;
    }
    if (!event->path_null &&
        !policy_resolve(s->in->with.config, event->path.address, false, &s->envelope)) {
        buf_reset(&s->envelope);
        refuse(s, 553, "5.1.7", "the address is too long", event->path.address);
        return;
    }
    s->sender_len = s->envelope.len;
    s->flags = (uint16_t)((event->body_8bit ? RECORD_FLAG_8BITMIME : 0u) |
                          (event->smtputf8 ? RECORD_FLAG_SMTPUTF8 : 0u) |
                          (event->ret == SMTP_RET_FULL ? RECORD_FLAG_RET_FULL : 0u) |
                          (event->ret == SMTP_RET_HDRS ? RECORD_FLAG_RET_HDRS : 0u));
    s->envid_len = event->envid.len;
    if (s->envid_len > 0) {
        memcpy(s->envid_bytes, event->envid.data, s->envid_len);
    }
    smtp_server_accept(&s->machine, NULL);
}

static void rcpt_asked(struct client *s, const struct smtp_server_event *event)
{
    uint8_t memory[SMTP_PATH_BYTES_MAX + SMTP_DOMAIN_BYTES_MAX + 2];
    struct buf address;
    buf_init(&address, memory, sizeof memory);
    if (!policy_resolve(s->in->with.config, event->path.address, true, &address)) {
        refuse(s, 553, "5.1.3", "the address is too long", event->path.address);
        return;
    }
    const struct record_rcpt rcpt = {
        .path = buf_slice(&address), .notify = event->notify, .orcpt = event->orcpt};
    if (!envelope_grow(s, rcpt.path.len + rcpt.orcpt.len + RCPT_FIXED_BYTES_MAX)) {
        refuse(s, 451, "4.3.0", "out of memory; try again later", event->path.address);
        return;
    }
    record_rcpt_put(&s->envelope, &rcpt);
    CHECK(!s->envelope.overflow);
    s->recipient_count++;
    smtp_server_accept(&s->machine, NULL);
}

static void abandon(struct client *s)
{
    s->mail = MAIL_VOID;
    intake_step(s);
}

static void log_closed(struct client *s, struct slice reason)
{
    struct log_line line;
    event_begin(&line, s->in->with.log, EVENT_CLIENT_CLOSED);
    log_put_word(&line, "client", s->client);
    log_put_u64(&line, "messages", s->messages);
    log_put_text(&line, "reason", reason);
    log_end(&line);
}

static void handle(struct client *s, const struct smtp_server_event *event)
{
    switch (event->type) {
    case SMTP_SERVER_EVENT_HELLO:
        s->helo_len = size_min(event->text.len, sizeof s->helo_bytes);
        if (s->helo_len > 0) {
            memcpy(s->helo_bytes, event->text.data, s->helo_len);
        }
        return;
    case SMTP_SERVER_EVENT_MAIL:
        mail_asked(s, event);
        return;
    case SMTP_SERVER_EVENT_RCPT:
        rcpt_asked(s, event);
        return;
    case SMTP_SERVER_EVENT_CONTENT_BEGIN:
        begin_content(s);
        return;
    case SMTP_SERVER_EVENT_CONTENT:
        add_content(s, event->text);
        return;
    case SMTP_SERVER_EVENT_CONTENT_END:
        s->flags |= s->machine.decoder.seen_8bit ? RECORD_FLAG_8BIT : 0;
        s->mail = MAIL_ENDING;
        intake_step(s);
        return;
    case SMTP_SERVER_EVENT_ABANDON:
        abandon(s);
        return;
    case SMTP_SERVER_EVENT_ODD: {
        struct log_line line;
        event_begin(&line, s->in->with.log, EVENT_CLIENT_ODD);
        log_put_word(&line, "client", s->client);
        log_put_text(&line, "what", event->text);
        log_end(&line);
        return;
    }
    case SMTP_SERVER_EVENT_CLOSE:
        if (slice_equal(event->text, SLICE("idle")) || slice_equal(event->text, SLICE("slow"))) {
            metric_add(s->in->with.metrics, METRIC_CLIENT_TIMEOUTS, 1);
        }
        log_closed(s, event->text);
        return;
    case SMTP_SERVER_EVENT_STARTTLS:
    case SMTP_SERVER_EVENT_AUTH:
    case SMTP_SERVER_EVENT_AUTH_RESPONSE:
    default:
        smtp_server_refuse(&s->machine, 502, "5.5.1", "not available"); /* never offered */
    }
}

static void pull_events(struct client *s)
{
    struct smtp_server_event event;
    while (smtp_server_next(&s->machine, &event)) {
        handle(s, &event);
    }
}

/* ---- bytes ---- */

static bool waits_for_discard(const struct client *s)
{
    return s->mail == MAIL_VOID; /* the next MAIL waits until the intake is here again */
}

/* Our last words need a reader as well: a peer that never reads them is not waited for. */
static uint64_t deadline_of(struct client *s)
{
    if (s->machine.state != SMTP_SERVER_CLOSING) {
        return smtp_server_deadline_ms(&s->machine);
    }
    if (s->last_words_ms == 0) {
        s->last_words_ms = io_now_ms(s->in->with.io) + LAST_WORDS_MS_MAX;
    }
    return s->last_words_ms;
}

static void arm_timer(struct client *s)
{
    uint64_t deadline_ms = deadline_of(s);
    if (deadline_ms != UINT64_MAX && (!io_pending(&s->timer) || deadline_ms < s->timer_ms)) {
        s->timer_ms = deadline_ms;
        io_timer(s->in->with.io, &s->timer, deadline_ms);
    }
}

/*
 * Asks for more where more can be used: not before there is room for a reply in the machine's
 * output, and not behind the last words, or input would go round and round unused. A pause of our
 * own is not held against the client.
 */
static void read_more(struct client *s)
{
    size_t unsent = smtp_server_output(&s->machine).len;
    if (s->machine.state == SMTP_SERVER_ASKED || s->machine.state == SMTP_SERVER_CLOSING ||
        unsent > SMTP_SERVER_OUTPUT_BYTES - SMTP_SERVER_REPLY_BYTES_MAX) {
        return;
    }
    bool was_paused = s->paused;
    s->paused = content_room(s) == 0 || waits_for_discard(s);
    if (s->paused) {
        return;
    }
    if (was_paused) {
        smtp_server_resumed(&s->machine, io_now_ms(s->in->with.io));
    }
    stream_read(&s->stream);
}

/* Sends what there is, asks for more where more can be used, closes where all was said. */
static void pump(struct client *s)
{
    pull_events(s);
    note_refusals(s, slice_of(NULL, 0));
    if (s->closing) {
        return;
    }
    struct slice out = smtp_server_output(&s->machine);
    if (out.len > 0) {
        if (stream_writable(&s->stream)) {
            s->sending_len = out.len;
            stream_write(&s->stream, out);
        }
    } else if (s->machine.state == SMTP_SERVER_CLOSING) {
        client_close(s, true);
        return;
    }
    read_more(s);
    arm_timer(s);
}

static void data_came(struct client *s)
{
    struct slice in = s->stream.data;
    while (in.len > 0 && !waits_for_discard(s)) {
        struct slice part = slice_head(in, content_room(s));
        size_t used = smtp_server_feed(&s->machine, part, io_now_ms(s->in->with.io));
        pull_events(s);
        in = slice_tail(in, used);
        if (used == 0) {
            break;
        }
    }
    s->stream.used = s->stream.data.len - in.len;
    pump(s);
}

static void on_stream(struct stream *stream, enum stream_event event)
{
    struct client *s = IO_OWNER(stream, struct client, stream);
    switch (event) {
    case STREAM_EVENT_DATA:
        data_came(s);
        return;
    case STREAM_EVENT_SENT:
        smtp_server_output_done(&s->machine, s->sending_len);
        pump(s);
        return;
    case STREAM_EVENT_ENDED:
        if (s->machine.state != SMTP_SERVER_CLOSING) { /* else it was told why */
            log_closed(s, slice_from_str(err_text(stream->err)));
        }
        client_close(s, false);
        return;
    case STREAM_EVENT_CLOSED:
        s->closed = true;
        client_free_when_done(s);
        return;
    case STREAM_EVENT_SECURE:
    default:
        return;
    }
}

static void on_timer(struct io_op *op)
{
    struct client *s = IO_OWNER(op, struct client, timer);
    uint64_t now_ms = io_now_ms(s->in->with.io);
    if (s->closing || (s->paused && s->machine.state != SMTP_SERVER_CLOSING)) {
        return; /* the end of a pause arms it again */
    }
    if (now_ms >= deadline_of(s)) {
        bool unread = smtp_server_output(&s->machine).len > 0;
        /* It may only learn the time here: what was just answered is no silence of the client's. */
        smtp_server_expire(&s->machine, now_ms);
        if (unread && s->machine.state == SMTP_SERVER_CLOSING) {
            pull_events(s);         /* it is told as silence */
            client_close(s, false); /* it does not even read our last words */
            return;
        }
        pump(s);
    }
    arm_timer(s);
}

/* ---- the beginning ---- */

static uint32_t place_of(const uint8_t address[16])
{
    return crc32c(0, slice_of(address, 16)) % INGRESS_CLIENT_PLACES;
}

/* NULL when this client may talk to us; else why not, for 421 or 554. */
static const char *turned_away(struct client *s, const uint8_t address[16], bool known,
                               uint16_t *out_code)
{
    const struct config *config = s->in->with.config;
    struct ingress_shared *shared = s->in->with.shared;
    s->client_place = place_of(address);
    metric_add(s->in->with.metrics, METRIC_CLIENTS, 1);
    uint32_t all = atomic_fetch_add_explicit(&shared->connections, 1, memory_order_relaxed);
    uint32_t of_client =
        atomic_fetch_add_explicit(&shared->by_client[s->client_place], 1, memory_order_relaxed);
    if (!known || !policy_allows(config, address)) {
        *out_code = 554;
        return "this address may not send mail here";
    }
    *out_code = 421;
    if (all >= config->connections_max) {
        return "too many connections; try again later";
    }
    return of_client >= config->connections_per_client
               ? "too many connections from your address; try again later"
               : NULL;
}

static void greet(struct client *s, int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t peer_len = sizeof peer;
    uint8_t address[16] = {0};
    bool known = getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
                 policy_address((const struct sockaddr *)&peer, address);
    bool mapped = memcmp(address, (const uint8_t[12]){[10] = 0xff, [11] = 0xff}, 12) == 0;
    inet_ntop(mapped ? AF_INET : AF_INET6, mapped ? address + 12 : address, s->client,
              sizeof s->client);
    uint16_t code = 0;
    const char *why = turned_away(s, address, known, &code);
    if (why == NULL) {
        metric_add(s->in->with.metrics, METRIC_CLIENTS_TOTAL, 1);
        smtp_server_greet(&s->machine);
        return;
    }
    metric_add(s->in->with.metrics, METRIC_CLIENTS_REFUSED, 1);
    struct log_line line;
    event_begin(&line, s->in->with.log, EVENT_CLIENT_REFUSED);
    log_put_word(&line, "client", s->client);
    log_put_text(&line, "reason", slice_from_str(why));
    log_end(&line);
    smtp_server_refuse_greeting(&s->machine, code, code == 554 ? "5.7.1" : "4.7.0", why);
    s->refusals_noted = s->machine.refusals; /* told as client-refused */
}

/* So many that not even a word of refusal can be had: whoever may not send is counted, too. */
static bool overrun(const struct ingress *in)
{
    uint32_t all = atomic_load_explicit(&in->with.shared->connections, memory_order_relaxed);
    return all >= config_client_sessions_max(in->with.config);
}

void client_start(struct ingress *in, int fd)
{
    if (overrun(in)) {
        metric_add(in->with.metrics, METRIC_CLIENTS_REFUSED, 1);
        close(fd);
        return;
    }
    struct client *s = calloc(1, sizeof *s + smtp_server_line_bytes(&in->limits));
    if (s == NULL) {
        close(fd);
        return;
    }
    s->in = in;
    s->next = in->sessions;
    if (s->next != NULL) {
        s->next->prev = s;
    }
    in->sessions = s;
    in->session_count++;
    s->timer.fn = on_timer;
    smtp_server_init(&s->machine, &in->limits, s->line_memory, io_now_ms(in->with.io));
    stream_init(&s->stream, in->with.io, on_stream);
    greet(s, fd);
    stream_open(&s->stream, fd);
    pump(s);
}
