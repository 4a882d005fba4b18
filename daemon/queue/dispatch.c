/*
 * Connections to upstreams as the queue thread sees them, and what goes over them.
 */
#include "daemon/base/num.h"
#include "daemon/queue/queue_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define UNTRIED_REST_MS 1000
#define SCOUT_REST_MS   1000 /* after the store could not be read */

_Static_assert(UPSTREAM_CONNECTIONS_MAX < SCHED_DUE_COUNT_MAX,
               "enough is counted to open them all");
_Static_assert(SCHED_REFILL_MAX <= SCHED_WINDOW_MAX / 2, "a refill fits above the low mark");
_Static_assert(FLOW_EDIT_IDS_MAX <= QUEUE_BATCH_MAX,
               "the list of what the sched will learn has room for an edit");

struct queue_upstream *queue_upstream_of(struct queue *q, const struct flow_link *link)
{
    CHECK(link->upstream < q->upstream_count);
    return &q->upstreams[link->upstream];
}

static struct queue_link *own_link(struct flow_link *link)
{
    return (struct queue_link *)(void *)((char *)link - offsetof(struct queue_link, link));
}

static struct queue_job *own_job(struct flow_job *job)
{
    return (struct queue_job *)(void *)((char *)job - offsetof(struct queue_job, job));
}

struct queue_upstream *queue_job_home(struct flow_job *job)
{
    return own_job(job)->home;
}

/* ---- leases ---- */

bool queue_is_leased(const struct queue *q, const struct msg_id *id)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        const struct queue_upstream *u = &q->upstreams[at];
        if (u->leased == 0) {
            continue;
        }
        for (uint32_t index = 0; index < u->link_count; index++) {
            for (size_t job = 0; job < QUEUE_JOBS_PER_LINK; job++) {
                const struct queue_job *j = &u->links[index].jobs[job];
                if (j->state != QUEUE_JOB_FREE && msg_id_compare(&j->job.id, id) == 0) {
                    return true;
                }
            }
        }
    }
    return false;
}

/* ---- the window ---- */

/* What was read of the index beyond some entry. */
struct reading {
    struct sched_item items[SCHED_REFILL_MAX]; /* those that are not leased */
    size_t count;
    struct sched_item last; /* of all that was read */
    bool any, complete;
};

static bool read_index(struct queue *q, const struct queue_upstream *u,
                       const struct sched_item *after, struct reading *out)
{
    struct store_due rows[SCHED_REFILL_MAX];
    struct store_due from;
    enum err err = ERR_OK;
    if (after != NULL) {
        from = (struct store_due){.due_q = after->due_ms, .id = after->id};
    }
    queue_carry_end(q); /* one transaction a thread */
    size_t count = store_due_after(q->with.store, u->route, after == NULL ? NULL : &from, rows,
                                   SCHED_REFILL_MAX, &err);
    queue_note_failure(q, err);
    out->count = 0;
    out->any = count > 0;
    out->complete = count < SCHED_REFILL_MAX;
    for (size_t index = 0; err == ERR_OK && index < count; index++) {
        out->last = (struct sched_item){.due_ms = rows[index].due_q,
                                        .id = rows[index].id,
                                        .flow = rows[index].flow,
                                        .size_kib = rows[index].size_kib};
        if (!queue_is_leased(q, &rows[index].id)) {
            out->items[out->count++] = out->last;
        }
    }
    return err == ERR_OK;
}

static void refill_one(struct queue *q, struct queue_upstream *u)
{
    const struct sched_item *after = NULL;
    struct reading r;
    while (sched_wants_refill(&u->sched, &after)) {
        if (!read_index(q, u, after, &r)) {
            return; /* tried again next round; the store logs */
        }
        sched_refilled(&u->sched, r.items, r.count, r.any ? &r.last : NULL, r.complete);
    }
    if (!sched_wants_scout(&u->sched, q->now_ms, &after)) {
        return;
    }
    if (!read_index(q, u, after, &r)) {
        sched_scout_rests(&u->sched, q->now_ms + SCOUT_REST_MS);
        return;
    }
    sched_scouted(&u->sched, r.items, r.count, r.any ? &r.last : NULL, r.complete);
}

