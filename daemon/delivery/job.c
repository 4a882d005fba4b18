/*
 * One message over one connection: its records from the store, its recipients in groups of at most
 * SMTP_RECIPIENTS_UPSTREAM_MAX a transaction, its body piece by piece, and a result for each
 * recipient.
 *
 * A recipient that got no result stays as it was. So when the connection breaks between two groups,
 * the first group's answers count and the rest is simply tried again.
 */
#include "daemon/base/num.h"
#include "daemon/delivery/delivery_internal.h"

#include <stdlib.h>

#define RECORDS_BYTES_MIN 4096
#define RECORDS_BYTES_MAX (64u << 20) /* JOB_RECIPIENTS_MAX recipients at their longest */

static void log_trouble(const struct session *s, enum event event, const struct msg_id *id,
                        const char *problem)
{
    struct log_line line;
    event_begin(&line, s->d->with.log, event);
    event_put_id(&line, id);
    log_put_text(&line, "problem", slice_from_str(problem));
    log_end(&line);
}

/* ---- results ---- */

/* The words of a result, once: the same words again share their place. */
static void put_words(struct flow_job *job, struct flow_result *result, struct slice words)
{
    words = slice_head(words, RECORD_REPLY_TEXT_BYTES_MAX);
    if (job->result_count > 0) {
        const struct flow_result *before = &job->results[job->result_count - 1];
        if (slice_equal(words, slice_of(job->text.data + before->text_offset, before->text_len))) {
            result->text_offset = before->text_offset;
            result->text_len = before->text_len;
            return;
        }
    }
    words = slice_head(words, buf_room(&job->text));
    result->text_offset = u32_from(job->text.len);
    result->text_len = u16_from(words.len);
    buf_put(&job->text, words);
}

static void log_result(const struct session *s, const struct flow_result *result,
                       struct slice recipient, struct slice words)
{
    enum outcome_action action = outcome_row(result->outcome)->action;
    if (action != OUTCOME_ACTION_DONE && action != OUTCOME_ACTION_REPORT) {
        return; /* the queue thread says when it is tried again */
    }
    struct log_line line;
    event_begin(&line, s->d->with.log,
                action == OUTCOME_ACTION_DONE ? EVENT_DELIVERED : EVENT_FAILED);
    event_put_id(&line, &s->now.job->id);
    log_put_word(&line, "upstream", s->up->name);
    log_put_word(&line, "reason", outcome_row(result->outcome)->word);
    log_put_u64(&line, "code", result->code);
    log_put_u64(&line, "took", io_now_ms(s->d->with.io) - s->now.began_ms);
    log_put_text(&line, "to", recipient);
    log_put_text(&line, "reply", words);
    log_end(&line);
}

static void put_result(struct session *s, uint32_t group_at, enum outcome outcome,
                       const struct smtp_reply *reply, struct slice words)
{
    struct delivery_job *j = &s->now;
    if (j->group_told[group_at]) {
        return;
    }
    j->group_told[group_at] = true;
    struct flow_result result = {
        .recipient_index = j->group_index[group_at],
        .outcome = outcome,
        .code = reply->code,
    };
    memcpy(result.enhanced, reply->enhanced, sizeof result.enhanced);
    put_words(j->job, &result, words);
    CHECK(j->job->result_count < j->queued_count);
    j->job->results[j->job->result_count++] = result;
    log_result(s, &result, j->group[group_at], words);
}

/* The same for everybody in the group who was not told yet. */
static void put_rest(struct session *s, enum outcome outcome, const struct smtp_reply *reply,
                     struct slice words)
{
    for (uint32_t at = 0; at < s->now.group_count; at++) {
        put_result(s, at, outcome, reply, words);
    }
}

static void give_back(struct session *s)
{
    struct delivery_job *j = &s->now;
    uint32_t delivered = 0;
    for (uint32_t index = 0; index < j->job->result_count; index++) {
        delivered += outcome_row(j->job->results[index].outcome)->action == OUTCOME_ACTION_DONE;
    }
    j->job->complete = j->job->tried && j->failed_before == 0 && delivered == j->queued_count;
    s->jobs_answered += j->job->result_count > 0;
    struct flow_job *job = j->job;
    j->job = NULL;
    mailbox_send(s->d->with.queue, &job->msg);
}

void jobs_return_waiting(struct session *s)
{
    while (s->waiting_first != NULL) {
        struct flow_job *job = s->waiting_first;
        s->waiting_first = FLOW_FROM(job->msg.next, struct flow_job);
        mailbox_send(s->d->with.queue, &job->msg);
    }
    s->waiting_last = NULL;
}

void job_free(struct delivery_job *j)
{
    free(j->records.data);
    free(j->chunk.data);
    j->records.data = j->chunk.data = NULL;
}

/* ---- reading ---- */

