/*
 * What comes of things, written into the open transaction: new messages, outcomes of jobs, an
 * operator's commands.
 *
 * May run twice for the same message (a transaction that met a full map is done again), so nothing
 * here changes anything but the store and the list of what the sched will learn; counters move in
 * dispatch.c, once.
 */
#include "daemon/queue/queue_internal.h"

#define STRAY_ROUTES_MAX 256
#define ADOPT_AT_ONCE    256 /* messages in one transaction */

static uint64_t next_entropy(struct queue *q)
{
    q->entropy = sched_mix(q->entropy);
    return q->entropy;
}

/* ---- mail that comes in ---- */

/* The upstream a new message goes to: the first. Routes by sender come with their setting. */
static struct queue_upstream *route(struct queue *q)
{
    return &q->upstreams[0];
}

static enum err add_message(struct queue *q, struct flow_intake *intake)
{
    struct queue_upstream *u = route(q);
    buf_reset(&q->fates);
    const struct record_recipient fresh = {.state = RECIPIENT_QUEUED};
    for (uint32_t index = 0; index < intake->recipient_count; index++) {
        record_fate_put(&q->fates, &fresh);
    }
    struct record_state state = {
        .state = MESSAGE_QUEUED,
        .route = u->route,
        .due_ms = q->now_ms,
        .changed_ms = q->now_ms,
        .upstream = slice_from_str(u->config->name),
        .recipient_count = intake->recipient_count,
        .recipients = buf_slice(&q->fates),
    };
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow && !q->fates.overflow);
    enum err err =
        store_message_add(q->with.store, &intake->id, intake->envelope, buf_slice(&q->new_state));
    if (err == ERR_OK) {
        struct sched_item item = {.due_ms = q->now_ms, .id = intake->id};
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
    if (!store_has_room(q->with.store, intake->piece.len + intake->envelope.len)) {
        metric_add(q->with.metrics, METRIC_STORE_REFUSALS, 1);
        intake->result = ERR_FULL;
        return store_body_discard(q->with.store, &intake->id);
    }
    if (intake->piece.len > 0) {
        enum err err =
            store_body_append(q->with.store, &intake->id, intake->piece_index, intake->piece);
        if (err != ERR_OK) {
            return err;
        }
    }
    return intake->step == FLOW_INTAKE_COMMIT ? add_message(q, intake) : ERR_OK;
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

static bool given_up(const struct queue *q, const struct flow_job *job)
{
    uint64_t began_ms = msg_id_time_and_sequence(&job->id) >> 16;
    return q->now_ms > began_ms && q->now_ms - began_ms > q->with.config->give_up_ms;
}

/*
 * Does this message break the connection, rather than the upstream? It does when others have gone
 * since its last try and it has failed so again. A refused login is never a message's fault.
 */
static bool is_poison(const struct queue_upstream *u, const struct record_state *old,
                      enum outcome outcome)
{
    bool of_connection = outcome == OUTCOME_CONNECTION_LOST || outcome == OUTCOME_TIMED_OUT ||
                         outcome == OUTCOME_PROTOCOL_ERROR;
    return of_connection && old->attempts > 0 && u->status.last_delivery_ms > old->last_ms;
}

/* One recipient's new fate from its result. */
static void decide_fate(const struct queue *q, const struct queue_upstream *u,
                        const struct flow_job *job, const struct record_state *old,
                        const struct flow_result *result, struct record_recipient *fate)
{
    bool may_give_up = false;
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
        may_give_up = true;
        break;
    case OUTCOME_ACTION_UPSTREAM: /* the upstream's trouble is not the message's: it waits */
    default:
        may_give_up = is_poison(u, old, result->outcome);
    }
    if (may_give_up && given_up(q, job)) {
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
    event_begin(&line, q->with.log, event);
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

/*
 * Writes the state record that follows from old and the job's results. A message that cannot be
 * read is set aside as failed, by name; what its recipients were told before that counts all the
 * same.
 */
static enum err update_message(struct queue *q, struct queue_upstream *u, struct flow_job *job,
                               const struct record_state *old)
{
    struct record_state state = *old;
    struct slice fates = old->recipients;
    struct record_recipient fate;
    uint32_t queued = 0, failed = 0, index = 0, hint = 0;
    const struct flow_result *deferred = NULL, *gave_up = NULL;
    buf_reset(&q->fates);
    while (record_fate_next(&fates, &fate)) {
        const struct flow_result *result = fate.state == RECIPIENT_QUEUED && job->result_count > 0
                                               ? result_of(job, index, &hint)
                                               : NULL;
        if (result != NULL) {
            decide_fate(q, u, job, old, result, &fate);
            deferred = fate.state == RECIPIENT_QUEUED ? result : deferred;
            gave_up = fate.outcome == OUTCOME_GAVE_UP ? result : gave_up;
        }
        if (job->damaged && fate.state == RECIPIENT_QUEUED) {
            fate = (struct record_recipient){.state = RECIPIENT_FAILED, .outcome = OUTCOME_DAMAGED};
            deferred = NULL;
        }
        queued += fate.state == RECIPIENT_QUEUED;
        failed += fate.state == RECIPIENT_FAILED;
        record_fate_put(&q->fates, &fate);
        index++;
    }
    CHECK(!q->fates.overflow);
    if (queued == 0 && failed == 0) {
        return store_message_remove(q->with.store, &job->id);
    }
    state.recipients = buf_slice(&q->fates);
    state.attempts++;
    state.last_ms = q->now_ms;
    state.changed_ms = q->now_ms;
    state.state = queued > 0 ? MESSAGE_QUEUED : MESSAGE_FAILED;
    state.due_ms = sched_retry_ms(&u->sched.limits, state.attempts, q->now_ms, next_entropy(q));
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow);
    enum err err = store_message_update(q->with.store, &job->id, buf_slice(&q->new_state));
    if (err == ERR_OK && queued > 0) {
        struct sched_item item = {.due_ms = state.due_ms, .id = job->id};
        queue_due_later(q, u, &item);
    }
    if (deferred != NULL) {
        log_settled(q, u, job, deferred, EVENT_DEFERRED, deferred->outcome, state.due_ms);
    }
    if (gave_up != NULL) {
        metric_add(q->with.metrics, METRIC_FAILED, 1);
        log_settled(q, u, job, gave_up, EVENT_FAILED, OUTCOME_GAVE_UP, 0);
    }
    return err;
}

enum err queue_apply_job(struct queue *q, struct flow_job *job)
{
    struct queue_upstream *u = queue_upstream_of(q, job->link);
    if (!job->tried && !job->damaged) {
        struct sched_item item = {.due_ms = job->due_ms, .id = job->id};
        queue_due_later(q, u, &item); /* its index entry never moved */
        return ERR_OK;
    }
    if (job->complete) {
        enum err err = store_message_remove(q->with.store, &job->id);
        return err == ERR_NOT_FOUND ? ERR_OK : err;
    }
    buf_reset(&q->old_state);
    enum err err = store_state_get(q->with.store, &job->id, &q->old_state);
    struct record_state old;
    if (err == ERR_OK) {
        err = record_state_get(buf_slice(&q->old_state), &old);
    }
    if (err == ERR_NOT_FOUND || err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_LIMIT) {
        /* Not even its state can be read. It stays on disk as it is, untouched and not due;
         * event=store-damaged has named it. */
        return ERR_OK;
    }
    if (err != ERR_OK) {
        return err;
    }
    return update_message(q, u, job, &old);
}

/* ---- an operator's commands ---- */

struct edit_rule {
    bool allowed[MESSAGE_STATE_COUNT]; /* in which states it makes sense */
    enum message_state result;
};

static const struct edit_rule edit_rules[FLOW_EDIT_ACTION_COUNT] = {
    [FLOW_EDIT_RETRY] = {{[MESSAGE_QUEUED] = true, [MESSAGE_HELD] = true, [MESSAGE_FAILED] = true},
                         MESSAGE_QUEUED},
    [FLOW_EDIT_HOLD] = {{[MESSAGE_QUEUED] = true, [MESSAGE_FAILED] = true}, MESSAGE_HELD},
    [FLOW_EDIT_RELEASE] = {{[MESSAGE_HELD] = true}, MESSAGE_QUEUED},
    [FLOW_EDIT_DELETE] = {{[MESSAGE_QUEUED] = true, [MESSAGE_HELD] = true, [MESSAGE_FAILED] = true},
                          MESSAGE_QUEUED},
};

static struct queue_upstream *upstream_by_route(struct queue *q, uint32_t wanted)
{
    for (uint32_t index = 0; index < q->upstream_count; index++) {
        if (q->upstreams[index].route == wanted) {
            return &q->upstreams[index];
        }
    }
    return &q->upstreams[0];
}

/* Failed recipients are queued again when the message is retried or released. */
static uint32_t requeue(struct queue *q, struct slice fates)
{
    struct record_recipient fate;
    uint32_t queued = 0;
    buf_reset(&q->fates);
    while (record_fate_next(&fates, &fate)) {
        if (fate.state == RECIPIENT_FAILED) {
            fate.state = RECIPIENT_QUEUED;
        }
        queued += fate.state == RECIPIENT_QUEUED;
        record_fate_put(&q->fates, &fate);
    }
    CHECK(!q->fates.overflow);
    return queued;
}

static enum err edit_one(struct queue *q, enum flow_edit_action action, const struct msg_id *id,
                         enum err *result)
{
    struct record_state state;
    buf_reset(&q->old_state);
    enum err err = store_state_get(q->with.store, id, &q->old_state);
    if (err == ERR_OK) {
        err = record_state_get(buf_slice(&q->old_state), &state);
    }
    if (err == ERR_NOT_FOUND || err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_LIMIT) {
        *result = err;
        return ERR_OK;
    }
    if (err != ERR_OK) {
        return err;
    }
    const struct edit_rule *rule = &edit_rules[action];
    if (queue_is_leased(q, id)) {
        *result = ERR_BUSY;
        return ERR_OK;
    }
    if (!rule->allowed[state.state]) {
        *result = ERR_UNSUPPORTED;
        return ERR_OK;
    }
    struct queue_upstream *u = upstream_by_route(q, state.route);
    *result = ERR_OK;
    if (action == FLOW_EDIT_DELETE) {
        return store_message_remove(q->with.store, id);
    }
    state.state = rule->result;
    state.changed_ms = q->now_ms;
    if (rule->result == MESSAGE_QUEUED) {
        (void)requeue(q, state.recipients);
        state.recipients = buf_slice(&q->fates);
        state.route = u->route;
        state.upstream = slice_from_str(u->config->name);
        state.due_ms = q->now_ms;
    }
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow);
    err = store_message_update(q->with.store, id, buf_slice(&q->new_state));
    if (err == ERR_OK && rule->result == MESSAGE_QUEUED) {
        struct sched_item item = {.due_ms = state.due_ms, .id = *id};
        queue_due_later(q, u, &item);
    }
    return err;
}