void queue_refill(struct queue *q)
{
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        refill_one(q, &q->upstreams[at]);
    }
}

/* ---- handing out ---- */

/* How many its connections could take, of its own and of those whose mail it carries. */
static uint32_t due_count(const struct queue *q, struct queue_upstream *u)
{
    const uint32_t max = UPSTREAM_CONNECTIONS_MAX + 1;
    uint32_t count = 0;
    for (uint32_t at = 0; at < q->upstream_count && count < max; at++) {
        if (queue_carries(q, u, &q->upstreams[at])) {
            count += sched_due_count_for(&q->upstreams[at].sched, &u->sched, q->now_ms, max);
        }
    }
    uint32_t room = sched_rate_room(&u->sched, q->now_ms); /* of all of them together */
    count = count < max ? count : max;
    return count < room ? count : room;
}

/* Whose entry its connections take next: its own and those of whom it carries for, by turns. NULL:
 * nothing may go now. */
static struct queue_upstream *next_home(const struct queue *q, const struct queue_upstream *u)
{
    for (uint32_t step = 1; step <= q->upstream_count; step++) {
        struct queue_upstream *home = &q->upstreams[(u->turn + step) % q->upstream_count];
        if (queue_carries(q, u, home) && sched_due_for(&home->sched, &u->sched, q->now_ms)) {
            return home;
        }
    }
    return NULL;
}

/* How many connections have work. */
static uint32_t busy_count(const struct queue_upstream *u)
{
    uint32_t busy = 0;
    for (uint32_t index = 0; index < u->link_count; index++) {
        busy += u->links[index].out > 0;
    }
    return busy;
}

static bool is_near(const struct queue_upstream *u)
{
    return u->answer_ms16 > 0 && u->answer_ms16 <= QUEUE_NEAR_MS * 16;
}

/* Can another job go along with those that it has? */
static bool may_pack(const struct queue_upstream *u, const struct queue_link *l)
{
    return is_near(u) && l->link.pipeline > 1 && l->out > 0 && l->out < QUEUE_PACK_JOBS &&
           l->out_kib < QUEUE_PACK_KIB_MAX;
}

/* Of two connections with room: is a the better one? The one with fewer jobs, but rather than an
 * idle one the one that has most of those to which more may be added. */
static bool is_better(const struct queue_upstream *u, const struct queue_link *a,
                      const struct queue_link *b)
{
    bool pack_a = may_pack(u, a);
    bool pack_b = may_pack(u, b);
    if (pack_a != pack_b) {
        return pack_a;
    }
    return pack_a ? a->out > b->out : a->out < b->out;
}

/* The open connection that takes the next job, or NULL when none has room. */
static struct queue_link *next_link(const struct queue *q, struct queue_upstream *u)
{
    bool probing = u->sched.breaker == SCHED_BREAKER_PROBING;
    uint32_t room = sched_window(&u->sched, QUEUE_WINDOW);
    uint32_t busy = busy_count(u);
    struct queue_link *best = NULL;
    if (probing && busy > 0) {
        return NULL; /* one job at a time */
    }
    for (uint32_t index = 0; index < u->link_count; index++) {
        struct queue_link *l = &u->links[index];
        bool may_work = l->out > 0 || busy < u->sched.concurrency;
        if (l->state == QUEUE_LINK_UP && l->parting == QUEUE_FAREWELL_NONE && may_work &&
            l->out < room && l->out < l->link.window && q->now_ms >= l->rests_until_ms &&
            (best == NULL || is_better(u, l, best))) {
            best = l;
        }
    }
    return best;
}

static struct queue_job *free_job(struct queue_link *l)
{
    for (size_t index = 0; index < QUEUE_JOBS_PER_LINK; index++) {
        if (l->jobs[index].state == QUEUE_JOB_FREE) {
            return &l->jobs[index];
        }
    }
    return NULL;
}