static enum err records_resize(struct delivery_job *j, size_t bytes)
{
    if (bytes > RECORDS_BYTES_MAX) {
        return ERR_DAMAGED;
    }
    uint8_t *memory = realloc(j->records.data, bytes);
    if (memory == NULL) {
        return ERR_NO_MEMORY;
    }
    buf_init(&j->records, memory, bytes);
    return ERR_OK;
}

static enum err load(struct session *s)
{
    struct delivery_job *j = &s->now;
    const struct flow_reader *reader = s->d->with.reader;
    struct slice envelope, state;
    size_t needed = RECORDS_BYTES_MIN;
    enum err err = j->records.data == NULL ? records_resize(j, needed) : ERR_OK;
    for (int attempt = 0; err == ERR_OK && attempt < 2; attempt++) {
        buf_reset(&j->records);
        err = reader->message(reader->reader, &j->job->id, &j->records, &envelope, &state, &needed);
        if (err != ERR_LIMIT) {
            break;
        }
        err = records_resize(j, needed);
    }
    if (err == ERR_OK) {
        err = record_envelope_get(envelope, &j->envelope);
    }
    if (err == ERR_OK) {
        err = record_state_get(state, &j->state);
    }
    if (err == ERR_OK && j->state.recipient_count != j->envelope.recipient_count) {
        err = ERR_DAMAGED;
    }
    return err;
}

/* Counts what is to be done, and makes room for its results. */
static enum err plan(struct delivery_job *j)
{
    struct slice fates = j->state.recipients;
    struct record_recipient fate;
    j->queued_count = j->failed_before = j->delivered_before = 0;
    while (record_fate_next(&fates, &fate)) {
        j->queued_count += fate.state == RECIPIENT_QUEUED;
        j->failed_before += fate.state == RECIPIENT_FAILED;
        j->delivered_before += fate.state == RECIPIENT_DELIVERED;
    }
    if (j->queued_count == 0) {
        return ERR_DAMAGED; /* it stood in the due index with nothing due */
    }
    if (j->queued_count > 1) {
        struct flow_result *results = calloc(j->queued_count, sizeof *results);
        if (results == NULL) {
            return ERR_NO_MEMORY;
        }
        j->job->results = results;
    }
    j->recipients = j->envelope.recipients;
    j->fates = j->state.recipients;
    j->next_index = 0;
    return ERR_OK;
}

/* The next recipients that are still queued. False when none is left. */
static bool next_group(struct delivery_job *j)
{
    struct slice path;
    struct record_recipient fate;
    j->group_count = 0;
    while (j->group_count < SMTP_RECIPIENTS_UPSTREAM_MAX &&
           record_recipient_next(&j->recipients, &path) && record_fate_next(&j->fates, &fate)) {
        if (fate.state == RECIPIENT_QUEUED) {
            j->group[j->group_count] = path;
            j->group_index[j->group_count] = j->next_index;
            j->group_told[j->group_count] = false;
            j->group_count++;
        }
        j->next_index++;
    }
    return j->group_count > 0;
}

/* ---- sending ---- */

static void begin_group(struct session *s)
{
    struct delivery_job *j = &s->now;
    static const struct smtp_reply no_reply;
    while (next_group(j)) {
        j->mail = (struct smtp_client_mail){
            .sender = j->envelope.sender,
            .recipients = j->group,
            .recipient_count = j->group_count,
            .size = j->envelope.body_bytes,
            .body_8bit = (j->envelope.flags & (RECORD_FLAG_8BITMIME | RECORD_FLAG_8BIT)) != 0,
            .smtputf8 = (j->envelope.flags & RECORD_FLAG_SMTPUTF8) != 0,
        };
        j->body_offset = 0;
        j->chunk_used = 0;
        buf_reset(&j->chunk);
        j->job->tried = true;
        switch (smtp_client_begin_mail(&s->machine, &j->mail, io_now_ms(s->d->with.io))) {
        case SMTP_CLIENT_BEGUN:
            return;
        case SMTP_CLIENT_TOO_LARGE:
            put_rest(s, OUTCOME_TOO_LARGE, &no_reply, SLICE("larger than the upstream's SIZE"));
            break;
        case SMTP_CLIENT_NO_SMTPUTF8:
        default:
            put_rest(s, OUTCOME_NEEDS_SMTPUTF8, &no_reply,
                     SLICE("the upstream does not offer SMTPUTF8"));
        }
    }
    give_back(s);
}

void job_next(struct session *s)
{
    while (s->now.job == NULL && s->waiting_first != NULL) {
        struct delivery_job *j = &s->now;
        j->job = s->waiting_first;
        s->waiting_first = FLOW_FROM(j->job->msg.next, struct flow_job);
        j->began_ms = io_now_ms(s->d->with.io);
        enum err err = load(s);
        if (err == ERR_OK) {
            err = plan(j);
        }
        if (err == ERR_OK) {
            begin_group(s);
            continue;
        }
        j->job->damaged = err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_NOT_FOUND;
        log_trouble(s, j->job->damaged ? EVENT_STORE_DAMAGED : EVENT_DELIVERY_TROUBLE, &j->job->id,
                    err_text(err));
        give_back(s);
    }
}

