/*
 * What time brings by itself: messages leave the trash, history grows old, the digest falls due,
 * what was learnt of upstreams is written down. Looked at once a minute, each in transactions of a
 * bounded size. And what is set right at the start.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#include <stdio.h>

#define UPKEEP_MS         60000
#define UPKEEP_AGAIN_MS   200  /* when a bounded step has left something to do */
#define UPKEEP_STRAYS_MS  2000 /* what found no room waits for it, and nobody sends it meanwhile */
#define PURGE_AT_ONCE     256
#define EXPIRE_AT_ONCE    512
#define STRAY_ROUTES_MAX  256
#define ADOPT_AT_ONCE     256 /* messages in one transaction */
#define UPSTREAM_SAVED_MS (10 * 60 * 1000u)

/* ---- the trash ---- */

static enum err purge_one(struct queue *q, const struct msg_id *id)
{
    struct queue_change c;
    struct record_recipient fate;
    struct record_rcpt rcpt;
    enum err err = queue_change_load(q, &c, id);
    if (err == ERR_DAMAGED || err == ERR_VERSION || err == ERR_LIMIT) {
        return store_message_remove(q->with.store, id, slice_of(NULL, 0));
    }
    if (err != ERR_OK) {
        return err;
    }
    bool told = false;
    c.cause = RECORD_CAUSE_AGE;
    while (queue_change_next(&c, &fate, &rcpt)) {
        told = told || (fate.flags & RECORD_FATE_TOLD_FAILED) != 0;
        queue_change_put(q, &c, &fate, &fate);
    }
    return queue_change_leave(q, &c,
                              c.open > 0 ? RECORD_END_DELETED
                              : told     ? RECORD_END_REPORTED
                                         : RECORD_END_DISCARDED);
}

static void log_purged(struct queue *q, uint64_t count)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_PURGED);
    log_put_u64(&line, "count", count);
    log_end(&line);
}

/* Of one message: its records are damaged, or it is not there and the index says otherwise. */
static bool may_pass_over(enum err err)
{
    return err == ERR_DAMAGED || err == ERR_NOT_FOUND;
}

/* In one transaction: all of them, or none. */
static enum err purge_these(struct queue *q, const struct store_due *due, size_t count)
{
    enum err err = queue_transaction_begin(q);
    if (err != ERR_OK) {
        return err;
    }
    for (size_t index = 0; err == ERR_OK && index < count; index++) {
        err = purge_one(q, &due[index].id);
    }
    err = queue_transaction_end(q, err);
    if (err == ERR_OK) {
        log_purged(q, count);
    }
    return err;
}

static enum err purge(struct queue *q, bool *out_more)
{
    struct store_due due[PURGE_AT_ONCE];
    uint32_t route = record_route(SLICE(RECORD_ROUTE_NAME_TRASH));
    enum err err = ERR_OK;
    size_t count = store_due_after(q->with.store, route, NULL, due, PURGE_AT_ONCE, &err);
    size_t ripe = 0;
    bool short_of_room =
        !store_has_room(q->with.store, 0); /* then the oldest go before their time */
    while (ripe < count && (short_of_room || due[ripe].due_q <= q->now_ms)) {
        ripe++;
    }
    if (err != ERR_OK || ripe == 0) {
        return err;
    }
    err = purge_these(q, due, ripe);
    if (may_pass_over(err)) { /* one of them: it keeps nobody else here */
        err = ERR_OK;
        for (size_t index = 0; index < ripe && (err == ERR_OK || may_pass_over(err)); index++) {
            err = purge_these(q, &due[index], 1);
        }
    }
    *out_more = *out_more || ripe == PURGE_AT_ONCE;
    return err;
}

/* ---- the history ---- */

static enum err expire_history(struct queue *q, bool *out_more)
{
    struct store_summary summary;
    store_summary(q->with.store, &summary);
    if (summary.history_count == 0) {
        return ERR_OK;
    }
    uint64_t keep_ms = q->with.config->keep_history_ms;
    uint64_t before_q = q->now_ms > keep_ms ? q->now_ms - keep_ms : 0;
    uint64_t removed = 0;
    bool more = false;
    enum err err = queue_transaction_begin(q);
    if (err != ERR_OK) {
        return err;
    }
    err = store_history_expire(q->with.store, before_q, EXPIRE_AT_ONCE, &removed, &more);
    if (err == ERR_OK && removed == 0) {
        store_abort(q->with.store);
        return ERR_OK;
    }
    *out_more = *out_more || (more && err == ERR_OK);
    return queue_transaction_end(q, err);
}

/* ---- upstreams ---- */

