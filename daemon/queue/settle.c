/*
 * What comes of things, written into the open transaction: new messages and the outcomes of jobs.
 *
 * May run twice for the same message (a transaction that met a full map is done again), so nothing
 * here changes anything but the store, the list of what the sched will learn, and q->effects, which
 * count when the transaction has committed.
 */
#include "daemon/base/crc32c.h"
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

/* ---- mail that comes in ---- */

static uint32_t kib_of(uint64_t bytes)
{
    uint64_t kib = bytes / 1024 + (bytes % 1024 != 0);
    return kib > UINT32_MAX ? UINT32_MAX : (uint32_t)kib;
}

/* By the first recipient: where they go different ways, it was split. */
static struct queue_upstream *route_of(struct queue *q, const struct record_envelope *e)
{
    struct slice rcpts = e->recipients;
    struct record_rcpt rcpt = {0};
    (void)!record_rcpt_next(&rcpts, &rcpt);
    return queue_route(q, e->sender, rcpt.path);
}

enum err queue_add_message(struct queue *q, const struct msg_id *id, struct slice envelope,
                           struct queue_upstream *upstream)
{
    struct record_envelope e;
    enum err err = record_envelope_get(envelope, &e);
    if (err != ERR_OK) {
        return err;
    }
    struct queue_upstream *u = upstream != NULL ? upstream : route_of(q, &e);
    u->promised++;
    buf_reset(&q->fates);
    const struct record_recipient fresh = {.state = RECIPIENT_QUEUED};
    for (uint32_t index = 0; index < e.recipient_count; index++) {
        record_fate_put(&q->fates, &fresh);
    }
    struct slice device = e.device.len > 0 ? e.device : e.client;
    struct record_state state = {
        .state = MESSAGE_QUEUED,
        .route = u->route,
        .due_q = q->now_ms,
        .changed_q = q->now_ms,
        .accepted_q = q->now_ms,
        .outage_base = queue_outage_ms(q, u),
        .flow = record_flow(device, e.sender),
        .size_kib = kib_of(e.body_bytes),
        .upstream = slice_from_str(u->config->name),
        .device = device,
        .recipient_count = e.recipient_count,
        .recipients = buf_slice(&q->fates),
    };
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow && !q->fates.overflow);
    err = store_message_add(q->with.store, id, envelope, buf_slice(&q->new_state));
    if (err == ERR_OK) {
        struct sched_item item = queue_item(id, &state);
        queue_due_later(q, u, &item);
    }
    return err;
}

enum err queue_apply_intake(struct queue *q, struct flow_intake *intake)
{
    intake->result = ERR_OK;
    if (intake->step == FLOW_INTAKE_ABANDON) {
        return store_body_discard(q->with.store, &intake->id);
    }
    if (intake->piece_index == 0) {
        intake->epoch = q->intake_epoch;
    } else if (intake->epoch != q->intake_epoch) {
        intake->result = q->intake_lost; /* earlier pieces may be gone */
        return queue_split_discard(q, intake);
    }
    uint64_t parts = intake->split == NULL ? 1 : intake->split->part_count;
    if (!store_has_room(q->with.store, (intake->piece.len + intake->envelope.len) * parts)) {
        q->effects.refusals++;
        intake->result = ERR_FULL;
        return queue_split_discard(q, intake);
    }
    if (intake->piece.len > 0) {
        enum err err =
            store_body_append(q->with.store, &intake->id, intake->piece_index, intake->piece);
        if (err != ERR_OK) {
            return err;
        }
    }
    if (intake->step != FLOW_INTAKE_COMMIT) {
        return ERR_OK;
    }
    return intake->split != NULL ? queue_split_add(q, intake)
                                 : queue_add_message(q, &intake->id, intake->envelope, NULL);
}

enum err queue_add_own(struct queue *q, const struct msg_id *id, struct slice body, uint16_t flags,
                       struct slice sender, struct slice recipient, struct slice subject,
                       struct queue_upstream *upstream)
{
    size_t piece_bytes = store_piece_bytes(q->with.store);
    uint32_t pieces = 0;
    enum err err = ERR_OK;
    for (struct slice rest = body; err == ERR_OK && rest.len > 0;
         rest = slice_tail(rest, piece_bytes)) {
        err = store_body_append(q->with.store, id, pieces++, slice_head(rest, piece_bytes));
    }
    if (err != ERR_OK) {
        return err;
    }
    uint8_t rcpt_memory[SMTP_PATH_BYTES_MAX + 16], memory[QUEUE_OWN_ENVELOPE_BYTES];
    struct buf rcpts, encoded;
    buf_init(&rcpts, rcpt_memory, sizeof rcpt_memory);
    buf_init(&encoded, memory, sizeof memory);
    record_recipient_put(&rcpts, recipient);
    struct record_envelope e = {
        .arrived_ms = (uint64_t)((int64_t)q->now_ms + q->wall_minus_q),
        .body_bytes = body.len,
        .chunk_count = pieces,
        .body_crc = crc32c(0, body),
        .recipient_count = 1,
        .flags = flags,
        .device = SLICE(QUEUE_OWN_DEVICE),
        .subject = slice_head(subject, RECORD_SUBJECT_BYTES_MAX),
        .sender = sender,
        .recipients = buf_slice(&rcpts),
    };
    record_envelope_put(&encoded, &e);
    CHECK(!encoded.overflow);
    /* The scratch of the change that this is part of is in use: fates and new_state are kept. */
    struct buf fates = q->fates, new_state = q->new_state;
    uint8_t fates_memory[64], state_memory[QUEUE_OWN_STATE_BYTES];
    buf_init(&q->fates, fates_memory, sizeof fates_memory);
    buf_init(&q->new_state, state_memory, sizeof state_memory);
    err = queue_add_message(q, id, buf_slice(&encoded), upstream);
    q->fates = fates;
    q->new_state = new_state;
    return err;
}