static bool chunk_fill(struct session *s)
{
    struct delivery_job *j = &s->now;
    const struct flow_reader *reader = s->d->with.reader;
    if (j->chunk.data == NULL) {
        void *memory = malloc(BODY_CHUNK_BYTES_MAX);
        if (memory == NULL) {
            return false;
        }
        buf_init(&j->chunk, memory, BODY_CHUNK_BYTES_MAX);
    }
    buf_reset(&j->chunk);
    j->chunk_used = 0;
    enum err err = reader->body(reader->reader, &j->job->id, j->body_offset, &j->chunk);
    if (err == ERR_OK && j->chunk.len > 0 &&
        j->chunk.len <= j->envelope.body_bytes - j->body_offset) {
        j->body_offset += j->chunk.len;
        return true;
    }
    j->job->damaged = err == ERR_DAMAGED || err == ERR_NOT_FOUND || err == ERR_OK;
    log_trouble(s, j->job->damaged ? EVENT_STORE_DAMAGED : EVENT_DELIVERY_TROUBLE, &j->job->id,
                err_text(err == ERR_OK ? ERR_DAMAGED : err));
    return false;
}

void job_content(struct session *s)
{
    struct delivery_job *j = &s->now;
    uint64_t now_ms = io_now_ms(s->d->with.io);
    for (;;) {
        if (j->chunk_used < j->chunk.len) {
            struct slice rest = slice_tail(buf_slice(&j->chunk), j->chunk_used);
            size_t used = smtp_client_content(&s->machine, rest, now_ms);
            j->chunk_used += used;
            if (used < rest.len) {
                return; /* the output is full */
            }
        } else if (j->body_offset == j->envelope.body_bytes) {
            (void)!smtp_client_content_end(&s->machine,
                                           now_ms); /* no room: the next pump comes back here */
            return;
        } else if (!chunk_fill(s)) {
            /* What was begun cannot be ended truthfully: the connection goes, without the final
             * dot. */
            static const struct smtp_reply no_reply;
            if (!j->job->damaged) {
                put_rest(s, OUTCOME_LOCAL_TROUBLE, &no_reply, slice_of(NULL, 0));
            }
            give_back(s);
            session_fail(s, OUTCOME_NONE, 0, slice_of(NULL, 0));
            return;
        }
    }
}

/* ---- answers ---- */

void job_recipient(struct session *s, const struct smtp_client_event *event)
{
    enum outcome outcome = event->reply.code == 0 ? OUTCOME_REFUSED : classify_event(event);
    put_result(s, event->index, outcome, &event->reply,
               event->reply.code == 0 ? slice_from_str(event->detail == NULL ? "" : event->detail)
                                      : event->reply.text);
}

void job_done(struct session *s, const struct smtp_client_event *event)
{
    if (event->accepted_count > 0) {
        put_rest(s, classify_event(event), &event->reply, event->reply.text);
    }
    bool upstreams_fault = false;
    for (uint32_t index = 0; index < s->now.job->result_count; index++) {
        upstreams_fault =
            upstreams_fault ||
            outcome_row(s->now.job->results[index].outcome)->action == OUTCOME_ACTION_UPSTREAM;
    }
    if (upstreams_fault) { /* "authentication required" at MAIL, and the like: more mail would fare
                              no better */
        enum outcome outcome = s->now.job->results[0].outcome;
        give_back(s);
        session_fail(s, outcome, event->reply.code, smtp_reply_first_line(&event->reply));
        return;
    }
    begin_group(s);
}

void job_failed(struct session *s, const struct smtp_client_event *event)
{
    enum outcome outcome = classify_event(event);
    bool nothing_said = event->stage == SMTP_CLIENT_STAGE_MAIL ||
                        event->stage == SMTP_CLIENT_STAGE_RCPT ||
                        event->stage == SMTP_CLIENT_STAGE_DATA;
    if (s->jobs_answered > 0 && nothing_said && s->now.job->result_count == 0 &&
        event->failure == SMTP_CLIENT_FAILURE_CLOSED) {
        /* A kept connection that the server had closed meanwhile: not the message's try. */
        s->now.job->tried = false;
        if (s->now.job->results != &s->now.job->inline_result) {
            free(s->now.job->results);
            s->now.job->results = &s->now.job->inline_result;
        }
    } else {
        put_rest(s, outcome, &event->reply,
                 event->reply.code != 0  ? event->reply.text
                 : event->detail != NULL ? slice_from_str(event->detail)
                                         : slice_of(NULL, 0));
    }
    give_back(s);
}