/* The same id twice in one batch: the sched would learn of it twice, and it would be sent twice. */
static bool was_named(const struct flow_edit *edit, uint32_t index)
{
    for (uint32_t before = 0; before < index; before++) {
        if (msg_id_compare(&edit->ids[before], &edit->ids[index]) == 0) {
            return true;
        }
    }
    return false;
}

enum err queue_apply_edit(struct queue *q, struct flow_edit *edit)
{
    for (uint32_t index = 0; index < edit->count; index++) {
        if (was_named(edit, index)) {
            edit->results[index] = ERR_UNSUPPORTED;
            continue;
        }
        enum err err = edit_one(q, edit->action, &edit->ids[index], &edit->results[index]);
        if (err != ERR_OK) {
            return err;
        }
    }
    return ERR_OK;
}

/* ---- at the start ---- */

static enum err adopt(struct queue *q, const struct msg_id *id, uint64_t latest_ms)
{
    struct record_state state;
    buf_reset(&q->old_state);
    enum err err = store_state_get(q->with.store, id, &q->old_state);
    if (err != ERR_OK || record_state_get(buf_slice(&q->old_state), &state) != ERR_OK) {
        return err == ERR_FULL || err == ERR_IO || err == ERR_NO_MEMORY ? err : ERR_OK;
    }
    struct queue_upstream *u = upstream_by_route(q, state.route);
    state.route = u->route;
    state.upstream = slice_from_str(u->config->name);
    state.due_ms = state.due_ms > latest_ms ? q->now_ms : state.due_ms;
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow);
    return store_message_update(q->with.store, id, buf_slice(&q->new_state));
}