/* ---- what came of a job ---- */

static const struct flow_result *result_of(const struct flow_job *job, uint32_t recipient_index,
                                           uint32_t *hint)
{
    /* Results stand in the order of recipients, mostly: look on from the last one found. */
    for (uint32_t step = 0; step < job->result_count; step++) {
        uint32_t at = (*hint + step) % job->result_count;
        if (job->results[at].recipient_index == recipient_index) {
            *hint = at + 1;
            return &job->results[at];
        }
    }
    return NULL;
}

uint64_t queue_age_ms(const struct queue *q, const struct queue_change *c)
{
    uint64_t age = q->now_ms - u64_min(c->old.accepted_q, q->now_ms);
    /* Below zero after a crash: the total is written down now and then, the base at once. */
    int64_t outage = (int64_t)(queue_outage_ms(q, c->upstream) - c->old.outage_base);
    return outage <= 0 ? age : age - u64_min((uint64_t)outage, age);
}

/*
 * Does this message break the connection (or is it answered 421, and no other is), rather than the
 * upstream? It does when others have gone since its last try and it has failed so again. A refused
 * login is never a message's fault.
 */
static bool is_poison(const struct queue_change *c, enum outcome outcome)
{
    bool of_connection = outcome == OUTCOME_CONNECTION_LOST || outcome == OUTCOME_TIMED_OUT ||
                         outcome == OUTCOME_PROTOCOL_ERROR || outcome == OUTCOME_SERVICE_CLOSING;
    return of_connection && c->old.attempts > 0 && c->via->status.last_delivery_ms > c->old.last_q;
}

/* It has been tried, and time may end that. */
static bool may_give_up(const struct queue_change *c, enum outcome outcome)
{
    return outcome_row(outcome)->action == OUTCOME_ACTION_RETRY || is_poison(c, outcome);
}

/* One recipient's new fate from its result. */
static void decide_fate(const struct queue *q, const struct queue_change *c,
                        const struct flow_job *job, const struct flow_result *result,
                        struct record_recipient *fate)
{
    fate->outcome = result->outcome;
    fate->code = result->code;
    memcpy(fate->enhanced, result->enhanced, sizeof fate->enhanced);
    fate->text = slice_head(slice_of(job->text.data + result->text_offset, result->text_len),
                            RECORD_REPLY_TEXT_BYTES_MAX);
    switch (outcome_row(result->outcome)->action) {
    case OUTCOME_ACTION_DONE:
        fate->state = RECIPIENT_DELIVERED;
        return;
    case OUTCOME_ACTION_REPORT:
        fate->state = RECIPIENT_FAILED;
        return;
    case OUTCOME_ACTION_RETRY:
    case OUTCOME_ACTION_UPSTREAM: /* the upstream's trouble is not the message's: it waits */
    default:
        break;
    }
    fate->state = result->outcome == OUTCOME_IN_DOUBT ? RECIPIENT_IN_DOUBT : RECIPIENT_DEFERRED;
    if (may_give_up(c, result->outcome) && queue_age_ms(q, c) > q->with.config->give_up_ms) {
        fate->state = RECIPIENT_FAILED;
        fate->outcome = OUTCOME_GAVE_UP;
    }
}

/* The last word on one attempt that the worker could not have: when it is tried again, or that it
 * is not. */
static void log_settled(struct queue *q, const struct queue_upstream *u, const struct flow_job *job,
                        const struct flow_result *result, enum event event, enum outcome outcome,
                        uint64_t next_ms)
{
    struct log_line line;
    event_begin(&line, &q->said, event);
    event_put_id(&line, &job->id);
    log_put_word(&line, "upstream", u->config->name);
    log_put_word(&line, "reason", outcome_row(outcome)->word);
    log_put_u64(&line, "code", result->code);
    if (event == EVENT_DEFERRED) {
        log_put_u64(&line, "next", (next_ms - q->now_ms) / 1000);
    }
    log_put_text(&line, "reply", slice_of(job->text.data + result->text_offset, result->text_len));
    log_end(&line);
}

/* What one attempt has brought, beside the fates. */
struct settled {
    const struct flow_result *deferred,
        *gave_up; /* deferred: whose wait is the shortest; or NULL */
    uint32_t gave_up_count;
};

