/*
 * Transactions: what the queue thread has taken becomes one, is committed, and is answered.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#define SETTLE_AGAIN_MS 1000
#define SAID_HEAD_BYTES 3

/* ---- what each message does ---- */

static enum err apply(struct queue *q, struct flow_msg *msg)
{
    switch ((enum flow_kind)msg->kind) {
    case FLOW_INTAKE:
        return queue_apply_intake(q, FLOW_FROM(msg, struct flow_intake));
    case FLOW_JOB:
        return queue_apply_job(q, FLOW_FROM(msg, struct flow_job));
    case FLOW_EDIT:
        return queue_apply_edit(q, FLOW_FROM(msg, struct flow_edit));
    case FLOW_LINK_OPEN:
    case FLOW_LINK_UP:
    case FLOW_LINK_DOWN:
    case FLOW_INSPECT:
    case FLOW_COMPACT:
    case FLOW_TRY:
    case FLOW_PROBE:
    case FLOW_LOOKUP:
    case FLOW_AUTH:
    case FLOW_STOP:
    case FLOW_DRAINED:
    default:
        UNREACHABLE("a message that belongs in no transaction");
        return ERR_UNSUPPORTED;
    }
}

/* ---- what is said of it ---- */

/* Where there is no more room it is said now: too early rather than not at all. */
static void keep_line(void *ctx, enum log_level level, struct slice line)
{
    struct queue *q = ctx;
    uint8_t head[SAID_HEAD_BYTES] = {(uint8_t)level};
    be16_put(head + 1, (uint16_t)line.len);
    if (buf_room(&q->said_lines) < sizeof head + line.len) {
        q->with.log->write(q->with.log->ctx, level, line);
        return;
    }
    buf_put(&q->said_lines, slice_of(head, sizeof head));
    buf_put(&q->said_lines, line);
}

void queue_said_init(struct queue *q)
{
    _Static_assert(LOG_LINE_BYTES_MAX <= UINT16_MAX, "its length fits");
    q->said = (struct log){.write = keep_line, .ctx = q, .level = q->with.log->level};
}

static void say(struct queue *q)
{
    struct slice rest = buf_slice(&q->said_lines);
    while (rest.len > 0) {
        size_t len = be16_get(rest.data + 1);
        struct slice line = slice_head(slice_tail(rest, SAID_HEAD_BYTES), len);
        q->with.log->write(q->with.log->ctx, (enum log_level)rest.data[0], line);
        rest = slice_tail(rest, SAID_HEAD_BYTES + len);
    }
}

/* ---- one transaction ---- */

/* A transaction has done nothing yet. */
static void nothing_done(struct queue *q)
{
    buf_reset(&q->said_lines);
    q->due_count = 0;
    q->effects = (struct queue_effects){0};
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        q->upstreams[at].promised = 0;
    }
}

/* What was carried is gone, and with it pieces of messages that are still coming in: those hear err
 * with their next piece. */
static void carried_lost(struct queue *q, enum err err)
{
    if (q->carrying) {
        q->carrying = false;
        q->carried_bytes = 0;
        q->intake_epoch++;
        q->intake_lost = err == ERR_DAMAGED ? ERR_IO : err;
    }
    q->due_count = 0;
}

static enum err commit(struct queue *q)
{
    queue_clock_put(q);
    uint64_t before_us = queue_clock_us();
    enum err err = store_commit(q->with.store);
    metric_add(q->with.metrics, METRIC_COMMITS, 1);
    q->company.commit_us = queue_clock_us() - before_us;
    metric_add(q->with.metrics, METRIC_COMMIT_US, q->company.commit_us);
    if (err != ERR_OK) {
        carried_lost(q, err);
    }
    q->carrying = false;
    q->carried_bytes = 0;
    return err;
}

/* Bytes of pieces, when there is nothing else in it: nobody is owed a commit for these. */
static bool is_of_pieces(struct flow_msg *const *batch, uint32_t count, size_t *out_bytes)
{
    *out_bytes = 0;
    for (uint32_t index = 0; index < count; index++) {
        const struct flow_intake *intake = FLOW_FROM(batch[index], struct flow_intake);
        if (batch[index]->kind != FLOW_INTAKE || intake->step != FLOW_INTAKE_APPEND) {
            return false;
        }
        *out_bytes += intake->piece.len;
    }
    return true;
}