uint64_t queue_outage_ms(const struct queue *q, const struct queue_upstream *u)
{
    return sched_outage_ms(&u->sched, q->now_ms);
}

/* How long the upstream with that name was out of order, as far as that was written down. */
static uint64_t outage_known_ms(struct queue *q, struct slice name)
{
    struct slice bytes;
    struct record_upstream memory;
    bool known = store_upstream_get(q->with.store, name, &bytes) == ERR_OK &&
                 record_upstream_get(bytes, &memory) == ERR_OK;
    return known ? memory.outage_ms : 0;
}

void queue_reroute(struct queue *q, struct record_state *state, struct queue_upstream *u)
{
    if (state->route == u->route) {
        return;
    }
    /* A base may be below zero: it is where u has less. */
    int64_t waited_ms = (int64_t)(outage_known_ms(q, state->upstream) - state->outage_base);
    state->outage_base = queue_outage_ms(q, u) - (waited_ms > 0 ? (uint64_t)waited_ms : 0);
    state->route = u->route;
    state->upstream = slice_from_str(u->config->name);
}

static enum err upstream_save(struct queue *q, struct queue_upstream *u)
{
    uint8_t bytes[RECORD_UPSTREAM_BYTES_MAX];
    struct buf to;
    buf_init(&to, bytes, sizeof bytes);
    sched_save(&u->sched, q->now_ms, &u->memory);
    record_upstream_put(&to, &u->memory);
    CHECK(!to.overflow);
    return store_upstream_set(q->with.store, slice_from_str(u->config->name), buf_slice(&to));
}

/* Those of which something new is known; the others now and then. */
static enum err save_upstreams(struct queue *q)
{
    bool all = q->now_ms >= q->upstreams_saved_ms + UPSTREAM_SAVED_MS;
    bool any = false;
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        const struct queue_upstream *u = &q->upstreams[at];
        any = any || u->memory_changed || (all && (u->memory_used || sched_is_marked(&u->sched)));
    }
    if (!any) {
        return ERR_OK;
    }
    enum err err = queue_transaction_begin(q);
    if (err != ERR_OK) {
        return err;
    }
    for (uint32_t at = 0; err == ERR_OK && at < q->upstream_count; at++) {
        err = upstream_save(q, &q->upstreams[at]);
    }
    err = queue_transaction_end(q, err);
    for (uint32_t at = 0; err == ERR_OK && at < q->upstream_count; at++) {
        q->upstreams[at].memory_changed = q->upstreams[at].memory_used = false;
    }
    q->upstreams_saved_ms = q->now_ms;
    return err;
}

static void recall_one(struct queue *q, struct queue_upstream *u)
{
    struct slice bytes;
    if (store_upstream_get(q->with.store, slice_from_str(u->config->name), &bytes) != ERR_OK ||
        record_upstream_get(bytes, &u->memory) != ERR_OK) {
        u->memory = (struct record_upstream){0}; /* nothing is known, or it cannot be read */
    }
    struct slice reason = u->memory.pipeline_reason;
    if (reason.len > 0) {
        memcpy(u->pipeline_reason, reason.data, reason.len);
    }
    u->pipeline_reason[reason.len] = '\0';
    u->memory.pipeline_reason = slice_from_str(u->pipeline_reason);
    sched_restore(&u->sched, &u->memory, q->now_ms);
}

void queue_recall(struct queue *q)
{
    struct slice note;
    if (store_begin(q->with.store) != ERR_OK) {
        return;
    }
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        recall_one(q, &q->upstreams[at]);
    }
    if (store_note_get(q->with.store, SLICE("digest"), &note) == ERR_OK && note.len == 8) {
        q->digest_last_ms = be64_get(note.data);
    }
    store_abort(q->with.store);
    q->report_tokens_milli = (uint64_t)q->with.config->report_rate * 1000;
    q->report_tokens_ms = q->now_ms;
    q->upstreams_saved_ms = q->now_ms;
}

/* ---- once a minute ---- */

typedef enum err step_fn(struct queue *q, bool *out_more);

static enum err step_strays(struct queue *q, bool *out_more)
{
    enum err err = q->strays ? queue_adopt_strays(q) : ERR_OK;
    *out_more = *out_more || (q->strays && err == ERR_OK);
    return err;
}

static enum err step_digest(struct queue *q, bool *out_more)
{
    *out_more = *out_more || false;
    return queue_digest(q);
}

static enum err step_upstreams(struct queue *q, bool *out_more)
{
    *out_more = *out_more || false;
    return save_upstreams(q);
}