static uint8_t pipeline_bearable(struct queue *q, const struct queue_upstream *u)
{
    bool old = q->now_ms - u64_min(u->memory.pipeline_q, q->now_ms) > FLOW_PIPELINE_LEARNT_MS;
    return old ? 0 : u->memory.pipeline_max;
}

static void log_lowered(struct queue *q, const struct queue_upstream *u, uint8_t to,
                        const char *why)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_PIPELINE_LOWERED);
    log_put_word(&line, "upstream", u->config->name);
    log_put_word(&line, "to", to == 1 ? "off" : "safe");
    log_put_text(&line, "why", slice_from_str(why));
    log_end(&line);
}

/* A connection has shown that its pipelining is too deep for this upstream. */
static void learn_pipeline(struct queue *q, struct queue_upstream *u, const struct flow_link *link)
{
    if (link->anomaly[0] == '\0' || link->pipeline <= 1) {
        return;
    }
    uint8_t known = pipeline_bearable(q, u);
    uint8_t lower = (uint8_t)(link->pipeline - 1);
    if (known != 0 && known <= lower) {
        return; /* one more of those that were under way */
    }
    u->memory.pipeline_max = lower;
    u->memory.pipeline_q = q->now_ms;
    snprintf(u->pipeline_reason, sizeof u->pipeline_reason, "%s", link->anomaly);
    u->memory.pipeline_reason = slice_from_str(u->pipeline_reason);
    u->memory_changed = true;
    q->upkeep_ms = q->now_ms; /* which writes it down */
    log_lowered(q, u, lower, link->anomaly);
}

/* The worker suspects it, and uses less for a while. Of several workers' suspicions the one that
 * lowers most is told. */
static void note_lowered(struct queue *q, struct queue_upstream *u, const struct flow_link *link)
{
    const struct flow_lowered *lowered = &link->lowered;
    struct flow_upstream_status *known = &u->status;
    bool lower = known->lowered_until_ms <= q->now_ms || lowered->max <= known->lowered_max;
    if (lowered->max == 0 || !lower) {
        return;
    }
    known->lowered_max = lowered->max;
    known->lowered_until_ms = q->now_ms + lowered->for_ms;
    known->lowered_why = lowered->why;
    log_lowered(q, u, lowered->max, lowered->why);
}

bool queue_open_link(struct queue *q, struct queue_upstream *u, bool probe)
{
    for (uint32_t index = 0; index < u->link_count; index++) {
        struct queue_link *l = &u->links[index];
        if (l->state != QUEUE_LINK_CLOSED) {
            continue;
        }
        sched_opening(&u->sched, probe);
        l->state = QUEUE_LINK_OPENING;
        l->was_up = false;
        l->had_worked = false;
        l->rests_until_ms = 0;
        l->parting = QUEUE_FAREWELL_NONE;
        l->link.probe = probe;
        l->link.pipeline_max = pipeline_bearable(q, u);
        l->link.anomaly[0] = '\0';
        l->link.lowered = (struct flow_lowered){0};
        l->link.worker = (uint16_t)(q->next_worker++ % q->with.worker_count);
        l->link.open.kind = FLOW_LINK_OPEN;
        mailbox_send(q->with.workers[l->link.worker], &l->link.open);
        return true;
    }
    return false;
}

static void open_links(struct queue *q, struct queue_upstream *u)
{
    bool probe = false;
    uint32_t waiting = due_count(q, u);
    while (!q->store_failed && sched_may_open(&u->sched, q->now_ms, waiting, &probe) &&
           queue_open_link(q, u, probe)) {
    }
}