/*
 * Leaves the transaction open for whoever comes next: a piece in the middle of a message is no
 * reason to flush. Within bounds of memory and time.
 */
static bool carry(struct queue *q, struct flow_msg *const *batch, uint32_t count)
{
    size_t bytes;
    if (!is_of_pieces(batch, count, &bytes) || q->carried_bytes + bytes > QUEUE_CARRY_BYTES_MAX) {
        return false;
    }
    if (!q->carrying) {
        q->carrying = true;
        q->carry_until_ms = q->now_ms + QUEUE_CARRY_MS_MAX;
    }
    q->carried_bytes += bytes;
    return q->now_ms < q->carry_until_ms;
}

/* Applies count messages and commits; nothing is answered here. may_carry: pieces alone need not be
 * committed yet. */
static enum err transact(struct queue *q, struct flow_msg *const *batch, uint32_t count,
                         bool may_carry)
{
    if (q->store_failed) {
        return ERR_IN_DOUBT;
    }
    nothing_done(q);
    enum err err = q->carrying ? ERR_OK : store_begin(q->with.store);
    if (err != ERR_OK) {
        return err;
    }
    for (uint32_t index = 0; index < count; index++) {
        err = apply(q, batch[index]);
        if (err != ERR_OK) {
            store_abort(q->with.store);
            carried_lost(q, err);
            return err;
        }
    }
    return may_carry && carry(q, batch, count) ? ERR_OK : commit(q);
}

void queue_carry_end(struct queue *q)
{
    if (!q->carrying || q->store_failed) {
        return;
    }
    nothing_done(q);
    enum err err = commit(q);
    queue_note_failure(q, err);
}

static void answer(struct queue *q, struct flow_msg *msg, enum err err)
{
    switch ((enum flow_kind)msg->kind) {
    case FLOW_INTAKE: {
        struct flow_intake *intake = FLOW_FROM(msg, struct flow_intake);
        if (err != ERR_OK) {
            intake->result = err;
        }
        queue_split_free(intake);
        mailbox_send(msg->reply_to, msg);
        return;
    }
    case FLOW_JOB:
        queue_job_free(q, FLOW_FROM(msg, struct flow_job));
        return;
    case FLOW_EDIT:
        FLOW_FROM(msg, struct flow_edit)->result = err;
        mailbox_send(msg->reply_to, msg);
        return;
    case FLOW_LINK_OPEN:
    case FLOW_LINK_UP:
    case FLOW_LINK_DOWN:
    case FLOW_INSPECT:
    case FLOW_COMPACT:
    case FLOW_TRY:
    case FLOW_PROBE:
    case FLOW_LOOKUP:
    case FLOW_AUTH:
    case FLOW_STOP:
    case FLOW_DRAINED:
    default:
        UNREACHABLE("a message that belongs in no transaction");
    }
}

/* The store can be written no more: everybody is told, main ends the process. Invariant 21. */
void queue_store_has_failed(struct queue *q, enum err err)
{
    if (q->store_failed) {
        return;
    }
    q->store_failed = true;
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_STORE_FAILED);
    log_put_text(&line, "problem",
                 slice_from_str(err == ERR_IN_DOUBT ? store_doubt(q->with.store) : err_text(err)));
    log_end(&line);
    q->failed_msg.kind = FLOW_DRAINED;
    mailbox_send(q->with.main, &q->failed_msg);
}

static bool may_wait(enum err err)
{
    return err == ERR_FULL || err == ERR_NO_MEMORY || err == ERR_DAMAGED;
}

void queue_note_failure(struct queue *q, enum err err)
{
    if (err != ERR_OK && !may_wait(err)) {
        queue_store_has_failed(q, err);
    }
}

