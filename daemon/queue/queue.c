/*
 * The round of the queue thread: take, apply, commit, answer, hand out, wait.
 */
#include "daemon/base/num.h"
#include "daemon/flow/clock.h"
#include "daemon/proto/mail_dsn.h"
#include "daemon/queue/queue_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SAID_BYTES (1u << 20) /* of log lines that wait for their commit */

static bool scratch_new(struct buf *b, size_t bytes)
{
    void *memory = malloc(bytes);
    if (memory != NULL) {
        buf_init(b, memory, bytes);
    }
    return memory != NULL;
}

/* Room for one record each, at its largest. What is not used is never touched. */
static bool scratches_new(struct queue *q)
{
    size_t state_bytes = record_state_bytes_max(SMTP_RECIPIENTS_MAX);
    size_t envelope_bytes = record_envelope_bytes_max(SMTP_RECIPIENTS_MAX);
    return scratch_new(&q->old_state, state_bytes) && scratch_new(&q->new_state, state_bytes) &&
           scratch_new(&q->fates, state_bytes) && scratch_new(&q->envelope, envelope_bytes) &&
           scratch_new(&q->trail, RECORD_TRAIL_BYTES_MAX) &&
           scratch_new(&q->moves, RECORD_TRAIL_MOVES_MAX * RECORD_MOVE_BYTES_MAX) &&
           scratch_new(&q->header, MAIL_DSN_ORIGINAL_BYTES_MAX) &&
           scratch_new(&q->piece, BODY_CHUNK_BYTES_MAX) &&
           scratch_new(&q->said_lines, SAID_BYTES) &&
           scratch_new(&q->history, RECORD_HISTORY_HEAD_BYTES + envelope_bytes + state_bytes +
                                        RECORD_TRAIL_BYTES_MAX);
}

static enum err upstream_init(struct queue *q, struct queue_upstream *u,
                              const struct config_upstream *config)
{
    u->config = config;
    u->route = record_route(slice_from_str(config->name));
    u->link_count = config->connections;
    u->links = calloc(u->link_count, sizeof *u->links);
    if (u->links == NULL) {
        return ERR_NO_MEMORY;
    }
    struct sched_limits limits = {
        .connections_max = config->connections,
        .probe_min_ms = config->probe_min_ms,
        .probe_max_ms = config->probe_max_ms,
        .retry_min_ms = q->with.config->retry_min_ms,
        .retry_max_ms = q->with.config->retry_max_ms,
    };
    _Static_assert(sizeof limits.rate == sizeof config->rate.most, "kinds and spans are the same");
    memcpy(limits.rate, config->rate.most, sizeof limits.rate);
    sched_init(&u->sched, &limits);
    u->warm.span_ms = u->config->idle_ms_max;
    for (uint32_t index = 0; index < u->link_count; index++) {
        struct queue_link *l = &u->links[index];
        l->link.upstream = (uint16_t)(u - q->upstreams);
        for (size_t job = 0; job < QUEUE_JOBS_PER_LINK; job++) {
            l->jobs[job].job.link = &l->link;
        }
    }
    return ERR_OK;
}

enum err queue_new(struct queue **out, const struct queue_config *config)
{
    struct queue *q = calloc(1, sizeof *q);
    if (q == NULL) {
        return ERR_NO_MEMORY;
    }
    enum err err = ERR_NO_MEMORY;
    q->with = *config;
    queue_said_init(q);
    q->entropy = queue_clock_us() ^ (uint64_t)getpid() << 32;
    queue_clock_start(q);
    q->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->bell_fd < 0) {
        err = ERR_LIMIT;
        goto out;
    }
    mailbox_init(&q->mailbox, q->bell_fd);
    q->upstream_count = config->config->upstream_count;
    q->upstreams = calloc(q->upstream_count, sizeof *q->upstreams);
    q->dsn_recipients = calloc(SMTP_RECIPIENTS_MAX, sizeof *q->dsn_recipients);
    if (q->upstreams == NULL || q->dsn_recipients == NULL || !scratches_new(q)) {
        goto out;
    }
    for (uint32_t index = 0; index < q->upstream_count; index++) {
        err = upstream_init(q, &q->upstreams[index], &config->config->upstreams[index]);
        if (err != ERR_OK) {
            goto out;
        }
    }
    err = store_reader_new(&q->reader, config->store);
    if (err != ERR_OK) {
        goto out;
    }
    queue_routes_init(q);
    *out = q;
    return ERR_OK;
out:
    queue_free(&q);
    return err;
}

