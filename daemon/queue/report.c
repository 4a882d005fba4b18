/*
 * Reports to senders and the digest to root-mail: made and queued within the transaction that makes
 * them due, so that a failure and its report are committed together, once.
 *
 * None is made about what was made here, nor to the null sender. Beyond report-rate an hour, and
 * where the upstream will not have the null sender, a failure waits for the digest instead: one
 * message, at most each digest-every, however many have failed. Invariant 8; RFC 3461 6.
 */
#include "daemon/base/num.h"
#include "daemon/flow/ids.h"
#include "daemon/proto/mail_dsn.h"
#include "daemon/queue/queue_internal.h"

#include <stdlib.h>

#define HOUR_MS            3600000u
#define DIGEST_AT_ONCE     4096 /* told of in one; its words show the first MAIL_DIGEST_ROWS_MAX */
#define DIGEST_GATHERED_MS (10 * 60 * 1000u) /* what fails soon after the first comes along */
#define DIGEST_NOTE        "digest"

static uint64_t wall_of(const struct queue *q, uint64_t q_ms)
{
    return q_ms == 0 ? 0 : (uint64_t)((int64_t)q_ms + q->wall_minus_q);
}

/* ---- how many reports there may be ---- */

/* A bucket that fills by report-rate an hour and holds that much. */
static bool rate_allows(struct queue *q)
{
    uint64_t cap = (uint64_t)q->with.config->report_rate * 1000;
    uint64_t passed_ms = u64_min(q->now_ms - u64_min(q->report_tokens_ms, q->now_ms), HOUR_MS);
    uint64_t fresh = cap * passed_ms / HOUR_MS;
    if (fresh > 0) {
        q->report_tokens_milli = u64_min(cap, q->report_tokens_milli + fresh);
        q->report_tokens_ms = q->now_ms;
    }
    return q->report_tokens_milli >= (q->effects.reports + 1) * 1000;
}

/* NULL: a report may be made. Else why not, in words. */
static const char *why_not(struct queue *q, const struct queue_upstream *u)
{
    if (!q->with.config->reports) {
        return "reports = no";
    }
    if (!queue_takes_reports(q, u)) {
        return "the upstream does not take reports: it refuses the null sender";
    }
    return rate_allows(q) ? NULL : "more than report-rate within an hour";
}

static void log_unreported(struct queue *q, const struct queue_change *c, const char *why)
{
    struct log_line line;
    event_begin(&line, &q->said, EVENT_UNREPORTED);
    event_put_id(&line, c->id);
    log_put_text(&line, "why", slice_from_str(why));
    log_end(&line);
}

/* ---- a report ---- */

struct about {
    enum mail_dsn_kind kind;
    enum recipient_state state; /* of whom it is told; open ones for a delay */
    const char *word;
    const char *subject; /* in lists; followed by the original's */
};

static struct about about_of(uint8_t told)
{
    switch (told) {
    case RECORD_FATE_TOLD_FAILED:
        return (struct about){MAIL_DSN_FAILED, RECIPIENT_FAILED, "failed", "Not delivered: "};
    case RECORD_FATE_TOLD_SUCCESS:
        return (struct about){MAIL_DSN_RELAYED, RECIPIENT_DELIVERED, "relayed", "Relayed: "};
    case RECORD_FATE_TOLD_DELAY:
    default:
        return (struct about){MAIL_DSN_DELAYED, RECIPIENT_DEFERRED, "delayed", "Still waiting: "};
    }
}

static bool is_told_of(const struct record_recipient *fate, const struct record_rcpt *rcpt,
                       uint8_t told)
{
    if ((fate->flags & told) != 0) {
        return false;
    }
    switch (told) {
    case RECORD_FATE_TOLD_FAILED:
        return fate->state == RECIPIENT_FAILED &&
               (rcpt->notify == 0 || (rcpt->notify & RECORD_NOTIFY_FAILURE) != 0);
    case RECORD_FATE_TOLD_SUCCESS:
        return fate->state == RECIPIENT_DELIVERED && (rcpt->notify & RECORD_NOTIFY_SUCCESS) != 0;
    default:
        return recipient_is_open(fate->state) &&
               (rcpt->notify == 0 || (rcpt->notify & RECORD_NOTIFY_DELAY) != 0);
    }
}

/* What the sender can do. The hints of outcome.def are for whoever looks after the relay. */
static const char *hint_for_sender(enum outcome outcome)
{
    if (outcome == OUTCOME_NO_SUCH_RECIPIENT) {
        return "Check the address.";
    }
    return outcome == OUTCOME_TOO_LARGE || outcome == OUTCOME_NEEDS_SMTPUTF8
               ? outcome_row(outcome)->hint
               : "";
}