static void give_job(struct queue *q, struct queue_upstream *u, struct queue_link *l,
                     struct queue_job *j, struct queue_upstream *home,
                     const struct sched_item *item)
{
    struct flow_job *job = &j->job;
    j->state = QUEUE_JOB_OUT;
    j->home = home;
    home->carried += home != u;
    u->turn = (uint32_t)(home - q->upstreams);
    l->out++;
    l->out_kib += item->size_kib;
    u->leased++;
    u->memory_used = true;
    job->msg.kind = FLOW_JOB;
    job->msg.reply_to = &q->mailbox;
    job->id = item->id;
    job->due_ms = item->due_ms;
    job->flow = item->flow;
    job->size_kib = item->size_kib;
    job->sent_ms = q->now_ms;
    job->tried = job->damaged = job->complete = false;
    job->result_count = 0;
    job->results = &job->inline_result;
    buf_init(&job->text, job->text_memory, sizeof job->text_memory);
    buf_init(&job->dialogue, job->dialogue_memory, sizeof job->dialogue_memory);
    job->connection = 0;
    job->duration_ms = 0;
    job->dsn_passed = false;
    mailbox_send(q->with.workers[l->link.worker], &job->msg);
}

static void dispatch_one(struct queue *q, struct queue_upstream *u)
{
    sched_probe_open(&u->sched, q->now_ms);
    if (u->sched.breaker == SCHED_BREAKER_WAITING) {
        open_links(q, u);
        return;
    }
    for (struct queue_upstream *home = next_home(q, u); home != NULL; home = next_home(q, u)) {
        struct queue_link *l = next_link(q, u);
        if (l == NULL) {
            break;
        }
        /* A second job for a busy connection only when no other connection can be had for it. */
        if (l->out > 0 && !may_pack(u, l) && u->sched.connections < u->sched.concurrency &&
            due_count(q, u) <= u->sched.opening) {
            break;
        }
        struct queue_job *j = free_job(l);
        struct sched_item item;
        if (j == NULL || !sched_take_for(&home->sched, &u->sched, q->now_ms, &item)) {
            break;
        }
        give_job(q, u, l, j, home, &item);
        if (l->out > 1 && !is_near(u)) {
            open_links(q, u);
        }
    }
    open_links(q, u);
}

void queue_dispatch(struct queue *q)
{
    queue_stand_ins(q);
    /* Those that are marked come first: a probe that has come up has its one job before stand-ins
     * take the rest. */
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t at = 0; at < q->upstream_count; at++) {
            if (sched_is_marked(&q->upstreams[at].sched) == (pass == 0)) {
                dispatch_one(q, &q->upstreams[at]);
            }
        }
    }
    queue_pool_tend(q);
}

/* ---- what workers say ---- */

static void log_well(struct queue *q, const struct queue_upstream *u)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_UPSTREAM_WELL);
    log_put_word(&line, "upstream", u->config->name);
    log_put_u64(&line, "marked-for", (q->now_ms - u->sched.marked_ms) / 1000);
    log_end(&line);
}

static void answered(struct queue *q, struct queue_upstream *u)
{
    if (sched_upstream_answered(&u->sched, q->now_ms)) {
        u->memory_changed = true; /* how long it was out of order */
        log_well(q, u);
    }
}

void queue_link_up(struct queue *q, struct flow_link *link)
{
    struct queue_upstream *u = queue_upstream_of(q, link);
    struct queue_link *l = own_link(link);
    CHECK(l->state == QUEUE_LINK_OPENING);
    l->state = QUEUE_LINK_UP;
    l->was_up = true;
    snprintf(u->status.peer, sizeof u->status.peer, "%s", link->peer);
    snprintf(u->status.tls, sizeof u->status.tls, "%s", link->tls);
    snprintf(u->status.mechanism, sizeof u->status.mechanism, "%s", link->mechanism);
    u->status.pipeline = link->pipeline;
    sched_connection_up(&u->sched);
    if (!sched_due(&u->sched, q->now_ms)) {
        answered(q, u); /* it let us in, and there is nothing to ask it about now */
    }
}