void queue_free(struct queue **queue)
{
    struct queue *q = *queue;
    if (q == NULL) {
        return;
    }
    for (uint32_t index = 0; q->upstreams != NULL && index < q->upstream_count; index++) {
        free(q->upstreams[index].links);
    }
    free(q->upstreams);
    struct buf *const scratches[] = {&q->old_state, &q->new_state, &q->fates,  &q->envelope,
                                     &q->trail,     &q->moves,     &q->header, &q->history,
                                     &q->piece,     &q->said_lines};
    for (size_t index = 0; index < sizeof scratches / sizeof scratches[0]; index++) {
        free(scratches[index]->data);
    }
    free(q->dsn_recipients);
    store_reader_free(&q->reader);
    if (q->bell_fd >= 0) {
        close(q->bell_fd);
    }
    free(q);
    *queue = NULL;
}

struct mailbox *queue_mailbox(struct queue *queue)
{
    return &queue->mailbox;
}

bool queue_store_failed(const struct queue *queue)
{
    return queue->store_failed;
}

uint64_t queue_entropy(struct queue *q)
{
    q->entropy = sched_mix(q->entropy);
    return q->entropy;
}

struct sched_item queue_item(const struct msg_id *id, const struct record_state *state)
{
    return (struct sched_item){
        .due_ms = state->due_q, .id = *id, .flow = state->flow, .size_kib = state->size_kib};
}

void queue_due_later(struct queue *q, struct queue_upstream *upstream,
                     const struct sched_item *item)
{
    CHECK(q->due_count < sizeof q->due / sizeof q->due[0]);
    q->due[q->due_count++] = (struct queue_due){.upstream = upstream, .item = *item};
}

/* Everybody who reads waits meanwhile, and nothing is committed. */
static void compact(struct queue *q, struct flow_compact *compact)
{
    queue_carry_end(q);
    compact->result = q->store_failed ? ERR_IN_DOUBT
                                      : store_compact(q->with.store, &compact->bytes_before,
                                                      &compact->bytes_after);
    if (compact->result == ERR_IN_DOUBT) {
        queue_store_has_failed(q, ERR_IN_DOUBT);
    }
    mailbox_send(compact->msg.reply_to, &compact->msg);
}

/* ---- the round ---- */

static void to_wall(const struct queue *q, uint64_t *ms)
{
    if (*ms != 0 && *ms != UINT64_MAX) {
        *ms = (uint64_t)((int64_t)*ms + q->wall_minus_q);
    }
}

/* What people see is wall clock. */
static void inspect(struct queue *q, struct flow_status *status)
{
    struct store_summary summary;
    queue_clock_read(q);
    queue_fill_status(q, status);
    store_summary(q->with.store, &summary);
    status->wall_minus_q = q->wall_minus_q;
    status->history_count = summary.history_count;
    status->history_bytes = summary.history_bytes;
    status->file_bytes = summary.file_bytes;
    status->reports_made = q->reports_made;
    to_wall(q, &status->now_ms);
    to_wall(q, &status->oldest_due_ms);
    for (uint32_t at = 0; at < status->upstream_count; at++) {
        struct flow_upstream_status *u = &status->upstreams[at];
        uint64_t *const times[] = {
            &u->marked_ms,        &u->next_probe_ms,      &u->oldest_sent_ms,
            &u->last_delivery_ms, &u->throttled_until_ms, &u->rate_next_ms,
            &u->forecast_ms,      &u->pipeline_until_ms,  &u->lowered_until_ms};
        for (size_t index = 0; index < sizeof times / sizeof times[0]; index++) {
            to_wall(q, times[index]);
        }
    }
}

static void try_now(struct queue *q, struct flow_try *try)
{
    uint32_t marked = 0;
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        if ((try->upstreams & 1u << at) != 0 && sched_is_marked(&q->upstreams[at].sched)) {
            sched_probe_now(&q->upstreams[at].sched, q->now_ms);
            marked |= 1u << at;
        }
    }
    try->upstreams = marked;
}

static void take(struct queue *q, struct flow_msg *msg)
{
    switch ((enum flow_kind)msg->kind) {
    case FLOW_JOB:
        if (queue_pool_farewell_back(FLOW_FROM(msg, struct flow_job))) {
            return;
        }
        queue_job_back(q, FLOW_FROM(msg, struct flow_job));
        queue_batch_add(q, msg);
        return;
    case FLOW_INTAKE:
        queue_take_intake(q, FLOW_FROM(msg, struct flow_intake));
        return;
    case FLOW_EDIT:
        queue_batch_add(q, msg);
        return;
    case FLOW_LINK_UP:
        queue_link_up(q, FLOW_LINK_FROM(msg, up));
        return;
    case FLOW_LINK_DOWN:
        queue_link_down(q, FLOW_LINK_FROM(msg, down));
        return;
    case FLOW_INSPECT:
        q->batch_urgent = true; /* whoever looks again shall see what has happened */
        inspect(q, &FLOW_FROM(msg, struct flow_inspect)->status);
        mailbox_send(msg->reply_to, msg);
        return;
    case FLOW_COMPACT:
        queue_batch_commit(q);
        compact(q, FLOW_FROM(msg, struct flow_compact));
        return;
    case FLOW_TRY:
        try_now(q, FLOW_FROM(msg, struct flow_try));
        mailbox_send(msg->reply_to, msg);
        return;
    case FLOW_STOP:
        q->stopping = true;
        return;
    case FLOW_LINK_OPEN:
    case FLOW_PROBE:
    case FLOW_LOOKUP:
    case FLOW_AUTH:
    case FLOW_DRAINED:
    default:
        UNREACHABLE("a message for somebody else");
    }
}