enum err queue_upkeep(struct queue *q)
{
    static step_fn *const steps[] = {step_strays, purge, expire_history, step_digest,
                                     step_upstreams};
    bool more = false;
    if (q->now_ms < q->upkeep_ms) {
        return ERR_OK;
    }
    queue_carry_end(q);
    (void)store_readers_check(q->with.store); /* of those that ended without giving them back */
    queue_pin_look(q);
    for (size_t index = 0; index < sizeof steps / sizeof steps[0]; index++) {
        enum err err = steps[index](q, &more);
        if (err == ERR_IN_DOUBT || err == ERR_IO) {
            return err;
        }
        /* Else (no room, no memory, damage): the next one tries again. */
    }
    q->upkeep_ms = q->now_ms + (more ? UPKEEP_AGAIN_MS : q->strays ? UPKEEP_STRAYS_MS : UPKEEP_MS);
    return ERR_OK;
}

enum err queue_remember(struct queue *q)
{
    q->upstreams_saved_ms = 0;
    return save_upstreams(q);
}

/* ---- at the start ---- */

/* The upstream that a message goes by; without its envelope none of the terms fit. */
static enum err home_of(struct queue *q, const struct msg_id *id, const struct record_state *state,
                        struct queue_upstream **out)
{
    struct slice bytes;
    struct record_envelope envelope;
    *out = queue_upstream_by_route(q, state->route);
    if (*out != NULL) {
        return ERR_OK;
    }
    enum err err = store_envelope_get(q->with.store, id, &bytes);
    if (err == ERR_FULL || err == ERR_IO || err == ERR_NO_MEMORY) {
        return err;
    }
    bool sound = err == ERR_OK && record_envelope_get(bytes, &envelope) == ERR_OK;
    *out = queue_home(q, state, sound ? &envelope : NULL);
    return ERR_OK;
}

static enum err adopt(struct queue *q, const struct msg_id *id, uint64_t latest_ms)
{
    struct slice bytes;
    struct record_state state;
    buf_reset(&q->old_state);
    enum err err = store_state_get(q->with.store, id, &bytes);
    if (err != ERR_OK || bytes.len > buf_room(&q->old_state)) {
        return err == ERR_FULL || err == ERR_IO || err == ERR_NO_MEMORY ? err : ERR_OK;
    }
    buf_put(&q->old_state, bytes);
    if (record_state_get(buf_slice(&q->old_state), &state) != ERR_OK) {
        return ERR_OK;
    }
    struct queue_upstream *u = NULL;
    err = home_of(q, id, &state, &u);
    if (err != ERR_OK) {
        return err;
    }
    u->promised += state.route != u->route;
    queue_reroute(q, &state, u);
    state.due_q = state.due_q > latest_ms ? q->now_ms : state.due_q;
    buf_reset(&q->new_state);
    record_state_put(&q->new_state, &state);
    CHECK(!q->new_state.overflow);
    err = store_message_update(q->with.store, id, buf_slice(&q->new_state));
    if (err == ERR_OK) {
        struct sched_item item = queue_item(id, &state);
        queue_due_later(q, u, &item);
    }
    return err;
}

/* Is it an upstream's that is configured no more? */
static bool is_stray(const struct queue *q, uint32_t wanted)
{
    if (wanted == record_route(SLICE(RECORD_ROUTE_NAME_TRASH)) ||
        wanted == record_route(SLICE(RECORD_ROUTE_NAME_DIGEST))) {
        return false;
    }
    for (uint32_t index = 0; index < q->upstream_count; index++) {
        if (q->upstreams[index].route == wanted) {
            return false;
        }
    }
    return true;
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
        err = queue_transaction_begin(q);
        if (err != ERR_OK) {
            return err;
        }
        for (size_t index = 0; err == ERR_OK && index < count; index++) {
            err = adopt(q, &rows[index].id, latest_ms);
        }
        err = queue_transaction_end(q, err);
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
    uint64_t latest_ms = q->now_ms + q->with.config->retry_max_ms * 2 * SCHED_RETRY_STRETCH;
    const struct store_due far = {.due_q = latest_ms};
    size_t count = store_due_routes(q->with.store, routes, STRAY_ROUTES_MAX, &err);
    for (size_t index = 0; err == ERR_OK && index < count; index++) {
        if (is_stray(q, routes[index])) {
            err = adopt_route(q, routes[index], NULL, latest_ms);
        } else if (routes[index] != record_route(SLICE(RECORD_ROUTE_NAME_TRASH)) &&
                   routes[index] != record_route(SLICE(RECORD_ROUTE_NAME_DIGEST))) {
            err = adopt_route(q, routes[index], &far, latest_ms);
        }
    }
    q->strays = err != ERR_OK || count == STRAY_ROUTES_MAX;
    return err;
}