static void note_marked(struct queue *q, struct queue_upstream *u, const struct flow_link *link)
{
    u->status.code = link->down_code;
    snprintf(u->status.text, sizeof u->status.text, "%s", link->down_text);
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_UPSTREAM_MARKED);
    log_put_word(&line, "upstream", u->config->name);
    log_put_word(&line, "reason", outcome_row(link->down_outcome)->word);
    log_put_u64(&line, "code", link->down_code);
    log_put_u64(&line, "next", (u->sched.probe_ms - q->now_ms) / 1000);
    log_put_text(&line, "text", slice_from_str(link->down_text));
    log_end(&line);
}

void queue_link_down(struct queue *q, struct flow_link *link)
{
    struct queue_upstream *u = queue_upstream_of(q, link);
    struct queue_link *l = own_link(link);
    CHECK(l->state == QUEUE_LINK_OPENING || l->state == QUEUE_LINK_UP);
    bool drains = l->out > 0 || l->parting == QUEUE_FAREWELL_SAID;
    l->state = drains ? QUEUE_LINK_DRAINING : QUEUE_LINK_CLOSED;
    learn_pipeline(q, u, link);
    note_lowered(q, u, link);
    uint64_t probe_before_ms = u->sched.probe_ms;
    bool of_use = l->had_worked || link->anomaly[0] != '\0';
    sched_connection_down(&u->sched, link->down_outcome, l->was_up, of_use, q->now_ms,
                          queue_entropy(q));
    if (sched_is_marked(&u->sched) && u->sched.probe_ms != probe_before_ms &&
        u->sched.reason == link->down_outcome) {
        u->memory_changed = true;
        note_marked(q, u, link);
    }
}

/* Counters, and what the answers say about the upstream. */
struct answers {
    bool about_message; /* it has spoken about the message: it is well */
    bool succeeded;     /* and took it, or refused it for good */
    bool throttled;
    uint32_t spent; /* recipients that it may have counted */
};

static void count_result(struct queue *q, struct queue_upstream *u,
                         const struct flow_result *result, struct answers *a)
{
    switch (outcome_row(result->outcome)->action) {
    case OUTCOME_ACTION_DONE:
        u->status.delivered++;
        u->status.last_delivery_ms = q->now_ms;
        metric_add(q->with.metrics, METRIC_DELIVERED, 1);
        a->about_message = a->succeeded = true;
        a->spent++;
        return;
    case OUTCOME_ACTION_REPORT:
        u->status.refused++;
        metric_add(q->with.metrics, METRIC_FAILED, 1);
        a->about_message = a->succeeded = true;
        a->spent++;
        return;
    case OUTCOME_ACTION_RETRY:
        metric_add(q->with.metrics, METRIC_IN_DOUBT, result->outcome == OUTCOME_IN_DOUBT);
        a->spent += result->outcome == OUTCOME_IN_DOUBT;
        a->about_message = a->about_message || result->code != 0;
        break;
    case OUTCOME_ACTION_UPSTREAM:
    default:
        break;
    }
    u->status.deferred++;
    metric_add(q->with.metrics, METRIC_DEFERRED, 1);
    a->throttled = a->throttled || sched_is_throttle(result->outcome);
}

static void log_throttled(struct queue *q, const struct queue_upstream *u)
{
    struct log_line line;
    event_begin(&line, q->with.log, EVENT_UPSTREAM_THROTTLED);
    log_put_word(&line, "upstream", u->config->name);
    log_put_u64(&line, "pause", (u->sched.pause_until_ms - q->now_ms) / 1000);
    log_put_u64(&line, "connections", u->sched.concurrency);
    log_end(&line);
}

static void note_throttle(struct queue *q, struct queue_upstream *u, const struct flow_job *job)
{
    uint64_t before_ms = u->sched.pause_until_ms;
    (void)sched_throttled(&u->sched, &job->id, q->now_ms, queue_entropy(q));
    if (u->sched.pause_until_ms != before_ms) {
        metric_add(q->with.metrics, METRIC_THROTTLES, 1);
        log_throttled(q, u);
    }
}