/* Those to tell of into q->dsn_recipients; returns how many. Their flag is set in the encoded
 * fates. */
static uint32_t gather(struct queue *q, struct queue_change *c, uint8_t told)
{
    struct slice fates = buf_slice(&q->fates);
    struct slice rcpts = c->envelope.recipients;
    struct record_recipient fate;
    struct record_rcpt rcpt;
    uint32_t count = 0;
    for (struct slice at = fates;
         record_fate_next(&fates, &fate) && record_rcpt_next(&rcpts, &rcpt); at = fates) {
        if (!is_told_of(&fate, &rcpt, told) || count == SMTP_RECIPIENTS_MAX) {
            continue;
        }
        const struct outcome_row *row = outcome_row(fate.outcome);
        q->dsn_recipients[count++] = (struct mail_dsn_recipient){
            .address = rcpt.path,
            .orcpt = rcpt.orcpt,
            .remote =
                fate.code != 0 ? slice_from_str(c->via->config->host.name) : slice_of(NULL, 0),
            .sentence = row->sentence,
            .hint = told == RECORD_FATE_TOLD_FAILED ? hint_for_sender(fate.outcome) : "",
            .code = fate.code,
            .enhanced = {fate.enhanced[0], fate.enhanced[1], fate.enhanced[2]},
            .text = fate.text,
            .attempted_ms = wall_of(q, c->next.last_q),
        };
        if (fate.outcome == OUTCOME_GAVE_UP && fate.enhanced[0] == 0) {
            static const uint16_t expired[3] = {5, 4, 7}; /* RFC 3463 3.5 */
            memcpy(q->dsn_recipients[count - 1].enhanced, expired, sizeof expired);
        }
        q->fates.data[q->fates.len - at.len + RECORD_FATE_FLAGS_OFFSET] |= told;
    }
    return count;
}

static struct mail_dsn dsn_of(struct queue *q, const struct queue_change *c,
                              const struct about *about, const struct msg_id *id, uint32_t count)
{
    return (struct mail_dsn){
        .kind = about->kind,
        .smtputf8 = (c->envelope.flags & RECORD_FLAG_SMTPUTF8) != 0,
        .id = *id,
        .original_id = *c->id,
        .hostname = slice_from_str(q->with.config->hostname),
        .date_ms = wall_of(q, q->now_ms),
        .arrived_ms = c->envelope.arrived_ms,
        .retry_until_ms = wall_of(q, c->old.accepted_q + q->with.config->give_up_ms),
        .sender = c->envelope.sender,
        .envid = c->envelope.envid,
        .subject = c->envelope.subject,
        .recipients = q->dsn_recipients,
        .recipient_count = count,
        .original = buf_slice(&q->header),
    };
}

static void log_reported(struct queue *q, const struct queue_change *c, const struct msg_id *id,
                         const struct about *about)
{
    uint8_t memory[MSG_ID_TEXT_BYTES + 1];
    struct buf text;
    struct log_line line;
    buf_init(&text, memory, sizeof memory);
    msg_id_put_text(&text, id);
    event_begin(&line, &q->said, EVENT_REPORTED);
    event_put_id(&line, c->id);
    log_put_text(&line, "report", buf_slice(&text));
    log_put_word(&line, "kind", about->word);
    log_put_text(&line, "to", c->envelope.sender);
    log_end(&line);
}

/* In the history: that the sender was told, and by which message. */
static void note_told(struct queue *q, struct queue_change *c, const struct msg_id *id,
                      const struct about *about, uint32_t count)
{
    uint8_t memory[64];
    struct buf words;
    buf_init(&words, memory, sizeof memory);
    buf_printf(&words, "%s: report ", about->word);
    msg_id_put_text(&words, id);
    enum lifecycle state = record_lifecycle(c->next.state, about->state, false);
    const struct record_move move = {
        .when_ms = wall_of(q, q->now_ms),
        .cause = RECORD_CAUSE_REPORTED,
        .from = state,
        .to = state,
        .count = count,
        .text = buf_slice(&words),
    };
    if (c->move_count < RECORD_TRAIL_MOVES_MAX) {
        record_move_put(&q->moves, &move);
        c->move_count++;
    }
}