/* What the sched knew of edited messages is out of date. */
static void forget_edited(struct queue *q, const struct flow_edit *edit)
{
    for (uint32_t index = 0; index < edit->count; index++) {
        for (uint32_t at = 0; edit->results[index] == ERR_OK && at < q->upstream_count; at++) {
            (void)sched_remove(&q->upstreams[at].sched, &edit->ids[index]);
        }
    }
    bool wanted_now = edit->action == FLOW_EDIT_RETRY || edit->action == FLOW_EDIT_RELEASE;
    for (uint32_t at = 0; wanted_now && at < q->upstream_count; at++) {
        sched_probe_now(&q->upstreams[at].sched, q->now_ms);
    }
}

void queue_committed(struct queue *q)
{
    const struct queue_effects *done = &q->effects;
    metric_add(q->with.metrics, METRIC_REPORTS, done->reports);
    metric_add(q->with.metrics, METRIC_REPORTS_UNSENT, done->unreported);
    metric_add(q->with.metrics, METRIC_FAILED, done->gave_up);
    metric_add(q->with.metrics, METRIC_STORE_REFUSALS, done->refusals);
    q->reports_made += done->reports;
    q->report_tokens_milli -= u64_min(q->report_tokens_milli, done->reports * 1000);
    if (done->upkeep_ms != 0) {
        q->upkeep_ms = u64_min(q->upkeep_ms, done->upkeep_ms);
    }
    for (uint32_t index = 0; index < q->due_count; index++) {
        sched_add(&q->due[index].upstream->sched, &q->due[index].item);
    }
    say(q);
    nothing_done(q);
}

static void committed(struct queue *q, struct flow_msg *const *batch, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++) {
        if (batch[index]->kind == FLOW_EDIT) {
            forget_edited(q, FLOW_FROM(batch[index], struct flow_edit));
        } else if (batch[index]->kind == FLOW_INTAKE) {
            queue_split_log(q, FLOW_FROM(batch[index], struct flow_intake));
        }
    }
    queue_committed(q);
}

/* What was appended for a message whose last piece found no room: nothing of it is left. */
static void discard_body(struct queue *q, const struct flow_intake *intake)
{
    queue_carry_end(q);
    if (q->store_failed || store_begin(q->with.store) != ERR_OK) {
        return; /* the next start discards it */
    }
    enum err err = queue_split_discard(q, intake);
    if (err != ERR_OK) {
        store_abort(q->with.store);
    } else {
        err = store_commit(q->with.store);
    }
    queue_note_failure(q, err);
}

/* The job stays leased: its recipients' answers are known and must not be lost for want of room. */
static void settle_later(struct queue *q, struct flow_msg *msg)
{
    msg->next = q->unsettled;
    q->unsettled = msg;
    q->unsettled_ms = q->now_ms + SETTLE_AGAIN_MS;
}

static void log_damaged(struct queue *q, const struct msg_id *about)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_STORE_DAMAGED);
    event_put_id(&line, about);
    log_put_text(&line, "problem", SLICE("its outcome cannot be recorded"));
    log_end(&line);
}

void queue_answer_failed(struct queue *q, struct flow_msg *msg, enum err err)
{
    if (msg->kind == FLOW_JOB && (err == ERR_FULL || err == ERR_NO_MEMORY)) {
        settle_later(q, msg);
        return;
    }
    if (msg->kind == FLOW_JOB && err == ERR_DAMAGED) {
        log_damaged(q, &FLOW_FROM(msg, struct flow_job)->id);
    } else if (msg->kind == FLOW_INTAKE) {
        discard_body(q, FLOW_FROM(msg, struct flow_intake));
    }
    answer(q, msg, err);
}

/*
 * A transaction that met a full map (or no memory) is done again message by message, so that one
 * large body does not take the others' outcomes with it.
 */
static void transact_singly(struct queue *q)
{
    for (uint32_t index = 0; index < q->batch_count; index++) {
        enum err err = transact(q, &q->batch[index], 1, false);
        if (err == ERR_OK) {
            committed(q, &q->batch[index], 1);
            answer(q, q->batch[index], err);
            continue;
        }
        queue_note_failure(q, err);
        queue_answer_failed(q, q->batch[index], err);
    }
}