static bool is_ours(const struct queue *q, uint32_t wanted)
{
    for (uint32_t index = 0; index < q->upstream_count; index++) {
        if (q->upstreams[index].route == wanted) {
            return true;
        }
    }
    return false;
}

/* Sets right what stands in the due index of one route, strictly after *after (NULL: all of it). */
static enum err adopt_route(struct queue *q, uint32_t route, const struct store_due *after,
                            uint64_t latest_ms)
{
    struct store_due rows[ADOPT_AT_ONCE];
    struct store_due last;
    enum err err = ERR_OK;
    size_t count = store_due_after(q->with.store, route, after, rows, ADOPT_AT_ONCE, &err);
    while (err == ERR_OK && count > 0) {
        last = rows[count - 1];
        err = store_begin(q->with.store);
        if (err != ERR_OK) {
            return err;
        }
        for (size_t index = 0; err == ERR_OK && index < count; index++) {
            err = adopt(q, &rows[index].id, latest_ms);
        }
        if (err != ERR_OK) {
            store_abort(q->with.store);
            return err;
        }
        err = store_commit(q->with.store);
        if (err == ERR_OK) {
            count = store_due_after(q->with.store, route, &last, rows, ADOPT_AT_ONCE, &err);
        }
    }
    return err;
}

enum err queue_adopt_strays(struct queue *q)
{
    uint32_t routes[STRAY_ROUTES_MAX];
    enum err err = ERR_OK;
    uint64_t latest_ms = q->now_ms + q->with.config->retry_max_ms * 2;
    const struct store_due far = {.due_ms = latest_ms};
    size_t count = store_due_routes(q->with.store, routes, STRAY_ROUTES_MAX, &err);
    for (size_t index = 0; err == ERR_OK && index < count; index++) {
        err = adopt_route(q, routes[index], is_ours(q, routes[index]) ? &far : NULL, latest_ms);
    }
    return err;
}