static void settle_fates(struct queue *q, struct queue_change *c, struct flow_job *job,
                         struct settled *out)
{
    struct record_recipient fate;
    struct record_rcpt rcpt;
    uint32_t hint = 0;
    while (queue_change_next(c, &fate, &rcpt)) {
        bool was_open = recipient_is_open(fate.state);
        struct record_recipient after = fate;
        const struct flow_result *result =
            was_open && job->result_count > 0 ? result_of(job, c->index, &hint) : NULL;
        bool lost = job->damaged && was_open;
        c->cause = RECORD_CAUSE_ATTEMPT;
        if (result != NULL) {
            decide_fate(q, c, job, result, &after);
            if (after.state == RECIPIENT_DELIVERED && job->dsn_passed &&
                (rcpt.notify & RECORD_NOTIFY_SUCCESS) != 0) {
                after.flags |= RECORD_FATE_TOLD_SUCCESS; /* the upstream tells. RFC 3461 5.2 */
            }
            c->cause = after.outcome == OUTCOME_GAVE_UP ? RECORD_CAUSE_GIVE_UP : c->cause;
            if (recipient_is_open(after.state) &&
                (out->deferred == NULL ||
                 sched_is_sooner(result->outcome, out->deferred->outcome))) {
                out->deferred = result;
            }
            if (after.outcome == OUTCOME_GAVE_UP) {
                out->gave_up = result;
                out->gave_up_count++;
            }
        }
        if (lost && recipient_is_open(after.state)) {
            after = (struct record_recipient){
                .state = RECIPIENT_FAILED, .flags = fate.flags, .outcome = OUTCOME_DAMAGED};
            c->cause = RECORD_CAUSE_DAMAGE;
            out->deferred = NULL;
        }
        queue_change_put(q, c, &fate, result != NULL || lost ? &after : &fate);
    }
}

/*
 * Writes what follows from the job's results. A message that cannot be read is set aside as failed,
 * by name; what its recipients were told before that counts all the same.
 */
static enum err settle(struct queue *q, struct queue_change *c, struct flow_job *job)
{
    struct queue_upstream *u = queue_upstream_of(q, job->link);
    struct settled settled = {0};
    c->via = u;
    c->connection = job->connection;
    c->duration_ms = job->duration_ms;
    c->peer = slice_from_str(job->link->peer);
    c->tls = slice_from_str(job->link->tls);
    c->dialogue = buf_slice(&job->dialogue);
    settle_fates(q, c, job, &settled);
    c->next.last_q = q->now_ms;
    c->next.state = c->open > 0 ? MESSAGE_QUEUED : MESSAGE_FAILED;
    enum outcome outcome = settled.deferred != NULL ? settled.deferred->outcome : OUTCOME_NONE;
    struct sched_retry retry =
        sched_retry(&u->sched, &job->id, outcome, c->old.attempts, q->now_ms, queue_entropy(q));
    c->next.due_q = retry.due_ms;
    c->next.attempts += retry.counts;
    c->warn = settled.deferred != NULL && may_give_up(c, outcome) &&
              queue_age_ms(q, c) > q->with.config->warn_after_ms;
    enum err err = queue_change_finish(q, c);
    if (settled.deferred != NULL) {
        log_settled(q, u, job, settled.deferred, EVENT_DEFERRED, settled.deferred->outcome,
                    c->next.due_q);
    }
    if (settled.gave_up != NULL) {
        q->effects.gave_up += settled.gave_up_count;
        log_settled(q, u, job, settled.gave_up, EVENT_FAILED, OUTCOME_GAVE_UP, 0);
    }
    return err;
}

/* A report that the upstream would not have for its null sender: it is spared the next ones. */
static void note_null_refused(struct queue *q, const struct queue_change *c,
                              const struct flow_job *job)
{
    if (!c->envelope_sound || c->envelope.sender.len > 0 || job->result_count == 0 ||
        job->results[0].outcome != OUTCOME_SENDER_REFUSED) {
        return;
    }
    struct queue_upstream *u = queue_upstream_of(q, job->link);
    u->memory.null_refused_q = q->now_ms + QUEUE_NULL_REFUSED_MS;
    u->memory_changed = true;
}

enum err queue_apply_job(struct queue *q, struct flow_job *job)
{
    if (!job->tried && !job->damaged) {
        struct sched_item item = {
            .due_ms = job->due_ms, .id = job->id, .flow = job->flow, .size_kib = job->size_kib};
        queue_due_later(q, queue_job_home(job), &item); /* its entry never moved */
        return ERR_OK;
    }
    struct queue_change c;
    enum err err = queue_change_load(q, &c, &job->id);
    if (err == ERR_NOT_FOUND || err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_LIMIT) {
        /* Not even its state can be read. It stays on disk as it is, untouched and not due;
         * event=store-damaged has named it. */
        return ERR_OK;
    }
    if (err != ERR_OK) {
        return err;
    }
    note_null_refused(q, &c, job);
    return settle(q, &c, job);
}