static void count_results(struct queue *q, struct queue_upstream *u, struct queue_link *l,
                          const struct flow_job *job)
{
    struct answers a = {0};
    for (uint32_t index = 0; index < job->result_count; index++) {
        count_result(q, u, &job->results[index], &a);
    }
    if (a.about_message) {
        if (!l->had_worked) {
            sched_connection_worked(&u->sched);
        }
        l->had_worked = true;
        answered(q, u);
    }
    sched_job_back(&u->sched, a.spent, a.succeeded, q->now_ms);
    if (a.succeeded) {
        sched_warm_delivered(&u->warm, q->now_ms);
    }
    if (a.throttled) {
        note_throttle(q, u, job);
    }
}

static void note_answer_time(struct queue_upstream *u, const struct flow_job *job)
{
    if (job->tried && job->result_count > 0) {
        uint64_t sample = u64_min((uint64_t)job->duration_ms * 16 + 1, UINT32_MAX / 16);
        uint64_t before = u->answer_ms16 == 0 ? sample : u->answer_ms16;
        u->answer_ms16 = (uint32_t)((before * 15 + sample + 15) / 16);
    }
}

void queue_job_back(struct queue *q, struct flow_job *job)
{
    struct queue_upstream *u = queue_upstream_of(q, job->link);
    struct queue_link *l = own_link(job->link);
    struct queue_job *j = own_job(job);
    CHECK(j->state == QUEUE_JOB_OUT && l->out > 0);
    j->state = QUEUE_JOB_SETTLING;
    l->out--;
    l->out_kib -= job->size_kib;
    note_answer_time(u, job);
    if (l->state == QUEUE_LINK_DRAINING && l->out == 0 && l->parting != QUEUE_FAREWELL_SAID) {
        l->state = QUEUE_LINK_CLOSED;
    }
    if (!job->tried && !job->damaged) {
        l->rests_until_ms = q->now_ms + UNTRIED_REST_MS; /* or it would go to and fro */
    }
    count_results(q, u, l, job);
}

void queue_job_free(struct queue *q, struct flow_job *job)
{
    struct queue_job *j = own_job(job);
    CHECK(j->state == QUEUE_JOB_SETTLING);
    if (job->results != &job->inline_result) {
        free(job->results);
        job->results = &job->inline_result;
    }
    j->state = QUEUE_JOB_FREE;
    queue_upstream_of(q, job->link)->leased--;
}

/* ---- questions ---- */

/* The end of a connection's rest, when something waits for it. */
static uint64_t rest_over_ms(const struct queue *q, const struct queue_upstream *u)
{
    uint64_t over_ms = UINT64_MAX;
    bool waits = next_home(q, u) != NULL;
    for (uint32_t index = 0; waits && index < u->link_count; index++) {
        const struct queue_link *l = &u->links[index];
        if (l->state == QUEUE_LINK_UP && l->rests_until_ms > q->now_ms) {
            over_ms = u64_min(over_ms, l->rests_until_ms);
        }
    }
    return over_ms;
}

uint64_t queue_wake_ms(const struct queue *q)
{
    uint64_t wake_ms = UINT64_MAX;
    if (q->store_failed) {
        return wake_ms; /* nothing is handed out any more */
    }
    for (uint32_t at = 0; at < q->upstream_count; at++) {
        const struct queue_upstream *u = &q->upstreams[at];
        wake_ms = u64_min(wake_ms, sched_wake_ms(&u->sched, q->now_ms));
        wake_ms = u64_min(wake_ms, rest_over_ms(q, u));
        wake_ms = u64_min(wake_ms, queue_pool_wake_ms(q, u));
        for (uint32_t other = 0; u->carriers != 0 && other < q->upstream_count; other++) {
            const struct queue_upstream *by = &q->upstreams[other];
            if (by != u && queue_carries(q, by, u)) {
                wake_ms = u64_min(wake_ms, sched_wake_for_ms(&u->sched, &by->sched, q->now_ms));
            }
        }
    }
    return q->unsettled == NULL ? wake_ms : u64_min(wake_ms, q->unsettled_ms);
}
