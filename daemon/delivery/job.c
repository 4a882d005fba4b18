/*
 * Messages over one connection: their records from the store, their recipients in groups of at most
 * SMTP_RECIPIENTS_UPSTREAM_MAX a transaction, and a result for each recipient. Several messages are
 * in hand at once, as many as the machine's window takes; each job has at most one group in it.
 *
 * A recipient that got no result stays as it was. So when the connection breaks between two groups,
 * the first group's answers count and the rest is simply tried again.
 */
#include "daemon/base/num.h"
#include "daemon/delivery/delivery_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define RECORDS_BYTES_MIN 4096
#define RECORDS_BYTES_MAX (64u << 20) /* JOB_RECIPIENTS_MAX recipients at their longest */

void job_log_trouble(const struct session *s, enum event event, const struct msg_id *id,
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

static void log_result(const struct session *s, const struct delivery_job *j,
                       const struct flow_result *result, struct slice recipient, struct slice words)
{
    enum outcome_action action = outcome_row(result->outcome)->action;
    if (action != OUTCOME_ACTION_DONE && action != OUTCOME_ACTION_REPORT) {
        return; /* the queue thread says when it is tried again */
    }
    struct log_line line;
    event_begin(&line, s->d->with.log,
                action == OUTCOME_ACTION_DONE ? EVENT_DELIVERED : EVENT_FAILED);
    event_put_id(&line, &j->job->id);
    log_put_word(&line, "upstream", s->up->name);
    log_put_word(&line, "reason", outcome_row(result->outcome)->word);
    log_put_u64(&line, "code", result->code);
    log_put_u64(&line, "took", io_now_ms(s->d->with.io) - j->began_ms);
    log_put_text(&line, "to", recipient);
    log_put_text(&line, "reply", words);
    log_end(&line);
}

static void put_result(struct session *s, struct delivery_job *j, uint32_t group_at,
                       enum outcome outcome, const struct smtp_reply *reply, struct slice words)
{
    if (j->places[group_at].told) {
        return;
    }
    j->places[group_at].told = true;
    struct flow_result result = {
        .recipient_index = j->places[group_at].index,
        .outcome = outcome,
        .code = reply->code,
    };
    memcpy(result.enhanced, reply->enhanced, sizeof result.enhanced);
    put_words(j->job, &result, words);
    CHECK(j->job->result_count < j->queued_count);
    j->job->results[j->job->result_count++] = result;
    log_result(s, j, &result, j->group[group_at].path, words);
}

/* The same for everybody in the group who was not told yet. */
static void put_rest(struct session *s, struct delivery_job *j, enum outcome outcome,
                     const struct smtp_reply *reply, struct slice words)
{
    for (uint32_t at = 0; at < j->group_count; at++) {
        put_result(s, j, at, outcome, reply, words);
    }
}

/* ---- giving back ---- */

static void group_free(struct delivery_job *j)
{
    free(j->group_memory);
    j->group_memory = NULL;
    j->group_count = 0;
}

static void give_back(struct session *s, struct delivery_job *j)
{
    struct flow_job *job = j->job;
    uint32_t delivered = 0;
    for (uint32_t index = 0; index < job->result_count; index++) {
        delivered += outcome_row(job->results[index].outcome)->action == OUTCOME_ACTION_DONE;
    }
    job->complete = job->tried && j->failed_before == 0 && delivered == j->queued_count;
    job->connection = j->begun ? s->number : 0;
    job->duration_ms =
        j->begun ? u32_from(u64_min(io_now_ms(s->d->with.io) - j->began_ms, UINT32_MAX)) : 0;
    trace_message(s, j);
    group_free(j);
    if (j->records.cap > DELIVERY_RECORDS_KEPT) {
        free(j->records.data);
        j->records = (struct buf){0};
    }
    j->job = NULL;
    j->state = DELIVERY_JOB_FREE;
    s->job_count--;
    delivery_give_back(s->d, job);
}

/* Not the message's try: nothing of it may have been taken, and nobody was told anything. */
static void give_back_untried(struct session *s, struct delivery_job *j)
{
    j->job->tried = false;
    if (j->job->results != &j->job->inline_result) {
        free(j->job->results);
        j->job->results = &j->job->inline_result;
    }
    give_back(s, j);
}

void jobs_return_waiting(struct session *s)
{
    while (s->waiting_first != NULL) {
        struct flow_job *job = s->waiting_first;
        s->waiting_first = FLOW_FROM(job->msg.next, struct flow_job);
        delivery_give_back(s->d, job);
    }
    s->waiting_last = NULL;
}

/* The one that has been in hand for longest, of those that are pending; NULL when none is. */
static struct delivery_job *oldest_pending(struct session *s)
{
    struct delivery_job *oldest = NULL;
    for (size_t index = 0; s->job_count > 0 && index < DELIVERY_WINDOW; index++) {
        struct delivery_job *j = &s->jobs[index];
        if (j->state == DELIVERY_JOB_PENDING && (oldest == NULL || j->order < oldest->order)) {
            oldest = j;
        }
    }
    return oldest;
}

/* The connection is over. What is in the machine's window was told LOST before. */
void jobs_return_all(struct session *s)
{
    for (struct delivery_job *j = oldest_pending(s); j != NULL; j = oldest_pending(s)) {
        if (j->job->result_count == 0) {
            give_back_untried(s, j);
        } else {
            give_back(s, j);
        }
    }
    jobs_return_waiting(s);
    CHECK(s->job_count == 0);
}

void jobs_free(struct session *s)
{
    CHECK(s->job_count == 0);
    for (size_t index = 0; index < DELIVERY_WINDOW; index++) {
        free(s->jobs[index].records.data);
    }
    free(s->chunk.data);
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

static enum err load(struct session *s, struct delivery_job *j)
{
    const struct flow_reader *reader = s->d->with.reader;
    struct slice envelope, message;
    size_t needed = RECORDS_BYTES_MIN;
    enum err err = j->records.data == NULL ? records_resize(j, needed) : ERR_OK;
    for (int attempt = 0; err == ERR_OK && attempt < 2; attempt++) {
        buf_reset(&j->records);
        err =
            reader->message(reader->reader, &j->job->id, &j->records, &envelope, &message, &needed);
        if (err != ERR_LIMIT) {
            break;
        }
        err = records_resize(j, needed);
    }
    if (err == ERR_OK) {
        err = record_envelope_get(envelope, &j->envelope);
    }
    if (err == ERR_OK) {
        err = record_state_get(message, &j->message);
    }
    if (err == ERR_OK && j->message.recipient_count != j->envelope.recipient_count) {
        err = ERR_DAMAGED;
    }
    return err;
}

/* Where the group's recipients are kept: in the job, or in memory of its own. */
static enum err group_init(struct delivery_job *j)
{
    j->group = j->group_inline;
    j->places = j->places_inline;
    j->group_cap = DELIVERY_GROUP_INLINE;
    if (j->queued_count <= DELIVERY_GROUP_INLINE) {
        return ERR_OK;
    }
    j->group_cap = j->queued_count < SMTP_RECIPIENTS_UPSTREAM_MAX ? j->queued_count
                                                                  : SMTP_RECIPIENTS_UPSTREAM_MAX;
    j->group_memory = calloc(j->group_cap, sizeof *j->group + sizeof *j->places);
    if (j->group_memory == NULL) {
        return ERR_NO_MEMORY;
    }
    j->group = j->group_memory;
    j->places = (struct delivery_place *)(void *)(j->group + j->group_cap);
    return ERR_OK;
}

/* Counts what is to be done, and makes room for its results. */
static enum err plan(struct delivery_job *j)
{
    struct slice fates = j->message.recipients;
    struct record_recipient fate;
    j->queued_count = j->failed_before = 0;
    while (record_fate_next(&fates, &fate)) {
        j->queued_count += recipient_is_open(fate.state);
        j->failed_before += fate.state == RECIPIENT_FAILED;
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
    j->fates = j->message.recipients;
    j->next_index = 0;
    return group_init(j);
}

/* Both are the bits of RFC 3461 4.1, in the same order. */
_Static_assert(RECORD_NOTIFY_NEVER == SMTP_CLIENT_NOTIFY_NEVER &&
                   RECORD_NOTIFY_SUCCESS == SMTP_CLIENT_NOTIFY_SUCCESS &&
                   RECORD_NOTIFY_FAILURE == SMTP_CLIENT_NOTIFY_FAILURE &&
                   RECORD_NOTIFY_DELAY == SMTP_CLIENT_NOTIFY_DELAY,
               "NOTIFY goes from the record to the command as it is");

/* The next recipients that are still open. False when none is left. */
static bool next_group(struct delivery_job *j)
{
    struct record_rcpt rcpt;
    struct record_recipient fate;
    j->group_count = 0;
    while (j->group_count < j->group_cap && record_rcpt_next(&j->recipients, &rcpt) &&
           record_fate_next(&j->fates, &fate)) {
        if (recipient_is_open(fate.state)) {
            j->group[j->group_count] = (struct smtp_client_recipient){
                .path = rcpt.path, .orcpt = rcpt.orcpt, .notify = rcpt.notify};
            j->places[j->group_count] = (struct delivery_place){.index = j->next_index};
            j->group_count++;
        }
        j->next_index++;
    }
    return j->group_count > 0;
}

/* ---- beginning ---- */

static void describe_mail(const struct session *s, struct delivery_job *j)
{
    uint16_t flags = (uint16_t)j->envelope.flags;
    j->mail = (struct smtp_client_mail){
        .tag = (uint32_t)(j - s->jobs),
        .sender = j->envelope.sender,
        .recipients = j->group,
        .recipient_count = j->group_count,
        .size = j->envelope.body_bytes,
        .body_8bit = (flags & (RECORD_FLAG_8BITMIME | RECORD_FLAG_8BIT)) != 0,
        .smtputf8 = (flags & RECORD_FLAG_SMTPUTF8) != 0,
        .ret = (flags & RECORD_FLAG_RET_FULL) != 0   ? SMTP_CLIENT_RET_FULL
               : (flags & RECORD_FLAG_RET_HDRS) != 0 ? SMTP_CLIENT_RET_HDRS
                                                     : SMTP_CLIENT_RET_NONE,
        .envid = j->envelope.envid,
        .dialogue = &j->job->dialogue,
    };
}

/* The next group, or the job's end. */
static void go_on(struct session *s, struct delivery_job *j)
{
    if (next_group(j)) {
        j->state = DELIVERY_JOB_PENDING;
    } else {
        give_back(s, j);
    }
}

/* A pending job's group enters the window. */
static void begin_group(struct session *s, struct delivery_job *j)
{
    static const struct smtp_reply no_reply;
    uint64_t now_ms = io_now_ms(s->d->with.io);
    if (!j->begun) {
        j->begun = true;
        j->began_ms = now_ms;
    }
    describe_mail(s, j);
    j->job->tried = true;
    j->job->dsn_passed = (s->machine.extensions & SMTP_CLIENT_EXT_DSN) != 0;
    switch (smtp_client_begin_mail(&s->machine, &j->mail, now_ms)) {
    case SMTP_CLIENT_BEGUN:
        j->state = DELIVERY_JOB_OPEN;
        return;
    case SMTP_CLIENT_TOO_LARGE:
        put_rest(s, j, OUTCOME_TOO_LARGE, &no_reply, SLICE("larger than the upstream's SIZE"));
        break;
    case SMTP_CLIENT_NO_SMTPUTF8:
    default:
        put_rest(s, j, OUTCOME_NEEDS_SMTPUTF8, &no_reply,
                 SLICE("the upstream does not offer SMTPUTF8"));
    }
    go_on(s, j);
}

/* Takes the first waiting job in hand. NULL: there was none, or it went back at once. */
static struct delivery_job *take_waiting(struct session *s)
{
    struct delivery_job *j = s->jobs;
    while (j->state != DELIVERY_JOB_FREE) {
        j++;
        CHECK(j < s->jobs + DELIVERY_WINDOW);
    }
    j->job = s->waiting_first;
    s->waiting_first = FLOW_FROM(j->job->msg.next, struct flow_job);
    j->state = DELIVERY_JOB_PENDING;
    j->order = s->job_order++;
    s->messages_taken++;
    j->begun = j->unreadable = false;
    j->queued_count = j->failed_before = 0;
    j->traced = 0;
    s->job_count++;
    enum err err = load(s, j);
    if (err == ERR_OK) {
        err = plan(j);
    }
    if (err == ERR_OK) {
        go_on(s, j);
        return j->state == DELIVERY_JOB_PENDING ? j : NULL;
    }
    j->job->damaged = err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_NOT_FOUND;
    job_log_trouble(s, j->job->damaged ? EVENT_STORE_DAMAGED : EVENT_DELIVERY_TROUBLE, &j->job->id,
                    err_text(err));
    give_back_untried(s, j);
    return NULL;
}

bool jobs_begin(struct session *s)
{
    bool moved = false;
    while (smtp_client_has_room(&s->machine, 1) && s->machine.refused_count == 0) {
        struct delivery_job *j = oldest_pending(s);
        bool may_take = s->waiting_first != NULL && !s->quitting && !session_is_worn(s) &&
                        s->job_count < DELIVERY_WINDOW;
        if (j == NULL && !may_take) {
            break;
        }
        moved = true;
        if (j == NULL) {
            j = take_waiting(s);
        }
        if (j != NULL && !smtp_client_has_room(&s->machine, j->group_count)) {
            return false; /* it waits until others are over */
        }
        if (j != NULL) {
            begin_group(s, j);
        }
    }
    return moved;
}

/* ---- answers ---- */

void job_recipient(struct session *s, const struct smtp_client_event *event)
{
    enum outcome outcome =
        event->reply.code == 0 ? OUTCOME_REFUSED : classify_event(event, s->up->host.provider);
    put_result(s, &s->jobs[event->tag], event->index, outcome, &event->reply,
               event->reply.code == 0 ? slice_from_str(event->detail == NULL ? "" : event->detail)
                                      : event->reply.text);
}

void job_unreadable(struct session *s, struct delivery_job *j)
{
    static const struct smtp_reply no_reply;
    j->unreadable = true;
    if (!j->job->damaged) {
        put_rest(s, j, OUTCOME_LOCAL_TROUBLE, &no_reply, slice_of(NULL, 0));
    }
}

/* "Authentication required" at MAIL, and the like: more mail would fare no better. What is under
 * way hears its own answers; then the connection ends with this one. */
static void note_fault(struct session *s, const struct flow_job *job)
{
    for (uint32_t index = 0; index < job->result_count && s->fault == OUTCOME_NONE; index++) {
        const struct flow_result *result = &job->results[index];
        if (outcome_row(result->outcome)->action == OUTCOME_ACTION_UPSTREAM) {
            s->fault = result->outcome;
            s->fault_code = result->code;
            snprintf(s->fault_text, sizeof s->fault_text, "%.*s",
                     (int)size_min(result->text_len, sizeof s->fault_text - 1),
                     (const char *)job->text.data + result->text_offset);
        }
    }
}

void job_done(struct session *s, const struct smtp_client_event *event)
{
    struct delivery_job *j = &s->jobs[event->tag];
    if (event->accepted_count > 0) {
        put_rest(s, j, classify_event(event, s->up->host.provider), &event->reply,
                 event->reply.text);
    }
    s->answers++;
    s->d->pipelining[s->upstream].suspects = 0;
    note_fault(s, j->job);
    if (s->fault != OUTCOME_NONE) {
        s->quitting = true;
        jobs_return_waiting(s);
        give_back(s, j);
    } else if (j->unreadable) {
        give_back(s, j);
    } else {
        go_on(s, j);
    }
}

void job_lost(struct session *s, const struct smtp_client_event *event)
{
    struct delivery_job *j = &s->jobs[event->tag];
    if (j->unreadable) {
        give_back(s, j);
        return;
    }
    bool whole = event->stage == SMTP_CLIENT_STAGE_END;
    bool nothing_said = event->stage == SMTP_CLIENT_STAGE_MAIL ||
                        event->stage == SMTP_CLIENT_STAGE_RCPT ||
                        event->stage == SMTP_CLIENT_STAGE_DATA;
    /* A kept connection that the server had closed meanwhile. */
    bool was_stale = s->answers > 0 && nothing_said && event->failure == SMTP_CLIENT_FAILURE_CLOSED;
    bool not_its_fault = event->behind || event->anomaly != NULL || s->dropping || was_stale;
    if (!whole && not_its_fault) {
        if (j->job->result_count == 0) {
            give_back_untried(s, j);
        } else {
            give_back(s, j);
        }
        return;
    }
    put_rest(s, j, classify_event(event, s->up->host.provider), &event->reply,
             event->reply.code != 0  ? event->reply.text
             : event->detail != NULL ? slice_from_str(event->detail)
                                     : slice_of(NULL, 0));
    give_back(s, j);
}