static enum err queue_one(struct queue *q, struct queue_change *c, const struct about *about,
                          const struct mail_dsn *dsn, struct queue_upstream *by)
{
    size_t bytes = mail_dsn_bytes_max(dsn);
    uint8_t *memory = malloc(bytes);
    struct buf body;
    if (memory == NULL) {
        return ERR_NO_MEMORY;
    }
    buf_init(&body, memory, bytes);
    mail_dsn_put(&body, dsn);
    CHECK(!body.overflow);
    uint8_t subject_memory[2 * RECORD_SUBJECT_BYTES_MAX];
    struct buf subject;
    buf_init(&subject, subject_memory, sizeof subject_memory);
    buf_put_str(&subject, about->subject);
    buf_put(&subject, c->envelope.subject);
    uint16_t flags = RECORD_FLAG_REPORT | (dsn->smtputf8 ? RECORD_FLAG_SMTPUTF8 : 0);
    enum err err = queue_add_own(q, &dsn->id, buf_slice(&body), flags, slice_of(NULL, 0),
                                 c->envelope.sender, buf_slice(&subject), by);
    free(memory);
    if (err == ERR_OK) {
        q->effects.reports++;
        log_reported(q, c, &dsn->id, about);
        note_told(q, c, &dsn->id, about, dsn->recipient_count);
    }
    return err;
}

enum err queue_report(struct queue *q, struct queue_change *c, uint8_t told, bool *out_told)
{
    struct about about = about_of(told);
    struct queue_upstream *by = queue_route_report(q, c->envelope.sender);
    const char *problem = why_not(q, by);
    *out_told = problem == NULL;
    if (problem != NULL) {
        if (told == RECORD_FATE_TOLD_FAILED && c->failed_now > 0) { /* else it was said before */
            q->effects.unreported++;
            log_unreported(q, c, problem);
        }
        return ERR_OK;
    }
    buf_reset(&q->header);
    enum err err = store_body_head(q->with.store, c->id, &q->header);
    if (err == ERR_DAMAGED || err == ERR_NOT_FOUND) {
        buf_reset(&q->header); /* the report is made without it */
    } else if (err != ERR_OK) {
        return err;
    }
    struct msg_id id = flow_ids_next(q->with.ids, wall_of(q, q->now_ms));
    uint32_t count = gather(q, c, told);
    if (count == 0) {
        return ERR_OK;
    }
    struct mail_dsn dsn = dsn_of(q, c, &about, &id, count);
    return queue_one(q, c, &about, &dsn, by);
}

/* ---- the digest ---- */

uint64_t queue_digest_due_ms(const struct queue *q)
{
    uint64_t every_ms = q->with.config->digest_ms;
    uint64_t soonest = q->now_ms + u64_min(DIGEST_GATHERED_MS, every_ms);
    uint64_t next = q->digest_last_ms + every_ms;
    return q->digest_last_ms == 0 ? soonest : u64_max(soonest, next);
}

#define DIGEST_TEXT_BYTES 200

/* Copies text behind the others, which stays as long as texts does. */
static struct slice keep(struct buf *texts, struct slice text)
{
    size_t at = texts->len;
    buf_put(texts, text);
    CHECK(!texts->overflow);
    return slice_of(texts->data + at, text.len);
}

/* The first recipient that failed, and the message, as a row of the digest. */
static void row_fill(const struct queue_change *c, struct mail_digest_row *row, struct buf *texts)
{
    struct slice fates = c->old.recipients;
    struct slice rcpts = c->envelope_sound ? c->envelope.recipients : slice_of(NULL, 0);
    struct record_recipient fate = {0};
    struct record_rcpt rcpt = {0};
    while (record_fate_next(&fates, &fate)) {
        if (c->envelope_sound && !record_rcpt_next(&rcpts, &rcpt)) {
            break;
        }
        if (fate.state == RECIPIENT_FAILED) {
            break;
        }
    }
    *row = (struct mail_digest_row){
        .id = *c->id,
        .arrived_ms = c->envelope_sound ? c->envelope.arrived_ms : 0,
        .recipient_count = c->old.recipient_count,
        .sentence = outcome_row(fate.outcome)->sentence,
        .code = fate.code,
    };
    if (c->envelope_sound) {
        row->sender = keep(texts, c->envelope.sender);
        row->recipient = keep(texts, rcpt.path);
    }
    row->text = keep(texts, slice_head(fate.text, DIGEST_TEXT_BYTES));
}

/* Told by the digest: the message goes to the trash. */
static enum err row_settle(struct queue *q, struct queue_change *c)
{
    struct record_recipient fate;
    struct record_rcpt rcpt;
    c->cause = RECORD_CAUSE_REPORTED;
    c->words = SLICE("digest to root-mail");
    c->next.state = MESSAGE_TRASHED;
    c->next.flags = 0;
    c->next.due_q = q->now_ms + u64_max(q->with.config->keep_deleted_ms, 1);
    while (queue_change_next(c, &fate, &rcpt)) {
        struct record_recipient after = fate;
        if (fate.state == RECIPIENT_FAILED) {
            after.flags |= RECORD_FATE_TOLD_FAILED;
        }
        queue_change_put(q, c, &fate, &after);
    }
    return queue_change_finish(q, c);
}