void queue_batch_commit(struct queue *q)
{
    if (q->batch_count == 0) {
        return;
    }
    q->batch_bytes = q->batch_due = 0;
    q->batch_urgent = false;
    queue_company_committed(&q->company);
    enum err err = transact(q, q->batch, q->batch_count, true);
    if (may_wait(err)) {
        transact_singly(q);
        q->batch_count = 0;
        return;
    }
    if (err == ERR_OK) {
        committed(q, q->batch, q->batch_count);
    } else {
        queue_store_has_failed(q, err);
    }
    for (uint32_t index = 0; index < q->batch_count; index++) {
        answer(q, q->batch[index], err);
    }
    q->batch_count = 0;
}

/*
 * Outcomes ride on the commits of mail that comes in. Until then they are in memory, as they are
 * while a commit is under way: a crash means that those messages are sent again, some milliseconds'
 * worth more of them.
 */
bool queue_batch_rides(const struct queue *q)
{
    return q->batch_count > 0 && !q->batch_urgent && !q->stopping && !q->store_failed &&
           q->batch_count < QUEUE_RIDE_JOBS_MAX && q->now_ms < queue_batch_wake_ms(q) &&
           q->now_ms - q->intake_ms < QUEUE_RIDE_RECENT_MS;
}

uint64_t queue_batch_wake_ms(const struct queue *q)
{
    return q->batch_count == 0 ? UINT64_MAX : q->batch_since_ms + QUEUE_RIDE_MS_MAX;
}

void queue_batch_add(struct queue *q, struct flow_msg *msg)
{
    if (msg->kind == FLOW_EDIT) {
        queue_batch_commit(q); /* an edit is many messages at once: it needs all of q->due */
    }
    if (q->batch_count == 0) {
        q->batch_since_ms = q->now_ms;
    }
    if (msg->kind != FLOW_JOB) {
        q->batch_urgent = true;
        q->intake_ms = q->now_ms;
    }
    if (msg->kind == FLOW_INTAKE &&
        FLOW_FROM(msg, struct flow_intake)->step == FLOW_INTAKE_COMMIT) {
        queue_company_came(&q->company, queue_clock_us());
    }
    uint32_t due = QUEUE_DUE_EACH;
    if (msg->kind == FLOW_INTAKE) {
        const struct flow_intake *intake = FLOW_FROM(msg, struct flow_intake);
        uint32_t parts = intake->split == NULL ? 1 : intake->split->part_count;
        q->batch_bytes += intake->piece.len * parts;
        due = parts > due ? parts : due;
    }
    q->batch[q->batch_count++] = msg;
    q->batch_due += due;
    if (q->batch_count == QUEUE_BATCH_MAX || q->batch_bytes >= QUEUE_BATCH_BYTES_MAX ||
        q->batch_due + UPSTREAMS_MAX > sizeof q->due / sizeof q->due[0] || msg->kind == FLOW_EDIT) {
        queue_batch_commit(q);
    }
}

void queue_take_unsettled(struct queue *q)
{
    struct flow_msg *msg = q->unsettled;
    if (msg == NULL || (q->now_ms < q->unsettled_ms && !q->stopping && !q->store_failed)) {
        return;
    }
    q->unsettled = NULL;
    while (msg != NULL) {
        struct flow_msg *next = msg->next;
        queue_batch_add(q, msg);
        msg = next;
    }
}

/* ---- transactions of our own ---- */

enum err queue_transaction_begin(struct queue *q)
{
    queue_carry_end(q);
    nothing_done(q);
    return q->store_failed ? ERR_IN_DOUBT : store_begin(q->with.store);
}

enum err queue_transaction_end(struct queue *q, enum err err)
{
    if (err != ERR_OK) {
        store_abort(q->with.store);
        q->due_count = 0;
        return err;
    }
    queue_clock_put(q);
    err = store_commit(q->with.store);
    if (err == ERR_OK) {
        queue_committed(q);
    }
    q->due_count = 0;
    return err;
}