static void look_at_room(struct queue *q)
{
    struct store_summary summary;
    bool no_room = !store_has_room(q->with.store, 0);
    if (no_room == q->no_room) {
        return;
    }
    q->no_room = no_room;
    q->upkeep_ms = no_room ? q->now_ms : q->upkeep_ms; /* the trash makes some */
    store_summary(q->with.store, &summary);
    struct log_line line;
    event_begin(&line, q->with.log, no_room ? EVENT_STORE_FULL : EVENT_STORE_ROOM);
    log_put_u64(&line, "used", summary.pages_used_bytes);
    log_put_u64(&line, "max", summary.bytes_max);
    log_end(&line);
}

/* Did it ring in that time? */
static bool bell_wait(struct queue *q, const struct timespec *timeout)
{
    struct pollfd bell = {.fd = q->bell_fd, .events = POLLIN};
    if (ppoll(&bell, 1, timeout, NULL) <= 0) {
        return false;
    }
    uint64_t rings;
    ssize_t done = read(q->bell_fd, &rings, sizeof rings);
    (void)done; /* EAGAIN: somebody rang and the poll lied; the mailbox is looked at anyway */
    return true;
}

/* Until the mailbox's bell or the next due time. With a store that has failed nothing is due any
 * more: a time that has gone by would stay so, and be waited for without an end. */
static void wait_for_work(struct queue *q)
{
    uint64_t wake_ms = u64_min(queue_wake_ms(q), q->upkeep_ms);
    wake_ms = u64_min(wake_ms, q->carrying ? q->carry_until_ms : UINT64_MAX);
    wake_ms = u64_min(wake_ms, queue_batch_wake_ms(q));
    wake_ms = q->store_failed ? UINT64_MAX : wake_ms;
    int timeout_ms = 60000;
    if (wake_ms <= q->now_ms || q->splits != NULL) {
        timeout_ms = 0;
    } else if (wake_ms - q->now_ms < 60000) {
        timeout_ms = (int)(wake_ms - q->now_ms) + 1;
    }
    if (timeout_ms > 0 && mailbox_is_empty(&q->mailbox)) {
        queue_company_slept(&q->company);
    }
    const struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                                     .tv_nsec = timeout_ms % 1000 * 1000000L};
    (void)bell_wait(q, &timeout);
}

static bool delivers(const struct queue *q)
{
    bool any = false;
    for (uint32_t at = 0; at < q->upstream_count && !any; at++) {
        any = q->upstreams[at].leased > 0;
    }
    return any;
}

/* False: nobody has come, and the batch need not wait any longer. */
static bool wait_for_company(struct queue *q)
{
    if (q->stopping || q->store_failed) {
        return false;
    }
    uint64_t wait_us = queue_company_wait_us(&q->company, queue_clock_us(), delivers(q));
    const struct timespec timeout = {.tv_nsec = (long)wait_us * 1000};
    return wait_us > 0 && bell_wait(q, &timeout);
}

void *queue_run(void *queue)
{
    struct queue *q = queue;
    queue_recall(q);
    queue_note_failure(q, queue_adopt_strays(q));
    queue_refill(q);
    while (!q->stopping) {
        queue_clock_read(q);
        for (struct flow_msg *msg = mailbox_take_all(&q->mailbox); msg != NULL;) {
            struct flow_msg *next = msg->next;
            take(q, msg);
            msg = next;
        }
        queue_take_unsettled(q);
        queue_split_copy(q);
        if (q->batch_count > 0 && !q->store_failed && !q->stopping) {
            queue_dispatch(q); /* what is known to be due need not wait for this commit */
        }
        if (wait_for_company(q)) {
            continue; /* somebody has come */
        }
        if (!queue_batch_rides(q)) {
            queue_batch_commit(q);
        }
        if (q->carrying && q->now_ms >= q->carry_until_ms) {
            queue_carry_end(q);
        }
        if (!q->store_failed && !q->stopping) {
            queue_note_failure(q, queue_upkeep(q));
        }
        if (!q->store_failed && !q->stopping) {
            queue_refill(q);
            look_at_room(q);
        }
        if (!q->store_failed && !q->stopping) { /* it may have failed just now */
            queue_dispatch(q);
        }
        if (!q->stopping) {
            wait_for_work(q);
        }
    }
    queue_carry_end(q);
    if (!q->store_failed) {
        queue_note_failure(q, queue_remember(q));
    }
    return NULL;
}