struct digest_work {
    struct store_due due[DIGEST_AT_ONCE];
    struct mail_digest_row rows[MAIL_DIGEST_ROWS_MAX];
    uint32_t row_count;
    uint64_t told;
    uint8_t texts_memory[MAIL_DIGEST_ROWS_MAX * (2 * SMTP_PATH_BYTES_MAX + DIGEST_TEXT_BYTES)];
    struct buf texts;
};

static enum err digest_rows(struct queue *q, struct digest_work *work, size_t count)
{
    enum err err = ERR_OK;
    buf_init(&work->texts, work->texts_memory, sizeof work->texts_memory);
    for (size_t index = 0; err == ERR_OK && index < count; index++) {
        struct queue_change c;
        err = queue_change_load(q, &c, &work->due[index].id);
        if (err == ERR_OK) {
            if (work->row_count < MAIL_DIGEST_ROWS_MAX) {
                row_fill(&c, &work->rows[work->row_count++], &work->texts);
            }
            work->told++;
            err = row_settle(q, &c);
        } else if (err == ERR_NOT_FOUND || err == ERR_DAMAGED || err == ERR_VERSION ||
                   err == ERR_LIMIT) {
            err = ERR_OK; /* it stays as it is; the check of the store names it */
        }
    }
    return err;
}

static enum err digest_queue(struct queue *q, const struct mail_digest *digest)
{
    size_t bytes = mail_digest_bytes_max(digest);
    uint8_t *memory = malloc(bytes);
    struct buf body;
    if (memory == NULL) {
        return ERR_NO_MEMORY;
    }
    buf_init(&body, memory, bytes);
    mail_digest_put(&body, digest);
    CHECK(!body.overflow);
    /* From root-mail to root-mail: where the null sender is refused this passes. */
    enum err err = queue_add_own(q, &digest->id, buf_slice(&body), RECORD_FLAG_DIGEST, digest->to,
                                 digest->to, SLICE("digest"), NULL);
    free(memory);
    return err;
}

static enum err note_digest(struct queue *q)
{
    uint8_t value[8];
    be64_put(value, q->now_ms);
    return store_note_set(q->with.store, SLICE(DIGEST_NOTE), slice_of(value, sizeof value));
}

static void log_digested(struct queue *q, const struct msg_id *id, uint64_t count)
{
    struct log_line line;
    event_begin(&line, &q->said, EVENT_DIGESTED);
    event_put_id(&line, id);
    log_put_u64(&line, "count", count);
    log_end(&line);
}

static enum err digest_make(struct queue *q, struct digest_work *work, size_t count)
{
    enum err err = digest_rows(q, work, count);
    const struct mail_digest digest = {
        .id = flow_ids_next(q->with.ids, wall_of(q, q->now_ms)),
        .hostname = slice_from_str(q->with.config->hostname),
        .date_ms = wall_of(q, q->now_ms),
        .to = slice_from_str(q->with.config->root_mail),
        .count = work->told,
        .rows = work->rows,
        .row_count = work->row_count,
    };
    if (err == ERR_OK) {
        err = digest_queue(q, &digest);
    }
    if (err == ERR_OK) {
        err = note_digest(q);
    }
    log_digested(q, &digest.id, work->told);
    return err;
}

/* The first that can be read decides: one that cannot stays at the head for ever. */
static bool is_due(struct queue *q, const struct digest_work *work, size_t count)
{
    struct queue_change c;
    for (size_t index = 0; index < count && work->due[index].due_q <= q->now_ms; index++) {
        if (queue_change_load(q, &c, &work->due[index].id) == ERR_OK) {
            return true;
        }
    }
    return false;
}

/* In a transaction of its own. */
static enum err digest_when_due(struct queue *q, struct digest_work *work, size_t count)
{
    enum err err = queue_transaction_begin(q);
    if (err != ERR_OK) {
        return err;
    }
    if (!is_due(q, work, count)) {
        store_abort(q->with.store);
        return ERR_OK;
    }
    err = queue_transaction_end(q, digest_make(q, work, count));
    q->digest_last_ms = err == ERR_OK ? q->now_ms : q->digest_last_ms;
    return err;
}

enum err queue_digest(struct queue *q)
{
    uint32_t route = record_route(SLICE(RECORD_ROUTE_NAME_DIGEST));
    enum err err = ERR_OK;
    struct digest_work *work = calloc(1, sizeof *work);
    if (work == NULL) {
        return ERR_NO_MEMORY;
    }
    size_t count = store_due_after(q->with.store, route, NULL, work->due, DIGEST_AT_ONCE, &err);
    if (err == ERR_OK && count > 0 && work->due[0].due_q <= q->now_ms &&
        q->with.config->root_mail[0] != '\0') {
        err = digest_when_due(q, work, count);
    }
    free(work);
    return err;
}
